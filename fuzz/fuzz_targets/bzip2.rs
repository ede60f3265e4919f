//! Bytes that somebody calls a raw disk in bzip2.
#![no_main]

use diskferry_fuzz::same;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| same(image, Some("raw.bzip2")));
