//! Deciding what an image is: by what it contains, or by what the caller says.

use super::{FORMATS, Format, raw};
use crate::error::Result;
use crate::source::{Source, peek_full};

/// Bytes that tell every format: up to the end of the anchor of a UDF volume.
pub(super) const HEAD: usize = 514 << 10;

/// Bytes that tell a format which has its signature at the beginning.
pub(super) const NEAR: usize = 4 << 10;

/// Tells the format of `source` by its content. What nobody knows is raw, until raw has had a closer look at it.
pub fn detect(source: &mut dyn Source) -> Result<&'static Format> {
    let mut head = Vec::new();
    for format in FORMATS {
        if head.len() < format.head {
            head = first(source, format.head)?;
        }
        if (format.probe)(&head) {
            return Ok(format);
        }
    }
    Ok(&raw::RAW)
}

/// Peeks at the first bytes of `source`, as far as any format can be told by them.
pub(super) fn head(source: &mut dyn Source) -> Result<Vec<u8>> {
    first(source, HEAD)
}

fn first(source: &mut dyn Source, len: usize) -> Result<Vec<u8>> {
    let mut head = vec![0; len];
    let got = peek_full(source, &mut head, 0)?;
    head.truncate(got);
    Ok(head)
}

/// The format called `name`, as in `qcow2`.
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

#[cfg(test)]
mod tests;
