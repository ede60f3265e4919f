//! Imports decode in the sandbox, and everything that is opened, written beside the disk, or sent meanwhile is so outside.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::process::Command;

use common::{Ended, Pod, names};
use diskferry_testkit::decoders::{self, CALLS, strays};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::registry::Registry;
use serde_json::json;

/// A server with an image, and its disk.
fn server() -> (RunningNginx, Vec<u8>) {
    let image = Qcow2::new(8 << 20).fill(1);
    let nginx = Nginx::new().start();
    fs::write(nginx.root().join("a.qcow2"), image.clone().build().image).unwrap();
    (nginx, image.disk())
}

/// To a file, with a journal that is written often.
fn pod(nginx: &RunningNginx) -> Pod {
    let url = nginx.url(Origin::Plain, "/a.qcow2");
    let pod = Pod::new(&[("IMPORTER_ENDPOINT", &url), ("DISKFERRY_JOURNAL_EVERY", "1Mi")]);
    fs::create_dir(pod.path("data")).unwrap();
    let path = pod.text("data/disk.img");
    pod.with(&[("DISKFERRY_DESTINATION", "filesystem"), ("DISKFERRY_DESTINATION_PATH", &path)])
}

#[test]
fn the_status_says_what_confines_what_decodes() {
    let (nginx, disk) = server();
    let imported = pod(&nginx);
    imported.import().assert_good();
    assert!(fs::read(imported.path("data/disk.img")).unwrap() == disk);
    assert_eq!(imported.status()["sandbox"], json!(decoders::layers()));
    // All of it can be required where all of it is, and only there.
    let required = pod(&nginx).with(&[("DISKFERRY_SANDBOX", "require")]);
    if decoders::layers().contains(&"landlock") {
        required.import().assert_good();
    } else {
        required.import().assert_bad(2, "sandbox-missing");
    }
    let without = pod(&nginx).with(&[("DISKFERRY_SANDBOX", "off")]);
    without.import().assert_good();
    assert_eq!(without.status()["sandbox"], json!([]));
    let ended = pod(&nginx).with(&[("DISKFERRY_SANDBOX", "perhaps")]).import();
    assert_eq!(ended.assert_bad(2, "usage"), "DISKFERRY_SANDBOX: expected auto, require or off");
}

/// `scripts/test` leaves this out, loudly, where system calls cannot be traced.
mod traced {
    use super::*;

    /// Runs an import under strace, with these arguments to that: how it ended, and the record.
    fn traced(pod: &Pod, how: &[&str]) -> Ended {
        let worker = pod.command(&["import"]);
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "200", "-o"]).arg(pod.path("calls")).args(how);
        command.arg(worker.get_program()).args(worker.get_args()).env_clear();
        command.envs(worker.get_envs().filter_map(|(name, value)| Some((name, value?))));
        pod.end(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap())
    }

    #[test]
    fn what_decodes_opens_nothing_and_makes_no_socket() {
        let (nginx, disk) = server();
        let to_file = pod(&nginx);
        traced(&to_file, &["-e", CALLS]).assert_good();
        assert!(fs::read(to_file.path("data/disk.img")).unwrap() == disk);
        assert_eq!(names(&to_file.path("data")), ["disk.img"]);
        let (found, work) = strays(&to_file.path("calls"));
        assert!(found.is_empty() && work > 10, "{work} calls: {found:#?}");
        let calls = fs::read_to_string(to_file.path("calls")).unwrap();
        assert!(calls.contains(".disk.img.journal.diskferry\""), "the journal is written: {calls}");

        let registry = Registry::default().start();
        let endpoint = format!("{}/vi/team/disk:uid-1", registry.host());
        let to_registry = Pod::new(&[
            ("IMPORTER_ENDPOINT", &nginx.url(Origin::Plain, "/a.qcow2")),
            ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
            ("DISKFERRY_DESTINATION_PLAIN_HTTP", "true"),
            ("DISKFERRY_STORE_AS", "raw-zstd"),
        ]);
        traced(&to_registry, &["-e", CALLS]).assert_good();
        let (found, _) = strays(&to_registry.path("calls"));
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn what_is_required_and_not_there_is_permanent() {
        let (nginx, _) = server();
        let pod = pod(&nginx).with(&[("DISKFERRY_SANDBOX", "require")]);
        let inject = ["-e", "trace=landlock_create_ruleset", "-e", "inject=landlock_create_ruleset:error=EOPNOTSUPP"];
        let ended = traced(&pod, &inject);
        let message = ended.assert_bad(2, "sandbox-missing");
        assert!(message.starts_with("--sandbox require cannot be had here: landlock: "), "{message}");
        assert!(names(&pod.path("data")).is_empty());
    }
}
