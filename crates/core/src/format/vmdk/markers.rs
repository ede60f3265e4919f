//! The markers of a stream, followed from the first to the last.

use std::collections::VecDeque;

use super::header::{self, Header};
use super::proof::{Behind, Ledger};
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
    /// Whether holes are named as tables pass.
    names_holes: bool,
    /// Holes of tables that passed, which wait to be handed out.
    holes: VecDeque<Extent>,
    ended: bool,
}

/// Where the tables are, and what has been seen of them.
enum Proof {
    Front(Ledger),
    Behind(Behind, Passed),
}

/// How far a stream with tables behind its grains has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    Grains,
    /// The grain directory was at this byte.
    Directory(u64),
    Footer,
}

impl Markers {
    pub(super) fn new(header: &Header, virtual_size: u64, names_holes: bool, limits: &Limits) -> Self {
        let proof = match header.directory {
            Some(_) => Proof::Front(Ledger::default()),
            None => Proof::Behind(Behind::new(header, limits.table), Passed::Grains),
        };
        Self {
            header: header.clone(),
            virtual_size,
            limits: limits.clone(),
            at: header.overhead,
            read: header.overhead,
            proof,
            names_holes,
            holes: VecDeque::new(),
            ended: false,
        }
    }

    /// A table that was read before the grains says that the grain at `start` of the disk is at `sector`.
    pub(super) fn promise(&mut self, start: u64, sector: u32) {
        // Tables behind the grains are compared when they pass.
        if let Proof::Front(ledger) = &mut self.proof {
            ledger.promise(start, sector);
        }
    }

    /// The next grain or hole; `None` at the end of the stream.
    pub(super) fn next(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        loop {
            if let Some(hole) = self.holes.pop_front() {
                return Ok(Some(hole));
            }
            if self.ended {
                return Ok(None);
            }
            if let Some(grain) = self.follow(source)? {
                return Ok(Some(grain));
            }
        }
    }

    /// Checks at the end, when all promises have been made, that all grains came.
    pub(super) fn check_all_came(&self) -> Result<()> {
        match &self.proof {
            Proof::Front(ledger) => ledger.settle(self.at),
            // Was checked when the directory came.
            Proof::Behind(..) => Ok(()),
        }
    }

    /// Reads one marker, and what follows it unless that is a grain, which is returned.
    fn follow(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        // The padding of the last grain is read as well: it is no end of a stream when even that is missing.
        let mut bytes = [0; SECTOR_LEN + GRAIN_HEAD];
        let padding = length(self.at.saturating_sub(self.read));
        let wanted = bytes.get_mut(..padding.saturating_add(GRAIN_HEAD)).unwrap_or_default();
        let got = look_full(source, wanted, self.read)?;
        if got == padding && matches!(self.proof, Proof::Front(_)) {
            // qemu writes no end-of-stream marker: what looks like one is the rest of a grain's space, if there is a rest.
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
        self.forbid_after_directory("a grain")?;
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
        match &mut self.proof {
            Proof::Front(ledger) => ledger.find(start, sector),
            Proof::Behind(behind, _) => behind.grain(start, sector, at)?,
        }
        let body = Body::Packed { at: at.saturating_add(GRAIN_HEAD as u64), len: size, codec: Codec::Zlib };
        self.advance((GRAIN_HEAD as u64).saturating_add(size.into()))?;
        Ok(Extent { start, len: grain, body })
    }

    /// A marker that takes a sector; `value` counts the sectors behind it.
    fn special(&mut self, source: &mut dyn Source, value: u64) -> Result<()> {
        let mut rest = [0; SECTOR_LEN - GRAIN_HEAD];
        let at = self.at;
        look_exact(source, &mut rest, at.saturating_add(GRAIN_HEAD as u64), FORMAT, "a marker")?;
        let kind = entries_of(&rest).next().unwrap_or_default();
        let expected = match kind {
            END_OF_STREAM => 0,
            TABLE => self.header.table_len().div_ceil(SECTOR),
            DIRECTORY => self.header.directory_len().div_ceil(SECTOR),
            FOOTER => 1,
            _ => {
                let what = format!("a marker of type {kind}; known are 0 to 3");
                return Err(Error::corrupt(FORMAT, "marker-type", at, what));
            }
        };
        if value != expected {
            let what = format!("a marker of type {kind} is followed by {value} sectors, not {expected}");
            return Err(Error::corrupt(FORMAT, "marker-length", at, what));
        }
        self.advance(SECTOR)?;
        match kind {
            END_OF_STREAM => return self.end(source),
            TABLE => self.table(source)?,
            DIRECTORY => self.directory(source)?,
            _ => self.footer(source)?,
        }
        self.advance(expected.saturating_mul(SECTOR))
    }

    fn table(&mut self, source: &mut dyn Source) -> Result<()> {
        self.forbid_after_directory("a grain table")?;
        let mut bytes = vec![0; length(self.header.table_len())];
        look_exact(source, &mut bytes, self.at, FORMAT, "a grain table")?;
        let entries: Vec<_> = entries_of(&bytes).map(|entry| self.header.allocated(entry)).collect();
        let at = self.at;
        let (behind, _) = self.behind("a grain table")?;
        let Some(index) = behind.table(&entries, sector_of(at)?, at)? else { return Ok(()) };
        let start = index.saturating_mul(self.header.table_span());
        let grains = length(self.header.grains_from(start));
        for (entry, start) in entries.iter().take(grains).zip((start..).step_by(length(self.header.grain))) {
            if entry.is_none() {
                self.name_hole(start, self.header.grain);
            }
        }
        Ok(())
    }

    fn directory(&mut self, source: &mut dyn Source) -> Result<()> {
        const ENTRIES: usize = SECTOR_LEN / size_of::<u32>();
        self.forbid_after_directory("a second grain directory")?;
        let (tables, span, at) = (self.header.tables(), self.header.table_span(), self.at);
        let (behind, passed) = self.behind("a grain directory")?;
        *passed = Passed::Directory(at);
        behind.settle(at)?;
        let mut sector = [0; SECTOR_LEN];
        for first in (0..tables).step_by(ENTRIES) {
            let at = at.saturating_add(first.saturating_mul(header::ENTRY));
            look_exact(source, &mut sector, at, FORMAT, "the grain directory")?;
            for (index, entry) in (first..tables).zip(entries_of(&sector)) {
                let (behind, _) = self.behind("a grain directory")?;
                if behind.directory_entry(index, entry, at)? {
                    // Below the capacity, which fits.
                    self.name_hole(index.saturating_mul(span), span);
                }
            }
        }
        Ok(())
    }

    fn footer(&mut self, source: &mut dyn Source) -> Result<()> {
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
        Ok(())
    }

    /// The end of the stream, with nothing but padding behind it.
    fn end(&mut self, source: &mut dyn Source) -> Result<()> {
        let padding = match self.proof {
            // qemu enlarges the file by whole grains.
            Proof::Front(_) => self.header.grain,
            Proof::Behind(_, Passed::Footer) => 0,
            Proof::Behind(..) => {
                let what = "the stream ends before its grain directory and footer have come";
                return Err(Error::corrupt(FORMAT, "no-footer", self.at, what));
            }
        };
        self.ended = true;
        check_padding(source, self.at, padding)
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
            Proof::Front(_) => {
                let what = format!("{thing} among the grains, although the header has the tables in front");
                Err(Error::corrupt(FORMAT, "marker-order", self.at, what))
            }
        }
    }

    fn forbid_after_directory(&self, thing: &str) -> Result<()> {
        match self.proof {
            Proof::Behind(_, Passed::Directory(_) | Passed::Footer) => {
                let what = format!("{thing} comes after the grain directory");
                Err(Error::corrupt(FORMAT, "marker-order", self.at, what))
            }
            _ => Ok(()),
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

/// Reads to the end of the image: behind the end of the stream there may be `allowed` bytes, all of them zero.
fn check_padding(source: &mut dyn Source, at: u64, allowed: u64) -> Result<()> {
    let mut chunk = [0; 4096];
    let mut read = 0;
    loop {
        let here = at.saturating_add(read);
        let got = source.read_at(&mut chunk, here)?;
        read = read.saturating_add(got as u64);
        if got == 0 {
            return Ok(());
        }
        if read > allowed || chunk.iter().take(got).any(|byte| *byte != 0) {
            let what = format!("the stream has ended, but more follows; allowed are {allowed} bytes of zeroes");
            return Err(Error::corrupt(FORMAT, "trailing-data", here, what));
        }
    }
}
