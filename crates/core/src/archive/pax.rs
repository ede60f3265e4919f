//! Extended headers: POSIX.1-2017, pax, "pax Extended Header". Records of `LENGTH KEY=VALUE\n`.

use super::FORMAT;
use crate::error::{Error, Result};

/// What an extended header says of the entry behind it, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// The file is stored without its holes, in one of GNU tar's ways.
    pub(super) sparse: bool,
}

impl Pax {
    /// Reads the records of a header that lies `at` this place.
    pub(super) fn parse(mut records: &[u8], at: u64) -> Result<Self> {
        let damaged = || Error::corrupt(FORMAT, "extended-header", at, "an extended header is damaged");
        let mut pax = Self::default();
        while !records.is_empty() {
            // Some writers fill up with zeros.
            if records.iter().all(|&byte| byte == 0) {
                break;
            }
            let (record, rest) = record(records).ok_or_else(damaged)?;
            records = rest;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(damaged)?;
            let (key, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"size" => pax.size = Some(decimal(value).ok_or_else(damaged)?),
                _ if key.starts_with(b"GNU.sparse.") => pax.sparse = true,
                _ => {}
            }
        }
        Ok(pax)
    }
}

/// The first record without its length and its line end, and what follows it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    // No header is so long that its length has more digits.
    let space = records.iter().take(8).position(|&byte| byte == b' ')?;
    let len = usize::try_from(decimal(records.get(..space)?)?).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let record = record.get(space..)?.strip_prefix(b" ")?.strip_suffix(b"\n")?;
    Some((record, rest))
}

/// Digits only: `parse` alone would take a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_others_passed_over() {
        let pax = Pax::parse(b"17 path=disk/a\nb\n20 size=12345678901\n12 foo==bar\n\0\0", 0).unwrap();
        let expected = Pax { path: Some(b"disk/a\nb".to_vec()), size: Some(12_345_678_901), sparse: false };
        assert_eq!(pax, expected);
        assert!(Pax::parse(b"22 GNU.sparse.major=1\n", 0).unwrap().sparse);
    }

    #[test]
    fn bent_records_are_errors() {
        for records in [
            &b"path=a\n"[..],
            b"8 path=a\n",
            b"11 path=a\n",
            b"10 path=a ",
            b" path=a\n",
            b"0 path=a\n",
            b"1 path=a\n",
            b"2 path=a\n",
            b"-10 path=a\n",
            b"+9 path=a\n",
            b"18446744073709551616 path=a\n",
            b"8 patha\n",
            b"10 path\n",
            b"11 size=1x\n",
            b"11 size=+1\n",
            b"12 size=-1x\n",
            b"29 size=99999999999999999999\n",
        ] {
            let code = Pax::parse(records, 0).map_err(|error| error.code());
            assert_eq!(code.unwrap_err(), "tar-extended-header", "{}", String::from_utf8_lossy(records));
        }
    }
}
