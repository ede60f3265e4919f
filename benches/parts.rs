//! The hot parts by themselves: what a change to one of them brings, without disks and other processes in between.
//!
//!     cargo bench -p diskferry-benches --bench parts

#![allow(clippy::unwrap_used, reason = "a bench that cannot run should say why and end")]
#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diskferry::sink::Discard;
use diskferry::{Input, Options, Progress, convert};
use diskferry_testkit::Random;
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::vmdk::{Grain, SECTOR, Style, Vmdk};
use diskferry_testkit::wrap::gzip;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const CLUSTER: usize = 64 << 10;
/// Clusters in an image: enough for every thread, and little enough to be made quickly.
const COUNT: u64 = 256;
const BYTES: usize = 256 * CLUSTER;

/// Whole conversions, from memory to nowhere.
fn conversions(criterion: &mut Criterion) {
    let images = [
        ("packed clusters", qcow2(|random| Cluster::Packed(random.text(CLUSTER))).build().image),
        ("plain clusters", qcow2(|random| Cluster::Plain(random.bytes(CLUSTER))).build().image),
        ("packed grains", grains().build().image),
        // Begins like a disk: text by itself is refused.
        ("gzip", gzip(&[vec![0; CLUSTER], Random::new(1).text(BYTES - CLUSTER)].concat())),
        // All of its data has to be spooled.
        ("spool: tables behind the data", behind().build().image),
        ("zero test: raw data", Random::new(1).bytes(BYTES)),
        ("zero test: raw zeroes", vec![0; BYTES]),
        // Where the test has to go through all of a block to find data.
        ("zero test: a byte at the end of each block", ends()),
    ];
    let mut group = criterion.benchmark_group("convert");
    group.throughput(Throughput::Bytes(BYTES as u64));
    for (name, image) in images {
        let image = image.into();
        group.bench_function(name, |bencher| bencher.iter(|| carry(&image)));
    }
    group.finish();
}

/// Tables without data: a disk that was written from end to end and then discarded, and one that was never written to.
fn tables(criterion: &mut Criterion) {
    const CLUSTERS: u64 = 1 << 18;
    let mut group = criterion.benchmark_group("walk over tables");
    group.throughput(Throughput::Elements(CLUSTERS));
    // A table of 4 KiB has 512 entries: of every second cluster, or of one in each table.
    for (name, step) in [("every cluster", 1), ("every second cluster", 2), ("one cluster in each table", 512)] {
        let mut image = Qcow2 { cluster_bits: 12, ..Qcow2::new(CLUSTERS << 12) };
        image.clusters = (0..CLUSTERS).step_by(step).map(|guest| (guest, Cluster::Zero)).collect();
        let image = image.build().image.into();
        group.bench_function(name, |bencher| bencher.iter(|| carry(&image)));
    }
    group.finish();
}

/// Decoders that could take single units, on the same ones: clusters of qcow2 and grains of VMDK.
fn decoders(criterion: &mut Criterion) {
    let plain = system(64 * CLUSTER);
    for (name, zlib, window) in [("inflate clusters, raw", false, 12), ("inflate grains, zlib", true, 15)] {
        let units: Vec<Vec<u8>> = plain.chunks(CLUSTER).map(|unit| deflate(unit, zlib, window)).collect();
        let mut out = vec![0; CLUSTER];
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(plain.len() as u64));
        let mut flate2 = Decompress::new(zlib);
        group.bench_function("flate2, zlib-rs", |bencher| {
            bencher.iter(|| {
                for unit in &units {
                    flate2.reset(zlib);
                    flate2.decompress(black_box(unit), &mut out, FlushDecompress::Finish).unwrap();
                }
            });
        });
        let mut libdeflate = libdeflater::Decompressor::new();
        group.bench_function("libdeflater", |bencher| {
            bencher.iter(|| {
                for unit in &units {
                    let unit = black_box(unit);
                    if zlib {
                        libdeflate.zlib_decompress(unit, &mut out).unwrap();
                    } else {
                        libdeflate.deflate_decompress(unit, &mut out).unwrap();
                    }
                }
            });
        });
        let options = zune_inflate::DeflateOptions::default().set_size_hint(CLUSTER);
        group.bench_function("zune-inflate", |bencher| {
            bencher.iter(|| {
                for unit in &units {
                    let mut zune = zune_inflate::DeflateDecoder::new_with_options(black_box(unit), options);
                    black_box(if zlib { zune.decode_zlib() } else { zune.decode_deflate() }.unwrap());
                }
            });
        });
        group.finish();
    }
}

/// The decoder of streams, on data and on emptiness.
fn streams(criterion: &mut Criterion) {
    const TURN: usize = 256 << 10;
    let mut group = criterion.benchmark_group("inflate a stream");
    for (name, plain) in [("data", system(BYTES)), ("zeroes", vec![0; BYTES])] {
        let packed = deflate(&plain, false, 15);
        let mut out = vec![0; TURN];
        group.throughput(Throughput::Bytes(plain.len() as u64));
        let mut flate2 = Decompress::new(false);
        group.bench_function(BenchmarkId::new("flate2, zlib-rs", name), |bencher| {
            bencher.iter(|| {
                flate2.reset(false);
                loop {
                    let at = usize::try_from(flate2.total_in()).unwrap();
                    let status = flate2.decompress(black_box(&packed[at..]), &mut out, FlushDecompress::None);
                    if status.unwrap() == Status::StreamEnd {
                        break;
                    }
                }
            });
        });
    }
    group.finish();
}

/// What disks of systems hold, `len` bytes of it: programs and texts, which pack unlike anything made up. It differs from machine
/// to machine, and only decoders on the same one are to be compared.
fn system(len: usize) -> Vec<u8> {
    let mut files: Vec<_> = std::fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut data = Vec::with_capacity(len);
    for file in files {
        data.extend(std::fs::read(file).unwrap_or_default());
        if data.len() >= len {
            break;
        }
    }
    // Where there are few programs, again from the first one.
    data.iter().copied().cycle().take(len).collect()
}

fn deflate(plain: &[u8], zlib: bool, window: u8) -> Vec<u8> {
    let mut packed = Vec::with_capacity(plain.len() + plain.len() / 8 + 64);
    let mut compress = Compress::new_with_window_bits(Compression::default(), zlib, window);
    let status = compress.compress_vec(plain, &mut packed, FlushCompress::Finish).unwrap();
    assert_eq!(status, Status::StreamEnd);
    packed
}

fn grains() -> Vmdk {
    let random = &mut Random::new(1);
    let grains = (0..COUNT).map(|index| (index, Grain::Data(random.text(CLUSTER)))).collect();
    Vmdk { grains, ..Vmdk::new(Style::StreamQemu, BYTES as u64 / SECTOR) }
}

fn ends() -> Vec<u8> {
    const BLOCK: usize = 4 << 10;
    let mut bytes = vec![0; BYTES];
    bytes.iter_mut().skip(BLOCK - 1).step_by(BLOCK).for_each(|byte| *byte = 1);
    bytes
}

fn qcow2(cluster: impl Fn(&mut Random) -> Cluster) -> Qcow2 {
    let random = &mut Random::new(1);
    let mut image = Qcow2::new(BYTES as u64);
    image.clusters = (0..COUNT).map(|guest| (guest, cluster(random))).collect();
    image
}

fn behind() -> Qcow2 {
    let mut image = qcow2(|random| Cluster::Plain(random.bytes(CLUSTER)));
    (image.l1, image.l2) = (Place::Behind, Place::Behind);
    image
}

fn carry(image: &Arc<[u8]>) -> u64 {
    let input = Input::Stream { reader: Box::new(Cursor::new(Arc::clone(image))), len: None };
    convert(input, &Discard, &Options::default(), &Progress::default()).unwrap().allocated
}

criterion_group!(parts, conversions, tables, decoders, streams);
criterion_main!(parts);
