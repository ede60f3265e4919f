//! An image that takes as much of everything as one may, and what a program has taken.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

use diskferry_testkit::qcow2::Compression::{self, Deflate, Zstd};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::{Random, wrap};

pub const MIB: u64 = 1 << 20;

/// Waits until the program has ended; gives the largest peak that it was seen with.
pub fn watch(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        // A process that is ending has no memory any more.
        let now = fs::read_to_string(&status).ok().and_then(|text| peak_in(&text));
        peak = peak.max(now.unwrap_or(0));
        thread::sleep(Duration::from_millis(2));
    }
    peak
}

/// Of a process that has been started: it is named after its program only when its memory is its own. Before that it has the memory, and the
/// name, of the thread that starts it.
fn peak_in(status: &str) -> Option<u64> {
    status.starts_with("Name:\tdiskferry\n").then_some(())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// Writes a qcow2 whose tables fill their limit, whose units claim all they may, and that has as much in front of its tables as the spool keeps
/// in memory. The last packed units are not there. Of those that are, neighbours on the disk lie `step` units from one another. Behind the header
/// there are `gap` bytes of nothing.
pub fn fill_every_bound(image: &Path, cluster_bits: u32, compression: Compression, step: u64, gap: u64) {
    let cluster = 1_u64 << cluster_bits;
    let entries = cluster / 8;
    // Of 24 bytes an extent and 32 a table, 32 MiB have room for so many.
    let tables = (32 * MIB / 24).div_ceil(entries);
    let mapped = (32 * MIB - 32 * (tables + 3)) / 24;
    let units = 60 * MIB / cluster;
    // Clusters: the first table lies behind the header, what the spool gets behind that, then the others.
    let header = 2 + gap / cluster;
    let before = 8 * MIB / cluster;
    let (first_table, data) = (header + before + 1, header + before + 1 + tables);
    let file = File::create(image).unwrap();
    let put = |bytes: &[u8], at: u64| file.write_all_at(bytes, at * cluster).unwrap();
    let numbers = |numbers: &mut dyn Iterator<Item = u64>| numbers.flat_map(u64::to_be_bytes).collect::<Vec<_>>();
    let len = 1_usize << cluster_bits;
    let mut built = Qcow2::new(tables * entries * cluster);
    (built.cluster_bits, built.compression) = (cluster_bits, compression);
    put(&built.build().image[..len], 0);
    poke_l1(&file, header * cluster, tables);
    put(&numbers(&mut (0..tables).map(|table| ((first_table + table) * cluster) | (1 << 63))), header);
    put(&Random::new(5).bytes(8 << 20), header + 1);
    // Two clusters each for what is there; a sector each, behind that, for what is not looked at before the table has been read. The first
    // units claim both, the others two thirds of one, so that several are under way.
    let behind = (data + 2 * units) * cluster;
    let sectors = |guest| if guest < units / 3 { cluster / 256 } else { cluster / 768 };
    let packed = |unit| (1 << 62) | ((sectors(unit) - 1) << (70 - cluster_bits)) | ((data + 2 * unit) * cluster);
    let entry = |guest: u64| match guest {
        _ if guest < units => packed(guest * step % units),
        _ if guest < mapped => (1 << 62) | (behind + guest * 512),
        _ => 0,
    };
    put(&numbers(&mut (0..tables * entries).map(entry)), first_table);
    let noise = Random::new(6).bytes(len);
    let half = [&noise[..len / 2], &vec![0; len / 2]].concat();
    // What zstd gets from a pipe has no length in its head, so that its decoder keeps the window.
    let (large, small) = match compression {
        Deflate => (stored_deflate(&noise), wrap::deflate(&half)),
        Zstd => (wrap::zstd(&noise, &["--long=23"]), wrap::zstd(&half, &["--long=23"])),
    };
    assert!(small.len() as u64 <= cluster / 768 * 512);
    (0..units).for_each(|guest| put(if guest < units / 3 { &large } else { &small }, data + 2 * guest));
    file.set_len(behind + 512).unwrap();
}

/// Has the header of a qcow2 name an L1 table of so many entries there.
fn poke_l1(file: &File, at: u64, entries: u64) {
    const SIZE_AT: u64 = 36;
    const OFFSET_AT: u64 = 40;
    file.write_all_at(&u32::try_from(entries).unwrap().to_be_bytes(), SIZE_AT).unwrap();
    file.write_all_at(&at.to_be_bytes(), OFFSET_AT).unwrap();
}

/// Deflated data in blocks that are stored as they are.
fn stored_deflate(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 0xffff;
    let parts = bytes.chunks(BLOCK);
    let last = parts.len() - 1;
    let block = |(number, part): (usize, &[u8])| {
        let len = u16::try_from(part.len()).unwrap();
        [&[u8::from(number == last)][..], &len.to_le_bytes(), &(!len).to_le_bytes(), part].concat()
    };
    parts.enumerate().flat_map(block).collect()
}
