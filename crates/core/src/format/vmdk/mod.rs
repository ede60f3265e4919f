//! VMDK: VMware's disk image, as one file.
//!
//! What is carried is a sparse extent with its descriptor inside: monolithicSparse ([`sparse`]) and streamOptimized ([`stream`]).
//! Every other kind names other files, and is only looked at ([`alone`]). The layout is VMware's "Virtual Disk Format 5.0";
//! docs/formats/vmdk.md says what producers make of it.

mod alone;
mod descriptor;
mod header;
mod markers;
mod proof;
mod sparse;
mod stream;
mod tables;
#[cfg(test)]
mod tests;

use self::alone::Alone;
use self::descriptor::Descriptor;
use self::header::Header;
use self::sparse::Sparse;
use self::stream::Stream;
use super::detect::NEAR;
use super::{Detail, Format, Image, ImageInfo, Opening};
use crate::error::{Error, Result};
use crate::source::{Source, ends_early, look_exact, look_full};

const FORMAT: &str = "vmdk";
/// Unit of all offsets and sizes in a VMDK.
const SECTOR: u64 = SECTOR_LEN as u64;
const SECTOR_LEN: usize = 512;
const MAGIC: [u8; 4] = *b"KDMV";
const COWD_MAGIC: [u8; 4] = *b"COWD";
/// The magic 0xcafebabe and the version 2.1, so that no other file with that magic is taken for one.
const SESPARSE_MAGIC: [u8; 16] = [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];

pub(super) const VMDK: Format = Format { name: FORMAT, head: |_| NEAR, probe, open };

fn probe(head: &[u8]) -> bool {
    let magics: [&[u8]; 3] = [&MAGIC, &COWD_MAGIC, &SESPARSE_MAGIC];
    magics.iter().any(|magic| head.starts_with(magic)) || descriptor::is_text(head)
}

fn open(source: &mut dyn Source, how: &Opening) -> Result<Box<dyn Image>> {
    let mut head = [0; SECTOR_LEN];
    let got = look_full(source, &mut head, 0)?;
    match head.get(..got).unwrap_or_default() {
        head if head.starts_with(&COWD_MAGIC) => return Ok(Box::new(Alone::cowd(head))),
        head if head.starts_with(&SESPARSE_MAGIC) => return Ok(Box::new(Alone::sesparse(head))),
        head if descriptor::is_text(head) => return Ok(Box::new(Alone::text(source, head)?)),
        _ => {}
    }
    if got < head.len() {
        return Err(ends_early(FORMAT, "the header", 0, head.len() as u64, got as u64));
    }
    if let Some((at, len)) = Header::descriptor_alone(&head)? {
        return Ok(Box::new(Alone::descriptor(&read_text(source, at, len)?)));
    }
    let header = Header::parse(&head, 0, how.limits)?;
    let descriptor = read_descriptor(source, &header)?;
    let info = describe(&header, &descriptor)?;
    // What is refused is only looked at, so that an unusual descriptor can be seen together with its header.
    let size = info.virtual_size.unwrap_or(header.capacity);
    Ok(if header.is_stream {
        Box::new(Stream::new(&header, info, size, source, how)?)
    } else {
        Box::new(Sparse::new(&header, info, size, how)?)
    })
}

fn read_descriptor(source: &mut dyn Source, header: &Header) -> Result<Descriptor> {
    let Some((at, len)) = header.descriptor else { return Ok(Descriptor::default()) };
    Descriptor::parse(&read_text(source, at, len)?, at)
}

fn read_text(source: &mut dyn Source, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut text = vec![0; tables::length(len)];
    look_exact(source, &mut text, at, FORMAT, "the descriptor")?;
    Ok(text)
}

fn describe(header: &Header, descriptor: &Descriptor) -> Result<ImageInfo> {
    let expected = if header.is_stream { "streamOptimized" } else { "monolithicSparse" };
    let refusals = descriptor.refusals(expected);
    let size = if refusals.is_empty() { virtual_size(header, descriptor)? } else { header.capacity };
    let mut details = details_of(descriptor, !refusals.is_empty());
    details.push(("version", Detail::Number(header.version.into())));
    details.push(("compressed", Detail::Flag(header.is_stream)));
    let unclean = "the image was not closed by the program that wrote it last; what it wrote last may be missing";
    Ok(ImageInfo {
        format: FORMAT,
        virtual_size: Some(size),
        cluster_size: Some(header.grain),
        backing: descriptor.parent_name().map(str::to_owned),
        refusals,
        details,
        warnings: header.unclean.then(|| unclean.to_owned()).into_iter().collect(),
        ..ImageInfo::default()
    })
}

/// What the descriptor says, with the files that it names if they `matter`: what is carried is all in one.
fn details_of(descriptor: &Descriptor, matter: bool) -> Vec<(&'static str, Detail)> {
    let names: Vec<_> = descriptor.extent_names().map(str::to_owned).collect();
    let details = [
        descriptor.create_type().map(|name| ("create-type", Detail::Text(name.to_owned()))),
        descriptor.cid().map(|cid| ("cid", cid)),
        descriptor.parent_cid.map(|cid| ("parent-cid", Detail::Number(cid.into()))),
        (matter && !names.is_empty()).then_some(("extents", Detail::List(names))),
    ];
    details.into_iter().flatten().collect()
}

/// The size of the disk. VirtualBox rounds the capacity up to whole grains; the extent line then has the true size.
fn virtual_size(header: &Header, descriptor: &Descriptor) -> Result<u64> {
    let capacity = header.capacity;
    let size = descriptor.size().unwrap_or(capacity);
    if size > capacity || size.div_ceil(header.grain) != capacity.div_ceil(header.grain) {
        let what = format!("the disk has {size} bytes in the descriptor, but {capacity} in the header");
        return Err(Error::corrupt(FORMAT, "capacity-disagrees", 0, what));
    }
    Ok(size)
}
