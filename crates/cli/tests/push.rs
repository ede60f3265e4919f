//! Disk images stored in container images: what is written, that others read it, and what a failure leaves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

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
fn an_image_without_a_name_takes_no_place_but_its_own() {
    let lab = Lab::new();
    let unnamed = format!("oci:{}", lab.text("layout"));
    let (one, two) = (lab.write("one.img", &[1; 4096]), lab.write("two.qcow2", &lab.image));
    let first = lab.pushes(&one, &unnamed, &[]);
    let named = lab.pushes(&one, &lab.layout("v1"), &[]);
    assert_eq!(named["manifest-digest"], first["manifest-digest"]);
    let second = lab.pushes(&two, &unnamed, &[]);
    lab.pushes(&one, &unnamed, &[]);
    let index = lab.index();
    let digests: Vec<_> = index["manifests"].as_array().unwrap().iter().map(|image| &image["digest"]).collect();
    assert_eq!(digests, [&first["manifest-digest"], &second["manifest-digest"], &first["manifest-digest"]], "{index}");
    // Which of them is meant has to be said.
    let output = diskferry(["info", "--json", &unnamed]).output().unwrap();
    assert_eq!(json(&output)["error"]["code"], "source-several-images", "{output:?}");
    lab.reads(&format!("{unnamed}@{}", second["manifest-digest"].as_str().unwrap()), &[]);
}

#[test]
fn a_blob_that_is_damaged_is_mended_by_a_push() {
    let lab = Lab::new();
    let mut disk = lab.disk.clone();
    disk.resize(5 << 20, 7);
    let source = lab.write("a.img", &disk);
    let lab = Lab { disk, ..lab };
    let first = lab.pushes(&source, &lab.layout("v1"), &[]);
    let manifest = lab.document(&first["manifest-digest"]);
    let blobs = [&first["layer-digest"], &manifest["config"]["digest"], &first["manifest-digest"]];
    let damage = || {
        for blob in blobs {
            let mut bytes = fs::read(lab.blob(blob)).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(lab.blob(blob), bytes).unwrap();
        }
    };
    let verified = || diskferry(["verify", &format!("oci:{}", lab.text("layout"))]).output().unwrap().status.code();
    damage();
    assert_eq!(verified(), Some(6));
    let again = lab.pushes(&source, &lab.layout("v1"), &[]);
    assert_eq!((&again["uploaded"], &again["skipped"]), (&first["uploaded"], &json!(0)));
    assert_eq!(verified(), Some(0));
    // The same of one whose digest is not known before it has come.
    damage();
    let args = ["push", "--name", "a.img", "--spool-dir", &lab.text(""), "-", &lab.layout("v1")];
    let piped = run_with_pipe(args, &lab.disk);
    assert_eq!((piped.status.code(), verified()), (Some(0), Some(0)), "{piped:?}");
    damage();
    let (copy, layout) = (format!("oci:{}:v1", lab.text("copy")), lab.layout("v1"));
    lab.pushes(&source, &copy, &[]);
    let output = diskferry(["copy", &copy, &layout]).output().unwrap();
    assert_eq!((output.status.code(), verified()), (Some(0), Some(0)), "{output:?}");
    assert_eq!(names(&lab.path("layout")), ["blobs", "index.json", "oci-layout"]);
    lab.reads(&layout, &[]);
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
fn a_disk_is_stored_in_place_of_its_image() {
    let lab = Lab::new();
    let mut disk = lab.disk.clone();
    disk.resize(64 << 20, 0);
    let lab = Lab { disk, ..lab };
    let raw = lab.write("a.raw", &lab.disk);
    tool("qemu-img", &["convert", "-c", "-O", "qcow2", "a.raw", "a.qcow2"], lab.dir.path());
    let packed = lab.write("b.qcow2.xz", &wrap::xz(&fs::read(lab.path("a.qcow2")).unwrap(), &[]));
    let unmeasured = lab.write("b.img.gz", &wrap::gzip(&lab.disk));
    let registry = Registry::default().start();
    let docker = |name: &str| format!("docker://{}/{name}:1", registry.host());
    for (form, media_type, most) in [("raw", "tar", 5 << 20), ("raw+zstd", "tar+zstd", 4 << 20)] {
        let form = ["--as", form, "--name", "disk.img", "--spool-dir", &lab.text("")];
        let first = lab.pushes(&raw, &lab.layout("v1"), &form);
        for source in [&lab.text("a.qcow2"), &packed, &unmeasured] {
            let same = lab.pushes(source, &lab.layout("v2"), &form);
            assert_eq!(same["manifest-digest"], first["manifest-digest"], "the disk is the same: {source}");
            // Of the raw disk in gzip, nobody knows the size before its end.
            assert_eq!(same["spooled"].as_u64().unwrap() >= 64 << 20, source == &unmeasured, "{source}");
        }
        let manifest = lab.document(&first["manifest-digest"]);
        assert_eq!(manifest["layers"][0]["mediaType"], format!("application/vnd.oci.image.layer.v1.{media_type}"));
        let annotations = &manifest["annotations"];
        for (name, value) in [("size", "67108864"), ("virtual-size", "67108864"), ("format", "raw")] {
            assert_eq!(annotations[format!("source-image-{name}")], value);
        }
        let used = fs::metadata(lab.blob(&first["layer-digest"])).unwrap().blocks() * 512;
        assert!(used < most, "zeros take no room: {used}");
        lab.reads(&lab.layout("v1"), &[]);
        let sent = lab.pushes(&raw, &docker("a"), &[&form[..], &["--plain-http"]].concat());
        assert_eq!(sent["manifest-digest"], first["manifest-digest"], "wherever it goes, it is the same");
        lab.reads(&docker("a"), &["--plain-http"]);
        let copy = format!("oci:{}:1", lab.text(media_type));
        tool("skopeo", &["copy", "--insecure-policy", "--src-tls-verify=false", &docker("a"), &copy], lab.dir.path());
        lab.reads(&copy, &[]);
        let looked = json(&diskferry(["info", "--json", &lab.layout("v1")]).output().unwrap());
        let full = json(&diskferry(["info", "--json", "--full", &lab.layout("v1")]).output().unwrap());
        for key in ["format", "stored-size", "unpacked-size"] {
            assert_eq!(looked[key], full[key], "what the labels say is true: {key}");
        }
    }
    // Through a pipe, with a size that is known from the first bytes.
    let image = fs::read(lab.text("a.qcow2")).unwrap();
    let args = ["push", "--json", "--as", "raw", "-", &lab.layout("v3")];
    let piped = json(&run_with_pipe(args, &image));
    assert_eq!(piped["unpacked-size"], 64 << 20, "{piped}");
    lab.reads(&lab.layout("v3"), &[]);
    let archive = lab.blob(&piped["layer-digest"]);
    tool("tar", &["-xf", archive.to_str().unwrap(), "disk/disk.img"], lab.dir.path());
    // A damaged one leaves nothing, nor does a wrong checksum.
    let cut = lab.write("cut.qcow2", &image[..image.len() / 2]);
    lab.refuses(&cut, &lab.layout("v4"), &["--as", "raw"], 3, "qcow2-ends-early");
    let wrong = format!("sha256:{}", "0".repeat(64));
    lab.refuses(&packed, &lab.layout("v4"), &["--as", "raw+zstd", "--checksum", &wrong], 6, "mismatch");
    assert!(!lab.index().to_string().contains("v4"));
}

#[test]
fn a_disk_has_the_name_of_its_image_without_endings() {
    let lab = Lab::new();
    let packed = lab.write("debian-12.5.qcow2.xz", &wrap::xz(&lab.image, &[]));
    let pushed = lab.pushes(&packed, &lab.layout("v1"), &["--as", "raw"]);
    let title = &lab.document(&pushed["manifest-digest"])["annotations"]["org.opencontainers.image.title"];
    assert_eq!(title, "debian-12.5.img");
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
fn nothing_is_pushed_to_where_nothing_may_go() {
    let lab = Lab::new();
    let image = lab.write("a.qcow2", &lab.image);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("docker://{}/a:v1", listener.local_addr().unwrap());
    for more in [["--deny-private"].as_slice(), &["--allow-hosts", "*.example"]] {
        lab.refuses(&image, &target, &[more, &["--plain-http"]].concat(), 5, "target-forbidden-host");
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody has come");
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
fn a_large_layer_that_is_there_is_not_sent_again() {
    let (lab, registry) = (Lab::new(), Registry::default().start());
    let mut disk = vec![0; 40 << 20];
    disk.chunks_mut(4096).zip(0_u32..).for_each(|(block, at)| block[..4].copy_from_slice(&at.to_le_bytes()));
    let source = lab.write("disk.img", &disk);
    let docker = |name: &str| format!("docker://{}/{name}", registry.host());
    let more = ["--plain-http", "--name", "disk.img"];
    for (first, again) in [(docker("a:1"), docker("a:2")), (lab.layout("v1"), lab.layout("v2"))] {
        let more = if first.starts_with("oci:") { &more[1..] } else { &more[..] };
        let sent = lab.pushes(&source, &first, more);
        let same = lab.pushes(&source, &again, more);
        assert_eq!((&same["uploaded"], &same["manifest-digest"]), (&json!(0), &sent["manifest-digest"]), "{same}");
        assert_eq!((&same["skipped"], &same["stored-size"]), (&sent["uploaded"], &json!(40 << 20)));
        // As long, and another.
        disk[20 << 20] += 1;
        let other = lab.write("other.img", &disk);
        let sent = lab.pushes(&other, &again, more);
        assert!(sent["uploaded"].as_u64().unwrap() > 40 << 20 && sent["manifest-digest"] != same["manifest-digest"]);
    }
    let lab = Lab { disk, ..lab };
    lab.reads(&lab.layout("v2"), &[]);
    // What is promised of an image is held against it also where nothing is sent.
    let wrong = format!("sha256:{}", "0".repeat(64));
    lab.refuses(&source, &docker("a:3"), &[&more[..], &["--checksum", &wrong]].concat(), 6, "mismatch");
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

/// Forwards to `host`, and breaks each of the first connections when it has brought so many bytes.
fn broken_link(host: &str, breaks: &'static [u64]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let host = host.to_owned();
    thread::spawn(move || {
        let mut breaks = breaks.iter();
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&host).unwrap());
            let most = breaks.next().copied().unwrap_or(u64::MAX);
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut (&mut from).take(most), &mut to);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
            let (mut from, mut to) = (server, client);
            thread::spawn(move || io::copy(&mut from, &mut to));
        }
    });
    address
}

#[test]
fn a_layer_that_dockers_registry_gives_up_is_sent_anew() {
    let (lab, registry) = (Lab::new(), Registry::default().start());
    let mut disk = vec![0; 40 << 20];
    disk.chunks_mut(4096).zip(0_u32..).for_each(|(block, at)| block[..4].copy_from_slice(&at.to_le_bytes()));
    let source = lab.write("disk.img", &disk);
    let host = broken_link(&registry.host(), &[10_000_000, 3_000_000, 100, 9_000_000]);
    let report = lab.pushes(&source, &format!("docker://{host}/a:1"), &["--plain-http"]);
    let stored = lab.pushes(&source, &lab.layout("v1"), &[]);
    assert_eq!(report["manifest-digest"], stored["manifest-digest"]);
    let lab = Lab { disk, ..lab };
    lab.reads(&format!("docker://{}/a:1", registry.host()), &["--plain-http"]);

    // What came from a pipe is sent anew from the spool.
    let host = broken_link(&registry.host(), &[10_000_000, 100, 20_000_000]);
    let target = format!("docker://{host}/a:2");
    let piped = run_with_pipe(["push", "--json", "--plain-http", "--name", "disk.img", "-", &target], &lab.disk);
    assert_eq!(json(&piped)["manifest-digest"], report["manifest-digest"], "{piped:?}");

    // There is an end to it, and no manifest.
    let host = broken_link(&registry.host(), &[10_000_000; 100]);
    lab.refuses(&source, &format!("docker://{host}/b:1"), &["--plain-http"], 5, "target-upload-lost");
    let output = diskferry(["info", "--json", "--plain-http", &format!("docker://{}/b:1", registry.host())]).output();
    assert_eq!(json(&output.unwrap())["error"]["code"], "source-not-found");
}

/// `scripts/test` leaves this out, loudly, where nobody else can be had.
mod another_user {
    use super::*;

    const NOBODY: u32 = 65534;

    #[test]
    fn who_may_write_to_a_layout_puts_images_there_whose_blobs_are_another_users() {
        let lab = Lab::new();
        let mut disk = vec![0; 2 << 20];
        disk.chunks_mut(4096).zip(1_u32..).for_each(|(block, at)| block[..4].copy_from_slice(&at.to_le_bytes()));
        let source = lab.write("disk.img", &disk);
        let report = lab.pushes(&source, &lab.layout("v1"), &[]);
        for (name, mode) in
            [("", 0o755), ("layout", 0o777), ("layout/blobs/sha256", 0o777), ("layout/oci-layout", 0o666)]
        {
            fs::set_permissions(lab.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let ids = format!("--reuid={NOBODY} --regid={NOBODY} --clear-groups");
        let output = Command::new("setpriv")
            .args(ids.split(' '))
            .args([env!("CARGO_BIN_EXE_diskferry"), "push", "--json", &source, &lab.layout("v2")])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(json(&output)["manifest-digest"], report["manifest-digest"]);
        for key in ["layer-digest", "manifest-digest"] {
            assert_eq!(fs::metadata(lab.blob(&report[key])).unwrap().uid(), NOBODY, "{key}");
        }
        assert_eq!(names(&lab.path("layout")), ["blobs", "index.json", "oci-layout"]);
        let verified = diskferry(["verify", &format!("oci:{}", lab.text("layout"))]).output().unwrap();
        assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    }
}
