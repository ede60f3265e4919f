//! Real images through every format and wrapping and back: what people boot is carried as it is.
//!
//! Needs the rescue images of grub-rescue-pc, and xorriso, sfdisk, mke2fs and e2fsck.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use common::{carry, from_file, from_pipe};
use diskferry::Options;
use diskferry_testkit::oracle::{Scratch, assert_same_disk, qemu_img};
use diskferry_testkit::wrap;

const MIB: u64 = 1 << 20;
const RESCUE: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";
const FLOPPY: &str = "/usr/lib/grub-rescue/grub-rescue-floppy.img";

/// Names, and qemu-img's arguments.
const FORMATS: &[(&str, &[&str])] = &[
    ("raw", &["-O", "raw"]),
    ("qcow2", &["-O", "qcow2"]),
    ("qcow2", &["-O", "qcow2", "-c"]),
    ("qcow2", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
    ("vmdk", &["-O", "vmdk", "-o", "subformat=monolithicSparse"]),
    ("vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    ("vdi", &["-O", "vdi"]),
];

type Wrap = fn(&[u8]) -> Vec<u8>;

/// What is reported, outermost first, and what makes it.
const WRAPPINGS: &[(&[&str], Wrap)] = &[
    (&[], |image| image.to_vec()),
    (&["gzip"], wrap::gzip),
    (&["xz"], |image| wrap::xz(image, &["-0"])),
    (&["zstd"], |image| wrap::zstd(image, &["-1"])),
    (&["bzip2"], wrap::bzip2),
    (&["gzip", "xz"], |image| wrap::gzip(&wrap::xz(image, &["-0"]))),
];

#[test]
fn a_rescue_disc_comes_back() {
    assert_comes_back(Path::new(RESCUE), "iso");
}

#[test]
fn a_rescue_floppy_comes_back() {
    assert_comes_back(Path::new(FLOPPY), "iso");
}

#[test]
fn a_disc_that_is_a_disk_too_comes_back() {
    let scratch = Scratch::new();
    let (iso, boot, mbr) = (scratch.path("hybrid.iso"), scratch.path("tree/boot.img"), scratch.path("mbr"));
    fs::create_dir(scratch.path("tree")).unwrap();
    fs::copy(FLOPPY, &boot).unwrap();
    fs::write(&mbr, &fs::read(RESCUE).unwrap()[..432]).unwrap();
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-J", "-b", "boot.img", "-no-emul-boot", "--grub2-mbr"]).arg(mbr);
    xorriso.args(["-partition_offset", "16", "-append_partition", "2", "0xef"]).args([&boot, Path::new("-o")]);
    run(xorriso.args([&iso, &scratch.path("tree")]));
    assert_eq!(fs::read(&iso).unwrap()[510..512], [0x55, 0xaa], "it has a partition table");
    assert_comes_back(&iso, "iso");
}

#[test]
fn a_linux_disk_comes_back_with_its_partitions_and_a_clean_filesystem() {
    let scratch = Scratch::new();
    let disk = linux_disk(&scratch);
    for (_scratch, target) in assert_comes_back(&disk, "raw") {
        assert_eq!(partition_table(&target), partition_table(&disk));
        assert_clean_filesystem(&target);
    }
}

/// Carries `disk` in every format and wrapping, from a file and from a pipe; gives the last disk of each format.
fn assert_comes_back(disk: &Path, own_format: &str) -> Vec<(Scratch, PathBuf)> {
    let carried = |(format, arguments): &(&str, &[&str])| {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        let paths = [disk, &image].map(|path| path.to_str().unwrap());
        qemu_img(&[&["convert", "-f", "raw"], *arguments, &paths].concat());
        let format = if *format == "raw" { own_format } else { format };
        let target = assert_carried_in_every_wrapping(&scratch, &image, format, disk);
        (scratch, target)
    };
    // Packing takes most of the time.
    thread::scope(|scope| {
        let threads: Vec<_> = FORMATS.iter().map(|row| scope.spawn(move || carried(row))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn assert_carried_in_every_wrapping(scratch: &Scratch, image: &Path, format: &str, disk: &Path) -> PathBuf {
    let (plain, target) = (fs::read(image).unwrap(), scratch.path("disk.raw"));
    for (wrappings, wrap) in WRAPPINGS {
        let packed = scratch.write("packed", &wrap(&plain));
        for input in [from_file(&packed), from_pipe(&packed)] {
            let _ = fs::remove_file(&target);
            let report = carry(input, &target, &Options::default())
                .unwrap_or_else(|error| panic!("{} as {format} in {wrappings:?}: {error}", disk.display()));
            assert_same_disk(&target, disk);
            assert_eq!((report.inspection.image.format, &report.inspection.wrappings[..]), (format, *wrappings));
        }
    }
    target
}

/// Start of the filesystem and its length, in the middle of the disk.
const PARTITION: (u64, u64) = (2 * MIB, 60 * MIB);

/// A GPT with a BIOS boot partition and one that holds a tree of this system's files.
fn linux_disk(scratch: &Scratch) -> PathBuf {
    let disk = scratch.path("linux.raw");
    File::create(&disk).unwrap().set_len(64 * MIB).unwrap();
    let (start, len) = (PARTITION.0 / MIB, PARTITION.1 / MIB);
    let table = format!(
        "label: gpt\nstart=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649\nstart={start}MiB, size={len}MiB, type=linux\n"
    );
    wrap::filter("sfdisk", &["-q", disk.to_str().unwrap()], table.as_bytes());
    let (offset, kibibytes) = (format!("offset={}", PARTITION.0), format!("{}k", PARTITION.1 / 1024));
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-E", &offset, "-d", tree(scratch).to_str().unwrap()]);
    run(mke2fs.arg(&disk).arg(kibibytes));
    disk
}

/// Files as a small Linux has them: texts, tables, programs, links.
fn tree(scratch: &Scratch) -> PathBuf {
    let tree = scratch.path("root");
    fs::create_dir(&tree).unwrap();
    for part in ["usr/share/common-licenses", "usr/share/zoneinfo", "usr/bin/bash", "usr/bin/ls"] {
        run(Command::new("cp").current_dir("/").args(["-a", "--parents", part]).arg(&tree));
    }
    tree
}

fn partition_table(disk: &Path) -> String {
    run(Command::new("sfdisk").arg("--verify").arg(disk));
    let table = run(Command::new("sfdisk").arg("--json").arg(disk));
    // It calls partitions by the name of the file.
    table.replace(disk.to_str().unwrap(), "disk")
}

fn assert_clean_filesystem(disk: &Path) {
    let at = format!("{}?offset={}", disk.display(), PARTITION.0);
    run(Command::new("e2fsck").args(["-f", "-n", &at]));
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
