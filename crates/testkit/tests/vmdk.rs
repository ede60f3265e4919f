//! The oracle accepts what the VMDK writer makes and reads the promised bytes.

use diskferry_testkit::vmdk::descriptor::Spelling;
use diskferry_testkit::vmdk::{Descriptor, SECTOR, Style, Vmdk};
use diskferry_testkit::{Scratch, raw_of};

fn assert_accepted(name: &str, spec: &Vmdk) {
    let scratch = Scratch::new();
    let path = scratch.write("disk.vmdk", &spec.build().image);
    let disk = spec.disk();
    let raw = raw_of(&path, "vmdk");
    assert_eq!(raw.len(), disk.len(), "{name}");
    assert!(raw == disk, "{name}: qemu-img reads other bytes");
}

#[test]
fn every_style_with_several_tables() {
    for style in Style::ALL {
        // Grains of 4 KiB, so that there are several grain tables.
        let spec = Vmdk { grain: 8, ..Vmdk::new(style, 1500 * 8) }.fill(3);
        assert_eq!(spec.build().tables.len(), 3);
        assert_accepted(&format!("{style:?}"), &spec);
    }
}

#[test]
fn a_capacity_that_is_no_multiple_of_the_grain() {
    for style in Style::ALL {
        assert_accepted(&format!("{style:?}"), &Vmdk::new(style, 10 * 128 + 5).fill(5));
    }
}

#[test]
fn versions_zeroed_grains_order_and_no_second_directory() {
    let new = || Vmdk::new(Style::Sparse, 40 * 128);
    for version in 1..=3 {
        assert_accepted(&format!("version {version}"), &Vmdk { version, ..new() }.fill(7));
    }
    assert_accepted("one directory", &Vmdk { redundant: false, ..new() }.fill(11));
    assert_accepted("shuffled", &Vmdk { shuffle: Some(1), ..new() }.fill(11));
    assert_accepted("shuffled stream", &Vmdk { shuffle: Some(1), ..Vmdk::new(Style::StreamQemu, 40 * 128) }.fill(11));
}

#[test]
fn the_end_of_a_stream_is_where_its_style_has_it() {
    for (style, behind) in [(Style::StreamOpenVmdk, 0), (Style::StreamTail, 0)] {
        let built = Vmdk::new(style, 1280).fill(13).build();
        assert_eq!(built.image.len() as u64 - built.end_of_stream - SECTOR, behind, "{style:?}");
    }
    let tail = Vmdk::new(Style::StreamTail, 1280).fill(13).build();
    assert_eq!(tail.footer + 2 * SECTOR, tail.image.len() as u64, "the footer is the last sector but one");
}

#[test]
fn a_descriptor_is_spelt_in_many_ways() {
    for spelling in [Spelling::Plain, Spelling::Crlf] {
        let text = Descriptor { spelling, ..Descriptor::new("monolithicSparse", 1280, "any name.vmdk") }.text();
        let spec = Vmdk { descriptor: text.into_bytes(), ..Vmdk::new(Style::Sparse, 1280) };
        assert_accepted(&format!("{spelling:?}"), &spec.fill(17));
    }
    let text = Descriptor { spelling: Spelling::UpperKeys, ..Descriptor::new("streamOptimized", 8, "x") }.text();
    assert!(text.contains("CREATETYPE=\"streamOptimized\"\n") && text.contains("RW 8 SPARSE \"x\"\n"), "{text}");
}
