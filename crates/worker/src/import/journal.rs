//! The journal: what an attempt needs to know to go on with the disk that an earlier one, perhaps of another process, has begun.
//!
//! It lies beside the disk, is written when what it speaks of is durable, and goes when the disk is complete or cannot be: a kill, a
//! signal and a failure that may pass leave it. A block volume has no place for one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use diskferry::sink::unfinished_prefix;
use diskferry::{Input, Options};
use diskferry_remote::own_file;
use serde::{Deserialize, Serialize};

use super::order::{Order, Volume};
use super::volume::{TEMPORARY, dir};
use crate::human::say;

/// What a journal begins with, so that others are not misunderstood.
const VERSION: u32 = 1;

/// Most bytes of a journal. The name of an image may be long.
const MOST: u64 = 1 << 20;

/// Where the journal of one import lies, and what it must speak of.
#[derive(Clone)]
pub struct Journal {
    path: PathBuf,
    image: String,
    every: u64,
}

/// What stands in it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: u32,
    /// The version of the image, where it is, and how it is read.
    image: String,
    /// Size of the disk in bytes.
    size: u64,
    /// Name of the unfinished disk.
    unfinished: String,
    /// How many bytes of the disk were named, and are durable in it.
    named: u64,
}

/// A disk that was begun.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// How many of its bytes were named, and are durable.
    pub named: u64,
}

impl Journal {
    /// The journal of an import to `volume`, where one can be kept: on a filesystem, of an image that something tells from its other versions.
    pub fn of(order: &Order, volume: &Volume, options: &Options, input: &Input) -> Option<Self> {
        let is_wanted = !volume.is_block && volume.journal_every > 0 && options.checksums.is_empty();
        let identity = is_wanted.then(|| identity(input)).flatten()?;
        // What decides in which order the bytes of the disk are named, besides the image.
        let how = (env!("CARGO_PKG_VERSION"), &options.format, &options.limits);
        let image = format!("{identity} at {} read by {how:?}", order.shown());
        Some(Self { path: path_for(&volume.path)?, image, every: volume.journal_every })
    }

    /// After how many stored bytes it is to be written.
    pub fn every(&self) -> u64 {
        self.every
    }

    /// The disk that was begun, if the journal speaks of this import and what it names is there.
    pub fn begun(&self) -> Option<Begun> {
        let begun = self.found()?;
        if let Err(why) = &begun {
            say(&format!("the disk that was begun cannot be gone on with: {why}"));
        }
        begun.ok()
    }

    /// What it says, or why that is of no use; nothing if there is none.
    fn found(&self) -> Option<Result<Begun, String>> {
        match own_file::read(&self.path, MOST) {
            Ok(text) => Some(self.read(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(format!("the journal cannot be read: {error}"))),
        }
    }

    fn read(&self, text: &[u8]) -> Result<Begun, String> {
        let entry: Entry = serde_json::from_slice(text).map_err(|error| format!("the journal is damaged: {error}"))?;
        if entry.version != VERSION {
            return Err(format!("its journal has version {}", entry.version));
        }
        if entry.image != self.image {
            return Err("it was of another image, or read otherwise".into());
        }
        let own = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let start = own.trim_end_matches(NAME);
        let is_ours = entry.unfinished.starts_with(start) && entry.unfinished.ends_with(TEMPORARY);
        if !is_ours || entry.unfinished == own || entry.unfinished.contains('/') {
            return Err(format!("{:?} is no unfinished disk", entry.unfinished));
        }
        let path = dir(&self.path).join(&entry.unfinished);
        let file = fs::symlink_metadata(&path).map_err(|error| error.to_string())?;
        if !file.is_file() || entry.named > entry.size {
            return Err("it is no file, or the journal is wrong about it".into());
        }
        // It is longer where a larger disk was asked for.
        if file.len() < entry.size {
            return Err("it has lost some of its bytes".into());
        }
        Ok(Begun { path, size: entry.size, named: entry.named })
    }

    /// Writes that `named` bytes of the disk of `size`, which lies at `unfinished`, are durable.
    pub fn write(&self, unfinished: &Path, size: u64, named: u64) -> io::Result<()> {
        let unfinished = unfinished.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let entry = Entry { version: VERSION, image: self.image.clone(), size, unfinished, named };
        let text = serde_json::to_vec(&entry)?;
        let directory = dir(&self.path);
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let prefix = format!("{}-", name.trim_end_matches(TEMPORARY));
        let mut made = tempfile::Builder::new().prefix(&prefix).suffix(TEMPORARY).tempfile_in(directory)?;
        made.write_all(&text)?;
        made.as_file().sync_all()?;
        made.persist(&self.path)?;
        File::open(directory)?.sync_all()
    }

    /// There is no unfinished disk any more.
    pub fn forget(&self) {
        // One that stays behind names a disk that is not there.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a journal's name ends with: that of a temporary file, so that it goes with these where it is of no use.
const NAME: &str = "journal.diskferry";

/// Whether it is a journal by its name.
pub(super) fn is_journal(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(NAME))
}

/// Whether a file of this name is the journal for a disk whose files begin with `prefix`, or one that was being written.
pub(super) fn is_of_journal(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("journal")?.strip_suffix(TEMPORARY));
    // Another target may be called as if it were a journal.
    let is_random = |random: &str| random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(is_random))
}

/// Where the journal for the disk at `path` lies.
fn path_for(path: &Path) -> Option<PathBuf> {
    let prefix = unfinished_prefix(path).into_string().ok()?;
    Some(dir(path).join(prefix + NAME))
}

/// What tells an image from its other versions. Of a device nothing does.
fn identity(input: &Input) -> Option<String> {
    match input {
        Input::Ranged { ranges, .. } => ranges.identity(),
        Input::File(file) => {
            let file = file.metadata().ok().filter(|file| file.is_file())?;
            let (written, nanoseconds) = (file.mtime(), file.mtime_nsec());
            Some(format!("{}:{} of {} bytes of {written}.{nanoseconds:09}", file.dev(), file.ino(), file.len()))
        }
        Input::Stream { .. } | Input::Unpacked { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(dir: &Path) -> Journal {
        Journal { path: path_for(&dir.join("disk.img")).unwrap(), image: "this one".into(), every: 1 }
    }

    #[test]
    fn what_was_written_is_found_while_it_fits() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, unfinished) = (journal(dir.path()), dir.path().join(".disk.img.abcdef.diskferry"));
        assert_eq!(journal.begun(), None);
        journal.write(&unfinished, 3, 2).unwrap();
        assert_eq!(journal.begun(), None, "there is no disk");
        fs::write(&unfinished, "abc").unwrap();
        assert_eq!(journal.begun(), Some(Begun { path: unfinished.clone(), size: 3, named: 2 }));
        let other = Journal { image: "another".into(), path: journal.path.clone(), every: 1 };
        assert_eq!(other.begun(), None);
        fs::write(&unfinished, "abc\0").unwrap();
        assert!(journal.begun().is_some(), "a larger disk was asked for");
        fs::write(&unfinished, "ab").unwrap();
        assert_eq!(journal.begun(), None, "it has lost some");
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".disk.img.abcdef.diskferry", ".disk.img.journal.diskferry"]);
        journal.forget();
        assert!(!journal.path.exists());
    }

    #[test]
    fn a_journal_has_a_mebibyte_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, unfinished) = (journal(dir.path()), dir.path().join(".disk.img.abcdef.diskferry"));
        assert_eq!(journal.found(), None);
        fs::write(&unfinished, "abc").unwrap();
        journal.write(&unfinished, 3, 2).unwrap();
        let mut text = fs::read(&journal.path).unwrap();
        text.resize(1 << 20, b' ');
        fs::write(&journal.path, &text).unwrap();
        assert!(journal.found().unwrap().is_ok());
        text.push(b' ');
        fs::write(&journal.path, &text).unwrap();
        let why = journal.found().unwrap().unwrap_err();
        assert_eq!(why, "the journal cannot be read: it has more than 1048576 bytes");
    }

    #[test]
    fn what_is_bent_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal(dir.path());
        fs::write(dir.path().join(".disk.img.abcdef.diskferry"), "abc").unwrap();
        fs::write(dir.path().join("disk.img"), "abc").unwrap();
        let entry = |version: u32, unfinished: &str, named: u64| {
            format!(
                r#"{{"version":{version},"image":"this one","size":3,"unfinished":"{unfinished}","named":{named}}}"#
            )
        };
        let fits = entry(1, ".disk.img.abcdef.diskferry", 3);
        assert!(journal.read(fits.as_bytes()).is_ok());
        for bent in [
            entry(2, ".disk.img.abcdef.diskferry", 3),
            entry(1, ".disk.img.abcdef.diskferry", 4),
            entry(1, "disk.img", 3),
            entry(1, ".disk.img./../disk.img.diskferry", 3),
            entry(1, ".disk.img.journal.diskferry", 3),
            fits[..fits.len() - 1].to_owned(),
            String::new(),
        ] {
            assert!(journal.read(bent.as_bytes()).is_err(), "{bent}");
        }
    }
}
