//! Images that lie: each number of a header, a table or a marker bent in every way that has broken readers.

use std::collections::BTreeSet;

use crate::field::{Field, poke};
use crate::qcow2::{self, Compression, Place, Qcow2};
use crate::vdi::{self, Vdi};
use crate::vmdk::{self, Style, Vmdk};

const MIB: u64 = 1 << 20;
/// As many entries of each table are bent: enough to meet every kind of entry that the writers' `fill` makes.
const ENTRIES: u64 = 10;

/// A sound image and the numbers in it that can be bent.
pub struct Subject {
    /// What it is, for messages.
    pub name: &'static str,
    /// Its format's name.
    pub format: &'static str,
    /// The sound image.
    pub image: Vec<u8>,
    fields: Vec<(String, Field)>,
    /// Byte offsets at which something lies that a number could be made to point at.
    places: Vec<u64>,
    /// Bytes that an offset counts in.
    unit: u64,
}

/// An image with one number bent.
pub struct Variant {
    /// Which number of which image, and what it was bent to.
    pub name: String,
    /// The image.
    pub image: Vec<u8>,
}

impl Subject {
    /// The image bent in every way, one number at a time.
    pub fn variants(&self) -> impl Iterator<Item = Variant> + '_ {
        self.fields.iter().flat_map(move |(name, field)| {
            self.values(*field).into_iter().map(move |value| {
                let mut image = self.image.clone();
                poke(&mut image, *field, value);
                Variant { name: format!("{}: {name} = {value:#x}", self.name), image }
            })
        })
    }

    /// Bends one number of `image`, which is this subject's: `which` of them, to `value` itself, or by it, or to a place
    /// where something lies. Every choice is taken round, so that any script of a fuzzer means something. Gives the number's name.
    pub fn bend(&self, image: &mut [u8], which: usize, how: u8, value: u64) -> &str {
        let (name, field) = &self.fields[which % self.fields.len()];
        let now = field.peek(image);
        let place = self.places[value as usize % self.places.len()];
        let bent = match how % 5 {
            0 => value,
            1 => now.wrapping_add(value),
            2 => now ^ 1 << (value % 64),
            3 => place / self.unit,
            _ => (image.len() as u64 / self.unit).wrapping_add(value as i8 as u64),
        };
        poke(image, *field, bent);
        name
    }

    /// Everything that `field` is bent to.
    fn values(&self, field: Field) -> BTreeSet<u64> {
        let (bits, now) = (field.width as u32 * 8, field.peek(&self.image));
        let ones = u64::MAX >> (64 - bits);
        let top = 1 << (bits - 1);
        let extremes = [0, 1, 2, 3, ones, ones - 1, top, top - 1];
        let near = [
            now.wrapping_sub(1),
            now.wrapping_add(1),
            now.wrapping_add(self.unit),
            now << 1,
            now >> 1,
            now << (bits / 2),
            now ^ top,
        ];
        let swapped = now.swap_bytes() >> (64 - bits);
        let flagged = [now ^ qcow2::field::PACKED, now ^ qcow2::field::ZERO, now ^ 1 << 32];
        let end = self.image.len() as u64;
        let edges = [end, end - 1, end - 512, end + MIB];
        let places = self.places.iter().chain(&edges);
        let pointers = places.flat_map(|place| [place / self.unit, place | qcow2::field::PACKED]);
        let values = extremes.into_iter().chain(near).chain([swapped]).chain(flagged).chain(pointers);
        values.map(|value| value & ones).filter(|value| *value != now).collect()
    }
}

/// A few small images of each format, with all their numbers.
pub fn subjects(format: &str) -> Vec<Subject> {
    match format {
        "qcow2" => qcow2s(),
        "vdi" => vdis(),
        "vmdk" => vmdks(),
        _ => panic!("no writer for {format}"),
    }
}

/// The same structures in images of some KiB, for fuzzers, to which speed is everything.
pub fn tiny_subjects(format: &str) -> Vec<Subject> {
    let qcow2_of = |size, cluster_bits| Qcow2 { cluster_bits, ..Qcow2::new(size) };
    let vdi_of = |size| Vdi { block_size: 2048, ..Vdi::qemu(size) };
    let vmdk_of = |style| Vmdk { grain: 8, ..Vmdk::new(style, 8 * 6 + 5) };
    match format {
        "qcow2" => vec![
            qcow2("qcow2", &qcow2_of(64 * 512 + 100, 9)),
            qcow2("qcow2 of version 2", &Qcow2 { version: 2, l2: Place::Scattered(1), ..qcow2_of(20 << 9, 9) }),
            qcow2(
                "qcow2 with zstd and tables behind",
                &Qcow2 { compression: Compression::Zstd, l1: Place::Behind, l2: Place::Behind, ..qcow2_of(20 << 9, 9) },
            ),
            qcow2("qcow2 with subclusters", &Qcow2 { extended_l2: true, ..qcow2_of(2 << 14, 14) }),
        ],
        "vdi" => vec![
            vdi("VDI", &vdi_of(5 * 2048 + 100)),
            vdi("VDI with more in front of blocks", &Vdi { extra: 512, shuffle: Some(1), ..vdi_of(9 * 2048) }),
            vdi("static VDI", &Vdi { kind: 2, ..vdi_of(4 * 2048) }),
        ],
        "vmdk" => vec![
            vmdk("VMDK", &vmdk_of(Style::Sparse)),
            vmdk("VMDK with zeroed grains", &Vmdk { version: 2, shuffle: Some(1), ..vmdk_of(Style::Sparse) }),
            vmdk("stream of QEMU", &vmdk_of(Style::StreamQemu)),
            vmdk("stream of open-vmdk", &vmdk_of(Style::StreamOpenVmdk)),
            vmdk("stream with a footer", &vmdk_of(Style::StreamTail)),
            vmdk("stream of vmdktool", &vmdk_of(Style::StreamVmdktool)),
            vmdk("stream of Xen Orchestra", &Vmdk { padding: 3, ..vmdk_of(Style::StreamXenOrchestra) }),
        ],
        _ => panic!("no writer for {format}"),
    }
}

fn qcow2s() -> Vec<Subject> {
    let of = |size, cluster_bits| Qcow2 { cluster_bits, ..Qcow2::new(size) };
    vec![
        qcow2("qcow2", &of(200 << 10, 12)),
        qcow2("qcow2 of version 2", &Qcow2 { version: 2, l2: Place::Scattered(1), ..of(100 << 10, 9) }),
        qcow2(
            "qcow2 with zstd and tables behind",
            &Qcow2 { compression: Compression::Zstd, l1: Place::Behind, l2: Place::Behind, ..of(200 << 10, 12) },
        ),
        qcow2("qcow2 with subclusters", &Qcow2 { extended_l2: true, ..of(300 << 10, 14) }),
    ]
}

fn qcow2(name: &'static str, writer: &Qcow2) -> Subject {
    let built = writer.clone().fill(6).build();
    let mut fields: Vec<_> = named("header", qcow2::field::ALL, 0)
        .filter(|(_, field)| writer.version > 2 || field.at < qcow2::field::INCOMPATIBLE.at)
        .collect();
    let mut entries = |table: &str, at: u64, count: u64| {
        fields.extend((0..count).map(|n| (format!("{table} entry {n}"), qcow2::field::entry(at, n))));
    };
    let first_l2 = built.l2[&0];
    entries("L1", built.l1, built.l2.len() as u64);
    entries("L2", first_l2, ENTRIES);
    let first_data = *built.clusters.values().next().unwrap();
    let places = vec![built.l1, first_l2, first_data, built.refcounts];
    Subject { name, format: "qcow2", image: built.image, fields, places, unit: 1 }
}

fn vdis() -> Vec<Subject> {
    vec![
        vdi("VDI of QEMU", &Vdi::qemu(4 * MIB)),
        vdi("VDI of VirtualBox", &Vdi { shuffle: Some(2), ..Vdi::virtualbox(4 * MIB + 512) }),
    ]
}

fn vdi(name: &'static str, writer: &Vdi) -> Subject {
    let built = writer.clone().fill(1).build();
    let mut fields: Vec<_> = named("header", vdi::field::ALL, 0).collect();
    let blocks = vdi::field::BLOCKS.peek(&built.image);
    fields.extend((0..blocks).map(|n| (format!("map entry {n}"), vdi::map_entry(built.map, n))));
    Subject { name, format: "vdi", image: built.image, fields, places: vec![built.map, built.data], unit: MIB }
}

fn vmdks() -> Vec<Subject> {
    let of = |style| Vmdk { grain: 16, ..Vmdk::new(style, 16 * 40 + 5) };
    vec![
        vmdk("VMDK", &of(Style::Sparse)),
        vmdk("VMDK with zeroed grains", &Vmdk { version: 2, shuffle: Some(1), ..of(Style::Sparse) }),
        vmdk("stream of QEMU", &of(Style::StreamQemu)),
        vmdk("stream of open-vmdk", &of(Style::StreamOpenVmdk)),
        vmdk("stream with a footer", &of(Style::StreamTail)),
        vmdk("stream of vmdktool", &of(Style::StreamVmdktool)),
        vmdk("stream of Xen Orchestra", &Vmdk { padding: 3, ..of(Style::StreamXenOrchestra) }),
    ]
}

fn vmdk(name: &'static str, writer: &Vmdk) -> Subject {
    let built = writer.clone().fill(2).build();
    let mut fields: Vec<_> = named("header", vmdk::field::ALL, 0).collect();
    let table = built.tables[&0];
    fields.push(("directory entry".into(), vmdk::field::entry(built.directory, 0)));
    fields.extend((0..ENTRIES).map(|n| (format!("table entry {n}"), vmdk::field::entry(table, n))));
    if built.redundant > 0 {
        fields.push(("redundant directory entry".into(), vmdk::field::entry(built.redundant, 0)));
    }
    let first_grain = *built.grains.values().next().unwrap();
    let is_stream = writer.style != Style::Sparse;
    let mut markers = vec![("grain", first_grain), ("end of stream", built.end_of_stream)];
    if built.footer > 0 {
        fields.extend(named("footer", vmdk::field::ALL, built.footer));
        markers.extend([("table", table), ("directory", built.directory), ("footer", built.footer)].map(in_front));
    }
    for (marker, at) in markers.into_iter().filter(|_| is_stream) {
        fields.extend(named(marker, MARKER, at));
    }
    let places = vec![vmdk::SECTOR, table, built.directory, first_grain];
    Subject { name, format: "vmdk", image: built.image, fields, places, unit: vmdk::SECTOR }
}

const MARKER: &[(&str, Field)] = &[
    ("marker value", vmdk::field::MARKER_VALUE),
    ("marker size", vmdk::field::MARKER_SIZE),
    ("marker type", vmdk::field::MARKER_TYPE),
];

/// The marker of what lies at a place.
fn in_front((name, at): (&'static str, u64)) -> (&'static str, u64) {
    (name, at - vmdk::SECTOR)
}

/// The fields of a structure at `at`, with the structure's name.
fn named(structure: &str, fields: &'static [(&'static str, Field)], at: u64) -> impl Iterator<Item = (String, Field)> {
    fields.iter().map(move |(name, field)| (format!("{structure}: {name}"), field.after(at as usize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_bent_image_one_number_differs() {
        for format in ["qcow2", "vdi", "vmdk"] {
            for subject in tiny_subjects(format) {
                for (which, how) in (0..40).flat_map(|which| (0..5).map(move |how| (which, how))) {
                    let mut image = subject.image.clone();
                    subject.bend(&mut image, which, how, 3);
                    let differing = image.iter().zip(&subject.image).filter(|(one, other)| one != other).count();
                    assert!(image.len() == subject.image.len() && differing <= 8, "{}: {which} {how}", subject.name);
                }
            }
        }
    }
}
