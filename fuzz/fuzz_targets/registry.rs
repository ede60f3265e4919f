//! What a registry answers, with the digests it should have.
#![no_main]

use diskferry_fuzz::registry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| registry(script));
