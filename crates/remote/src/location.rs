//! Where an image lies, as a person types it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use crate::oci::Reference;
use crate::oci::layout;
use crate::s3::Object;
use crate::shown::Shown;

/// A place that images come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// `-`
    Stdin,
    /// A file, a device or a pipe. `file:` in front of a path keeps it from being taken for something else.
    Path(PathBuf),
    /// `http://…` or `https://…`
    Http(Url),
    /// `s3://bucket/key`
    S3(Object),
    /// `docker://…`
    Registry(Reference),
    /// `oci:…`, with the name of an image behind it.
    Layout(PathBuf, Option<String>),
}

impl Location {
    /// Understands what was typed. The error says what is wrong with it, and repeats none of it that could be secret.
    pub fn parse(typed: &OsStr) -> Result<Self, String> {
        if typed.is_empty() || typed == "file:" {
            return Err("nothing is named; a variable may be empty".into());
        }
        if typed == "-" {
            return Ok(Self::Stdin);
        }
        let Some((scheme, rest)) = typed.to_str().and_then(|text| text.split_once(':')) else {
            return Ok(Self::Path(typed.into()));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                Ok(Self::Path(rest.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(rest).into()))
            }
            "http" | "https" => http(typed.to_str().unwrap_or_default()).map(Self::Http),
            "s3" => match rest.strip_prefix("//") {
                Some(object) => Object::parse(object).map(Self::S3),
                None => Ok(Self::Path(typed.into())),
            },
            "docker" => Reference::parse(rest).map(Self::Registry),
            "oci" => layout::parse(rest).map(|(dir, name)| Self::Layout(dir, name)),
            other if is_scheme(other) && rest.starts_with("//") => {
                let known = "http, https, s3, docker, oci and file";
                Err(format!("{other}:// is not understood, only {known}; of a file of such a name say ./{other}:…"))
            }
            _ => Ok(Self::Path(typed.into())),
        }
    }

    /// Whether a server is asked for it.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Http(_) | Self::S3(_) | Self::Registry(_))
    }

    /// Whether it names a container image by a digest.
    pub fn has_digest(&self) -> bool {
        match self {
            Self::Registry(reference) => reference.digest().is_some(),
            Self::Layout(_, name) => name.as_deref().is_some_and(is_digest),
            _ => false,
        }
    }

    /// Name of the file that it leads to, where it has one.
    pub fn file_name(&self) -> Option<String> {
        let name = match self {
            Self::Stdin | Self::Registry(_) | Self::Layout(..) => return None,
            Self::Path(path) => path.file_name()?.to_str()?.to_owned(),
            Self::Http(url) => {
                let last = url.path_segments()?.next_back()?;
                percent_encoding::percent_decode_str(last).decode_utf8().ok()?.into_owned()
            }
            Self::S3(Object { key, .. }) => key.rsplit('/').next()?.to_owned(),
        };
        Some(name).filter(|name| !name.is_empty())
    }

    /// What may be shown of it: of a URL neither a password nor the query, in which a presigned one has its signature.
    pub fn shown(&self) -> OsString {
        match self {
            Self::Stdin => "-".into(),
            Self::Path(path) => path.into(),
            Self::Http(url) => Shown(url).to_string().into(),
            Self::S3(Object { bucket, key }) => format!("s3://{bucket}/{key}").into(),
            Self::Registry(reference) => reference.to_string().into(),
            Self::Layout(dir, name) => {
                let mut shown = OsString::from("oci:");
                shown.push(dir);
                if let Some(name) = name {
                    shown.push(if is_digest(name) { "@" } else { ":" });
                    shown.push(name);
                }
                shown
            }
        }
    }
}

/// As it [may be shown](Location::shown).
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.shown()).finish()
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        Self::parse(OsStr::new(typed))
    }
}

/// RFC 3986, section 3.1, less the one letter that is somebody's drive.
fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && text.len() > 1
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn is_digest(name: &str) -> bool {
    name.starts_with("sha256:") || name.starts_with("sha512:")
}

fn http(typed: &str) -> Result<Url, String> {
    let mut url = Url::parse(typed).map_err(|error| format!("the URL cannot be understood: {error}"))?;
    // It is for browsers.
    url.set_fragment(None);
    if url.host_str().is_none_or(str::is_empty) {
        return Err("the URL names no host".into());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_url_is_shown_to_programmers_either() {
        let location: Location = "https://user:pass@host.example/a.raw?X-Amz-Signature=abc".parse().unwrap();
        assert_eq!(format!("{location:?}"), r#"Location("https://host.example/a.raw")"#);
    }

    #[test]
    fn what_is_typed_is_told_apart() {
        let path = |path: &str| Location::Path(path.into());
        for (typed, found) in [
            ("-", Location::Stdin),
            ("disk.raw", path("disk.raw")),
            ("./-", path("./-")),
            ("a:b", path("a:b")),
            ("C:/disk", path("C:/disk")),
            ("C://disk", path("C://disk")),
            ("./ftp://disk", path("./ftp://disk")),
            ("ftp:/disk", path("ftp:/disk")),
            ("file:http://x", path("http://x")),
            ("file:///srv/disk", path("/srv/disk")),
            ("file:-", path("-")),
            ("s3:disk", path("s3:disk")),
            ("s3://b/a?b", Location::S3(Object { bucket: "b".into(), key: "a?b".into() })),
            ("HTTPS://Example.org/a#b", Location::Http("https://example.org/a".parse().unwrap())),
        ] {
            assert_eq!(Location::parse(OsStr::new(typed)).unwrap(), found, "{typed}");
        }
        for wrong in [
            "",
            "file:",
            "ftp://me:secret@h/a",
            "nbd+unix:///x",
            "http://",
            "http:///",
            "https://user:secret@",
            "http://[::1",
            "s3://user:secret@b/c",
            "s3://b/../secret/c",
            "s3://b/a/./c",
            "s3://b/..",
        ] {
            let error = Location::parse(OsStr::new(wrong)).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let location: Location = "https://me:secret@example.org:8443/a/disk.raw?X-Signature=secret".parse().unwrap();
        assert_eq!(location.shown(), "https://example.org:8443/a/disk.raw");
    }
}
