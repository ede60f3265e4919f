//! Images on servers, by the program itself: what it says, what it keeps to itself, and how it ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_fails, diskferry, json, names, run, stderr, stdout};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::fault::{Answer, End, File, Framing, Ranges, Server};
use diskferry_testkit::{container, wrap};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A server with an image, a directory for its disk, and the URL that it is asked for, which has secrets in it.
struct Lab {
    server: Server,
    dir: TempDir,
    disk: Vec<u8>,
}

impl Lab {
    fn new(gets: impl Into<Vec<Answer>>, rest: Answer) -> Self {
        let image = Qcow2::new(4 << 20).fill(1);
        let lab = Self { server: Server::start(), dir: tempfile::tempdir().unwrap(), disk: image.disk() };
        lab.server.put("/disk", File::new(image.build().image).gets_then(gets, rest));
        lab
    }

    fn url(&self) -> String {
        format!("http://me:s3cr3t@{}/disk?signature=s3cr3t", self.server.address())
    }

    fn shown(&self) -> String {
        format!("http://{}/disk", self.server.address())
    }

    fn target(&self) -> String {
        self.dir.path().join("disk.raw").into_os_string().into_string().unwrap()
    }

    #[track_caller]
    fn assert_nothing(&self) {
        assert!(names(self.dir.path()).is_empty());
    }
}

#[track_caller]
fn assert_silent_about_secrets(output: &std::process::Output) {
    assert!(!stdout(output).contains("s3cr3t") && !stderr(output).contains("s3cr3t"), "{output:?}");
}

#[test]
fn converting_a_url_makes_the_disk_and_a_report_without_secrets() {
    let lab = Lab::new([], Answer::right());
    let output = run(["convert", "--json", &lab.url(), &lab.target()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(fs::read(lab.target()).unwrap() == lab.disk);
    assert_silent_about_secrets(&output);
    let report = json(&output);
    assert_eq!((&report["filename"], &report["format"]), (&json!(lab.shown()), &json!("qcow2")));
    assert!(lab.server.requests().iter().all(|request| request.path == "/disk?signature=s3cr3t"));
}

#[test]
fn a_raw_disk_whose_end_only_closing_tells_comes_with_a_warning() {
    let lab = Lab::new([], Answer::right());
    let disk = vec![0; 1 << 20];
    let bare = || Answer::right().framing(Framing::Close).ranges(Ranges::Ignored);
    let put = |path: &str, bytes: &[u8], answer| lab.server.put(path, File::new(bytes.to_vec()).gets_then([], answer));
    put("/bare", &disk, bare());
    put("/cut", &disk, bare().cut(100 << 10, End::Close));
    put("/identity", &disk, bare().header("Transfer-Encoding", "identity").cut(100 << 10, End::Close));
    put("/asked", &disk, Answer::right().framing(Framing::Close));
    put("/told", &disk, Answer::right());
    put("/packed", &wrap::gzip(&disk), bare());
    let sum = container::digest(&disk);
    for (path, more, is_warned) in [
        ("/bare", &[][..], true),
        ("/cut", &[], true),
        ("/identity", &[], true),
        ("/bare", &["--checksum", &sum], false),
        ("/asked", &[], false),
        ("/told", &[], false),
        ("/packed", &[], false),
    ] {
        let (url, target) = (lab.server.url(path), lab.target());
        let output = diskferry(["convert", "--json"]).args(more).args([&url, &target]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{path}: {output:?}");
        let warnings = json(&output)["warnings"].to_string();
        assert_eq!(warnings.contains("if the connection was cut"), is_warned, "{path}: {warnings}");
        assert_eq!(stderr(&output).contains("if the connection was cut"), is_warned, "{path}: {output:?}");
        fs::remove_file(lab.target()).unwrap();
    }
}

#[test]
fn what_a_server_puts_around_its_answer_is_taken_off_or_refused_and_never_a_disk() {
    let lab = Lab::new([], Answer::right());
    for coding in ["gzip", "gzip, chunked", "chunked, gzip"] {
        let answer = Answer::right().framing(Framing::Close).header("Transfer-Encoding", coding);
        lab.server.put("/packed", File::new(wrap::gzip(&[7; 4096])).gets_then([], answer));
        for format in [&[][..], &["--format", "raw"]] {
            let mut job = diskferry(["convert", "--json"]);
            let output = job.args(format).args([&lab.server.url("/packed"), &lab.target()]).output().unwrap();
            assert_fails(&output, 4);
            assert_eq!(json(&output)["error"]["code"], "source-encoding", "{coding}: {output:?}");
        }
    }
    assert_eq!(names(lab.dir.path()), [""; 0]);
}

#[test]
fn looking_at_a_url_says_what_it_is_and_no_secrets() {
    let lab = Lab::new([], Answer::right());
    let output = run(["info", &lab.url()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("unpacked size:     4194304 bytes (4 MiB)"), "{output:?}");
    assert_silent_about_secrets(&output);
    let output = run(["info", "--json", &lab.url()]);
    assert_eq!((&json(&output)["filename"], &json(&output)["unpacked-size"]), (&json!(lab.shown()), &json!(4_194_304)));
    assert_silent_about_secrets(&output);
    let output = run(["info", "--full", &lab.url()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Linux lets nobody in where as many are waiting as may: these.
fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    iter::from_fn(connect).take(20_000).collect()
}

#[test]
fn a_server_that_takes_no_connection_is_waited_for_half_a_minute() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = crowd(address);
    let began = Instant::now();
    let output = run(["info", "--json", "--retries", "0", "--stall-timeout", "300", &format!("http://{address}/a")]);
    let took = began.elapsed();
    assert_eq!((output.status.code(), &json(&output)["error"]["code"]), (Some(4), &json!("source-unreachable")));
    assert!((30..45).contains(&took.as_secs()), "{took:?} with {} in front", waiting.len());
}

#[test]
fn a_server_that_takes_a_connection_within_half_a_minute_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = crowd(address);
    let began = Instant::now();
    let server = thread::spawn(move || {
        thread::sleep(Duration::from_secs(10));
        drop(waiting);
        // Of those who have been waiting nothing comes.
        let mut asked = listener
            .incoming()
            .map(Result::unwrap)
            .find(|stream| stream.peek(&mut [0]).is_ok_and(|len| len > 0))
            .unwrap();
        BufReader::new(&asked).lines().map(Result::unwrap).find(String::is_empty).unwrap();
        asked.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n").unwrap();
        asked.write_all(&[1; 512]).unwrap();
    });
    let output = run(["info", "--json", "--retries", "0", &format!("http://{address}/a")]);
    let took = began.elapsed();
    assert_eq!((output.status.code(), &json(&output)["unpacked-size"]), (Some(0), &json!(512)), "{output:?}");
    assert!((10..30).contains(&took.as_secs()), "{took:?}");
    server.join().unwrap();
}

#[test]
fn failures_have_their_codes_and_leave_nothing() {
    for (rest, exit, code) in [
        (Answer::status(404), 4, "source-not-found"),
        (Answer::status(403), 4, "source-denied"),
        (Answer::html(), 4, "source-web-page"),
        (Answer::right().cut(100_000, End::Close).header("ETag", "").undated(), 4, "source-interrupted"),
    ] {
        let lab = Lab::new([], rest);
        let output = run(["convert", "--retries", "0", &lab.url(), &lab.target()]);
        assert_fails(&output, exit);
        assert_silent_about_secrets(&output);
        lab.assert_nothing();
        let output = run(["convert", "--json", "--retries", "0", &lab.url(), &lab.target()]);
        assert_eq!((output.status.code(), &json(&output)["error"]["code"]), (Some(exit), &json!(code)));
        assert_silent_about_secrets(&output);
    }
    let gone = Lab::new([], Answer::right());
    let (url, target) = (gone.url(), gone.target());
    let Lab { server, dir, .. } = gone;
    drop(server);
    let output = run(["convert", "--retries", "0", &url, &target]);
    assert_fails(&output, 4);
    assert_silent_about_secrets(&output);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_host_without_an_address_is_tried_again_and_then_named() {
    // RFC 6761 keeps this name from ever having an address.
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("disk.raw");
    for (quiet, begins) in
        [(false, ["diskferry: try 2 in ", "diskferry: images"].as_slice()), (true, &["diskferry: images"])]
    {
        let mut job = diskferry(["convert", "--retries=1", "https://images.invalid/disk", target.to_str().unwrap()]);
        let output = job.args(quiet.then_some("-q")).output().unwrap();
        assert_fails(&output, 4);
        let text = stderr(&output);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), begins.len(), "{text}");
        for (line, begin) in lines.iter().zip(begins) {
            assert!(line.starts_with(begin) && line.contains("images.invalid cannot be reached: "), "{text}");
        }
        assert!(text.ends_with(" (tried again once; --retries)\n"), "{text}");
    }
    assert!(names(dir.path()).is_empty());
}

#[test]
fn progress_says_when_it_waits_to_retry() {
    let lab = Lab::new([Answer::status(503).header("Retry-After", "3")], Answer::right());
    let output = run(["convert", "--progress", "json", &lab.url(), &lab.target()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines: Vec<Value> = stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let retrying: Vec<_> =
        lines.iter().map(|line| &line["progress"]["retrying"]).filter(|value| !value.is_null()).collect();
    assert!(!retrying.is_empty(), "{lines:?}");
    assert_eq!(retrying[0]["attempt"], 1, "{lines:?}");
    let last = &lines.last().unwrap()["progress"];
    assert_eq!((&last["done"], &last["source"]), (&json!(true), &last["total"]));
}

#[test]
fn all_commands_say_that_a_server_has_failed_and_is_asked_again() {
    let lab = Lab::new([Answer::status(503)], Answer::right());
    let output = run(["info", &lab.url()]);
    assert!(output.status.success() && stderr(&output).contains("diskferry: try 2 in "), "{output:?}");
    let lab = Lab::new([Answer::status(503)], Answer::right());
    let output = run(["info", "--progress", "json", &lab.url()]);
    let last: serde_json::Value = serde_json::from_str(stderr(&output).lines().last().unwrap()).unwrap();
    assert_eq!(last["progress"]["done"], true);

    let server = Server::start();
    let keep = lab.dir.path().join("keep");
    fs::write(&keep, "a\n").unwrap();
    let store = format!("docker://{}", server.address());
    let list = ["--keep-list", keep.to_str().unwrap()];
    for command in [
        &["list"][..],
        &["verify"],
        &["gc", "check", list[0], list[1]],
        &["gc", "run", "--grace", "0s", list[0], list[1]],
    ] {
        let names = |text: &str| File::new(text.as_bytes().to_vec());
        server.put("/v2/_catalog?n=1000", names(r#"{"repositories":[]}"#).gets([Answer::status(503)]));
        let output = diskferry([]).args(command).args(["--plain-http", &store]).output().unwrap();
        assert!(output.status.success() && stderr(&output).contains("diskferry: try 2 in "), "{command:?} {output:?}");
    }
}

#[test]
fn a_file_of_headers_or_a_token_may_have_a_mebibyte() {
    let lab = Lab::new([], Answer::right());
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("file");
    for (option, text, padding, header) in [
        ("--header-file", "X-Key: t0ken\n#", "#", ("x-key", "t0ken")),
        ("--token-file", "t0ken", " ", ("authorization", "Bearer t0ken")),
    ] {
        for (len, is_read) in [(1 << 20, true), ((1 << 20) + 1, false)] {
            fs::write(&path, format!("{text}{}", padding.repeat(len - text.len()))).unwrap();
            let output = run(["info", "--json", option, path.to_str().unwrap(), &lab.shown()]);
            if is_read {
                assert_eq!(output.status.code(), Some(0), "{output:?}");
                assert_eq!(lab.server.requests().last().unwrap().header(header.0), Some(header.1));
            } else {
                assert_eq!((output.status.code(), &json(&output)["error"]["code"]), (Some(4), &json!("source-access")));
                assert!(stderr(&output).ends_with("file: it has more than 1048576 bytes\n"), "{output:?}");
            }
        }
    }
}

#[test]
fn connections_are_one_to_sixteen() {
    for (number, code) in [("0", 2), ("1", 0), ("16", 0), ("17", 2)] {
        let lab = Lab::new([], Answer::right());
        let output = diskferry(["convert", "--connections", number, &lab.url(), &lab.target()]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{number}: {output:?}");
        assert!(code == 0 || stderr(&output).contains("1..=16"), "{output:?}");
    }
}

#[test]
fn signal_during_a_stall_ends_at_once_and_leaves_nothing() {
    for (rest, args) in [
        (Answer::right().stall(100_000, Server::LIFE), "1"),
        (Answer::right().stall(100_000, Server::LIFE), "3"),
        (Answer::right().wait(Server::LIFE), "1"),
        (Answer::status(503).header("Retry-After", "60"), "1"),
    ] {
        let lab = Lab::new([], rest);
        let (url, target) = (lab.url(), lab.target());
        let child = diskferry(["convert", "--connections", args, &url, &target]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while lab.server.requests().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_fails(&output, 143);
        assert_silent_about_secrets(&output);
        lab.assert_nothing();
    }
}

#[test]
fn disk_is_complete_as_soon_as_the_last_byte_is_in() {
    let lab = Lab::new([], Answer::right());
    let mut child = diskferry(["convert", &lab.url(), "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    assert!(!reader.fill_buf().unwrap().is_empty());
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut rest).unwrap();
    assert!(child.wait().unwrap().success() && rest == lab.disk);
    assert!(Path::new(&lab.target()).symlink_metadata().is_err());
}

#[test]
fn a_server_that_always_says_something_is_left_when_the_time_has_passed() {
    // Some 20 s in all, and never a second without a byte.
    let lab = Lab::new([], Answer::right().trickle(24 << 10, Duration::from_millis(100)));
    for args in [["convert", "--json"].as_slice(), &["info", "--full", "--json"], &["push", "--json"]] {
        let mut command = diskferry([args[0], "--timeout", "1"]);
        command.args(&args[1..]).arg(lab.url());
        match args[0] {
            "convert" => drop(command.arg(lab.target())),
            "push" => drop(command.arg(format!("oci:{}:disk", lab.target()))),
            _ => {}
        }
        let begin = Instant::now();
        let output = command.output().unwrap();
        let took = begin.elapsed();
        assert_fails(&output, 4);
        assert_eq!(json(&output)["error"]["code"], "source-timeout", "{args:?}");
        assert!(stderr(&output).contains(" in 1 s, ") && stderr(&output).contains("(--timeout)"), "{output:?}");
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
        if args[0] == "push" {
            // There is a layout, and no image in it.
            assert_fails(&run(["info", &format!("oci:{}:disk", lab.target())]), 4);
            fs::remove_dir_all(lab.target()).unwrap();
        }
        lab.assert_nothing();
    }
}

#[test]
fn a_job_that_ends_in_time_is_not_kept_by_it() {
    let lab = Lab::new([], Answer::right());
    let begin = Instant::now();
    assert!(run(["convert", "--timeout", "60", &lab.url(), &lab.target()]).status.success());
    assert!(fs::read(lab.target()).unwrap() == lab.disk && begin.elapsed() < Duration::from_secs(30));
    // Another error stays what it is, and the time that was too short says so where nothing comes at all.
    let output = run(["info", "--json", "--timeout", "60", &format!("{}x", lab.shown())]);
    assert_eq!(json(&output)["error"]["code"], "source-not-found");
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut silent = diskferry(["convert", "--json", "--timeout", "1", "-", &lab.target()]);
    let output = silent.stdin(reader).output().unwrap();
    assert_eq!(json(&output)["error"]["code"], "source-timeout", "{output:?}");
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut silent = diskferry(["info", "--json", "--timeout", "1", "-"]);
    let output = silent.stdin(reader).output().unwrap();
    assert_eq!(json(&output)["error"]["code"], "source-timeout", "{output:?}");
}
