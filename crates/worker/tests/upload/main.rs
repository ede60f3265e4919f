//! Uploads as people and platforms make them: with curl, to the real worker, into a real registry or onto a volume.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod access;
mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod images;
mod parts;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Barrier;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ended, Pod, names};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::registry::{Registry, RunningRegistry};
use diskferry_testkit::serve::tls::Authority;
use diskferry_testkit::{Random, wrap};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// A worker that waits for an image.
struct Door {
    pod: Pod,
    child: Option<Child>,
    port: u16,
}

impl Door {
    /// With a disk on a filesystem as the destination, and these variables.
    fn open(variables: &[(&str, &str)]) -> Self {
        let pod = Pod::new(&[]);
        fs::create_dir(pod.path("data")).unwrap();
        let path = pod.text("data/disk.img");
        Self::with(
            pod.with(&[("DISKFERRY_DESTINATION", "filesystem"), ("DISKFERRY_DESTINATION_PATH", &path)]),
            variables,
        )
    }

    fn to_registry(registry: &RunningRegistry, variables: &[(&str, &str)]) -> Self {
        let endpoint = format!("{}/vi/team/a:uid-1", registry.host());
        let pod = Pod::new(&[("UPLOADER_DESTINATION_ENDPOINT", &endpoint), ("DESTINATION_INSECURE_TLS", "true")]);
        Self::with(pod, variables)
    }

    fn with(pod: Pod, variables: &[(&str, &str)]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let pod = pod
            .with(&[("LISTEN_ADDRESS", "127.0.0.1"), ("LISTEN_PORT", &port.to_string()), ("HEALTHZ_PORT", "0")])
            .with(&[("DISKFERRY_LINGER", "2s")])
            .with(variables);
        let child = pod.command(&["upload"]).spawn().unwrap();
        pod.wait_for(|status| status["phase"] == "WaitForUserUpload" || status["phase"] == "Failed");
        Self { pod, child: Some(child), port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What curl brings back: status and body.
    fn curl(&self, args: &[&str], path: &str) -> (u16, String) {
        let output = self.curl_command(args, path).output().unwrap();
        parted(&output)
    }

    fn curl_command(&self, args: &[&str], path: &str) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "-m", "60", "-w", "\n%{http_code}"]).args(args).arg(self.url(path));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a header says that HEAD is answered with.
    fn header(&self, path: &str, name: &str) -> Option<String> {
        let (_, head) = self.curl(&["-I"], path);
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.next().map(|(_, said)| said.trim().to_owned())
    }

    fn offset(&self, path: &str) -> u64 {
        self.header(path, "upload-offset").unwrap().parse().unwrap()
    }

    /// A part of an image by the words of tus.
    fn patch(&self, offset: usize, length: Option<usize>, bytes: &[u8]) -> (u16, String) {
        let file = format!("@{}", self.pod.write("part", bytes));
        let offset = format!("Upload-Offset: {offset}");
        let length = length.map(|length| format!("Upload-Length: {length}"));
        let mut args = vec!["-X", "PATCH", "-H", "Tus-Resumable: 1.0.0", "-H", &offset, "--data-binary", &file];
        args.extend(["-H", "Content-Type: application/offset+octet-stream"]);
        args.extend(length.iter().flat_map(|length| ["-H", length]));
        self.curl(&args, "/upload")
    }

    /// A part of an image as `Content-Range` says it.
    fn put_part(&self, range: &str, bytes: &[u8]) -> (u16, String) {
        self.put_part_of("", range, bytes)
    }

    /// The same of the upload with an id.
    fn put_part_of(&self, id: &str, range: &str, bytes: &[u8]) -> (u16, String) {
        let file = self.pod.write("part", bytes);
        let (id, range) = (format!("Upload-Id: {id}"), format!("Content-Range: bytes {range}"));
        self.curl(&["-H", &id, "-H", &range, "-T", &file], "/upload")
    }

    /// Makes room for an image whose length is said later.
    fn defer(&self) {
        let words = ["-H", "Tus-Resumable: 1.0.0", "-H", "Upload-Defer-Length: 1"];
        assert_eq!(self.curl(&[&["-X", "POST"][..], &words].concat(), "/upload").0, 201);
    }

    fn end(&mut self) -> Ended {
        self.pod.end(self.child.take().unwrap())
    }

    /// Ends it, for tests that are about something else than its end.
    fn kill(self) {
        let mut child = self.child.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn parted(output: &Output) -> (u16, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (status.parse().unwrap(), body.to_owned())
}

#[track_caller]
fn assert_error(answer: &(u16, String), status: u16, code: &str) {
    let (found, body) = answer;
    let said: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {found} {body:?}"));
    assert_eq!((*found, said["error"]["code"].as_str().unwrap()), (status, code), "{body}");
}

fn qcow2() -> (Vec<u8>, Vec<u8>) {
    let image = Qcow2::new(8 << 20).fill(1);
    (image.clone().build().image, image.disk())
}

/// Bytes that nothing makes smaller.
fn noise(len: usize) -> Vec<u8> {
    Random::new(1).bytes(len)
}
