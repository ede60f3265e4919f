//! An image layout: container images in a directory.
//! [Specification](https://github.com/opencontainers/image-spec/blob/main/image-layout.md).

mod lock;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use diskferry::digest::Checksum;
use diskferry::source::Ranges;
use diskferry::{Error, Result, Side, names};
use serde::Deserialize;

pub use self::lock::Lock;
pub(super) use self::lock::{Entry, writing};

use super::manifest::{self, DOCUMENT, Descriptor, Shown, check_size, each_manifest, json, short};
use super::{Blob, Choice, Platform, may_be_meant};
use crate::room::with_room;

const FORMAT: &str = "oci";

/// The index, and what it is called in messages.
const INDEX: &str = "index.json";
const INDEX_FILE: &str = "file index.json";

/// A directory with images.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

/// The file `oci-layout`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    image_layout_version: String,
}

impl Layout {
    /// Opens the layout in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let layout = Self { dir: dir.to_owned() };
        let version: Version = json(&layout.read("oci-layout", "file oci-layout")?, "file oci-layout")?;
        if version.image_layout_version != "1.0.0" {
            let found = short(&version.image_layout_version);
            let what = format!("the layout is of version {found:?}, which is not known");
            return Err(Error::unsupported(FORMAT, "layout-version", what));
        }
        Ok(layout)
    }

    /// The image called `name`, or the only one, for the machine that is `wanted`. Of the index, which may have more than anybody wants to
    /// keep, each is looked at by itself.
    pub(super) fn image(&self, name: Option<&str>, wanted: Option<&Platform>) -> Result<Descriptor> {
        let (mut choice, mut alike, mut names) = (Choice::new(wanted), Alike::new(wanted), Names::default());
        let mut found = 0_usize;
        each_manifest(&self.read(INDEX, INDEX_FILE)?, INDEX_FILE, |image| {
            names.see(image.name());
            if name.is_none_or(|name| image.name() == Some(name) || image.digest == name) {
                found += 1;
                if name.is_none() {
                    alike.see(&image);
                }
                choice.offer(image);
            }
        })?;
        let dir = self.dir.display();
        match name {
            Some(name) if found == 0 => {
                let what = format!("{dir} has no image {:?}: {names}", short(name));
                Err(Error::source("not-found", what))
            }
            None if found == 0 => Err(Error::source("not-found", format!("{dir} has no images"))),
            None if names.several || alike.found => {
                let what = format!("{dir} has several images, and one has to be named, or its digest: {names}");
                Err(Error::source("several-images", what))
            }
            _ => choice.made(),
        }
    }

    /// Everything that the index has.
    pub(super) fn all(&self) -> Result<Vec<Descriptor>> {
        let mut all = Vec::new();
        each_manifest(&self.read(INDEX, INDEX_FILE)?, INDEX_FILE, |image| all.push(image))?;
        Ok(all)
    }

    /// Where a file of the layout is.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.dir.join(path)
    }

    /// Files of all blobs, with their digests and bytes. What has no digest as its name is none.
    pub(super) fn blobs(&self) -> Result<Vec<(PathBuf, String, u64)>> {
        let mut blobs = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let dir = self.dir.join("blobs").join(algorithm);
            let entries = match names(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|error| failed(&dir, error))?,
            };
            for name in entries {
                let name = name.map_err(|error| failed(&dir, error))?;
                let digest = name.to_str().map(|hex| format!("{algorithm}:{hex}"));
                let Some(digest) = digest.filter(|digest| manifest::checksum(digest).is_ok()) else { continue };
                // It may be gone by now.
                let path = dir.join(name);
                let Ok(found) = fs::symlink_metadata(&path) else { continue };
                if found.is_file() {
                    blobs.push((path, digest, found.len()));
                }
            }
        }
        Ok(blobs)
    }

    pub(super) fn blob(&self, blob: &Descriptor) -> Result<Blob> {
        let (file, shown) = self.file(&blob_path(&blob.checksum()?))?;
        let ranges = file.try_clone().map_err(|error| failed(&shown, error))?;
        Ok(Blob { reader: Box::new(file), ranges: Some(Box::new(Elsewhere(ranges))) })
    }

    /// The bytes of a document, not compared with anything yet.
    pub(super) fn document(&self, digest: &Checksum, what: &str) -> Result<Vec<u8>> {
        self.read(blob_path(digest), what)
    }

    fn read(&self, path: impl AsRef<Path>, what: &str) -> Result<Vec<u8>> {
        let (file, shown) = self.file(path.as_ref())?;
        let mut bytes = with_room();
        file.take(DOCUMENT + 1).read_to_end(&mut bytes).map_err(|error| failed(&shown, error))?;
        check_size(bytes.len() as u64, what)?;
        Ok(bytes)
    }

    fn file(&self, path: &Path) -> Result<(File, PathBuf)> {
        let path = self.dir.join(path);
        // A pipe would have us wait for somebody to write to it.
        let is_file = std::fs::metadata(&path).map_err(|error| failed(&path, error))?.is_file();
        if !is_file {
            return Err(failed(&path, io::Error::other("not a file")));
        }
        let file = File::open(&path).map_err(|error| failed(&path, error))?;
        Ok((file, path))
    }
}

/// Names in an index: whether there are several, and the first of them for a message.
#[derive(Default)]
struct Names {
    first: Option<String>,
    several: bool,
    shown: Shown,
}

impl Names {
    fn see(&mut self, name: Option<&str>) {
        let Some(name) = name else { return };
        self.several |= self.first.get_or_insert_with(|| name.to_owned()) != name;
        self.shown.add(name);
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shown.is_empty() {
            return f.write_str("none of those there have a name");
        }
        write!(f, "there are {}", self.shown)
    }
}

/// Whether some images are for the same machine, if not another is wanted, so that nothing tells which of them is meant.
struct Alike<'a> {
    wanted: Option<&'a Platform>,
    /// Digests, by the machine.
    seen: BTreeMap<Option<String>, String>,
    found: bool,
}

impl<'a> Alike<'a> {
    /// Where there are images for more machines than that, nothing tells either.
    const MACHINES: usize = 1024;

    fn new(wanted: Option<&'a Platform>) -> Self {
        Self { wanted, seen: BTreeMap::new(), found: false }
    }

    fn see(&mut self, image: &Descriptor) {
        let may_be_wanted = match (self.wanted, &image.platform) {
            (Some(wanted), Some(own)) => wanted.takes(own),
            _ => true,
        };
        if self.found || !may_be_wanted || !may_be_meant(image) {
            return;
        }
        let machine = image.platform.as_ref().map(|own| short(&own.to_string()));
        let digest = short(&image.digest);
        let other = self.seen.insert(machine, digest.clone());
        self.found = other.is_some_and(|other| other != digest) || self.seen.len() > Self::MACHINES;
    }
}

pub(super) fn blob_path(digest: &Checksum) -> PathBuf {
    Path::new("blobs").join(digest.algorithm.to_string()).join(&digest.hex)
}

fn failed(path: &Path, error: io::Error) -> Error {
    let error = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    Error::Io { side: Side::Source, doing: "opening the source", at: None, source: error }
}

struct Elsewhere(File);

impl Ranges for Elsewhere {
    fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        self.0.read_at(buf, at).map(Some)
    }
}

/// `DIR`, `DIR:NAME` or `DIR@DIGEST`. Names may have colons, directories may not: other tools divide it like that.
pub(crate) fn parse(typed: &str) -> Result<(PathBuf, Option<String>), String> {
    let (dir, name) = match (typed.split_once('@'), typed.split_once(':')) {
        (Some((dir, digest)), _) if manifest::checksum(digest).is_ok() => (dir, Some(digest)),
        (_, Some((dir, name))) => (dir, Some(name)),
        (_, None) => (typed, None),
    };
    if dir.is_empty() || name.is_some_and(str::is_empty) {
        return Err("expected oci:DIRECTORY or oci:DIRECTORY:NAME".into());
    }
    Ok((dir.into(), name.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_a_name_are_told_apart() {
        let parsed = |typed: &str| parse(typed).map(|(dir, name)| (dir.display().to_string(), name));
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(parsed("a/b"), Ok(("a/b".into(), None)));
        assert_eq!(parsed("/a/b:v1"), Ok(("/a/b".into(), Some("v1".into()))));
        assert_eq!(parsed("a:host/b:v1"), Ok(("a".into(), Some("host/b:v1".into()))));
        assert_eq!(parsed(&format!("a@{digest}")), Ok(("a".into(), Some(digest))));
        assert!(parsed("").is_err() && parsed(":v1").is_err() && parsed("a:").is_err());
    }
}
