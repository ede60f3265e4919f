//! Where many images are, as a person types it: `docker://HOST[:PORT][/PREFIX]` or `oci:DIR`.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use super::super::reference::Reference;

/// A registry or a part of it, or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An image layout.
    Layout(PathBuf),
    /// A registry. With a prefix, the repository of that name and those below it.
    Registry {
        /// Host, and port if it has one.
        host: String,
        /// Names of repositories begin with this.
        prefix: Option<String>,
    },
}

impl Place {
    /// Understands what was typed.
    pub fn parse(typed: &OsStr) -> Result<Self, String> {
        let Some((scheme, rest)) = typed.to_str().and_then(|text| text.split_once(':')) else {
            return Err(FORMS.into());
        };
        match scheme.to_ascii_lowercase().as_str() {
            "oci" if !rest.is_empty() => Ok(Self::Layout(rest.into())),
            "docker" => {
                let rest = rest.strip_prefix("//").ok_or(FORMS)?;
                let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if host.is_empty() || host.contains('@') {
                    return Err(FORMS.into());
                }
                let prefix = Some(prefix.trim_end_matches('/')).filter(|prefix| !prefix.is_empty());
                // Whatever is wrong is found where one image is named.
                Reference::of(host, prefix.unwrap_or("any"))?;
                Ok(Self::Registry { host: host.into(), prefix: prefix.map(str::to_owned) })
            }
            _ => Err(FORMS.into()),
        }
    }
}

const FORMS: &str = "expected docker://HOST, docker://HOST/PREFIX or oci:DIRECTORY";

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(dir) => write!(f, "oci:{}", dir.display()),
            Self::Registry { host, prefix: None } => write!(f, "docker://{host}"),
            Self::Registry { host, prefix: Some(prefix) } => write!(f, "docker://{host}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_understood() {
        for (typed, shown) in [
            ("oci:/srv/images", "oci:/srv/images"),
            ("OCI:a", "oci:a"),
            ("docker://h.example", "docker://h.example"),
            ("docker://h.example:5000/", "docker://h.example:5000"),
            ("docker://localhost/vi/team/", "docker://localhost/vi/team"),
        ] {
            assert_eq!(Place::parse(OsStr::new(typed)).unwrap().to_string(), shown);
        }
        for wrong in
            ["", "a", "oci:", "docker:h", "docker://", "docker://me:secret@h/a", "docker://h.example/a:1", "s3://a"]
        {
            let error = Place::parse(OsStr::new(wrong)).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
