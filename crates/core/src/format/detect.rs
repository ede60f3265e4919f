//! Deciding what an image is: by what it contains, or by what the caller says.

use super::{FORMATS, Format, raw};
use crate::error::Result;
use crate::source::{Source, peek_full};

/// Bytes that tell every format: up to the end of the anchor of a UDF volume.
const HEAD: usize = 514 << 10;

/// Tells the format of `source` by its content. What nobody knows is raw, until raw has had a closer look at it.
pub fn detect(source: &mut dyn Source) -> Result<&'static Format> {
    let head = head(source)?;
    Ok(FORMATS.iter().find(|format| (format.probe)(&head)).unwrap_or(&raw::RAW))
}

/// Peeks at the first bytes of `source`, as far as any format can be told by them.
pub(super) fn head(source: &mut dyn Source) -> Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
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
