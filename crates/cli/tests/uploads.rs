//! Pushing to registries that fail, send us elsewhere or want something special; and what a push takes and leaves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::extreme::{MIB, fill_every_bound, watch};
use common::{diskferry, json, names};
use diskferry_testkit::container::{self, Layout, TAR, digest, tar};
use diskferry_testkit::qcow2::Compression::Deflate;
use diskferry_testkit::serve::fault;
use diskferry_testkit::serve::registry::Registry;
use diskferry_testkit::{Random, wrap};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// What is sent at once.
const CHUNK: usize = 8 << 20;

/// A disk of 40 MiB without two blocks that are the same.
struct Lab {
    dir: TempDir,
    disk: Vec<u8>,
    source: String,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = vec![0; 40 << 20];
        disk.chunks_mut(4096).zip(0_u32..).for_each(|(block, at)| block[..4].copy_from_slice(&at.to_le_bytes()));
        let source = dir.path().join("disk.img");
        fs::write(&source, &disk).unwrap();
        Self { source: source.display().to_string(), dir, disk }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn push(&self, source: &str, host: &str, more: &[&str]) -> Output {
        diskferry(["push", "--json"]).args(more).args([source, &format!("docker://{host}/a:1")]).output().unwrap()
    }

    #[track_caller]
    fn pushes(&self, host: &str, more: &[&str]) -> Value {
        let output = self.push(&self.source, host, &[&["--plain-http"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        json(&output)
    }

    /// The same in a layout.
    fn stored(&self) -> Value {
        let target = format!("oci:{}:v1", self.dir.path().join("layout").display());
        json(&diskferry(["push", "--json", &self.source, &target]).output().unwrap())
    }

    fn blob(&self, digest: &Value) -> PathBuf {
        self.dir.path().join("layout/blobs").join(digest.as_str().unwrap().replace(':', "/"))
    }
}

/// What happens to a chunk.
#[derive(Clone, Copy)]
enum Fault {
    /// So many bytes arrive, then the connection ends.
    Break(usize),
    /// All of it arrives, and the answer is lost.
    Silent,
    /// All of it arrives, and so many of the last bytes are lost with the connection.
    Lose(usize),
    /// It is refused for now.
    Busy,
    /// All of it arrives, and so many of the last bytes are lost, which the answer says.
    Forget(usize),
    /// None of it is read, and the answer says that all is there.
    Claim,
    /// The registry knows nothing of the upload any more.
    Gone,
}

/// A registry that goes on with uploads, says where in relative addresses that are good for once, and fails by a script.
#[derive(Default)]
struct Faulty {
    faults: Vec<Fault>,
    /// How many of the last bytes are lost with the connection when a blob is to be closed.
    closing: Vec<usize>,
    upload: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Option<Vec<u8>>,
    /// How long it takes to close a blob of more than a MiB.
    closes_in: Duration,
    /// Whether it knows nothing of the blobs that a manifest names.
    collects: bool,
    /// What it says is the digest of a manifest.
    claimed: Option<String>,
    /// The same of blobs.
    claimed_of_blobs: Option<String>,
    turn: u32,
    asked: Vec<String>,
    /// Fewest bytes of a chunk that is not the last, which is said.
    least: Option<usize>,
    /// Lengths of the chunks.
    chunks: Vec<usize>,
    /// Where blobs go; and what was shown there for a login, and at home.
    elsewhere: Option<String>,
    shown: [Vec<Option<String>>; 2],
}

impl Faulty {
    fn start(faults: &[Fault]) -> (String, Arc<Mutex<Self>>) {
        let state = Arc::new(Mutex::new(Self { faults: faults.iter().rev().copied().collect(), ..Self::default() }));
        (Self::listen(&state), state)
    }

    fn listen(state: &Arc<Mutex<Self>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::clone(state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let mut client = BufReader::new(client.unwrap());
                    while Self::serve(&mut client, &shared).is_some() {}
                    let _ = client.get_ref().shutdown(Shutdown::Both);
                });
            }
        });
        address
    }

    /// Answers a request; `None` ends the connection.
    fn serve(client: &mut BufReader<TcpStream>, shared: &Mutex<Self>) -> Option<()> {
        let head: Vec<String> = client.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let (method, path) = head.first()?.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let field = |name: &str| {
            let line = head.iter().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
            line.split_once(": ").map(|(_, value)| value.to_owned())
        };
        let mut body = vec![0; field("content-length").map_or(0, |len| len.parse().unwrap())];
        let mut this = shared.lock().unwrap();
        this.asked.push(method.to_owned());
        let at = client.get_ref().local_addr().unwrap().to_string();
        let is_away = this.elsewhere.as_ref() == Some(&at);
        let login = field("authorization");
        let is_stranger = this.elsewhere.is_some() && !is_away && login.is_none();
        this.shown[usize::from(!is_away)].push(login);
        let next = |this: &mut Self| {
            this.turn += 1;
            let last = this.upload.len().saturating_sub(1);
            format!("Location: u?turn={}\r\nRange: 0-{last}\r\n", this.turn)
        };
        let here = format!("/v2/a/blobs/uploads/u?turn={}", this.turn);
        let range = format!("{}-{}", this.upload.len(), (this.upload.len() + body.len()).saturating_sub(1));
        let fits = method == "PATCH" && path == here && field("content-range").unwrap() == range;
        let fault = if fits { this.faults.pop() } else { None };
        if let Some(Fault::Claim) = fault {
            let len = this.upload.len() + body.len();
            this.upload.resize(len, 0);
            let answer = format!("HTTP/1.1 202 X\r\nContent-Length: 0\r\n{}\r\n", next(&mut this));
            drop(this);
            client.get_mut().write_all(answer.as_bytes()).ok()?;
            thread::sleep(Duration::from_secs(60));
            return None;
        }
        if let Some(Fault::Break(len)) = fault {
            client.read_exact(&mut body[..len]).unwrap();
            this.upload.extend(&body[..len]);
            return None;
        }
        client.read_exact(&mut body).unwrap();
        if is_stranger {
            let answer = "HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=lab\r\nContent-Length: 0\r\n\r\n";
            return client.get_mut().write_all(answer.as_bytes()).ok();
        }
        let digest = path.split_once("digest=").map(|(_, digest)| digest.replace("%3A", ":"));
        let (status, fields) = match method {
            "POST" => {
                this.upload.clear();
                this.turn += 1;
                let host = this.elsewhere.as_ref().map(|host| format!("http://{host}")).unwrap_or_default();
                let least = this.least.map(|least| format!("OCI-Chunk-Min-Length: {least}\r\n")).unwrap_or_default();
                (202, format!("Location: {host}/v2/a/blobs/uploads/u?turn={}\r\n{least}", this.turn))
            }
            "PATCH" | "GET" | "DELETE" if path != here => (404, String::new()),
            "DELETE" => {
                this.upload.clear();
                (204, String::new())
            }
            "GET" => (204, next(&mut this)),
            "PATCH" => {
                if !fits {
                    (416, String::new())
                } else if let Some(Fault::Gone) = fault {
                    (404, String::new())
                } else if let Some(Fault::Busy) = fault {
                    (503, "Retry-After: 0\r\n".into())
                } else {
                    this.chunks.push(body.len());
                    this.upload.extend(body);
                    match fault {
                        Some(Fault::Silent) => return None,
                        Some(Fault::Lose(len)) => {
                            let left = this.upload.len() - len;
                            this.upload.truncate(left);
                            return None;
                        }
                        Some(Fault::Forget(len)) => {
                            let left = this.upload.len() - len;
                            this.upload.truncate(left);
                            (202, next(&mut this))
                        }
                        _ => (202, next(&mut this)),
                    }
                }
            }
            "PUT" if path.contains("/manifests/") && this.collects => {
                let reason = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#;
                let head = format!("HTTP/1.1 404 X\r\nContent-Length: {}\r\n\r\n", reason.len());
                drop(this);
                return client.get_mut().write_all((head + reason).as_bytes()).ok();
            }
            "PUT" if path.contains("/manifests/") => {
                this.manifest = Some(body);
                let claimed = this.claimed.as_ref().map(|digest| format!("Docker-Content-Digest: {digest}\r\n"));
                (201, claimed.unwrap_or_default())
            }
            "PUT" if !this.closing.is_empty() => {
                let left = this.upload.len() - this.closing.remove(0);
                this.upload.truncate(left);
                return None;
            }
            "PUT" => {
                let blob = std::mem::take(&mut this.upload);
                assert_eq!(digest.as_ref(), Some(&container::digest(&blob)));
                if blob.len() > 1 << 20 {
                    thread::sleep(this.closes_in);
                }
                this.blobs.insert(digest.unwrap(), blob);
                let claimed = this.claimed_of_blobs.as_ref();
                (201, claimed.map(|digest| format!("Docker-Content-Digest: {digest}\r\n")).unwrap_or_default())
            }
            _ => (404, String::new()),
        };
        drop(this);
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{fields}\r\n");
        let answer = if status == 204 { answer.replace("Content-Length: 0\r\n", "") } else { answer };
        client.get_mut().write_all(answer.as_bytes()).ok()
    }
}

#[test]
fn an_upload_goes_on_at_the_registrys_own_offset() {
    let lab = Lab::new();
    let stored = lab.stored();
    let layer = fs::read(lab.blob(&stored["layer-digest"])).unwrap();
    let faults = [
        Fault::Break(1),
        Fault::Break(5_000_000),
        Fault::Silent,
        Fault::Busy,
        Fault::Lose(9_000_000),
        Fault::Break(100_000),
        Fault::Lose(1),
    ];
    let (host, state) = Faulty::start(&faults);
    let pushed = lab.pushes(&host, &[]);
    assert_eq!(pushed["manifest-digest"], stored["manifest-digest"]);
    let state = state.lock().unwrap();
    assert!(state.faults.is_empty() && state.blobs[pushed["layer-digest"].as_str().unwrap()] == layer);
    assert_eq!(state.asked.iter().filter(|method| *method == "POST").count(), 2, "layer and configuration, each once");
    assert!(state.manifest.is_some());

    drop(state);

    // What is not kept any more cannot be sent again, and the layer is sent anew; but not for ever.
    let twice = [Fault::Busy, Fault::Lose(0), Fault::Lose(0), Fault::Lose(20_000_000)];
    let (host, state) = Faulty::start(&twice[..]);
    lab.pushes(&host, &[]);
    let state = state.lock().unwrap();
    assert_eq!(state.asked.iter().filter(|method| *method == "POST").count(), 3, "the layer twice");
    assert!(state.manifest.is_some());
    drop(state);

    // So is the configuration, of which nothing is kept by the registry: its one chunk comes behind the six of the layer.
    let whole = Fault::Forget(0);
    let (host, state) = Faulty::start(&[whole, whole, whole, whole, whole, whole, Fault::Gone]);
    lab.pushes(&host, &[]);
    let state = state.lock().unwrap();
    assert!(state.faults.is_empty() && state.manifest.is_some());
    assert_eq!(state.asked.iter().filter(|method| *method == "POST").count(), 3, "the configuration twice");
}

#[test]
fn a_push_that_is_stopped_leaves_nothing_begun() {
    let lab = Lab::new();
    let registry = Registry::default().start();
    let target = format!("docker://{}/a:1", registry.host());
    let source = fault::Server::start();
    let slow = fault::Answer::right().trickle(64 << 10, Duration::from_millis(30));
    source.put("/disk.img", fault::File::new(lab.disk.clone()).gets_then([], slow));
    let mut child = diskferry(["push", "--plain-http", &source.url("/disk.img"), &target]).spawn().unwrap();
    let uploads = registry.repository("a").join("_uploads");
    let begun = || -> Vec<u64> {
        let all = fs::read_dir(&uploads).into_iter().flatten();
        // What it calculates with is left by the registry in any case.
        all.filter_map(|upload| Some(fs::metadata(upload.unwrap().path().join("data")).ok()?.len())).collect()
    };
    let began = Instant::now();
    while begun().iter().all(|len| *len < 8 * MIB) {
        assert!(began.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(5));
    }
    // In the middle of a chunk this registry cancels nothing; the next one takes seconds to come.
    thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(begun(), Vec::<u64>::new());
}

#[test]
fn what_is_read_before_it_is_sent_passes_twice() {
    let lab = Lab::new();
    let registry = Registry::default().start();
    let push = |source: &str, tag: &str, stdin: Stdio| {
        let target = format!("docker://{}/a:{tag}", registry.host());
        let args = ["push", "--plain-http", "--progress", "json", source, &target];
        let output = diskferry(args).stdin(stdin).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{said}"));
        let last: Value = serde_json::from_str(last).unwrap();
        (last["progress"]["source"].as_u64().unwrap(), last["progress"]["total"].as_u64().unwrap())
    };
    let len = lab.disk.len() as u64;
    assert_eq!(push(&lab.source, "1", Stdio::null()), (len, len));
    // A pipe has no length, and another image of the same length may be the same image.
    let mut other = lab.disk.clone();
    other[0] ^= 1;
    let mut cat = Command::new("cat").arg(&lab.source).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(push("-", "2", cat.stdout.take().unwrap().into()), (2 * len, 2 * len));
    assert!(cat.wait().unwrap().success());
    assert_eq!(push(&lab.write("other.img", &other), "3", Stdio::null()), (2 * len, 2 * len));
    // It was there, and need not be sent.
    assert_eq!(push(&lab.source, "4", Stdio::null()), (len, len));
}

#[test]
fn a_registry_that_takes_chunks_and_has_no_more_is_not_sent_them_for_ever() {
    let lab = Lab::new();
    let idle = [Fault::Forget(CHUNK); 40];
    // Two steps forward and one back, by turns.
    let to_and_fro: Vec<_> =
        [Fault::Forget(0), Fault::Forget(CHUNK + CHUNK / 4)].into_iter().cycle().take(40).collect();
    // A byte of each chunk.
    let crumbs: Vec<_> = (1..40).map(|kept| Fault::Forget(CHUNK - kept)).collect();
    for (faults, most) in [(&idle[..], 3), (&to_and_fro, 6), (&crumbs, 3)] {
        let (host, state) = Faulty::start(faults);
        let output = lab.push(&lab.source, &host, &["--plain-http", "--retries", "2"]);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        let error = &json(&output)["error"];
        assert_eq!(error["code"], "target-unreachable", "{error}");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains(" bytes from byte ") && said.contains("(tried again 2 times; --retries)"), "{said}");
        let state = state.lock().unwrap();
        assert!(state.chunks.len() <= most && state.manifest.is_none(), "{:?}", state.chunks);
        assert_eq!(state.asked.last().unwrap(), "DELETE", "it is not left to the registry");
        assert!(state.upload.is_empty());
        drop(state);
        // Now and then it is no more than any failure.
        let (host, _) = Faulty::start(&faults[..2]);
        lab.pushes(&host, &["--retries", "2"]);
    }
}

#[test]
fn a_registry_that_says_it_has_what_it_never_took_is_not_believed() {
    let lab = Lab::new();
    let (host, state) = Faulty::start(&[Fault::Claim; 8]);
    let output = lab.push(&lab.source, &host, &["--plain-http"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(json(&output)["error"]["code"], "target-refused", "{output:?}");
    let state = state.lock().unwrap();
    assert!(state.manifest.is_none());
    let most = state.asked.iter().filter(|method| *method == "PATCH").count();
    assert!(most == 1 && state.asked.last().unwrap() == "DELETE", "{:?}", state.asked);
}

#[test]
fn a_blob_that_lost_something_when_it_was_closed_is_complete_before_it_is_closed_again() {
    let lab = Lab::new();
    let chunk = Fault::Forget(0);
    let (host, state) = Faulty::start(&[chunk, chunk, chunk, Fault::Busy, Fault::Break(10)]);
    state.lock().unwrap().closing = vec![100_000];
    lab.pushes(&host, &[]);
    let state = state.lock().unwrap();
    assert!(state.faults.is_empty() && state.manifest.is_some());
    assert_eq!(state.asked.iter().filter(|method| *method == "POST").count(), 2, "layer and configuration, each once");

    drop(state);

    // What cannot be sent again is sent anew.
    let (host, state) = Faulty::start(&[]);
    state.lock().unwrap().closing = vec![39 << 20];
    lab.pushes(&host, &[]);
    assert_eq!(state.lock().unwrap().asked.iter().filter(|method| *method == "POST").count(), 3, "the layer twice");
}

#[test]
fn a_registry_may_take_longer_to_close_a_blob_the_larger_it_is() {
    let lab = Lab::new();
    let (host, state) = Faulty::start(&[]);
    // For 40 MiB there are two seconds more.
    state.lock().unwrap().closes_in = Duration::from_millis(1800);
    lab.pushes(&host, &["--stall-timeout", "1"]);
    let state = state.lock().unwrap();
    assert_eq!(state.asked.iter().filter(|method| *method == "PUT").count(), 3, "layer, configuration and manifest");
}

#[test]
fn a_registry_that_has_collected_the_blobs_before_they_had_a_name_has_lost_them() {
    let lab = Lab::new();
    let (host, state) = Faulty::start(&[]);
    state.lock().unwrap().collects = true;
    let output = lab.push(&lab.source, &host, &["--plain-http"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let error = &json(&output)["error"];
    assert!(
        error["code"] == "target-upload-lost" && error["message"].as_str().unwrap().contains("BLOB_UNKNOWN"),
        "{error}"
    );
}

#[test]
fn a_manifest_that_the_registry_has_another_digest_for_is_a_mismatch() {
    let lab = Lab::new();
    let manifest = lab.stored()["manifest-digest"].as_str().unwrap().to_owned();
    let (host, state) = Faulty::start(&[]);
    state.lock().unwrap().claimed = Some(manifest.clone());
    lab.pushes(&host, &[]);
    let other = format!("sha256:{}", "0".repeat(64));
    state.lock().unwrap().claimed = Some(other.clone());
    let output = lab.push(&lab.source, &host, &["--plain-http"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let error = &json(&output)["error"];
    let said = error["message"].as_str().unwrap();
    assert!(error["code"] == "mismatch" && said.contains(&manifest) && said.contains(&other), "{error}");
}

#[test]
fn a_blob_that_the_registry_has_another_digest_for_is_a_mismatch() {
    let lab = Lab::new();
    let (host, state) = Faulty::start(&[]);
    let other = format!("sha256:{}", "0".repeat(64));
    state.lock().unwrap().claimed_of_blobs = Some(other.clone());
    let output = lab.push(&lab.source, &host, &["--plain-http"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let error = &json(&output)["error"];
    assert!(error["code"] == "mismatch" && error["message"].as_str().unwrap().contains(&other), "{error}");
    assert!(state.lock().unwrap().manifest.is_none());
}

#[test]
fn chunks_are_as_long_as_the_registry_wants_them() {
    let lab = Lab::new();
    let (host, state) = Faulty::start(&[]);
    // More than is sent at once where nobody asks for it.
    state.lock().unwrap().least = Some(20_000_000);
    lab.pushes(&host, &[]);
    let state = state.lock().unwrap();
    // The last chunk of all is the configuration.
    assert!(matches!(state.chunks[..], [20_000_000, 20_000_000, last, config] if last > config), "{:?}", state.chunks);
    drop(state);

    // One that fails goes on where it was, and of the last one the registry may lose something when the blob is to be closed.
    let (host, state) = Faulty::start(&[Fault::Break(1), Fault::Silent, Fault::Busy, Fault::Break(9), Fault::Lose(7)]);
    (state.lock().unwrap().least, state.lock().unwrap().closing) = (Some(20_000_000), vec![100_000]);
    lab.pushes(&host, &[]);
    let state = state.lock().unwrap();
    assert!(state.faults.is_empty() && state.closing.is_empty() && state.manifest.is_some());
    assert_eq!(state.asked.iter().filter(|method| *method == "POST").count(), 2, "layer and configuration, each once");
}

#[test]
fn a_registry_that_wants_longer_chunks_than_are_sent_gets_none_but_what_is_one_anyway() {
    let lab = Lab::new();
    let (host, state) = Faulty::start(&[]);
    state.lock().unwrap().least = Some(64 << 20);
    let output = lab.push(&lab.source, &host, &["--plain-http"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let error = &json(&output)["error"];
    assert_eq!(error["code"], "target-chunk-length", "{error}");
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("67108864 bytes at least, 25165824 are sent at most"), "{said}");
    let small = lab.write("small.img", &lab.disk[..1 << 20]);
    assert!(state.lock().unwrap().chunks.is_empty());
    let output = lab.push(&small, &host, &["--plain-http"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn what_is_sent_to_another_host_goes_there_without_the_password() {
    let lab = Lab::new();
    let (host, state) = Faulty::start(&[Fault::Break(1_000_000), Fault::Busy]);
    state.lock().unwrap().elsewhere = Some(Faulty::listen(&state));
    lab.pushes(&host, &["--user-file", &lab.write("user", b"me:s3cr3t")]);
    let state = state.lock().unwrap();
    let [away, home] = &state.shown;
    assert!(away.len() > 6 && away.iter().all(Option::is_none), "{away:?}");
    assert!(home.iter().flatten().all(|login| login == "Basic bWU6czNjcjN0") && home.iter().flatten().count() > 3);
}

#[test]
fn the_password_of_the_source_is_not_for_the_registry() {
    let lab = Lab::new();
    let source = fault::Server::start();
    source.put("/disk.img", fault::File::new(lab.disk.clone()));
    let (host, state) = Faulty::start(&[]);
    let user = lab.write("user", b"me:s3cr3t");
    let more = ["--plain-http", "--user-file", &user];
    let output = lab.push(&source.url("/disk.img"), &host, &more);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = source.requests().iter().map(|request| request.header("authorization").is_some()).collect::<Vec<_>>();
    assert!(shown.iter().all(|shown| *shown), "{shown:?}");
    assert!(state.lock().unwrap().shown[1].iter().all(Option::is_none));
}

#[test]
fn a_push_that_is_killed_leaves_no_image_and_is_done_again() {
    let lab = Lab::new();
    let registry = Registry::default().start();
    let target = format!("docker://{}/a:1", registry.host());
    let layout = format!("oci:{}:v1", lab.dir.path().join("layout").display());
    for (target, plain) in [(&target, Some("--plain-http")), (&layout, None)] {
        let push = || {
            let mut push = diskferry(["push", &lab.source, target]);
            push.args(plain);
            push
        };
        for after in [0, 20, 60, 120] {
            let mut child = push().spawn().unwrap();
            thread::sleep(Duration::from_millis(after));
            child.kill().unwrap();
            let was_done = child.wait().unwrap().success();
            // One that is killed between its last step and its end has left a whole image, and nobody told of it.
            let found = json(&diskferry(["info", "--json", "--full", "--plain-http", target]).output().unwrap());
            let is_whole = found["unpacked-size"] == lab.disk.len() && found["claimed"] != true;
            let is_absent = found["error"]["kind"] == "source";
            assert!(is_whole || is_absent && !was_done, "{found}");
        }
        let output = push().output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let full = diskferry(["info", "--json", "--full", "--plain-http", target]).output().unwrap();
        assert_eq!(json(&full)["unpacked-size"], lab.disk.len(), "{full:?}");
    }
    let layout = lab.dir.path().join("layout");
    let is_known = |name: &String| {
        ["blobs", "index.json", "oci-layout"].contains(&&**name)
            || (name.starts_with('.') && name.ends_with(".diskferry"))
    };
    assert!(names(&layout).iter().all(is_known), "{:?}", names(&layout));
    let place = format!("oci:{}", layout.display());
    let verified = diskferry(["verify"]).arg(&place).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    // Whoever tidies up takes what was left, and not what somebody is writing to.
    let left = layout.join(".abcdef.diskferry");
    fs::write(&left, b"half").unwrap();
    let held = fs::File::create(layout.join(".ghijkl.diskferry")).unwrap();
    held.lock().unwrap();
    let keep = lab.write("keep", b"v1\n");
    let sweep = |grace: &str| {
        let args = ["gc", "run", "--yes", "--grace", grace, "--keep-list", &keep, &place];
        assert!(diskferry(args).output().unwrap().status.success());
    };
    sweep("1h");
    assert!(left.exists());
    sweep("0s");
    assert_eq!(names(&layout), [".ghijkl.diskferry", "blobs", "index.json", "oci-layout"]);
}

#[test]
fn a_push_of_any_length_takes_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.img");
    let file = fs::File::create(&source).unwrap();
    let block: Vec<u8> = (0..1_u32 << 18).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    (0..400).for_each(|_| (&file).write_all(&block).unwrap());
    let registry = Registry::default().start();
    for form in [&[][..], &["--as", "raw+zstd"]] {
        let target = format!("docker://{}/a:{}", registry.host(), form.len());
        let output = Command::new("/usr/bin/time")
            .args(["-f", "%M", env!("CARGO_BIN_EXE_diskferry"), "push", "--quiet", "--plain-http"])
            .args(form)
            .arg(&source)
            .arg(target)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let kibibytes: u64 = String::from_utf8(output.stderr).unwrap().trim().parse().unwrap();
        assert!(kibibytes < 64 << 10, "{kibibytes} KiB for 400 MiB");
    }
}

/// What the image needs, its window and chunks, all at once.
#[test]
fn a_hostile_image_is_pushed_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    let (image, wrapped) = (path("image"), path("image.zst"));
    fill_every_bound(&image, 16, Deflate, 1, 128 * MIB);
    let zstd = |bytes: &[u8], long: &str| wrap::zstd(bytes, &["-1", long]);
    let packed = zstd(&fs::read(&image).unwrap(), "--long=27");
    fs::write(&wrapped, &packed).unwrap();
    fill_every_bound(&image, 16, Deflate, 1, 0);
    // What lies in front of the image has filled the layer's window.
    let archive = tar(&[("etc/noise", &Random::new(1).bytes(33 << 20)), ("disk/image", &packed)]);
    let mut layout = Layout::new(&path("layout"));
    let layer = layout.blob(&format!("{TAR}+zstd"), &zstd(&archive, "--long=25"));
    let container = layout.manifest("linux/amd64", &[layer], &[digest(&archive)], "");
    layout.name(&container, "a");
    let [image, wrapped] = [image, wrapped].map(|path| path.display().to_string());
    let registry = Registry::default().start();
    let layered = format!("docker://{}/image:a", registry.host());
    let copy = diskferry(["copy", "--plain-http", &format!("oci:{}:a", path("layout").display()), &layered]);
    assert!({ copy }.status().unwrap().success());
    // 32 MiB are for chunks and for what is on its way to them.
    for (source, windows) in [(&image, 0), (&wrapped, 128 * MIB), (&layered, 160 * MIB)] {
        for least in [1, 24 << 20] {
            for form in ["raw", "raw+zstd"] {
                let (host, state) = Faulty::start(&[]);
                state.lock().unwrap().least = Some(least);
                let mut job = diskferry(["push", "--json", "--plain-http", "--threads", "8", "--as", form]);
                job.arg(source).arg(format!("docker://{host}/a:1")).stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut child = job.spawn().unwrap();
                let peak = watch(&mut child);
                let output = child.wait_with_output().unwrap();
                let what = format!("{source} as {form} by {least} bytes: peak {:.1} MiB", peak as f64 / MIB as f64);
                println!("{what}");
                assert_eq!(json(&output)["error"]["code"], "qcow2-ends-early", "{output:?}");
                assert!(state.lock().unwrap().manifest.is_none());
                assert!(peak < 96 * MIB + windows && peak > 24 * MIB + windows, "{what}");
            }
        }
    }
}
