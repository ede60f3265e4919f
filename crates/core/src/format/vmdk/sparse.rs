//! monolithicSparse: tables in front, grains as they are.
//!
//! The grain directory decides; the redundant one is a second copy for repair, which is not needed to read.

use super::header::Header;
use super::tables::{Tables, prove_overhead};
use super::{FORMAT, SECTOR};
use crate::error::{Error, Result};
use crate::extent::{Body, Extent};
use crate::format::{Image, ImageInfo, Opening, Order};
use crate::source::Source;

pub(super) struct Sparse {
    info: ImageInfo,
    grain: u64,
    overhead: u64,
    tables: Tables,
    /// How far in the image something was needed up to now.
    reached: u64,
}

impl Sparse {
    pub(super) fn new(header: &Header, info: ImageInfo, virtual_size: u64, how: &Opening) -> Result<Self> {
        let Some(directory) = header.directory else {
            let what = "the grain directory is said to be at the end, which only streams can have";
            return Err(Error::corrupt(FORMAT, "directory-at-end", 0, what));
        };
        Ok(Self {
            info,
            grain: header.grain,
            overhead: header.overhead,
            tables: Tables::new(header, directory, virtual_size, how),
            reached: 0,
        })
    }
}

impl Image for Sparse {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn plan(&mut self, source: &mut dyn Source, order: Order) -> Result<()> {
        self.reached = self.tables.plan(source, order)?.end;
        Ok(())
    }

    fn next_extent(&mut self, source: &mut dyn Source) -> Result<Option<Extent>> {
        let grain = self.grain;
        let extent =
            self.tables.next(source, |walk, sector, start| walk.data(u64::from(sector) * SECTOR, start, grain))?;
        let end = match extent {
            Some(Extent { len, body: Body::Data { at }, .. }) => at.saturating_add(len),
            Some(_) => 0,
            None => {
                prove_overhead(source, self.reached, self.overhead)?;
                self.overhead
            }
        };
        self.reached = self.reached.max(end);
        Ok(extent)
    }
}
