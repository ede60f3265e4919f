//! Raw: the disk itself, byte for byte.
//!
//! Whether a file is raw shows in what it is [not](super::foreign), and two kinds of image tell themselves only by their last 512 bytes. Of a
//! file these are read first; of a stream the end is held back until they have been looked at.

pub(super) mod reach;

use super::detect::head;
use super::{Format, Image, ImageInfo, Opening, foreign};
use crate::error::{Error, Result};
use crate::extent::{Body, Extent};
use crate::source::{PEEK, Source, look_full, peek_full};

const FORMAT: &str = "raw";

/// Raw's line in the table of formats, the last one: it takes whatever nobody else claims.
pub(super) const RAW: Format = Format { name: FORMAT, head: |_| 0, probe, open };

/// What the first bytes of a disk with something on it show: offset and value.
const MARKS: &[(usize, &[u8])] = &[
    (510, b"\x55\xaa"),          // MBR, FAT, NTFS
    (512, b"EFI PART"),          // GPT
    (4096, b"EFI PART"),         // GPT on sectors of 4 KiB
    (512, b"LABELONE"),          // LVM
    (1080, b"\x53\xef"),         // ext2, ext3, ext4
    (0, b"XFSB"),                // XFS
    (65600, b"_BHRfS_M"),        // btrfs
    (0, b"hsqs"),                // squashfs
    (1024, b"\xe2\xe1\xf5\xe0"), // EROFS
    (4086, b"SWAPSPACE2"),       // swap
    (32769, b"BEA01"),           // UDF on a hard disk
];

const SECTOR: u64 = 512;
/// Bytes of a stream that are named at once. What was just unpacked is still in the processor's cache when it is looked at.
const CHUNK: usize = 128 << 10;
const _: () = assert!(CHUNK + foreign::TAIL <= PEEK, "the end has to be seen in time");

fn probe(_: &[u8]) -> bool {
    true
}

fn open(source: &mut dyn Source, how: &Opening) -> Result<Box<dyn Image>> {
    let head = head(source, foreign::wanted)?;
    let mut info = ImageInfo { format: FORMAT, ..ImageInfo::default() };
    let reach = reach::reach(&head);
    if !how.stated && !MARKS.iter().any(|(at, mark)| head.get(*at..).is_some_and(|rest| rest.starts_with(mark))) {
        info.warnings.push("no partition table and no known file system: taken for a raw disk all the same".into());
    }
    Ok(Box::new(Raw::open(source, how, &head, info, reach)?))
}

/// An image that is its disk. `info` gets its size when it is known: for a stream at the last extent.
pub(super) struct Raw {
    pub(super) info: ImageInfo,
    stated: bool,
    /// How far it has to reach, and what says so.
    reach: Option<(u64, &'static str)>,
    rest: Rest,
}

/// What has not been named yet.
enum Rest {
    /// So many bytes: the image can be read in any order.
    Known(u64),
    /// Whatever comes from this offset on.
    Stream(u64),
    Nothing,
}

impl Raw {
    /// Opens `source`, which begins with `head`, as the image that `info` describes so far, and that should `reach` so far.
    pub(super) fn open(
        source: &mut dyn Source,
        how: &Opening,
        head: &[u8],
        mut info: ImageInfo,
        reach: Option<(u64, &'static str)>,
    ) -> Result<Self> {
        if !how.stated {
            foreign::check_head(head)?;
        }
        if head.is_empty() {
            let what = "the image is empty: has the command before a pipe failed?";
            return Err(Error::corrupt(FORMAT, "empty", 0, what));
        }
        info.virtual_size = source.len();
        let rest = source.len().filter(|_| source.seekable()).map_or(Rest::Stream(0), Rest::Known);
        let mut raw = Self { info, stated: how.stated, reach, rest };
        if let Rest::Known(len) = raw.rest {
            let mut tail = [0; foreign::TAIL];
            let got = look_full(source, &mut tail, len.saturating_sub(foreign::TAIL as u64))?;
            raw.end(len, tail.get(..got).unwrap_or_default())?;
        }
        Ok(raw)
    }

    /// Looks at the end of the image, which has `len` bytes of which `tail` are the last.
    fn end(&mut self, len: u64, tail: &[u8]) -> Result<()> {
        if !self.stated {
            foreign::check_tail(tail)?;
        }
        self.info.virtual_size = Some(len);
        if !len.is_multiple_of(SECTOR) {
            let what = format!("{len} bytes are no whole number of sectors of {SECTOR}: the image may be cut short");
            self.info.warnings.push(what);
        }
        if let Some((reach, what)) = self.reach.filter(|(reach, _)| *reach > len) {
            let what = format!("{what} reaches to byte {reach}, the disk has {len}: the image may be cut short");
            self.info.warnings.push(what);
        }
        Ok(())
    }

    /// The next part of a stream, from `at` on. The last one is named only when the end has been looked at.
    fn next_part(&mut self, source: &mut dyn Source, at: u64) -> Result<Option<Extent>> {
        let behind = at.saturating_add(CHUNK as u64);
        if peek_full(source, &mut [0; foreign::TAIL], behind)? == foreign::TAIL {
            self.rest = Rest::Stream(behind);
            return Ok(Some(part(at, CHUNK as u64)));
        }
        let mut rest = vec![0; CHUNK + foreign::TAIL];
        let got = peek_full(source, &mut rest, at)?;
        rest.truncate(got);
        let end = at.saturating_add(got as u64);
        let tail = got.saturating_sub(foreign::TAIL);
        self.end(end, rest.get(tail..).unwrap_or_default())?;
        self.rest = Rest::Nothing;
        Ok(Some(part(at, got as u64)))
    }
}

impl Image for Raw {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn pass(&mut self, named: u64) -> u64 {
        match (&mut self.rest, self.info.virtual_size) {
            (Rest::Stream(at), Some(size)) => {
                // Its end is looked at in any case.
                *at = named.min(size.saturating_sub(CHUNK as u64));
                *at
            }
            _ => 0,
        }
    }

    fn next_extent(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        match self.rest {
            Rest::Known(len) => {
                self.rest = Rest::Nothing;
                Ok(Some(part(0, len)))
            }
            Rest::Stream(at) => self.next_part(source, at),
            Rest::Nothing => Ok(None),
        }
    }
}

fn part(at: u64, len: u64) -> Extent {
    Extent { start: at, len, body: Body::Data { at } }
}

#[cfg(test)]
mod tests;
