//! Outer wrappings: what they are told by and how they are taken off. One line per wrapping in [`LAYERS`].

use std::io::{BufRead, Read};

use crate::error::Result;
use crate::limits::Limits;

/// A wrapping around a whole image.
pub struct Layer {
    /// Name, as the report gives it.
    pub name: &'static str,
    /// Whether these first bytes are this wrapping's. Needs at most [`HEAD`] bytes.
    pub probe: fn(head: &[u8]) -> bool,
    /// Wraps a reader of packed bytes into one of unpacked bytes that reads every member, trailer and check value.
    pub open: fn(packed: Box<dyn BufRead + Send>, how: &Unwrapping) -> Result<Box<dyn Read + Send>>,
}

/// How a wrapping is to be taken off.
#[derive(Debug, Clone, Copy)]
pub struct Unwrapping<'a> {
    /// What the stream may ask for.
    pub limits: &'a Limits,
    /// Threads that a decoder may use where the data allow.
    pub threads: usize,
}

/// Bytes that tell every wrapping.
pub const HEAD: usize = 8;
