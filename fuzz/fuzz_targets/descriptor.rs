//! Texts that somebody calls the descriptor of a VMDK.
#![no_main]

use diskferry_fuzz::descriptor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| descriptor(text));
