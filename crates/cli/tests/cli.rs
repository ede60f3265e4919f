//! What is typed and what comes of it, as far as no image is needed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use common::{assert_fails, diskferry, json, names, run, stderr, stdout, terminal};
use serde_json::json;

// Usage.

#[test]
fn what_cannot_be_meant_is_usage() {
    let bare = "0".repeat(64);
    let wrong: [(&[&str], &str); 13] = [
        (&["convert", "a"], "<TARGET>"),
        (&["info"], "<SOURCE>"),
        (&["carry", "a", "b"], "'carry'"),
        (&["info", "--jsn", "a"], "a similar argument exists: '--json'"),
        (&["convert", "-O", "qcow2", "a", "b"], "[possible values: raw]"),
        (&["convert", "-f", "floppy", "a", "b"], "floppy"),
        (&["convert", "--checksum", "sha256:12", "a", "b"], "64 hexadecimal digits"),
        (&["convert", "--checksum", &bare, "a", "b"], "sha256:HEX or streebog256:HEX"),
        (&["convert", "", "b"], "nothing is named"),
        (&["convert", "-p", "--progress", "json", "a", "b"], "cannot be used with"),
        (&["convert", "--max-size", "10Q", "a", "b"], "--max-size"),
        (&["convert", "--spool-limit=-1", "a", "b"], "--spool-limit"),
        (&["info", "--checksum", "md5:d41d8cd98f00b204e9800998ecf8427e", "a"], "--full"),
    ];
    for (args, reason) in wrong {
        let output = diskferry([]).args(args).output().unwrap();
        assert_fails(&output, 2);
        assert!(stderr(&output).contains(reason), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn usage_is_an_object_too_with_json() {
    let output = run(["info", "--json", "--max-size", "many", "a"]);
    assert_fails(&output, 2);
    let error = &json(&output)["error"];
    assert_eq!((&error["kind"], &error["code"]), (&json!("usage"), &json!("usage")));
    assert!(error["message"].as_str().unwrap().contains("--max-size"));
}

#[test]
fn report_and_disk_do_not_share_stdout() {
    for stdout in ["-", "/dev/stdout", "/proc/self/fd/1"] {
        let output = run(["convert", "--json", "a", stdout]);
        assert_fails(&output, 2);
        assert_eq!(json(&output)["error"]["kind"], "usage", "{stdout}");
    }
}

#[test]
fn nothing_typed_shows_the_help() {
    let output = run([]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Usage: diskferry <COMMAND>"));
}

#[test]
fn help_gives_the_defaults_of_the_library() {
    let output = run(["convert", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let limits = diskferry::Limits::default();
    let text = stdout(&output);
    for default in [format!("[default: {}Ti]", limits.virtual_size >> 40), format!("[default: {}]", limits.layers)] {
        assert!(text.contains(&default), "{default} is not in {text}");
    }
}

#[test]
fn options_of_a_command_stand_before_those_about_servers() {
    let own: [(&[&str], &[&str]); 3] = [
        (&["verify"], &["[IMAGE]", "--json"]),
        (&["gc", "check"], &["--keep-list", "--keep-nothing"]),
        (&["gc", "run"], &["--keep-list", "--keep-nothing", "--yes", "--grace", "--seen"]),
    ];
    for (command, options) in own {
        let output = diskferry([]).args(command).arg("--help").output().unwrap();
        let (before, network) = stdout(&output).split_once("\nNetwork:\n").unwrap();
        for option in options {
            assert!(before.contains(&format!("  {option}")), "{option} of {command:?}");
        }
        assert!(network.contains("--cacert") && !before.contains("--cacert"));
    }
}

#[test]
fn manual_pages_have_the_sections_that_readers_look_for() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(["man", dir.path().to_str().unwrap()]).status.success());
    let page = fs::read_to_string(dir.path().join("diskferry-convert.1")).unwrap();
    let headings: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    let expected = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "NETWORK",
        "\"CONTAINER IMAGES\"",
        "LIMITS",
        "EXAMPLES",
        "ENVIRONMENT",
        "\"EXIT STATUS\"",
        "\"SEE ALSO\"",
    ];
    assert_eq!(headings, expected);
    assert!(page.contains("\n\\fBdiskferry convert\\fR [OPTIONS] <SOURCE> <TARGET>\n"), "{page}");
}

#[test]
fn manual_pages_are_written_for_each_subcommand() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(["man", dir.path().to_str().unwrap()]).status.success());
    let expected = [
        "diskferry-completions.1",
        "diskferry-convert.1",
        "diskferry-copy.1",
        "diskferry-gc-check.1",
        "diskferry-gc-run.1",
        "diskferry-gc.1",
        "diskferry-info.1",
        "diskferry-list.1",
        "diskferry-push.1",
        "diskferry-verify.1",
        "diskferry.1",
    ];
    assert_eq!(names(dir.path()), expected);
}

// Terminals.

#[test]
fn a_terminal_is_no_source() {
    let (_person, program) = terminal();
    let output = diskferry(["info", "-"]).stdin(program).output().unwrap();
    assert_fails(&output, 2);
    assert!(stderr(&output).contains("SOURCE is a terminal"));
}

#[test]
fn a_terminal_is_no_target() {
    let (_person, program) = terminal();
    let output = diskferry(["convert", "/dev/null", "-"]).stdout(program).output().unwrap();
    assert_fails(&output, 2);
    assert!(stderr(&output).contains("TARGET is a terminal"));
}

// Source and target.

#[test]
fn a_missing_source_is_a_source_error() {
    let output = run(["info", "--json", "/no/such/image"]);
    assert_fails(&output, 4);
    let error = &json(&output)["error"];
    assert_eq!((&error["kind"], &error["code"]), (&json!("source"), &json!("source-read")));
    assert!(stderr(&output).contains("/no/such/image"));
}

#[test]
fn a_directory_is_neither_source_nor_target() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    assert_fails(&run(["info", dir]), 4);
    assert_fails(&run(["convert", "/dev/null", dir]), 5);
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let output = run(["info", "--json", "no\u{1b}[2J\nsuch\u{9b}image"]);
    assert_fails(&output, 4);
    assert!(stderr(&output).contains("no\\u{1b}[2J\\nsuch\\u{9b}image"), "{}", stderr(&output));
    assert!(!stdout(&output).contains(['\u{1b}', '\u{9b}']));
    assert!(json(&output)["error"]["message"].as_str().unwrap().contains("no\\u{1b}[2J\\nsuch\\u{9b}image"));
}

// stdout.

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = diskferry(["completions", "bash"]).stdout(OwnedFd::from(writer)).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    for args in [&["completions", "bash"][..], &["--help"], &["convert", "--help"], &["--version"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = diskferry([]).args(args).stdout(Stdio::from(full)).output().unwrap();
        assert_fails(&output, 1);
    }
}
