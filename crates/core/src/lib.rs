//! diskferry carries a disk image to a raw disk, in one pass.

pub mod convert;
pub mod digest;
mod engine;
pub mod error;
pub mod extent;
pub mod format;
pub mod inspect;
pub mod layer;
pub mod limits;
mod open;
pub mod progress;
pub mod report;
pub mod sink;
pub mod source;
mod spans;
mod spool;

pub use convert::{Input, Options, Stated, convert};
pub use error::{Error, Kind, Result, Side};
pub use inspect::{inspect, inspect_full};
pub use limits::Limits;
pub use open::{Opened, open};
pub use progress::Progress;
pub use report::{Inspection, Report};
