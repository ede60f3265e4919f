//! Changing a layout: one at a time, and so that readers find the old index or the new one, whole.
//!
//! Who adds an image writes its blobs, or [renews](Lock::renew) those that are there already, and then names it in the index. Who
//! removes blobs spares what is new. Both hold the lock only while they look and replace, not while anything is transferred.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use diskferry::digest::Checksum;
use diskferry::{Error, Progress, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::super::manifest::{DESCRIPTORS, DOCUMENT, Labels, NAME, each_of, read};
use super::{INDEX, INDEX_FILE, Layout, blob_path};

/// How long somebody else may keep a layout locked. Who removes images reads the documents of all that there are meanwhile, which are tens of
/// thousands at most, and some network file systems take ten milliseconds for each.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 600 });

/// Between two looks at a lock.
const PAUSE: Duration = Duration::from_millis(20);

/// What makes us wait for each other.
const LOCKED: &str = "oci-layout";

/// What the index is called until it is complete. Only who has the lock writes there.
const NEW_INDEX: &str = ".index.json.new";

/// A layout that nobody else changes, until this is dropped. Holds between programs that lock as this does: `flock` on the file
/// `oci-layout`.
#[derive(Debug)]
pub struct Lock {
    layout: Layout,
    /// Closing it ends the lock.
    _file: File,
}

impl Layout {
    /// Waits until nobody else changes the layout, ten minutes at most.
    pub fn lock(&self, progress: &Progress) -> Result<Lock> {
        let path = self.dir.join(LOCKED);
        let deadline = Instant::now() + PATIENCE;
        loop {
            progress.check()?;
            // Network file systems give the lock only to who could write.
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.map_err(|error| writing("locking the image layout", &path, error))?;
            match file.try_lock() {
                // It could have been replaced before it was locked.
                Ok(()) if is_same(&file, &path) => return Ok(Lock { layout: self.clone(), _file: file }),
                Err(TryLockError::Error(error)) => return Err(writing("locking the image layout", &path, error)),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
            }
            if Instant::now() > deadline {
                let what = format!("somebody else keeps {} locked", path.display());
                return Err(Error::Target { code: "layout-locked", what });
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Lock {
    /// Replaces the index by one with the manifests that `change` makes of those there. What others have written stays as it is. When this
    /// returns, the new one is on the storage.
    pub(in super::super) fn update_index(&self, change: impl FnOnce(&mut Vec<Entry>) -> Result<()>) -> Result<()> {
        let (new, path) = (self.layout.dir.join(NEW_INDEX), self.layout.dir.join(INDEX));
        let failed = |error| writing("replacing the index of the image layout", &path, error);
        let bytes = self.layout.read(INDEX, INDEX_FILE)?;
        let mut entries = Vec::new();
        each_of("manifests", DESCRIPTORS, &bytes, INDEX_FILE, |entry| entries.push(Entry(entry)))?;
        change(&mut entries)?;
        let Index { manifests } = read(&bytes, INDEX_FILE, PhantomData)?;
        let list = serde_json::to_vec(&entries).map_err(|error| failed(error.into()))?;
        // The list is a part of these bytes.
        let at = manifests.get().as_ptr().addr().saturating_sub(bytes.as_ptr().addr());
        let parts = bytes.split_at_checked(at).zip(bytes.get(at.saturating_add(manifests.get().len())..));
        let Some(((before, _), behind)) = parts else { return Err(failed(io::ErrorKind::InvalidData.into())) };
        let index = [before, &list, behind].concat();
        if entries.len() > DESCRIPTORS || index.len() as u64 > DOCUMENT {
            let what = format!(
                "the index of {} would have {} images in {} bytes, {DESCRIPTORS} and {DOCUMENT} are allowed: remove some (gc)",
                self.layout.dir.display(),
                entries.len(),
                index.len()
            );
            return Err(Error::Target { code: "layout-full", what });
        }
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let written = File::create_new(&new).and_then(|mut file| {
            // Of a shared store, everybody who could read the index still can.
            file.set_permissions(fs::metadata(&path)?.permissions())?;
            file.write_all(&index)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.layout.dir)?.sync_all()
        });
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            failed(error)
        })
    }

    /// Whether there is a blob with this digest, which is new from now on: whoever tidies up leaves it alone for some time. What is in
    /// it is not looked at. One that is not ours to make new is none.
    pub fn renew(&self, digest: &Checksum) -> Result<bool> {
        let path = self.layout.dir.join(blob_path(digest));
        match File::open(&path).and_then(|file| file.set_modified(SystemTime::now())) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                Ok(false)
            }
            Err(error) => Err(writing("keeping a blob of the image layout", &path, error)),
        }
    }
}

/// An entry of the index, as it stands there: a tree of whatever others have written could take a hundred times the text.
#[derive(Serialize)]
pub(in super::super) struct Entry(Box<RawValue>);

/// An index, of which the rest is not looked at.
#[derive(Deserialize)]
struct Index<'a> {
    #[serde(borrow)]
    manifests: &'a RawValue,
}

/// What is asked of an entry, and may be anything.
#[derive(Default, Deserialize)]
struct Known<'a> {
    #[serde(borrow)]
    digest: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

impl Entry {
    pub(in super::super) fn new(entry: &Value) -> Result<Self> {
        let entry = to_raw_value(entry);
        Ok(Self(entry.map_err(|error| Error::writing("entering the image", None, io::Error::from(error)))?))
    }

    /// Whether it is of this image, where the name counts before the digest.
    pub(in super::super) fn is_of(&self, name: Option<&str>, digest: &str) -> bool {
        let labels = self.known().annotations.and_then(|labels| serde_json::from_str::<Labels>(labels.get()).ok());
        labels.as_ref().and_then(|labels| labels.get(NAME)) == name
            && (name.is_some() || self.digest().as_deref() == Some(digest))
    }

    pub(in super::super) fn digest(&self) -> Option<String> {
        text(self.known().digest?)
    }

    fn known(&self) -> Known<'_> {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// A failed change of a layout, with the name of the file.
pub(in super::super) fn writing(doing: &'static str, path: &Path, error: io::Error) -> Error {
    Error::writing(doing, None, io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskferry_testkit::container;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        container::Layout::new(dir.path());
        let layout = Layout::open(dir.path()).unwrap();
        (dir, layout)
    }

    #[test]
    fn changes_of_many_are_all_in_the_index() {
        let (dir, layout) = layout();
        let progress = Progress::default();
        thread::scope(|scope| {
            for worker in 0..8 {
                let (layout, progress) = (&layout, &progress);
                scope.spawn(move || {
                    for round in 0..10 {
                        let lock = layout.lock(progress).unwrap();
                        let image = json!({ "n": worker * 10 + round });
                        lock.update_index(|index| {
                            index.push(Entry::new(&image)?);
                            Ok(())
                        })
                        .unwrap();
                    }
                });
            }
        });
        let index: Value = serde_json::from_slice(&layout.read(INDEX, INDEX_FILE).unwrap()).unwrap();
        let mut found: Vec<_> =
            index["manifests"].as_array().unwrap().iter().map(|image| image["n"].as_u64().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, (0..80).collect::<Vec<_>>());
        assert_eq!(index["schemaVersion"], 2, "what others have written stays");
        assert!(!dir.path().join(NEW_INDEX).exists());
    }

    #[test]
    fn what_others_have_written_stays_as_it_is() {
        let (dir, layout) = layout();
        let entry = |name: &str, digest: &str| {
            format!(
                r#"{{ "size":1e0, "digest":{digest}, "annotations":{{"zeta":7, "{NAME}":"other", "{NAME}":{name}}}, "later":[[{{}}]] }}"#
            )
        };
        let all = [(r#""a""#, r#""x""#), (r#""b""#, r#""x""#), ("7", r#""y""#), ("null", "7")]
            .map(|(name, digest)| entry(name, digest));
        let text = |entries: &[String]| {
            format!("{{ \"zeta\":1.10,\n\"a\":0, \"manifests\" : [{}] ,\"a\":1 }}\n", entries.join(","))
        };
        let change = |keep: &dyn Fn(&Entry) -> bool| {
            fs::write(dir.path().join(INDEX), text(&all)).unwrap();
            let lock = layout.lock(&Progress::default()).unwrap();
            let retain = |entries: &mut Vec<Entry>| {
                entries.retain(keep);
                Ok(())
            };
            lock.update_index(retain).unwrap();
            fs::read_to_string(dir.path().join(INDEX)).unwrap()
        };
        assert_eq!(change(&|_| true), text(&all));
        assert_eq!(change(&|entry| !entry.is_of(Some("a"), "y")), text(&all[1..]));
        // What has no name that is one is told by its digest.
        assert_eq!(change(&|entry| !entry.is_of(None, "y")), text(&[&all[..2], &all[3..]].concat()));
        assert_eq!(change(&|entry| !entry.is_of(None, "x")), text(&all));
        assert_eq!(change(&|entry| entry.digest().is_none()), text(&all[3..]));
    }

    #[test]
    fn an_index_that_nobody_would_read_is_not_written() {
        let (dir, layout) = layout();
        let lock = layout.lock(&Progress::default()).unwrap();
        let fill = |count: usize, padding: usize| {
            let entry = json!({ "digest": "x".repeat(padding), "size": 0 });
            let all = lock.update_index(|entries| {
                entries.clear();
                for _ in 0..count {
                    entries.push(Entry::new(&entry)?);
                }
                Ok(())
            });
            all.map_err(|error| error.code())
        };
        let empty = usize::try_from(fs::metadata(dir.path().join(INDEX)).unwrap().len()).unwrap();
        let most = usize::try_from(DOCUMENT).unwrap() - empty - r#"{"digest":"","size":0}"#.len();
        for (count, padding, done) in [
            (DESCRIPTORS, 0, Ok(())),
            (DESCRIPTORS + 1, 0, Err("target-layout-full".to_owned())),
            (1, most, Ok(())),
            (1, most + 1, Err("target-layout-full".to_owned())),
        ] {
            assert_eq!(fill(count, padding), done, "{count} of {padding}");
            assert!(layout.all().is_ok());
        }
    }

    #[test]
    fn a_change_that_fails_leaves_the_index_alone() {
        let (dir, layout) = layout();
        let before = fs::read(dir.path().join(INDEX)).unwrap();
        let lock = layout.lock(&Progress::default()).unwrap();
        assert!(lock.update_index(|_| Err(Error::Stopped)).is_err());
        assert_eq!(fs::read(dir.path().join(INDEX)).unwrap(), before);
        // What a crash has left behind is in nobody's way, and nobody is led somewhere else by it.
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join(NEW_INDEX)).unwrap();
        fs::set_permissions(dir.path().join(INDEX), fs::Permissions::from_mode(0o640)).unwrap();
        lock.update_index(|_| Ok(())).unwrap();
        assert!(!dir.path().join("elsewhere").exists());
        assert_eq!(fs::metadata(dir.path().join(INDEX)).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_stopped_job_does_not_wait_for_a_lock() {
        let (_dir, layout) = layout();
        let held = layout.lock(&Progress::default()).unwrap();
        let progress = Progress::default();
        let stopper = progress.clone();
        let stopping = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            stopper.stop();
        });
        assert!(matches!(layout.lock(&progress), Err(Error::Stopped)));
        stopping.join().unwrap();
        drop(held);
        layout.lock(&Progress::default()).unwrap();
    }

    #[test]
    fn a_lock_that_somebody_keeps_is_waited_for_and_then_given_up() {
        let (_dir, layout) = layout();
        let held = layout.lock(&Progress::default()).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| layout.lock(&Progress::default()).map(drop));
            thread::sleep(PATIENCE / 4);
            drop(held);
            waiting.join().unwrap().unwrap();
        });
        let _held = layout.lock(&Progress::default()).unwrap();
        let began = Instant::now();
        assert_eq!(layout.lock(&Progress::default()).unwrap_err().code(), "target-layout-locked");
        assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
    }

    #[test]
    fn a_blob_that_is_wanted_again_is_new() {
        let (_dir, layout) = layout();
        let made = container::Layout::new(&layout.dir).blob("", b"abc");
        let digest = made.digest.parse().unwrap();
        let path = layout.dir.join(blob_path(&digest));
        let old = SystemTime::now() - Duration::from_secs(86_400);
        File::open(&path).unwrap().set_modified(old).unwrap();
        let lock = layout.lock(&Progress::default()).unwrap();
        assert!(lock.renew(&digest).unwrap());
        let age = fs::metadata(&path).unwrap().modified().unwrap().elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(3600), "{age:?}");
        fs::remove_file(path).unwrap();
        assert!(!lock.renew(&digest).unwrap());
    }
}
