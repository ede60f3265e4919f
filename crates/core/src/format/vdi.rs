//! VDI, VirtualBox's format: a header, one block map, then blocks of one size in any order.
//!
//! There is no specification. The layout is in VirtualBox's `VDICore.h`; where QEMU's `block/vdi.c` and VirtualBox differ
//! in what they take, what both take is carried, and blocks of other sizes than QEMU's besides. See docs/formats/vdi.md.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::detect::NEAR;
use super::walk::{Table, Walk};
use super::{Detail, Format, Image, ImageInfo, Opening, Order, Refusal};
use crate::error::{Error, Result};
use crate::extent::{Codec, Extent};
use crate::limits::Limits;
use crate::source::{Source, ends_early, look_exact};

const FORMAT: &str = "vdi";

/// VDI's line in the table of formats.
pub(super) const VDI: Format = Format { name: FORMAT, head: |_| NEAR, probe, open };

const SIGNATURE: u32 = 0xbeda_107f;
const SIGNATURE_AT: usize = 64;
/// What the text in front of the signature begins with, whoever wrote it.
const TEXT: &[u8] = b"<<< ";
const VERSION: u32 = 0x0001_0001;
const SECTOR: u64 = 512;
/// The header's own size counts from here.
const HEADER_AT: u64 = 72;
/// Up to the last field that is read. VirtualBox has 400 since it notes the geometry twice.
const SHORTEST_HEADER: u64 = 384;
/// QEMU's bound. It keeps every offset far below 2^64: 2^30 blocks of 2^31 bytes, each behind 2^31 of its own.
const MOST_BLOCKS: u64 = 0x3fff_ffff;

/// Marks in the block map. Without a parent both read as zero.
const FREE: u32 = u32::MAX;
const ZERO: u32 = u32::MAX - 1;
/// Entries of the block map that are read at once: 64 KiB.
const PIECE: usize = 16 << 10;
const ENTRY: u64 = 4;

#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawHeader {
    text: [u8; SIGNATURE_AT],
    signature: U32,
    version: U32,
    header_size: U32,
    kind: U32,
    flags: U32,
    description: [u8; 256],
    map_at: U32,
    data_at: U32,
    cylinders: U32,
    heads: U32,
    sectors: U32,
    sector_size: U32,
    unused: U32,
    disk_size: U64,
    block_size: U32,
    block_extra: U32,
    blocks: U32,
    allocated: U32,
    uuid: Uuid,
    snapshot: Uuid,
    /// The image that this one is a delta to.
    link: Uuid,
    /// The state of that image which this one was made for.
    parent: Uuid,
}
const _: () = assert!(size_of::<RawHeader>() as u64 == HEADER_AT + SHORTEST_HEADER);

#[derive(Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Uuid {
    low: U32,
    mid: U16,
    high: U16,
    rest: [u8; 8],
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i] = self.rest;
        write!(f, "{:08x}-{:04x}-{:04x}-{a:02x}{b:02x}-", self.low, self.mid, self.high)?;
        write!(f, "{c:02x}{d:02x}{e:02x}{g:02x}{h:02x}{i:02x}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dynamic,
    Static,
    Undo,
    Differencing,
}

impl Kind {
    fn parse(number: u32) -> Result<Self> {
        match number {
            1 => Ok(Self::Dynamic),
            2 => Ok(Self::Static),
            3 => Ok(Self::Undo),
            4 => Ok(Self::Differencing),
            _ => Err(Error::unsupported(FORMAT, "type", format!("image type {number} is not known, 1 to 4 are"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Undo => "undo",
            Self::Differencing => "differencing",
        }
    }
}

/// A header that agrees with itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    kind: Kind,
    disk_size: u64,
    block_size: u64,
    /// Bytes in front of each block that belong to nobody.
    extra: u64,
    /// Entries of the block map; there may be more than the disk needs.
    blocks: u64,
    allocated: u64,
    map_at: u64,
    data_at: u64,
    header_end: u64,
    /// uuid of the image that this one is a delta to.
    parent: Option<String>,
}

impl Header {
    fn parse(raw: &RawHeader) -> Result<Self> {
        if raw.signature != SIGNATURE {
            let what = format!("the signature is {:#010x}, not {SIGNATURE:#010x}: this is no VDI", raw.signature);
            return Err(Error::corrupt(FORMAT, "not-this-format", SIGNATURE_AT as u64, what));
        }
        if raw.version != VERSION {
            let what = format!("version {:#x} is not known, {VERSION:#x} is", raw.version);
            return Err(Error::unsupported(FORMAT, "version", what));
        }
        let linked = [raw.link, raw.parent].into_iter().find(|uuid| *uuid != Uuid::new_zeroed());
        let header = Self {
            kind: Kind::parse(raw.kind.get())?,
            disk_size: raw.disk_size.get(),
            block_size: raw.block_size.get().into(),
            extra: raw.block_extra.get().into(),
            blocks: raw.blocks.get().into(),
            allocated: raw.allocated.get().into(),
            map_at: raw.map_at.get().into(),
            data_at: raw.data_at.get().into(),
            header_end: HEADER_AT + u64::from(raw.header_size.get()),
            parent: linked.map(|uuid| uuid.to_string()),
        };
        header.check_blocks(raw.sector_size.get())?;
        header.check_places()?;
        Ok(header)
    }

    fn check_blocks(&self, sector_size: u32) -> Result<()> {
        if u64::from(sector_size) != SECTOR {
            let what = format!("sectors of {sector_size} bytes are not known, those of {SECTOR} are");
            return Err(Error::unsupported(FORMAT, "sector-size", what));
        }
        if !self.block_size.is_power_of_two() || self.block_size < SECTOR {
            let what = format!("blocks of {} bytes: a power of two from {SECTOR} on is allowed", self.block_size);
            return Err(Error::corrupt(FORMAT, "block-size", 376, what));
        }
        if self.extra != 0 && !self.extra.is_power_of_two() {
            let what = format!("{} bytes in front of each block: 0 or a power of two is allowed", self.extra);
            return Err(Error::corrupt(FORMAT, "block-extra", 380, what));
        }
        if self.blocks > MOST_BLOCKS {
            let what = format!("{} blocks, {MOST_BLOCKS} are allowed", self.blocks);
            return Err(Error::corrupt(FORMAT, "too-many-blocks", 384, what));
        }
        if self.needed() > self.blocks {
            let (size, needed) = (self.disk_size, self.needed());
            let what = format!("a disk of {size} bytes needs {needed} blocks, the map has {}", self.blocks);
            return Err(Error::corrupt(FORMAT, "too-few-blocks", 384, what));
        }
        Ok(())
    }

    fn check_places(&self) -> Result<()> {
        if self.header_end < HEADER_AT + SHORTEST_HEADER {
            let found = self.header_end.saturating_sub(HEADER_AT);
            let what = format!("a header of {found} bytes, {SHORTEST_HEADER} is the least");
            return Err(Error::corrupt(FORMAT, "header-size", HEADER_AT, what));
        }
        if !self.map_at.is_multiple_of(SECTOR) || self.map_at < self.header_end {
            let (at, end) = (self.map_at, self.header_end);
            let what =
                format!("the block map at byte {at} must start on a sector behind the header, which ends at {end}");
            return Err(Error::corrupt(FORMAT, "map-offset", 340, what));
        }
        if !self.data_at.is_multiple_of(SECTOR) || self.data_at < self.map_end() {
            let (at, end) = (self.data_at, self.map_end());
            let what = format!("the blocks at byte {at} must start on a sector behind the map, which ends at {end}");
            return Err(Error::corrupt(FORMAT, "data-offset", 344, what));
        }
        Ok(())
    }

    /// Blocks that the disk consists of.
    fn needed(&self) -> u64 {
        self.disk_size.div_ceil(self.block_size)
    }

    fn map_len(&self) -> u64 {
        self.blocks.saturating_mul(ENTRY)
    }

    fn map_end(&self) -> u64 {
        self.map_at.saturating_add(self.map_len())
    }

    /// Entries that the disk does not need have to be there all the same, as in a file, whose length is known
    /// beforehand. To be called when those that it needs have been read: a stream does not go back.
    fn check_rest(&self, source: &mut dyn Source) -> Result<()> {
        if self.needed() == self.blocks {
            return Ok(());
        }
        look_exact(source, &mut [0], self.map_end().saturating_sub(1), FORMAT, "the block map")
    }

    /// Where the bytes of the stored block `number` are. [`MOST_BLOCKS`] proves that it cannot overflow.
    fn block_at(&self, number: u64) -> u64 {
        let blocks = number.saturating_mul(self.extra.saturating_add(self.block_size));
        self.data_at.saturating_add(blocks).saturating_add(self.extra)
    }

    fn info(&self) -> ImageInfo {
        ImageInfo {
            format: FORMAT,
            virtual_size: Some(self.disk_size),
            cluster_size: Some(self.block_size),
            backing: self.parent.clone(),
            refusals: self.refusal().into_iter().collect(),
            details: vec![
                ("type", Detail::Text(self.kind.name().into())),
                ("allocated-blocks", Detail::Number(self.allocated)),
            ],
            ..ImageInfo::default()
        }
    }

    fn refusal(&self) -> Option<Refusal> {
        let parent = self.parent.as_deref().unwrap_or("not named");
        let what = |since| {
            format!(
                "the image holds only what was changed since {since} (its parent is {parent}): \
                 merge them with `VBoxManage clonemedium`"
            )
        };
        match self.kind {
            Kind::Differencing => Some(Refusal { code: "differencing", what: what("a snapshot") }),
            Kind::Undo => Some(Refusal { code: "undo", what: what("the machine was started") }),
            // QEMU goes by the link alone, VirtualBox by the type: either makes it a delta.
            _ if self.parent.is_some() => Some(Refusal { code: "parent", what: what("another state") }),
            _ => None,
        }
    }
}

fn probe(head: &[u8]) -> bool {
    match head.get(SIGNATURE_AT..).and_then(|rest| rest.first_chunk()) {
        Some(signature) => u32::from_le_bytes(*signature) == SIGNATURE,
        // Cut short before the signature: damage, not a tiny raw disk.
        None => head.starts_with(TEXT),
    }
}

fn open(source: &mut dyn Source, how: &Opening) -> Result<Box<dyn Image>> {
    let mut raw = RawHeader::new_zeroed();
    look_exact(source, raw.as_mut_bytes(), 0, FORMAT, "the header")?;
    let header = Header::parse(&raw)?;
    // A map without entries lies nowhere, whatever its offset says.
    if let Some(len) = source.len().filter(|len| header.blocks > 0 && *len < header.map_end()) {
        let got = len.saturating_sub(header.map_at);
        return Err(ends_early(FORMAT, "the block map", header.map_at, header.map_len(), got));
    }
    let seen = Blocks::new(header.blocks, how.limits)?;
    // Nothing in a VDI is packed.
    let mut walk = Walk::new(FORMAT, Codec::Deflate, header.disk_size, how);
    walk.hold(seen.memory());
    walk.expect_of_a_table(PIECE as u64);
    Ok(Box::new(Vdi { info: header.info(), map: Map { header, seen }, walk }))
}

struct Vdi {
    info: ImageInfo,
    map: Map,
    walk: Walk,
}

impl Image for Vdi {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn plan(&mut self, source: &mut dyn Source, order: Order) -> Result<()> {
        let header = &self.map.header;
        if header.needed() == 0 {
            header.check_rest(source)?;
        }
        let piece = |first: u64| Table {
            at: header.map_at.saturating_add(first.saturating_mul(ENTRY)),
            start: first.saturating_mul(header.block_size),
        };
        let pieces = (0..header.needed()).step_by(PIECE).map(piece).collect();
        self.walk.along(order);
        self.walk.plan(pieces, 0, &[(0, header.header_end), (header.map_at, header.map_len())])
    }

    fn next_extent(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        self.walk.next(source, |walk, source, piece| self.map.load(walk, source, piece))
    }
}

/// The block map, as far as it has been read.
struct Map {
    header: Header,
    seen: Blocks,
}

impl Map {
    fn load(&mut self, walk: &mut Walk, source: &mut dyn Source, piece: Table) -> Result<()> {
        let block_size = self.header.block_size;
        let left = self.header.disk_size.saturating_sub(piece.start).div_ceil(block_size);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let mut marks = vec![U32::ZERO; left.min(PIECE)];
        look_exact(source, marks.as_mut_bytes(), piece.at, FORMAT, "the block map")?;
        if left <= PIECE {
            self.header.check_rest(source)?;
        }
        for (place, mark) in (0_u64..).zip(&marks) {
            let start = piece.start.saturating_add(place.saturating_mul(block_size));
            match mark.get() {
                FREE | ZERO => walk.zero(start, block_size),
                number => {
                    let entry_at = piece.at.saturating_add(place.saturating_mul(ENTRY));
                    walk.data(self.place(number.into(), entry_at)?, start, block_size)?;
                }
            }
        }
        Ok(())
    }

    /// Checks the number that an entry of the map holds, and says where that block is.
    fn place(&mut self, number: u64, entry_at: u64) -> Result<u64> {
        if number >= self.header.blocks {
            let what = format!("the map names block {number}, there are {}", self.header.blocks);
            return Err(Error::corrupt(FORMAT, "block-range", entry_at, what));
        }
        if !self.seen.insert(number) {
            let what = format!("block {number} stands for two places of the disk, one is allowed");
            return Err(Error::corrupt(FORMAT, "duplicate-block", entry_at, what));
        }
        Ok(self.header.block_at(number))
    }
}

/// A set of block numbers, one bit each.
struct Blocks(Vec<u64>);

impl Blocks {
    /// Bits of a word.
    const WORD: u64 = 64;

    /// An empty set for numbers below `count`.
    fn new(count: u64, limits: &Limits) -> Result<Self> {
        let words = count.div_ceil(Self::WORD);
        let wanted = words.saturating_mul(8);
        let too_much = Error::Limit {
            what: "bytes to tell duplicate blocks",
            wanted,
            limit: limits.table,
            option: "--limit-table",
        };
        match usize::try_from(words) {
            Ok(words) if wanted <= limits.table => Ok(Self(vec![0; words])),
            _ => Err(too_much),
        }
    }

    fn memory(&self) -> u64 {
        size_of_val(self.0.as_slice()) as u64
    }

    /// Adds `number`. False if it was there, or has no place.
    fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = (number / Self::WORD, 1 << (number % Self::WORD));
        let Some(word) = usize::try_from(word).ok().and_then(|word| self.0.get_mut(word)) else { return false };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests;
