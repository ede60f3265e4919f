//! Uploads as people and platforms make them: with curl, to the real worker, into a real registry or onto a volume.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

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

#[test]
fn an_image_that_curl_sends_is_on_the_volume() {
    let (image, disk) = qcow2();
    for how in [
        &["-T"][..],
        &["-H", "Transfer-Encoding: chunked", "-T"],
        &["-X", "POST", "-T"],
        &["-H", "Expect: 100-continue", "-T"],
    ] {
        let mut door = Door::open(&[]);
        let file = door.pod.write("a.qcow2.gz", &wrap::gzip(&image));
        let (status, said) = door.curl(&[how, &[&file]].concat(), "/upload");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(status, 200, "{said}");
        assert_eq!(
            (&said["phase"], &said["format"], &said["unpacked-size"]),
            (&json!("Ready"), &json!("qcow2"), &json!(8 << 20))
        );
        assert_error(&door.curl(&["-T", &file], "/upload"), 409, "already-done");
        let data = door.pod.path("data");
        let ended = door.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.termination["message"], "Upload Complete");
        assert_eq!(names(&data), ["disk.img"]);
        assert!(fs::read(data.join("disk.img")).unwrap() == disk);
    }
}

#[test]
fn an_image_goes_to_a_registry_while_it_comes() {
    let (image, _) = qcow2();
    let registry = Registry::default().start();
    let mut door = Door::to_registry(&registry, &[]);
    let file = door.pod.write("a.qcow2.xz", &wrap::xz(&image, &[]));
    let (status, said) = door.curl(&["-T", &file], "/upload");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &said["unpacked-size"]), (200, &json!(8 << 20)), "{said}");
    let stored = fs::metadata(&file).unwrap().len();
    let ended = door.end();
    assert_eq!((ended.code, &ended.termination["source-image-size"]), (Some(0), &json!(stored)));
    assert_eq!(ended.termination["digest"], said["digest"]);
}

#[test]
fn the_authority_of_the_registry_is_a_file_or_stands_in_the_variable() {
    let (image, disk) = qcow2();
    let authority = Authority::new();
    let registry = Registry::default().tls(authority.server(&["127.0.0.1"])).start();
    let endpoint = format!("{}/vi/team/a:uid-1", registry.host());
    let pod = || Pod::new(&[("UPLOADER_DESTINATION_ENDPOINT", &endpoint)]);
    let file = {
        let pod = pod();
        let path = pod.write("authority.pem", authority.certificate().as_bytes());
        pod.with(&[("UPLOADER_DESTINATION_CA_BUNDLE", &path)])
    };
    let text = pod().with(&[("UPLOADER_DESTINATION_CA_BUNDLE", &authority.certificate())]);
    for pod in [file, text] {
        let mut door = Door::with(pod, &[]);
        let body = door.pod.write("a.qcow2", &image);
        let (status, said) = door.curl(&["-T", &body], "/upload");
        assert_eq!(status, 200, "{said}");
        let ended = door.end();
        assert_eq!((ended.code, &ended.termination["source-image-virtual-size"]), (Some(0), &json!(disk.len())));
    }
    // Nobody is believed whose authority is unknown.
    let mut door = Door::with(pod().with(&[("DISKFERRY_PATIENCE", "1s")]), &[]);
    let body = door.pod.write("a.qcow2", &image);
    let (status, said) = door.curl(&["-T", &body], "/upload");
    assert_ne!(status, 200, "{said}");
    door.end().assert_bad(5, "target-tls");
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    let (image, _) = qcow2();
    let cut = &image[..image.len() / 2];
    let large = [b"<html>", &[b' '; 40 << 20][..]].concat();
    for (bytes, status, code) in [(cut, 422, "qcow2-ends-early"), (&large, 422, "raw-no-disk")] {
        let mut door = Door::open(&[]);
        let file = door.pod.write("bad", bytes);
        let (found, said) = door.curl(&["-T", &file], "/upload");
        let said: Value = serde_json::from_str(&said).unwrap();
        if code != "raw-no-disk" {
            assert_error(&(found, said.to_string()), status, code);
        }
        assert_eq!(found, status, "{said}");
        assert_eq!(said["error"]["verdict"], "permanent");
        let data = door.pod.path("data");
        let ended = door.end();
        assert_eq!(ended.code, Some(3));
        assert_eq!(ended.termination["error-code"], said["error"]["code"]);
        assert!(names(&data).is_empty());
    }
    let mut door = Door::open(&[("UPLOADER_CHECKSUMS", "md5:00000000000000000000000000000000")]);
    let file = door.pod.write("a.qcow2", &image);
    assert_error(&door.curl(&["-T", &file], "/upload"), 422, "mismatch");
    assert_eq!(door.end().code, Some(6));
    let mut door = Door::open(&[("UPLOAD_IMAGE_SIZE", "4Mi")]);
    let file = door.pod.write("a.qcow2", &image);
    assert_error(&door.curl(&["-T", &file], "/upload"), 413, "target-too-small");
    assert_eq!(door.end().code, Some(5));
}

#[test]
fn only_who_has_the_token_finds_the_path() {
    let (image, disk) = qcow2();
    let mut door = Door::open(&[("DISKFERRY_UPLOAD_TOKEN", TOKEN)]);
    let file = door.pod.write("a.qcow2", &image);
    let right = format!("/upload/{TOKEN}");
    for path in ["/upload", "/upload/", &format!("{right}x"), &right[..right.len() - 1], "/", "/status", "/metrics"] {
        assert_error(&door.curl(&["-T", &file], path), 404, "not-found");
        assert_error(&door.curl(&[], path), 404, "not-found");
    }
    assert_eq!(door.curl(&[], &right).0, 200);
    assert_eq!(door.curl(&["-T", &file], &right).0, 200);
    let data = door.pod.path("data/disk.img");
    let ended = door.end();
    assert!(fs::read(data).unwrap() == disk);
    let said = format!("{ended:?}");
    assert!(!said.contains(TOKEN), "{said}");
    let weak = Pod::new(&[("DISKFERRY_UPLOAD_TOKEN", "guess-me")]);
    let refused = weak.end(weak.command(&["upload"]).spawn().unwrap());
    let message = refused.assert_bad(2, "usage");
    assert!(message.starts_with("DISKFERRY_UPLOAD_TOKEN: ") && !message.contains("guess-me"), "{message}");
}

#[test]
fn an_upload_that_broke_off_goes_on_where_it_was() {
    let disk = noise(24 << 20);
    let registry = Registry::default().start();
    for volume in [true, false] {
        let mut door = if volume { Door::open(&[]) } else { Door::to_registry(&registry, &[]) };
        let file = door.pod.write("disk.img", &disk);
        let mut curl = door.curl_command(&["--limit-rate", "20M", "-T", &file], "/upload").spawn().unwrap();
        let begun = Instant::now();
        while door.offset("/upload") < 3 << 20 {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(50));
        }
        curl.kill().unwrap();
        curl.wait().unwrap();
        let mut offset = 0;
        // Until the worker has noticed.
        while offset == 0 || door.offset("/upload") != offset {
            offset = door.offset("/upload");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(offset > 0 && offset < 24 << 20);
        // Elsewhere is wrong.
        let wrong = (offset - 1).to_string();
        let refused = door.curl(&["-C", &wrong, "-T", &file], "/upload");
        assert_error(&refused, 409, "wrong-offset");
        let (status, said) = door.curl(&["-C", &offset.to_string(), "-T", &file], "/upload");
        assert_eq!(status, 200, "{said}");
        let (data, ended) = (door.pod.path("data/disk.img"), door.end());
        assert_eq!((ended.code, &ended.termination["source-image-size"]), (Some(0), &json!(24 << 20)));
        assert!(!volume || fs::read(data).unwrap() == disk);
    }
}

#[test]
fn an_upload_that_broke_off_may_be_begun_anew() {
    let (image, disk) = qcow2();
    let mut door = Door::open(&[]);
    let file = door.pod.write("a.qcow2", &image);
    let mut half = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(half, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
    half.write_all(&noise(1 << 20)).unwrap();
    while door.offset("/upload") < 1 << 20 {
        thread::sleep(Duration::from_millis(20));
    }
    assert_error(&door.curl(&["-T", &file], "/upload"), 503, "busy");
    drop(half);
    let begun = Instant::now();
    // -C - has no other offset for HTTP than 0.
    let said = loop {
        let (status, said) = door.curl(&["-C", "-", "-T", &file], "/upload");
        if status != 503 || begun.elapsed() > Duration::from_secs(20) {
            assert_eq!(status, 200, "{said}");
            break said;
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(said.contains("\"format\":\"qcow2\""), "{said}");
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

#[test]
fn the_words_of_tus_are_understood() {
    let (image, disk) = qcow2();
    let mut door = Door::open(&[]);
    let (first, second) = image.split_at(image.len() / 2);
    let tus = ["-H", "Tus-Resumable: 1.0.0"];
    let with = |more: &[&str]| door.curl(&[&tus[..], more].concat(), "/upload");
    let options = door.curl(&["-i", "-X", "OPTIONS"], "/upload").1.to_ascii_lowercase();
    assert!(options.contains("tus-version: 1.0.0") && options.contains("tus-extension: creation"), "{options}");
    let length = format!("Upload-Length: {}", image.len());
    let (status, created) = with(&["-i", "-X", "POST", "-H", &length]);
    assert!(status == 201 && created.to_ascii_lowercase().contains("location: /upload"), "{created}");
    assert_eq!(door.patch(0, None, first).0, 204);
    assert_eq!(door.offset("/upload"), first.len() as u64);
    assert_error(&door.patch(0, None, first), 409, "wrong-offset");
    assert_eq!(door.patch(first.len(), None, second).0, 204);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

/// A raw disk is a disk wherever it ends.
#[test]
fn an_image_whose_length_is_said_later_ends_where_it_says_and_not_with_a_part() {
    let disk = noise(4 << 20);
    let (half, whole) = (disk.len() / 2, disk.len());
    for is_said_with_bytes in [true, false] {
        let mut door = Door::open(&[]);
        door.defer();
        assert_eq!(door.header("/upload", "upload-defer-length").as_deref(), Some("1"));
        assert_eq!(door.patch(0, None, &disk[..half]).0, 204);
        assert_eq!(door.offset("/upload"), half as u64);
        assert_eq!(door.header("/upload", "upload-defer-length").as_deref(), Some("1"));
        assert_eq!(door.header("/upload", "upload-length"), None);
        if is_said_with_bytes {
            assert_eq!(door.patch(half, Some(whole), &disk[half..]).0, 204);
        } else {
            assert_eq!(door.patch(half, None, &disk[half..]).0, 204);
            assert!(!door.pod.path("data/disk.img").exists());
            assert_eq!(door.patch(whole, Some(whole), b"").0, 204);
        }
        let (data, ended) = (door.pod.path("data/disk.img"), door.end());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(fs::read(data).unwrap() == disk);
    }
}

#[test]
fn a_length_that_was_said_stays() {
    let disk = noise(3 << 20);
    let (mib, whole) = (1 << 20, disk.len());
    let door = Door::open(&[]);
    door.defer();
    let length = ["-H", "Tus-Resumable: 1.0.0", "-H", "Upload-Defer-Length: 0"];
    assert_error(&door.curl(&[&["-X", "POST"][..], &length].concat(), "/upload"), 400, "no-length");
    assert_eq!(door.patch(0, Some(whole), &disk[..mib]).0, 204);
    assert_eq!(door.header("/upload", "upload-length"), Some(whole.to_string()));
    assert_eq!(door.header("/upload", "upload-defer-length"), None);
    assert_error(&door.patch(mib, Some(whole + 1), &disk[mib..]), 409, "other-length");
    assert_error(&door.patch(mib, Some(2 * mib - 1), &disk[mib..2 * mib]), 400, "too-many");
    assert_eq!(door.patch(mib, None, &disk[mib..2 * mib]).0, 204);
    assert_error(&door.patch(2 * mib, None, &noise(2 << 20)), 400, "too-many");
    let come = usize::try_from(door.offset("/upload")).unwrap();
    assert!((2 * mib..=whole).contains(&come), "{come}");
    door.kill();

    let mut door = Door::open(&[]);
    door.defer();
    assert_eq!(door.patch(0, None, &disk[..mib]).0, 204);
    assert_eq!(door.patch(mib, Some(whole), &disk[mib..2 * mib]).0, 204);
    assert_eq!(door.patch(2 * mib, Some(whole), &disk[2 * mib..]).0, 204);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(data).unwrap() == disk);
}

#[test]
fn a_range_of_an_unknown_whole_is_never_its_end() {
    let disk = noise(4 << 20);
    let half = disk.len() / 2;
    let (first, second) = (format!("0-{}", half - 1), format!("{half}-{}", disk.len() - 1));
    let mut door = Door::open(&[]);
    assert_eq!(door.put_part(&format!("{first}/*"), &disk[..half]).0, 202);
    assert_eq!(door.put_part(&format!("{second}/{}", disk.len()), &disk[half..]).0, 200);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(data).unwrap() == disk);

    let mut door = Door::open(&[("DISKFERRY_RESUME_TIMEOUT", "1s")]);
    assert_eq!(door.put_part(&format!("{first}/*"), &disk[..half]).0, 202);
    let status: Value = serde_json::from_str(&door.curl(&[], "/upload").1).unwrap();
    assert_eq!((&status["upload-offset"], &status["upload-busy"]), (&json!(half), &json!(false)));
    assert_eq!(door.put_part(&format!("{second}/*"), &disk[half..]).0, 202);
    let (data, ended) = (door.pod.path("data"), door.end());
    assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")), "{ended:?}");
    assert!(names(&data).is_empty());
}

#[test]
fn an_upload_is_gone_on_with_by_its_own_id_or_by_none() {
    let disk = noise(3 << 20);
    let (mib, whole) = (1 << 20, disk.len());
    let range = |at: usize| format!("{}-{}/{whole}", at * mib, (at + 1) * mib - 1);
    let part = |at: usize| &disk[at * mib..(at + 1) * mib];
    let mut door = Door::open(&[]);
    let id = || door.header("/upload", "upload-id");
    assert_eq!(id(), None);
    // What nobody has named is nobody's.
    assert_eq!(door.put_part(&range(0), part(0)).0, 202);
    assert_eq!(id(), None);
    assert_error(&door.put_part_of("mine", &range(1), part(1)), 409, "begun-anew");
    // Whoever begins anew gives it a name.
    assert_eq!(door.put_part_of("yours", &range(0), part(0)).0, 202);
    assert_eq!(door.put_part_of("mine", &range(0), part(0)).0, 202);
    assert_eq!(id().as_deref(), Some("mine"));
    assert_error(&door.put_part_of("yours", &range(1), part(1)), 409, "begun-anew");
    assert_error(&door.put_part_of("not good", &range(1), part(1)), 400, "upload-id");
    assert_eq!(door.offset("/upload"), mib as u64);
    assert_eq!(door.put_part_of("mine", &range(1), part(1)).0, 202);
    assert_eq!(door.put_part(&range(2), part(2)).0, 200);
    // And it is told whose the image is that is there.
    let file = door.pod.write("disk", &disk);
    let (status, said) = door.curl(&["-i", "-T", &file], "/upload");
    assert!(status == 409 && said.contains("upload-id: mine") && said.contains("already-done"), "{said}");
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(data).unwrap() == disk);
}

/// The next answer: its head in lower case, and its body.
fn answer(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the connection ended behind {head:?}");
    }
    head.make_ascii_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; len.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn one_of_many_who_come_at_once_wins() {
    const MANY: usize = 50;
    const SOON: Duration = Duration::from_secs(10);
    let image = Qcow2::new(1 << 20).fill(1);
    let (image, disk) = (image.clone().build().image, image.disk());
    let (most, last) = image.split_at(image.len() - 1);
    let mut door = Door::open(&[]);
    let connect = |_| {
        let stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        stream.set_read_timeout(Some(2 * SOON)).unwrap();
        stream.set_write_timeout(Some(2 * SOON)).unwrap();
        stream
    };
    let streams: Vec<_> = (0..MANY).map(connect).collect();
    let together = Barrier::new(MANY);
    thread::scope(|scope| {
        let (answered, answers) = mpsc::channel();
        for (who, mut stream) in streams.iter().enumerate() {
            let (answered, together, len) = (answered.clone(), &together, image.len());
            scope.spawn(move || {
                together.wait();
                write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n").unwrap();
                stream.write_all(most).unwrap();
                answered.send((who, answer(stream))).unwrap();
            });
        }
        // All but one are answered before that one has sent its last byte.
        let begun = Instant::now();
        let mut waiting: BTreeSet<_> = (0..MANY).collect();
        while waiting.len() > 1 {
            let (who, (head, body)) = answers.recv_timeout(SOON.saturating_sub(begun.elapsed())).unwrap();
            assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
            assert_error(&(503, body), 503, "busy");
            waiting.remove(&who);
        }
        let winner = waiting.pop_first().unwrap();
        while door.offset("/upload") < most.len() as u64 {
            assert!(begun.elapsed() < SOON, "{}", door.offset("/upload"));
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(answers.try_recv(), Err(TryRecvError::Empty), "nothing is said before the last byte");
        (&streams[winner]).write_all(last).unwrap();
        let (who, (head, body)) = answers.recv_timeout(2 * SOON).unwrap();
        assert!(who == winner && head.starts_with("http/1.1 200 "), "{head}{body}");
    });
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

/// This process holds both ends of what it tries.
fn more_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(limit.current.is_none_or(|most| most > 1200), "{limit:?}");
}

#[test]
fn a_thousand_who_are_slow_do_not_keep_a_good_one_out() {
    more_files();
    let (image, disk) = qcow2();
    // It lives until its memory has been looked at.
    let mut door = Door::open(&[("DISKFERRY_UPLOAD_TOKEN", TOKEN), ("DISKFERRY_LINGER", "60s")]);
    let file = door.pod.write("a.qcow2", &image);
    // Some say nothing, some begin a head, some send a body to nowhere.
    let said = ["", "PUT /upl", "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nx"];
    let begun = Instant::now();
    let mut slow: Vec<_> = (0..1000)
        .map(|at| {
            let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
            stream.write_all(said[at % 3].as_bytes()).unwrap();
            stream
        })
        .collect();
    // All the while that they are let wait, and each sends another byte now and then.
    let (path, mut longest) = (format!("/upload/{TOKEN}"), Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(8) {
        for stream in slow.iter_mut().skip(1).step_by(3) {
            stream.write_all(b"o").unwrap();
        }
        let asked = Instant::now();
        assert_eq!(door.curl(&[], &path).0, 200);
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let (status, said) = door.curl(&["-T", &file], &path);
    assert_eq!(status, 200, "{said}");
    let id = door.child.as_ref().unwrap().id().to_string();
    let memory = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    let kibibytes: u64 = peak.trim().parse().unwrap();
    assert!(kibibytes < 100 << 10, "{kibibytes}");
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    eprintln!("the longest answer took {longest:?}, the peak was {kibibytes} KiB");
    drop(slow);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

#[test]
fn a_head_that_takes_too_long_is_answered_408_and_cut() {
    let door = Door::open(&[]);
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nX-Sl").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let took = begun.elapsed();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert!((9..15).contains(&took.as_secs()), "{took:?}");
    door.kill();
}

#[test]
fn a_body_of_a_few_bytes_a_second_is_answered_408() {
    let door = Door::open(&[("DISKFERRY_UPLOAD_STALL_TIMEOUT", "2s")]);
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
    let mut sender = stream.try_clone().unwrap();
    // It never says nothing for long.
    let sending = thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) && sender.write_all(&[7; 100]).is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
        begun.elapsed()
    });
    let mut answer = [0; 4096];
    let got = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..got]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"stalled\""), "{answer:?}");
    drop(stream);
    assert!(sending.join().unwrap() < Duration::from_secs(10));
    let (_, said) = door.curl(&[], "/upload");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["upload-busy"], false);
    door.kill();
}

#[test]
fn an_aborted_body_frees_its_place_within_a_second() {
    let door = Door::open(&[]);
    for reset in [false, true] {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
        stream.write_all(&noise(1 << 20)).unwrap();
        let busy = || serde_json::from_str::<Value>(&door.curl(&[], "/upload").1).unwrap()["upload-busy"] == true;
        while !busy() || door.offset("/upload") < 1 << 20 {
            thread::sleep(Duration::from_millis(20));
        }
        let gone = Instant::now();
        if reset {
            // Closed with an answer unread or not, this is a reset.
            set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        while busy() {
            assert!(gone.elapsed() < Duration::from_secs(1), "reset {reset}: still busy");
        }
        eprintln!("reset {reset}: free after {:?}", gone.elapsed());
    }
    door.kill();
}

#[test]
fn who_is_refused_is_not_told_to_send_the_body() {
    let door = Door::open(&[("DISKFERRY_UPLOAD_TOKEN", TOKEN)]);
    let ask = |path: &str, more: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        let head = "Host: x\r\nContent-Length: 50000000\r\nExpect: 100-continue\r\n";
        write!(stream, "PUT {path} HTTP/1.1\r\n{head}{more}\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split("\r\n").next().unwrap().to_owned()
    };
    let right = format!("/upload/{TOKEN}");
    for _ in 0..20 {
        assert_eq!(ask("/upload/wrong", ""), "HTTP/1.1 404 Not Found");
        assert_eq!(ask(&right, "Content-Type: multipart/form-data\r\n"), "HTTP/1.1 415 Unsupported Media Type");
        assert_eq!(ask(&right, "Content-Range: bytes 5-50000004/60000000\r\n"), "HTTP/1.1 409 Conflict");
    }
    door.kill();
}

#[test]
fn what_is_larger_than_the_disk_may_be_is_refused_by_what_is_said_and_by_what_comes() {
    let mut disk = noise(8 << 20);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    // Said: refused with a mebibyte sent of a terabyte.
    let mut door = Door::open(&[("UPLOAD_IMAGE_SIZE", "4Mi")]);
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n").unwrap();
    stream.write_all(&disk[..1 << 20]).unwrap();
    let mut answer = vec![0; 4096];
    let got = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..got]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"target-too-small\""), "{answer}");
    let data = door.pod.path("data");
    assert_eq!(door.end().code, Some(5));
    assert!(names(&data).is_empty());
    // And what says nothing of its length.
    let mut door = Door::open(&[("UPLOAD_IMAGE_SIZE", "4Mi")]);
    let file = door.pod.write("disk.img", &disk);
    let (status, said) = door.curl(&["-H", "Transfer-Encoding: chunked", "-T", &file], "/upload");
    assert_error(&(status, said), 413, "target-too-small");
    let data = door.pod.path("data");
    assert_eq!(door.end().code, Some(5));
    assert!(names(&data).is_empty());
}

#[test]
fn a_disk_may_be_as_large_as_is_allowed_whatever_is_asked_for() {
    let mut disk = noise(8 << 20);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
        let mut door = Door::open(&[("DISKFERRY_MAX_SIZE", "8Mi")]);
        let file = door.pod.write("disk.img", &disk);
        assert_eq!(door.curl(&[more, &["-T", &file]].concat(), "/upload").0, 200, "{more:?}");
        assert_eq!(door.end().code, Some(0));
    }
    for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
        let mut door = Door::open(&[("DISKFERRY_MAX_SIZE", "8388607")]);
        let file = door.pod.write("disk.img", &disk);
        assert_error(&door.curl(&[more, &["-T", &file]].concat(), "/upload"), 413, "max-size");
        let data = door.pod.path("data");
        assert_eq!(door.end().code, Some(3));
        assert!(names(&data).is_empty());
    }
}

#[test]
fn bodies_that_are_not_what_they_say_are_refused() {
    let door = Door::open(&[]);
    let raw = |text: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    };
    let put = |more: &str| raw(&format!("PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n{more}\r\nabcd"));
    assert_error(&put("Content-Range: bytes 0-9/10\r\n"), 400, "content-range");
    assert_error(&put("Content-Range: nonsense\r\n"), 400, "content-range");
    assert_error(&put("Content-Range: bytes 6-9/10\r\n"), 409, "wrong-offset");
    assert_error(&put("Content-Type: multipart/form-data; boundary=x\r\n"), 415, "form");
    assert_error(&put("x-cdi-content-type: blockdevice-clone\r\n"), 415, "clone");
    assert_error(&door.curl(&["-X", "DELETE"], "/upload"), 405, "method");
    // A head has 16 KiB at most.
    let head = |len: usize| {
        let (before, behind) = ("GET /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: ", "\r\n\r\n");
        raw(&format!("{before}{}{behind}", "a".repeat(len - before.len() - behind.len()))).0
    };
    assert_eq!([(16 << 10) - 1, (16 << 10) + 1, 200_000].map(head), [200, 431, 431]);
    assert_eq!(door.curl(&[], "/healthz"), (200, "ok\n".into()));
    let (_, said) = door.curl(&[], "/upload");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["phase"], "WaitForUserUpload");
    door.kill();
}

#[test]
fn what_takes_too_long_ends() {
    let mut door = Door::open(&[("DISKFERRY_FIRST_BYTE_TIMEOUT", "1s")]);
    let ended = door.end();
    assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")));
    assert_eq!(ended.events.last().unwrap()["reason"], "WaitForUserUploadTimeout");

    let begin = |door: &Door| {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
        stream.write_all(&noise(1 << 20)).unwrap();
        stream
    };
    let mut door = Door::open(&[("DISKFERRY_UPLOAD_STALL_TIMEOUT", "1s"), ("DISKFERRY_RESUME_TIMEOUT", "1s")]);
    let mut stream = begin(&door);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"stalled\""), "{answer}");
    let ended = door.end();
    assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")), "{ended:?}");

    let mut door = Door::open(&[("DEADLINE", "2s")]);
    let _stream = begin(&door);
    assert_eq!(door.end().code, Some(75));
    // All bytes have come, and stand for 1 TiB.
    let image = wrap::bzip2(&wrap::bzip2(&vec![0; 64 << 20]).repeat(1 << 14));
    let mut door = Door::open(&[("DEADLINE", "3s")]);
    let file = door.pod.write("zeroes.raw.bz2.bz2", &image);
    let (status, said) = door.curl(&["-T", &file], "/upload");
    assert!(status == 408 && said.contains("not carried after 3 s"), "{status} {said}");
    let ended = door.end();
    assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")), "{ended:?}");
    assert!(names(&door.pod.path("data")).is_empty());
    // The last one is missing, and is not asked for before.
    for variable in ["DEADLINE", "DISKFERRY_RESUME_TIMEOUT"] {
        let mut door = Door::open(&[(variable, "3s"), ("DISKFERRY_UPLOAD_STALL_TIMEOUT", "1s")]);
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", image.len() + 1).unwrap();
        stream.write_all(&image).unwrap();
        let ended = door.end();
        assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")), "{ended:?}");
        assert!(names(&door.pod.path("data")).is_empty());
    }
    let late = Pod::new(&[("DEADLINE", "2020-01-01T00:00:00Z")]);
    late.end(late.command(&["upload"]).spawn().unwrap()).assert_bad(2, "usage");
}

#[test]
fn what_takes_no_longer_than_it_may_and_is_as_large_as_the_disk_is_carried() {
    let mut disk = noise(8 << 20);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    let len = disk.len();
    let pause = || thread::sleep(Duration::from_secs(1));
    let variables = ["FIRST_BYTE", "UPLOAD_STALL", "RESUME"].map(|which| format!("DISKFERRY_{which}_TIMEOUT"));
    let mut settings: Vec<_> = variables.iter().map(|name| (name.as_str(), "5s")).collect();
    settings.extend([("UPLOAD_IMAGE_SIZE", "8Mi"), ("DEADLINE", "60s")]);
    let mut door = Door::open(&settings);
    pause();
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n").unwrap();
    stream.write_all(&disk[..1 << 20]).unwrap();
    pause();
    stream.write_all(&disk[1 << 20..2 << 20]).unwrap();
    drop(stream);
    pause();
    let come = usize::try_from(door.offset("/upload")).unwrap();
    assert!(come > 0, "what came is kept");
    let (status, said) = door.put_part(&format!("{come}-{}/{len}", len - 1), &disk[come..]);
    assert_eq!(status, 200, "{said}");
    assert_eq!(door.end().code, Some(0));
    assert!(fs::read(door.pod.path("data/disk.img")).unwrap() == disk);
}

#[test]
fn a_signal_ends_an_upload_and_leaves_nothing() {
    for begun in [false, true] {
        let mut door = Door::open(&[]);
        let stream = begun.then(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
            write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
            stream.write_all(&noise(1 << 20)).unwrap();
            door.pod.wait_for(|status| status["phase"] == "Provisioning");
            stream
        });
        let id = door.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let (data, ended) = (door.pod.path("data"), door.end());
        assert_eq!(ended.code, Some(143), "{ended:?}");
        assert_eq!(ended.events.last().unwrap()["phase"], "Terminating");
        assert!(names(&data).is_empty());
        drop(stream);
    }
}

#[test]
fn clients_prove_who_they_are() {
    let (image, disk) = qcow2();
    let (authority, other) = (Authority::new(), Authority::new());
    let pod = Pod::new(&[]);
    let server = authority.server(&["127.0.0.1"]);
    let file = |name: &str, text: &str| pod.write(name, text.as_bytes());
    let (cert, key) = (file("cert", &server.certificate), file("key", &server.key));
    let ca = file("ca", &authority.certificate());
    let client = |name: &str, authority: &Authority, file_name: &str| {
        let identity = authority.client(name);
        file(file_name, &format!("{}{}", identity.certificate, identity.key))
    };
    let (good, bad) = (client("uploader", &authority, "good"), client("somebody", &authority, "bad"));
    let stranger = client("uploader", &other, "stranger");
    let image_file = pod.write("a.qcow2", &image);
    let mut door = Door::open(&[
        ("TLS_CERT_FILE", &cert),
        ("TLS_KEY_FILE", &key),
        ("CLIENT_CA_FILE", &ca),
        ("CLIENT_NAME", "uploader"),
    ]);
    let curl = |cert: &str| {
        let url = format!("https://127.0.0.1:{}/upload", door.port);
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "-m",
            "60",
            "-w",
            "\n%{http_code}",
            "--cacert",
            &ca,
            "--cert",
            cert,
            "-T",
            &image_file,
            &url,
        ]);
        command.output().unwrap()
    };
    assert_error(&parted(&curl(&bad)), 401, "wrong-client");
    assert!(!curl(&stranger).status.success());
    assert_eq!(parted(&curl(&good)).0, 200);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}
