//! The beginning of the image, for callers who will not read on: each request is made when its bytes are wanted, and not before.

use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf, Bytes};
use diskferry::Error;

use super::answer::Answer;
use super::resource::{Resource, is_wrong_range};
use super::retry::Tries;
use crate::failure::Failure;
use crate::runtime::{Runtime, unless_stopped};

/// The first part: enough to tell most images.
pub(super) const BEGINNING: u64 = 160 << 10;
/// Those after it. With one more everything is seen that tells a raw disk from others, and with two more a block of bzip2.
const MORE: u64 = 368 << 10;

/// See the [module](self).
pub(super) struct Look {
    runtime: Runtime,
    /// `None` once the job was stopped.
    asking: Option<Asking>,
    piece: Bytes,
}

/// What is asked, on the network's thread.
struct Asking {
    resource: Resource,
    answer: Option<Answer>,
    tries: Tries,
    /// How many bytes were handed on.
    at: u64,
    /// How many they were before this answer.
    before: u64,
    ended: bool,
    ranges_fail: bool,
}

impl Look {
    /// Looks at the image that begins with `first`.
    pub(super) fn new(runtime: &Runtime, resource: Resource, first: Answer) -> Self {
        let tries = resource.tries();
        let asking =
            Asking { resource, answer: Some(first), tries, at: 0, before: 0, ended: false, ranges_fail: false };
        Self { runtime: runtime.clone(), asking: Some(asking), piece: Bytes::new() }
    }
}

impl Read for Look {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !buf.is_empty() {
            let mut asking = self.asking.take().ok_or(Error::Stopped)?;
            let work = async move {
                let progress = asking.resource.progress.clone();
                let piece = unless_stopped(&progress, asking.next()).await?;
                Ok::<_, Error>((asking, piece))
            };
            let (asking, piece) = self.runtime.run(work)??;
            self.asking = Some(asking);
            self.piece = piece?;
        }
        let len = buf.len().min(self.piece.len());
        if let Some(buf) = buf.get_mut(..len) {
            self.piece.copy_to_slice(buf);
        }
        Ok(len)
    }
}

impl Asking {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> Result<Bytes, Error> {
        while !self.ended {
            match self.try_next().await {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(bytes),
                Err(failure) => {
                    self.answer = None;
                    self.ranges_fail |= is_wrong_range(&failure);
                    self.tries.pause_after(failure).await?;
                }
            }
        }
        Ok(Bytes::new())
    }

    /// As [`next`](Self::next), with as many requests as go well. None may also mean that there is more to ask for.
    async fn try_next(&mut self) -> Result<Bytes, Failure> {
        let mut answer = match self.answer.take() {
            Some(answer) => answer,
            None => {
                self.before = self.at;
                self.resource.again(self.range()).await?
            }
        };
        let before = answer.at;
        if let Some(mut chunk) = self.resource.chunk(&mut answer).await? {
            // A server that gives no parts begins anew. What has been looked at is not compared: nothing is made of it.
            let seen = usize::try_from(self.at.saturating_sub(before)).unwrap_or(usize::MAX);
            chunk.advance(seen.min(chunk.len()));
            self.at = self.at.saturating_add(chunk.len() as u64);
            self.tries.gain(chunk.len() as u64);
            self.answer = Some(answer);
            return Ok(chunk);
        }
        let total = self.resource.about.total.or(answer.about.total);
        let more = total.map_or(answer.is_part(), |total| self.at < total);
        self.ended = !more;
        let is_too_little = self.tries.is_too_little(self.at - self.before, total.is_some());
        if more && (!answer.is_part() || is_too_little) {
            return Err(self.resource.interrupted(self.at));
        }
        Ok(Bytes::new())
    }

    fn range(&self) -> Option<Range<u64>> {
        let len = if self.at < BEGINNING { BEGINNING } else { MORE };
        (!self.ranges_fail).then(|| self.at..self.at.saturating_add(len))
    }
}
