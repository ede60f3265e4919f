//! A regular file: written under another name beside the target, and renamed over it when it is complete.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, getrlimit};
use tempfile::TempPath;

use super::reserve::Reserving;
use super::share::Sharing;
use super::unfinished::{self, Hold, Lock};
use super::{OneDisk, Sink, write_zeroes};
use crate::error::{Error, Result};
use crate::lock::lock;

/// How a file is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOptions {
    /// Leave holes where the disk reads as zero. Without it the zeroes are written: every block of the file then is
    /// allocated and holds data, as if copied by `dd`.
    pub sparse: bool,
    /// Share blocks with the image's file where the filesystem can; two files without a name are made to find that out. Of use for
    /// [`Input::may_share`](crate::Input::may_share) only, and left undone where blocks of its own are asked for.
    pub share: bool,
    /// Reserve room for the whole disk first. Zeroes still cost no writing, but the filesystem cannot run full later.
    pub preallocate: bool,
    /// Wait until the file and its name are on stable storage.
    pub sync: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { sparse: true, share: true, preallocate: false, sync: true }
    }
}

/// A disk that becomes a regular file.
///
/// Until [`finish`](Sink::finish) has renamed it, it lies beside the target as `.NAME.XXXXXX.diskferry`, readable by
/// its owner alone; a sink dropped before removes it and leaves the target as it was, unless it is to be
/// [left](Self::leave). What a killed process has left of
/// the same target is removed when the next sink for it is made.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    /// `None` once it has the target's name.
    temporary: Mutex<Option<TempPath>>,
    target: PathBuf,
    /// Open because its entry for the file is to be made durable.
    directory: File,
    permissions: Permissions,
    options: FileOptions,
    largest: u64,
    sharing: Sharing,
    reserving: Reserving,
    disk: OneDisk,
    /// Whether another sink may go on with it, and it has what it is said to have.
    resumable: bool,
}

impl FileSink {
    /// A sink for the file at `path`, which need not exist. A link to a regular file is followed once, here.
    pub fn create(path: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        Self::create_by(path.as_ref(), options, File::try_lock)
    }

    fn create_by(path: &Path, options: FileOptions, lock: Lock) -> Result<Self> {
        let (target, replaced) = resolve(path)?;
        let directory = target.parent().unwrap_or(Path::new("/")).to_owned();
        let cannot = |e: io::Error| Error::Target {
            code: "cannot-create",
            what: format!("cannot create a file in {}: {e}", directory.display()),
        };
        unfinished::remove_leftovers(&target, None);
        let is_new = replaced.is_none();
        let permissions = match replaced {
            Some(permissions) => permissions,
            None => unfinished::new_file_permissions(&target, &directory).map_err(cannot)?,
        };
        let (file, temporary, hold) = unfinished::create(&target, &directory, lock).map_err(cannot)?;
        let may_share = options.share && options.sparse && !options.preallocate;
        let sharing = if may_share { Sharing::within(&directory) } else { Sharing::default() };
        let opened = File::open(&directory).map_err(cannot)?;
        // What is renamed over a file goes to the disk at once on ext4, as long as blocks have still to be chosen for it.
        let may_reserve = !options.preallocate && (options.sync || is_new);
        let reserving = if may_reserve { Reserving::for_file(&file) } else { Reserving::default() };
        Ok(Self {
            file,
            temporary: Mutex::new(Some(temporary)),
            target,
            directory: opened,
            permissions,
            options,
            largest: getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX),
            sharing,
            reserving,
            disk: OneDisk::default(),
            resumable: hold == Hold::Locked,
        })
    }

    /// The same with a disk that another sink has begun and [left](Self::leave), or that its process could not remove: `temporary`, as
    /// [`temporary`](Self::temporary) named it. It is taken over, and removed like any other.
    ///
    /// On a filesystem without locks nobody can tell whether that process still writes it. There it is removed at once, and the
    /// disk begun anew: the sink is not [resumable](Sink::is_resumable).
    pub fn resume(path: impl AsRef<Path>, temporary: &Path, options: FileOptions) -> Result<Self> {
        Self::resume_by(path.as_ref(), temporary, options, File::try_lock)
    }

    fn resume_by(path: &Path, temporary: &Path, options: FileOptions, lock: Lock) -> Result<Self> {
        let cannot = |e: io::Error| Error::writing("opening the unfinished disk", None, e);
        let Some((file, taken)) = unfinished::take_over(temporary, lock).map_err(cannot)? else {
            // Nothing of the disk is there, whether the new one could be locked or not.
            return Ok(Self { resumable: false, ..Self::create_by(path, options, lock)? });
        };
        let sink = match Self::create_by(path, options, lock) {
            Ok(sink) => sink,
            Err(error) => {
                // It can be taken over another time.
                let _ = taken.keep();
                return Err(error);
            }
        };
        // The new file goes, with the name that it had.
        sink.lock().replace(taken);
        Ok(Self { file, resumable: true, ..sink })
    }

    /// Where the disk lies as long as it is not published: what is there has to be removed by whoever ends the process without
    /// dropping the sink.
    pub fn temporary(&self) -> Option<PathBuf> {
        self.lock().as_ref().map(|path| path.to_path_buf())
    }

    /// Leaves the unfinished disk where it lies, for another sink to [go on with](Self::resume). Gives its path; nothing if it was
    /// published.
    pub fn leave(self) -> Option<PathBuf> {
        // Nothing is done to the file, so that nothing can fail.
        self.lock().take().and_then(|temporary| temporary.keep().ok())
    }

    fn lock(&self) -> MutexGuard<'_, Option<TempPath>> {
        lock(&self.temporary)
    }

    /// Gives the file its size, and its blocks if they are to be reserved.
    fn reserve(&self, size: u64) -> Result<()> {
        self.check_size(size)?;
        self.file.set_len(size).map_err(|e| match e.kind() {
            ErrorKind::FileTooLarge | ErrorKind::InvalidInput => Error::Target {
                code: "too-large",
                what: format!("the filesystem takes no file as large as the disk, {size} bytes ({e})"),
            },
            _ => Error::writing("setting the size of the file", Some(size), e),
        })?;
        if self.options.preallocate && size > 0 {
            retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, size))
                .map_err(|e| self.cannot_reserve(size, e))?;
        }
        Ok(())
    }

    /// Writing past the process's own limit would end it with a signal.
    fn check_size(&self, size: u64) -> Result<()> {
        if size > self.largest {
            return Err(Error::Target {
                code: "too-large",
                what: format!(
                    "the disk takes {size} bytes, files may have {} in this process (ulimit -f)",
                    self.largest
                ),
            });
        }
        Ok(())
    }

    fn cannot_reserve(&self, size: u64, error: Errno) -> Error {
        let free = fstatvfs(&self.file).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        match error {
            Errno::NOSPC | Errno::DQUOT => Error::Target {
                code: "no-space",
                what: format!("the disk takes {size} bytes, the filesystem has {free} free ({error})"),
            },
            Errno::OPNOTSUPP | Errno::NOSYS => Error::Target {
                code: "cannot-preallocate",
                what: "the filesystem cannot reserve room; --no-sparse writes every byte instead".into(),
            },
            _ => Error::writing("reserving room for the disk", None, error),
        }
    }
}

impl Sink for FileSink {
    fn prepare(&self, size: Option<u64>) -> Result<()> {
        self.disk.begin()?;
        size.map_or(Ok(()), |size| self.reserve(size))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_size(offset.saturating_add(data.len() as u64))?;
        self.reserving.ahead_of(&self.file, data, offset);
        self.file.write_all_at(data, offset).map_err(|e| Error::writing("writing the disk", Some(offset), e))
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        if self.is_blank() {
            return Ok(());
        }
        write_zeroes(offset..offset.saturating_add(len), |zeroes, at| self.write_at(zeroes, at))
    }

    /// The file is new, or has of the same disk what is written again, and nothing else is written twice.
    fn is_blank(&self) -> bool {
        self.options.sparse
    }

    fn copy_from(&self, file: &File, at: u64, offset: u64, len: u64) -> Result<u64> {
        self.check_size(offset.saturating_add(len))?;
        self.sharing.share((file, at), (&self.file, offset), len)
    }

    /// See [`resume`](Self::resume).
    fn is_resumable(&self) -> bool {
        self.resumable
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::writing("making the disk durable", None, e))
    }

    fn finish(&self, size: u64) -> Result<()> {
        let publishing = |e| Error::writing("giving the file its name", None, e);
        self.reserve(size)?;
        self.file.set_permissions(self.permissions.clone()).map_err(publishing)?;
        if self.options.sync {
            self.file.sync_all().map_err(|e| Error::writing("making the file durable", None, e))?;
        }
        let temporary = self.lock().take();
        if let Some(temporary) = temporary {
            unfinished::publish(&self.file, temporary, &self.target).map_err(publishing)?;
            // What it says is that the disk is not finished. Whoever locks the disk now must not meet it.
            let _ = self.file.unlock();
        }
        if self.options.sync {
            self.directory.sync_all().map_err(|e| Error::writing("making the file's name durable", None, e))?;
        }
        Ok(())
    }
}

/// Where the file lies once every link is followed, and the permissions of the file that is there.
fn resolve(path: &Path) -> Result<(PathBuf, Option<Permissions>)> {
    let refused = |what: &str| Error::Target { code: "not-a-file", what: format!("{} {what}", path.display()) };
    let unreachable = |e: io::Error| Error::Target {
        code: "cannot-create",
        what: format!("{} cannot be a target: {e}", path.display()),
    };
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            let permissions = Permissions::from_mode(found.permissions().mode() & 0o777);
            Ok((path.canonicalize().map_err(unreachable)?, Some(permissions)))
        }
        Ok(found) if found.is_dir() => Err(refused("is a directory, name a file in it")),
        Ok(_) => Err(refused("exists and is not a regular file")),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(unreachable(e)),
        Err(_) if path.is_symlink() => Err(refused("is a link to a file that does not exist")),
        Err(_) => {
            let name = path.file_name().ok_or_else(|| refused("does not end in a file's name"))?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok((parent.canonicalize().map_err(unreachable)?.join(name), None))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    fn no_locks(_: &File) -> Result<(), TryLockError> {
        Err(TryLockError::Error(Errno::NOLCK.into()))
    }

    /// The server of locks is away until a new file is made.
    fn none_for_a_while(file: &File) -> Result<(), TryLockError> {
        if file.metadata().unwrap().len() > 0 { no_locks(file) } else { file.try_lock() }
    }

    #[test]
    fn a_disk_that_somebody_may_still_be_writing_is_begun_anew_and_not_published_by_him() {
        for lock in [no_locks, none_for_a_while] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk.raw");
            let other = FileSink::create(&path, FileOptions::default()).unwrap();
            other.prepare(Some(8)).unwrap();
            let begun = other.temporary().unwrap();
            let sink = FileSink::resume_by(&path, &begun, FileOptions::default(), lock).unwrap();
            assert!(!sink.is_resumable() && sink.temporary().unwrap() != begun && !begun.exists());
            sink.prepare(Some(8)).unwrap();
            sink.write_at(b"our disk", 0).unwrap();
            sink.finish(8).unwrap();
            other.write_at(b"his disk", 0).unwrap();
            let error = other.finish(8).unwrap_err().to_string();
            assert!(error.contains("giving the file its name") && error.contains("is gone"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"our disk");
        }
    }

    #[test]
    fn without_locks_a_disk_is_made_but_not_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FileSink::create_by(&dir.path().join("disk.raw"), FileOptions::default(), no_locks).unwrap();
        assert!(!sink.is_resumable());
        sink.finish(8).unwrap();
        assert_eq!(fs::read(dir.path().join("disk.raw")).unwrap(), [0; 8]);
    }
}
