//! What we carry is what qemu-img makes of the same image, where it takes it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::bent::bend;
use crate::same::carried_from;

/// In memory where there is a file system for that.
static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.expect("a directory")
});

/// Seconds that qemu-img may take.
const PATIENCE: &str = "20";
/// How much longer one disk may be than the other: QEMU's are whole sectors.
const SECTOR: usize = 512;
/// The same where a capacity may be rounded up to a grain, of which the extent's line has the true size: the grains of the images that are bent.
const GRAIN: usize = 8 << 10;

/// Bends an image of the format that the first byte says, and compares the disks. Without qemu-img there is nothing to compare with.
pub fn oracle(script: &[u8]) {
    let Some((which, script)) = script.split_first() else { return };
    let format = ["qcow2", "vmdk", "vdi"][usize::from(*which) % 3];
    let Some(image) = bend(script, format) else { return };
    let Ok(ours) = carried_from(&image[1..], format) else { return };
    let (path, raw) = (SCRATCH.path().join("image"), SCRATCH.path().join("raw"));
    fs::write(&path, &image[1..]).expect("room for an image");
    let _ = fs::remove_file(&raw);
    let status = Command::new("timeout")
        .args([PATIENCE, "qemu-img", "convert", "-f", format, "-O", "raw"])
        .args([&path, &raw])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("coreutils");
    assert!(status.code() != Some(127), "there is no qemu-img");
    if !status.success() {
        return;
    }
    let theirs = fs::read(&raw).expect("what qemu-img has written");
    let tolerance = if format == "vmdk" { GRAIN } else { SECTOR };
    assert!(ours.len().abs_diff(theirs.len()) < tolerance, "{} bytes, not {}", ours.len(), theirs.len());
    let differs = ours.iter().zip(&theirs).position(|(one, other)| one != other);
    assert!(differs.is_none(), "another disk than that of qemu-img, from byte {differs:?} on");
}
