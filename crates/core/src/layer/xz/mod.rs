//! xz, [format specification](https://tukaani.org/xz/xz-file-format.txt): streams in a row with padding between them,
//! each of blocks, an index and a footer.
//!
//! Streams are given to liblzma one by one: told to go on by itself, it reports trailing garbage as damaged data.

mod block;
mod fields;
mod index;

use std::io;

use liblzma::stream::{Action, Error as Finding, MtStreamBuilder, Status, Stream, TELL_UNSUPPORTED_CHECK};

use self::block::Block;
use crate::error::{Error, Result};
use crate::layer::allowance::Share;
use crate::layer::unwrapper::{Decoder, Field, Step, Unwrapper, may_begin};
use crate::layer::{Packed, Reader, Unwrapping};

pub(super) use index::unpacked_len;

const FORMAT: &str = "xz";
const MAGIC: &[u8] = b"\xfd7zXZ\0";
const STREAM_HEADER: usize = 12;
/// Where a stream header names the integrity check.
const CHECK_ID: usize = 7;
const CHECKS: [(u8, &str); 3] = [(1, "CRC-32"), (4, "CRC-64"), (10, "SHA-256")];
/// A block header is up to 256 words long.
const MAX_HEAD: usize = STREAM_HEADER + 1024;

/// What a decoder keeps besides the dictionary: 64 KiB in liblzma 5.8 for the filters in use, rounded up for long filter chains.
const BESIDES_DICTIONARY: u64 = 1 << 20;
/// What the blocks that are decoded at the same time may take together. Two blocks of `xz -6 -T`, of 24 MiB each, fit.
const IN_FLIGHT: u64 = 96 << 20;
/// What a thread keeps besides the dictionary and its block.
const BESIDES_BLOCK: u64 = 128 << 10;
const MAX_THREADS: u64 = 64;

pub(super) fn probe(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

pub(super) fn open(packed: Packed, how: &Unwrapping) -> Result<Reader> {
    Ok(Box::new(Unwrapper::new(packed, Xz::new(how))))
}

/// What the next byte belongs to.
enum State {
    /// A stream header and the first block header behind it.
    Head,
    Stream(Stream),
    /// Zeros behind a stream, in fours.
    Padding {
        len: u64,
    },
}

/// How many blocks may be decoded at the same time, and the memory that each takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Together {
    blocks: u64,
    each: u64,
}

struct Xz {
    state: State,
    head: Field<MAX_HEAD>,
    /// Memory for the dictionary, or for the blocks that are decoded at the same time.
    window: Share,
    threads: u64,
    /// What is wrong behind the bytes that were given last.
    broken: Option<Error>,
    /// Streams read to their end.
    streams: u64,
}

impl Xz {
    fn new(how: &Unwrapping) -> Self {
        let threads = (how.threads as u64).clamp(1, MAX_THREADS);
        Self { state: State::Head, head: Field::new(), window: how.window(), threads, broken: None, streams: 0 }
    }

    fn head(&mut self, packed: &[u8], at: u64) -> Result<usize> {
        let (taken, whole) = self.head.gather(packed, head_len);
        if !may_begin(self.head.bytes(), MAGIC) {
            return Err(self.no_stream(at));
        }
        if whole {
            self.state = State::Stream(self.begin_stream(at)?);
        }
        Ok(taken)
    }

    /// A decoder that has read the head. One thread looks first, as it alone can say how much memory is wanted.
    fn begin_stream(&mut self, at: u64) -> Result<Stream> {
        let mut one = self.feed_head(Stream::new_stream_decoder(self.memory(), TELL_UNSUPPORTED_CHECK), at)?;
        // A stream without a block has an index there.
        let block = self.head.bytes().get(STREAM_HEADER..).and_then(Block::parse);
        let dictionary = block.as_ref().map_or(0, |block| block.dictionary);
        let together = block.and_then(|block| together(&block, self.window.most()));
        // However many threads there are, so that what else is allowed does not depend on them.
        if !self.window.grow(together.map_or(dictionary, |all| all.blocks.saturating_mul(all.each))) {
            return Err(over_limit(dictionary, &self.window));
        }
        let stop = self.window.held().saturating_add(BESIDES_DICTIONARY);
        let threads = together.map_or(1, |all| all.blocks.min(self.threads));
        match (together, u32::try_from(threads)) {
            (Some(Together { each, .. }), Ok(count @ 2..)) => {
                drop(one);
                let mut many = MtStreamBuilder::new();
                many.threads(count).memlimit_threading(threads.saturating_mul(each)).memlimit_stop(stop);
                self.feed_head(many.decoder(), at)
            }
            _ => {
                one.set_memlimit(stop).map_err(|_| over_limit(dictionary, &self.window))?;
                Ok(one)
            }
        }
    }

    fn feed_head(&self, stream: Result<Stream, Finding>, at: u64) -> Result<Stream> {
        let mut stream = stream.map_err(|finding| self.error(finding, at))?;
        match stream.process(self.head.bytes(), &mut [], Action::Run) {
            Ok(_) => Ok(stream),
            Err(Finding::MemLimit) => Err(over_limit(wanted_by(&mut stream), &self.window)),
            Err(Finding::Data) => {
                let what = format!("the header of stream {} or of its first block is damaged", self.number());
                Err(Error::corrupt(FORMAT, "header", at, what))
            }
            Err(finding) => Err(self.error(finding, at)),
        }
    }

    fn padding(&mut self, packed: &[u8], len: u64, at: u64) -> Result<usize> {
        let zeros = packed.iter().take_while(|&&byte| byte == 0).count();
        let len = len.saturating_add(zeros as u64);
        self.state = State::Padding { len };
        if zeros < packed.len() {
            check_padding(len, at)?;
            self.head.clear();
            self.state = State::Head;
        }
        Ok(zeros)
    }

    /// The most memory that liblzma may take.
    fn memory(&self) -> u64 {
        self.window.most().saturating_add(BESIDES_DICTIONARY)
    }

    /// Of the stream that is being read: the first is 1.
    fn number(&self) -> u64 {
        self.streams.saturating_add(1)
    }

    fn no_stream(&self, at: u64) -> Error {
        match self.streams {
            0 => Error::corrupt(FORMAT, "not-this-format", at, "the first bytes are not those of an xz file"),
            n => Error::corrupt(
                FORMAT,
                "trailing-garbage",
                at,
                format!("after stream {n} come bytes that are neither another stream nor zeros: the file is damaged"),
            ),
        }
    }

    fn error(&self, finding: Finding, at: u64) -> Error {
        let stream = self.number();
        match finding {
            Finding::Mem => Error::reading(at, io::ErrorKind::OutOfMemory.into()),
            Finding::UnsupportedCheck => {
                let what = format!("stream {stream} has a check value of unknown type {}", self.check_id());
                Error::unsupported(FORMAT, "check-type", what)
            }
            Finding::Options => {
                let what = format!("stream {stream} uses a filter or an option that is not known");
                Error::unsupported(FORMAT, "filter", what)
            }
            _ => {
                let check =
                    CHECKS.iter().find(|(id, _)| *id == self.check_id()).map_or("check value", |(_, name)| name);
                let what =
                    format!("damaged data or a wrong {check} in stream {stream}: the download or the file is damaged");
                Error::corrupt(FORMAT, "data", at, what)
            }
        }
    }

    fn check_id(&self) -> u8 {
        self.head.bytes().get(CHECK_ID).map_or(0, |flags| flags & 0x0f)
    }
}

impl Decoder for Xz {
    fn step(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let stream = match &mut self.state {
            State::Head => return Ok(Step::taken(self.head(packed, at)?)),
            State::Padding { len } => {
                let len = *len;
                return Ok(Step::taken(self.padding(packed, len, at)?));
            }
            State::Stream(stream) => stream,
        };
        // Several threads wait for each other's output only when they know that no more input will come.
        let action = if packed.is_empty() { Action::Finish } else { Action::Run };
        let before = (stream.total_in(), stream.total_out());
        let mut step = Step::default();
        let status = loop {
            let rest = packed.get(step.taken..).unwrap_or_default();
            let status = stream.process(rest, unpacked.get_mut(step.given..).unwrap_or_default(), action);
            step = Step::counted(before, (stream.total_in(), stream.total_out()));
            match status {
                Err(Finding::MemLimit) => match grant_all(stream, &mut self.window) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                _ => break status.map_err(|finding| self.error(finding, at.saturating_add(step.given as u64))),
            }
        };
        match status {
            Ok(Status::StreamEnd) => {
                self.streams = self.streams.saturating_add(1);
                self.state = State::Padding { len: 0 };
            }
            Ok(Status::MemNeeded) if !packed.is_empty() => return Err(self.error(Finding::Data, at)),
            Ok(_) => {}
            Err(error) if step.given > 0 => self.broken = Some(error),
            Err(error) => return Err(error),
        }
        Ok(step)
    }

    fn end(&self, at: u64) -> Result<()> {
        if let State::Padding { len } = self.state {
            return check_padding(len, at);
        }
        let what = format!("the file ends inside stream {}: it is cut short", self.number());
        Err(Error::corrupt(FORMAT, "ends-early", at, what))
    }

    fn members(&self) -> u64 {
        self.streams
    }
}

/// How long the head is of which `head` has come, or how much of it must come to tell.
fn head_len(head: &[u8]) -> usize {
    match head.get(STREAM_HEADER) {
        // An index: the stream has no block.
        None | Some(0) => STREAM_HEADER + 1,
        Some(&words) => usize::from(words).saturating_add(1).saturating_mul(4).saturating_add(STREAM_HEADER),
    }
}

/// How blocks like `block` are to be decoded at the same time; `None` for one after the other, as it comes, which keeps no
/// block in memory. `xz -T` makes all blocks of one size, but for the last.
///
/// A thread of liblzma holds its block packed and unpacked. Half of it is granted for the packed bytes: where blocks pack
/// worse than that, fewer are decoded at a time, and what does not pack at all takes hardly any time.
fn together(block: &Block, window: u64) -> Option<Together> {
    let unpacked = block.unpacked?;
    let each = unpacked.checked_add(unpacked / 2)?.checked_add(block.dictionary)?.checked_add(BESIDES_BLOCK)?;
    let blocks = MAX_THREADS.min(IN_FLIGHT.min(window).checked_div(each)?);
    (blocks > 1).then_some(Together { blocks, each })
}

fn check_padding(len: u64, at: u64) -> Result<()> {
    if !len.is_multiple_of(4) {
        let what = format!("{len} zeros behind a stream, a multiple of 4 is allowed: the file is cut short or damaged");
        return Err(Error::corrupt(FORMAT, "padding", at, what));
    }
    Ok(())
}

/// A later block wants more than the first one did: nobody writes such files, but they may be.
fn grant_all(stream: &mut Stream, window: &mut Share) -> Result<()> {
    let most = window.most();
    let granted = window.held() < most
        && window.grow(most)
        && stream.set_memlimit(most.saturating_add(BESIDES_DICTIONARY)).is_ok();
    if granted { Ok(()) } else { Err(over_limit(wanted_by(stream), window)) }
}

/// How much a decoder wants that refused to exceed its limit. It does not say, but lets its limit be set to that and to
/// nothing less. Of several threads that is so no longer: then it is more than the limit.
fn wanted_by(stream: &mut Stream) -> u64 {
    let (mut refused, mut granted) = (stream.memlimit(), u64::MAX);
    while granted.saturating_sub(refused) > 1 {
        let middle = refused.midpoint(granted);
        match stream.set_memlimit(middle) {
            Ok(()) => granted = middle,
            Err(_) => refused = middle,
        }
    }
    granted
}

fn over_limit(wanted: u64, window: &Share) -> Error {
    window.exceeded("bytes of memory for the xz decoder", wanted)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use liblzma::stream::{Check, Filters, LzmaOptions};
    use liblzma::write::XzEncoder;

    use super::*;
    use crate::layer::testing::*;
    use crate::limits::Limits;

    fn encode(stream: Stream, data: &[u8]) -> Vec<u8> {
        let mut encoder = XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn checked(check: Check, data: &[u8]) -> Vec<u8> {
        encode(Stream::new_easy_encoder(1, check).unwrap(), data)
    }

    fn plain(data: &[u8]) -> Vec<u8> {
        checked(Check::Crc64, data)
    }

    /// Many blocks that carry their sizes, as `xz -T` writes them.
    fn blocks(size: u64, data: &[u8]) -> Vec<u8> {
        let stream =
            MtStreamBuilder::new().threads(2).preset(0).block_size(size).check(Check::Crc32).encoder().unwrap();
        encode(stream, data)
    }

    fn with_dictionary(size: u32) -> Vec<u8> {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(size);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        encode(Stream::new_stream_encoder(&filters, Check::Crc32).unwrap(), b"disk")
    }

    fn limits(window: u64) -> Limits {
        Limits { window, ..Limits::default() }
    }

    #[test]
    fn streams_come_back() {
        let data = sample(2000);
        comes_back("xz", &plain(&data), &data);
        comes_back("xz", &plain(b""), b"");
        comes_back("xz", &[plain(b""), plain(&data), plain(b""), plain(b"x")].concat(), &[&data[..], b"x"].concat());
        comes_back("xz", &[plain(&data), vec![0; 4], plain(b"x"), vec![0; 8]].concat(), &[&data[..], b"x"].concat());
    }

    #[test]
    fn damage_comes_behind_what_lies_in_front_of_it() {
        let data = sample(200_000);
        what_lies_in_front_of_damage_comes_first("xz", &[blocks(50_000, &data), plain(&data[..500])].concat(), 499);
        // The second block wants more memory than there is.
        what_lies_in_front_of_damage_comes_first("xz", &blocks_with_another_dictionary(31, &data[..3000]), 97);
    }

    #[test]
    fn many_blocks_come_back() {
        let data = sample(20_000);
        let packed = blocks(1000, &data);
        let block = Block::parse(&packed[STREAM_HEADER..]).unwrap();
        assert!(together(&block, 1 << 20).is_some(), "threads are tried");
        comes_back("xz", &packed, &data);
    }

    #[test]
    fn blocks_are_decoded_together_where_two_of_them_fit() {
        const MIB: u64 = 1 << 20;
        let window = Limits::default().window;
        for (dictionary, unpacked, wanted) in [
            (8 * MIB, Some(24 * MIB), Some(2)),
            (8 * MIB, Some(32 * MIB), None),
            (64 * MIB, Some(192 * MIB), None),
            (64 * MIB, Some(1), None),
            (4 * MIB, Some(12 * MIB), Some(4)),
            (MIB, Some(3 * MIB), Some(17)),
            (MIB, Some(u64::MAX), None),
            (MIB, None, None),
            (4096, Some(0), Some(64)),
        ] {
            let found = together(&Block { unpacked, dictionary }, window);
            let name = format!("dictionary {dictionary}, block {unpacked:?}: {found:?}");
            assert_eq!(found.map(|together| together.blocks), wanted, "{name}");
            assert!(found.is_none_or(|together| together.blocks * together.each <= IN_FLIGHT), "{name}");
        }
        assert_eq!(together(&Block { unpacked: Some(24 * MIB), dictionary: 8 * MIB }, 80 * MIB), None, "a lower limit");
    }

    #[test]
    fn filters_come_back() {
        let data = sample(2000);
        let options = LzmaOptions::new_preset(0).unwrap();
        for filter in [Filters::x86, Filters::arm64] {
            let mut filters = Filters::new();
            filter(&mut filters).lzma2(&options);
            comes_back("xz", &encode(Stream::new_stream_encoder(&filters, Check::Crc32).unwrap(), &data), &data);
        }
    }

    #[test]
    fn every_check_type_is_checked() {
        let data = sample(300);
        for (check, len) in [(Check::None, 0), (Check::Crc32, 4), (Check::Crc64, 8), (Check::Sha256, 32)] {
            let packed = checked(check, &data);
            comes_back("xz", &packed, &data);
            // Behind the block come its check, the index (8 bytes at this size, with its CRC) and the footer (12).
            let end = packed.len() - 12 - 8;
            every_flip_is_an_error("xz", &packed, end - len..end);
        }
    }

    #[test]
    fn damage_is_told_by_where_it_lies() {
        let packed = plain(&sample(300));
        for (at, code) in [
            (0, "xz-not-this-format"),
            (8, "xz-header"),
            (20, "xz-header"),
            (40, "xz-data"),
            (packed.len() - 5, "xz-data"),
        ] {
            let mut bent = packed.clone();
            bent[at] ^= 0x02;
            assert_eq!(outcome("xz", &bent), code, "byte {at}");
        }
        every_flip_is_an_error("xz", &packed, 0..packed.len());
    }

    #[test]
    fn an_unknown_check_type_is_named() {
        let mut packed = plain(b"disk");
        packed[CHECK_ID] = 0x0b;
        let crc = crc32(&packed[6..8]);
        packed[8..12].copy_from_slice(&crc.to_le_bytes());
        let error = unpack("xz", &packed).unwrap_err();
        assert_eq!(error.code(), "xz-check-type");
        assert_eq!(error.to_string(), "xz: stream 1 has a check value of unknown type 11");
    }

    #[test]
    fn an_unknown_filter_is_unsupported() {
        let mut packed = plain(b"disk");
        // The first filter's number, in a block header of three words.
        packed[STREAM_HEADER + 2] = 0x7e;
        let crc = crc32(&packed[12..20]);
        packed[20..24].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(outcome("xz", &packed), "xz-filter");
    }

    #[test]
    fn what_holds_nothing_counts_to_the_byte() {
        let limits = Limits::default();
        let open = || Xz::new(&Unwrapping::new(&limits, 1));
        what_holds_nothing_is_bounded(open, &[plain(b""), vec![0; 500], plain(b"")].concat(), 2);
    }

    #[test]
    fn a_cut_anywhere_is_truncation() {
        let (first, second) = (plain(&sample(300)), blocks(100, &sample(300)));
        every_cut_is_an_error("xz", &[first.clone(), second].concat(), &[first.len()]);
    }

    #[test]
    fn padding_comes_in_fours() {
        let stream = plain(b"disk");
        for len in 0..9 {
            for after in [&b""[..], &stream] {
                let packed = [&stream[..], &vec![0; len], after].concat();
                assert_eq!(outcome("xz", &packed), if len % 4 == 0 { "whole" } else { "xz-padding" }, "{len}");
            }
        }
    }

    #[test]
    fn bytes_after_the_last_stream_are_garbage() {
        for garbage in [&b"x"[..], b"\xfd7zXX", b"\0\0\0\0x", &[b'x'; 2000]] {
            assert_eq!(outcome("xz", &[&plain(b"disk"), garbage].concat()), "xz-trailing-garbage");
        }
    }

    #[test]
    fn a_dictionary_over_the_limit_is_refused_with_both_numbers() {
        let packed = with_dictionary(8 << 20);
        for threads in [1, 4] {
            unpack_with("xz", &packed, &limits(8 << 20), threads).unwrap();
            let error = unpack_with("xz", &packed, &limits(4 << 20), threads).unwrap_err();
            let Error::Limit { wanted, limit, option: "--limit-window", .. } = error else { panic!("{error}") };
            assert_eq!(limit, 4 << 20);
            assert!((8 << 20..9 << 20).contains(&wanted), "{wanted}");
            unpack_with("xz", &packed, &limits(wanted), threads).unwrap();
        }
    }

    #[test]
    fn the_default_limit_takes_what_the_tool_writes() {
        unpack("xz", &with_dictionary(64 << 20)).unwrap();
        unpack("xz", &with_dictionary(128 << 20)).unwrap();
        assert_eq!(outcome("xz", &with_dictionary(192 << 20)), "limit-window");
    }

    /// Three blocks, of which the second says that it has a dictionary of the size that `bits` stand for.
    fn blocks_with_another_dictionary(bits: u8, data: &[u8]) -> Vec<u8> {
        // In a block header: filter LZMA2, one byte of properties, a dictionary of 256 KiB.
        const FILTER: [u8; 3] = [0x21, 1, 12];
        let mut packed = blocks(1000, data);
        let filters: Vec<_> = (0..packed.len()).filter(|at| packed[*at..].starts_with(&FILTER)).collect();
        let header = filters[1] - (filters[0] - STREAM_HEADER);
        let crc = header + usize::from(packed[header]) * 4;
        packed[filters[1] + 2] = bits;
        let sum = crc32(&packed[header..crc]);
        packed[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
        packed
    }

    #[test]
    fn a_later_block_may_want_more_than_the_first_and_no_more_than_the_limit() {
        const MIB: u64 = 1 << 20;
        let data = sample(3000);
        for (bits, window, wanted) in
            [(28, 64 * MIB, "whole"), (28, 48 * MIB, "limit-window"), (31, 128 * MIB, "limit-window")]
        {
            let packed = blocks_with_another_dictionary(bits, &data);
            for threads in [1, 4] {
                let found = unpack_with("xz", &packed, &limits(window), threads);
                let found = found.map_or_else(
                    |error| error.code(),
                    |found| {
                        assert_eq!(found, data);
                        "whole".into()
                    },
                );
                assert_eq!(found, wanted, "dictionary {bits}, {threads} threads");
            }
        }
        let packed = blocks_with_another_dictionary(28, &data);
        comes_back("xz", &packed, &data);
    }

    #[test]
    fn errors_of_the_source_pass_unchanged() {
        every_death_of_the_source_passes("xz", &[plain(&sample(300)), vec![0; 4], plain(b"x")].concat());
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
}
