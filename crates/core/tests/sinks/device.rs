//! A device is refused, plainly unfinished, or exactly the disk.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::symlink;
use std::path::Path;

use diskferry::Kind;
use diskferry::sink::{DeviceOptions, DeviceSink, Sink};

use crate::lab::{KIB, Loop, MIB, Mount, OLD, assert_same, code, pattern, run, zeroes};

const SYNC: DeviceOptions = DeviceOptions { sync: true };

/// The device as any later reader finds it: not through this process's descriptors, nor from a cache.
fn contents(device: &Loop) -> Vec<u8> {
    run("blockdev", &["--flushbufs", device.path.to_str().unwrap()]).unwrap();
    fs::read(&device.path).unwrap()
}

fn read(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    let mut buf = vec![0; len];
    file.read_exact(&mut buf).unwrap();
    buf
}

/// Data and zero ranges that meet within units, pages and sectors, from several threads, at the disk's odd end too.
fn write_mosaic(sink: &DeviceSink, size: u64) -> Vec<u8> {
    let steps = [700, 4096, 65_536, 512, 200_000, 3, 1_048_576, 10_000];
    let mut tiles = Vec::new();
    let mut at = 0;
    for (i, step) in steps.iter().cycle().enumerate() {
        let len = step.min(&(size - at)).to_owned();
        tiles.push((at, len, i % 2 == 0 || i % 7 == 0));
        at += len;
        if at == size {
            break;
        }
    }
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let tiles = &tiles;
            scope.spawn(move || {
                for &(at, len, data) in tiles.iter().skip(worker).step_by(4) {
                    if data { sink.write_at(&pattern(at, len), at) } else { sink.zero(at, len) }.unwrap();
                }
            });
        }
    });
    tiles.iter().flat_map(|&(at, len, data)| if data { pattern(at, len) } else { zeroes(len) }).collect()
}

#[test]
fn every_byte_of_the_disk_is_the_disks_and_none_behind_it_changes() {
    let devices = [
        ("small sectors", Loop::full_of_old_bytes(40 * MIB, &["--sector-size", "512"])),
        ("large sectors", Loop::full_of_old_bytes(40 * MIB, &["--sector-size", "4096"])),
        ("no holes", Loop::full_of_old_bytes_on(Mount::ramfs(), 40 * MIB)),
    ];
    for (which, device) in devices {
        let size = 33 * MIB + 1234;
        let sink = DeviceSink::open(&device.path, SYNC).unwrap();
        sink.prepare(Some(size)).unwrap();
        let disk = write_mosaic(&sink, size);
        sink.finish(size).unwrap();
        drop(sink);
        let found = contents(&device);
        let (written, behind) = found.split_at(disk.len());
        assert_same(written, &disk);
        assert!(behind.iter().all(|&byte| byte == OLD), "{which}");
    }
}

#[test]
fn the_first_mib_reads_as_zero_until_the_rest_is_done() {
    let device = Loop::full_of_old_bytes(8 * MIB, &[]);
    let sink = DeviceSink::open(&device.path, SYNC).unwrap();
    sink.prepare(Some(8 * MIB)).unwrap();
    assert_same(&read(&device.image, 0, 1 << 20), &zeroes(MIB));
    sink.write_at(&pattern(0, 3 * MIB), 0).unwrap();
    sink.zero(3 * MIB, 5 * MIB).unwrap();
    assert_same(&read(&device.path, 0, 1 << 20), &zeroes(MIB));
    assert_same(&read(&device.path, MIB, 2 << 20), &pattern(MIB, 2 * MIB));
    assert_eq!(code(sink.prepare(Some(8 * MIB))), "target-used");
    sink.finish(8 * MIB).unwrap();
    assert_same(&read(&device.path, 0, 3 << 20), &pattern(0, 3 * MIB));
}

#[test]
fn a_job_that_ends_early_leaves_no_beginning() {
    let device = Loop::full_of_old_bytes(8 * MIB, &[]);
    let sink = DeviceSink::open(&device.path, SYNC).unwrap();
    sink.prepare(None).unwrap();
    sink.write_at(&pattern(0, 3 * MIB), 0).unwrap();
    drop(sink);
    assert_same(&contents(&device)[..1 << 20], &zeroes(MIB));
}

#[test]
fn a_disk_smaller_than_the_first_mib_leaves_what_is_behind_it() {
    let device = Loop::full_of_old_bytes(4 * MIB, &[]);
    let sink = DeviceSink::open(&device.path, SYNC).unwrap();
    sink.prepare(Some(100 * KIB + 1)).unwrap();
    sink.write_at(&pattern(0, 10), 0).unwrap();
    sink.zero(10, 100 * KIB - 9).unwrap();
    sink.finish(100 * KIB + 1).unwrap();
    drop(sink);
    let found = contents(&device);
    assert_same(&found[..10], &pattern(0, 10));
    assert!(found[10..102_401].iter().all(|&byte| byte == 0));
    assert!(found[102_401..].iter().all(|&byte| byte == OLD));
}

#[test]
fn zeroes_give_room_back_where_the_device_can() {
    use std::os::unix::fs::MetadataExt;
    let device = Loop::full_of_old_bytes(32 * MIB, &[]);
    let sink = DeviceSink::open(&device.path, SYNC).unwrap();
    sink.prepare(Some(32 * MIB)).unwrap();
    sink.zero(0, 32 * MIB).unwrap();
    sink.finish(32 * MIB).unwrap();
    assert!(fs::metadata(&device.image).unwrap().blocks() * 512 <= 2 * MIB);
}

#[test]
fn a_device_that_is_too_small_is_refused_before_anything_changes() {
    let device = Loop::full_of_old_bytes(4 * MIB, &[]);
    let sink = DeviceSink::open(&device.path, SYNC).unwrap();
    let error = sink.prepare(Some(4 * MIB + 1)).unwrap_err();
    assert_eq!((error.kind(), error.code().as_str()), (Kind::Target, "target-too-small"));
    assert!(error.to_string().contains("4194305") && error.to_string().contains("4194304"), "{error}");
    assert!(contents(&device).iter().all(|&byte| byte == OLD));
}

#[test]
fn a_disk_of_unknown_size_is_refused_when_it_passes_the_end() {
    let device = Loop::full_of_old_bytes(4 * MIB, &[]);
    let sink = DeviceSink::open(&device.path, SYNC).unwrap();
    sink.prepare(None).unwrap();
    sink.write_at(&pattern(0, 4 * MIB), 0).unwrap();
    assert_eq!(code(sink.write_at(&[1], 4 * MIB)), "target-too-small");
    assert_eq!(code(sink.zero(4 * MIB - 1, 2)), "target-too-small");
    assert_eq!(code(sink.finish(4 * MIB + 1)), "target-too-small");
}

#[test]
fn a_device_in_use_is_refused() {
    let device = Loop::full_of_old_bytes(4 * MIB, &[]);
    let _first = DeviceSink::open(&device.path, SYNC).unwrap();
    assert_eq!(code(DeviceSink::open(&device.path, SYNC)), "target-in-use");
}

#[test]
fn a_mounted_device_is_refused() {
    let mount = Mount::made_by(&["mke2fs", "-q", "-t", "ext4"], 8 * MIB);
    let device = run("findmnt", &["-n", "-o", "SOURCE", mount.path.to_str().unwrap()]).unwrap();
    assert_eq!(code(DeviceSink::open(device.trim(), SYNC)), "target-in-use");
}

#[test]
fn a_read_only_device_is_refused() {
    let device = Loop::full_of_old_bytes(4 * MIB, &["-r"]);
    assert_eq!(code(DeviceSink::open(&device.path, SYNC)), "target-not-writable");
}

#[test]
fn what_is_no_device_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "old").unwrap();
    assert_eq!(code(DeviceSink::open(&file, SYNC)), "target-not-a-device");
    assert_eq!(code(DeviceSink::open("/dev/null", SYNC)), "target-not-a-device");
    assert_eq!(code(DeviceSink::open(dir.path(), SYNC)), "target-cannot-open");
    assert_eq!(code(DeviceSink::open(dir.path().join("missing"), SYNC)), "target-cannot-open");
    assert_eq!(fs::read(&file).unwrap(), b"old");
}

#[test]
fn a_link_to_a_device_is_followed() {
    let device = Loop::full_of_old_bytes(4 * MIB, &[]);
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("by-id");
    symlink(&device.path, &link).unwrap();
    let sink = DeviceSink::open(&link, DeviceOptions { sync: false }).unwrap();
    sink.prepare(Some(MIB)).unwrap();
    sink.write_at(&pattern(0, MIB), 0).unwrap();
    sink.finish(MIB).unwrap();
    drop(sink);
    assert_same(&contents(&device)[..1 << 20], &pattern(0, MIB));
}
