//! What every fuzz target does: read an image from hostile bytes to its end, within small limits, and not fall over.
//!
//! libFuzzer is the rest of the judge: a panic, a hang (`-timeout`) or too much memory (`-rss_limit_mb`) is a finding.
//! `crates/core/tests/corpora.rs` has some of these files for its own, and replays the corpora with them.

mod archive;
mod bent;
mod descriptor;
mod disk;
mod image;
mod network;
mod oracle;
mod registry;
mod same;
mod upload;

pub use self::archive::archive;
pub use self::bent::bent;
pub use self::descriptor::descriptor;
pub use self::image::{detect, stated};
pub use self::network::answers;
pub use self::oracle::oracle;
pub use self::registry::registry;
pub use self::same::{carried, same};
pub use self::upload::upload;
