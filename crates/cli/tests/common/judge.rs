//! The judge of faults: jobs that are disturbed, and what may be found at their target then. It is what it was, or the disk; a device may
//! also be plainly unfinished, and stdout has a beginning of the disk.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use diskferry_testkit::oracle::{Scratch, qemu_img, sample_disk};
use diskferry_testkit::places::{Loop, OLD};
use diskferry_testkit::serve::fault::{self, Server};
use diskferry_testkit::wrap;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::names;

/// What a file that is replaced had before.
const BEFORE: &[u8] = b"what it was";

/// How much of a device comes last of all.
const LAST: usize = 4 << 10;

/// After this much a job hangs.
pub const HANGS: Duration = Duration::from_secs(40);

/// What makes a disk and its name durable. The page cache has the right bytes though these fail, so bytes do not show a failure that was
/// ignored.
const DURABLE: [&str; 5] = ["fsync", "fdatasync", "rename", "renameat", "renameat2"];

/// How many system calls were made to fail, by the log of `strace -f`.
pub fn injected(log: &str) -> usize {
    failed(log).count()
}

fn failed(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| line.ends_with("(INJECTED)"))
}

/// The call of such a log whose failure no job may be done with. One that was interrupted is made again.
pub fn not_durable(log: &str) -> Option<&str> {
    failed(log).find(|line| !line.contains(" EINTR ") && DURABLE.contains(&called(line).unwrap_or_default()))
}

/// The name of the call in a line of such a log: `7 fsync(3) = 0`, or `7 <... fsync resumed>) = 0`.
fn called(line: &str) -> Option<&str> {
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    call.strip_prefix("<... ").unwrap_or(call).split(['(', ' ']).next()
}

/// Where a disk goes.
pub enum Target {
    /// A file that is not there.
    New(PathBuf),
    /// A file that is.
    Existing(PathBuf),
    /// A block device of somebody else's data, larger than the disk.
    Device(PathBuf),
    Stdout,
}

/// What is found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Before,
    Unfinished,
    Complete,
}

impl Target {
    /// As the command line has it.
    pub fn path(&self) -> &Path {
        match self {
            Self::New(path) | Self::Existing(path) | Self::Device(path) => path,
            Self::Stdout => Path::new("-"),
        }
    }

    /// Makes it what it is before a job.
    pub fn reset(&self) {
        match self {
            Self::New(path) => {
                let _ = fs::remove_file(path);
            }
            Self::Existing(path) => fs::write(path, BEFORE).unwrap(),
            Self::Device(path) => {
                let len = fs::read(path).unwrap().len();
                File::options().write(true).open(path).unwrap().write_all(&vec![OLD; len]).unwrap();
            }
            Self::Stdout => {}
        }
    }

    /// What is there, if it may be; `said` went to stdout.
    pub fn state(&self, disk: &[u8], said: &[u8]) -> Result<State, String> {
        match self {
            Self::New(path) | Self::Existing(path) => match (fs::read(path), self) {
                (Ok(found), _) if found == disk => Ok(State::Complete),
                (Ok(found), Self::Existing(_)) if found == BEFORE => Ok(State::Before),
                (Err(_), Self::New(_)) if !path.is_symlink() => Ok(State::Before),
                (found, _) => Err(format!("another disk: {:?}", found.map(|found| found.len()))),
            },
            Self::Device(path) => of_device(&fs::read(path).unwrap(), disk),
            Self::Stdout if said == disk => Ok(State::Complete),
            Self::Stdout if disk.starts_with(said) => Ok(State::Unfinished),
            Self::Stdout => Err(format!("{} bytes that are no beginning of the disk", said.len())),
        }
    }
}

fn of_device(found: &[u8], disk: &[u8]) -> Result<State, String> {
    let (written, behind) = found.split_at(disk.len());
    let is_old = |bytes: &[u8]| bytes.iter().all(|&byte| byte == OLD);
    if !is_old(behind) {
        return Err("what is behind the disk has changed".into());
    }
    if written == disk {
        return Ok(State::Complete);
    }
    if is_old(written) {
        return Ok(State::Before);
    }
    if written[..LAST].iter().all(|&byte| byte == 0) {
        return Ok(State::Unfinished);
    }
    let first = (0..disk.len()).find(|&at| written[at] != disk[at]);
    Err(format!("a device that looks finished, and differs at {first:?}"))
}

/// What lies beside the target in `dir` and should not.
pub fn leftovers(dir: &Path, target: &Target) -> Vec<String> {
    let own = target.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    names(dir).into_iter().filter(|name| *name != own).collect()
}

/// Whether a name says that it is an unfinished disk.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".diskferry")
}

/// How an image comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    File,
    Pipe,
    Http,
}

/// An image and the disk in it.
pub struct Image {
    pub path: PathBuf,
    pub disk: Vec<u8>,
}

impl Image {
    /// A disk of `size` bytes with a boot sector as an image of this name: `qcow2`, `vmdk`, `vdi` or `raw`, and perhaps `.gz`, `.xz`, `.zst` or `.bz2`.
    pub fn make(dir: &Path, size: u64, name: &str) -> Self {
        let raw = sample_disk(dir, size, 1);
        let mut disk = fs::read(&raw).unwrap();
        let noise = |at: usize| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0] | 1;
        (0..2 * LAST).for_each(|at| disk[at] = noise(at));
        disk[510..512].copy_from_slice(b"\x55\xaa");
        fs::write(&raw, &disk).unwrap();
        let (format, wrapping) = name.split_once('.').unwrap_or((name, ""));
        let plain = dir.join(format!("{format}.plain"));
        let more: &[&str] = match format {
            "qcow2" => &["-c"],
            "vmdk" => &["-o", "subformat=streamOptimized"],
            _ => &[],
        };
        let ends = [raw.to_str().unwrap(), plain.to_str().unwrap()];
        qemu_img(&[&["convert", "-f", "raw", "-O", format], more, &ends].concat());
        let plain = fs::read(plain).unwrap();
        let bytes = match wrapping {
            "" => plain,
            "gz" => wrap::gzip(&plain),
            "xz" => wrap::xz(&plain, &["-1"]),
            "zst" => wrap::zstd(&plain, &["-1"]),
            "bz2" => wrap::bzip2(&plain),
            _ => panic!("no such wrapping"),
        };
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        Self { path, disk }
    }

    /// Starts to carry it, with these words in front of the program.
    pub fn carry(&self, feed: Feed, target: &Target, before: &[&str]) -> Running {
        let server = (feed == Feed::Http).then(|| {
            let server = Server::start();
            server.put("/image", fault::File::new(fs::read(&self.path).unwrap()));
            server
        });
        let source = match (feed, &server) {
            (Feed::File, _) => self.path.clone().into_os_string(),
            (Feed::Pipe, _) => "-".into(),
            (Feed::Http, server) => server.as_ref().unwrap().url("/image").into(),
        };
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,TERM").args(before).arg(env!("CARGO_BIN_EXE_diskferry"));
        command.args(["convert", "--threads", "1"]);
        if feed == Feed::Http {
            // Of tries nothing is said: what fails does so in one line.
            command.args(["--quiet", "--retries", "2"]);
        }
        command.arg(source).arg(target.path());
        command.stdin(if feed == Feed::Pipe { Stdio::piped() } else { Stdio::null() });
        for name in ["http_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        let pid = Pid::from_child(&child);
        if let Some(mut stdin) = child.stdin.take() {
            let bytes = fs::read(&self.path).unwrap();
            // It may end before it has read everything.
            thread::spawn(move || stdin.write_all(&bytes));
        }
        let (send, ended) = mpsc::channel();
        thread::spawn(move || send.send(child.wait_with_output().unwrap()));
        Running { pid, ended, _server: server }
    }
}

/// Where a disk goes, and what is there before.
#[derive(Debug, Clone, Copy)]
pub enum To {
    New,
    Existing,
    Stdout,
    Device,
}

/// A job, and where it takes place.
pub struct Stage {
    pub scratch: Scratch,
    pub image: Image,
    feed: Feed,
    pub target: Target,
    _device: Option<Loop>,
}

impl Stage {
    /// A disk of `size` bytes as the image called `name`, that comes in by `feed`.
    pub fn new(size: u64, name: &str, feed: Feed, to: To) -> Self {
        const MIB: u64 = 1 << 20;
        let scratch = Scratch::new();
        for dir in ["from", "to"] {
            fs::create_dir(scratch.path(dir)).unwrap();
        }
        let device = matches!(to, To::Device).then(|| Loop::full_of_old_bytes(size.next_multiple_of(MIB) + MIB, &[]));
        let path = device.as_ref().map_or_else(|| scratch.path("to/disk.raw"), |device| device.path.clone());
        let target = match to {
            To::New => Target::New(path),
            To::Existing => Target::Existing(path),
            To::Stdout => Target::Stdout,
            To::Device => Target::Device(path),
        };
        let image = Image::make(&scratch.path("from"), size, name);
        Self { scratch, image, feed, target, _device: device }
    }

    /// Begins it, with these words in front of the program.
    pub fn begin(&self, before: &[&str]) -> Running {
        self.image.carry(self.feed, &self.target, before)
    }

    /// Runs it to its end.
    pub fn run(&self, before: &[&str]) -> Result<Output, String> {
        self.begin(before).end(HANGS)
    }

    /// Says what is wrong with how it ended, as [`judge`] does.
    pub fn judge(&self, output: &Output, codes: &[i32]) -> Result<Outcome, String> {
        judge(output, &self.scratch.path("to"), &self.target, &self.image.disk, codes)
    }

    /// Says what is wrong with how it was cut off, as [`judge_cut_off`] does.
    pub fn judge_cut_off(&self, output: &Output) -> Result<Outcome, String> {
        judge_cut_off(output, &self.scratch.path("to"), &self.target, &self.image.disk)
    }

    /// What lies beside the target and should not.
    pub fn leftovers(&self) -> Vec<String> {
        leftovers(&self.scratch.path("to"), &self.target)
    }
}

/// A job on its way.
pub struct Running {
    pid: Pid,
    ended: Receiver<Output>,
    _server: Option<Server>,
}

impl Running {
    /// It may have ended already; its number is then nobody else's yet, as nobody has been told.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// How it ends, if that takes no longer than this.
    pub fn end(self, within: Duration) -> Result<Output, String> {
        self.ended.recv_timeout(within).map_err(|_| {
            let _ = kill_process_group(self.pid, Signal::KILL);
            "it hangs".into()
        })
    }
}

/// How a run ended, in a few words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    pub how: String,
    pub state: State,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.how, self.state)
    }
}

/// Says what is wrong with how a job ended, if something is: done without the disk, another exit code than one of `codes` or another
/// message than one line, or something left in `dir`.
pub fn judge(output: &Output, dir: &Path, target: &Target, disk: &[u8], codes: &[i32]) -> Result<Outcome, String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let state = target.state(disk, &output.stdout)?;
    let left = leftovers(dir, target);
    if !left.is_empty() {
        return Err(format!("left {left:?}: {stderr}"));
    }
    match output.status.code() {
        Some(0) if state == State::Complete => Ok(Outcome { how: "done".into(), state }),
        Some(0) => Err(format!("done, and it is {state:?}")),
        Some(code) if codes.contains(&code) && stderr.starts_with("diskferry: ") && stderr.lines().count() == 1 => {
            Ok(Outcome { how: format!("exit code {code}"), state })
        }
        _ => Err(format!("{:?}: {stderr}", output.status)),
    }
}

/// Says what is wrong with how a job was cut off, if something is: nothing but a file whose name says so may be left in `dir`.
pub fn judge_cut_off(output: &Output, dir: &Path, target: &Target, disk: &[u8]) -> Result<Outcome, String> {
    let state = target.state(disk, &output.stdout)?;
    let left = leftovers(dir, target);
    if !left.iter().all(|name| is_temporary(name)) {
        return Err(format!("left {left:?}"));
    }
    let how = if left.is_empty() { "cut off" } else { "cut off, and left a temporary file" };
    Ok(Outcome { how: how.into(), state })
}
