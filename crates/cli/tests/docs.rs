//! What the documents say the program prints is what it prints.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{diskferry, json, names, run, stdout};
use diskferry_testkit::container::Layout;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

#[test]
fn the_manual_pages_are_those_of_this_program() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(["man", dir.path().to_str().unwrap()]).status.success());
    let committed = root().join("docs/man");
    // The worker's are another program's.
    let ours: Vec<_> = names(&committed).into_iter().filter(|name| !name.starts_with("diskferry-worker")).collect();
    assert_eq!(names(dir.path()), ours);
    for name in ours {
        let (generated, committed) =
            (fs::read(dir.path().join(&name)).unwrap(), fs::read(committed.join(&name)).unwrap());
        assert!(generated == committed, "docs/man/{name} is out of date: cargo run -- man docs/man");
    }
}

#[test]
fn the_report_in_the_documentation_is_printed() {
    let target = tempfile::tempdir().unwrap();
    let target = target.path().join("disk.raw");
    let text = read("docs/json.md");
    let example = text.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let mut expected: Value = serde_json::from_str(example).unwrap();
    let checksum = format!("sha256:{}", expected["digests"]["sha256"].as_str().unwrap());
    let args = ["convert", "--json", "--checksum", &checksum, "testdata/disk.qcow2.xz", target.to_str().unwrap()];
    let mut printed = json(&diskferry(args).current_dir(root()).output().unwrap());
    for varies in ["seconds", "spooled"] {
        assert!(printed[varies].is_number());
        printed[varies] = Value::Null;
        expected[varies] = Value::Null;
    }
    assert_eq!(printed, expected);
}

#[test]
fn every_key_of_every_report_is_documented_and_no_other() {
    let mut printed = BTreeSet::new();
    for image in images() {
        let output = run(["info", "--full", "--json", image.to_str().unwrap()]);
        if output.status.success() {
            collect(&json(&output), "", &mut printed);
        }
    }
    let container = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(container.path());
    let labels = r#""source-image-format":"raw","source-image-virtual-size":"1""#;
    let image = layout.image(&[("disk/a", b"x")], labels);
    layout.name(&image, "v1");
    collect(&json(&run(["info", "--json", &format!("oci:{}", container.path().display())])), "", &mut printed);
    let pushed = format!("oci:{}:v2", container.path().display());
    let output = run(["push", "--json", root().join("testdata/disk.qcow2.xz").to_str().unwrap(), &pushed]);
    collect(&json(&output), "", &mut printed);
    let copied = format!("oci:{}", container.path().join("copy").display());
    collect(&json(&run(["copy", "--json", &pushed, &copied])), "", &mut printed);
    assert_eq!(printed, documented(), "printed on the left, documented in docs/json.md on the right");
}

/// The images of testdata; those that are no image are reported by an error.
fn images() -> Vec<PathBuf> {
    names(&root().join("testdata")).iter().map(|name| root().join("testdata").join(name)).collect()
}

/// The keys of `value` as the documentation has them; digests are named by their algorithms.
fn collect(value: &Value, inside: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().unwrap() {
        match key.as_str() {
            "format-specific" => collect(&value["data"], &format!("{} ", value["type"].as_str().unwrap()), keys),
            _ => assert!(inside.is_empty() || !value.is_object(), "{key} has keys of its own"),
        }
        keys.insert(format!("{inside}{key}"));
    }
}

/// First cells of the tables headed `key`; those below `## NAME` are the facts of that format.
fn documented() -> BTreeSet<String> {
    let text = read("docs/json.md");
    let mut keys = BTreeSet::new();
    for section in text.split("\n## ") {
        let inside = section.split_once(": format-specific").map_or(String::new(), |(format, _)| format!("{format} "));
        for table in section.split("\n| key |").skip(1) {
            let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
            keys.extend(rows.map(|row| format!("{inside}{}", row.split('`').nth(1).unwrap())));
        }
    }
    keys
}

#[test]
fn the_readme_shows_what_info_prints() {
    let session = read("README.md");
    let command = "$ diskferry info testdata/disk.qcow2.xz\n";
    let shown = session.split(command).nth(1).unwrap().split("\n$ ").next().unwrap();
    let output = diskferry(["info", "testdata/disk.qcow2.xz"]).current_dir(root()).output().unwrap();
    assert_eq!(stdout(&output).trim_end(), shown);
}
