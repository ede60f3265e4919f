//! The walk: visits the tables and extents of a mapped image in the order in which they lie in it.
//!
//! A format tells the walk where its tables are; the walk asks the format to load each one when its turn has come,
//! and hands out the extents that the tables named. A table's extents leave memory as they pass, so no full map is ever
//! built. In [`Order::Virtual`] the same walk goes along the virtual disk instead.

mod sides;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem::{size_of, take};

use self::sides::Sides;
use super::{Opening, Order};
use crate::error::{Error, Result};
use crate::extent::{Body, Codec, Extent};
use crate::source::{BEHIND, Source};

/// One mapping table below the root: an L2 table, a grain table, a piece of a block map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    /// Offset in the image.
    pub(crate) at: u64,
    /// First byte of the virtual disk that it maps.
    pub(crate) start: u64,
}

/// Where metadata lies: its first byte and the one behind its last.
type Span = (u64, u64);

/// Lengths of runs are kept in sectors, so that a run takes 24 bytes.
const SECTOR: u64 = 512;
/// How many places of the disk may share their bytes. Deduplicating writers are rare, and modest.
const MOST_REPEATS: u32 = 1024;
/// How many sectors between known units are kept of a stream: 4 MiB.
const MOST_TAILS: u32 = 8192;
/// Stored bytes that may be named for each byte of the image up to the furthest that was: tiny packed units are said to
/// take a sector each, however many share it.
const MOST_NAMED: u64 = 32;
/// What may be named in any case.
const NAMED_AT_LEAST: u64 = 8 << 20;
/// Room for extents in waiting, in bytes: more than may wait where the limit is left alone.
const ROOM: u64 = 33 << 20;
const ZERO: u32 = u32::MAX;
const PLAIN: u32 = 0;

/// An extent in waiting. `key` is the offset the walk is ordered by, `other` the one it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    key: u64,
    other: u64,
    sectors: u32,
    /// [`PLAIN`], [`ZERO`], or the stored length of a packed unit.
    stored: u32,
}

/// See the [module](self).
pub(crate) struct Walk {
    format: &'static str,
    codec: Codec,
    virtual_size: u64,
    order: Order,
    limit: u64,
    /// Memory that the format itself takes of the limit.
    held: u64,
    /// Memory that one table is expected to take with all that it names.
    table_room: u64,
    /// Tables not loaded yet, the next one last.
    tables: Vec<Table>,
    /// Headers, root tables and all tables, in ascending order, not overlapping.
    metadata: Vec<Span>,
    runs: BinaryHeap<Reverse<Run>>,
    /// The run that the next entry may continue.
    open: Option<Run>,
    /// Where the packed unit ends that was named last, by whole sectors.
    packed_to: Option<u64>,
    /// Where the extent lies that was named last, and how often in a row.
    repeated: (u64, u32),
    /// Sectors between known units that were kept.
    tails: u32,
    /// Stored bytes named up to now, and the furthest of them.
    named: u64,
    furthest: u64,
    /// Where the table lies that is being loaded.
    loading: u64,
    sides: Sides,
    settled: bool,
}

impl Walk {
    /// A walk over a disk of `virtual_size` bytes, whose packed units are all packed with `codec`, in source order.
    pub(crate) fn new(format: &'static str, codec: Codec, virtual_size: u64, how: &Opening) -> Self {
        Self {
            format,
            codec,
            virtual_size,
            order: Order::Source,
            limit: how.limits.table,
            held: 0,
            table_room: 0,
            tables: Vec::new(),
            metadata: Vec::new(),
            runs: BinaryHeap::new(),
            open: None,
            packed_to: None,
            repeated: (0, 0),
            tails: 0,
            named: 0,
            furthest: 0,
            loading: 0,
            sides: Sides::default(),
            settled: false,
        }
    }

    /// Lets the walk go along `order`. Before anything is named.
    pub(crate) fn along(&mut self, order: Order) {
        self.order = order;
    }

    /// Counts `bytes` that the format keeps besides as memory for tables.
    pub(crate) fn hold(&mut self, bytes: u64) {
        self.held = bytes;
    }

    /// Says that no table names more than so many extents, for which there has to be room where extents can pass before one is loaded.
    pub(crate) fn expect_of_a_table(&mut self, extents: u64) {
        self.table_room = extents.saturating_mul(size_of::<Run>() as u64);
    }

    /// Takes the `tables` to visit, each `table_len` bytes long, or 0 where they are parts of a fixed range. `fixed` are the
    /// ranges (start, length) of headers and root tables. No two of them may overlap, since one byte cannot mean two things.
    pub(crate) fn plan(&mut self, mut tables: Vec<Table>, table_len: u64, fixed: &[(u64, u64)]) -> Result<()> {
        self.charge(tables.len())?;
        // Where it grows step by step, as it does without room, `malloc` keeps holes among what else is in memory. Pages that nobody writes
        // to take nothing.
        let room =
            self.limit.min(ROOM).checked_div(size_of::<Run>() as u64).and_then(|runs| usize::try_from(runs).ok());
        self.runs.try_reserve(room.unwrap_or(0)).ok();
        let spans = fixed.iter().copied().chain(tables.iter().map(|table| (table.at, table_len)));
        self.metadata = spans.filter(|span| span.1 > 0).map(|(at, len)| (at, at.saturating_add(len))).collect();
        self.metadata.sort_unstable();
        for (this, next) in self.metadata.iter().zip(self.metadata.iter().skip(1)) {
            if next.0 < this.1 {
                let what =
                    format!("a table at byte {} overlaps the metadata at bytes {} to {}", next.0, this.0, this.1);
                return Err(Error::corrupt(self.format, "tables-overlap", next.0, what));
            }
        }
        let order = self.order;
        tables.sort_unstable_by_key(|table| Reverse(key_of(order, table)));
        self.tables = tables;
        Ok(())
    }

    /// Maps `len` bytes at `start` of the disk to the bytes at `at` of the image.
    pub(crate) fn data(&mut self, at: u64, start: u64, len: u64) -> Result<()> {
        self.forbid_metadata(at, len)?;
        self.forbid_both_sides(at, len)?;
        self.push(at, start, len, PLAIN);
        self.check_memory(0)
    }

    /// Maps one unit of `len` bytes at `start` of the disk to at most `stored` packed bytes at `at` of the image.
    pub(crate) fn packed(&mut self, at: u64, start: u64, len: u64, stored: u32) -> Result<()> {
        debug_assert!(stored != PLAIN && stored != ZERO, "these mean something else");
        // How much of `stored` is really used shows only when it is unpacked.
        self.forbid_metadata(at, 1)?;
        self.forbid_both_sides(at, 1)?;
        self.push(at, start, len, stored);
        self.check_memory(0)
    }

    /// Says that `len` bytes at `start` of the disk are zero.
    pub(crate) fn zero(&mut self, start: u64, len: u64) {
        self.push(0, start, len, ZERO);
    }

    /// The next extent. `load` reads one table from the source and names what it maps through [`data`](Self::data),
    /// [`packed`](Self::packed) and [`zero`](Self::zero).
    pub(crate) fn next(
        &mut self,
        source: &mut dyn Source,
        mut load: impl FnMut(&mut Self, &mut dyn Source, Table) -> Result<()>,
    ) -> Result<Option<Extent>> {
        self.close();
        self.keep_tail(source)?;
        while self.table_is_next(source)? {
            let Some(table) = self.tables.pop() else { break };
            self.loading = table.at;
            load(self, source, table)?;
            self.close();
            self.check_memory(0)?;
            let found = self.sides.close();
            self.mapped_once(found)?;
        }
        if self.tables.is_empty() && !self.settled {
            self.settled = true;
            (self.tables, self.metadata) = (Vec::new(), Vec::new());
            source.settle();
        }
        if self.settled && self.runs.is_empty() {
            // Something else may need the memory.
            self.runs = BinaryHeap::new();
        }
        let next = self.runs.pop().map(|Reverse(run)| self.extent(run));
        self.packed_to = match next {
            Some(Extent { body: Body::Packed { at, len, .. }, .. }) => Some(at.saturating_add(len.into())),
            _ => None,
        };
        if let Some(extent) = next {
            self.bound_repeats(&extent)?;
            self.keep_shared(&extent, source)?;
        }
        Ok(next)
    }

    /// A small image can name its bytes for a disk of terabytes, one cluster or all of them again and again. Nobody but an
    /// attacker does.
    fn bound_repeats(&mut self, extent: &Extent) -> Result<()> {
        let Some((at, len)) = stored(extent) else { return Ok(()) };
        let times = if at == self.repeated.0 { self.repeated.1.saturating_add(1) } else { 1 };
        self.repeated = (at, times);
        self.named = self.named.saturating_add(len);
        self.furthest = self.furthest.max(at.saturating_add(len));
        let most = self.furthest.saturating_mul(MOST_NAMED).max(NAMED_AT_LEAST);
        let what = if times > MOST_REPEATS {
            format!("the bytes at {at} stand for {times} places of the disk, {MOST_REPEATS} are allowed")
        } else if self.named > most {
            let (named, furthest) = (self.named, self.furthest);
            format!("the first {furthest} bytes of the image are mapped as if they were {named}, {most} are allowed")
        } else {
            return Ok(());
        };
        Err(Error::corrupt(self.format, "mapped-too-often", at, what))
    }

    /// A unit that a table to come maps may begin in the sector where the last one ended. Writers put units back to back,
    /// so there is mostly room for it only where the next thing that is known lies elsewhere. But a unit of some dozen bytes,
    /// written for a far place of the disk, fits between two known ones: for that, a bounded number of sectors is kept. QEMU goes on in the last
    /// one when what could not be packed has been put behind it: that one is remembered in any case.
    fn keep_tail(&mut self, source: &mut dyn Source) -> Result<()> {
        let (Some(end), Some(table)) = (self.packed_to, self.tables.last()) else { return Ok(()) };
        let next_to_it = |run: &Run| run.key <= end && run.key.saturating_add(SECTOR) > end && run.key < table.at;
        if self.runs.peek().is_some_and(|Reverse(run)| next_to_it(run)) {
            // What is still behind the frontier when the table is read need not be kept.
            if source.seekable() || self.tails == MOST_TAILS || table.at <= end.saturating_add(BEHIND) {
                source.remember(end.saturating_sub(SECTOR - 1)..end);
                return Ok(());
            }
            self.tails = self.tails.saturating_add(1);
        }
        source.keep(end.saturating_sub(SECTOR - 1)..end)
    }

    /// What is named next may begin inside of `extent`: clusters may stand for several places of the disk. A stream is
    /// told of it before they pass.
    fn keep_shared(&self, extent: &Extent, source: &mut dyn Source) -> Result<()> {
        let Some((at, len)) = stored(extent).filter(|_| !source.seekable()) else { return Ok(()) };
        let end = at.saturating_add(len);
        let run = self.runs.peek().map(|Reverse(run)| run.key);
        let next = run.into_iter().chain(self.tables.last().map(|table| table.at)).min().unwrap_or(end);
        if next.saturating_add(BEHIND) < end {
            source.keep(next..end)?;
        }
        Ok(())
    }

    fn table_is_next(&self, source: &dyn Source) -> Result<bool> {
        let Some(table) = self.tables.last() else { return Ok(false) };
        let Some(Reverse(run)) = self.runs.peek() else { return Ok(true) };
        // On a tie the table comes first: its extents may lie before the rest of a zero run.
        if run.key < key_of(self.order, table) {
            return Ok(false);
        }
        // A seekable source can be read in any order: where there may not be room for all that the table names, let extents pass first.
        Ok(!source.seekable() || self.check_memory(self.table_room).is_ok())
    }

    /// Holds `tables` tables that are about to be planned against the limit, with what waits already.
    pub(crate) fn charge(&self, tables: usize) -> Result<()> {
        self.check_memory(tables.saturating_mul(size_of::<Table>().saturating_add(size_of::<Span>())) as u64)
    }

    /// Holds what is kept, and `more` bytes, against the limit.
    fn check_memory(&self, more: u64) -> Result<()> {
        let kept = [
            self.tables.len().saturating_mul(size_of::<Table>()),
            self.metadata.len().saturating_mul(size_of::<Span>()),
            self.runs.len().saturating_mul(size_of::<Run>()),
        ];
        let wanted =
            kept.into_iter().fold(self.held.saturating_add(more), |sum, bytes| sum.saturating_add(bytes as u64));
        if wanted > self.limit {
            let what = "bytes of memory for the image's mapping tables";
            return Err(Error::Limit { what, wanted, limit: self.limit, option: "--limit-table" });
        }
        Ok(())
    }

    fn forbid_metadata(&self, at: u64, len: u64) -> Result<()> {
        let end = at.saturating_add(len);
        let after = self.metadata.partition_point(|span| span.1 <= at);
        match self.metadata.get(after) {
            Some(span) if span.0 < end => {
                let what =
                    format!("data at bytes {at} to {end} overlaps the metadata at bytes {} to {}", span.0, span.1);
                Err(Error::corrupt(self.format, "data-in-metadata", at, what))
            }
            _ => Ok(()),
        }
    }

    fn forbid_both_sides(&mut self, at: u64, len: u64) -> Result<()> {
        let found = self.sides.map(self.loading, at..at.saturating_add(len));
        self.mapped_once(found)
    }

    /// Fails if there is a byte that was mapped from [both sides](sides).
    fn mapped_once(&self, found: Option<u64>) -> Result<()> {
        found.map_or(Ok(()), |at| {
            let what = format!(
                "byte {at} of the image stands for several places of the disk, some in a table in front of it and some in one behind"
            );
            Err(Error::unsupported(self.format, "mapped-from-behind", what))
        })
    }

    fn push(&mut self, at: u64, start: u64, len: u64, stored: u32) {
        // The longest run is a whole number of the largest clusters, so that its parts stay aligned.
        const LONGEST: u64 = 1 << 40;
        let mut done = 0_u64;
        while done < len {
            let part = len.saturating_sub(done).min(LONGEST);
            let at = if stored == ZERO { 0 } else { at.saturating_add(done) };
            self.push_part(at, start.saturating_add(done), part, stored);
            done = done.saturating_add(part);
        }
    }

    fn push_part(&mut self, at: u64, start: u64, len: u64, stored: u32) {
        let (key, other) = match self.order {
            Order::Source => (at, start),
            Order::Virtual => (start, at),
        };
        debug_assert!(
            len.is_multiple_of(SECTOR) || start.saturating_add(len) >= self.virtual_size,
            "only the disk's end is within a sector"
        );
        let sectors = u32::try_from(len.div_ceil(SECTOR)).unwrap_or(u32::MAX);
        debug_assert!(sectors < u32::MAX, "what is longer is parted");
        let run = Run { key, other, sectors, stored };
        match &mut self.open {
            Some(open) if continues(open, &run, self.order) => {
                open.sectors = open.sectors.saturating_add(sectors);
            }
            open => {
                let before = open.replace(run);
                self.runs.extend(before.map(Reverse));
            }
        }
    }

    fn close(&mut self) {
        self.runs.extend(take(&mut self.open).map(Reverse));
    }

    fn extent(&self, run: Run) -> Extent {
        let (at, start) = match self.order {
            Order::Source => (run.key, run.other),
            Order::Virtual => (run.other, run.key),
        };
        debug_assert!(start < self.virtual_size, "what is named lies on the disk");
        let whole = u64::from(run.sectors) * SECTOR;
        let clipped = whole.min(self.virtual_size.saturating_sub(start));
        match run.stored {
            PLAIN => Extent { start, len: clipped, body: Body::Data { at } },
            ZERO => Extent { start, len: clipped, body: Body::Zero },
            len => Extent { start, len: whole, body: Body::Packed { at, len, codec: self.codec } },
        }
    }
}

/// Where the bytes of `extent` are stored, and how many they are at most.
fn stored(extent: &Extent) -> Option<(u64, u64)> {
    match extent.body {
        Body::Data { at } => Some((at, extent.len)),
        Body::Packed { at, len, .. } => Some((at, len.into())),
        Body::Zero => None,
    }
}

fn key_of(order: Order, table: &Table) -> u64 {
    match order {
        Order::Source => table.at,
        Order::Virtual => table.start,
    }
}

fn continues(open: &Run, next: &Run, order: Order) -> bool {
    let len = u64::from(open.sectors) * SECTOR;
    let both = (open.key.saturating_add(len), open.other.saturating_add(len)) == (next.key, next.other);
    let start_follows = match order {
        Order::Source => open.other.saturating_add(len) == next.other,
        Order::Virtual => open.key.saturating_add(len) == next.key,
    };
    let fits = open.sectors.checked_add(next.sectors).is_some();
    fits && open.stored == next.stored && ((open.stored == PLAIN && both) || (open.stored == ZERO && start_follows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    const MIB: u64 = 1 << 20;

    /// A source of nothing: the walk only asks whether it can seek.
    struct Nothing {
        seekable: bool,
        settled: bool,
    }

    impl Source for Nothing {
        fn len(&self) -> Option<u64> {
            None
        }

        fn read_at(&mut self, _: &mut [u8], _: u64) -> Result<usize> {
            Ok(0)
        }

        fn seekable(&self) -> bool {
            self.seekable
        }

        fn settle(&mut self) {
            self.settled = true;
        }
    }

    /// Walks a disk of two tables, whose own places are 100 KiB and 200 KiB. The first MiB's data lies behind both of
    /// them, the second's between them; the rest of each MiB is zero.
    fn walked(order: Order, limit: u64, seekable: bool) -> Result<Vec<Extent>> {
        let limits = Limits { table: limit, ..Limits::default() };
        let how = Opening { limits: &limits, stated: false };
        let mut walk = Walk::new("test", Codec::Deflate, 2 * MIB - 5, &how);
        walk.along(order);
        walk.expect_of_a_table(2);
        walk.plan(vec![Table { at: 200 << 10, start: MIB }, Table { at: 100 << 10, start: 0 }], 4096, &[(0, 4096)])?;
        let mut source = Nothing { seekable, settled: false };
        let mut extents = Vec::new();
        while let Some(extent) = walk.next(&mut source, |walk, _, table| {
            let at = if table.start == 0 { 300 << 10 } else { 120 << 10 };
            walk.data(at, table.start, 32768)?;
            walk.data(at + 32768, table.start + 32768, 32768)?;
            walk.zero(table.start + 65536, MIB - 65536);
            Ok(())
        })? {
            extents.push(extent);
        }
        assert!(source.settled, "the source learns when no table is left");
        Ok(extents)
    }

    fn data(at: u64, start: u64) -> Extent {
        Extent { start, len: 65536, body: Body::Data { at } }
    }

    fn zero(start: u64, len: u64) -> Extent {
        Extent { start, len, body: Body::Zero }
    }

    #[test]
    fn extents_come_as_they_lie_in_the_image_and_neighbours_as_one() {
        let extents = walked(Order::Source, MIB, false).unwrap();
        let zeroes = [zero(65536, MIB - 65536), zero(MIB + 65536, MIB - 65536 - 5)];
        assert_eq!(extents, [zeroes[0], zeroes[1], data(120 << 10, MIB), data(300 << 10, 0)]);
    }

    #[test]
    fn extents_come_as_they_lie_on_the_disk() {
        let extents = walked(Order::Virtual, MIB, true).unwrap();
        let first = [data(300 << 10, 0), zero(65536, MIB - 65536)];
        assert_eq!(extents, [first[0], first[1], data(120 << 10, MIB), zero(MIB + 65536, MIB - 65536 - 5)]);
    }

    #[test]
    fn over_the_limit_a_stream_is_refused_and_a_file_lets_extents_pass_first() {
        // One table is loaded and one waits; the runs of both together have no room.
        let limit = (size_of::<Table>() + 3 * size_of::<Span>() + 2 * size_of::<Run>()) as u64;
        assert_eq!(walked(Order::Source, limit, false).unwrap_err().code(), "limit-table");
        let mut in_passing = walked(Order::Source, limit, true).unwrap();
        let mut planned = walked(Order::Source, MIB, true).unwrap();
        in_passing.sort_by_key(|extent| extent.start);
        planned.sort_by_key(|extent| extent.start);
        assert_eq!(in_passing, planned);
    }

    #[test]
    fn what_overlaps_is_corrupt() {
        let limits = Limits::default();
        let how = Opening { limits: &limits, stated: false };
        let walk = || Walk::new("test", Codec::Deflate, MIB, &how);
        let table = |at| Table { at, start: 0 };
        for (tables, fixed) in [
            (vec![table(4096), table(4096)], (0, 512)),
            (vec![table(4096), table(8191)], (0, 512)),
            (vec![table(4096)], (0, 4097)),
        ] {
            assert_eq!(walk().plan(tables, 4096, &[fixed]).unwrap_err().code(), "test-tables-overlap");
        }
        let mut walk = walk();
        walk.plan(vec![table(4096)], 4096, &[(0, 512)]).unwrap();
        for (at, len) in [(0, 1), (511, 1), (1024, 3073), (4096, 1), (8191, 512)] {
            assert_eq!(walk.data(at, 0, len).unwrap_err().code(), "test-data-in-metadata", "{at}");
        }
        for (at, len) in [(512, 3584), (8192, 1 << 40)] {
            walk.data(at, 0, len).unwrap();
        }
    }

    #[test]
    fn bytes_may_stand_for_a_few_places_and_no_more() {
        let limits = Limits::default();
        let how = Opening { limits: &limits, stated: false };
        for (places, verdict) in [(1024, "carried"), (1025, "test-mapped-too-often")] {
            let mut walk = Walk::new("test", Codec::Deflate, 16 * MIB, &how);
            for place in 0..places {
                walk.packed(8192, place * 8192, 4096, 100).unwrap();
            }
            let mut source = Nothing { seekable: true, settled: false };
            let found = loop {
                match walk.next(&mut source, |_, _, _| Ok(())) {
                    Ok(Some(_)) => {}
                    Ok(None) => break "carried".to_owned(),
                    Err(error) => break error.code(),
                }
            };
            assert_eq!(found, verdict);
        }
    }

    #[test]
    fn all_bytes_may_not_be_named_again_and_again() {
        let limits = Limits::default();
        let how = Opening { limits: &limits, stated: false };
        let mut walk = Walk::new("test", Codec::Deflate, 1 << 40, &how);
        // By turns, so that no two in a row are the same in either order.
        for place in 0..1000 {
            walk.data((1 + place % 2) << 16, place << 17, 65536).unwrap();
        }
        let mut source = Nothing { seekable: true, settled: false };
        let error = loop {
            if let Err(error) = walk.next(&mut source, |_, _, _| Ok(())) {
                break error;
            }
        };
        assert_eq!(error.code(), "test-mapped-too-often");
    }

    #[test]
    fn a_run_longer_than_its_counter_is_named_in_parts() {
        let limits = Limits::default();
        let how = Opening { limits: &limits, stated: false };
        let size = 9 << 40;
        let mut walk = Walk::new("test", Codec::Deflate, size, &how);
        walk.zero(0, size);
        let mut source = Nothing { seekable: true, settled: false };
        let mut end = 0;
        while let Some(extent) = walk.next(&mut source, |_, _, _| Ok(())).unwrap() {
            assert_eq!(extent.start, end);
            end += extent.len;
        }
        assert_eq!(end, size);
    }
}
