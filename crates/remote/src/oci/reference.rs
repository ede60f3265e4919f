//! An image in a registry, as a person types it: `docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`.

use std::fmt;

use diskferry::digest::Checksum;
use url::{Host, Url};

use super::manifest;

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host, and port if it has one.
    host: String,
    repository: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    Tag(String),
    Digest(Checksum),
}

/// What people call Docker's own registry, and where it is.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Most characters of a tag, and of a repository.
const TAG: usize = 128;
const REPOSITORY: usize = 255;

impl Reference {
    /// Understands what stands behind `docker:`.
    pub(crate) fn parse(typed: &str) -> Result<Self, String> {
        let rest = typed.strip_prefix("//").ok_or("expected docker://HOST/REPOSITORY:TAG, two slashes are missing")?;
        let (first, path) = rest.split_once('/').unwrap_or(("", rest));
        let is_host = first.contains(['.', ':']) || first == "localhost";
        let (host, path) = if is_host { (first, path) } else { (HUB.0, rest) };
        let (path, version) = version(path)?;
        let is_name = |part: &str| {
            let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
            !part.is_empty() && part.bytes().all(known) && part.bytes().any(|byte| byte.is_ascii_alphanumeric())
        };
        if path.len() > REPOSITORY || !path.split('/').all(is_name) {
            let what = "a repository's name has small letters, digits and . _ - between slashes";
            return Err(format!("{what}, as in docker://registry.example/images/debian:12"));
        }
        let is_single = host == HUB.0 && !path.contains('/');
        let repository = if is_single { format!("library/{path}") } else { path.to_owned() };
        let reference = Self { host: host.to_owned(), repository, version };
        // Whatever is wrong with the host is found here.
        match Url::parse(&format!("https://{host}/")) {
            Ok(url) if url.host_str().is_some() && !host.contains(['@', '?', '#', '\\']) => Ok(reference),
            _ => Err("the host of the registry cannot be understood".into()),
        }
    }

    /// A repository, or with no name the registry itself.
    pub(super) fn of(host: &str, repository: &str) -> Result<Self, String> {
        let named = Self::parse(&format!("//{host}/{}", if repository.is_empty() { "any" } else { repository }))?;
        if named.host != host || repository.contains([':', '@']) {
            return Err("expected the host of a registry, with a dot or a port, and the name of a repository".into());
        }
        Ok(Self { repository: repository.to_owned(), ..named })
    }

    /// What has this digest in the same repository, whatever a tag comes to lead to.
    #[must_use]
    pub fn at(&self, digest: &Checksum) -> Self {
        Self { version: Version::Digest(digest.clone()), ..self.clone() }
    }

    /// Host and port, as credentials are filed under.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The host by which people know the registry, without a port.
    pub(super) fn known_as(&self) -> Option<Host<String>> {
        let host = if [HUB.1, "index.docker.io"].contains(&self.host.as_str()) { HUB.0 } else { &self.host };
        let url = Url::parse(&format!("https://{host}/")).ok()?;
        url.host().map(|host| host.to_owned())
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, if it is named by that.
    pub(crate) fn digest(&self) -> Option<&Checksum> {
        match &self.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }

    /// Tag or digest.
    pub(super) fn version(&self) -> String {
        match &self.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        }
    }

    /// The address of the repository, under which manifests and blobs are.
    pub(super) fn url(&self, is_plain: bool, kind: &str, name: &str) -> diskferry::Result<Url> {
        self.place(is_plain, &format!("{}/{kind}/{name}", self.repository))
    }

    /// An address in the registry.
    pub(super) fn place(&self, is_plain: bool, path: &str) -> diskferry::Result<Url> {
        let scheme = if is_plain { "http" } else { "https" };
        let host = if self.host == HUB.0 { HUB.1 } else { &self.host };
        let url = format!("{scheme}://{host}/v2/{path}");
        Url::parse(&url).map_err(|error| diskferry::Error::source("unreachable", error.to_string()))
    }
}

fn version(path: &str) -> Result<(&str, Version), String> {
    if let Some((path, digest)) = path.split_once('@') {
        let digest =
            manifest::checksum(digest).map_err(|_| "the digest cannot be understood, as in @sha256:9f86d0…")?;
        // A tag besides says less.
        let path = path.rsplit_once(':').map_or(path, |(path, _)| path);
        return Ok((path, Version::Digest(digest)));
    }
    let (path, tag) = path.split_once(':').unwrap_or((path, "latest"));
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_tag = tag.len() <= TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || b".-".contains(&byte));
    if !is_tag {
        return Err("a tag has letters, digits and . _ -, at most 128 of them".into());
    }
    Ok((path, Version::Tag(tag.to_owned())))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.digest().is_some() { '@' } else { ':' };
        write!(f, "docker://{}/{}{mark}{}", self.host, self.repository, self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_understood() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (typed, shown, url) in [
            ("//h.example/a", "docker://h.example/a:latest", "https://h.example/v2/a/manifests/latest"),
            ("//localhost/a/b:v1", "docker://localhost/a/b:v1", "https://localhost/v2/a/b/manifests/v1"),
            ("//[::1]:5000/a:V_1.0", "docker://[::1]:5000/a:V_1.0", "https://[::1]:5000/v2/a/manifests/V_1.0"),
            (
                "//debian",
                "docker://docker.io/library/debian:latest",
                "https://registry-1.docker.io/v2/library/debian/manifests/latest",
            ),
            ("//me/a:1", "docker://docker.io/me/a:1", "https://registry-1.docker.io/v2/me/a/manifests/1"),
        ] {
            let reference = Reference::parse(typed).unwrap();
            assert_eq!(reference.to_string(), shown);
            assert_eq!(reference.url(false, "manifests", &reference.version()).unwrap().as_str(), url);
        }
        let named = Reference::parse(&format!("//h:1/a:tag@{digest}")).unwrap();
        assert_eq!(named.to_string(), format!("docker://h:1/a@{digest}"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for typed in [
            "h.example/a",
            "//",
            "//h.example/",
            "//h.example/A",
            "//h.example/a/../b",
            "//h.example/a//b",
            "//h.example/a:",
            "//h.example/a:-x",
            "//h.example/a:x/y",
            "//h.example/a@sha256:00",
            "//user:secret@h.example/a",
            "//h.example:99999/a",
            "//h.example/a?x",
        ] {
            let error = Reference::parse(typed).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
