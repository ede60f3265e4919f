//! Faults at every place: a source that dies or ends at any byte, and a sink that fails at any call, in every format and wrapping. There is
//! an error of the right kind and nothing published. Every day most bytes are left out; `DISKFERRY_FAULTS=full` leaves out none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;
// The fuzzers' own.
#[path = "../../../fuzz/src/disk.rs"]
mod disk;

use std::env;
use std::fs::{self, File};
use std::io::{self, Cursor};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{carry, stream};
use disk::Disk;
use diskferry::sink::{FileOptions, FileSink, Sink};
use diskferry::{Error, Input, Kind, Options, Progress, Result, convert};
use diskferry_testkit::Random;
use diskferry_testkit::faults::Dying;
use diskferry_testkit::oracle::Scratch;
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::vdi::{Block, Vdi};
use diskferry_testkit::vmdk::{Style, Vmdk};
use diskferry_testkit::wrap;

/// An image, the disk in it, and whether a cut shows.
struct Image {
    name: String,
    bytes: Vec<u8>,
    disk: Vec<u8>,
    /// A raw disk is whole at any length.
    shows_cuts: bool,
}

/// One small image of each format.
fn plain() -> Vec<Image> {
    let new = |name: &str, bytes, disk| Image { name: name.into(), bytes, disk, shows_cuts: name != "raw" };
    let qcow2 = Qcow2 { cluster_bits: 9, ..Qcow2::new(8 << 10) }.fill(4);
    let styles =
        [("vmdk", Style::Sparse), ("vmdk of qemu", Style::StreamQemu), ("vmdk with a tail", Style::StreamTail)];
    let vmdks = styles.map(|(name, style)| {
        let vmdk = Vmdk { grain: 8, ..Vmdk::new(style, 64) }.fill(5);
        new(name, vmdk.build().image, vmdk.disk())
    });
    let data = [Random::new(6).text(9000), vec![0; 5000], Random::new(7).bytes(3000)].concat();
    let vdi = Vdi { blocks: vec![Block::Free, Block::Data(data.clone())], ..Vdi::qemu(2 << 20) };
    let mut raw = data[..8 << 10].to_vec();
    raw[510..512].copy_from_slice(b"\x55\xaa");
    let others = [
        new("qcow2", qcow2.build().image, qcow2.disk()),
        new("vdi", vdi.build().image, vdi.disk()),
        new("raw", raw.clone(), raw),
    ];
    others.into_iter().chain(vmdks).collect()
}

/// The same in every wrapping.
fn wrapped() -> Vec<Image> {
    type Wrapping = (&'static str, fn(&[u8]) -> Vec<u8>);
    const WRAPPINGS: [Wrapping; 4] = [
        ("gz", wrap::gzip),
        ("xz", |bytes| wrap::xz(bytes, &["-1"])),
        ("zst", |bytes| wrap::zstd(bytes, &["-1"])),
        ("bz2", wrap::bzip2),
    ];
    let each = |plain: Image| {
        WRAPPINGS.map(|(name, pack)| Image {
            name: format!("{}.{name}", plain.name),
            bytes: pack(&plain.bytes),
            disk: plain.disk.clone(),
            shows_cuts: true,
        })
    };
    plain().into_iter().flat_map(each).collect()
}

/// The places that are tried of `len`: both ends, and of what is between some.
fn places(len: usize) -> impl Iterator<Item = usize> {
    const ENDS: usize = 40;
    const MOST: usize = 100;
    let is_full = env::var("DISKFERRY_FAULTS").is_ok_and(|wanted| wanted == "full");
    // Of a VDI, whose smallest block is a MiB, not even a long run can afford all.
    let step = if is_full { 1 + len / 20_000 } else { 1 + len / MOST };
    (0..=len).filter(move |&at| at < ENDS || len - at < ENDS || at % step == 0)
}

/// One thread: it is the place that matters.
fn options() -> Options {
    Options { threads: 1, ..Options::default() }
}

/// Carries `input`. A disk is finished exactly on success, and then it is the right one. The format is stated: of a few bytes nobody
/// can tell what they were to become.
fn outcome(image: &Image, input: Input, how: &str) -> Result<()> {
    let disk = Disk::new(image.disk.len() as u64);
    let (format, wrapping) = image.name.split_once('.').unwrap_or((&image.name, ""));
    let format = format.split(' ').next().unwrap();
    let stated = if wrapping.is_empty() { format.to_owned() } else { format!("{format}.{wrapping}") };
    let options = Options { format: Some(stated.parse().unwrap()), ..options() };
    let outcome = convert(input, &disk, &options, &Progress::default());
    let found = disk.finished();
    assert_eq!(found.is_some(), outcome.is_ok(), "{} {how}", image.name);
    outcome.map(|_| assert!(found.as_ref() == Some(&image.disk), "{} {how}: another disk", image.name))
}

#[test]
fn a_source_that_dies_at_any_byte_is_the_sources_error() {
    let mut runs = 0;
    for image in plain().into_iter().chain(wrapped()) {
        for at in places(image.bytes.len()) {
            let error = if at % 2 == 0 { io::ErrorKind::ConnectionReset } else { io::ErrorKind::UnexpectedEof };
            let source = Dying { inner: Cursor::new(image.bytes.clone()), after: at as u64, error };
            let found = outcome(&image, stream(source), &format!("dies at {at}")).err().map(|error| error.kind());
            assert_eq!(found, Some(Kind::Source), "{} dies at {at}", image.name);
            runs += 1;
        }
    }
    println!("{runs} runs");
}

#[test]
fn a_source_that_ends_at_any_byte_is_a_damaged_image() {
    let mut runs = 0;
    for image in plain().into_iter().chain(wrapped()).filter(|image| image.shows_cuts) {
        let (scratch, is_wrapped) = (Scratch::new(), image.name.contains('.'));
        let path = scratch.write("image", &image.bytes);
        let file = File::options().write(true).open(&path).unwrap();
        let mut cuts: Vec<_> = places(image.bytes.len() - 1).collect();
        // From the end on: the file only gets shorter.
        cuts.reverse();
        for cut in cuts {
            file.set_len(cut as u64).unwrap();
            let inputs = [stream(Cursor::new(image.bytes[..cut].to_vec())), Input::File(File::open(&path).unwrap())];
            for input in inputs {
                match outcome(&image, input, &format!("cut at {cut}")) {
                    Err(error) => assert_eq!(error.kind(), Kind::Image, "{} cut at {cut}: {error}", image.name),
                    // Behind the last byte that has a meaning, formats may have padding.
                    Ok(()) => assert!(!is_wrapped, "{} cut at {cut} was carried", image.name),
                }
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}

/// A sink of which one call fails.
struct Failing<'a> {
    sink: &'a FileSink,
    calls: AtomicU64,
    fails: u64,
}

impl Failing<'_> {
    fn call(&self) -> Result<()> {
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.fails {
            return Err(Error::writing("writing the disk", None, io::Error::from(io::ErrorKind::StorageFull)));
        }
        Ok(())
    }
}

impl Sink for Failing<'_> {
    fn prepare(&self, size: Option<u64>) -> Result<()> {
        self.call().and_then(|()| self.sink.prepare(size))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.call().and_then(|()| self.sink.write_at(data, offset))
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.call().and_then(|()| self.sink.zero(offset, len))
    }

    fn copy_from(&self, file: &File, at: u64, offset: u64, len: u64) -> Result<u64> {
        self.call().and_then(|()| self.sink.copy_from(file, at, offset, len))
    }

    fn finish(&self, size: u64) -> Result<()> {
        self.call().and_then(|()| self.sink.finish(size))
    }
}

#[test]
fn a_sink_that_fails_at_any_call_leaves_the_target_as_it_was() {
    let (scratch, mut runs) = (Scratch::new(), 0);
    let how = FileOptions { sync: false, ..FileOptions::default() };
    for image in plain().into_iter().chain(wrapped()) {
        let path = scratch.write("image", &image.bytes);
        for threads in [1, 3] {
            for fails in 0.. {
                let target = scratch.write("disk.raw", b"what it was");
                let sink = FileSink::create(&target, how).unwrap();
                let failing = Failing { sink: &sink, calls: AtomicU64::new(0), fails };
                let input = if fails % 2 == 0 { common::from_file(&path) } else { common::from_pipe(&path) };
                let outcome =
                    convert(input, &failing, &Options { threads, ..Options::default() }, &Progress::default());
                let is_through = failing.calls.into_inner() <= fails;
                drop(sink);
                runs += 1;
                let mut names: Vec<_> =
                    fs::read_dir(scratch.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                assert_eq!(names, ["disk.raw", "image"], "{} fails at {fails}", image.name);
                if is_through {
                    outcome.unwrap();
                    assert!(fs::read(&target).unwrap() == image.disk, "{}", image.name);
                    break;
                }
                assert_eq!(outcome.unwrap_err().code(), "target-no-space", "{} fails at {fails}", image.name);
                assert_eq!(fs::read(&target).unwrap(), b"what it was", "{} fails at {fails}", image.name);
            }
        }
    }
    println!("{runs} runs");
}

#[test]
fn nothing_is_left_of_a_source_that_dies_in_the_middle() {
    let scratch = Scratch::new();
    for image in plain().into_iter().chain(wrapped()) {
        let after = image.bytes.len() as u64 / 2;
        let source = Dying { inner: Cursor::new(image.bytes), after, error: io::ErrorKind::ConnectionReset };
        assert_eq!(carry(stream(source), &scratch.path("disk.raw"), &options()).unwrap_err().kind(), Kind::Source);
    }
}
