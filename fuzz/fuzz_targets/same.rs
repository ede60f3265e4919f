//! Bytes that come from a file, and again from a stream in chunks.
#![no_main]

use diskferry_fuzz::same;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| same(image, None));
