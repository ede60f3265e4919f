//! Wrappings as the tools write them come off; what the tools refuse, we refuse.
//!
//! Besides the four tools of the formats this needs pigz, bgzip (tabix), pbzip2, lbzip2 and pzstd (zstd).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use diskferry::layer::{Layer, Unwrapping, by_name, peel};
use diskferry::{Error, Limits};

/// Command lines that pack what they are given, and the wrapping that this makes.
const WRITERS: &[(&str, &str)] = &[
    ("gzip -1", "gzip"),
    ("gzip -9", "gzip"),
    ("pigz -p 2", "gzip"),
    ("pigz -p 2 -i -b 128", "gzip"),
    ("bgzip", "gzip"),
    ("xz -0", "xz"),
    ("xz -9", "xz"),
    ("xz -1 -T 2 --block-size=256KiB", "xz"),
    ("xz -1 --block-size=100KiB", "xz"),
    ("xz -1 --check=none", "xz"),
    ("xz -1 --check=crc32", "xz"),
    ("xz -1 --check=crc64", "xz"),
    ("xz -1 --check=sha256", "xz"),
    ("xz --x86 --lzma2=preset=1", "xz"),
    ("xz --arm64 --lzma2=preset=1", "xz"),
    ("xz --delta=dist=4 --lzma2=preset=1", "xz"),
    ("xz --lzma2=preset=1,dict=128MiB", "xz"),
    ("zstd -1", "zstd"),
    ("zstd -19 --no-check", "zstd"),
    ("zstd -T2 --long=27", "zstd"),
    ("zstd --ultra -22", "zstd"),
    ("zstd --fast=5", "zstd"),
    ("pzstd -p 2", "zstd"),
    ("bzip2 -1", "bzip2"),
    ("bzip2 -9", "bzip2"),
    ("pbzip2 -c -p2 -b1", "bzip2"),
    ("lbzip2 -n 2 -1", "bzip2"),
];

/// What each wrapping's own tool reads it with.
const READERS: &[(&str, &str)] =
    &[("gzip", "gzip -dc"), ("xz", "xz -dc"), ("zstd", "zstd -dc"), ("bzip2", "bzip2 -dc")];

#[test]
fn what_every_tool_writes_comes_off() {
    let disk = sample(1 << 20);
    for (writer, layer) in WRITERS {
        let packed = made_by(writer, &disk);
        for threads in [1, 4] {
            let (unpacked, names) = unpack(packed.clone(), threads).unwrap_or_else(|error| panic!("{writer}: {error}"));
            assert_eq!(names, [*layer], "{writer}");
            assert!(unpacked == disk, "{writer}, {threads} threads");
        }
    }
}

#[test]
fn an_empty_disk_comes_off() {
    for (writer, layer) in WRITERS.iter().filter(|(writer, _)| !writer.starts_with("pzstd")) {
        let (unpacked, names) = unpack(made_by(writer, b""), 1).unwrap_or_else(|error| panic!("{writer}: {error}"));
        assert_eq!((unpacked.len(), names.as_slice()), (0, &[*layer][..]), "{writer}");
    }
}

#[test]
fn parts_by_different_tools_come_off_as_one() {
    let disk = sample(300 << 10);
    for (layer, _) in READERS {
        let writers = WRITERS.iter().filter(|(_, made)| made == layer);
        let parts: Vec<_> = writers.map(|(writer, _)| made_by(writer, &disk)).collect();
        let (unpacked, _) = unpack(parts.concat(), 2).unwrap_or_else(|error| panic!("{layer}: {error}"));
        assert!(unpacked == disk.repeat(parts.len()), "{layer}");
    }
}

#[test]
fn a_file_that_lacks_its_last_byte_or_has_one_too_many_is_refused() {
    let disk = sample(300 << 10);
    for (writer, layer) in WRITERS {
        let packed = made_by(writer, &disk);
        for threads in [1, 4] {
            let error = unpack(packed[..packed.len() - 1].to_vec(), threads).unwrap_err();
            assert_eq!(error.code(), format!("{layer}-ends-early"), "{writer}");
            let error = unpack([&packed[..], b"x"].concat(), threads).unwrap_err();
            assert_eq!(error.code(), format!("{layer}-trailing-garbage"), "{writer}");
        }
    }
}

#[test]
fn a_window_that_the_tool_wants_confirmed_is_refused() {
    let error = unpack(made_by("zstd -1 --long=28", &sample(1000)), 1).unwrap_err();
    assert_eq!(error.code(), "limit-window", "{error}");
}

#[test]
fn two_wrappings_come_off_and_the_third_is_refused() {
    let two = made_by("xz -0", &made_by("gzip -1", b"disk"));
    assert_eq!(unpack(two.clone(), 1).unwrap(), (b"disk".to_vec(), vec!["xz", "gzip"]));
    assert_eq!(unpack(made_by("zstd -1", &two), 1).unwrap_err().code(), "limit-layers");
}

#[test]
fn what_the_tool_refuses_is_refused_and_nothing_else_comes_out() {
    const FLIPS: usize = 50;
    let disk = sample(20_000);
    let mut random = Random(11);
    for (layer, reader) in READERS {
        let packed = made_by(WRITERS.iter().find(|(_, made)| made == layer).unwrap().0, &disk);
        for _ in 0..FLIPS {
            let (at, bit) = (random.below(packed.len()), random.below(8));
            let mut bent = packed.clone();
            bent[at] ^= 1 << bit;
            let (accepted, theirs) = run(reader, &bent);
            // Bytes that bear no wrapping any more are a raw disk, if nothing was stated.
            match unpack_stated(bent, layer) {
                Ok(ours) => assert!(accepted && ours == theirs, "{layer}: bit {bit} of byte {at}"),
                Err(error) => assert!(!accepted, "{layer}: bit {bit} of byte {at}: {error}"),
            }
        }
    }
}

fn unpack(packed: Vec<u8>, threads: usize) -> diskferry::Result<(Vec<u8>, Vec<&'static str>)> {
    peel_to_end(packed, None, threads)
}

fn unpack_stated(packed: Vec<u8>, layer: &str) -> diskferry::Result<Vec<u8>> {
    Ok(peel_to_end(packed, Some(&[by_name(layer).unwrap()]), 1)?.0)
}

fn peel_to_end(
    packed: Vec<u8>,
    stated: Option<&[&Layer]>,
    threads: usize,
) -> diskferry::Result<(Vec<u8>, Vec<&'static str>)> {
    let limits = Limits::default();
    let how = Unwrapping::new(&limits, threads);
    let (mut reader, names) = peel(Box::new(io::Cursor::new(packed)), stated, &how)?;
    let mut unpacked = Vec::new();
    match reader.read_to_end(&mut unpacked) {
        Ok(_) => Ok((unpacked, names)),
        Err(error) => Err(Error::reading(unpacked.len() as u64, error)),
    }
}

fn made_by(writer: &str, data: &[u8]) -> Vec<u8> {
    let (accepted, packed) = run(writer, data);
    assert!(accepted, "{writer} failed");
    packed
}

/// Runs a filter, and gives whether it was content and what it wrote.
fn run(command: &str, input: &[u8]) -> (bool, Vec<u8>) {
    let mut words = command.split(' ');
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{command}: {error}; is it installed?"));
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A tool that refuses its input does not read it to the end.
        scope.spawn(move || stdin.write_all(input).ok());
        let output = child.wait_with_output().unwrap();
        (output.status.success(), output.stdout)
    })
}

/// Bytes of which some pack well and some do not at all.
fn sample(len: usize) -> Vec<u8> {
    let mut random = Random(7);
    (0..len).map(|i| if i / 1000 % 2 == 0 { i.to_le_bytes()[1] } else { random.byte() }).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % end
    }

    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_be_bytes()[0]
    }
}
