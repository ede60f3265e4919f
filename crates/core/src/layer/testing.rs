//! What every wrapping must hold to, for the tests beside each of them.

use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use super::unwrapper::{Decoder, Unwrapper};
use super::{Unwrapping, by_name};
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::progress::Progress;
use crate::source::file::FileSource;
use crate::source::tap::Meter;

/// Bytes of which some pack well and some do not at all.
pub fn sample(len: usize) -> Vec<u8> {
    let mut random = Random(7);
    (0..len).map(|i| if i / 100 % 2 == 0 { b'a' } else { random.byte() }).collect()
}

/// A file that holds `stored`.
pub fn in_a_file(stored: &[u8]) -> FileSource {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(stored).unwrap();
    FileSource::new(file, Arc::new(Meter::new(&Progress::default()))).unwrap()
}

/// Takes the wrapping called `layer` off, with default limits.
pub fn unpack(layer: &str, packed: &[u8]) -> Result<Vec<u8>> {
    unpack_with(layer, packed, &Limits::default(), 1)
}

pub fn unpack_with(layer: &str, packed: &[u8], limits: &Limits, threads: usize) -> Result<Vec<u8>> {
    let packed = Box::new(io::Cursor::new(packed.to_vec()));
    let mut reader = (by_name(layer).unwrap().open)(packed, &Unwrapping::new(limits, threads))?;
    read_to_error(&mut *reader, || 64 << 10)
}

/// The code of the error that unpacking ends with, or `whole`.
pub fn outcome(layer: &str, packed: &[u8]) -> String {
    unpack(layer, packed).map_or_else(|error| error.code(), |_| "whole".into())
}

/// However the packed bytes come and the unpacked ones are asked for, they are `wanted`.
pub fn comes_back(layer: &str, packed: &[u8], wanted: &[u8]) {
    assert!(unpack(layer, packed).unwrap() == wanted, "in one go");
    let sizes: [fn(&mut Random) -> usize; 2] = [|_| 1, |random| 1 + random.below(100)];
    for (give, ask) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        for threads in [1, 3] {
            let limits = Limits::default();
            let packed = Trickle { bytes: io::Cursor::new(packed.to_vec()), random: Random(3), size: sizes[give] };
            let packed = Box::new(BufReader::with_capacity(1 + 99 * give, packed));
            let mut reader = (by_name(layer).unwrap().open)(packed, &Unwrapping::new(&limits, threads)).unwrap();
            let mut random = Random(5);
            let found = read_to_error(&mut *reader, || sizes[ask](&mut random)).unwrap();
            assert!(found == wanted, "given by {give}, asked by {ask}, with {threads} threads");
        }
    }
}

/// A file cut anywhere is an error that says so, but for the cuts in `whole`: the ends of its parts.
pub fn every_cut_is_an_error(layer: &str, packed: &[u8], whole: &[usize]) {
    for cut in 0..packed.len() {
        for threads in [1, 2] {
            let found = unpack_with(layer, &packed[..cut], &Limits::default(), threads).map_err(|error| error.code());
            if whole.contains(&cut) {
                found.unwrap();
            } else {
                assert_eq!(found.unwrap_err(), format!("{layer}-ends-early"), "cut at {cut}, {threads} threads");
            }
        }
    }
}

/// A flipped bit anywhere in `range` is an error.
pub fn every_flip_is_an_error(layer: &str, packed: &[u8], range: Range<usize>) {
    for (flip, bent) in flips(packed, range) {
        assert!(unpack(layer, &bent).is_err(), "{flip}");
    }
}

/// A flipped bit anywhere is an error, or one that changes nothing (of the time stamp, or behind the last used bit).
pub fn no_flip_goes_unnoticed(layer: &str, packed: &[u8]) {
    let wanted = unpack(layer, packed).unwrap();
    for (flip, bent) in flips(packed, 0..packed.len()) {
        match unpack(layer, &bent) {
            Ok(found) => assert!(found == wanted, "{flip}"),
            Err(error) => assert_eq!(error.kind(), Kind::Image, "{flip}: {error}"),
        }
    }
}

/// Of damage anywhere, the same bytes come first and then the same error, however the packed bytes come and the unpacked ones are asked for:
/// else it would hang on that whether the error or a limit is passed first. (What a limit is passed by may differ.) `packed` is tried as it is, and bent at one byte of `step`.
pub fn what_lies_in_front_of_damage_comes_first(layer: &str, packed: &[u8], step: usize) {
    const MUCH: usize = 1 << 20;
    let bent = |at: usize| {
        let mut bent = packed.to_vec();
        bent[at] ^= 1 << (at % 8);
        (format!("bent at {at}"), bent)
    };
    let as_it_is = ("as it is".to_owned(), packed.to_vec());
    for (what, bent) in std::iter::once(as_it_is).chain((0..packed.len()).step_by(step).map(bent)) {
        let end = |give: usize, ask: usize, threads: usize| {
            let limits = Limits::default();
            let packed = Box::new(BufReader::with_capacity(give, io::Cursor::new(bent.clone())));
            let mut reader = (by_name(layer).unwrap().open)(packed, &Unwrapping::new(&limits, threads)).unwrap();
            let (mut len, mut piece) = (0, vec![0; ask]);
            loop {
                match reader.read(&mut piece) {
                    Ok(0) => return (len, "whole".to_owned()),
                    Ok(n) => len += n,
                    Err(error) => {
                        let error = Error::reading(0, error);
                        let is_limit = matches!(error, Error::Limit { .. });
                        return (len, if is_limit { error.code() } else { error.to_string() });
                    }
                }
            }
        };
        let wanted = end(MUCH, MUCH, 1);
        for (give, ask, threads) in [(MUCH, 999, 1), (77, MUCH, 1), (5000, 10_000, 1), (MUCH, MUCH, 3), (900, 999, 3)] {
            assert_eq!(end(give, ask, threads), wanted, "{what}; {give}, {ask}, {threads}");
        }
    }
}

fn flips(packed: &[u8], range: Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    range.flat_map(|at| (0..8).map(move |bit| (at, bit))).map(|(at, bit)| {
        let mut bent = packed.to_vec();
        bent[at] ^= 1 << bit;
        (format!("bit {bit} of byte {at}"), bent)
    })
}

/// An error of the source at any byte comes out as what it was, be it ours or the system's.
pub fn every_death_of_the_source_passes(layer: &str, packed: &[u8]) {
    let foreign = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let own = || io::Error::from(Error::corrupt("other", "code", 3, "said before"));
    for death in 0..=packed.len() {
        for (make, code) in [(&foreign as &dyn Fn() -> _, "source-read"), (&own, "other-code")] {
            let limits = Limits::default();
            let source = Dying { bytes: io::Cursor::new(packed[..death].to_vec()), last: Some(make()) };
            let how = Unwrapping::new(&limits, 1 + death % 2);
            let mut reader = (by_name(layer).unwrap().open)(Box::new(BufReader::new(source)), &how).unwrap();
            let error = loop {
                if let Err(error) = reader.read(&mut [0; 1000]) {
                    break Error::reading(0, error);
                }
            };
            assert_eq!(error.code(), code, "death at {death}");
        }
    }
}

/// Packed bytes that hold nothing, in so many members, are read as long as 256 MiB are not passed by those before and these, of which
/// each member counts for 2 KiB more.
pub(super) fn what_holds_nothing_is_bounded<D: Decoder>(open: impl Fn() -> D, nothing: &[u8], members: u64) {
    let most = (256 << 20) - nothing.len() as u64 - (members << 11);
    for (before, expected) in [(most, "whole"), (most + 1, "wrapping-no-output")] {
        let mut reader = Unwrapper::resumed(Box::new(io::Cursor::new(nothing.to_vec())), open(), 0, before);
        let read = read_to_error(&mut reader, || 1000).map_or_else(|error| error.code(), |_| "whole".into());
        assert_eq!(read, expected, "behind {before}");
    }
}

/// Reads to the end in pieces of `size`. Behind an error nothing may look like an end.
fn read_to_error(reader: &mut dyn Read, mut size: impl FnMut() -> usize) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    loop {
        let mut piece = vec![0; size()];
        match reader.read(&mut piece) {
            Ok(0) => return Ok(found),
            Ok(n) => found.extend_from_slice(&piece[..n]),
            Err(error) => {
                assert!(!matches!(reader.read(&mut piece), Ok(0)), "an end behind an error");
                return Err(Error::reading(found.len() as u64, error));
            }
        }
    }
}

/// Numbers that are the same in each run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % end
    }

    pub fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_be_bytes()[0]
    }
}

/// The same bytes again and again, without end.
pub struct Repeated {
    pub bytes: Vec<u8>,
    pub at: usize,
}

impl Read for Repeated {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = (&self.bytes[self.at..]).read(buf)?;
        self.at = (self.at + got) % self.bytes.len();
        Ok(got)
    }
}

struct Trickle {
    bytes: io::Cursor<Vec<u8>>,
    random: Random,
    size: fn(&mut Random) -> usize,
}

impl Read for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (self.size)(&mut self.random).min(buf.len());
        self.bytes.read(&mut buf[..n])
    }
}

struct Dying {
    bytes: io::Cursor<Vec<u8>>,
    last: Option<io::Error>,
}

impl Read for Dying {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.bytes.read(buf)? {
            0 => self.last.take().map_or(Ok(0), Err),
            n => Ok(n),
        }
    }
}
