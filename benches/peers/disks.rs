//! The disks that everybody has to bring forth.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use diskferry_testkit::Random;

/// A file system, half full of a system's programs, libraries and texts.
pub const SYSTEM: &str = "system.raw";
/// The same with a quarter of the data: xz is slow, also to make.
pub const SMALL: &str = "small.raw";
/// A disk that is almost only holes, the largest that a file on ext4 can hold in whole terabytes with room to spare.
pub const HUGE: &str = "huge.raw";
/// Another, for peers whose time goes by the virtual size.
pub const LARGE: &str = "large.raw";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// How large the disks are, in bytes.
pub struct Sizes {
    /// Data on the system's disk.
    data: u64,
    huge: u64,
    large: u64,
    /// Pieces of data on a sparse disk.
    pieces: u64,
}

impl Sizes {
    /// With so many MiB of data.
    pub fn full(data: u64) -> Self {
        Self { data: data * MIB, huge: 8 * TIB, large: TIB, pieces: 256 }
    }

    /// As small as can be while every row still does what it does.
    pub fn smoke() -> Self {
        Self { data: 8 * MIB, huge: TIB, large: 4 * GIB, pieces: 8 }
    }
}

/// Makes those of the disks in `dir` that are `wanted`.
pub fn make_disks(dir: &Path, sizes: &Sizes, wanted: impl Fn(&str) -> bool) {
    if wanted(SYSTEM) {
        system(dir, &dir.join(SYSTEM), sizes.data);
    }
    if wanted(SMALL) {
        system(dir, &dir.join(SMALL), sizes.data / 4);
    }
    if wanted(HUGE) {
        sparse(&dir.join(HUGE), sizes.huge, sizes.pieces);
    }
    if wanted(LARGE) {
        sparse(&dir.join(LARGE), sizes.large, sizes.pieces);
    }
}

/// A disk with an ext4 file system with `data` bytes in it, and as much room.
fn system(dir: &Path, disk: &Path, data: u64) {
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    let mut taken = 0;
    for (n, path) in files().iter().enumerate() {
        if taken >= data {
            break;
        }
        if let Ok(len) = fs::copy(path, tree.join(n.to_string())) {
            taken += len;
        }
    }
    assert!(taken >= data, "this system has no {data} bytes of programs and libraries: give a smaller --size");
    File::create(disk).unwrap().set_len(data * 2 + 64 * MIB).unwrap();
    // Administration tools are not in everybody's path.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let made = Command::new("mke2fs").env("PATH", path).args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(disk).status();
    assert!(made.unwrap().success(), "mke2fs");
    fs::remove_dir_all(&tree).unwrap();
}

/// Files of this system, in an order that mixes programs, libraries and texts, the same every time.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = ["/usr/bin", "/usr/lib", "/usr/share"].map(PathBuf::from).into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort_by_cached_key(|path| {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        hasher.finish()
    });
    files
}

/// A disk of `size` bytes with `pieces` of 64 KiB spread over it.
fn sparse(disk: &Path, size: u64, pieces: u64) {
    let file = File::create(disk).unwrap();
    file.set_len(size).unwrap();
    let random = &mut Random::new(size);
    for n in 0..pieces {
        file.write_all_at(&random.text(64 << 10), (size / pieces * n).next_multiple_of(64 * KIB)).unwrap();
    }
}
