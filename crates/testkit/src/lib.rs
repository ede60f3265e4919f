//! Image writers, failing sources and the oracle, shared by the tests of every crate.
//!
//! The writers here make what `qemu-img` cannot: the layouts of other producers, and damage. They build
//! small images in memory and favour clear layout over speed.
