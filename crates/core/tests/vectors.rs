//! Every image of testdata, and what must happen to it: see testdata/INDEX.toml.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are not tests to clippy")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Mutex;

use diskferry::digest::Algorithm;
use diskferry::sink::Sink;
use diskferry::{Input, Options, Progress, Report, Result, convert};
use diskferry_testkit::faults::{Choppy, OneByte};
use sha2::{Digest, Sha256};
use toml::{Table, Value};

#[test]
fn every_image_from_a_file() {
    for vector in vectors() {
        vector.check("file", Input::File(File::open(vector.path()).unwrap()));
    }
}

#[test]
fn every_image_from_a_stream_of_odd_chunks() {
    for (seed, vector) in (0..).zip(vectors()) {
        let reader = Choppy::new(File::open(vector.path()).unwrap(), seed);
        vector.check("stream", Input::Stream { reader: Box::new(reader), len: None });
    }
}

#[test]
fn every_image_from_a_file_that_is_digested() {
    let options = Options { digests: vec![Algorithm::Sha256], ..Options::default() };
    for vector in vectors() {
        vector.check_with(&options, "digested file", Input::File(File::open(vector.path()).unwrap()));
    }
}

#[test]
fn every_image_one_byte_at_a_time() {
    for vector in vectors() {
        let reader = OneByte(std::io::Cursor::new(fs::read(vector.path()).unwrap()));
        vector.check("single bytes", Input::Stream { reader: Box::new(reader), len: None });
    }
}

#[test]
fn every_file_is_in_the_index() {
    let listed: BTreeSet<_> = vectors().iter().map(Vector::path).collect();
    let index = dir().join("INDEX.toml");
    let found = fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| *path != index);
    assert_eq!(listed, found.collect());
}

struct Vector(Table);

impl Vector {
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap()
    }

    fn path(&self) -> PathBuf {
        dir().join(self.text("file"))
    }

    fn check(&self, how: &str, input: Input) {
        self.check_with(&Options::default(), how, input);
    }

    fn check_with(&self, options: &Options, how: &str, input: Input) {
        let name = format!("{} from {how}", self.text("file"));
        let disk = Disk::default();
        let outcome = convert(input, &disk, options, &Progress::default());
        match self.0.get("refused").and_then(Value::as_str) {
            Some(code) => match outcome {
                Ok(_) => panic!("{name} was carried, {code} was expected"),
                Err(error) => assert_eq!(error.code(), code, "{name}: {error}"),
            },
            None => self.check_carried(&name, &outcome.unwrap_or_else(|error| panic!("{name}: {error}")), disk),
        }
    }

    fn check_carried(&self, name: &str, report: &Report, disk: Disk) {
        let seen = &report.inspection;
        let size = u64::try_from(self.0["virtual-size"].as_integer().unwrap()).unwrap();
        let wrappings: Vec<_> =
            self.0["compression"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!((seen.image.format, &seen.wrappings), (self.text("format"), &wrappings), "{name}");
        assert_eq!(seen.unpacked_size, Some(size), "{name}");
        assert_eq!(seen.stored_size, Some(fs::metadata(self.path()).unwrap().len()), "{name}");
        assert!(report.transferred <= seen.stored_size.unwrap(), "{name}: {} bytes read", report.transferred);
        let disk = disk.0.into_inner().unwrap();
        assert_eq!(disk.len() as u64, size, "{name}");
        let sha256: String = Sha256::digest(&disk).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sha256, self.text("sha256"), "{name}: other bytes came out");
    }
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn vectors() -> Vec<Vector> {
    let mut index: Table = fs::read_to_string(dir().join("INDEX.toml")).unwrap().parse().unwrap();
    let Some(Value::Array(images)) = index.remove("image") else { panic!("the index names no image") };
    images.into_iter().map(|image| Vector(image.as_table().unwrap().clone())).collect()
}

/// A disk in memory.
#[derive(Default)]
struct Disk(Mutex<Vec<u8>>);

impl Disk {
    /// Lets `change` work on `len` bytes at `offset`, which come into being as garbage, so that only what is written counts.
    fn change(&self, offset: u64, len: u64, change: impl FnOnce(&mut [u8])) {
        const GARBAGE: u8 = 0xEE;
        let mut disk = self.0.lock().unwrap();
        let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
        if disk.len() < end {
            disk.resize(end, GARBAGE);
        }
        change(&mut disk[start..end]);
    }
}

impl Sink for Disk {
    fn prepare(&self, _: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.change(offset, data.len() as u64, |target| target.copy_from_slice(data));
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.change(offset, len, |target| target.fill(0));
        Ok(())
    }

    fn finish(&self, size: u64) -> Result<()> {
        self.change(size, 0, |_| ());
        Ok(())
    }
}
