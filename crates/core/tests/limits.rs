//! Every limit from both sides: with just enough of it an image is carried, with one less it is refused by the limit's name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::{carry, from_file, from_pipe};
use diskferry::{Error, Input, Kind, Limits, Options};
use diskferry_testkit::field::poke;
use diskferry_testkit::oracle::{Scratch, qemu_img};
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::vdi::Vdi;
use diskferry_testkit::vmdk::{Style, Vmdk};
use diskferry_testkit::{Random, wrap};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// One limit: the option that its errors name, and how it is read and set.
struct Knob {
    option: &'static str,
    of: fn(&mut Limits) -> &mut u64,
}

const MAX_SIZE: Knob = Knob { option: "--max-size", of: |limits| &mut limits.virtual_size };
const TABLE: Knob = Knob { option: "--limit-table", of: |limits| &mut limits.table };
const UNIT: Knob = Knob { option: "--limit-unit", of: |limits| &mut limits.unit };
const WINDOW: Knob = Knob { option: "--limit-window", of: |limits| &mut limits.window };
const SPOOL: Knob = Knob { option: "--spool-limit", of: |limits| &mut limits.spool };

/// The least that `knob` can be set to for `image` to be carried. With one less, and with nothing at all, it is refused, and the
/// error says by which limit.
fn least(image: &Path, open: fn(&Path) -> Input, knob: &Knob, disk: &[u8]) -> u64 {
    let scratch = Scratch::new();
    let target = scratch.path("disk.raw");
    let enough = |limit| {
        let mut limits = Limits::default();
        *(knob.of)(&mut limits) = limit;
        let carried = carry(open(image), &target, &Options { limits, ..Options::default() });
        match carried {
            Ok(_) => {
                assert!(fs::read(&target).unwrap() == disk, "another disk with {} {limit}", knob.option);
                fs::remove_file(&target).unwrap();
                true
            }
            Err(error) => {
                assert_names(&error, knob.option, limit);
                false
            }
        }
    };
    let (mut refused, mut carried) = (0, *(knob.of)(&mut Limits::default()));
    assert!(enough(carried) && !enough(refused), "{}: the default is enough, and nothing is not", knob.option);
    while carried - refused > 1 {
        let middle = refused + (carried - refused) / 2;
        *if enough(middle) { &mut carried } else { &mut refused } = middle;
    }
    carried
}

fn assert_names(error: &Error, option: &str, limit: u64) {
    assert_eq!((error.kind(), error.code().as_str()), (Kind::Image, option.trim_start_matches('-')), "{error}");
    let Error::Limit { wanted, limit: allowed, .. } = error else { panic!("{error}") };
    assert!(*wanted > limit && *allowed == limit, "{error}, where {limit} was set");
    assert!(error.to_string().ends_with(&format!(": {wanted} wanted, the limit is {limit} ({option})")), "{error}");
}

/// As [`least`], from a file and from a pipe, which must be the same.
fn least_of_both(bytes: &[u8], knob: &Knob, disk: &[u8]) -> u64 {
    let scratch = Scratch::new();
    let image = scratch.write("image", bytes);
    let [of_file, of_pipe] = [from_file as fn(&Path) -> _, from_pipe].map(|open| least(&image, open, knob, disk));
    assert_eq!(of_file, of_pipe, "{}", knob.option);
    of_file
}

fn qcow2() -> Qcow2 {
    let mut image = Qcow2 { cluster_bits: 16, ..Qcow2::new(4 * MIB + 512) };
    for guest in [0, 1, 7, 63, 64] {
        image.clusters.insert(guest, Cluster::Plain(Random::new(guest).bytes(64 << 10)));
    }
    image.clusters.insert(3, Cluster::Packed(b"packed".repeat(10_000)));
    image
}

#[test]
fn the_disk_may_be_as_large_as_is_allowed() {
    let (qcow2, vdi) = (qcow2(), Vdi::virtualbox(3 * MIB + 512).fill(1));
    let (vmdk, stream) =
        (Vmdk::new(Style::Sparse, 128 * 40 + 5).fill(1), Vmdk::new(Style::StreamTail, 128 * 9).fill(1));
    for (image, disk) in [
        (qcow2.build().image, qcow2.disk()),
        (vdi.build().image, vdi.disk()),
        (vmdk.build().image, vmdk.disk()),
        (stream.build().image, stream.disk()),
        (Random::new(3).bytes(700 << 10), Random::new(3).bytes(700 << 10)),
    ] {
        assert_eq!(least_of_both(&image, &MAX_SIZE, &disk), disk.len() as u64);
    }
    let disk = Random::new(4).bytes(700 << 10);
    assert_eq!(least_of_both(&wrap::gzip(&disk), &MAX_SIZE, &disk), disk.len() as u64, "as only the end of it tells");
}

#[test]
fn an_unwrapped_mapped_image_may_be_twice_the_disk_and_64_mib_long() {
    // What is between two clusters, as snapshots are, is a part of the stream and none of the disk.
    let disk = 6 * MIB;
    let image = Qcow2 { cluster_bits: 16, ..Qcow2::new(disk) }.fill(2);
    let mut long = image.build().image;
    for (len, is_carried) in [(2 * disk + 64 * MIB, true), (2 * disk + 64 * MIB + 1, false)] {
        long.resize(usize::try_from(len).unwrap(), 0);
        let scratch = Scratch::new();
        let limits = Limits { virtual_size: disk, ..Limits::default() };
        let options = Options { limits, ..Options::default() };
        let target = scratch.path("disk.raw");
        let carried = carry(common::bytes(wrap::zstd(&long, &[])), &target, &options);
        match carried {
            Ok(_) => assert!(is_carried && fs::read(&target).unwrap() == image.disk(), "{len} bytes"),
            Err(error) => assert!(!is_carried && error.code() == "max-size", "{len} bytes: {error}"),
        }
    }
}

#[test]
fn mapping_tables_may_take_as_much_memory_as_is_allowed() {
    let (qcow2, vdi) = (qcow2(), Vdi::virtualbox(9 * MIB).fill(1));
    let (vmdk, stream) = (Vmdk::new(Style::Sparse, 128 * 700).fill(1), Vmdk::new(Style::StreamTail, 128 * 700).fill(1));
    for (name, image, disk) in [
        ("qcow2", qcow2.build().image, qcow2.disk()),
        ("vdi", vdi.build().image, vdi.disk()),
        ("vmdk", vmdk.build().image, vmdk.disk()),
        ("stream", stream.build().image, stream.disk()),
    ] {
        let scratch = Scratch::new();
        let image = scratch.write("image", &image);
        let of_pipe = least(&image, from_pipe, &TABLE, &disk);
        let of_file = least(&image, from_file, &TABLE, &disk);
        assert!(of_file.max(of_pipe) < 16 * KIB, "{name}: {of_file} of a file, {of_pipe} of a pipe");
        // A file lets extents pass before it loads the next table, so it may need less. A stream is read from a pipe without most of them.
        assert!(of_file <= of_pipe || name == "stream", "{name}: {of_file} of a file, {of_pipe} of a pipe");
    }
}

#[test]
fn what_all_tables_of_a_vmdk_take_is_named_at_once() {
    let scratch = Scratch::new();
    let (image, target) = (scratch.path("disk.vmdk"), scratch.path("disk.raw"));
    qemu_img(&["create", "-q", "-f", "vmdk", image.to_str().unwrap(), "128G"]);
    let carried = |table| {
        let limits = Limits { table, ..Limits::default() };
        carry(from_file(&image), &target, &Options { limits, ..Options::default() })
    };
    let Err(Error::Limit { wanted, .. }) = carried(40 * KIB) else { panic!("tables of more than 40 KiB") };
    carried(wanted).unwrap();
}

#[test]
fn a_packed_unit_may_be_as_large_as_is_allowed() {
    let (qcow2, stream) = (qcow2(), Vmdk { grain: 64, ..Vmdk::new(Style::StreamTail, 64 * 9) }.fill(1));
    assert_eq!(least_of_both(&qcow2.build().image, &UNIT, &qcow2.disk()), 64 * KIB);
    assert_eq!(least_of_both(&stream.build().image, &UNIT, &stream.disk()), 32 * KIB);
}

#[test]
fn there_may_be_as_many_wrappings_as_are_allowed() {
    let disk = Random::new(1).bytes(9000);
    let mut image = disk.clone();
    for wrappings in 1..4 {
        image = wrap::gzip(&image);
        for layers in 0..4 {
            let options = Options { limits: Limits { layers, ..Limits::default() }, ..Options::default() };
            if layers < wrappings {
                assert_names(&common::refusal(&image, &options), "--limit-layers", layers.into());
            } else {
                let scratch = Scratch::new();
                let (image, raw) = (scratch.write("image", &image), scratch.write("raw", &disk));
                common::assert_carried(&image, &raw, &options);
            }
        }
    }
}

#[test]
fn windows_and_dictionaries_may_take_as_much_as_is_allowed() {
    let disk = Random::new(1).bytes(300 << 10);
    // The window of a frame of so many bytes is as long as it is, where the tool does not know that before.
    let zstd = wrap::zstd(&disk, &["--long=20"]);
    assert_eq!(least_of_both(&zstd, &WINDOW, &disk), MIB);
    let xz = wrap::xz(&disk, &["--lzma2=dict=1MiB"]);
    assert_eq!(least_of_both(&xz, &WINDOW, &disk), MIB);
    // Those of all wrappings together.
    let both = wrap::xz(&zstd, &["--lzma2=dict=1MiB"]);
    let scratch = Scratch::new();
    let (image, target) = (scratch.write("image", &both), scratch.path("disk.raw"));
    for (window, is_carried) in [(2 * MIB - 1, false), (2 * MIB, true)] {
        let options = Options { limits: Limits { window, ..Limits::default() }, ..Options::default() };
        match carry(from_pipe(&image), &target, &options) {
            Ok(_) => assert!(is_carried && fs::read(&target).unwrap() == disk, "{window}"),
            Err(error) => assert!(!is_carried && error.code() == "limit-window", "{window}: {error}"),
        }
    }
}

#[test]
fn as_much_may_wait_as_is_allowed() {
    let image = Qcow2 { l1: Place::Behind, l2: Place::Behind, ..qcow2() };
    let scratch = Scratch::new();
    let path = scratch.write("image", &image.build().image);
    let target = scratch.path("disk.raw");
    let spooled = carry(from_pipe(&path), &target, &Options::default()).unwrap().spooled;
    assert!(spooled > 5 * 64 * KIB, "{spooled}");
    assert_eq!(least(&path, from_pipe, &SPOOL, &image.disk()), spooled);
    // Whether it waits in memory or in a file is for nobody to see.
    for spool_memory in [0, spooled - 1, spooled] {
        let options = Options { limits: Limits { spool_memory, ..Limits::default() }, ..Options::default() };
        let target = scratch.path("other.raw");
        assert_eq!(carry(from_pipe(&path), &target, &options).unwrap().spooled, spooled);
        assert!(fs::read(&target).unwrap() == image.disk(), "with {spool_memory} in memory");
        fs::remove_file(target).unwrap();
    }
}

/// What is no option is a number of the format, or one that qemu-img has as well: the last value that is allowed and the first one that
/// is not.
#[test]
fn fixed_bounds_are_where_the_pages_say() {
    use diskferry_testkit::{qcow2::field as q, vdi::field as v, vmdk::field as m};
    let qcow2 = qcow2().build().image;
    let vdi = Vdi::virtualbox(3 * MIB).fill(1).build().image;
    let vmdk = Vmdk::new(Style::Sparse, 128 * 40).fill(1).build().image;
    let stream = Vmdk::new(Style::StreamTail, 128 * 9).fill(1).build();
    let marker = m::MARKER_SIZE.after(usize::try_from(*stream.grains.values().next().unwrap()).unwrap());
    // With the last value that is allowed the image is carried, or contradicts something else, which is found after the bound.
    for (image, field, allowed, found, refused, code) in [
        (&qcow2, q::CLUSTER_BITS, 9, "qcow2-l1-too-small", 8, "qcow2-cluster-bits"),
        (&qcow2, q::CLUSTER_BITS, 21, "qcow2-table-unaligned", 22, "qcow2-cluster-bits"),
        (&qcow2, q::L1_ENTRIES, 4 << 20, "qcow2-tables-overlap", (4 << 20) + 1, "qcow2-l1-too-large"),
        (&qcow2, q::REFCOUNT_CLUSTERS, 128, "qcow2-tables-overlap", 129, "qcow2-refcount-table"),
        (&qcow2, q::SNAPSHOTS, 65536, "carried", 65537, "qcow2-snapshots"),
        (&qcow2, q::REFCOUNT_ORDER, 6, "carried", 7, "qcow2-refcount-order"),
        (&qcow2, q::HEADER_LENGTH, 104, "carried", 96, "qcow2-header-length"),
        (&qcow2, q::HEADER_LENGTH, 65536, "carried", 65544, "qcow2-header-length"),
        (&vdi, v::BLOCK_SIZE, 512, "vdi-too-few-blocks", 256, "vdi-block-size"),
        (&vdi, v::BLOCKS, 0x3fff_ffff, "vdi-data-offset", 0x4000_0000, "vdi-too-many-blocks"),
        (&vmdk, m::GRAIN, 8, "carried", 4, "vmdk-grain-size"),
        (&vmdk, m::GRAIN, 1 << 17, "carried", 1 << 18, "vmdk-grain-size"),
        (&vmdk, m::TABLE_ENTRIES, 1, "carried", 0, "vmdk-table-entries"),
        (&vmdk, m::TABLE_ENTRIES, 512, "carried", 513, "vmdk-table-entries"),
        (&vmdk, m::DESCRIPTOR_SIZE, 1, "carried", 0, "vmdk-descriptor-size"),
        (&vmdk, m::DESCRIPTOR_SIZE, 2047, "vmdk-tables-overlap", 2048, "vmdk-descriptor-size"),
        (&stream.image, marker, 2 * 65536, "vmdk-marker-range", 2 * 65536 + 1, "vmdk-marker-size"),
    ] {
        let code_with = |value| {
            let (scratch, mut bent) = (Scratch::new(), image.clone());
            poke(&mut bent, field, value);
            let carried = carry(common::bytes(bent), &scratch.path("disk.raw"), &Options::default());
            carried.map_or_else(|error| error.code(), |_| "carried".into())
        };
        assert_eq!(code_with(allowed), found, "{allowed} in {field:?}");
        assert_eq!(code_with(refused), code, "{refused} in {field:?}");
    }
}

#[test]
fn a_vmdk_may_have_as_many_grain_tables_as_qemu_has() {
    use diskferry_testkit::vmdk::{Descriptor, field as m};
    const MOST: u64 = 1 << 25;
    for tables in [MOST, MOST + 1] {
        // Of one grain each, of which no table is there.
        let capacity = tables * 8;
        let descriptor = Descriptor::new("monolithicSparse", capacity, "disk.vmdk").text().into_bytes();
        let mut image = Vmdk { grain: 8, redundant: false, descriptor, ..Vmdk::new(Style::Sparse, 8) }.build().image;
        let directory = image.len() as u64;
        let end = directory + (tables * 4).next_multiple_of(4096);
        let fields = [
            (m::CAPACITY, capacity),
            (m::TABLE_ENTRIES, 1),
            (m::DIRECTORY_OFFSET, directory / 512),
            (m::OVERHEAD, end / 512),
        ];
        fields.into_iter().for_each(|(field, value)| poke(&mut image, field, value));
        let scratch = Scratch::new();
        let (path, target) = (scratch.write("disk.vmdk", &image), scratch.path("disk.raw"));
        File::options().write(true).open(&path).unwrap().set_len(end).unwrap();
        let carried = carry(from_file(&path), &target, &Options::default());
        match carried {
            Ok(report) => assert_eq!((tables, report.inspection.unpacked_size), (MOST, Some(MOST * 4096))),
            Err(error) => assert_eq!((tables, error.code().as_ref()), (MOST + 1, "vmdk-directory-size"), "{error}"),
        }
    }
}

#[test]
fn the_name_of_a_backing_file_may_be_as_long_as_qemu_has_it() {
    for (len, code) in [(1023, "qcow2-backing-file"), (1024, "qcow2-backing-name")] {
        let image = Qcow2 { backing: Some((vec![b'a'; len], b"raw".to_vec())), ..Qcow2::new(MIB) };
        assert_eq!(common::refusal(&image.build().image, &Options::default()).code(), code, "{len}");
    }
}
