//! Disk images on the network, as inputs of [`diskferry`].
//!
//! Async inside, and nobody else needs to know: the network has one thread of its own, which feeds the library's threads
//! through bounded channels.

mod access;
mod client;
mod failure;
pub mod http;
mod location;
mod runtime;

pub use access::Access;
pub use client::Client;
pub use location::Location;
pub use runtime::Runtime;
