//! Random sound images, small ones, of every layout that the writers know.

use diskferry_testkit::qcow2::{Compression, Place, Qcow2};
use diskferry_testkit::vdi::Vdi;
use diskferry_testkit::vmdk::{Descriptor, Style, Vmdk};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Where tables may lie.
pub fn place() -> impl Strategy<Value = Place> {
    prop_oneof![Just(Place::Front), Just(Place::Behind), Just(Place::Before), any::<u64>().prop_map(Place::Scattered)]
}

prop_compose! {
    /// Every layout that the writer knows.
    pub fn qcow2()(
        is_v3 in any::<bool>(),
        cluster_bits in 9..17_u32,
        clusters in 0..150_u64,
        rest in 1..512_u64,
        refcount_order in 0..7_u32,
        is_zstd in any::<bool>(),
        has_subclusters in any::<bool>(),
        l1 in place(),
        l2 in place(),
        shuffle in option::of(any::<u64>()),
        seed in any::<u64>(),
    ) -> Qcow2 {
        const SUBCLUSTERS_FROM: u32 = 14;
        // Enough clusters for several L2 tables where they are small, few of the large ones.
        let size = ((clusters << cluster_bits) % (2 << 20)) + rest;
        Qcow2 {
            version: if is_v3 { 3 } else { 2 },
            cluster_bits,
            refcount_order: if is_v3 { refcount_order } else { 4 },
            compression: if is_v3 && is_zstd { Compression::Zstd } else { Compression::Deflate },
            extended_l2: is_v3 && has_subclusters && cluster_bits >= SUBCLUSTERS_FROM,
            l1,
            l2,
            shuffle,
            ..Qcow2::new(size)
        }.fill(seed)
    }
}

prop_compose! {
    /// Blocks of any size, of which qemu-img takes those of 1 MiB.
    pub fn vdi()(
        is_virtualbox in any::<bool>(),
        kind in 1..3_u32,
        block_bits in 12..21_u32,
        size in 1..(3_u64 << 20),
        extra in select(vec![0, 512, 4096_u32]),
        shuffle in option::of(any::<u64>()),
        seed in any::<u64>(),
    ) -> Vdi {
        let layout = if is_virtualbox { Vdi::virtualbox(size) } else { Vdi::qemu(size) };
        Vdi { kind, block_size: 1 << block_bits, extra, shuffle, ..layout }.fill(seed)
    }
}

prop_compose! {
    /// As each producer writes it.
    pub fn vmdk()(
        style in select(vec![Style::Sparse, Style::StreamQemu, Style::StreamOpenVmdk, Style::StreamTail]),
        version in 1..4_u32,
        grain_bits in 3..8_u32,
        capacity in 1..6000_u64,
        redundant in any::<bool>(),
        shuffle in option::of(any::<u64>()),
        name in "[a-zA-Z0-9 _.-]{1,40}",
        seed in any::<u64>(),
    ) -> Vmdk {
        let layout = Vmdk::new(style, capacity);
        let create_type = if style == Style::Sparse { "monolithicSparse" } else { "streamOptimized" };
        Vmdk {
            version,
            grain: 1 << grain_bits,
            redundant: redundant && style != Style::StreamTail,
            descriptor: Descriptor::new(create_type, capacity, &name).text().into_bytes(),
            shuffle: shuffle.filter(|_| style != Style::StreamTail),
            ..layout
        }.fill(seed)
    }
}
