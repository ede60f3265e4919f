//! gzip, [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952): members in a row, each a header, deflated data and a trailer.
//!
//! Headers and trailers are read here rather than by the crate that inflates, which tells a wrong check value from damaged
//! data only in words. pigz needs nothing special; [BGZF](super::bgzf) says where members end, so that several can be unpacked at the same time.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use crate::error::{Error, Result};
use crate::layer::bgzf::Bgzf;
use crate::layer::unwrapper::{Decoder, Field, Step, Unwrapper, may_begin};
use crate::layer::{Packed, Reader, Unwrapping};

const FORMAT: &str = "gzip";
const MAGIC: &[u8] = &[0x1f, 0x8b];
const DEFLATE: u8 = 8;

/// ID1 ID2 CM FLG MTIME(4) XFL OS
const FIXED: usize = 10;
/// CRC32(4) ISIZE(4)
const TRAILER: usize = 8;

// FLG. Bit 0 says that the data is text, which is nothing to us.
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

pub(super) fn probe(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b, DEFLATE])
}

pub(super) fn open(packed: Packed, how: &Unwrapping) -> Result<Reader> {
    match how.threads {
        ..=1 => Ok(Box::new(Unwrapper::new(packed, Gzip::new()))),
        threads => Ok(Box::new(Bgzf::new(packed, threads))),
    }
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fixed,
    ExtraLen,
    Extra {
        left: usize,
    },
    /// File name or comment, up to a zero.
    Text,
    HeaderCrc,
    Data,
    Trailer,
    /// Zeros after the last member: tapes and block devices leave them, and gzip passes over them.
    Padding,
}

pub(super) struct Gzip {
    state: State,
    /// Of the header or trailer that is being read.
    field: Field<FIXED>,
    /// Flags of header fields still to come.
    flags: u8,
    header_crc: Crc,
    inflate: Decompress,
    crc: Crc,
    /// Unpacked bytes of this member.
    len: u64,
    /// Members read to their end.
    members: u64,
}

impl Gzip {
    fn new() -> Self {
        Self {
            state: State::Fixed,
            field: Field::new(),
            flags: 0,
            header_crc: Crc::new(),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            len: 0,
            members: 0,
        }
    }

    /// One that comes behind so many members.
    pub(super) fn behind(members: u64) -> Self {
        Self { members, ..Self::new() }
    }

    /// Of the member that is being read: the first is 1.
    fn number(&self) -> u64 {
        self.members.saturating_add(1)
    }

    /// Whether the next byte would be the first of a member.
    pub(super) fn is_between(&self) -> bool {
        self.state == State::Fixed && self.field.is_empty()
    }

    fn fixed(&mut self, packed: &[u8], at: u64) -> Result<usize> {
        if self.members > 0 && self.field.is_empty() && packed.first() == Some(&0) {
            self.state = State::Padding;
            return Ok(0);
        }
        let taken = self.field.take(packed, FIXED);
        if !may_begin(self.field.bytes(), MAGIC) {
            return Err(self.no_member(at));
        }
        let Some([_, _, method, flags, ..]) = self.field.first::<FIXED>() else { return Ok(taken) };
        if method != DEFLATE {
            let what = format!("member {} has compression method {method}, only {DEFLATE} exists", self.number());
            return Err(Error::unsupported(FORMAT, "method", what));
        }
        if flags & RESERVED != 0 {
            let what = format!("the header of member {} has unknown flags {:#04x}", self.number(), flags & RESERVED);
            return Err(Error::unsupported(FORMAT, "flags", what));
        }
        self.flags = flags;
        self.header_crc.reset();
        self.header_crc.update(self.field.bytes());
        self.next_header_field();
        Ok(taken)
    }

    /// Goes to the next header field that the flags announce, in the order of RFC 1952 section 2.3, or to the data.
    fn next_header_field(&mut self) {
        self.field.clear();
        let fields =
            [(FEXTRA, State::ExtraLen), (FNAME, State::Text), (FCOMMENT, State::Text), (FHCRC, State::HeaderCrc)];
        match fields.into_iter().find(|(flag, _)| self.flags & flag != 0) {
            Some((flag, state)) => {
                self.flags &= !flag;
                self.state = state;
            }
            None => self.begin_data(),
        }
    }

    fn begin_data(&mut self) {
        self.inflate.reset(false);
        self.crc.reset();
        self.len = 0;
        self.state = State::Data;
    }

    fn extra_len(&mut self, packed: &[u8]) -> usize {
        let taken = self.field.take(packed, 2);
        if let Some(len) = self.field.first() {
            self.header_crc.update(&len);
            self.state = State::Extra { left: u16::from_le_bytes(len).into() };
        }
        taken
    }

    fn extra(&mut self, packed: &[u8], left: usize) -> usize {
        let extra = packed.get(..left).unwrap_or(packed);
        self.header_crc.update(extra);
        match left.saturating_sub(extra.len()) {
            0 => self.next_header_field(),
            left => self.state = State::Extra { left },
        }
        extra.len()
    }

    fn text(&mut self, packed: &[u8]) -> usize {
        let text = packed.split_inclusive(|&byte| byte == 0).next().unwrap_or_default();
        self.header_crc.update(text);
        if text.ends_with(&[0]) {
            self.next_header_field();
        }
        text.len()
    }

    fn check_header(&mut self, packed: &[u8], at: u64) -> Result<usize> {
        let taken = self.field.take(packed, 2);
        let Some(stored) = self.field.first() else { return Ok(taken) };
        let (stored, computed) = (u16::from_le_bytes(stored), self.header_crc.sum() & 0xffff);
        if u32::from(stored) != computed {
            let what = format!(
                "wrong CRC-16 of the header of member {}: {stored:#06x} stored, {computed:#06x} computed: the file is damaged",
                self.number()
            );
            return Err(Error::corrupt(FORMAT, "header", at, what));
        }
        self.next_header_field();
        Ok(taken)
    }

    fn data(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step> {
        let before = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(packed, unpacked, FlushDecompress::None);
        let step = Step::counted(before, (self.inflate.total_in(), self.inflate.total_out()));
        match status {
            Ok(Status::StreamEnd) => self.state = State::Trailer,
            Ok(Status::BufError) if packed.is_empty() => {}
            Ok(Status::Ok) => {}
            // It says so again, and by then what lies in front of the damage has been handed out.
            Err(_) if step.given > 0 => {}
            Ok(Status::BufError) | Err(_) => {
                let what = format!("the data of member {} is damaged", self.number());
                return Err(Error::corrupt(FORMAT, "data", at, what));
            }
        }
        self.crc.update(unpacked.get(..step.given).unwrap_or_default());
        self.len = self.len.saturating_add(step.given as u64);
        Ok(step)
    }

    fn check_trailer(&mut self, packed: &[u8], at: u64) -> Result<usize> {
        let taken = self.field.take(packed, TRAILER);
        let Some([c0, c1, c2, c3, l0, l1, l2, l3]) = self.field.first::<TRAILER>() else { return Ok(taken) };
        let (stored, computed) = (u32::from_le_bytes([c0, c1, c2, c3]), self.crc.sum());
        if stored != computed {
            let what = format!(
                "wrong CRC-32 at the end of member {}: {stored:#010x} stored, {computed:#010x} computed: \
                 the download or the file is damaged",
                self.number()
            );
            return Err(Error::corrupt(FORMAT, "check", at, what));
        }
        // ISIZE counts modulo 2^32.
        let (stored, unpacked) = (u64::from(u32::from_le_bytes([l0, l1, l2, l3])), self.len & 0xffff_ffff);
        if stored != unpacked {
            let what = format!(
                "wrong length at the end of member {}: {stored} stored, {unpacked} unpacked (modulo 2^32): \
                 the download or the file is damaged",
                self.number()
            );
            return Err(Error::corrupt(FORMAT, "length", at, what));
        }
        self.members = self.number();
        self.field.clear();
        self.state = State::Fixed;
        Ok(taken)
    }

    fn padding(&mut self, packed: &[u8], at: u64) -> Result<usize> {
        if packed.iter().any(|&byte| byte != 0) {
            return Err(self.no_member(at));
        }
        Ok(packed.len())
    }

    fn no_member(&self, at: u64) -> Error {
        match self.members {
            0 => Error::corrupt(FORMAT, "not-this-format", at, "the first bytes are not those of a gzip file"),
            n => Error::corrupt(
                FORMAT,
                "trailing-garbage",
                at,
                format!(
                    "after member {n} come bytes that are neither another member nor zeros: the file is damaged, or \
                     something was appended, as OpenWrt does (`gzip -dc` leaves it away)"
                ),
            ),
        }
    }
}

impl Decoder for Gzip {
    fn step(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step> {
        let taken = match self.state {
            State::Fixed => self.fixed(packed, at)?,
            State::ExtraLen => self.extra_len(packed),
            State::Extra { left } => self.extra(packed, left),
            State::Text => self.text(packed),
            State::HeaderCrc => self.check_header(packed, at)?,
            State::Data => return self.data(packed, unpacked, at),
            State::Trailer => self.check_trailer(packed, at)?,
            State::Padding => self.padding(packed, at)?,
        };
        Ok(Step::taken(taken))
    }

    fn end(&self, at: u64) -> Result<()> {
        if self.is_between() && self.members > 0 || self.state == State::Padding {
            return Ok(());
        }
        let what = format!("the file ends inside member {}: it is cut short", self.number());
        Err(Error::corrupt(FORMAT, "ends-early", at, what))
    }

    fn members(&self) -> u64 {
        self.members
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor, Read, Write, copy, repeat, sink};

    use flate2::{Compress, Compression, FlushCompress, GzBuilder};

    use super::*;
    use crate::layer::testing::*;

    /// BGZF's last member, as bgzip writes it: the extra field `BC` and no data.
    const BGZF_END: &[u8] = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0\x1b\0\x03\0\0\0\0\0\0\0\0\0";

    fn member(builder: GzBuilder, data: &[u8]) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), Compression::new(6));
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(data: &[u8]) -> Vec<u8> {
        member(GzBuilder::new(), data)
    }

    /// A member with every header field and a check over them.
    fn all_fields(data: &[u8]) -> Vec<u8> {
        let builder = GzBuilder::new().extra(&b"AB\x02\0xy"[..]).filename("disk.raw").comment("from a test");
        let plain = member(builder, data);
        let fields = FIXED + 2 + 6 + "disk.raw\0".len() + "from a test\0".len();
        let (header, body) = plain.split_at(fields);
        let mut header = header.to_vec();
        header[3] |= FHCRC;
        let mut crc = Crc::new();
        crc.update(&header);
        let [low, high, ..] = crc.sum().to_le_bytes();
        [&header[..], &[low, high], body].concat()
    }

    #[test]
    fn members_come_back() {
        let data = sample(2000);
        comes_back("gzip", &plain(&data), &data);
        comes_back("gzip", &plain(b""), b"");
        comes_back("gzip", &all_fields(&data), &data);
        comes_back(
            "gzip",
            &[plain(b""), plain(&data), plain(b""), all_fields(b"x")].concat(),
            &[&data[..], b"x"].concat(),
        );
        comes_back("gzip", &[plain(&data), BGZF_END.to_vec()].concat(), &data);
    }

    #[test]
    fn zeros_after_the_last_member_are_padding() {
        comes_back("gzip", &[plain(b"disk"), vec![0; 1000]].concat(), b"disk");
        assert_eq!(outcome("gzip", &[0; 100]), "gzip-not-this-format");
    }

    #[test]
    fn a_cut_anywhere_is_truncation() {
        let data = sample(300);
        let (first, second) = (plain(&data), all_fields(&data));
        every_cut_is_an_error(
            "gzip",
            &[&first[..], &second, BGZF_END].concat(),
            &[first.len(), first.len() + second.len()],
        );
    }

    #[test]
    fn a_flipped_bit_in_a_trailer_is_a_wrong_check_or_length() {
        let packed = plain(&sample(300));
        let (check, length) = (packed.len() - 8, packed.len() - 4);
        for at in check..packed.len() {
            let mut bent = packed.clone();
            bent[at] ^= 0x10;
            assert_eq!(outcome("gzip", &bent), if at < length { "gzip-check" } else { "gzip-length" });
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_changes_no_byte_unnoticed() {
        no_flip_goes_unnoticed("gzip", &all_fields(&sample(300)));
    }

    #[test]
    fn damage_comes_behind_what_lies_in_front_of_it() {
        let data = sample(100_000);
        what_lies_in_front_of_damage_comes_first("gzip", &[plain(&data), all_fields(&data[..1000])].concat(), 97);
    }

    #[test]
    fn damage_is_told_by_where_it_lies() {
        let packed = all_fields(b"disk");
        for (at, code) in
            [(0, "gzip-not-this-format"), (2, "gzip-method"), (4, "gzip-header"), (packed.len() - 14, "gzip-data")]
        {
            let mut bent = packed.clone();
            bent[at] ^= 0x06;
            assert_eq!(outcome("gzip", &bent), code, "byte {at}");
        }
        let mut bent = packed;
        bent[3] |= 0x40;
        assert_eq!(outcome("gzip", &bent), "gzip-flags");
    }

    #[test]
    fn bytes_after_the_last_member_are_garbage() {
        for garbage in [&b"x"[..], b"\x1fx", b"\0\0\0x", b"\0\x1f\x8b\x08"] {
            assert_eq!(outcome("gzip", &[&plain(b"disk"), garbage].concat()), "gzip-trailing-garbage");
        }
    }

    #[test]
    fn an_error_says_how_much_was_unpacked() {
        let mut packed = [plain(&sample(500)), plain(b"more")].concat();
        let check = packed.len() - 8;
        packed[check] ^= 1;
        let Err(Error::Corrupt { at, what, .. }) = unpack("gzip", &packed) else { panic!() };
        assert_eq!(at, 504);
        assert!(what.starts_with("wrong CRC-32 at the end of member 2: 0x"), "{what}");
    }

    #[test]
    fn errors_of_the_source_pass_unchanged() {
        every_death_of_the_source_passes("gzip", &[all_fields(&sample(300)), plain(b"x"), vec![0; 3]].concat());
    }

    #[test]
    fn padding_without_end_is_refused() {
        let member = plain(b"disk");
        // The member counts for 2 KiB more, and each unpacked byte makes up for two.
        let most = (256 << 20) - (member.len() as u64 + 2048 - 4 * 2);
        for (len, expected) in [(most, "whole"), (most + 1, "wrapping-no-output"), (u64::MAX, "wrapping-no-output")] {
            let padding = BufReader::with_capacity(1 << 20, repeat(0).take(len));
            let mut reader = Unwrapper::new(Box::new(Cursor::new(member.clone()).chain(padding)), Gzip::new());
            let read = copy(&mut reader, &mut sink()).map_err(|error| Error::reading(0, error).code());
            assert_eq!(read.map_or_else(|code| code, |_| "whole".into()), expected, "{len} bytes");
        }
    }

    #[test]
    fn what_holds_nothing_counts_to_the_byte() {
        what_holds_nothing_is_bounded(Gzip::new, &[plain(b"").repeat(3), vec![0; 500]].concat(), 3);
        what_holds_nothing_is_bounded(Gzip::new, &all_fields(b""), 1);
    }

    /// ISIZE of a member longer than it can count. The deflated zeros are one piece repeated, which takes no time to make.
    #[test]
    fn a_member_over_4_gib_has_its_length_modulo_2_to_the_32() {
        const PIECE: usize = 1 << 20;
        const PIECES: usize = 4097;
        let mut compress = Compress::new(Compression::new(6), false);
        let mut piece = Vec::with_capacity(1 << 16);
        // A full flush ends at a byte and forgets what was before.
        compress.compress_vec(&vec![0; PIECE], &mut piece, FlushCompress::Full).unwrap();
        let last = [0x03, 0x00];
        let (mut crc, mut zeros) = (Crc::new(), Crc::new());
        zeros.update(&vec![0; PIECE]);
        (0..PIECES).for_each(|_| crc.combine(&zeros));
        let mut packed = vec![0x1f, 0x8b, DEFLATE, 0, 0, 0, 0, 0, 0, 0xff];
        (0..PIECES).for_each(|_| packed.extend_from_slice(&piece));
        packed.extend_from_slice(&last);
        packed.extend_from_slice(&crc.sum().to_le_bytes());
        packed.extend_from_slice(&u32::try_from(PIECE).unwrap().to_le_bytes());

        let mut reader = Unwrapper::new(Box::new(Cursor::new(packed)), Gzip::new());
        let mut buf = vec![0; PIECE];
        let mut len = 0;
        loop {
            match reader.read(&mut buf).unwrap() {
                0 => break,
                n => len += n,
            }
        }
        assert_eq!(len, PIECE * PIECES);
    }
}
