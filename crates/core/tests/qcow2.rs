//! qcow2 against qemu-img: every option that matters, from a file and from a pipe.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use common::{assert_carried, by_bytes, carry, from_file, from_pipe, refusal, sample};
use diskferry::sink::Discard;
use diskferry::{Error, Limits, Options, Progress, convert};
use diskferry_testkit::field::{Field, poke};
use diskferry_testkit::oracle::{Scratch, assert_same_disk, qemu_img, qemu_io, raw_file_of};
use diskferry_testkit::qcow2::{Built, Cluster, Compression, Place, Qcow2, field};

/// What is different about an image.
type Change = fn(&mut Qcow2);

const MIB: u64 = 1 << 20;

/// Converts `raw` to qcow2 with more arguments for qemu-img.
fn qcow2_of(raw: &Path, arguments: &[&str]) -> PathBuf {
    let image = raw.with_extension("qcow2");
    let mut all = vec!["convert", "-f", "raw", "-O", "qcow2"];
    all.extend(arguments);
    all.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
    qemu_img(&all);
    image
}

/// Compares with what qemu-img reads of `image` now.
fn assert_as_qemu_reads(scratch: &Scratch, image: &Path) -> Vec<diskferry::Report> {
    let expected = scratch.path("expected.raw");
    raw_file_of(image, "qcow2", &expected);
    assert_carried(image, &expected, &Options::default())
}

#[test]
fn every_option_of_qemu_img_gives_the_disk_it_was_made_of() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, 40 * MIB + 512);
    for arguments in [
        &[][..],
        &["-c"],
        &["-o", "compat=0.10"],
        &["-c", "-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-c", "-o", "cluster_size=512"],
        &["-o", "cluster_size=4k"],
        &["-c", "-o", "cluster_size=4k"],
        &["-o", "cluster_size=2M"],
        &["-c", "-o", "cluster_size=2M"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-o", "compression_type=zstd,cluster_size=4k"],
        &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
        &["-c", "-W", "-m", "16"],
        &["-W", "-m", "16"],
        &["-o", "extended_l2=on,cluster_size=16k"],
        &["-o", "extended_l2=on,cluster_size=128k"],
        &["-c", "-o", "extended_l2=on,cluster_size=128k"],
        &["-S", "0"],
        &["-o", "preallocation=metadata"],
        &["-o", "preallocation=falloc"],
        &["-o", "preallocation=full"],
        &["-o", "lazy_refcounts=on"],
        &["-o", "refcount_bits=1"],
        &["-o", "refcount_bits=64"],
    ] {
        let image = qcow2_of(&raw, arguments);
        for report in assert_carried(&image, &raw, &Options::default()) {
            assert_eq!(report.inspection.image.format, "qcow2", "{arguments:?}");
            assert_eq!(report.inspection.stored_size, Some(fs::metadata(&image).unwrap().len()), "{arguments:?}");
            assert_eq!(report.inspection.unpacked_size, Some(fs::metadata(&raw).unwrap().len()), "{arguments:?}");
        }
    }
}

#[test]
fn preallocation_over_several_l2_tables_is_read_from_a_pipe() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, 6 * MIB);
    // Tables of 4 KiB clusters reach 2 MiB: the later ones lie behind all data.
    let image = qcow2_of(&raw, &["-o", "preallocation=full,cluster_size=4k"]);
    let reports = assert_carried(&image, &raw, &Options::default());
    assert_eq!(reports[0].spooled, 0, "a file needs no spool");
    assert!(reports[1].spooled > 2 * MIB, "a pipe does: {}", reports[1].spooled);
}

#[test]
fn writes_discards_and_zeroes_in_any_order_are_read_as_qemu_does() {
    let scratch = Scratch::new();
    for options in ["cluster_size=4k", "cluster_size=64k", "cluster_size=32k,extended_l2=on", "compat=0.10"] {
        let image = scratch.path("worked.qcow2");
        qemu_img(&["create", "-f", "qcow2", "-o", options, image.to_str().unwrap(), "20M"]);
        let mut commands = Vec::new();
        for (pattern, offset) in [(1, 9), (2, 3), (3, 17), (4, 0), (5, 12), (6, 7)] {
            commands.push(format!("write -P {pattern} {offset}M 300k"));
        }
        commands.extend(
            ["discard 3M 128k", "write -z 9M 128k", "write -P 9 3100k 1k", "write -z -u 12M 64k"].map(String::from),
        );
        if options != "compat=0.10" {
            commands.push("write -c -P 8 15M 64k".into());
        }
        let commands: Vec<_> = commands.iter().map(String::as_str).collect();
        qemu_io(&image, "qcow2", &commands);
        assert_as_qemu_reads(&scratch, &image);
    }
}

#[test]
fn a_grown_image_has_its_l1_at_the_end_and_is_read_from_a_pipe() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, 8 * MIB);
    for arguments in [&["-o", "cluster_size=4k"][..], &["-c", "-o", "cluster_size=4k"]] {
        let image = qcow2_of(&raw, arguments);
        qemu_img(&["resize", image.to_str().unwrap(), "4G"]);
        qemu_io(&image, "qcow2", &["write -P 7 3G 1M", "write -P 8 5M 10k"]);
        let reports = assert_as_qemu_reads(&scratch, &image);
        assert!(reports[1].spooled > 0 && reports[0].spooled == 0);
    }
}

#[test]
fn of_an_image_with_snapshots_the_active_layer_is_read() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, 8 * MIB);
    let image = qcow2_of(&raw, &["-c"]);
    qemu_img(&["snapshot", "-c", "before", image.to_str().unwrap()]);
    qemu_io(&image, "qcow2", &["write -P 3 1M 2M", "write -P 4 6M 100k"]);
    let reports = assert_as_qemu_reads(&scratch, &image);
    assert!(reports[0].inspection.image.warnings[0].contains("1 internal snapshots"));
    qemu_img(&["snapshot", "-d", "before", image.to_str().unwrap()]);
    assert_as_qemu_reads(&scratch, &image);
}

#[test]
fn units_that_share_sectors_cost_a_pipe_next_to_nothing() {
    let scratch = Scratch::new();
    let raw = scratch.path("text.raw");
    // Clusters that differ, and pack well.
    let text: Vec<u8> = (0..72 * 256_u16).flat_map(|cluster| cluster.to_le_bytes().repeat(2048)).collect();
    fs::write(&raw, text).unwrap();
    for arguments in [&["-c", "-o", "cluster_size=4k"][..], &["-c", "-W", "-m", "16", "-o", "cluster_size=4k"]] {
        let image = qcow2_of(&raw, arguments);
        let limits = Limits { spool_memory: 0, ..Limits::default() };
        let reports = assert_carried(&image, &raw, &Options { limits, ..Options::default() });
        assert!(reports[1].spooled < MIB, "{arguments:?}: {}", reports[1].spooled);
    }
}

#[test]
fn units_of_two_tables_written_by_turns_are_read_from_a_pipe_when_one_table_has_moved() {
    let scratch = Scratch::new();
    let image = scratch.path("turns.qcow2");
    qemu_img(&["create", "-f", "qcow2", image.to_str().unwrap(), "1G"]);
    let mut commands = Vec::new();
    for unit in 0..120 {
        for table in [0, 512 << 20] {
            commands.push(format!("write -c -P {} {} 64k", unit + 1, table + unit * 65536));
        }
    }
    let commands: Vec<_> = commands.iter().map(String::as_str).collect();
    qemu_io(&image, "qcow2", &commands);
    qemu_img(&["snapshot", "-c", "before", image.to_str().unwrap()]);
    qemu_io(&image, "qcow2", &["write -P 9 1000M 64k"]);
    assert_as_qemu_reads(&scratch, &image);
}

#[test]
fn bitmaps_are_passed_by() {
    let scratch = Scratch::new();
    let image = qcow2_of(&sample(&scratch, 4 * MIB), &[]);
    qemu_img(&["bitmap", "--add", image.to_str().unwrap(), "backup"]);
    assert_as_qemu_reads(&scratch, &image);
}

#[test]
fn every_layout_the_writer_knows_is_read_whole_and_byte_by_byte() {
    let size = 600 * 1024 + 777;
    let layouts: [(&str, Change); 10] = [
        ("as it comes", |_| {}),
        ("L1 at the end", |image| image.l1 = Place::Behind),
        ("L2 behind the data", |image| image.l2 = Place::Behind),
        ("both behind", |image| (image.l1, image.l2) = (Place::Behind, Place::Behind)),
        ("L2 among the data", |image| image.l2 = Place::Scattered(3)),
        ("shuffled", |image| image.shuffle = Some(3)),
        ("zstd", |image| (image.compression, image.incompatible) = (Compression::Zstd, 8)),
        ("512-byte clusters", |image| image.cluster_bits = 9),
        ("dirty and corrupt", |image| image.incompatible = 3),
        ("unknown compatible and autoclear bits", |image| (image.compatible, image.autoclear) = (u64::MAX, u64::MAX)),
    ];
    for (name, change) in layouts {
        let mut writer = Qcow2::new(size);
        writer.cluster_bits = 12;
        change(&mut writer);
        let writer = writer.fill(5);
        let scratch = Scratch::new();
        let image = scratch.write("image.qcow2", &writer.build().image);
        let expected = scratch.write("expected.raw", &writer.disk());
        let reports = assert_carried(&image, &expected, &Options::default());
        let warned = reports[0].inspection.image.warnings.iter().any(|warning| warning.contains("corrupt"));
        assert_eq!(warned, name == "dirty and corrupt");
        let target = scratch.path("disk.raw");
        carry(by_bytes(&image), &target, &Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_same_disk(&target, &expected);
    }
}

#[test]
fn references_and_encryption_are_refused_by_name() {
    const DATA_FILE: u32 = 0x4441_5441;
    let cases: [(&str, Change); 7] = [
        ("qcow2-backing-file", |image| image.backing = Some((b"/etc/passwd".to_vec(), b"raw".to_vec()))),
        ("qcow2-data-file", |image| image.incompatible = 4),
        ("qcow2-data-file", |image| image.extensions.push((DATA_FILE, b"/etc/passwd".to_vec()))),
        ("qcow2-encrypted", |image| image.crypt_method = 1),
        ("qcow2-encrypted", |image| image.crypt_method = 2),
        ("qcow2-encryption-method", |image| image.crypt_method = 3),
        ("qcow2-incompatible-bits", |image| image.incompatible = 1 << 37),
    ];
    for (code, change) in cases {
        let mut writer = Qcow2::new(MIB);
        change(&mut writer);
        let error = refusal(&writer.fill(1).build().image, &Options::default());
        assert_eq!(error.code(), code);
    }
}

/// As QEMU has it.
#[test]
fn a_backing_file_without_a_name_is_none() {
    let scratch = Scratch::new();
    let mut image = Qcow2::new(MIB).fill(1).build().image;
    poke(&mut image, field::BACKING_OFFSET, 1024);
    let image = scratch.write("image", &image);
    let expected = scratch.path("expected.raw");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", image.to_str().unwrap(), expected.to_str().unwrap()]);
    assert_carried(&image, &expected, &Options::default());
}

#[test]
fn each_bent_header_field_gives_its_error() {
    let cases = [
        (field::VERSION, 4, "qcow2-version"),
        (field::CLUSTER_BITS, 8, "qcow2-cluster-bits"),
        (field::CLUSTER_BITS, 22, "qcow2-cluster-bits"),
        (field::SIZE, u64::MAX, "qcow2-l1-too-small"),
        (field::SIZE, 1 << 45, "qcow2-l1-too-small"),
        (field::L1_ENTRIES, 0, "qcow2-l1-too-small"),
        (field::L1_ENTRIES, 0xffff_ffff, "qcow2-l1-too-large"),
        (field::L1_OFFSET, 512, "qcow2-table-unaligned"),
        (field::L1_OFFSET, 1 << 63, "qcow2-table-outside"),
        (field::L1_OFFSET, 1 << 40, "qcow2-ends-early"),
        (field::L1_OFFSET, 0, "qcow2-tables-overlap"),
        (field::REFCOUNT_CLUSTERS, 0, "qcow2-refcount-table"),
        (field::REFCOUNT_CLUSTERS, 0xffff, "qcow2-refcount-table"),
        (field::REFCOUNT_OFFSET, 1, "qcow2-table-unaligned"),
        (field::SNAPSHOTS, 65537, "qcow2-snapshots"),
        (field::REFCOUNT_ORDER, 7, "qcow2-refcount-order"),
        (field::HEADER_LENGTH, 96, "qcow2-header-length"),
        (field::HEADER_LENGTH, 0xffff_fff8, "qcow2-header-length"),
        (field::COMPRESSION, 1, "qcow2-compression-bit"),
        (field::COMPRESSION, 2, "qcow2-compression-type"),
        (field::INCOMPATIBLE, 8, "qcow2-compression-bit"),
        (field::BACKING_OFFSET, 1 << 32, "qcow2-backing-name"),
        (field::BACKING_OFFSET, 1 << 40, "qcow2-backing-name"),
    ];
    let writer = Qcow2::new(MIB).fill(1);
    let image = writer.build().image;
    for (field, value, code) in cases {
        let mut bent = image.clone();
        poke(&mut bent, field, value);
        let error = refusal(&bent, &Options::default());
        assert_eq!(error.code(), code, "{field:?} = {value:#x}: {error}");
    }
}

#[test]
fn each_bent_table_entry_gives_its_error() {
    let mut writer = Qcow2::new(4 * MIB);
    writer.clusters.insert(0, Cluster::Plain(vec![1; 65536]));
    writer.clusters.insert(1, Cluster::Packed(vec![2; 65536]));
    let built = writer.build();
    let l2 = built.l2[&0];
    let cases = [
        (field::entry(built.l1, 0), 0x1_0200, "qcow2-l2-unaligned"),
        (field::entry(built.l1, 0), 1 << 40, "qcow2-ends-early"),
        (field::entry(built.l1, 0), built.l1, "qcow2-tables-overlap"),
        (field::entry(l2, 0), 0x1_0200, "qcow2-cluster-unaligned"),
        (field::entry(l2, 0), 1 << 40, "qcow2-ends-early"),
        (field::entry(l2, 0), l2, "qcow2-data-in-metadata"),
        (field::entry(l2, 1), field::PACKED | 1 << 40, "qcow2-ends-early"),
        (field::entry(l2, 1), field::PACKED | built.clusters[&0], "qcow2-packed-data"),
        (field::entry(l2, 1), field::PACKED, "qcow2-data-in-metadata"),
    ];
    for (field, value, code) in cases {
        let mut bent = built.image.clone();
        poke(&mut bent, field, value);
        let error = refusal(&bent, &Options::default());
        assert_eq!(error.code(), code, "{field:?} = {value:#x}: {error}");
    }
}

#[test]
fn a_table_that_is_read_in_pieces_is_known_by_its_bytes_and_may_not_be_cut() {
    const CLUSTER: u64 = 2 << 20;
    const ENTRY: u64 = 200_000;
    let mut writer = Qcow2::new(CLUSTER / 8 * CLUSTER);
    writer.cluster_bits = 21;
    writer.clusters.insert(ENTRY, Cluster::Plain(vec![1; 512]));
    let mut built = writer.build();
    let l2 = built.l2[&0];
    let cut = &built.image[..usize::try_from(l2 + CLUSTER * 3 / 4).unwrap()];
    assert_eq!(refusal(cut, &Options::default()).code(), "qcow2-ends-early");
    poke(&mut built.image, field::entry(l2, ENTRY), 0x1_0200);
    let error = refusal(&built.image, &Options::default());
    assert_eq!(error.code(), "qcow2-cluster-unaligned");
    assert!(error.to_string().ends_with(&format!("(at byte {})", l2 + 8 * ENTRY)), "{error}");
}

#[test]
fn what_versions_and_clusters_rule_out_gives_its_error() {
    let refused = |writer: Qcow2, bend: &dyn Fn(&mut Built)| {
        let mut built = writer.fill(1).build();
        bend(&mut built);
        refusal(&built.image, &Options::default()).code()
    };
    let small = Qcow2 { cluster_bits: 12, ..Qcow2::new(MIB) };
    let extended = |built: &mut Built| poke(&mut built.image, field::INCOMPATIBLE, 16);
    assert_eq!(refused(small.clone(), &extended), "qcow2-extended-l2-cluster");
    // Behind the header of 112 bytes stand the type and the length of an extension, be it the one that ends them.
    for (kind, len) in [(7, 4096 - 120 + 1), (7, u64::from(u32::MAX)), (0, 4096)] {
        let extension = |built: &mut Built| {
            poke(&mut built.image, Field::be(112, 4), kind);
            poke(&mut built.image, Field::be(116, 4), len);
        };
        assert_eq!(refused(small.clone(), &extension), "qcow2-extension-length", "{kind}, {len}");
    }
    // Those that QEMU knows have a length of their own.
    let known = |kind, len: u64| {
        let image = Qcow2 { crypt_method: 2, ..small.clone() };
        let mut image = image.fill(1).build().image;
        poke(&mut image, Field::be(112, 4), kind);
        poke(&mut image, Field::be(116, 4), len);
        image
    };
    for (kind, lengths) in [(0xe279_2aca, 0..16), (0x2385_2875, 24..25), (0x0537_be77, 16..17)] {
        for len in [0, 1, 15, 16, 17, 23, 24, 25] {
            let code = refusal(&known(kind, len), &Options::default()).code();
            let expected = if lengths.contains(&len) { "qcow2-encrypted" } else { "qcow2-extension-length" };
            assert_eq!(code, expected, "{kind:#x}, {len}");
        }
    }
    let luks_of_a_plain_disk = |built: &mut Built| {
        poke(&mut built.image, Field::be(112, 4), 0x0537_be77);
        poke(&mut built.image, Field::be(116, 4), 16);
    };
    assert_eq!(refused(small.clone(), &luks_of_a_plain_disk), "qcow2-encryption-extension");
    // Four bytes of the first cluster are left for it.
    let long_header = |built: &mut Built| poke(&mut built.image, field::HEADER_LENGTH, 508);
    let smallest = Qcow2 { cluster_bits: 9, ..Qcow2::new(64 << 10) };
    assert_eq!(refused(smallest, &long_header), "qcow2-extension-length");
    let zero = |built: &mut Built| {
        let entry = field::entry(built.l2[&0], 0);
        poke(&mut built.image, entry, built.clusters.values().next().unwrap() | field::ZERO);
    };
    assert_eq!(refused(Qcow2 { version: 2, ..small }, &zero), "qcow2-zero-flag-v2");
    let subclusters = Qcow2 { cluster_bits: 14, extended_l2: true, ..Qcow2::new(MIB) };
    // Stored and zero; stored, and no cluster.
    for (entry, bits) in [(None, 1 << 32 | 1), (Some(0), 1)] {
        let both = |built: &mut Built| {
            let first = field::entry(built.l2[&0], 0);
            let cluster = *built.clusters.values().next().unwrap();
            poke(&mut built.image, first, entry.unwrap_or(cluster));
            poke(&mut built.image, field::entry(built.l2[&0], 1), bits);
        };
        assert_eq!(refused(subclusters.clone(), &both), "qcow2-subcluster-bits", "{bits:#x}");
    }
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    let of = |first: Cluster, last: Cluster| {
        let clusters = [(0, first), (2, last)].into_iter().collect();
        Qcow2 { cluster_bits: 9, clusters, ..Qcow2::new(3 * 512) }
    };
    let (plain, packed) = (|| Cluster::Plain(vec![1; 512]), || Cluster::Packed(b"packed, ".repeat(64)));
    let tables_behind = Qcow2 { l1: Place::Behind, l2: Place::Behind, ..of(plain(), packed()) };
    let options = Options { format: Some("qcow2".parse().unwrap()), threads: 1, ..Options::default() };
    // What packed data leave free of their sectors, and the only entry of L1 of its cluster, is nobody's. A byte of zeroes, whose bits say that
    // they end, is the last of packed data here.
    for (name, writer, end) in [
        ("plain", of(packed(), plain()), (|built| built.clusters[&2] + 512) as fn(&Built) -> u64),
        ("packed", of(plain(), packed()), |built| built.image.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 2),
        ("tables behind", tables_behind, |built| built.l1 + 8),
    ] {
        let built = writer.build();
        let (scratch, end) = (Scratch::new(), end(&built));
        let path = scratch.write("image", &built.image);
        let file = File::options().write(true).open(&path).unwrap();
        for cut in (0..built.image.len() as u64).rev() {
            file.set_len(cut).unwrap();
            for open in [from_file, from_pipe] {
                let result = convert(open(&path), &Discard, &options, &Progress::default());
                let code = result.as_ref().map_or_else(Error::code, |_| "carried".to_owned());
                let expected = match cut {
                    _ if cut >= end => "carried",
                    _ if name == "packed" && cut > built.clusters[&2] => "qcow2-packed-data",
                    _ => "qcow2-ends-early",
                };
                assert_eq!(code, expected, "{name}, cut at {cut}");
            }
        }
        let least = &built.image[..usize::try_from(end).unwrap()];
        assert_carried(&scratch.write("image", least), &scratch.write("raw", &writer.disk()), &options);
    }
}

#[test]
fn tiny_units_of_far_places_between_those_of_near_ones_come_from_a_pipe_too() {
    let scratch = Scratch::new();
    let image = scratch.path("mixed.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "2G"]);
    // The far unit shares a sector with near ones, and its table lies behind 4 MiB of data.
    let mut writes: Vec<_> =
        ["write -c -P 1 0 64k", "write -P 9 8M 4M", "write -c -P 2 1G 64k"].map(str::to_owned).into();
    writes.extend((1..13).map(|place| format!("write -c -P {} {}k 64k", place + 2, place * 64)));
    let writes: Vec<_> = writes.iter().map(String::as_str).collect();
    qemu_io(&image, "qcow2", &writes);
    for report in assert_as_qemu_reads(&scratch, &image) {
        assert!(report.spooled < MIB, "{report:?}");
    }
}
