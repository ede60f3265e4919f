use diskferry_testkit::Random;

use super::super::testing::{Bytes, carry, carry_opened, code, every_way, open, opening};
use super::*;
use crate::limits::Limits;

/// A disk of `len` bytes with a boot sector, if there is room for one.
fn disk(len: usize) -> Vec<u8> {
    let mut disk = Random::new(len as u64).bytes(len);
    if let Some(mark) = disk.get_mut(510..512) {
        mark.copy_from_slice(b"\x55\xaa");
    }
    disk
}

fn with_tail(tail: &[u8]) -> Vec<u8> {
    [disk(3 * CHUNK), tail.to_vec()].concat()
}

/// Opens what the caller has stated to be raw.
fn open_stated(source: &mut Bytes) -> Box<dyn Image> {
    let limits = Limits::default();
    (RAW.open)(source, &Opening { stated: true, ..opening(&limits) }).unwrap()
}

#[test]
fn any_size_is_carried_exactly() {
    let around = |len: usize| [len - 513, len - 512, len - 511, len - 1, len, len + 1, len + 511, len + 512, len + 513];
    let sizes = [1, 2, 511, 512, 513, 1000].into_iter().chain(around(CHUNK)).chain(around(3 * CHUNK));
    for len in sizes {
        let disk = disk(len);
        for mut source in every_way(&disk) {
            assert!(carry(&RAW, &mut source).unwrap() == disk, "{len}");
        }
    }
}

#[test]
fn a_file_is_one_extent() {
    let mut source = Bytes::file(disk(5 * CHUNK));
    let mut image = open(&RAW, &mut source).unwrap();
    assert_eq!(image.info().virtual_size, Some(5 * CHUNK as u64));
    assert_eq!(image.next_extent(&mut source).unwrap(), Some(part(0, 5 * CHUNK as u64)));
    assert_eq!(image.next_extent(&mut source).unwrap(), None);
}

#[test]
fn the_size_of_a_stream_is_known_with_its_last_extent() {
    let mut source = Bytes::pipe(disk(CHUNK + 600), 4096);
    let mut image = open(&RAW, &mut source).unwrap();
    let mut sizes = Vec::new();
    while let Some(extent) = image.next_extent(&mut source).unwrap() {
        let mut bytes = vec![0; usize::try_from(extent.len).unwrap()];
        look_full(&mut source, &mut bytes, extent.start).unwrap();
        sizes.push(image.info().virtual_size);
    }
    assert_eq!(sizes, [None, Some(CHUNK as u64 + 600)]);
}

#[test]
fn nothing_is_no_disk() {
    for mut source in every_way(&[]) {
        assert_eq!(code(open(&RAW, &mut source)), "raw-empty");
        let limits = Limits::default();
        assert_eq!(code((RAW.open)(&mut source, &Opening { stated: true, ..opening(&limits) })), "raw-empty");
    }
}

#[test]
fn images_told_by_their_end_are_refused_before_the_last_extent() {
    let vhd = |len: usize| [b"conectix".to_vec(), vec![0; len - 8]].concat();
    let koly = [b"koly\0\0\0\x04\0\0\x02\0".to_vec(), vec![0; 500]].concat();
    let cdsa = b"\0\0\0\x01cdsaencr".to_vec();
    for (tail, expected) in [
        (vhd(512), "vhd-not-carried"),
        (vhd(511), "vhd-not-carried"),
        (koly, "dmg-not-carried"),
        (cdsa, "dmg-encrypted-not-carried"),
        (b"NER5\0\0\0\0\x12\x34\x56\x78".to_vec(), "nrg-not-carried"),
        (b"NERO\x12\x34\x56\x78".to_vec(), "nrg-not-carried"),
    ] {
        let image = with_tail(&tail);
        for mut source in every_way(&image) {
            assert_eq!(code(carry(&RAW, &mut source)), expected);
        }
        for mut source in every_way(&image) {
            let opened = open_stated(&mut source);
            assert!(carry_opened(opened, &mut source).unwrap() == image, "{expected}");
        }
        // A file is refused as it is opened.
        assert_eq!(code(open(&RAW, &mut Bytes::file(image))), expected);
    }
}

#[test]
fn the_same_bytes_anywhere_else_are_a_disks() {
    for image in [
        with_tail(&[b"conectix".to_vec(), vec![0; 505]].concat()),
        with_tail(b"conectix"),
        with_tail(b"koly"),
        with_tail(b"NER5"),
        with_tail(b"NERO\0"),
    ] {
        assert!(carry(&RAW, &mut Bytes::pipe(&image[..], 4096)).unwrap() == image);
    }
}

#[test]
fn what_looks_odd_is_said_but_only_when_it_was_guessed() {
    let warnings = |image: Vec<u8>, stated| {
        let mut source = Bytes::pipe(image, 4096);
        let mut image = if stated { open_stated(&mut source) } else { open(&RAW, &mut source).unwrap() };
        while image.next_extent(&mut source).unwrap().is_some() {}
        image.info().warnings.len()
    };
    assert_eq!(warnings(disk(1024), false), 0);
    assert_eq!(warnings(disk(1025), false), 1, "part of a sector");
    assert_eq!(warnings(vec![0xA5; 1024], false), 1, "no boot sector, nothing");
    assert_eq!(warnings(vec![0xA5; 1024], true), 0);
}

#[test]
fn disks_are_told_by_what_is_on_them() {
    for (at, mark) in MARKS {
        let mut image = vec![0; 128 << 10];
        image[*at..*at + mark.len()].copy_from_slice(mark);
        let image = open(&RAW, &mut Bytes::file(image)).unwrap();
        assert!(image.info().warnings.is_empty(), "{at}");
    }
}
