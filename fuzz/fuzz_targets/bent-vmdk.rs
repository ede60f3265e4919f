//! A sound vmdk image with fields bent.
#![no_main]

use diskferry_fuzz::bent;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| bent(script, "vmdk"));
