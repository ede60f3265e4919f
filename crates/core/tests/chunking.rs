//! However a stream is cut into reads, the disk and the report are those of the file: random layouts, random chunks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::{self, Cursor, Read};

use common::images::{qcow2, vdi, vmdk};
use common::{carry, from_file, stream};
use diskferry::Options;
use diskferry_testkit::oracle::Scratch;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_a_qcow2(writer in qcow2(), chunks in chunks()) {
        assert_chunking_is_invisible(writer.build().image, &writer.disk(), &chunks);
    }

    #[test]
    fn of_a_vdi(writer in vdi(), chunks in chunks()) {
        assert_chunking_is_invisible(writer.build().image, &writer.disk(), &chunks);
    }

    #[test]
    fn of_a_vmdk(writer in vmdk(), chunks in chunks()) {
        assert_chunking_is_invisible(writer.build().image, &writer.disk(), &chunks);
    }
}

fn assert_chunking_is_invisible(image: Vec<u8>, disk: &[u8], chunks: &[usize]) {
    let scratch = Scratch::new();
    let path = scratch.write("image", &image);
    let (of_file, of_stream) = (scratch.path("file.raw"), scratch.path("stream.raw"));
    let file = carry(from_file(&path), &of_file, &Options::default()).unwrap();
    let chunked = Chunked { image: Cursor::new(image), chunks: chunks.to_vec(), reads: 0 };
    let stream = carry(stream(chunked), &of_stream, &Options::default()).unwrap();
    assert!(fs::read(of_file).unwrap() == disk, "from a file");
    assert!(fs::read(of_stream).unwrap() == disk, "from a stream");
    assert_eq!((file.inspection, file.allocated), (stream.inspection, stream.allocated));
}

/// Gives chunks of these lengths, over and over.
struct Chunked {
    image: Cursor<Vec<u8>>,
    chunks: Vec<usize>,
    reads: usize,
}

impl Read for Chunked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.chunks[self.reads % self.chunks.len()]);
        self.reads += 1;
        self.image.read(&mut buf[..len])
    }
}

/// From single bytes to more than the importer asks for at once.
fn chunks() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..16_usize, 500..530_usize, 1..9000_usize, 1..3_000_000_usize], 1..20)
}
