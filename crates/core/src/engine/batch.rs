//! What the reader hands to a worker at once.

use std::fs::File;
use std::mem::take;
use std::ops::Range;
use std::sync::Arc;

use crate::aligned::Aligned;
use crate::error::Result;
use crate::extent::Codec;
use crate::source::ends_early;
use crate::source::file::read_lent;

/// Stored bytes in a batch: large enough that system calls and wake-ups hardly matter, and few enough that many threads take little memory.
pub(super) const STORED: usize = 256 << 10;

/// The longest piece that a worker reads by itself: so large that a filesystem takes it in large folios, and so small that what has been read
/// is still in the processor's cache when it is written.
pub(super) const LENT: usize = 512 << 10;

/// Bytes of the disk that a batch may unpack to before it is handed over, so that highly packed units share out too.
const UNPACKED: u64 = 4 << 20;

/// Pieces in a batch, so that a batch of tiny pieces ends too.
const PIECES: usize = 4096;

/// Stored bytes of a unit that are more than usual.
pub(super) const LARGE: usize = 1 << 20;

/// How far apart packed units may lie that are read together.
const GAP: u64 = 4096;

/// Stored bytes and what is to be made of them.
#[derive(Default)]
pub(super) struct Batch {
    /// The first `filled` ones. What lies behind them is left over from another batch, since clearing it takes its time.
    bytes: Aligned,
    filled: usize,
    /// Which of them are still to be read, by the worker.
    lent: Vec<Lent>,
    /// How many stored bytes are shared with the source, and what it cannot use again for that.
    shared: usize,
    pinned: usize,
    pub(super) pieces: Vec<Piece>,
    unpacked: u64,
}

/// The bytes of a file at `at` that belong to `place` in a batch.
struct Lent {
    file: Arc<File>,
    at: u64,
    place: Range<usize>,
}

impl Batch {
    /// An empty batch that stores its bytes in `buffer`, whatever that holds.
    pub(super) fn new(buffer: Aligned) -> Self {
        Self { bytes: buffer, ..Self::default() }
    }

    /// The buffer, for another batch.
    pub(super) fn into_buffer(self) -> Aligned {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.room() == 0 || self.unpacked >= UNPACKED || self.pieces.len() >= PIECES
    }

    /// How many stored bytes it has.
    pub(super) fn len(&self) -> usize {
        self.filled.saturating_add(self.shared)
    }

    /// How much memory it takes. A large buffer counts whole, and one that is yet to grow, since bytes are lent, as what it will be.
    pub(super) fn memory(&self) -> usize {
        let large = if self.bytes.len() > LARGE { self.bytes.len() } else { 0 };
        self.filled.max(large).saturating_add(self.pinned)
    }

    /// The buffer of one that stores nothing itself.
    pub(super) fn unused_buffer(&mut self) -> Option<Aligned> {
        (self.filled == 0).then(|| take(&mut self.bytes))
    }

    /// How many stored bytes there is room for before the batch is full.
    pub(super) fn room(&self) -> usize {
        STORED.saturating_sub(self.len())
    }

    /// Stores what `read` puts into room for `len` bytes, and says where that is. It tells how much that was.
    pub(super) fn fill(&mut self, len: usize, read: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<Range<usize>> {
        let from = self.filled;
        let end = from.saturating_add(len);
        self.bytes.grow(end);
        self.filled = from.saturating_add(read(self.bytes.get_mut(from..end).unwrap_or_default())?.min(len));
        Ok(from..self.filled)
    }

    /// Stores the `len` bytes of `file` at `at`, once the worker has read them, and says where. Those of neighbours are read together, and
    /// what they share once.
    pub(super) fn lend(&mut self, file: Arc<File>, at: u64, len: usize) -> Range<usize> {
        let filled = self.filled;
        let near = |lent: &&mut Lent| {
            let end = lent.at.saturating_add(lent.place.len() as u64);
            lent.place.end == filled
                && (lent.at..=end.saturating_add(GAP)).contains(&at)
                && Arc::ptr_eq(&lent.file, &file)
        };
        let place = match self.lent.last_mut().filter(near) {
            Some(lent) => {
                let from = lent.place.start.saturating_add(usize::try_from(at - lent.at).unwrap_or(usize::MAX));
                lent.place.end = lent.place.end.max(from.saturating_add(len));
                from..from.saturating_add(len)
            }
            None => {
                let place = filled..filled.saturating_add(len);
                self.lent.push(Lent { file, at, place: place.clone() });
                place
            }
        };
        self.filled = filled.max(place.end);
        place
    }

    /// Reads what was lent. The error of a file that has become shorter is of `format`.
    pub(super) fn fetch(&mut self, format: &'static str) -> Result<()> {
        self.bytes.grow(self.filled);
        for Lent { file, at, place } in self.lent.drain(..) {
            let wanted = place.len() as u64;
            let got = read_lent(&file, self.bytes.get_mut(place).unwrap_or_default(), at)? as u64;
            if got < wanted {
                return Err(ends_early(format, "packed data", at, wanted, got));
            }
        }
        Ok(())
    }

    /// Puts pieces into the order of the disk. Several threads that pack an image store its units nearly in order: neighbours are written
    /// together all the same.
    pub(super) fn sort(&mut self) {
        self.pieces.sort_unstable_by_key(|piece| piece.start);
    }

    /// The stored bytes of a piece.
    pub(super) fn stored<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        let bytes = if let What::Shared { bytes } = &piece.what { bytes } else { &self.bytes };
        bytes.get(piece.stored.clone()).unwrap_or_default()
    }

    /// Counts bytes of the disk that have taken their time although they are zeroes, so that nothing waits long for their end.
    pub(super) fn pass(&mut self, len: u64) {
        if !self.is_empty() {
            self.unpacked = self.unpacked.saturating_add(len);
        }
    }

    /// Adds a piece; zeroes that follow zeroes become one.
    pub(super) fn add(&mut self, piece: Piece) {
        match (self.pieces.last_mut(), &piece.what) {
            (Some(Piece { what: What::Zero, start, len, .. }), What::Zero)
                if start.saturating_add(*len) == piece.start =>
            {
                *len = len.saturating_add(piece.len);
            }
            (_, What::Zero) => self.pieces.push(piece),
            _ => {
                self.unpacked = self.unpacked.saturating_add(piece.len);
                if let What::Shared { bytes } = &piece.what {
                    self.shared = self.shared.saturating_add(piece.stored.len());
                    if !self.pieces.last().is_some_and(|last| last.shares(bytes)) {
                        self.pinned = self.pinned.saturating_add(bytes.len());
                    }
                }
                self.pieces.push(piece);
            }
        }
    }
}

/// A range of the virtual disk; `stored` are its bytes in the batch, or in what is shared.
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) what: What,
    pub(super) stored: Range<usize>,
}

impl Piece {
    fn shares(&self, other: &Arc<Aligned>) -> bool {
        matches!(&self.what, What::Shared { bytes } if Arc::ptr_eq(bytes, other))
    }
}

pub(super) enum What {
    Plain,
    /// Those of the source, which nobody has to copy.
    Shared {
        bytes: Arc<Aligned>,
    },
    /// To be read by the worker, so that the bytes stay on one core: `len` of them at `at` of the file.
    Lent {
        file: Arc<File>,
        at: u64,
    },
    /// `at` is where the unit lies in the image.
    Packed {
        codec: Codec,
        at: u64,
    },
    Zero,
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn neighbours_are_read_together_and_what_they_share_once() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let file = Arc::new(file);
        let mut batch = Batch::new(Aligned::zeroed(10));
        let read = batch.fill(4, |room| room.first_mut().map(|byte| *byte = 9).map_or(Ok(0), |()| Ok(1))).unwrap();
        // One behind the other, one that shares its first bytes, one near, one far, and one before it.
        let units = [(1000, 500), (1500, 200), (1690, 100), (3000, 512), (50_000, 512), (40_000, 512)];
        let stored: Vec<_> = units.iter().map(|&(at, len)| batch.lend(Arc::clone(&file), at as u64, len)).collect();
        assert_eq!(batch.lent.iter().map(|lent| lent.at).collect::<Vec<_>>(), [1000, 50_000, 40_000]);
        batch.fetch("test").unwrap();
        let piece = |stored| Piece { start: 0, len: 0, what: What::Plain, stored };
        assert_eq!(batch.stored(&piece(read)), [9]);
        for ((at, len), stored) in units.into_iter().zip(stored) {
            assert_eq!(batch.stored(&piece(stored)), &bytes[at..at + len], "{at}");
        }
    }

    #[test]
    fn a_batch_takes_as_much_memory_as_it_holds_is_to_hold_or_keeps_from_the_source() {
        const LEN: usize = 64 << 10;
        assert_eq!(Batch::default().memory(), 0);
        assert_eq!(Batch::new(Aligned::zeroed(3 * LEN)).memory(), 0);
        assert_eq!(Batch::new(Aligned::zeroed(LARGE + LEN)).memory(), LARGE + LEN);
        let mut batch = Batch::new(Aligned::zeroed(LEN));
        batch.lend(Arc::new(tempfile::tempfile().unwrap()), 512, 3 * LEN);
        assert_eq!(batch.memory(), 3 * LEN);
        let mut batch = Batch::new(Aligned::zeroed(LEN));
        let chunks = [Arc::new(Aligned::zeroed(2 * LEN)), Arc::new(Aligned::zeroed(2 * LEN))];
        for (chunk, stored) in [(0, 0..100), (0, 100..200), (1, 0..LEN)] {
            let what = What::Shared { bytes: Arc::clone(&chunks[chunk]) };
            batch.add(Piece { start: 0, len: 1, what, stored });
        }
        assert_eq!((batch.memory(), batch.len()), (4 * LEN, LEN + 200));
        assert_eq!(batch.unused_buffer().map(|buffer| buffer.len()), Some(LEN));
        assert!(batch.into_buffer().is_empty());
    }

    #[test]
    fn a_lent_unit_that_is_not_there_any_more_is_an_error() {
        let mut batch = Batch::default();
        batch.lend(Arc::new(tempfile::tempfile().unwrap()), 512, 512);
        assert_eq!(batch.fetch("test").unwrap_err().code(), "test-ends-early");
    }
}
