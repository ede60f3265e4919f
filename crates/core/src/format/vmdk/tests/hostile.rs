//! Hostile: each field bent gives its error, and no byte that is changed makes us panic.

use diskferry_testkit::vmdk::{Built, Descriptor, Grain, field};
use diskferry_testkit::{Field, Random, poke};

use super::*;

const ONES: u64 = u64::MAX;

/// What becomes of an image that is bent by `bend`, from a file and from a pipe.
fn bent(spec: &Vmdk, bend: impl FnOnce(&mut Built)) -> [String; 2] {
    let mut built = spec.build();
    bend(&mut built);
    Bytes::both(&built.image).map(|mut source| code_of(&mut source))
}

fn assert_bent(style: Style, field: Field, value: u64, code: &str) {
    let found = bent(&several_tables(style), |built| poke(&mut built.image, field, value));
    assert_eq!(found, [code; 2], "{style:?}: {value:#x} in {field:?}");
}

#[test]
fn each_field_of_the_header() {
    use Style::{Sparse, StreamQemu, StreamTail};
    for (style, field, value, code) in [
        (Sparse, field::MAGIC, 0, "vmdk-not-this-format"),
        (Sparse, field::VERSION, 0, "vmdk-version"),
        (Sparse, field::VERSION, 4, "vmdk-version"),
        (Sparse, field::FLAGS, 0xb, "vmdk-flags"),
        (Sparse, field::FLAGS, 0x4_0003, "vmdk-flags"),
        (Sparse, field::FLAGS, 0x1_0003, "vmdk-compression-flags"),
        (Sparse, field::FLAGS, 0x2_0003, "vmdk-compression-flags"),
        (StreamQemu, field::FLAGS, 0x1_0003, "vmdk-no-markers"),
        (StreamQemu, field::FLAGS, 3, "vmdk-compression-flags"),
        (Sparse, field::NEWLINES, 0x0d0a_200d, "vmdk-text-transfer"),
        (Sparse, field::COMPRESSION, 2, "vmdk-compression"),
        (Sparse, field::COMPRESSION, 1, "vmdk-compression-flags"),
        (Sparse, field::CAPACITY, 0, "vmdk-descriptor-only"),
        (Sparse, field::CAPACITY, ONES, "vmdk-offset-range"),
        (Sparse, field::CAPACITY, 1 << 50, "vmdk-directory-size"),
        (Sparse, field::CAPACITY, 2100 * 8 - 4, "vmdk-capacity-disagrees"),
        (Sparse, field::CAPACITY, 2100 * 8 + 8, "vmdk-capacity-disagrees"),
        (Sparse, field::GRAIN, 0, "vmdk-grain-size"),
        (Sparse, field::GRAIN, 4, "vmdk-grain-size"),
        (Sparse, field::GRAIN, 24, "vmdk-grain-size"),
        (Sparse, field::GRAIN, 1 << 18, "vmdk-grain-size"),
        (Sparse, field::GRAIN, ONES, "vmdk-grain-size"),
        (StreamQemu, field::GRAIN, 1 << 17, "limit-unit"),
        (Sparse, field::DESCRIPTOR_OFFSET, 0, "vmdk-piece"),
        (Sparse, field::DESCRIPTOR_OFFSET, ONES, "vmdk-offset-range"),
        (Sparse, field::DESCRIPTOR_OFFSET, 1 << 40, "vmdk-ends-early"),
        (Sparse, field::DESCRIPTOR_SIZE, 0, "vmdk-descriptor-size"),
        (Sparse, field::DESCRIPTOR_SIZE, 2048, "vmdk-descriptor-size"),
        (Sparse, field::DESCRIPTOR_SIZE, ONES, "vmdk-descriptor-size"),
        (Sparse, field::TABLE_ENTRIES, 0, "vmdk-table-entries"),
        (Sparse, field::TABLE_ENTRIES, 513, "vmdk-table-entries"),
        (Sparse, field::REDUNDANT_OFFSET, 1 << 55, "vmdk-offset-range"),
        (Sparse, field::REDUNDANT_OFFSET, (1 << 54) - 1, "vmdk-offset-range"),
        (Sparse, field::DIRECTORY_OFFSET, 0, "vmdk-tables-overlap"),
        (Sparse, field::DIRECTORY_OFFSET, 1 << 55, "vmdk-offset-range"),
        (Sparse, field::DIRECTORY_OFFSET, ONES, "vmdk-directory-at-end"),
        (Sparse, field::OVERHEAD, ONES, "vmdk-offset-range"),
        (Sparse, field::OVERHEAD, 1 << 40, "vmdk-ends-early"),
        (StreamQemu, field::OVERHEAD, 0, "vmdk-overhead"),
        (StreamTail, field::OVERHEAD, 1, "vmdk-overhead"),
        (StreamQemu, field::OVERHEAD, 1 << 40, "vmdk-ends-early"),
        (StreamTail, field::REDUNDANT_OFFSET, ONES, "carried"),
        (Sparse, field::UNCLEAN, 1, "carried"),
    ] {
        assert_bent(style, field, value, code);
    }
}

#[test]
fn an_unclean_image_is_carried_with_a_warning() {
    let mut image = small(Style::Sparse).build().image;
    poke(&mut image, field::UNCLEAN, 1);
    let opened = open(&mut Bytes::file(&image)).unwrap();
    assert_eq!(opened.info().warnings.len(), 1);
}

#[test]
fn a_refused_image_can_be_looked_at() {
    let descriptor = Descriptor::new("monolithicSparse", 240, "disk.vmdk").with("parentFileNameHint", "base.vmdk");
    let image = Vmdk { descriptor: descriptor.text().into_bytes(), ..small(Style::Sparse) }.build().image;
    let opened = open(&mut Bytes::pipe(&image)).unwrap();
    assert_eq!(opened.info().backing.as_deref(), Some("base.vmdk"));
    assert_eq!(code_of(&mut Bytes::pipe(&image)), "vmdk-parent");
}

#[test]
fn a_create_type_of_the_other_kind_is_refused() {
    let descriptor = Descriptor::new("monolithicSparse", 240, "disk.vmdk").text().into_bytes();
    let image = Vmdk { descriptor, ..small(Style::StreamTail) }.build().image;
    assert_eq!(code_of(&mut Bytes::pipe(&image)), "vmdk-create-type");
}

#[test]
fn other_kinds_are_known_and_refused_by_name() {
    for (head, code) in [
        (&b"COWD\x01\0\0\0"[..], "vmdk-cowd"),
        (b"\xbe\xba\xfe\xca\0\0\0\0\x01\0\0\0\x02\0\0\0", "vmdk-sesparse"),
        (b"# Disk DescriptorFile\nversion=1\n", "vmdk-descriptor-only"),
        (b"\xef\xbb\xbf\n # disk descriptorFILE", "vmdk-descriptor-only"),
        (b"KDMV\x01\0\0\0", "vmdk-ends-early"),
    ] {
        assert!((VMDK.probe)(head), "{head:?}");
        assert_eq!(code_of(&mut Bytes::pipe(head)), code);
    }
    assert!(!(VMDK.probe)(b"VMDK") && !(VMDK.probe)(&[]));
    assert!(!(VMDK.probe)(b"\xbe\xba\xfe\xca\0\0\0\x02"), "a program for a Mac");
}

#[test]
fn directory_entries_of_a_sparse_image() {
    let spec = several_tables(Style::Sparse);
    let second = spec.build().tables[&1] / SECTOR;
    for (value, code) in [
        // Without a table its grains are a hole: nothing says otherwise.
        (0, "carried"),
        (1, "vmdk-tables-overlap"),
        (second, "vmdk-tables-overlap"),
        (u64::from(u32::MAX), "vmdk-ends-early"),
    ] {
        let found = bent(&spec, |built| poke(&mut built.image, field::entry(built.directory, 0), value));
        assert_eq!(found, [code; 2], "{value}");
    }
}

#[test]
fn table_entries_of_a_sparse_image() {
    let spec = several_tables(Style::Sparse);
    // Entry 1 is a hole only if the header says so.
    for (value, code) in [(1, "vmdk-data-in-metadata"), (u64::from(u32::MAX), "vmdk-ends-early")] {
        let found = bent(&spec, |built| poke(&mut built.image, field::entry(built.tables[&0], 0), value));
        assert_eq!(found, [code; 2], "{value}");
    }
}

#[test]
fn markers() {
    for style in [Style::StreamQemu, Style::StreamTail] {
        for (field, value, code) in [
            (field::MARKER_VALUE, 4, "vmdk-marker-grid"),
            (field::MARKER_VALUE, 2100 * 8, "vmdk-marker-range"),
            (field::MARKER_VALUE, ONES, "vmdk-marker-range"),
            (field::MARKER_SIZE, 8193, "vmdk-marker-size"),
            (field::MARKER_SIZE, u64::from(u32::MAX), "vmdk-marker-size"),
        ] {
            let found = bent(&several_tables(style), |built| {
                let marker = *built.grains.values().next().unwrap() as usize;
                poke(&mut built.image, field.after(marker), value);
            });
            assert_eq!(found, [code; 2], "{style:?}: {value:#x} in {field:?}");
        }
    }
}

#[test]
fn markers_that_are_no_grains() {
    let spec = several_tables(Style::StreamTail);
    for (marker, field, value, code) in [
        (1, field::MARKER_VALUE, 5, "vmdk-marker-length"),
        (1, field::MARKER_TYPE, 5, "vmdk-marker-type"),
        (2, field::MARKER_TYPE, 5, "vmdk-marker-type"),
        (1, field::MARKER_TYPE, 2, "vmdk-marker-length"),
        (2, field::MARKER_VALUE, 0, "vmdk-marker-length"),
        (2, field::MARKER_TYPE, 3, "vmdk-not-this-format"),
    ] {
        let found = bent(&spec, |built| {
            let at = if marker == 1 { built.tables[&0] } else { built.directory } - SECTOR;
            poke(&mut built.image, field.after(at as usize), value);
        });
        assert_eq!(found.last().map(String::as_str), Some(code), "{value} in {field:?}");
    }
    let early = bent(&spec, |built| {
        let at = (built.directory - SECTOR) as usize;
        built.image[at..at + 512].fill(0);
    });
    assert_eq!(early, ["vmdk-no-footer"; 2]);
    let among_grains = bent(&several_tables(Style::StreamOpenVmdk), |built| {
        let at = built.end_of_stream as usize;
        poke(&mut built.image, field::MARKER_TYPE.after(at), 1);
        poke(&mut built.image, field::MARKER_VALUE.after(at), 4);
        built.image.extend([0; 2048]);
    });
    assert_eq!(among_grains, ["vmdk-marker-order"; 2]);
}

#[test]
fn tables_that_disagree_with_the_markers() {
    for (style, code) in [(Style::StreamOpenVmdk, "vmdk-grain-count"), (Style::StreamTail, "vmdk-table-disagrees")] {
        let spec = several_tables(style);
        let found = bent(&spec, |built| {
            let grain = *built.grains.keys().next().unwrap();
            poke(&mut built.image, field::entry(built.tables[&0], grain), 0);
        });
        // The first grain is the one by which a table behind is known.
        assert_eq!(found, [code; 2], "{style:?}: a grain that no table names");
        let found = bent(&spec, |built| {
            let hole = (0..512).find(|index| !built.grains.contains_key(index)).unwrap();
            poke(&mut built.image, field::entry(built.tables[&0], hole), 77);
        });
        assert_eq!(found, [code; 2], "{style:?}: a table that names no grain");
        let found = bent(&spec, |built| {
            let (index, at) = built.grains.iter().next().map(|(index, at)| (*index, *at)).unwrap();
            poke(&mut built.image, field::entry(built.tables[&0], index), at / SECTOR + 1);
        });
        assert_eq!(found, ["vmdk-table-disagrees"; 2], "{style:?}: another place");
    }
}

#[test]
fn a_directory_behind_that_disagrees_with_its_tables() {
    let spec = several_tables(Style::StreamTail);
    for index in [0, 1] {
        for value in [0, 9, u64::from(u32::MAX)] {
            let found = bent(&spec, |built| poke(&mut built.image, field::entry(built.directory, index), value));
            if (index, value) == (1, 0) {
                assert_eq!(found, ["carried"; 2], "the second table is not stored");
            } else {
                assert_eq!(found[1], "vmdk-directory-disagrees", "{value} in entry {index}");
                assert_ne!(found[0], "carried", "{value} in entry {index}");
            }
        }
    }
}

#[test]
fn a_directory_said_to_be_behind_the_grains() {
    let [of_file, of_pipe] = bent(&several_tables(Style::StreamQemu), |built| {
        poke(&mut built.image, field::DIRECTORY_OFFSET, 1 << 30);
    });
    assert_eq!([of_file, of_pipe], ["vmdk-ends-early", "vmdk-no-footer"]);
    let spec = several_tables(Style::StreamVmdktool);
    let built = spec.build();
    // In turn: where its marker is, a grain, all ones.
    for (directory, code) in
        [(built.directory / SECTOR - 1, "vmdk-footer"), (built.grains[&0] / SECTOR, "vmdk-footer"), (ONES, "carried")]
    {
        let [of_file, of_pipe] = bent(&spec, |built| poke(&mut built.image, field::DIRECTORY_OFFSET, directory));
        assert_eq!(of_pipe, code, "{directory}");
        assert_eq!(of_file == "carried", code == "carried", "{directory}: {of_file}");
    }
}

fn xen_orchestra() -> Vmdk {
    Vmdk { padding: 5, ..several_tables(Style::StreamXenOrchestra) }
}

/// Where the first copy of the tables begins, which is the redundant one.
fn first_copy(built: &Built) -> u64 {
    field::entry(built.redundant, 0).peek(&built.image) * SECTOR
}

#[test]
fn tables_whose_markers_count_nothing_have_to_agree_with_all_grains() {
    let spec = xen_orchestra();
    assert_eq!(bent(&spec, |_| ()), ["carried"; 2]);
    let hole = (0..512).find(|index| !spec.grains.contains_key(index)).unwrap();
    let grain = *spec.grains.keys().next().unwrap();
    for (entry, value, code) in [
        (grain, 0, "vmdk-grain-count"),
        (grain, 1, "vmdk-table-disagrees"),
        (hole, 77, "vmdk-grain-count"),
        (hole, u64::from(u32::MAX), "vmdk-grain-count"),
    ] {
        let found = bent(&spec, |built| poke(&mut built.image, field::entry(built.tables[&0], entry), value));
        assert_eq!(found, [code, "vmdk-uncounted-marker"], "{value} in entry {entry}");
        // From a file, the other copy is not needed.
        let found = bent(&spec, |built| {
            let entry = field::entry(first_copy(built), entry);
            poke(&mut built.image, entry, value);
        });
        assert_eq!(found, ["carried", "vmdk-uncounted-marker"], "{value} in entry {entry} of the first copy");
    }
    for (field, value, code) in [
        (field::MARKER_VALUE, 8, "vmdk-table-disagrees"),
        (field::MARKER_VALUE, 4, "vmdk-marker-grid"),
        (field::MARKER_VALUE, ONES, "vmdk-marker-range"),
        (field::MARKER_SIZE, 8193, "vmdk-marker-size"),
    ] {
        let [of_file, of_pipe] = bent(&spec, |built| {
            let marker = *built.grains.values().next().unwrap() as usize;
            poke(&mut built.image, field.after(marker), value);
        });
        assert_eq!(of_file, code, "{value:#x} in {field:?}");
        assert_ne!(of_pipe, "carried", "{value:#x} in {field:?}");
    }
}

#[test]
fn tables_that_are_found_by_the_footer_alone() {
    let spec = xen_orchestra();
    let built = spec.build();
    let first = first_copy(&built) - SECTOR;
    let second = built.tables[&0] - SECTOR;
    for (at, field, value, codes) in [
        // The marker behind the zeroes, of the second copy, and of its directory.
        (first, field::MARKER_TYPE, 2, ["carried", "vmdk-uncounted-marker"]),
        (first, field::MARKER_VALUE, 4, ["carried", "vmdk-uncounted-marker"]),
        (first, field::MARKER_TYPE, 77, ["carried", "vmdk-uncounted-marker"]),
        (second, field::MARKER_VALUE, 4, ["carried", "vmdk-uncounted-marker"]),
        (second, field::MARKER_TYPE, 0, ["carried", "vmdk-uncounted-marker"]),
        (second, field::MARKER_SIZE, 512, ["carried", "vmdk-uncounted-marker"]),
        (built.directory - SECTOR, field::MARKER_TYPE, 3, ["carried", "vmdk-uncounted-marker"]),
        // Of no consequence: it is known how many follow.
        (built.footer - SECTOR, field::MARKER_VALUE, 1, ["carried", "carried"]),
        (built.directory - SECTOR, field::MARKER_VALUE, 1, ["carried", "carried"]),
    ] {
        let found = bent(&spec, |built| poke(&mut built.image, field.after(at as usize), value));
        assert_eq!(found, codes, "{value} in {field:?} at {at}");
    }
    // No zeroes in front: a marker that cannot follow the grains.
    let spec = Vmdk { padding: 0, ..spec };
    let first = first_copy(&spec.build()) - SECTOR;
    for (field, value, code) in [
        (field::MARKER_TYPE, 2, "vmdk-marker-order"),
        (field::MARKER_TYPE, 77, "vmdk-marker-type"),
        (field::MARKER_VALUE, 4, "vmdk-marker-length"),
    ] {
        let [of_file, of_pipe] = bent(&spec, |built| poke(&mut built.image, field.after(first as usize), value));
        assert_eq!(of_file, code, "{value} in {field:?}");
        assert_ne!(of_pipe, "carried", "{value} in {field:?}");
    }
}

#[test]
fn tables_that_are_found_by_the_footer_overlap_nothing() {
    let spec = xen_orchestra();
    let built = spec.build();
    let last_grain = built.grains.values().max().unwrap() / SECTOR;
    for (entry, value) in [
        (field::entry(built.directory, 0), 1),
        (field::entry(built.directory, 0), last_grain),
        (field::entry(built.directory, 0), built.directory / SECTOR),
        (field::entry(built.directory, 0), built.tables[&1] / SECTOR),
        (field::entry(built.directory, 4), built.footer / SECTOR - 4),
        (field::entry(built.directory, 0), u64::from(u32::MAX)),
        (field::DIRECTORY_OFFSET.after(built.footer as usize), last_grain),
        (field::DIRECTORY_OFFSET.after(built.footer as usize), built.footer / SECTOR),
        (field::DIRECTORY_OFFSET.after(built.footer as usize), 1),
    ] {
        let found = bent(&spec, |built| poke(&mut built.image, entry, value));
        assert!(!found.contains(&"carried".to_owned()), "{value} in {entry:?}: {found:?}");
    }
    let found = bent(&spec, |built| poke(&mut built.image, field::entry(built.directory, 0), last_grain));
    assert_eq!(found, ["vmdk-data-in-metadata", "vmdk-uncounted-marker"]);
    // Zeroes over the last grain's own marker: the tables promise more than comes.
    let found = bent(&spec, |built| built.image[(last_grain * SECTOR) as usize..][..512].fill(0));
    assert_eq!(found[0], "vmdk-grain-count");
    assert_ne!(found[1], "carried");
}

#[test]
fn zeroes_without_an_end_are_no_padding() {
    let spec = Vmdk { padding: 2 * 30 * 8 + 2, ..small(Style::StreamXenOrchestra) };
    assert_eq!(bent(&spec, |_| ()), ["carried", "vmdk-uncounted-marker"]);
    let spec = Vmdk { padding: 2 * 30 * 8 + 1, ..small(Style::StreamXenOrchestra) };
    assert_eq!(bent(&spec, |_| ()), ["carried"; 2]);
    let [_, of_pipe] = bent(&spec, |built| built.image.truncate(first_copy(built) as usize - 512));
    assert_eq!(of_pipe, "vmdk-no-footer");
}

#[test]
fn one_copy_of_tables_whose_markers_count_nothing_is_enough() {
    // As Xen Orchestra wrote it before it wrote two.
    let found = bent(&xen_orchestra(), |built| {
        let second = (built.tables[&0] - SECTOR) as usize..(built.footer - SECTOR) as usize;
        let (footer, directory) = (built.footer as usize - second.len(), built.redundant / SECTOR);
        built.image.drain(second);
        poke(&mut built.image, field::DIRECTORY_OFFSET.after(footer), directory);
    });
    assert_eq!(found, ["carried"; 2]);
}

#[test]
fn a_table_that_is_left_out_is_missed() {
    let [of_file, of_pipe] = bent(&several_tables(Style::StreamTail), |built| {
        let marker = (built.tables.values().max().unwrap() - SECTOR) as usize;
        built.image.drain(marker..marker + 512 + 2048);
    });
    assert_eq!(of_pipe, "vmdk-table-missing");
    assert_ne!(of_file, "carried");
}

#[test]
fn a_table_that_names_no_grain_may_be_stored() {
    const LEN: u64 = 512 + 2048;
    let spec = several_tables(Style::StreamTail);
    for (more, code) in [(0, "carried"), (1, "vmdk-directory-disagrees")] {
        let [of_file, of_pipe] = bent(&spec, |built| {
            let marker = built.directory - SECTOR;
            let mut table = vec![0; LEN as usize];
            poke(&mut table, field::MARKER_VALUE, 4);
            poke(&mut table, field::MARKER_TYPE, 1);
            built.image.splice(marker as usize..marker as usize, table);
            let (directory, footer) = (built.directory + LEN, built.footer + LEN);
            poke(&mut built.image, field::DIRECTORY_OFFSET.after(footer as usize), directory / SECTOR);
            poke(&mut built.image, field::entry(directory, 1), marker / SECTOR + 1 + more);
        });
        assert_eq!(of_pipe, code);
        assert_eq!(of_file == "carried", code == "carried", "{of_file}");
    }
}

#[test]
fn a_footer_that_is_no_copy() {
    let spec = several_tables(Style::StreamTail);
    for (field, value) in [
        (field::MAGIC, 0),
        (field::VERSION, 2),
        (field::FLAGS, 0x3_0005),
        (field::CAPACITY, 2100 * 8),
        (field::GRAIN, 16),
        (field::TABLE_ENTRIES, 256),
        (field::DESCRIPTOR_SIZE, 1),
        (field::DIRECTORY_OFFSET, ONES),
        (field::DIRECTORY_OFFSET, 1),
    ] {
        let found = bent(&spec, |built| poke(&mut built.image, field.after(built.footer as usize), value));
        let expected = if field == field::MAGIC { "vmdk-not-this-format" } else { "vmdk-footer" };
        assert_eq!(found[1], expected, "{value} in {field:?}");
        assert_ne!(found[0], "carried", "{value} in {field:?}");
    }
}

#[test]
fn a_grain_that_comes_twice() {
    for style in [Style::StreamOpenVmdk, Style::StreamTail] {
        let found = bent(&several_tables(style), |built| {
            let mut markers = built.grains.values();
            let first = field::MARKER_VALUE.after(*markers.next().unwrap() as usize).peek(&built.image);
            let second = *markers.next().unwrap() as usize;
            poke(&mut built.image, field::MARKER_VALUE.after(second), first);
        });
        let expected = if style == Style::StreamTail { "vmdk-grain-twice" } else { "vmdk-table-disagrees" };
        assert_eq!(found, [expected; 2]);
    }
}

#[test]
fn a_huge_disk_is_a_matter_of_limits() {
    // 1 EiB at the largest grains: the directory alone would be too much.
    let mut image = small(Style::Sparse).build().image;
    poke(&mut image, field::CAPACITY, 1 << 50);
    poke(&mut image, field::GRAIN, 1 << 17);
    let text = Descriptor::new("monolithicSparse", 1 << 50, "disk.vmdk").text();
    image[512..512 + text.len()].copy_from_slice(text.as_bytes());
    // Entries of the directory that come from whatever lies there.
    image.resize(200 << 20, 1);
    let code = code_of(&mut Bytes::file(&image));
    assert!(["limit-table", "vmdk-tables-overlap"].contains(&code.as_str()), "{code}");
}

#[test]
fn changed_bytes_never_panic() {
    let random = &mut Random::new(17);
    for style in Style::ALL {
        let mut spec = small(style);
        spec.grains.insert(7, Grain::Data(vec![7; 4096]));
        let built = spec.build();
        for _ in 0..1500 {
            let mut image = built.image.clone();
            for _ in 0..=random.below(3) {
                let spans = [0..80, 512..1200, built.directory..built.directory + 16, built.footer..built.footer + 80];
                let markers = built.grains.values().map(|at| *at..*at + 16);
                let tables = built.tables.values().map(|at| *at..*at + 120);
                let spans: Vec<_> = spans.into_iter().chain(markers).chain(tables).collect();
                let span = &spans[random.below(spans.len() as u64) as usize];
                let at = (span.start + random.below(span.end - span.start)) as usize;
                let byte = [0, 1, 0xff, 0x80, random.next_u64() as u8][random.below(5) as usize];
                if let Some(place) = image.get_mut(at) {
                    *place = byte;
                }
            }
            for mut source in Bytes::both(&image) {
                // Reading back on a pipe, or naming a byte not at all, would panic here.
                let opened = open(&mut source);
                let Ok(mut opened) = opened else { continue };
                if opened.plan(&mut source, Order::Source).is_err() {
                    continue;
                }
                while let Ok(Some(_)) = opened.next_extent(&mut source) {}
            }
        }
    }
}
