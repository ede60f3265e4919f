//! What holds no disk: a descriptor whose extents are other files, and single extents of ESX. They open, so that one can see what
//! they are and which files they name, and are refused. None of those files is looked for.

use super::descriptor::Descriptor;
use super::tables::length;
use super::{FORMAT, SECTOR, details_of};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::{Image, ImageInfo, Refusal};
use crate::source::{Source, look_full};

/// As much of a descriptor file as qemu reads. What is longer is no descriptor, whatever its first line says.
const LONGEST_TEXT: u64 = (1 << 20) - 1;

/// An image that is only looked at.
pub(super) struct Alone {
    info: ImageInfo,
}

impl Alone {
    /// A text that is a file of its own, of which `head` has been read.
    pub(super) fn text(source: &mut dyn Source, head: &[u8]) -> Result<Self> {
        let mut text = head.to_vec();
        text.resize(length(LONGEST_TEXT), 0);
        let rest = text.get_mut(head.len()..).unwrap_or_default();
        look_full(source, rest, head.len() as u64)?;
        Ok(Self::descriptor(&text))
    }

    /// A descriptor that no grains come with.
    pub(super) fn descriptor(text: &[u8]) -> Self {
        let descriptor = Descriptor::read(text);
        Self {
            info: ImageInfo {
                format: FORMAT,
                virtual_size: descriptor.total_size(),
                backing: descriptor.parent_name().map(str::to_owned),
                refusals: descriptor.refusals_alone(),
                details: details_of(&descriptor, true),
                ..ImageInfo::default()
            },
        }
    }

    /// A COWD extent. Its header has the magic, a version, flags and the number of sectors, in 4 bytes each.
    pub(super) fn cowd(head: &[u8]) -> Self {
        let sectors = head.get(12..16).and_then(|field| field.first_chunk());
        let what = "a COWD extent of an ESX disk, which is one part of several; give one whole image";
        let refusal = Refusal { code: "cowd", what: what.to_owned() };
        Self::part(refusal, sectors.map(|sectors| u32::from_le_bytes(*sectors).into()))
    }

    /// A seSparse extent. Its header has the magic, a version and the number of sectors, in 8 bytes each.
    pub(super) fn sesparse(head: &[u8]) -> Self {
        let sectors = head.get(16..24).and_then(|field| field.first_chunk());
        let what = "a seSparse extent of an ESXi snapshot, which is one part of several; give one whole image";
        let refusal = Refusal { code: "sesparse", what: what.to_owned() };
        Self::part(refusal, sectors.map(|sectors| u64::from_le_bytes(*sectors)))
    }

    fn part(refusal: Refusal, sectors: Option<u64>) -> Self {
        Self {
            info: ImageInfo {
                format: FORMAT,
                virtual_size: sectors.and_then(|sectors| sectors.checked_mul(SECTOR)),
                refusals: vec![refusal],
                ..ImageInfo::default()
            },
        }
    }
}

impl Image for Alone {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn next_extent(&mut self, _: &mut dyn Source) -> Result<Option<Extent>> {
        // Nobody asks for the extents of what is refused.
        Err(Error::unsupported(FORMAT, "descriptor-only", "an image without extents"))
    }
}
