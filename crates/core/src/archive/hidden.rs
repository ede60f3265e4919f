//! What layers hide of those below them: whiteouts, and what is put in a file's place.

use std::collections::BTreeSet;

use super::entry::{Entry, Kind};
use super::{FORMAT, Path, Pick};
use crate::error::{Error, Result};

/// Files that a layer above has removed or replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hidden {
    /// These, and all below them.
    trees: BTreeSet<Path>,
    /// All below these, but not they themselves.
    below: BTreeSet<Path>,
    /// These files. What is below them was never there.
    files: BTreeSet<Path>,
    /// How long all their names are.
    len: usize,
}

/// A name that begins so removes the rest of it.
const WHITEOUT: &[u8] = b".wh.";
/// Removes everything in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that begin so are of the file system that whiteouts come from, and say nothing.
const INTERNAL: &[u8] = b".wh..wh.";

/// More removed files around an image than anybody has, and longer names.
const MOST: usize = 4096;
const LONGEST: usize = 1 << 20;

impl Entry {
    /// Whether it is there to remove something.
    pub(super) fn is_whiteout(&self) -> bool {
        self.path.split().1.starts_with(WHITEOUT)
    }
}

impl Hidden {
    /// Whether a layer below may not show `path`.
    pub(super) fn hides(&self, path: &Path) -> bool {
        let below = |dirs: &BTreeSet<Path>| path.directories().any(|dir| dirs.contains(dir));
        self.files.contains(path) || self.trees.contains(path) || below(&self.trees) || below(&self.below)
    }

    /// Notes what `entry` does to the files of the layers below that `pick` could mean.
    pub(super) fn note(&mut self, entry: &Entry, pick: &Pick) -> Result<()> {
        let (dir, name) = entry.path.split();
        let changed = if name == OPAQUE {
            Some(dir).filter(|dir| pick.concerns(dir)).map(|dir| (&mut self.below, dir))
        } else if name.starts_with(INTERNAL) {
            // Nothing that anybody sees.
            None
        } else if let Some(removed) = name.strip_prefix(WHITEOUT) {
            let path = if dir.0.is_empty() { removed.to_vec() } else { [&dir.0, &b"/"[..], removed].concat() };
            Path::new(&path).filter(|path| pick.concerns(path)).map(|path| (&mut self.trees, path))
        } else if pick.concerns(&entry.path) && !entry.path.0.is_empty() {
            let place = if entry.kind == Kind::Directory { &mut self.files } else { &mut self.trees };
            Some((place, entry.path.clone()))
        } else {
            None
        };
        if let Some((place, path)) = changed {
            self.len = self.len.saturating_add(path.0.len());
            place.insert(path);
        }
        let noted: usize = [&self.trees, &self.below, &self.files].map(BTreeSet::len).iter().sum();
        if noted > MOST {
            let what = format!("the layer changes more than {MOST} files where the image should be");
            return Err(Error::corrupt(FORMAT, "too-many-entries", entry.at, what));
        }
        if self.len > LONGEST {
            let what = format!(
                "the files that the layer changes where the image should be have names of more than {LONGEST} bytes"
            );
            return Err(Error::corrupt(FORMAT, "too-many-entries", entry.at, what));
        }
        Ok(())
    }
}
