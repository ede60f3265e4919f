//! The one image in a tar archive, as the layers of container images are: `disk/` and a file in it.
//!
//! Only who knows that there is an archive asks for this; a disk whose first blocks look like one is a disk. It stands in front of
//! everything else: the file that is found is the [`Input`](crate::Input) of a job, wrapped or not. Archives are read forward
//! once, so the image streams out before the rest of the archive has come. That rest is read behind the image's
//! last byte, and only then the image ends: a second file that could be meant is an error before anything is published.
//!
//! Names count from the root, however they are written: `disk/a`, `./disk/a` and `/disk/a` are the same. A layer lies on others and can
//! hide files of theirs; [`Hidden`] carries that from one to the next. The rules are those of the
//! [OCI image specification](https://github.com/opencontainers/image-spec/blob/main/layer.md).

#![warn(clippy::indexing_slicing)]
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod entry;
mod envelope;
mod hidden;
mod pax;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::io::{self, Read};

pub use self::envelope::Envelope;
pub use self::hidden::Hidden;

use self::entry::{Entries, Entry, Kind};
use crate::error::{Error, Result};
use crate::layer::Reader;

const FORMAT: &str = "tar";

/// Which file is the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The only one under `disk/`.
    UnderDisk,
    /// The one with this name.
    Named(Path),
}

/// Name of a file in an archive, from the root, without empty parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path(Vec<u8>);

impl Borrow<[u8]> for Path {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Most bytes in a name, as in Linux.
const NAME: usize = 4096;

impl Path {
    /// Understands a name. Parts of it that lead upwards, and too long ones, make it none.
    pub fn new(name: &[u8]) -> Option<Self> {
        let parts = || name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let bad = name.len() > NAME || name.contains(&0) || parts().any(|part| part == b"..");
        (!bad).then(|| Self(parts().collect::<Vec<_>>().join(&b'/')))
    }

    /// Whether it is the root itself, which is no file.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory it is in, and its name there.
    fn split(&self) -> (Self, &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) => {
                let (dir, name) = self.0.split_at(at);
                (Self(dir.to_vec()), name.get(1..).unwrap_or_default())
            }
            None => (Self::default(), &self.0),
        }
    }

    /// Whether it lies in the directory `dir`, at whatever depth.
    fn is_below(&self, dir: &Self) -> bool {
        let rest = self.0.strip_prefix(dir.0.as_slice());
        rest.is_some_and(|rest| if dir.0.is_empty() { !rest.is_empty() } else { rest.first() == Some(&b'/') })
    }

    /// The directories that it lies in, from the root on.
    fn directories(&self) -> impl Iterator<Item = &[u8]> {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        // The root lies in none.
        let ends = (!self.0.is_empty()).then_some(0).into_iter().chain(slashes);
        ends.filter_map(|end| self.0.get(..end))
    }

    /// For messages: on one line, and not without end.
    fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let short: String = text.chars().take(200).collect();
        format!("{short:?}")
    }
}

impl Pick {
    /// Whether the file called `path` is meant.
    fn means(&self, path: &Path) -> bool {
        match self {
            Self::UnderDisk => path.is_below(&disk()),
            Self::Named(name) => path == name,
        }
    }

    /// Whether what happens to `path` can happen to a file that is meant.
    fn concerns(&self, path: &Path) -> bool {
        let meant = match self {
            Self::UnderDisk => &disk(),
            Self::Named(name) => name,
        };
        path == meant || path.is_below(meant) || meant.is_below(path)
    }
}

fn disk() -> Path {
    Path(b"disk".to_vec())
}

/// What an archive has for who looks for an image.
pub enum Found {
    /// The image.
    Image(Image),
    /// None: the archive has been read to its end, which is so many bytes from its start. What it hides of those below has been noted.
    Nothing(u64),
}

/// An image in an archive.
pub struct Image {
    /// Its name there.
    pub name: String,
    /// Where it begins in the archive.
    pub at: u64,
    /// Its length in bytes. This many come, or an error.
    pub len: u64,
    /// Its bytes. They end when the archive has been read to its end and has no other image.
    pub reader: Reader,
}

/// How long an archive may be.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// All of it, in bytes.
    pub archive: u64,
    /// What is not the image, in bytes, with that of the archives that have `passed`.
    pub beside: u64,
    /// Bytes of archives that lie over this one, and have no image.
    pub passed: u64,
}

/// Looks for the image in `archive`, among the files that `hidden` does not name, and reads no further than to its first byte.
/// An archive that takes more than its `room` is an error.
pub fn find(archive: Reader, pick: &Pick, hidden: &mut Hidden, room: Room) -> Result<Found> {
    let above = hidden.clone();
    let mut search = Search { entries: Entries::new(archive, room), pick: pick.clone(), above };
    while let Some(entry) = search.entries.next()? {
        hidden.note(&entry, pick)?;
        if search.is_image(&entry)? {
            let (at, len, name) = (entry.at, entry.len, entry.path);
            let shown = String::from_utf8_lossy(&name.0).into_owned();
            let rest = Rest { search, name, left: len, ended: false };
            return Ok(Found::Image(Image { name: shown, at, len, reader: Box::new(rest) }));
        }
    }
    Ok(Found::Nothing(search.entries.passed()))
}

struct Search {
    entries: Entries,
    pick: Pick,
    /// What the layers above hide.
    above: Hidden,
}

impl Search {
    /// Whether it is the image. What stands in its place and is no file cannot be.
    fn is_image(&self, entry: &Entry) -> Result<bool> {
        if entry.kind == Kind::Directory || entry.is_whiteout() {
            return Ok(false);
        }
        if !self.pick.means(&entry.path) || self.above.hides(&entry.path) {
            return Ok(false);
        }
        let name = entry.path.shown();
        match entry.kind {
            Kind::File if entry.sparse => {
                let what = format!("{name} is stored sparse, which is not carried: make the archive without --sparse");
                Err(Error::unsupported(FORMAT, "sparse", what))
            }
            Kind::File => Ok(true),
            Kind::Link => {
                let what = format!("{name} is a link, which is not followed: put the image itself there");
                Err(Error::unsupported(FORMAT, "link", what))
            }
            Kind::Directory | Kind::Special => {
                let what = format!("{name} is a device, a pipe or something unknown, and no file");
                Err(Error::unsupported(FORMAT, "special-file", what))
            }
        }
    }
}

/// The image, and the rest of its archive behind it.
struct Rest {
    search: Search,
    name: Path,
    left: u64,
    ended: bool,
}

impl Rest {
    /// Reads the archive to its end.
    fn check(&mut self) -> Result<()> {
        while let Some(entry) = self.search.entries.next()? {
            if self.search.is_image(&entry)? {
                let (one, other) = (self.name.shown(), entry.path.shown());
                let what = format!("{one} and {other} could both be the image, and one is wanted (--path)");
                return Err(Error::unsupported(FORMAT, "several-images", what));
            }
        }
        Ok(())
    }
}

impl Read for Rest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            self.check()?;
            self.ended = true;
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.search.entries.read(buf.get_mut(..most).unwrap_or_default())?;
        self.left = self.left.saturating_sub(got as u64);
        Ok(got)
    }
}
