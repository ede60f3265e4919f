//! What the tests of the worker share: running it as a platform does, and reading what it leaves behind.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// What must never be shown.
pub const SECRET: &str = "s3cr3t";

/// A container, as far as the worker sees one: an environment of its own, and a place for what it leaves behind.
pub struct Pod {
    pub dir: TempDir,
    variables: Vec<(String, String)>,
}

/// How a worker ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub termination: Value,
    pub events: Vec<Value>,
    pub output: Output,
}

impl Pod {
    /// With these variables, and nothing served.
    pub fn new(variables: &[(&str, &str)]) -> Self {
        let pod = Self { dir: tempfile::tempdir().unwrap(), variables: Vec::new() };
        let (termination, status) = (pod.text("termination"), pod.text("status"));
        pod.with(&[
            ("DISKFERRY_LISTEN", "off"),
            ("DISKFERRY_PATIENCE", "5s"),
            ("DISKFERRY_TERMINATION_LOG", &termination),
            ("DISKFERRY_STATUS_FILE", &status),
            ("DISKFERRY_SPOOL_DIR", std::env::temp_dir().to_str().unwrap()),
            ("OWNER_UID", "b856691e-1038"),
        ])
        .with(variables)
    }

    /// With these variables besides.
    pub fn with(mut self, variables: &[(&str, &str)]) -> Self {
        self.variables.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// The worker, with nothing in its environment but what was set.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_diskferry-worker")]);
        command.args(args).env_clear().envs(self.variables.iter().cloned()).env("PATH", std::env::var("PATH").unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs an import to its end.
    pub fn import(&self) -> Ended {
        self.end(self.command(&["import"]).spawn().unwrap())
    }

    /// What a worker that was started leaves behind.
    pub fn end(&self, child: Child) -> Ended {
        self.ended(child.wait_with_output().unwrap())
    }

    /// The same of one that has ended.
    pub fn ended(&self, output: Output) -> Ended {
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let left = fs::read_to_string(self.path("termination")).unwrap_or_default();
        assert!(!said.contains(SECRET) && !left.contains(SECRET), "{said}{left}");
        assert!(left.len() <= 4096);
        let events = String::from_utf8_lossy(&output.stdout);
        let events =
            events.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        let events: Vec<Value> = events.collect();
        assert_monotonic(&events);
        Ended {
            code: output.status.code(),
            termination: serde_json::from_str(&left).unwrap_or_default(),
            events,
            output,
        }
    }

    /// The last status.
    pub fn status(&self) -> Value {
        fs::read_to_string(self.path("status"))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Waits until the status is as wanted.
    pub fn wait_for(&self, wanted: impl Fn(&Value) -> bool) {
        let began = Instant::now();
        while !wanted(&self.status()) {
            assert!(began.elapsed() < Duration::from_secs(30), "{}", self.status());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// That progress never goes back, and is 100 only when the image is ready.
fn assert_monotonic(events: &[Value]) {
    let mut last = 0.0;
    for event in events {
        let percent = event["percent"].as_f64().unwrap();
        assert!(percent >= last, "{events:#?}");
        assert_eq!(percent == 100.0, event["phase"] == "Ready", "{event}");
        last = percent;
    }
}

impl Ended {
    #[track_caller]
    pub fn assert_good(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.events.last().unwrap()["phase"], "Ready");
        assert_eq!(self.termination["message"], "Import Complete");
        assert!(self.termination.get("error-message").is_none());
        self
    }

    /// That it failed with this exit code, and left this code behind.
    #[track_caller]
    pub fn assert_bad(&self, exit: i32, code: &str) -> &str {
        assert_eq!(self.code, Some(exit), "{self:?}");
        assert_eq!(self.termination["error-code"], code, "{self:?}");
        let verdict = if exit == 75 { "transient" } else { "permanent" };
        assert_eq!(self.termination["verdict"], verdict);
        let last = self.events.last().unwrap();
        assert_eq!((&last["phase"], &last["error"]["code"]), (&Value::from("Failed"), &Value::from(code)));
        self.termination["error-message"].as_str().unwrap()
    }
}

/// Everything in `dir`, in order.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
