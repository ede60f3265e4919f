//! What a source on the network is tested with: local, bounded in time, and gone with its value.
//!
//! - [`fault`] answers as no real server would: by a script, request by request. [`front`] puts TLS in front of it.
//! - [`nginx`] is a real server, with [`tls`] to make its certificates, and [`squid`] a real proxy.
//! - [`registry`] is a real registry of container images, [`desk`] who gives out tokens for it.
//! - [`link`] puts them at the other end of a cable that is slow or breaks.

mod daemon;
pub mod desk;
pub mod fault;
pub mod front;
pub mod link;
pub mod nginx;
pub mod registry;
pub mod squid;
pub mod tls;

#[cfg(test)]
use tests::curl;

#[cfg(test)]
mod tests;
