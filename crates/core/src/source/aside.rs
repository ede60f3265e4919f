//! Metadata that lies far ahead of a stream, read by ranges, and proved when the stream passes it.
//!
//! Whoever answers the two ways of reading may answer them differently: a server whose image is replaced meanwhile, a
//! mirror that serves the stream whose digest is known and bends a table on the side. So what was read by a range is held
//! against the stream, which is digested.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::mem::take;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::tap::{Digests, Meter, Tap, read_too_much};
use super::{Source, copy};
use crate::error::{Error, Result};

/// A way to read a stored image at any byte, at the cost of a request each.
pub trait Ranges: Send {
    /// Fills `buf` with the bytes from `at` on, as far as the image goes, and says how many those are. `None`: after all,
    /// this image can only be read forward.
    fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>>;

    /// What tells this image from every other one at the same place, and from its own later versions. `None` if nothing does.
    fn identity(&self) -> Option<String> {
        None
    }

    /// All bytes from `at` on, in order, of the same version. `None`: they only come from the first one on.
    fn forward(&mut self, at: u64) -> io::Result<Option<Box<dyn Read + Send>>> {
        let _ = at;
        Ok(None)
    }
}

/// The least that is asked for at once: many tables are smaller, and their neighbours are wanted next.
const LEAST: usize = 64 << 10;
/// The most that is asked for at once: a table is read in pieces of this size.
const MOST: usize = 1 << 20;
/// Metadata up to this far ahead are waited for: a request of their own would take no less.
pub(super) const NEAR: u64 = 1 << 20;
/// After so many requests a stream is read forward: what is spread over the whole image is cheaper in passing.
const REQUESTS: usize = 256;
/// The same where what lies between has been carried before: tables of 32 TiB in usual clusters. Each takes memory until it is proved.
const PASSING: usize = 64 << 10;

/// See the [module](self).
pub(crate) struct Aside {
    /// Until they turn out not to be had, or too many were.
    ranges: Option<Box<dyn Ranges>>,
    len: Option<u64>,
    meter: Arc<Meter>,
    /// The piece that was fetched last.
    piece: Vec<u8>,
    piece_at: u64,
    /// In the order of the image.
    unproved: VecDeque<Unproved>,
    requests: usize,
    is_passing: bool,
}

/// A piece that the stream has not passed yet, or not all of it.
struct Unproved {
    range: Range<u64>,
    digest: [u8; 32],
    /// What of it has passed, once something has.
    passed: Option<Box<Sha256>>,
}

impl Aside {
    /// Reads through `ranges` from an image of `len` bytes, if that is known.
    pub(crate) fn new(ranges: Box<dyn Ranges>, len: Option<u64>, meter: Arc<Meter>) -> Self {
        Self {
            ranges: Some(ranges),
            len,
            meter,
            piece: Vec::new(),
            piece_at: 0,
            unproved: VecDeque::new(),
            requests: 0,
            is_passing: false,
        }
    }

    /// Reads up to `buf.len()` bytes at `at`, which the stream has not come to; 0 only at the end of the image. `None`:
    /// they can only be had by reading on.
    pub(super) fn try_read_at(&mut self, buf: &mut [u8], at: u64) -> Result<Option<usize>> {
        if self.fetched(at).is_none() && !self.fetch(at, buf.len())? {
            return Ok(None);
        }
        let bytes = self.fetched(at).unwrap_or_default();
        let got = copy(bytes, buf);
        Ok(Some(got))
    }

    fn fetched(&self, at: u64) -> Option<&[u8]> {
        let offset = usize::try_from(at.checked_sub(self.piece_at)?).ok()?;
        self.piece.get(offset..).filter(|bytes| !bytes.is_empty())
    }

    /// Fetches a piece from `at` on, larger than `wanted` if that is little. False if it cannot be had.
    fn fetch(&mut self, at: u64, wanted: usize) -> Result<bool> {
        if self.ranges.is_none() || self.requests >= if self.is_passing { PASSING } else { REQUESTS } {
            return Ok(false);
        }
        let left = self.len.map_or(u64::MAX, |len| len.saturating_sub(at));
        let ahead = at.saturating_sub(self.piece_at.saturating_add(self.piece.len() as u64));
        // What is wanted in passing, and so near to one another, is everywhere.
        let least = if self.is_passing && ahead < NEAR { MOST } else { LEAST };
        let size = wanted.clamp(least, MOST).min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut piece = take(&mut self.piece);
        piece.resize(size, 0);
        self.requests += 1;
        let Some(got) = self.ask(&mut piece, at)? else {
            self.ranges = None;
            return Ok(false);
        };
        piece.truncate(got);
        self.piece = piece;
        self.piece_at = at;
        self.meter.add(got as u64);
        let range = at..at.saturating_add(got as u64);
        if !range.is_empty() {
            let digest = Sha256::digest(&self.piece).into();
            let place = self.unproved.partition_point(|piece| piece.range.start < at);
            self.unproved.insert(place, Unproved { range, digest, passed: None });
        }
        Ok(true)
    }

    /// One request; `None` where there are none to be had.
    fn ask(&mut self, buf: &mut [u8], at: u64) -> Result<Option<usize>> {
        let Some(ranges) = self.ranges.as_mut() else { return Ok(None) };
        loop {
            self.meter.check()?;
            match ranges.read_at(buf, at) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Some(0)) if self.len.is_some_and(|len| at < len) => {
                    return Err(Error::reading(at, ErrorKind::UnexpectedEof.into()));
                }
                Ok(Some(got)) if got > buf.len() => return Err(read_too_much(at)),
                answer => return answer.map_err(|error| Error::reading(at, error)),
            }
        }
    }

    /// Whether requests are cheaper from now on than to read, and spool, what lies between.
    pub(super) fn pass(&mut self, is_passing: bool) {
        (self.requests, self.is_passing) = (0, is_passing);
    }

    /// How far ahead metadata are waited for.
    pub(super) fn near(&self) -> u64 {
        if self.is_passing { 0 } else { NEAR }
    }

    /// Whether there is a way still.
    pub(super) fn is_open(&self) -> bool {
        self.ranges.is_some()
    }

    /// The stream anew, from the byte at `at` on. What was read ahead of what lies before will not be proved: that it is of this
    /// version of the image, the server has said.
    pub(super) fn forward(&mut self, at: u64) -> Result<Option<Box<dyn Read + Send>>> {
        self.meter.check()?;
        let Some(ranges) = self.ranges.as_mut() else { return Ok(None) };
        let Some(reader) = ranges.forward(at).map_err(|error| Error::reading(at, error))? else { return Ok(None) };
        self.unproved.retain(|piece| piece.range.start >= at);
        Ok(Some(Box::new(Tap::new(reader, self.len, Arc::clone(&self.meter), Digests::default()).from(at))))
    }

    /// Reads bytes that a stream which began anew has left out, or 0 if they cannot be had.
    pub(super) fn left_out(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        let got = self.ask(buf, at)?.unwrap_or(0);
        self.meter.add(got as u64);
        Ok(got)
    }

    /// The stream has come to `bytes` at `at`, which follow those it came to before.
    pub(super) fn prove(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        let end = at.saturating_add(bytes.len() as u64);
        // There may be tens of thousands, and only a few have been come to.
        let mut next = 0;
        while let Some(piece) = self.unproved.get_mut(next).filter(|piece| piece.range.start < end) {
            match piece.pass(bytes, at) {
                Proof::Ahead => next += 1,
                Proof::Given => drop(self.unproved.remove(next)),
                Proof::Failed => {
                    let range = piece.range.clone();
                    self.unproved.remove(next);
                    return Err(changed(&range));
                }
            }
        }
        Ok(())
    }

    /// The byte up to which the stream has to come for everything to be proved; 0 if it is.
    pub(super) fn unproved_to(&self) -> u64 {
        self.unproved.iter().map(|piece| piece.range.end).max().unwrap_or(0)
    }

    /// The stream has ended: what was read ahead and has not come with it is of something else.
    pub(super) fn end(&mut self) -> Result<()> {
        self.unproved.pop_front().map_or(Ok(()), |piece| Err(changed(&piece.range)))
    }
}

fn changed(range: &Range<u64>) -> Error {
    let what = format!(
        "bytes {} to {} of the source are not what they were when they were read ahead: it has changed meanwhile",
        range.start, range.end
    );
    Error::source("changed", what).for_now()
}

/// The stored image, looked at for what a wrapping says of itself.
impl Source for Aside {
    fn len(&self) -> Option<u64> {
        self.len
    }

    fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        Ok(self.try_read_at(buf, at)?.unwrap_or(0))
    }

    /// Each look is a request.
    fn seekable(&self) -> bool {
        false
    }
}

enum Proof {
    Ahead,
    Given,
    Failed,
}

impl Unproved {
    fn pass(&mut self, bytes: &[u8], at: u64) -> Proof {
        let end = at.saturating_add(bytes.len() as u64);
        let from = self.range.start.clamp(at, end) - at;
        let to = self.range.end.clamp(at, end) - at;
        if let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to))
            && from < to
        {
            self.passed.get_or_insert_default().update(bytes.get(from..to).unwrap_or_default());
        }
        if end < self.range.end {
            return Proof::Ahead;
        }
        let passed: [u8; 32] = self.passed.take().unwrap_or_default().finalize().into();
        if passed == self.digest { Proof::Given } else { Proof::Failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Progress;

    /// Answers from memory, and counts how often.
    struct Memory(Vec<u8>);

    impl Ranges for Memory {
        fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
            let from = self.0.get(usize::try_from(at).unwrap()..).unwrap_or_default();
            Ok(Some(copy(from, buf)))
        }
    }

    struct Nowhere;

    impl Ranges for Nowhere {
        fn read_at(&mut self, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
            Ok(None)
        }
    }

    fn image() -> Vec<u8> {
        (0..1_000_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
    }

    fn aside(ranges: impl Ranges + 'static) -> Aside {
        Aside::new(Box::new(ranges), Some(1_000_000), Arc::new(Meter::new(&Progress::default())))
    }

    #[test]
    fn neighbours_come_with_one_request() {
        let mut aside = aside(Memory(image()));
        let mut buf = [0; 512];
        for at in [700_000, 700_512, 760_000] {
            assert_eq!(aside.try_read_at(&mut buf, at).unwrap(), Some(512));
            assert_eq!(buf, image()[usize::try_from(at).unwrap()..][..512]);
        }
        assert_eq!(aside.requests, 1);
        assert_eq!(aside.try_read_at(&mut buf, 999_999).unwrap(), Some(1));
        assert_eq!(aside.try_read_at(&mut buf, 1_000_000).unwrap(), Some(0));
    }

    #[test]
    fn what_the_stream_brings_must_be_what_was_read_ahead() {
        let whole = image();
        let mut bent = image();
        bent[765_535] ^= 1;
        for (stream, verdict) in [(whole, "proved"), (bent, "source-changed")] {
            let mut aside = aside(Memory(image()));
            aside.try_read_at(&mut [0; 512], 700_000).unwrap();
            let chunks = stream.chunks(70_001).zip((0..).step_by(70_001));
            let outcome = chunks.map(|(bytes, at)| aside.prove(bytes, at)).find_map(Result::err);
            assert_eq!(outcome.map_or("proved".into(), |error| error.code()), verdict);
            assert!(aside.unproved.is_empty());
        }
    }

    #[test]
    fn what_the_stream_does_not_bring_is_not_proved() {
        let mut aside = aside(Memory(image()));
        aside.try_read_at(&mut [0; 512], 700_000).unwrap();
        aside.prove(&image()[..700_100], 0).unwrap();
        assert_eq!(aside.end().unwrap_err().code(), "source-changed");
    }

    #[test]
    fn without_ranges_or_after_too_many_the_stream_is_read_on() {
        let mut nowhere = aside(Nowhere);
        assert_eq!(nowhere.try_read_at(&mut [0; 512], 0).unwrap(), None);
        assert_eq!(nowhere.try_read_at(&mut [0; 512], 0).unwrap(), None);
        assert_eq!(nowhere.requests, 1, "it is not asked again");
        let mut many = aside(Memory(image()));
        let answers = (0..=REQUESTS).map(|turn| many.try_read_at(&mut [0; 1], if turn % 2 == 0 { 0 } else { 500_000 }));
        assert_eq!(answers.filter(|answer| matches!(answer, Ok(Some(_)))).count(), REQUESTS);
    }
}
