//! What lies over something else, twice, or outside: each format's answer, the same from a file and a pipe, beside that of qemu-img.
//! docs/security.md has these answers in a table.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::judge::{Judge, Verdict};
use diskferry_testkit::Random;
use diskferry_testkit::field::poke;
use diskferry_testkit::qcow2::{self, Cluster, Qcow2};
use diskferry_testkit::vdi::{Block, Vdi, map_entry};
use diskferry_testkit::vmdk::{self, Grain, SECTOR, Style, Vmdk};

const MIB: u64 = 1 << 20;
/// We carry the image, and the disk is that of qemu-img.
const CARRIED: &str = "carried";

/// Bends an image and names what that makes of it.
struct Case<B> {
    what: &'static str,
    bend: fn(&mut B),
    /// [`CARRIED`], or the code.
    ours: &'static str,
    qemu_takes_it: bool,
}

fn assert_answers<B: Clone>(format: &str, built: &B, image_of: fn(&mut B) -> &mut Vec<u8>, cases: &[Case<B>]) {
    let (court, mut wrong) = (Judge::new(), Vec::new());
    for Case { what, bend, ours, qemu_takes_it } in cases {
        let mut bent = built.clone();
        bend(&mut bent);
        let found = match court.judge(format, image_of(&mut bent)).unwrap_or_else(|why| panic!("{what}: {why}")) {
            Verdict::Carried { .. } => CARRIED.to_owned(),
            Verdict::Refused { code } => code,
        };
        let answers = (found.as_str(), court.qemu_takes_it(format, 20));
        if answers != (*ours, *qemu_takes_it) {
            wrong.push(format!("{what}: {answers:?}, not {:?}", (ours, qemu_takes_it)));
        }
    }
    assert!(wrong.is_empty(), "ours, and whether qemu-img takes it:\n{}", wrong.join("\n"));
}

#[test]
fn answers_of_qcow2() {
    const CLUSTER: u64 = 1 << 16;
    let mut writer = Qcow2::new(4 * MIB);
    writer.clusters.extend((0..3).map(|n| (n, Cluster::Plain(Random::new(n).bytes(1 << 16)))));
    writer.clusters.insert(3, Cluster::Packed(b"packed".repeat(10_000)));
    let entry = |built: &qcow2::Built, guest| qcow2::field::entry(built.l2[&0], guest);
    fn set(built: &mut qcow2::Built, field: diskferry_testkit::Field, value: u64) {
        poke(&mut built.image, field, value);
    }
    let cases = [
        Case {
            what: "one cluster for two places",
            bend: |built| set(built, qcow2::field::entry(built.l2[&0], 1), built.clusters[&0]),
            ours: CARRIED,
            qemu_takes_it: true,
        },
        Case {
            what: "one packed cluster for two places",
            bend: |built| {
                let packed = qcow2::field::entry(built.l2[&0], 3).peek(&built.image);
                set(built, qcow2::field::entry(built.l2[&0], 9), packed);
            },
            ours: CARRIED,
            qemu_takes_it: true,
        },
        Case {
            what: "a cluster that is also its L2 table",
            bend: |built| set(built, qcow2::field::entry(built.l2[&0], 0), built.l2[&0]),
            ours: "qcow2-data-in-metadata",
            qemu_takes_it: true,
        },
        Case {
            what: "a cluster that is also the L1 table",
            bend: |built| set(built, qcow2::field::entry(built.l2[&0], 0), built.l1),
            ours: "qcow2-data-in-metadata",
            qemu_takes_it: true,
        },
        Case {
            what: "a packed cluster in the header",
            bend: |built| set(built, qcow2::field::entry(built.l2[&0], 3), qcow2::field::PACKED | 64),
            ours: "qcow2-data-in-metadata",
            qemu_takes_it: false,
        },
        Case {
            what: "an L2 table that is the L1 table",
            bend: |built| set(built, qcow2::field::entry(built.l1, 0), built.l1),
            ours: "qcow2-tables-overlap",
            qemu_takes_it: true,
        },
        Case {
            what: "an L1 table in the header",
            bend: |built| set(built, qcow2::field::L1_OFFSET, 0),
            ours: "qcow2-tables-overlap",
            qemu_takes_it: true,
        },
        Case {
            what: "a cluster behind the end of the image",
            bend: |built| set(built, qcow2::field::entry(built.l2[&0], 0), built.image.len() as u64 + (CLUSTER << 4)),
            ours: "qcow2-ends-early",
            qemu_takes_it: true,
        },
        Case {
            what: "a packed cluster behind the end of the image",
            bend: |built| {
                let end = built.image.len() as u64 + CLUSTER;
                set(built, qcow2::field::entry(built.l2[&0], 3), qcow2::field::PACKED | end);
            },
            ours: "qcow2-ends-early",
            qemu_takes_it: false,
        },
        Case {
            what: "an entry behind the end of the disk",
            bend: |built| set(built, qcow2::field::entry(built.l2[&0], 64), built.image.len() as u64 * 64),
            ours: CARRIED,
            qemu_takes_it: true,
        },
    ];
    let built = writer.build();
    assert!(entry(&built, 0).peek(&built.image) != 0, "the table is where the writer says");
    assert_answers("qcow2", &built, |built| &mut built.image, &cases);
}

#[test]
fn answers_of_vdi() {
    let data = |n| Block::Data(Random::new(n).bytes(1 << 20));
    let writer = Vdi { blocks: vec![data(0), data(1), Block::Free], ..Vdi::qemu(3 * MIB) };
    fn set(built: &mut diskferry_testkit::vdi::Built, block: u64, value: u64) {
        poke(&mut built.image, map_entry(built.map, block), value);
    }
    let cases = [
        Case {
            what: "one block for two places",
            bend: |built| set(built, 1, 0),
            ours: "vdi-duplicate-block",
            qemu_takes_it: true,
        },
        Case {
            what: "a block beyond the number of blocks",
            bend: |built| set(built, 2, 77),
            ours: "vdi-block-range",
            qemu_takes_it: true,
        },
        Case {
            what: "a block behind the end of the image",
            bend: |built| set(built, 2, 2),
            ours: "vdi-ends-early",
            qemu_takes_it: true,
        },
        Case {
            what: "blocks that begin in the map",
            bend: |built| poke(&mut built.image, diskferry_testkit::vdi::field::DATA_OFFSET, built.map),
            ours: "vdi-data-offset",
            qemu_takes_it: true,
        },
        Case {
            what: "a map in the header",
            bend: |built| poke(&mut built.image, diskferry_testkit::vdi::field::MAP_OFFSET, 0),
            ours: "vdi-map-offset",
            qemu_takes_it: true,
        },
        Case {
            what: "an entry behind the end of the disk",
            bend: |built| {
                poke(&mut built.image, diskferry_testkit::vdi::field::BLOCKS, 4);
                set(built, 3, 77);
            },
            ours: CARRIED,
            qemu_takes_it: true,
        },
    ];
    assert_answers("vdi", &writer.build(), |built| &mut built.image, &cases);
}

/// What is wrong, and how it becomes so.
type Wrong = (&'static str, fn(&mut vmdk::Built));

const ONE_GRAIN_TWICE: Wrong =
    ("one grain for two places, by the table", |built| set_grain(built, 1, built.grains[&0] / SECTOR));
const ONE_TABLE_TWICE: Wrong = ("one table twice", |built| name_table(built, 1, built.tables[&0] / SECTOR));
const TABLE_IN_HEADER: Wrong = ("a table in the header", |built| name_table(built, 0, 1));
const TABLE_IN_GRAIN: Wrong = ("a table in a grain", |built| name_table(built, 0, built.grains[&0] / SECTOR));
const ENTRY_BEHIND_DISK: Wrong =
    ("an entry behind the end of the disk", |built| set_grain(built, 700, built.grains[&0] / SECTOR));

impl Case<vmdk::Built> {
    fn of((what, bend): Wrong, ours: &'static str, qemu_takes_it: bool) -> Self {
        Self { what, bend, ours, qemu_takes_it }
    }
}

#[test]
fn answers_of_vmdk() {
    let mut writer = Vmdk { grain: 16, ..Vmdk::new(Style::Sparse, 16 * 600 + 5) };
    for grain in [0, 1, 2, 599, 600] {
        writer.grains.insert(grain, Grain::Data(Random::new(grain).bytes(16 << 9)));
    }
    let cases = [
        Case {
            what: "one grain for two places",
            bend: |built| set_grain(built, 1, built.grains[&0] / SECTOR),
            ours: CARRIED,
            qemu_takes_it: true,
        },
        Case {
            what: "two grains half over each other",
            bend: |built| set_grain(built, 1, built.grains[&0] / SECTOR + 8),
            ours: CARRIED,
            qemu_takes_it: true,
        },
        Case {
            what: "a grain in its table",
            bend: |built| set_grain(built, 0, built.tables[&0] / SECTOR),
            ours: "vmdk-data-in-metadata",
            qemu_takes_it: true,
        },
        Case {
            what: "a grain that ends in the directory",
            bend: |built| set_grain(built, 0, built.directory / SECTOR - 1),
            ours: "vmdk-data-in-metadata",
            qemu_takes_it: true,
        },
        Case::of(ONE_TABLE_TWICE, "vmdk-tables-overlap", true),
        Case::of(TABLE_IN_HEADER, "vmdk-tables-overlap", true),
        Case {
            what: "a grain behind the end of the image",
            bend: |built| set_grain(built, 0, built.image.len() as u64 / SECTOR + 128),
            ours: "vmdk-ends-early",
            qemu_takes_it: true,
        },
        Case {
            what: "an entry behind the end of the disk",
            bend: |built| set_grain(built, 700, built.image.len() as u64 / SECTOR + 128),
            ours: CARRIED,
            qemu_takes_it: true,
        },
    ];
    assert_answers("vmdk", &writer.build(), |built| &mut built.image, &cases);
}

#[test]
fn answers_of_a_vmdk_stream() {
    fn mark(built: &mut vmdk::Built, grain: u64, sector: u64) {
        let marker = vmdk::field::MARKER_VALUE.after(built.grains[&grain] as usize);
        poke(&mut built.image, marker, sector);
    }
    let cases = [
        Case::of(ONE_GRAIN_TWICE, "vmdk-table-disagrees", true),
        Case {
            what: "two grains for one place, by the markers",
            bend: |built| mark(built, 1, 0),
            ours: "vmdk-grain-twice",
            qemu_takes_it: true,
        },
        Case {
            what: "a grain beyond the disk",
            bend: |built| mark(built, 600, 16 * 601),
            ours: "vmdk-marker-range",
            qemu_takes_it: true,
        },
        Case {
            what: "a grain between two places",
            bend: |built| mark(built, 1, 17),
            ours: "vmdk-marker-grid",
            qemu_takes_it: true,
        },
        Case::of(ONE_TABLE_TWICE, "vmdk-tables-overlap", true),
        Case {
            what: "a grain behind the end of the image, by the table",
            bend: |built| set_grain(built, 0, built.image.len() as u64 / SECTOR + 128),
            ours: "vmdk-table-disagrees",
            qemu_takes_it: false,
        },
        Case {
            what: "half of a table in another one",
            bend: |built| name_table(built, 1, built.tables[&0] / SECTOR + 2),
            ours: "vmdk-tables-overlap",
            qemu_takes_it: true,
        },
        Case {
            what: "a table that begins in its marker",
            bend: |built| name_table(built, 1, built.tables[&1] / SECTOR - 1),
            ours: "vmdk-directory-disagrees",
            qemu_takes_it: false,
        },
        Case {
            what: "a table that ends in the directory",
            bend: |built| name_table(built, 1, built.directory / SECTOR - 2),
            ours: "vmdk-tables-overlap",
            qemu_takes_it: true,
        },
        Case::of(TABLE_IN_HEADER, "vmdk-tables-overlap", false),
        Case::of(TABLE_IN_GRAIN, "vmdk-directory-disagrees", false),
        Case {
            what: "grains that begin in the descriptor",
            bend: |built| poke(&mut built.image, vmdk::field::OVERHEAD, 1),
            ours: "vmdk-overhead",
            qemu_takes_it: true,
        },
        Case::of(ENTRY_BEHIND_DISK, "vmdk-table-disagrees", true),
    ];
    assert_answers("vmdk", &stream(Style::StreamTail).build(), |built| &mut built.image, &cases);
}

#[test]
fn answers_of_a_vmdk_stream_with_its_tables_in_front() {
    let cases = [
        Case::of(ONE_GRAIN_TWICE, "vmdk-table-disagrees", true),
        Case {
            what: "grains that begin in a table",
            bend: |built| poke(&mut built.image, vmdk::field::OVERHEAD, built.tables[&0] / SECTOR),
            ours: "vmdk-overhead",
            qemu_takes_it: true,
        },
        Case::of(ONE_TABLE_TWICE, "vmdk-tables-overlap", true),
        Case::of(TABLE_IN_HEADER, "vmdk-tables-overlap", false),
        Case::of(TABLE_IN_GRAIN, "vmdk-overhead", false),
        Case::of(ENTRY_BEHIND_DISK, CARRIED, true),
    ];
    assert_answers("vmdk", &stream(Style::StreamQemu).build(), |built| &mut built.image, &cases);
}

#[test]
fn answers_of_a_vmdk_stream_whose_markers_count_nothing() {
    let cases = [
        Case::of(ONE_GRAIN_TWICE, "vmdk-table-disagrees", true),
        Case {
            what: "a table that is the last grain",
            bend: |built| {
                let last = built.grains.values().max().unwrap() / SECTOR;
                name_table(built, 0, last);
            },
            ours: "vmdk-data-in-metadata",
            qemu_takes_it: false,
        },
        Case::of(ONE_TABLE_TWICE, "vmdk-tables-overlap", true),
        Case::of(TABLE_IN_HEADER, "vmdk-tables-overlap", false),
        Case::of(ENTRY_BEHIND_DISK, CARRIED, true),
    ];
    assert_answers("vmdk", &stream(Style::StreamXenOrchestra).build(), |built| &mut built.image, &cases);
}

/// Two tables, and a last grain that is cut short.
fn stream(style: Style) -> Vmdk {
    let mut writer = Vmdk { grain: 16, ..Vmdk::new(style, 16 * 600 + 5) };
    for grain in [0, 1, 2, 599, 600] {
        writer.grains.insert(grain, Grain::Data(Random::new(grain).text(16 << 9)));
    }
    writer
}

/// Lets the entry of a grain be `value`.
fn set_grain(built: &mut vmdk::Built, grain: u64, value: u64) {
    poke(&mut built.image, vmdk::field::entry(built.tables[&(grain / 512)], grain % 512), value);
}

/// Lets the directory's entry of a table be `sector`.
fn name_table(built: &mut vmdk::Built, table: u64, sector: u64) {
    poke(&mut built.image, vmdk::field::entry(built.directory, table), sector);
}
