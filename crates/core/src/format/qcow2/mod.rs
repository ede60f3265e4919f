//! qcow2, versions 2 and 3: an L1 table of L2 tables of clusters.
//!
//! Specification: `docs/interop/qcow2.rst` of QEMU. The names of fields and bits are those of the specification.
//! The active layer is read; refcounts, snapshots and bitmaps are not needed for that and are passed by.

mod header;
mod l2;

use header::Header;
use l2::L2;

use super::detect::NEAR;
use super::walk::{Table, Walk};
use super::{Format, Image, ImageInfo, Opening, Order};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::source::{Source, look_exact};

const FORMAT: &str = "qcow2";

pub(super) const QCOW2: Format = Format { name: FORMAT, head: |_| NEAR, probe, open };

/// Version 1 has the same magic and nothing else in common.
fn probe(head: &[u8]) -> bool {
    head.starts_with(&header::MAGIC) && head.get(4..8) != Some(&[0, 0, 0, 1])
}

fn open(source: &mut dyn Source, how: &Opening) -> Result<Box<dyn Image>> {
    let (header, info) = Header::read(source)?;
    let (mut walk, l2) = (Walk::new(FORMAT, header.codec, header.virtual_size, how), L2::new(&header));
    walk.expect_of_a_table(l2.extents_at_most());
    Ok(Box::new(Qcow2 { info, walk, l2, header }))
}

struct Qcow2 {
    info: ImageInfo,
    header: Header,
    walk: Walk,
    l2: L2,
}

impl Image for Qcow2 {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn plan(&mut self, source: &mut dyn Source, order: Order) -> Result<()> {
        self.walk.along(order);
        read_l1(source, &self.header, &mut self.walk)
    }

    fn next_extent(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        let l2 = &mut self.l2;
        self.walk.next(source, |walk, source, table| l2.load(walk, source, table))
    }
}

/// Plans the walk over the L2 tables that the active L1 table names.
fn read_l1(source: &mut dyn Source, header: &Header, walk: &mut Walk) -> Result<()> {
    /// Entries read at once, so that a large table is never in memory twice.
    const ENTRIES: usize = 8192;
    let mut tables = Vec::new();
    let needed = header.l1_entries_needed();
    for first in (0..needed).step_by(ENTRIES) {
        let entries = usize::try_from(needed.saturating_sub(first)).unwrap_or(usize::MAX).min(ENTRIES);
        let mut bytes = vec![[0; 8]; entries];
        look_exact(source, bytes.as_flattened_mut(), header.l1_entry_at(first), FORMAT, "the L1 table")?;
        for (index, entry) in (first..).zip(&bytes) {
            let start = index.saturating_mul(header.l2_reach());
            match l2_table_at(u64::from_be_bytes(*entry), index, header)? {
                Some(at) => tables.push(Table { at, start }),
                None => walk.zero(start, header.l2_reach().min(header.virtual_size.saturating_sub(start))),
            }
        }
        walk.charge(tables.len())?;
    }
    let fixed = [
        (0, header.cluster_size()),
        (header.l1_at, header.l1_entries.saturating_mul(8)),
        (header.refcount_table_at, header.refcount_table_bytes),
    ];
    walk.plan(tables, header.cluster_size(), &fixed)
}

/// "L1 table entry": bits 9 to 55 are the offset; bit 63 speaks of refcounts, and the rest is not looked at, as in QEMU.
fn l2_table_at(entry: u64, index: u64, header: &Header) -> Result<Option<u64>> {
    let at = entry & l2::OFFSET;
    let cluster = header.cluster_size();
    if !at.is_multiple_of(cluster) {
        let what = format!(
            "L1 entry {index} names an L2 table at byte {at}, which is no multiple of the cluster size {cluster}"
        );
        return Err(Error::corrupt(FORMAT, "l2-unaligned", header.l1_entry_at(index), what));
    }
    Ok((at != 0).then_some(at))
}
