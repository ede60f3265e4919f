//! An image is the same disk, or the same error, from a file and by one thread as from a stream, however that is cut into chunks, and by two.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};

use diskferry::{Error, Input, Limits, Options, Progress, Result, Stated, convert};

use crate::disk::Disk;
use crate::image::{LIMITS, told};

/// Largest disk, which no image may have more written of. Those of testdata have a little over 4 MiB.
const CAP: u64 = 5 << 20;

/// Codes of what a file can give and a stream cannot.
const FILE_ONLY: [&str; 2] = ["stream-mapped-twice", "vmdk-uncounted-marker"];

/// Carries `image`, whatever it is, from a stream.
pub fn carried(image: &[u8]) {
    let _ = carry(Input::Stream { reader: Box::new(Cursor::new(image.to_vec())), len: None }, &None, 1);
}

/// The disk of `image`, from a file.
pub(crate) fn carried_from(image: &[u8], format: &str) -> Result<Vec<u8>, Error> {
    carry(Input::File(file_of(image).expect("a temporary file")), &format.parse().ok(), 1)
}

/// Carries `image` both ways and compares. The first byte says how large chunks are.
pub fn same(image: &[u8], format: Option<&str>) {
    let Some((chunk, image)) = image.split_first() else { return };
    let format: Option<Stated> = format.and_then(|format| format.parse().ok());
    let by_file = carry(Input::File(file_of(image).expect("a temporary file")), &format, 1);
    let chunks = Chunks { image: image.to_vec(), at: 0, chunk: usize::from(*chunk).pow(2) + 1 };
    let by_stream = carry(Input::Stream { reader: Box::new(chunks), len: None }, &format, 2);
    match (by_file, by_stream) {
        // What a stream cannot give again, a file can.
        (_, Err(error)) if FILE_ONLY.contains(&error.code().as_str()) => {}
        // A file is known to be too short before anything else is, and shows the footer of a VMDK first; a stream when it ends.
        (Err(one), Err(other)) if one.code().ends_with("-ends-early") || other.code().starts_with("vmdk-") => {
            assert_eq!(one.kind(), other.kind(), "{one} and {other}");
        }
        (Err(one), Err(other)) => assert_eq!(one.code(), other.code(), "{one} and {other}"),
        (Ok(one), Ok(other)) => assert!(one == other, "another disk"),
        (one, other) => panic!("{:?} and {:?}", one.map(drop), other.map(drop)),
    }
}

fn file_of(image: &[u8]) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(image)?;
    file.rewind()?;
    Ok(file)
}

pub(crate) fn carry(input: Input, format: &Option<Stated>, threads: usize) -> Result<Vec<u8>, Error> {
    let limits = Limits { virtual_size: CAP, ..LIMITS };
    let options = Options { format: format.clone(), limits, threads, ..Options::default() };
    let disk = Disk::new(CAP);
    convert(input, &disk, &options, &Progress::default()).inspect_err(told)?;
    Ok(disk.finished().expect("a success is a disk"))
}

/// Gives so many bytes per read.
struct Chunks {
    image: Vec<u8>,
    at: usize,
    chunk: usize,
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.chunk);
        let got = (&self.image[self.at..]).read(&mut buf[..len])?;
        self.at += got;
        Ok(got)
    }
}
