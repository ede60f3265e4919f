//! Files of checksums, as publishers of images write them.
//!
//! One line is one of:
//! - `HASH  NAME` or `HASH *NAME`, as `sha256sum` writes it; with a backslash in front, `\\`, `\n` and `\r` in the name are escapes;
//! - `SHA256 (NAME) = HASH`, as BSD and `sha256sum --tag` write it, and `SHA2-256(NAME)= HASH` of `openssl dgst`;
//! - `HASH` alone, where that is the only one.
//!
//! All else (comments, sizes, headings) is passed over. Of a message that is signed in clear (RFC 9580, section 7), only what stands
//! within counts; the signature itself is not looked at.

use std::str::FromStr;

use diskferry::digest::Checksum;

/// Why there is no checksum to be taken from a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no line that has one.
    Empty,
    /// There are checksums, as of this file, and none of the one that was asked for.
    OtherNames(String),
    /// Two lines contradict each other.
    Ambiguous(String, String),
}

/// Names of algorithms in lines of BSD, those of OpenSSL included.
const TAGS: [(&str, &str); 6] = [
    ("MD5", "md5"),
    ("SHA1", "sha1"),
    ("SHA256", "sha256"),
    ("SHA512", "sha512"),
    ("SHA2-256", "sha256"),
    ("SHA2-512", "sha512"),
];

/// The strongest comes first.
const STRENGTH: [&str; 4] = ["sha512", "sha256", "sha1", "md5"];

/// The strongest checksum that `text` has for the file `name`.
pub(crate) fn find(text: &str, name: &str) -> Result<Checksum, Missing> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<Line> = signed(text).iter().filter_map(|line| Line::parse(line)).collect();
    for algorithm in STRENGTH {
        let of = |rank: Match| {
            lines.iter().filter(move |line| line.names(name) == rank && line.sum.algorithm.to_string() == algorithm)
        };
        // A file of this name goes before one of a directory below.
        for rank in [Match::Whole, Match::LastPart] {
            let mut found = of(rank);
            if let Some(first) = found.next() {
                return match found.find(|other| other.sum != first.sum) {
                    None => Ok(first.sum.clone()),
                    Some(other) => Err(Missing::Ambiguous(first.shown(), other.shown())),
                };
            }
        }
    }
    match lines.as_slice() {
        [] => Err(Missing::Empty),
        [Line { name: None, sum }] => Ok(sum.clone()),
        [first, ..] => Err(Missing::OtherNames(first.name.clone().unwrap_or_else(|| "no name".into()))),
    }
}

/// The lines of `text`, or of what is signed in it.
fn signed(text: &str) -> Vec<&str> {
    const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
    const END: &str = "-----BEGIN PGP SIGNATURE-----";
    if !text.lines().any(|line| line.trim_end() == BEGIN) {
        return text.lines().collect();
    }
    let message = text.lines().skip_while(|line| line.trim_end() != BEGIN).skip(1);
    let body = message.skip_while(|line| !line.trim().is_empty()).take_while(|line| line.trim_end() != END);
    // What could be taken for such a mark is escaped.
    body.map(|line| line.strip_prefix("- ").unwrap_or(line)).collect()
}

struct Line {
    sum: Checksum,
    name: Option<String>,
}

/// How well a line's name is the one that is looked for.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Match {
    Whole,
    LastPart,
    No,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end_matches(['\r', '\n']);
        let (line, escaped) = line.strip_prefix('\\').map_or((line, false), |line| (line, true));
        let (sum, name) = tagged(line).or_else(|| plain(line))?;
        let name = name.map(|name| if escaped { unescape(name) } else { name.to_owned() });
        Some(Self { sum, name })
    }

    fn names(&self, wanted: &str) -> Match {
        let Some(name) = &self.name else { return Match::No };
        let name = name.strip_prefix("./").unwrap_or(name);
        match name.rsplit_once('/') {
            None if name == wanted => Match::Whole,
            Some((_, last)) if last == wanted => Match::LastPart,
            _ => Match::No,
        }
    }

    fn shown(&self) -> String {
        format!("{} of {}", self.sum, self.name.as_deref().unwrap_or("no name"))
    }
}

/// `SHA256 (NAME) = HASH`
fn tagged(line: &str) -> Option<(Checksum, Option<&str>)> {
    let (tag, rest) = line.split_once('(')?;
    let (_, algorithm) = TAGS.iter().find(|(known, _)| *known == tag.trim())?;
    // A name may have brackets in it.
    let (name, hash) = rest.rsplit_once(')')?;
    let hash = hash.trim().strip_prefix('=')?.trim();
    Some((checksum(algorithm, hash)?, Some(name)))
}

/// `HASH  NAME`, `HASH *NAME` or `HASH`
fn plain(line: &str) -> Option<(Checksum, Option<&str>)> {
    let line = line.trim();
    let (hash, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let algorithm = match hash.len() {
        32 => "md5",
        40 => "sha1",
        64 => "sha256",
        128 => "sha512",
        _ => return None,
    };
    let name = rest.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    // Of what came through a pipe, the name is a dash.
    Some((checksum(algorithm, hash)?, Some(name).filter(|name| !name.is_empty() && *name != "-")))
}

fn checksum(algorithm: &str, hash: &str) -> Option<Checksum> {
    Checksum::from_str(&format!("{algorithm}:{hash}")).ok()
}

fn unescape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(digit: char, len: usize) -> String {
        digit.to_string().repeat(len)
    }

    fn found(text: &str, name: &str) -> String {
        match find(text, name) {
            Ok(sum) => format!("{}:{}", sum.algorithm, &sum.hex[..1]),
            Err(missing) => format!("{missing:?}"),
        }
    }

    #[test]
    fn lines_of_sha256sum_are_found_by_name() {
        let (a, b, c) = (hash('a', 64), hash('b', 64), hash('c', 64));
        // As Ubuntu has them, as Debian has them, and as `find` gives them.
        let text = format!("{a} *disk-amd64.img\n{b}  disk-arm64.img\r\n{c}  ./disk.iso\n");
        assert_eq!(found(&text, "disk-amd64.img"), "sha256:a");
        assert_eq!(found(&text, "disk-arm64.img"), "sha256:b");
        assert_eq!(found(&text, "disk.iso"), "sha256:c");
        assert_eq!(found(&text, "disk"), "OtherNames(\"disk-amd64.img\")");
        assert_eq!(found(&format!("\\{a}  a\\\\b\\nc"), "a\\b\nc"), "sha256:a");
        assert_eq!(found(&format!("{a}  with  two spaces.img"), "with  two spaces.img"), "sha256:a");
    }

    #[test]
    fn lines_of_bsd_are_found_in_a_signed_message() {
        let (a, b, c) = (hash('a', 64), hash('b', 64), hash('c', 128));
        let text = format!(
            "SHA256 (disk.qcow2) = {b}\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.qcow2: 554696704 bytes\n\
             SHA256 (disk.qcow2) = {a}\n- -- \nSHA512 (a (b).iso) = {c}\n-----BEGIN PGP SIGNATURE-----\n\n{b}\n\
             SHA256 (other) = {b}\n-----END PGP SIGNATURE-----\n"
        );
        assert_eq!(found(&text, "disk.qcow2"), "sha256:a");
        assert_eq!(found(&text, "a (b).iso"), "sha512:c");
        assert_eq!(found(&text, "other"), "OtherNames(\"disk.qcow2\")");
        assert_eq!(found(&format!("SHA2-256(disk)= {a}"), "disk"), "sha256:a");
    }

    #[test]
    fn the_strongest_of_several_is_taken() {
        let text = format!(
            "# MD5 HASH\n{}  disk\n# SHA1 HASH\n{}  disk\n# SHA512 HASH\n{}  disk\n{}  disk\n",
            hash('a', 32),
            hash('b', 40),
            hash('c', 128),
            hash('d', 64)
        );
        assert_eq!(found(&text, "disk"), "sha512:c");
        assert_eq!(found(&format!("{}  disk", hash('a', 32)), "disk"), "md5:a");
    }

    #[test]
    fn a_hash_alone_is_taken_if_there_is_no_other() {
        assert_eq!(found(&format!("{}\n", hash('A', 128)), "any"), "sha512:a");
        assert_eq!(found(&format!("{}  -\n", hash('a', 64)), "any"), "sha256:a");
        let two = format!("{}\n{}\n", hash('a', 64), hash('b', 64));
        assert_eq!(found(&two, "any"), "OtherNames(\"no name\")");
    }

    #[test]
    fn a_name_in_a_directory_counts_unless_it_is_there_twice() {
        let (a, b) = (hash('a', 64), hash('b', 64));
        assert_eq!(found(&format!("{a}  iso/disk\n{a}  copy/disk\n"), "disk"), "sha256:a");
        assert_eq!(found(&format!("{a}  old/disk\n{b}  disk\n"), "disk"), "sha256:b");
        let Err(Missing::Ambiguous(one, two)) = find(&format!("{a}  old/disk\n{b}  new/disk\n"), "disk") else {
            panic!()
        };
        assert!(one.ends_with("of old/disk") && two.ends_with("of new/disk"), "{one} {two}");
    }

    #[test]
    fn what_is_no_checksum_is_passed_over() {
        for text in ["", "<html><body>Not found</body></html>", &hash('g', 64), &hash('a', 63), "SHA256 (disk) = abc"] {
            assert_eq!(find(text, "disk"), Err(Missing::Empty), "{text}");
        }
    }
}
