//! ISO 9660 and UDF: a CD-ROM or DVD, its file system carried byte for byte like a [raw](super::raw) disk.
//!
//! Both are told by the volume descriptors in sectors of 2 KiB from 32 KiB on (ECMA-119 clause 8, ECMA-167 part 2). A
//! partition table in front of them makes a hybrid, which boots from a stick too: it stays a CD-ROM's image.

use zerocopy::byteorder::big_endian;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::detect::{HEAD, head};
use super::raw::{Raw, reach};
use super::{Detail, Format, Image, ImageInfo, Opening};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::source::{Source, ends_early};

const FORMAT: &str = "iso";

/// ISO's line in the table of formats.
pub(super) const ISO: Format = Format { name: FORMAT, head: wanted, probe, open };

const SECTOR: usize = 2048;
const DESCRIPTORS_AT: usize = 16 * SECTOR;
/// Descriptors that are looked at. Real volumes have three to seven.
const DESCRIPTORS: usize = 16;
const _: () = assert!(DESCRIPTORS_AT + DESCRIPTORS * SECTOR <= HEAD, "they are seen");
/// A UDF volume on a medium with sectors of 2 KiB has an anchor here. On a hard disk it lies elsewhere.
const ANCHOR_AT: usize = 256 * SECTOR;
const ANCHOR_TAG: [u8; 2] = 2u16.to_le_bytes();
const ANCHOR_END: usize = ANCHOR_AT + ANCHOR_TAG.len();
/// What some tools leave out of the padding at the end of a volume that they have counted.
const PADDING: u64 = 150 * SECTOR as u64;

/// The primary volume descriptor, as far as it is read.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Primary {
    kind: u8,
    id: [u8; 5],
    version: u8,
    unused: u8,
    system: [u8; 32],
    label: [u8; 32],
    unused_too: [u8; 8],
    blocks: U32,
    blocks_again: big_endian::U32,
    escapes: [u8; 32],
    set_size: [u8; 4],
    sequence: [u8; 4],
    block_size: U16,
}
const _: () = assert!(size_of::<Primary>() == 130);

impl Primary {
    /// Bytes that the volume takes; 0 where the descriptor contradicts itself.
    fn volume_size(&self) -> u64 {
        let agreed = self.blocks.get() == self.blocks_again.get();
        if agreed { u64::from(self.blocks).saturating_mul(self.block_size.into()) } else { 0 }
    }

    fn label(&self) -> String {
        String::from_utf8_lossy(&self.label).trim_end_matches([' ', '\0']).to_owned()
    }
}

/// The anchor lies far behind what tells everything else: it is worth a look only where the descriptors speak of UDF.
fn wanted(head: &[u8]) -> usize {
    if names_udf(head) { ANCHOR_END } else { HEAD }
}

fn probe(head: &[u8]) -> bool {
    primary(head).is_some() || has_udf(head)
}

fn open(source: &mut dyn Source, how: &Opening) -> Result<Box<dyn Image>> {
    let head = head(source, wanted)?;
    if !probe(&head) {
        let what = "there is no volume descriptor of ISO 9660 or UDF: state another format, or none";
        return Err(Error::corrupt(FORMAT, "not-this-format", DESCRIPTORS_AT as u64, what));
    }
    let primary = primary(&head);
    let volume_size = primary.map_or(0, Primary::volume_size);
    let info = ImageInfo { format: FORMAT, cdrom: true, details: details(&head, primary), ..ImageInfo::default() };
    let table_ends = reach::partitions(&head);
    let mut iso = Iso { raw: Raw::open(source, how, &head, info, None)?, volume_size, table_ends };
    iso.check_length()?;
    Ok(Box::new(iso))
}

fn details(head: &[u8], primary: Option<&Primary>) -> Vec<(&'static str, Detail)> {
    let mut details = vec![
        ("iso9660", Detail::Flag(primary.is_some())),
        ("udf", Detail::Flag(has_udf(head))),
        ("hybrid", Detail::Flag(at(head, 510).starts_with(b"\x55\xaa") || at(head, 512).starts_with(b"EFI PART"))),
    ];
    if let Some(primary) = primary {
        details.push(("volume-label", Detail::Text(primary.label())));
        details.push(("volume-size", Detail::Number(primary.volume_size())));
    }
    details
}

fn descriptors(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    at(head, DESCRIPTORS_AT).chunks(SECTOR).take(DESCRIPTORS)
}

fn primary(head: &[u8]) -> Option<&Primary> {
    let volumes = descriptors(head).filter_map(|sector| Primary::ref_from_prefix(sector).ok());
    volumes.map(|(volume, _)| volume).find(|volume| (volume.kind, &volume.id) == (1, b"CD001"))
}

fn names_udf(head: &[u8]) -> bool {
    descriptors(head).any(|sector| matches!(sector.get(1..6), Some(b"NSR02" | b"NSR03")))
}

fn has_udf(head: &[u8]) -> bool {
    names_udf(head) && at(head, ANCHOR_AT).starts_with(&ANCHOR_TAG)
}

fn at(head: &[u8], at: usize) -> &[u8] {
    head.get(at..).unwrap_or_default()
}

struct Iso {
    raw: Raw,
    volume_size: u64,
    /// How far its table of partitions reaches, if it has one.
    table_ends: Option<u64>,
}

impl Iso {
    /// Compares the length of the image, once it is known, with that of its volume.
    fn check_length(&mut self) -> Result<()> {
        let Some(len) = self.raw.info.virtual_size else { return Ok(()) };
        let missing = self.volume_size.saturating_sub(len);
        // A disk that has been partitioned may have kept what lies behind the table.
        if missing > PADDING && self.table_ends.is_none_or(|end| end > len) {
            return Err(ends_early(FORMAT, "the volume", 0, self.volume_size, len));
        }
        if missing > 0 {
            let what = format!("the last {missing} of the volume's {} bytes are missing", self.volume_size);
            self.raw.info.warnings.push(what);
        }
        Ok(())
    }
}

impl Image for Iso {
    fn info(&self) -> &ImageInfo {
        self.raw.info()
    }

    fn pass(&mut self, named: u64) -> u64 {
        self.raw.pass(named)
    }

    fn next_extent(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        let was_known = self.raw.info.virtual_size.is_some();
        let extent = self.raw.next_extent(source)?;
        if !was_known {
            self.check_length()?;
        }
        Ok(extent)
    }
}

#[cfg(test)]
mod tests;
