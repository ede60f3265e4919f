//! An image that can only be read forward: a pipe, an unwrapped file, an upload.
//!
//! Bytes just read stay in a small window, since packed clusters share sectors. Bytes that the walk jumps over before it
//! is known what they are go to the [`Spool`], until all tables have been read.

use std::fs::File;
use std::io::Read;
use std::mem::take;
use std::ops::Range;

use super::file::FileSource;
use super::window::Window;
use super::{Aside, PEEK, Source, copy};
use crate::error::{Error, Result};
use crate::spool::Spool;

/// Bytes behind the furthest byte read that can be read again. More than a sector is needed.
const BEHIND: u64 = 64 << 10;

/// Metadata up to this far ahead are waited for: a request of their own would take no less.
const NEAR: u64 = 1 << 20;

/// Where bytes are found that the window has given up.
pub(crate) enum Past {
    /// Those that were jumped over were put aside; those that were read are gone.
    Spool(Spool),
    /// The stream is a plain file, read forward to be digested: any byte can be read again.
    File(FileSource),
}

/// See the [module](self).
pub(crate) struct Stream {
    window: Window,
    len: Option<u64>,
    /// Every byte before this one has been read or jumped over.
    frontier: u64,
    past: Past,
    /// Where metadata far ahead can be had.
    aside: Option<Aside>,
    /// How many bytes before the frontier to put aside before the next read.
    lingering: u64,
    /// Every byte spooled lies before this one.
    spooled_to: u64,
    settled: bool,
}

impl Stream {
    /// A stream of `len` bytes, if that is known, and of `limit` at most.
    pub(crate) fn new(reader: Box<dyn Read + Send>, len: Option<u64>, limit: u64, past: Past) -> Self {
        Self {
            window: Window::new(reader, limit),
            len,
            frontier: 0,
            past,
            aside: None,
            lingering: 0,
            spooled_to: 0,
            settled: false,
        }
    }

    /// Lets metadata far ahead be read through `aside`.
    pub(crate) fn with_aside(self, aside: Aside) -> Self {
        Self { aside: Some(aside), ..self }
    }

    /// Waits for the byte at `at`, which is not before the frontier. `None` if the stream ends before.
    fn wait_for(&mut self, at: u64) -> Result<Option<&[u8]>> {
        while self.window.slice(at).is_none() {
            let before = self.window.end();
            if !self.window.pull(self.frontier.saturating_sub(BEHIND))? {
                return Ok(None);
            }
            if let Some(aside) = &mut self.aside {
                aside.prove(self.window.slice(before).unwrap_or_default(), before)?;
            }
        }
        Ok(self.window.slice(at))
    }

    /// Moves the frontier up to `at`, putting aside what may be asked for later. False if the stream ends before.
    fn jump_to(&mut self, at: u64) -> Result<bool> {
        while self.frontier < at {
            if self.wait_for(self.frontier)?.is_none() {
                return Ok(false);
            }
            let ahead = self.window.slice(self.frontier).unwrap_or_default();
            let wanted = usize::try_from(at - self.frontier).unwrap_or(usize::MAX);
            let jumped = ahead.get(..wanted).unwrap_or(ahead);
            let next = self.frontier.saturating_add(jumped.len() as u64);
            if let (Past::Spool(spool), false) = (&mut self.past, self.settled) {
                spool.put(jumped, self.frontier)?;
                self.spooled_to = next;
            }
            self.frontier = next;
        }
        Ok(true)
    }

    /// Puts aside the bytes that [`linger`](Source::linger) spoke of, while the window still has them.
    fn put_tail_aside(&mut self) -> Result<()> {
        let mut at = self.frontier.saturating_sub(take(&mut self.lingering)).max(self.spooled_to);
        let (Past::Spool(spool), false) = (&mut self.past, self.settled) else { return Ok(()) };
        while at < self.frontier {
            let Some(bytes) = self.window.slice(at) else { break };
            let wanted = usize::try_from(self.frontier - at).unwrap_or(usize::MAX);
            let tail = bytes.get(..wanted).unwrap_or(bytes);
            spool.put(tail, at)?;
            at = at.saturating_add(tail.len() as u64);
            self.spooled_to = at;
        }
        Ok(())
    }

    fn read_past(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        match &mut self.past {
            Past::File(file) => file.read_at(buf, at),
            Past::Spool(spool) => match spool.read(buf, at)? {
                0 => Err(Error::unsupported(
                    "stream",
                    "mapped-twice",
                    format!("the image uses byte {at} again after it has passed: save it to a file and convert that"),
                )),
                got => Ok(got),
            },
        }
    }
}

impl Source for Stream {
    fn len(&self) -> Option<u64> {
        self.len
    }

    fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        self.put_tail_aside()?;
        if at < self.frontier && self.window.slice(at).is_none() {
            return self.read_past(buf, at);
        }
        if !self.jump_to(at)? {
            return Ok(0);
        }
        let got = copy(self.wait_for(at)?.unwrap_or_default(), buf);
        self.frontier = self.frontier.max(at.saturating_add(got as u64));
        Ok(got)
    }

    fn look_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        if let Past::File(file) = &mut self.past {
            return file.look_at(buf, at);
        }
        if let Some(aside) = self.aside.as_mut().filter(|_| at > self.window.end().saturating_add(NEAR))
            && let Some(got) = aside.try_read_at(buf, at)?
        {
            return Ok(got);
        }
        self.read_at(buf, at)
    }

    fn peek_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        if at < self.frontier {
            return self.read_at(buf, at);
        }
        debug_assert!(at - self.frontier <= PEEK as u64, "the window would grow without bound");
        Ok(copy(self.wait_for(at)?.unwrap_or_default(), buf))
    }

    fn seekable(&self) -> bool {
        matches!(self.past, Past::File(_))
    }

    fn linger(&mut self, len: u64) {
        self.lingering = len;
    }

    fn settle(&mut self) {
        self.settled = true;
    }

    fn file(&self, range: Range<u64>) -> Option<(&File, u64)> {
        match &self.past {
            Past::Spool(spool) => spool.file(range),
            Past::File(file) => file.file(range),
        }
    }

    fn spooled(&self) -> u64 {
        match &self.past {
            Past::Spool(spool) => spool.peak(),
            Past::File(_) => 0,
        }
    }

    fn drain(&mut self, most: u64) -> Result<bool> {
        self.settled = true;
        let most = if self.seekable() { u64::MAX } else { most };
        Ok(!self.jump_to(self.frontier.saturating_add(most))?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use diskferry_testkit::faults::Choppy;

    use super::*;
    use crate::source::read_full;

    const LEN: u64 = 3 << 20;

    fn byte(at: u64) -> u8 {
        let [low, middle, high, ..] = at.to_le_bytes();
        low ^ middle ^ high
    }

    fn stream(limit: u64) -> Stream {
        let bytes: Vec<u8> = (0..LEN).map(byte).collect();
        let spool = Spool::new(None, 1 << 20, 64 << 20);
        Stream::new(Box::new(Choppy::new(Cursor::new(bytes), 3)), None, limit, Past::Spool(spool))
    }

    /// Reads `len` bytes at `at`, which must be the right ones.
    fn read(stream: &mut Stream, at: u64, len: usize) -> Result<()> {
        let mut buf = vec![0; len];
        assert_eq!(read_full(stream, &mut buf, at)?, len);
        assert!(buf.iter().zip(at..).all(|(found, at)| *found == byte(at)), "wrong bytes at {at}");
        Ok(())
    }

    #[test]
    fn what_is_jumped_over_can_be_read_later_and_what_was_read_cannot() {
        let mut stream = stream(LEN);
        read(&mut stream, 0, 4096).unwrap();
        read(&mut stream, 2 << 20, 4096).unwrap();
        assert_eq!(stream.spooled(), (2 << 20) - 4096);
        read(&mut stream, 4096, 1 << 20).unwrap();
        assert_eq!(read(&mut stream, 0, 4096).unwrap_err().code(), "stream-mapped-twice");
    }

    #[test]
    fn nothing_is_spooled_once_all_tables_are_known() {
        let mut stream = stream(LEN);
        stream.settle();
        read(&mut stream, 2 << 20, 4096).unwrap();
        assert_eq!(stream.spooled(), 0);
    }

    #[test]
    fn the_window_reaches_back_a_little_and_looking_ahead_loses_nothing() {
        let mut stream = stream(LEN);
        let mut buf = vec![0; PEEK];
        assert_eq!(stream.peek_at(&mut buf[..1], 1 << 20).unwrap(), 1);
        read(&mut stream, 0, 1 << 20).unwrap();
        read(&mut stream, (1 << 20) - 511, 1024).unwrap();
        assert_eq!(stream.spooled(), 0);
    }

    #[test]
    fn a_lingering_tail_is_kept_when_the_walk_goes_elsewhere() {
        let mut stream = stream(LEN);
        read(&mut stream, 0, 100_000).unwrap();
        stream.linger(511);
        read(&mut stream, 100_000, 2 << 20).unwrap();
        read(&mut stream, 100_000 - 511, 511).unwrap();
        assert_eq!(read(&mut stream, 100_000 - 512, 1).unwrap_err().code(), "stream-mapped-twice");
    }

    #[test]
    fn the_end_is_found_by_reading_past_it_and_by_draining() {
        let mut stream = stream(LEN);
        assert_eq!(read_full(&mut stream, &mut [0; 10], LEN - 4).unwrap(), 4);
        assert_eq!(read_full(&mut stream, &mut [0; 10], LEN + 4).unwrap(), 0);
        assert!(stream.drain(LEN).unwrap());
    }

    #[test]
    fn a_stream_longer_than_its_limit_is_refused() {
        assert_eq!(stream(LEN - 1).drain(u64::MAX).unwrap_err().code(), "max-size");
        assert!(stream(LEN).drain(LEN + 1).unwrap());
        assert!(!stream(LEN).drain(LEN - 1).unwrap(), "there is more");
    }
}
