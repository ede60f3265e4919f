//! Bytes that somebody calls a layer of a container image.
#![no_main]

use diskferry_fuzz::archive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| archive(bytes));
