//! Zstandard, [RFC 8878](https://www.rfc-editor.org/rfc/rfc8878): frames in a row, packed ones and ones to skip.
//!
//! Frame headers are read here first, because what they ask for (a window, a dictionary) is refused with its number.

use std::io;

use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{DCtx, DParameter, ErrorCode, InBuffer, OutBuffer, is_error_kind};

use crate::error::{Error, Result};
use crate::layer::allowance::Share;
use crate::layer::unwrapper::{Decoder, Field, Step, Unwrapper, may_begin};
use crate::layer::{Packed, Reader, Unwrapping};
use crate::source::{Source, look_full};

const FORMAT: &str = "zstd";
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Behind a first byte of 0x50 to 0x5f.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Magic and length.
const SKIPPABLE_HEADER: usize = 8;
/// Magic and descriptor.
const FIXED: usize = MAGIC.len() + 1;
/// Magic, descriptor, window, dictionary (4), content size (8).
const MAX_HEADER: usize = 18;
/// What the decoder can be told; a larger window cannot be decoded on 64-bit machines.
const WINDOW_LOGS: std::ops::RangeInclusive<u32> = 10..=31;

pub(super) fn probe(head: &[u8]) -> bool {
    head.len() >= MAGIC.len() && may_begin_frame(head)
}

pub(super) fn open(packed: Packed, how: &Unwrapping) -> Result<Reader> {
    Ok(Box::new(Unwrapper::new(packed, Zstd::new(how.limits.window, how.window())?)))
}

/// What the first frame says that it holds, if that is all of the `stored` file: of several frames, each says so of itself
/// only. Where each look is a request, it is believed that there is one frame only if its size allows that.
pub(super) fn unpacked_len(stored: &mut dyn Source) -> Result<Option<u64>> {
    let mut head = [0; MAX_HEADER];
    let got = look_full(stored, &mut head, 0)?;
    let Some(header) = head.get(..got).filter(|head| head.starts_with(&MAGIC)) else { return Ok(None) };
    let Some(header) = header.get(..header_len(header)) else { return Ok(None) };
    let Some(content) = Frame::parse(header).content else { return Ok(None) };
    let may_be_all = stored.len().is_some_and(|len| len <= largest_frame(content));
    let is_all = if may_be_all && stored.seekable() {
        let checksum = header.get(MAGIC.len()).map_or(0, |&byte| Descriptor(byte).checksum_len());
        end_of_blocks(stored, header.len() as u64)?.map(|end| end.saturating_add(checksum)) == stored.len()
    } else {
        may_be_all
    };
    Ok(is_all.then_some(content))
}

/// Where the blocks end of which the first is at `at`: RFC 8878, section 3.1.1.2.
fn end_of_blocks(stored: &mut dyn Source, mut at: u64) -> Result<Option<u64>> {
    for _ in 0..MOST_BLOCKS {
        let mut header = [0; BLOCK_HEADER];
        if look_full(stored, &mut header, at)? < header.len() {
            return Ok(None);
        }
        let header = little_endian(&header);
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        // A block of one repeated byte stores that byte only.
        let stored_size = if kind == 1 { 1 } else { size };
        at = at.saturating_add(3).saturating_add(stored_size);
        if is_last {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// So many blocks are looked at: 512 GiB in the largest ones.
const MOST_BLOCKS: usize = 4 << 20;

/// Bytes in front of each block.
const BLOCK_HEADER: usize = 3;

/// What does not shrink is stored as it is, in blocks with headers of 3 bytes.
fn largest_frame(content: u64) -> u64 {
    const SMALLEST_BLOCK: u64 = 1 << 10;
    const AROUND: u64 = 64;
    content.saturating_add(content.div_ceil(SMALLEST_BLOCK).saturating_mul(3)).saturating_add(AROUND)
}

fn may_begin_frame(head: &[u8]) -> bool {
    may_begin(head, &MAGIC) || is_skippable(head)
}

fn is_skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, rest @ ..] if may_begin(rest, &SKIPPABLE))
}

/// Where the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Frame,
    Skipped { left: u64 },
}

struct Zstd {
    state: State,
    header: Field<MAX_HEADER>,
    decoder: DCtx<'static>,
    window: Share,
    /// Packed bytes that the decoder can use next: a block, and the header of the next one if there is one.
    wanted: usize,
    /// Bytes that are still to come of the frame, if its header says how many it has.
    left: Option<u64>,
    /// Whether there was room for no more, so that it may have some still to give.
    was_full: bool,
    /// Frames read to their end.
    frames: u64,
}

impl Zstd {
    fn new(largest: u64, window: Share) -> Result<Self> {
        let out_of_memory = |_| Error::reading(0, io::ErrorKind::OutOfMemory.into());
        let mut decoder = DCtx::try_create().ok_or(0).map_err(out_of_memory)?;
        // The decoder counts in powers of two. Rounded up, so that `window` alone decides; each header is compared with it.
        let log = largest.checked_next_power_of_two().map_or(*WINDOW_LOGS.end(), u64::ilog2);
        decoder
            .set_parameter(DParameter::WindowLogMax(log.clamp(*WINDOW_LOGS.start(), *WINDOW_LOGS.end())))
            .map_err(out_of_memory)?;
        let (state, header) = (State::Header, Field::new());
        Ok(Self { state, header, decoder, window, wanted: 0, left: None, was_full: false, frames: 0 })
    }

    fn header(&mut self, packed: &[u8], at: u64) -> Result<usize> {
        let (taken, whole) = self.header.gather(packed, header_len);
        if !may_begin_frame(self.header.bytes()) {
            return Err(self.no_frame(at));
        }
        if whole {
            self.begin_frame(at)?;
        }
        Ok(taken)
    }

    fn begin_frame(&mut self, at: u64) -> Result<()> {
        let header = self.header.bytes();
        if is_skippable(header) {
            self.state = State::Skipped { left: little_endian(header.get(MAGIC.len()..).unwrap_or_default()) };
            return Ok(());
        }
        let Frame { window, dictionary, content, .. } = Frame::parse(header);
        if dictionary != 0 {
            let what =
                format!("frame {} was packed with dictionary {dictionary}, which is not in the file", self.number());
            return Err(Error::unsupported(FORMAT, "dictionary", what));
        }
        if !self.window.grow(window) {
            return Err(self.window.exceeded("bytes of zstd window", window));
        }
        // All of a header fits in, and nothing can come out of it yet.
        let mut nothing = [];
        let mut header = InBuffer::around(header);
        let begun = self.decoder.decompress_stream(&mut OutBuffer::around(&mut nothing[..]), &mut header);
        self.wanted = begun.map_err(|code| self.error(code, at))?;
        (self.state, self.left, self.was_full) = (State::Frame, content, false);
        Ok(())
    }

    fn frame(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step> {
        // With an error, it does not say what it has given. So it gets the rest of a block and nothing behind that, of a last one all but the
        // last byte, and nothing before all in front of that is out. Of a stored block, which it gives out as it comes, it gets no more than the
        // frame still has.
        let most = match self.wanted.saturating_sub(BLOCK_HEADER) {
            _ if self.was_full => 0,
            0 => 1,
            block => self.left.map_or(block, |left| block.min(usize::try_from(left).unwrap_or(block).max(1))),
        };
        let room = unpacked.len();
        let mut packed = InBuffer::around(packed.get(..most).unwrap_or(packed));
        let mut unpacked = OutBuffer::around(unpacked);
        let status = self.decoder.decompress_stream(&mut unpacked, &mut packed);
        self.wanted = status.map_err(|code| self.error(code, at))?;
        self.was_full = unpacked.pos() == room;
        self.left = self.left.map(|left| left.saturating_sub(unpacked.pos() as u64));
        if self.wanted == 0 {
            self.end_frame();
        }
        Ok(Step { taken: packed.pos(), given: unpacked.pos() })
    }

    fn skip(&mut self, packed: &[u8], left: u64) -> usize {
        let taken = usize::try_from(left).map_or(packed.len(), |left| left.min(packed.len()));
        match left.saturating_sub(taken as u64) {
            0 => self.end_frame(),
            left => self.state = State::Skipped { left },
        }
        taken
    }

    fn end_frame(&mut self) {
        self.frames = self.number();
        self.header.clear();
        self.state = State::Header;
    }

    /// Of the frame that is being read: the first is 1.
    fn number(&self) -> u64 {
        self.frames.saturating_add(1)
    }

    fn no_frame(&self, at: u64) -> Error {
        match self.frames {
            0 => Error::corrupt(FORMAT, "not-this-format", at, "the first bytes are not those of a zstd file"),
            n => Error::corrupt(
                FORMAT,
                "trailing-garbage",
                at,
                format!("after frame {n} come bytes that are not another frame: the file is damaged"),
            ),
        }
    }

    fn error(&self, code: ErrorCode, at: u64) -> Error {
        let is = |kind| is_error_kind(code, kind);
        let frame = self.number();
        if is(ZSTD_ErrorCode::ZSTD_error_memory_allocation) {
            return Error::reading(at, io::ErrorKind::OutOfMemory.into());
        }
        if is(ZSTD_ErrorCode::ZSTD_error_frameParameter_unsupported) {
            return Error::unsupported(FORMAT, "header", format!("the header of frame {frame} has an unknown bit set"));
        }
        if is(ZSTD_ErrorCode::ZSTD_error_checksum_wrong) {
            let what = format!("wrong checksum at the end of frame {frame}: the download or the file is damaged");
            return Error::corrupt(FORMAT, "check", at, what);
        }
        Error::corrupt(FORMAT, "data", at, format!("the data of frame {frame} is damaged"))
    }
}

impl Decoder for Zstd {
    fn step(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step> {
        match self.state {
            State::Header => Ok(Step::taken(self.header(packed, at)?)),
            State::Frame => self.frame(packed, unpacked, at),
            State::Skipped { left } => Ok(Step::taken(self.skip(packed, left))),
        }
    }

    fn end(&self, at: u64) -> Result<()> {
        if self.state == State::Header && self.header.is_empty() && self.frames > 0 {
            return Ok(());
        }
        let what = format!("the file ends inside frame {}: it is cut short", self.number());
        Err(Error::corrupt(FORMAT, "ends-early", at, what))
    }

    fn members(&self) -> u64 {
        self.frames
    }
}

/// What a frame asks for.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    window: u64,
    dictionary: u64,
    /// Bytes that the frame holds unpacked, if it says so.
    content: Option<u64>,
}

/// The frame header descriptor, RFC 8878 section 3.1.1.1.1.
#[derive(Clone, Copy)]
struct Descriptor(u8);

impl Descriptor {
    /// No window is named then: it is the content.
    fn single_segment(self) -> bool {
        self.0 & 0x20 != 0
    }

    fn window_len(self) -> usize {
        usize::from(!self.single_segment())
    }

    fn dictionary_len(self) -> usize {
        match self.0 & 3 {
            3 => 4,
            len => len.into(),
        }
    }

    fn checksum_len(self) -> u64 {
        if self.0 & 4 == 0 { 0 } else { 4 }
    }

    fn content_len(self) -> usize {
        match self.0 >> 6 {
            0 => self.single_segment().into(),
            code => 1 << code,
        }
    }
}

impl Frame {
    /// Reads a whole header.
    fn parse(header: &[u8]) -> Self {
        let (fixed, rest) = header.split_at(FIXED);
        let descriptor = Descriptor(fixed.last().copied().unwrap_or_default());
        let (window, rest) = rest.split_at(descriptor.window_len());
        let (dictionary, content) = rest.split_at(descriptor.dictionary_len());
        let window = match window {
            [byte] => window_size(*byte),
            _ => content_size(content),
        };
        let content = (!content.is_empty()).then(|| content_size(content));
        Self { window, dictionary: little_endian(dictionary), content }
    }
}

/// Exponent in the upper five bits, eighths in the lower three.
fn window_size(byte: u8) -> u64 {
    let eighth = 128_u64 << (byte >> 3);
    eighth.saturating_mul(u64::from(8 | byte & 7))
}

/// Two bytes count from 256, as one byte could say less.
fn content_size(field: &[u8]) -> u64 {
    little_endian(field).saturating_add(if field.len() == 2 { 256 } else { 0 })
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// How long the header is of which `head` has come, or how much of it must come to tell.
fn header_len(head: &[u8]) -> usize {
    if head.len() < MAGIC.len() {
        return MAGIC.len();
    }
    if is_skippable(head) {
        return SKIPPABLE_HEADER;
    }
    head.get(MAGIC.len()).map_or(FIXED, |&byte| {
        let descriptor = Descriptor(byte);
        [FIXED, descriptor.window_len(), descriptor.dictionary_len(), descriptor.content_len()].iter().sum()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zstd::stream::raw::CParameter;

    use super::*;
    use crate::layer::testing::*;
    use crate::limits::Limits;

    fn frame_with(parameters: &[CParameter], data: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        parameters.iter().for_each(|parameter| encoder.set_parameter(*parameter).unwrap());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// A frame with a check value, as the tool writes them.
    fn frame(data: &[u8]) -> Vec<u8> {
        frame_with(&[CParameter::ChecksumFlag(true)], data)
    }

    fn skippable(len: u32) -> Vec<u8> {
        [&b"\x5e\x2a\x4d\x18"[..], &len.to_le_bytes(), &vec![0xaa; len as usize]].concat()
    }

    fn limits(window: u64) -> Limits {
        Limits { window, ..Limits::default() }
    }

    /// A frame of which the header says that it holds so much, and a hole: that reads as blocks of nothing.
    struct Hole {
        header: Vec<u8>,
        len: u64,
        looks: usize,
    }

    impl Source for Hole {
        fn len(&self) -> Option<u64> {
            Some(self.len)
        }

        fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
            self.looks += 1;
            buf.fill(0);
            let header = self.header.get(usize::try_from(at).unwrap()..).unwrap_or_default();
            let there = header.len().min(buf.len());
            buf[..there].copy_from_slice(&header[..there]);
            Ok(buf.len())
        }

        fn seekable(&self) -> bool {
            true
        }
    }

    #[test]
    fn neither_blocks_without_end_are_looked_at_nor_any_of_a_file_that_is_longer_than_its_frame() {
        for (content, most) in [(1_u64 << 60, MOST_BLOCKS + 1), (1 << 30, 1)] {
            let header = [&MAGIC[..], &[0b1110_0000], &content.to_le_bytes()].concat();
            let mut hole = Hole { header, len: 1 << 40, looks: 0 };
            assert_eq!(unpacked_len(&mut hole).unwrap(), None);
            assert_eq!(hole.looks, most);
        }
    }

    #[test]
    fn a_frame_that_ends_within_a_blocks_header_does_not_say_how_much_it_holds() {
        let header = [&MAGIC[..], &[0b0010_0000, 1]].concat();
        let len_of = |blocks: &[u8]| unpacked_len(&mut in_a_file(&[&header[..], blocks].concat())).unwrap();
        assert_eq!([&[9, 0, 0, b'x'][..], &[9, 0]].map(len_of), [Some(1), None]);
    }

    #[test]
    fn frames_come_back() {
        let data = sample(2000);
        comes_back("zstd", &frame(&data), &data);
        comes_back("zstd", &frame(b""), b"");
        comes_back("zstd", &frame_with(&[], &data), &data);
        comes_back("zstd", &zstd::bulk::compress(&data, 3).unwrap(), &data);
        comes_back("zstd", &[frame(b""), frame(&data), frame(b""), frame(b"x")].concat(), &[&data[..], b"x"].concat());
    }

    #[test]
    fn skippable_frames_are_skipped_wherever_they_are() {
        let packed = [skippable(9), frame(b"di"), skippable(0), frame(b"sk"), skippable(300)].concat();
        comes_back("zstd", &packed, b"disk");
        comes_back("zstd", &skippable(9), b"");
    }

    #[test]
    fn what_holds_nothing_counts_to_the_byte() {
        let limits = Limits::default();
        let open = || Zstd::new(limits.window, Unwrapping::new(&limits, 1).window()).unwrap();
        what_holds_nothing_is_bounded(open, &[skippable(700), frame(b""), skippable(0)].concat(), 3);
    }

    #[test]
    fn a_cut_anywhere_is_truncation() {
        let (first, second) = (frame(&sample(300)), frame_with(&[], &sample(200)));
        let ends = [first.len(), first.len() + 17, first.len() + 17 + second.len()];
        every_cut_is_an_error("zstd", &[first, skippable(9), second, skippable(0)].concat(), &ends);
    }

    #[test]
    fn a_wrong_checksum_is_told_from_damage() {
        let packed = frame(&sample(300));
        for (at, code) in [(0, "zstd-not-this-format"), (8, "zstd-data"), (packed.len() - 1, "zstd-check")] {
            let mut bent = packed.clone();
            bent[at] ^= 0x80;
            assert_eq!(outcome("zstd", &bent), code, "byte {at}");
        }
        every_flip_is_an_error("zstd", &packed, packed.len() - 4..packed.len());
    }

    #[test]
    fn a_flipped_bit_anywhere_changes_no_byte_unnoticed() {
        // But for bit 2 of the header's descriptor, by which the frame says that it has a checksum.
        let packed = frame(&sample(300));
        no_flip_goes_unnoticed("zstd", &packed);
    }

    #[test]
    fn damage_comes_behind_what_lies_in_front_of_it() {
        let data = sample(400_000);
        what_lies_in_front_of_damage_comes_first(
            "zstd",
            &[frame(&data), frame(b""), frame(&data[..1000])].concat(),
            499,
        );
        // Blocks of a few bytes, of one byte repeated, and none; then one of a kind that there is not.
        let block = |kind: u32, size: u32, data: &[u8]| [&(size << 3 | kind << 1).to_le_bytes()[..3], data].concat();
        let (stored, repeated) = (block(0, 7, b"a block"), block(1, 131_072, b"x"));
        let head = [&MAGIC[..], &[0, 0x58]].concat();
        let blocks = [head, stored.clone(), repeated, block(0, 0, b""), stored, block(3, 9, b"123456789")].concat();
        what_lies_in_front_of_damage_comes_first("zstd", &blocks, 1);
        // Stored blocks of more bytes, and of fewer, than the frame has by its header.
        let frame_of = |len: u16, blocks: &[Vec<u8>]| {
            // Two bytes have the length, less 256; the window is of 128 KiB.
            [&MAGIC[..], &[0x40, 0x38], &(len - 256).to_le_bytes(), &blocks.concat()].concat()
        };
        let more = frame_of(300, &[block(0, 200, &[7; 200]), block(0, 200, &[8; 200])]);
        let last = [&(50_u32 << 3 | 1).to_le_bytes()[..3], &[8; 50]].concat();
        let less = frame_of(300, &[block(0, 200, &[7; 200]), last]);
        for packed in [more, less] {
            what_lies_in_front_of_damage_comes_first("zstd", &packed, 1);
            assert_eq!(outcome("zstd", &packed), "zstd-data");
        }
    }

    #[test]
    fn bytes_after_the_last_frame_are_garbage() {
        for garbage in [&b"x"[..], b"\0", b"\0\0\0\0\0\0\0\0", b"\x28\xb5x", b"\x50\x2a\x4d\x19"] {
            assert_eq!(outcome("zstd", &[&frame(b"disk"), garbage].concat()), "zstd-trailing-garbage");
        }
    }

    #[test]
    fn a_window_over_the_limit_is_refused_with_both_numbers() {
        let packed = frame_with(&[CParameter::WindowLog(24)], &sample(100));
        unpack_with("zstd", &packed, &limits(1 << 24), 1).unwrap();
        let error = unpack_with("zstd", &packed, &limits((1 << 24) - 1), 1).unwrap_err();
        assert!(
            matches!(error, Error::Limit { wanted: 0x100_0000, limit: 0xff_ffff, option: "--limit-window", .. }),
            "{error}"
        );
    }

    #[test]
    fn the_window_of_a_single_segment_is_its_content() {
        let packed = zstd::bulk::compress(&vec![0; 5000], 3).unwrap();
        unpack_with("zstd", &packed, &limits(5000), 1).unwrap();
        let error = unpack_with("zstd", &packed, &limits(4999), 1).unwrap_err();
        assert!(matches!(error, Error::Limit { wanted: 5000, limit: 4999, .. }), "{error}");
    }

    #[test]
    fn the_default_limit_takes_what_the_tool_takes() {
        let header = |byte| [&MAGIC[..], &[0, byte], b"\x01\0\0"].concat();
        assert_eq!(outcome("zstd", &header((27 - 10) << 3)), "whole");
        assert_eq!(outcome("zstd", &header((27 - 10) << 3 | 1)), "limit-window");
        assert_eq!(outcome("zstd", &header(0xff)), "limit-window");
    }

    #[test]
    fn headers_are_read_as_the_encoder_means_them() {
        for (descriptor, rest, frame) in [
            (0x00, &[0x00][..], Frame { window: 1024, dictionary: 0, content: None }),
            (0x01, &[0x0f, 9], Frame { window: 2048 + 7 * 256, dictionary: 9, content: None }),
            (0x20, &[77], Frame { window: 77, dictionary: 0, content: Some(77) }),
            (0x62, &[1, 2, 0, 1], Frame { window: 512, dictionary: 0x201, content: Some(512) }),
            (
                0xa3,
                &[1, 0, 0, 1, 0, 0, 1, 0],
                Frame { window: 0x1_0000, dictionary: 0x100_0001, content: Some(0x1_0000) },
            ),
            (0xe0, &[0, 0, 0, 0, 1, 0, 0, 0], Frame { window: 1 << 32, dictionary: 0, content: Some(1 << 32) }),
        ] {
            let header = [&MAGIC[..], &[descriptor], rest].concat();
            assert_eq!(header_len(&header), header.len(), "{descriptor:#x}");
            assert_eq!(Frame::parse(&header), frame, "{descriptor:#x}");
        }
    }

    #[test]
    fn a_dictionary_is_unsupported() {
        assert_eq!(outcome("zstd", &[&MAGIC[..], &[0x01, 0, 9], b"\x01\0\0"].concat()), "zstd-dictionary");
    }

    #[test]
    fn an_unknown_header_bit_is_unsupported() {
        assert_eq!(outcome("zstd", &[&MAGIC[..], &[0x08, 0], b"\x01\0\0"].concat()), "zstd-header");
    }

    #[test]
    fn errors_of_the_source_pass_unchanged() {
        every_death_of_the_source_passes("zstd", &[frame(&sample(300)), skippable(3), frame(b"x")].concat());
    }
}
