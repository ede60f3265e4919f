//! Wrapped images of a few bytes: how long they keep us busy, and what they have us spool, is bounded by the disk that they hold. All limits have
//! their defaults.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{Cursor, Read, repeat};

use common::{bytes, stream};
use diskferry::{Error, Input, Options, Progress, Report, open};
use diskferry_testkit::field::{Field, poke};
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::wrap::zstd_with_gap;

const GIB: u64 = 1 << 30;
/// More than the tables of these images take, which are not all read.
const LITTLE: u64 = 1 << 20;

/// A disk with one cluster.
fn disk(size: u64) -> Qcow2 {
    let mut image = Qcow2::new(size);
    image.clusters.insert(0, Cluster::Plain(vec![7; 1 << 16]));
    image
}

/// The image in two parts, between which there are `gap` bytes: its last part is what the number `at` names.
fn apart(mut image: Vec<u8>, at: u64, last: u64, gap: u64) -> [Vec<u8>; 2] {
    let entry = Field::be(usize::try_from(at).unwrap(), 8);
    let there = entry.peek(&image);
    assert_eq!(there & !(1 << 63), last);
    poke(&mut image, entry, there + gap);
    let tail = image.split_off(usize::try_from(last).unwrap());
    [image, tail]
}

/// One whose only cluster lies so much further back.
fn far_data(size: u64, gap: u64) -> [Vec<u8>; 2] {
    let built = disk(size).build();
    apart(built.image, built.l2[&0], built.clusters[&0], gap)
}

/// One whose only table does.
fn far_table(size: u64, gap: u64) -> [Vec<u8>; 2] {
    let built = Qcow2 { l2: Place::Behind, ..disk(size) }.build();
    apart(built.image, built.l1, built.l2[&0], gap)
}

fn carried(input: Input) -> Result<Report, Error> {
    open(input, &Options::default(), &Progress::default())?.verify()
}

/// How the image fares in zstd.
fn outcome([head, tail]: [Vec<u8>; 2], gap: u64) -> String {
    let packed = zstd_with_gap(&head, gap, &tail);
    assert!(packed.len() < 1 << 20, "it takes next to nothing");
    carried(bytes(packed)).map_or_else(|error| error.code(), |report| format!("{} bytes", report.allocated))
}

#[test]
fn an_unwrapped_image_may_leave_four_disks_unused_or_eight_gibibytes() {
    for (size, gap, expected) in [
        (GIB, 8 * GIB - LITTLE, "65536 bytes"),
        (GIB, 8 * GIB, "stream-unused"),
        (3 * GIB, 12 * GIB - LITTLE, "65536 bytes"),
        (3 * GIB, 12 * GIB, "stream-unused"),
    ] {
        assert_eq!(outcome(far_data(size, gap), gap), expected, "{size} {gap}");
    }
}

#[test]
fn before_its_last_table_it_may_have_four_disks_spooled_or_a_gibibyte() {
    for (size, gap, expected) in [
        (1 << 20, GIB - LITTLE, "65536 bytes"),
        (1 << 20, GIB, "stream-unused"),
        (GIB / 2, 2 * GIB - LITTLE, "65536 bytes"),
        (GIB / 2, 2 * GIB, "stream-unused"),
    ] {
        assert_eq!(outcome(far_table(size, gap), gap), expected, "{size} {gap}");
    }
}

#[test]
fn as_much_may_follow_the_last_byte_that_it_uses() {
    for (size, gap, expected) in [
        (GIB, 8 * GIB - (128 << 10), "65536 bytes"),
        (GIB, 8 * GIB, "qcow2-trailing-excess"),
        (3 * GIB, 12 * GIB - (128 << 10), "65536 bytes"),
        (3 * GIB, 12 * GIB, "qcow2-trailing-excess"),
    ] {
        // The last part is one byte more.
        assert_eq!(outcome([disk(size).build().image, vec![0]], gap), expected, "{size} {gap}");
    }
}

#[test]
fn what_was_sent_as_it_is_may_be_left_unused() {
    let gap = 9 * GIB;
    let [head, tail] = far_data(1 << 20, gap);
    let sent = Cursor::new(head).chain(repeat(0).take(gap)).chain(Cursor::new(tail));
    // A plain stream has a bound by the largest disk that is allowed.
    assert_eq!(carried(stream(sent)).unwrap().allocated, 1 << 16);
}
