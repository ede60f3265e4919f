//! What is known at one moment, as programs read it: at `GET /status`, in the status file and in the events.

use serde::Serialize;

use super::phase::{Condition, Phase, Reason};
use crate::verdict::Verdict;

/// What has been found out about the image. What is `None` is not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of the image as it is stored, wrappings included.
    pub stored_size: Option<u64>,
    /// Bytes of the disk: what a disk made from the image must at least hold.
    pub unpacked_size: Option<u64>,
    /// Name of the format, as in `qcow2`.
    pub format: Option<String>,
    /// Whether it is a medium for a CD-ROM drive.
    pub cdrom: Option<bool>,
    /// Digest of the container image, or of the source where that was asked for: `sha256:…`.
    pub digest: Option<String>,
    /// Whether room was reserved for the whole disk.
    pub preallocated: Option<bool>,
    /// What people should know of the image, and what does not keep it from being carried.
    pub warnings: Vec<String>,
}

impl Facts {
    /// Takes over what `news` knows, and says whether that was anything new.
    pub(super) fn learn(&mut self, news: Self) -> bool {
        let before = self.clone();
        let Self { stored_size, unpacked_size, format, cdrom, digest, preallocated, warnings } = news;
        self.stored_size = stored_size.or(self.stored_size);
        self.unpacked_size = unpacked_size.or(self.unpacked_size);
        self.format = format.or(self.format.take());
        self.cdrom = cdrom.or(self.cdrom);
        self.digest = digest.or(self.digest.take());
        self.preallocated = preallocated.or(self.preallocated);
        if !warnings.is_empty() {
            self.warnings = warnings;
        }
        *self != before
    }
}

/// Everything that is known at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Snapshot {
    /// When, as RFC 3339 has it.
    pub time: String,
    /// Where the image is on its way.
    pub phase: Phase,
    /// Why it is there, as one word.
    pub reason: Reason,
    /// Why it is there, for people.
    pub message: String,
    /// Never less than before, and 100 only when the image is ready.
    pub percent: f64,
    /// Bytes of the stored image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_size: Option<u64>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_size_human: Option<String>,
    /// Bytes of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpacked_size: Option<u64>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpacked_size_human: Option<String>,
    /// Name of the format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Whether it is a medium for a CD-ROM drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<bool>,
    /// Digest of the container image or of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What people should know of the image.
    pub warnings: Vec<String>,
    /// Bytes of the source that have passed, those of earlier attempts included.
    pub passed: u64,
    /// Bytes a second since the work has begun.
    pub average_speed: u64,
    /// Bytes a second in the last seconds.
    pub current_speed: u64,
    /// Seconds since the work has begun.
    pub seconds: f64,
    /// Which attempt this is, from 1; 0 before the first.
    pub attempt: u32,
    /// What confines the threads that decode: `landlock`, `seccomp`, both or none.
    pub sandbox: Vec<&'static str>,
    /// What controllers look at.
    pub conditions: Vec<Condition>,
    /// How it ended, if it ended badly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Verdict>,
}
