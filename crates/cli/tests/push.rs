//! Disk images stored in container images: what is written, that others read it, and what a failure leaves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{assert_fails, diskferry, json, names, run_with_pipe};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::registry::{Registry, USER};
use diskferry_testkit::serve::tls::Authority;
use diskferry_testkit::wrap;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Lab {
    dir: TempDir,
    image: Vec<u8>,
    disk: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let image = Qcow2::new(4 << 20).fill(1);
        let disk = image.disk();
        Self { dir: tempfile::tempdir().unwrap(), image: image.build().image, disk }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    fn layout(&self, name: &str) -> String {
        format!("oci:{}:{name}", self.text("layout"))
    }

    fn push(&self, source: &str, target: &str, more: &[&str]) -> Output {
        diskferry(["push", "--json"]).args(more).args([source, target]).output().unwrap()
    }

    #[track_caller]
    fn pushes(&self, source: &str, target: &str, more: &[&str]) -> Value {
        let output = self.push(source, target, more);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        json(&output)
    }

    #[track_caller]
    fn refuses(&self, source: &str, target: &str, more: &[&str], exit: i32, code: &str) {
        let output = self.push(source, target, more);
        assert_fails(&output, exit);
        assert_eq!(json(&output)["error"]["code"], code, "{output:?}");
    }

    /// Converts what was pushed, and compares it with the disk.
    #[track_caller]
    fn reads(&self, source: &str, more: &[&str]) {
        let target = self.path("disk.raw");
        let output = diskferry(["convert"]).args(more).arg(source).arg(&target).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(fs::read(&target).unwrap() == self.disk, "{source}");
        fs::remove_file(target).unwrap();
    }

    fn blob(&self, digest: &Value) -> PathBuf {
        self.path("layout/blobs").join(digest.as_str().unwrap().replace(':', "/"))
    }

    fn document(&self, digest: &Value) -> Value {
        serde_json::from_slice(&fs::read(self.blob(digest)).unwrap()).unwrap()
    }

    fn index(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("layout/index.json")).unwrap()).unwrap()
    }
}

#[track_caller]
fn tool(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

#[test]
fn an_image_is_stored_as_it_is_and_described() {
    let lab = Lab::new();
    let packed = wrap::xz(&lab.image, &[]);
    let source = lab.write("a.qcow2.xz", &packed);
    let report =
        lab.pushes(&source, &lab.layout("v1"), &["--checksum", &diskferry_testkit::container::digest(&packed)]);
    for (key, value) in [
        ("format", json!("qcow2")),
        ("compression", json!(["xz"])),
        ("stored-size", json!(packed.len())),
        ("unpacked-size", json!(4 << 20)),
        ("transferred", json!(packed.len())),
        ("skipped", json!(0)),
        ("cdrom", json!(false)),
        ("target", json!(lab.layout("v1"))),
    ] {
        assert_eq!(report[key], value, "{key}");
    }
    let index = lab.index();
    assert_eq!(names(&lab.path("layout")), ["blobs", "index.json", "oci-layout"]);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let entry = &index["manifests"][0];
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "v1");
    assert_eq!(entry["digest"], report["manifest-digest"]);
    let manifest = lab.document(&entry["digest"]);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    assert_eq!(manifest["layers"][0]["digest"], report["layer-digest"]);
    let annotations = &manifest["annotations"];
    assert_eq!(annotations["source-image-size"], packed.len().to_string());
    assert_eq!(annotations["source-image-virtual-size"], "4194304");
    assert_eq!(annotations["source-image-cdrom"], "false");
    let config = lab.document(&manifest["config"]["digest"]);
    assert_eq!((&config["os"], &config["architecture"]), (&json!("linux"), &json!("amd64")));
    assert_eq!(config["rootfs"]["diff_ids"], json!([report["layer-digest"]]));
    let labels = json!({
        "source-image-size": packed.len().to_string(), "source-image-virtual-size": "4194304",
        "source-image-format": "qcow2", "erofs-compatible-layers": "true",
    });
    assert_eq!(config["config"]["Labels"], labels);
    lab.reads(&lab.layout("v1"), &[]);
    // The bytes in the layer are those of the source.
    let layer = lab.blob(&report["layer-digest"]);
    tool("tar", &["-xf", layer.to_str().unwrap(), "disk/a.qcow2.xz"], lab.dir.path());
    assert!(fs::read(lab.path("disk/a.qcow2.xz")).unwrap() == packed);
}

#[test]
fn the_same_image_has_the_same_digest_from_a_file_and_from_a_pipe() {
    let lab = Lab::new();
    let source = lab.write("a.qcow2", &lab.image);
    let one = lab.pushes(&source, &lab.layout("v1"), &[]);
    let two = lab.pushes(&source, &lab.layout("v2"), &[]);
    assert_eq!(two["uploaded"], 0, "everything is there");
    assert_eq!(one["uploaded"], two["skipped"]);
    let (layout, spool) = (lab.layout("v3"), lab.text(""));
    let piped = run_with_pipe(["push", "--json", "--name", "a.qcow2", "--spool-dir", &spool, "-", &layout], &lab.image);
    assert_eq!(piped.status.code(), Some(0), "{piped:?}");
    let three = json(&piped);
    assert!(three["spooled"].as_u64().unwrap() >= lab.image.len() as u64, "its length was not known");
    for key in ["layer-digest", "manifest-digest"] {
        assert_eq!((&one[key], &one[key]), (&two[key], &three[key]), "{key}");
    }
    assert_eq!(lab.index()["manifests"].as_array().unwrap().len(), 3);
    lab.reads(&lab.layout("v3"), &[]);
    let output = run_with_pipe(["push", "--spool-limit", "64Ki", "-", &lab.layout("v4")], &lab.image);
    assert_fails(&output, 3);
    assert!(names(&lab.path("layout")) == ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn a_name_that_is_there_leads_to_the_new_image_and_others_stay() {
    let lab = Lab::new();
    let old = lab.write("old.img", &[1; 4096]);
    let source = lab.write("a.qcow2", &lab.image);
    lab.pushes(&old, &lab.layout("v1"), &[]);
    let kept = lab.pushes(&old, &lab.layout("old"), &["--platform", "linux/arm64/v8"]);
    lab.pushes(&source, &lab.layout("v1"), &[]);
    lab.reads(&lab.layout("v1"), &[]);
    let index = lab.index();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(index["manifests"][0]["digest"], kept["manifest-digest"]);
    assert_eq!(index["manifests"][0]["platform"], json!({ "os": "linux", "architecture": "arm64", "variant": "v8" }));
}

#[test]
fn zeros_become_holes_of_the_blob() {
    let lab = Lab::new();
    let mut disk = vec![0; 8 << 20];
    disk[1 << 20..(1 << 20) + 4096].fill(7);
    let source = lab.write("a.img", &disk);
    let report = lab.pushes(&source, &lab.layout("v1"), &[]);
    let blob = fs::metadata(lab.blob(&report["layer-digest"])).unwrap();
    assert!(blob.len() > 8 << 20 && blob.blocks() * 512 < 128 << 10, "{} blocks", blob.blocks());
    assert_eq!(report["format"], "raw");
}

#[test]
fn what_is_no_image_or_is_refused_is_not_stored() {
    let lab = Lab::new();
    let cut = lab.write("cut.qcow2", &lab.image[..lab.image.len() / 2]);
    lab.refuses(&cut, &lab.layout("v1"), &[], 3, "qcow2-ends-early");
    assert_eq!(lab.index()["manifests"], json!([]));
    assert!(names(&lab.path("layout/blobs/sha256")).is_empty());
    tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-u", "-b", "base", "-F", "raw", "over.qcow2", "1M"],
        lab.dir.path(),
    );
    lab.refuses(&lab.text("over.qcow2"), &lab.layout("v1"), &[], 3, "qcow2-backing-file");
    let source = lab.write("a.qcow2", &lab.image);
    let wrong = format!("sha256:{}", "0".repeat(64));
    lab.refuses(&source, &lab.layout("v1"), &["--checksum", &wrong], 6, "mismatch");
    lab.refuses(&lab.text("none"), &lab.layout("v1"), &[], 4, "source-read");
    assert_eq!(lab.index()["manifests"], json!([]));
    assert_eq!(names(&lab.path("layout")), ["blobs", "index.json", "oci-layout"]);
    assert!(names(&lab.path("layout/blobs/sha256")).is_empty());
    // What is somebody's folder is not made a layout.
    lab.refuses(&source, &format!("oci:{}:v1", lab.text("")), &[], 5, "target-not-a-layout");
    lab.refuses(&source, &lab.text("file"), &[], 2, "usage");
    lab.refuses(&source, &format!("oci:{}@{wrong}", lab.text("layout")), &[], 2, "usage");
    lab.refuses(&source, &lab.layout("v1"), &["--name", "a/b"], 2, "usage");
}

#[test]
fn other_tools_read_a_layout() {
    let lab = Lab::new();
    let source = lab.write("a.qcow2", &lab.image);
    lab.pushes(&source, &lab.layout("v1"), &[]);
    let (layout, copy) = (lab.layout("v1"), format!("oci:{}:v2", lab.text("copy")));
    tool("skopeo", &["copy", "--insecure-policy", &layout, &copy], lab.dir.path());
    lab.reads(&copy, &[]);
    let place = format!("{}:v1", lab.text("layout"));
    tool("umoci", &["unpack", "--rootless", "--image", &place, "bundle"], lab.dir.path());
    assert!(fs::read(lab.path("bundle/rootfs/disk/a.qcow2")).unwrap() == lab.image);
}

/// What must never be shown: the password, and what it looks like when it is sent (`me:s3cr3t` in base64).
const SECRETS: [&str; 2] = [USER.1, "bWU6czNjcjN0"];

#[test]
fn an_image_goes_to_a_registry_and_real_tools_pull_it() {
    let (lab, registry) = (Lab::new(), Registry::default().start());
    let source = lab.write("a.qcow2", &lab.image);
    let target = format!("docker://{}/vi/team/a:1", registry.host());
    let plain = ["--plain-http"];
    let pushed = lab.pushes(&source, &target, &plain);
    lab.reads(&target, &plain);
    let stored = lab.pushes(&source, &lab.layout("v1"), &[]);
    assert_eq!(pushed["manifest-digest"], stored["manifest-digest"], "wherever it goes, it is the same");
    let again = lab.pushes(&source, &target, &plain);
    assert_eq!((&again["manifest-digest"], &again["uploaded"]), (&pushed["manifest-digest"], &json!(0)));

    let copy = format!("oci:{}:1", lab.text("copy"));
    tool("skopeo", &["copy", "--insecure-policy", "--src-tls-verify=false", &target, &copy], lab.dir.path());
    lab.reads(&copy, &[]);
    let (root, run) = (lab.text("root"), lab.text("run"));
    let storage = ["--storage-driver", "vfs", "--root", &root, "--runroot", &run];
    tool("buildah", &[&storage[..], &["pull", "--tls-verify=false", &target]].concat(), lab.dir.path());
    let found = json(&diskferry(["info", "--json", "--plain-http", &target]).output().unwrap());
    assert_eq!((&found["claimed"], &found["unpacked-size"]), (&json!(true), &json!(4 << 20)));
}

#[test]
fn an_image_of_many_chunks_arrives() {
    let (lab, registry) = (Lab::new(), Registry::default().start());
    let mut disk = vec![0; 40 << 20];
    disk.chunks_mut(4096).zip(0_u32..).for_each(|(block, at)| block[..4].copy_from_slice(&at.to_le_bytes()));
    let source = lab.write("disk.img", &disk);
    let target = format!("docker://{}/a:1", registry.host());
    let report = lab.pushes(&source, &target, &["--plain-http"]);
    assert_eq!(report["stored-size"], 40 << 20);
    let lab = Lab { disk, ..lab };
    lab.reads(&target, &["--plain-http"]);
}

#[test]
fn a_locked_registry_is_written_to_with_tls_and_a_password() {
    let lab = Lab::new();
    let authority = Authority::new();
    let registry = Registry::default().tls(authority.server(&["127.0.0.1"])).locked().start();
    let ca = lab.write("ca.pem", authority.certificate().as_bytes());
    let host = registry.host();
    let auths = format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6czNjcjN0"}}}}}}"#);
    let (auth, none) = (lab.write("auth.json", auths.as_bytes()), lab.write("none.json", b"{}"));
    let source = lab.write("a.qcow2", &lab.image);
    let target = format!("docker://{host}/a:1");
    let known = ["--cacert", &ca, "--authfile", &auth];
    lab.pushes(&source, &target, &known);
    lab.reads(&target, &known);
    let unknown = ["--cacert", &ca, "--authfile", &none];
    lab.refuses(&source, &target, &unknown, 5, "target-denied");
    lab.refuses(&source, &target, &["--authfile", &auth], 5, "target-tls");
    let said = format!("{:?}", lab.push(&source, &target, &unknown));
    assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{said}");
}

#[test]
fn a_refused_image_leaves_no_manifest_in_a_registry() {
    let (lab, registry) = (Lab::new(), Registry::default().start());
    let target = format!("docker://{}/a:1", registry.host());
    let cut = lab.write("cut.qcow2", &lab.image[..lab.image.len() / 2]);
    lab.refuses(&cut, &target, &["--plain-http"], 3, "qcow2-ends-early");
    let output = diskferry(["info", "--json", "--plain-http", &target]).output().unwrap();
    assert_eq!(json(&output)["error"]["code"], "source-not-found");
    // Nobody listens there.
    let source = lab.write("a.qcow2", &lab.image);
    let more = ["--plain-http", "--retries", "1"];
    lab.refuses(&source, "docker://127.0.0.1:1/a:1", &more, 5, "target-unreachable");
}
