//! Carries images in every way a user can, and compares the disks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "test helpers, of which each test file uses some"
)]

pub mod images;
pub mod judge;

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use diskferry::sink::{FileOptions, FileSink};
use diskferry::source::Ranges;
use diskferry::{Error, Input, Options, Progress, Report, convert};
use diskferry_testkit::faults::{Choppy, OneByte};
use diskferry_testkit::oracle::{Scratch, assert_same_disk};

/// A way in which an image can come in, and its name.
type Feed = (&'static str, fn(&Path) -> Input);

pub const FEEDS: &[Feed] = &[("file", from_file), ("pipe", from_pipe), ("chunks", in_chunks), ("ranges", by_ranges)];

pub fn from_file(path: &Path) -> Input {
    Input::File(File::open(path).unwrap())
}

pub fn from_pipe(path: &Path) -> Input {
    stream(File::open(path).unwrap())
}

pub fn in_chunks(path: &Path) -> Input {
    stream(Choppy::new(File::open(path).unwrap(), 7))
}

/// A stream, and requests for what lies far ahead.
pub fn by_ranges(path: &Path) -> Input {
    let file = File::open(path).unwrap();
    let len = Some(file.metadata().unwrap().len());
    Input::Ranged { reader: Box::new(File::open(path).unwrap()), len, ranges: Box::new(OfFile(file)) }
}

struct OfFile(File);

impl Ranges for OfFile {
    fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], at + done as u64)? {
                0 => break,
                got => done += got,
            }
        }
        Ok(Some(done))
    }
}

/// One byte per read, from memory: for small images.
pub fn by_bytes(path: &Path) -> Input {
    stream(OneByte(Cursor::new(fs::read(path).unwrap())))
}

pub fn stream(reader: impl Read + Send + 'static) -> Input {
    Input::Stream { reader: Box::new(reader), len: None }
}

pub fn bytes(image: impl Into<Vec<u8>>) -> Input {
    stream(Cursor::new(image.into()))
}

/// Carries `input` to a file. Whatever happens, nothing but a finished target is left behind.
pub fn carry(input: Input, target: &Path, options: &Options) -> Result<Report, Error> {
    let sink = FileSink::create(target, FileOptions { sync: false, ..FileOptions::default() })?;
    let result = convert(input, &sink, options, &Progress::default());
    drop(sink);
    assert_eq!(target.exists(), result.is_ok(), "a target is published exactly on success: {result:?}");
    let left: Vec<_> =
        fs::read_dir(target.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".diskferry")), "left behind: {left:?}");
    result
}

/// Carries the image at `path` from a file, a pipe and in chunks; each must give the disk at `expected`.
pub fn assert_carried(path: &Path, expected: &Path, options: &Options) -> Vec<Report> {
    let scratch = Scratch::new();
    let carried = FEEDS.iter().map(|(feed, open)| {
        let target = scratch.path("disk.raw");
        let report =
            carry(open(path), &target, options).unwrap_or_else(|e| panic!("{} by {feed}: {e}", path.display()));
        assert_same_disk(&target, expected);
        fs::remove_file(target).unwrap();
        report
    });
    carried.collect()
}

/// The error of carrying `image`, the same one from a file and from a pipe.
pub fn refusal(image: &[u8], options: &Options) -> Error {
    let scratch = Scratch::new();
    let path = scratch.write("image", image);
    let target = scratch.path("disk.raw");
    let of_file = carry(from_file(&path), &target, options).expect_err("from a file");
    let of_pipe = carry(bytes(image), &target, options).expect_err("from a pipe");
    assert_eq!(of_file.code(), of_pipe.code(), "{of_file} / {of_pipe}");
    of_file
}

/// A raw disk and the path of an image that is to be made of it.
pub fn sample(scratch: &Scratch, size: u64) -> PathBuf {
    diskferry_testkit::oracle::sample_disk(scratch.dir(), size, 1)
}
