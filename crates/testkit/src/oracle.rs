//! `qemu-img` as the judge of what an image means, and disks to judge with.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::random::Random;

/// A directory that goes away with the test.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new empty directory.
    #[expect(clippy::new_without_default, reason = "making a directory is no default")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where the directory is.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in it, whether it exists or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Runs `qemu-img`, which must succeed, and returns what it printed.
pub fn qemu_img<S: AsRef<OsStr>>(args: &[S]) -> String {
    run(Command::new("qemu-img").args(args))
}

/// Runs commands of `qemu-io`, as in `write -P 7 0 64k`, on the image at `path`. They must succeed.
pub fn qemu_io(path: &Path, format: &str, commands: &[&str]) -> String {
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.args(["-f", format, "--discard=unmap"]);
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    let output = run(qemu_io.arg(path));
    // qemu-io leaves with 0 when a write has failed.
    assert!(!output.contains("failed"), "qemu-io {commands:?}: {output}");
    output
}

/// What `qemu-img` makes of the image at `path`.
pub fn raw_of(path: &Path, format: &str) -> Vec<u8> {
    let scratch = Scratch::new();
    let raw = scratch.path("raw");
    raw_file_of(path, format, &raw);
    fs::read(raw).unwrap()
}

/// Writes what `qemu-img` makes of the image at `path` to the file `raw`.
pub fn raw_file_of(path: &Path, format: &str, raw: &Path) {
    let args: [&OsStr; 7] = [
        "convert".as_ref(),
        "-f".as_ref(),
        format.as_ref(),
        "-O".as_ref(),
        "raw".as_ref(),
        path.as_ref(),
        raw.as_ref(),
    ];
    qemu_img(&args);
}

/// Makes a raw sparse disk of `size` bytes in `dir`: text, noise, islands of odd length, zeroes that are allocated, and
/// holes, more of them the larger it is. The same size and seed give the same bytes.
pub fn sample_disk(dir: &Path, size: u64, seed: u64) -> PathBuf {
    const KIB: u64 = 1024;
    const RUNS: u64 = 48;
    let path = dir.join(format!("sample-{size}-{seed}.raw"));
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    let random = &mut Random::new(seed);
    // Bounded, so that a disk of terabytes is still made at once.
    let longest = (size / RUNS).clamp(4 * KIB, 512 * KIB);
    let mut at = 0;
    while at < size {
        let len = (1 + random.below(longest)).min(size - at);
        let run = match random.below(6) {
            0 | 1 => Some(random.text(len as usize)),
            2 => Some(random.bytes(len as usize)),
            3 => Some(vec![0; len as usize]),
            4 => Some(island(random)),
            _ => None,
        };
        if let Some(run) = run {
            let run = &run[..run.len().min((size - at) as usize)];
            file.write_all_at(run, at).unwrap();
        }
        at += len + random.below(1 + size / RUNS);
        // Half of the runs start on a page, as those of file systems do.
        at = if random.below(2) == 0 { at.next_multiple_of(4 * KIB) } else { at };
    }
    // The last byte of a disk is where sizes go wrong.
    if size > 0 {
        file.write_all_at(&[0xA5], size - 1).unwrap();
    }
    path
}

/// Zeroes that are written, then a little data: neither starts nor ends where a block does.
fn island(random: &mut Random) -> Vec<u8> {
    let len = 1 + random.below(9000) as usize;
    [vec![0; 100], random.bytes(len)].concat()
}

/// Panics unless two raw disks have the same size and the same bytes; says where they differ first. Holes are not read.
pub fn assert_same_disk(found: &Path, expected: &Path) {
    const STEP: u64 = 1 << 20;
    let (a, b) = (File::open(found).unwrap(), File::open(expected).unwrap());
    let size = a.metadata().unwrap().len();
    assert_eq!(size, b.metadata().unwrap().len(), "{} and {} differ in size", found.display(), expected.display());
    let mut at = 0;
    while let Some(data) = next_data(&a, at, size).into_iter().chain(next_data(&b, at, size)).min_by_key(|r| r.start) {
        let end = data.end.min(data.start + STEP);
        let len = (end - data.start) as usize;
        let (left, right) = (read_at(&a, data.start, len), read_at(&b, data.start, len));
        // Comparing all of them is quick, looking for one that differs is not.
        if left != right
            && let Some(first) = left.iter().zip(&right).position(|(left, right)| left != right)
        {
            let (path, at) = (found.display(), data.start + first as u64);
            panic!(
                "{path} differs from {} at byte {at}: {:#x}, not {:#x}",
                expected.display(),
                left[first],
                right[first]
            );
        }
        at = end;
    }
}

fn next_data(file: &File, at: u64, size: u64) -> Option<Range<u64>> {
    if at >= size {
        return None;
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return None,
        found => found.unwrap(),
    };
    Some(start..seek(file, SeekFrom::Hole(start)).unwrap().min(size))
}

fn read_at(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error: io::Error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_disk_and_another_does_not() {
        let scratch = Scratch::new();
        let [first, second] = ["a", "b"].map(|name| scratch.path(name));
        for dir in [&first, &second] {
            fs::create_dir(dir).unwrap();
        }
        let size = (3 << 20) + 4097;
        assert_same_disk(&sample_disk(&first, size, 1), &sample_disk(&second, size, 1));
        assert_ne!(fs::read(sample_disk(&first, size, 1)).unwrap(), fs::read(sample_disk(&first, size, 2)).unwrap());
    }

    #[test]
    fn a_sample_disk_has_holes_and_is_quick_to_make_at_any_size() {
        let scratch = Scratch::new();
        let disk = sample_disk(scratch.dir(), 1 << 40, 1);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&disk).unwrap());
        assert!(blocks > 0 && blocks * 512 < 64 << 20, "{blocks}");
        assert_same_disk(&disk, &disk);
    }

    #[test]
    #[should_panic(expected = "at byte 2000000: 0x7, not 0x0")]
    fn the_first_difference_is_named() {
        let scratch = Scratch::new();
        let [one, other] = ["one", "other"].map(|name| {
            let path = scratch.path(name);
            File::create(&path).unwrap().set_len(5_000_000).unwrap();
            path
        });
        fs::File::options().write(true).open(&one).unwrap().write_all_at(&[7], 2_000_000).unwrap();
        assert_same_disk(&one, &other);
    }
}
