//! Bytes that nobody has said anything about, carried to a disk.
#![no_main]

use diskferry_fuzz::carried;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| carried(image));
