//! The engine: one pass from source to sink.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::digest::{Algorithm, Checksum};
use crate::error::Result;
use crate::limits::Limits;
use crate::progress::Progress;
use crate::report::Report;
use crate::sink::Sink;

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
}

/// How a job is to be done.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the image is, with its wrappings behind it, as in `qcow2` or `raw.gz`; nothing is probed then. See [`crate::format::parse`].
    pub format: Option<Stated>,
    /// What the image may ask for.
    pub limits: Limits,
    /// Threads that unpack and write; 0 for one per core.
    pub threads: usize,
    /// Digests that the stored image must have.
    pub checksums: Vec<Checksum>,
    /// Digests to compute for the report, besides.
    pub digests: Vec<Algorithm>,
    /// Where the spool's file goes; the system's temporary directory by default.
    pub spool_dir: Option<PathBuf>,
}

/// A format that the caller vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Name of the format.
    pub format: &'static str,
    /// Names of the wrappings, outermost first.
    pub wrappings: Vec<&'static str>,
}

/// Carries the image in `input` to `sink`.
pub fn convert(input: Input, sink: &dyn Sink, options: &Options, progress: &Progress) -> Result<Report> {
    let _ = (input, sink, options, progress);
    Ok(Report::default())
}
