//! The id by which somebody knows an upload again: who goes on with what broke off means that one, and no other of the same length.

use hyper::header::HeaderValue;

/// Most characters of an id: 256 random bits in hex.
const MOST: usize = 64;

/// An id, as whoever has begun an upload gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(HeaderValue);

impl Id {
    /// Takes letters, digits, `-` and `_`.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_good = (1..=MOST).contains(&value.len()) && value.as_bytes().iter().all(is_fit);
        is_good.then(|| Self(value.clone()))
    }

    /// The id as it was given.
    pub fn into_value(self) -> HeaderValue {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_of_harmless_characters() {
        let parse = |text: &str| Id::parse(&HeaderValue::from_str(text).unwrap());
        for good in ["0", "0123456789abcdef-XYZ_", &"a".repeat(64)] {
            assert_eq!(parse(good).unwrap().into_value(), good);
        }
        for bad in ["", "a b", "a,b", "ä", "<a>", &"a".repeat(65)] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
