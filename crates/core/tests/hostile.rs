//! Images that lie: what is carried is what qemu-img reads of the same lie, all else is refused as an image's fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::judge::{Judge, Verdict, is_known};
use common::refusal;
use diskferry::Options;
use diskferry_testkit::field::poke;
use diskferry_testkit::hostile::{subjects, tiny_subjects};
use diskferry_testkit::qcow2::field::{PACKED, entry};
use diskferry_testkit::qcow2::{Cluster, Compression, Qcow2};
use diskferry_testkit::{Random, wrap};

#[test]
fn a_bent_qcow2_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("qcow2", 2900);
}

#[test]
fn a_bent_vdi_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("vdi", 700);
}

#[test]
fn a_bent_vmdk_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("vmdk", 7400);
}

/// `at_least`: so that the generator cannot shrink unseen.
fn assert_all_judged(format: &str, at_least: usize) {
    let (mut seen, mut carried, mut known, mut wrong) = (0, 0, 0, Vec::new());
    let court = Judge::new();
    for subject in subjects(format) {
        for variant in subject.variants() {
            // Shown when something below panics.
            println!("{}", variant.name);
            seen += 1;
            match court.judge(format, &variant.image) {
                Ok(verdict) => carried += usize::from(matches!(verdict, Verdict::Carried { .. })),
                Err(why) if is_known(&variant.name, &why) => known += 1,
                Err(why) => wrong.push(format!("{}: {why}", variant.name)),
            }
        }
    }
    println!(
        "{seen} bent images of {format}: {carried} carried as qemu-img does, {known} not for a reason, the rest refused"
    );
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen >= at_least, "only {seen} variants");
}

#[test]
fn a_head_that_is_cut_short_is_of_its_format_and_no_raw_disk() {
    let gzip = wrap::gzip(&Random::new(1).bytes(5000));
    let xz = wrap::xz(&Random::new(1).bytes(5000), &[]);
    let zstd = wrap::zstd(&Random::new(1).bytes(5000), &[]);
    let images = ["qcow2", "vdi", "vmdk"].map(|format| (format, tiny_subjects(format).remove(0).image));
    // From how many bytes on it can be told: the magic, and of a VDI the beginning of the text in front of it.
    let images = images.into_iter().zip([4, 4, 4]).map(|((format, image), from)| (format, image, from));
    for (format, image, from) in images.chain([("gzip", gzip, 3), ("xz", xz, 6), ("zstd", zstd, 4)]) {
        for len in (from..64).chain([72, 103, 104, 400, 511]) {
            let code = refusal(&image[..len], &Options::default()).code();
            assert!(code.starts_with(format), "{len} bytes of {format}: {code}");
        }
    }
}

#[test]
fn packed_clusters_of_several_frames_too_long_or_cut_are_read_as_qemu_reads_them() {
    let text = Random::new(3).text(CLUSTER);
    let (front, back) = text.split_at(30_000);
    let zstd = |parts: &[&[u8]]| wrap::zstd(&parts.concat(), &[]);
    let deflate = |parts: &[&[u8]]| wrap::deflate(&parts.concat());
    let skipped = [&b"\x50\x2a\x4d\x18\x04\0\0\0"[..], b"skip"].concat();
    let empty_block = [0, 0, 0, 0xff, 0xff].repeat(100);
    let mut damaged = zstd(&[&text]);
    *damaged.last_mut().unwrap() ^= 1;
    let zstd_units = [
        ("one frame", true, zstd(&[&text])),
        ("two frames", true, [zstd(&[front]), zstd(&[back])].concat()),
        ("frames without anything first", true, [zstd(&[]), zstd(&[]), zstd(&[&text])].concat()),
        ("a skippable frame first", true, [&skipped[..], &zstd(&[&text])].concat()),
        ("one between", true, [&zstd(&[front])[..], &skipped, &zstd(&[back])].concat()),
        ("a window of 128 MiB", true, wrap::zstd(&text, &["--long=27"])),
        ("noise behind it", true, [zstd(&[&text]), Random::new(4).bytes(300)].concat()),
        ("no check value", true, wrap::zstd(&text, &["--no-check"])),
        ("a wrong one", false, damaged),
        ("a byte more", false, zstd(&[&text, b"x"])),
        ("the second a byte more", false, [zstd(&[front]), zstd(&[back, b"x"])].concat()),
        ("a byte less", false, zstd(&[text.split_last().unwrap().1])),
        ("noise behind half of it", false, [zstd(&[front]), Random::new(4).bytes(300)].concat()),
        ("a cut check value", false, cut_by_two(&zstd(&[&text]))),
        ("cut data", false, cut_by_two(&wrap::zstd(&text, &["--no-check"]))),
    ];
    let deflate_units = [
        ("one stream", true, deflate(&[&text])),
        ("blocks without anything first", true, [&empty_block[..], &deflate(&[&text])].concat()),
        ("a byte more", true, deflate(&[&text, b"x"])),
        ("a byte less", false, deflate(&[text.split_last().unwrap().1])),
    ];
    let court = Judge::new();
    let units = zstd_units.map(|unit| (Compression::Zstd, unit)).into_iter();
    for (compression, (name, is_sound, unit)) in units.chain(deflate_units.map(|unit| (Compression::Deflate, unit))) {
        match court.judge("qcow2", &with_unit(compression, &unit)).unwrap() {
            Verdict::Carried { .. } => assert!(is_sound, "{compression:?}, {name}"),
            Verdict::Refused { code } => {
                assert!(!is_sound && code == "qcow2-packed-data", "{compression:?}, {name}: {code}");
                assert!(!court.qemu_takes_it("qcow2", 30), "{compression:?}, {name}: qemu-img carries it");
            }
        }
    }
}

const CLUSTER: usize = 64 << 10;
const SECTOR: usize = 512;

/// An image of one cluster, packed as `unit`, whose entry names the sectors that this takes.
fn with_unit(compression: Compression, unit: &[u8]) -> Vec<u8> {
    const SECTORS_AT: u32 = 54;
    let mut image = Qcow2 { compression, ..Qcow2::new(CLUSTER as u64) };
    image.clusters.insert(0, Cluster::Packed(vec![1; CLUSTER]));
    let built = image.build();
    let at = built.clusters[&0];
    let sectors = unit.len().div_ceil(SECTOR) as u64;
    let mut bytes = built.image;
    bytes.resize(usize::try_from(at).unwrap(), 0);
    bytes.extend_from_slice(unit);
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0xff);
    poke(&mut bytes, entry(built.l2[&0], 0), PACKED | (sectors - 1) << SECTORS_AT | at);
    bytes
}

/// `frame` without its last two bytes, behind a skippable frame that has it end with a sector.
fn cut_by_two(frame: &[u8]) -> Vec<u8> {
    const HEAD: usize = 8;
    let left = &frame[..frame.len() - 2];
    let filler = (left.len() + HEAD).next_multiple_of(SECTOR) - left.len() - HEAD;
    let head = [0x184d_2a50_u32.to_le_bytes(), u32::try_from(filler).unwrap().to_le_bytes()].concat();
    [&head[..], &vec![0; filler], left].concat()
}
