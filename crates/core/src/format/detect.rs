//! Deciding what an image is: by what it contains, or by what the caller says.

use super::{FORMATS, Format, raw};
use crate::error::Result;
use crate::source::{Source, peek_full};

/// Bytes that tell every format, but for a volume of UDF: up to the end of a disc's descriptors and behind the mark of btrfs.
pub(super) const HEAD: usize = 66 << 10;

/// Bytes that tell a format which has its signature at the beginning.
pub(super) const NEAR: usize = 4 << 10;

/// Tells the format of `source` by its content. What nobody knows is raw, until raw has had a closer look at it.
pub fn detect(source: &mut dyn Source) -> Result<&'static Format> {
    let mut head = Vec::new();
    for format in FORMATS {
        read(source, &mut head, format.head)?;
        if (format.probe)(&head) {
            return Ok(format);
        }
    }
    Ok(&raw::RAW)
}

/// Peeks at the first bytes of `source`: at as many as `wanted` says, which is told those that are there.
pub(super) fn head(source: &mut dyn Source, wanted: fn(&[u8]) -> usize) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    read(source, &mut head, wanted)?;
    Ok(head)
}

fn read(source: &mut dyn Source, head: &mut Vec<u8>, wanted: fn(&[u8]) -> usize) -> Result<()> {
    loop {
        let len = wanted(head);
        if len <= head.len() {
            return Ok(());
        }
        head.resize(len, 0);
        let got = peek_full(source, head, 0)?;
        head.truncate(got);
        if got < len {
            return Ok(());
        }
    }
}

/// The format called `name`, as in `qcow2`.
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

#[cfg(test)]
mod tests;
