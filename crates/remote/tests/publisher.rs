//! Checksums that lie beside an image, or elsewhere.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::Fetcher;
use diskferry::digest::Checksum;
use diskferry::{Error, Progress};
use diskferry_remote::publisher::{self, From};
use diskferry_remote::{Access, Login};
use diskferry_testkit::serve::fault::{Answer, End, File, Server};

const NAME: &str = "disk-1.2.x86_64.qcow2";

fn ask(access: &Access, image: &str, from: &str) -> Result<Checksum, Error> {
    let fetcher = Fetcher::with(access);
    let (image, from): (_, From) = (image.parse().unwrap(), from.parse().unwrap());
    let progress = Progress::default();
    publisher::checksum(&fetcher.runtime, &fetcher.client, &image, &from, fetcher.how.patience, &progress)
}

fn found(image: &str, from: &str) -> String {
    match ask(&Access::default(), image, from) {
        Ok(sum) => format!("{}:{}", sum.algorithm, &sum.hex[..2]),
        Err(error) => format!("{} {error}", error.code()),
    }
}

fn sha256(digits: &str) -> String {
    digits.repeat(32)
}

fn lines(text: impl Into<String>) -> File {
    File::new(text.into().into_bytes())
}

/// A server with the image in a folder.
fn server() -> (Server, String) {
    let server = Server::start();
    let image = server.url(&format!("/pool/{NAME}"));
    (server, image)
}

#[test]
fn each_of_the_usual_files_is_found() {
    let (own, bsd) = (sha256("ab"), format!("SHA256 ({NAME}) = {}\n", sha256("ab")));
    let gnu = format!("{}  other\n{own} *{NAME}\n", sha256("cd"));
    for (file, text) in [
        ("SHA256SUMS", gnu.clone()),
        ("CHECKSUM", bsd.clone()),
        (
            "CHECKSUM",
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# {NAME}: 1 bytes\n{bsd}-----BEGIN PGP SIGNATURE-----\n"
            ),
        ),
        ("disk-1.2.x86_64.qcow2.sha256", own.clone()),
        ("disk-1.2.x86_64.qcow2.CHECKSUM", bsd),
        ("sha256sum.txt", gnu),
    ] {
        let (server, image) = server();
        server.put(&format!("/pool/{file}"), lines(text));
        assert_eq!(found(&format!("{image}?sig=hunter2"), "auto"), "sha256:ab", "{file}");
        // Not a byte of the image itself was asked for.
        assert!(server.requests().iter().all(|request| !format!("{request:?}").contains("hunter2")));
    }
}

#[test]
fn files_without_the_image_are_passed_by_and_named_in_the_end() {
    let (server, image) = server();
    server.put("/pool/SHA512SUMS", lines(format!("{}  other.iso\n", "ab".repeat(64))));
    server.put("/pool/CHECKSUM", File::new([]).gets_then([], Answer::html()));
    server.put("/pool/MD5SUMS", File::new([]).gets_then([], Answer::status(403)));
    let text = found(&image, "auto");
    assert!(text.starts_with("source-checksum-file none of the usual files"), "{text}");
    assert!(text.contains("SHA512SUMS is there, without it") && text.contains("--checksum-url"), "{text}");
    server.put("/pool/MD5SUMS", lines(format!("{}  ./{NAME}\n", "ef".repeat(16))));
    assert_eq!(found(&image, "auto"), "md5:ef");
}

#[test]
fn a_weaker_file_is_not_taken_because_a_stronger_one_cannot_be_had() {
    let (server, image) = server();
    server.put("/pool/SHA512SUMS", File::new([]).gets_then([], Answer::status(500)));
    server.put("/pool/MD5SUMS", lines(format!("{}  {NAME}\n", "ef".repeat(16))));
    let text = found(&image, "auto");
    assert!(text.starts_with("source-http-status checksums from") && text.contains("/pool/SHA512SUMS"), "{text}");
}

#[test]
fn a_named_file_is_read_across_faults_and_redirects() {
    let (server, image) = server();
    let far = Server::start();
    far.put(
        "/sums",
        lines(format!("{}  a/{NAME}\n", sha256("ab"))).gets([
            Answer::status(503).header("Retry-After", "0"),
            Answer::right().cut(20, End::Reset),
            Answer::redirect(302, &server.url("/elsewhere")),
        ]),
    );
    server.put("/elsewhere", lines(format!("{}  {NAME}\n", sha256("cd"))));
    assert_eq!(found(&image, &far.url("/sums")), "sha256:cd");
}

#[test]
fn files_that_help_nobody_are_refused() {
    let (server, image) = server();
    let one = sha256("ab");
    let line = format!("{one}  {NAME}\n");
    server.put("/sums", lines(format!("{line}{}", " ".repeat((1 << 20) - line.len()))));
    assert_eq!(found(&image, &server.url("/sums")), "sha256:ab");
    for (text, says) in [
        ("<html></html>".to_owned(), "has no checksums in it"),
        (format!("{one}  other.iso\n"), "checksums, as of \"other.iso\", and none of"),
        (format!("{one}  a/{NAME}\n{}  b/{NAME}\n", sha256("cd")), "two checksums"),
        (" ".repeat((1 << 20) + 1), "larger than 1 MiB"),
    ] {
        server.put("/sums", lines(text));
        let text = found(&image, &server.url("/sums?sig=hunter2"));
        assert!(
            text.starts_with("source-checksum-file ") && text.contains(says) && !text.contains("hunter2"),
            "{text}"
        );
    }
    let text = found(&image, &server.url("/missing"));
    assert!(text.starts_with("source-not-found checksums from") && text.contains("/missing"), "{text}");
    assert!(found(&server.url("/pool/"), "auto").starts_with("source-checksum-file "));
}

#[test]
fn credentials_of_the_image_are_for_its_server_only() {
    let ((near, image), far) = (server(), Server::start());
    let access = Access {
        login: Some(Login::basic("me:hunter2").unwrap()),
        headers: "X-Key: hunter2".parse().unwrap(),
        ..Access::default()
    };
    let image_with_userinfo = image.replace("//", "//me:hunter2@");
    let sums = || lines(format!("{}  {NAME}\n", sha256("ab")));
    near.put("/sums", sums());
    far.put("/sums", sums());
    for (access, image) in [(&access, &image), (&Access::default(), &image_with_userinfo)] {
        ask(access, image, &near.url("/sums")).unwrap();
        ask(access, image, &far.url("/sums")).unwrap();
    }
    ask(&access, &image, &far.url("/sums").replace("//", "//you:p@")).unwrap();
    assert!(near.requests().iter().all(|request| request.header("authorization") == Some("Basic bWU6aHVudGVyMg==")));
    let authorizations: Vec<_> =
        far.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert_eq!(authorizations, [None, None, Some("Basic eW91OnA=".to_owned())]);
    assert!(far.requests().iter().all(|request| request.header("x-key").is_none()));
}
