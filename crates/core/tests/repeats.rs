//! Images that store bytes once and map them to several places of the disk: the same disk, or the same refusal, from a file
//! and from a pipe, to a file and to a pipe.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::images::place;
use common::{FEEDS, carry};
use diskferry::sink::PipeSink;
use diskferry::{Error, Input, Limits, Options, Progress, convert};
use diskferry_testkit::Random;
use diskferry_testkit::field::poke;
use diskferry_testkit::oracle::{Scratch, qemu_img, raw_file_of};
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2, field};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// An image of `clusters` stored ones, one after the other, of `1 << bits` bytes each, on a disk of `of` clusters.
fn plain(bits: u32, clusters: u64, of: u64) -> Qcow2 {
    let mut image = Qcow2 { cluster_bits: bits, ..Qcow2::new(of << bits) };
    let random = &mut Random::new(clusters);
    image.clusters = (0..clusters).map(|n| (n, Cluster::Plain(random.bytes(1 << bits)))).collect();
    image
}

/// The same, packed, of noise that packs to more than half.
fn packed(bits: u32, clusters: u64, of: u64) -> Qcow2 {
    let mut image = plain(bits, clusters, of);
    for cluster in image.clusters.values_mut() {
        let Cluster::Plain(mut data) = cluster.clone() else { panic!() };
        data[3 << (bits - 2)..].fill(7);
        *cluster = Cluster::Packed(data);
    }
    image
}

/// Lets the clusters from `guest` on have the bytes of those in `others`.
fn repeat(image: &mut Qcow2, guest: u64, others: std::ops::Range<u64>) {
    image.clusters.extend((guest..).zip(others).map(|(guest, other)| (guest, Cluster::As(other))));
}

/// A pipe that a test holds the other end of.
#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn carry_to_pipe(input: Input) -> Result<Vec<u8>, Error> {
    let out = Out::default();
    let sink = PipeSink::new(out.clone(), &Limits::default(), None);
    convert(input, &sink, &Options::default(), &Progress::default())?;
    let disk = std::mem::take(&mut *out.0.lock().unwrap());
    Ok(disk)
}

/// The code that every way to carry the image ends with, or `carried`: then the disk is the image's, and qemu-img agrees.
fn outcome(image: &Qcow2) -> String {
    let scratch = Scratch::new();
    let path = scratch.write("image.qcow2", &image.build().image);
    let disk = image.disk();
    let mut outcomes = Vec::new();
    for (feed, open) in FEEDS {
        let target = scratch.path("disk.raw");
        let of_file = carry(open(&path), &target, &Options::default()).map(|_| fs::read(&target).unwrap());
        let _ = fs::remove_file(&target);
        for (kind, found) in [("file", of_file), ("pipe", carry_to_pipe(open(&path)))] {
            let found = found.map(|found| assert!(found == disk, "another disk by {feed} to a {kind}"));
            outcomes
                .push((format!("{feed} to {kind}"), found.map_or_else(|error| error.code(), |()| "carried".into())));
        }
    }
    let code = outcomes[0].1.clone();
    assert!(outcomes.iter().all(|(_, other)| *other == code), "{outcomes:?}");
    code
}

/// As [`outcome`], of a disk that is far too large to be looked at as a whole.
fn outcome_of_large(image: &Qcow2) -> String {
    let scratch = Scratch::new();
    let path = scratch.write("image.qcow2", &image.build().image);
    let check = qemu_img(&["check", "-f", "qcow2", path.to_str().unwrap()]);
    assert!(check.contains("No errors were found"), "{check}");
    let outcomes = FEEDS.iter().map(|(feed, open)| {
        let target = scratch.path("disk.raw");
        let found = carry(open(&path), &target, &Options::default()).map(|_| assert_clusters(image, &target));
        let _ = fs::remove_file(&target);
        (*feed, found.map_or_else(|error| error.code(), |()| "carried".to_owned()))
    });
    let outcomes: Vec<_> = outcomes.collect();
    let code = outcomes[0].1.clone();
    assert!(outcomes.iter().all(|(_, other)| *other == code), "{outcomes:?}");
    code
}

fn assert_clusters(image: &Qcow2, target: &Path) {
    let disk = File::open(target).unwrap();
    let mut found = vec![0; 1 << image.cluster_bits];
    for (guest, cluster) in &image.clusters {
        let cluster = if let Cluster::As(other) = cluster { &image.clusters[other] } else { cluster };
        let (Cluster::Plain(data) | Cluster::Packed(data)) = cluster else { panic!() };
        disk.read_exact_at(&mut found, guest << image.cluster_bits).unwrap();
        assert!(found == *data, "cluster {guest}");
    }
}

#[test]
fn a_cluster_that_one_table_maps_twice_is_carried_whatever_its_size() {
    for bits in [9, 16, 17, 19, 20, 21] {
        for make in [plain, packed] {
            for guest in [3, 6] {
                let mut image = make(bits, 3, 8);
                repeat(&mut image, guest, 1..2);
                assert_eq!(outcome(&image), "carried", "{bits} bits, at {guest}");
            }
        }
    }
}

#[test]
fn a_cluster_that_is_mapped_more_than_twice_is_carried() {
    for (bits, make) in [(16, plain as fn(_, _, _) -> _), (20, plain), (21, plain), (18, packed), (21, packed)] {
        let mut image = make(bits, 3, 12);
        for guest in [0, 4, 5, 8, 10] {
            repeat(&mut image, guest, 1..2);
        }
        image.clusters.remove(&2);
        assert_eq!(outcome(&image), "carried", "{bits} bits");
    }
}

#[test]
fn runs_that_overlap_are_carried() {
    for bits in [9, 12, 16, 19, 21] {
        // Runs of half a MiB and more, whatever the cluster.
        let part = ((MIB / 2) >> bits).max(1);
        let mut image = Qcow2 { l2: Place::Front, ..plain(bits, 4 * part, 12 * part) };
        // The second half and the third quarter, and all but the first cluster.
        repeat(&mut image, 4 * part, 2 * part..4 * part);
        repeat(&mut image, 6 * part + 1, part..2 * part);
        repeat(&mut image, 8 * part, 1..4 * part);
        assert_eq!(outcome(&image), "carried", "{bits} bits");
    }
}

#[test]
fn what_is_mapped_twice_costs_a_pipe_that_much_spool_and_a_file_none() {
    let scratch = Scratch::new();
    let mut image = plain(16, 64, 128);
    repeat(&mut image, 64, 32..48);
    let path = scratch.write("image.qcow2", &image.build().image);
    let (target, expected) = (scratch.path("disk.raw"), scratch.path("expected.raw"));
    raw_file_of(&path, "qcow2", &expected);
    assert!(fs::read(&expected).unwrap() == image.disk());
    let spooled =
        FEEDS.iter().map(|(feed, open)| (*feed, carry(open(&path), &target, &Options::default()).unwrap().spooled));
    let spooled: Vec<_> = spooled.collect();
    // From where the second run begins to where the first one ends, and the refcount blocks and the like.
    for (feed, spooled) in spooled {
        let wanted = if feed == "file" { 0..1 } else { 2 * MIB..2 * MIB + 512 * KIB };
        assert!(wanted.contains(&spooled), "{feed}: {spooled}");
    }
}

#[test]
fn bytes_that_two_tables_map_are_carried_if_both_come_first() {
    // A table of 4 KiB clusters reaches 2 MiB, so a run of half a MiB lies in one.
    for others in [0..128, 64..65, 0..1] {
        let mut image = Qcow2 { l2: Place::Front, ..plain(12, 128, 1024) };
        repeat(&mut image, 600, others);
        assert_eq!(image.build().l2.len(), 2);
        assert_eq!(outcome(&image), "carried");
    }
    // Behind the data a pipe has both when it comes to neither.
    let mut image = Qcow2 { l2: Place::Behind, ..plain(12, 128, 1024) };
    repeat(&mut image, 600, 0..128);
    assert_eq!(outcome(&image), "carried");
}

#[test]
fn bytes_that_a_table_in_front_and_one_behind_map_are_refused_from_anywhere() {
    for (make, others) in [(plain as fn(_, _, _) -> _, 0..128), (plain, 64..65), (plain, 127..128), (packed, 3..4)] {
        let mut image = make(12, 128, 1024);
        repeat(&mut image, 600, others.clone());
        let built = image.build();
        assert!(built.l2[&0] < built.clusters[&0] && built.l2[&1] > built.clusters[&127]);
        assert_eq!(outcome(&image), "qcow2-mapped-from-behind", "{others:?}");
    }
}

#[test]
fn two_tables_of_large_clusters_are_no_different() {
    for bits in [16, 19, 20, 21] {
        let reach = 1 << (bits - 3);
        for make in [plain, packed] {
            let mut image = make(bits, 3, reach + 8);
            repeat(&mut image, reach + 2, 1..2);
            image.l2 = Place::Front;
            assert_eq!(outcome_of_large(&image), "carried", "{bits} bits");
            image.l2 = Place::Before;
            assert_eq!(outcome_of_large(&image), "qcow2-mapped-from-behind", "{bits} bits");
        }
    }
}

#[test]
fn bytes_that_are_mapped_too_often_are_refused_from_anywhere_and_one_time_less_is_not() {
    // 1024 times, and 32 times what lies in front of it and itself: header, tables, and the cluster are six.
    for (bits, make, times, code) in [
        (9, plain as fn(_, _, _) -> _, 1024, "carried"),
        (9, plain, 1025, "qcow2-mapped-too-often"),
        (9, packed, 1024, "carried"),
        (9, packed, 1025, "qcow2-mapped-too-often"),
        (16, plain, 192, "carried"),
        (16, plain, 193, "qcow2-mapped-too-often"),
        (18, packed, 300, "qcow2-mapped-too-often"),
    ] {
        let mut image = Qcow2 { l2: Place::Front, ..make(bits, 1, 1100) };
        for guest in 1..times {
            repeat(&mut image, guest, 0..1);
        }
        assert_eq!(outcome(&image), code, "{bits} bits, {times} times");
    }
}

/// Packed clusters of a few dozen bytes, of two tables by turns, among plain ones; the second table lies behind all of them,
/// where an internal snapshot moves it.
fn tiny_units_by_turns() -> (Qcow2, Vec<u8>) {
    const BITS: u32 = 14;
    const REACH: u64 = 1 << (BITS - 3);
    let mut image = Qcow2 { cluster_bits: BITS, l2: Place::Front, shuffle: Some(1), ..Qcow2::new((2 * REACH) << BITS) };
    for guest in (0..100).flat_map(|n| [n, REACH + n]) {
        image.clusters.insert(guest, Cluster::Packed(guest.to_le_bytes().repeat(1 << (BITS - 3))));
    }
    for guest in 200..400 {
        image.clusters.insert(guest, Cluster::Plain(Random::new(guest).bytes(1 << BITS)));
    }
    let mut built = image.build();
    let (from, to) = (usize::try_from(built.l2[&1]).unwrap(), built.image.len());
    assert!(to.is_multiple_of(1 << BITS), "whole clusters");
    built.image.extend_from_within(from..from + (1 << BITS));
    poke(&mut built.image, field::entry(built.l1, 1), to as u64 | field::COPIED);
    (image, built.image)
}

/// Where a unit of each table lies in one sector, a pipe would have to keep the ends of all sectors to be sure of it.
#[test]
fn tiny_units_of_a_table_that_has_moved_are_never_wrong_and_refused_from_a_pipe() {
    let (image, bytes) = tiny_units_by_turns();
    let scratch = Scratch::new();
    let (path, target) = (scratch.write("image.qcow2", &bytes), scratch.path("disk.raw"));
    let disk = image.disk();
    for (feed, open) in FEEDS {
        let found = carry(open(&path), &target, &Options::default());
        let found = found.map_or_else(|error| error.code(), |_| "carried".into());
        if *feed == "file" {
            assert_eq!(found, "carried");
            assert!(fs::read(&target).unwrap() == disk);
            fs::remove_file(&target).unwrap();
        } else {
            assert_eq!(found, "stream-mapped-twice", "{feed}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_random_images_the_outcome_is_the_same_every_way(image in any_image()) {
        let code = outcome(&image);
        assert!(["carried", "qcow2-mapped-from-behind"].contains(&code.as_str()), "{code}");
    }
}

prop_compose! {
    /// Random layouts, in which some clusters have the bytes of others.
    fn any_image()(
        cluster_bits in 9..20_u32,
        clusters in 2..150_u64,
        places in (place(), place()),
        shuffle in option::of(any::<u64>()),
        repeats in vec((any::<u64>(), any::<u64>(), 1..40_u64), 1..6),
        seed in any::<u64>(),
    ) -> Qcow2 {
        let size = (clusters << cluster_bits) % (4 << 20) + (2 << cluster_bits);
        let (l1, l2) = places;
        let mut image = Qcow2 { cluster_bits, l1, l2, shuffle, ..Qcow2::new(size) }.fill(seed);
        let count = size >> cluster_bits;
        for (guest, other, len) in repeats {
            for n in 0..len {
                let (guest, other) = ((guest.wrapping_add(n)) % count, (other.wrapping_add(n)) % count);
                let has_bytes = matches!(image.clusters.get(&other), Some(Cluster::Plain(_) | Cluster::Packed(_)));
                let is_wanted = image.clusters.values().any(|cluster| *cluster == Cluster::As(guest));
                if has_bytes && !is_wanted && guest != other {
                    image.clusters.insert(guest, Cluster::As(other));
                }
            }
        }
        image
    }
}
