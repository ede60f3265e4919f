//! Checksums that the publisher of an image has put beside it.
//!
//! They tell a broken or replaced mirror from the publisher, if they come from the publisher. What comes over the same connection as
//! the image proves no more than that both belong together; signatures of such files are not looked at.

use std::fmt;
use std::str::FromStr;

use diskferry::digest::Checksum;
use diskferry::{Error, Progress, Result};
use url::Url;

use crate::checksum_file::{self, Missing};
use crate::client::Client;
use crate::http::{Patience, small};
use crate::runtime::{Runtime, unless_stopped};
use crate::shown::Shown;

/// Where the checksum of an image is.
#[derive(Clone, PartialEq, Eq)]
pub enum From {
    /// In one of the files that publishers put beside their images.
    Auto,
    /// In this file.
    Url(Url),
}

impl fmt::Debug for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("Auto"),
            Self::Url(url) => write!(f, "Url({})", Shown(url)),
        }
    }
}

impl FromStr for From {
    type Err = &'static str;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        if typed == "auto" {
            return Ok(Self::Auto);
        }
        let url = Url::parse(typed).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.map(Self::Url).ok_or("neither auto nor an http:// or https:// URL")
    }
}

/// Names beside an image, those of many publishers first; `*` stands for the image's own name.
const BESIDE: [&str; 21] = [
    "*.sha512",    // Alpine
    "*.sha256",    // openSUSE, and many small ones
    "SHA512SUMS",  // Debian
    "SHA256SUMS",  // Ubuntu, Debian's installers, Kali
    "CHECKSUM",    // AlmaLinux, Rocky, CentOS
    "*.CHECKSUM",  // Rocky
    "*.SHA256SUM", // CentOS
    "*.SHA256",    // Arch
    "*.SHA512",
    "*.sha512sum",
    "*.sha256sum",
    "*-CHECKSUM",
    "CHECKSUM.SHA512", // FreeBSD
    "CHECKSUM.SHA256",
    "sha512sum.txt", // Talos
    "sha256sum.txt",
    "SHA512",    // NetBSD
    "SHA256",    // OpenBSD
    "*.DIGESTS", // Flatcar, Gentoo
    "*.md5",
    "MD5SUMS", // CirrOS
];

/// The checksum of the image at `image`, the strongest that is there. Asks for the files before the image is read.
///
/// Credentials of the image's server are sent to that server only.
pub fn checksum(
    runtime: &Runtime,
    client: &Client,
    image: &Url,
    from: &From,
    patience: Patience,
    progress: &Progress,
) -> Result<Checksum> {
    let publisher = Publisher { client, image, patience, progress };
    let work = unless_stopped(progress, publisher.checksum(from));
    runtime.block_on(work)?
}

struct Publisher<'a> {
    client: &'a Client,
    image: &'a Url,
    patience: Patience,
    progress: &'a Progress,
}

impl Publisher<'_> {
    async fn checksum(&self, from: &From) -> Result<Checksum> {
        let name = file_name(self.image).ok_or_else(|| {
            let what =
                format!("{} ends with no name of a file, which a checksum could be looked up by", Shown(self.image));
            Error::source("checksum-file", what)
        })?;
        match from {
            From::Url(url) => {
                let text = self.get(url).await.map_err(|error| about(url, error))?;
                checksum_file::find(&text, &name).map_err(|missing| useless(url, &name, &missing))
            }
            From::Auto => self.beside(&name).await,
        }
    }

    /// The first file beside the image that has a checksum of it.
    async fn beside(&self, name: &str) -> Result<Checksum> {
        let mut others = String::new();
        for url in neighbours(self.image, name) {
            let text = match self.get(&url).await {
                Ok(text) => text,
                // Object stores say 403 of what is not there, and others show a page.
                Err(Error::Source { code: "not-found" | "denied" | "web-page", .. }) => continue,
                // Not for certain that there is none: a weaker one must not take its place.
                Err(error) => return Err(about(&url, error)),
            };
            match checksum_file::find(&text, name) {
                Ok(sum) => return Ok(sum),
                Err(missing @ Missing::Ambiguous(..)) => return Err(useless(&url, name, &missing)),
                Err(Missing::OtherNames(_)) => others = format!("; {} is there, without it", Shown(&url)),
                Err(Missing::Empty) => {}
            }
        }
        let what = format!(
            "none of the usual files beside {} has its checksum{others}; name the file (--checksum-url URL) or the value (--checksum)",
            Shown(self.image)
        );
        Err(Error::source("checksum-file", what))
    }

    async fn get(&self, url: &Url) -> Result<String> {
        let (client, url) = if url.origin() == self.image.origin() {
            (self.client.clone(), with_userinfo_of(self.image, url))
        } else {
            (self.client.stranger(), url.clone())
        };
        let bytes = small::get(&client, &url, self.patience, self.progress).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The same error, so that nobody takes it for one of the image.
fn about(url: &Url, error: Error) -> Error {
    match error {
        Error::Source { code, what, transient } => {
            Error::Source { code, what: format!("checksums from {}: {what}", Shown(url)), transient }
        }
        other => other,
    }
}

fn useless(url: &Url, name: &str, missing: &Missing) -> Error {
    let url = Shown(url);
    let what = match missing {
        Missing::Empty => format!("{url} has no checksums in it"),
        Missing::OtherNames(other) => format!("{url} has checksums, as of {other:?}, and none of {name:?}"),
        Missing::Ambiguous(one, two) => format!("{url} has two checksums of {name:?}: {one}, and {two}"),
    };
    Error::source("checksum-file", what)
}

/// The last part of a URL's path, without escapes.
fn file_name(url: &Url) -> Option<String> {
    let last = url.path_segments()?.next_back().filter(|last| !last.is_empty())?;
    Some(percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned())
}

/// Where files of checksums may be. A query is of the image alone, as the signature of a presigned URL is.
fn neighbours(image: &Url, name: &str) -> Vec<Url> {
    let own = image.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let fedora = fedora(name);
    let names = BESIDE.iter().map(|pattern| pattern.replace('*', own)).chain(fedora);
    let neighbour = |name: String| {
        let mut url = image.clone();
        url.set_query(None);
        // The name stays escaped as it was.
        let path = url.path().strip_suffix(own)?.to_owned();
        url.set_path(&format!("{path}{name}"));
        Some(url)
    };
    names.filter_map(neighbour).collect()
}

/// The name of Fedora's file, which is made of parts of the image's: `Fedora-Cloud-Base-Generic-43-1.6.x86_64.qcow2` is in
/// `Fedora-Cloud-43-1.6-x86_64-CHECKSUM`.
fn fedora(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.strip_prefix("Fedora-")?.split('-').collect();
    let variant = parts.first()?;
    let arch = ["x86_64", "aarch64", "ppc64le", "s390x"].into_iter().find(|arch| name.contains(arch))?;
    let number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (release, compose) = parts.iter().zip(parts.iter().skip(1)).find(|(release, _)| number(release))?;
    let compose = compose.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.trim_matches('.');
    (!compose.is_empty()).then(|| format!("Fedora-{variant}-{release}-{compose}-{arch}-CHECKSUM"))
}

fn with_userinfo_of(image: &Url, url: &Url) -> Url {
    let mut url = url.clone();
    if url.username().is_empty() && url.password().is_none() {
        // These fail for URLs that can have no name in them, and the image's is none.
        let _ = url.set_username(image.username());
        let _ = url.set_password(image.password());
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_image_is_the_last_part_of_its_path() {
        let name = |url: &str| file_name(&Url::parse(url).unwrap());
        assert_eq!(name("https://host/a/disk%20one.img?x=/b").as_deref(), Some("disk one.img"));
        assert_eq!([name("https://host/a/"), name("https://host")], [None, None]);
    }

    #[test]
    fn neighbours_keep_escapes_and_lose_the_query() {
        let image = Url::parse("https://me@host:8443/a%2Fb/disk%20one.img?sig=x").unwrap();
        let urls: Vec<_> = neighbours(&image, "disk one.img").iter().map(Url::to_string).collect();
        assert_eq!(urls[0], "https://me@host:8443/a%2Fb/disk%20one.img.sha512");
        assert_eq!(urls[2], "https://me@host:8443/a%2Fb/SHA512SUMS");
        assert_eq!(urls.len(), BESIDE.len());
    }

    #[test]
    fn the_file_of_fedora_is_named_after_parts_of_the_image() {
        for (image, file) in [
            ("Fedora-Cloud-Base-37-1.7.x86_64.qcow2", "Fedora-Cloud-37-1.7-x86_64-CHECKSUM"),
            ("Fedora-Cloud-Base-Generic.x86_64-40-1.14.qcow2", "Fedora-Cloud-40-1.14-x86_64-CHECKSUM"),
            ("Fedora-Cloud-Base-Generic-43-1.6.aarch64.qcow2", "Fedora-Cloud-43-1.6-aarch64-CHECKSUM"),
            ("Fedora-Server-dvd-x86_64-41-1.4.iso", "Fedora-Server-41-1.4-x86_64-CHECKSUM"),
        ] {
            assert_eq!(fedora(image).as_deref(), Some(file));
        }
        assert_eq!([fedora("debian-12-generic-amd64.qcow2"), fedora("Fedora-Cloud-Base.x86_64.qcow2")], [None, None]);
    }

    #[test]
    fn a_place_is_typed_as_auto_or_as_a_url() {
        assert_eq!("auto".parse(), Ok(From::Auto));
        assert!(matches!("https://host/SHA256SUMS".parse(), Ok(From::Url(_))));
        for wrong in ["", "SHA256SUMS", "ftp://host/SHA256SUMS", "https://"] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }
}
