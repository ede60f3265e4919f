//! An image layout: container images in a directory.
//! [Specification](https://github.com/opencontainers/image-spec/blob/main/image-layout.md).

mod lock;

use std::collections::{BTreeMap, BTreeSet};
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

use super::manifest::{self, DOCUMENT, Descriptor, check_size, each_manifest, json, short};
use super::{Blob, Platform, is_attestation};
use crate::room::with_room;

const FORMAT: &str = "oci";

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

    /// The images called `name`, or all if there is only one name, and one for the machine that is `wanted`.
    pub(super) fn images(&self, name: Option<&str>, wanted: Option<&Platform>) -> Result<Vec<Descriptor>> {
        let mut images = self.all()?;
        let names: BTreeSet<_> = images.iter().filter_map(Descriptor::name).collect();
        let list = || names.iter().take(20).map(|name| short(name)).collect::<Vec<_>>().join(", ");
        let there_are = match names.len() {
            0 => "none of those there have a name".to_owned(),
            1..=20 => format!("there are {}", list()),
            _ => format!("there are {} and more", list()),
        };
        let has_several_names = names.len() > 1;
        images.retain(|image| name.is_none_or(|name| image.name() == Some(name) || image.digest == name));
        match name {
            Some(name) if images.is_empty() => {
                let what = format!("{} has no image {:?}: {there_are}", self.dir.display(), short(name));
                Err(Error::source("not-found", what))
            }
            None if images.is_empty() => {
                Err(Error::source("not-found", format!("{} has no images", self.dir.display())))
            }
            None if has_several_names || are_alike(&images, wanted) => {
                let dir = self.dir.display();
                let what = format!("{dir} has several images, and one has to be named, or its digest: {there_are}");
                Err(Error::source("several-images", what))
            }
            _ => Ok(images),
        }
    }

    /// Everything that the index has.
    pub(super) fn all(&self) -> Result<Vec<Descriptor>> {
        let mut all = Vec::new();
        each_manifest(&self.read("index.json", "file index.json")?, "file index.json", |image| all.push(image))?;
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

/// Whether some of `images` are for the same machine, if not another is `wanted`, so that nothing tells which of them is meant.
fn are_alike(images: &[Descriptor], wanted: Option<&Platform>) -> bool {
    let may_be_wanted = |image: &&Descriptor| match (wanted, &image.platform) {
        (Some(wanted), Some(own)) => wanted.takes(own),
        _ => true,
    };
    let mut seen = BTreeMap::new();
    images.iter().filter(may_be_wanted).filter(|image| image.is_image() && !is_attestation(image)).any(|image| {
        let platform = image.platform.as_ref().map(ToString::to_string);
        seen.insert(platform, &image.digest).is_some_and(|other| *other != image.digest)
    })
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
