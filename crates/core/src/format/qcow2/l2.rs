//! L2 tables: what each cluster of the virtual disk is made of.

use super::FORMAT;
use super::header::Header;
use crate::error::{Error, Result};
use crate::format::walk::{Table, Walk};
use crate::source::{Source, look_exact};

/// Bits 9 to 55 of L1 and standard L2 entries: an offset in the image.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;
const SECTOR: u64 = 512;
const SUBCLUSTERS: u64 = 32;
/// Bytes of a table that are read at once, which may be a request of a server each.
const PIECE: u64 = 1 << 20;
/// The buffer for them is kept up to this size. Tables that need more are few.
const KEPT: usize = 64 << 10;

/// Reads L2 tables; keeps what of the header that needs, and a buffer for a piece of one.
pub(super) struct L2 {
    version: u32,
    cluster_bits: u32,
    cluster: u64,
    extended: bool,
    entry_bits: u32,
    virtual_size: u64,
    piece: Vec<u8>,
}

/// What an L2 entry says of its cluster.
enum Cluster {
    Zero,
    Data {
        at: u64,
    },
    Packed {
        at: u64,
        len: u32,
    },
    /// One bit per subcluster, the first one lowest; those that are not set read as zero.
    Split {
        at: u64,
        allocated: u32,
    },
}

/// Clusters stored as they are that follow one another on the disk and in the image: named together, they are checked together.
#[derive(Default)]
struct Plain {
    at: u64,
    start: u64,
    len: u64,
}

impl Plain {
    fn is_followed_by(&self, at: u64, start: u64) -> bool {
        self.at.saturating_add(self.len) == at && self.start.saturating_add(self.len) == start
    }

    fn name(self, walk: &mut Walk) -> Result<()> {
        if self.len > 0 { walk.data(self.at, self.start, self.len) } else { Ok(()) }
    }
}

impl L2 {
    pub(super) fn new(header: &Header) -> Self {
        Self {
            version: header.version,
            cluster_bits: header.cluster_bits,
            cluster: header.cluster_size(),
            extended: header.extended_l2,
            entry_bits: header.entry_bits(),
            virtual_size: header.virtual_size,
            piece: Vec::new(),
        }
    }

    /// How many extents a table names at most.
    pub(super) fn extents_at_most(&self) -> u64 {
        let each = if self.extended { SUBCLUSTERS } else { 1 };
        (self.cluster >> self.entry_bits).saturating_mul(each)
    }

    /// Reads `table` and names all that it maps.
    pub(super) fn load(&mut self, walk: &mut Walk, source: &mut dyn Source, table: Table) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.piece);
        bytes.resize(usize::try_from(self.cluster.min(PIECE)).unwrap_or_default(), 0);
        let mut plain = Plain::default();
        let mut start = table.start;
        for offset in (0..self.cluster).step_by(bytes.len()) {
            let at = table.at.saturating_add(offset);
            look_exact(source, &mut bytes, at, FORMAT, "an L2 table")?;
            start = self.name(walk, &bytes, at, start, &mut plain)?;
        }
        if bytes.len() <= KEPT {
            self.piece = bytes;
        }
        plain.name(walk)
    }

    /// Names what the piece of a table maps that lies at `piece_at` and maps the disk from `start` on. What may go on behind it is left in
    /// `plain`. Returns where the next piece goes on.
    fn name(&self, walk: &mut Walk, piece: &[u8], piece_at: u64, mut start: u64, plain: &mut Plain) -> Result<u64> {
        let entry_size = 1 << self.entry_bits;
        let mut rest = piece;
        while let left @ 1.. = self.virtual_size.saturating_sub(start)
            && let Some((entry, behind)) = rest.split_at_checked(entry_size)
        {
            let (standard, bitmap) = words(entry);
            if (standard, bitmap) == (0, 0) {
                // Most entries of an almost empty disk.
                let empty = leading_zeroes(rest) >> self.entry_bits;
                let len = self.cluster.saturating_mul(empty as u64).min(left);
                walk.zero(start, len);
                start = start.saturating_add(len);
                rest = rest.get(empty << self.entry_bits..).unwrap_or_default();
                continue;
            }
            let entry_at = piece_at.saturating_add(piece.len().saturating_sub(rest.len()) as u64);
            let len = self.cluster.min(left);
            match self.cluster_of(standard, bitmap, entry_at)? {
                Cluster::Data { at } if plain.is_followed_by(at, start) => plain.len = plain.len.saturating_add(len),
                Cluster::Data { at } => std::mem::replace(plain, Plain { at, start, len }).name(walk)?,
                Cluster::Zero => walk.zero(start, len),
                Cluster::Packed { at, len } => walk.packed(at, start, self.cluster, len)?,
                Cluster::Split { at, allocated } => self.name_subclusters(walk, at, start, allocated)?,
            }
            start = start.saturating_add(self.cluster);
            rest = behind;
        }
        Ok(start)
    }

    fn name_subclusters(&self, walk: &mut Walk, at: u64, start: u64, allocated: u32) -> Result<()> {
        let subcluster = self.cluster / SUBCLUSTERS;
        for index in 0..SUBCLUSTERS {
            let offset = subcluster.saturating_mul(index);
            let start = start.saturating_add(offset);
            let len = subcluster.min(self.virtual_size.saturating_sub(start));
            match allocated >> index & 1 {
                _ if len == 0 => {}
                1 => walk.data(at.saturating_add(offset), start, len)?,
                _ => walk.zero(start, len),
            }
        }
        Ok(())
    }

    fn cluster_of(&self, entry: u64, bitmap: u64, entry_at: u64) -> Result<Cluster> {
        if entry & COMPRESSED != 0 {
            return Ok(self.packed(entry));
        }
        let at = entry & OFFSET;
        if !at.is_multiple_of(self.cluster) {
            let what = format!(
                "an L2 entry names a cluster at byte {at}, which is no multiple of the cluster size {}",
                self.cluster
            );
            return Err(Error::corrupt(FORMAT, "cluster-unaligned", entry_at, what));
        }
        if self.extended {
            return split(at, bitmap, entry_at);
        }
        if entry & READS_AS_ZERO != 0 {
            if self.version == 2 {
                let what = "an L2 entry of a version 2 image has the zero flag of version 3";
                return Err(Error::corrupt(FORMAT, "zero-flag-v2", entry_at, what));
            }
            // With an offset the cluster is only preallocated, and holds garbage.
            return Ok(Cluster::Zero);
        }
        Ok(if at == 0 { Cluster::Zero } else { Cluster::Data { at } })
    }

    /// "Compressed Clusters Descriptor": a byte offset, and how many sectors follow the one that the data begins in.
    fn packed(&self, entry: u64) -> Cluster {
        let offset_bits = 62_u32.saturating_sub(self.cluster_bits.saturating_sub(8));
        let at = entry & !(u64::MAX << offset_bits);
        let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        let len = sectors.saturating_add(1).saturating_mul(SECTOR).saturating_sub(at % SECTOR);
        // At most 2^13 sectors, with clusters of 2 MiB.
        Cluster::Packed { at, len: u32::try_from(len).unwrap_or(u32::MAX - 1) }
    }
}

/// Both words of an extended entry, or one and no bits.
fn words(entry: &[u8]) -> (u64, u64) {
    let mut words = entry.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
    (words.next().unwrap_or(0), words.next().unwrap_or(0))
}

/// How many bytes are zero before the first that is not. Looks at 64 at a time, which compilers turn into vector instructions.
fn leading_zeroes(bytes: &[u8]) -> usize {
    let blocks = bytes.as_chunks::<64>().0;
    let empty =
        blocks.iter().take_while(|block| block.iter().fold(0, |all, byte| all | byte) == 0).count().saturating_mul(64);
    let rest = bytes.get(empty..).unwrap_or_default();
    empty.saturating_add(rest.iter().take_while(|byte| **byte == 0).count())
}

/// "Extended L2 entry": the upper half of the bitmap says what reads as zero, the lower half what is stored.
fn split(at: u64, bitmap: u64, entry_at: u64) -> Result<Cluster> {
    let [zero, allocated] = [bitmap >> 32, bitmap & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
    if allocated & zero != 0 || (at == 0 && allocated != 0) {
        let what = format!("an extended L2 entry with offset {at} has the impossible subcluster bits {bitmap:#018x}");
        return Err(Error::corrupt(FORMAT, "subcluster-bits", entry_at.saturating_add(8), what));
    }
    Ok(match allocated {
        0 => Cluster::Zero,
        u32::MAX => Cluster::Data { at },
        _ => Cluster::Split { at, allocated },
    })
}
