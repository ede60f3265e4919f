//! Invariant: file and pipe give the same extents, in the order that was asked for where that is possible.

use diskferry_testkit::vmdk::Grain;

use super::*;

fn shapes(source: &mut dyn Source, order: Order) -> Vec<Extent> {
    extents(source, order).unwrap().into_iter().map(|(extent, _)| extent).collect()
}

fn is_zero(extent: &Extent) -> bool {
    extent.body == Body::Zero
}

#[test]
fn file_and_pipe_name_the_same_grains_in_the_order_of_the_image() {
    for style in Style::ALL {
        let image = several_tables(style).build().image;
        let [file, pipe] = Bytes::both(&image).map(|mut source| {
            let mut all = shapes(&mut source, Order::Source);
            all.retain(|extent| !is_zero(extent));
            all
        });
        assert_eq!(file, pipe, "{style:?}");
    }
}

#[test]
fn a_file_is_named_in_virtual_order_when_asked() {
    for style in Style::ALL {
        // Producers write the grains of a stream in order.
        let shuffle = (style == Style::Sparse).then_some(1);
        let image = Vmdk { shuffle, ..several_tables(style) }.build().image;
        let all = shapes(&mut Bytes::file(&image), Order::Virtual);
        assert!(all.is_sorted_by_key(|extent| extent.start), "{style:?}");
    }
}

#[test]
fn grains_of_a_stream_in_any_order_are_all_named_in_either_order() {
    let spec = Vmdk { shuffle: Some(1), ..several_tables(Style::StreamOpenVmdk) };
    let image = spec.build().image;
    let [source, virtual_] = [Order::Source, Order::Virtual].map(|order| {
        let mut all = shapes(&mut Bytes::file(&image), order);
        all.sort_by_key(|extent| extent.start);
        all
    });
    assert_eq!(source, virtual_);
    assert!(assemble(&mut Bytes::pipe(&image), spec.disk().len()).unwrap() == spec.disk());
}

#[test]
fn holes_come_first_where_the_tables_can_be_read_first() {
    for style in [Style::StreamQemu, Style::StreamOpenVmdk, Style::StreamTail] {
        let image = several_tables(style).build().image;
        for mut source in Bytes::both(&image) {
            if style == Style::StreamTail && !source.seekable {
                continue;
            }
            let all = shapes(&mut source, Order::Source);
            assert!(all.iter().skip_while(|extent| is_zero(extent)).all(|extent| !is_zero(extent)), "{style:?}");
        }
    }
}

#[test]
fn tables_on_holes_of_the_image_file_are_not_read() {
    let spec = Vmdk { grain: 8, ..Vmdk::new(Style::Sparse, 100 * 512 * 8) };
    let built = spec.build();
    let tables = built.tables[&0]..built.tables[&99] + 2048;
    let mut source = Bytes::file(&built.image);
    source.holes = vec![tables.start..tables.start + 50 * 2048, tables.start + 51 * 2048..tables.end];
    let all = shapes(&mut source, Order::Source);
    assert!(all.iter().all(is_zero));
    assert!(source.read < 20 * SECTOR + 2 * 4096 + 2048, "{} bytes read", source.read);
}

#[test]
fn a_table_behind_the_end_of_a_file_is_no_hole() {
    let built = Vmdk { grain: 8, redundant: false, ..Vmdk::new(Style::Sparse, 100 * 512 * 8) }.build();
    let cut = built.tables[&40] as usize;
    let mut source = Bytes::file(&built.image[..cut]);
    source.holes.push(built.tables[&0]..u64::MAX);
    assert_eq!(code_of(&mut source), "vmdk-ends-early");
}

#[test]
fn holes_that_a_directory_names_are_handed_out_while_it_is_read() {
    // Every other table is stored, so that no two holes are one.
    let mut spec = Vmdk { grain: 8, ..Vmdk::new(Style::StreamTail, 2000 * 512 * 8) };
    spec.grains = (0..1000).map(|table| (table * 2 * 512, Grain::Data(vec![1]))).collect();
    let image = spec.build().image;
    let source = &mut Bytes::pipe(&image);
    let mut opened = open(source).unwrap();
    opened.plan(source, Order::Source).unwrap();
    let (mut named, mut since, mut most, mut read) = (0, 0, 0, 0);
    while let Some(extent) = opened.next_extent(source).unwrap() {
        since = if source.read == read { since + 1 } else { 1 };
        (named, most, read) = (named + extent.len, most.max(since), source.read);
    }
    assert_eq!(named, 2000 * 512 * 4096);
    // As many as a sector of the directory, or a table, can name.
    assert!(most <= 256, "{most} extents wait");
}
