//! Where bytes come from: an image after its wrappings are off, read by position.

#![warn(clippy::indexing_slicing)]

pub(crate) mod ahead;
mod aside;
pub(crate) mod file;
pub(crate) mod stream;
pub(crate) mod tap;
mod window;

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

pub(crate) use self::aside::Aside;
pub use self::aside::Ranges;
pub use crate::aligned::Aligned;
use crate::error::{Error, Result};

/// A readable image. Offsets count unwrapped bytes.
#[expect(clippy::len_without_is_empty, reason = "a stream whose length is not known cannot say whether it is empty")]
pub trait Source: Send {
    /// Length in bytes, where it is known before reading on.
    fn len(&self) -> Option<u64>;

    /// Reads up to `buf.len()` bytes of data at `at`; 0 only at the end. Progress follows it. Bytes once read from a stream
    /// need not be readable again.
    fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize>;

    /// Reads metadata. Where any byte can be read at any time, what lies before `at` counts as not passed yet.
    fn look_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        self.read_at(buf, at)
    }

    /// Like [`look_at`](Self::look_at), but the bytes stay readable. A stream allows this for up to
    /// [`PEEK`] bytes beyond the furthest byte read.
    fn peek_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        self.look_at(buf, at)
    }

    /// Whether any byte can be read at any time at little cost.
    fn seekable(&self) -> bool;

    /// The first stored part of `range`, or `None` if all of it lies on a hole of a sparse image file.
    fn next_data(&mut self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        Ok(Some(range))
    }

    /// The bytes of `range` may be asked for once more when they and others have passed. Of a stream, those that have are kept if they
    /// are among the last [`BEHIND`] ones, which need not be announced to be read again at once.
    fn keep(&mut self, range: Range<u64>) -> Result<()> {
        let _ = range;
        Ok(())
    }

    /// As [`keep`](Self::keep), for a few bytes that have just passed, and only until others are to be remembered.
    fn remember(&mut self, range: Range<u64>) {
        let _ = range;
    }

    /// Whether it can [begin](Self::begin_at) anywhere.
    fn restartable(&self) -> bool {
        false
    }

    /// From here to where it will [begin](Self::begin_at) only metadata are wanted.
    fn pass(&mut self) {}

    /// Data before `at` has been carried at another time, and is hardly asked for: what lies between need not be read.
    fn begin_at(&mut self, at: u64) -> Result<()> {
        let _ = at;
        Ok(())
    }

    /// It holds a disk of `size` bytes, by which is measured what an image may leave unused.
    fn expect(&mut self, size: u64) {
        let _ = size;
    }

    /// All metadata has been read: bytes jumped over from now on will not be asked for.
    fn settle(&mut self) {}

    /// The file, and the offset in it, that holds `range`, for the kernel to copy from.
    fn file(&self, range: Range<u64>) -> Option<(&File, u64)> {
        let _ = range;
        None
    }

    /// The kernel has copied `range` out of [`file`](Self::file). Progress follows it, where nothing else does.
    fn copied(&mut self, range: Range<u64>) {
        let _ = range;
    }

    /// Lends the file that holds `range`, and the offset in it, for another thread to read. It counts as read by that.
    fn lend(&mut self, range: Range<u64>) -> Option<(Arc<File>, u64)> {
        let _ = range;
        None
    }

    /// Reads the first bytes of `range` as [`read_at`](Self::read_at) does, but where they are already in memory. `None` if they have to be copied, or are not there.
    fn share(&mut self, range: Range<u64>) -> Result<Option<Loan>> {
        let _ = range;
        Ok(None)
    }

    /// The most bytes that were spooled at one time.
    fn spooled(&self) -> u64 {
        0
    }

    /// Reads on until all metadata that were read ahead have been held against the stream, unless that takes more than `most`
    /// bytes: what looks like damage of the image may be none.
    fn prove(&mut self, most: u64) -> Result<()> {
        let _ = most;
        Ok(())
    }

    /// Reads what is left, so that wrappings check their trailers. False if that is more than `most` bytes.
    fn drain(&mut self, most: u64) -> Result<bool> {
        let _ = most;
        Ok(true)
    }
}

/// Bytes of a source that nobody has to copy, and that stay as they are.
pub struct Loan {
    /// Some that the source has in memory.
    pub bytes: Arc<Aligned>,
    /// Which of them are meant.
    pub place: Range<usize>,
}

/// How far a stream can be looked into beyond the furthest byte read.
pub const PEEK: usize = 2 << 20;

/// How many bytes behind the furthest byte read a stream can be asked for again. More than a sector is needed.
pub const BEHIND: u64 = 64 << 10;

/// Reads data until `buf` is full or the image ends, and returns how much was read.
pub fn read_full(source: &mut dyn Source, buf: &mut [u8], at: u64) -> Result<usize> {
    fill(buf, at, |buf, at| source.read_at(buf, at))
}

/// As [`read_full`], for metadata.
pub fn look_full(source: &mut dyn Source, buf: &mut [u8], at: u64) -> Result<usize> {
    fill(buf, at, |buf, at| source.look_at(buf, at))
}

/// As [`look_full`], through [`Source::peek_at`].
pub fn peek_full(source: &mut dyn Source, buf: &mut [u8], at: u64) -> Result<usize> {
    fill(buf, at, |buf, at| source.peek_at(buf, at))
}

/// Reads exactly `buf.len()` bytes of metadata, which is `format`'s `what`; an image that ends before is damaged.
pub fn look_exact(
    source: &mut dyn Source,
    buf: &mut [u8],
    at: u64,
    format: &'static str,
    what: &'static str,
) -> Result<()> {
    let got = look_full(source, buf, at)?;
    if got < buf.len() {
        return Err(ends_early(format, what, at, buf.len() as u64, got as u64));
    }
    Ok(())
}

/// The error for an image that promises `wanted` bytes at `at` and has only `got` of them.
pub(crate) fn ends_early(format: &'static str, what: &str, at: u64, wanted: u64, got: u64) -> Error {
    let what = format!("{what} takes {wanted} bytes, of which the image has {got}: it is cut short or damaged");
    Error::corrupt(format, "ends-early", at, what)
}

/// Copies as much as both hold, and says how much that is.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
    len
}

fn fill(buf: &mut [u8], at: u64, mut read: impl FnMut(&mut [u8], u64) -> Result<usize>) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read(rest, at.saturating_add(done as u64))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}
