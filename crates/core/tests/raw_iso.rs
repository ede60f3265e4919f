//! Raw disks, ISO images, and what is only taken for a disk, from a file and from a pipe.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::{assert_carried, by_bytes, carry, from_file, from_pipe, refusal, sample};
use diskferry::{Limits, Options};
use diskferry_testkit::oracle::{Scratch, qemu_img};
use diskferry_testkit::{Random, wrap};

const MIB: u64 = 1 << 20;

fn stated(format: &str) -> Options {
    Options { format: Some(format.parse().unwrap()), ..Options::default() }
}

#[test]
fn raw_disks_keep_their_size() {
    let scratch = Scratch::new();
    for size in [1, 511, 512, 513, MIB - 1, MIB + 512, 3 * MIB + 511, 9 * MIB] {
        let disk = sample(&scratch, size);
        for report in assert_carried(&disk, &disk, &stated("raw")) {
            assert_eq!(report.inspection.unpacked_size, Some(size));
        }
    }
}

#[test]
fn a_file_that_says_that_it_is_empty_is_read_all_the_same() {
    let (scratch, made_up) = (Scratch::new(), Path::new("/proc/version"));
    let target = scratch.path("disk.raw");
    assert_eq!(fs::metadata(made_up).unwrap().len(), 0);
    carry(from_file(made_up), &target, &stated("raw")).unwrap();
    assert!(fs::read(made_up).unwrap() == fs::read(target).unwrap());
}

#[test]
fn a_raw_disk_may_come_one_byte_at_a_time() {
    let scratch = Scratch::new();
    let (disk, target) = (sample(&scratch, MIB + 700), scratch.path("disk.raw"));
    carry(by_bytes(&disk), &target, &Options::default()).unwrap();
    assert!(fs::read(&disk).unwrap() == fs::read(target).unwrap());
}

#[test]
fn a_stream_that_runs_past_the_limit_is_refused() {
    let options = Options { limits: Limits { virtual_size: MIB, ..Limits::default() }, ..Options::default() };
    assert_eq!(refusal(&Random::new(1).bytes(2 << 20), &options).code(), "max-size");
}

#[test]
fn discs_are_carried_whole_and_called_discs() {
    let scratch = Scratch::new();
    let (tree, iso) = (scratch.path("tree"), scratch.path("cd.iso"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("noise"), Random::new(1).bytes(1_500_000)).unwrap();
    let status = Command::new("genisoimage").args(["-quiet", "-udf", "-o"]).args([&iso, &tree]).status().unwrap();
    assert!(status.success());
    for report in assert_carried(&iso, &iso, &Options::default()) {
        assert_eq!((report.inspection.image.format, report.inspection.image.cdrom), ("iso", true));
    }
    let whole = fs::read(&iso).unwrap();
    assert_eq!(refusal(&whole[..1_000_000], &Options::default()).code(), "iso-ends-early");
}

#[test]
fn what_qemu_img_makes_and_nobody_carries_is_refused_by_name_unless_stated() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, 2 * MIB);
    for (format, options, code) in [
        ("vpc", "subformat=fixed,force_size=on", "vhd-not-carried"),
        ("vpc", "subformat=dynamic", "vhd-not-carried"),
        ("vhdx", "block_size=1M", "vhdx-not-carried"),
        ("qed", "cluster_size=64k", "qed-not-carried"),
        ("qcow", "encryption=off", "qcow1-not-carried"),
        ("parallels", "cluster_size=1M", "parallels-not-carried"),
    ] {
        let image = scratch.path("image");
        let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", format, "-o", options, from, to]);
        let bytes = fs::read(&image).unwrap();
        assert_eq!(refusal(&bytes, &Options::default()).code(), code, "{format} {options}");
        assert_carried(&image, &image, &stated("raw"));
    }
}

#[test]
fn a_page_or_an_archive_is_no_disk_even_when_it_is_packed() {
    let page = b"<!DOCTYPE html>\n<title>404</title>\n";
    assert_eq!(refusal(page, &Options::default()).code(), "html-not-carried");
    assert_eq!(refusal(&wrap::gzip(page), &Options::default()).code(), "html-not-carried");
    let archive = [b"PK\x03\x04".to_vec(), Random::new(1).bytes(5000)].concat();
    assert_eq!(refusal(&archive, &Options::default()).code(), "zip-not-carried");
}

#[test]
fn what_xz_packs_with_lzma_is_refused_by_name() {
    let bytes = Random::new(1).bytes(5000);
    for preset in 0..=9 {
        let packed = wrap::filter("xz", &["--format=lzma", &format!("-{preset}"), "-c"], &bytes);
        assert_eq!(refusal(&packed, &Options::default()).code(), "lzma-not-carried", "-{preset}");
    }
}

/// Nobody says where a disk in a pipe ends but what is on it.
#[test]
fn a_disk_that_ends_before_what_is_on_it_is_suspected_to_be_cut_short() {
    let scratch = Scratch::new();
    let made = |name: &str, tool: &str, args: &[&str], stdin: &str| {
        let disk = scratch.path(name);
        // XFS takes 300 MiB at least.
        File::create(&disk).unwrap().set_len(320 << 20).unwrap();
        wrap::filter(tool, &[args, &[disk.to_str().unwrap()]].concat(), stdin.as_bytes());
        disk
    };
    let table = |label: &str| format!("label: {label}\nstart=1MiB, size=8MiB, bootable\nstart=300MiB\n");
    for disk in [
        made("gpt", "sfdisk", &["-q"], &table("gpt").replace(", bootable", "")),
        made("mbr", "sfdisk", &["-q"], &table("dos")),
        made("ext4", "mke2fs", &["-q", "-t", "ext4"], ""),
        made("ext2", "mke2fs", &["-q", "-t", "ext2", "-b", "1024"], ""),
        made("xfs", "mkfs.xfs", &["-q"], ""),
    ] {
        let file = File::options().write(true).open(&disk).unwrap();
        for (len, warnings) in [(320 << 20, 0), ((320 << 20) - 512, 1), (305 << 20, 1), (340 << 20, 0)] {
            file.set_len(len).unwrap();
            for report in assert_carried(&disk, &disk, &Options::default()) {
                let found = report.inspection.image.warnings;
                assert_eq!(found.len(), warnings, "{}, {len}: {found:?}", disk.display());
                assert!(found.iter().all(|what| what.contains("may be cut short")), "{found:?}");
            }
        }
    }
}

#[test]
fn stated_wrappings_come_off_in_the_order_of_file_names() {
    let scratch = Scratch::new();
    let disk = Random::new(1).bytes(10_000);
    let image = scratch.write("disk.raw.gz", &wrap::gzip(&disk));
    let carried = |how: &str, name: &str| {
        let target = scratch.path(name);
        carry(from_pipe(Path::new(&image)), &target, &stated(how)).map(|_| fs::read(target).unwrap())
    };
    assert!(carried("raw.gz", "unpacked").unwrap() == disk);
    assert!(carried("raw", "packed").unwrap() == fs::read(&image).unwrap());
    assert!(carried("raw.gz.xz", "wrong").is_err());
}
