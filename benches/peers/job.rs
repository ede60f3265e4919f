//! One conversion, measured: run by a shell, as people type it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use diskferry_testkit::assert_same_disk;
use wait4::Wait4;

use crate::rows::{Contestant, Row};

/// What a conversion took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub wall: Duration,
    /// In user and system mode, of the whole process tree.
    pub cpu: Duration,
    /// Largest resident set of any process in the tree, in bytes.
    pub memory: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { wall, cpu, memory } = self;
        write!(f, "{:.2} s, {:.2} CPU s, {} MiB", wall.as_secs_f64(), cpu.as_secs_f64(), memory >> 20)
    }
}

/// Where conversions happen.
pub struct Job<'a> {
    dir: &'a Path,
    diskferry: &'a Path,
}

impl<'a> Job<'a> {
    /// Conversions in `dir`, where the disks lie, with the command under test at `diskferry`.
    pub fn new(dir: &'a Path, diskferry: &'a Path) -> Self {
        Self { dir, diskferry }
    }

    /// Makes the image of `row`.
    pub fn make(&self, row: &Row) {
        self.shell(row, row.make);
    }

    /// Lets `contestant` convert it, and compares what came out.
    pub fn convert(&self, row: &Row, contestant: &Contestant) -> Sample {
        let sample = self.shell(row, contestant.command);
        assert_same_disk(&self.out(), &self.disk(row));
        for file in [self.out(), self.scratch()] {
            if file.exists() {
                fs::remove_file(file).unwrap();
            }
        }
        sample
    }

    /// Removes the image.
    pub fn clear(&self) {
        fs::remove_file(self.image()).unwrap();
    }

    fn shell(&self, row: &Row, command: &str) -> Sample {
        let mut shell = Command::new("sh");
        shell.args(["-euc", command]);
        shell.env("disk", self.disk(row)).env("image", self.image()).env("out", self.out());
        shell.env("scratch", self.scratch()).env("diskferry", self.diskferry);
        let started = Instant::now();
        let used = shell.spawn().unwrap().wait4().unwrap();
        let wall = started.elapsed();
        assert!(used.status.success(), "{}: {command}: {}", row.name, used.status);
        Sample { wall, cpu: used.rusage.utime + used.rusage.stime, memory: used.rusage.maxrss }
    }

    fn disk(&self, row: &Row) -> PathBuf {
        self.dir.join(row.disk)
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    fn out(&self) -> PathBuf {
        self.dir.join("out.raw")
    }

    fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }
}
