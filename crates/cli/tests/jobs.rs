//! Whole jobs as a person runs them: images in, disks, reports and exit codes out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{assert_fails, diskferry, json, names, run, run_with_pipe, stderr, stdout, terminal};
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::wrap;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with the image `disk.img`: raw with a boot sector's mark, data at both ends, and nothing between.
struct Lab {
    dir: TempDir,
    disk: Vec<u8>,
}

const DISK: usize = 3 << 20;
const DATA: usize = 64 << 10;

impl Lab {
    fn new() -> Self {
        let mut disk = vec![0; DISK];
        let noise = |at: usize| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0] | 1;
        for at in (0..DATA).chain(DISK - DATA..DISK) {
            disk[at] = noise(at);
        }
        disk[510..512].copy_from_slice(b"\x55\xaa");
        let lab = Self { dir: tempfile::tempdir().unwrap(), disk };
        fs::write(lab.at("disk.img"), &lab.disk).unwrap();
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).into_os_string().into_string().unwrap()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    #[track_caller]
    fn assert_disk(&self, name: &str) {
        assert!(self.read(name) == self.disk, "{name} is not the disk");
    }

    fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }

    /// Makes `disk.img.gz`.
    fn gzip(&self) {
        assert!(Command::new("gzip").arg("-k").arg(self.at("disk.img")).status().unwrap().success());
    }
}

#[test]
fn progress_is_shown_by_the_letter_that_qemu_img_has_for_it() {
    let lab = Lab::new();
    let output = run(["convert", "-p", "-f", "raw", "-O", "raw", &lab.path("disk.img"), &lab.path("disk.raw")]);
    assert!(output.status.success());
    assert!(stderr(&output).starts_with("diskferry: 3145728 bytes (3 MiB)"), "{}", stderr(&output));
    lab.assert_disk("disk.raw");
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    str::from_utf8(&output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

// convert

#[test]
fn a_file_becomes_a_disk_and_nothing_is_printed() {
    let lab = Lab::new();
    let output = run(["convert", &lab.path("disk.img"), &lab.path("disk.raw")]);
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), "", ""));
    lab.assert_disk("disk.raw");
    assert_eq!(lab.names(), ["disk.img", "disk.raw"]);
}

#[test]
fn a_pipe_becomes_a_disk() {
    let lab = Lab::new();
    let output = run_with_pipe(["convert", "-", &lab.path("disk.raw")], &lab.disk);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    lab.assert_disk("disk.raw");
}

#[test]
fn a_named_pipe_becomes_a_disk() {
    let lab = Lab::new();
    assert!(Command::new("mkfifo").arg(lab.at("fifo")).status().unwrap().success());
    let child = diskferry(["convert", &lab.path("fifo"), &lab.path("disk.raw")]).spawn().unwrap();
    File::options().write(true).open(lab.at("fifo")).unwrap().write_all(&lab.disk).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    lab.assert_disk("disk.raw");
}

#[test]
fn a_file_on_stdin_is_read_from_where_it_stands() {
    let lab = Lab::new();
    for start in [0, 4096] {
        let mut image = File::open(lab.at("disk.img")).unwrap();
        image.read_exact(&mut vec![0; start]).unwrap();
        let output = diskferry(["convert", "-f", "raw", "-", &lab.path("disk.raw")]).stdin(image).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(lab.read("disk.raw") == lab.disk[start..], "from byte {start}");
    }
}

#[test]
fn a_disk_goes_to_stdout_whole() {
    let lab = Lab::new();
    let output = run(["convert", "-q", &lab.path("disk.img"), "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == lab.disk);
}

#[test]
fn a_link_stays_a_link() {
    let lab = Lab::new();
    fs::write(lab.at("old.raw"), "old").unwrap();
    std::os::unix::fs::symlink("old.raw", lab.at("link.raw")).unwrap();
    assert_eq!(run(["convert", &lab.path("disk.img"), &lab.path("link.raw")]).status.code(), Some(0));
    assert!(lab.at("link.raw").is_symlink());
    lab.assert_disk("old.raw");
}

#[test]
fn the_report_says_what_was_done() {
    let lab = Lab::new();
    lab.gzip();
    let digest = sha256(&lab.at("disk.img.gz"));
    let checksum = format!("sha256:{digest}");
    let output = run(["convert", "--json", "--checksum", &checksum, &lab.path("disk.img.gz"), &lab.path("disk.raw")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stored = fs::metadata(lab.at("disk.img.gz")).unwrap().len();
    let Value::Object(mut report) = json(&output) else { panic!("{output:?}") };
    assert!(report.remove("seconds").unwrap().is_number());
    assert!(report.remove("spooled").unwrap().is_number());
    // What the kernel has: tests of its own say what that must be.
    assert!(report.remove("sandbox").unwrap().is_array());
    let expected = json!({
        "filename": lab.path("disk.img.gz"), "format": "raw", "compression": ["gzip"], "cdrom": false,
        "virtual-size": DISK, "unpacked-size": DISK, "stored-size": stored, "transferred": stored,
        "allocated-size": 2 * DATA, "digests": { "sha256": digest }, "warnings": [], "refusals": [],
    });
    assert_eq!(Value::Object(report), expected);
}

#[test]
fn a_checksum_may_have_blanks_around_it_and_a_format_capitals() {
    let lab = Lab::new();
    let checksum = format!(" sha256:{}\n", sha256(&lab.at("disk.img")));
    let args = ["convert", "-f", "RAW", "-O", "Raw", "--checksum", &checksum];
    let output = diskferry(args).args([lab.at("disk.img"), lab.at("disk.raw")]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    lab.assert_disk("disk.raw");
}

// What is refused, with nothing left behind.

#[test]
fn a_checksum_mismatch_publishes_nothing() {
    let lab = Lab::new();
    fs::write(lab.at("disk.raw"), "what it was").unwrap();
    let checksum = format!("md5:{}", "0".repeat(32));
    let output = run(["convert", "--json", "--checksum", &checksum, &lab.path("disk.img"), &lab.path("disk.raw")]);
    assert_fails(&output, 6);
    let error = &json(&output)["error"];
    assert_eq!((&error["kind"], &error["expected"]), (&json!("mismatch"), &json!("0".repeat(32))));
    assert_eq!(lab.read("disk.raw"), b"what it was");
    assert_eq!(lab.names(), ["disk.img", "disk.raw"]);
}

#[test]
fn a_disk_over_the_limit_is_refused_from_file_and_pipe() {
    let lab = Lab::new();
    let from_file = run(["convert", "--json", "--max-size", "1Mi", &lab.path("disk.img"), &lab.path("disk.raw")]);
    let from_pipe = run_with_pipe(["convert", "--json", "--max-size", "1Mi", "-", &lab.path("disk.raw")], &lab.disk);
    for output in [from_file, from_pipe] {
        assert_fails(&output, 3);
        let error = &json(&output)["error"];
        assert_eq!((&error["code"], &error["limit"]), (&json!("max-size"), &json!(1 << 20)));
        assert_eq!(lab.names(), ["disk.img"]);
    }
}

#[test]
fn every_limit_is_an_option_and_has_two_sides() {
    const CLUSTER: u64 = 64 << 10;
    let lab = Lab::new();
    let mut image = Qcow2 { l1: Place::Behind, l2: Place::Behind, ..Qcow2::new(8 * CLUSTER) };
    image.clusters.insert(0, Cluster::Plain(vec![7; 64 << 10]));
    image.clusters.insert(2, Cluster::Packed(vec![7; 64 << 10]));
    let image = image.build();
    let wrapped = wrap::xz(&wrap::gzip(&image.image), &["--lzma2=dict=1MiB"]);
    let here = lab.dir.path().to_str().unwrap();
    let convert = |image: &[u8], spool: &str, option: &str, value: u64| {
        let _ = fs::remove_file(lab.at("disk.raw"));
        let (value, target) = (value.to_string(), lab.path("disk.raw"));
        run_with_pipe(["convert", "--json", "--spool-dir", spool, option, &value, "-", &target], image)
    };
    // All that lies in front of the L1 table waits for it, but for the header.
    let waits = json(&convert(&image.image, here, "--limit-spool-memory", 0))["spooled"].as_u64().unwrap();
    assert!((image.l1 - 120..image.l1).contains(&waits), "{waits} of {}", image.l1);
    // Of the header and three tables it is kept where they begin and end; and there are two clusters with a hole behind each.
    let mapped = 4 * 16 + 4 * 24;
    for (image, option, enough) in [
        (&image.image, "--max-size", 8 * CLUSTER),
        (&image.image, "--limit-table", mapped),
        (&image.image, "--limit-unit", CLUSTER),
        (&wrapped, "--limit-layers", 2),
        (&wrapped, "--limit-window", 1 << 20),
        (&image.image, "--spool-limit", waits),
    ] {
        let with = |value: u64| convert(image, here, option, value);
        let carried = with(enough);
        assert!(carried.status.success(), "{option} {enough}: {carried:?}");
        let refused = with(enough - 1);
        assert_fails(&refused, 3);
        let error = &json(&refused)["error"];
        assert_eq!((&error["code"], &error["option"]), (&json!(option[2..]), &json!(option)), "{refused:?}");
        assert!(stderr(&refused).contains(option), "{refused:?}");
    }
    // What there is no memory for waits in a file. Each piece in memory takes 64 bytes more, to be found again.
    let with = |value: u64| convert(&image.image, "/nowhere", "--limit-spool-memory", value);
    let carried = with(waits + 1024 * 64);
    assert!(carried.status.success(), "{carried:?}");
    let refused = with(waits - 1);
    assert_fails(&refused, 5);
    assert!(stderr(&refused).contains("creating the spool's file"), "{refused:?}");
}

#[test]
fn a_web_page_is_no_disk_unless_somebody_says_so() {
    let lab = Lab::new();
    fs::write(lab.at("disk.img"), "<!DOCTYPE html>\n<html><body>404</body></html>\n".repeat(100)).unwrap();
    assert_fails(&run(["convert", &lab.path("disk.img"), &lab.path("disk.raw")]), 3);
    assert_eq!(lab.names(), ["disk.img"]);
    let stated = run(["convert", "-f", "raw", &lab.path("disk.img"), &lab.path("disk.raw")]);
    assert_eq!(stated.status.code(), Some(0), "{stated:?}");
}

#[test]
fn only_stated_wrappings_are_taken_off() {
    let lab = Lab::new();
    lab.gzip();
    assert_eq!(run(["convert", "-f", "raw", &lab.path("disk.img.gz"), &lab.path("packed")]).status.code(), Some(0));
    assert!(lab.read("packed") == lab.read("disk.img.gz"));
    assert_eq!(
        run(["convert", "-f", "raw.gz", &lab.path("disk.img.gz"), &lab.path("unpacked")]).status.code(),
        Some(0)
    );
    lab.assert_disk("unpacked");
}

#[test]
fn a_full_or_closed_stdout_is_a_target_error() {
    let lab = Lab::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_fails(&diskferry(["convert", &lab.path("disk.img"), "-"]).stdout(full).output().unwrap(), 5);
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let output = diskferry(["convert", &lab.path("disk.img"), "-"]).stdout(OwnedFd::from(closed)).output().unwrap();
    assert_fails(&output, 5);
}

// Progress.

#[test]
fn progress_for_programs_grows_and_ends_with_done() {
    let lab = Lab::new();
    let output = run(["convert", "--progress", "json", &lab.path("disk.img"), &lab.path("disk.raw")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines: Vec<Value> = stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = &lines.last().unwrap()["progress"];
    assert_eq!((&last["done"], &last["source"], &last["total"]), (&json!(true), &json!(DISK), &json!(DISK)));
    assert_eq!(last["written"], json!(DISK));
}

#[test]
fn a_terminal_sees_the_whole_bar_and_a_summary() {
    let lab = Lab::new();
    let (mut person, program) = terminal();
    let mut child =
        diskferry(["convert", &lab.path("disk.img"), &lab.path("disk.raw")]).stderr(program).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let mut seen = Vec::new();
    // When nobody holds the other end any more, a terminal says so by an error.
    let _ = person.read_to_end(&mut seen);
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("100%") && seen.contains("diskferry: 3145728 bytes (3 MiB)"), "{seen:?}");
}

// info

#[test]
fn info_says_what_it_cannot_know_and_finds_out_when_asked() {
    let lab = Lab::new();
    lab.gzip();
    let image = lab.path("disk.img.gz");
    assert!(stdout(&run(["info", &image])).contains("unpacked size:  unknown until read to the end (--full does)"));
    assert_eq!(json(&run(["info", "--json", &image]))["unpacked-size"], Value::Null);
    assert!(stdout(&run(["info", "--full", &image])).contains(" 3145728 bytes (3 MiB)"));
    let full = json(&run(["info", "--full", "--json", &image]));
    assert_eq!((&full["unpacked-size"], &full["allocated-size"]), (&json!(DISK), &json!(2 * DATA)));
}

#[test]
fn info_reads_a_pipe() {
    let lab = Lab::new();
    let output = run_with_pipe(["info", "--json", "-"], &lab.disk);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((&json(&output)["filename"], &json(&output)["format"]), (&json!("-"), &json!("raw")));
}

#[test]
fn info_for_a_reader_that_has_enough_is_no_error() {
    let lab = Lab::new();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let output = diskferry(["info", &lab.path("disk.img")]).stdout(OwnedFd::from(closed)).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn a_backing_file_is_shown_but_not_obeyed() {
    let lab = Lab::new();
    let name = "\u{1b}[2Jbase.raw";
    let create = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name];
    let image = lab.path("overlay.qcow2");
    assert!(Command::new("qemu-img").args(create).args([&image, "1M"]).status().unwrap().success());

    let human = run(["info", &image]);
    assert_eq!(human.status.code(), Some(0), "{human:?}");
    assert!(stdout(&human).contains("\\u{1b}[2Jbase.raw") && !stdout(&human).contains('\u{1b}'));

    let found = json(&run(["info", "--json", &image]));
    assert_eq!((&found["backing-filename"], &found["virtual-size"]), (&json!(name), &json!(1 << 20)));
    assert_eq!(found["refusals"][0]["code"], "qcow2-backing-file");

    let refused = run(["convert", "--json", &image, &lab.path("disk.raw")]);
    assert_fails(&refused, 3);
    assert_eq!(json(&refused)["error"]["code"], "qcow2-backing-file");
    assert!(!stderr(&refused).contains('\u{1b}'));
}

#[test]
fn the_files_that_a_vmdk_names_are_shown_and_not_looked_for() {
    let lab = Lab::new();
    // Whoever opens the first would wait for a writer.
    assert!(Command::new("mkfifo").arg(lab.at("fifo")).status().unwrap().success());
    let extents = [lab.path("fifo"), "gone-s002.vmdk".into()];
    let [first, second] = &extents;
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=2\ncreateType=\"twoGbMaxExtentSparse\"\n\
         parentFileNameHint=\"base.vmdk\"\nRW 4192256 SPARSE \"{first}\"\nRW 2048 SPARSE \"{second}\"\n"
    );
    fs::write(lab.at("disk.vmdk"), text).unwrap();
    let image = lab.path("disk.vmdk");

    let human = run(["info", &image]);
    assert_eq!(human.status.code(), Some(0), "{human:?}");
    assert!(stdout(&human).contains(&format!("extents:          {first}\nextents:          {second}\n")), "{human:?}");

    for args in [&["info", "--json"][..], &["info", "--full", "--json"]] {
        let found = json(&diskferry([]).args(args).arg(&image).output().unwrap());
        assert_eq!(found["format-specific"]["data"]["extents"], json!(extents));
        assert_eq!(
            (&found["virtual-size"], &found["backing-filename"]),
            (&json!(4_194_304_u64 * 512), &json!("base.vmdk"))
        );
        assert_eq!(found["refusals"][0]["code"], "vmdk-descriptor-only");
    }

    let refused = run(["convert", "--json", &image, &lab.path("disk.raw")]);
    assert_fails(&refused, 3);
    assert_eq!(json(&refused)["error"]["code"], "vmdk-descriptor-only");
    assert_eq!(lab.names(), ["disk.img", "disk.vmdk", "fifo"]);
}
