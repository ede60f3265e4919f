//! A file is what it was, or complete.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use diskferry::sink::{FileOptions, FileSink, Sink};
use tempfile::tempdir;

use crate::lab::{KIB, MIB, assert_same, code, pattern, run};

const DEFAULT: FileOptions = FileOptions { sparse: true, share: true, preallocate: false, sync: true };

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes a disk of `size` bytes with 64 KiB of data at 1 MiB.
fn make(path: &Path, options: FileOptions, size: u64) {
    let sink = FileSink::create(path, options).unwrap();
    sink.prepare(Some(size)).unwrap();
    sink.zero(0, MIB).unwrap();
    sink.write_at(&pattern(MIB, 64 * KIB), MIB).unwrap();
    sink.zero(MIB + 64 * KIB, size - MIB - 64 * KIB).unwrap();
    sink.finish(size).unwrap();
}

#[test]
fn the_target_is_untouched_until_finish_and_complete_after() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("disk.raw");
    fs::write(&target, "old").unwrap();
    let sink = FileSink::create(&target, DEFAULT).unwrap();
    sink.prepare(Some(1000)).unwrap();
    sink.write_at(&pattern(0, 1000), 0).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"old");
    sink.finish(1000).unwrap();
    assert_eq!(sink.temporary(), None);
    assert_same(&fs::read(&target).unwrap(), &pattern(0, 1000));
    drop(sink);
    assert_eq!(names(dir.path()), ["disk.raw"]);
}

#[test]
fn a_sink_has_one_disk() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("disk.raw");
    let sink = FileSink::create(&target, DEFAULT).unwrap();
    sink.prepare(Some(1000)).unwrap();
    sink.write_at(&pattern(0, 1000), 0).unwrap();
    assert_eq!(code(sink.prepare(Some(1000))), "target-used");
    sink.finish(1000).unwrap();
    assert_eq!(code(sink.prepare(Some(MIB))), "target-used");
    assert_same(&fs::read(&target).unwrap(), &pattern(0, 1000));
}

#[test]
fn a_sink_dropped_early_leaves_nothing() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("disk.raw");
    let sink = FileSink::create(&target, DEFAULT).unwrap();
    sink.prepare(Some(MIB)).unwrap();
    sink.write_at(&pattern(0, 1000), 0).unwrap();
    let [temporary] = &names(dir.path())[..] else { panic!("one file expected") };
    assert!(temporary.starts_with(".disk.raw.") && temporary.ends_with(".diskferry"), "{temporary}");
    assert_eq!(sink.temporary(), Some(dir.path().canonicalize().unwrap().join(temporary)));
    assert_eq!(mode(&dir.path().join(temporary)), 0o600);
    drop(sink);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn what_somebody_has_put_in_the_disks_place_is_not_published_and_stays() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("disk.raw");
    let sink = FileSink::create(&target, DEFAULT).unwrap();
    let temporary = sink.temporary().unwrap();
    fs::remove_file(&temporary).unwrap();
    fs::write(&temporary, "another disk").unwrap();
    assert_eq!(code(sink.finish(1000)), "target-write");
    drop(sink);
    assert!(!target.exists());
    assert_eq!(fs::read(temporary).unwrap(), b"another disk");
}

#[test]
fn permissions_are_those_of_the_replaced_file_or_of_any_new_one() {
    let dir = tempdir().unwrap();
    let (replaced, new, ordinary) = (dir.path().join("replaced"), dir.path().join("new"), dir.path().join("ordinary"));
    fs::write(&replaced, "").unwrap();
    fs::set_permissions(&replaced, Permissions::from_mode(0o641)).unwrap();
    File::create(&ordinary).unwrap();
    for target in [&replaced, &new] {
        make(target, DEFAULT, 2 * MIB);
    }
    assert_eq!(mode(&replaced), 0o641);
    assert_eq!(mode(&new), mode(&ordinary));
}

#[test]
fn a_link_stays_and_its_file_is_replaced() {
    let (dir, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
    let (link, file) = (dir.path().join("link"), elsewhere.path().join("file"));
    fs::write(&file, "old").unwrap();
    symlink(&file, &link).unwrap();
    make(&link, DEFAULT, 2 * MIB);
    assert_eq!(fs::read_link(&link).unwrap(), file);
    assert_eq!(fs::metadata(&file).unwrap().len(), 2 * MIB);
    assert_eq!((names(dir.path()), names(elsewhere.path())), (vec!["link".to_owned()], vec!["file".to_owned()]));
}

#[test]
fn what_is_no_file_is_refused_and_left_alone() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    run("mkfifo", &[path("fifo").to_str().unwrap()]).unwrap();
    symlink(path("nowhere"), path("dangling")).unwrap();
    symlink(path("loop"), path("loop")).unwrap();
    for (name, expected) in [
        ("directory", "target-not-a-file"),
        ("fifo", "target-not-a-file"),
        ("dangling", "target-not-a-file"),
        ("loop", "target-cannot-create"),
        ("missing/disk.raw", "target-cannot-create"),
        ("directory/..", "target-not-a-file"),
    ] {
        assert_eq!(code(FileSink::create(path(name), DEFAULT)), expected, "{name}");
    }
    assert_eq!(code(FileSink::create("/dev/null", DEFAULT)), "target-not-a-file");
    assert_eq!(names(dir.path()), ["dangling", "directory", "fifo", "loop"]);
}

#[test]
fn the_longest_name_works() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("n".repeat(255));
    make(&target, DEFAULT, 2 * MIB);
    assert_eq!(fs::metadata(target).unwrap().len(), 2 * MIB);
}

#[test]
fn an_odd_size_is_kept_whether_known_early_or_late() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("disk.raw");
    for early in [Some(5 * MIB + 123), None] {
        let sink = FileSink::create(&target, DEFAULT).unwrap();
        sink.prepare(early).unwrap();
        sink.write_at(&pattern(MIB, 77), MIB).unwrap();
        sink.finish(5 * MIB + 123).unwrap();
        let mut expected = vec![0; 5 * 1024 * 1024 + 123];
        expected[1 << 20..][..77].copy_from_slice(&pattern(MIB, 77));
        assert_same(&fs::read(&target).unwrap(), &expected);
    }
}

#[test]
fn zeroes_are_holes_reserved_or_written_as_asked() {
    let dir = tempdir().unwrap();
    let stored = |name: &str, options| {
        let target = dir.path().join(name);
        make(&target, options, 16 * MIB);
        let mut expected = vec![0; 16 << 20];
        expected[1 << 20..][..64 << 10].copy_from_slice(&pattern(MIB, 64 * KIB));
        assert_same(&fs::read(&target).unwrap(), &expected);
        fs::metadata(&target).unwrap().blocks() * 512
    };
    let near = |found: u64, wanted: u64| (wanted..=wanted + 64 * KIB).contains(&found);
    assert!(near(stored("sparse", DEFAULT), 64 * KIB));
    assert!(near(stored("reserved", FileOptions { preallocate: true, ..DEFAULT }), 16 * MIB));
    assert!(near(stored("written", FileOptions { sparse: false, ..DEFAULT }), 16 * MIB));
    assert!(near(stored("both", FileOptions { sparse: false, preallocate: true, ..DEFAULT }), 16 * MIB));
}

#[test]
fn a_disk_that_no_file_can_hold_is_refused_before_the_first_write() {
    let dir = tempdir().unwrap();
    for size in [u64::MAX, i64::MAX as u64] {
        let sink = FileSink::create(dir.path().join("disk.raw"), DEFAULT).unwrap();
        assert_eq!(code(sink.prepare(Some(size))), "target-too-large");
    }
}
