//! A file on a filesystem that has no room for it.

use std::fs;

use diskferry::Kind;
use diskferry::sink::{FileOptions, FileSink, Sink};

use crate::lab::{MIB, Mount, pattern};

#[test]
fn a_full_filesystem_is_the_targets_fault_and_leaves_nothing() {
    let mount = Mount::tmpfs("1m");
    let target = mount.path.join("disk.raw");
    let sink = FileSink::create(&target, FileOptions::default()).unwrap();
    sink.prepare(Some(16 * MIB)).unwrap();
    let error = sink.write_at(&pattern(0, 2 * MIB), 0).unwrap_err();
    assert_eq!((error.kind(), error.code().as_str()), (Kind::Target, "target-no-space"));
    drop(sink);
    assert!(fs::read_dir(&mount.path).unwrap().next().is_none());
}

#[test]
fn room_that_cannot_be_reserved_is_refused_before_the_first_write() {
    let mount = Mount::tmpfs("1m");
    let options = FileOptions { preallocate: true, ..FileOptions::default() };
    let sink = FileSink::create(mount.path.join("disk.raw"), options).unwrap();
    let error = sink.prepare(Some(16 * MIB)).unwrap_err();
    assert_eq!(error.code(), "target-no-space");
    assert!(error.to_string().contains("16777216") && error.to_string().contains("1048576"), "{error}");
}

#[test]
fn room_that_the_filesystem_does_not_reserve_is_not_waited_for() {
    let mount = Mount::ramfs();
    let options = FileOptions { preallocate: true, ..FileOptions::default() };
    let sink = FileSink::create(mount.path.join("disk.raw"), options).unwrap();
    assert_eq!(sink.prepare(Some(MIB)).unwrap_err().code(), "target-cannot-preallocate");
    drop(sink);
    assert!(fs::read_dir(&mount.path).unwrap().next().is_none());
}
