//! Conversions in which the kernel copies, and not we.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::File;
use std::sync::Mutex;

use common::from_file;
use diskferry::sink::Sink;
use diskferry::{Options, Progress, Result, convert};
use diskferry_testkit::oracle::{Scratch, qemu_img, qemu_io};

const MIB: u64 = 1 << 20;

/// Says that the kernel has copied everything, and looks at the progress when it is asked to publish.
struct Taker<'a> {
    progress: &'a Progress,
    at_the_end: Mutex<Option<u64>>,
}

impl Sink for Taker<'_> {
    fn prepare(&self, _: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, _: &[u8], offset: u64) -> Result<()> {
        panic!("byte {offset} was read and written")
    }

    fn zero(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn is_blank(&self) -> bool {
        true
    }

    fn copy_from(&self, _: &File, _: u64, _: u64, len: u64) -> Result<u64> {
        Ok(len)
    }

    fn finish(&self, _: u64) -> Result<()> {
        assert_eq!(self.progress.written(), 16 * MIB, "with the zeroes behind");
        *self.at_the_end.lock().unwrap() = Some(self.progress.source());
        Ok(())
    }
}

#[test]
fn what_the_kernel_copies_counts_as_passed() {
    let scratch = Scratch::new();
    let image = scratch.path("image.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "16M"]);
    qemu_io(&image, "qcow2", &["write -P 7 0 12M"]);
    let progress = Progress::default();
    let sink = Taker { progress: &progress, at_the_end: Mutex::default() };
    let report = convert(from_file(&image), &sink, &Options::default(), &progress).unwrap();
    assert_eq!(report.allocated, 12 * MIB);
    let reached = sink.at_the_end.lock().unwrap().unwrap();
    assert!(reached > 12 * MIB && progress.total().is_some_and(|total| reached <= total), "{reached}");
}
