//! Writes the seeds of the fuzz targets: tiny images that show each structure once. Called by scripts/make-testdata.
//!
//!     cargo run -p diskferry-testkit --example seeds -- fuzz/corpus

#![allow(clippy::unwrap_used, reason = "a tool for developers")]

use std::path::PathBuf;
use std::{env, fs};

use diskferry_testkit::container::tar;
use diskferry_testkit::qcow2::{Compression, Place, Qcow2};
use diskferry_testkit::vdi::Vdi;
use diskferry_testkit::vmdk::{Style, Vmdk};
use diskferry_testkit::{Random, wrap};

fn main() {
    let corpus = PathBuf::from(env::args_os().nth(1).unwrap());
    let formats: Vec<_> = qcow2().into_iter().chain(vdi()).chain(vmdk()).collect();
    let same = formats.iter().filter(|(target, ..)| *target != "detect").map(in_chunks).collect::<Vec<_>>();
    for (target, name, bytes) in formats.into_iter().chain(wrappings()).chain(archives()).chain(scripts()).chain(same) {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }
}

type Seed = (&'static str, &'static str, Vec<u8>);

/// In front of the image stands the size of chunks.
fn in_chunks((_, name, image): &Seed) -> Seed {
    in_chunks_of("same", name, image)
}

fn in_chunks_of(target: &'static str, name: &'static str, image: &[u8]) -> Seed {
    (target, name, [&[5], image].concat())
}

/// Scripts by which sound images are bent: which image, the size of chunks, and each field with how and to what.
fn scripts() -> Vec<Seed> {
    let steps = |count: u8| {
        let step = |n: u8| [n.wrapping_mul(7), 0, n, n, 0, 0, 0, 0, 0, 0, 0];
        [vec![count, 5], (0..count).flat_map(step).collect()].concat()
    };
    let of = |target| [(target, "sound", steps(0)), (target, "one", steps(1)), (target, "three", steps(3))];
    ["bent-qcow2", "bent-vdi", "bent-vmdk"].into_iter().flat_map(of).collect()
}

fn archives() -> Vec<Seed> {
    let whiteout = tar(&[("disk/.wh.old", b""), ("disk/a", b"image")]);
    vec![
        ("archive", "image", tar(&[("etc/x", b"x"), ("./disk/a.raw", &[7; 700])])),
        ("archive", "whiteout", whiteout),
        ("archive", "opaque", tar(&[("disk/.wh..wh..opq", b"")])),
        ("archive", "two", tar(&[("disk/a", b"a"), ("disk/b", b"b")])),
        ("archive", "empty", vec![0; 1024]),
    ]
}

fn qcow2() -> Vec<Seed> {
    // One cluster more than an L2 table of 512 bytes maps.
    let small = || Qcow2 { cluster_bits: 9, ..Qcow2::new(64 * 512 + 100) };
    let tiny = || Qcow2 { cluster_bits: 9, ..Qcow2::new(20 * 512) };
    let subclusters = Qcow2 { cluster_bits: 14, extended_l2: true, ..Qcow2::new(1 << 14) };
    let seed = |name, spec: Qcow2| ("qcow2", name, spec.fill(1).build().image);
    vec![
        seed("v2", Qcow2 { version: 2, ..tiny() }),
        seed("v3", small()),
        seed("zstd", Qcow2 { compression: Compression::Zstd, ..tiny() }),
        seed("tables-behind", Qcow2 { l1: Place::Behind, l2: Place::Behind, shuffle: Some(1), ..tiny() }),
        seed("subclusters", subclusters),
        ("detect", "qcow2", Qcow2::new(0).build().image[..512].to_vec()),
    ]
}

fn vdi() -> Vec<Seed> {
    let spec = Vdi { block_size: 2048, extra: 512, shuffle: Some(1), ..Vdi::qemu(5 * 2048 + 100) };
    vec![
        ("vdi", "dynamic", spec.clone().fill(1).build().image),
        ("vdi", "static", Vdi { kind: 2, ..spec }.build().image),
    ]
}

fn vmdk() -> Vec<Seed> {
    let seed = |name, style, version| {
        let spec = Vmdk { grain: 8, version, ..Vmdk::new(style, 3 * 8 + 3) };
        ("vmdk", name, spec.fill(1).build().image)
    };
    vec![
        seed("sparse", Style::Sparse, 2),
        seed("stream-qemu", Style::StreamQemu, 3),
        seed("stream-tail", Style::StreamTail, 3),
    ]
}

fn wrappings() -> Vec<Seed> {
    let disk = Random::new(1).text(2000);
    let seed = |target, name, bytes: Vec<u8>| in_chunks_of(target, name, &bytes);
    vec![
        seed("gzip", "members", wrap::gzip_members(&disk, 900)),
        seed("gzip", "bgzf", wrap::bgzf(&disk)),
        seed("xz", "blocks", wrap::xz(&disk, &["--block-size=1000"])),
        seed("zstd", "frame", wrap::zstd(&disk, &["--check"])),
        seed("bzip2", "stream", wrap::bzip2(&disk)),
        ("detect", "raw-gzip-xz", wrap::xz(&wrap::gzip(&disk), &[])),
        ("raw", "partition-table", partition_table()),
        ("convert", "raw-gzip-xz", wrap::xz(&wrap::gzip(&disk), &[])),
        ("convert", "qcow2-gzip", wrap::gzip(&Qcow2::new(1 << 16).fill(1).build().image)),
        ("detect", "html", b"<!DOCTYPE html><html><title>404</title></html>".to_vec()),
    ]
}

/// A disk with nothing but the mark of a partition table.
fn partition_table() -> Vec<u8> {
    [vec![0; 510], vec![0x55, 0xaa], vec![0; 512]].concat()
}
