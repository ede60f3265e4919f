//! The worker that a platform starts in a container for one image: it brings the image from its source to its store or
//! volume, says how far it is, and ends with a verdict that a controller can act on.
//!
//! What it is told comes from flags, the environment or a file; the work itself is done by [`diskferry`] and
//! `diskferry-remote`. Everything that happens passes through one [`Board`](status::Board), from which controllers read.

pub mod human;
pub mod import;
mod lines;
pub mod serve;
pub mod settings;
pub mod status;
pub mod upload;
pub mod verdict;
