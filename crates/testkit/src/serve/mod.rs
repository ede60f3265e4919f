//! What a source on the network is tested with, all of it on loopback addresses, bounded in time and gone with its value.
//!
//! [`fault`] answers as no real server would: by a script, request by request.

pub mod fault;
