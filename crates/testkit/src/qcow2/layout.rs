//! Laying out a [`Qcow2`]: places first, then refcounts, then the header.

use std::collections::{BTreeMap, BTreeSet};

use super::{Built, Cluster, Compression, Place, Qcow2, field, filled};
use crate::field::poke;
use crate::random::Random;
use crate::wrap;

const MAGIC: u64 = 0x5146_49fb;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_END: u32 = 0;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const GARBAGE: u8 = 0xEE;

/// Something that is given a place in the file.
enum Unit {
    L2(u64),
    Cluster(u64),
}

struct Layout<'a> {
    spec: &'a Qcow2,
    image: Vec<u8>,
    /// Uses of each host cluster.
    refcounts: Vec<u64>,
    /// What is stored of a guest cluster: offset and length in the file.
    stored: BTreeMap<u64, (u64, u64)>,
    /// Where the next packed cluster may start.
    pack_at: Option<u64>,
    l2: BTreeMap<u64, u64>,
    clusters: BTreeMap<u64, u64>,
    /// What stands in the L2 tables, by guest cluster: entry and subcluster bitmap.
    entries: BTreeMap<u64, (u64, u64)>,
}

pub(super) fn build(spec: &Qcow2) -> Built {
    // Refcounts lie in front and count themselves, so their number is guessed until it is enough.
    (1..).find_map(|blocks| Layout::new(spec).build(blocks)).unwrap()
}

impl<'a> Layout<'a> {
    fn new(spec: &'a Qcow2) -> Self {
        Self {
            spec,
            image: Vec::new(),
            refcounts: Vec::new(),
            stored: BTreeMap::new(),
            pack_at: None,
            l2: BTreeMap::new(),
            clusters: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    /// The image, unless it needs more than `blocks` refcount blocks.
    fn build(mut self, blocks: u64) -> Option<Built> {
        let cluster = self.spec.cluster_size();
        let refcounts_per_block = (cluster * 8) >> self.spec.refcount_order;
        self.allocate(cluster);
        let refcount_table = self.allocate(blocks * 8);
        let refcount_blocks = self.allocate(blocks * cluster);
        let l1_len = self.l1_entries() * 8;
        let l1_in_front = (self.spec.l1 != Place::Behind).then(|| self.allocate(l1_len.max(1)));
        for unit in self.units() {
            match unit {
                Unit::L2(index) => {
                    let at = self.allocate(cluster);
                    self.l2.insert(index, at);
                }
                Unit::Cluster(guest) => self.place(guest),
            }
        }
        self.share();
        let l1 = l1_in_front.unwrap_or_else(|| self.allocate(l1_len.max(1)));
        if self.refcounts.len() as u64 > blocks * refcounts_per_block {
            return None;
        }
        self.write_tables(l1);
        self.write_refcounts(refcount_table, refcount_blocks, blocks);
        self.write_header(l1, refcount_table, (blocks * 8).div_ceil(cluster));
        Some(Built { image: self.image, l1, l2: self.l2, clusters: self.clusters, refcounts: refcount_table })
    }

    fn entry_size(&self) -> u64 {
        if self.spec.extended_l2 { 16 } else { 8 }
    }

    fn entries_per_l2(&self) -> u64 {
        self.spec.cluster_size() / self.entry_size()
    }

    fn l1_entries(&self) -> u64 {
        self.spec.size.div_ceil(self.spec.cluster_size() * self.entries_per_l2())
    }

    /// Everything but the L1 table and refcounts, in the order in which it is to lie in the file.
    fn units(&self) -> Vec<Unit> {
        let mut guests: Vec<u64> = self.spec.clusters.keys().copied().collect();
        if let Some(seed) = self.spec.shuffle {
            Random::new(seed).shuffle(&mut guests);
        }
        let table_of = |guest: &u64| guest / self.entries_per_l2();
        let tables = guests.iter().map(table_of).collect::<BTreeSet<_>>().into_iter().map(Unit::L2);
        let mut seen = BTreeSet::new();
        match self.spec.l2 {
            Place::Front => tables.chain(guests.into_iter().map(Unit::Cluster)).collect(),
            Place::Behind => guests.into_iter().map(Unit::Cluster).chain(tables).collect(),
            Place::Before => guests
                .into_iter()
                .flat_map(|guest| {
                    let table = seen.insert(table_of(&guest)).then(|| Unit::L2(table_of(&guest)));
                    table.into_iter().chain([Unit::Cluster(guest)])
                })
                .collect(),
            Place::Scattered(seed) => {
                let random = &mut Random::new(seed);
                let mut units: Vec<_> = guests.into_iter().map(Unit::Cluster).collect();
                for table in tables {
                    units.insert(random.below(units.len() as u64 + 1) as usize, table);
                }
                units
            }
        }
    }

    /// New host clusters for `len` bytes.
    fn allocate(&mut self, len: u64) -> u64 {
        let cluster = self.spec.cluster_size();
        let at = (self.image.len() as u64).next_multiple_of(cluster);
        self.image.resize((at + len.next_multiple_of(cluster)) as usize, 0);
        self.refcounts.resize(self.image.len() / cluster as usize, 0);
        self.count(at, len);
        at
    }

    /// Adds one use to each host cluster of a range.
    fn count(&mut self, at: u64, len: u64) {
        let bits = self.spec.cluster_bits;
        for host in at >> bits..=(at + len - 1) >> bits {
            self.refcounts[host as usize] += 1;
        }
    }

    fn place(&mut self, guest: u64) {
        let cluster = self.spec.cluster_size() as usize;
        let every_subcluster = u64::from(u32::MAX);
        let (entry, bitmap) = match &self.spec.clusters[&guest] {
            Cluster::Plain(data) => (self.store(guest, &filled(data, cluster)), every_subcluster),
            Cluster::Packed(data) => (self.pack(guest, &filled(data, cluster)), 0),
            Cluster::As(_) => return,
            Cluster::Zero => (0, every_subcluster << 32),
            Cluster::AllocatedZero => (self.store(guest, &vec![GARBAGE; cluster]), every_subcluster << 32),
            Cluster::Subclusters { allocated: 0, zero, .. } => (0, u64::from(*zero) << 32),
            Cluster::Subclusters { data, allocated, zero } => {
                let mut stored = filled(data, cluster);
                for (n, subcluster) in stored.chunks_mut(cluster / 32).enumerate() {
                    if allocated & 1 << n == 0 {
                        subcluster.fill(GARBAGE);
                    }
                }
                (self.store(guest, &stored), u64::from(*zero) << 32 | u64::from(*allocated))
            }
        };
        let is_zero = matches!(self.spec.clusters[&guest], Cluster::Zero | Cluster::AllocatedZero);
        let zero_flag = if is_zero && !self.spec.extended_l2 { field::ZERO } else { 0 };
        self.entries.insert(guest, (entry | zero_flag, bitmap));
    }

    /// Gives clusters the entries of others. What has two uses is not marked as having one.
    fn share(&mut self) {
        for (guest, cluster) in &self.spec.clusters {
            let Cluster::As(other) = cluster else { continue };
            let (entry, _) = self.entries.get_mut(other).unwrap();
            *entry &= !field::COPIED;
            let entry = self.entries[other];
            self.entries.insert(*guest, entry);
            if let Some((at, len)) = self.stored.get(other) {
                self.count(*at, *len);
            }
        }
    }

    fn store(&mut self, guest: u64, data: &[u8]) -> u64 {
        let at = self.allocate(data.len() as u64);
        self.image[at as usize..][..data.len()].copy_from_slice(data);
        self.clusters.insert(guest, at);
        self.stored.insert(guest, (at, data.len() as u64));
        at | field::COPIED
    }

    fn pack(&mut self, guest: u64, data: &[u8]) -> u64 {
        const SECTOR: u64 = 512;
        let packed = match self.spec.compression {
            Compression::Deflate => wrap::deflate(data),
            Compression::Zstd => zstd::encode_all(data, 3).unwrap(),
        };
        let at = self.pack_place(packed.len() as u64);
        let end = at + packed.len() as u64;
        self.image[at as usize..end as usize].copy_from_slice(&packed);
        self.pack_at = (!end.is_multiple_of(self.spec.cluster_size())).then_some(end);
        self.clusters.insert(guest, at);
        let extra_sectors = (end - 1) / SECTOR - at / SECTOR;
        let len = (at / SECTOR + extra_sectors + 1) * SECTOR - at;
        self.count(at, len);
        self.stored.insert(guest, (at, len));
        let offset_bits = 62 - (self.spec.cluster_bits - 8);
        field::PACKED | extra_sectors << offset_bits | at
    }

    /// Where a packed cluster goes: behind the one before, into the next host cluster if that one is new, as `qemu` does.
    fn pack_place(&mut self, len: u64) -> u64 {
        let cluster = self.spec.cluster_size();
        let most_uses = u64::MAX >> (64 - (1u32 << self.spec.refcount_order));
        if let Some(at) = self.pack_at {
            let rest = at.next_multiple_of(cluster) - at;
            let is_last = at + rest == self.image.len() as u64;
            let may_share = self.refcounts[(at >> self.spec.cluster_bits) as usize] < most_uses;
            if may_share && (len <= rest || is_last) {
                self.grow(at + len);
                return at;
            }
        }
        let at = (self.image.len() as u64).next_multiple_of(cluster);
        self.grow(at + len);
        at
    }

    /// Makes the file reach `end`, in whole host clusters that nobody uses yet.
    fn grow(&mut self, end: u64) {
        let cluster = self.spec.cluster_size();
        let len = (self.image.len() as u64).max(end.next_multiple_of(cluster));
        self.image.resize(len as usize, 0);
        self.refcounts.resize((len / cluster) as usize, 0);
    }

    fn write_tables(&mut self, l1: u64) {
        for (index, at) in &self.l2 {
            poke(&mut self.image, field::entry(l1, *index), at | field::COPIED);
        }
        for (guest, (entry, bitmap)) in &self.entries {
            let at = self.l2[&(guest / self.entries_per_l2())] + guest % self.entries_per_l2() * self.entry_size();
            poke(&mut self.image, field::entry(at, 0), *entry);
            if self.spec.extended_l2 {
                poke(&mut self.image, field::entry(at, 1), *bitmap);
            }
        }
    }

    fn write_refcounts(&mut self, table: u64, first_block: u64, blocks: u64) {
        for block in 0..blocks {
            poke(&mut self.image, field::entry(table, block), first_block + block * self.spec.cluster_size());
        }
        let bits = 1usize << self.spec.refcount_order;
        let block = &mut self.image[first_block as usize..];
        for (host, count) in self.refcounts.iter().enumerate() {
            if bits >= 8 {
                let bytes = bits / 8;
                block[host * bytes..][..bytes].copy_from_slice(&count.to_be_bytes()[8 - bytes..]);
            } else {
                // Counts below a byte fill it from its lowest bit.
                block[host * bits / 8] |= (*count as u8) << (host * bits % 8);
            }
        }
    }

    fn write_header(&mut self, l1: u64, refcount_table: u64, refcount_clusters: u64) {
        let spec = self.spec;
        let numbers = [
            (field::MAGIC, MAGIC),
            (field::VERSION, spec.version.into()),
            (field::CLUSTER_BITS, spec.cluster_bits.into()),
            (field::SIZE, spec.size),
            (field::CRYPT_METHOD, spec.crypt_method.into()),
            (field::L1_ENTRIES, self.l1_entries()),
            (field::L1_OFFSET, l1),
            (field::REFCOUNT_OFFSET, refcount_table),
            (field::REFCOUNT_CLUSTERS, refcount_clusters),
        ];
        let numbers_of_3 = [
            (field::INCOMPATIBLE, self.incompatible()),
            (field::COMPATIBLE, spec.compatible),
            (field::AUTOCLEAR, spec.autoclear),
            (field::REFCOUNT_ORDER, spec.refcount_order.into()),
            (field::HEADER_LENGTH, spec.header_length.into()),
        ];
        let compression = [(field::COMPRESSION, (spec.compression == Compression::Zstd).into())];
        let v3 = spec.version > 2;
        let later: &[_] = if v3 { &numbers_of_3 } else { &[] };
        let latest: &[_] = if v3 && spec.header_length > 104 { &compression } else { &[] };
        for (field, value) in numbers.iter().chain(later).chain(latest) {
            poke(&mut self.image, *field, *value);
        }
        self.write_extensions(if v3 { spec.header_length as usize } else { 72 });
    }

    fn incompatible(&self) -> u64 {
        let zstd = if self.spec.compression == Compression::Zstd { INCOMPATIBLE_COMPRESSION } else { 0 };
        let extended = if self.spec.extended_l2 { INCOMPATIBLE_EXTENDED_L2 } else { 0 };
        self.spec.incompatible | zstd | extended
    }

    /// Header extensions, and the backing file's name behind them.
    fn write_extensions(&mut self, mut at: usize) {
        let mut extensions = self.spec.extensions.clone();
        if let Some((_, format)) = &self.spec.backing {
            extensions.push((EXTENSION_BACKING_FORMAT, format.clone()));
        }
        extensions.push((EXTENSION_END, Vec::new()));
        for (kind, data) in &extensions {
            self.image[at..at + 4].copy_from_slice(&kind.to_be_bytes());
            self.image[at + 4..at + 8].copy_from_slice(&(data.len() as u32).to_be_bytes());
            self.image[at + 8..at + 8 + data.len()].copy_from_slice(data);
            at += 8 + data.len().next_multiple_of(8);
        }
        if let Some((name, _)) = &self.spec.backing {
            self.image[at..at + name.len()].copy_from_slice(name);
            poke(&mut self.image, field::BACKING_OFFSET, at as u64);
            poke(&mut self.image, field::BACKING_LENGTH, name.len() as u64);
        }
    }
}
