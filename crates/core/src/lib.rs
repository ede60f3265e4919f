//! Carries a virtual machine's disk image to a raw disk, in one pass.
//!
//! An image is qcow2, VMDK, VDI, raw or ISO, plain or wrapped in gzip, xz, zstd or bzip2, and comes from a file or from
//! any reader. The disk goes to a sparse file, a block device, a pipe, or whatever implements [`Sink`](sink::Sink).
//! Every byte of the image may be hostile: damage is an error and never zeroes, no image opens another file, and
//! what it can ask for is bounded by [`Limits`].
//!
//! # The flow
//!
//! 1. [`Input`]: a file is read by position, anything else forward only; stored bytes are counted and digested.
//! 2. [`layer`]: wrappings come off, told by their first bytes or stated.
//! 3. [`format`](mod@format): one of [`FORMATS`](format::FORMATS) opens the image and names [extents](extent::Extent),
//!    in the order in which their bytes lie in the image.
//! 4. The engine reads each extent once; workers unpack it, leave out zeroes, and write to the [`sink`].
//! 5. The rest of the image is read, digests and check values are compared, and only then the sink publishes the disk.
//!
//! # Use
//!
//! [`convert`](fn@convert) does all of it and gives a [`Report`]; [`inspect`](fn@inspect) looks at an image and reads no more than
//! that needs. The library is synchronous and starts threads of its own. It does not print, exit, sleep, or read the
//! environment. Another thread may watch or stop a job through its [`Progress`].
//!
//! ```
//! use diskferry::digest::Algorithm;
//! use diskferry::sink::{FileOptions, FileSink};
//! use diskferry::{Input, Kind, Options, Progress, convert};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let image = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/disk.qcow2.xz");
//! # let dir = tempfile::tempdir()?;
//! # let disk = dir.path().join("disk.raw");
//! let options = Options { digests: vec![Algorithm::Sha256], ..Options::default() };
//! let sink = FileSink::create(&disk, FileOptions::default())?;
//! let progress = Progress::default();
//!
//! match convert(Input::File(std::fs::File::open(image)?), &sink, &options, &progress) {
//!     Ok(report) => {
//!         assert_eq!(report.inspection.image.format, "qcow2");
//!         assert_eq!(report.inspection.wrappings, ["xz"]);
//!         assert_eq!(report.inspection.unpacked_size, Some(4_195_840));
//!         println!("{} bytes of data, {}", report.allocated, report.digests[0]);
//!     }
//!     Err(error) if error.kind() == Kind::Image => println!("no image for us ({}): {error}", error.code()),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! How it works inside is in the repository's `docs/architecture.md`; every error code is in `docs/errors.md`.

mod aligned;
pub mod archive;
pub mod convert;
pub mod digest;
mod directory;
mod engine;
pub mod error;
pub mod extent;
pub mod format;
pub mod inspect;
pub mod layer;
pub mod limits;
mod lock;
mod open;
pub mod progress;
pub mod report;
pub mod sink;
pub mod source;
mod spans;
mod spool;
mod stated;
pub mod store;
mod zero;

pub use convert::{Course, Input, Options, convert};
#[doc(hidden)]
pub use directory::names;
pub use error::{Error, Kind, Result, Side};
pub use inspect::{inspect, inspect_along, inspect_full};
pub use limits::Limits;
pub use open::{Complete, Opened, open};
pub use progress::{Activity, Progress};
pub use report::{Inspection, Report};
pub use spool::MakeFile;

/// Compiles the examples of the README with the others.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
pub use stated::Stated;
pub use store::{Kept, store};
