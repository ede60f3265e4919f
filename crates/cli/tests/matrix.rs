//! The matrix of faults: whatever a server does, alone and while the disk or the process fails as well, there is the right disk or
//! there is none, and the end comes in time. `scripts/matrix` runs all pairs; every day each fault of a server meets one of the others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::judge::{State, Target, injected, is_temporary, leftovers, not_durable};
use common::names;
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::random::Random;
use diskferry_testkit::serve::fault::{Answer, Chunks, End, File, Framing, Greeting, Ranges, Server, Tag};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::tls::Authority;
use diskferry_testkit::wrap;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Of a raw disk, which cannot show by itself that something is missing of it.
const LEN: usize = 1 << 20;

/// After this much, whatever runs hangs: several times the longest of them, which retries three times and waits a second each, or has five seconds.
const HANGS: Duration = Duration::from_secs(40);

/// By so many KiB the address space of one row is less than that of the row before. In that of the last the program still begins.
const STEP: usize = 192;

/// They mostly wait.
const AT_ONCE: usize = 8;

/// What a server does.
struct Row {
    name: &'static str,
    /// What comes of it when nothing else fails: the code of an error, or `done`.
    alone: &'static str,
    does: Does,
    /// How it is asked.
    format: &'static str,
    more: &'static [&'static str],
}

enum Does {
    Answers(File),
    Greets(Vec<Greeting>, File),
    Is(String),
}

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
            Self::Nothing | Self::Spooling => ended(alone),
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
            Self::Nothing | Self::Spooling => true,
            Self::Disk(..) | Self::Limit(..) | Self::Directory | Self::NoSpool => alone == "done",
            Self::ClosedStdout => alone != "done",
            Self::Signals(..) | Self::Paused | Self::NoMemory => false,
        }
    }
}

fn disk() -> Vec<u8> {
    noise(1)
}

fn noise(seed: u64) -> Vec<u8> {
    let mut disk = Random::new(seed).bytes(LEN);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

/// What is served.
struct Image {
    format: &'static str,
    /// The disk as this image, and another one.
    versions: [Vec<u8>; 2],
}

impl Image {
    /// Of what is packed no byte can be had before those in front of it, and the tables lie behind all data, which has to wait for them.
    fn that_spools() -> Self {
        let mapped = |disk: Vec<u8>| {
            let mut image = Qcow2 { l1: Place::Behind, l2: Place::Behind, ..Qcow2::new(LEN as u64) };
            let clusters = disk.chunks(64 << 10).map(|data| Cluster::Plain(data.to_vec()));
            image.clusters = (0..).zip(clusters).collect();
            wrap::gzip(&image.build().image)
        };
        Self { format: "qcow2.gz", versions: [1, 2].map(noise).map(mapped) }
    }
}

/// What needs more than a script.
struct Stage {
    raw: Image,
    spooling: Image,
    /// About as many KiB of address space as a job takes.
    takes: usize,
    nginx: [RunningNginx; 4],
    /// Where the one authority that is believed is written.
    ca: tempfile::NamedTempFile,
}

impl Stage {
    fn new() -> Self {
        let (known, stranger) = (Authority::new(), Authority::new());
        let serving = |identity| {
            let nginx = Nginx::new().tls(identity).redirect("/down", 302, Origin::Plain, "/disk").start();
            fs::write(nginx.root().join("disk"), disk()).unwrap();
            nginx
        };
        let names = ["127.0.0.1"];
        let nginx = [
            serving(stranger.server(&names)),
            serving(known.expired_server(&names)),
            serving(known.server(&["host.example"])),
            serving(known.server(&names)),
        ];
        let ca = tempfile::NamedTempFile::new().unwrap();
        fs::write(&ca, known.certificate()).unwrap();
        let raw = Image { format: "raw", versions: [1, 2].map(noise) };
        Self { raw, spooling: Image::that_spools(), takes: least_address_space(), nginx, ca }
    }

    /// Every row of the matrix, in its order.
    fn rows(&self, with: With) -> Vec<Row> {
        let Image { format, versions: [image, other] } = if with.spools() { &self.spooling } else { &self.raw };
        let (format, len) = (*format, image.len());
        let right = Answer::right;
        let file = || File::new(image.as_slice()).version(other.as_slice());
        let slow = |millis| right().trickle(1, Duration::from_millis(millis));
        let gets = |answers: &[Answer]| Does::Answers(file().gets(answers.to_vec()));
        let always = |answer: Answer| Does::Answers(file().gets_then([], answer));
        // What a range gets whose first part has come.
        let resumed = |rest: Answer| gets(&[right().cut(300_000, End::Close), rest]);
        let tls = |at: usize, path: &str| Does::Is(self.nginx[at].url(Origin::Tls, path));
        let chunked = |chunks| right().framing(Framing::Chunked(50_000, chunks));
        let away = |to: &str| always(Answer::redirect(302, to));
        // No server of a test that runs beside this one is ever given this port.
        let nobody = "127.0.0.1:1";
        let trailing = |header: &str, body: &[u8]| {
            let head = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
            always(Answer::raw([head.as_bytes(), body, b"more than was said"].concat()))
        };
        let only_chunk = || [format!("{len:x}\r\n").as_bytes(), image, b"\r\n0\r\n\r\n"].concat();
        // Of what is packed anyway it may be the packing that is meant.
        let encoded = if with.spools() { "qcow2-not-this-format" } else { "source-encoding" };
        let greets = |greetings| Does::Greets(greetings, file());
        let rows = [
            ("refused", "source-unreachable", Does::Is(format!("http://{nobody}/disk"))),
            ("DNS fails", "source-unreachable", Does::Is("http://images.invalid/disk".into())),
            ("TLS untrusted", "source-tls", tls(0, "/disk")),
            ("TLS expired", "source-tls", tls(1, "/disk")),
            ("TLS wrong host", "source-tls", tls(2, "/disk")),
            ("401", "source-denied", always(Answer::status(401))),
            ("403", "source-denied", always(Answer::status(403))),
            ("404", "source-not-found", always(Answer::status(404))),
            ("429 + Retry-After once", "done", gets(&[Answer::status(429).header("Retry-After", "1")])),
            ("429 + Retry-After", "source-http-status", always(Answer::status(429).header("Retry-After", "1"))),
            ("500", "source-http-status", always(Answer::status(500))),
            ("503 once", "done", gets(&[Answer::status(503)])),
            ("503", "source-http-status", always(Answer::status(503))),
            (
                "200 with no length and early close",
                "done",
                gets(&[right().framing(Framing::Close).cut(300_000, End::Close)]),
            ),
            ("Content-Length too long", "source-changed", gets(&[right().framing(Framing::LongBy(10))])),
            ("body longer than Content-Length", "done", trailing(&format!("Content-Length: {len}"), image)),
            ("chunked cut mid-chunk", "done", gets(&[chunked(Chunks::Clean).cut(70_001, End::Close)])),
            ("chunked without last chunk", "done", gets(&[chunked(Chunks::Unended)])),
            ("chunked with trailing bytes", "done", trailing("Transfer-Encoding: chunked", &only_chunk())),
            (
                "chunked with trailers",
                "done",
                gets(&[chunked(Chunks::Trailers(vec![("X-More".into(), "yes".into())]))]),
            ),
            ("reset at 0", "done", gets(&[right().cut(0, End::Reset)])),
            ("reset at 1", "done", gets(&[right().cut(1, End::Reset)])),
            ("reset at 512", "done", gets(&[right().cut(512, End::Reset)])),
            ("reset in the middle", "done", gets(&[right().cut(len / 2, End::Reset)])),
            ("reset at the last byte", "done", gets(&[right().cut(len - 1, End::Reset)])),
            ("reset before the head", "done", greets(vec![Greeting::End(End::Reset)])),
            ("mute for ever", "source-stalled", greets(vec![Greeting::Mute; 64])),
            ("stall", "done", gets(&[right().stall(300_000, Server::LIFE)])),
            ("stall for ever", "source-stalled", always(right().stall(0, Server::LIFE))),
            ("5 bytes at 1 byte/s, then a cut", "done", gets(&[slow(900).cut(5, End::Close)])),
            ("Range ignored", "done", resumed(right().ranges(Ranges::Ignored))),
            ("206 at another offset", "done", resumed(right().ranges(Ranges::Shifted(1)))),
            ("206 without Content-Range", "done", resumed(right().ranges(Ranges::Unlabelled))),
            (
                "ETag changed between ranges",
                "source-changed",
                Does::Answers(file().gets_then([right().cut(300_000, End::Close)], right().version(1))),
            ),
            (
                "weak ETag",
                "done",
                Does::Answers(file().gets_then(
                    [right().tag(Tag::Weak).undated().cut(300_000, End::Close)],
                    right().tag(Tag::Weak).undated(),
                )),
            ),
            ("size changed", "source-changed", resumed(right().ranges(Ranges::Total(len as u64 + 512)))),
            ("Content-Encoding: gzip added", encoded, always(right().gzip())),
            ("redirect loop", "source-redirect", away("/disk")),
            ("redirect to file:", "source-redirect", away("file:///etc/passwd")),
            ("redirect to ftp:", "source-redirect", away("ftp://127.0.0.1/disk")),
            ("redirect from https to http", "source-redirect", tls(3, "/down")),
            ("redirect to link-local", "source-forbidden-host", away("http://169.254.169.254/latest")),
            ("multipart/byteranges", "done", resumed(right().ranges(Ranges::Multipart))),
            ("200 with an HTML error page", "source-web-page", always(Answer::html())),
        ];
        let rows = rows.into_iter().map(|(name, alone, does)| Row { name, alone, does, format, more: &[] });
        let packed = File::new(wrap::gzip(&disk()));
        let others = [
            // Of a raw disk nobody can tell that its end is missing.
            Row {
                name: "Content-Length too short",
                alone: "gzip-ends-early",
                does: Does::Answers(packed.gets_then([], right().framing(Framing::ShortBy(10)))),
                format: "raw.gz",
                more: &[],
            },
            Row {
                name: "1 byte/s for ever",
                alone: "source-timeout",
                does: always(slow(500)),
                format,
                more: &["--timeout", "5"],
            },
        ];
        rows.chain(others).collect()
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
    let url = match row.does {
        Does::Is(url) => url,
        Does::Answers(file) => {
            server.put("/disk", file);
            server.url("/disk")
        }
        Does::Greets(greetings, file) => {
            server.put("/disk", file);
            server.greet(greetings);
            server.url("/disk")
        }
    };
    if matches!(with, With::Directory) {
        fs::create_dir(&target).unwrap();
    }
    // Guarded, but for the loopback: what leads elsewhere is not asked.
    let allowed = "127.0.0.1,images.invalid";
    let mut command = match with {
        With::NoMemory => limited(&format!("ulimit -v {}", stage.takes - STEP * (at + 1))),
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
    if output.status.success() {
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
    let json: Value = serde_json::from_str(said).unwrap_or_default();
    match (json["error"]["code"].as_str(), output.status.code()) {
        (Some(code), Some(1..)) => Ok(code.to_owned()),
        (None, Some(1)) | (None, None) if matches!(with, With::NoMemory) => match output.status.signal() {
            None if stderr.contains("panicked") => Ok("panicked".into()),
            Some(6) => Ok("aborted".into()),
            other => Err(format!("{other:?} {stderr}")),
        },
        (None, None) if with.kills() => Ok("killed".into()),
        // A second signal waits for nothing.
        (None, Some(143)) if matches!(with, With::Signals(_, [_, _, ..])) => Ok("stopped at once".into()),
        (None, Some(1..)) if matches!(with, With::ClosedStdout) => Ok("no report".into()),
        other => Err(format!("{other:?} {stderr}")),
    }
}

/// What was killed is done again, which also removes what it has left.
fn again(dir: &Path, target: &Path) -> Result<(), String> {
    let output = plain("true", target);
    let is_right = output.status.success() && fs::read(target).is_ok_and(|found| found == disk());
    let is_right = is_right && names(dir) == ["disk.raw"];
    if is_right { Ok(()) } else { Err(format!("not done again in {dir:?}: {output:?}")) }
}

/// A job that nothing but this limit is in the way of.
fn plain(limit: &str, target: &Path) -> Output {
    let server = Server::start();
    server.put("/disk", File::new(disk()));
    limited(limit)
        .args(["convert", "--threads", "2", "--format", "raw", &server.url("/disk")])
        .arg(target)
        .env_remove("http_proxy")
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap()
}

/// About as many KiB of address space as a job takes: of two one may have a thread at work that the other has not.
fn least_address_space() -> usize {
    let dir = tempfile::tempdir().unwrap();
    let (mut less, mut enough) = (0, 1 << 20);
    while enough - less > STEP {
        let middle = usize::midpoint(less, enough);
        let output = plain(&format!("ulimit -v {middle}"), &dir.path().join("disk.raw"));
        *if output.status.success() { &mut enough } else { &mut less } = middle;
    }
    enough
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
    check(|_| vec![With::Nothing, With::Spooling]);
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
