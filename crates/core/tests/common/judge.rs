//! Holds what is carried of an image against what `qemu-img convert` makes of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{carry, from_file, from_pipe};
use diskferry::{Kind, Limits, Options};
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
    ("block extra", "byte ", "qemu-img reads as data what VirtualBox puts in front of them"),
    ("capacity", "error while reading at byte", "the last packed grain ends where the extent's line says, see below"),
    ("redundant offset", "Could not read l1 backup table", "the redundant directory is a copy that nobody needs"),
    ("footer: overhead", "File truncated", "packed grains are found by their markers, wherever the first one lies"),
];

/// The code of what can be read from a file and not from a pipe.
const FILE_ONLY: &str = "vmdk-uncounted-marker";

/// What a complaint begins with that has nothing to do with qemu-img.
const OF_OURS: &str = "file and pipe";

/// Where images are judged. Files are used again, since there are many.
pub struct Judge {
    scratch: Scratch,
}

/// What became of an image that was taken as it should be.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The disk is that of qemu-img. How many blocks of 512 bytes it takes, and those of qemu-img.
    Carried { blocks: (u64, u64) },
    /// Refused, from a file and from a pipe, with this code of a file.
    Refused { code: String },
}

/// Why qemu-img made no disk of an image, or another one.
pub type Complaint = String;

impl Judge {
    pub fn new() -> Self {
        Self { scratch: Scratch::new() }
    }

    /// Carries an image that is said to be of `format`, from a file and from a pipe. Says what is wrong with how it was taken.
    pub fn judge(&self, format: &str, image: &[u8]) -> Result<Verdict, Complaint> {
        // A disk that cannot be looked at in a moment says nothing more than a smaller one.
        let limits = Limits { virtual_size: 1 << 30, ..Limits::default() };
        // Stated, since with another magic number it would be a raw disk.
        let options = Options { limits, format: Some(format.parse().unwrap()), ..Options::default() };
        let path = self.scratch.write("image", image);
        let [of_file, of_pipe] = ["file.raw", "pipe.raw"].map(|name| self.scratch.path(name));
        let outcomes = (carry(from_file(&path), &of_file, &options), carry(from_pipe(&path), &of_pipe, &options));
        let verdict = match outcomes {
            (Ok(_), Ok(_)) => same_disk(&of_file, &of_pipe)
                .map_err(|why| format!("{OF_OURS}: {why}"))
                .and_then(|()| self.as_qemu_reads(format, &of_file)),
            // From a pipe, what is found by the end of the image only may be refused.
            (Ok(_), Err(error)) if error.code() == FILE_ONLY => self.as_qemu_reads(format, &of_file),
            // Not always with the same words: a pipe meets the parts of an image in another order.
            (Err(one), Err(other)) if one.kind() == Kind::Image && other.kind() == Kind::Image => {
                Ok(Verdict::Refused { code: one.code() })
            }
            (one, other) => Err(format!("from a file {one:?}, from a pipe {other:?}")),
        };
        for target in [of_file, of_pipe] {
            let _ = fs::remove_file(target);
        }
        verdict
    }

    /// Whether qemu-img makes a disk of the image that was judged last, in less than these seconds.
    pub fn qemu_takes_it(&self, format: &str, seconds: u32) -> bool {
        self.convert(format, seconds).is_ok()
    }

    fn as_qemu_reads(&self, format: &str, ours: &Path) -> Result<Verdict, Complaint> {
        let raw = self.convert(format, 30)?;
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        same_disk(ours, &raw).map(|()| Verdict::Carried { blocks: (blocks(ours), blocks(&raw)) })
    }

    fn convert(&self, format: &str, seconds: u32) -> Result<PathBuf, Complaint> {
        let raw = self.scratch.path("qemu.raw");
        let _ = fs::remove_file(&raw);
        let output = Command::new("timeout")
            .args([&seconds.to_string(), "qemu-img", "convert", "-f", format, "-O", "raw"])
            .args([&self.scratch.path("image"), &raw])
            .output()
            .unwrap();
        assert!(output.status.code() != Some(127), "there is no qemu-img");
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(raw) } else { Err(format!("qemu-img: {said}")) }
    }
}

/// Whether there is a reason why qemu-img has that to say of an image in which `bent` was bent.
pub fn is_known(bent: &str, complaint: &str) -> bool {
    if complaint.starts_with(OF_OURS) {
        return false;
    }
    let is_listed = NOT_AS_QEMU.iter().any(|(field, said, _)| bent.contains(field) && complaint.contains(said));
    is_listed || (bent.contains("capacity") && is_rounded_up(complaint))
}

/// A capacity rounded up to the grain: the extent's line has the true size. Grains of the images that are bent have 8 KiB at most.
fn is_rounded_up(complaint: &str) -> bool {
    const GRAIN: u64 = 8 << 10;
    let sizes = complaint.split_once(" bytes, not ");
    let number = |text: &str| text.parse::<u64>().ok();
    sizes.and_then(|(ours, theirs)| number(theirs)?.checked_sub(number(ours)?)).is_some_and(|more| more < GRAIN)
}

/// QEMU's disks are whole sectors, ours are as long as the image says.
fn same_disk(ours: &Path, other: &Path) -> Result<(), Complaint> {
    const SECTOR: usize = 512;
    let (ours, other) = (fs::read(ours).unwrap(), fs::read(other).unwrap());
    let common = ours.len().min(other.len());
    if ours.len().abs_diff(other.len()) >= SECTOR {
        return Err(format!("{} bytes, not {}", ours.len(), other.len()));
    }
    if ours[..common] == other[..common] {
        return Ok(());
    }
    let at = (0..common).find(|at| ours[*at] != other[*at]).unwrap();
    Err(format!("byte {at} is {:#x}, not {:#x}", ours[at], other[at]))
}
