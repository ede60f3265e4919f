//! The unfinished disk beside its target: named so that everybody sees what it is, and locked as long as somebody writes it.
//!
//! The lock (`flock`) goes with the process that holds it, however that ends. So the next run for the same target tells what a killed
//! one has left, and removes it, from what another is writing. Who removes a file holds its lock; who has begun one holds its lock and
//! then still finds it under its name. Of two that meet over a file one gives way. On a filesystem without locks nobody can tell what
//! another is writing: there everybody begins anew, and finds what is his still under its name before he publishes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile, TempPath};

use crate::directory::names;

/// The longest file name that common filesystems take.
const NAME_MAX: usize = 255;
const SUFFIX: &str = ".diskferry";
const RANDOM: usize = 6;

/// What is left for what stands behind [`prefix`].
const END: usize = 32;

/// How often a file is begun anew that somebody who tidies up has found before it was locked.
const TRIES: usize = 16;

/// How a file is locked: [`File::try_lock`], but for tests of filesystems without locks.
pub(super) type Lock = fn(&File) -> Result<(), TryLockError>;

/// What comes of locking an unfinished disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is ours, and everybody can see that.
    Locked,
    /// The filesystem has no locks: only who has just made it knows whose it is.
    Unlocked,
    /// Somebody else has it, or has taken its name away.
    Lost,
}

/// Begins the disk that becomes `target`, in `directory`.
pub(super) fn create(target: &Path, directory: &Path, lock: Lock) -> io::Result<(File, TempPath, Hold)> {
    for _ in 0..TRIES {
        let (file, path) = begin(target, directory, 0o600)?.into_parts();
        let hold = hold(&file, &path, lock)?;
        if hold != Hold::Lost {
            return Ok((file, path, hold));
        }
    }
    Err(io::Error::other("whatever is begun there is removed at once"))
}

/// Takes over the unfinished disk at `path`, which nobody else may be writing. Where that cannot be seen it is removed instead: who
/// may still be writing it will not find it any more, and no disk has two writers.
pub(super) fn take_over(path: &Path, lock: Lock) -> io::Result<Option<(File, TempPath)>> {
    let file = File::from(open(path, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    match hold(&file, path, lock)? {
        Hold::Locked => Ok(Some((file, TempPath::try_from_path(path)?))),
        Hold::Unlocked => fs::remove_file(path).map(|()| None),
        Hold::Lost => Err(io::Error::new(ErrorKind::ResourceBusy, "another process is writing it")),
    }
}

/// Gives the disk at `path`, which is `file`, the name `target`, if it is still there.
pub(super) fn publish(file: &File, path: TempPath, target: &Path) -> io::Result<()> {
    // What cannot be looked at is taken for ours, and goes with the path.
    if !is_same(file, &path)? {
        let what = format!("{} is gone, or another process has put something else there", path.display());
        // What is there now is not ours to remove.
        let _ = path.keep();
        return Err(io::Error::other(what));
    }
    path.persist(target).map_err(|failed| failed.error)
}

/// What a new file in `directory` is allowed to, by the umask and the directory's own rules. An empty file is made to
/// see it: the umask cannot be asked for without changing it for every thread, and the disk's own file must never
/// have been open to others.
pub(super) fn new_file_permissions(target: &Path, directory: &Path) -> io::Result<Permissions> {
    let probe = begin(target, directory, 0o666)?;
    Ok(probe.as_file().metadata()?.permissions())
}

fn begin(target: &Path, directory: &Path, mode: u32) -> io::Result<NamedTempFile> {
    // Opened here, since the errors of `tempfile_in` have the path in them, which says nothing to anybody.
    let open = |path: &Path| File::options().read(true).write(true).create_new(true).mode(mode).open(path);
    Builder::new().prefix(&prefix(target)).suffix(SUFFIX).rand_bytes(RANDOM).make_in(directory, open)
}

/// Removes what runs for `target` that were killed have left beside it, but for the one at `but_for`. What somebody is writing stays,
/// and so does what cannot be told from that, as on a filesystem without locks.
pub fn remove_leftovers(target: &Path, but_for: Option<&Path>) {
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = prefix(target);
    let found = names(directory).into_iter().flatten().flatten().filter(|name| is_name(name, &prefix));
    // All of them first: what is removed meanwhile could hide others.
    for name in found.collect::<Vec<_>>() {
        let path = directory.join(name);
        if but_for != Some(&path) {
            // Whatever keeps it from being removed keeps nobody from going on.
            let _ = remove_abandoned(&path);
        }
    }
}

fn remove_abandoned(path: &Path) -> io::Result<()> {
    // Somebody else may have made it, where others may make files: opening a device or a pipe has effects.
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(());
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Network filesystems give the lock only to who could write.
    let file = match open(path, OFlags::RDWR | flags, Mode::empty()) {
        Err(Errno::ACCESS) => open(path, OFlags::RDONLY | flags, Mode::empty()),
        opened => opened,
    };
    let file = File::from(file?);
    if file.metadata()?.is_file() && file.try_lock().is_ok() && is_same(&file, path)? {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Locks `file`, which was found or made at `path`.
fn hold(file: &File, path: &Path, lock: Lock) -> io::Result<Hold> {
    loop {
        match lock(file) {
            Ok(()) if is_same(file, path)? => return Ok(Hold::Locked),
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(Hold::Lost),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) if has_no_locks(&error) => return Ok(Hold::Unlocked),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Network filesystems without a lock server say `ENOLCK`.
fn has_no_locks(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Unsupported || Errno::from_io_error(error) == Some(Errno::NOLCK)
}

/// Whether `file` is what is found at `path`.
fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((own.dev(), own.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the name of an unfinished disk for `target` begins with: `.NAME.`, with `NAME` cut so that 32 bytes have room behind it. Whoever
/// keeps something else beside the disk can call it by that, too. No character is cut.
pub fn prefix(target: &Path) -> OsString {
    const ROOM: usize = NAME_MAX - END - 2;
    const CHARACTER: usize = 4;
    let name = target.file_name().unwrap_or_default().as_bytes();
    let begins_one = |at: &usize| name.get(*at).is_none_or(|byte| byte & 0xc0 != 0x80);
    let end = (ROOM - CHARACTER + 1..=ROOM).rev().find(begins_one).unwrap_or(ROOM);
    let name = name.get(..end).unwrap_or(name);
    [OsStr::new("."), OsStr::from_bytes(name), OsStr::new(".")].into_iter().collect()
}

/// Whether a file of this name is an unfinished disk of the target with `prefix`.
fn is_name(name: &OsStr, prefix: &OsStr) -> bool {
    let random = name.as_bytes().strip_prefix(prefix.as_bytes()).and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    fn sorted_names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = names(dir).unwrap().map(|name| name.unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_nobody_writes_any_more_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk.raw");
        let (_file, living, _) = create(&target, dir.path(), File::try_lock).unwrap();
        let others = [".disk.raw.abc.diskferry", ".disk.raw.x", ".disk.raw.x.abcdef.diskferry", "disk.raw"];
        for name in others.iter().chain(&[".disk.raw.abcdef.diskferry", ".disk.raw.needed.diskferry"]) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join(".disk.raw.folder.diskferry")).unwrap();
        std::os::unix::fs::symlink("disk.raw", dir.path().join(".disk.raw.linked.diskferry")).unwrap();
        remove_leftovers(&target, Some(&dir.path().join(".disk.raw.needed.diskferry")));
        let mut expected: Vec<OsString> = others.iter().map(OsString::from).collect();
        expected.extend([".disk.raw.folder.diskferry", ".disk.raw.linked.diskferry"].map(OsString::from));
        expected.extend([living.file_name().unwrap().to_owned(), ".disk.raw.needed.diskferry".into()]);
        expected.sort();
        assert_eq!(sorted_names(dir.path()), expected);
    }

    #[test]
    fn long_names_are_cut_where_a_character_ends() {
        let prefix_of = |name: &str| prefix(Path::new(name)).into_string().unwrap();
        assert_eq!(prefix_of("/data/disk.raw"), ".disk.raw.");
        for character in ["x", "я", "磁", "💾"] {
            for before in ["", "x", "xx", "xxx"] {
                let name = format!("{before}{}", character.repeat(250 / character.len()));
                let prefix = prefix_of(&name);
                assert!(name.starts_with(&prefix[1..prefix.len() - 1]) && prefix.len() <= 223, "{prefix}");
                assert!(prefix.len() > 223 - character.len(), "{prefix}");
            }
        }
    }

    #[test]
    fn a_file_that_lost_its_writer_is_abandoned_and_can_be_taken_over_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk.raw");
        let (file, path, hold) = create(&target, dir.path(), File::try_lock).unwrap();
        assert_eq!(hold, Hold::Locked);
        assert_eq!(take_over(&path, File::try_lock).unwrap_err().kind(), ErrorKind::ResourceBusy);
        let path = path.keep().unwrap();
        drop(file);
        let (file, taken) = take_over(&path, File::try_lock).unwrap().unwrap();
        remove_leftovers(&target, None);
        assert!(path.exists());
        drop((taken.keep().unwrap(), file));
        remove_leftovers(&target, None);
        assert!(sorted_names(dir.path()).is_empty());
    }

    #[test]
    fn who_tidies_up_meanwhile_takes_away_nothing_that_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk.raw");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        remove_leftovers(&target, None);
                    }
                });
            }
            for _ in 0..100 {
                let (file, path, _) = create(&target, dir.path(), File::try_lock).unwrap();
                assert!(is_same(&file, &path).unwrap());
                thread::yield_now();
                assert!(path.exists());
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(sorted_names(dir.path()).is_empty());
    }
}
