//! Where disk images come from and go to, as inputs and sinks of [`diskferry`]: on the network, and as a person names a file.
//!
//! Async inside, and nobody else needs to know: the network has one thread of its own, which feeds the library's threads
//! through bounded channels. What waits for a server here panics if it is called within asynchronous work: there it has to be
//! given to a thread that may wait, as with `spawn_blocking` of tokio.

mod access;
mod address;
mod checksum_file;
mod client;
pub mod escape;
mod failure;
mod guard;
pub mod http;
mod in_use;
mod location;
mod netrc;
pub mod oci;
mod outlet;
pub mod own_file;
mod payload;
mod proxy;
pub mod publisher;
mod room;
mod runtime;
pub mod s3;
pub mod sandbox;
mod secret;
mod shown;
pub mod signals;
pub mod source;
mod storage;
pub mod target;
mod trust;

pub use access::{Access, Headers, Login};
pub use client::Client;
pub use guard::{Guard, HostPattern};
pub use location::Location;
pub use netrc::Netrc;
pub use proxy::Proxies;
pub use runtime::Runtime;
pub use sandbox::Sandbox;
pub use secret::Secret;
pub use trust::{Identity, Trust};
