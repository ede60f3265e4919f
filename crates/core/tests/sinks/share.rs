//! Blocks are shared where the filesystem can, and only there.

use std::fs::{self, File};
use std::path::Path;

use diskferry::sink::{FileOptions, FileSink, Sink};
use tempfile::tempdir;

use crate::lab::{KIB, MIB, Mount, assert_same, pattern, run};

const XFS: [&str; 4] = ["mkfs.xfs", "-q", "-m", "reflink=1"];
const XFS_WITHOUT: [&str; 4] = ["mkfs.xfs", "-q", "-m", "reflink=0"];
const BTRFS: [&str; 2] = ["mkfs.btrfs", "-q"];

/// The smallest size that both `mkfs` take.
const FILESYSTEM: u64 = 400 * MIB;
const DISK: u64 = 8 * MIB;

/// An image in `dir`: a header of 64 KiB, then the disk.
fn image(dir: &Path) -> File {
    let path = dir.join("image");
    fs::write(&path, [vec![1; 64 << 10], pattern(0, DISK)].concat()).unwrap();
    let image = File::open(path).unwrap();
    image.sync_all().unwrap();
    image
}

/// What was taken of the whole disk, or of an extent that begins and ends within blocks.
fn copy(image: &File, target: &Path, options: FileOptions) -> u64 {
    let sink = FileSink::create(target, options).unwrap();
    sink.prepare(Some(DISK)).unwrap();
    let taken = sink.copy_from(image, 64 * KIB, 0, DISK - 100).unwrap();
    sink.write_at(&pattern(taken, DISK - taken), taken).unwrap();
    sink.finish(DISK).unwrap();
    assert_same(&fs::read(target).unwrap(), &pattern(0, DISK));
    taken
}

fn shares_blocks(mkfs: &[&str]) {
    let mount = Mount::made_by(mkfs, FILESYSTEM);
    let image = image(&mount.path);
    let target = mount.path.join("disk.raw");
    assert_eq!(copy(&image, &target, FileOptions::default()), DISK - 4 * KIB);
    let map = run("filefrag", &["-v", target.to_str().unwrap()]).unwrap();
    assert!(map.contains("shared"), "{map}");

    let usual = FileOptions::default();
    for own in [
        FileOptions { preallocate: true, ..usual },
        FileOptions { sparse: false, ..usual },
        FileOptions { share: false, ..usual },
    ] {
        assert_eq!(copy(&image, &mount.path.join("own"), own), 0, "{own:?}: blocks of its own were asked for");
    }
    let sink = FileSink::create(&target, FileOptions::default()).unwrap();
    assert_eq!(sink.copy_from(&image, 64 * KIB + 512, 0, MIB).unwrap(), 0, "not aligned in the image");
    assert_eq!(sink.copy_from(&image, 64 * KIB, 512, MIB).unwrap(), 0, "not aligned on the disk");
    assert_eq!(sink.copy_from(&image, 64 * KIB, 0, 4095).unwrap(), 0, "less than a block");
    assert_eq!(sink.copy_from(&image, 8 * MIB, 0, MIB).unwrap(), 64 * KIB, "no more than there is");
}

fn takes_nothing(image: &File, dir: &Path) {
    assert_eq!(copy(image, &dir.join("disk.raw"), FileOptions::default()), 0);
}

#[test]
fn xfs_shares_blocks() {
    shares_blocks(&XFS);
}

#[test]
fn btrfs_shares_blocks() {
    shares_blocks(&BTRFS);
}

#[test]
fn xfs_without_reflink_is_left_to_the_engine() {
    let mount = Mount::made_by(&XFS_WITHOUT, FILESYSTEM);
    takes_nothing(&image(&mount.path), &mount.path);
}

#[test]
fn another_filesystem_is_left_to_the_engine() {
    let (here, there) = (tempdir().unwrap(), Mount::made_by(&XFS, FILESYSTEM));
    takes_nothing(&image(here.path()), &there.path);
    takes_nothing(&image(&there.path), here.path());
}
