//! The termination message: what a container leaves behind for its controller, in the words of both kinds of platforms.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use diskferry_remote::escape::json_line;
use serde_json::{Map, Value, json};

use super::phase::Phase;
use super::snapshot::Facts;
use crate::verdict::{DEADLINE, Verdict};

/// The most that Kubernetes takes, in bytes.
pub const MOST: usize = 4096;

/// Whether the message is of an import or of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// From a source that is named.
    Import,
    /// From somebody who sends it.
    Upload,
}

/// What a message tells.
pub(super) struct Ending<'a> {
    pub(super) work: Work,
    pub(super) phase: Phase,
    pub(super) message: &'a str,
    pub(super) facts: &'a Facts,
    pub(super) duration: Duration,
    pub(super) average: u64,
    pub(super) error: Option<&'a Verdict>,
}

impl Ending<'_> {
    /// The message, never longer than [`MOST`].
    pub(super) fn text(&self) -> String {
        let text = self.with_error(usize::MAX);
        let excess = text.len().saturating_sub(MOST);
        if excess == 0 {
            return text;
        }
        // What is too long is what somebody else has said: it stands there twice, and each byte of it may take six.
        let mut room = self.error.map_or(0, |error| error.message.len()).min(MOST / 2);
        loop {
            let text = self.with_error(room);
            if text.len() <= MOST || room == 0 {
                return text;
            }
            room = room * 3 / 4;
        }
    }

    fn with_error(&self, room: usize) -> String {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| {
            map.insert(name.to_owned(), value);
        };
        let facts = self.facts;
        let known = |size: Option<u64>| size.filter(|size| *size > 0);
        let nanoseconds = u64::try_from(self.duration.as_nanos()).unwrap_or(u64::MAX);
        match (self.phase, self.error) {
            // Who is sent away says nothing that could be taken for a verdict.
            (Phase::Terminating, _) => put("message", json!(self.message)),
            (_, Some(error)) => {
                let said = cut(&error.message, room);
                put("error-message", json!(said));
                put("error-code", json!(error.code));
                put("verdict", json!(error.verdict));
                if error.code == DEADLINE {
                    put("deadlinePassed", json!(true));
                    put("message", json!("Deadline Passed"));
                } else {
                    let text = if error.code == "mismatch" { "checksum mismatch: " } else { "" };
                    put("message", json!(format!("Unable to process data: {text}{said}")));
                }
            }
            _ => {
                if let Some(size) = known(facts.stored_size) {
                    put("source-image-size", json!(size));
                }
                if let Some(size) = known(facts.unpacked_size) {
                    put("source-image-virtual-size", json!(size));
                }
                if let Some(format) = &facts.format {
                    put("source-image-format", json!(format));
                }
                if let Some(cdrom) = facts.cdrom {
                    put("source-image-cdrom", json!(cdrom));
                }
                if let Some(digest) = &facts.digest {
                    put("digest", json!(digest));
                }
                put("average-speed", json!(self.average));
                let complete = if self.work == Work::Import { "Import Complete" } else { "Upload Complete" };
                put("message", json!(complete));
                put("scratchSpaceRequired", json!(false));
                put("preallocationApplied", json!(facts.preallocated.unwrap_or(false)));
                put("labels", json!({}));
            }
        }
        put("duration", json!(nanoseconds));
        json_line(&map)
    }
}

/// The first `room` bytes of `text`, or a few less.
fn cut(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// Writes `text` to the file that the platform has made for it. It is mounted, and cannot be replaced.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// Replaces the file at `path`: who reads it sees the old text or the new one.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = path.with_file_name(name);
    // A kill may have left it.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    let mut write = || {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        // Others are meant to read it.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        fs::rename(&new, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::verdict::Lasting;

    fn verdict(code: &str, message: &str) -> Verdict {
        Verdict { code: code.into(), message: message.into(), verdict: Lasting::Permanent, kind: None }
    }

    #[test]
    fn what_a_kill_has_left_beside_a_status_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("status"), dir.path().join("elsewhere"));
        symlink(&elsewhere, dir.path().join(".status.new")).unwrap();
        for text in ["{}", "[]"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text}\n"));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "and nothing is written elsewhere");
    }

    fn text(phase: Phase, error: Option<&Verdict>) -> Value {
        let facts = Facts {
            stored_size: Some(100),
            unpacked_size: Some(1 << 30),
            format: Some("qcow2".into()),
            cdrom: Some(false),
            preallocated: Some(true),
            ..Facts::default()
        };
        let duration = Duration::from_millis(1500);
        let ending =
            Ending { work: Work::Import, phase, message: "stopped", facts: &facts, duration, average: 66, error };
        let text = ending.text();
        assert!(text.len() <= MOST, "{}", text.len());
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_good_end_has_the_keys_of_both_platforms() {
        let expected = json!({
            "source-image-size": 100, "source-image-virtual-size": 1 << 30, "source-image-format": "qcow2",
            "source-image-cdrom": false, "duration": 1_500_000_000, "average-speed": 66,
            "message": "Import Complete", "scratchSpaceRequired": false, "preallocationApplied": true, "labels": {},
        });
        assert_eq!(text(Phase::Ready, None), expected);
    }

    #[test]
    fn a_bad_end_has_the_verdict_and_no_sizes() {
        let found = text(Phase::Failed, Some(&verdict("mismatch", "md5 of the source is a, expected b")));
        let expected = json!({
            "error-message": "md5 of the source is a, expected b", "error-code": "mismatch", "verdict": "permanent",
            "message": "Unable to process data: checksum mismatch: md5 of the source is a, expected b",
            "duration": 1_500_000_000,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn an_end_by_a_signal_is_no_verdict() {
        assert_eq!(text(Phase::Terminating, None), json!({ "message": "stopped", "duration": 1_500_000_000 }));
    }

    #[test]
    fn what_somebody_else_has_said_is_cut_to_what_is_taken() {
        for long in ["x".repeat(100_000), "é".repeat(50_000), "\u{1}".repeat(9000), "\"".repeat(3000)] {
            let found = text(Phase::Failed, Some(&verdict("unexpected", &long)));
            let said = found["error-message"].as_str().unwrap();
            assert!(said.ends_with('…') && said.len() > 200, "{}", said.len());
        }
    }

    #[test]
    fn what_fits_is_not_cut() {
        let end = |len: usize| text(Phase::Failed, Some(&verdict("usage", &"x".repeat(len))));
        let said = |len: usize| end(len)["error-message"].as_str().unwrap().to_owned();
        // It stands there twice.
        let most = (4096 - end(0).to_string().len()) / 2;
        assert_eq!(said(most), "x".repeat(most));
        assert!(said(most + 1).ends_with('…'));
    }

    #[test]
    fn a_status_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        for text in ["one", "two"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text}\n"));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
