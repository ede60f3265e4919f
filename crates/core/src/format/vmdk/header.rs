//! The sparse header: the first sector of an image, and its copy in the footer of a stream.

use std::mem::size_of;
use std::num::NonZero;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{FORMAT, MAGIC, SECTOR, SECTOR_LEN};
use crate::error::{Error, Result};
use crate::limits::Limits;

/// The header as it is stored. Offsets and sizes are in sectors.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    capacity: U64,
    grain: U64,
    descriptor_at: U64,
    descriptor_len: U64,
    table_entries: U32,
    redundant: U64,
    directory: U64,
    overhead: U64,
    unclean: u8,
    newlines: [u8; 4],
    compression: U16,
    padding: [u8; 433],
}

const _: () = assert!(size_of::<Raw>() == SECTOR_LEN);

const FLAG_NEWLINES: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
const FLAG_PACKED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const FLAGS: u32 = FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED_GRAINS | FLAG_PACKED | FLAG_MARKERS;

const NEWLINES: [u8; 4] = *b"\n \r\n";
const COMPRESSION_NONE: u16 = 0;
const COMPRESSION_DEFLATE: u16 = 1;
const AT_END: u64 = u64::MAX;

const GRAINS: std::ops::RangeInclusive<u64> = (4 << 10)..=(64 << 20);
/// qemu refuses longer tables; all producers write this many.
const MOST_TABLE_ENTRIES: u32 = 512;
/// qemu's limit as well; 64 TiB at 4 KiB grains.
const MOST_TABLES: u64 = 32 << 20;
/// What the header names begins in front of this byte: it is read at once, is shorter than 1 TiB, and ends where a file can end.
const FARTHEST: u64 = (1 << 63) - (1 << 40);
const LONGEST_DESCRIPTOR: u64 = (1 << 20) - 1;

/// The checked header. Offsets and sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) capacity: u64,
    /// A power of two.
    pub(super) grain: u64,
    /// Where the embedded descriptor is (offset, length), if there is one.
    pub(super) descriptor: Option<(u64, u64)>,
    /// Entries of a grain table, up to 512.
    pub(super) table_entries: NonZero<u32>,
    /// Where the redundant grain directory is.
    pub(super) redundant: Option<u64>,
    /// Where the grain directory is, in front of the grains or behind. `None`: the footer says it.
    pub(super) directory: Option<u64>,
    /// What lies in front of the grains.
    pub(super) overhead: u64,
    /// Whether entry 1 of a grain table is a grain of zeroes.
    pub(super) zeroed_grains: bool,
    /// Whether the grains are packed behind markers.
    pub(super) is_stream: bool,
    pub(super) unclean: bool,
}

impl Header {
    /// Checks the header that is stored at `at` and is not [`descriptor_alone`](Self::descriptor_alone).
    pub(super) fn parse(bytes: &[u8; SECTOR_LEN], at: u64, limits: &Limits) -> Result<Self> {
        let raw: &Raw = zerocopy::transmute_ref!(bytes);
        if raw.magic != MAGIC {
            let what = format!("there is no sparse header here: it begins with {:02x?}, not {MAGIC:02x?}", raw.magic);
            return Err(Error::corrupt(FORMAT, "not-this-format", at, what));
        }
        check_version(raw)?;
        let flags = check_flags(raw, at)?;
        let is_stream = flags & FLAG_PACKED != 0;
        let grain = check_grain(raw, at)?;
        if is_stream && grain > limits.unit {
            let what = "bytes in one packed grain";
            return Err(Error::Limit { what, wanted: grain, limit: limits.unit, option: "--limit-unit" });
        }
        let header = Self {
            version: raw.version.get(),
            capacity: bytes_of(raw.capacity.get(), at, "the capacity")?,
            grain,
            descriptor: check_descriptor(raw, at)?,
            table_entries: check_table_entries(raw, at)?,
            redundant: match flags & FLAG_REDUNDANT {
                0 => None,
                // VirtualBox says "at the end" here as well, and then has none.
                _ => Some(raw.redundant.get())
                    .filter(|&sector| sector != AT_END && sector != 0)
                    .map(|sector| bytes_of(sector, at, "the redundant grain directory's offset"))
                    .transpose()?,
            },
            directory: match raw.directory.get() {
                AT_END => None,
                sector => Some(bytes_of(sector, at, "the grain directory's offset")?),
            },
            overhead: bytes_of(raw.overhead.get(), at, "the offset of the first grain")?,
            zeroed_grains: flags & FLAG_ZEROED_GRAINS != 0,
            is_stream,
            unclean: raw.unclean != 0,
        };
        if header.tables() > MOST_TABLES {
            let what = format!("the disk takes {} grain tables, at most {MOST_TABLES} are allowed", header.tables());
            return Err(Error::corrupt(FORMAT, "directory-size", at, what));
        }
        Ok(header)
    }

    /// Where the descriptor is that this header is put in front of, if there is nothing else: the capacity then is 0.
    pub(super) fn descriptor_alone(bytes: &[u8; SECTOR_LEN]) -> Result<Option<(u64, u64)>> {
        let raw: &Raw = zerocopy::transmute_ref!(bytes);
        if raw.magic != MAGIC || raw.capacity.get() != 0 {
            return Ok(None);
        }
        check_version(raw)?;
        let what = "a header with neither a disk nor a descriptor";
        check_descriptor(raw, 0)?.map(Some).ok_or_else(|| Error::unsupported(FORMAT, "descriptor-only", what))
    }

    /// Reads the footer, a copy of this header that knows where the grain directory is, and returns that.
    pub(super) fn check_footer(&self, bytes: &[u8; SECTOR_LEN], at: u64, limits: &Limits) -> Result<u64> {
        let footer = Self::parse(bytes, at, limits)?;
        let Some(directory) = footer.directory else {
            let what = "the footer does not say where the grain directory is";
            return Err(Error::corrupt(FORMAT, "footer", at, what));
        };
        // Only where things lie may differ: producers fill in what they did not know when they began.
        let copy = Self {
            directory: self.directory,
            redundant: self.redundant,
            overhead: self.overhead,
            unclean: self.unclean,
            ..footer
        };
        if copy != *self {
            let what = "the footer is no copy of the header: one of them, or what lies between, is damaged";
            return Err(Error::corrupt(FORMAT, "footer", at, what));
        }
        if let Some(in_front) = self.directory.filter(|in_front| *in_front != directory) {
            let what =
                format!("the footer has the grain directory at byte {directory}, the header in front at {in_front}");
            return Err(Error::corrupt(FORMAT, "footer", at, what));
        }
        Ok(directory)
    }

    /// Whether the grain directory is said to be in front of the grains, where all tables then have to be.
    pub(super) fn tables_in_front(&self) -> bool {
        self.directory.is_some_and(|at| at < self.overhead)
    }

    /// Grain tables that the disk takes, stored or not.
    pub(super) fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.table_span())
    }

    /// Bytes of the disk that one grain table maps.
    pub(super) fn table_span(&self) -> u64 {
        // At most 512 * 64 MiB.
        self.grain.saturating_mul(self.table_entries.get().into())
    }

    /// Which table has the grain at `start` of the disk, and which of its entries that is.
    pub(super) fn place_of(&self, start: u64) -> (u64, u64) {
        let (grain, entries) = (start >> self.grain.ilog2(), NonZero::<u64>::from(self.table_entries));
        (grain / entries, grain % entries)
    }

    /// Bytes of a stored grain table.
    pub(super) fn table_len(&self) -> u64 {
        u64::from(self.table_entries.get()) * ENTRY
    }

    /// Bytes of the stored grain directory.
    pub(super) fn directory_len(&self) -> u64 {
        self.tables().saturating_mul(ENTRY)
    }

    /// Grains that the table for the disk from `start` on maps: the last one may map less than it has entries.
    pub(super) fn grains_from(&self, start: u64) -> u64 {
        self.capacity.saturating_sub(start).div_ceil(self.grain).min(self.table_entries.get().into())
    }

    /// The sector that an entry of a grain table points at; `None` for one that reads as zero.
    pub(super) fn allocated(&self, entry: u32) -> Option<u32> {
        match entry {
            0 => None,
            1 if self.zeroed_grains => None,
            sector => Some(sector),
        }
    }
}

/// Bytes of an entry of the grain directory, and of a grain table.
pub(super) const ENTRY: u64 = 4;

fn check_version(raw: &Raw) -> Result<()> {
    match raw.version.get() {
        1..=3 => Ok(()),
        version => {
            let what = format!("version {version} of the sparse header is not known, 1 to 3 are");
            Err(Error::unsupported(FORMAT, "version", what))
        }
    }
}

fn check_flags(raw: &Raw, at: u64) -> Result<u32> {
    let flags = raw.flags.get();
    if flags & !FLAGS != 0 {
        let what = format!("flags {:#x} of the sparse header are not known, {FLAGS:#x} are", flags & !FLAGS);
        return Err(Error::unsupported(FORMAT, "flags", what));
    }
    if flags & FLAG_NEWLINES != 0 && raw.newlines != NEWLINES {
        let what = format!(
            "the newline test of the header reads {:02x?}, not {NEWLINES:02x?}: the image was copied as text",
            raw.newlines
        );
        return Err(Error::corrupt(FORMAT, "text-transfer", at, what));
    }
    let compression = raw.compression.get();
    match (compression, flags & FLAG_PACKED != 0, flags & FLAG_MARKERS != 0) {
        (COMPRESSION_NONE, false, false) | (COMPRESSION_DEFLATE, true, true) => Ok(flags),
        (COMPRESSION_DEFLATE, true, false) => {
            Err(Error::unsupported(FORMAT, "no-markers", "packed grains without markers, which no producer writes"))
        }
        (COMPRESSION_NONE | COMPRESSION_DEFLATE, ..) => {
            let what = format!("flags {flags:#x} and compression {compression} of the header contradict each other");
            Err(Error::corrupt(FORMAT, "compression-flags", at, what))
        }
        _ => {
            let what = format!("compression {compression} is not known, 0 (none) and 1 (deflate) are");
            Err(Error::unsupported(FORMAT, "compression", what))
        }
    }
}

fn check_grain(raw: &Raw, at: u64) -> Result<u64> {
    let grain = raw.grain.get().saturating_mul(SECTOR);
    if !grain.is_power_of_two() || !GRAINS.contains(&grain) {
        let what = format!("grains of {} sectors; allowed are powers of two from 4 KiB to 64 MiB", raw.grain);
        return Err(Error::corrupt(FORMAT, "grain-size", at, what));
    }
    Ok(grain)
}

fn check_table_entries(raw: &Raw, at: u64) -> Result<NonZero<u32>> {
    let entries = raw.table_entries.get();
    NonZero::new(entries).filter(|_| entries <= MOST_TABLE_ENTRIES).ok_or_else(|| {
        let what = format!("grain tables of {entries} entries; allowed are 1 to {MOST_TABLE_ENTRIES}");
        Error::corrupt(FORMAT, "table-entries", at, what)
    })
}

fn check_descriptor(raw: &Raw, at: u64) -> Result<Option<(u64, u64)>> {
    if raw.descriptor_at.get() == 0 {
        return Ok(None);
    }
    let len = raw.descriptor_len.get().saturating_mul(SECTOR);
    if len == 0 || len > LONGEST_DESCRIPTOR {
        let what = format!("a descriptor of {} sectors; it takes at least 1 and less than 1 MiB", raw.descriptor_len);
        return Err(Error::corrupt(FORMAT, "descriptor-size", at, what));
    }
    Ok(Some((bytes_of(raw.descriptor_at.get(), at, "the descriptor's offset")?, len)))
}

fn bytes_of(sectors: u64, at: u64, what: &str) -> Result<u64> {
    sectors.checked_mul(SECTOR).filter(|bytes| *bytes < FARTHEST).ok_or_else(|| {
        let what = format!("{what} is sector {sectors}, a file can have less than {}", FARTHEST / SECTOR);
        Error::corrupt(FORMAT, "offset-range", at, what)
    })
}
