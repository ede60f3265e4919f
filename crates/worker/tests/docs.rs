//! What docs/worker.md says is what the worker does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use diskferry_worker::serve::metrics;
use diskferry_worker::status::{Board, Facts, Outlets, Work};

fn page() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    fs::read_to_string(root.join("docs/worker.md")).unwrap()
}

#[test]
fn the_settings_of_the_page_are_those_of_the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_diskferry-worker")).arg("reference").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let page = page();
    let (_, after) = page.split_once("<!-- settings: diskferry-worker reference -->\n").unwrap();
    let (table, _) = after.split_once("<!-- end -->").unwrap();
    assert!(
        table.trim() == printed.trim(),
        "docs/worker.md is out of date: cargo run -p diskferry-worker -- reference"
    );
}

#[test]
fn a_reader_that_has_enough_of_the_settings_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_diskferry-worker")).arg("reference").stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_manual_pages_are_those_of_this_program() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_diskferry-worker")).arg("man").arg(dir.path()).status().unwrap();
    assert!(status.success());
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs/man");
    let names = |dir: &Path| -> BTreeSet<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("diskferry-worker")).collect()
    };
    assert_eq!(names(dir.path()), names(&committed));
    for name in names(&committed) {
        let [generated, committed] = [dir.path(), &committed].map(|dir| fs::read(dir.join(&name)).unwrap());
        assert!(
            generated == committed,
            "docs/man/{name} is out of date: cargo run -p diskferry-worker -- man docs/man"
        );
    }
}

#[test]
fn every_metric_is_on_the_page() {
    let board = Board::new("", Outlets::none(Work::Import));
    board.learn(Facts { stored_size: Some(1), unpacked_size: Some(1), ..Facts::default() });
    let text = metrics(&board);
    let names: BTreeSet<_> = text.lines().filter_map(|line| line.split_once('{')).map(|(name, _)| name).collect();
    assert!(names.len() > 10);
    let page = page();
    let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_of_the_termination_message_is_on_the_page() {
    let board = Board::new("", Outlets::none(Work::Import));
    board.begin("").unwrap();
    let facts = Facts {
        stored_size: Some(1),
        unpacked_size: Some(1),
        format: Some("raw".into()),
        cdrom: Some(false),
        digest: Some("sha256:0".into()),
        preallocated: Some(false),
        warnings: Vec::new(),
    };
    board.ready(facts, "").unwrap();
    let failed = Board::new("", Outlets::none(Work::Import));
    failed.fail(&diskferry_worker::verdict::Verdict::settings("x")).unwrap();
    let page = page();
    for text in [board.termination(), failed.termination()] {
        let message: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        for key in message.keys() {
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
    }
}
