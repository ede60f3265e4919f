//! A source file that is written to while it is read.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use common::from_file;
use diskferry::digest::Algorithm;
use diskferry::sink::{FileOptions, FileSink, Sink};
use diskferry::{Error, Kind, Options, Progress, Report, Result, convert, open};
use diskferry_testkit::oracle::{Scratch, qemu_img};
use diskferry_testkit::{Random, wrap};

/// A file sink before which `meanwhile` happens once, when the first bytes come.
struct Meanwhile<'a> {
    sink: FileSink,
    once: Once,
    meanwhile: &'a (dyn Fn() + Sync),
}

impl Sink for Meanwhile<'_> {
    fn prepare(&self, size: Option<u64>) -> Result<()> {
        self.sink.prepare(size)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.once.call_once(self.meanwhile);
        self.sink.write_at(data, offset)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.sink.zero(offset, len)
    }

    fn finish(&self, size: u64) -> Result<()> {
        self.sink.finish(size)
    }
}

fn carry(image: &Path, target: &Path, options: &Options, meanwhile: &(dyn Fn() + Sync)) -> Result<Report, Error> {
    let sink = FileSink::create(target, FileOptions { sync: false, ..FileOptions::default() })?;
    let sink = Meanwhile { sink, once: Once::new(), meanwhile };
    let result = convert(from_file(image), &sink, options, &Progress::default());
    assert_eq!(target.exists(), result.is_ok(), "{result:?}");
    result
}

/// Writes to a file as another program would, at a time that differs however coarse the clock is.
fn change(image: &Path, how: impl Fn(&mut File)) {
    let mut file = OpenOptions::new().write(true).open(image).unwrap();
    how(&mut file);
    file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
}

/// The same 8 MiB as a raw disk, as a qcow2, and in wrappings.
fn images(scratch: &Scratch) -> Vec<std::path::PathBuf> {
    let disk = Random::new(1).bytes(8 << 20);
    let raw = scratch.write("raw", &disk);
    let qcow2 = scratch.path("qcow2");
    qemu_img(&["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
    vec![raw, qcow2, scratch.write("raw.gz", &wrap::gzip(&disk)), scratch.write("raw.zst", &wrap::zstd(&disk, &["-1"]))]
}

#[test]
fn a_file_that_is_written_to_while_it_is_read_is_refused_and_nothing_is_published() {
    type Change = (&'static str, fn(&mut File));
    let changes: [Change; 5] = [
        ("its first byte", |file| file.write_all_at(&[0x55], 0).unwrap()),
        ("its last byte", |file| {
            let end = file.metadata().unwrap().len();
            file.write_all_at(&[0x55], end - 1).unwrap();
        }),
        ("a byte more", |file| {
            let end = file.metadata().unwrap().len();
            file.write_all_at(&[0x55], end).unwrap();
        }),
        ("half of it", |file| file.set_len(file.metadata().unwrap().len() / 2).unwrap()),
        ("nothing left", |file| file.set_len(0).unwrap()),
    ];
    for (name, how) in changes {
        for digests in [vec![], vec![Algorithm::Sha256]] {
            let scratch = Scratch::new();
            for image in images(&scratch) {
                let options = Options { digests: digests.clone(), threads: 2, ..Options::default() };
                let target = scratch.path("disk.raw");
                let error = carry(&image, &target, &options, &|| change(&image, how)).unwrap_err();
                let found = (error.code(), error.kind(), error.is_transient());
                let wanted = ("source-changed".to_owned(), Kind::Source, true);
                assert_eq!(found, wanted, "{name} of {}: {error}", image.display());
            }
        }
    }
}

#[test]
fn what_is_looked_at_in_full_must_not_change_either() {
    let scratch = Scratch::new();
    for image in images(&scratch) {
        let opened = open(from_file(&image), &Options::default(), &Progress::default()).unwrap();
        change(&image, |file| file.write_all(&[0x55]).unwrap());
        assert_eq!(opened.verify().unwrap_err().code(), "source-changed", "{}", image.display());
    }
}

#[test]
fn a_file_that_is_read_renamed_and_locked_away_meanwhile_is_carried() {
    let scratch = Scratch::new();
    for image in images(&scratch) {
        let (target, moved) = (scratch.path("disk.raw"), scratch.path("moved"));
        carry(&image, &target, &Options::default(), &|| {
            fs::read(&image).unwrap();
            fs::set_permissions(&image, Permissions::from_mode(0o400)).unwrap();
            File::open(&image).unwrap().set_times(fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH)).unwrap();
            fs::hard_link(&image, &moved).unwrap();
            fs::remove_file(&image).unwrap();
        })
        .unwrap();
        fs::remove_file(&moved).unwrap();
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn an_error_of_the_target_stays_one_when_the_source_changes_too() {
    struct Full<'a>(&'a Path);
    impl Sink for Full<'_> {
        fn prepare(&self, _: Option<u64>) -> Result<()> {
            Ok(())
        }
        fn write_at(&self, _: &[u8], offset: u64) -> Result<()> {
            change(self.0, |file| file.write_all(&[0x55]).unwrap());
            Err(Error::writing("writing", Some(offset), std::io::Error::from(std::io::ErrorKind::StorageFull)))
        }
        fn zero(&self, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        fn finish(&self, _: u64) -> Result<()> {
            panic!("never")
        }
    }
    let scratch = Scratch::new();
    let image = scratch.write("raw", &Random::new(1).bytes(1 << 20));
    let error = convert(from_file(&image), &Full(&image), &Options::default(), &Progress::default()).unwrap_err();
    assert_eq!(error.code(), "target-no-space");
}
