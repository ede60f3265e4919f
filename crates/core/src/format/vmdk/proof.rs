//! Proof that the grain tables of a stream and its markers say the same.
//!
//! The markers alone are enough to read a stream. The tables are redundant, so they must agree: it is how a stream that
//! lost or repeats a grain is told from a whole one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::iter::repeat;

use super::FORMAT;
use super::header::Header;
use super::tables::length;
use crate::error::{Error, Result};

/// For tables that are read before the grains: what they promise, less what has come.
///
/// Neither is kept. A sum of keyed hashes does not depend on the order, and is zero only if both sides name the same
/// grains at the same sectors; who writes the image does not know the key. So memory does not grow with the disk.
#[derive(Default)]
pub(super) struct Ledger {
    key: RandomState,
    promised: u64,
    found: u64,
    balance: u64,
}

impl Ledger {
    /// A table says that the grain at `start` of the disk is at `sector` of the image.
    pub(super) fn promise(&mut self, start: u64, sector: u32) {
        self.promised = self.promised.saturating_add(1);
        self.balance = self.balance.wrapping_add(self.key.hash_one((start, sector)));
    }

    /// A marker at `sector` says the same.
    pub(super) fn find(&mut self, start: u64, sector: u32) {
        self.found = self.found.saturating_add(1);
        self.balance = self.balance.wrapping_sub(self.key.hash_one((start, sector)));
    }

    /// Checks that all promises were kept when the stream ends at byte `at`.
    pub(super) fn settle(&self, at: u64) -> Result<()> {
        let Self { promised, found, balance, .. } = self;
        if promised != found {
            let what =
                format!("the grain tables name {promised} grains, but {found} came before the end of the stream");
            return Err(Error::corrupt(FORMAT, "grain-count", at, what));
        }
        if *balance != 0 {
            let what = format!("the grain tables and the markers of the {found} grains name different places");
            return Err(Error::corrupt(FORMAT, "table-disagrees", at, what));
        }
        Ok(())
    }
}

/// Proof that two copies of the same tables are the same, of which none is kept.
pub(super) struct Copies {
    key: RandomState,
    hasher: DefaultHasher,
    first: Option<u64>,
}

impl Copies {
    pub(super) fn new() -> Self {
        let key = RandomState::new();
        Self { hasher: key.build_hasher(), key, first: None }
    }

    /// Takes what stands in the copy, piece by piece.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    /// Goes on to the second copy.
    pub(super) fn again(&mut self) {
        self.first = Some(self.hasher.finish());
        self.hasher = self.key.build_hasher();
    }

    /// Whether this is the second copy.
    pub(super) fn is_second(&self) -> bool {
        self.first.is_some()
    }

    /// Checks that the copy that ends before byte `at` is no other than the first one.
    pub(super) fn settle(&self, at: u64) -> Result<()> {
        if self.first.is_some_and(|first| first != self.hasher.finish()) {
            let what = "the grain tables come a second time, and say something else";
            return Err(Error::corrupt(FORMAT, "table-disagrees", at, what));
        }
        Ok(())
    }
}

/// For tables that follow their grains: the grains whose table has not come, and the tables whose directory has not come.
pub(super) struct Behind {
    header: Header,
    limit: u64,
    /// By the table's place in the directory: what must stand in it.
    open: BTreeMap<u64, Vec<u32>>,
    /// The place of each open table, by the lowest sector in it, which is its own: so that a table is known when it comes.
    by_first: BTreeMap<u32, u64>,
    /// Tables that came: their sector, by their place in the directory.
    closed: BTreeMap<u64, u32>,
    /// Sectors of tables that came and name no grain; any place may claim each of them.
    empty: BTreeSet<u32>,
}

impl Behind {
    pub(super) fn new(header: &Header, limit: u64) -> Self {
        Self {
            header: header.clone(),
            limit,
            open: BTreeMap::new(),
            by_first: BTreeMap::new(),
            closed: BTreeMap::new(),
            empty: BTreeSet::new(),
        }
    }

    /// Notes the grain at `start` of the disk, whose marker is at `sector`, byte `at`.
    pub(super) fn grain(&mut self, start: u64, sector: u32, at: u64) -> Result<()> {
        let (index, place) = self.header.place_of(start);
        if self.closed.contains_key(&index) {
            let what = format!("a grain at byte {start} of the disk comes after its grain table");
            return Err(Error::corrupt(FORMAT, "grain-after-table", at, what));
        }
        if !self.open.contains_key(&index) {
            self.by_first.insert(sector, index);
            self.charge()?;
        }
        let entries = length(self.header.table_entries.get().into());
        let table = self.open.entry(index).or_insert_with(|| vec![0; entries]);
        match table.get_mut(length(place)) {
            Some(entry @ 0) => *entry = sector,
            _ => {
                let what = format!("the grain at byte {start} of the disk comes a second time");
                return Err(Error::corrupt(FORMAT, "grain-twice", at, what));
            }
        }
        Ok(())
    }

    /// Checks the grain table at `sector`, byte `at`, and returns its place in the directory. A table that names no grain has
    /// none yet.
    pub(super) fn table(&mut self, entries: &[Option<u32>], sector: u32, at: u64) -> Result<Option<u64>> {
        let Some(first) = entries.iter().flatten().min() else {
            self.empty.insert(sector);
            return self.charge().map(|()| None);
        };
        let index = self.by_first.remove(first);
        let Some((index, expected)) = index.and_then(|index| Some((index, self.open.remove(&index)?))) else {
            let what = format!("a grain table names sector {first}, where no grain without a table begins");
            return Err(Error::corrupt(FORMAT, "table-disagrees", at, what));
        };
        compare(index, entries, expected.into_iter(), at)?;
        self.closed.insert(index, sector);
        Ok(Some(index))
    }

    /// Whether no table has come.
    pub(super) fn is_without_tables(&self) -> bool {
        self.closed.is_empty() && self.empty.is_empty()
    }

    /// Checks the grain table at byte `at` that can only be the one at place `index` of the directory.
    pub(super) fn table_of(&mut self, index: u64, entries: &[Option<u32>], at: u64) -> Result<()> {
        let expected = self.open.remove(&index).unwrap_or_default();
        if let Some(first) = expected.iter().filter(|sector| **sector != 0).min() {
            self.by_first.remove(first);
        }
        compare(index, entries, expected.iter().copied().chain(repeat(0)), at)
    }

    /// Checks entry `index` of the grain directory at byte `at`. Returns whether the table there names no grain.
    pub(super) fn directory_entry(&mut self, index: u64, sector: u32, at: u64) -> Result<bool> {
        match (sector, self.closed.get(&index)) {
            (0, None) => Ok(true),
            (_, Some(closed)) if sector == *closed => Ok(false),
            (_, None) if self.empty.remove(&sector) => Ok(true),
            (_, closed) => {
                let closed = closed.copied().unwrap_or(0);
                let what =
                    format!("entry {index} of the grain directory says sector {sector}, the table was at {closed}");
                Err(Error::corrupt(FORMAT, "directory-disagrees", at, what))
            }
        }
    }

    /// Checks that every grain has had its table when the grain directory comes at byte `at`.
    pub(super) fn settle(&self, at: u64) -> Result<()> {
        match self.open.keys().next() {
            None => Ok(()),
            Some(index) => {
                let what = format!("grain table {index} is missing, although grains of it came");
                Err(Error::corrupt(FORMAT, "table-missing", at, what))
            }
        }
    }

    fn charge(&self) -> Result<()> {
        /// What an entry of a tree takes, roughly, and what an allocation takes at least.
        const NODE: u64 = 32;
        const ALLOCATION: u64 = 32;
        // One in each tree, that with the tables of three times the size.
        let each = self.header.table_len().saturating_add(ALLOCATION).saturating_add(4 * NODE);
        let open = (self.by_first.len() as u64).saturating_mul(each);
        let passed = (self.closed.len().saturating_add(self.empty.len()) as u64).saturating_mul(NODE);
        let wanted = open.saturating_add(passed);
        if wanted > self.limit {
            let what = "bytes of memory for grains whose table has not come";
            return Err(Error::Limit { what, wanted, limit: self.limit, option: "--limit-table" });
        }
        Ok(())
    }
}

/// Compares what stands in grain table `index` at byte `at` with what the markers say.
fn compare(index: u64, entries: &[Option<u32>], expected: impl Iterator<Item = u32>, at: u64) -> Result<()> {
    for (place, (found, expected)) in entries.iter().zip(expected).enumerate() {
        let found = found.unwrap_or(0);
        if found != expected {
            let what = format!(
                "entry {place} of grain table {index} says sector {found}, but the markers say {expected} (0: hole)"
            );
            return Err(Error::corrupt(FORMAT, "table-disagrees", at, what));
        }
    }
    Ok(())
}
