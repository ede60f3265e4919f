//! Signals, whatever the job waits for: the exit code says which one came, it takes no longer than a moment, and nothing is left.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_fails, diskferry, json, names, stderr};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// More than any pipe or socket holds.
const DISK: usize = 3 << 20;

/// How long the end may take. The job looks several times a second.
const MOMENT: Duration = Duration::from_secs(2);

/// A directory with the image `disk.img`, which is raw, the named pipe `fifo`, and what was at `disk.raw` before.
struct Lab {
    dir: TempDir,
    disk: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let noise = |at: usize| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0] | 1;
        let mut disk: Vec<u8> = (0..DISK).map(noise).collect();
        disk[510..512].copy_from_slice(b"\x55\xaa");
        let lab = Self { dir: tempfile::tempdir().unwrap(), disk };
        fs::write(lab.at("disk.img"), &lab.disk).unwrap();
        fs::write(lab.at("disk.raw"), "what it was").unwrap();
        assert!(Command::new("mkfifo").arg(lab.at("fifo")).status().unwrap().success());
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).into_os_string().into_string().unwrap()
    }

    fn holds_a_temporary(&self) -> bool {
        names(self.dir.path()).iter().any(|name| name.ends_with(".diskferry"))
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(names(self.dir.path()), ["disk.img", "disk.raw", "fifo"]);
        assert_eq!(fs::read(self.at("disk.raw")).unwrap(), b"what it was");
    }

    /// A job that has begun and then waits for more of its image.
    fn waiting_job(&self) -> Child {
        let target = self.path("disk.raw");
        let mut child = diskferry(["convert", "--json", "-", &target]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(&self.disk[..2 << 20]).unwrap();
        wait_until(|| self.holds_a_temporary());
        child
    }
}

/// What stdout can be. Those that `keep` the writing end see it as a shell does that shares it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Pipe,
    /// Somebody made it so for everybody who has it.
    NonblockingPipe,
    Socket,
    Fifo,
}

const WAYS: [Way; 4] = [Way::Pipe, Way::NonblockingPipe, Way::Socket, Way::Fifo];

/// Starts to write the disk, and returns what it is to be read from, and stdout as its other owners have it.
fn to_reader(lab: &Lab, way: Way) -> (Child, File, Option<OwnedFd>) {
    let (reader, writer): (OwnedFd, OwnedFd) = match way {
        Way::Pipe | Way::NonblockingPipe => {
            let (reader, writer) = io::pipe().unwrap();
            (reader.into(), writer.into())
        }
        Way::Socket => {
            let (reader, writer) = UnixStream::pair().unwrap();
            (reader.into(), writer.into())
        }
        Way::Fifo => {
            let child = diskferry(["convert", &lab.path("disk.img"), &lab.path("fifo")]).spawn().unwrap();
            return (child, File::open(lab.at("fifo")).unwrap(), None);
        }
    };
    if way == Way::NonblockingPipe {
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    }
    let stdout = writer.try_clone().unwrap();
    let child = diskferry(["convert", &lab.path("disk.img"), "-"]).stdout(stdout).spawn().unwrap();
    (child, reader.into(), Some(writer))
}

#[test]
fn a_signal_ends_a_write_that_nobody_reads() {
    for way in WAYS {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let lab = Lab::new();
            let (mut child, reader, shared) = to_reader(&lab, way);
            wait_for_standstill(&reader);
            assert!(child.try_wait().unwrap().is_none(), "{way:?}: it waits");
            let flags = shared.map_or(OFlags::empty(), |fd| fcntl_getfl(fd).unwrap());
            assert_eq!(flags.contains(OFlags::NONBLOCK), way == Way::NonblockingPipe, "{way:?}: flags were changed");
            assert_fails(&ended_by(child, &[signal]), code);
            lab.assert_untouched();
        }
    }
}

#[test]
fn a_disk_reaches_a_reader_that_takes_its_time() {
    for way in WAYS {
        let lab = Lab::new();
        let (mut child, mut reader, shared) = to_reader(&lab, way);
        drop(shared);
        let (mut found, mut chunk) = (Vec::new(), vec![0; 300_000]);
        for _ in 0..3 {
            wait_for_standstill(&reader);
            // Longer than a writer waits without looking around.
            thread::sleep(Duration::from_millis(300));
            let got = reader.read(&mut chunk).unwrap();
            found.extend(&chunk[..got]);
        }
        reader.read_to_end(&mut found).unwrap();
        assert!(found == lab.disk, "{way:?}: another disk arrived");
        assert!(child.wait().unwrap().success(), "{way:?}");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_reader_of_a_named_pipe() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let lab = Lab::new();
        let mut child = diskferry(["convert", &lab.path("disk.img"), &lab.path("fifo")]).spawn().unwrap();
        wait_until(|| catches_signals(&child));
        thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none(), "it waits");
        assert_fails(&ended_by(child, &[signal]), code);
        lab.assert_untouched();
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_writer_of_a_named_pipe() {
    let lab = Lab::new();
    let child = diskferry(["convert", &lab.path("fifo"), &lab.path("disk.raw")]).spawn().unwrap();
    wait_until(|| lab.holds_a_temporary());
    assert_fails(&ended_by(child, &[Signal::INT]), 130);
    lab.assert_untouched();
}

#[test]
fn a_signal_stops_a_job_that_waits_for_its_image() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let lab = Lab::new();
        let output = ended_by(lab.waiting_job(), &[signal]);
        assert_fails(&output, code);
        assert_eq!(json(&output)["error"]["kind"], "stopped");
        lab.assert_untouched();
    }
}

#[test]
fn a_second_signal_takes_the_temporary_file_away_as_well() {
    // A job looks around when a signal wakes it. Two that come in one instant have both been taken before it does, and it then
    // waits on. A job that had noticed would have said so.
    let unnoticed = (0..6).filter(|_| {
        let lab = Lab::new();
        let output = ended_by(lab.waiting_job(), &[Signal::STOP, Signal::TERM, Signal::INT, Signal::CONT]);
        assert!(matches!(output.status.code(), Some(130 | 143)), "{output:?}");
        lab.assert_untouched();
        stderr(&output).is_empty()
    });
    assert!(unnoticed.count() > 0, "no second signal came in time");
}

/// A stderr that is full.
fn full() -> (io::PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[b' '; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

/// A job whose progress nobody reads, on a stderr that is full.
fn job_that_cannot_speak(lab: &Lab, args: &[&str]) -> (Child, io::PipeReader) {
    let (reader, writer) = full();
    let mut command = diskferry(["convert", "--progress", "json", "-", &lab.path("disk.raw")]);
    let mut child = command.args(args).stdin(Stdio::piped()).stderr(writer).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&lab.disk[..2 << 20]).unwrap();
    wait_until(|| lab.holds_a_temporary());
    // The first line comes after a second.
    thread::sleep(Duration::from_millis(1500));
    (child, reader)
}

#[test]
fn a_job_that_cannot_speak_cleans_up_and_ends_a_little_later() {
    let lab = Lab::new();
    let (mut child, _reader) = job_that_cannot_speak(&lab, &[]);
    let began = Instant::now();
    kill(&child, Signal::TERM);
    wait_until(|| !lab.holds_a_temporary());
    assert!(began.elapsed() < MOMENT, "{:?}", began.elapsed());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    lab.assert_untouched();
}

#[test]
fn a_second_signal_ends_a_job_that_cannot_speak() {
    let lab = Lab::new();
    let (child, _reader) = job_that_cannot_speak(&lab, &[]);
    assert_eq!(ended_by(child, &[Signal::INT, Signal::INT]).status.code(), Some(130));
    lab.assert_untouched();
}

#[test]
fn a_job_that_cannot_speak_ends_when_its_time_has_passed() {
    let code = |mut child: Child| {
        wait_until(|| child.try_wait().unwrap().is_some());
        child.wait().unwrap().code()
    };
    let lab = Lab::new();
    let (late, _late_reader) = job_that_cannot_speak(&lab, &["--timeout", "5"]);
    assert_eq!(code(late), Some(4));
    lab.assert_untouched();
    // One that has failed before. A slow reader has so long to hear why.
    let (_reader, stderr) = full();
    let mut command = diskferry(["convert", "--timeout", "2", &lab.path("none"), &lab.path("disk.raw")]);
    let began = Instant::now();
    assert_eq!(code(command.stderr(stderr).spawn().unwrap()), Some(4));
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Sends the signals, so that no two become one, and waits for the end.
#[track_caller]
fn ended_by(mut child: Child, signals: &[Signal]) -> Output {
    // Kept open: that the image ends must not be what ends the job.
    let _stdin = child.stdin.take();
    let began = Instant::now();
    for signal in signals {
        kill(&child, *signal);
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < MOMENT, "it took {:?}", began.elapsed());
    output
}

fn kill(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Whether it has come so far that SIGTERM does not simply kill it.
fn catches_signals(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (Signal::TERM.as_raw() - 1) & 1 == 1
}

/// Waits until something was written, and no more is.
fn wait_for_standstill(reader: impl AsFd) {
    let mut before = 0;
    wait_until(|| {
        thread::sleep(Duration::from_millis(150));
        let now = ioctl_fionread(&reader).unwrap();
        std::mem::replace(&mut before, now) == now && now > 0
    });
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain");
        thread::sleep(Duration::from_millis(10));
    }
}

/// No handler, no cleaning up: a job that a signal could not stop is not begun.
#[test]
fn signals_that_cannot_be_watched_are_unexpected() {
    let lab = Lab::new();
    // As many as the loader needs, whatever is open here. What wakes the watcher takes two more.
    let few = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n 4; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", few, "sh", env!("CARGO_BIN_EXE_diskferry"), "convert", "--json"])
        .args([lab.at("disk.img"), lab.at("disk.raw")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = &json(&output)["error"];
    assert_eq!((&error["code"], output.status.code()), (&"unexpected".into(), Some(1)), "{output:?}");
    assert!(stderr(&output).starts_with("diskferry: watching for signals: "), "{output:?}");
    lab.assert_untouched();
}

/// Ctrl-C ends a whole pipeline: who feeds the job goes away at the same moment, and leaves what looks like a shorter disk.
#[test]
fn a_pipe_that_ends_with_a_signal_has_not_come_to_its_end() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)].repeat(10) {
        let lab = Lab::new();
        let mut child =
            diskferry(["convert", "-f", "raw", "-", &lab.path("disk.raw")]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&lab.disk[..2 << 20]).unwrap();
        wait_until(|| lab.holds_a_temporary());
        kill(&child, signal);
        drop(stdin);
        assert_fails(&child.wait_with_output().unwrap(), code);
        lab.assert_untouched();
    }
}
