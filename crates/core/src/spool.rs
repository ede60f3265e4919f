//! The spool: bytes that came before their turn, kept at their own offsets until it comes.
//!
//! A [stream](crate::source) puts what it had to jump over here, and a [pipe](crate::sink::PipeSink) what it cannot
//! write yet. Memory is used first, then an unnamed temporary file, which nobody has to clean up. The file is sparse
//! and every range lies in it at its own offset, so that the kernel can copy, or share, blocks from there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use crate::error::{Error, Result};
use crate::spans::Spans;
use crate::zero::is_zero;

/// Memory is taken, and given back, in pieces of up to this size: small puts side by side share one, and cutting
/// one moves no more than this.
const PIECE: usize = 64 << 10;

/// Roughly what it costs in memory to know where one piece is, whether that piece is in memory or in the file.
pub(crate) const BOOKKEEPING: u64 = 64;

/// What bookkeeping may take however little memory the spool is allowed.
const LEAST_BOOKKEEPING: u64 = 1 << 20;

/// The file gives room back in blocks of this size, as each time is a change of the filesystem.
const BLOCK: u64 = 1 << 20;

/// Makes a file without a name, for who cannot make one itself.
#[derive(Clone)]
pub struct MakeFile(Arc<Make>);

type Make = dyn Fn() -> io::Result<File> + Send + Sync;

impl MakeFile {
    /// Made by `make`, which is called from any thread.
    pub fn new(make: impl Fn() -> io::Result<File> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

impl fmt::Debug for MakeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MakeFile")
    }
}

/// Where a spool's file comes from: from somebody who makes it, or it is made in a directory, or in the system's temporary one.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) make: Option<MakeFile>,
}

impl From<Option<PathBuf>> for Place {
    fn from(dir: Option<PathBuf>) -> Self {
        Self { dir, make: None }
    }
}

impl Place {
    fn file(&self) -> io::Result<File> {
        match self {
            Self { make: Some(make), .. } => (make.0)(),
            Self { dir: Some(dir), .. } => tempfile::tempfile_in(dir),
            Self { .. } => tempfile::tempfile(),
        }
    }
}

/// Byte ranges by offset. Each byte is put once; what was taken may be put again.
pub(crate) struct Spool {
    place: Place,
    memory: u64,
    /// What of that the pieces may take.
    kept: u64,
    limit: u64,
    pieces: BTreeMap<u64, Vec<u8>>,
    piece_bytes: u64,
    file: Option<File>,
    file_end: u64,
    filed: Spans,
    filed_bytes: u64,
    peak: u64,
}

impl Spool {
    /// An empty spool. It keeps up to `memory` bytes in memory and up to `limit` bytes in all; its file is made when
    /// it is needed.
    pub(crate) fn new(place: impl Into<Place>, memory: u64, limit: u64) -> Self {
        Self {
            place: place.into(),
            memory,
            kept: memory,
            limit,
            pieces: BTreeMap::new(),
            piece_bytes: 0,
            file: None,
            file_end: 0,
            filed: Spans::default(),
            filed_bytes: 0,
            peak: 0,
        }
    }

    /// The same with only so many bytes of data in memory.
    pub(crate) fn keeping(self, kept: u64) -> Self {
        Self { kept, ..self }
    }

    /// Keeps `data` at `at`.
    pub(crate) fn put(&mut self, data: &[u8], at: u64) -> Result<()> {
        let len = data.len() as u64;
        let held = self.held().saturating_add(len);
        within("bytes spooled at one time", held, self.limit, "--spool-limit")?;
        if self.piece_bytes.saturating_add(len).saturating_add(self.bookkeeping()) <= self.kept {
            self.keep(data, at);
        } else {
            self.store(data, at)?;
            // To know where scattered pieces of the file are takes room, too.
            while self.piece_bytes.saturating_add(self.bookkeeping()) > self.kept.saturating_add(LEAST_BOOKKEEPING)
                && let Some((at, piece)) = self.pieces.pop_first()
            {
                self.piece_bytes -= piece.len() as u64;
                self.store(&piece, at)?;
            }
        }
        self.peak = self.peak.max(held);
        within_memory(self.bookkeeping(), self.memory)
    }

    /// Reads what is kept from `at` on, and returns how much that was. This may be less than is there; it is 0 only
    /// if nothing is kept at `at`.
    pub(crate) fn read(&self, buf: &mut [u8], at: u64) -> Result<usize> {
        if let Some((start, piece)) = self.pieces.range(..=at).next_back() {
            let (_, kept) = piece.split_at(clamp(at - start, piece.len()));
            if !kept.is_empty() {
                let n = kept.len().min(buf.len());
                buf[..n].copy_from_slice(&kept[..n]);
                return Ok(n);
            }
        }
        let (Some(end), Some(file)) = (self.filed.end_at(at), &self.file) else { return Ok(0) };
        let n = clamp(end - at, buf.len());
        file.read_exact_at(&mut buf[..n], at).map_err(|e| Error::writing("reading the spool", Some(at), e))?;
        Ok(n)
    }

    /// Forgets whatever is kept in `range` and gives its room back.
    pub(crate) fn take(&mut self, range: Range<u64>) {
        self.drop_pieces(&range);
        let removed = self.filed.remove(range.clone());
        if removed > 0 {
            self.filed_bytes -= removed;
            self.give_back(range);
        }
    }

    /// The file, and the offset in it, that holds all of `range`, for the kernel to copy from.
    pub(crate) fn file(&self, range: Range<u64>) -> Option<(&File, u64)> {
        let whole = self.filed.end_at(range.start)? >= range.end;
        self.file.as_ref().filter(|_| whole).map(|file| (file, range.start))
    }

    /// The most bytes that were held at one time.
    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }

    fn held(&self) -> u64 {
        self.piece_bytes + self.filed_bytes
    }

    /// What it takes to know where all pieces are, in bytes of memory.
    pub(crate) fn bookkeeping(&self) -> u64 {
        (self.pieces.len() + self.filed.count()) as u64 * BOOKKEEPING
    }

    fn keep(&mut self, mut data: &[u8], mut at: u64) {
        self.piece_bytes += data.len() as u64;
        if let Some((start, piece)) = self.pieces.range_mut(..=at).next_back()
            && start + piece.len() as u64 == at
        {
            let (joined, rest) = data.split_at(data.len().min(PIECE.saturating_sub(piece.len())));
            piece.extend_from_slice(joined);
            at += joined.len() as u64;
            data = rest;
        }
        for piece in data.chunks(PIECE) {
            self.pieces.insert(at, piece.to_vec());
            at += piece.len() as u64;
        }
    }

    fn store(&mut self, data: &[u8], at: u64) -> Result<()> {
        let failed = |e| Error::writing("writing the spool", Some(at), e);
        if self.file.is_none() {
            self.file = Some(self.place.file().map_err(|e| Error::writing("creating the spool's file", None, e))?);
        }
        if let Some(file) = &self.file {
            let end = at.saturating_add(data.len() as u64);
            if at >= self.file_end && is_zero(data) {
                // A hole: what was taken, and is put again, lies further in front.
                file.set_len(end).map_err(failed)?;
            } else {
                file.write_all_at(data, at).map_err(failed)?;
            }
            self.file_end = self.file_end.max(end);
        }
        self.filed.insert(at..at.saturating_add(data.len() as u64));
        self.filed_bytes += data.len() as u64;
        Ok(())
    }

    fn drop_pieces(&mut self, range: &Range<u64>) {
        let first = self.pieces.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        let touched: Vec<u64> = self.pieces.range(first..range.end.max(first)).map(|(&start, _)| start).collect();
        for start in touched {
            let Some(mut before) = self.pieces.remove(&start) else { continue };
            let had = before.len();
            let after = before.split_off(clamp(range.end - start, had));
            before.truncate(clamp(range.start.saturating_sub(start), had));
            before.shrink_to_fit();
            self.piece_bytes -= (had - before.len() - after.len()) as u64;
            for (start, left) in [(start, before), (range.end, after)] {
                if !left.is_empty() {
                    self.pieces.insert(start, left);
                }
            }
        }
    }

    /// Punches out the blocks that `range` was the last to occupy, up to the one that it ends in. Where the
    /// filesystem cannot, the room comes back with the end of the job.
    fn give_back(&self, range: Range<u64>) {
        let Some(file) = &self.file else { return };
        let in_use = self.filed.end_before(range.start).unwrap_or(0);
        let start = (range.start - range.start % BLOCK).max(in_use);
        let end = range.end - range.end % BLOCK;
        if start < end {
            let _ = fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, end - start);
        }
    }
}

/// Refuses to remember more pieces than `memory` has room for: an image can be made of millions of scattered ones.
pub(crate) fn within_memory(bookkeeping: u64, memory: u64) -> Result<()> {
    let limit = memory.max(LEAST_BOOKKEEPING);
    within("bytes of memory to find scattered pieces of the spool again", bookkeeping, limit, "--limit-spool-memory")
}

fn within(what: &'static str, wanted: u64, limit: u64, option: &'static str) -> Result<()> {
    if wanted > limit { Err(Error::Limit { what, wanted, limit, option }) } else { Ok(()) }
}

fn clamp(value: u64, most: usize) -> usize {
    usize::try_from(value).map_or(most, |value| value.min(most))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use diskferry_testkit::Random;

    use super::*;

    const MIB: u64 = 1 << 20;
    const EACH_MIB: usize = 1 << 20;

    fn read_all(spool: &Spool, at: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        let mut done = 0;
        while done < len {
            match spool.read(&mut buf[done..], at + done as u64).unwrap() {
                0 => break,
                n => done += n,
            }
        }
        buf.truncate(done);
        buf
    }

    /// Bytes that say where they belong.
    fn pattern(at: u64, len: usize) -> Vec<u8> {
        (at..at + len as u64).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn is_limit(error: &Error, name: &str) -> bool {
        matches!(error, Error::Limit { option, .. } if *option == name)
    }

    #[test]
    fn bytes_come_back_from_memory_and_from_the_file() {
        let mut spool = Spool::new(None, 100_000, MIB);
        for at in [500_000, 0, 70_000, 300_000] {
            spool.put(&pattern(at, 70_000), at).unwrap();
        }
        assert_eq!(spool.peak(), 280_000);
        assert_eq!(read_all(&spool, 500_000, 100_000), pattern(500_000, 70_000), "in memory");
        assert_eq!(read_all(&spool, 10, 200_000), pattern(10, 139_990), "in the file, put as two");
        assert!(spool.file(500_000..500_001).is_none());
        assert_eq!(spool.file(10..140_000).unwrap().1, 10);
        assert!(spool.file(10..140_001).is_none());
        assert_eq!(spool.read(&mut [0; 10], 140_000).unwrap(), 0);
    }

    #[test]
    fn pieces_leave_memory_for_what_it_takes_to_find_those_of_the_file() {
        const FIRST: usize = 2 * EACH_MIB - PIECE;
        let memory = 2 * MIB;
        let mut spool = Spool::new(None, memory, u64::MAX);
        let random = &mut Random::new(1);
        let (first, scattered) = (random.bytes(FIRST), random.bytes(64));
        spool.put(&first, 0).unwrap();
        let (mut at, mut most) = (1 << 30, 0);
        let error = loop {
            if let Err(error) = spool.put(&scattered, at) {
                break error;
            }
            at += 1 << 12;
            most = most.max(spool.piece_bytes + spool.bookkeeping());
        };
        assert_eq!(error.code(), "limit-spool-memory");
        assert!((memory..=memory + LEAST_BOOKKEEPING + BOOKKEEPING).contains(&most), "{most}");
        let mut read = vec![0; first.len()];
        let mut got = 0;
        while got < read.len() {
            got += spool.read(&mut read[got..], got as u64).unwrap();
        }
        assert!(read == first);
        for at in (1 << 30..at).step_by(1 << 12) {
            assert!(read_all(&spool, at, scattered.len()) == scattered, "{at}");
        }
    }

    #[test]
    fn millions_of_small_puts_become_few_pieces() {
        let mut spool = Spool::new(None, 8 * MIB, 16 * MIB);
        for at in (0..16 * MIB).step_by(8) {
            spool.put(&at.to_le_bytes(), at).unwrap();
        }
        assert!(spool.pieces.len() <= 128 && spool.filed.count() == 1);
        for at in [0, 65_536, 9_999_992, 16 * MIB - 8] {
            assert_eq!(read_all(&spool, at, 8), at.to_le_bytes());
        }
    }

    #[test]
    fn taking_a_part_leaves_both_ends() {
        for memory in [MIB, 0] {
            let mut spool = Spool::new(None, memory, MIB);
            spool.put(&pattern(1000, 200_000), 1000).unwrap();
            spool.take(50_000..150_000);
            assert_eq!(read_all(&spool, 1000, 200_000), pattern(1000, 49_000));
            assert_eq!(read_all(&spool, 150_000, 200_000), pattern(150_000, 51_000));
            assert_eq!((spool.read(&mut [0], 50_000).unwrap(), spool.held()), (0, 100_000));
            spool.take(0..MIB);
            assert_eq!((spool.held(), spool.pieces.len(), spool.filed.count()), (0, 0, 0));
        }
    }

    #[test]
    fn taken_room_goes_back_to_the_filesystem() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(Some(dir.path().to_owned()), 0, 64 * MIB);
        for at in (0..16 * MIB).step_by(EACH_MIB) {
            spool.put(&vec![1; EACH_MIB], at).unwrap();
        }
        let stored = |spool: &Spool| spool.file.as_ref().unwrap().metadata().unwrap().blocks() * 512;
        spool.file.as_ref().unwrap().sync_all().unwrap();
        assert!(stored(&spool) >= 16 * MIB);
        for at in (0..15 * MIB + 4096).step_by(4096) {
            spool.take(at..at + 4096);
        }
        assert!(stored(&spool) <= 2 * MIB, "{} bytes left", stored(&spool));
        assert_eq!(read_all(&spool, 15 * MIB + 4096, 2 * EACH_MIB), vec![1; EACH_MIB - 4096]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn zeroes_take_no_room_on_the_filesystem() {
        let mut spool = Spool::new(None, 0, 64 * MIB);
        let zeroes = vec![0; EACH_MIB];
        spool.put(&vec![7; EACH_MIB], 3 * MIB).unwrap();
        spool.put(&zeroes, 0).unwrap();
        spool.take(3 * MIB..3 * MIB + 10);
        spool.put(&zeroes[..10], 3 * MIB).unwrap();
        (4..64).step_by(2).for_each(|at| spool.put(&zeroes, at * MIB).unwrap());
        let stored = spool.file.as_ref().unwrap().metadata().unwrap().blocks() * 512;
        assert!(stored <= 2 * MIB + 65_536, "{stored}");
        let first = [vec![0; 10], vec![7; EACH_MIB - 10], zeroes.clone()].concat();
        assert!(read_all(&spool, 3 * MIB, 5 * EACH_MIB) == first, "what was there before is not seen again");
        assert!(read_all(&spool, 62 * MIB, EACH_MIB) == zeroes && read_all(&spool, 0, EACH_MIB) == zeroes);
        assert_eq!(spool.peak(), 32 * MIB, "they count as any other bytes");
    }

    #[test]
    fn memory_that_was_taken_is_used_again() {
        let mut spool = Spool::new(None, 100_000, MIB);
        for at in (0..1000 * MIB).step_by(EACH_MIB) {
            spool.put(&[7; 90_000], at).unwrap();
            spool.take(at..at + 90_000);
        }
        assert!(spool.file.is_none());
        assert_eq!(spool.peak(), 90_000);
    }

    #[test]
    fn a_byte_past_the_limit_is_refused() {
        let mut spool = Spool::new(None, 1000, 2000);
        spool.put(&[1; 1500], 0).unwrap();
        spool.put(&[1; 500], 5000).unwrap();
        assert!(is_limit(&spool.put(&[1], 9000).unwrap_err(), "--spool-limit"));
        spool.take(0..1);
        spool.put(&[1], 9000).unwrap();
    }

    #[test]
    fn scattered_pieces_are_bounded_by_memory() {
        let mut spool = Spool::new(None, 0, 1 << 40);
        let error = (0..).step_by(8192).find_map(|at| spool.put(&[1; 512], at).err()).unwrap();
        assert!(is_limit(&error, "--limit-spool-memory"), "{error}");
        assert_eq!(spool.filed.count(), 16_385);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let mut spool = Spool::new(Some(PathBuf::from("/nonexistent")), 0, 10);
        assert_eq!(spool.put(&[1], 0).unwrap_err().code(), "target-write");
    }
}
