//! Imports as platforms start them: with variables, against real servers and real volumes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Pod, SECRET, names};
use diskferry_testkit::container::{Layout, MANIFEST};
use diskferry_testkit::processes::watch;
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::fault::{Answer, Chunks, End, File, Framing, Server};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::registry::{Registry, RunningRegistry, USER};
use diskferry_testkit::serve::tls::Authority;
use diskferry_testkit::{Random, wrap};

const MIB: usize = 1 << 20;

fn qcow2() -> (Vec<u8>, Vec<u8>) {
    let image = Qcow2::new(8 << 20).fill(1);
    (image.clone().build().image, image.disk())
}

/// Bytes that nothing makes smaller.
fn noise(len: usize) -> Vec<u8> {
    Random::new(1).bytes(len)
}

fn nginx(files: &[(&str, &[u8])]) -> RunningNginx {
    let nginx = Nginx::new().start();
    for (name, bytes) in files {
        fs::write(nginx.root().join(name), bytes).unwrap();
    }
    nginx
}

/// From a server to a registry without TLS.
fn to_registry(url: &str, registry: &RunningRegistry, name: &str) -> Pod {
    let endpoint = format!("{}/vi/team/{name}:uid-1", registry.host());
    Pod::new(&[
        ("IMPORTER_SOURCE", "http"),
        ("IMPORTER_ENDPOINT", url),
        ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
        ("DESTINATION_INSECURE_TLS", "true"),
    ])
}

/// From a registry without TLS to a file.
fn to_file(registry: &RunningRegistry, name: &str) -> Pod {
    let endpoint = format!("docker://{}/vi/team/{name}:uid-1", registry.host());
    let pod = Pod::new(&[("IMPORTER_SOURCE", "registry"), ("IMPORTER_ENDPOINT", &endpoint), ("INSECURE_TLS", "true")]);
    file_of(pod)
}

/// With a filesystem as the destination.
fn file_of(pod: Pod) -> Pod {
    fs::create_dir(pod.path("data")).unwrap();
    let path = pod.text("data/disk.img");
    pod.with(&[("DISKFERRY_DESTINATION", "filesystem"), ("DISKFERRY_DESTINATION_PATH", &path)])
}

fn from_url(url: &str) -> Pod {
    file_of(Pod::new(&[("IMPORTER_SOURCE", "http"), ("IMPORTER_ENDPOINT", url)]))
}

#[test]
fn an_image_goes_to_a_registry_and_from_there_to_a_volume() {
    let (image, disk) = qcow2();
    let packed = wrap::xz(&image, &[]);
    let (nginx, registry) = (nginx(&[("debian.qcow2.xz", &packed)]), Registry::default().start());
    let ended = to_registry(&nginx.url(Origin::Plain, "/debian.qcow2.xz"), &registry, "debian").import();
    ended.assert_good();
    let left = &ended.termination;
    assert_eq!(left["source-image-size"], packed.len());
    assert_eq!(left["source-image-virtual-size"], disk.len());
    assert_eq!(left["source-image-format"], "qcow2");
    assert!(left["duration"].as_u64().unwrap() > 0 && left["average-speed"].as_u64().unwrap() > 0);
    assert!(left["digest"].as_str().unwrap().starts_with("sha256:"));
    let phases: Vec<_> = ended.events.iter().map(|event| event["phase"].as_str().unwrap()).collect();
    assert_eq!((phases.first(), phases.last()), (Some(&"Provisioning"), Some(&"Ready")));

    let pod = to_file(&registry, "debian");
    let ended = pod.import();
    ended.assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert_eq!(names(&pod.path("data")), ["disk.img"]);
    assert_eq!(ended.termination["source-image-virtual-size"], disk.len());
    assert_eq!(pod.status()["phase"], "Ready");
    assert_eq!(pod.status()["unpacked-size-human"], "8 MiB");
}

#[test]
fn what_is_odd_about_an_image_is_told_to_people_and_to_programs() {
    // One partition, of half a GiB, on a disk of a MiB.
    let mut disk = vec![7; MIB];
    disk[446..510].fill(0);
    disk[450] = 0x83;
    disk[454..462].copy_from_slice(&[0, 8, 0, 0, 0, 0, 16, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let nginx = nginx(&[("cut.raw", &disk)]);
    let pod = from_url(&nginx.url(Origin::Plain, "/cut.raw"));
    let ended = pod.import();
    ended.assert_good();
    let status = pod.status();
    let [warning] = &**status["warnings"].as_array().unwrap() else { panic!("{status}") };
    let warning = warning.as_str().unwrap();
    assert!(warning.contains("partition table"), "{warning}");
    let stderr = String::from_utf8(ended.output.stderr).unwrap();
    assert!(stderr.contains(&format!("diskferry-worker: warning: {warning}\n")), "{stderr}");
}

#[test]
fn what_a_server_says_moves_no_terminal_that_shows_the_log() {
    let (image, _) = qcow2();
    let (nginx, registry) = (nginx(&[("a.qcow2", &image)]), Server::start());
    let said = r#"{"errors":[{"code":"DENIED","message":"no\u001b[2J\u009b1m\u202e"}]}"#;
    let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {}", said.len());
    let answer = Answer::raw(format!("{head}\r\n\r\n{said}"));
    registry.put("/v2/vi/a/blobs/uploads/", File::new(vec![]).posts(answer));
    let endpoint = format!("{}/vi/a:1", registry.address());
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "http"),
        ("IMPORTER_ENDPOINT", &nginx.url(Origin::Plain, "/a.qcow2")),
        ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
        ("DISKFERRY_DESTINATION_PLAIN_HTTP", "true"),
    ]);
    let ended = pod.import();
    ended.assert_bad(5, "target-denied");
    let meant = "no\u{1b}[2J\u{9b}1m\u{202e}";
    assert!(ended.termination["error-message"].as_str().unwrap().contains(meant), "{:?}", ended.termination);
    assert!(ended.events.last().unwrap()["message"].as_str().unwrap().contains(meant));
    let [log, events] = [ended.output.stderr, ended.output.stdout].map(|text| String::from_utf8(text).unwrap());
    let [left, status] = ["termination", "status"].map(|name| fs::read_to_string(pod.path(name)).unwrap());
    assert!(log.contains(r"no\u{1b}[2J\u{9b}1m\u{202e}"), "{log}");
    for text in [&log, &events, &left, &status] {
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text}");
    }
}

#[test]
fn a_container_image_is_copied_from_registry_to_registry_as_it_is() {
    let (image, _) = qcow2();
    let (nginx, registry, other) =
        (nginx(&[("a.qcow2", &image)]), Registry::default().start(), Registry::default().start());
    let first = to_registry(&nginx.url(Origin::Plain, "/a.qcow2"), &registry, "a").import();
    first.assert_good();
    let source = format!("{}/vi/team/a:uid-1", registry.host());
    // Within a registry, and to another one.
    for target in [format!("{}/vi/team/b:uid-2", registry.host()), format!("{}/cvi/c:uid-3", other.host())] {
        let pod = Pod::new(&[
            ("IMPORTER_SOURCE", "dvcr"),
            ("IMPORTER_ENDPOINT", &source),
            ("IMPORTER_DESTINATION_ENDPOINT", &target),
            ("DESTINATION_INSECURE_TLS", "true"),
        ]);
        let ended = pod.import();
        ended.assert_good();
        for key in ["digest", "source-image-size", "source-image-virtual-size", "source-image-format"] {
            assert_eq!(ended.termination[key], first.termination[key], "{key}");
        }
    }
    // A volume gets the disk in it.
    let volume =
        file_of(Pod::new(&[("IMPORTER_SOURCE", "dvcr"), ("IMPORTER_ENDPOINT", &source), ("INSECURE_TLS", "true")]));
    volume.import().assert_good();
    assert_eq!(fs::metadata(volume.path("data/disk.img")).unwrap().len(), 8 << 20);
    // What is not there is not there.
    let gone = format!("{}/vi/team/none:1", registry.host());
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "dvcr"),
        ("IMPORTER_ENDPOINT", &gone),
        ("IMPORTER_DESTINATION_ENDPOINT", &source),
        ("DESTINATION_INSECURE_TLS", "true"),
    ]);
    let ended = pod.import();
    ended.assert_bad(4, "source-not-found");
    assert_eq!(ended.events.last().unwrap()["reason"], "ImagePullFailed");
}

#[test]
fn what_is_said_of_a_copy_is_of_what_was_copied_and_not_of_what_has_its_tag_since() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let layout = Layout::new(scratch.path());
    let labels = |size: usize| {
        format!(r#""source-image-format":"raw","source-image-size":"{size}","source-image-virtual-size":"{size}""#)
    };
    let [first, second] = [1000, 2000].map(|size| layout.image(&[("disk/a.raw", &vec![7; size])], &labels(size)));
    for entry in fs::read_dir(scratch.path().join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let digest = format!("sha256:{}", entry.file_name().to_str().unwrap());
        for kind in ["blobs", "manifests"] {
            server.put(&format!("/v2/vi/a/{kind}/{digest}"), File::new(fs::read(entry.path()).unwrap()));
        }
    }
    let [old, new] = [&first, &second].map(|image| fs::read(layout.path(&image.digest)).unwrap());
    let right = || Answer::right().header("Content-Type", MANIFEST);
    let tag = File::new(old).version(new).gets_then([right()], right().version(1));
    server.put("/v2/vi/a/manifests/1", tag);
    let registry = Registry::default().start();
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "dvcr"),
        ("IMPORTER_ENDPOINT", &format!("{}/vi/a:1", server.address())),
        ("DISKFERRY_PLAIN_HTTP", "true"),
        ("IMPORTER_DESTINATION_ENDPOINT", &format!("{}/vi/a:1", registry.host())),
        ("DESTINATION_INSECURE_TLS", "true"),
    ]);
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.termination["digest"], first.digest);
    assert_eq!(ended.termination["source-image-virtual-size"], 1000);
}

#[test]
fn credentials_and_certificates_come_from_the_environment_and_from_files() {
    let (image, _) = qcow2();
    let authority = Authority::new();
    let identity = || authority.server(&["127.0.0.1"]);
    let nginx = Nginx::new().tls(identity()).user(USER.0, USER.1).start();
    fs::write(nginx.root().join("a.qcow2"), &image).unwrap();
    let registry = Registry::default().tls(identity()).locked().start();
    let endpoint = format!("{}/vi/a:1", registry.host());
    let url = nginx.url(Origin::Tls, "/a.qcow2");
    let pod = || {
        let pod = Pod::new(&[("IMPORTER_ENDPOINT", &url), ("IMPORTER_DESTINATION_ENDPOINT", &endpoint)]);
        let certificates = pod.text("certificates");
        fs::create_dir(&certificates).unwrap();
        fs::write(format!("{certificates}/ca.crt"), authority.certificate()).unwrap();
        pod.with(&[
            ("IMPORTER_CERT_DIR", &certificates),
            ("DISKFERRY_DESTINATION_CERT_DIR", &certificates),
            ("IMPORTER_ACCESS_KEY_ID", USER.0),
            ("IMPORTER_SECRET_KEY", USER.1),
        ])
    };
    let by_name = [("IMPORTER_DESTINATION_ACCESS_KEY_ID", USER.0), ("IMPORTER_DESTINATION_SECRET_KEY", USER.1)];
    pod().with(&by_name).import().assert_good();
    let by_file = pod();
    let auth = by_file.write(
        "config.json",
        format!(r#"{{"auths":{{"{}":{{"username":"{}","password":"{}"}}}}}}"#, registry.host(), USER.0, USER.1)
            .as_bytes(),
    );
    by_file.with(&[("IMPORTER_DESTINATION_AUTH_CONFIG", &auth)]).import().assert_good();
    pod().import().assert_bad(5, "target-denied");
    let wrong = [("IMPORTER_DESTINATION_ACCESS_KEY_ID", "you"), ("IMPORTER_DESTINATION_SECRET_KEY", SECRET)];
    pod().with(&wrong).import().assert_bad(5, "target-denied");
    pod().with(&by_name).with(&[("IMPORTER_SECRET_KEY", "other")]).import().assert_bad(4, "source-denied");
    pod().with(&by_name).with(&[("IMPORTER_CERT_DIR", "")]).import().assert_bad(4, "source-tls");
    let believing = [("IMPORTER_CERT_DIR", ""), ("INSECURE_TLS", "true")];
    pod().with(&by_name).with(&believing).import().assert_good();
}

#[test]
fn flags_go_before_variables_and_these_before_the_file() {
    let (image, disk) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image)]);
    let pod = from_url("http://127.0.0.1:1/wrong");
    let url = nginx.url(Origin::Plain, "/a.qcow2");
    let config =
        pod.write("worker.toml", format!("source = \"dvcr\"\nimage-size = \"16Mi\"\nendpoint = {url:?}\n").as_bytes());
    let child = pod.command(&["import", "--endpoint", &url, "--config", &config]).spawn().unwrap();
    pod.end(child).assert_good();
    let found = fs::read(pod.path("data/disk.img")).unwrap();
    assert_eq!(found.len(), 16 * MIB, "what the file says holds where nobody else says anything");
    assert!(found.starts_with(&disk) && found[disk.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn settings_that_are_not_understood_are_a_verdict_that_names_them() {
    for (name, value) in [("PREALLOCATION", "maybe"), ("IMPORTER_IMAGE_SIZE", "2 GB"), ("IMPORTER_SOURCE", "gcs")] {
        let pod = from_url("http://127.0.0.1:1/a").with(&[(name, value)]);
        let ended = pod.import();
        assert!(ended.assert_bad(2, "usage").starts_with(&format!("{name}: ")), "{ended:?}");
    }
}

#[test]
fn flags_that_are_not_understood_are_a_verdict_too() {
    let pod = from_url("http://127.0.0.1:1/a");
    let run = |args: &[&str]| pod.end(pod.command(args).spawn().unwrap());
    let ended = run(&["import", "--bogus"]);
    assert_eq!(ended.assert_bad(2, "usage"), "unexpected argument '--bogus' found");
    let ended = run(&["import", "--image-size"]);
    assert!(ended.assert_bad(2, "usage").contains("--image-size <QUANTITY>"), "{ended:?}");
    let ended = run(&["import", &format!("http://me:{SECRET}@host/")]);
    assert_eq!(ended.assert_bad(2, "usage"), "unexpected argument '…' found");
    assert_eq!(
        run(&["import", "--bogus", "--permanent-exit", "zero"]).code,
        Some(2),
        "what stands behind it is not read"
    );
    assert_eq!(run(&["import", "--permanent-exit", "zero", "--bogus"]).code, Some(0));
    let ended = run(&["upload", "--bogus"]);
    assert_eq!(ended.assert_bad(2, "usage"), "unexpected argument '--bogus' found");
}

#[test]
fn a_disk_that_does_not_fit_is_refused_before_a_byte_is_written() {
    let (image, _) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image), ("a.raw.gz", &wrap::gzip(&vec![7; 8 * MIB]))]);
    let pod = from_url(&nginx.url(Origin::Plain, "/a.qcow2")).with(&[("IMPORTER_IMAGE_SIZE", "4Mi")]);
    let text = pod.import().assert_bad(5, "target-too-small").to_owned();
    assert_eq!(text, "the disk takes 8388608 bytes (8 MiB), 4194304 bytes (4 MiB) were asked for");
    assert!(names(&pod.path("data")).is_empty());
    // Nobody knows how large this one is before it has been unpacked.
    let pod = from_url(&nginx.url(Origin::Plain, "/a.raw.gz")).with(&[("IMPORTER_IMAGE_SIZE", "4Mi")]);
    pod.import().assert_bad(5, "target-too-small");
    assert!(names(&pod.path("data")).is_empty());
}

#[test]
fn a_hopeless_image_is_permanent_and_leaves_nothing_behind() {
    let (mut image, _) = qcow2();
    let checksum = "IMPORTER_CHECKSUM";
    let nginx = nginx(&[("a.qcow2", &image)]);
    let url = nginx.url(Origin::Plain, "/a.qcow2");
    let pod = from_url(&url).with(&[(checksum, "md5:900150983cd24fb0d6963f7d28e17f72")]);
    let ended = pod.import();
    ended.assert_bad(6, "mismatch");
    assert!(ended.termination["message"].as_str().unwrap().contains("checksum mismatch"));
    assert!(names(&pod.path("data")).is_empty());
    // A restart policy that looks at nothing but this.
    let pod = from_url(&url)
        .with(&[(checksum, "md5:900150983cd24fb0d6963f7d28e17f72"), ("DISKFERRY_PERMANENT_EXIT", "zero")]);
    let ended = pod.import();
    assert_eq!((ended.code, &ended.termination["verdict"]), (Some(0), &"permanent".into()), "{ended:?}");

    from_url(&nginx.url(Origin::Plain, "/none")).import().assert_bad(4, "source-not-found");
    image.truncate(image.len() / 2);
    fs::write(nginx.root().join("half.qcow2"), &image).unwrap();
    from_url(&nginx.url(Origin::Plain, "/half.qcow2")).import().assert_bad(3, "qcow2-ends-early");
    let registry = Registry::default().start();
    to_registry(&nginx.url(Origin::Plain, "/half.qcow2"), &registry, "half").import().assert_bad(3, "qcow2-ends-early");
    let server = Server::start();
    server.put("/a", File::new(vec![]).gets_then([], Answer::html()));
    from_url(&server.url("/a")).import().assert_bad(4, "source-web-page");
}

#[test]
fn a_source_that_fails_is_waited_out_and_read_on() {
    let (image, disk) = qcow2();
    let server = Server::start();
    let file = File::new(image).gets([
        Answer::status(503).header("Retry-After", "0"),
        Answer::right().cut(100_000, End::Reset),
        Answer::right().cut(200_000, End::Reset),
    ]);
    server.put("/a.qcow2", file);
    let pod = from_url(&server.url("/a.qcow2")).with(&[("DISKFERRY_PATIENCE", "60s")]);
    let ended = pod.import();
    ended.assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert!(
        ended.events.iter().any(|event| event["message"].as_str().unwrap().starts_with("a server has failed: try"))
    );
    // In the end patience ends, and that is no verdict on the image.
    server.put("/b", File::new(vec![]).gets_then([], Answer::status(503)));
    let began = Instant::now();
    let ended = from_url(&server.url("/b")).import();
    ended.assert_bad(75, "source-http-status");
    assert!(began.elapsed() >= Duration::from_secs(3), "{ended:?}");
}

/// Passes connections on to a server that may change.
fn relay(to: std::sync::Arc<std::sync::Mutex<String>>) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, Ok(mut server)) = (client.unwrap(), std::net::TcpStream::connect(&*to.lock().unwrap()))
            else {
                continue;
            };
            let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut client, &mut server);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut back, &mut forth);
                let _ = forth.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_registry_that_is_read_only_is_waited_out() {
    let (image, _) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image)]);
    let (collecting, working) = (Registry::default().read_only().start(), Registry::default().start());
    let place = std::sync::Arc::new(std::sync::Mutex::new(collecting.host()));
    let endpoint = format!("{}/vi/a:1", relay(place.clone()));
    let url = nginx.url(Origin::Plain, "/a.qcow2");
    let pod = || {
        Pod::new(&[
            ("IMPORTER_ENDPOINT", &url),
            ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
            ("DISKFERRY_DESTINATION_PLAIN_HTTP", "true"),
        ])
    };
    // As long as patience lasts; and then that is no verdict on the image.
    let ended = pod().import();
    assert!(ended.assert_bad(75, "target-busy").contains("405"), "{ended:?}");
    let pod = pod().with(&[("DISKFERRY_PATIENCE", "60s")]);
    let child = pod.command(&["import"]).spawn().unwrap();
    pod.wait_for(|status| {
        status["message"].as_str().is_some_and(|text| text.starts_with("a server has failed: try 3"))
    });
    *place.lock().unwrap() = working.host();
    drop(collecting);
    let ended = pod.end(child);
    ended.assert_good();
    assert_eq!(ended.events.last().unwrap()["attempt"], 1, "the source was read once");
}

#[test]
fn a_block_of_a_guest_is_raw_whatever_it_looks_like() {
    // A disk with a qcow2 header on it, which a guest could have written.
    let (mut disk, _) = qcow2();
    disk.resize(disk.len().next_multiple_of(512), 0);
    let pod = Pod::new(&[("IMPORTER_SOURCE", "blockDevice")]);
    let device = pod.write("device", &disk);
    let pod = file_of(pod.with(&[("IMPORTER_ENDPOINT", &device)]));
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.termination["source-image-format"], "raw");
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);

    let cd = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/cd.iso");
    let pod = file_of(Pod::new(&[("IMPORTER_SOURCE", "blockDevice"), ("IMPORTER_ENDPOINT", cd)]));
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(
        (&ended.termination["source-image-format"], &ended.termination["source-image-cdrom"]),
        (&"iso".into(), &true.into())
    );
}

#[test]
fn a_source_without_a_length_is_carried_and_shows_no_percentage() {
    let (image, disk) = qcow2();
    let server = Server::start();
    server.put(
        "/a",
        File::new(image.clone()).gets_then([], Answer::right().framing(Framing::Chunked(10_000, Chunks::Clean))),
    );
    let pod = from_url(&server.url("/a"));
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.termination["source-image-size"], image.len());
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    let registry = Registry::default().start();
    let ended = to_registry(&server.url("/a"), &registry, "a").import();
    ended.assert_good();
    assert_eq!(ended.termination["source-image-size"], image.len());
}

#[test]
fn an_image_that_is_replaced_while_it_is_read_is_read_anew() {
    let (old, _) = qcow2();
    let new = Qcow2::new(8 << 20).fill(2);
    let server = Server::start();
    let file = File::new(old).version(new.clone().build().image);
    server.put("/a", file.gets_then([Answer::right().cut(1_000_000, End::Reset)], Answer::right().version(1)));
    let pod = from_url(&server.url("/a")).with(&[("DISKFERRY_PATIENCE", "60s")]);
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.events.last().unwrap()["attempt"], 2);
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == new.disk());
}

#[test]
fn an_object_comes_from_a_store_that_speaks_s3() {
    let (image, disk) = qcow2();
    let server = Server::start();
    server.put("/bucket/a.qcow2", File::new(image));
    let url = server.url("/bucket/a.qcow2");
    let pod = from_url(&url).with(&[
        ("IMPORTER_SOURCE", "s3"),
        ("IMPORTER_ACCESS_KEY_ID", "AKID"),
        ("IMPORTER_SECRET_KEY", SECRET),
    ]);
    pod.import().assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert!(server.requests().iter().all(|request| format!("{request:?}").contains("X-Amz-Signature")));
}

#[test]
fn headers_and_proxies_come_from_the_environment() {
    let (image, _) = qcow2();
    let server = Server::start();
    server.put("/a.qcow2", File::new(image));
    let pod = from_url(&server.url("/a.qcow2"))
        .with(&[("IMPORTER_EXTRA_HEADER_0", "X-One: 1"), ("DISKFERRY_HEADERS", "X-Two: 2")]);
    pod.import().assert_good();
    let request = format!("{:?}", server.requests()[0]).to_lowercase();
    assert!(request.contains("x-one") && request.contains("x-two"), "{request}");
    // Nobody listens there, so that a proxy that is used is one that fails.
    for variable in ["http_proxy", "HTTP_PROXY"] {
        let pod =
            from_url("http://images.example/a").with(&[(variable, "http://127.0.0.1:1"), ("DISKFERRY_PATIENCE", "0s")]);
        let ended = pod.import();
        assert!(
            ended.assert_bad(75, "source-unreachable").contains("through the proxy http://127.0.0.1:1"),
            "{ended:?}"
        );
    }
    let pod =
        from_url(&server.url("/a.qcow2")).with(&[("http_proxy", "http://127.0.0.1:1"), ("no_proxy", "127.0.0.1")]);
    pod.import().assert_good();
}

#[test]
fn a_disk_on_a_filesystem_may_be_of_any_format() {
    let (image, disk) = qcow2();
    let pod = Pod::new(&[("IMPORTER_SOURCE", "filesystem")]);
    let file = pod.write("source.img", &image);
    let registry = Registry::default().start();
    let endpoint = format!("{}/vd/a:1", registry.host());
    let pod = pod.with(&[
        ("IMPORTER_ENDPOINT", &file),
        ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
        ("DISKFERRY_DESTINATION_PLAIN_HTTP", "true"),
        ("DISKFERRY_STORE_AS", "raw-zstd"),
    ]);
    let ended = pod.import();
    ended.assert_good();
    let endpoint = format!("docker://{endpoint}");
    let back = file_of(Pod::new(&[
        ("IMPORTER_SOURCE", "registry"),
        ("IMPORTER_ENDPOINT", &endpoint),
        ("DISKFERRY_PLAIN_HTTP", "true"),
        ("PREALLOCATION", "true"),
    ]));
    let ended = back.import();
    ended.assert_good();
    assert_eq!(ended.termination["preallocationApplied"], true);
    assert!(fs::read(back.path("data/disk.img")).unwrap() == disk);
}

#[test]
fn a_signal_ends_an_import_cleanly_and_a_restart_begins_anew() {
    let (image, disk) = qcow2();
    let slow = Nginx::new().rate(100_000).start();
    fs::write(slow.root().join("a.qcow2"), &image).unwrap();
    let pod = from_url(&slow.url(Origin::Plain, "/a.qcow2"));
    let child = pod.command(&["import"]).spawn().unwrap();
    pod.wait_for(|status| status["passed"].as_u64() > Some(0));
    let began = Instant::now();
    kill(&child, "TERM");
    let ended = pod.end(child);
    assert_eq!(ended.code, Some(143), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(ended.termination["message"], "stopped by a signal");
    assert!(ended.termination.get("error-message").is_none(), "that is no verdict");
    assert!(names(&pod.path("data")).is_empty());

    // Nobody can clean up after this.
    let child = pod.command(&["import"]).spawn().unwrap();
    pod.wait_for(|_| !names(&pod.path("data")).is_empty());
    kill(&child, "KILL");
    assert_eq!(pod.end(child).code, None);
    assert_eq!(names(&pod.path("data")).len(), 1);
    let fast = nginx(&[("a.qcow2", &image)]);
    let url = fast.url(Origin::Plain, "/a.qcow2");
    let again = pod.with(&[("IMPORTER_ENDPOINT", &url)]);
    again.import().assert_good();
    assert!(fs::read(again.path("data/disk.img")).unwrap() == disk);
    assert_eq!(names(&again.path("data")), ["disk.img"]);
}

fn kill(child: &std::process::Child, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn metrics_are_served_with_tls_while_the_import_runs() {
    let (image, _) = qcow2();
    let slow = Nginx::new().rate(200_000).start();
    fs::write(slow.root().join("a.qcow2"), &image).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let pod = from_url(&slow.url(Origin::Plain, "/a.qcow2")).with(&[("DISKFERRY_LISTEN", &listen)]);
    let child = pod.command(&["import"]).spawn().unwrap();
    pod.wait_for(|status| status["percent"].as_f64() > Some(0.0));
    let get = |path: &str| {
        let output = Command::new("curl")
            .args(["-sSk", "--max-time", "5", &format!("https://{listen}{path}")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let metrics = get("/metrics");
    let progress = |name: &str| {
        let start = format!("{name}{{ownerUID=\"b856691e-1038\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{metrics}"));
        line.parse::<f64>().unwrap()
    };
    assert!((1.0..100.0).contains(&progress("registry_progress")), "{metrics}");
    assert_eq!(progress("registry_progress"), progress("kubevirt_cdi_import_progress_total"));
    assert!(progress("registry_average_speed") > 0.0 && progress("registry_current_speed") > 0.0);
    assert_eq!(progress("diskferry_stored_bytes"), image.len() as f64);
    assert!(get("/status").contains("\"phase\":\"Provisioning\""));
    assert_eq!(get("/healthz"), "ok\n");
    kill(&child, "TERM");
    assert_eq!(pod.end(child).code, Some(143));
}

#[test]
fn a_disk_stays_until_an_image_whose_size_nobody_knows_has_come_whole() {
    let (disk, old) = (noise(2 * MIB), vec![7; MIB]);
    let packed = wrap::gzip(&disk);
    let nginx = nginx(&[("a.raw.gz", &packed), ("cut.raw.gz", &packed[..packed.len() / 2])]);
    let from = |name: &str| {
        let pod = from_url(&nginx.url(Origin::Plain, name));
        fs::write(pod.path("data/disk.img"), &old).unwrap();
        pod
    };
    let wrong = from("/a.raw.gz").with(&[("IMPORTER_CHECKSUMS", "md5:00000000000000000000000000000000")]);
    wrong.import().assert_bad(6, "mismatch");
    let cut = from("/cut.raw.gz");
    cut.import().assert_bad(3, "gzip-ends-early");
    for pod in [wrong, cut] {
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == old);
        assert_eq!(names(&pod.path("data")), ["disk.img"]);
    }
    let good = from("/a.raw.gz");
    good.import().assert_good();
    assert!(fs::read(good.path("data/disk.img")).unwrap() == disk);
}

/// QEMU says by its locks what it does with a disk.
#[test]
fn a_disk_that_qemu_has_open_is_not_replaced() {
    let (image, disk) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image)]);
    let pod = from_url(&nginx.url(Origin::Plain, "/a.qcow2")).with(&[("DISKFERRY_PATIENCE", "0s")]);
    let old = vec![7; MIB];
    let target = pod.write("data/disk.img", &old);
    let open = || {
        let mut qemu = Command::new("qemu-io");
        let mut qemu = qemu.args(["-f", "raw", &target]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It answers when it has the file open.
        qemu.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
        qemu
    };
    let close = |mut qemu: Child| {
        drop(qemu.stdin.take());
        assert!(qemu.wait().unwrap().success());
    };
    let is_kept = |pod: &Pod| {
        assert!(fs::read(&target).unwrap() == old);
        assert_eq!(names(&pod.path("data")), ["disk.img"]);
    };
    let qemu = open();
    pod.import().assert_bad(75, "target-in-use");
    is_kept(&pod);
    close(qemu);
    // It may come while another disk is on its way.
    let slow = Nginx::new().rate(1_000_000).start();
    fs::write(slow.root().join("a.qcow2"), &image).unwrap();
    let pod = pod.with(&[("IMPORTER_ENDPOINT", &slow.url(Origin::Plain, "/a.qcow2"))]);
    let child = pod.command(&["import"]).spawn().unwrap();
    pod.wait_for(|status| status["passed"].as_u64() > Some(0));
    let qemu = open();
    pod.end(child).assert_bad(75, "target-in-use");
    is_kept(&pod);
    close(qemu);
    let pod = pod.with(&[("IMPORTER_ENDPOINT", &nginx.url(Origin::Plain, "/a.qcow2"))]);
    pod.import().assert_good();
    assert!(fs::read(&target).unwrap() == disk);
}

/// As people give them, and as they are sent: `me:s3cr3t` and `s3cr3t:s3cr3t` in base64.
const SECRETS: [&str; 3] = [SECRET, "bWU6czNjcjN0", "czNjcjN0OnMzY3IzdA"];

#[test]
fn an_import_shows_no_secret_while_it_runs() {
    let (image, _) = qcow2();
    let registry = Registry::default().locked().start();
    let endpoint = format!("{}/vi/a:1", registry.host());
    let slow = || Answer::right().trickle(1 + image.len() / 8, Duration::from_millis(100));
    for (in_files, path, exit, code) in [
        (true, "/good", 0, ""),
        (false, "/good", 0, ""),
        (true, "/denied", 4, "source-denied"),
        (false, "/denied", 4, "source-denied"),
    ] {
        let server = Server::start();
        server.put("/good", File::new(image.clone()).gets_then([], slow()));
        server.put(
            "/denied",
            File::new(image.clone()).gets_then([slow().cut(image.len() / 2, End::Reset)], Answer::status(401)),
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = format!("127.0.0.1:{port}");
        // Somebody else's proxy, which is not asked.
        let proxy = format!("http://me:{SECRET}@127.0.0.1:1");
        let pod = Pod::new(&[
            ("IMPORTER_ENDPOINT", &server.url(path)),
            ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
            ("DESTINATION_INSECURE_TLS", "true"),
            ("DISKFERRY_LISTEN", &listen),
            ("no_proxy", "127.0.0.1"),
        ]);
        let secrets = [
            ("IMPORTER_ACCESS_KEY_ID", "access-key-id", SECRET),
            ("IMPORTER_SECRET_KEY", "secret-key", SECRET),
            ("IMPORTER_DESTINATION_ACCESS_KEY_ID", "destination-access-key-id", USER.0),
            ("IMPORTER_DESTINATION_SECRET_KEY", "destination-secret-key", USER.1),
            ("DISKFERRY_HEADERS", "headers", "X-Key: s3cr3t"),
            ("http_proxy", "http-proxy", &proxy),
        ];
        let (pod, flags) = if in_files {
            let flag =
                |(_, name, value): (&str, &str, &str)| [format!("--{name}-file"), pod.write(name, value.as_bytes())];
            let flags: Vec<_> = secrets.into_iter().flat_map(flag).collect();
            (pod, flags)
        } else {
            (pod.with(&secrets.map(|(variable, _, value)| (variable, value))), Vec::new())
        };
        let mut command = pod.command(&["import"]);
        let child = command.args(&flags).spawn().unwrap();
        let (watched, told) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(child, &SECRETS));
            pod.wait_for(|status| status["percent"].as_f64() > Some(0.0));
            let told = ["/metrics", "/status"].map(|path| {
                let url = format!("https://{listen}{path}");
                let output = Command::new("curl").args(["-sSk", "--max-time", "5", &url]).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            });
            (watching.join().unwrap(), told)
        });
        let what = format!("{path}, {}", if in_files { "files" } else { "variables" });
        let own = if in_files { vec![] } else { vec!["environ"] };
        assert!(watched.looks > 3, "{what}: {} looks", watched.looks);
        assert_eq!(watched.shown.into_iter().collect::<Vec<_>>(), own, "{what}");
        let left = ["termination", "status"].map(|name| fs::read_to_string(pod.path(name)).unwrap());
        let said = format!("{:?}{told:?}{left:?}", watched.output);
        assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{what}: {said}");
        // And they were known, and used.
        let requests = format!("{:?}", server.requests());
        assert!(SECRETS.iter().any(|secret| requests.contains(secret)), "{what}: {requests}");
        let ended = pod.ended(watched.output);
        if exit == 0 {
            ended.assert_good()
        } else {
            ended.assert_bad(exit, code);
            &ended
        };
    }
}

mod device {
    use std::path::{Path, PathBuf};

    use diskferry_testkit::{Scratch, raw_of, sample_disk};

    use super::*;

    /// A loop device, which stands for a volume in block mode.
    struct Volume(PathBuf);

    impl Volume {
        fn new(dir: &Path, size: usize) -> Self {
            let file = dir.join("volume");
            fs::write(&file, vec![0xA5; size]).unwrap();
            let mut said = String::new();
            for _ in 0..20 {
                let output = Command::new("losetup").args(["--show", "-f"]).arg(&file).output().unwrap();
                if output.status.success() {
                    return Self(String::from_utf8(output.stdout).unwrap().trim().into());
                }
                said = String::from_utf8_lossy(&output.stderr).into_owned();
                std::thread::sleep(Duration::from_millis(100));
            }
            panic!("no loop device (these tests need root): {said}");
        }

        fn text(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
        }
    }

    #[test]
    fn the_whole_story_ends_with_the_disk_that_it_began_with() {
        let scratch = Scratch::new();
        let raw = sample_disk(scratch.dir(), 64 << 20, 7);
        let image = scratch.path("story.qcow2");
        diskferry_testkit::qemu_img(&["convert", "-c", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
        let disk = raw_of(&image, "qcow2");
        let stored = fs::read(&image).unwrap();
        let (nginx, registry) = (nginx(&[("story.qcow2", &stored)]), Registry::default().start());
        to_registry(&nginx.url(Origin::Plain, "/story.qcow2"), &registry, "story").import().assert_good();

        let volume = Volume::new(scratch.dir(), disk.len() + MIB);
        let endpoint = format!("docker://{}/vi/team/story:uid-1", registry.host());
        let pod = Pod::new(&[
            ("IMPORTER_SOURCE", "registry"),
            ("IMPORTER_ENDPOINT", &endpoint),
            ("INSECURE_TLS", "true"),
            ("DISKFERRY_DESTINATION", "block"),
            ("DISKFERRY_DESTINATION_PATH", volume.text()),
        ]);
        let ended = pod.import();
        ended.assert_good();
        let found = fs::read(&volume.0).unwrap();
        assert!(found[..disk.len()] == disk, "the device has the disk");
        assert!(found[disk.len()..].iter().all(|byte| *byte == 0xA5), "and behind it what it had");
        assert_eq!(ended.termination["source-image-size"], stored.len());

        // And back: a disk of a machine becomes an image.
        let endpoint = format!("{}/vi/team/golden:1", registry.host());
        let pod = Pod::new(&[
            ("IMPORTER_SOURCE", "blockDevice"),
            ("IMPORTER_ENDPOINT", volume.text()),
            ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
            ("DESTINATION_INSECURE_TLS", "true"),
        ]);
        let ended = pod.import();
        ended.assert_good();
        assert_eq!(ended.termination["source-image-virtual-size"], disk.len() + MIB);
    }

    #[test]
    fn a_device_that_is_too_small_keeps_every_byte() {
        let (image, _) = qcow2();
        let (scratch, nginx) = (Scratch::new(), nginx(&[("a.qcow2", &image)]));
        let volume = Volume::new(scratch.dir(), 4 * MIB);
        let url = nginx.url(Origin::Plain, "/a.qcow2");
        let pod = Pod::new(&[
            ("IMPORTER_ENDPOINT", &url),
            ("DISKFERRY_DESTINATION", "block"),
            ("DISKFERRY_DESTINATION_PATH", volume.text()),
        ]);
        let text = pod.import().assert_bad(5, "target-too-small").to_owned();
        assert_eq!(text, "the disk takes 8388608 bytes (8 MiB), the volume has 4194304 bytes (4 MiB)");
        assert!(fs::read(&volume.0).unwrap().iter().all(|byte| *byte == 0xA5));
    }

    #[test]
    fn the_source_itself_is_no_destination() {
        let scratch = Scratch::new();
        let volume = Volume::new(scratch.dir(), 4 * MIB);
        let pod = Pod::new(&[
            ("IMPORTER_SOURCE", "blockDevice"),
            ("IMPORTER_ENDPOINT", volume.text()),
            ("DISKFERRY_DESTINATION", "block"),
            ("DISKFERRY_DESTINATION_PATH", volume.text()),
        ]);
        pod.import().assert_bad(5, "target-is-source");
    }
}

mod full {
    use super::*;

    /// A filesystem of its own.
    struct Mounted(String);

    impl Mounted {
        fn new(path: &str, megabytes: usize) -> Self {
            let status = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs", path])
                .status()
                .unwrap();
            assert!(status.success(), "these tests need root");
            Self(path.to_owned())
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").args(["-l", &self.0]).status();
        }
    }

    #[test]
    fn a_volume_that_runs_full_is_waited_for() {
        let disk: Vec<u8> = (0..8 * MIB).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let nginx = Nginx::new().rate(2 << 20).start();
        fs::write(nginx.root().join("a.raw"), &disk).unwrap();
        let pod = from_url(&nginx.url(Origin::Plain, "/a.raw"))
            .with(&[("DISKFERRY_PATIENCE", "60s"), ("FILESYSTEM_OVERHEAD", "0")]);
        let mounted = Mounted::new(&pod.text("data"), 12);
        let child = pod.command(&["import"]).spawn().unwrap();
        // Somebody else takes the room while it comes.
        pod.wait_for(|_| !names(&pod.path("data")).is_empty());
        let _ = fs::write(pod.path("data/other"), vec![1; 12 * MIB]);
        pod.wait_for(|status| status["reason"] == "QuotaExceeded" && status["attempt"].as_u64() > Some(1));
        fs::remove_file(pod.path("data/other")).unwrap();
        let ended = pod.end(child);
        ended.assert_good();
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
        drop(mounted);
    }

    #[test]
    fn a_registry_that_is_full_says_so_in_words_that_controllers_look_for() {
        let (image, _) = qcow2();
        let (nginx, registry) = (nginx(&[("a.qcow2", &image)]), Registry::default().start());
        let data = registry.blobs().ancestors().nth(4).unwrap().to_owned();
        fs::create_dir_all(&data).unwrap();
        let mounted = Mounted::new(data.to_str().unwrap(), 1);
        fs::write(data.join("other"), vec![1; MIB - 4096]).unwrap_or_default();
        let ended = to_registry(&nginx.url(Origin::Plain, "/a.qcow2"), &registry, "a").import();
        let text = ended.assert_bad(75, "target-no-space");
        assert!(text.contains(&registry.host()) && text.contains("POST") && text.contains("Err:28)"), "{text}");
        drop(registry);
        drop(mounted);
    }

    #[test]
    fn a_disk_goes_first_where_there_is_no_room_for_two() {
        let (image, disk) = qcow2();
        let nginx = nginx(&[("a.qcow2", &image)]);
        let pod = from_url(&nginx.url(Origin::Plain, "/a.qcow2")).with(&[("FILESYSTEM_OVERHEAD", "0.05")]);
        let mounted = Mounted::new(&pod.text("data"), 10);
        fs::write(pod.path("data/disk.img"), vec![1; 9 * MIB]).unwrap();
        let ended = pod.import();
        ended.assert_good();
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
        // A disk that cannot fit whatever goes leaves what is there alone.
        let small = pod.with(&[("FILESYSTEM_OVERHEAD", "0.5")]);
        small.import().assert_bad(5, "target-too-small");
        assert!(fs::read(small.path("data/disk.img")).unwrap() == disk);
        drop(mounted);
    }

    #[test]
    fn a_disk_goes_first_where_all_of_the_new_one_is_reserved() {
        let (image, disk) = qcow2();
        let nginx = nginx(&[("a.qcow2", &image), ("a.raw.gz", &wrap::gzip(&disk))]);
        for name in ["/a.qcow2", "/a.raw.gz"] {
            let pod = from_url(&nginx.url(Origin::Plain, name)).with(&[
                ("FILESYSTEM_OVERHEAD", "0"),
                ("IMPORTER_IMAGE_SIZE", "14Mi"),
                ("PREALLOCATION", "true"),
                ("DISKFERRY_PATIENCE", "0s"),
            ]);
            let mounted = Mounted::new(&pod.text("data"), 18);
            // Beside it there is room for what the image has, and not for what is asked for.
            fs::write(pod.path("data/disk.img"), vec![1; 8 * MIB]).unwrap();
            pod.import().assert_good();
            let found = fs::read(pod.path("data/disk.img")).unwrap();
            assert!(found.len() == 14 * MIB && found[..8 * MIB] == disk[..], "{name}");
            drop(mounted);
        }
    }

    #[test]
    fn a_disk_goes_on_the_way_where_an_image_turns_out_to_need_its_room() {
        let disk = noise(8 * MIB);
        let packed = wrap::gzip(&disk);
        let nginx = nginx(&[("a.raw.gz", &packed), ("cut.raw.gz", &packed[..2 * MIB])]);
        let at = |name: &str| nginx.url(Origin::Plain, name);
        let pod = from_url(&at("/cut.raw.gz")).with(&[("FILESYSTEM_OVERHEAD", "0")]);
        let mounted = Mounted::new(&pod.text("data"), 12);
        let old = vec![1; 8 * MIB];
        fs::write(pod.path("data/disk.img"), &old).unwrap();
        // It comes to its end before there is need of that room.
        pod.import().assert_bad(3, "gzip-ends-early");
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == old);
        let pod = pod.with(&[("IMPORTER_ENDPOINT", &at("/a.raw.gz"))]);
        pod.import().assert_good();
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
        drop(mounted);
    }
}
