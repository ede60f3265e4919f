//! The oracle accepts what the qcow2 writer makes and reads the promised bytes.

use diskferry_testkit::qcow2::{Cluster, Compression, Place, Qcow2};
use diskferry_testkit::{Scratch, qemu_img, raw_of};

/// qemu-img reads whole sectors only and drops what is left of an odd disk.
fn assert_accepted(name: &str, spec: &Qcow2) {
    let scratch = Scratch::new();
    let path = scratch.write("image", &spec.build().image);
    let check = qemu_img(&["check".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str()]);
    assert!(check.contains("No errors were found"), "{name}: {check}");
    let mut disk = spec.disk();
    disk.truncate(disk.len() / 512 * 512);
    assert!(raw_of(&path, "qcow2") == disk, "{name}: qemu-img reads other bytes");
}

fn small(cluster_bits: u32) -> Qcow2 {
    Qcow2 { cluster_bits, ..Qcow2::new(150 * (1 << cluster_bits) + 1536) }
}

#[test]
fn versions_cluster_sizes_and_refcount_widths() {
    for version in [2, 3] {
        for cluster_bits in [9, 12, 16, 18] {
            let spec = Qcow2 { version, ..small(cluster_bits) }.fill(7);
            assert_accepted(&format!("version {version}, cluster bits {cluster_bits}"), &spec);
        }
    }
    for refcount_order in 0..=6 {
        let spec = Qcow2 { refcount_order, ..small(12) }.fill(8);
        assert_accepted(&format!("refcount order {refcount_order}"), &spec);
    }
}

#[test]
fn tables_and_data_anywhere() {
    let places = [Place::Front, Place::Behind, Place::Before, Place::Scattered(5)];
    for l2 in places {
        for l1 in [Place::Front, Place::Behind] {
            for shuffle in [None, Some(3)] {
                // Small clusters, so that there are several L2 tables.
                let spec = Qcow2 { l1, l2, shuffle, ..small(9) }.fill(11);
                assert!(spec.build().l2.len() > 1);
                assert_accepted(&format!("L1 {l1:?}, L2 {l2:?}, shuffle {shuffle:?}"), &spec);
            }
        }
    }
}

#[test]
fn zstd_and_subclusters() {
    for compression in [Compression::Deflate, Compression::Zstd] {
        for extended_l2 in [false, true] {
            let spec = Qcow2 { compression, extended_l2, ..small(14) }.fill(13);
            assert_accepted(&format!("{compression:?}, extended L2 {extended_l2}"), &spec);
        }
    }
}

#[test]
fn packed_clusters_share_sectors_and_cross_host_clusters() {
    let spec = small(12).fill(17);
    let built = spec.build();
    let mut packed: Vec<u64> = spec
        .clusters
        .iter()
        .filter(|(_, cluster)| matches!(cluster, Cluster::Packed(_)))
        .map(|(guest, _)| built.clusters[guest])
        .collect();
    packed.sort_unstable();
    assert!(packed.windows(2).any(|two| two[0] / 512 == two[1] / 512 || two[1] % 512 != 0), "sectors are shared");
    assert!(packed.windows(2).any(|two| two[0] / 4096 != two[1] / 4096 && two[1] % 4096 != 0), "clusters are crossed");
}

#[test]
fn odd_sizes_and_what_readers_must_ignore() {
    let cluster = 1 << 12;
    for size in [1, 511, 512, 1000, cluster - 1, cluster, cluster + 1, 512 * cluster + 513] {
        assert_accepted(&format!("size {size}"), &Qcow2 { size, ..small(12) }.fill(19));
    }
    let odd = Qcow2 {
        header_length: 104,
        compatible: 1,
        extensions: vec![(0x1234_5678, b"somebody's own".to_vec())],
        ..small(12)
    };
    assert_accepted("header of 104 bytes, lazy refcounts, unknown extension", &odd.fill(23));
}

#[test]
fn a_backing_file_is_named_with_its_format() {
    let scratch = Scratch::new();
    let spec = Qcow2 { backing: Some((b"base.raw".to_vec(), b"raw".to_vec())), ..small(12) };
    let path = scratch.write("image", &spec.build().image);
    let info = qemu_img(&["info".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str()]);
    assert!(info.contains("backing file: base.raw") && info.contains("backing file format: raw"), "{info}");
}

#[test]
fn clusters_that_share_what_is_stored() {
    for cluster_bits in [9, 16] {
        let mut spec = Qcow2 { shuffle: Some(4), ..small(cluster_bits) }.fill(17);
        let is_stored = |cluster: &Cluster| matches!(cluster, Cluster::Plain(_) | Cluster::Packed(_));
        let stored: Vec<_> = spec.clusters.iter().filter(|(_, cluster)| is_stored(cluster)).map(|(n, _)| *n).collect();
        assert!(stored.len() > 20);
        for (n, other) in stored.iter().skip(10).zip(&stored) {
            if !matches!(spec.clusters[other], Cluster::As(_)) {
                spec.clusters.insert(*n, Cluster::As(*other));
            }
        }
        assert_accepted(&format!("cluster bits {cluster_bits}"), &spec);
    }
}
