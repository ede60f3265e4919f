//! An image that can only be read forward: a pipe, an unwrapped file, an upload.
//!
//! Bytes just read stay in a small window, since packed clusters share sectors. Bytes that the walk jumps over before it
//! is known what they are go to the [`Spool`], until all tables have been read.

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use super::aside::NEAR;
use super::file::FileSource;
use super::window::{CHUNK, Window};
use super::{Aside, BEHIND, Loan, PEEK, Source, copy};
use crate::error::{Error, Result};
use crate::limits::{unused, unused_before_tables};
use crate::spool::Spool;

/// The least to be shared. A whole chunk stays in memory for it, and copying less takes no time.
const SHARED_LEAST: u64 = CHUNK as u64 / 2;

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
    /// What to spool although it is read.
    kept: Range<u64>,
    /// What is remembered, and where it lies.
    remembered: (u64, Vec<u8>),
    /// Every byte spooled lies before this one.
    spooled_to: u64,
    settled: bool,
    /// Where it has begun; what lies before was left out.
    began: u64,
    /// What is jumped over, if that is counted.
    unused: Option<Unused>,
}

/// Bytes that are jumped over, each of which may have cost its sender next to nothing.
struct Unused {
    count: u64,
    /// The most there may be before the last table, which are spooled.
    before_tables: u64,
    /// The most there may be in all.
    most: u64,
}

impl Unused {
    /// None so far, for a disk of `size` bytes.
    fn of(size: u64) -> Self {
        Self { count: 0, before_tables: unused_before_tables(size), most: unused(size) }
    }

    fn add(&mut self, bytes: u64, is_settled: bool) -> Result<()> {
        self.count = self.count.saturating_add(bytes);
        let most = if is_settled { self.most } else { self.before_tables };
        if self.count > most {
            let what = format!(
                "more than {most} bytes pass before the image uses them, if it does: save it to a file, without wrappings, and convert that"
            );
            return Err(Error::unsupported("stream", "unused", what));
        }
        Ok(())
    }
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
            kept: 0..0,
            remembered: (0, Vec::new()),
            spooled_to: 0,
            settled: false,
            began: 0,
            unused: None,
        }
    }

    /// The same of unwrapped bytes, of which those are counted that are jumped over.
    pub(crate) fn unwrapped(self) -> Self {
        Self { unused: Some(Unused::of(0)), ..self }
    }

    /// Lets metadata far ahead be read through `aside`.
    pub(crate) fn with_aside(self, aside: Aside) -> Self {
        Self { aside: Some(aside), ..self }
    }

    /// Waits for the byte at `at`, which is not before the frontier. `None` if the stream ends before.
    fn wait_for(&mut self, at: u64) -> Result<Option<&[u8]>> {
        while self.window.slice(at).is_none() {
            if !self.pull()? {
                return Ok(None);
            }
        }
        Ok(self.window.slice(at))
    }

    /// Reads once more. False at the end.
    fn pull(&mut self) -> Result<bool> {
        let before = self.window.end();
        if !self.window.pull(self.frontier.saturating_sub(BEHIND))? {
            self.aside.as_mut().map_or(Ok(()), Aside::end)?;
            return Ok(false);
        }
        if let Some(aside) = &mut self.aside {
            aside.prove(self.window.slice(before).unwrap_or_default(), before)?;
        }
        Ok(true)
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
            self.unused.as_mut().map_or(Ok(()), |unused| unused.add(jumped.len() as u64, self.settled))?;
            if let (Past::Spool(spool), false) = (&mut self.past, self.settled) {
                spool.put(jumped, self.frontier)?;
                self.spooled_to = next;
            }
            self.frontier = next;
        }
        Ok(true)
    }

    /// Spools what is to be [kept](Source::keep) of the bytes from `at` up to the frontier, while the window has them.
    fn keep_passed(&mut self, at: u64) -> Result<()> {
        let Past::Spool(spool) = &mut self.past else { return Ok(()) };
        let mut at = at.max(self.kept.start).max(self.spooled_to);
        for kept in self.window.pieces(at..self.frontier.min(self.kept.end)) {
            spool.put(kept, at)?;
            at = at.saturating_add(kept.len() as u64);
            self.spooled_to = at;
        }
        Ok(())
    }

    fn read_past(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        if let (Past::Spool(spool), Some(aside), true) = (&mut self.past, &mut self.aside, at < self.began) {
            let spooled = spool.read(buf, at)?;
            let got = if spooled == 0 { aside.left_out(buf, at)? } else { spooled };
            if got > 0 {
                return Ok(got);
            }
        }
        match &mut self.past {
            Past::File(file) => file.read_at(buf, at),
            Past::Spool(spool) => match spool.read(buf, at)? {
                0 => match remembered(&self.remembered, at) {
                    Some(bytes) => Ok(copy(bytes, buf)),
                    None => Err(Error::unsupported(
                        "stream",
                        "mapped-twice",
                        format!(
                            "the image uses byte {at} again after it has passed: save it to a file, without wrappings, and convert that"
                        ),
                    )),
                },
                got => Ok(got),
            },
        }
    }
}

/// What is remembered from the byte at `at` on, if that is.
fn remembered((start, bytes): &(u64, Vec<u8>), at: u64) -> Option<&[u8]> {
    let from = usize::try_from(at.checked_sub(*start)?).ok()?;
    bytes.get(from..).filter(|bytes| !bytes.is_empty())
}

impl Source for Stream {
    fn len(&self) -> Option<u64> {
        self.len
    }

    fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        if at < self.frontier && self.window.slice(at).is_none() {
            return self.read_past(buf, at);
        }
        if !self.jump_to(at)? {
            return Ok(0);
        }
        let got = copy(self.wait_for(at)?.unwrap_or_default(), buf);
        let before = self.frontier;
        self.frontier = before.max(at.saturating_add(got as u64));
        self.keep_passed(before)?;
        Ok(got)
    }

    fn share(&mut self, range: Range<u64>) -> Result<Option<Loan>> {
        if range.start < self.frontier || range.end - range.start < SHARED_LEAST || !self.jump_to(range.start)? {
            return Ok(None);
        }
        // At its end nothing more comes into the last chunk either.
        while self.window.share(range.start).is_none() && self.pull()? {}
        let Some(Loan { bytes, mut place }) = self.window.share(range.start) else { return Ok(None) };
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        place.end = place.end.min(place.start.saturating_add(wanted));
        if (place.len() as u64) < SHARED_LEAST {
            return Ok(None);
        }
        let before = self.frontier;
        self.frontier = before.saturating_add(place.len() as u64);
        self.keep_passed(before)?;
        Ok(Some(Loan { bytes, place }))
    }

    fn look_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        if let Past::File(file) = &mut self.past {
            return file.look_at(buf, at);
        }
        let ahead = at.saturating_sub(self.window.end());
        // What is not put aside may as well pass.
        let near = |aside: &Aside| if self.settled { NEAR } else { aside.near() };
        if let Some(aside) = self.aside.as_mut().filter(|aside| ahead > near(aside))
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

    fn restartable(&self) -> bool {
        matches!(self.past, Past::Spool(_)) && self.aside.as_ref().is_some_and(Aside::is_open)
    }

    fn pass(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.pass(true);
        }
    }

    fn begin_at(&mut self, at: u64) -> Result<()> {
        if let Some(aside) = &mut self.aside {
            aside.pass(false);
        }
        if at <= self.window.end().saturating_add(NEAR) {
            return self.jump_to(at).map(drop);
        }
        let reader = self.aside.as_mut().map_or(Ok(None), |aside| aside.forward(at))?;
        let none = || Error::source("changed", "the server gives no parts of the image any more").for_now();
        self.window.begin_at(reader.ok_or_else(none)?, at);
        (self.frontier, self.began) = (at, at);
        Ok(())
    }

    fn keep(&mut self, range: Range<u64>) -> Result<()> {
        self.kept = range;
        self.keep_passed(0)
    }

    fn remember(&mut self, range: Range<u64>) {
        debug_assert!(range.end - range.start <= BEHIND, "that is no few bytes");
        let (start, bytes) = &mut self.remembered;
        if *start == range.start && *start + bytes.len() as u64 == range.end {
            return;
        }
        *start = range.start;
        bytes.clear();
        self.window.pieces(range).for_each(|piece| bytes.extend_from_slice(piece));
    }

    fn expect(&mut self, size: u64) {
        self.unused = self.unused.take().map(|unused| Unused { count: unused.count, ..Unused::of(size) });
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

    fn prove(&mut self, most: u64) -> Result<()> {
        let end = self.aside.as_ref().map_or(0, Aside::unproved_to);
        if end > self.window.end() && end - self.window.end() <= most {
            self.settled = true;
            self.jump_to(end)?;
        }
        Ok(())
    }

    fn drain(&mut self, most: u64) -> Result<bool> {
        self.settled = true;
        // It has a bound of its own.
        self.unused = None;
        let most = if self.seekable() { u64::MAX } else { most };
        Ok(!self.jump_to(self.frontier.saturating_add(most).saturating_add(1))?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};
    use std::sync::Arc;

    use diskferry_testkit::faults::Choppy;

    use super::*;
    use crate::Progress;
    use crate::source::tap::Meter;
    use crate::source::{Ranges, look_full, read_full};

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
    fn what_is_shared_counts_as_read_and_stays_as_it_is_while_the_stream_goes_on() {
        let mut stream = stream(LEN);
        stream.settle();
        read(&mut stream, 0, 1000).unwrap();
        stream.keep(1000..2000).unwrap();
        let mut shared = Vec::new();
        let mut at = 1000;
        while let Some(piece) = stream.share(at..LEN).unwrap() {
            at += piece.place.len() as u64;
            shared.push(piece);
        }
        let chunks = usize::try_from(LEN).unwrap() / CHUNK;
        assert_eq!((at, shared.len()), (LEN, chunks), "the rest of the first chunk, and the others");
        assert_eq!(read_full(&mut stream, &mut [0; 10], LEN).unwrap(), 0);
        let all = shared.iter().flat_map(|piece| &piece.bytes[piece.place.clone()]);
        assert!(all.zip(1000..).all(|(found, at)| *found == byte(at)));
        read(&mut stream, 1000, 1000).unwrap();
        assert_eq!(read(&mut stream, 999, 1).unwrap_err().code(), "stream-mapped-twice");
        assert!(stream.share(1000..LEN).unwrap().is_none(), "what has passed is read");
    }

    #[test]
    fn what_is_remembered_can_be_read_until_others_are() {
        let mut stream = stream(LEN);
        stream.settle();
        let chunk = CHUNK as u64;
        read(&mut stream, 0, CHUNK + 100).unwrap();
        for _ in 0..2 {
            stream.remember(chunk - 300..chunk + 100);
            read(&mut stream, 1 << 20, 1000).unwrap();
            read(&mut stream, chunk - 300, 400).unwrap();
            read(&mut stream, chunk + 99, 1).unwrap();
        }
        assert_eq!(read(&mut stream, chunk - 301, 1).unwrap_err().code(), "stream-mapped-twice");
        assert_eq!(read(&mut stream, chunk + 100, 1).unwrap_err().code(), "stream-mapped-twice");
        read(&mut stream, 2 << 20, 1000).unwrap();
        stream.remember((2 << 20) + 500..(2 << 20) + 1000);
        assert_eq!(read(&mut stream, chunk, 1).unwrap_err().code(), "stream-mapped-twice");
        assert_eq!(stream.spooled(), 0);
    }

    #[test]
    fn little_is_not_shared() {
        let mut stream = stream(LEN);
        assert!(stream.share(0..SHARED_LEAST - 1).unwrap().is_none());
        assert!(stream.share(0..SHARED_LEAST).unwrap().is_some_and(|shared| shared.place == (0..CHUNK / 2)));
        let near_the_end_of_a_chunk = 2 * CHUNK as u64 - 1000;
        assert!(stream.share(near_the_end_of_a_chunk..LEN).unwrap().is_none());
        read(&mut stream, near_the_end_of_a_chunk, 2000).unwrap();
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
    fn a_tail_that_is_to_be_kept_can_be_read_when_much_else_has_passed() {
        let mut stream = stream(LEN);
        read(&mut stream, 0, 100_000).unwrap();
        stream.keep(100_000 - 511..100_000).unwrap();
        read(&mut stream, 100_000, 2 << 20).unwrap();
        read(&mut stream, 100_000 - 511, 511).unwrap();
        assert_eq!(read(&mut stream, 100_000 - 512, 1).unwrap_err().code(), "stream-mapped-twice");
        assert_eq!(stream.spooled(), 511);
    }

    #[test]
    fn a_range_that_is_to_be_kept_can_be_read_again_in_any_order() {
        for settled in [false, true] {
            let mut stream = stream(LEN);
            if settled {
                stream.settle();
            }
            stream.keep(500_000..1_500_000).unwrap();
            read(&mut stream, 0, 2 << 20).unwrap();
            assert_eq!(stream.spooled(), 1_000_000);
            for (at, len) in [(500_000, 1_000_000), (1_400_000, 100_000), (500_000, 1)] {
                read(&mut stream, at, len).unwrap();
            }
            assert_eq!(read(&mut stream, 499_999, 2).unwrap_err().code(), "stream-mapped-twice");
            read(&mut stream, 2 << 20, 1 << 20).unwrap();
        }
    }

    #[test]
    fn ranges_that_overlap_are_kept_once_and_without_a_gap() {
        let mut stream = stream(LEN);
        read(&mut stream, 0, 100_000).unwrap();
        // What the window has, what is yet to come, and what was kept before.
        stream.keep(60_000..1_000_000).unwrap();
        read(&mut stream, 50_000, 950_000).unwrap();
        stream.keep(500_000..2_000_000).unwrap();
        read(&mut stream, 60_000, 1_940_000).unwrap();
        read(&mut stream, 2_900_000, 1).unwrap();
        read(&mut stream, 60_000, 1_940_000).unwrap();
        assert_eq!(stream.spooled(), 2_900_000 - 60_000, "with what was jumped over");
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
        assert!(stream(LEN).drain(LEN).unwrap());
        assert!(!stream(LEN).drain(LEN - 1).unwrap(), "there is more");
    }

    /// Answers with zeroes.
    struct Liar;

    impl Ranges for Liar {
        fn read_at(&mut self, buf: &mut [u8], _: u64) -> io::Result<Option<usize>> {
            buf.fill(0);
            Ok(Some(buf.len()))
        }
    }

    #[test]
    fn what_was_read_ahead_is_proved_unless_that_takes_too_much() {
        for (most, changed) in [(LEN, true), (1 << 20, false)] {
            let aside = Aside::new(Box::new(Liar), Some(LEN), Arc::new(Meter::new(&Progress::default())));
            let mut stream = stream(LEN).with_aside(aside);
            look_full(&mut stream, &mut [0; 512], LEN - 512).unwrap();
            let proof = stream.prove(most);
            assert_eq!(proof.is_err_and(|error| error.code() == "source-changed"), changed, "{most}");
        }
    }
}
