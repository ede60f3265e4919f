//! The grain directory and its grain tables, where they can be read before the grains.

use std::mem::take;
use std::ops::Range;

use super::header::{ENTRY, Header};
use super::{FORMAT, SECTOR};
use crate::error::{Error, Result};
use crate::extent::{Codec, Extent};
use crate::format::walk::{Table, Walk};
use crate::format::{Opening, Order};
use crate::source::{Source, look_exact};

/// Visits the grain tables in the order in which they lie in the image.
pub(super) struct Tables {
    header: Header,
    directory: u64,
    walk: Walk,
    /// Where the last table and everything in front of it ends.
    end: u64,
    stored: Stored,
    /// One table; kept so that it is allocated once.
    buffer: Vec<u8>,
}

/// What is known about holes of a sparse image file: nothing is stored from `asked` to `data.start`.
#[derive(Default)]
struct Stored {
    asked: u64,
    data: Range<u64>,
}

impl Tables {
    /// The tables that the grain directory at `directory` names. Nothing is read yet.
    pub(super) fn new(header: &Header, directory: u64, virtual_size: u64, how: &Opening) -> Self {
        let mut walk = Walk::new(FORMAT, Codec::Zlib, virtual_size, how);
        walk.expect_of_a_table(header.table_len() / ENTRY);
        Self { header: header.clone(), directory, walk, end: 0, stored: Stored::default(), buffer: Vec::new() }
    }

    /// Reads the grain directory. Needed once, before [`next`](Self::next). Returns where the first of it and the tables begins,
    /// and where the last of all metadata ends.
    pub(super) fn plan(&mut self, source: &mut dyn Source, order: Order) -> Result<Range<u64>> {
        /// Entries of the directory that are read at once.
        const ENTRIES: usize = 1024;
        self.walk.along(order);
        let header = &self.header;
        // FreeBSD's mkimg of 2014 gives the one directory that it writes for the redundant one as well.
        // Behind the grains of a stream, the markers lead to both.
        let is_in_front = !header.is_stream || header.tables_in_front();
        let redundant = header.redundant.filter(|at| is_in_front && *at != self.directory);
        let directories = [Some(self.directory), redundant].into_iter().flatten();
        let fixed: Vec<_> = [(0, SECTOR)]
            .into_iter()
            .chain(header.descriptor)
            .chain(directories.map(|at| (at, header.directory_len())))
            .collect();
        // Before anything is read: a stream does not give its first bytes again.
        self.walk.plan(Vec::new(), 0, &fixed)?;
        let mut tables = Vec::new();
        let mut chunk = [0; ENTRIES * size_of::<u32>()];
        for first in (0..header.tables()).step_by(ENTRIES) {
            let at = self.directory.saturating_add(first.saturating_mul(ENTRY));
            let left = length(header.tables().saturating_sub(first).saturating_mul(ENTRY)).min(chunk.len());
            let part = chunk.get_mut(..left).unwrap_or_default();
            look_exact(source, part, at, FORMAT, "the grain directory")?;
            for (index, sector) in (first..).zip(entries_of(part)) {
                // Below the capacity, which is a number of bytes that fits.
                let start = index.saturating_mul(header.table_span());
                match sector {
                    0 => self.walk.zero(start, header.table_span()),
                    _ => tables.push(Table { at: u64::from(sector) * SECTOR, start }),
                }
            }
            // What all tables take and the entries of one is enough, so that is named.
            let enough = length(header.tables()).saturating_add(ENTRIES);
            self.walk.charge(tables.len()).or_else(|_| self.walk.charge(enough))?;
        }
        let begin = tables.iter().map(|table| table.at).fold(self.directory, u64::min);
        let table_ends = tables.iter().map(|table| table.at.saturating_add(header.table_len()));
        self.end = fixed.iter().map(|(at, len)| at.saturating_add(*len)).chain(table_ends).max().unwrap_or(0);
        self.walk.plan(tables, header.table_len(), &fixed)?;
        Ok(begin..self.end)
    }

    /// The next extent. Grains that read as zero are named here, `allocated` is told the others: the walk, the sector
    /// that the table gives, and the start on the disk.
    pub(super) fn next(
        &mut self,
        source: &mut dyn Source,
        mut allocated: impl FnMut(&mut Walk, u32, u64) -> Result<()>,
    ) -> Result<Option<Extent>> {
        let Self { header, walk, end, stored, buffer, .. } = self;
        walk.next(source, |walk, source, table| {
            let grains = header.grains_from(table.start);
            let len = grains.saturating_mul(ENTRY);
            let span = table.at..table.at.saturating_add(len);
            if stored.is_hole(source, span, *end)? {
                walk.zero(table.start, grains.saturating_mul(header.grain));
                return Ok(());
            }
            let mut bytes = take(buffer);
            bytes.resize(length(len), 0);
            look_exact(source, &mut bytes, table.at, FORMAT, "a grain table")?;
            let starts = (table.start..).step_by(length(header.grain));
            for (entry, start) in entries_of(&bytes).zip(starts) {
                match header.allocated(entry) {
                    None => walk.zero(start, header.grain),
                    Some(sector) => allocated(walk, sector, start)?,
                }
            }
            *buffer = bytes;
            Ok(())
        })
    }
}

impl Stored {
    /// Whether all of `span` lies on a hole. `end` is how far it makes sense to look ahead, so that the empty tables
    /// of a huge disk are found with one question.
    fn is_hole(&mut self, source: &mut dyn Source, span: Range<u64>, end: u64) -> Result<bool> {
        // What lies past the end of the file is missing, which reading it will say.
        if source.len().is_some_and(|len| span.end > len) {
            return Ok(false);
        }
        if !(self.asked..self.data.end).contains(&span.start) {
            self.asked = span.start;
            self.data = source.next_data(span.start..end)?.unwrap_or(end..end);
        }
        Ok(span.end <= self.data.start)
    }
}

/// The entries of a grain directory or table.
pub(super) fn entries_of(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry))
}

/// A length in memory of something that was checked to be small: a table, a chunk, a grain.
pub(super) fn length(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Proves that the image reaches `overhead` although nothing up to there was needed behind `read`: a file cut in front of
/// its first grain is no empty disk.
pub(super) fn prove_overhead(source: &mut dyn Source, read: u64, overhead: u64) -> Result<()> {
    if read >= overhead {
        return Ok(());
    }
    look_exact(source, &mut [0], overhead.saturating_sub(1), FORMAT, "the space in front of the grains")
}

/// The sector at byte `at`, as the entry of a table gives it.
pub(super) fn sector_of(at: u64) -> Result<u32> {
    u32::try_from(at / SECTOR).map_err(|_| {
        let what = "the stream goes on behind 2 TiB, where no grain table can point";
        Error::corrupt(FORMAT, "too-far", at, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grain_behind_two_tebibytes_has_no_number() {
        assert_eq!(sector_of((1 << 41) - SECTOR).unwrap(), u32::MAX);
        assert_eq!(sector_of(1 << 41).unwrap_err().code(), "vmdk-too-far");
    }
}
