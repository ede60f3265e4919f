//! A disk larger than allowed is refused before the target is touched.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{FEEDS, sample};
use diskferry::sink::Sink;
use diskferry::{Input, Limits, Options, Result, convert, inspect, inspect_full};
use diskferry_testkit::oracle::{Scratch, qemu_img};

const MIB: u64 = 1 << 20;

/// A target that must not be touched.
struct Untouchable;

impl Sink for Untouchable {
    fn prepare(&self, _: Option<u64>) -> Result<()> {
        panic!("the target was prepared")
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        panic!("the target was written")
    }

    fn zero(&self, _: u64, _: u64) -> Result<()> {
        panic!("the target was zeroed")
    }

    fn finish(&self, _: u64) -> Result<()> {
        panic!("the target was finished")
    }
}

#[test]
fn every_format_is_held_against_the_limit_before_the_target_is_touched() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, 4 * MIB);
    let options = Options { limits: Limits { virtual_size: 4 * MIB - 1, ..Limits::default() }, ..Options::default() };
    for (format, more) in [
        ("qcow2", "compat=1.1"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", "static=off"),
    ] {
        let image = scratch.path("image");
        let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", format, "-o", more, from, to]);
        for (feed, open) in FEEDS {
            let refused =
                |input: Input| convert(input, &Untouchable, &options, &diskferry::Progress::default()).unwrap_err();
            assert_eq!(refused(open(&image)).code(), "max-size", "{format} by {feed}");
            assert_eq!(inspect(open(&image), &options).unwrap_err().code(), "max-size", "{format} by {feed}");
        }
    }
    let of_file = convert(common::from_file(&raw), &Untouchable, &options, &diskferry::Progress::default());
    assert_eq!(of_file.unwrap_err().code(), "max-size", "raw");
}

/// Which of the two is told must not hang on how many bytes are unpacked at once. A part of 128 KiB is carried when there is something behind it.
#[test]
fn the_limit_is_told_and_not_the_damage_far_behind_it() {
    const BLOCK: usize = 128 << 10;
    let header = |kind: u32, len: usize| (u32::try_from(len).unwrap() << 3 | kind << 1).to_le_bytes()[..3].to_vec();
    // A frame by RFC 8878: so many blocks of one byte repeated, and one of a kind that there is not.
    let damaged_behind = |blocks: usize| {
        let repeated = [header(1, BLOCK), b"x".to_vec()].concat();
        [b"\x28\xb5\x2f\xfd\0\x58".to_vec(), repeated.repeat(blocks), header(3, 1)].concat()
    };
    let scratch = Scratch::new();
    let format = "raw.zstd".parse().ok();
    for (blocks, code) in [(31, "zstd-data"), (33, "zstd-data"), (34, "max-size"), (40, "max-size")] {
        let image = scratch.write("image", &damaged_behind(blocks));
        for (feed, open) in FEEDS {
            for threads in [1, 2] {
                let limits = Limits { virtual_size: 4 * MIB, ..Limits::default() };
                let options = Options { format: format.clone(), limits, threads, ..Options::default() };
                let refused = inspect_full(open(&image), &options, &diskferry::Progress::default()).unwrap_err();
                assert_eq!(refused.code(), code, "{blocks} blocks by {feed}, {threads} threads");
            }
        }
    }
}
