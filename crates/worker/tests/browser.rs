//! The page for people, in a real browser.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::Pod;
use diskferry_testkit::Random;
use diskferry_testkit::qcow2::Qcow2;
use serde_json::{Value, json};
use tempfile::TempDir;

const TOKEN: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// A browser without a window, driven over the [protocol](https://chromedevtools.github.io/devtools-protocol/) of its developer tools
/// through two pipes.
struct Browser {
    child: Child,
    orders: File,
    answers: BufReader<File>,
    next: u64,
    session: Option<String>,
    _dir: TempDir,
}

impl Browser {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in", "out"] {
            assert!(Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap().success());
        }
        // It ends by itself if the test does not end it.
        let script = "exec timeout 90 chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                      --window-size=900,700 --user-data-dir=profile --remote-debugging-pipe 3<in 4>out";
        let child = Command::new("sh")
            .args(["-c", script])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let orders = OpenOptions::new().write(true).open(dir.path().join("in")).unwrap();
        let answers = BufReader::new(File::open(dir.path().join("out")).unwrap());
        Self { child: child.unwrap(), orders, answers, next: 1, session: None, _dir: dir }
    }

    /// Gives an order, and waits for what comes of it.
    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.next;
        self.next += 1;
        let mut order = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        self.orders.write_all(format!("{order}\0").as_bytes()).unwrap();
        loop {
            let mut line = Vec::new();
            assert!(self.answers.read_until(0, &mut line).unwrap() > 0, "the browser has ended");
            let answer: Value = serde_json::from_slice(line.strip_suffix(b"\0").unwrap_or(&line)).unwrap();
            if answer["id"] == id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn open(&mut self, url: &str) {
        self.session = None;
        let target = self.call("Target.createTarget", json!({ "url": url }));
        let attached = self.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        self.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        // The page before it was complete too.
        let there = format!("{url} complete");
        self.wait("location.href + ' ' + document.readyState", |found| *found == there);
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        self.call("Runtime.evaluate", json!({ "expression": expression }))["result"]["value"].clone()
    }

    fn wait(&mut self, expression: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.evaluate(expression);
            if wanted(&found) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "{expression}: {found}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Chooses a file, as a person does.
    fn choose(&mut self, file: &str) {
        let document = self.call("DOM.getDocument", json!({}));
        let input =
            self.call("DOM.querySelector", json!({ "nodeId": document["root"]["nodeId"], "selector": "#file" }));
        self.call("DOM.setFileInputFiles", json!({ "files": [file], "nodeId": input["nodeId"] }));
    }

    /// What the page says in the end.
    fn verdict(&mut self) -> (String, String) {
        let text = self.wait("document.getElementById('verdict').textContent", |text| text != "");
        let class = self.evaluate("document.getElementById('verdict').className");
        (class.as_str().unwrap().to_owned(), text.as_str().unwrap().to_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// One that is there for some time after the end, since pages ask again when they have waited.
fn worker() -> (Pod, Child, u16) {
    let pod = Pod::new(&[]);
    fs::create_dir(pod.path("data")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = pod.text("data/disk.img");
    let pod = pod.with(&[
        ("DISKFERRY_DESTINATION", "filesystem"),
        ("DISKFERRY_DESTINATION_PATH", &path),
        ("LISTEN_ADDRESS", "127.0.0.1"),
        ("LISTEN_PORT", &port.to_string()),
        ("HEALTHZ_PORT", "0"),
        ("DISKFERRY_UPLOAD_TOKEN", TOKEN),
        ("DISKFERRY_LINGER", "15s"),
    ]);
    let child = pod.command(&["upload"]).spawn().unwrap();
    pod.wait_for(|status| status["phase"] == "WaitForUserUpload");
    (pod, child, port)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/upload/{TOKEN}")
}

/// A raw disk of its own.
fn disk(seed: u64) -> Vec<u8> {
    Random::new(seed).bytes(LEN)
}

const LEN: usize = 8 << 20;

/// What becomes of a body that is a whole image.
#[derive(Clone, Copy)]
enum Fault {
    /// The connection breaks off behind so many bytes of it, and with that before its answer.
    Break(usize),
    /// It arrives, and who lies between has no patience with its answer, and one of its own.
    Timeout,
}

/// What lies between a browser and the worker at `port`. Gives its own port.
fn breaking(port: u16, fault: Fault) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for from in listener.incoming() {
            let to = TcpStream::connect(("127.0.0.1", port)).unwrap();
            thread::spawn(move || carry(from.unwrap(), to, fault));
        }
    });
    own
}

fn carry(mut from: TcpStream, mut to: TcpStream, fault: Fault) -> std::io::Result<()> {
    let (mut back, mut answers) = (from.try_clone()?, to.try_clone()?);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && (&from).take(1).read_to_end(&mut head)? > 0 {}
    to.write_all(&head)?;
    let head = String::from_utf8_lossy(&head);
    if head.starts_with("PUT") && !head.contains("Content-Range") {
        let behind = if let Fault::Break(behind) = fault { behind } else { LEN };
        std::io::copy(&mut (&from).take(behind as u64), &mut to)?;
        if let Fault::Timeout = fault {
            from.write_all(b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")?;
        }
        return from.shutdown(Shutdown::Both).and(to.shutdown(Shutdown::Both));
    }
    thread::spawn(move || (std::io::copy(&mut answers, &mut back), back.shutdown(Shutdown::Both)));
    std::io::copy(&mut &from, &mut to)?;
    to.shutdown(Shutdown::Write)
}

#[test]
fn a_person_chooses_a_file_and_sees_what_becomes_of_it() {
    let image = Qcow2::new(8 << 20).fill(1);
    let mut browser = Browser::start();

    let (pod, child, port) = worker();
    browser.open(&url(port));
    assert_eq!(browser.evaluate("document.title"), "Upload a disk image");
    // The style and the script that run are those that the policy lets run.
    assert_eq!(browser.evaluate("getComputedStyle(document.getElementById('drop')).borderStyle"), "dashed");
    browser.choose(&pod.write("a.qcow2", &image.clone().build().image));
    let (class, text) = browser.verdict();
    assert_eq!((class.as_str(), text.lines().next().unwrap()), ("good", "The image is there."), "{text}");
    assert!(text.contains("Format: qcow2") && text.contains("Unpacked: 8 MiB"), "{text}");
    assert_eq!(browser.evaluate("document.getElementById('bar').value"), 100);
    assert_eq!(pod.end(child).code, Some(0));
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == image.disk());

    let (pod, child, port) = worker();
    browser.open(&url(port));
    browser.choose(&pod.write("cut.qcow2", &image.build().image[..1 << 20]));
    let (class, text) = browser.verdict();
    assert!(class == "bad" && text.starts_with("qcow2: ") && text.contains("cut short or damaged"), "{class} {text}");
    assert_eq!(pod.end(child).code, Some(3));
}

/// Sends a disk from the page, over connections on which that becomes of a whole image.
#[track_caller]
fn assert_arrives(fault: Fault) {
    let disk = disk(1);
    let mut browser = Browser::start();
    let (pod, child, port) = worker();
    browser.open(&url(breaking(port, fault)));
    browser.choose(&pod.write("disk.raw", &disk));
    let (class, text) = browser.verdict();
    assert!(class == "good" && text.starts_with("The image is there."), "{class} {text}");
    assert_eq!(pod.end(child).code, Some(0));
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
}

#[test]
fn the_page_goes_on_with_what_it_has_begun() {
    assert_arrives(Fault::Break(LEN / 2));
}

#[test]
fn the_page_is_told_what_became_of_an_image_whose_answer_was_lost() {
    assert_arrives(Fault::Break(LEN));
}

#[test]
fn the_page_takes_no_proxys_word_for_the_verdict() {
    assert_arrives(Fault::Timeout);
}

#[test]
fn the_page_never_goes_on_with_the_upload_of_somebody_else() {
    let (mine, theirs) = (disk(1), disk(2));
    let mut browser = Browser::start();
    for id in ["", "Upload-Id: theirs\r\n"] {
        let (pod, child, port) = worker();
        browser.open(&url(port));
        let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(other, "PUT /upload/{TOKEN} HTTP/1.1\r\nHost: x\r\n{id}Content-Length: {LEN}\r\n\r\n").unwrap();
        other.write_all(&theirs[..LEN / 2]).unwrap();
        pod.wait_for(|status| status["phase"] == "Provisioning");
        browser.choose(&pod.write("mine.raw", &mine));
        browser.wait("document.getElementById('told').textContent", |told| {
            let told = told.as_str().unwrap_or_default();
            told.contains("Going on in a moment")
        });
        drop(other);
        let (class, text) = browser.verdict();
        assert!(class == "good" && text.starts_with("The image is there."), "{class} {text}");
        assert_eq!(pod.end(child).code, Some(0));
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == mine, "two images in one");
    }
}

#[test]
fn the_page_says_that_the_image_that_is_there_may_be_another_one() {
    let mut browser = Browser::start();
    let (pod, child, port) = worker();
    browser.open(&url(port));
    let (mine, theirs) = (pod.write("mine.raw", &disk(1)), pod.write("theirs.raw", &disk(2)));
    assert!(
        Command::new("curl").args(["-sf", "-o", "/dev/null", "-T", &theirs, &url(port)]).status().unwrap().success()
    );
    browser.choose(&mine);
    let (class, text) = browser.verdict();
    let expected = "An image is there already, which may be another one than yours.";
    assert_eq!((class.as_str(), text.as_str()), ("bad", expected));
    assert_eq!(pod.end(child).code, Some(0));
}
