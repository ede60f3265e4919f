//! Image writers, failing sources and servers, and the oracle, shared by the tests of every crate.
//!
//! The writers here make what `qemu-img` cannot: the layouts of other producers, and damage. They build
//! small images in memory and favour clear layout over speed. A writer describes an image (`Qcow2`, `Vdi`, `Vmdk`);
//! its `build` gives the bytes and says where the tables lie, its `disk` gives what must come out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "only tests use this crate: a panic fails the test, and every image fits in memory"
)]

pub mod container;
pub mod decoders;
pub mod faults;
pub mod field;
pub mod hostile;
pub mod oracle;
pub mod places;
pub mod processes;
pub mod qcow2;
pub mod random;
pub mod serve;
pub mod vdi;
pub mod vmdk;
pub mod wrap;

pub use field::{Field, poke};
pub use oracle::{Scratch, assert_same_disk, qemu_img, qemu_io, raw_of, sample_disk};
pub use random::Random;
