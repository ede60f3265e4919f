//! Sources and an engine in miniature, for the tests of formats.

use super::{Format, Image, Opening, Order};
use crate::error::Result;
use crate::extent::Body;
use crate::limits::Limits;
use crate::source::{PEEK, Source, look_exact};

/// An image in memory, read like a file or, more strictly than any real stream, like a pipe.
pub(super) struct Bytes {
    bytes: Vec<u8>,
    pipe: bool,
    /// The most bytes that one read gives.
    longest: usize,
    /// Where the pipe has come to.
    frontier: u64,
    /// The end of what has been asked for.
    looked_at: u64,
}

impl Bytes {
    pub(super) fn file(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), pipe: false, longest: usize::MAX, frontier: 0, looked_at: 0 }
    }

    pub(super) fn pipe(bytes: impl Into<Vec<u8>>, longest: usize) -> Self {
        Self { bytes: bytes.into(), pipe: true, longest, frontier: 0, looked_at: 0 }
    }

    /// Where the last byte lies that was asked for, and one more.
    pub(super) fn looked_at(&self) -> u64 {
        self.looked_at
    }

    fn copy(&mut self, buf: &mut [u8], at: u64) -> usize {
        self.looked_at = self.looked_at.max(at + buf.len() as u64);
        let rest = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        let len = buf.len().min(rest.len()).min(self.longest);
        buf[..len].copy_from_slice(&rest[..len]);
        len
    }
}

impl Source for Bytes {
    fn len(&self) -> Option<u64> {
        (!self.pipe).then_some(self.bytes.len() as u64)
    }

    fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        assert!(!self.pipe || at >= self.frontier, "byte {at} is gone, the pipe is at {}", self.frontier);
        let got = self.copy(buf, at);
        self.frontier = at + got as u64;
        Ok(got)
    }

    fn peek_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        assert!(!self.pipe || at + buf.len() as u64 <= self.frontier + PEEK as u64, "byte {at} is too far ahead");
        Ok(self.copy(buf, at))
    }

    fn seekable(&self) -> bool {
        !self.pipe
    }
}

/// The image as a file, and as pipes that give it in pieces of several lengths.
pub(super) fn every_way(image: &[u8]) -> Vec<Bytes> {
    let pipes = [1 << 20, 4096, 777].map(|longest| Bytes::pipe(image, longest));
    [Bytes::file(image)].into_iter().chain(pipes).collect()
}

pub(super) fn opening(limits: &Limits) -> Opening<'_> {
    Opening { limits, stated: false }
}

pub(super) fn open(format: &Format, source: &mut Bytes) -> Result<Box<dyn Image>> {
    (format.open)(source, &opening(&Limits::default()))
}

/// Opens the image and reads its disk, each byte of which must be named once.
pub(super) fn carry(format: &Format, source: &mut Bytes) -> Result<Vec<u8>> {
    let image = open(format, source)?;
    carry_opened(image, source)
}

pub(super) fn carry_opened(mut image: Box<dyn Image>, source: &mut Bytes) -> Result<Vec<u8>> {
    image.plan(source, Order::Source)?;
    let mut disk = Vec::new();
    let mut named = 0;
    while let Some(extent) = image.next_extent(source)? {
        named += extent.len;
        let end = usize::try_from(extent.start + extent.len).unwrap();
        if disk.len() < end {
            disk.resize(end, 0);
        }
        match extent.body {
            Body::Data { at } => {
                let target = &mut disk[usize::try_from(extent.start).unwrap()..end];
                look_exact(source, target, at, format_of(image.as_ref()), "the data")?;
            }
            Body::Zero => {}
            Body::Packed { .. } => panic!("nothing here is packed"),
        }
    }
    assert_eq!((image.info().virtual_size, named), (Some(disk.len() as u64), disk.len() as u64));
    Ok(disk)
}

fn format_of(image: &dyn Image) -> &'static str {
    image.info().format
}

/// The code of the error in `result`.
pub(super) fn code<T>(result: Result<T>) -> String {
    result.map_or_else(|error| error.code(), |_| "no error".into())
}
