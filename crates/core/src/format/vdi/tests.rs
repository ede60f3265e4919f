use diskferry_testkit::vdi::{Block, Vdi as Writer, field, map_entry};
use diskferry_testkit::{Scratch, poke, qemu_img, sample_disk};

use super::super::testing::{Bytes, carry, code, every_way, open, opening};
use super::*;
use crate::extent::Body;
use crate::format::Order;

const MIB: u64 = 1 << 20;

fn small() -> Writer {
    Writer { block_size: 4096, ..Writer::qemu(40_000) }.fill(1)
}

/// Extents of an image that only has to be walked.
fn extents(source: &mut Bytes, order: Order) -> Vec<Extent> {
    let limits = Limits::default();
    let mut image = (VDI.open)(source, &opening(&limits)).unwrap();
    image.plan(source, order).unwrap();
    std::iter::from_fn(|| image.next_extent(source).unwrap()).collect()
}

#[test]
fn images_of_qemu_give_the_disk_they_were_made_from() {
    let scratch = Scratch::new();
    for options in ["static=off", "static=on"] {
        // qemu-img rounds raw disks up to sectors, so that an odd size cannot be made by it.
        let disk = sample_disk(scratch.dir(), 5 * MIB + 512 * 9, 3);
        let image = scratch.path("image.vdi");
        let (from, to) = (disk.to_str().unwrap(), image.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", "vdi", "-o", options, from, to]);
        let (image, disk) = (std::fs::read(image).unwrap(), std::fs::read(disk).unwrap());
        for mut source in every_way(&image) {
            assert!(carry(&VDI, &mut source).unwrap() == disk, "{options}");
        }
    }
}

#[test]
fn every_layout_gives_the_same_disk_in_any_chunks() {
    let qemu = || Writer { block_size: 4096, ..Writer::qemu(300_001) };
    for (name, writer) in [
        ("qemu", qemu()),
        ("virtualbox", Writer { block_size: 4096, ..Writer::virtualbox(300_001) }),
        ("virtualbox with its own blocks", Writer::virtualbox(5 * MIB + 1)),
        ("any order", Writer { shuffle: Some(9), ..qemu() }),
        ("bytes in front of each block", Writer { extra: 512, shuffle: Some(9), ..qemu() }),
        ("few bytes in front of each block", Writer { extra: 8, ..qemu() }),
        ("blocks of a sector", Writer { block_size: 512, ..qemu() }),
        ("static", Writer { kind: 2, ..qemu() }),
        ("less than a sector", Writer { size: 1, ..qemu() }),
        ("a long header", Writer { header_size: 440, ..qemu() }),
    ] {
        let writer = writer.fill(5);
        for mut source in every_way(&writer.build().image) {
            assert!(carry(&VDI, &mut source).unwrap() == writer.disk(), "{name}");
        }
    }
}

#[test]
fn a_disk_of_no_bytes_has_no_extents() {
    let mut source = Bytes::file(Writer::qemu(0).build().image);
    assert_eq!(carry(&VDI, &mut source).unwrap(), []);
}

#[test]
fn info_says_what_the_header_says() {
    let mut source = Bytes::file(small().build().image);
    let image = open(&VDI, &mut source).unwrap();
    let info = image.info();
    assert_eq!((info.format, info.virtual_size, info.cluster_size), ("vdi", Some(40_000), Some(4096)));
    assert_eq!(info.details[0], ("type", Detail::Text("dynamic".into())));
    assert!(info.refusals.is_empty() && info.warnings.is_empty() && info.backing.is_none() && !info.cdrom);
}

#[test]
fn extents_come_along_the_disk_when_asked_to() {
    let writer = Writer { shuffle: Some(2), ..small() };
    let starts: Vec<_> =
        extents(&mut Bytes::file(writer.build().image), Order::Virtual).iter().map(|extent| extent.start).collect();
    assert!(starts.is_sorted(), "{starts:?}");
}

#[test]
fn neighbours_are_one_extent_and_marks_of_zero_mix() {
    let data = || Block::Data(vec![7; 4096]);
    let blocks = vec![Block::Free, Block::Zero, Block::Free, data(), data()];
    let writer = Writer { block_size: 4096, blocks, ..Writer::qemu(5 * 4096 - 100) };
    let built = writer.build();
    let found = extents(&mut Bytes::file(built.image), Order::Source);
    let zero = Extent { start: 0, len: 3 * 4096, body: Body::Zero };
    let data = Extent { start: 3 * 4096, len: 2 * 4096 - 100, body: Body::Data { at: built.data } };
    assert_eq!(found, [zero, data]);
}

#[test]
fn a_nearly_empty_disk_of_eight_tebibytes_is_a_few_extents() {
    let writer = Writer { blocks: vec![Block::Data(vec![1; 1 << 20])], ..Writer::virtualbox(8 << 40) };
    let begin = std::time::Instant::now();
    let found = extents(&mut Bytes::pipe(writer.build().image, 1 << 20), Order::Source);
    assert!(found.len() < 1024, "{}", found.len());
    assert_eq!(found.iter().map(|extent| extent.len).sum::<u64>(), 8 << 40);
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}

#[test]
fn deltas_can_be_looked_at_and_are_refused() {
    let uuid = *b"\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    let named = Some("00112233-4455-6677-8899-aabbccddeeff".to_owned());
    for (writer, code, backing) in [
        (Writer { kind: 4, link: uuid, parent: [1; 16], ..small() }, "differencing", named.clone()),
        (Writer { kind: 4, ..small() }, "differencing", None),
        (Writer { kind: 3, ..small() }, "undo", None),
        (Writer { link: uuid, ..small() }, "parent", named.clone()),
        (Writer { kind: 2, parent: uuid, ..small() }, "parent", named),
    ] {
        let image = open(&VDI, &mut Bytes::file(writer.build().image)).unwrap();
        assert_eq!((image.info().refusals[0].code, &image.info().backing), (code, &backing));
    }
}

#[test]
fn bent_headers_are_refused_each_for_its_reason() {
    let built = small().build();
    let table: &[(diskferry_testkit::Field, u64, &str)] = &[
        (field::SIGNATURE, 0, "vdi-not-this-format"),
        (field::VERSION, 0x0001_0000, "vdi-version"),
        (field::VERSION, 0x0002_0001, "vdi-version"),
        (field::TYPE, 0, "vdi-type"),
        (field::TYPE, 5, "vdi-type"),
        (field::SECTOR_SIZE, 4096, "vdi-sector-size"),
        (field::SECTOR_SIZE, 0, "vdi-sector-size"),
        (field::BLOCK_SIZE, 0, "vdi-block-size"),
        (field::BLOCK_SIZE, 256, "vdi-block-size"),
        (field::BLOCK_SIZE, 4097, "vdi-block-size"),
        (field::BLOCK_SIZE, 2048, "vdi-too-few-blocks"),
        (field::BLOCK_EXTRA, 3, "vdi-block-extra"),
        (field::BLOCKS, 9, "vdi-too-few-blocks"),
        (field::BLOCKS, 0x4000_0000, "vdi-too-many-blocks"),
        (field::BLOCKS, 0xffff_ffff, "vdi-too-many-blocks"),
        (field::BLOCKS, 1 << 20, "vdi-data-offset"),
        (field::DISK_SIZE, 40_961, "vdi-too-few-blocks"),
        (field::DISK_SIZE, u64::MAX, "vdi-too-few-blocks"),
        (field::HEADER_SIZE, 383, "vdi-header-size"),
        (field::HEADER_SIZE, 0, "vdi-header-size"),
        (field::HEADER_SIZE, 441, "vdi-map-offset"),
        (field::HEADER_SIZE, 0xffff_ffff, "vdi-map-offset"),
        (field::MAP_OFFSET, 0, "vdi-map-offset"),
        (field::MAP_OFFSET, 513, "vdi-map-offset"),
        (field::MAP_OFFSET, 1024, "vdi-data-offset"),
        (field::DATA_OFFSET, 0, "vdi-data-offset"),
        (field::DATA_OFFSET, 512, "vdi-data-offset"),
        (field::DATA_OFFSET, 1025, "vdi-data-offset"),
    ];
    for (field, value, expected) in table {
        let mut image = built.image.clone();
        poke(&mut image, *field, *value);
        for mut source in every_way(&image) {
            assert_eq!(code(open(&VDI, &mut source)), *expected, "{field:?} = {value:#x}");
        }
    }
}

#[test]
fn fields_that_only_tell_something_may_say_anything() {
    let writer = small();
    for (field, value) in [(field::ALLOCATED, 0xffff_ffff), (field::FLAGS, 0xffff_ffff)] {
        let mut image = writer.build().image;
        poke(&mut image, field, value);
        assert_eq!(carry(&VDI, &mut Bytes::file(image)).unwrap(), writer.disk());
    }
}

#[test]
fn bent_map_entries_are_refused_each_for_its_reason() {
    let data = || Block::Data(vec![7; 4096]);
    let writer = Writer { block_size: 4096, blocks: vec![data(), data(), data()], ..Writer::qemu(3 * 4096) };
    let built = writer.build();
    for (value, expected) in [
        (0, "vdi-duplicate-block"),
        (3, "vdi-block-range"),
        (0x8000_0000, "vdi-block-range"),
        (0xffff_fffd, "vdi-block-range"),
    ] {
        let mut image = built.image.clone();
        poke(&mut image, map_entry(built.map, 1), value);
        for mut source in every_way(&image) {
            assert_eq!(code(carry(&VDI, &mut source)), expected, "{value:#x}");
        }
    }
}

#[test]
fn any_bent_field_ends_in_an_error_or_in_a_disk() {
    let built = small().build();
    let values = [0, 1, 2, 3, 511, 512, 513, 4095, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, u64::MAX];
    let entries = (0..10).map(|block| map_entry(built.map, block));
    let limits = Limits { virtual_size: 1 << 30, ..Limits::default() };
    for field in field::ALL.iter().map(|(_, field)| *field).chain(entries) {
        for value in values {
            let mut image = built.image.clone();
            poke(&mut image, field, value);
            let mut source = Bytes::file(image);
            let Ok(mut image) = (VDI.open)(&mut source, &opening(&limits)) else { continue };
            while let Ok(Some(extent)) = image.next_extent(&mut source) {
                assert!(extent.len > 0 && extent.start + extent.len <= image.info().virtual_size.unwrap());
            }
        }
    }
}

#[test]
fn an_image_cut_anywhere_is_an_error() {
    let built = Writer { block_size: 512, blocks: vec![Block::Data(vec![7; 512]); 3], ..Writer::qemu(1300) }.build();
    let used = usize::try_from(built.data).unwrap() + 1300;
    for len in 0..used {
        for mut source in every_way(&built.image[..len]) {
            assert_eq!(code(carry(&VDI, &mut source)), "vdi-ends-early", "{len}");
        }
    }
    // What the last block has beyond the end of the disk is nobody's.
    assert!(carry(&VDI, &mut Bytes::file(&built.image[..used])).is_ok());
}

#[test]
fn a_map_that_is_longer_than_the_disk_needs_is_there_to_its_end() {
    let built = small().build();
    let map = usize::try_from(built.map).unwrap();
    for size in [0, 4096] {
        let mut image = built.image.clone();
        poke(&mut image, field::DISK_SIZE, size);
        poke(&mut image, map_entry(built.map, 0), 0xffff_ffff);
        for len in [map + 4, map + 39] {
            for mut source in every_way(&image[..len]) {
                assert_eq!(code(carry(&VDI, &mut source)), "vdi-ends-early", "{size} in {len}");
            }
        }
        for mut source in every_way(&image[..map + 40]) {
            assert_eq!(carry(&VDI, &mut source).unwrap(), vec![0; usize::try_from(size).unwrap()]);
        }
    }
}

#[test]
fn a_map_without_entries_lies_nowhere() {
    let mut image = small().build().image;
    poke(&mut image, field::DISK_SIZE, 0);
    poke(&mut image, field::BLOCKS, 0);
    poke(&mut image, field::MAP_OFFSET, 1 << 24);
    poke(&mut image, field::DATA_OFFSET, 1 << 24);
    for mut source in every_way(&image) {
        assert_eq!(carry(&VDI, &mut source).unwrap(), []);
    }
}

#[test]
fn a_header_cut_before_its_signature_is_still_a_vdi() {
    let image = small().build().image;
    for len in [4, 40, 67, 68, 512] {
        assert!(probe(&image[..len]), "{len}");
    }
    assert!(!probe(&[0; 512]) && !probe(&[0; 20]));
}

#[test]
fn the_set_of_blocks_is_held_against_the_limit() {
    let image = Writer::virtualbox(1 << 40).build().image;
    let open_with = |limits| code((VDI.open)(&mut Bytes::file(&image[..]), &opening(&limits)));
    assert_eq!(open_with(Limits { table: 100_000, ..Limits::default() }), "limit-table");
    assert_eq!(open_with(Limits { table: 140_000, ..Limits::default() }), "no error");
}
