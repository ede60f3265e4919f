//! The hot parts by themselves: what a change to one of them brings, without disks and other processes in between.
//!
//!     cargo bench -p diskferry-benches --bench parts

#![allow(clippy::unwrap_used, reason = "a bench that cannot run should say why and end")]
#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::hint::black_box;
use std::io::{Cursor, Write};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diskferry::sink::Discard;
use diskferry::{Input, Options, Progress, convert};
use diskferry_testkit::Random;
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Decompress, FlushDecompress};

const CLUSTER: usize = 64 << 10;
/// Clusters in an image: enough for every thread, and little enough to be made quickly.
const COUNT: u64 = 256;
const BYTES: usize = 256 * CLUSTER;

/// Whole conversions, from memory to nowhere.
fn conversions(criterion: &mut Criterion) {
    let images = [
        ("packed clusters", qcow2(|random| Cluster::Packed(random.text(CLUSTER))).build().image),
        ("plain clusters", qcow2(|random| Cluster::Plain(random.bytes(CLUSTER))).build().image),
        ("tables behind the data", behind().build().image),
        ("raw data", Random::new(1).bytes(BYTES)),
        ("raw zeroes", vec![0; BYTES]),
    ];
    let mut group = criterion.benchmark_group("convert");
    group.throughput(Throughput::Bytes(BYTES as u64));
    for (name, image) in images {
        let image = image.into();
        group.bench_function(name, |bencher| bencher.iter(|| carry(&image)));
    }
    group.finish();
}

/// Tables without data: a disk that was written from end to end and then discarded.
fn tables(criterion: &mut Criterion) {
    let mut image = Qcow2::new(1 << 30);
    image.cluster_bits = 12;
    image.clusters = (0..image.size >> 12).map(|guest| (guest, Cluster::Zero)).collect();
    let image = image.build().image.into();
    let mut group = criterion.benchmark_group("tables");
    group.throughput(Throughput::Elements(1 << 18));
    group.bench_function("zero clusters", |bencher| bencher.iter(|| carry(&image)));
    group.finish();
}

/// Decoders that could take packed clusters, on the same ones.
fn decoders(criterion: &mut Criterion) {
    let plain = Random::new(1).text(CLUSTER);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&plain).unwrap();
    let packed = encoder.finish().unwrap();
    let mut out = vec![0; CLUSTER];

    let mut group = criterion.benchmark_group("inflate 64 KiB");
    group.throughput(Throughput::Bytes(CLUSTER as u64));
    let mut flate2 = Decompress::new(false);
    group.bench_function(BenchmarkId::from_parameter("flate2, zlib-rs"), |bencher| {
        bencher.iter(|| {
            flate2.reset(false);
            flate2.decompress(black_box(&packed), &mut out, FlushDecompress::Finish).unwrap()
        });
    });
    let mut libdeflate = libdeflater::Decompressor::new();
    group.bench_function(BenchmarkId::from_parameter("libdeflater"), |bencher| {
        bencher.iter(|| libdeflate.deflate_decompress(black_box(&packed), &mut out).unwrap());
    });
    group.bench_function(BenchmarkId::from_parameter("zune-inflate"), |bencher| {
        bencher.iter(|| zune_inflate::DeflateDecoder::new(black_box(&packed)).decode_deflate().unwrap());
    });
    group.finish();
}

fn qcow2(cluster: impl Fn(&mut Random) -> Cluster) -> Qcow2 {
    let random = &mut Random::new(1);
    let mut image = Qcow2::new(BYTES as u64);
    image.clusters = (0..COUNT).map(|guest| (guest, cluster(random))).collect();
    image
}

/// All of its data has to be spooled.
fn behind() -> Qcow2 {
    let mut image = qcow2(|random| Cluster::Plain(random.bytes(CLUSTER)));
    (image.l1, image.l2) = (Place::Behind, Place::Behind);
    image
}

fn carry(image: &Arc<[u8]>) -> u64 {
    let input = Input::Stream { reader: Box::new(Cursor::new(Arc::clone(image))), len: None };
    convert(input, &Discard, &Options::default(), &Progress::default()).unwrap().allocated
}

criterion_group!(parts, conversions, tables, decoders);
criterion_main!(parts);
