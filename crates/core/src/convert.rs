//! A job: an input, a sink, and everything between opening the one and publishing the other.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::thread;

use crate::digest::{Algorithm, Checksum};
use crate::error::Result;
use crate::limits::Limits;
use crate::open::open;
use crate::progress::Progress;
use crate::report::Report;
use crate::sink::Sink;
use crate::source::Ranges;
use crate::spool::{MakeFile, Place};
use crate::stated::Stated;

/// A stored image.
pub enum Input {
    /// A regular file or block device.
    File(File),
    /// Anything that can only be read forward.
    Stream {
        /// Where the bytes come from. An [`Error`](crate::Error) inside of its [`io::Error`](std::io::Error)s is passed on as it is.
        reader: Box<dyn Read + Send>,
        /// How many bytes will come, where somebody promised it. A different number is a [`Mismatch`](crate::Error::Mismatch).
        len: Option<u64>,
    },
    /// As a stream, of bytes that were unpacked on their way here: a few stored ones may have become many. What the image leaves unused
    /// of them is bounded, as where wrappings come off here.
    Unpacked {
        /// Where the bytes come from.
        reader: Box<dyn Read + Send>,
        /// How many will come, where somebody promised it.
        len: Option<u64>,
    },
    /// As a stream, but metadata far ahead can be had by requests of their own, as HTTP servers allow.
    Ranged {
        /// All bytes, in order.
        reader: Box<dyn Read + Send>,
        /// How many they are, where somebody promised it.
        len: Option<u64>,
        /// Some of them, at any place. They must be the same bytes: [`convert`] proves that, [`inspect`](crate::inspect())
        /// does not come so far.
        ranges: Box<dyn Ranges>,
    },
}

impl Input {
    /// Whether it is a regular file, with which a disk could [share blocks](crate::sink::FileOptions::share).
    pub fn may_share(&self) -> bool {
        matches!(self, Self::File(file) if file.metadata().is_ok_and(|found| found.is_file()))
    }
}

/// How a job is to be done.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the image is, with its wrappings behind it, as in `qcow2` or `raw.gz`; nothing is probed then.
    pub format: Option<Stated>,
    /// What the image may ask for.
    pub limits: Limits,
    /// Threads that unpack and write; 0 for one per core, but not more than 8.
    pub threads: usize,
    /// Digests that the stored image must have.
    pub checksums: Vec<Checksum>,
    /// Digests to compute for the report, besides.
    pub digests: Vec<Algorithm>,
    /// Where the spool's file goes; the system's temporary directory by default.
    pub spool_dir: Option<PathBuf>,
    /// What makes the spool's file instead, for threads that cannot. Whoever sets it has seen to `threads` too: how many cores there are
    /// is read from files.
    pub spool_file: Option<MakeFile>,
}

impl Options {
    /// How many threads a job may keep busy. Memory grows with them, up to a bound.
    pub fn threads(&self) -> usize {
        const MOST_BY_DEFAULT: usize = 8;
        const MOST: usize = 256;
        match self.threads {
            0 => thread::available_parallelism().map_or(1, usize::from).min(MOST_BY_DEFAULT),
            stated => stated.min(MOST),
        }
    }

    /// Where a spool's file comes from.
    pub(crate) fn spool_place(&self) -> Place {
        Place { dir: self.spool_dir.clone(), make: self.spool_file.clone() }
    }
}

/// How far a conversion has come before, and who wants to know how far it comes.
///
/// An image names the bytes of its disk always in the same order. So one number says what has been carried: how many of them were named.
pub struct Course<'a> {
    /// How many bytes of the disk were named, and carried, before; 0 for none. The sink must have them, see
    /// [`Sink::is_resumable`].
    pub from: u64,
    /// After how many stored bytes a mark is set.
    pub every: u64,
    /// Sets a mark: so many bytes of the disk have been named, and are durable in the sink.
    pub mark: &'a (dyn Fn(u64) -> Result<()> + Sync),
}

/// Carries the image in `input` to `sink`, in one pass, and returns when the disk is durable and visible there.
///
/// On an error nothing has been published; where syncing the directory fails after that, the error says so. `progress` may be polled, and the job stopped, from another thread.
///
/// Raw bytes from any reader to a file:
///
/// ```
/// use diskferry::sink::{FileOptions, FileSink};
/// use diskferry::{Input, Options, Progress, convert};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let target = dir.path().join("disk.raw");
/// let image = std::io::Cursor::new(vec![0xeb; 1 << 20]);
/// let sink = FileSink::create(&target, FileOptions::default())?;
/// let input = Input::Stream { reader: Box::new(image), len: None };
/// let report = convert(input, &sink, &Options::default(), &Progress::default())?;
/// assert_eq!(report.inspection.unpacked_size, Some(1 << 20));
/// assert_eq!(std::fs::metadata(target)?.len(), 1 << 20);
/// # Ok(())
/// # }
/// ```
pub fn convert(input: Input, sink: &dyn Sink, options: &Options, progress: &Progress) -> Result<Report> {
    open(input, options, progress)?.convert(sink)
}
