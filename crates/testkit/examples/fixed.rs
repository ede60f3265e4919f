//! Writes the images that `scripts/instructions` has converted, the same bytes every time, into a directory.

#![allow(clippy::unwrap_used, reason = "a failure ends it, and says where")]

use std::path::PathBuf;
use std::{env, fs};

use diskferry_testkit::qcow2::{Cluster, Qcow2};
use diskferry_testkit::vdi::{Block, Vdi};
use diskferry_testkit::vmdk::{Grain, SECTOR, Style, Vmdk};
use diskferry_testkit::{Random, wrap};

const UNIT: usize = 64 << 10;
/// Units of a disk: text that packs, noise that does not, and as many holes. Enough for the start of the program not to matter.
const UNITS: u64 = 512;

fn main() {
    let dir = PathBuf::from(env::args_os().nth(1).unwrap());
    let random = &mut Random::new(1);
    let units: Vec<(u64, Vec<u8>)> = (0..UNITS)
        .filter_map(|n| match n % 8 {
            0..3 => Some((n, random.text(UNIT))),
            3 => Some((n, random.bytes(UNIT))),
            _ => None,
        })
        .collect();
    let size = UNITS * UNIT as u64;

    let qcow2 = |cluster: fn(Vec<u8>) -> Cluster| {
        let clusters = units.iter().map(|(n, unit)| (*n, cluster(unit.clone()))).collect();
        Qcow2 { clusters, ..Qcow2::new(size) }.build().image
    };
    let grains = units.iter().map(|(n, unit)| (*n, Grain::Data(unit.clone()))).collect();
    let stream = Vmdk { grains, ..Vmdk::new(Style::StreamQemu, size / SECTOR) };
    let raw = stream.disk();
    let blocks = raw.chunks(1 << 20).map(|block| Block::Data(block.to_vec())).collect();
    let images = [
        ("qcow2", qcow2(Cluster::Plain)),
        ("qcow2-zlib", qcow2(Cluster::Packed)),
        ("stream-optimized", stream.build().image),
        ("vdi", Vdi { blocks, ..Vdi::qemu(size) }.build().image),
        ("raw-gz", wrap::gzip(&raw)),
        ("raw-xz", wrap::xz(&raw, &["-T1", "-3"])),
        ("raw-zst", wrap::zstd(&raw, &["-T1", "-3"])),
    ];
    for (name, image) in images {
        fs::write(dir.join(name), image).unwrap();
    }
}
