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
    let signed = SIGNATURES.iter().find(|(at, magic, _)| has(head, *at, magic)).map(|(_, _, foreign)| foreign);
    let shaped = || SHAPES.iter().find(|(is, _)| is(head)).map(|(_, foreign)| foreign);
    signed.or_else(shaped).or_else(|| text(head))
}

fn has(head: &[u8], at: usize, magic: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// The header of [lzma](https://github.com/tukaani-project/xz/blob/master/doc/lzma-file-format.txt) has no signature, but the usual properties, a dictionary
/// of 2^n or 3 · 2^n bytes, and a size that is unknown or that a file can have.
fn is_lzma(head: &[u8]) -> bool {
    let Some([0x5d, a, b, c, d, size @ ..]) = head.first_chunk::<13>() else { return false };
    let (dictionary, size) = (u32::from_le_bytes([*a, *b, *c, *d]), u64::from_le_bytes(*size));
    let usual = dictionary >> dictionary.trailing_zeros().min(31);
    dictionary >= 4096 && matches!(usual, 1 | 3) && (size == u64::MAX || (1..1 << 38).contains(&size))
}

/// Norton Ghost: two bytes that no processor of a PC executes, which file of the image this is, and how it is packed.
fn is_ghost(head: &[u8]) -> bool {
    matches!(head, [0xfe, 0xef, 1, 0..=10, ..])
}

/// A program for Windows or EFI says at 60 where its second header is. Some can be booted as disks too and are let pass;
/// of a Linux kernel, which says how much is packed in it, the first sector only looks so.
fn is_pe(head: &[u8]) -> bool {
    let second = head.get(60..).and_then(<[u8]>::first_chunk).map(|raw| u32::from_le_bytes(*raw));
    let second = second.and_then(|at| usize::try_from(at).ok());
    let packed = head.get(0x24c..0x250).is_some_and(|len| len != [0; 4]);
    let is_kernel = has(head, 514, b"HdrS") && packed;
    let bootable = has(head, 510, b"\x55\xaa") && !is_kernel;
    has(head, 0, b"MZ") && second.is_some_and(|at| has(head, at, b"PE\0\0")) && !bootable
}

/// [OpenPGP](https://www.rfc-editor.org/rfc/rfc9580#section-10.3.2) has the session key, once for each who may read it,
/// before what is encrypted.
fn is_openpgp(head: &[u8]) -> bool {
    let mut rest = head;
    while let Some(behind) = behind_session_key(rest) {
        rest = behind;
    }
    rest.len() < head.len() && matches!(rest, [0xa4..=0xa7 | 0xc9 | 0xd2 | 0xd4, ..])
}

/// Lengths are of the old format or of the new one.
fn behind_session_key(packets: &[u8]) -> Option<&[u8]> {
    let (len, body) = match packets {
        [0x84 | 0x8c, len, body @ ..] | [0xc1 | 0xc3, len @ ..192, body @ ..] => (usize::from(*len), body),
        [0x85 | 0x8d, high, low, body @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), body),
        [0xc1 | 0xc3, high @ 192..224, low, body @ ..] => {
            (192 + usize::from(u16::from_be_bytes([high & 0x1f, *low])), body)
        }
        _ => return None,
    };
    let (key, behind) = body.split_at_checked(len)?;
    // For a public key, its number and algorithm; for a passphrase, the cipher.
    matches!(key, [3, _, _, _, _, _, _, _, _, 1 | 2 | 16 | 18 | 25, ..] | [4 | 5, 1..=13, ..]).then_some(behind)
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
const RESTORE: &str = "restore it with the program that made it";
const FETCH: &str = "fetch the file that it stands for";

const VHD: Foreign =
    Foreign { format: "vhd", name: "a VHD disk image", remedy: "convert it with `qemu-img convert -f vpc`" };
const DMG: Foreign = Foreign { format: "dmg", name: "an Apple disk image (DMG)", remedy: QEMU };
const DMG_ENCRYPTED: Foreign =
    Foreign { format: "dmg-encrypted", name: "an encrypted Apple disk image", remedy: DECRYPT };
const PARALLELS: Foreign = Foreign { format: "parallels", name: "a Parallels disk image", remedy: QEMU };
const CISO: Foreign = Foreign { format: "ciso", name: "a compact ISO image (CISO)", remedy: UNPACK };
const NRG: Foreign = Foreign { format: "nrg", name: "a CD image of Nero (NRG)", remedy: "convert it with `nrg2iso`" };
const UIF: Foreign =
    Foreign { format: "uif", name: "a CD image of MagicISO (UIF)", remedy: "convert it with `uif2iso`" };
const EWF: Foreign = Foreign { format: "ewf", name: "a forensic image (EWF)", remedy: "convert it with `ewfexport`" };
const WIM: Foreign = Foreign { format: "wim", name: "a Windows image of files (WIM)", remedy: NO_DISK };
const ZIP: Foreign = Foreign { format: "zip", name: "a zip archive", remedy: UNPACK };
const TAR: Foreign = Foreign { format: "tar", name: "a tar archive, as OVA files are", remedy: UNPACK };
const CPIO: Foreign = Foreign { format: "cpio", name: "a cpio archive", remedy: UNPACK };
const LZ4: Foreign = Foreign { format: "lz4", name: "packed with lz4", remedy: UNPACK };
const LZFSE: Foreign = Foreign { format: "lzfse", name: "packed with lzfse", remedy: UNPACK };
const ZSTD_OLD: Foreign = Foreign { format: "zstd-old", name: "packed with zstd before 0.8", remedy: UNPACK };
const PATCH: Foreign =
    Foreign { format: "patch", name: "a patch", remedy: "apply it to the image that it was made from" };
const STATE: Foreign = Foreign { format: "vm-state", name: "the saved state of a virtual machine", remedy: NO_DISK };
const ANDROID: Foreign = Foreign { format: "android-boot", name: "an Android boot image", remedy: NO_DISK };
const U_BOOT: Foreign = Foreign {
    format: "u-boot",
    name: "an image for U-Boot or a device tree",
    remedy: "take out what is in it with `dumpimage`",
};
const PICTURE: Foreign = Foreign { format: "picture", name: "a picture", remedy: NO_DISK };

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
    (0, b"EVF\x09\x0d\x0a\xff\0", EWF),
    (0, b"EVF2\x0d\x0a\x81\0", EWF),
    (0, b"AFF10\x0d\x0a\0", Foreign { format: "aff", name: "a forensic image (AFF)", remedy: "convert it with `affconvert -r`" }),
    (0, b"MComprHD", Foreign { format: "chd", name: "a compressed disk image of MAME (CHD)", remedy: "take the disk out with `chdman extracthd`" }),
    (0, b"\0ntfsclone-image", Foreign { format: "ntfsclone", name: "an ntfsclone image", remedy: "restore it with `ntfsclone --restore-image`" }),
    (0, b"PaRtImAgE-VoLuMe", Foreign { format: "partimage", name: "a Partimage image", remedy: "restore it with `partimage restore`" }),
    (0, b"FsA0", Foreign { format: "fsarchiver", name: "an archive of FSArchiver", remedy: "restore it with `fsarchiver`" }),
    (0, b"\xb4\x6e\x68\x44", Foreign { format: "tib", name: "an Acronis backup (TIB)", remedy: RESTORE }),
    (4, b"SignedImage ", Foreign { format: "ffu", name: "a Windows flash image (FFU)", remedy: "convert it with `ffu2img`" }),
    (0, b"btrfs-stream\0", Foreign { format: "btrfs-send", name: "a stream of btrfs send", remedy: "receive it with `btrfs receive`" }),
    (8, b"\xac\xcb\xba\xf5\x02\0\0\0", Foreign { format: "zfs-send", name: "a stream of zfs send", remedy: "receive it with `zfs receive`" }),
    (0, b"MSWIM\0\0\0", WIM),
    (0, b"WLPWM\0\0\0", WIM),
    (0, b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", Foreign { format: "cd-sectors", name: "a CD in whole sectors (BIN)", remedy: "convert it with `bchunk`" }),
    (0, b"IsZ!", Foreign { format: "isz", name: "a zipped ISO image (ISZ)", remedy: UNPACK }),
    (0, b"CISO\0", CISO),
    (0, b"CISO\x18\0\0\0", CISO),
    (0, b"DAA\0\0\0\0\0", Foreign { format: "daa", name: "a CD image of PowerISO (DAA)", remedy: "convert it with `daa2iso`" }),
    (0, b"ECM\0", Foreign { format: "ecm", name: "a CD image without its error correction (ECM)", remedy: "unpack it with `unecm`" }),
    (0, b"MEDIA DESCRIPTOR", Foreign { format: "mds", name: "the description of a CD (MDS)", remedy: "take the .mdf file that belongs to it" }),
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
    (0, b"xar!\0", Foreign { format: "xar", name: "a xar archive, as .pkg files of macOS are", remedy: UNPACK }),
    (0, b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0", Foreign { format: "nar", name: "a Nix archive (NAR)", remedy: "unpack it with `nix-store --restore`" }),
    (0, b"CrAU\0\0\0\0", Foreign { format: "android-payload", name: "an Android update (payload.bin)", remedy: UNPACK }),
    (0, b"7kSt\xa0\x31\x83\xd3\x8c\xb2\x28\xb0\xd3", Foreign { format: "zpaq", name: "a ZPAQ archive", remedy: UNPACK }),
    (0, b"RZIP\x02", Foreign { format: "rzip", name: "packed with rzip", remedy: UNPACK }),
    (0, b"bvx-", LZFSE),
    (0, b"bvx1", LZFSE),
    (0, b"bvx2", LZFSE),
    (0, b"bvxn", LZFSE),
    (0, b"\xfd\x2f\xb5\x1e", ZSTD_OLD),
    (0, b"\x22\xb5\x2f\xfd", ZSTD_OLD),
    (0, b"\x23\xb5\x2f\xfd", ZSTD_OLD),
    (0, b"\x24\xb5\x2f\xfd", ZSTD_OLD),
    (0, b"\x25\xb5\x2f\xfd", ZSTD_OLD),
    (0, b"\x26\xb5\x2f\xfd", ZSTD_OLD),
    (0, b"\x27\xb5\x2f\xfd", ZSTD_OLD),
    (0, b"\x04\x22\x4d\x18", LZ4),
    (0, b"\x02\x21\x4c\x18", LZ4),
    (0, b"\x1f\x9d\x90", Foreign { format: "compress", name: "packed with compress (.Z)", remedy: UNPACK }),
    (0, b"LZIP\x01", Foreign { format: "lzip", name: "packed with lzip", remedy: UNPACK }),
    (0, b"\x89LZO\0\x0d\x0a\x1a\x0a", Foreign { format: "lzop", name: "packed with lzop", remedy: UNPACK }),
    (0, b"LRZI\0", Foreign { format: "lrzip", name: "packed with lrzip", remedy: UNPACK }),
    (0, b"BZ3v1", Foreign { format: "bzip3", name: "packed with bzip3", remedy: UNPACK }),
    (0, b"\xff\x06\0\0sNaPpY", Foreign { format: "snappy", name: "packed with snappy", remedy: UNPACK }),
    (0, b"Salted__", Foreign { format: "openssl", name: "encrypted with openssl", remedy: DECRYPT }),
    (0, b"age-encryption.org/v1\n", Foreign { format: "age", name: "encrypted with age", remedy: DECRYPT }),
    (0, b"\xd6\xc3\xc4\0", PATCH),
    (0, b"BSDIFF40", PATCH),
    // Other files that are taken for disk images by mistake.
    (0, b"\xff\xfe<\0", HTML),
    (0, b"\xfe\xff\0<", HTML),
    (0, b"%PDF-", Foreign { format: "pdf", name: "a PDF document", remedy: NO_DISK }),
    (0, b"\x7fELF", Foreign { format: "elf", name: "a program (ELF)", remedy: NO_DISK }),
    (0, b"QEVM\0\0\0", STATE),
    (0, b"LibvirtQemudSave", STATE),
    (0, b"\x7fVirtualBox SavedState V", STATE),
    (0, b"\xd0\xbe\xd2\xbe", STATE),
    (0, b"\xd2\xbe\xd2\xbe", STATE),
    (0, b"\xd3\xbe\xd3\xbe", STATE),
    (0, b"ANDROID!", ANDROID),
    (0, b"VNDRBOOT", ANDROID),
    (0, b"\x27\x05\x19\x56", U_BOOT),
    (0, b"\xd0\x0d\xfe\xed", U_BOOT),
    (0, b"\x89PNG\x0d\x0a\x1a\x0a", PICTURE),
    (0, b"\xff\xd8\xff\xdb", PICTURE),
    (0, b"\xff\xd8\xff\xe0", PICTURE),
    (0, b"\xff\xd8\xff\xe1", PICTURE),
    (0, b"GIF87a", PICTURE),
    (0, b"GIF89a", PICTURE),
    (0, b"d8:announce", Foreign { format: "torrent", name: "a torrent", remedy: FETCH }),
    (0, b"zsync: ", Foreign { format: "zsync", name: "a control file of zsync", remedy: FETCH }),
    (0, b"JigsawDownload template ", Foreign { format: "jigdo", name: "a template of jigdo", remedy: FETCH }),
];

type IsShape = fn(&[u8]) -> bool;

/// What has no signature, but a shape.
#[rustfmt::skip]
const SHAPES: &[(IsShape, Foreign)] = &[
    (is_lzma, Foreign { format: "lzma", name: "packed with lzma", remedy: UNPACK }),
    (is_openpgp, Foreign { format: "openpgp", name: "encrypted with OpenPGP", remedy: DECRYPT }),
    (is_ghost, Foreign { format: "ghost", name: "a Norton Ghost image", remedy: RESTORE }),
    (is_pe, Foreign { format: "pe", name: "a program (PE)", remedy: NO_DISK }),
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
    (64, b"bbis", UIF),
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
