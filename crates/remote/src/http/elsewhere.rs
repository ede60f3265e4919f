//! Metadata far ahead of the stream, by a request each.

use std::io::{self, Read};

use diskferry::Error;
use diskferry::source::Ranges;

use super::answer::Answer;
use super::forward::{Pace, Reader};
use super::resource::{Resource, is_wrong_range};
use crate::failure::{Again, Failure};
use crate::runtime::{Runtime, unless_stopped};

/// Asks for parts of an image. Who wants them decodes, and makes no connection.
pub(super) struct Elsewhere {
    pub(super) runtime: Runtime,
    pub(super) resource: Resource,
}

impl Ranges for Elsewhere {
    fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        let (resource, mut bytes) = (self.resource.clone(), vec![0; buf.len()]);
        let work = async move {
            let got = unless_stopped(&resource.progress, fetch(&resource, &mut bytes, at)).await??;
            Ok::<_, Error>(got.map(|got| (bytes, got)))
        };
        let Some((bytes, got)) = self.runtime.run(work)?? else { return Ok(None) };
        if let (Some(to), Some(from)) = (buf.get_mut(..got), bytes.get(..got)) {
            to.copy_from_slice(from);
        }
        Ok(Some(got))
    }

    fn identity(&self) -> Option<String> {
        let about = &self.resource.about;
        let (validator, total) = (about.validator.as_ref().filter(|validator| validator.is_tag())?, about.total?);
        Some(format!("{} of {total} bytes", validator.0.to_str().ok()?))
    }

    fn forward(&mut self, at: u64) -> io::Result<Option<Box<dyn Read + Send>>> {
        let resource = self.resource.clone();
        let work = async move { unless_stopped(&resource.progress, rest(&resource, at)).await? };
        let Some(answer) = self.runtime.run(work)?? else { return Ok(None) };
        let reader = Reader::start_at(&self.runtime, self.resource.clone(), answer, Pace::Whole, at);
        Ok(Some(Box::new(reader)))
    }
}

/// The answer that begins with the byte at `at`; `None` where the server gives no parts.
async fn rest(resource: &Resource, at: u64) -> Result<Option<Answer>, Error> {
    let mut tries = resource.tries();
    loop {
        match resource.again(Some(at..u64::MAX)).await {
            Ok(answer) => return Ok((answer.is_part() && answer.at == at).then_some(answer)),
            Err(failure) if is_wrong_range(&failure) || is_refusal(&failure) => return Ok(None),
            Err(failure) => tries.pause_after(failure).await?,
        }
    }
}

/// Fills `buf`; `None` where the server gives no parts.
async fn fetch(resource: &Resource, buf: &mut [u8], at: u64) -> Result<Option<usize>, Error> {
    let left = resource.about.total.map_or(u64::MAX, |total| total.saturating_sub(at));
    let wanted = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    let mut tries = resource.tries();
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..wanted).filter(|rest| !rest.is_empty()) {
        match part(resource, rest, at.saturating_add(done as u64)).await {
            Ok(None) => return Ok(None),
            // The image ends here: its length was not known.
            Ok(Some(0)) => break,
            Ok(Some(got)) => {
                done += got;
                tries.gain(got as u64);
                if done < wanted && tries.is_too_little(got as u64, resource.about.total.is_some()) {
                    tries.pause_after(resource.interrupted(at.saturating_add(done as u64))).await?;
                }
            }
            // The stream may come all the same, and what is wanted will be in it.
            Err(failure) if is_wrong_range(&failure) || is_refusal(&failure) => return Ok(None),
            Err(failure) => tries.pause_after(failure).await?,
        }
    }
    Ok(Some(done))
}

/// Whether a server that has given the image does not want to give a part of it.
fn is_refusal(failure: &Failure) -> bool {
    failure.again == Again::Never && !matches!(failure.error, Error::Source { code: "changed", .. })
}

/// Fills as much of `buf` as one answer brings: at least a byte, or nothing behind the end of the image.
async fn part(resource: &Resource, buf: &mut [u8], at: u64) -> Result<Option<usize>, Failure> {
    let mut answer = resource.again(Some(at..at.saturating_add(buf.len() as u64))).await?;
    if !answer.is_part() {
        return Ok(None);
    }
    if answer.response.is_none() {
        return Ok(Some(0));
    }
    let mut done = 0;
    while done < buf.len() {
        let chunk = match resource.chunk(&mut answer).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) if done > 0 => break,
            Ok(None) => return Err(resource.interrupted(at)),
            Err(_) if done > 0 => break,
            Err(failure) => return Err(failure),
        };
        let len = chunk.len().min(buf.len() - done);
        if let (Some(to), Some(from)) = (buf.get_mut(done..done + len), chunk.get(..len)) {
            to.copy_from_slice(from);
        }
        done += len;
    }
    Ok(Some(done))
}
