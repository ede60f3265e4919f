//! Since when an image has not been needed: a registry does not tell when something was pushed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diskferry::{Error, Result};
use serde::{Deserialize, Serialize};

use super::super::layout::writing;
use crate::own_file;

/// A file that remembers when an image was first seen that was not needed.
#[derive(Debug)]
pub struct Seen {
    path: PathBuf,
    since: BTreeMap<String, u64>,
}

/// Version of the file. The first one did not say of which registry it spoke.
const VERSION: u32 = 2;

/// Largest file that is read, in bytes.
const MOST: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// Seconds since 1970.
    since: BTreeMap<String, u64>,
}

impl Seen {
    /// What the file at `path` remembers; nothing, if it is not there yet.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |why: &str| Error::source("seen", format!("{}: {why}", path.display()));
        let since = match own_file::read(path, MOST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(bad(&error.to_string())),
            Ok(text) => {
                let found: Option<Stored> = serde_json::from_slice(&text).ok();
                let found = found.ok_or_else(|| bad("this is no file of --seen"))?;
                if found.version != VERSION {
                    return Err(bad("a file of another version: remove it, and ages count from the next run on"));
                }
                found.since
            }
        };
        Ok(Self { path: path.to_owned(), since })
    }

    /// How long the image `key` has not been needed, as far as is known.
    pub(super) fn age(&self, key: &str, now: SystemTime) -> Duration {
        let now = seconds(now);
        // A clock that was set back makes nothing older.
        Duration::from_secs(self.since.get(key).map_or(0, |since| now.saturating_sub(*since)))
    }

    /// Remembers these, and forgets all others of `place`, a registry's host or a part of it that a prefix names.
    pub(super) fn keep(&mut self, place: &str, keys: impl Iterator<Item = String>, now: SystemTime) -> Result<()> {
        let since: Vec<_> = keys.map(|key| (self.since.get(&key).copied().unwrap_or(seconds(now)), key)).collect();
        let is_there = |key: &str| key.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', '@']));
        self.since.retain(|key, _| !is_there(key));
        self.since.extend(since.into_iter().map(|(since, key)| (key, since)));
        let failed = |error| writing("remembering what is not needed", &self.path, error);
        let new = self.path.with_added_extension("new");
        let text = serde_json::to_vec(&Stored { version: VERSION, since: self.since.clone() });
        let text = text.map_err(|error| failed(io::Error::other(error)))?;
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        });
        written.map_err(failed)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_remembered_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen.json");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let keep = |place: &str, keys: &[&str], seconds| {
            let keys = keys.iter().map(|key| (*key).to_owned());
            Seen::open(&path).unwrap().keep(place, keys, at(seconds)).unwrap();
        };
        keep("h:5", &["h:5/a@1", "h:5/b@1"], 100);
        keep("h:5", &["h:5/b@1", "h:5/c@1"], 200);
        let seen = Seen::open(&path).unwrap();
        let age = |key| seen.age(key, at(300)).as_secs();
        assert_eq!((age("h:5/a@1"), age("h:5/b@1"), age("h:5/c@1")), (0, 200, 100));
        assert_eq!(seen.age("h:5/b@1", at(50)).as_secs(), 0);
        // Other registries, and other parts, may be in the same file.
        keep("h:50", &["h:50/b@1"], 250);
        keep("h:5/b", &[], 260);
        keep("h:5/bc", &["h:5/bc/d@1"], 270);
        let seen = Seen::open(&path).unwrap();
        let age = |key| seen.age(key, at(300)).as_secs();
        assert_eq!((age("h:5/b@1"), age("h:5/c@1"), age("h:50/b@1"), age("h:5/bc/d@1")), (0, 100, 50, 30));
        for other in ["{}", r#"{"version":1,"since":{}}"#] {
            fs::write(&path, other).unwrap();
            assert_eq!(Seen::open(&path).unwrap_err().code(), "source-seen");
        }
    }

    #[test]
    fn a_file_may_have_256_mebibytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (len, says) in
            [(256 << 20, "this is no file of --seen"), ((256 << 20) + 1, "it has more than 268435456 bytes")]
        {
            file.as_file().set_len(len).unwrap();
            let error = Seen::open(file.path()).unwrap_err().to_string();
            assert!(error.ends_with(says), "{error}");
        }
    }
}
