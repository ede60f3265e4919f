//! Imports that are killed, stopped or given up for now, and started again: they go on where the journal says, or begin anew where it cannot be relied on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ended, Pod, names};
use diskferry_testkit::serve::fault;
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::wrap;

const MIB: usize = 1 << 20;
const LEN: usize = 40 * MIB;
const JOURNAL: &str = "data/.disk.img.journal.diskferry";

/// A disk that does not pack, made from `seed`.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..LEN / 8).flat_map(word).collect()
}

/// The disk as an image of `format`.
fn image(pod: &Pod, disk: &[u8], format: &str) -> Vec<u8> {
    let (from, to) = (pod.write("whole", disk), pod.text("image"));
    let made = Command::new("qemu-img").args(["convert", "-f", "raw", "-O", format, &from, &to]).status().unwrap();
    assert!(made.success());
    let image = fs::read(to).unwrap();
    for made in ["whole", "image"] {
        fs::remove_file(pod.path(made)).unwrap();
    }
    image
}

/// A server that gives 20 MB a second, and the image on it.
fn server(image: &[u8]) -> RunningNginx {
    let nginx = Nginx::new().rate(20_000_000).start();
    fs::write(nginx.root().join("a.img"), image).unwrap();
    nginx
}

fn pod() -> Pod {
    let pod = Pod::new(&[("DISKFERRY_DESTINATION", "filesystem"), ("DISKFERRY_JOURNAL_EVERY", "4Mi")]);
    fs::create_dir(pod.path("data")).unwrap();
    let path = pod.text("data/disk.img");
    pod.with(&[("DISKFERRY_DESTINATION_PATH", &path)])
}

fn from(pod: Pod, nginx: &RunningNginx) -> Pod {
    pod.with(&[("IMPORTER_ENDPOINT", &nginx.url(Origin::Plain, "/a.img"))])
}

fn kill(pod: &Pod, child: Child) {
    assert_eq!(ended_by("KILL", pod, child).code, None);
}

fn ended_by(signal: &str, pod: &Pod, child: Child) -> Ended {
    let killed = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    pod.end(child)
}

/// Starts an import and kills it when the journal says that more than `named` bytes are there.
fn interrupted(pod: &Pod, named: u64) {
    let child = begun(pod, named);
    kill(pod, child);
    assert_left(pod);
}

/// An import of which the journal says that more than `named` bytes are there.
fn begun(pod: &Pod, named: u64) -> Child {
    let child = pod.command(&["import"]).spawn().unwrap();
    let began = Instant::now();
    while written(pod).is_none_or(|there| there <= named) {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", pod.status());
        thread::sleep(Duration::from_millis(5));
    }
    child
}

fn assert_left(pod: &Pod) {
    let left = names(&pod.path("data")).into_iter().filter(|name| !name.contains(".journal-"));
    assert_eq!(left.count(), 2, "the unfinished disk and its journal, besides one that was being written");
}

/// How many bytes of the disk the journal speaks of.
fn written(pod: &Pod) -> Option<u64> {
    let journal = names(&pod.path("data")).into_iter().find(|name| name.ends_with(".journal.diskferry"))?;
    let text = fs::read(pod.path("data").join(journal)).ok()?;
    let entry: serde_json::Value = serde_json::from_slice(&text).unwrap();
    entry["named"].as_u64()
}

/// That the import has ended well with `disk`, and whether it went on with what was there.
fn is_resumed(pod: &Pod, ended: &Ended, disk: &[u8]) -> bool {
    ended.assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert_eq!(names(&pod.path("data")), ["disk.img"]);
    goes_on(ended)
}

fn goes_on(ended: &Ended) -> bool {
    let says = |event: &serde_json::Value| event["message"].as_str().is_some_and(|text| text.contains("goes on where"));
    ended.events.iter().any(says)
}

#[test]
fn an_import_that_was_killed_goes_on_and_fetches_only_the_rest() {
    for format in ["qcow2", "raw", "vmdk", "vdi"] {
        let (pod, disk) = (pod(), noise(7));
        let image = image(&pod, &disk, format);
        let nginx = server(&image);
        let pod = from(pod, &nginx);
        interrupted(&pod, 20 << 20);
        let before = nginx.accesses(1).len();
        let ended = pod.import();
        assert!(is_resumed(&pod, &ended, &disk), "{format}");
        let later: Vec<_> = nginx.accesses(before + 2).split_off(before);
        assert!(later.iter().any(|access| access.status == 206 && access.if_range.is_some()), "{later:?}");
        // The first request is for the whole image, of which a few MiB are on their way before it is given up.
        let sent: u64 = later.iter().map(|access| access.sent).sum();
        assert!(sent < image.len() as u64 - (12 << 20), "{format}: {sent} bytes were sent: {later:?}");
        assert_eq!(ended.termination["source-image-size"], image.len());
    }
}

#[test]
fn an_import_that_is_stopped_or_cannot_go_on_for_now_leaves_what_it_has() {
    let disk = noise(23);
    for signal in ["TERM", "INT"] {
        let pod = pod();
        let nginx = server(&image(&pod, &disk, "qcow2"));
        let pod = from(pod, &nginx);
        let child = begun(&pod, 20 << 20);
        let ended = ended_by(signal, &pod, child);
        assert!(ended.code.is_some_and(|code| code > 128), "{ended:?}");
        assert_left(&pod);
        assert!(is_resumed(&pod, &pod.import(), &disk), "{signal}");
    }

    // The server fails in the middle for longer than is waited for it, or lets us in no more until somebody has seen to that.
    for (status, exit, code) in [(503, 75, "source-http-status"), (403, 4, "source-denied")] {
        let pod = pod();
        let image = image(&pod, &disk, "qcow2");
        let server = fault::Server::start();
        let answers = [fault::Answer::right().cut(24 * MIB, fault::End::Close)];
        server.put("/a.img", fault::File::new(image.clone()).gets_then(answers, fault::Answer::status(status)));
        let pod = pod.with(&[("IMPORTER_ENDPOINT", &server.url("/a.img")), ("DISKFERRY_PATIENCE", "2s")]);
        pod.import().assert_bad(exit, code);
        assert_left(&pod);
        server.put("/a.img", fault::File::new(image));
        assert!(is_resumed(&pod, &pod.import(), &disk), "{status}");
    }
}

#[test]
fn nothing_is_left_of_an_import_that_no_other_one_will_make_whole() {
    let (pod, disk) = (pod(), noise(25));
    let mut image = image(&pod, &disk, "vmdk");
    image.truncate(30 * MIB);
    // Slow, so that the journal is seen before it goes.
    let nginx = Nginx::new().rate(6_000_000).start();
    fs::write(nginx.root().join("a.img"), &image).unwrap();
    let pod = from(pod, &nginx);
    // Most of the disk is there when it ends.
    let child = begun(&pod, 16 << 20);
    let ended = pod.end(child);
    ended.assert_bad(3, "vmdk-ends-early");
    assert_eq!(names(&pod.path("data")), Vec::<String>::new());
}

#[test]
fn a_disk_that_is_larger_than_its_image_is_gone_on_with() {
    for (first, second) in [("41Mi", "41Mi"), ("41Mi", "45Mi"), ("45Mi", "41Mi")] {
        let (pod, disk) = (pod(), noise(8));
        let nginx = server(&image(&pod, &disk, "qcow2"));
        let pod = from(pod, &nginx).with(&[("IMPORTER_IMAGE_SIZE", first)]);
        interrupted(&pod, 20 << 20);
        let pod = pod.with(&[("IMPORTER_IMAGE_SIZE", second)]);
        let wanted = second.trim_end_matches("Mi").parse::<usize>().unwrap() * MIB;
        assert!(is_resumed(&pod, &pod.import(), &[disk, vec![0; wanted - LEN]].concat()), "{first} {second}");
    }
}

#[test]
fn an_import_that_is_killed_and_stopped_again_and_again_comes_to_its_end() {
    let (pod, disk) = (pod(), noise(9));
    let image = image(&pod, &disk, "qcow2");
    let nginx = server(&image);
    let pod = from(pod, &nginx);
    let mut furthest = 0;
    // At any moment: also between the two, while the journal is written.
    for (pause, signal) in
        [300, 40, 60, 90, 350, 150, 470, 80, 390, 130, 440].into_iter().zip(["-KILL", "-TERM"].into_iter().cycle())
    {
        let child = pod.command(&["import"]).spawn().unwrap();
        thread::sleep(Duration::from_millis(pause));
        // It may have ended by then.
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        // So may the disk have got its name, before anybody was told.
        if pod.end(child).code == Some(0) || fs::exists(pod.path("data/disk.img")).unwrap() {
            break;
        }
        let there = written(&pod).unwrap_or(0);
        assert!(there >= furthest, "{there} after {furthest}");
        furthest = there;
    }
    assert!(furthest > 8 << 20, "{furthest}");
    if fs::exists(pod.path("data/disk.img")).unwrap() {
        // Of who was told nothing, the journal may be left, until somebody comes again.
        pod.import().assert_good();
    } else {
        assert!(is_resumed(&pod, &pod.import(), &disk));
    }
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert_eq!(names(&pod.path("data")), ["disk.img"]);
}

#[test]
fn another_version_of_the_image_is_begun_anew() {
    let (pod, disk, other) = (pod(), noise(11), noise(13));
    let nginx = server(&image(&pod, &disk, "qcow2"));
    let newer = image(&pod, &other, "qcow2");
    let pod = from(pod, &nginx);
    interrupted(&pod, 8 << 20);
    // Another length alone would do; here the length is the same, and the time is not.
    thread::sleep(Duration::from_millis(1100));
    fs::write(nginx.root().join("a.img"), newer).unwrap();
    assert!(!is_resumed(&pod, &pod.import(), &other));
}

#[test]
fn a_journal_that_is_damaged_or_without_its_disk_is_not_believed() {
    for damage in ["", "{", "{\"version\":1}"] {
        let (pod, disk) = (pod(), noise(15));
        let nginx = server(&image(&pod, &disk, "qcow2"));
        let pod = from(pod, &nginx);
        interrupted(&pod, 8 << 20);
        if damage.is_empty() {
            let unfinished = names(&pod.path("data")).into_iter().find(|name| !name.contains("journal")).unwrap();
            fs::remove_file(pod.path("data").join(unfinished)).unwrap();
        } else {
            fs::write(pod.path(JOURNAL), damage).unwrap();
        }
        assert!(!is_resumed(&pod, &pod.import(), &disk), "{damage:?}");
    }
}

#[test]
fn a_disk_with_the_longest_name_is_gone_on_with() {
    for len in [240, 255] {
        let (pod, disk) = (pod(), noise(23));
        let nginx = server(&image(&pod, &disk, "qcow2"));
        let name = "d".repeat(len);
        let path = pod.text(&format!("data/{name}"));
        let pod = from(pod, &nginx).with(&[("DISKFERRY_DESTINATION_PATH", &path), ("DISKFERRY_JOURNAL_EVERY", "1Mi")]);
        interrupted(&pod, 8 << 20);
        let ended = pod.import();
        ended.assert_good();
        assert!(goes_on(&ended), "{len}");
        assert!(fs::read(path).unwrap() == disk);
        assert_eq!(names(&pod.path("data")), [name]);
    }
}

#[test]
fn an_import_does_without_a_journal_that_cannot_be_written() {
    let (pod, disk) = (pod(), noise(25));
    let path = pod.write("a.qcow2", &image(&pod, &disk, "qcow2"));
    let pod = pod.with(&[
        ("IMPORTER_SOURCE", "filesystem"),
        ("IMPORTER_ENDPOINT", &path),
        ("DISKFERRY_JOURNAL_EVERY", "1Mi"),
    ]);
    // Whatever has its place.
    fs::create_dir(pod.path(JOURNAL)).unwrap();
    let ended = pod.import();
    ended.assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    let stderr = String::from_utf8(ended.output.stderr).unwrap();
    assert_eq!(stderr.matches("the journal is kept no longer").count(), 1, "{stderr}");
}

#[test]
fn what_cannot_be_gone_on_with_keeps_no_journal() {
    let disk = noise(17);
    let plain = |pod: &Pod| image(pod, &disk, "qcow2");
    let sum = |image: &[u8]| {
        let scratch = tempfile::NamedTempFile::new().unwrap();
        fs::write(&scratch, image).unwrap();
        let output = Command::new("sha256sum").arg(scratch.path()).output().unwrap();
        format!("sha256:{}", String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap())
    };
    for case in ["packed", "digested", "off"] {
        let pod = pod();
        let plain = plain(&pod);
        let (bytes, more) = match case {
            "packed" => (wrap::gzip(&plain), ("OWNER_UID", "1".to_owned())),
            "digested" => (plain.clone(), ("IMPORTER_CHECKSUMS", sum(&plain))),
            _ => (plain, ("DISKFERRY_JOURNAL_EVERY", "0".to_owned())),
        };
        let nginx = server(&bytes);
        let pod = from(pod, &nginx).with(&[(more.0, &more.1)]);
        let child = pod.command(&["import"]).spawn().unwrap();
        pod.wait_for(|status| status["passed"].as_u64() > Some(20 << 20));
        assert!(!pod.path(JOURNAL).exists(), "{case}");
        kill(&pod, child);
        assert!(!is_resumed(&pod, &pod.import(), &disk), "{case}");
    }
}

#[test]
fn a_file_is_gone_on_with_and_one_that_was_written_to_is_not() {
    let (pod, disk) = (pod(), noise(19));
    let image = image(&pod, &disk, "qcow2");
    let path = pod.write("a.qcow2", &image);
    let pod = pod.with(&[
        ("IMPORTER_SOURCE", "filesystem"),
        ("IMPORTER_ENDPOINT", &path),
        ("DISKFERRY_JOURNAL_EVERY", "1Mi"),
    ]);
    // It goes fast: it is held where the journal is written the third time.
    let stopped = |pod: &Pod| {
        let child = pod.command(&["import"]).spawn().unwrap();
        let began = Instant::now();
        while written(pod).is_none() {
            assert!(began.elapsed() < Duration::from_secs(30));
            assert!(!fs::exists(pod.path("data/disk.img")).unwrap(), "it was faster");
        }
        kill(pod, child);
    };
    stopped(&pod);
    assert!(is_resumed(&pod, &pod.import(), &disk));
    fs::remove_file(pod.path("data/disk.img")).unwrap();
    stopped(&pod);
    fs::write(&path, &image).unwrap();
    assert!(!is_resumed(&pod, &pod.import(), &disk));
}

mod traced {
    use super::*;

    #[test]
    fn the_journal_speaks_of_nothing_that_is_not_durable() {
        let (pod, disk) = (pod(), noise(21));
        let nginx = server(&image(&pod, &disk, "qcow2"));
        let pod = from(pod, &nginx);
        let (worker, log) = (pod.command(&["import"]), pod.path("trace"));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-y", "-e", "trace=fdatasync,fsync,rename,renameat,renameat2", "-o"]).arg(&log);
        command.arg(worker.get_program()).args(worker.get_args()).env_clear();
        command.envs(worker.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert!(command.output().unwrap().status.success());
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
        let log = fs::read_to_string(log).unwrap();
        let steps = log.lines().filter_map(|line| match line {
            _ if line.contains("fdatasync(") => Some("disk"),
            _ if line.contains("rename") && line.contains("journal.diskferry\"") => Some("journal"),
            _ => None,
        });
        let steps: Vec<_> = steps.collect();
        assert!(steps.len() >= 8, "{log}");
        // Each entry comes behind a sync of its own, which has been waited for.
        for pair in steps.chunks(2) {
            assert_eq!(pair, ["disk", "journal"], "{log}");
        }
    }
}
