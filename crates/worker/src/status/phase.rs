//! The phases that an image goes through, the reasons by which it gets there, and which of them may follow which.

use serde::Serialize;

/// Where an image is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Phase {
    /// Nothing has begun.
    Pending,
    /// A person's bytes are waited for.
    WaitForUserUpload,
    /// Bytes are on their way.
    Provisioning,
    /// The image is where it belongs, whole and durable.
    Ready,
    /// The worker has given up.
    Failed,
    /// Somebody wants the worker to end.
    Terminating,
    /// The image was there, and the registry has it no more.
    ImageLost,
    /// The image was there, and its volume is gone.
    #[serde(rename = "PVCLost")]
    PvcLost,
}

/// Why an image is in its phase. Every reason belongs to one phase, so that the two cannot contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The worker has just been started.
    ProvisioningNotStarted,
    /// The worker listens, and nobody has come.
    WaitForUserUpload,
    /// Bytes are on their way.
    Provisioning,
    /// Bytes will be on their way when there is room again, or the registry takes some.
    QuotaExceeded,
    /// The image is there.
    Ready,
    /// Nobody has come for too long.
    WaitForUserUploadTimeout,
    /// It did not work, and may work later.
    ProvisioningFailed,
    /// It cannot work.
    ProvisioningFailedTerminally,
    /// The container image that the disk image should come from cannot be had.
    ImagePullFailed,
    /// Somebody wants the worker to end.
    Terminating,
    /// The registry has the image no more.
    ImageLost,
    /// The volume is gone.
    PvcLost,
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Reason {
    /// Its name, as programs read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProvisioningNotStarted => "ProvisioningNotStarted",
            Self::WaitForUserUpload => "WaitForUserUpload",
            Self::Provisioning => "Provisioning",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::Ready => "Ready",
            Self::WaitForUserUploadTimeout => "WaitForUserUploadTimeout",
            Self::ProvisioningFailed => "ProvisioningFailed",
            Self::ProvisioningFailedTerminally => "ProvisioningFailedTerminally",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::Terminating => "Terminating",
            Self::ImageLost => "ImageLost",
            Self::PvcLost => "PVCLost",
        }
    }

    /// The phase that it is a reason for.
    pub fn phase(self) -> Phase {
        match self {
            Self::ProvisioningNotStarted => Phase::Pending,
            Self::WaitForUserUpload => Phase::WaitForUserUpload,
            Self::Provisioning | Self::QuotaExceeded => Phase::Provisioning,
            Self::Ready => Phase::Ready,
            Self::WaitForUserUploadTimeout
            | Self::ProvisioningFailed
            | Self::ProvisioningFailedTerminally
            | Self::ImagePullFailed => Phase::Failed,
            Self::Terminating => Phase::Terminating,
            Self::ImageLost => Phase::ImageLost,
            Self::PvcLost => Phase::PvcLost,
        }
    }
}

impl Phase {
    /// Whether `next` may come after it. A phase may follow itself, for another reason.
    pub fn leads_to(self, next: Self) -> bool {
        use Phase::*;
        match (self, next) {
            // What has ended does not begin again; a verdict is not taken back, nor changed.
            (Terminating | Failed, same) if same == self => false,
            (same, _) if same == next => true,
            (Terminating, _) => false,
            (_, Terminating) => true,
            (Pending, WaitForUserUpload | Provisioning | Failed) => true,
            (WaitForUserUpload, Provisioning | Failed) => true,
            // An upload that broke off is waited for again.
            (Provisioning, WaitForUserUpload | Ready | Failed) => true,
            (Ready, ImageLost | PvcLost) => true,
            // A registry that was away may have it after all.
            (ImageLost, Ready) => true,
            _ => false,
        }
    }

    /// Whether nothing but its end may follow, as far as the worker is concerned.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Ready | Self::Failed | Self::Terminating)
    }
}

/// Something about the image that is so, or not so, or not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is spoken of: `DatasourceReady`, `Ready` or `Terminating`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// Why, as one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
    /// Since when, as RFC 3339 has it.
    pub last_transition_time: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase::*;

    const ALL: [Phase; 8] = [Pending, WaitForUserUpload, Provisioning, Ready, Failed, Terminating, ImageLost, PvcLost];

    #[test]
    fn every_pair_of_phases_is_allowed_or_refused_as_written_here() {
        let allowed: [(Phase, &[Phase]); 8] = [
            (Pending, &[Pending, WaitForUserUpload, Provisioning, Failed, Terminating]),
            (WaitForUserUpload, &[WaitForUserUpload, Provisioning, Failed, Terminating]),
            (Provisioning, &[WaitForUserUpload, Provisioning, Ready, Failed, Terminating]),
            (Ready, &[Ready, Terminating, ImageLost, PvcLost]),
            (Failed, &[Terminating]),
            (Terminating, &[]),
            (ImageLost, &[Ready, Terminating, ImageLost]),
            (PvcLost, &[Terminating, PvcLost]),
        ];
        for (from, to) in allowed {
            for next in ALL {
                assert_eq!(from.leads_to(next), to.contains(&next), "{from:?} to {next:?}");
            }
        }
    }

    #[test]
    fn names_are_those_that_platforms_have() {
        let name = |phase| serde_json::to_string(&phase).unwrap();
        assert_eq!(
            (name(PvcLost).as_str(), name(WaitForUserUpload).as_str()),
            ("\"PVCLost\"", "\"WaitForUserUpload\"")
        );
        assert_eq!(serde_json::to_string(&Reason::PvcLost).unwrap(), "\"PVCLost\"");
    }
}
