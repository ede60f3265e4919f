//! What every sink promises about its target, on real files, loop devices, filesystems and pipes.
//!
//! Loop devices and mounts need root, as the tests in CI have; without it they fail and say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends at the first surprise")]

mod device;
mod file;
mod lab;
mod pipe;
mod share;
