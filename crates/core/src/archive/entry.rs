//! Entries of a tar archive, read forward: POSIX.1-2017, pax, "ustar Interchange Format", with what GNU tar adds.

use std::io::{self, Read};

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::pax::Pax;
use super::{FORMAT, Path, Room};
use crate::error::{Error, Result};
use crate::layer::Reader;

const BLOCK: usize = 512;

/// A header, as it lies in its block.
#[derive(Debug, Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    name: [u8; 100],
    _mode: [u8; 8],
    _uid: [u8; 8],
    _gid: [u8; 8],
    size: [u8; 12],
    _mtime: [u8; 12],
    checksum: [u8; 8],
    kind: u8,
    _link: [u8; 100],
    magic: [u8; 8],
    _user: [u8; 32],
    _group: [u8; 32],
    _device: [u8; 16],
    /// GNU tar has other things here.
    prefix: [u8; 155],
    _unused: [u8; 12],
}

const _: () = assert!(size_of::<Raw>() == BLOCK);

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// Hard or symbolic.
    Link,
    Special,
}

/// An entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Path,
    pub(super) kind: Kind,
    /// Bytes of data.
    pub(super) len: u64,
    /// Where in the archive its data begin.
    pub(super) at: u64,
    /// Whether the data are the file without its holes.
    pub(super) sparse: bool,
}

/// Reads entries one after the other.
pub(super) struct Entries {
    archive: Reader,
    /// Bytes read.
    at: u64,
    /// Where the data of this entry end, and where the next header is.
    end: u64,
    next: u64,
    count: u64,
    /// Bytes read of files.
    of_files: u64,
    room: Room,
}

/// More entries than the files of any operating system.
const MOST: u64 = 4 << 20;
/// Most bytes of an extended header. Its extended attributes may be some.
const EXTENDED: u64 = 1 << 20;
/// Most bytes that fill up the archive behind its end: a record of a tape has some KiB.
const PADDING: u64 = 64 << 20;

/// What comes before a header and belongs to it.
#[derive(Default)]
struct Ahead {
    pax: Option<Pax>,
    /// A name that is too long for its field, in GNU tar's way.
    name: Option<Vec<u8>>,
}

impl Entries {
    pub(super) fn new(archive: Reader, room: Room) -> Self {
        Self { archive, at: 0, end: 0, next: 0, count: 0, of_files: 0, room }
    }

    /// How much of the archive has been read.
    pub(super) fn passed(&self) -> u64 {
        self.at
    }

    /// The next entry; `None` when the archive is over, and has been read to its end. Data that were not read are passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut ahead = Ahead::default();
        loop {
            self.skip()?;
            let Some((raw, at)) = self.header()? else {
                if ahead.pax.is_some() || ahead.name.is_some() {
                    return Err(self.ends_early());
                }
                self.check_end()?;
                return Ok(None);
            };
            self.count = self.count.saturating_add(1);
            if self.count > MOST {
                let what = format!("the archive has more than {MOST} entries");
                return Err(Error::corrupt(FORMAT, "too-many-entries", at, what));
            }
            let size = number(&raw.size).ok_or_else(|| self.corrupt_header("an entry has no proper size"))?;
            match raw.kind {
                b'x' | b'X' if ahead.pax.is_none() => ahead.pax = Some(Pax::parse(&self.extended(size)?, at)?),
                b'L' if ahead.name.is_none() => {
                    let name = self.extended(size)?;
                    ahead.name = Some(until_zero(&name).to_vec());
                }
                // Long targets of links, which are not followed.
                b'K' => self.expect(size)?,
                b'g' => {
                    let pax = Pax::parse(&self.extended(size)?, at)?;
                    if pax != Pax::default() {
                        return Err(self.corrupt_header("an extended header gives all entries one name or size"));
                    }
                }
                b'x' | b'X' | b'L' => return Err(self.corrupt_header("an entry has two extended headers of one kind")),
                // The name of the volume.
                b'V' => self.expect(size)?,
                _ => return self.entry(&raw, size, ahead).map(Some),
            }
        }
    }

    fn entry(&mut self, raw: &Raw, size: u64, ahead: Ahead) -> Result<Entry> {
        let pax = ahead.pax.unwrap_or_default();
        let name = match (pax.path, ahead.name) {
            (Some(one), Some(other)) if one != other => {
                return Err(self.corrupt_header("an entry has two long names, which differ"));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => raw.path(),
        };
        let kind = match raw.kind {
            // Before POSIX, a directory was a file with a slash behind it.
            b'0' | b'\0' | b'7' if name.ends_with(b"/") => Kind::Directory,
            b'0' | b'\0' | b'7' => Kind::File,
            b'1' | b'2' => Kind::Link,
            b'5' => Kind::Directory,
            b'S' => {
                let what = "a file is stored sparse, which is not carried: make the archive without --sparse";
                return Err(Error::unsupported(FORMAT, "sparse", what));
            }
            b'M' => return Err(self.corrupt_header("a file began in another archive")),
            _ => Kind::Special,
        };
        let Some(path) = Path::new(&name) else {
            let shown: String = String::from_utf8_lossy(&name).chars().take(200).collect();
            let what = format!("an entry's name is too long or leads out of the archive: {shown:?}");
            return Err(Error::corrupt(FORMAT, "entry-name", self.at, what));
        };
        // What is no file has no data, whatever its size says: so do GNU tar, Go and Python. A length as of devices would be
        // taken for data by some readers and not by others.
        let len = match (kind, raw.kind) {
            (Kind::File, _) => pax.size.unwrap_or(size),
            (Kind::Directory, b'5') | (Kind::Link, _) | (Kind::Special, b'3' | b'4' | b'6') => 0,
            (Kind::Directory | Kind::Special, _) => pax.size.unwrap_or(size),
        };
        // Writers leave the field empty where a pax header has the size, or have the same in both. Readers that look at different
        // ones of two sizes would find different entries behind the data.
        if pax.size.is_some_and(|stated| size != 0 && stated != size) {
            return Err(self.corrupt_header("an entry has two sizes, which differ"));
        }
        let at = self.at;
        self.expect(len)?;
        Ok(Entry { path, kind, len, at, sparse: pax.sparse })
    }

    /// Reads data of the entry; its reader knows how many there are.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let got = self.some(buf)?;
        self.of_files = self.of_files.saturating_add(got as u64);
        if got == 0 && !buf.is_empty() { Err(self.ends_early()) } else { Ok(got) }
    }

    /// The next header, and where it lies; `None` for the end of the archive.
    fn header(&mut self) -> Result<Option<(Raw, u64)>> {
        let at = self.at;
        let mut block = [0; BLOCK];
        let got = self.some(&mut block)?;
        // umoci leaves out both the end and what fills up the last block. That nothing is missing is for the layer's digest to say.
        if got == 0 && self.count > 0 {
            return Ok(None);
        }
        self.fill(block.get_mut(got..).unwrap_or_default())?;
        (self.end, self.next) = (self.at, self.at);
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let is_first = at == 0;
        let raw = Raw::read_from_bytes(&block).ok().filter(|raw| raw.is_sound(&block));
        match raw {
            Some(raw) => Ok(Some((raw, at))),
            None if is_first => Err(Error::corrupt(
                FORMAT,
                "not-this-format",
                at,
                "what should be a tar archive begins with something else; of container images, a disk has to lie in a layer under disk/",
            )),
            None => Err(Error::corrupt(FORMAT, "entry-header", at, "the header of an entry is damaged")),
        }
    }

    /// Reads the data of a header in front of a header.
    fn extended(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > EXTENDED {
            let what = format!("an extended header has {len} bytes, {EXTENDED} are allowed");
            return Err(Error::corrupt(FORMAT, "extended-header", self.at, what));
        }
        self.expect(len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// `len` bytes of data follow.
    fn expect(&mut self, len: u64) -> Result<()> {
        let next = self.at.checked_add(len).and_then(|end| end.checked_next_multiple_of(BLOCK as u64));
        match next {
            Some(next) if next <= self.room.archive => {
                (self.end, self.next) = (self.at.saturating_add(len), next);
                Ok(())
            }
            next => Err(Error::Limit {
                what: "bytes in the archive around the image",
                wanted: next.unwrap_or(u64::MAX),
                limit: self.room.archive,
                option: "--max-size",
            }),
        }
    }

    /// Passes over what is left of the data.
    fn skip(&mut self) -> Result<()> {
        let others = self.next.max(self.at).saturating_sub(self.of_files).saturating_add(self.room.passed);
        if others > self.room.beside {
            let most = self.room.beside;
            let what =
                format!("{others} bytes or more lie beside the image, in all archives down to it; {most} are allowed");
            return Err(Error::corrupt(FORMAT, "too-much-beside", self.at, what));
        }
        let mut buf = vec![0; self.left().min(64 << 10)];
        while self.left() > 0 {
            let most = self.left().min(buf.len());
            let got = self.some(buf.get_mut(..most).unwrap_or_default())?;
            if got == 0 {
                return if self.at < self.end { Err(self.ends_early()) } else { Ok(()) };
            }
        }
        Ok(())
    }

    /// Bytes up to the next header.
    fn left(&self) -> usize {
        usize::try_from(self.next.saturating_sub(self.at)).unwrap_or(usize::MAX)
    }

    /// Behind the end there is nothing but zeros. A block of them has been read.
    fn check_end(&mut self) -> Result<()> {
        let (end, mut buf) = (self.at, vec![0; 64 << 10]);
        loop {
            let got = self.some(&mut buf)?;
            if got == 0 {
                return Ok(());
            }
            let found = buf.get(..got).unwrap_or_default();
            if found.iter().any(|&byte| byte != 0) {
                if self.count == 0 {
                    let what = "what should be a tar archive has no entry, and something else in it";
                    return Err(Error::corrupt(FORMAT, "not-this-format", end, what));
                }
                let what = "something follows the end of the archive";
                return Err(Error::corrupt(FORMAT, "trailing-garbage", end, what));
            }
            if self.at.saturating_sub(end) > PADDING {
                let what = format!("more than {PADDING} bytes of nothing follow the end of the archive");
                return Err(Error::corrupt(FORMAT, "trailing-garbage", end, what));
            }
        }
    }

    fn fill(&mut self, mut rest: &mut [u8]) -> Result<()> {
        while !rest.is_empty() {
            match self.some(rest)? {
                0 => return Err(self.ends_early()),
                got => rest = rest.get_mut(got..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    fn some(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            match self.archive.read(buf) {
                Ok(got) => {
                    self.at = self.at.saturating_add(got as u64);
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::reading(self.at, error)),
            }
        }
    }

    fn ends_early(&self) -> Error {
        let what = "the archive ends within an entry: it is cut short";
        Error::corrupt(FORMAT, "ends-early", self.at, what)
    }

    fn corrupt_header(&self, what: &str) -> Error {
        Error::corrupt(FORMAT, "entry-header", self.at, what)
    }
}

impl Raw {
    /// Whether it is a header: the sum over its bytes, with spaces for the sum itself. Some old writers took signed bytes.
    fn is_sound(&self, block: &[u8; BLOCK]) -> bool {
        let Some(stated) = number(&self.checksum).and_then(|sum| i64::try_from(sum).ok()) else { return false };
        let bytes = block.iter().zip(0..).map(|(byte, at)| if (148..156).contains(&at) { b' ' } else { *byte });
        let unsigned: i64 = bytes.clone().map(i64::from).sum();
        let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
        stated == unsigned || stated == signed
    }

    /// Name and prefix. Only POSIX has one.
    fn path(&self) -> Vec<u8> {
        let name = until_zero(&self.name);
        let prefix = if self.magic.starts_with(b"ustar\0") { until_zero(&self.prefix) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal digits, or GNU tar's bytes with the highest bit in front of them set.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        // A negative one is none.
        let first = (*first != 0xff).then_some(*first & 0x7f)?;
        return rest
            .iter()
            .try_fold(u64::from(first), |value, &byte| value.checked_mul(256)?.checked_add(u64::from(byte)));
    }
    let digits = field.trim_ascii_start();
    let digits = digits.split(|&byte| byte == 0 || byte == b' ').next().unwrap_or_default();
    digits.iter().try_fold(0_u64, |value, &digit| {
        let digit = char::from(digit).to_digit(8)?;
        value.checked_mul(8)?.checked_add(digit.into())
    })
}
