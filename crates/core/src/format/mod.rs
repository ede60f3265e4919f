//! Image formats: what each one is told by, and how it is opened. One line per format in [`FORMATS`].

#![warn(clippy::indexing_slicing)]
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod detect;
mod foreign;
mod iso;
mod qcow2;
mod raw;
#[cfg(test)]
mod testing;
mod vdi;
mod vmdk;
pub(crate) mod walk;

pub use detect::{by_name, detect};

use crate::error::Result;
use crate::extent::Extent;
use crate::limits::Limits;
use crate::source::Source;

/// Every format, in the order in which they are asked.
pub static FORMATS: &[Format] = &[qcow2::QCOW2, vmdk::VMDK, vdi::VDI, iso::ISO, raw::RAW];

/// A format that can be carried.
pub struct Format {
    /// Name, as `-f` takes it and the report gives it.
    pub name: &'static str,
    /// How many of the first bytes it takes to tell it, judging by those that are there.
    pub head: fn(head: &[u8]) -> usize,
    /// Whether these first bytes are this format's. Takes more or fewer of them as well.
    pub probe: fn(head: &[u8]) -> bool,
    /// Reads and checks what says what the image is: its header, not its tables.
    pub open: fn(source: &mut dyn Source, how: &Opening) -> Result<Box<dyn Image>>,
}

/// How an image is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// What the image may ask for.
    pub limits: &'a Limits,
    /// Whether the caller said what the format is, so that nothing may be guessed from the content.
    pub stated: bool,
}

/// The order in which an image names its extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As their bytes lie in the image.
    Source,
    /// As they lie on the virtual disk.
    Virtual,
}

/// An opened image: metadata only. It moves no data and keeps no source; the caller hands in the same source each time.
pub trait Image: Send {
    /// What is known about the image.
    fn info(&self) -> &ImageInfo;

    /// Prepares for the extents, to come in `order` if the source is seekable. Called once, before the first of them.
    fn plan(&mut self, source: &mut dyn Source, order: Order) -> Result<()> {
        let _ = (source, order);
        Ok(())
    }

    /// Goes on behind the first `named` bytes of the disk, where that takes no look at the source, and says how many are passed then:
    /// at most `named`, and 0 if every extent has to be named again. Before the first extent is.
    fn pass(&mut self, named: u64) -> u64 {
        let _ = named;
        0
    }

    /// The next extent, or `None` when every byte of the virtual disk has been named.
    fn next_extent(&mut self, source: &mut dyn Source) -> Result<Option<Extent>>;
}

/// What an image says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// Name of the format, as in `qcow2`.
    pub format: &'static str,
    /// Size of the virtual disk in bytes. `None`: a raw stream, whose size is known at its end.
    pub virtual_size: Option<u64>,
    /// Bytes that are mapped as one: cluster, grain or block. `None` where nothing is mapped.
    pub cluster_size: Option<u64>,
    /// Whether the image is a CD-ROM's.
    pub cdrom: bool,
    /// Name of the backing file or parent that the image wants, exactly as it stands there.
    pub backing: Option<String>,
    /// Why the image cannot be carried, although it can be looked at. The first is given when it is converted.
    pub refusals: Vec<Refusal>,
    /// Facts that only this format has, by the name they have in `qemu-img info` where there is one.
    pub details: Vec<(&'static str, Detail)>,
    /// What a person should know, and what did not stop us.
    pub warnings: Vec<String>,
}

/// A reason not to carry an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Short name, as in `backing-file`; see [`Error::code`](crate::Error::code).
    pub code: &'static str,
    /// The feature in the way, and the remedy.
    pub what: String,
}

/// The value of one format-specific fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// A word or a name.
    Text(String),
    /// A count, or a size in bytes.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Several names.
    List(Vec<String>),
}
