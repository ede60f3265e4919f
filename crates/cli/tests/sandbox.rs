//! The sandbox, by the program itself: every kind of job does its work within, and the kernel's record of calls says what its threads
//! still did.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_fails, diskferry, json, names, run_with_pipe};
use diskferry_testkit::decoders;
use diskferry_testkit::oracle::{Scratch, qemu_img, qemu_io, raw_file_of};
use diskferry_testkit::serve::fault::{self, Server};
use diskferry_testkit::wrap;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An image whose table of tables lies behind its data, and its disk: from a pipe the data have to wait for it, from a server it comes by
/// a request of its own.
static IMAGE: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let scratch = Scratch::new();
    let (image, expected) = (scratch.path("image.qcow2"), scratch.path("expected.raw"));
    let name = image.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", name, "16M"]);
    qemu_io(&image, "qcow2", &["write -P 7 0 3M"]);
    // The table grows, and moves; the disk stays small enough to be compared as a whole.
    qemu_img(&["resize", "-q", name, "4G"]);
    qemu_img(&["resize", "-q", "--shrink", name, "16M"]);
    raw_file_of(&image, "qcow2", &expected);
    (fs::read(image).unwrap(), fs::read(expected).unwrap())
});

/// A directory with it, as it is and in xz.
struct Lab {
    dir: TempDir,
    disk: &'static [u8],
}

impl Lab {
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap(), disk: &IMAGE.1 };
        fs::write(lab.at("image.qcow2"), lab.image()).unwrap();
        fs::write(lab.at("image.qcow2.xz"), wrap::xz(lab.image(), &["-1"])).unwrap();
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).into_os_string().into_string().unwrap()
    }

    fn image(&self) -> &'static [u8] {
        &IMAGE.0
    }

    /// A server with the image.
    fn server(&self) -> (Server, String) {
        let server = Server::start();
        server.put("/image", fault::File::new(self.image().to_vec()));
        let url = format!("http://{}/image", server.address());
        (server, url)
    }

    #[track_caller]
    fn assert_disk(&self, name: &str) {
        assert!(fs::read(self.at(name)).unwrap() == self.disk, "{name} is not the disk");
        fs::remove_file(self.at(name)).unwrap();
    }
}

/// What the kernel has.
fn layers() -> Value {
    json!(decoders::layers())
}

/// The most that can be asked for here.
fn most() -> &'static str {
    if decoders::layers().contains(&"landlock") { "require" } else { "auto" }
}

/// Asserts that a run succeeded, and gives its report.
#[track_caller]
fn report(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    json(output)
}

#[test]
fn every_kind_of_job_does_its_work_within() {
    let (lab, most, layers) = (Lab::new(), most(), layers());
    let (image, packed, disk) = (lab.text("image.qcow2"), lab.text("image.qcow2.xz"), lab.text("disk.raw"));
    let within = |report: &Value| assert_eq!(report["sandbox"], layers, "{report}");
    // From a file.
    for source in [&image, &packed] {
        within(&report(&common::run(["convert", "--json", "--sandbox", most, source, &disk])));
        lab.assert_disk("disk.raw");
    }
    // From a pipe, with a spool in a file.
    let spooling = ["convert", "--json", "--sandbox", most, "--limit-spool-memory", "0", "-", &disk];
    let spooled = report(&run_with_pipe(spooling, lab.image()));
    within(&spooled);
    assert!(spooled["spooled"].as_u64().unwrap() > 1 << 20, "{spooled}");
    lab.assert_disk("disk.raw");
    // To stdout, out of order.
    let output = run_with_pipe(["convert", "--sandbox", most, "--limit-spool-memory", "0", "-", "-"], lab.image());
    assert!(output.status.success() && output.stdout == lab.disk);
    // From a server, as a whole and with requests for tables; in parts.
    let (server, url) = lab.server();
    for connections in ["1", "3"] {
        let args = ["convert", "--json", "--sandbox", most, "--connections", connections, &url, &disk];
        let fetched = report(&common::run(args));
        within(&fetched);
        assert!(fetched["spooled"].as_u64().unwrap() < 1 << 20, "{fetched}");
        lab.assert_disk("disk.raw");
    }
    assert!(server.requests().len() > 2);
    // Looked at, and read to the end.
    for more in [None, Some("--full")] {
        for source in [&image, &packed, &url] {
            let mut info = diskferry(["info", "--json", "--sandbox", most, source]);
            within(&report(&info.args(more).output().unwrap()));
        }
    }
    // Into a layout as it is, as its disk, and packed; and from there.
    let layout = |name: &str| format!("oci:{}:{name}", lab.text("layout"));
    for (name, form) in [("stored", None), ("raw", Some("raw")), ("packed", Some("raw+zstd"))] {
        let mut push = diskferry(["push", "--json", "--sandbox", most, &packed, &layout(name)]);
        within(&report(&push.args(form.map(|form| ["--as", form]).into_iter().flatten()).output().unwrap()));
        within(&report(&common::run(["convert", "--json", "--sandbox", most, &layout(name), &disk])));
        lab.assert_disk("disk.raw");
    }
    // One whose length is known at its end.
    let raw = wrap::gzip(lab.disk);
    within(&report(&run_with_pipe(["push", "--json", "--sandbox", most, "-", &layout("late")], &raw)));
}

#[test]
fn a_job_that_fails_or_is_stopped_within_leaves_nothing() {
    let (lab, most) = (Lab::new(), most());
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("disk.raw");
    let disk = disk.to_str().unwrap();
    let image = lab.image();
    assert_fails(&run_with_pipe(["convert", "--sandbox", most, "-", disk], &image[..image.len() / 2]), 3);
    assert_fails(&run_with_pipe(["convert", "--sandbox", most, "--spool-limit", "1Mi", "-", disk], image), 3);
    let missing = ["convert", "--sandbox", most, "--spool-dir", "/nonexistent", "--limit-spool-memory", "0", "-", disk];
    let output = run_with_pipe(missing, image);
    assert_fails(&output, 5);
    assert!(common::stderr(&output).contains("creating the spool's file: No such file or directory"), "{output:?}");
    assert!(names(out.path()).is_empty());

    let mut child = diskferry(["convert", "--sandbox", most, "-", disk]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&image[..image.len() / 2]).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(names(out.path()).len(), 1);
    let began = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(2), "the signal is heard of at once: {:?}", began.elapsed());
    assert!(names(out.path()).is_empty());
}

#[test]
fn without_it_nothing_is_given_up() {
    let lab = Lab::new();
    let args = ["convert", "--json", "--sandbox", "off", &lab.text("image.qcow2"), &lab.text("disk.raw")];
    assert_eq!(report(&common::run(args))["sandbox"], json!([]));
    lab.assert_disk("disk.raw");
}

/// `scripts/test` leaves this out, loudly, where system calls cannot be traced.
mod traced {
    use std::process::Command;

    use diskferry_testkit::decoders::{CALLS, calls, is_of_glibc, strays};

    use super::*;

    /// Runs the program under strace, with more arguments to that, and what comes from a pipe.
    fn strace(log: &Path, how: &[&str], args: &[&str], input: Option<&Path>) -> Output {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "200", "-o"]).arg(log).args(how).arg(env!("CARGO_BIN_EXE_diskferry"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        if let Some(input) = input {
            stdin.write_all(&fs::read(input).unwrap()).unwrap();
        }
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    #[test]
    fn what_decodes_opens_nothing_and_makes_no_socket() {
        let lab = Lab::new();
        let (log, disk) = (lab.at("calls"), lab.text("disk.raw"));
        let (_server, url) = lab.server();
        let (image, packed) = (lab.text("image.qcow2"), lab.text("image.qcow2.xz"));
        let layout = format!("oci:{}:image", lab.text("layout"));
        let pipe = lab.at("image.qcow2");
        let jobs: [(&[&str], Option<&Path>); 6] = [
            (&["convert", &image, &disk], None),
            (&["convert", &packed, &disk], None),
            (&["convert", "--limit-spool-memory", "0", "-", &disk], Some(&pipe)),
            (&["convert", &url, &disk], None),
            (&["info", "--full", &url], None),
            (&["push", &packed, &layout], None),
        ];
        for (args, stdin) in jobs {
            let output = strace(&log, &["-e", CALLS], args, stdin);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let (strays, work) = strays(&log);
            // What only looks at what the network's thread hands over calls nobody, and what is packed well is read at once.
            let least = if args[0] == "convert" { 10 } else { 0 };
            assert!(work >= least, "{args:?}: the record shows what they do: {work} calls");
            assert!(strays.is_empty(), "{args:?}: {strays:#?}");
        }
        lab.assert_disk("disk.raw");
        // The same record of a run without it shows what is looked for.
        strace(&log, &["-e", CALLS], &["convert", "--sandbox", "off", &image, &disk], None);
        let calls = fs::read_to_string(&log).unwrap();
        assert!(!calls.contains("seccomp(") && calls.contains("openat("), "{calls}");
    }

    #[test]
    fn a_process_whose_source_and_target_are_here_opens_only_what_is_new() {
        let lab = Lab::new();
        let (log, disk) = (lab.at("calls"), lab.text("disk.raw"));
        let pipe = lab.at("image.qcow2");
        let image = lab.text("image.qcow2.xz");
        let jobs: [(&[&str], Option<&Path>); 4] = [
            (&["convert", "--json", "--progress", "always", &image, &disk], None),
            (&["convert", "--limit-spool-memory", "0", "-", &disk], Some(&pipe)),
            (&["convert", &image, "-"], None),
            (&["info", "--full", &image], None),
        ];
        for (args, stdin) in jobs {
            let output = strace(&log, &["-e", "trace=%file,%network,%process,seccomp"], args, stdin);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let text = fs::read_to_string(&log).unwrap();
            let (_, after) = text.rsplit_once("SECCOMP_FILTER_FLAG_TSYNC").unwrap();
            let others = ["open", "socket(", "connect(", "execve(", "EPERM"];
            let is_new = |call: &str| call.contains("O_CREAT|O_EXCL") || call.contains("O_TMPFILE");
            let is_stray = |call: &String| others.iter().any(|other| call.contains(other)) && !is_new(call);
            let after = calls(after).into_iter().map(|(_, call)| call);
            let strays: Vec<_> = after.filter(is_stray).filter(|call| !is_of_glibc(call)).collect();
            assert!(strays.is_empty(), "{args:?}: {strays:#?}");
        }
        lab.assert_disk("disk.raw");
    }

    #[test]
    fn a_kernel_without_one_of_them_is_refused_if_both_are_required() {
        let lab = Lab::new();
        let (log, image, disk) = (lab.at("calls"), lab.text("image.qcow2"), lab.text("disk.raw"));
        let has_landlock = decoders::layers().contains(&"landlock");
        for (missing, error, left) in [
            ("landlock", "landlock_create_ruleset:error=EOPNOTSUPP", vec!["seccomp"]),
            ("seccomp", "seccomp:error=EINVAL", if has_landlock { vec!["landlock"] } else { vec![] }),
        ] {
            let (call, _) = error.split_once(':').unwrap();
            let how = ["-e", &format!("trace={call}"), "-e", &format!("inject={error}")].map(str::to_owned);
            let how = how.iter().map(String::as_str).collect::<Vec<_>>();
            let args = ["convert", "--json", "--sandbox", "require", &image, &disk];
            let output = strace(&log, &how, &args, None);
            assert_fails(&output, 2);
            assert_eq!(json(&output)["error"]["code"], "sandbox-missing");
            assert_eq!(json(&output)["error"]["kind"], "usage");
            let text = common::stderr(&output);
            assert!(text.starts_with("diskferry: --sandbox require cannot be had here: "), "{text}");
            assert!(text.contains(&format!("{missing}: ")), "{text}");
            assert!(!lab.at("disk.raw").exists());
            let output = strace(&log, &how, &["convert", "--json", &image, &disk], None);
            assert_eq!(report(&output)["sandbox"], json!(left));
            lab.assert_disk("disk.raw");
        }
    }
}
