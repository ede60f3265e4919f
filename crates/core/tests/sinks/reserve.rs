//! Blocks are reserved right before they are written where that pays, and no others.

use std::fs;
use std::os::unix::fs::MetadataExt;

use diskferry::Kind;
use diskferry::sink::{FileOptions, FileSink, Sink};

use crate::lab::{KIB, MIB, Mount, assert_same, pattern, run, zeroes};

const FILESYSTEM: u64 = 16 * MIB;

/// A disk with much in one piece, and little in another. Returns what `filefrag` has to say when both are written and neither is synced.
fn make(mount: &Mount, options: FileOptions) -> String {
    let target = mount.path.join("disk.raw");
    let sink = FileSink::create(&target, options).unwrap();
    sink.prepare(Some(4 * MIB)).unwrap();
    sink.write_at(&pattern(MIB, 512 * KIB), MIB).unwrap();
    sink.write_at(&pattern(2 * MIB, 64 * KIB), 2 * MIB).unwrap();
    let map = run("filefrag", &["-v", sink.temporary().unwrap().to_str().unwrap()]).unwrap();
    sink.finish(4 * MIB).unwrap();
    let disk = [zeroes(MIB), pattern(MIB, 512 * KIB), zeroes(512 * KIB), pattern(2 * MIB, 64 * KIB)].concat();
    let rest = zeroes(2 * MIB - 64 * KIB);
    assert_same(&fs::read(&target).unwrap(), &[disk, rest].concat());
    map
}

fn stored(mount: &Mount) -> u64 {
    fs::metadata(mount.path.join("disk.raw")).unwrap().blocks() * 512
}

#[test]
fn ext4_has_its_blocks_before_it_has_the_bytes() {
    let mount = Mount::made_by(&["mkfs.ext4", "-q", "-b", "4096"], FILESYSTEM);
    let target = mount.path.join("disk.raw");
    // Now and then somebody else has everything synced in between: then it is tried again.
    let is_seen = |state: &str, options, is_new: bool| {
        (0..5).any(|_| {
            if is_new {
                fs::remove_file(&target).unwrap_or_default();
            }
            let map = make(&mount, options);
            assert_eq!(stored(&mount), 576 * KIB);
            map.lines().any(|line| line.contains(" 256..") && line.contains(state))
        })
    };
    let unsynced = FileOptions { sync: false, ..FileOptions::default() };
    assert!(is_seen("unwritten", unsynced, true), "it is new");
    assert!(is_seen("unwritten", FileOptions::default(), false), "it is synced");
    assert!(is_seen("delalloc", unsynced, false), "ext4 has to see to it that it takes the place of the other");
}

#[test]
fn a_disk_whose_size_shows_at_its_end_has_no_more_blocks_than_bytes() {
    let mount = Mount::made_by(&["mkfs.ext4", "-q", "-b", "4096"], FILESYSTEM);
    let target = mount.path.join("disk.raw");
    let sink = FileSink::create(&target, FileOptions::default()).unwrap();
    sink.prepare(None).unwrap();
    let (first, last) = (pattern(0, 256 * KIB), pattern(256 * KIB, 128 * KIB + 512));
    sink.write_at(&first, 0).unwrap();
    sink.write_at(&last, 256 * KIB).unwrap();
    sink.finish(384 * KIB + 512).unwrap();
    assert_same(&fs::read(&target).unwrap(), &[first, last].concat());
    assert_eq!(stored(&mount), 388 * KIB);
}

#[test]
fn a_filesystem_without_unwritten_blocks_is_written_to_all_the_same() {
    let mount = Mount::made_by(&["mkfs.ext3", "-q", "-b", "4096"], FILESYSTEM);
    assert!(!make(&mount, FileOptions::default()).contains("unwritten"));
    // And a block of addresses.
    assert_eq!(stored(&mount), 576 * KIB + 4 * KIB);
}

#[test]
fn a_full_filesystem_is_told_by_the_writing() {
    let mount = Mount::made_by(&["mkfs.ext4", "-q", "-b", "4096"], FILESYSTEM);
    let sink = FileSink::create(mount.path.join("disk.raw"), FileOptions::default()).unwrap();
    sink.prepare(Some(64 * MIB)).unwrap();
    let error = (0..64).find_map(|at| sink.write_at(&pattern(at * MIB, MIB), at * MIB).err()).unwrap();
    assert_eq!((error.kind(), error.code().as_str()), (Kind::Target, "target-no-space"));
}
