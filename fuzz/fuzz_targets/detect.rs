//! Bytes that nobody has said anything about.
#![no_main]

use diskferry_fuzz::detect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| detect(image));
