//! Which of several machines an image is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and a processor, in Go's names, as images have them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Platform {
    os: String,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl Default for Platform {
    /// Linux on a processor like this one.
    fn default() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }
}

impl Platform {
    pub(super) fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// Linux on the processor that is meant where nothing is said.
    pub fn usual() -> Self {
        Self::new("linux", "amd64", None)
    }

    /// Whether an image for `other` is one for this. A variant that is not asked for does not matter.
    pub(super) fn takes(&self, other: &Self) -> bool {
        // The only variant that there was for a long time.
        let usual = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            ("arm64", Some("v8")) => None,
            (_, variant) => variant.map(str::to_owned),
        };
        let variant = usual(self);
        self.os == other.os && self.architecture == other.architecture && (variant.is_none() || variant == usual(other))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(is_word) => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if parts.iter().all(is_word) => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err("expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as in linux/arm64".into()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_takes_images_for_it() {
        let takes = |one: &str, other: &str| one.parse::<Platform>().unwrap().takes(&other.parse().unwrap());
        assert!(takes("linux/amd64", "linux/amd64") && takes("linux/arm", "linux/arm/v7"));
        assert!(takes("linux/arm64", "linux/arm64/v8") && takes("linux/arm64/v8", "linux/arm64"));
        assert!(!takes("linux/arm/v7", "linux/arm/v6") && !takes("linux/arm/v7", "linux/arm"));
        assert!(!takes("linux/amd64", "windows/amd64") && !takes("linux/amd64", "linux/arm64"));
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
