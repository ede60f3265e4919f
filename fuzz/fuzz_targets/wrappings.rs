//! Bytes that somebody calls a wrapped raw disk.
#![no_main]

use diskferry_fuzz::stated;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| {
    for wrapping in ["gzip", "xz", "zstd", "bzip2"] {
        stated(image, "raw", &[wrapping]);
    }
});
