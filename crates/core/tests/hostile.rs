//! Images that lie: what is carried is what qemu-img reads of the same lie, all else is refused as an image's fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{carry, from_file, from_pipe};
use diskferry::{Kind, Limits, Options};
use diskferry_testkit::hostile::{Subject, subjects};
use diskferry_testkit::oracle::Scratch;

/// Where we carry an image and qemu-img does not or makes another disk of it: what was bent, what qemu-img says, and why
/// it may.
const NOT_AS_QEMU: &[(&str, &str, &str)] = &[
    (
        "qcow2",
        "Too much extra metadata in snapshot table",
        "snapshots are not read: the active layer does not need them",
    ),
    ("qcow2", "Snapshot table offset invalid", "the same, and here there are no snapshots at all"),
    ("autoclear", "data-file-raw requires a data file", "autoclear bits may be ignored, and there is no data file"),
    ("block size", "is not 1048576", "VirtualBox takes every power of two"),
    ("capacity", "330240 bytes, not 330752", "a capacity rounded up to the grain: the extent's line has the true size"),
    ("capacity", "error while reading at byte 327680", "the same: the last packed grain ends where the line says"),
    ("redundant offset", "Could not read l1 backup table", "the redundant directory is a copy that nobody needs"),
    ("footer: overhead", "File truncated", "packed grains are found by their markers, wherever the first one lies"),
];

#[test]
fn a_bent_qcow2_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("qcow2", 800);
}

#[test]
fn a_bent_vdi_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("vdi", 300);
}

#[test]
fn a_bent_vmdk_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("vmdk", 800);
}

/// `at_least`: so that the generator cannot shrink unseen.
fn assert_all_judged(format: &str, at_least: usize) {
    let (mut seen, mut carried, mut known, mut wrong) = (0, 0, 0, Vec::new());
    for subject in subjects(format) {
        let scratch = Scratch::new();
        for variant in subject.variants() {
            // Shown when something below panics.
            println!("{}", variant.name);
            seen += 1;
            match judge(&scratch, &subject, &variant.image) {
                Ok(was_carried) => carried += usize::from(was_carried),
                Err(why) if is_known(&variant.name, &why) => known += 1,
                Err(why) => wrong.push(format!("{}: {why}", variant.name)),
            }
        }
    }
    println!(
        "{seen} bent images of {format}: {carried} carried as qemu-img does, {known} not for a reason, the rest refused"
    );
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen >= at_least, "only {seen} variants");
}

fn is_known(name: &str, complaint: &str) -> bool {
    NOT_AS_QEMU.iter().any(|(bent, said, _)| name.contains(bent) && complaint.contains(said))
}

/// Whether the image was carried; or what is wrong with how we took it.
fn judge(scratch: &Scratch, subject: &Subject, image: &[u8]) -> Result<bool, String> {
    // A disk that cannot be looked at in a moment says nothing more than a smaller one.
    let limits = Limits { virtual_size: 1 << 30, ..Limits::default() };
    // Stated, since with another magic number it would be a raw disk.
    let options = Options { limits, format: Some(subject.format.parse().unwrap()), ..Options::default() };
    let path = scratch.write("image", image);
    let (of_file, of_pipe) = (scratch.path("file.raw"), scratch.path("pipe.raw"));
    let outcomes = (carry(from_file(&path), &of_file, &options), carry(from_pipe(&path), &of_pipe, &options));
    let verdict = match outcomes {
        (Ok(_), Ok(_)) => same_disk(&of_file, &of_pipe)
            .map_err(|why| format!("file and pipe: {why}"))
            .and_then(|()| as_qemu_reads(scratch, subject.format, &path, &of_file)),
        // Not always with the same words: a pipe meets the parts of an image in another order.
        (Err(one), Err(other)) if one.kind() == Kind::Image && other.kind() == Kind::Image => Ok(false),
        (one, other) => Err(format!("from a file {one:?}, from a pipe {other:?}")),
    };
    for target in [of_file, of_pipe] {
        let _ = fs::remove_file(target);
    }
    verdict
}

fn as_qemu_reads(scratch: &Scratch, format: &str, image: &Path, ours: &Path) -> Result<bool, String> {
    let raw = scratch.path("qemu.raw");
    let output = Command::new("timeout")
        .args(["30", "qemu-img", "convert", "-f", format, "-O", "raw"])
        .args([image, &raw])
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(format!("qemu-img: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    same_disk(ours, &raw).map(|()| true)
}

/// QEMU's disks are whole sectors, ours are as long as the image says.
fn same_disk(ours: &Path, other: &Path) -> Result<(), String> {
    const SECTOR: usize = 512;
    let (ours, other) = (fs::read(ours).unwrap(), fs::read(other).unwrap());
    let common = ours.len().min(other.len());
    if ours.len().abs_diff(other.len()) >= SECTOR {
        return Err(format!("{} bytes, not {}", ours.len(), other.len()));
    }
    match (0..common).find(|at| ours[*at] != other[*at]) {
        Some(at) => Err(format!("byte {at} is {:#x}, not {:#x}", ours[at], other[at])),
        None => Ok(()),
    }
}
