//! Container images that are copied as they are, and who is let in to do that.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{assert_fails, diskferry, json, names};
use diskferry_testkit::container::{Layout, TAR, digest, tar};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::desk::TokenDesk;
use diskferry_testkit::serve::fault;
use diskferry_testkit::serve::registry::{Registry, RunningRegistry};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Lab {
    dir: TempDir,
    layout: Layout,
    image: Vec<u8>,
    disk: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("layout"));
        let image = Qcow2::new(4 << 20).fill(1);
        let disk = image.disk();
        Self { dir, layout, image: image.build().image, disk }
    }

    /// An index with images for two machines, and a proof of origin, called `all`; its digest.
    fn index(&mut self) -> String {
        let arm = tar(&[("disk/a.img", &[7; 4096])]);
        let arm = self.layout.manifest("linux/arm64", &[self.layout.blob(TAR, &arm)], &[digest(&arm)], "");
        let amd = self.layout.image(&[("disk/a.qcow2", &self.image)], "");
        let proof = self.layout.blob("application/vnd.in-toto+json", b"{}");
        let mut proof = self.layout.manifest("unknown/unknown", &[proof], &[digest(b"{}")], "");
        proof.more.push_str(r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#);
        let index = self.layout.index(&[arm, amd, proof]);
        self.layout.name(&index, "all");
        index.digest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn oci(&self, name: &str) -> String {
        format!("oci:{}", self.path(name).display())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name).display().to_string()
    }

    #[track_caller]
    fn copies(source: &str, target: &str, more: &[&str]) -> Value {
        let output = diskferry(["copy", "--json"]).args(more).args([source, target]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        json(&output)
    }

    #[track_caller]
    fn refuses(source: &str, target: &str, more: &[&str], exit: i32, code: &str) {
        let output = diskferry(["copy", "--json"]).args(more).args([source, target]).output().unwrap();
        assert_fails(&output, exit);
        assert_eq!(json(&output)["error"]["code"], code, "{output:?}");
    }

    #[track_caller]
    fn reads(&self, source: &str, more: &[&str]) {
        let target = self.path("disk.raw");
        let output = diskferry(["convert"]).args(more).arg(source).arg(&target).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(fs::read(&target).unwrap() == self.disk, "{source}");
        fs::remove_file(target).unwrap();
    }
}

fn docker(registry: &RunningRegistry, name: &str) -> String {
    format!("docker://{}/{name}", registry.host())
}

fn blobs(dir: &Path) -> Vec<String> {
    names(&dir.join("blobs/sha256"))
}

const PLAIN: [&str; 3] = ["--plain-http", "--platform", "linux/amd64"];

#[test]
fn an_index_goes_from_store_to_store_and_stays_what_it_is() {
    let mut lab = Lab::new();
    let digest = lab.index();
    let registry = Registry::default().start();
    let plain = &PLAIN[..1];
    let there = Lab::copies(&lab.oci("layout:all"), &docker(&registry, "a:all"), plain);
    assert_eq!(
        (&there["manifest-digest"], &there["manifests"], &there["blobs"]),
        (&json!(digest), &json!(4), &json!(6))
    );
    assert_eq!((&there["uploaded"], &there["skipped"]), (&there["size"], &json!(0)));
    lab.reads(&docker(&registry, "a:all"), &PLAIN);

    // Within a registry nothing is sent: blobs are mounted, or are there.
    let beside = Lab::copies(&docker(&registry, "a:all"), &docker(&registry, "b/c:1"), plain);
    assert_eq!((&beside["mounted"], &beside["uploaded"]), (&there["size"], &json!(0)), "{beside}");
    let again = Lab::copies(&docker(&registry, "a:all"), &docker(&registry, "b/c:2"), plain);
    assert_eq!((&again["skipped"], &again["uploaded"]), (&there["size"], &json!(0)));

    // To another registry, and back to a layout.
    let other = Registry::default().start();
    Lab::copies(&docker(&registry, "b/c:2"), &docker(&other, "d:1"), plain);
    let back = Lab::copies(&docker(&other, &format!("d@{digest}")), &lab.oci("back:v1"), plain);
    assert_eq!(back["manifest-digest"], json!(digest));
    assert_eq!(blobs(&lab.path("back")), blobs(&lab.path("layout")), "the same bytes have the same names");
    lab.reads(&lab.oci("back:v1"), &PLAIN[1..]);
    let skopeo = ["copy", "--all", "--preserve-digests", "--insecure-policy", "--src-tls-verify=false"];
    let tool = Command::new("skopeo").args(skopeo).args([&docker(&other, "d:1"), &lab.oci("theirs:v1")]).output();
    assert!(tool.as_ref().unwrap().status.success(), "{tool:?}");
    assert_eq!(blobs(&lab.path("theirs")), blobs(&lab.path("back")), "and skopeo finds them whole");
    let verified = diskferry(["verify"]).arg(lab.oci("back")).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

#[test]
fn one_platform_of_an_index_is_enough() {
    let mut lab = Lab::new();
    let digest = lab.index();
    let one = Lab::copies(&lab.oci("layout:all"), &lab.oci("one:v1"), &PLAIN[1..]);
    assert_eq!((&one["manifests"], &one["blobs"]), (&json!(1), &json!(2)));
    assert!(one["manifest-digest"] != json!(digest));
    lab.reads(&lab.oci("one:v1"), &[]);
    let again = Lab::copies(&lab.oci("layout:all"), &lab.oci("one:v2"), &PLAIN[1..]);
    assert_eq!((&again["uploaded"], &again["skipped"]), (&json!(0), &one["size"]));
    assert_eq!(blobs(&lab.path("one")).len(), 3);
    Lab::refuses(&lab.oci("layout:all"), &lab.oci("one:v1"), &["--platform", "linux/s390x"], 4, "source-platform");
    lab.reads(&lab.oci("one:v1"), &[]);
}

#[test]
fn an_image_for_another_machine_is_not_copied_as_the_one_that_is_wanted() {
    let mut lab = Lab::new();
    let amd = lab.layout.image(&[("disk/a.qcow2", &lab.image)], "");
    lab.layout.name(&amd, "amd");
    // Nor where an index does not say what it is for.
    let index = lab.layout.index(&[amd]);
    lab.layout.name(&index, "index");
    let registry = Registry::default().start();
    for name in ["amd", "index"] {
        let source = lab.oci(&format!("layout:{name}"));
        let there = docker(&registry, &format!("a:{name}"));
        Lab::copies(&source, &there, &PLAIN[..1]);
        let arm = ["--plain-http", "--platform", "linux/arm64"];
        Lab::refuses(&there, &lab.oci("one:v1"), &arm, 4, "source-platform");
        assert!(!fs::read_to_string(lab.path("one/index.json")).unwrap().contains("arm64"));
        Lab::copies(&there, &lab.oci("one:v1"), &PLAIN);
        lab.reads(&lab.oci("one:v1"), &PLAIN[1..]);
    }
}

#[test]
fn what_a_server_does_not_name_rightly_is_named_in_the_copy() {
    let mut lab = Lab::new();
    lab.index();
    let server = fault::Server::start();
    let blobs = lab.path("layout/blobs/sha256");
    for name in names(&blobs) {
        let file = || fault::File::new(fs::read(blobs.join(&name)).unwrap());
        for kind in ["blobs", "manifests"] {
            let json = fault::Answer::right().header("Content-Type", "application/json");
            server.put(&format!("/v2/a/{kind}/sha256:{name}"), file().gets_then([], json));
        }
    }
    let index = fs::read_to_string(lab.path("layout/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let source = format!("docker://{}/a@{digest}", server.address());
    Lab::copies(&source, &lab.oci("copy:v1"), &PLAIN[..1]);
    lab.reads(&lab.oci("copy:v1"), &PLAIN[1..]);
    let registry = Registry::default().start();
    Lab::copies(&source, &docker(&registry, "a:1"), &PLAIN[..1]);
    Lab::copies(&source, &docker(&registry, "a:2"), &PLAIN);
    lab.reads(&docker(&registry, "a:1"), &PLAIN);
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    let mut lab = Lab::new();
    lab.index();
    let (file, source, target) = (lab.write("a.qcow2", &lab.image), lab.oci("layout:all"), lab.oci("one:v1"));
    for args in [
        &["copy", "--plain-http", &source, &target][..],
        &["copy", "--authfile", "keys", &source, &target],
        &["push", "--plain-http", &file, &target],
        &["push", "--authfile", "keys", &file, &target],
        &["push", "--path", "disk/a.img", &file, &target],
    ] {
        let output = diskferry([]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?} {output:?}");
        assert!(!lab.path("one").exists(), "{args:?}");
    }
}

#[test]
fn what_is_lost_or_damaged_is_not_copied() {
    let mut lab = Lab::new();
    lab.index();
    let registry = Registry::default().start();
    let layer = digest(&tar(&[("disk/a.qcow2", &lab.image)]));
    let path = lab.layout.path(&layer);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    for target in [lab.oci("new:v1"), docker(&registry, "a:1")] {
        let more: &[_] = if target.starts_with("oci:") { &[] } else { &PLAIN[..1] };
        Lab::refuses(&lab.oci("layout:all"), &target, more, 6, "mismatch");
    }
    fs::remove_file(&path).unwrap();
    Lab::refuses(&lab.oci("layout:all"), &lab.oci("new:v1"), &[], 4, "source-read");
    assert_eq!(names(&lab.path("new")), ["blobs", "index.json", "oci-layout"]);
    assert!(blobs(&lab.path("new")).is_empty());
    Lab::refuses(&lab.oci("layout:none"), &lab.oci("new:v1"), &[], 4, "source-not-found");
    Lab::refuses(&docker(&registry, "a:1"), &lab.oci("new:v1"), &PLAIN[..1], 4, "source-not-found");
    Lab::refuses("disk.qcow2", &lab.oci("new:v1"), &[], 2, "usage");
    Lab::refuses(&lab.oci("layout:all"), &lab.oci("new:v1"), &["--path", "disk/a"], 2, "usage");
}

#[test]
fn a_registry_that_wants_tokens_gives_them_for_all_that_is_done() {
    let mut lab = Lab::new();
    let digest = lab.index();
    let desk = TokenDesk::new();
    let registry = Registry::default().tokens(&desk).deletes().start();
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6czNjcjN0"}}}}}}"#, registry.host());
    let (auth, none) = (lab.write("auth.json", auths.as_bytes()), lab.write("none.json", b"{}"));
    let known = ["--plain-http", "--authfile", &auth];
    let unknown = ["--plain-http", "--authfile", &none];

    let source = lab.write("a.qcow2", &lab.image);
    let push =
        |more: &[&str]| diskferry(["push"]).args(more).args([&source, &docker(&registry, "vi/a:1")]).output().unwrap();
    assert_fails(&push(&unknown), 5);
    assert_eq!(desk.asked().pop().unwrap(), ["repository:vi/a:pull,push"]);
    let before = desk.asked().len();
    assert_eq!(push(&known).status.code(), Some(0));
    assert_eq!(desk.asked().len(), before + 1, "one token serves for all of it");

    // Who may not write may read.
    lab.reads(&docker(&registry, "vi/a:1"), &unknown);
    Lab::copies(&lab.oci("layout:all"), &docker(&registry, "a:all"), &known);
    let beside = Lab::copies(&docker(&registry, "a:all"), &docker(&registry, "b:all"), &known);
    assert_eq!((&beside["manifest-digest"], &beside["mounted"]), (&json!(digest), &beside["size"]));
    assert_eq!(desk.asked().pop().unwrap(), ["repository:b:pull,push", "repository:a:pull"]);
    Lab::refuses(&docker(&registry, "a:all"), &docker(&registry, "c:1"), &unknown, 5, "target-denied");

    let list = |more: &[&str]| diskferry(["list"]).args(more).arg(docker(&registry, "")).output().unwrap();
    assert_fails(&list(&unknown), 4);
    let listed = list(&known);
    let text = String::from_utf8(listed.stdout.clone()).unwrap();
    assert!(["vi/a:1", "a:all", "b:all"].iter().all(|name| text.contains(name)), "{listed:?}");

    let keep = lab.write("keep", b"a:all\nvi/a:1\n");
    let sweep = |more: &[&str]| {
        let mut command = diskferry(["gc", "run", "--yes", "--grace", "0s", "--keep-list", &keep]);
        command.args(more).arg(docker(&registry, "")).output().unwrap()
    };
    assert!(!sweep(&unknown).status.success());
    assert_eq!(sweep(&known).status.code(), Some(0));
    assert!(desk.asked().contains(&vec!["repository:b:pull,delete".to_owned()]), "{:?}", desk.asked());
    let text = String::from_utf8(list(&known).stdout).unwrap();
    assert!(text.contains("a:all") && !text.contains("b:all"), "{text}");
}
