//! Laying out a [`Vmdk`].

use std::collections::BTreeMap;
use std::io::Write;

use flate2::write::ZlibEncoder;

use super::{Built, Grain, SECTOR, Style, Vmdk, field};
use crate::field::poke;
use crate::random::Random;

const MAGIC: u64 = 0x564d_444b;
const TABLE_ENTRIES: u64 = 512;
const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;
const AT_END: u64 = u64::MAX;
const ZEROED_GRAIN: u64 = 1;

const FLAG_NEWLINES: u64 = 1;
const FLAG_REDUNDANT: u64 = 1 << 1;
const FLAG_ZEROED_GRAINS: u64 = 1 << 2;
const FLAG_PACKED: u64 = 1 << 16;
const FLAG_MARKERS: u64 = 1 << 17;

const MARKER_END_OF_STREAM: u64 = 0;
const MARKER_TABLE: u64 = 1;
const MARKER_DIRECTORY: u64 = 2;
const MARKER_FOOTER: u64 = 3;

pub(super) fn build(spec: &Vmdk) -> Built {
    let mut layout = Layout { spec, built: Built::default(), entries: BTreeMap::new() };
    match spec.style {
        Style::StreamTail | Style::StreamVmdktool => layout.tables_behind(),
        Style::StreamXenOrchestra => layout.tables_in_one_piece(),
        _ => layout.tables_in_front(),
    }
    layout.built
}

struct Layout<'a> {
    spec: &'a Vmdk,
    built: Built,
    /// What stands in the grain tables, by grain.
    entries: BTreeMap<u64, u64>,
}

impl Layout<'_> {
    fn tables_in_front(&mut self) {
        self.reserve(1);
        self.write_descriptor(20);
        let redundant = self.spec.redundant.then(|| self.reserve_directory());
        let (directory, tables) = self.reserve_directory();
        let overhead = self.align(self.spec.grain);
        for index in self.order() {
            self.store(index);
        }
        if self.spec.style != Style::Sparse {
            self.built.end_of_stream = self.marker(MARKER_END_OF_STREAM, 0);
        }
        if self.spec.style == Style::StreamQemu {
            self.align(self.spec.grain);
        }
        self.built.directory = directory * SECTOR;
        self.built.tables = (0..self.table_count()).map(|n| (n, (tables + n * TABLE_SECTORS) * SECTOR)).collect();
        self.write_directory(directory, tables);
        if let Some((redundant, its_tables)) = redundant {
            self.built.redundant = redundant * SECTOR;
            self.write_directory(redundant, its_tables);
        }
        self.write_header(0, directory, overhead);
    }

    fn tables_behind(&mut self) {
        self.reserve(1);
        self.write_descriptor(2);
        let overhead = self.align(self.spec.grain);
        let mut grains = self.order().into_iter().peekable();
        while let Some(index) = grains.next() {
            self.store(index);
            let table = index / TABLE_ENTRIES;
            if grains.peek().is_none_or(|next| next / TABLE_ENTRIES != table) {
                self.marker(MARKER_TABLE, TABLE_SECTORS);
                let at = self.reserve(TABLE_SECTORS);
                self.write_table(at, table);
                self.built.tables.insert(table, at * SECTOR);
            }
        }
        let sectors = (self.table_count() * 4).div_ceil(SECTOR);
        self.marker(MARKER_DIRECTORY, sectors);
        let directory = self.reserve(sectors);
        self.built.directory = directory * SECTOR;
        for (index, at) in self.built.tables.clone() {
            poke(&mut self.built.image, field::entry(directory * SECTOR, index), at / SECTOR);
        }
        self.marker(MARKER_FOOTER, 1);
        self.built.footer = self.reserve(1) * SECTOR;
        self.write_header(self.built.footer as usize, directory, overhead);
        self.built.end_of_stream = self.marker(MARKER_END_OF_STREAM, 0);
        let told = if self.spec.style == Style::StreamVmdktool { directory } else { AT_END };
        self.write_header(0, told, overhead);
    }

    fn tables_in_one_piece(&mut self) {
        self.reserve(1);
        self.write_descriptor(2);
        let overhead = self.reserve(0);
        self.write_header(0, AT_END, overhead);
        for index in self.order() {
            self.store(index);
        }
        self.reserve(self.spec.padding);
        let [redundant, directory] = [(); 2].map(|()| {
            self.marker(MARKER_TABLE, 0);
            let tables = self.reserve(self.table_count() * TABLE_SECTORS);
            self.marker(MARKER_DIRECTORY, 0);
            let directory = self.reserve((self.table_count() * 4).div_ceil(SECTOR));
            self.write_directory(directory, tables);
            self.built.tables = (0..self.table_count()).map(|n| (n, (tables + n * TABLE_SECTORS) * SECTOR)).collect();
            directory
        });
        (self.built.redundant, self.built.directory) = (redundant * SECTOR, directory * SECTOR);
        self.marker(MARKER_FOOTER, 0);
        self.built.footer = self.reserve(1) * SECTOR;
        self.write_header(self.built.footer as usize, directory, overhead);
        self.built.end_of_stream = self.marker(MARKER_END_OF_STREAM, 0);
    }

    /// The named grains in the order in which they are to lie in the file.
    fn order(&self) -> Vec<u64> {
        let mut order: Vec<u64> = self.spec.grains.keys().copied().collect();
        if let Some(seed) = self.spec.shuffle {
            let random = &mut Random::new(seed);
            match self.spec.style {
                // A table follows its own grains.
                Style::StreamTail | Style::StreamVmdktool => order
                    .chunk_by_mut(|this, next| this / TABLE_ENTRIES == next / TABLE_ENTRIES)
                    .for_each(|grains| random.shuffle(grains)),
                _ => random.shuffle(&mut order),
            }
        }
        order
    }

    fn table_count(&self) -> u64 {
        self.spec.grain_count().div_ceil(TABLE_ENTRIES)
    }

    /// Space behind everything; returns its sector.
    fn reserve(&mut self, sectors: u64) -> u64 {
        let at = self.built.image.len() as u64 / SECTOR;
        self.built.image.resize(((at + sectors) * SECTOR) as usize, 0);
        at
    }

    fn align(&mut self, sectors: u64) -> u64 {
        let at = self.reserve(0).next_multiple_of(sectors);
        self.built.image.resize((at * SECTOR) as usize, 0);
        at
    }

    /// Space for a grain directory and all of its tables; returns the sectors of both.
    fn reserve_directory(&mut self) -> (u64, u64) {
        let directory = self.reserve((self.table_count() * 4).div_ceil(SECTOR));
        (directory, self.reserve(self.table_count() * TABLE_SECTORS))
    }

    fn write_descriptor(&mut self, at_least: u64) {
        let text = &self.spec.descriptor;
        let at = self.reserve((text.len() as u64).div_ceil(SECTOR).max(at_least)) * SECTOR;
        self.built.image[at as usize..][..text.len()].copy_from_slice(text);
    }

    fn store(&mut self, index: u64) {
        let entry = match &self.spec.grains[&index] {
            Grain::Zero => ZEROED_GRAIN,
            Grain::Data(data) => {
                let at = if self.spec.style == Style::Sparse {
                    let at = self.reserve(self.spec.grain);
                    self.built.image[(at * SECTOR) as usize..][..data.len()].copy_from_slice(data);
                    at
                } else {
                    self.store_packed(index, data)
                };
                self.built.grains.insert(index, at * SECTOR);
                at
            }
        };
        self.entries.insert(index, entry);
    }

    fn store_packed(&mut self, index: u64, data: &[u8]) -> u64 {
        const HEAD: usize = 12;
        let first = index * self.spec.grain;
        let sectors = self.spec.grain.min(self.spec.capacity - first);
        let mut grain = data.to_vec();
        grain.resize((sectors * SECTOR) as usize, 0);
        let packed = zlib(&grain);
        let at = self.reserve(((HEAD + packed.len()) as u64).div_ceil(SECTOR));
        let marker = (at * SECTOR) as usize;
        poke(&mut self.built.image, field::MARKER_VALUE.after(marker), first);
        poke(&mut self.built.image, field::MARKER_SIZE.after(marker), packed.len() as u64);
        self.built.image[marker + HEAD..][..packed.len()].copy_from_slice(&packed);
        at
    }

    /// A sector that says what follows; returns its byte offset.
    fn marker(&mut self, kind: u64, sectors: u64) -> u64 {
        let at = self.reserve(1) * SECTOR;
        poke(&mut self.built.image, field::MARKER_VALUE.after(at as usize), sectors);
        poke(&mut self.built.image, field::MARKER_TYPE.after(at as usize), kind);
        at
    }

    fn write_directory(&mut self, directory: u64, tables: u64) {
        for table in 0..self.table_count() {
            let at = tables + table * TABLE_SECTORS;
            poke(&mut self.built.image, field::entry(directory * SECTOR, table), at);
            self.write_table(at, table);
        }
    }

    fn write_table(&mut self, at: u64, table: u64) {
        for (index, entry) in self.entries.range(table * TABLE_ENTRIES..(table + 1) * TABLE_ENTRIES) {
            poke(&mut self.built.image, field::entry(at * SECTOR, index % TABLE_ENTRIES), *entry);
        }
    }

    fn write_header(&mut self, at: usize, directory: u64, overhead: u64) {
        let spec = self.spec;
        let is_stream = spec.style != Style::Sparse;
        let has_zeroed_grains = spec.grains.values().any(|grain| *grain == Grain::Zero);
        let flags = [
            (true, FLAG_NEWLINES),
            (spec.redundant, FLAG_REDUNDANT),
            (has_zeroed_grains, FLAG_ZEROED_GRAINS),
            (is_stream, FLAG_PACKED | FLAG_MARKERS),
        ];
        let descriptor_sectors = (spec.descriptor.len() as u64).div_ceil(SECTOR);
        let least = if spec.style.has_footer() { 2 } else { 20 };
        let numbers = [
            (field::MAGIC, MAGIC),
            (field::VERSION, spec.version.into()),
            (field::FLAGS, flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum()),
            (field::CAPACITY, spec.capacity),
            (field::GRAIN, spec.grain),
            (field::DESCRIPTOR_OFFSET, 1),
            (field::DESCRIPTOR_SIZE, descriptor_sectors.max(least)),
            (field::TABLE_ENTRIES, TABLE_ENTRIES),
            (field::REDUNDANT_OFFSET, self.built.redundant / SECTOR),
            (field::DIRECTORY_OFFSET, directory),
            (field::OVERHEAD, overhead),
            (field::NEWLINES, 0x0a20_0d0a),
            (field::COMPRESSION, is_stream.into()),
        ];
        for (field, value) in numbers {
            poke(&mut self.built.image, field.after(at), value);
        }
    }
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}
