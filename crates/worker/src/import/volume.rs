//! A volume takes a disk: whether it fits, what has to go first, and the size that the disk gets.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use diskferry::format::Order as Sequence;
use diskferry::sink::{self, FileOptions, FileSink, Sink};
use diskferry::{Error, Input, Progress, Result, names};
use diskferry_remote::target::Target;
use diskferry_remote::{Sandbox, signals};
use rustix::fs::statvfs;

use super::job::How;
use super::journal::{is_journal, is_of_journal};
use super::order::Volume;
use crate::human::iec;

/// Disks on filesystems are made as large as this divides, where they are made larger than the image.
const ALIGNMENT: u64 = 1 << 20;

/// What the temporary file of a disk ends with, as docs/targets.md has it.
pub(super) const TEMPORARY: &str = ".diskferry";

/// How large a disk may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that a disk may have.
    most: u64,
    /// Bytes that it might have, if nothing else were there.
    whole: u64,
    /// Bytes that were asked for.
    stated: Option<u64>,
    /// Whether it is a filesystem, on which a disk can have any size.
    is_file: bool,
}

impl Volume {
    /// How large a disk may be. What an earlier attempt has left behind is taken away first: it was never anybody's disk. But the one
    /// that was `begun` stays.
    pub fn room(&self, begun: Option<&Path>) -> Result<Room> {
        if self.is_block {
            let size = File::open(&self.path).and_then(|mut device| device.seek(SeekFrom::End(0)));
            let size = size.map_err(|error| Error::Target {
                code: "cannot-open",
                what: format!("{} cannot be opened: {error}", self.path.display()),
            })?;
            return Ok(Room { most: size, whole: size, stated: self.size, is_file: false });
        }
        remove_leftovers(&self.path, begun);
        let (free, whole) = space(&self.path)?;
        let begun = begun.map_or(0, held);
        let free = free.saturating_add(held(&self.path)).saturating_add(begun).min(whole);
        let [most, whole] = [free, whole].map(|bytes| usable(bytes, self.overhead));
        Ok(Room { most, whole, stated: self.size, is_file: true })
    }

    /// Where the disk of `size` bytes is written to, once it is known that it fits: that which was `begun`, or a new one. A disk that is
    /// there goes first, if both have no room, unless a virtual machine has it; if nobody knows the size, when that is seen.
    pub fn sink(
        &self,
        room: Room,
        size: Option<u64>,
        begun: Option<&Path>,
        input: &Source,
        how: &How,
        progress: &Progress,
    ) -> Result<Sized> {
        let How { options, sandbox } = *how;
        let target = if self.is_block { Target::Device(self.path.clone()) } else { Target::File(self.path.clone()) };
        input.refuse(&target)?;
        target.refuse_in_use()?;
        size.map(|size| room.fit(size)).transpose()?;
        let file = FileOptions { preallocate: self.preallocate, share: input.may_share(), ..FileOptions::default() };
        if self.is_block {
            return Ok(Sized { room, old: None, place: Place::Device(target.sink(file, options, progress)?) });
        }
        let old = self.old(begun, sandbox)?;
        if let (Some(old), Some(size)) = (&old, size) {
            old.leave_room(size)?;
        }
        let sink = signals::with_temporary(|| {
            let sink = match begun {
                Some(begun) => FileSink::resume(&self.path, begun, file)?,
                None => FileSink::create(&self.path, file)?,
            };
            let unfinished = sink.temporary();
            Ok::<_, Error>((sink, unfinished))
        })?;
        Ok(Sized { room, old, place: Place::File(sink) })
    }

    /// Takes away what earlier attempts have left beside the disk.
    pub fn remove_leftovers(&self) {
        if !self.is_block {
            remove_leftovers(&self.path, None);
        }
    }

    /// The disk that is there.
    fn old(&self, begun: Option<&Path>, sandbox: &Sandbox) -> Result<Option<Old>> {
        if held(&self.path) == 0 {
            return Ok(None);
        }
        let free = space(&self.path)?.0.saturating_add(begun.map_or(0, held));
        let beside = usable(free, self.overhead);
        let (path, sandbox) = (self.path.clone(), sandbox.clone());
        Ok(Some(Old { path, beside, is_reserved: self.preallocate, sandbox, is_there: Mutex::new(true) }))
    }
}

/// A disk that is to be replaced. It is there as long as the new one has room beside it: an image that turns out to be damaged then has
/// cost nobody anything.
struct Old {
    path: PathBuf,
    /// Bytes that another disk may have beside it.
    beside: u64,
    /// Whether all of the other one is reserved, and not only what is written of it.
    is_reserved: bool,
    /// What writes the other one cannot remove files.
    sandbox: Sandbox,
    is_there: Mutex<bool>,
}

impl Old {
    /// Removes it if a disk of `size` bytes has no room beside it.
    fn leave_room(&self, size: u64) -> Result<()> {
        if size <= self.beside {
            return Ok(());
        }
        let mut is_there = self.is_there.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_there {
            let path = self.path.clone();
            self.sandbox.outside(|| remove(path)).map_err(removing)??;
            *is_there = false;
        }
        Ok(())
    }

    /// Refuses to take it away from a virtual machine that has opened it since.
    fn refuse_in_use(&self) -> Result<()> {
        refuse_in_use(&self.path)
    }
}

/// Removes the disk at `path`.
fn remove(path: PathBuf) -> Result<()> {
    refuse_in_use(&path)?;
    fs::remove_file(path).map_err(removing)
}

/// A virtual machine may have opened it by now.
fn refuse_in_use(path: &Path) -> Result<()> {
    Target::File(path.to_owned()).refuse_in_use()
}

fn removing(error: io::Error) -> Error {
    Error::writing("removing the disk that is there", None, error)
}

/// What is read, as far as it matters for what is written.
pub struct Source(Option<Input>);

impl Source {
    /// Remembers `input`, if it is a file.
    pub fn of(input: &Input) -> Self {
        Self(if let Input::File(file) = input { file.try_clone().ok().map(Input::File) } else { None })
    }

    fn refuse(&self, target: &Target) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |input| target.refuse_source(input))
    }

    fn may_share(&self) -> bool {
        self.0.as_ref().is_some_and(Input::may_share)
    }
}

impl Room {
    /// The size that a disk of `unpacked` bytes gets, if it fits.
    pub fn fit(&self, unpacked: u64) -> Result<u64> {
        self.fit_for(unpacked, "")
    }

    /// The same for a disk of so many bytes, or `more`.
    fn fit_for(&self, unpacked: u64, more: &str) -> Result<u64> {
        let both = |bytes: u64| format!("{bytes} bytes ({})", iec(bytes));
        let refuse = |has: String| Error::Target {
            code: "too-small",
            what: format!("the disk takes {more}{}, {has}", both(unpacked)),
        };
        match self.stated {
            Some(stated) if unpacked > stated => return Err(refuse(format!("{} were asked for", both(stated)))),
            _ if unpacked > self.whole && self.is_file => {
                return Err(refuse(format!("the volume has room for one of {}", both(self.whole))));
            }
            _ if unpacked > self.whole => return Err(refuse(format!("the volume has {}", both(self.whole)))),
            // Something else is there, which may go.
            _ if unpacked > self.most => {
                let has = format!("the volume has room for one of {} at the moment", both(self.most));
                return Err(Error::Target {
                    code: "no-space",
                    what: format!("the disk takes {more}{}, {has}", both(unpacked)),
                });
            }
            _ => {}
        }
        let wanted = self.stated.filter(|_| self.is_file).unwrap_or(unpacked);
        if wanted <= self.most {
            return Ok(wanted);
        }
        // A volume of the size that was asked for has always less room than that.
        Ok(unpacked.max(self.most - self.most % ALIGNMENT))
    }

    /// That the disk may have bytes up to `end`.
    fn check(&self, end: u64) -> Result<()> {
        self.fit_for(end, "at least ").map(|_| ())
    }
}

/// Whether it fits is asked before anything is written, and with every write of a disk whose size nobody knew.
pub struct Sized {
    room: Room,
    old: Option<Old>,
    place: Place,
}

enum Place {
    Device(Box<dyn Sink>),
    File(FileSink),
}

impl Sized {
    /// Where the disk lies until it is complete, if it is a file.
    pub fn unfinished(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Device(_) => None,
            Place::File(sink) => sink.temporary(),
        }
    }

    /// Leaves the unfinished disk where it lies, and says whether there is one.
    pub fn leave(self) -> bool {
        match self.place {
            Place::Device(_) => false,
            Place::File(sink) => sink.leave().is_some(),
        }
    }

    fn sink(&self) -> &dyn Sink {
        match &self.place {
            Place::Device(sink) => sink.as_ref(),
            Place::File(sink) => sink,
        }
    }

    /// The size that a disk of `unpacked` bytes gets. If all of that is reserved, there is room for it then.
    fn fit(&self, unpacked: u64) -> Result<u64> {
        let size = self.room.fit(unpacked)?;
        let old = self.old.as_ref().filter(|old| old.is_reserved);
        old.map_or(Ok(()), |old| old.leave_room(size))?;
        Ok(size)
    }

    /// That the disk may have `len` bytes at `offset`, for which there is room then.
    fn check(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len);
        self.room.check(end)?;
        self.old.as_ref().map_or(Ok(()), |old| old.leave_room(end))
    }
}

/// It is never blank: of a stream whose size nobody knows, zeroes are held against the room as well.
impl Sink for Sized {
    fn prepare(&self, size: Option<u64>) -> Result<()> {
        let size = size.map(|size| self.fit(size)).transpose()?;
        self.sink().prepare(size)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.sink().write_at(data, offset)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.sink().zero(offset, len)
    }

    fn copy_from(&self, file: &File, at: u64, offset: u64, len: u64) -> Result<u64> {
        self.check(offset, len)?;
        self.sink().copy_from(file, at, offset, len)
    }

    fn order(&self) -> Sequence {
        self.sink().order()
    }

    fn sync(&self) -> Result<()> {
        self.sink().sync()
    }

    fn is_resumable(&self) -> bool {
        self.sink().is_resumable()
    }

    fn finish(&self, size: u64) -> Result<()> {
        let size = self.fit(size)?;
        self.old.as_ref().map_or(Ok(()), Old::refuse_in_use)?;
        self.sink().finish(size)
    }

    fn spooled(&self) -> u64 {
        self.sink().spooled()
    }
}

/// What of `free` bytes a disk may take.
fn usable(free: u64, overhead: u32) -> u64 {
    let part = u128::from(free) * u128::from(1_000_000 - overhead.min(1_000_000)) / 1_000_000;
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// Free bytes of the filesystem that `path` is to lie on, and all that can be.
fn space(path: &Path) -> Result<(u64, u64)> {
    let dir = dir(path);
    let stat = statvfs(dir).map_err(|error| Error::Target {
        code: "cannot-create",
        what: format!("cannot create a file in {}: {error}", dir.display()),
    })?;
    // What is kept for the administrator is nobody else's, however empty the volume gets.
    let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
    let [free, whole] = [stat.f_bavail, stat.f_blocks.saturating_sub(reserved)];
    Ok((free.saturating_mul(stat.f_frsize), whole.saturating_mul(stat.f_frsize)))
}

/// Bytes that the file at `path` holds, which are free when it is replaced.
fn held(path: &Path) -> u64 {
    const BLOCK: u64 = 512;
    fs::symlink_metadata(path).map_or(0, |file| if file.is_file() { file.blocks().saturating_mul(BLOCK) } else { 0 })
}

pub(super) fn dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Takes away what earlier attempts have left beside the disk, but for the one that was `begun`, and its journal.
fn remove_leftovers(path: &Path, begun: Option<&Path>) {
    sink::remove_leftovers(path, begun);
    let Ok(prefix) = sink::unfinished_prefix(path).into_string() else { return };
    for found in names(dir(path)).into_iter().flatten().flatten() {
        let path = dir(path).join(&found);
        let is_needed = begun.is_some() && is_journal(&path);
        if found.to_str().is_some_and(|found| is_of_journal(found, &prefix)) && !is_needed {
            // Whatever keeps it from being removed will be said when there is no room.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_has_the_size_of_its_image_unless_another_is_stated() {
        let room = |most, stated, is_file| Room { most, whole: most, stated, is_file };
        assert_eq!(room(10 * GIB, None, true).fit(2 * GIB).unwrap(), 2 * GIB);
        assert_eq!(room(10 * GIB, Some(5 * GIB), true).fit(2 * GIB).unwrap(), 5 * GIB);
        // A device cannot be made larger.
        assert_eq!(room(10 * GIB, Some(5 * GIB), false).fit(2 * GIB).unwrap(), 2 * GIB);
        // A filesystem takes some of the volume for itself.
        let less = 5 * GIB - (300 << 20) - 7;
        assert_eq!(room(less, Some(5 * GIB), true).fit(2 * GIB).unwrap(), less - less % ALIGNMENT);
        assert_eq!(room(2 * GIB + 5, Some(5 * GIB), true).fit(2 * GIB + 5).unwrap(), 2 * GIB + 5);
    }

    #[test]
    fn a_disk_that_does_not_fit_is_refused_with_both_sizes() {
        for (room, has) in [
            (Room { most: GIB, whole: GIB, stated: None, is_file: false }, "the volume has 1073741824 bytes (1 GiB)"),
            (
                Room { most: GIB, whole: GIB, stated: None, is_file: true },
                "has room for one of 1073741824 bytes (1 GiB)",
            ),
            (
                Room { most: 9 * GIB, whole: 9 * GIB, stated: Some(GIB), is_file: true },
                "1073741824 bytes (1 GiB) were asked for",
            ),
        ] {
            let error = room.fit(2 * GIB).unwrap_err();
            assert_eq!(error.code(), "target-too-small");
            let text = error.to_string();
            assert!(text.starts_with("the disk takes 2147483648 bytes (2 GiB), ") && text.ends_with(has), "{text}");
        }
    }

    #[test]
    fn a_filesystem_that_is_full_of_something_else_may_have_room_later() {
        let error = Room { most: GIB, whole: 9 * GIB, stated: None, is_file: true }.fit(2 * GIB).unwrap_err();
        assert_eq!(error.code(), "target-no-space");
        assert!(error.to_string().ends_with("has room for one of 1073741824 bytes (1 GiB) at the moment"), "{error}");
    }

    #[test]
    fn leftovers_of_the_same_disk_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            ".disk.img.abcdef.diskferry",
            ".disk.img.fedcba.diskferry",
            ".disk.img.journal.diskferry",
            ".disk.img.journal-abcdef.diskferry",
            ".disk.img.x",
            "disk.img",
            ".other.img.abcdef.diskferry",
        ] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let begun = dir.path().join(".disk.img.fedcba.diskferry");
        remove_leftovers(&dir.path().join("disk.img"), Some(&begun));
        fs::remove_file(begun).unwrap();
        let journal = dir.path().join(".disk.img.journal.diskferry");
        fs::remove_file(&journal).unwrap();
        // Without the disk it is of no use.
        fs::write(&journal, "x").unwrap();
        remove_leftovers(&dir.path().join("disk.img"), None);
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".disk.img.x", ".other.img.abcdef.diskferry", "disk.img"]);
    }

    #[test]
    fn overhead_is_a_part_of_what_is_free() {
        assert_eq!((usable(1000, 60_000), usable(1000, 0), usable(u64::MAX, 500_000)), (940, 1000, u64::MAX / 2));
    }
}
