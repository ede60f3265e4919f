//! Bytes that somebody calls a raw disk, or a CD-ROM.
#![no_main]

use diskferry_fuzz::stated;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| {
    stated(image, "raw", &[]);
    stated(image, "iso", &[]);
});
