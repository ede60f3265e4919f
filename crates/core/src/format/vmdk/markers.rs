//! The markers of a stream, followed from the first to the last.

use std::collections::VecDeque;
use std::ops::Range;

use super::header::{self, Header};
use super::proof::{Behind, Copies, Ledger};
use super::tables::{entries_of, length, sector_of};
use super::{FORMAT, SECTOR, SECTOR_LEN};
use crate::error::{Error, Result};
use crate::extent::{Body, Codec, Extent};
use crate::limits::Limits;
use crate::source::{Source, ends_early, look_exact, look_full};

/// Sector number and packed length, in front of every grain.
const GRAIN_HEAD: usize = 12;
const END_OF_STREAM: u32 = 0;
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
pub(super) const FOOTER: u32 = 3;
/// Of vSphere, among grains and rarely; in no specification. Nothing follows it.
const UNSPECIFIED: u32 = 4;

/// Names the grains as they come, and what lies between them where tables come that say so.
pub(super) struct Markers {
    header: Header,
    virtual_size: u64,
    limits: Limits,
    /// Where the next marker is.
    at: u64,
    /// Where the last thing that was needed ends; up to the next marker there is padding.
    read: u64,
    proof: Proof,
    /// Where the last run of zeroes began, if no grain has come since.
    zeroes_from: Option<u64>,
    /// Whether holes are named as tables pass.
    names_holes: bool,
    /// Holes of what passed, which wait to be handed out.
    holes: VecDeque<Extent>,
    /// What passes piece by piece, so that no more of its holes wait than those of a piece.
    passing: Option<Passing>,
    /// The tables of a stream that has them all in one place.
    place: Option<Place>,
    ended: bool,
}

/// Where the tables are, and what has been seen of them.
pub(super) enum Proof {
    Front(Ledger),
    /// Behind the grains, and read before them, since the markers do not say how long they are.
    Read(Ledger, Room),
    Behind(Behind, Passed),
}

/// Where such tables, and their directory, may lie and do.
#[derive(Default)]
pub(super) struct Room {
    tables: u64,
    footer: u64,
}

/// How far a stream with tables behind its grains has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    Grains,
    /// Zeroes came behind the grains, from this byte on.
    Padding(u64),
    /// All tables in one place, without their directory.
    Tables,
    /// The grain directory was at this byte.
    Directory(u64),
    Footer,
}

/// What passes piece by piece, with the first entry or table of the next piece, and where all of it begins.
enum Passing {
    Directory { at: u64, next: u64 },
    Tables { at: u64, next: u64 },
}

/// All grain tables in the order of the disk, with nothing between them and a single marker in front, which does not count
/// their sectors: so Xen Orchestra writes them, twice.
struct Place {
    at: u64,
    copies: Copies,
}

impl Proof {
    /// For tables in front of the grains.
    pub(super) fn in_front() -> Self {
        Self::Front(Ledger::default())
    }

    /// For tables behind the grains, where their markers say.
    pub(super) fn behind(header: &Header, limits: &Limits) -> Self {
        Self::Behind(Behind::new(header, limits.table), Passed::Grains)
    }

    /// For tables between the grains and the `footer` that says where they are, as their markers do not.
    pub(super) fn by_tables(footer: u64) -> Self {
        Self::Read(Ledger::default(), Room { tables: 0, footer })
    }
}

impl Markers {
    pub(super) fn new(header: &Header, virtual_size: u64, proof: Proof, names_holes: bool, limits: &Limits) -> Self {
        Self {
            header: header.clone(),
            virtual_size,
            limits: limits.clone(),
            at: header.overhead,
            read: header.overhead,
            proof,
            zeroes_from: None,
            names_holes,
            holes: VecDeque::new(),
            passing: None,
            place: None,
            ended: false,
        }
    }

    /// A table that was read before the grains says that the grain at `start` of the disk is at `sector`.
    pub(super) fn promise(&mut self, start: u64, sector: u32) {
        // Tables that the markers lead to are compared when they pass.
        if let Proof::Front(ledger) | Proof::Read(ledger, _) = &mut self.proof {
            ledger.promise(start, sector);
        }
    }

    /// Says where the tables are that were read before the grains, with their directory.
    pub(super) fn place_tables(&mut self, tables: &Range<u64>) -> Result<()> {
        let Proof::Read(_, room) = &mut self.proof else { return Ok(()) };
        if tables.end > room.footer {
            let what = format!("a table ends at byte {}, the footer begins at {}", tables.end, room.footer);
            return Err(Error::corrupt(FORMAT, "tables-overlap", room.footer, what));
        }
        room.tables = tables.start;
        Ok(())
    }

    /// The next grain or hole; `None` at the end of the stream.
    pub(super) fn next(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        self.next_or_why(source).map_err(|error| self.explain(self.behind_zeroes(error)))
    }

    fn next_or_why(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        loop {
            // What passes next may go on with the last one.
            if self.holes.len() > usize::from(self.passing.is_some()) {
                return Ok(self.holes.pop_front());
            }
            match self.passing.take() {
                Some(Passing::Directory { at, next }) => {
                    self.directory_from(source, at, next)?;
                    continue;
                }
                Some(Passing::Tables { at, next }) => {
                    self.table_in_place(source, at, next)?;
                    continue;
                }
                None if self.ended => return Ok(None),
                None => {}
            }
            if let Some(grain) = self.follow(source)? {
                return Ok(Some(grain));
            }
        }
    }

    /// Checks at the end, when all promises have been made, that all grains came.
    pub(super) fn check_all_came(&self) -> Result<()> {
        match &self.proof {
            Proof::Front(ledger) | Proof::Read(ledger, _) => ledger.settle(self.at),
            // Was checked when the directory came.
            Proof::Behind(..) => Ok(()),
        }
    }

    /// Reads one marker, and what follows it unless that is a grain, which is returned.
    fn follow(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        // The padding of the last grain is read as well: it is no end of a stream when even that is missing.
        let mut bytes = [0; SECTOR_LEN + GRAIN_HEAD];
        let padding = length(self.at.saturating_sub(self.read));
        debug_assert!(padding < SECTOR_LEN, "markers begin at the next sector");
        let wanted = bytes.get_mut(..padding.saturating_add(GRAIN_HEAD)).unwrap_or_default();
        let got = look_full(source, wanted, self.read)?;
        if got < wanted.len() && self.is_end(wanted.get(padding..got).unwrap_or_default()) {
            // qemu writes no end-of-stream marker, and before version 3.1 no padding behind the last grain.
            self.ended = true;
            return Ok(None);
        }
        if let (0, Proof::Behind(_, Passed::Padding(_))) = (got, &self.proof) {
            return self.end(source).map(|()| None);
        }
        let Some([a, b, c, d, e, f, g, h, size @ ..]) =
            wanted.last_chunk::<GRAIN_HEAD>().filter(|_| got == wanted.len())
        else {
            let what = "the next marker of a stream without its end";
            return Err(ends_early(FORMAT, what, self.read, wanted.len() as u64, got as u64));
        };
        let value = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
        match u32::from_le_bytes(*size) {
            0 => self.special(source, value).map(|()| None),
            size => self.grain(value, size).map(Some),
        }
    }

    fn grain(&mut self, value: u64, size: u32) -> Result<Extent> {
        let Header { grain, capacity, .. } = self.header;
        let at = self.at;
        self.forbid_after_tables("a grain")?;
        let start = value.checked_mul(SECTOR).filter(|start| *start < capacity).ok_or_else(|| {
            let what = format!("a marker says sector {value}, the disk has {}", capacity / SECTOR);
            Error::corrupt(FORMAT, "marker-range", at, what)
        })?;
        if !start.is_multiple_of(grain) {
            let what = format!("a marker says sector {value}, where no grain of {grain} bytes begins");
            return Err(Error::corrupt(FORMAT, "marker-grid", at, what));
        }
        // As qemu; noise grows by a few bytes only.
        if u64::from(size) > grain.saturating_mul(2) {
            let what = format!("a grain of {grain} bytes takes {size} packed, allowed is twice its size");
            return Err(Error::corrupt(FORMAT, "marker-size", at, what));
        }
        let sector = sector_of(at)?;
        self.zeroes_from = None;
        match &mut self.proof {
            Proof::Front(ledger) | Proof::Read(ledger, _) => ledger.find(start, sector),
            Proof::Behind(behind, _) => behind.grain(start, sector, at)?,
        }
        let body = Body::Packed { at: at.saturating_add(GRAIN_HEAD as u64), len: size, codec: Codec::Zlib };
        self.advance((GRAIN_HEAD as u64).saturating_add(size.into()))?;
        self.forbid_tables(at)?;
        Ok(Extent { start, len: grain, body })
    }

    /// A marker that takes a sector; `value` counts the sectors behind it.
    fn special(&mut self, source: &mut dyn Source, value: u64) -> Result<()> {
        let mut rest = [0; SECTOR_LEN - GRAIN_HEAD];
        let at = self.at;
        let behind = at.saturating_add(GRAIN_HEAD as u64);
        let got = look_full(source, &mut rest, behind)?;
        if got < rest.len() {
            if value == 0 && self.is_end(rest.get(..got).unwrap_or_default()) {
                self.ended = true;
                return Ok(());
            }
            return Err(ends_early(FORMAT, "a marker", behind, rest.len() as u64, got as u64));
        }
        let kind = entries_of(&rest).next().unwrap_or_default();
        let expected = match kind {
            END_OF_STREAM => 0,
            TABLE => self.header.table_len().div_ceil(SECTOR),
            DIRECTORY => self.header.directory_len().div_ceil(SECTOR),
            FOOTER => 1,
            UNSPECIFIED if self.is_among_grains() => {
                self.advance(SECTOR)?;
                return self.forbid_tables(at);
            }
            _ => {
                let what = format!("a marker of type {kind}; known are 0 to 3, and 4 among grains");
                return Err(Error::corrupt(FORMAT, "marker-type", at, what));
            }
        };
        // Where the footer's marker counts nothing, no other does.
        let expected = if let Proof::Read(..) = self.proof { 0 } else { expected };
        let is_uncounted = value != expected && value == 0 && self.may_be_uncounted(kind);
        if value != expected && !is_uncounted {
            let what = format!("a marker of type {kind} is followed by {value} sectors, not {expected}");
            return Err(Error::corrupt(FORMAT, "marker-length", at, what));
        }
        if let (END_OF_STREAM, Proof::Front(_)) = (kind, &self.proof) {
            return self.pass_zeroes();
        }
        self.advance(SECTOR)?;
        if let Proof::Read(..) = self.proof {
            return self.leave_grains(kind, at);
        }
        let len = match kind {
            END_OF_STREAM if self.is_padding() => return self.pad(at),
            END_OF_STREAM => return self.end(source),
            TABLE if is_uncounted => self.tables_in_place()?,
            TABLE => self.table(source)?,
            DIRECTORY => self.directory()?,
            _ => self.footer(source)?,
        };
        self.advance(len.div_ceil(SECTOR).saturating_mul(SECTOR))
    }

    /// Whether a marker of this `kind` may count no sectors, since it is known how many follow.
    fn may_be_uncounted(&self, kind: u32) -> bool {
        match (&self.proof, &self.place, kind) {
            (Proof::Behind(behind, Passed::Grains | Passed::Padding(_)), None, TABLE) => behind.is_without_tables(),
            (Proof::Behind(_, Passed::Tables), Some(_), DIRECTORY)
            | (Proof::Behind(_, Passed::Directory(_)), Some(_), FOOTER) => true,
            (Proof::Behind(_, Passed::Directory(_)), Some(place), TABLE) => !place.copies.is_second(),
            _ => false,
        }
    }

    /// Whether nothing has come that follows all grains.
    fn is_among_grains(&self) -> bool {
        !matches!(&self.proof, Proof::Behind(_, passed) if *passed != Passed::Grains)
    }

    /// Whether a stream may end with these bytes in the place of a marker.
    fn is_end(&self, bytes: &[u8]) -> bool {
        matches!(self.proof, Proof::Front(_)) && bytes.iter().all(|byte| *byte == 0)
    }

    /// Whether a sector of zeroes may be what Xen Orchestra puts between grains and tables, and no end of the stream.
    fn is_padding(&self) -> bool {
        match &self.proof {
            Proof::Behind(behind, Passed::Grains) => behind.is_without_tables(),
            Proof::Behind(_, Passed::Padding(_)) => true,
            _ => false,
        }
    }

    /// Passes a sector of zeroes at byte `at`.
    fn pad(&mut self, at: u64) -> Result<()> {
        // What the grains that are holes would take if they were stored, at the most.
        let most = self.header.capacity.saturating_mul(2);
        let (_, passed) = self.behind("padding")?;
        let from = match *passed {
            Passed::Padding(from) => from,
            _ => at,
        };
        *passed = Passed::Padding(from);
        if at.saturating_sub(from) > most {
            let what = format!("more than {most} bytes of zeroes follow the grains, from byte {from} on");
            return Err(Error::corrupt(FORMAT, "trailing-data", at, what));
        }
        Ok(())
    }

    /// Leaves off at the marker at byte `at`: what follows are tables that were read before the grains.
    fn leave_grains(&mut self, kind: u32, at: u64) -> Result<()> {
        if !matches!(kind, TABLE | END_OF_STREAM) {
            let what = format!("a marker of type {kind} follows the grains; tables come first, or zeroes");
            return Err(Error::corrupt(FORMAT, "marker-order", at, what));
        }
        self.ended = true;
        self.forbid_tables(at)
    }

    /// Fails if what lies between byte `at` and where the stream has come to is a table that was read before the grains.
    fn forbid_tables(&self, at: u64) -> Result<()> {
        match &self.proof {
            Proof::Read(_, room) if self.read > room.tables => {
                let what =
                    format!("data at bytes {at} to {} overlaps the tables that begin at {}", self.read, room.tables);
                Err(Error::corrupt(FORMAT, "data-in-metadata", at, what))
            }
            _ => Ok(()),
        }
    }

    /// The grain table whose marker has passed; returns how long it is.
    fn table(&mut self, source: &mut dyn Source) -> Result<u64> {
        self.forbid_after_tables("a grain table")?;
        let (entries, _) = self.read_table(source, self.at)?;
        let at = self.at;
        let (behind, _) = self.behind("a grain table")?;
        if let Some(index) = behind.table(&entries, sector_of(at)?, at)? {
            self.name_holes(index, &entries);
        }
        Ok(self.header.table_len())
    }

    /// What stands in the grain table at byte `at`, as sectors of grains and as bytes.
    fn read_table(&self, source: &mut dyn Source, at: u64) -> Result<(Vec<Option<u32>>, Vec<u8>)> {
        let mut bytes = vec![0; length(self.header.table_len())];
        look_exact(source, &mut bytes, at, FORMAT, "a grain table")?;
        Ok((entries_of(&bytes).map(|entry| self.header.allocated(entry)).collect(), bytes))
    }

    fn name_holes(&mut self, index: u64, entries: &[Option<u32>]) {
        let start = index.saturating_mul(self.header.table_span());
        let grains = length(self.header.grains_from(start));
        for (entry, start) in entries.iter().take(grains).zip((start..).step_by(length(self.header.grain))) {
            if entry.is_none() {
                self.name_hole(start, self.header.grain);
            }
        }
    }

    /// All grain tables, whose only marker has passed; returns how long they are.
    fn tables_in_place(&mut self) -> Result<u64> {
        let at = self.at;
        let (_, passed) = self.behind("grain tables")?;
        *passed = Passed::Tables;
        match &mut self.place {
            Some(place) => {
                place.at = at;
                place.copies.again();
            }
            place => *place = Some(Place { at, copies: Copies::new() }),
        }
        if !self.header.table_len().is_multiple_of(SECTOR) {
            let what =
                format!("grain tables of {} entries follow a marker that counts none", self.header.table_entries);
            return Err(Error::corrupt(FORMAT, "marker-length", at, what));
        }
        self.passing = Some(Passing::Tables { at, next: 0 });
        Ok(self.header.tables().saturating_mul(self.header.table_len()))
    }

    /// Table `next` of those that begin at byte `first`.
    fn table_in_place(&mut self, source: &mut dyn Source, first: u64, next: u64) -> Result<()> {
        let at = first.saturating_add(next.saturating_mul(self.header.table_len()));
        let (entries, bytes) = self.read_table(source, at)?;
        let Some(place) = &mut self.place else { return Ok(()) };
        place.copies.take(&bytes);
        let is_first = !place.copies.is_second();
        let behind = next.saturating_add(1);
        if behind < self.header.tables() {
            self.passing = Some(Passing::Tables { at: first, next: behind });
        } else {
            place.copies.settle(at)?;
        }
        if is_first {
            self.behind("a grain table")?.0.table_of(next, &entries, at)?;
            self.name_holes(next, &entries);
        }
        Ok(())
    }

    /// The grain directory, whose marker has passed; returns how long it is.
    fn directory(&mut self) -> Result<u64> {
        let at = self.at;
        if self.place.is_none() {
            self.forbid_after_tables("a second grain directory")?;
        }
        let (behind, passed) = self.behind("a grain directory")?;
        *passed = Passed::Directory(at);
        behind.settle(at)?;
        self.passing = Some(Passing::Directory { at, next: 0 });
        Ok(self.header.directory_len())
    }

    /// A sector of the grain directory at byte `at`, from entry `first` on.
    fn directory_from(&mut self, source: &mut dyn Source, at: u64, first: u64) -> Result<()> {
        const ENTRIES: u64 = SECTOR / header::ENTRY;
        let (tables, span) = (self.header.tables(), self.header.table_span());
        let mut sector = [0; SECTOR_LEN];
        let at_first = at.saturating_add(first.saturating_mul(header::ENTRY));
        look_exact(source, &mut sector, at_first, FORMAT, "the grain directory")?;
        for (index, entry) in (first..tables).zip(entries_of(&sector)) {
            if let Some(place) = &self.place {
                let table = place.at.saturating_add(index.saturating_mul(self.header.table_len()));
                check_place(index, entry, sector_of(table)?, at_first)?;
                continue;
            }
            let (behind, _) = self.behind("a grain directory")?;
            if behind.directory_entry(index, entry, at_first)? {
                // Below the capacity, which fits.
                self.name_hole(index.saturating_mul(span), span);
            }
        }
        let next = first.saturating_add(ENTRIES);
        self.passing = (next < tables).then_some(Passing::Directory { at, next });
        Ok(())
    }

    /// The footer, whose marker has passed; returns how long it is.
    fn footer(&mut self, source: &mut dyn Source) -> Result<u64> {
        let mut bytes = [0; SECTOR_LEN];
        let at = self.at;
        look_exact(source, &mut bytes, at, FORMAT, "the footer")?;
        let named = self.header.check_footer(&bytes, at, &self.limits)?;
        let (_, passed) = self.behind("a footer")?;
        if *passed != Passed::Directory(named) {
            let what =
                format!("the footer says that the grain directory is at byte {named}, which is not just before it");
            return Err(Error::corrupt(FORMAT, "footer", at, what));
        }
        *passed = Passed::Footer;
        Ok(SECTOR)
    }

    /// Passes a sector of zeroes of a stream with its tables in front: qemu enlarges the file by whole grains, and some of its
    /// versions (2.1 to 2.5) begin a grain nowhere else.
    fn pass_zeroes(&mut self) -> Result<()> {
        let from = *self.zeroes_from.get_or_insert(self.at);
        self.advance(SECTOR)?;
        if self.at.saturating_sub(from).saturating_sub(SECTOR) > self.header.grain {
            let what = format!("more than {} bytes of zeroes follow a grain, from byte {from} on", self.header.grain);
            return Err(Error::corrupt(FORMAT, "trailing-data", self.at, what));
        }
        Ok(())
    }

    /// The end of a stream whose tables follow its grains; nothing may follow it.
    fn end(&mut self, source: &mut dyn Source) -> Result<()> {
        match self.proof {
            Proof::Behind(_, Passed::Footer) => {}
            Proof::Behind(_, Passed::Padding(from)) => return Err(no_footer(from)),
            _ => return Err(no_footer(self.at)),
        }
        self.ended = true;
        if look_full(source, &mut [0], self.at)? > 0 {
            return Err(Error::corrupt(FORMAT, "trailing-data", self.at, "the stream has ended, but more follows"));
        }
        Ok(())
    }

    fn name_hole(&mut self, start: u64, len: u64) {
        let len = len.min(self.virtual_size.saturating_sub(start));
        match self.holes.back_mut() {
            _ if !self.names_holes => {}
            Some(last) if last.start.saturating_add(last.len) == start => last.len = last.len.saturating_add(len),
            _ => self.holes.push_back(Extent { start, len, body: Body::Zero }),
        }
    }

    /// What is known of the tables behind; an image with its tables in front has no such `thing`.
    fn behind(&mut self, thing: &str) -> Result<(&mut Behind, &mut Passed)> {
        match &mut self.proof {
            Proof::Behind(behind, passed) => Ok((behind, passed)),
            Proof::Front(_) | Proof::Read(..) => {
                let what = format!("{thing} among the grains, although the header has the tables in front");
                Err(Error::corrupt(FORMAT, "marker-order", self.at, what))
            }
        }
    }

    fn forbid_after_tables(&self, thing: &str) -> Result<()> {
        let what = match self.proof {
            Proof::Behind(_, Passed::Padding(_)) => format!("{thing} comes after zeroes that follow the grains"),
            Proof::Behind(_, Passed::Tables) => format!("{thing} comes after all grain tables"),
            Proof::Behind(_, Passed::Directory(_) | Passed::Footer) => {
                format!("{thing} comes after the grain directory")
            }
            _ => return Ok(()),
        };
        Err(Error::corrupt(FORMAT, "marker-order", self.at, what))
    }

    /// The `error` of the next marker. Behind zeroes, what is none is no damage of the stream but something that follows it.
    fn behind_zeroes(&self, error: Error) -> Error {
        match (error, self.zeroes_from) {
            (Error::Corrupt { code, what, .. }, Some(from)) if code != "trailing-data" => {
                let what = format!("zeroes from byte {from} on are followed by what is no grain: {what}");
                Error::corrupt(FORMAT, "trailing-data", self.at, what)
            }
            (error, _) => error,
        }
    }

    /// The `error` of the next extent. Where tables are taken to be in one place, it may only mean that they are not; of a file the
    /// footer has said that markers count.
    fn explain(&self, error: Error) -> Error {
        let certain: &[&str] = match &self.proof {
            _ if !self.names_holes => return error,
            _ if self.place.is_some() => &["ends-early"],
            Proof::Behind(_, Passed::Padding(_)) => &["ends-early", "no-footer"],
            _ => return error,
        };
        match error {
            Error::Corrupt { code, ref what, at, .. } if !certain.contains(&code) => {
                uncounted(&format!("at byte {at}, {what}"))
            }
            error => error,
        }
    }

    /// Goes on to the sector behind the next `len` bytes.
    fn advance(&mut self, len: u64) -> Result<()> {
        self.read = self.at.saturating_add(len);
        let next = self.read.checked_next_multiple_of(SECTOR);
        let what = "the stream goes on behind any file's end";
        self.at = next.ok_or_else(|| Error::corrupt(FORMAT, "too-far", self.at, what))?;
        Ok(())
    }
}

/// The error for a stream with what looks like its end at byte `at`.
fn no_footer(at: u64) -> Error {
    Error::corrupt(FORMAT, "no-footer", at, "the stream ends before its grain directory and footer have come")
}

/// The error for what may be in order, but shows only from the end of the stream, where the footer says what tables count.
fn uncounted(what: &str) -> Error {
    let what = format!(
        "the markers do not say how long the tables are, and this order of them is not known ({what}); \
         give the image as a file, in which the tables are found by the footer"
    );
    Error::unsupported(FORMAT, "uncounted-marker", what)
}

/// Checks entry `index` of the grain directory at byte `at` against the sector where its table was.
fn check_place(index: u64, found: u32, expected: u32, at: u64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let what = format!("entry {index} of the grain directory says sector {found}, the table was at {expected}");
    Err(Error::corrupt(FORMAT, "directory-disagrees", at, what))
}
