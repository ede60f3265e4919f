//! What a server is told by the command line, and what is not told to anybody.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use common::{assert_fails, diskferry, json, stderr};
use diskferry_testkit::serve::fault::{Answer, File, Server};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::squid::Squid;
use diskferry_testkit::serve::tls::Authority;
use tempfile::TempDir;

/// nginx with an image behind TLS and a password.
fn serving(authority: &Authority) -> RunningNginx {
    let nginx = Nginx::new().tls(authority.server(&["127.0.0.1"])).user("me", "hunter2").start();
    fs::write(nginx.root().join("disk.raw"), [7; 4096]).unwrap();
    nginx
}

fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// `info` with arguments, and with variables in place of all that speak of a network.
fn info(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = diskferry(["info"]);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.args(args).envs(variables.iter().copied()).output().unwrap()
}

/// Options, and variables.
type Way<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

#[test]
fn roots_and_credentials_come_from_options_and_from_the_environment() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let nginx = serving(&authority);
    let url = nginx.url(Origin::Tls, "/disk.raw");
    let ca = file(&dir, "ca.pem", &authority.certificate());
    let user = file(&dir, "user", "me:hunter2\n");
    let netrc = file(&dir, "netrc", "machine 127.0.0.1 login me password hunter2\n");
    let [ca, user, netrc] = [&ca, &user, &netrc].map(|path| path.to_str().unwrap());
    let netrc_option = format!("--netrc={netrc}");
    let ways: [Way<'_>; 4] = [
        (&["--cacert", ca, "--user-file", user], &[]),
        (&[], &[("SSL_CERT_FILE", ca), ("DISKFERRY_USER", "me:hunter2")]),
        (&[&netrc_option], &[("SSL_CERT_FILE", ca)]),
        (&["--netrc"], &[("SSL_CERT_FILE", ca), ("NETRC", netrc)]),
    ];
    for (args, variables) in ways {
        let output = info(&[args, &[&url]].concat(), variables);
        assert!(output.status.success(), "{args:?} {output:?}");
    }
    let output = info(&["--json", "--cacert", ca, &url], &[("DISKFERRY_TOKEN", "hunter2")]);
    assert_fails(&output, 4);
    assert_eq!(json(&output)["error"]["code"], "source-denied");
    assert!(!format!("{output:?}").contains("hunter2"));
}

#[test]
fn trusting_everybody_is_said_aloud() {
    let nginx = serving(&Authority::new());
    let url = nginx.url(Origin::Tls, "/disk.raw").replace("//", "//me:hunter2@");
    let output = info(&["--insecure", &url], &[]);
    assert!(output.status.success() && stderr(&output).contains("warning: --insecure: no certificate is checked"));
    assert!(!format!("{output:?}").contains("hunter2"), "{output:?}");
    assert_eq!(stderr(&info(&["--insecure", "--quiet", &url], &[])), "");
    // So it is where only the target is on a network.
    let disk = nginx.root().join("disk.raw").display().to_string();
    let push = ["push", "--insecure", "--retries", "0", &disk, "docker://127.0.0.1:1/a:1"];
    let output = common::diskferry(push).output().unwrap();
    assert!(stderr(&output).contains("warning: --insecure: no certificate is checked"), "{output:?}");
    let output = info(&[&url], &[]);
    assert_fails(&output, 4);
    assert!(stderr(&output).contains("--cacert") && !stderr(&output).contains("hunter2"), "{output:?}");
}

#[test]
fn proxies_come_from_the_environment() {
    let (squid, server) = (Squid::new().user("me", "hunter2").start(), Server::start());
    server.put("/disk.raw", File::new([7; 4096]));
    let url = server.url("/disk.raw");
    let proxy = squid.url(Some(("me", "hunter2")));
    assert!(info(&[&url], &[("http_proxy", &proxy)]).status.success());
    assert!(server.requests()[0].header("via").is_some());
    let output = info(&[&url], &[("http_proxy", &squid.url(Some(("me", "hunter3"))))]);
    assert_fails(&output, 4);
    assert!(stderr(&output).contains("NAME:PASSWORD") && !stderr(&output).contains("hunter3"), "{output:?}");
}

#[test]
fn requests_go_only_where_they_may() {
    let (server, far) = (Server::start(), Server::start());
    server.put("/disk.raw", File::new([7; 4096]).gets([Answer::redirect(302, &far.url("/disk.raw"))]));
    let url = server.url("/disk.raw");
    let allowed = format!("*.example,{}", server.address());
    for args in
        [["--deny-private", &url].as_slice(), &["--allow-hosts", "*.example", &url], &["--allow-hosts", &allowed, &url]]
    {
        let output = info(&[&["--json"], args].concat(), &[]);
        assert_fails(&output, 4);
        assert_eq!(json(&output)["error"]["code"], "source-forbidden-host");
    }
    assert_eq!((server.connections(), far.connections()), (1, 0));
}

#[test]
fn headers_are_sent_and_bad_ones_are_not_repeated() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.put("/disk.raw", File::new([7; 4096]));
    let headers = file(&dir, "headers", "# a comment\nX-Key: hunter2\n");
    let url = server.url("/disk.raw");
    let args = ["--header", "X-Mirror: 2", "--header-file", headers.to_str().unwrap(), &url];
    assert!(info(&args, &[("DISKFERRY_HEADERS", "X-More: 3\nX-Mirror: 4")]).status.success());
    let request = &server.requests()[0];
    let sent = ["x-mirror", "x-key", "x-more"].map(|name| request.header(name));
    assert_eq!(sent, [Some("2"), Some("hunter2"), Some("3")]);
    let output = info(&["--header", "hunter2", &url], &[]);
    assert_fails(&output, 2);
    assert!(!stderr(&output).contains("hunter2"), "{output:?}");
}

#[test]
fn a_checksum_of_the_publisher_decides_whether_there_is_a_disk() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.put("/disk.raw", File::new([7; 4096]));
    let url = server.url("/disk.raw");
    let target = dir.path().join("disk.raw");
    let convert = |from: &str| {
        let target = target.to_str().unwrap();
        diskferry(["convert", "--json", "--checksum-url", from, &url, target])
            .env_remove("http_proxy")
            .output()
            .unwrap()
    };
    let output = convert("auto");
    assert_fails(&output, 4);
    assert_eq!(json(&output)["error"]["code"], "source-checksum-file");
    server.put("/SHA256SUMS", File::new(format!("{} *disk.raw\n", "ab".repeat(32)).into_bytes()));
    assert_fails(&convert("auto"), 6);
    assert!(!target.exists());
    let right = "c9ac7b0624824f844f6c7f3d50fab9741a8914e878467e8daaedca143a34d90b";
    server.put("/sums", File::new(format!("{right}\n").into_bytes()));
    let output = convert(&server.url("/sums"));
    assert!(output.status.success() && target.exists(), "{output:?}");
    assert_fails(&diskferry(["convert", "--checksum-url", "auto", "a.raw", "b.raw"]).output().unwrap(), 2);
}

#[test]
fn an_object_in_s3_is_asked_for_with_a_signature() {
    let server = Server::start();
    let keys =
        [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_REGION", "eu-west-1")];
    let endpoint = server.url("");
    let store = [("AWS_ENDPOINT_URL_S3", endpoint.as_str()), ("DISKFERRY_TOKEN", "abc")];
    server.put("/images/disk.raw", File::new([7; 4096]));
    let anonymous = info(&["--json", "s3://images/disk.raw"], &store);
    assert_eq!(json(&anonymous)["filename"], "s3://images/disk.raw");
    let output = info(&["s3://images/disk.raw"], &[&store[..], &keys].concat());
    assert!(output.status.success(), "{output:?}");
    server.put("/images/disk.raw", File::new([]).gets_then([], Answer::status(403)));
    let denied = info(&["s3://images/disk.raw"], &[&store[..], &keys].concat());
    assert_fails(&denied, 4);
    assert!(!stderr(&denied).contains("Signature") && !stderr(&denied).contains("hunter2"), "{denied:?}");

    let requests = server.requests();
    let paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths.first(), Some(&"/images/disk.raw"));
    for path in &paths[paths.len() - 2..] {
        let signed = "/images/disk.raw?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F";
        assert!(path.starts_with(signed) && path.contains("%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date="), "{path}");
        assert!(path.contains("&X-Amz-SignedHeaders=host&X-Amz-Signature="), "{path}");
    }
    assert!(requests.iter().all(|request| request.header("authorization").is_none()), "{requests:?}");
    assert_fails(&info(&["s3://images/disk.raw"], &keys[..1]), 4);
    assert_fails(&info(&["s3://images"], &[]), 2);
}

#[test]
fn redirects_are_followed_as_often_as_is_said() {
    let server = Server::start();
    server.put("/2", File::new([7; 4096]));
    for step in 0..2 {
        let next = format!("/{}", step + 1);
        server.put(&format!("/{step}"), File::new([]).gets_then([], Answer::redirect(302, &next)));
    }
    let url = server.url("/0");
    assert!(info(&["--max-redirects", "2", &url], &[]).status.success());
    let output = info(&["--json", "--max-redirects", "1", &url], &[]);
    assert_fails(&output, 4);
    assert_eq!(json(&output)["error"]["code"], "source-redirect");
    assert!(stderr(&output).contains("redirect 2 leads, 1 are followed (--max-redirects)"), "{output:?}");
}
