//! Removing what nobody needs, while others may push.
//!
//! In a layout everything is decided while it is locked: who adds an image enters it in the index under the same lock, together with
//! its blobs. So what the index leads to is all that there is, but for what tools without that lock are about to add; for these, nothing
//! that is younger than the grace period is removed. A registry is asked to delete manifests, and its blobs are for its own
//! collector. Nothing keeps others from pushing there meanwhile: each repository is looked at once more before anything in it is deleted.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use diskferry::{Error, Progress, Result};

use super::super::Store;
use super::super::layout::{Layout, Lock, blob_path, writing};
use super::super::manifest::checksum;
use super::super::stow::left_behind;
use super::catalogue::Catalogue;
use super::keep::KeepList;
use super::seen::Seen;
use super::survey::{Group, Survey, Unused};
use super::tree::Tree;
use super::{Means, Named, Stock};

/// What is to be removed.
pub struct Order<'a> {
    /// What is needed.
    pub keep: &'a KeepList,
    /// Whether it may be that nothing of what there is is needed.
    pub keep_nothing: bool,
    /// What is younger stays.
    pub grace: Duration,
    /// Of a registry, since when something has not been needed.
    pub seen: Option<&'a mut Seen>,
    /// Whether to do it, and not only to say what would be done.
    pub act: bool,
}

/// What was removed, or would be.
pub struct Sweep {
    /// What there was before.
    pub survey: Survey,
    /// Images that were removed.
    pub removed: Vec<Unused>,
    /// Images that are not needed, and stay because they are too young.
    pub young: Vec<Unused>,
    /// Files of a layout that were removed, and their bytes.
    pub blobs: usize,
    /// Of a layout, bytes of the files that were removed; of a registry, those that its own collector can remove.
    pub freed: u64,
}

impl Stock {
    /// Removes the images that `order` does not need, and in a layout the blobs that nobody names.
    pub fn sweep(&self, order: Order<'_>, progress: &Progress) -> Result<Sweep> {
        match &self.means {
            Means::Layout(layout) => {
                // Who only looks need not be one who may write.
                let lock = order.act.then(|| layout.lock(progress)).transpose()?;
                self.sweep_layout(layout, lock.as_ref(), &order, progress)
            }
            Means::Registry(catalogue) => self.sweep_registry(catalogue, order, progress),
        }
    }

    fn sweep_layout(
        &self,
        layout: &Layout,
        lock: Option<&Lock>,
        order: &Order<'_>,
        progress: &Progress,
    ) -> Result<Sweep> {
        let (groups, survey) = self.look(order, progress)?;
        let now = SystemTime::now();
        let is_old = |path: PathBuf| -> Result<bool> {
            match fs::metadata(&path).and_then(|found| found.modified()) {
                Ok(modified) => Ok(now.duration_since(modified).unwrap_or_default() >= order.grace),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                Err(error) => Err(writing("looking at a blob of the image layout", &path, error)),
            }
        };
        let (mut gone, mut sweep) = (BTreeSet::new(), Sweep::of(survey));
        for unused in &sweep.survey.unused {
            // Of a digest of another kind it is not known where its file would be, and how old it is.
            let is_old = match checksum(&unused.digest) {
                Ok(digest) => is_old(layout.path(&blob_path(&digest)))?,
                Err(_) => order.grace.is_zero(),
            };
            if is_old {
                gone.insert(unused.digest.clone());
                sweep.removed.push(unused.clone());
            } else {
                sweep.young.push(unused.clone());
            }
        }
        let mut live = BTreeSet::new();
        for group in groups.iter().filter(|group| !gone.contains(&group.digest)) {
            if let Some(why) = &group.unread {
                return Err(not_whole(&group.digest, "stays in the index", why));
            }
            live.extend(group.tree.sizes().map(|(digest, _)| digest.to_owned()));
        }
        if let Some(lock) = lock.filter(|_| !gone.is_empty()) {
            lock.update_index(|images| {
                images.retain(|image| image.digest().is_none_or(|digest| !gone.contains(&digest)));
                Ok(())
            })?;
        }
        if lock.is_some() {
            // What a tool without our lock has entered since is in the index now.
            live.extend(self.live(layout, progress)?);
        }
        let dir = layout.path(Path::new(""));
        let left = left_behind(&dir).map_err(|error| writing("looking into the image layout", &dir, error))?;
        let unnamed = layout.blobs()?.into_iter().filter(|(_, digest, _)| !live.contains(digest));
        let left = left.iter().map(|(path, size, _locked)| (path.clone(), *size));
        for (path, size) in unnamed.map(|(path, _, size)| (path, size)).chain(left) {
            progress.check()?;
            if !is_old(path.clone())? {
                continue;
            }
            if lock.is_some() {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(writing("removing a blob of the image layout", &path, error));
                    }
                    _ => {}
                }
            }
            sweep.blobs += 1;
            sweep.freed = sweep.freed.saturating_add(size);
        }
        Ok(sweep)
    }

    /// Everything that the index of a layout leads to.
    fn live(&self, layout: &Layout, progress: &Progress) -> Result<BTreeSet<String>> {
        let mut live = BTreeSet::new();
        for image in layout.all()? {
            let store = Store::Layout(layout.clone(), None);
            let digest = Some(image.digest.clone());
            let top = store.document(&image, "manifest", &self.wish, progress).map(|bytes| (image, bytes));
            let named = Named { repository: None, tag: None, digest: digest.clone(), store, top };
            let (tree, _) = Tree::of(named, &self.wish, progress)?;
            if let Some((_, error)) = tree.problems.first() {
                return Err(not_whole(digest.as_deref().unwrap_or_default(), "stays in the index", error));
            }
            live.extend(tree.sizes().map(|(digest, _)| digest.to_owned()));
        }
        Ok(live)
    }

    fn sweep_registry(&self, catalogue: &Catalogue, order: Order<'_>, progress: &Progress) -> Result<Sweep> {
        let (groups, survey) = self.look(&order, progress)?;
        let mut sweep = Sweep::of(survey);
        let Order { keep, grace, seen, act, .. } = order;
        if seen.is_none() && !grace.is_zero() {
            let what = "a registry does not say when an image was pushed: name a file that remembers what was seen (--seen), or do \
                        without a grace period (--grace 0s)";
            return Err(Error::Target { code: "age-unknown", what: what.into() });
        }
        let now = SystemTime::now();
        let host = &catalogue.host;
        let place = catalogue.prefix.as_ref().map_or_else(|| host.clone(), |prefix| format!("{host}/{prefix}"));
        let age = |unused: &Unused| seen.as_ref().map_or(Duration::ZERO, |seen| seen.age(&key(host, unused), now));
        let (old, young): (Vec<_>, Vec<_>) =
            sweep.survey.unused.iter().cloned().partition(|unused| age(unused) >= grace);
        if let Some(seen) = seen {
            seen.keep(&place, sweep.survey.unused.iter().map(|unused| key(host, unused)), now)?;
        }
        sweep.young = young;
        if !act {
            sweep.freed = freed(&groups, &old);
            sweep.removed = old;
            return Ok(sweep);
        }
        let repositories: BTreeSet<_> = old.iter().filter_map(|unused| unused.repository.clone()).collect();
        for repository in repositories {
            // What was pushed, and what has got a name, since then.
            let (again, problems) = self.groups(keep, progress, Some((catalogue, &repository)))?;
            if let Some(problem) = problems.iter().find(|problem| problem.kept) {
                return Err(not_whole(&problem.name, "is needed", &problem.error));
            }
            let is_gone = |group: &Group| !group.kept && old.iter().any(|unused| group.is(unused));
            let (gone, stay): (Vec<_>, Vec<_>) = again.iter().partition(|group| is_gone(group));
            let live: BTreeSet<_> = stay.iter().flat_map(|group| group.tree.documents.keys()).collect();
            for group in gone {
                // From the top, so that a job that is stopped leaves no index without its images. Names go with what they name.
                let below = group.tree.documents.keys().filter(|digest| **digest != group.digest);
                for digest in std::iter::once(&group.digest).chain(below).filter(|digest| !live.contains(digest)) {
                    progress.check()?;
                    catalogue.delete(&repository, &checksum(digest)?, &self.wish, progress)?;
                }
                sweep.removed.extend(old.iter().find(|unused| group.is(unused)).cloned());
            }
        }
        sweep.freed = freed(&groups, &sweep.removed);
        Ok(sweep)
    }

    /// What there is, once it is sure that removing the rest does no harm to what is needed.
    fn look(&self, order: &Order<'_>, progress: &Progress) -> Result<(Vec<Group>, Survey)> {
        let (groups, problems) = self.groups(order.keep, progress, None)?;
        if let Some(problem) = problems.iter().find(|problem| problem.kept) {
            return Err(not_whole(&problem.name, "is needed", &problem.error));
        }
        // What is damaged or gone stays so. What cannot be read at the moment may be what says that something else is needed.
        let is_for_now =
            |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() != io::ErrorKind::NotFound);
        if let Some(problem) = problems.iter().find(|problem| is_for_now(&problem.error)) {
            return Err(not_whole(&problem.name, "is there", &problem.error));
        }
        let survey = Survey::of(&groups, problems);
        if survey.kept == 0 && survey.images > 0 && !order.keep_nothing {
            let what = format!(
                "of {} images none is in the list of those to keep, which may be another's (--keep-nothing)",
                survey.images
            );
            return Err(Error::Target { code: "keeps-nothing", what });
        }
        Ok((groups, survey))
    }
}

impl Sweep {
    fn of(survey: Survey) -> Self {
        Self { survey, removed: Vec::new(), young: Vec::new(), blobs: 0, freed: 0 }
    }
}

/// What an image is remembered by: elsewhere, and under another name, it is another.
fn key(host: &str, unused: &Unused) -> String {
    let repository = unused.repository.as_deref().unwrap_or_default();
    format!("{host}/{repository}@{} {}", unused.digest, unused.tags.join(" "))
}

/// Bytes of what only these have.
fn freed(groups: &[Group], gone: &[Unused]) -> u64 {
    let (gone, stay): (Vec<_>, Vec<_>) = groups.iter().partition(|group| gone.iter().any(|unused| group.is(unused)));
    let live: BTreeSet<_> = stay.iter().flat_map(|group| group.tree.sizes()).map(|(digest, _)| digest).collect();
    let mut freed = std::collections::BTreeMap::new();
    freed.extend(gone.iter().flat_map(|group| group.tree.sizes()).filter(|(digest, _)| !live.contains(digest)));
    freed.values().fold(0, |sum, size| sum.saturating_add(*size))
}

/// What an image needs is not known if its documents cannot be read. Nothing is removed then.
fn not_whole(name: &str, why: &str, error: impl Display) -> Error {
    let what = format!(
        "{name} {why} and cannot be read, so that it is not known what it needs ({error}): nothing more is removed"
    );
    Error::Target { code: "not-whole", what }
}
