//! streamOptimized: packed grains, each behind a marker that says where on the disk it belongs.
//!
//! The markers are followed from the first to the last, so grains come in the order of the image from any source.
//! What is no grain is a hole, and holes are named as early as they are certain:
//! - tables in front (qemu, open-vmdk): the tables are read first and name all holes before the first grain;
//! - tables behind their grains, with a footer (VirtualBox, ESXi, vmdktool, Xen Orchestra): a seekable source reads the tables
//!   first as well. From a pipe, a table names its holes when it passes, and the grain directory those of tables that are not stored.
//!
//! With the tables read first, holes come before all grains, or each before the grains behind it if
//! [`Order::Virtual`] is asked for. Grains come as the producer wrote them, which is in virtual order with all known ones.

use super::header::Header;
use super::markers::{FOOTER, Markers, Proof};
use super::tables::{Tables, entries_of, prove_overhead};
use super::{FORMAT, SECTOR, SECTOR_LEN};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::{Image, ImageInfo, Opening, Order};
use crate::limits::Limits;
use crate::source::{Source, look_exact};

/// The footer's marker, the footer and the end-of-stream marker: the last sectors of a stream with tables behind.
const TAIL_SECTORS: usize = 3;
const TAIL_LEN: u64 = TAIL_SECTORS as u64 * SECTOR;

pub(super) struct Stream {
    info: ImageInfo,
    header: Header,
    /// Tables that can be read before the grains.
    tables: Option<Tables>,
    markers: Markers,
    /// The next hole of those tables.
    hole: Option<Extent>,
    /// What the markers name next.
    ahead: Option<Extent>,
    /// Whether a grain may come before the holes behind it.
    interleaved: bool,
    state: State,
}

enum State {
    /// All metadata in front of the grains ends at this byte, and no marker has been read.
    Planned(u64),
    Following,
}

impl Stream {
    pub(super) fn new(
        header: &Header,
        info: ImageInfo,
        virtual_size: u64,
        source: &mut dyn Source,
        how: &Opening,
    ) -> Result<Self> {
        let whole = source.len().filter(|_| source.seekable());
        let (directory, proof) = match (header.directory, whole) {
            (Some(at), _) if header.tables_in_front() => (Some(at), Proof::in_front()),
            // vmdktool puts it into the header when the grains have been written.
            (Some(at), Some(_)) => (Some(at), Proof::behind(header, how.limits)),
            (None, Some(len)) => {
                let footer = Footer::read(source, len, header, how.limits)?;
                let proof =
                    if footer.is_counted { Proof::behind(header, how.limits) } else { Proof::by_tables(footer.at) };
                (Some(footer.directory), proof)
            }
            (_, None) => (None, Proof::behind(header, how.limits)),
        };
        Ok(Self {
            info,
            header: header.clone(),
            tables: directory.map(|at| Tables::new(header, at, virtual_size, how)),
            markers: Markers::new(header, virtual_size, proof, directory.is_none(), how.limits),
            hole: None,
            ahead: None,
            interleaved: false,
            state: State::Planned(0),
        })
    }

    /// Reads the grain directory, if it can be read now, and returns where the metadata in front of the grains ends.
    fn read_directory(&mut self, source: &mut dyn Source, order: Order) -> Result<u64> {
        let descriptor_end = self.header.descriptor.map_or(SECTOR, |(at, len)| at.saturating_add(len));
        let tables = self.tables.as_mut().map(|tables| tables.plan(source, order)).transpose()?;
        if let Some(tables) = &tables {
            self.markers.place_tables(tables)?;
        }
        let in_front = tables.filter(|_| self.header.tables_in_front()).map_or(descriptor_end, |tables| tables.end);
        if in_front > self.header.overhead {
            let what =
                format!("the grains are said to begin at byte {}, in the midst of the metadata", self.header.overhead);
            return Err(Error::corrupt(FORMAT, "overhead", in_front, what));
        }
        Ok(in_front)
    }

    /// The next hole of tables that are read first.
    fn next_hole(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        let (Some(tables), markers) = (&mut self.tables, &mut self.markers) else { return Ok(None) };
        tables.next(source, |_, sector, start| {
            markers.promise(start, sector);
            Ok(())
        })
    }

    /// What the markers name next, which stays there until it is taken.
    fn look_ahead(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        if let State::Planned(in_front) = self.state {
            self.state = State::Following;
            if self.header.tables_in_front() {
                prove_overhead(source, in_front, self.header.overhead)?;
            }
            // From here on a stream is read forward only.
            source.settle();
        }
        if self.ahead.is_none() {
            self.ahead = self.markers.next(source)?;
        }
        Ok(self.ahead)
    }
}

impl Image for Stream {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn plan(&mut self, source: &mut dyn Source, order: Order) -> Result<()> {
        self.interleaved = order == Order::Virtual && source.seekable();
        self.state = State::Planned(self.read_directory(source, order)?);
        Ok(())
    }

    fn next_extent(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        if self.hole.is_none() {
            self.hole = self.next_hole(source)?;
        }
        if let Some(hole) = self.hole {
            let waits = self.interleaved && self.look_ahead(source)?.is_some_and(|grain| grain.start < hole.start);
            if !waits {
                return Ok(self.hole.take());
            }
        }
        if self.look_ahead(source)?.is_none() {
            self.markers.check_all_came()?;
        }
        Ok(self.ahead.take())
    }
}

/// What stands at the end of a stream with its tables behind.
struct Footer {
    /// Where its marker is.
    at: u64,
    /// Where it says that the grain directory is.
    directory: u64,
    /// Whether its marker says how many sectors it takes. Xen Orchestra's markers have 0 there, in front of tables as well.
    is_counted: bool,
}

impl Footer {
    /// Reads the last sectors of an image of `len` bytes.
    fn read(source: &mut dyn Source, len: u64, header: &Header, limits: &Limits) -> Result<Self> {
        let mut tail = [[0; SECTOR_LEN]; TAIL_SECTORS];
        let at = len.saturating_sub(TAIL_LEN);
        look_exact(source, tail.as_flattened_mut(), at, FORMAT, "the footer")?;
        let [marker, footer, end] = &tail;
        let is_counted = entries_of(marker).take(4).eq([1, 0, 0, FOOTER]);
        let is_marker = is_counted || entries_of(marker).take(4).eq([0, 0, 0, FOOTER]);
        if !len.is_multiple_of(SECTOR) || !is_marker || entries_of(end).take(4).any(|number| number != 0) {
            let what = "the image does not end with a footer and an end-of-stream marker: it is cut short or damaged";
            return Err(Error::corrupt(FORMAT, "ends-early", at, what));
        }
        let directory = header.check_footer(footer, at.saturating_add(SECTOR), limits)?;
        Ok(Self { at, directory, is_counted })
    }
}
