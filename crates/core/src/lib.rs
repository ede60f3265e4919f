//! diskferry carries a disk image to a raw disk, in one pass.

pub mod convert;
pub mod digest;
pub mod error;
pub mod extent;
pub mod format;
pub mod inspect;
pub mod layer;
pub mod limits;
pub mod progress;
pub mod report;
pub mod sink;
pub mod source;

pub use convert::{Input, Options, Stated, convert};
pub use error::{Error, Kind, Result, Side};
pub use inspect::{inspect, inspect_full};
pub use limits::Limits;
pub use progress::Progress;
pub use report::{Inspection, Report};
