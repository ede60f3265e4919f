//! Disk images in image layouts: what is found, what is checked, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::slice;

use common::{assert_fails, json, names, run, stderr, stdout};
use diskferry_testkit::container::{self, Layout, TAR, digest, tar};
use diskferry_testkit::field::{Field, poke};
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::wrap;
use serde_json::json;
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
        let image = Qcow2::new(4 << 20).fill(1);
        let layout = Layout::new(&dir.path().join("layout"));
        let disk = image.disk();
        Self { dir, layout, image: image.build().image, disk }
    }

    fn source(&self, name: &str) -> String {
        format!("oci:{}:{name}", self.dir.path().join("layout").display())
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    fn convert(&self, name: &str, more: &[&str]) -> Output {
        let _ = fs::remove_file(self.target());
        let mut command = common::diskferry(["convert", "--json"]);
        command.args(more).arg(self.source(name)).arg(self.target());
        command.output().unwrap()
    }

    #[track_caller]
    fn carries(&self, name: &str, more: &[&str]) -> Output {
        let output = self.convert(name, more);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(fs::read(self.target()).unwrap() == self.disk, "{name}");
        output
    }

    #[track_caller]
    fn refuses(&self, name: &str, more: &[&str], exit: i32, code: &str) -> Output {
        let output = self.convert(name, more);
        assert_fails(&output, exit);
        assert_eq!(json(&output)["error"]["code"], code, "{output:?}");
        assert_eq!(names(self.dir.path()), ["layout"], "nothing is left");
        output
    }
}

/// The header of a file of so many bytes.
fn tar_header(name: &str, size: u64) -> Vec<u8> {
    const SIZE: Range<usize> = 124..136;
    const SUM: Range<usize> = 148..156;
    let mut header = tar(&[(name, &[])])[..512].to_vec();
    header[SIZE].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[SUM].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A disk of which the only table lies far behind: what is before it has to be spooled.
#[test]
fn a_packed_layer_is_held_to_what_its_disk_may_leave_unused() {
    const GIB: u64 = 1 << 30;
    let mut disk = Qcow2 { l2: Place::Behind, ..Qcow2::new(1 << 20) };
    disk.clusters.insert(0, Cluster::Plain(vec![7; 1 << 16]));
    // The digest of what is unpacked is wrong, which is seen at its end.
    for (gap, exit, code) in [(GIB - (1 << 20), 6, "mismatch"), (GIB, 3, "stream-unused")] {
        let mut lab = Lab::new();
        let built = disk.build();
        let (mut head, table) = (built.image, built.l2[&0]);
        poke(&mut head, Field::be(usize::try_from(built.l1).unwrap(), 8), (table + gap) | (1 << 63));
        let tail = head.split_off(usize::try_from(table).unwrap());
        let header = tar_header("disk/a.qcow2", (head.len() + tail.len()) as u64 + gap);
        let layer = wrap::zstd_with_gap(&[header, head].concat(), gap, &[tail, vec![0; 1024]].concat());
        let layer = lab.layout.blob(&format!("{TAR}+zstd"), &layer);
        let image = lab.layout.manifest("linux/amd64", &[layer], &[digest(b"")], "");
        lab.layout.name(&image, "v1");
        lab.refuses("v1", &[], exit, code);
    }
}

#[test]
fn an_image_in_a_layer_is_carried() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a.qcow2", &lab.image)], "");
    lab.layout.name(&image, "v1");
    let report = json(&lab.carries("v1", &[]));
    assert_eq!((&report["stored-size"], &report["format"]), (&json!(lab.image.len()), &json!("qcow2")));
    let sum = digest(&lab.image);
    lab.carries("v1", &["--checksum", &sum]);

    // The only one needs no name, and a digest is as good as one.
    let dir = lab.dir.path().join("layout");
    for source in [format!("oci:{}", dir.display()), format!("oci:{}@{}", dir.display(), image.digest)] {
        let output = run(["info", "--json", &source]);
        assert_eq!(json(&output)["filename"], source);
        assert_eq!(json(&output)["unpacked-size"], 4 << 20);
    }
}

#[test]
fn packed_layers_are_unpacked_and_what_came_is_counted() {
    let mut lab = Lab::new();
    let archive = tar(&[("./disk/a", &lab.image)]);
    for (name, packed) in [("gzip", wrap::gzip(&archive)), ("zstd", wrap::zstd(&archive, &[]))] {
        let layer = lab.layout.blob(&format!("{TAR}+{name}"), &packed);
        let image = lab.layout.manifest("linux/amd64", &[layer], &[digest(&archive)], "");
        lab.layout.name(&image, name);
        let report = json(&lab.carries(name, &[]));
        assert_eq!(report["transferred"], packed.len(), "{name}");
        assert_eq!(report["stored-size"], lab.image.len(), "{name}");
    }
}

#[test]
fn an_image_may_be_wrapped_in_its_layer() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a.qcow2.xz", &wrap::xz(&lab.image, &[]))], "");
    lab.layout.name(&image, "xz");
    assert_eq!(json(&lab.carries("xz", &[]))["compression"], json!(["xz"]));
}

#[test]
fn the_topmost_layer_with_an_image_counts() {
    let mut lab = Lab::new();
    let stack = |lab: &Lab, layers: &[Vec<u8>]| {
        let blobs: Vec<_> = layers.iter().map(|layer| lab.layout.blob(TAR, layer)).collect();
        let diffs: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        lab.layout.manifest("linux/amd64", &blobs, &diffs, "")
    };
    let image = tar(&[("disk/a", &lab.image)]);
    let old = tar(&[("disk/a", b"old"), ("disk/b", b"older")]);
    let other = tar(&[("etc/motd", b"hello"), ("disk/.wh.c", b"")]);
    let gone = tar(&[("disk/.wh.a", b"")]);
    for (name, layers) in [
        ("lowest", vec![image.clone(), other.clone(), other.clone()]),
        ("middle", vec![old.clone(), image.clone(), other.clone()]),
        ("topmost", vec![old, image.clone()]),
        ("again", vec![image.clone(), gone.clone(), image.clone()]),
    ] {
        let image = stack(&lab, &layers);
        lab.layout.name(&image, name);
        lab.carries(name, &[]);
    }
    let removed = stack(&lab, &[image, gone]);
    lab.layout.name(&removed, "removed");
    lab.refuses("removed", &[], 3, "oci-no-image");
    let none = stack(&lab, &[other]);
    lab.layout.name(&none, "none");
    lab.refuses("none", &[], 3, "oci-no-image");
}

#[test]
fn a_layout_may_be_made_of_links_and_digests_say_what_is_right() {
    let mut lab = Lab::new();
    let archive = tar(&[("disk/a", &lab.image)]);
    let layer = lab.layout.blob(TAR, &archive);
    let image = lab.layout.manifest("linux/amd64", slice::from_ref(&layer), &[digest(&archive)], "");
    lab.layout.name(&image, "v1");
    let elsewhere = tempfile::tempdir().unwrap();
    for (number, path) in [&layer.digest, &image.digest].map(|digest| lab.layout.path(digest)).iter().enumerate() {
        let to = elsewhere.path().join(number.to_string());
        fs::copy(path, &to).unwrap();
        fs::remove_file(path).unwrap();
        symlink(&to, path).unwrap();
    }
    lab.carries("v1", &[]);
    fs::write(elsewhere.path().join("0"), vec![b'x'; archive.len()]).unwrap();
    let output = lab.convert("v1", &[]);
    assert!([Some(3), Some(6)].contains(&output.status.code()), "{output:?}");
    fs::remove_file(elsewhere.path().join("0")).unwrap();
    symlink("/dev/zero", elsewhere.path().join("0")).unwrap();
    lab.refuses("v1", &[], 4, "source-read");
}

#[test]
fn a_file_can_be_named() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a", &lab.image), ("disk/b", b"other"), ("boot/c", &lab.image)], "");
    lab.layout.name(&image, "v1");
    lab.refuses("v1", &[], 3, "tar-several-images");
    lab.carries("v1", &["--path", "disk/a"]);
    lab.carries("v1", &["--path", "/boot/c"]);
    lab.refuses("v1", &["--path", "boot/d"], 3, "oci-no-image");
}

#[test]
fn the_platform_that_is_wanted_is_taken() {
    let mut lab = Lab::new();
    let archive = tar(&[("disk/a", &lab.image)]);
    let other = tar(&[("disk/a", b"another machine's disk")]);
    let one = |lab: &Lab, platform, archive: &[u8]| {
        lab.layout.manifest(platform, &[lab.layout.blob(TAR, archive)], &[digest(archive)], "")
    };
    let wanted = one(&lab, "linux/s390x", &archive);
    let manifests = [one(&lab, "linux/amd64", &other), one(&lab, "linux/arm64", &other), wanted.clone()];
    let index = lab.layout.index(&manifests);
    lab.layout.name(&index, "all");
    let nested = lab.layout.index(&[index]);
    lab.layout.name(&nested, "nested");
    lab.layout.name(&wanted, "one");
    for name in ["all", "nested", "one"] {
        lab.carries(name, &["--platform", "linux/s390x"]);
        let output = lab.refuses(name, &["--platform", "linux/riscv64"], 4, "source-platform");
        assert!(stderr(&output).contains("linux/s390x"), "{output:?}");
    }
    lab.carries("one", &[]);
    if ["x86_64", "aarch64"].contains(&std::env::consts::ARCH) {
        assert_eq!(lab.convert("all", &["-f", "raw"]).status.code(), Some(0));
        assert!(fs::read(lab.target()).unwrap() == b"another machine's disk");
    }
}

#[test]
fn what_is_not_what_was_promised_publishes_nothing() {
    let mut lab = Lab::new();
    let archive = tar(&[("disk/a", &lab.image)]);
    let layer = lab.layout.blob(TAR, &archive);
    let wrong = lab.layout.manifest("linux/amd64", slice::from_ref(&layer), &[digest(b"other")], "");
    lab.layout.name(&wrong, "diff");
    lab.refuses("diff", &[], 6, "mismatch");
    let mut longer = layer.clone();
    longer.size += 1;
    for (name, size) in [("longer", archive.len() + 1), ("shorter", archive.len() - 1)] {
        longer.size = size;
        let image = lab.layout.manifest("linux/amd64", slice::from_ref(&longer), &[digest(&archive)], "");
        lab.layout.name(&image, name);
        lab.refuses(name, &[], 6, "mismatch");
    }
    let good = lab.layout.manifest("linux/amd64", slice::from_ref(&layer), &[digest(&archive)], "");
    lab.layout.name(&good, "good");
    lab.carries("good", &[]);
    // Behind the image, in the padding that nobody reads otherwise; then in the image; then the manifest.
    for at in [archive.len() - 1, 512 + 100_000] {
        let mut bent = archive.clone();
        bent[at] ^= 1;
        fs::write(lab.layout.path(&layer.digest), &bent).unwrap();
        let output = lab.convert("good", &[]);
        assert!([Some(3), Some(6)].contains(&output.status.code()), "{output:?}");
        assert_eq!(names(lab.dir.path()), ["layout"]);
    }
    fs::write(lab.layout.path(&layer.digest), b"").unwrap();
    lab.refuses("good", &[], 6, "mismatch");
    fs::remove_file(lab.layout.path(&layer.digest)).unwrap();
    lab.refuses("good", &[], 4, "source-read");
    let mut manifest = fs::read(lab.layout.path(&good.digest)).unwrap();
    manifest.pop();
    manifest.push(b' ');
    fs::write(lab.layout.path(&good.digest), manifest).unwrap();
    lab.refuses("good", &[], 6, "mismatch");
}

#[test]
fn a_layer_that_is_no_archive_is_refused() {
    let mut lab = Lab::new();
    let raw = lab.layout.blob(TAR, &lab.disk);
    let image = lab.layout.manifest("linux/amd64", slice::from_ref(&raw), slice::from_ref(&raw.digest), "");
    lab.layout.name(&image, "raw");
    lab.refuses("raw", &[], 3, "tar-not-this-format");
    let encrypted = lab.layout.blob(&format!("{TAR}+encrypted"), b"secret");
    let image = lab.layout.manifest("linux/amd64", &[encrypted], &[raw.digest], "");
    lab.layout.name(&image, "encrypted");
    lab.refuses("encrypted", &[], 3, "oci-layer-type");
}

#[test]
fn indexes_without_end_are_refused() {
    let mut lab = Lab::new();
    let mut index = lab.layout.image(&[("disk/a", &lab.image)], "");
    for _ in 0..4 {
        index = lab.layout.index(&[index]);
    }
    lab.layout.name(&index, "four");
    assert!(lab.convert("four", &[]).status.success());
    fs::remove_file(lab.target()).unwrap();
    index = lab.layout.index(&[index]);
    lab.layout.name(&index, "deep");
    lab.refuses("deep", &[], 3, "oci-index-depth");
}

#[test]
fn the_documents_of_an_image_may_have_16_mib_together() {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const LARGEST: usize = 4 << 20;
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a", &lab.image)], "");
    let text = fs::read(lab.layout.path(&image.digest)).unwrap();
    // The same manifest four times, each padded in its own way. What is behind it in the index is as long whatever the last one's size.
    let mut index = |last: usize| {
        let sizes = (0..4).map(|at| (at, if at == 3 { last } else { LARGEST }));
        let padded = sizes.map(|(at, size)| {
            let mut bytes = [&vec![b' '; at][..], &text].concat();
            bytes.resize(size, b' ');
            lab.layout.blob(MANIFEST, &bytes)
        });
        let index = lab.layout.index(&padded.collect::<Vec<_>>());
        lab.layout.name(&index, &format!("last-{last}"));
        index.size
    };
    let just_enough = LARGEST - index(LARGEST);
    index(just_enough);
    index(just_enough + 1);
    let copy = |last: usize| {
        let to = format!("oci:{}:a", lab.dir.path().join(format!("copy-{last}")).display());
        run(["copy", "--json", &lab.source(&format!("last-{last}")), &to])
    };
    let copied = copy(just_enough);
    assert!(copied.status.success(), "{copied:?}");
    let refused = copy(just_enough + 1);
    assert_fails(&refused, 3);
    assert_eq!(json(&refused)["error"]["code"], "oci-document-size");
    let store = format!("oci:{}", lab.dir.path().join("layout").display());
    let verify = |last: usize| run(["verify", "--json", &store, &format!("last-{last}")]);
    let verified = verify(just_enough);
    assert!(verified.status.success(), "{verified:?}");
    let refused = verify(just_enough + 1);
    assert!(!refused.status.success() && stdout(&refused).contains("oci-document-size"), "{refused:?}");
}

#[test]
fn what_is_kept_in_mind_of_the_images_of_a_layout_is_bounded() {
    const CHECK: &str = "gc check --json --keep-list - --keep-nothing";
    // Of each image the list `list` names so many, and none of them is there.
    let outcome = |command: &str, images: usize, list: &str, named: &[usize]| {
        let lab = Lab::new();
        let layout = lab.dir.path().join("layout");
        let one = |of: usize, number: usize| format!(r#"{{"digest":"sha256:{of:032}{number:032}","size":0}}"#);
        let entries = (0..images).map(|image| {
            let Some(named) = named.get(image) else { return one(0, image) };
            let text = format!(
                r#"{{"{list}":[{}]}}"#,
                (0..*named).map(|number| one(image, number)).collect::<Vec<_>>().join(",")
            );
            lab.layout.blob(container::MANIFEST, text.as_bytes()).json()
        });
        let entries = entries.collect::<Vec<_>>().join(",");
        fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#)).unwrap();
        let output =
            common::diskferry([]).args(command.split(' ')).arg(format!("oci:{}", layout.display())).output().unwrap();
        json(&output)["error"]["code"].as_str().unwrap_or("looked at").to_owned()
    };
    // An image counts as four, and its manifest as one.
    let just_enough = [8192 - 4 - 1; 32];
    let one_more = [&[8192 - 4][..], &just_enough[1..]].concat();
    assert_eq!(outcome(CHECK, 32, "layers", &just_enough), "looked at");
    assert_eq!(outcome(CHECK, 32, "layers", &one_more), "source-store-size");
    // What is not there counts as 24, and its name once.
    for (command, images, list, named, ends) in [
        (CHECK, 2, "manifests", &[8191, 2294][..], "looked at"),
        (CHECK, 2, "manifests", &[8191, 2295], "source-store-size"),
        ("verify --json", 2, "layers", &[8191, 2294], "looked at"),
        ("verify --json", 2, "layers", &[8191, 2295], "source-store-size"),
        ("list --json", 9362, "", &[], "looked at"),
        ("list --json", 9363, "", &[], "source-store-size"),
    ] {
        assert_eq!(outcome(command, images, list, named), ends, "{command}, {images}, {named:?}");
    }
}

#[test]
fn names_that_are_not_there_are_said_so() {
    let mut lab = Lab::new();
    assert_fails(&run(["info", &lab.source("v1")]), 4);
    let image = lab.layout.image(&[("disk/a", &lab.image)], "");
    lab.layout.name(&image, "v1");
    lab.layout.name(&image, "v2");
    let output = lab.refuses("v3", &[], 4, "source-not-found");
    assert!(stderr(&output).contains("v1, v2"), "{output:?}");
    let all = format!("oci:{}", lab.dir.path().join("layout").display());
    assert_eq!(json(&run(["info", "--json", &all]))["error"]["code"], "source-several-images");
    let nowhere = format!("oci:{}", lab.dir.path().join("nowhere").display());
    assert_fails(&run(["info", &nowhere]), 4);
    assert_fails(&run(["info", "--path", "disk/a", &nowhere[4..]]), 2);
}

#[test]
fn labels_are_shown_as_claims_and_checked_when_asked() {
    let mut lab = Lab::new();
    let labels = r#""source-image-format":"qcow2","source-image-size":"7","source-image-virtual-size":"99""#;
    let image = lab.layout.image(&[("disk/a", &lab.image)], labels);
    lab.layout.name(&image, "v1");
    let output = run(["info", "--json", &lab.source("v1")]);
    let claimed = json(&output);
    assert_eq!((&claimed["claimed"], &claimed["unpacked-size"]), (&json!(true), &json!(99)));
    assert_eq!((&claimed["stored-size"], &claimed["compression"]), (&json!(7), &json!(null)));
    assert!(stderr(&output).contains("warning") && stderr(&output).contains("labels"), "{output:?}");
    assert!(stdout(&run(["info", &lab.source("v1")])).contains("claimed:"));
    let checked = json(&run(["info", "--full", "--json", &lab.source("v1")]));
    assert_eq!((checked.get("claimed"), &checked["unpacked-size"]), (None, &json!(4 << 20)));

    let labels = r#""source-image-format":"vpc","source-image-virtual-size":"99""#;
    let image = lab.layout.image(&[("disk/a", &lab.image)], labels);
    lab.layout.name(&image, "v2");
    let found = json(&run(["info", "--json", &lab.source("v2")]));
    assert_eq!((found.get("claimed"), &found["format"]), (None, &json!("qcow2")), "what we do not know is looked at");
}

#[test]
fn layouts_of_umoci_and_skopeo_are_read() {
    let lab = Lab::new();
    let (dir, disk) = (lab.dir.path().join("layout"), lab.dir.path().join("in"));
    fs::create_dir(&disk).unwrap();
    fs::write(disk.join("a.qcow2"), &lab.image).unwrap();
    let image = format!("{}:v1", dir.display());
    let tool = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
    };
    tool("umoci", &["new", "--image", &image]);
    tool("umoci", &["insert", "--rootless", "--image", &image, disk.to_str().unwrap(), "/disk"]);
    lab.carries("v1", &[]);
    let copy = format!("oci:{}:v2", dir.display());
    tool(
        "skopeo",
        &["copy", "--insecure-policy", "--dest-compress-format", "zstd", "--dest-compress", &lab.source("v1"), &copy],
    );
    lab.carries("v2", &[]);
}

#[test]
fn a_layout_of_another_version_is_refused() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a.qcow2", &lab.image)], "");
    lab.layout.name(&image, "v1");
    lab.carries("v1", &[]);
    fs::write(lab.dir.path().join("layout/oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    fs::remove_file(lab.target()).unwrap();
    lab.refuses("v1", &[], 3, "oci-layout-version");
}
