//! What fails, and what ends an import before its time.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use super::*;
use crate::common::Ended;

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
    let meant = r"no\u{1b}[2J\u{9b}1m\u{202e}";
    assert!(ended.termination["error-message"].as_str().unwrap().contains(meant), "{:?}", ended.termination);
    assert!(ended.events.last().unwrap()["message"].as_str().unwrap().contains(meant));
    let [log, events] = [ended.output.stderr, ended.output.stdout].map(|text| String::from_utf8(text).unwrap());
    let [left, status] = ["termination", "status"].map(|name| fs::read_to_string(pod.path(name)).unwrap());
    assert!(log.contains(meant), "{log}");
    for text in [&log, &events, &left, &status] {
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text}");
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_end() {
    // Pipes that are full: the kernel takes 64 KiB.
    let full = || {
        let (reader, writer) = io::pipe().unwrap();
        (&writer).write_all(&[b'x'; 64 << 10]).unwrap();
        (reader, writer)
    };
    let ((_out, stdout), (_err, stderr)) = (full(), full());
    let (image, _) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image)]);
    for (path, code) in [("/a.qcow2", 0), ("/none", 4)] {
        let pod = from_url(&nginx.url(Origin::Plain, path));
        let mut command = pod.command(&["import"]);
        // The status cannot be written, which is told of each time.
        command.env("DISKFERRY_STATUS_FILE", "/nowhere/status");
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(30), "it hangs");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!fs::read_to_string(pod.path("termination")).unwrap().is_empty());
    }
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

#[test]
fn an_import_that_has_no_time_to_stop_tells_that_it_was_stopped() {
    let (image, _) = qcow2();
    let slow = Nginx::new().rate(100_000).start();
    fs::write(slow.root().join("a.qcow2"), &image).unwrap();
    let pod = from_url(&slow.url(Origin::Plain, "/a.qcow2")).with(&[("DISKFERRY_GRACE", "0s")]);
    let child = pod.command(&["import"]).spawn().unwrap();
    pod.wait_for(|status| status["passed"].as_u64() > Some(0));
    kill(&child, "TERM");
    let ended = pod.end(child);
    assert_eq!((ended.code, &ended.events.last().unwrap()["phase"]), (Some(143), &"Terminating".into()));
    assert!(ended.termination["message"].as_str().unwrap().starts_with("stopped by a signal"), "{ended:?}");
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

/// `scripts/test` leaves this out, loudly, where nobody else can be had.
mod another_user {
    use super::*;

    /// Runs an import as `user`, who may have so many threads.
    fn import_with(threads: u32, user: u32, pod: &Pod) -> Ended {
        let import = pod.command(&["import"]);
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--"]);
        command.args(["prlimit", &format!("--nproc={threads}")]).arg(import.get_program()).args(import.get_args());
        command.env_clear().envs(import.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        pod.end(command.spawn().unwrap())
    }

    #[test]
    fn too_few_threads_are_no_verdict_on_the_job() {
        let (image, _) = qcow2();
        let nginx = nginx(&[("a.qcow2", &image)]);
        // A name, which is looked up.
        let url = nginx.url(Origin::Plain, "/a.qcow2").replace("127.0.0.1", "localhost");
        // Somebody who has no other threads.
        let user = 40_000 + std::process::id() % 20_000;
        let listening = [("DISKFERRY_LISTEN", "127.0.0.1:0"), ("DISKFERRY_PATIENCE", "0s")];
        let codes = (1..=12).map(|threads| {
            let pod = from_url(&url).with(&listening);
            for dir in ["", "data"] {
                fs::set_permissions(pod.path(dir), fs::Permissions::from_mode(0o777)).unwrap();
            }
            let ended = import_with(threads, user, &pod);
            assert!(matches!(ended.code, Some(0 | 75)), "{threads} threads: {ended:?}");
            ended.code
        });
        let codes: Vec<_> = codes.collect();
        assert_eq!((codes.first(), codes.last()), (Some(&Some(75)), Some(&Some(0))), "{codes:?}");
    }
}
