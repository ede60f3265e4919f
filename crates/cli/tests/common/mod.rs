//! What the tests of the command line share: running it, and looking at what it left.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

pub mod extreme;
pub mod judge;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

/// The program, without a terminal. It hears the signals that it stops for, also where whatever runs the tests ignores some
/// of them, as `nohup` and the background jobs of scripts do.
pub fn diskferry<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_diskferry")]);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("RUST_BACKTRACE");
    command
}

pub fn run<const N: usize>(args: [&str; N]) -> Output {
    diskferry(args).output().unwrap()
}

/// Runs it with `input` coming from a pipe.
pub fn run_with_pipe<const N: usize>(args: [&str; N], input: &[u8]) -> Output {
    let mut child = diskferry(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    })
}

pub fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
}

/// Fails unless the run ended with `code` and one line on stderr.
#[track_caller]
pub fn assert_fails(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = stderr(output);
    // Before the last line a server may have failed, and been asked again.
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("diskferry: try ")).collect();
    assert!(text.ends_with('\n') && lines.len() == 1 && lines[0].starts_with("diskferry: "), "{text:?}");
}

/// Names of everything in `dir`.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A terminal: what a person holds, and what a program is given.
pub fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
    let program = OpenOptions::new().read(true).write(true).open(name).unwrap();
    (person.into(), program)
}
