//! Deciding what an image is: by what it contains, or by what the caller says.

use super::{FORMATS, Format, raw};
use crate::convert::Stated;
use crate::error::Result;
use crate::layer::{self, LAYERS};
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

/// Reads what a caller states: a format with its wrappings behind it, as in the names of files. `qcow2.xz.gz` is a qcow2 in
/// xz in gzip. The error is a sentence that lists what is known.
pub fn parse(stated: &str) -> Result<Stated, String> {
    let mut words = stated.split('.');
    let name = words.next().unwrap_or_default();
    let format = by_name(name).ok_or_else(|| {
        let known: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
        format!("unknown format {name:?}: {} are known", known.join(", "))
    })?;
    let wrappings: Result<Vec<_>, String> = words.rev().map(wrapping).collect();
    Ok(Stated { format: format.name, wrappings: wrappings? })
}

fn wrapping(name: &str) -> Result<&'static str, String> {
    layer::by_name(name).map(|layer| layer.name).ok_or_else(|| {
        let known: Vec<_> = LAYERS.iter().map(|layer| layer.aliases.first().copied().unwrap_or(layer.name)).collect();
        format!("unknown wrapping {name:?}: {} are known", known.join(", "))
    })
}

#[cfg(test)]
mod tests;
