//! Outer wrappings: what they are told by and how they are taken off. One line per wrapping in [`LAYERS`].
//!
//! [`peel`] stands between the bytes as they are stored and the [`Source`] that a format reads.
//! Each wrapping's file says how one step of unpacking is done; the loop around the steps is the same for all.

#![warn(clippy::indexing_slicing)]
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod allowance;
mod bgzf;
mod bzip2;
mod gzip;
mod peel;
#[cfg(test)]
pub(crate) mod testing;
mod unwrapper;
mod xz;
mod zstd;

use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use self::allowance::Share;
use crate::error::Result;
use crate::limits::Limits;
use crate::progress::Progress;
use crate::source::Source;

pub use peel::peel;

/// Every wrapping that can be taken off.
pub static LAYERS: &[Layer] = &[
    Layer { name: "gzip", aliases: &["gz"], probe: gzip::probe, open: gzip::open, unpacked_len: None },
    Layer { name: "xz", aliases: &[], probe: xz::probe, open: xz::open, unpacked_len: Some(xz::unpacked_len) },
    Layer {
        name: "zstd",
        aliases: &["zst"],
        probe: zstd::probe,
        open: zstd::open,
        unpacked_len: Some(zstd::unpacked_len),
    },
    Layer { name: "bzip2", aliases: &["bz2"], probe: bzip2::probe, open: bzip2::open, unpacked_len: None },
];

/// A wrapping around a whole image.
pub struct Layer {
    /// Name, as the report gives it.
    pub name: &'static str,
    /// What files are called that have it, where that is not the name.
    pub aliases: &'static [&'static str],
    /// Whether these first bytes are this wrapping's. Needs at most [`HEAD`] bytes.
    pub probe: fn(head: &[u8]) -> bool,
    /// Wraps a reader of packed bytes into one of unpacked bytes that reads every member, trailer and check value.
    /// Its end is the end of the packed bytes; its errors carry an [`Error`](crate::Error), or are those of `packed`, unchanged.
    pub open: fn(packed: Packed, how: &Unwrapping) -> Result<Reader>,
    /// Says how much a stored file unpacks to, if the wrapping keeps that where it can be had without unpacking.
    pub unpacked_len: Option<UnpackedLen>,
}

/// Looks for the unpacked length in a stored file; `None` where it is not to be had.
pub type UnpackedLen = fn(stored: &mut dyn Source) -> Result<Option<u64>>;

/// Bytes that have a wrapping.
pub type Packed = Box<dyn BufRead + Send>;

/// Bytes that may have one.
pub type Reader = Box<dyn Read + Send>;

/// How the wrappings around one image are to be taken off.
#[derive(Debug)]
pub struct Unwrapping<'a> {
    /// What the stream may ask for.
    limits: &'a Limits,
    /// Threads that a decoder may use where the data allow.
    threads: usize,
    /// What is left of [`Limits::window`].
    window: Arc<AtomicU64>,
    /// Where is looked whether to stop.
    progress: Progress,
}

impl<'a> Unwrapping<'a> {
    /// Within `limits`, by up to `threads` threads for each wrapping.
    pub fn new(limits: &'a Limits, threads: usize) -> Self {
        let window = Arc::new(AtomicU64::new(limits.window));
        Self { limits, threads, window, progress: Progress::default() }
    }

    /// Until `progress` says that the job is to stop: a few stored bytes can be a lot of unpacked ones.
    pub fn until(self, progress: &Progress) -> Self {
        Self { progress: progress.clone(), ..self }
    }

    fn window(&self) -> Share {
        Share::new(Arc::clone(&self.window), self.limits.window)
    }
}

/// Bytes that tell every wrapping.
pub const HEAD: usize = 8;

/// The wrapping that begins with `head`.
pub fn probe(head: &[u8]) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| (layer.probe)(head))
}

/// The wrapping called `name`, or whose files are, as in `gzip` or `gz`.
pub fn by_name(name: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.name == name || layer.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapping_is_found_by_its_name_and_by_its_file_name() {
        for (name, found) in [
            ("gzip", Some("gzip")),
            ("gz", Some("gzip")),
            ("xz", Some("xz")),
            ("zstd", Some("zstd")),
            ("zst", Some("zstd")),
            ("bzip2", Some("bzip2")),
            ("bz2", Some("bzip2")),
            ("zip", None),
            ("", None),
        ] {
            assert_eq!(by_name(name).map(|layer| layer.name), found, "{name}");
        }
    }

    #[test]
    fn a_wrapping_is_told_by_its_first_bytes() {
        for (head, found) in [
            (&b"\x1f\x8b\x08\0\0\0\0\0"[..], Some("gzip")),
            (b"\xfd7zXZ\0\0\x04", Some("xz")),
            (b"\x28\xb5\x2f\xfd\x04\0\0\0", Some("zstd")),
            (b"\x5f\x2a\x4d\x18\0\0\0\0", Some("zstd")),
            (b"BZh91AY&", Some("bzip2")),
            (b"BZh1\x17\x72\x45\x38", Some("bzip2")),
            (b"BZh0\x17\x72\x45\x38", None),
            (b"BZh9 is text", None),
            (b"\x1f\x9d\x90\0\0\0\0\0", None),
            (b"\x1f\x8b", None),
            (b"", None),
        ] {
            assert_eq!(probe(head).map(|layer| layer.name), found, "{head:02x?}");
        }
    }
}
