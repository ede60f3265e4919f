//! Bytes that somebody calls a vmdk image.
#![no_main]

use diskferry_fuzz::stated;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| stated(image, "vmdk", &[]));
