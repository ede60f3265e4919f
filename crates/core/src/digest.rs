//! Digests of the stored bytes: named, expected, computed.

use std::fmt;
use std::str::FromStr;

use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha512};
use streebog::{Streebog256, Streebog512};

use crate::error::{Error, Result};

/// A digest algorithm that publishers of images use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    /// GOST R 34.11-2012, as [RFC 6986](https://www.rfc-editor.org/rfc/rfc6986) has it.
    Streebog256,
    /// The same with 512 bits.
    Streebog512,
}

const ALGORITHMS: [(Algorithm, &str, usize); 6] = [
    (Algorithm::Md5, "md5", 16),
    (Algorithm::Sha1, "sha1", 20),
    (Algorithm::Sha256, "sha256", 32),
    (Algorithm::Sha512, "sha512", 64),
    (Algorithm::Streebog256, "streebog256", 32),
    (Algorithm::Streebog512, "streebog512", 64),
];

impl Algorithm {
    fn hasher(self) -> Box<dyn DynDigest + Send> {
        match self {
            Self::Md5 => Box::new(Md5::default()),
            Self::Sha1 => Box::new(Sha1::default()),
            Self::Sha256 => Box::new(Sha256::default()),
            Self::Sha512 => Box::new(Sha512::default()),
            Self::Streebog256 => Box::new(Streebog256::default()),
            Self::Streebog512 => Box::new(Streebog512::default()),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALGORITHMS.iter().find(|(algorithm, ..)| algorithm == self).map(|(_, name, _)| name);
        f.write_str(name.copied().unwrap_or_default())
    }
}

/// A digest: an algorithm and its value, written as `sha256:` and lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it is computed.
    pub algorithm: Algorithm,
    /// The value, in lower-case hexadecimal.
    pub hex: String,
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || ALGORITHMS.map(|(_, name, _)| name).join(", ");
        let (name, hex) = text.split_once(':').ok_or_else(|| unnamed(text))?;
        let (algorithm, _, bytes) = ALGORITHMS
            .into_iter()
            .find(|(_, known, _)| known.eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("unknown algorithm {name:?}, known are {}", names()))?;
        if hex.len() != 2 * bytes || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!(
                "a {algorithm} value has {} hexadecimal digits, this has {} characters",
                2 * bytes,
                hex.chars().count()
            ));
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }
}

/// What is wrong with a value that has no algorithm. Its length is no answer: two algorithms each have values of 256 and of 512 bits.
fn unnamed(text: &str) -> String {
    let fits = |bytes: usize| text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fitting: Vec<_> = ALGORITHMS.iter().filter(|(.., bytes)| fits(*bytes)).map(|(_, name, _)| *name).collect();
    if fitting.is_empty() {
        return "expected ALGORITHM:HEX, as in sha256:9f86d0…".into();
    }
    format!("say which algorithm it is of, as in {}:HEX", fitting.join(":HEX or "))
}

/// Computes several digests of the same bytes.
#[derive(Default)]
pub struct Digester {
    hashers: Vec<(Algorithm, Box<dyn DynDigest + Send>)>,
}

impl Digester {
    /// Computes each of `algorithms` once, however often it is named.
    pub fn new(algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        let mut hashers: Vec<(Algorithm, Box<dyn DynDigest + Send>)> = Vec::new();
        for algorithm in algorithms {
            if !hashers.iter().any(|(known, _)| *known == algorithm) {
                hashers.push((algorithm, algorithm.hasher()));
            }
        }
        Self { hashers }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hashers.is_empty()
    }

    /// Takes the bytes that follow those before.
    pub fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.hashers {
            hasher.update(bytes);
        }
    }

    /// The values over all bytes, in the order in which they were asked for.
    pub fn finish(self) -> Vec<Checksum> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.hashers
            .into_iter()
            .map(|(algorithm, hasher)| Checksum { algorithm, hex: hex(&hasher.finalize()) })
            .collect()
    }
}

/// Compares what was computed with what was promised.
pub(crate) fn verify(computed: &[Checksum], expected: &[Checksum]) -> Result<()> {
    for promise in expected {
        let found = computed.iter().find(|sum| sum.algorithm == promise.algorithm);
        if found != Some(promise) {
            return Err(Error::Mismatch {
                what: format!("{} of the source", promise.algorithm),
                expected: promise.hex.clone(),
                found: found.map(|sum| sum.hex.clone()).unwrap_or_default(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests_are_the_published_values() {
        let mut digester = Digester::new([Algorithm::Sha256, Algorithm::Md5, Algorithm::Sha256]);
        digester.update(b"a");
        digester.update(b"bc");
        let sums: Vec<_> = digester.finish().iter().map(Checksum::to_string).collect();
        assert_eq!(sums, [ABC, "md5:900150983cd24fb0d6963f7d28e17f72"]);
    }

    #[test]
    fn streebog_is_that_of_its_standard() {
        // RFC 6986, section 10.1, whose numbers have their first byte last.
        let mut digester = Digester::new([Algorithm::Streebog256, Algorithm::Streebog512]);
        digester.update(b"012345678901234567890123456789012345678901234567890123456789012");
        let sums: Vec<_> = digester.finish().iter().map(Checksum::to_string).collect();
        let expected = [
            "streebog256:9d151eefd8590b89daa6ba6cb74af9275dd051026bb149a452fd84e5e57b5500",
            "streebog512:1b54d01a4af5b9d5cc3d86d68d285462b19abc2475222f35c085122be4ba1ffa00ad30f8767b3a82384c6574f024c311e2a481332b08ef7f41797891c1646f48",
        ];
        assert_eq!(sums, expected);
    }

    #[test]
    fn upper_case_is_accepted_and_a_wrong_length_is_not() {
        assert_eq!(ABC.to_uppercase().parse::<Checksum>().unwrap().to_string(), ABC);
        assert!("sha256:abcd".parse::<Checksum>().unwrap_err().contains("64 hexadecimal digits"));
        assert!("crc32:abcd".parse::<Checksum>().unwrap_err().contains("unknown algorithm"));
    }

    #[test]
    fn a_value_without_an_algorithm_is_told_which_it_could_be_of() {
        let refusal = |text: &str| text.parse::<Checksum>().unwrap_err();
        assert!(refusal(&ABC["sha256:".len()..]).ends_with("as in sha256:HEX or streebog256:HEX"));
        assert!(refusal(&"0".repeat(32)).ends_with("as in md5:HEX"));
        assert!(
            refusal("abcd").starts_with("expected ALGORITHM:HEX") && refusal(&"x".repeat(32)).starts_with("expected")
        );
    }

    #[test]
    fn a_wrong_value_names_both() {
        let expected: Checksum = ABC.parse().unwrap();
        let found = Checksum { hex: "00".repeat(32), ..expected.clone() };
        let error = verify(&[found], &[expected]).unwrap_err().to_string();
        assert!(error.starts_with("sha256 of the source is 0000") && error.contains("expected ba78"), "{error}");
    }
}
