//! What a server answers who is asked for an image.
#![no_main]

use diskferry_fuzz::answers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| answers(script));
