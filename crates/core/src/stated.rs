//! What the caller vouches for, so that nothing is guessed from the content.

use std::fmt;
use std::str::FromStr;

use crate::format::{self, FORMATS, Format};
use crate::layer::{self, LAYERS, Layer};

/// A format with the wrappings around it, written as files are called, in any case: `qcow2`, `raw.gz`, `vmdk.xz.gz`.
#[derive(Clone)]
pub struct Stated {
    pub(crate) format: &'static Format,
    /// Outermost first.
    pub(crate) wrappings: Vec<&'static Layer>,
}

impl FromStr for Stated {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let mut words = text.split('.');
        let name = words.next().unwrap_or_default();
        let format = format::by_name(name).ok_or_else(|| {
            let known: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
            format!("unknown format {name:?}: {} are known", known.join(", "))
        })?;
        let wrappings: Result<Vec<_>, String> = words.rev().map(wrapping).collect();
        Ok(Self { format, wrappings: wrappings? })
    }
}

impl Stated {
    /// Name of the format inside all wrappings, as in `raw`.
    pub fn format(&self) -> &'static str {
        self.format.name
    }

    /// Names of the wrappings, outermost first.
    pub fn wrappings(&self) -> impl Iterator<Item = &'static str> {
        self.wrappings.iter().map(|layer| layer.name)
    }
}

fn wrapping(name: &str) -> Result<&'static Layer, String> {
    layer::by_name(name).ok_or_else(|| {
        let known: Vec<_> = LAYERS.iter().map(|layer| layer.aliases.first().copied().unwrap_or(layer.name)).collect();
        format!("unknown wrapping {name:?}: {} are known", known.join(", "))
    })
}

impl fmt::Display for Stated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format.name)?;
        self.wrappings.iter().rev().try_for_each(|layer| write!(f, ".{}", layer.name))
    }
}

impl fmt::Debug for Stated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stated({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_reads_as_file_names_do() {
        for (text, means) in [
            ("raw", "raw"),
            ("iso", "iso"),
            ("raw.gz", "raw.gzip"),
            ("raw.gzip", "raw.gzip"),
            ("RAW.Gz", "raw.gzip"),
            ("qcow2.xz.gz", "qcow2.xz.gzip"),
            ("raw.zst.bz2", "raw.zstd.bzip2"),
        ] {
            assert_eq!(text.parse::<Stated>().unwrap().to_string(), means);
        }
        assert_eq!("qcow2.xz.gz".parse::<Stated>().unwrap().wrappings[0].name, "gzip", "outermost first");
    }

    #[test]
    fn a_statement_that_is_not_understood_lists_what_is_known() {
        let refused = |text: &str| text.parse::<Stated>().unwrap_err();
        assert_eq!(refused("raw.zip"), "unknown wrapping \"zip\": gz, xz, zst, bz2 are known");
        let error = refused("vhd");
        assert!(error.starts_with("unknown format \"vhd\": ") && error.ends_with("vdi, iso, raw are known"), "{error}");
        for text in ["", ".gz", "gz", "raw.", "raw..gz", "raw gz"] {
            assert!(text.parse::<Stated>().is_err(), "{text}");
        }
    }
}
