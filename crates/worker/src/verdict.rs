//! What an error means for whoever decides whether the same worker is started again.

use std::io::ErrorKind;

use diskferry::{Error, Kind};
use serde::Serialize;

use crate::status::Reason;

/// Whether the same job can succeed later without anybody changing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lasting {
    /// It cannot: a bad image, a wrong checksum, a volume that is too small, a source that is not there.
    Permanent,
    /// It can: the network, a registry that takes nothing for now, a full volume.
    Transient,
}

/// How a job that did not succeed has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// A stable name, as in `target-too-small`: see docs/errors.md.
    pub code: String,
    /// For people, on one line.
    pub message: String,
    /// Whether trying again can help.
    pub verdict: Lasting,
    /// What the job failed by, which decides the exit code; `None` for settings.
    #[serde(skip)]
    pub kind: Option<Kind>,
}

/// Code of what has not come about by its deadline.
pub const DEADLINE: &str = "source-deadline";

/// Exit code of what may be tried again: `EX_TEMPFAIL` of sysexits.
pub const EXIT_TRANSIENT: u8 = 75;

/// Exit code of settings that are not understood.
pub const EXIT_SETTINGS: u8 = 2;

/// Codes of errors that go away by themselves, or with another attempt, though they do not say so: the image was replaced while it was read, the
/// registry is read-only or starts again, somebody makes room, a virtual machine is shut down.
const PASSING: [&str; 9] = [
    "source-changed",
    "source-in-use",
    "target-busy",
    "target-in-use",
    "target-layout-locked",
    "target-no-space",
    "target-unreachable",
    "target-upload-lost",
    "target-write",
];

/// Options that errors name, as the command calls them and as the worker does.
const OPTIONS: [(&str, &str); 2] = [("retries", "patience"), ("cacert", "cert-dir")];

impl Verdict {
    /// The verdict on a job that ended with `error`.
    pub fn of(error: &Error) -> Self {
        let code = error.code();
        let passes = error.is_transient() || PASSING.contains(&code.as_str()) || is_read_error(error);
        let verdict = if passes { Lasting::Transient } else { Lasting::Permanent };
        let rename =
            |text: String, (other, ours): &(&str, &str)| text.replace(&format!("--{other}"), &format!("--{ours}"));
        let message = OPTIONS.iter().fold(error.to_string(), rename);
        Self { code, message, verdict, kind: Some(error.kind()) }
    }

    /// The verdict on settings that cannot be meant.
    pub fn settings(what: impl Into<String>) -> Self {
        Self { code: "usage".into(), message: what.into(), verdict: Lasting::Permanent, kind: None }
    }

    /// The verdict on a fault of the worker's own.
    pub fn unexpected(what: impl Into<String>) -> Self {
        Self { code: "unexpected".into(), message: what.into(), verdict: Lasting::Permanent, kind: None }
    }

    /// Whether somebody has asked the job to stop, which is no verdict on it.
    pub fn is_stopped(&self) -> bool {
        self.kind == Some(Kind::Stopped)
    }

    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        self.verdict == Lasting::Transient
    }

    /// The reason that a controller is given for it.
    pub fn reason(&self) -> Reason {
        match (self.verdict, self.kind) {
            (Lasting::Transient, _) => Reason::ProvisioningFailed,
            (Lasting::Permanent, _) => Reason::ProvisioningFailedTerminally,
        }
    }

    /// The exit code: [`EXIT_TRANSIENT`], or the one by which the command tells such errors.
    pub fn exit_code(&self) -> u8 {
        match (self.verdict, self.kind) {
            (Lasting::Transient, _) => EXIT_TRANSIENT,
            (_, None) if self.code == "unexpected" => 1,
            (_, None) => EXIT_SETTINGS,
            (_, Some(Kind::Image)) => 3,
            (_, Some(Kind::Source)) => 4,
            (_, Some(Kind::Target)) => 5,
            (_, Some(Kind::Mismatch)) => 6,
            (_, Some(Kind::Stopped)) => 143,
        }
    }
}

/// A source that could be opened, and then not be read: the volume has gone away for a while, or the medium is bad. Only trying tells.
fn is_read_error(error: &Error) -> bool {
    let missing = |source: &std::io::Error| {
        matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory)
    };
    matches!(error, Error::Io { source, .. } if !missing(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskferry::Side;
    use std::io;

    fn target(code: &'static str) -> Error {
        Error::Target { code, what: "x".into() }
    }

    #[test]
    fn a_hopeless_image_is_not_tried_again_and_a_full_volume_is() {
        let full = Error::writing("writing", None, io::Error::from(ErrorKind::StorageFull));
        for (error, exit) in [
            (Error::corrupt("qcow2", "l1-too-large", 0, "x"), 3),
            (Error::source("not-found", "x"), 4),
            (Error::source("denied", "x"), 4),
            (target("too-small"), 5),
            (target("denied"), 5),
            (Error::Mismatch { what: "x".into(), expected: "a".into(), found: "b".into() }, 6),
            (Error::source("http-status", "x").for_now(), EXIT_TRANSIENT),
            (target("no-space"), EXIT_TRANSIENT),
            (target("unreachable"), EXIT_TRANSIENT),
            (full, EXIT_TRANSIENT),
        ] {
            let verdict = Verdict::of(&error);
            assert_eq!((verdict.exit_code(), verdict.is_transient()), (exit, exit == EXIT_TRANSIENT), "{error:?}");
            let reason =
                if exit == EXIT_TRANSIENT { Reason::ProvisioningFailed } else { Reason::ProvisioningFailedTerminally };
            assert_eq!(verdict.reason(), reason);
        }
        assert_eq!(Verdict::settings("x").exit_code(), EXIT_SETTINGS);
    }

    #[test]
    fn options_are_called_as_the_worker_calls_them() {
        let verdict = Verdict::of(&Error::source("unreachable", "nobody is there (tried again once; --retries)"));
        assert_eq!(verdict.message, "nobody is there (tried again once; --patience)");
    }

    #[test]
    fn a_source_that_is_not_there_is_no_read_error() {
        let io = |kind| Error::Io { side: Side::Source, doing: "opening", at: None, source: io::Error::from(kind) };
        assert!(!Verdict::of(&io(ErrorKind::NotFound)).is_transient());
        assert!(Verdict::of(&io(ErrorKind::Other)).is_transient());
    }
}
