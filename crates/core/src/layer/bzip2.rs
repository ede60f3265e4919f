//! bzip2: streams in a row, each of blocks with a CRC and a CRC over all at its end.
//!
//! pbzip2 and lbzip2 write a stream per block. There is no specification; the bzip2 source is the reference.

use std::io::{self, Read};

use bzip2::{Decompress, Error as Finding, Status};

use crate::error::{Error, Result};
use crate::layer::unwrapper::{Decoder, Step, Unwrapper};
use crate::layer::{Packed, Reader, Unwrapping};

const FORMAT: &str = "bzip2";

/// The first bytes of a block (of six, pi in BCD) and of a stream's end (the square root of pi), whichever comes first.
const AFTER_LEVEL: [[u8; 4]; 2] = [[0x31, 0x41, 0x59, 0x26], [0x17, 0x72, 0x45, 0x38]];

pub(super) fn probe(head: &[u8]) -> bool {
    matches!(head, [b'B', b'Z', b'h', b'1'..=b'9', after @ ..] if AFTER_LEVEL.iter().any(|magic| after.starts_with(magic)))
}

pub(super) fn open(packed: Packed, _how: &Unwrapping) -> Result<Reader> {
    Ok(Box::new(Unwrapper::new(packed, Bzip2::new())))
}

/// Bytes that are unpacked at once. Of a block that turns out to be damaged, those of the last call are lost: calls that end at multiples of this
/// lose the same ones, whoever reads.
const PIECE: usize = 64 << 10;

struct Bzip2 {
    /// `None` between two streams. Keeps at most 4 MiB, whatever the stream asks for.
    stream: Option<Decompress>,
    /// Unpacked bytes up to the next multiple of their size, how many there are, and how many were handed out.
    piece: Box<[u8]>,
    filled: usize,
    handed: usize,
    /// What is wrong behind them.
    broken: Option<Error>,
    /// Streams read to their end.
    streams: u64,
}

impl Bzip2 {
    fn new() -> Self {
        let piece = vec![0; PIECE].into_boxed_slice();
        Self { stream: None, piece, filled: 0, handed: 0, broken: None, streams: 0 }
    }

    /// Hands out of the piece what there is room for.
    fn hand_out(&mut self, unpacked: &mut [u8]) -> usize {
        let mut rest = self.piece.get(self.handed..self.filled).unwrap_or_default();
        // Reading from memory.
        let given = rest.read(unpacked).unwrap_or_default();
        self.handed = self.handed.saturating_add(given);
        if self.handed == self.piece.len() {
            (self.handed, self.filled) = (0, 0);
        }
        given
    }

    /// Unpacks up to the end of the piece; how many packed bytes that took.
    fn fill(&mut self, packed: &[u8], at: u64) -> Result<usize> {
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        let before = (stream.total_in(), stream.total_out());
        let status = stream.decompress(packed, self.piece.get_mut(self.filled..).unwrap_or_default());
        let step = Step::counted(before, (stream.total_in(), stream.total_out()));
        self.filled = self.filled.saturating_add(step.given);
        match status {
            Ok(Status::MemNeeded) => return Err(Error::reading(at, io::ErrorKind::OutOfMemory.into())),
            Ok(Status::StreamEnd) => {
                self.stream = None;
                self.streams = self.streams.saturating_add(1);
            }
            Ok(_) => {}
            Err(finding) => self.broken = Some(self.error(finding, at.saturating_add(step.given as u64))),
        }
        Ok(step.taken)
    }

    fn error(&self, finding: Finding, at: u64) -> Error {
        match (finding, self.streams) {
            (Finding::DataMagic, 0) => {
                Error::corrupt(FORMAT, "not-this-format", at, "the first bytes are not those of a bzip2 file")
            }
            (Finding::DataMagic, n) => Error::corrupt(
                FORMAT,
                "trailing-garbage",
                at,
                format!("after stream {n} come bytes that are not another stream: the file is damaged"),
            ),
            (_, n) => Error::corrupt(
                FORMAT,
                "data",
                at,
                format!(
                    "damaged data or a wrong CRC-32 in stream {}: the download or the file is damaged",
                    n.saturating_add(1)
                ),
            ),
        }
    }
}

impl Decoder for Bzip2 {
    fn step(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step> {
        let mut taken = 0;
        if self.handed == self.filled {
            if self.broken.is_none() {
                if packed.is_empty() && self.stream.is_none() {
                    return Ok(Step::default());
                }
                taken = self.fill(packed, at)?;
            }
            if self.handed == self.filled
                && let Some(error) = self.broken.take()
            {
                return Err(error);
            }
        }
        Ok(Step { taken, given: self.hand_out(unpacked) })
    }

    fn end(&self, at: u64) -> Result<()> {
        if self.stream.is_none() && self.streams > 0 {
            return Ok(());
        }
        let what = format!("the file ends inside stream {}: it is cut short", self.streams.saturating_add(1));
        Err(Error::corrupt(FORMAT, "ends-early", at, what))
    }

    fn members(&self) -> u64 {
        self.streams
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bzip2::Compression;
    use bzip2::write::BzEncoder;

    use super::*;
    use crate::layer::testing::*;

    fn stream(data: &[u8]) -> Vec<u8> {
        let mut encoder = BzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn streams_come_back() {
        let data = sample(2000);
        comes_back("bzip2", &stream(&data), &data);
        comes_back("bzip2", &stream(b""), b"");
        comes_back(
            "bzip2",
            &[stream(b""), stream(&data), stream(b""), stream(b"x")].concat(),
            &[&data[..], b"x"].concat(),
        );
    }

    #[test]
    fn many_blocks_come_back() {
        let data = sample(350_000);
        assert!(unpack("bzip2", &stream(&data)).unwrap() == data);
    }

    #[test]
    fn a_cut_anywhere_is_truncation() {
        let first = stream(&sample(300));
        every_cut_is_an_error("bzip2", &[first.clone(), stream(b"x")].concat(), &[first.len()]);
    }

    #[test]
    fn a_flipped_bit_anywhere_changes_no_byte_unnoticed() {
        no_flip_goes_unnoticed("bzip2", &stream(&sample(300)));
    }

    #[test]
    fn damage_comes_behind_what_lies_in_front_of_it() {
        let mut encoder = BzEncoder::new(Vec::new(), Compression::new(1));
        encoder.write_all(&sample(250_000)).unwrap();
        let packed = [encoder.finish().unwrap(), stream(b"disk")].concat();
        what_lies_in_front_of_damage_comes_first("bzip2", &packed, 4999);
    }

    #[test]
    fn damage_is_told_by_where_it_lies() {
        let packed = stream(&sample(300));
        for (at, code) in [(0, "bzip2-not-this-format"), (10, "bzip2-data"), (packed.len() - 3, "bzip2-data")] {
            let mut bent = packed.clone();
            bent[at] ^= 0x08;
            assert_eq!(outcome("bzip2", &bent), code, "byte {at}");
        }
    }

    /// Each stream has megabytes cleared for it.
    #[test]
    fn streams_that_hold_next_to_nothing_count_for_more_than_they_are() {
        for (data, expected) in [(&b""[..], "wrapping-no-output"), (b"x", "wrapping-no-output"), (&[7; 2000], "whole")]
        {
            let packed = io::Cursor::new(stream(data).repeat(512));
            let bzip2 = Bzip2::new();
            let mut reader = Unwrapper::resumed(Box::new(packed), bzip2, 0, 255 << 20);
            let read = io::copy(&mut reader, &mut io::sink()).map_err(|error| Error::reading(0, error).code());
            assert_eq!(read.map_or_else(|code| code, |_| "whole".into()), expected, "{} bytes", data.len());
        }
    }

    #[test]
    fn what_holds_nothing_counts_to_the_byte() {
        what_holds_nothing_is_bounded(Bzip2::new, &stream(b"").repeat(50), 50);
    }

    #[test]
    fn bytes_after_the_last_stream_are_garbage() {
        for garbage in [&b"x"[..], b"\0", b"\0\0\0\0", b"BZx", b"BZh0"] {
            assert_eq!(outcome("bzip2", &[&stream(b"disk"), garbage].concat()), "bzip2-trailing-garbage");
        }
    }

    #[test]
    fn errors_of_the_source_pass_unchanged() {
        every_death_of_the_source_passes("bzip2", &[stream(&sample(300)), stream(b"x")].concat());
    }
}
