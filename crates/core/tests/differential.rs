//! Random images by a seed, held against qemu-img: sound ones are the same disk, and bent ones are that or are refused.
//!
//! `scripts/differential` makes as many as it is told; everyday tests some dozens, the same each time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::time::Instant;

use common::images;
use common::judge::{Judge, Verdict, is_known};
use diskferry_testkit::hostile::{Subject, subjects, tiny_subjects};
use diskferry_testkit::oracle::{Scratch, qemu_img, sample_disk};
use diskferry_testkit::vdi::Vdi;
use diskferry_testkit::{Random, vmdk};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What we refuse although qemu-img makes a disk of it, by the reason. All other codes are of what qemu-img refuses as well.
const STRICTER: &[(&str, &[&str])] = &[
    ("what is missing is damage, and no zeroes", &["qcow2-ends-early", "vdi-ends-early", "vmdk-ends-early"]),
    (
        "a byte means one thing: no table lies in another one or in data, and blocks of a VDI are used once",
        &[
            "qcow2-tables-overlap",
            "qcow2-data-in-metadata",
            "qcow2-mapped-from-behind",
            "vdi-map-offset",
            "vdi-data-offset",
            "vdi-duplicate-block",
            "vdi-block-range",
            "vmdk-tables-overlap",
            "vmdk-data-in-metadata",
            "vmdk-mapped-from-behind",
            "vmdk-overhead",
        ],
    ),
    (
        "what an image says twice has to agree",
        &[
            "vmdk-create-type",
            "vmdk-capacity-disagrees",
            // Of the header, where qemu-img goes by the footer.
            "vmdk-directory-size",
            "vmdk-footer",
            "vmdk-no-footer",
            "vmdk-grain-count",
            "vmdk-grain-twice",
            "vmdk-grain-after-table",
            "vmdk-table-disagrees",
            "vmdk-table-missing",
            "vmdk-directory-disagrees",
            "vmdk-marker-range",
            "vmdk-marker-grid",
            "vmdk-marker-length",
            "vmdk-marker-order",
            "vmdk-marker-size",
            "vmdk-marker-type",
            "vmdk-trailing-data",
        ],
    ),
    (
        "what nobody is known to write, and what a transfer as text changes",
        &[
            "vdi-type",
            "vdi-header-size",
            "vdi-block-extra",
            "vmdk-version",
            "vmdk-flags",
            "vmdk-compression",
            "vmdk-compression-flags",
            "vmdk-no-markers",
            "vmdk-grain-size",
            "vmdk-table-entries",
            "vmdk-descriptor-size",
            "vmdk-offset-range",
            "vmdk-content-id",
            "vmdk-directory-at-end",
            "vmdk-not-this-format",
            "vmdk-text-transfer",
        ],
    ),
    (
        "a delta, and a piece of a disk, whatever it leads to",
        &["qcow2-backing-file", "qcow2-data-file", "vdi-differencing", "vdi-undo", "vdi-parent", "vmdk-piece"],
    ),
];

#[test]
fn sound_images_are_the_disks_that_qemu_img_makes() {
    let (court, scratch) = (Judge::new(), Scratch::new());
    let (mut kinds, mut ours, mut theirs, mut wrong) = (BTreeMap::<_, u64>::new(), 0, 0, Vec::new());
    for_each_seed(60, |seed| {
        let (format, kind, image) = sound(seed, &scratch);
        *kinds.entry(kind.clone()).or_default() += 1;
        match court.judge(format, &image) {
            Ok(Verdict::Carried { blocks }) => {
                ours += blocks.0;
                theirs += blocks.1;
            }
            other => wrong.push(format!("seed {seed}, {kind}: {other:?}")),
        }
    });
    println!("{kinds:#?}\nblocks of 512 bytes that our disks take: {ours}, those of qemu-img: {theirs}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ours <= theirs + theirs / 100, "our disks take {ours} blocks, those of qemu-img {theirs}");
}

#[test]
fn bent_images_are_the_disks_that_qemu_img_makes_or_are_refused() {
    let court = Judge::new();
    // The tiny VDIs have blocks that qemu-img does not take.
    let tiny = ["qcow2", "vmdk"].into_iter().flat_map(tiny_subjects);
    let subjects: Vec<_> = tiny.chain(["qcow2", "vmdk", "vdi"].into_iter().flat_map(subjects)).collect();
    let (mut carried, mut known, mut wrong) = (0, 0, Vec::new());
    let (mut refused, mut stricter) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
    for_each_seed(300, |seed| {
        let (subject, names, image) = bend(seed, &subjects);
        let name = || format!("seed {seed}, {}: {names}", subject.name);
        match court.judge(subject.format, &image) {
            Ok(Verdict::Carried { .. }) => carried += 1,
            Ok(Verdict::Refused { code }) => {
                // A limit says nothing of the image.
                let is_limit = code == "max-size" || code.starts_with("limit-");
                if !is_limit && court.qemu_takes_it(subject.format, 5) {
                    let count = stricter.entry(code.clone()).or_default();
                    *count += 1;
                    if *count == 1 && !STRICTER.iter().any(|(_, codes)| codes.contains(&code.as_str())) {
                        wrong.push(format!("{}: {code}, and qemu-img takes it", name()));
                    }
                }
                *refused.entry(code).or_default() += 1;
            }
            Err(why) if is_known(&name(), &why) => known += 1,
            Err(why) => wrong.push(format!("{}: {why}", name())),
        }
    });
    let all = refused.values().sum::<u64>();
    println!("refused, by code: {refused:#?}\nof those, taken by qemu-img: {stricter:#?}");
    println!(
        "{carried} carried as qemu-img does, {known} not for a reason, {all} refused, of which qemu-img takes {}",
        stricter.values().sum::<u64>()
    );
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Calls `job` with as many seeds as are asked for, or `usual`.
fn for_each_seed(usual: u64, mut job: impl FnMut(u64)) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (count, seed) = (number("DIFFERENTIAL_COUNT").unwrap_or(usual), number("DIFFERENTIAL_SEED").unwrap_or(1));
    let began = Instant::now();
    (seed..seed + count).for_each(&mut job);
    println!("{count} images from seed {seed} on, {} s", began.elapsed().as_secs());
}

/// A sound image, its format, and what it is of whose making.
fn sound(seed: u64, scratch: &Scratch) -> (&'static str, String, Vec<u8>) {
    let random = &mut Random::new(seed);
    match random.below(10) {
        0..4 => {
            let writer = drawn(images::qcow2(), seed);
            let kind =
                format!("qcow2 v{} of clusters of 2^{}, {:?}", writer.version, writer.cluster_bits, writer.compression);
            ("qcow2", kind, writer.build().image)
        }
        4 => {
            // QEMU takes no other blocks, and nothing in front of them.
            let other = drawn(images::vdi(), seed);
            let layout = Vdi { block_size: 1 << 20, extra: 0, blocks: Vec::new(), ..other };
            ("vdi", format!("vdi of type {}", layout.kind), layout.fill(seed).build().image)
        }
        5..8 => {
            let writer = drawn(images::vmdk(), seed);
            let kind =
                format!("vmdk v{}, {:?}, of grains of {}", writer.version, writer.style, writer.grain * vmdk::SECTOR);
            ("vmdk", kind, writer.build().image)
        }
        _ => {
            let size = 512 * random.below(3 * MIB / 512);
            made_by_qemu_img(size, seed, random, scratch)
        }
    }
}

fn drawn<T: Strategy>(strategy: T, seed: u64) -> T::Value {
    let mut bytes = [0; 32];
    Random::new(seed).fill(&mut bytes);
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    strategy.new_tree(&mut TestRunner::new_with_rng(ProptestConfig::default(), random)).unwrap().current()
}

fn made_by_qemu_img(size: u64, seed: u64, random: &mut Random, scratch: &Scratch) -> (&'static str, String, Vec<u8>) {
    let raw = sample_disk(scratch.dir(), size, seed);
    let one_of = |random: &mut Random, words: &[&'static str]| words[random.below(words.len() as u64) as usize];
    let (format, packed, options) = match random.below(4) {
        0 | 1 => {
            let cluster = 512 << random.below(13);
            let subclusters = if cluster >= 16 * KIB && random.below(3) == 0 { ",extended_l2=on" } else { "" };
            let packed = random.below(2) == 0;
            let more = if packed {
                one_of(random, &["", ",compression_type=zstd"])
            } else {
                one_of(
                    random,
                    &[
                        "",
                        ",preallocation=metadata",
                        ",preallocation=falloc",
                        ",preallocation=full",
                        ",lazy_refcounts=on",
                    ],
                )
            };
            let old = subclusters.is_empty() && more.is_empty() && random.below(3) == 0;
            let version = if old { "0.10" } else { "1.1" };
            ("qcow2", packed, format!("compat={version},cluster_size={cluster}{subclusters}{more}"))
        }
        2 => ("vdi", false, format!("static={}", one_of(random, &["on", "off"]))),
        _ => {
            let kind = one_of(random, &["monolithicSparse", "streamOptimized"]);
            let more = if kind == "monolithicSparse" { one_of(random, &["", ",zeroed_grain=on"]) } else { "" };
            ("vmdk", false, format!("subformat={kind}{more}"))
        }
    };
    let image = scratch.path("made");
    let smallest = one_of(random, &["0", "4k", "64k"]);
    let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
    let mut arguments = vec!["convert", "-f", "raw", "-O", format, "-o", &options, "-S", smallest];
    // Without it nothing packs.
    arguments.extend(packed.then_some("-c"));
    arguments.extend([from, to]);
    qemu_img(&arguments);
    let bytes = fs::read(&image).unwrap();
    fs::remove_file(raw).unwrap();
    fs::remove_file(image).unwrap();
    (format, format!("{format} of qemu-img"), bytes)
}

/// One of the images with one to four numbers bent, and their names.
fn bend(seed: u64, subjects: &[Subject]) -> (&Subject, String, Vec<u8>) {
    let random = &mut Random::new(seed);
    let subject = &subjects[random.below(subjects.len() as u64) as usize];
    let mut image = subject.image.clone();
    let names: Vec<_> = (0..1 + random.below(2) * random.below(4))
        .map(|_| {
            let value = match random.below(4) {
                0 => random.below(8),
                1 => 1 << random.below(64),
                2 => random.below(8).wrapping_neg(),
                _ => random.next_u64(),
            };
            subject.bend(&mut image, random.below(1 << 16) as usize, random.below(5) as u8, value).to_owned()
        })
        .collect();
    (subject, names.join("; "), image)
}
