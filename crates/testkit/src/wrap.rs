//! Wrappings around whole images, made by the tools that people make them with.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc, GzBuilder};

/// The output of `tool` for the input `bytes`.
pub fn filter(tool: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(tool)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{tool}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // A tool that fails closes its input early; its own message then says why.
        scope.spawn(move || stdin.write_all(bytes));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Deflated, as units within images are, with no wrapping around it.
pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One gzip member, as `gzip` writes it to a pipe.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    gzip_member(bytes, GzBuilder::new())
}

/// Several gzip members, `member` unpacked bytes in each, with name and comment in their headers and an empty one at the end.
pub fn gzip_members(bytes: &[u8], member: usize) -> Vec<u8> {
    let parts = bytes.chunks(member).chain([&[][..]]);
    parts.flat_map(|part| gzip_member(part, GzBuilder::new().filename("disk").comment("part of a disk"))).collect()
}

/// One gzip member with every field that a header can have, and a check value over them.
pub fn gzip_with_all_fields(bytes: &[u8]) -> Vec<u8> {
    const FLAGS: usize = 3;
    const HEADER_CRC: u8 = 1 << 1;
    let (extra, name, comment) = (&b"AB\x02\0xy"[..], "disk.raw", "a disk");
    let member = gzip_member(bytes, GzBuilder::new().extra(extra).filename(name).comment(comment));
    // Ten bytes that are always there, the length of the extra field, and a zero behind each text.
    let (header, rest) = member.split_at(10 + 2 + extra.len() + name.len() + 1 + comment.len() + 1);
    let mut header = header.to_vec();
    header[FLAGS] |= HEADER_CRC;
    let mut crc = Crc::new();
    crc.update(&header);
    [&header, &crc.sum().to_le_bytes()[..2], rest].concat()
}

/// BGZF: gzip members of at most 64 KiB that carry their own length, and an empty one at the end.
pub fn bgzf(bytes: &[u8]) -> Vec<u8> {
    // Noise grows a little when it is packed, and the member's length has 16 bits.
    const BLOCK: usize = 0xf000;
    const SIZE_AT: usize = 16;
    let parts = bytes.chunks(BLOCK).chain([&[][..]]);
    parts
        .flat_map(|part| {
            let mut member = gzip_member(part, GzBuilder::new().extra(&b"BC\x02\0\0\0"[..]));
            let size = u16::try_from(member.len() - 1).unwrap();
            member[SIZE_AT..SIZE_AT + 2].copy_from_slice(&size.to_le_bytes());
            member
        })
        .collect()
}

/// xz with the given options of the `xz` tool.
pub fn xz(bytes: &[u8], args: &[&str]) -> Vec<u8> {
    filter("xz", &[&["-c", "-q"], args].concat(), bytes)
}

/// zstd with the given options of the `zstd` tool.
pub fn zstd(bytes: &[u8], args: &[&str]) -> Vec<u8> {
    filter("zstd", &[&["-c", "-q"], args].concat(), bytes)
}

/// A zstd frame of `head`, `gap` zeroes, which take next to no room, and `tail`. The gap is a multiple of 128 KiB.
pub fn zstd_with_gap(head: &[u8], gap: u64, tail: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    const RAW: usize = 0;
    const REPEATED: usize = 1;
    assert!(gap.is_multiple_of(BLOCK as u64) && !tail.is_empty());
    let block = |kind: usize, size: usize, bytes: &[u8]| {
        let header = u32::try_from(size << 3 | kind << 1).unwrap().to_le_bytes();
        [&header[..3], bytes].concat()
    };
    // Magic, no checksum and no length, and a window of 1 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x50];
    head.chunks(BLOCK).for_each(|part| frame.extend(block(RAW, part.len(), part)));
    frame.extend(block(REPEATED, BLOCK, &[0]).repeat(usize::try_from(gap).unwrap() / BLOCK));
    let mut last = 0;
    for part in tail.chunks(BLOCK) {
        last = frame.len();
        frame.extend(block(RAW, part.len(), part));
    }
    frame[last] |= 1;
    frame
}

/// One bzip2 stream.
pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    filter("bzip2", &["-c"], bytes)
}

fn gzip_member(bytes: &[u8], header: GzBuilder) -> Vec<u8> {
    let mut writer = header.write(Vec::new(), Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_tools_unpack_every_wrapping() {
        let bytes = [Random::new(3).bytes(150_000), Random::new(4).text(150_000)].concat();
        let wrapped = [
            ("gzip", gzip(&bytes)),
            ("gzip", gzip_members(&bytes, 70_000)),
            ("gzip", gzip_with_all_fields(&bytes)),
            ("bgzip", bgzf(&bytes)),
            ("xz", xz(&bytes, &["-1", "--check=sha256", "--block-size=65536"])),
            ("zstd", zstd(&bytes, &["-1", "--no-check"])),
            ("bzip2", bzip2(&bytes)),
        ];
        for (tool, packed) in wrapped {
            assert!(filter(tool, &["-dc"], &packed) == bytes, "{tool}");
        }
    }
}
