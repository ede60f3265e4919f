//! One conversion, measured: run by a shell, as people type it.

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use diskferry_testkit::assert_same_disk;
use diskferry_testkit::serve::link::{Link, Side};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use wait4::Wait4;

use crate::rows::{Contestant, Reached, Row};

/// What a conversion took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub wall: Duration,
    /// In user and system mode, of the whole process tree.
    pub cpu: Duration,
    /// Largest resident set of any process in the tree, in bytes.
    pub memory: u64,
    /// What the disk, and copies of the image, took of the file system, in bytes.
    pub stored: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { wall, cpu, memory, stored } = self;
        let (wall, cpu) = (wall.as_secs_f64(), cpu.as_secs_f64());
        write!(f, "{wall:.2} s, {cpu:.2} CPU s, {} MiB, {} MiB stored", memory >> 20, stored >> 20)
    }
}

/// Where conversions happen.
pub struct Job<'a> {
    dir: &'a Path,
    diskferry: &'a Path,
    server: Option<RunningNginx>,
    link: Option<Link>,
}

impl<'a> Job<'a> {
    /// Conversions in `dir`, where the disks lie, with the command under test at `diskferry`.
    pub fn new(dir: &'a Path, diskferry: &'a Path) -> Self {
        Self { dir, diskferry, server: None, link: None }
    }

    /// Makes the image of `row`.
    pub fn make(&mut self, row: &Row) {
        self.shell(row, row.make);
        self.server = match row.reached {
            Reached::File => None,
            Reached::Http => Some(Nginx::new().start()),
            Reached::Cable => {
                let link = Link::new().expect("network namespaces, which root can have");
                link.rate(Side::Far, "200mbit");
                let address = link.address(Side::Far);
                let nginx = link.inside(Side::Far, || Nginx::new().address(address).start());
                self.link = Some(link);
                Some(nginx)
            }
        };
        if let Some(server) = &self.server {
            symlink(self.image(), server.root().join("image")).unwrap();
        }
    }

    /// Lets `contestant` convert it, and compares what came out.
    pub fn convert(&self, row: &Row, contestant: &Contestant) -> Sample {
        let mut sample = self.shell(row, contestant.command);
        if contestant.makes_disk {
            assert_same_disk(&self.out(), &self.disk(row));
        }
        for file in [self.out(), self.scratch()] {
            if let Ok(metadata) = fs::metadata(&file) {
                sample.stored += metadata.blocks() * 512;
                fs::remove_file(file).unwrap();
            }
        }
        sample
    }

    /// Removes the image.
    pub fn clear(&mut self) {
        self.server = None;
        self.link = None;
        fs::remove_file(self.image()).unwrap();
    }

    fn shell(&self, row: &Row, command: &str) -> Sample {
        let mut shell = match &self.link {
            Some(link) => link.command(Side::Near, "sh"),
            None => Command::new("sh"),
        };
        shell.args(["-euc", command]);
        shell.env("disk", self.disk(row)).env("image", self.image()).env("out", self.out());
        shell.env("scratch", self.scratch()).env("diskferry", self.diskferry);
        if let Some(server) = &self.server {
            shell.env("url", server.url(Origin::Plain, "/image"));
        }
        let started = Instant::now();
        let used = shell.spawn().unwrap().wait4().unwrap();
        let wall = started.elapsed();
        assert!(used.status.success(), "{}: {command}: {}", row.name, used.status);
        let (cpu, memory) = (used.rusage.utime + used.rusage.stime, used.rusage.maxrss);
        Sample { wall, cpu, memory, stored: 0 }
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
