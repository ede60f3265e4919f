//! An image from hostile bytes, read to its end within small limits.

use std::io::Cursor;

use diskferry::{Error, Input, Limits, Options, Stated, inspect_full};

pub(crate) const MIB: u64 = 1 << 20;

/// Large enough for every structure to occur, small enough for thousands of runs per second.
pub(crate) const LIMITS: Limits = Limits {
    virtual_size: 64 * MIB,
    table: MIB,
    unit: 2 * MIB,
    layers: 2,
    window: 8 * MIB,
    spool_memory: MIB,
    spool: 4 * MIB,
};

/// Reads `image` as whatever it looks like.
pub fn detect(image: &[u8]) {
    read(image, None);
}

/// Reads `image` as the format `format`, around which the wrappings are, outermost first.
pub fn stated(image: &[u8], format: &'static str, wrappings: &[&'static str]) {
    let words: Vec<_> = [format].into_iter().chain(wrappings.iter().rev().copied()).collect();
    read(image, words.join(".").parse().ok());
}

fn read(image: &[u8], format: Option<Stated>) {
    let input = Input::Stream { reader: Box::new(Cursor::new(image.to_vec())), len: None };
    let options = Options { format, limits: LIMITS, threads: 1, ..Options::default() };
    match inspect_full(input, &options, &diskferry::Progress::default()) {
        Ok(report) => {
            let unpacked = report.inspection.unpacked_size;
            // What is refused anyway may be looked at, whatever size it claims.
            let is_bound = report.inspection.image.refusals.is_empty();
            assert!(
                !is_bound || unpacked.is_none_or(|size| size <= LIMITS.virtual_size),
                "a limit was passed: {unpacked:?}"
            );
        }
        Err(error) => told(&error),
    }
}

/// People get one line, programs a code.
pub(crate) fn told(error: &Error) {
    assert!(!error.to_string().contains('\n'), "{error:?}");
    let code = error.code();
    let is_code = code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    assert!(is_code && code.contains(|letter: char| letter.is_ascii_lowercase()), "{code:?} of {error:?}");
}
