//! What shows only in the extents themselves, and every damage; equality with qemu-img is in the crate's own tests.

#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a panic fails the test")]

mod alone;
mod hostile;
mod order;
mod truncated;

use std::io::Read;
use std::ops::Range;

use diskferry_testkit::vmdk::{SECTOR, Style, Vmdk};
use flate2::read::ZlibDecoder;

use super::VMDK;
use crate::error::{Error, Result};
use crate::extent::{Body, Extent};
use crate::format::{Image, Opening, Order};
use crate::limits::Limits;
use crate::source::{Source, look_exact};

/// An image in memory, as a file or as a pipe that forgets what it has given.
struct Bytes<'a> {
    image: &'a [u8],
    seekable: bool,
    /// Holes of the image file.
    holes: Vec<Range<u64>>,
    /// Which bytes a pipe has given.
    given: Vec<bool>,
    /// Where a pipe has come to, from where on it only goes forward.
    settled: Option<u64>,
    /// Bytes given.
    read: u64,
}

impl<'a> Bytes<'a> {
    fn file(image: &'a [u8]) -> Self {
        Self { image, seekable: true, holes: Vec::new(), given: vec![false; image.len()], settled: None, read: 0 }
    }

    fn pipe(image: &'a [u8]) -> Self {
        Self { seekable: false, ..Self::file(image) }
    }

    fn both(image: &'a [u8]) -> [Self; 2] {
        [Self::file(image), Self::pipe(image)]
    }
}

impl Source for Bytes<'_> {
    fn len(&self) -> Option<u64> {
        self.seekable.then_some(self.image.len() as u64)
    }

    fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        let rest = self.image.get(at as usize..).unwrap_or_default();
        // Odd and short, so that nobody trusts a single read.
        let len = rest.len().min(buf.len()).min(4099);
        buf[..len].copy_from_slice(&rest[..len]);
        self.read += len as u64;
        if !self.seekable && len > 0 {
            let given = &mut self.given[at as usize..][..len];
            assert!(!given.contains(&true), "the pipe gave the byte at {at} before");
            given.fill(true);
            assert!(self.settled.is_none_or(|settled| at >= settled), "the pipe has passed {at}");
            self.settled = self.settled.map(|_| at + len as u64);
        }
        Ok(len)
    }

    fn settle(&mut self) {
        let furthest = self.given.iter().rposition(|given| *given).map_or(0, |last| last as u64 + 1);
        self.settled = Some(self.settled.unwrap_or(furthest));
    }

    fn seekable(&self) -> bool {
        self.seekable
    }

    fn next_data(&mut self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let mut start = range.start;
        for hole in &self.holes {
            if hole.contains(&start) {
                start = hole.end;
            }
        }
        let end = self.holes.iter().map(|hole| hole.start).find(|hole| *hole > start).unwrap_or(u64::MAX);
        Ok((start < range.end).then(|| start..end.min(range.end)))
    }
}

fn open(source: &mut dyn Source) -> Result<Box<dyn Image>> {
    (VMDK.open)(source, &Opening { limits: &Limits::default(), stated: false })
}

/// All extents with their bytes, or the code of what is wrong. Checks that they name as much as the disk has.
fn extents(source: &mut dyn Source, order: Order) -> Result<Vec<(Extent, Vec<u8>)>, String> {
    let code = |error: Error| error.code();
    let mut image = open(source).map_err(code)?;
    if let Some(refusal) = image.info().refusals.first() {
        return Err(format!("vmdk-{}", refusal.code));
    }
    image.plan(source, order).map_err(code)?;
    let size = image.info().virtual_size.unwrap();
    let mut all = Vec::new();
    let mut named = 0;
    while let Some(extent) = image.next_extent(source).map_err(code)? {
        assert!(extent.len > 0 && extent.start < size, "{extent:?}");
        let clipped = extent.len.min(size - extent.start);
        assert!(clipped == extent.len || matches!(extent.body, Body::Packed { .. }), "{extent:?} ends behind the disk");
        named += clipped;
        all.push((extent, bytes_of(source, extent).map_err(code)?));
    }
    assert_eq!(named, size, "bytes named");
    assert!(image.next_extent(source).map_err(code)?.is_none(), "the end is the end");
    Ok(all)
}

/// The bytes of an extent; those that do not unpack are missing.
fn bytes_of(source: &mut dyn Source, extent: Extent) -> Result<Vec<u8>> {
    let read = |source: &mut dyn Source, at, len: u64| {
        let mut bytes = vec![0; len as usize];
        look_exact(source, &mut bytes, at, "vmdk", "data").map(|()| bytes)
    };
    match extent.body {
        Body::Zero => Ok(Vec::new()),
        Body::Data { at } => read(source, at, extent.len),
        Body::Packed { at, len, .. } => {
            let packed = read(source, at, len.into())?;
            let mut bytes = Vec::new();
            let _ = ZlibDecoder::new(&packed[..]).take(extent.len).read_to_end(&mut bytes);
            Ok(bytes)
        }
    }
}

/// The disk of `size` bytes that the extents make. Checks that they name each byte once.
fn assemble(source: &mut dyn Source, size: usize) -> Result<Vec<u8>, String> {
    let mut disk = vec![0; size];
    let mut named = vec![false; size.div_ceil(512)];
    for (extent, bytes) in extents(source, Order::Source)? {
        let start = extent.start as usize;
        let end = size.min(start + extent.len as usize);
        for sector in &mut named[start / 512..end.div_ceil(512)] {
            assert!(!*sector, "{extent:?} is named a second time");
            *sector = true;
        }
        let bytes = &bytes[..bytes.len().min(end - start)];
        disk[start..start + bytes.len()].copy_from_slice(bytes);
    }
    Ok(disk)
}

fn code_of(source: &mut dyn Source) -> String {
    extents(source, Order::Source).map_or_else(|code| code, |_| "carried".to_owned())
}

/// A disk with grains of 4 KiB, so that it has several grain tables, and with a table that names nothing.
fn several_tables(style: Style) -> Vmdk {
    let mut spec = Vmdk { grain: 8, ..Vmdk::new(style, 2100 * 8 - 3) }.fill(3);
    spec.grains.retain(|index, _| !(512..1024).contains(index));
    spec
}

fn small(style: Style) -> Vmdk {
    Vmdk { grain: 8, ..Vmdk::new(style, 30 * 8) }.fill(5)
}
