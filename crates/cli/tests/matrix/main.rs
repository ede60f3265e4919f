//! The matrix of faults: whatever a server does, alone and while the disk or the process fails as well, there is the right disk or
//! there is none, and the end comes in time. `scripts/matrix` runs all pairs; every day each fault of a server meets one of the others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod rows;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::judge::{State, Target, injected, is_temporary, leftovers, not_durable};
use common::names;
use diskferry_testkit::serve::fault::{File, Server};
use diskferry_testkit::serve::front::{Goodbye, TlsFront};
use rows::{Does, LEN, Row, Stage, disk};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// After this much, whatever runs hangs: several times the longest of them, which retries three times and waits a second each, or has five seconds.
const HANGS: Duration = Duration::from_secs(40);

/// By so many KiB the address space of one row is less than that of the row before. In that of the last the program still begins.
const STEP: usize = 192;

/// They mostly wait.
const AT_ONCE: usize = 8;

/// What else fails.
#[derive(Debug, Clone, Copy)]
enum With {
    Nothing,
    /// A system call of the disk's file, as `strace` injects it.
    Disk(&'static str, &'static str),
    /// A shell's command in front of the program.
    Limit(&'static str, &'static str),
    Signals(&'static str, &'static [Signal]),
    Paused,
    /// Less address space than a job takes, and of each row another amount.
    NoMemory,
    ClosedStdout,
    NoSpool,
    Directory,
    /// It is 1971, and each look at the clock finds another day.
    Clock,
    /// Nothing either, but all is within TLS, which ends in this way.
    Tls(Goodbye),
    /// Nothing either, of an image that spools to a file, in as much address space as a plain image may take memory.
    Spooling,
}

const DISKS: [With; 10] = [
    With::Disk("ENOSPC at once", "ftruncate:error=ENOSPC"),
    With::Disk("ENOSPC in the middle", "pwrite64:error=ENOSPC:when=2+"),
    With::Disk("EDQUOT", "pwrite64:error=EDQUOT:when=3+"),
    With::Disk("EIO on write", "pwrite64:error=EIO:when=2"),
    With::Disk("writes are interrupted", "pwrite64:error=EINTR:when=1..4"),
    With::Disk("EIO on fsync", "fsync:error=EIO:when=1"),
    With::Disk("ENOSPC on fsync", "fsync:error=ENOSPC:when=1"),
    With::Disk("EROFS on rename", "rename,renameat,renameat2:error=EROFS"),
    With::Limit("files are limited", "ulimit -f 64"),
    With::Directory,
];

const PROCESSES: [With; 8] = [
    With::Signals("SIGKILL", &[Signal::KILL]),
    With::Signals("SIGTERM", &[Signal::TERM]),
    With::Signals("SIGTERM again and again", &[Signal::TERM; 64]),
    With::Paused,
    With::Limit("10 descriptors", "ulimit -n 10"),
    With::NoMemory,
    With::ClosedStdout,
    With::NoSpool,
];

impl With {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing else",
            Self::Disk(name, _) | Self::Limit(name, _) | Self::Signals(name, _) => name,
            Self::Paused => "SIGSTOP and SIGCONT",
            Self::NoMemory => "too little address space",
            Self::ClosedStdout => "stdout is closed",
            Self::NoSpool => "nowhere to spool to",
            Self::Directory => "the target is a directory",
            Self::Clock => "a clock that jumps",
            Self::Tls(Goodbye::Said) => "TLS",
            Self::Tls(Goodbye::Unsaid) => "TLS that is cut",
            Self::Spooling => "a spool in 64 MiB of address space",
        }
    }

    /// Nothing can be cleaned up behind these.
    fn kills(self) -> bool {
        matches!(self, Self::Signals(_, [Signal::KILL]) | Self::NoMemory)
    }

    fn spools(self) -> bool {
        matches!(self, Self::NoSpool | Self::Spooling)
    }

    /// Whether this is what a run has met, by what came of it and what comes of its row alone.
    fn is_met(self, ran: &Ran, alone: &str) -> bool {
        let ended = |outcome| ran.outcome == outcome;
        match self {
            Self::Nothing | Self::Spooling | Self::Clock | Self::Tls(_) => ended(alone),
            Self::Disk(..) => ran.injected > 0,
            Self::Limit(..) | Self::NoMemory | Self::Directory => !ended(alone),
            Self::Signals(_, [Signal::KILL]) => ended("killed"),
            Self::Signals(_, [_]) => ended("stopped"),
            // Few jobs live long enough for the second; of all of them some do.
            Self::Signals(..) => ended("stopped at once") || !is_full() && ended("stopped"),
            Self::Paused => ran.stood_still,
            Self::ClosedStdout => ended("no report"),
            Self::NoSpool => ended("target-write"),
        }
    }

    /// Whether a run must meet it. Who gets a disk does so with all of the disk's, no descriptor and no spool; who gets none has an error
    /// to report. When a signal comes and where memory ends is chance.
    fn must_be_met(self, alone: &str) -> bool {
        match self {
            Self::Nothing | Self::Spooling | Self::Clock | Self::Tls(_) => true,
            Self::Disk(..) | Self::Limit(..) | Self::Directory | Self::NoSpool => alone == "done",
            Self::ClosedStdout => alone != "done",
            Self::Signals(..) | Self::Paused | Self::NoMemory => false,
        }
    }
}

fn is_full() -> bool {
    env::var("DISKFERRY_MATRIX").is_ok_and(|wanted| wanted == "full")
}

/// What came of a run.
struct Ran {
    /// The code of an error, or some words.
    outcome: String,
    /// How many system calls were made to fail.
    injected: usize,
    /// Whether it was seen to be stopped.
    stood_still: bool,
}

/// Runs the program once against the row at `at`. Gives how it ended, or what is wrong with that.
fn run(stage: &Stage, at: usize, with: With) -> Result<Ran, String> {
    let row = stage.rows(with).swap_remove(at);
    let (dir, log, server) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap(), Server::start());
    let target = dir.path().join("disk.raw");
    let slow = |with: With| matches!(with, With::Signals(..) | With::Paused);
    let front = match with {
        With::Tls(goodbye) => Some(TlsFront::start(&stage.identity, server.address(), goodbye)),
        _ => None,
    };
    let url = match row.does {
        Does::Is(url) => url,
        Does::Answers(file, greetings) => {
            server.put("/disk", file);
            server.greet(greetings);
            front.as_ref().map_or_else(|| server.url("/disk"), |front| front.url("/disk"))
        }
        Does::Shakes(greetings) => {
            server.greet(greetings);
            server.url("/disk").replace("http:", "https:")
        }
    };
    if matches!(with, With::Directory) {
        fs::create_dir(&target).unwrap();
    }
    // Guarded, but for the loopback: what leads elsewhere is not asked.
    let allowed = "127.0.0.1,images.invalid";
    let mut command = match with {
        With::NoMemory => limited(&format!("ulimit -v {}", least_address_space() - STEP * (at + 1))),
        _ => program(with, log.path()),
    };
    // Faults are counted by thread: of two that write eight times one comes to the third write.
    command.args(["convert", "--json", "--threads", "2", "--retries", "2", "--stall-timeout", "1"]);
    command.args(["--format", row.format]).args(row.more);
    command.args(["--allow-hosts", allowed, "--cacert"]).arg(stage.ca.path());
    if with.spools() {
        command.args(["--limit-spool-memory", "0"]);
    }
    if matches!(with, With::NoSpool) {
        command.args(["--spool-dir", "/nowhere"]);
    }
    // Whoever has no memory to say where it panics may wait for itself for ever.
    command.env_remove("RUST_BACKTRACE");
    command.arg(&url).arg(&target).stdin(Stdio::null()).stderr(Stdio::piped());
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let reader = (!matches!(with, With::ClosedStdout)).then_some(reader);
    let child = command.stdout(writer).spawn().unwrap();
    drop(command);
    let stood_still = slow(with) && disturb(&child, &server, with);
    let output = ended(child)?;
    let mut said = String::new();
    if let Some(mut reader) = reader {
        std::io::Read::read_to_string(&mut reader, &mut said).unwrap();
    }
    let outcome = judge(&output, &said, &target, with)?;
    if with.kills() {
        again(dir.path(), &target)?;
    }
    let log = fs::read_to_string(log.path()).unwrap();
    if let (true, Some(call)) = (output.status.success(), not_durable(&log)) {
        return Err(format!("done, in spite of {call}"));
    }
    Ok(Ran { outcome, injected: injected(&log), stood_still })
}

/// The program, and what fails with it. `log` gets the system calls that were made to fail.
fn program(with: With, log: &Path) -> Command {
    let (binary, plain) = (env!("CARGO_BIN_EXE_diskferry"), "--default-signal=HUP,INT,TERM");
    match with {
        With::Disk(_, inject) => {
            let mut command = Command::new("strace");
            let calls = inject.split(':').next().unwrap();
            let inject = format!("inject={inject}");
            command.args(["-f", "-qq", "--seccomp-bpf", "-o"]).arg(log);
            command.args(["-e", &format!("trace={calls}"), "-e", &inject, binary]);
            command
        }
        With::Limit(_, limit) => limited(limit),
        With::Spooling => limited("ulimit -v 65536"),
        With::Clock => {
            let mut command = Command::new("faketime");
            command.args(["--exclude-monotonic", "-f", "@1971-01-01 00:00:00 i86400.0", binary]);
            command
        }
        _ => {
            let mut command = Command::new("env");
            command.args([plain, binary]);
            command
        }
    }
}

/// The program behind a shell's command.
fn limited(limit: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_diskferry")]);
    command
}

/// Sends the signals once the server has been asked, or could have been. Says whether the program was seen to stand still.
fn disturb(child: &Child, server: &Server, with: With) -> bool {
    let begun = Instant::now();
    while server.requests().is_empty() && begun.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(1));
    }
    // It may have ended by now.
    let send = |signal| {
        let _ = kill_process(Pid::from_child(child), signal);
    };
    match with {
        With::Signals(_, signals) => {
            for signal in signals {
                send(*signal);
                // Two that wait are one, and between two it may come to its end.
                thread::sleep(Duration::from_micros(100));
            }
            false
        }
        _ => {
            send(Signal::STOP);
            thread::sleep(if is_full() { Duration::from_secs(60) } else { Duration::from_secs(2) });
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            send(Signal::CONT);
            stat.contains(") T ")
        }
    }
}

fn ended(mut child: Child) -> Result<Output, String> {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > HANGS {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err("it hangs".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output().unwrap())
}

fn judge(output: &Output, said: &str, target: &Path, with: With) -> Result<String, String> {
    let place = Target::New(target.to_owned());
    let left = leftovers(target.parent().unwrap(), &place);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if stderr.contains("panicked") && !matches!(with, With::NoMemory) {
        return Err(stderr);
    }
    let may_be_left = |name: &String| with.kills() && is_temporary(name);
    if !left.iter().all(may_be_left) {
        return Err(format!("left {left:?}: {stderr}"));
    }
    let json: Value = serde_json::from_str(said).unwrap_or_default();
    if output.status.success() {
        if matches!(with, With::Spooling) && json["spooled"].as_u64().is_none_or(|spooled| spooled < LEN as u64) {
            return Err(format!("it was not spooled: {said}"));
        }
        return match place.state(&disk(), b"")? {
            State::Complete => Ok("done".into()),
            other => Err(format!("done, and it is {other:?}")),
        };
    }
    let state = place.state(&disk(), b"");
    let is_unchanged = match with {
        With::Directory => target.is_dir(),
        // It may come when the disk is there.
        With::Signals(..) | With::NoMemory => state.is_ok(),
        _ => state == Ok(State::Before),
    };
    if !is_unchanged {
        return Err(format!("failed and there is a disk: {stderr}"));
    }
    match (json["error"]["code"].as_str(), output.status.code()) {
        (Some(code), Some(1..)) => Ok(code.to_owned()),
        // Between its last word and its end.
        (Some(code), None) if with.kills() => Ok(code.to_owned()),
        (None, Some(1)) | (None, None) if matches!(with, With::NoMemory) => match output.status.signal() {
            None if stderr.contains("panicked") => Ok("panicked".into()),
            Some(6) => Ok("aborted".into()),
            other => Err(format!("{other:?} {stderr}")),
        },
        (None, None) if with.kills() => Ok("killed".into()),
        // Nobody listened for it yet, and nothing had begun.
        (None, None) if matches!(with, With::Signals(..)) && output.status.signal() == Some(15) => {
            Ok("ended before it began".into())
        }
        // A second signal waits for nothing.
        (None, Some(143)) if matches!(with, With::Signals(_, [_, _, ..])) => Ok("stopped at once".into()),
        (None, Some(1..)) if matches!(with, With::ClosedStdout) => Ok("no report".into()),
        other => Err(format!("{other:?} {stderr}")),
    }
}

/// What was killed is done again, which also removes what it has left.
fn again(dir: &Path, target: &Path) -> Result<(), String> {
    let output = plain("true", target)?;
    let is_right = output.status.success() && fs::read(target).is_ok_and(|found| found == disk());
    let is_right = is_right && names(dir) == ["disk.raw"];
    if is_right { Ok(()) } else { Err(format!("not done again in {dir:?}: {output:?}")) }
}

/// A job that nothing but this limit is in the way of.
fn plain(limit: &str, target: &Path) -> Result<Output, String> {
    let server = Server::start();
    server.put("/disk", File::new(disk()));
    let mut command = limited(limit);
    command.args(["convert", "--quiet", "--threads", "2", "--format", "raw", &server.url("/disk")]).arg(target);
    command.env_remove("http_proxy").env_remove("RUST_BACKTRACE").stdout(Stdio::null()).stderr(Stdio::piped());
    ended(command.spawn().unwrap())
}

/// About as many KiB of address space as a job takes: of two one may have a thread at work that the other has not.
fn least_address_space() -> usize {
    static LEAST: OnceLock<usize> = OnceLock::new();
    *LEAST.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (mut less, mut enough) = (0, 1 << 20);
        while enough - less > STEP {
            let middle = usize::midpoint(less, enough);
            let output = plain(&format!("ulimit -v {middle}"), &dir.path().join("disk.raw"));
            let is_enough = output.is_ok_and(|output| output.status.success());
            *if is_enough { &mut enough } else { &mut less } = middle;
        }
        enough
    })
}

/// Runs pairs, prints what came of them, and fails if one is wrong.
fn check(pairs: impl Fn(usize) -> Vec<With>) {
    let stage = Stage::new();
    let count = stage.rows(With::Nothing).len();
    let jobs: Vec<(usize, With)> =
        (0..count).flat_map(|at| pairs(at).into_iter().map(move |with| (at, with))).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let outcomes: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let faults: Mutex<BTreeMap<&str, [usize; 2]>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((at, with)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Row { name, alone, .. } = stage.rows(*with).swap_remove(*at);
                    let ran = run(&stage, *at, *with).and_then(|ran| match with.is_met(&ran, alone) {
                        false if with.must_be_met(alone) => {
                            Err(format!("is not met: {}, and alone {alone}", ran.outcome))
                        }
                        is_met => Ok((ran.outcome, is_met)),
                    });
                    match ran {
                        Ok((outcome, is_met)) => {
                            *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
                            let mut faults = faults.lock().unwrap();
                            let [runs, met] = faults.entry(with.name()).or_default();
                            *runs += 1;
                            *met += usize::from(is_met);
                        }
                        Err(what) => wrong.lock().unwrap().push(format!("{name} with {}: {what}", with.name())),
                    }
                }
            });
        }
    });
    let (wrong, outcomes) = (wrong.into_inner().unwrap(), outcomes.into_inner().unwrap());
    let faults = faults.into_inner().unwrap();
    let met = faults.values().map(|[_, met]| met).sum::<usize>();
    eprintln!("{} runs, {} wrong: {outcomes:?}; {met} met their fault: {faults:?}", jobs.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(faults.values().all(|[_, met]| *met > 0), "a fault was never met: {faults:?}");
}

/// All of them, or every day one for each row.
fn some(all: &'static [With]) -> impl Fn(usize) -> Vec<With> {
    move |at| if is_full() { all.to_vec() } else { vec![all[at % all.len()]] }
}

#[test]
fn every_fault_of_a_server_ends_with_the_disk_or_with_its_own_error() {
    let tls = [Goodbye::Said, Goodbye::Unsaid].map(With::Tls);
    check(|_| [With::Nothing, With::Spooling, With::Clock].into_iter().chain(tls).collect());
}

#[test]
fn faults_of_servers_and_processes_together_never_make_a_wrong_disk() {
    check(some(&PROCESSES));
}

/// `scripts/test` leaves this out, loudly, where system calls cannot be traced.
mod traced {
    use super::*;

    #[test]
    fn faults_of_servers_and_disks_together_never_make_a_wrong_disk() {
        check(some(&DISKS));
    }
}
