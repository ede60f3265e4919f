//! What is said to the server that takes an image.
#![no_main]

use diskferry_fuzz::upload;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| upload(script));
