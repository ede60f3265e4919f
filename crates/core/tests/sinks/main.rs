//! What every sink promises about its target, on real files, loop devices, filesystems and pipes.
//!
//! Loop devices and mounts need root. scripts/test leaves out the modules that use them, `device`, `full`, `reserve` and
//! `share`, where it cannot have them; told to run all the same, they fail and say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends at the first surprise")]

mod device;
mod file;
mod full;
mod lab;
mod pipe;
mod reserve;
mod share;
