//! Putting images into an image layout.
//!
//! Blobs are written under temporary names, made durable, and get their own names together with the new `index.json`, while the
//! [lock](super::layout::Lock) is held: at every moment the layout has every blob that its index leads to.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use diskferry::digest::{Algorithm, Checksum, Digester};
use diskferry::{Error, Progress, Result, names};
use rustix::fs::syncfs;
use serde_json::json;
use tempfile::{NamedTempFile, TempPath};

use super::layout::{Entry, Layout, blob_path, writing};
use super::manifest::{self, INDEX, NAME};
use super::push::{Publication, Sent};

/// Zeros in pieces of this size, at such places of a blob's file, become holes.
const GRAIN: usize = 4096;

/// Names of what is not complete begin and end with these.
const PREFIX: &str = ".";
const SUFFIX: &str = ".diskferry";

/// How often a file is begun anew that somebody who tidies up has found before it was locked.
const TRIES: usize = 16;

/// How much of a blob is written at once.
const BUFFER: usize = 256 * GRAIN;

/// An image that is put into a layout.
pub struct Stow {
    dir: PathBuf,
    name: Option<String>,
    /// For the first blob, the large one. Made at once, so that its name is known to who ends the process.
    ready: Mutex<Option<NamedTempFile>>,
    staged: Mutex<Vec<Staged>>,
}

/// A blob that is complete and, mostly, has not got its name yet.
struct Staged {
    path: PathBuf,
    /// Open because it is locked.
    file: (File, TempPath),
    /// Of a blob that was there before, to which the file is another link.
    before: Option<Checksum>,
}

impl Stow {
    /// For an image that will be called `name` in the layout in `dir`. A directory that is empty or not there becomes one.
    pub fn create(dir: &Path, name: Option<&str>) -> Result<Self> {
        make_dir(dir)?;
        if is_blank(dir).map_err(|error| writing("opening the layout", dir, error))? {
            initialise(dir)?;
            // Somebody may have made it, and have ended before its name was on the storage.
            sync_name(dir)?;
        }
        if !dir.join("oci-layout").exists() {
            let what = format!("{} is neither empty nor an image layout: it has no file oci-layout", dir.display());
            return Err(Error::Target { code: "not-a-layout", what });
        }
        Layout::open(dir)?;
        make_dir(&dir.join("blobs/sha256"))?;
        let ready = Mutex::new(Some(temporary(dir)?));
        Ok(Self { dir: dir.to_owned(), name: name.map(str::to_owned), ready, staged: Mutex::default() })
    }

    /// The file that has to be removed by whoever ends the process without dropping this.
    pub fn temporary(&self) -> Option<PathBuf> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.as_ref().map(|file| file.path().to_owned())
    }

    /// Writes a blob whose digest is of this algorithm.
    pub(super) fn blob_of(
        &self,
        reader: &mut (dyn Read + Send),
        algorithm: Algorithm,
        progress: &Progress,
    ) -> Result<Sent> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (file, path) = ready.map_or_else(|| temporary(&self.dir), Ok)?.into_parts();
        let failed = |error| writing("writing the layout", &path, error);
        let mut digester = Digester::new([algorithm]);
        let mut buffer = vec![0; BUFFER];
        let mut size = 0_u64;
        loop {
            progress.check()?;
            let got = fill(reader, &mut buffer).map_err(|error| Error::reading(size, error))?;
            let bytes = buffer.get(..got).unwrap_or_default();
            digester.update(bytes);
            write_data(&file, bytes, size).map_err(failed)?;
            size = size.saturating_add(got as u64);
            if got < BUFFER {
                break;
            }
        }
        let digest = manifest::finish(digester)?;
        // A large one that is there is not read for the sake of what is written already.
        if size < BUFFER as u64 && self.has(&digest, size, progress)? {
            return Ok(Sent { digest, size, uploaded: 0 });
        }
        file.set_len(size).map_err(failed)?;
        // As any file that is made: there is nothing secret about a blob that its layout does not keep.
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let place = self.dir.join(blob_path(&digest));
        self.stage(Staged { path: place, file: (file, path), before: None });
        Ok(Sent { digest, size, uploaded: size })
    }

    fn stage(&self, blob: Staged) {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).push(blob);
    }

    /// Whether there is a blob of this length.
    pub(super) fn has_blob_of(&self, size: u64) -> Result<bool> {
        Ok(Layout::open(&self.dir)?.blobs()?.iter().any(|(_, _, len)| *len == size))
    }

    /// Whether there is a blob of this digest and length, which the image will have then, whoever removes it meanwhile. It is read for that:
    /// one that is damaged is as good as none, and gives way to the one that is written in its place.
    pub(super) fn has(&self, digest: &Checksum, size: u64, progress: &Progress) -> Result<bool> {
        let path = self.dir.join(blob_path(digest));
        if !has_len(&path, size) || !Layout::open(&self.dir)?.lock(progress)?.renew(digest)? {
            return Ok(false);
        }
        let link = |link: &Path| {
            fs::hard_link(&path, link)?;
            File::open(link)
        };
        // Where there are no links, or it has gone by now, it is written once more.
        let Ok(link) = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).make_in(&self.dir, link) else {
            return Ok(false);
        };
        let (file, link) = link.into_parts();
        if file.try_lock_shared().is_err() || !is_whole(&file, digest, size, progress)? {
            return Ok(false);
        }
        self.stage(Staged { path, file: (file, link), before: Some(digest.clone()) });
        Ok(true)
    }

    /// Gives the blobs their names, and the image its own.
    pub(super) fn publish(&self, image: &Publication<'_>, progress: &Progress) -> Result<()> {
        self.blob_of(&mut &*image.manifest, image.digest.algorithm, progress)?;
        let lock = Layout::open(&self.dir)?.lock(progress)?;
        let mut dirs = BTreeSet::new();
        for Staged { path, file, before } in self.staged.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Nobody takes away what is there still, and is new again.
            if let Some(digest) = before
                && lock.renew(&digest)?
            {
                continue;
            }
            // Whatever has that name: this was compared with its digest.
            let (_locked, file) = file;
            let dir = path.parent().unwrap_or(&self.dir);
            make_dir(dir)?;
            file.persist(&path).map_err(|error| writing("giving a blob its name", &path, error.error))?;
            dirs.extend(dir.ancestors().take(2).map(Path::to_owned));
        }
        for dir in dirs {
            sync(&dir)?;
        }
        lock.update_index(|index| self.enter(index, image))
    }

    /// Names the image in the index: what has the same name is replaced, or without a name the same image; everything else stays as it is.
    fn enter(&self, images: &mut Vec<Entry>, image: &Publication<'_>) -> Result<()> {
        let digest = image.digest.to_string();
        images.retain(|image| !image.is_of(self.name.as_deref(), &digest));
        let mut entry = json!({ "mediaType": image.media_type, "digest": digest, "size": image.manifest.len() });
        if let (Some(platform), Some(entry)) = (image.platform, entry.as_object_mut()) {
            entry.insert("platform".into(), json!(platform));
        }
        if let (Some(name), Some(entry)) = (&self.name, entry.as_object_mut()) {
            entry.insert("annotations".into(), json!({ NAME: name }));
        }
        images.push(Entry::new(&entry)?);
        Ok(())
    }
}

fn has_len(path: &Path, len: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == len)
}

/// Whether a file has this length and this digest. One that cannot be read has not.
fn is_whole(mut file: &File, digest: &Checksum, size: u64, progress: &Progress) -> Result<bool> {
    let mut digester = Digester::new([digest.algorithm]);
    let (mut buffer, mut len) = (vec![0; BUFFER], 0_u64);
    while len <= size {
        progress.check()?;
        let Ok(got) = fill(&mut file, &mut buffer) else { return Ok(false) };
        digester.update(buffer.get(..got).unwrap_or_default());
        len = len.saturating_add(got as u64);
        if got < BUFFER {
            break;
        }
    }
    Ok(len == size && manifest::finish(digester)? == *digest)
}

/// Whether there is nothing in the directory but what a push leaves that was killed before it was a layout.
fn is_blank(dir: &Path) -> io::Result<bool> {
    for name in names(dir)? {
        let name = name?;
        let name = name.to_string_lossy();
        let is_temporary = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        let is_first_index = || fs::read(dir.join("index.json")).is_ok_and(|found| found == first_index().as_bytes());
        if !(is_temporary || (name == "index.json" && is_first_index())) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn first_index() -> String {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }).to_string()
}

/// Makes a layout without images. Whoever does the same meanwhile may have put one in by now.
fn initialise(dir: &Path) -> Result<()> {
    // The file that makes it a layout comes last.
    for (name, text) in [("index.json", first_index().as_str()), ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)] {
        let path = dir.join(name);
        let file = written(dir, &path, text.as_bytes())?;
        let made = file.persist_noclobber(&path).map(drop).or_else(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            // Not every filesystem can do that.
            _ => error.file.persist(&path).map(drop),
        });
        made.map_err(|error| writing("writing the layout", &path, error.error))?;
        sync(dir)?;
    }
    Ok(())
}

/// What is to be called `path`, and is durable.
fn written(dir: &Path, path: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let failed = |error| writing("writing the layout", path, error);
    let mut file = temporary(dir)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    Ok(file)
}

/// A file that is locked as long as it is open, which tells it from one that was left behind. Where there are no locks, nothing can be
/// put into a layout.
fn temporary(dir: &Path) -> Result<NamedTempFile> {
    let failed = |doing| move |error| writing(doing, dir, error);
    for _ in 0..TRIES {
        let made = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(dir);
        let made = made.map_err(failed("making a file in the layout"))?;
        // Somebody who tidies up may have taken it before it was locked.
        match made.as_file().try_lock() {
            Ok(()) if made.path().exists() => return Ok(made),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed("locking a file in the layout")(error)),
        }
    }
    Err(failed("making a file in the layout")(io::Error::other("whatever is begun there is removed at once")))
}

/// Files that pushes have left behind that were killed, with their lengths. As long as one is open here, nobody who has just made it takes
/// it for his own.
pub(super) fn left_behind(dir: &Path) -> io::Result<Vec<(PathBuf, u64, File)>> {
    let mut found = Vec::new();
    for name in names(dir)? {
        let name = name?;
        let path = dir.join(&name);
        let name = name.to_string_lossy();
        let is_temporary = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        if !(is_temporary && fs::symlink_metadata(&path).is_ok_and(|found| found.is_file())) {
            continue;
        }
        // Gone, or somebody else's: then it is not for us.
        let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
        if file.try_lock().is_ok() {
            found.push((path, file.metadata()?.len(), file));
        }
    }
    Ok(found)
}

/// Makes a directory that is not there, and those that it lies in. Their names are on the storage then.
fn make_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    make_dir(above(dir))?;
    match fs::create_dir(dir) {
        // Somebody else may have made it meanwhile.
        Err(error) if !dir.is_dir() => Err(writing("making the layout", dir, error)),
        _ => sync_name(dir),
    }
}

fn above(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the name of a directory durable. Who may only write to the one above, and not read it, has the whole filesystem made so.
fn sync_name(dir: &Path) -> Result<()> {
    let synced = match File::open(above(dir)) {
        Ok(above) => above.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            File::open(dir).and_then(|dir| Ok(syncfs(dir)?))
        }
        Err(error) => Err(error),
    };
    synced.map_err(|error| writing("making the layout durable", dir, error))
}

fn sync(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| writing("making the layout durable", dir, error))
}

/// Writes what is not zero, in runs as long as possible.
fn write_data(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let is_zero = |grain: &[u8]| grain.iter().all(|byte| *byte == 0);
    let (mut start, mut end) = (0, 0);
    for grain in bytes.chunks(GRAIN) {
        let next = end + grain.len();
        if is_zero(grain) {
            write_run(file, bytes, start..end, at)?;
            start = next;
        }
        end = next;
    }
    write_run(file, bytes, start..end, at)
}

fn write_run(file: &File, bytes: &[u8], run: std::ops::Range<usize>, at: u64) -> io::Result<()> {
    let place = at.saturating_add(run.start as u64);
    bytes.get(run).filter(|run| !run.is_empty()).map_or(Ok(()), |run| file.write_all_at(run, place))
}

/// Reads until `buffer` is full or the reader ends.
pub(super) fn fill(reader: &mut (dyn Read + Send), buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::sandbox::tests::without;

    #[test]
    fn what_is_a_layout_by_now_keeps_its_images() {
        let dir = tempfile::tempdir().unwrap();
        initialise(dir.path()).unwrap();
        let text = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(text("index.json"), first_index());
        fs::write(dir.path().join("index.json"), "with an image").unwrap();
        let lock = File::open(dir.path().join("oci-layout")).unwrap();
        initialise(dir.path()).unwrap();
        assert_eq!(text("index.json"), "with an image");
        let found = fs::metadata(dir.path().join("oci-layout")).unwrap();
        assert_eq!(found.ino(), lock.metadata().unwrap().ino(), "who locks it locks what others lock");
        assert_eq!(names(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn where_there_are_no_locks_nothing_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layout");
        let made = without(&[libc::SYS_flock], || Stow::create(&path, None).map(drop));
        let error = made.unwrap_err();
        assert!(error.to_string().contains("locking a file in the layout: "), "{error}");
        assert!(names(&path).unwrap().next().is_none(), "and nothing is left");
    }
}
