//! The last piece of a stream: what has been read ahead and what has just passed.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use super::Loan;
use crate::aligned::Aligned;
use crate::error::{Error, Result};

/// The window is kept in pieces of this size: large enough that a pipe or decoder fills one in few calls, small enough that
/// several stay in the processor's cache.
pub(super) const CHUNK: usize = 128 << 10;

/// As many pieces are kept that nobody shares any more.
const MOST_FREE: usize = 8;

struct Chunk {
    at: u64,
    /// Shared with nobody before it is whole.
    bytes: Arc<Aligned>,
    filled: usize,
}

/// Consecutive bytes of a stream, up to the furthest one pulled.
pub(super) struct Window {
    reader: Box<dyn Read + Send>,
    /// The most bytes that may come.
    limit: u64,
    /// Every chunk but the last is full.
    chunks: VecDeque<Chunk>,
    /// What was passed, to be filled again once nobody shares it.
    passed: Vec<Arc<Aligned>>,
    /// How many bytes the reader has given.
    pulled: u64,
    ended: bool,
}

impl Window {
    pub(super) fn new(reader: Box<dyn Read + Send>, limit: u64) -> Self {
        Self { reader, limit, chunks: VecDeque::new(), passed: Vec::new(), pulled: 0, ended: false }
    }

    /// One whose reader begins with the byte at `at`, in the place of this one.
    pub(super) fn begin_at(&mut self, reader: Box<dyn Read + Send>, at: u64) {
        *self =
            Self { reader, limit: self.limit, chunks: VecDeque::new(), passed: Vec::new(), pulled: at, ended: false };
    }

    /// The bytes from `at` on, as far as one chunk goes; `None` where the window has none.
    pub(super) fn slice(&self, at: u64) -> Option<&[u8]> {
        let (chunk, from) = self.chunk(at)?;
        chunk.bytes.get(from..chunk.filled).filter(|bytes| !bytes.is_empty())
    }

    /// The bytes of `range`, piece by piece, up to the first that the window does not have.
    pub(super) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = &[u8]> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let bytes = self.slice(at).filter(|_| at < range.end)?;
            let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let piece = bytes.get(..wanted).unwrap_or(bytes);
            at = at.saturating_add(piece.len() as u64);
            Some(piece)
        })
    }

    /// The same as [`slice`](Self::slice), to be used elsewhere. `None` as long as more is to come into the chunk.
    pub(super) fn share(&self, at: u64) -> Option<Loan> {
        let (chunk, from) = self.chunk(at)?;
        let is_whole = chunk.filled == CHUNK || self.ended;
        (is_whole && from < chunk.filled).then(|| Loan { bytes: Arc::clone(&chunk.bytes), place: from..chunk.filled })
    }

    /// The chunk that holds the byte at `at`, or will, and where.
    fn chunk(&self, at: u64) -> Option<(&Chunk, usize)> {
        let first = self.chunks.front()?.at;
        let offset = usize::try_from(at.checked_sub(first)?).ok()?;
        Some((self.chunks.get(offset / CHUNK)?, offset % CHUNK))
    }

    /// How far the stream has been pulled.
    pub(super) fn end(&self) -> u64 {
        self.pulled
    }

    /// Reads once more from the stream. False at its end. Chunks that lie before `keep_from` as a whole may be given up.
    pub(super) fn pull(&mut self, keep_from: u64) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.chunks.back().is_none_or(|chunk| chunk.filled == CHUNK) {
            let chunk = self.empty_chunk(keep_from);
            self.chunks.push_back(chunk);
        }
        let Some(chunk) = self.chunks.back_mut() else { return Ok(false) };
        let room = Arc::make_mut(&mut chunk.bytes).get_mut(chunk.filled..).unwrap_or_default();
        let got = read_some(&mut self.reader, room, self.pulled)?;
        chunk.filled += got;
        self.ended = got == 0;
        self.pulled = self.pulled.saturating_add(got as u64);
        if self.pulled > self.limit {
            let what = "length of the unwrapped image in bytes, of which twice the disk and 64 MiB are allowed";
            return Err(Error::Limit { what, wanted: self.pulled, limit: self.limit, option: "--max-size" });
        }
        Ok(!self.ended)
    }

    /// One that has been passed and that nobody shares any more, else a new one.
    fn empty_chunk(&mut self, keep_from: u64) -> Chunk {
        let passed = self.chunks.pop_front_if(|chunk| chunk.at.saturating_add(CHUNK as u64) <= keep_from);
        self.passed.extend(passed.map(|chunk| chunk.bytes));
        let is_free = |bytes: &Arc<Aligned>| Arc::strong_count(bytes) == 1;
        let free = self.passed.iter().position(is_free);
        let bytes = free.map_or_else(|| Arc::new(Aligned::zeroed(CHUNK)), |free| self.passed.swap_remove(free));
        let mut free = 0;
        self.passed.retain(|bytes| {
            free += usize::from(is_free(bytes));
            free <= MOST_FREE || !is_free(bytes)
        });
        Chunk { at: self.pulled, bytes, filled: 0 }
    }
}

fn read_some(reader: &mut dyn Read, buf: &mut [u8], at: u64) -> Result<usize> {
    loop {
        match reader.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|error| Error::reading(at, error)),
        }
    }
}
