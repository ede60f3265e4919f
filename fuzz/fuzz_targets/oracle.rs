//! A sound image with fields bent, carried by us and by qemu-img.
#![no_main]

use diskferry_fuzz::oracle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| oracle(script));
