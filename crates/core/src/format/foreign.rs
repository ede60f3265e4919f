//! What else the world calls a disk image, and what is handed out in place of one: recognised, and refused by name.
//!
//! A file that nobody recognises is raw, so whatever is missing here ends up on somebody's disk as it is. What the boot
//! sector, the partition table or the file system of a real disk could begin with must not be listed.

use super::detect::HEAD;
use crate::error::{Error, Result};

/// Bytes at the end of an image that tell those that only their end tells.
pub(super) const TAIL: usize = 512;

/// Something that is not carried.
#[derive(Debug, PartialEq, Eq)]
struct Foreign {
    /// Short name, the first half of the error code, as in `vhdx-not-carried`.
    format: &'static str,
    /// What it is.
    name: &'static str,
    /// What to do about it.
    remedy: &'static str,
}

impl Foreign {
    fn refusal(&self) -> Error {
        let Self { format, name, remedy } = self;
        let what = format!("this is {name}, which is not carried: {remedy} (`-f raw` takes it as it is)");
        Error::unsupported(format, "not-carried", what)
    }
}

/// As much has to be text before an image is taken for one.
const TEXT: usize = 514 << 10;

/// How many of the first bytes it takes to tell what is not carried, judging by `head`: more than usual where that is text so far.
pub(super) fn wanted(head: &[u8]) -> usize {
    if head.len() >= HEAD && !has_control(head) { TEXT } else { HEAD }
}

/// Refuses an image whose `head`, as far as [`wanted`] has it, belongs to something else.
pub(super) fn check_head(head: &[u8]) -> Result<()> {
    recognise(head).map_or(Ok(()), |foreign| Err(foreign.refusal()))
}

fn recognise(head: &[u8]) -> Option<&'static Foreign> {
    let signed = SIGNATURES.iter().find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    signed.map(|(_, _, foreign)| foreign).or_else(|| is_lzma(head).then_some(&LZMA)).or_else(|| text(head))
}

/// The header of [lzma](https://github.com/tukaani-project/xz/blob/master/doc/lzma-file-format.txt) has no signature, but the usual properties, a dictionary
/// of 2^n or 3 · 2^n bytes, and a size that is unknown or that a file can have.
fn is_lzma(head: &[u8]) -> bool {
    let Some([0x5d, a, b, c, d, size @ ..]) = head.first_chunk::<13>() else { return false };
    let (dictionary, size) = (u32::from_le_bytes([*a, *b, *c, *d]), u64::from_le_bytes(*size));
    let usual = dictionary >> dictionary.trailing_zeros().min(31);
    dictionary >= 4096 && matches!(usual, 1 | 3) && (size == u64::MAX || (1..1 << 38).contains(&size))
}

/// Refuses an image whose `tail`, its last [`TAIL`] bytes, belongs to something else.
pub(super) fn check_tail(tail: &[u8]) -> Result<()> {
    let signed = |magic: &[u8], from_end: usize| {
        tail.len().checked_sub(from_end).and_then(|at| tail.get(at..)).is_some_and(|end| end.starts_with(magic))
    };
    match TRAILERS.iter().find(|(from_end, magic, _)| signed(magic, *from_end)) {
        Some((_, _, foreign)) => Err(foreign.refusal()),
        None => Ok(()),
    }
}

const QEMU: &str = "convert it with `qemu-img convert -O qcow2`";
const UNPACK: &str = "unpack it, and convert the disk image inside";
const DECRYPT: &str = "decrypt it first";
const NO_DISK: &str = "there is no disk in it";

const VHD: Foreign =
    Foreign { format: "vhd", name: "a VHD disk image", remedy: "convert it with `qemu-img convert -f vpc`" };
const DMG: Foreign = Foreign { format: "dmg", name: "an Apple disk image (DMG)", remedy: QEMU };
const DMG_ENCRYPTED: Foreign =
    Foreign { format: "dmg-encrypted", name: "an encrypted Apple disk image", remedy: DECRYPT };
const PARALLELS: Foreign = Foreign { format: "parallels", name: "a Parallels disk image", remedy: QEMU };
const CISO: Foreign = Foreign { format: "ciso", name: "a compact ISO image (CISO)", remedy: UNPACK };
const NRG: Foreign = Foreign { format: "nrg", name: "a CD image of Nero (NRG)", remedy: "convert it with `nrg2iso`" };
const ZIP: Foreign = Foreign { format: "zip", name: "a zip archive", remedy: UNPACK };
const TAR: Foreign = Foreign { format: "tar", name: "a tar archive, as OVA files are", remedy: UNPACK };
const CPIO: Foreign = Foreign { format: "cpio", name: "a cpio archive", remedy: UNPACK };
const LZ4: Foreign = Foreign { format: "lz4", name: "packed with lz4", remedy: UNPACK };
const LZMA: Foreign = Foreign { format: "lzma", name: "packed with lzma", remedy: UNPACK };

/// Offset, first bytes and what they belong to.
#[rustfmt::skip]
const SIGNATURES: &[(usize, &[u8], Foreign)] = &[
    // Disk images.
    (0, b"QFI\xfb\0\0\0\x01", Foreign { format: "qcow1", name: "a qcow image of version 1", remedy: QEMU }),
    (0, b"conectix", VHD),
    (0, b"vhdxfile", Foreign { format: "vhdx", name: "a VHDX disk image", remedy: QEMU }),
    (0, b"QED\0", Foreign { format: "qed", name: "a QED disk image", remedy: QEMU }),
    (0, b"koly\0\0\0\x04\0\0\x02\0", DMG),
    (0, b"encrcdsa", DMG_ENCRYPTED),
    (0, b"sprs\0\0\0", Foreign { format: "sparseimage", name: "an Apple sparse image", remedy: "convert it with `hdiutil convert -format UDTO`" }),
    (0, b"shdw", Foreign { format: "asif", name: "an Apple sparse image (ASIF)", remedy: "convert it with `diskutil image create from`" }),
    (0, b"WithoutFreeSpace", PARALLELS),
    (0, b"WithouFreSpacExt", PARALLELS),
    (0, b"Bochs Virtual HD Image", Foreign { format: "bochs", name: "a Bochs disk image", remedy: QEMU }),
    (0, b"#!/bin/sh\n#V2.0 Format\n", Foreign { format: "cloop", name: "a cloop disk image", remedy: QEMU }),
    (0, b"LUKS\xba\xbe", Foreign { format: "luks", name: "an encrypted volume (LUKS)", remedy: DECRYPT }),
    (0, b"\x3a\xff\x26\xed", Foreign { format: "android-sparse", name: "an Android sparse image", remedy: "convert it with `simg2img`" }),
    (0, b"partclone-image", Foreign { format: "partclone", name: "a partclone image", remedy: "restore it with `partclone.restore`" }),
    (0, b"VMA\0", Foreign { format: "vma", name: "a Proxmox backup", remedy: "take the disk out with `vma extract`" }),
    (0, b"EVF\x09\x0d\x0a\xff\0", Foreign { format: "ewf", name: "a forensic image (EWF)", remedy: "convert it with `ewfexport`" }),
    (0, b"MSWIM\0\0\0", Foreign { format: "wim", name: "a Windows image of files (WIM)", remedy: NO_DISK }),
    (0, b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", Foreign { format: "cd-sectors", name: "a CD in whole sectors (BIN)", remedy: "convert it with `bchunk`" }),
    (0, b"IsZ!", Foreign { format: "isz", name: "a zipped ISO image (ISZ)", remedy: UNPACK }),
    (0, b"CISO\0", CISO),
    (0, b"CISO\x18\0\0\0", CISO),
    // Archives, and packings that are not taken off.
    (0, b"PK\x03\x04", ZIP),
    (0, b"PK\x05\x06", ZIP),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign { format: "7z", name: "a 7-Zip archive", remedy: UNPACK }),
    (0, b"Rar!\x1a\x07", Foreign { format: "rar", name: "a RAR archive", remedy: UNPACK }),
    (257, b"ustar\0", TAR),
    (257, b"ustar ", TAR),
    (0, b"070701", CPIO),
    (0, b"070702", CPIO),
    (0, b"070707", CPIO),
    (0, b"!<arch>\n", Foreign { format: "ar", name: "an ar archive, as .deb files are", remedy: UNPACK }),
    (0, b"\xed\xab\xee\xdb", Foreign { format: "rpm", name: "an RPM package", remedy: UNPACK }),
    (0, b"MSCF\0\0\0\0", Foreign { format: "cab", name: "a cabinet archive", remedy: UNPACK }),
    (0, b"\x04\x22\x4d\x18", LZ4),
    (0, b"\x02\x21\x4c\x18", LZ4),
    (0, b"\x1f\x9d\x90", Foreign { format: "compress", name: "packed with compress (.Z)", remedy: UNPACK }),
    (0, b"LZIP\x01", Foreign { format: "lzip", name: "packed with lzip", remedy: UNPACK }),
    (0, b"\x89LZO\0\x0d\x0a\x1a\x0a", Foreign { format: "lzop", name: "packed with lzop", remedy: UNPACK }),
    (0, b"LRZI\0", Foreign { format: "lrzip", name: "packed with lrzip", remedy: UNPACK }),
    (0, b"BZ3v1", Foreign { format: "bzip3", name: "packed with bzip3", remedy: UNPACK }),
    (0, b"\xff\x06\0\0sNaPpY", Foreign { format: "snappy", name: "packed with snappy", remedy: UNPACK }),
    (0, b"Salted__", Foreign { format: "openssl", name: "encrypted with openssl", remedy: DECRYPT }),
    // Other files that are taken for disk images by mistake.
    (0, b"\xff\xfe<\0", HTML),
    (0, b"\xfe\xff\0<", HTML),
    (0, b"%PDF-", Foreign { format: "pdf", name: "a PDF document", remedy: NO_DISK }),
    (0, b"\x7fELF", Foreign { format: "elf", name: "a program (ELF)", remedy: NO_DISK }),
];

/// Distance from the end, bytes and what they belong to.
const TRAILERS: &[(usize, &[u8], Foreign)] = &[
    (512, b"conectix", VHD),
    // Virtual PC before 2004 wrote a byte less.
    (511, b"conectix", VHD),
    (512, b"koly\0\0\0\x04\0\0\x02\0", DMG),
    (8, b"cdsaencr", DMG_ENCRYPTED),
    (12, b"NER5", NRG),
    (8, b"NERO", NRG),
];

/// What a text begins with, in lower case. The last line takes any.
#[rustfmt::skip]
const TEXTS: &[(&[u8], Foreign)] = &[
    (b"<!doctype html", HTML),
    (b"<html", HTML),
    (b"<", Foreign { format: "xml", name: "an XML document", remedy: NO_DISK }),
    (b"{", JSON),
    (b"[", JSON),
    (b"version https://git-lfs", Foreign { format: "git-lfs", name: "a pointer of Git LFS", remedy: "fetch the file it stands for with `git lfs pull`" }),
    (b"-----begin ", Foreign { format: "armor", name: "an armored key, certificate or message", remedy: NO_DISK }),
    (b"", Foreign { format: "text", name: "plain text", remedy: NO_DISK }),
];

const HTML: Foreign =
    Foreign { format: "html", name: "a web page", remedy: "the address may want a login, or be wrong" };
const JSON: Foreign = Foreign { format: "json", name: "a JSON document", remedy: NO_DISK };

/// Tells a text by its kind. Disks are none: boot code, tables and superblocks all have control bytes, and a text that a
/// disk begins with ends within the head.
fn text(head: &[u8]) -> Option<&'static Foreign> {
    if has_control(head) {
        return None;
    }
    let valid = match str::from_utf8(head) {
        Ok(text) => text,
        // The end of the head may go through a character.
        Err(error) if error.error_len().is_none() => str::from_utf8(head.get(..error.valid_up_to())?).ok()?,
        // Pages have it in other encodings, too.
        Err(_) => {
            let page = head.trim_ascii_start();
            let begins = |with: &[u8]| page.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
            return (begins(b"<!doctype html") || begins(b"<html")).then_some(&HTML);
        }
    };
    let valid = valid.trim_start_matches('\u{feff}').trim_start();
    // A pattern of one letter, as test disks are filled with, has neither words nor lines.
    if !valid.contains(char::is_whitespace) && !valid.starts_with(['{', '[', '<']) {
        return None;
    }
    let begins = |with: &[u8]| valid.as_bytes().get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    TEXTS.iter().find(|(start, _)| begins(start)).map(|(_, foreign)| foreign)
}

fn has_control(head: &[u8]) -> bool {
    head.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace() && *byte != b'\x1b')
}

#[cfg(test)]
mod tests;
