//! What stands around one image in a tar archive, as the layer of a container image has it: a folder `disk/`, and the image in it.
//!
//! Everything that could differ from one time to the next is fixed, so that the same image makes the same archive.
//! Ustar as POSIX.1-1988 has it; a pax header in front where the name or the size does not fit.

use std::iter::repeat;

/// Length of a block.
const BLOCK: u64 = 512;

/// Whose the files are: nobody's on the machine that unpacks them, as importers of virtualization platforms have it.
const OWNER: u64 = 64535;

/// Longest name, and largest file, that a header of ustar has room for.
const NAME: usize = 100;
const SIZE: u64 = 0o77_777_777_777;

/// What comes before and behind an image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The headers.
    pub head: Vec<u8>,
    /// What fills the last block, and two blocks of zeros for the end.
    pub tail: Vec<u8>,
}

impl Envelope {
    /// Around an image of `size` bytes, which gets the name `disk/NAME`. `name` is a file's, without slashes.
    pub fn new(name: &str, size: u64) -> Self {
        let mut head = header(b"disk/", 0o755, 0, b'5');
        let path = format!("disk/{name}");
        let fits = path.len() <= NAME && path.is_ascii();
        let mut records = Vec::new();
        if !fits {
            records.extend(record("path", &path));
        }
        if size > SIZE {
            records.extend(record("size", &size.to_string()));
        }
        if !records.is_empty() {
            head.extend(header(b"disk/pax", 0o644, records.len() as u64, b'x'));
            let room = records.len().next_multiple_of(512);
            records.resize(room, 0);
            head.extend(records);
        }
        let short = if fits { path.as_bytes() } else { b"disk/image" };
        head.extend(header(short, 0o644, if size > SIZE { 0 } else { size }, b'0'));
        let fill = BLOCK.saturating_sub(size % BLOCK) % BLOCK;
        // At most three blocks.
        let tail = vec![0; usize::try_from(fill.saturating_add(2 * BLOCK)).unwrap_or_default()];
        Self { head, tail }
    }

    /// Length of the archive around an image of `size` bytes.
    pub fn archive_len(&self, size: u64) -> u64 {
        size.saturating_add(self.head.len() as u64).saturating_add(self.tail.len() as u64)
    }
}

fn header(name: &[u8], mode: u64, size: u64, kind: u8) -> Vec<u8> {
    let fields: [(&[u8], usize); 8] = [
        (name, NAME),
        (&octal(mode, 7), 8),
        (&octal(OWNER, 7), 8),
        (&octal(OWNER, 7), 8),
        (&octal(size, 11), 12),
        (&octal(0, 11), 12),
        // The sum is made as if it were blanks.
        (b"        ", 8),
        (&[kind], 1),
    ];
    let mut block = Vec::new();
    for (value, room) in fields {
        block.extend(value.iter().chain(repeat(&0)).take(room));
    }
    // Name of a link, then magic and version, and no names of owners.
    block.resize(257, 0);
    block.extend(b"ustar\x0000");
    block.resize(512, 0);
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    for (place, byte) in block.iter_mut().skip(148).zip(octal(sum, 6).into_iter().chain([0, b' '])) {
        *place = byte;
    }
    block
}

fn octal(value: u64, digits: usize) -> Vec<u8> {
    format!("{value:0digits$o}").into_bytes()
}

/// A record of a pax header: its own length stands in front, and counts itself.
fn record(name: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {name}={value}\n");
    let with = |len: usize| rest.len().saturating_add(len.to_string().len());
    let mut len = with(0);
    while len != with(len) {
        len = with(len);
    }
    format!("{len}{rest}").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};
    use std::process::Command;

    use super::*;
    use crate::archive::{Found, Hidden, Pick, Room, find};

    #[test]
    fn what_is_written_is_read_back() {
        let long = format!("{}.qcow2", "x".repeat(200));
        for (name, size) in [("a.qcow2", 1000), ("a", 0), ("a", 1024), ("диск.img", 5), (&long, 7)] {
            let envelope = Envelope::new(name, size);
            let data = vec![7; usize::try_from(size).unwrap()];
            let archive = [envelope.head.clone(), data.clone(), envelope.tail.clone()].concat();
            assert_eq!(archive.len() as u64, envelope.archive_len(size));
            assert_eq!(archive.len() % 512, 0);
            let reader = Box::new(io::Cursor::new(archive));
            let room = Room { archive: 1 << 20, beside: 1 << 20, passed: 0 };
            let Found::Image(mut image) = find(reader, &Pick::UnderDisk, &mut Hidden::default(), room).unwrap() else {
                panic!("{name}")
            };
            let mut found = Vec::new();
            image.reader.read_to_end(&mut found).unwrap();
            assert!(found == data && image.len == size && image.at == envelope.head.len() as u64, "{name}");
        }
    }

    #[test]
    fn gnu_tar_lists_it_with_fixed_owners_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        for (name, size) in [("a b.qcow2", 1000_u64), ("диск.img", 9 << 30)] {
            let envelope = Envelope::new(name, size);
            let file = std::fs::File::create(&path).unwrap();
            use std::os::unix::fs::FileExt;
            file.write_all_at(&envelope.head, 0).unwrap();
            file.write_all_at(&envelope.tail, envelope.head.len() as u64 + size).unwrap();
            let output = Command::new("tar")
                .args(["--quoting-style=literal", "--utc", "--full-time", "--numeric-owner", "-tvf"])
                .arg(&path)
                .env("LC_ALL", "C.UTF-8")
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            let listed = String::from_utf8(output.stdout).unwrap();
            let lines: Vec<_> =
                listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            let file = format!("-rw-r--r-- 64535/64535 {size} 1970-01-01 00:00:00 disk/{name}");
            assert_eq!(lines, ["drwxr-xr-x 64535/64535 0 1970-01-01 00:00:00 disk/".to_owned(), file]);
        }
    }
}
