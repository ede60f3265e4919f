//! Bytes that say where they belong, and the places that they are written to.

use diskferry::Error;
pub use diskferry_testkit::places::{Loop, Mount, OLD, run};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// `len` bytes that say where on the disk they belong; never zero, and never [`OLD`].
pub fn pattern(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(|at| u8::try_from(at % 127).unwrap() + 1).collect()
}

pub fn zeroes(len: u64) -> Vec<u8> {
    vec![0; usize::try_from(len).unwrap()]
}

/// Where `found` first differs from `expected`; byte by byte output of megabytes helps nobody.
pub fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
        panic!("byte {at} is {:#x}, not {:#x}", found[at], expected[at]);
    }
}

pub fn code<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").code()
}
