//! VDI against qemu-img and against what testkit writes as VirtualBox does, from a file and from a pipe.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;

use common::{assert_carried, by_bytes, carry, refusal, sample};
use diskferry::Options;
use diskferry_testkit::oracle::{Scratch, qemu_img, qemu_io, raw_file_of};
use diskferry_testkit::vdi::{Block, Vdi, map_entry};
use diskferry_testkit::{Random, poke};

const MIB: u64 = 1 << 20;

#[test]
fn images_of_qemu_img_give_the_disk_they_were_made_of() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, 40 * MIB + 512);
    let image = scratch.path("image.vdi");
    for kind in ["static=off", "static=on"] {
        let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", "vdi", "-o", kind, from, to]);
        for report in assert_carried(&image, &raw, &Options::default()) {
            assert_eq!(report.inspection.image.format, "vdi");
            // No more than what lies between header and map.
            assert!(report.spooled < 512, "{}", report.spooled);
        }
    }
}

#[test]
fn blocks_written_in_any_order_are_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    let image = scratch.path("image.vdi");
    qemu_img(&["create", "-q", "-f", "vdi", image.to_str().unwrap(), "64M"]);
    let random = &mut Random::new(4);
    let writes: Vec<_> = (0..30)
        .map(|pattern| format!("write -q -P {} {}k {}k", pattern + 1, random.below(65_000), 1 + random.below(500)))
        .collect();
    qemu_io(&image, "vdi", &writes.iter().map(String::as_str).collect::<Vec<_>>());
    let expected = scratch.path("expected.raw");
    raw_file_of(&image, "vdi", &expected);
    assert_carried(&image, &expected, &Options::default());
}

#[test]
fn layouts_of_virtualbox_give_their_disk_exactly() {
    let scratch = Scratch::new();
    for (name, writer) in [
        ("odd size", Vdi::virtualbox(5 * MIB + 77)),
        ("shuffled", Vdi { shuffle: Some(1), ..Vdi::virtualbox(20 * MIB) }),
        ("static", Vdi { kind: 2, ..Vdi::virtualbox(5 * MIB) }),
        ("small blocks with something in front", Vdi { block_size: 4096, extra: 512, ..Vdi::virtualbox(MIB - 1) }),
    ] {
        let writer = writer.fill(8);
        let image = scratch.write(&format!("{name}.vdi"), &writer.build().image);
        let expected = scratch.write(&format!("{name}.raw"), &writer.disk());
        assert_carried(&image, &expected, &Options::default());
    }
}

#[test]
fn one_byte_per_read_changes_nothing() {
    let scratch = Scratch::new();
    let writer = Vdi { block_size: 4096, shuffle: Some(3), ..Vdi::qemu(70_001) }.fill(2);
    let (image, target) = (scratch.write("image.vdi", &writer.build().image), scratch.path("disk.raw"));
    carry(by_bytes(&image), &target, &Options::default()).unwrap();
    assert_eq!(fs::read(target).unwrap(), writer.disk());
}

#[test]
fn damage_and_deltas_publish_nothing() {
    let writer = Vdi { block_size: 4096, blocks: vec![Block::Data(vec![7; 4096]); 10], ..Vdi::qemu(40_960) };
    let built = writer.build();
    let code = |image: &[u8]| refusal(image, &Options::default()).code();
    for len in [70, 456, 520, 1024, 20_000, built.image.len() - 1] {
        assert_eq!(code(&built.image[..len]), "vdi-ends-early", "{len}");
    }
    let mut twice = built.image.clone();
    poke(&mut twice, map_entry(built.map, 9), 3);
    assert_eq!(code(&twice), "vdi-duplicate-block");
    assert_eq!(code(&Vdi { kind: 4, ..writer.clone() }.build().image), "vdi-differencing");
    assert_eq!(code(&Vdi { kind: 3, ..writer.clone() }.build().image), "vdi-undo");
    assert_eq!(code(&Vdi { parent: [1; 16], ..writer }.build().image), "vdi-parent");
}
