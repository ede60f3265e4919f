//! One conversion, measured: run by a shell, as people type it.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use diskferry_testkit::assert_same_disk;
use diskferry_testkit::serve::link::{Link, Side};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::registry::{Registry, RunningRegistry};
use wait4::Wait4;

use crate::disks::{Store, named, remove};
use crate::mount::Mount;
use crate::rows::{Contestant, Place, Reached, Role, Row};

/// What commands may call. `exec` spares a process where it stands for the whole command.
const PRELUDE: &str = "sparse() { exec dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none; }
twenty() { for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \"$@\" > /dev/null; done; }\n";

/// Nothing here takes longer; some peers never end when a server is asked in an unlucky way.
const PATIENCE: &str = "300";

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

/// The command under test, and where the others are.
pub struct Tools {
    pub diskferry: PathBuf,
    pub path: OsString,
}

impl Tools {
    /// A shell that runs `command`.
    pub fn shell(&self, command: &str) -> Command {
        self.prepare(Command::new("timeout"), command)
    }

    fn prepare(&self, mut shell: Command, command: &str) -> Command {
        shell.args([PATIENCE, "sh", "-euc"]).arg(format!("{PRELUDE}{command}"));
        shell.env("PATH", &self.path).env("diskferry", &self.diskferry);
        shell
    }
}

/// A row and all that it needs: its image, and whoever serves it.
pub struct Job<'a> {
    tools: &'a Tools,
    disk: PathBuf,
    image: PathBuf,
    /// Where disks are written to.
    dir: PathBuf,
    server: Option<RunningNginx>,
    registry: Option<RunningRegistry>,
    /// Whether the registry has to be a new one each time.
    push: bool,
    link: Option<Link>,
    // Behind all that may use it.
    mount: Option<Mount>,
}

impl<'a> Job<'a> {
    /// Makes the image of `row` and has it served. Disks are written to `dir`. An error says what this machine does not allow.
    pub fn new(row: &Row, store: &Store, dir: &Path, tools: &'a Tools) -> Result<Self, String> {
        let image = named(row.image);
        let (disk, image) = (store.disk(image.disk), store.image(image));
        let dir = dir.to_owned();
        let push = row.reached == Reached::Push;
        let mut job = Self { tools, disk, image, dir, server: None, registry: None, push, link: None, mount: None };
        if let Place::Own(mkfs) = row.place {
            job.mount(store.dir, mkfs)?;
        }
        match row.reached {
            Reached::File | Reached::Push => {}
            Reached::Http => job.server = Some(Nginx::new().start()),
            Reached::Cable => {
                let link = Link::new().map_err(|error| format!("no network namespaces here: {error}"))?;
                link.rate(Side::Far, "200mbit");
                let address = link.address(Side::Far);
                job.server = Some(link.inside(Side::Far, || Nginx::new().address(address).start()));
                job.link = Some(link);
            }
            Reached::Pull => {
                job.registry = Some(Registry::default().start());
                job.shell("$diskferry copy -q --plain-http oci:$image:disk docker://$registry/disk:1")
                    .expect("the image is pushed");
            }
        }
        if let Some(server) = &job.server {
            symlink(&job.image, server.root().join("image")).unwrap();
        }
        Ok(job)
    }

    /// Copies the image and its disk onto a file system made by `mkfs`.
    fn mount(&mut self, scratch: &Path, mkfs: &[&str]) -> Result<(), String> {
        // The image, the disk, copies of both, and room for the file system's own.
        let size = 4 * allocated(&self.disk) + (1 << 30);
        let mount = Mount::new(scratch, mkfs, size, &self.tools.path)?;
        for file in [&mut self.disk, &mut self.image] {
            let copy = mount.dir().join(file.file_name().unwrap());
            let copied = Command::new("cp").arg("--sparse=always").args([&*file, &copy]).status().unwrap();
            assert!(copied.success(), "{} is copied", file.display());
            *file = copy;
        }
        self.dir = mount.dir().to_owned();
        self.mount = Some(mount);
        Ok(())
    }

    /// Lets `contestant` convert it, and compares what came out.
    pub fn convert(&mut self, contestant: &Contestant) -> Result<Sample, String> {
        if self.push {
            self.registry = None;
            self.registry = Some(Registry::default().start());
        }
        let before = self.mount.as_ref().map(Mount::taken);
        let mut sample = self.shell(contestant.command)?;
        sample.stored = match (&self.mount, before) {
            // Blocks that are shared count for both files; how many are new, only the file system knows.
            (Some(mount), Some(before)) => mount.taken().saturating_sub(before),
            _ => allocated(&self.out()) + allocated(&self.scratch()),
        };
        match contestant.role {
            Role::Disk => assert_same_disk(&self.out(), &self.disk),
            Role::Copy(unpack) => {
                self.shell(unpack)?;
                assert_same_disk(&self.out(), &self.disk);
            }
            Role::Words | Role::Bound => {}
        }
        self.clear();
        Ok(sample)
    }

    /// Counts the system calls that `contestant` makes.
    pub fn count_calls(&mut self, contestant: &Contestant) -> Result<u64, String> {
        let counts = self.dir.join("counts");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-qq", "-o"]).arg(&counts).arg("timeout");
        self.run(self.tools.prepare(strace, contestant.command), contestant.command)?;
        self.clear();
        let text = fs::read_to_string(&counts).unwrap();
        remove(&counts);
        // % time, seconds, usecs/call, calls, errors if there were any, "total".
        let total = text.lines().find(|line| line.ends_with(" total")).and_then(|line| line.split_whitespace().nth(3));
        total.and_then(|calls| calls.parse().ok()).ok_or_else(|| format!("strace says {text}"))
    }

    /// Bytes of data on the disk.
    pub fn data(&self) -> u64 {
        allocated(&self.disk)
    }

    /// Removes what a conversion has made, whether it came to its end or not.
    pub fn clear(&self) {
        for path in [self.out(), self.scratch()] {
            remove(&path);
        }
    }

    fn shell(&self, command: &str) -> Result<Sample, String> {
        let shell = match &self.link {
            Some(link) => link.command(Side::Near, "timeout"),
            None => Command::new("timeout"),
        };
        self.run(self.tools.prepare(shell, command), command)
    }

    fn run(&self, mut shell: Command, command: &str) -> Result<Sample, String> {
        shell.env("disk", &self.disk).env("image", &self.image).env("out", self.out()).env("scratch", self.scratch());
        if let Some(server) = &self.server {
            shell.env("url", server.url(Origin::Plain, "/image"));
        }
        if let Some(registry) = &self.registry {
            shell.env("registry", registry.host());
        }
        let started = Instant::now();
        let used = shell.spawn().unwrap().wait4().unwrap();
        let wall = started.elapsed();
        if !used.status.success() {
            return Err(format!("{command}: {}", used.status));
        }
        let (cpu, memory) = (used.rusage.utime + used.rusage.stime, used.rusage.maxrss);
        Ok(Sample { wall, cpu, memory, stored: 0 })
    }

    fn out(&self) -> PathBuf {
        self.dir.join("out.raw")
    }

    fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }
}

/// Bytes that a file, or the files in a directory, have blocks for.
fn allocated(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::read_dir(path).unwrap().map(|entry| allocated(&entry.unwrap().path())).sum(),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    }
}
