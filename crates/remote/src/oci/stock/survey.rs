//! Which images nobody needs any more, and what their removal would free.

use std::collections::BTreeMap;

use diskferry::{Error, Progress, Result};

use super::catalogue::Catalogue;
use super::keep::KeepList;
use super::list::name;
use super::tree::Tree;
use super::{Memory, Named, Stock};

/// What was found in a store.
#[derive(Default)]
pub struct Survey {
    /// How many images there are, those of several names counted once.
    pub images: usize,
    /// How many of them are needed.
    pub kept: usize,
    /// Bytes of everything that they consist of, as their documents have it; what several share counts once.
    pub size: u64,
    /// Images that are not needed, by their names.
    pub unused: Vec<Unused>,
    /// What their removal would free together.
    pub freed: u64,
    /// Names of repositories, with the number of images in each.
    pub repositories: BTreeMap<String, usize>,
    /// What cannot be read, with the name of the image. What is needed there is not known.
    pub unknown: Vec<(String, Error)>,
}

/// An image that is not needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// In a registry, the repository.
    pub repository: Option<String>,
    /// Its tags, or its names in a layout.
    pub tags: Vec<String>,
    /// The digest of its topmost document.
    pub digest: String,
    /// Bytes that only it has.
    pub frees: u64,
    /// Bytes that other images have as well, needed ones or not.
    pub shared: u64,
}

impl Unused {
    /// What it is called: with the first of its tags.
    pub fn name(&self) -> String {
        name(self.repository.as_deref(), self.tags.first().map(String::as_str), Some(&self.digest))
    }
}

/// One topmost document in one place, whatever its names.
pub(super) struct Group {
    pub(super) repository: Option<String>,
    tags: Vec<String>,
    pub(super) digest: String,
    pub(super) tree: Tree,
    pub(super) kept: bool,
    /// Why not all of what it leads to is known, where that is so.
    pub(super) unread: Option<String>,
}

impl Group {
    /// Whether it is what was found under the same names before.
    pub(super) fn is(&self, unused: &Unused) -> bool {
        self.repository == unused.repository && self.digest == unused.digest && self.tags == unused.tags
    }
}

/// A document that cannot be read.
pub(super) struct Problem {
    /// Name of the image that it belongs to.
    pub(super) name: String,
    /// Where that is: repository and digest, where it is known.
    place: Option<(Option<String>, String)>,
    /// Whether that is needed.
    pub(super) kept: bool,
    pub(super) error: Error,
}

impl Stock {
    /// Looks at every image, and finds out which ones `keep` does not need. Nothing is changed, and no layer fetched.
    pub fn survey(&self, keep: &KeepList, progress: &Progress) -> Result<Survey> {
        let (groups, problems) = self.groups(keep, progress, None)?;
        Ok(Survey::of(&groups, problems))
    }

    /// Everything that there is, or that is in one repository, and whether it is needed.
    pub(super) fn groups(
        &self,
        keep: &KeepList,
        progress: &Progress,
        only: Option<(&Catalogue, &str)>,
    ) -> Result<(Vec<Group>, Vec<Problem>)> {
        let (mut groups, mut problems): (Vec<Group>, Vec<Problem>) = (Vec::new(), Vec::new());
        let mut places: BTreeMap<(Option<String>, String), usize> = BTreeMap::new();
        let mut memory = Memory::default();
        let mut each = |named: Named| {
            let (repository, tag, digest) = (named.repository.clone(), named.tag.clone(), named.digest.clone());
            let full = name(repository.as_deref(), tag.as_deref(), digest.as_deref());
            let kept = keep.has(repository.as_deref(), tag.as_deref(), digest.as_deref().unwrap_or_default());
            let place = digest.map(|digest| (repository.clone(), digest));
            let known = place.as_ref().and_then(|place| places.get(place));
            if let Some(group) = known.and_then(|at| groups.get_mut(*at)) {
                group.kept |= kept;
                group.tags.extend(tag);
                return memory.keep(1);
            }
            let (mut tree, _) = Tree::of(named, &self.wish, progress)?;
            // Who needs one of the images of an index has it from there.
            let of_it = tree.documents.keys().filter(|digest| keep.has(repository.as_deref(), None, digest)).count();
            let kept = kept || of_it > 0;
            memory.image(tree.len(), tree.problems.len())?;
            let unread = tree.problems.first().map(|(_, error)| error.to_string());
            let found = tree.problems.drain(..);
            problems.extend(found.map(|(_, error)| Problem { name: full.clone(), place: place.clone(), kept, error }));
            // What a lost image was cannot be known.
            let Some(place) = place else { return Ok(()) };
            let (repository, digest) = place.clone();
            places.insert(place, groups.len());
            groups.push(Group { repository, tags: tag.into_iter().collect(), digest, tree, kept, unread });
            Ok(())
        };
        match only {
            None => self.each(progress, each)?,
            Some((catalogue, repository)) => self.each_of(catalogue, repository, progress, &mut each)?,
        }
        spread(&mut groups);
        for problem in &mut problems {
            // By another name, or as a part of something else.
            let known = problem.place.as_ref().and_then(|place| places.get(place));
            problem.kept |= known.and_then(|at| groups.get(*at)).is_some_and(|group| group.kept);
        }
        Ok((groups, problems))
    }
}

/// What is needed by what is needed, is needed: the images of an index, and what belongs to an image.
fn spread(groups: &mut [Group]) {
    // Who is needed when something of this digest is.
    let mut waiting: BTreeMap<(Option<String>, String), Vec<usize>> = BTreeMap::new();
    for (at, group) in groups.iter().enumerate().filter(|(_, group)| !group.kept) {
        let companions = group.tags.iter().filter_map(|tag| companion(tag));
        let belongs = group.tree.subjects.iter().cloned().chain(companions);
        for digest in std::iter::once(group.digest.clone()).chain(belongs) {
            waiting.entry((group.repository.clone(), digest)).or_default().push(at);
        }
    }
    let mut needed: Vec<_> = (0..groups.len()).filter(|at| groups.get(*at).is_some_and(|group| group.kept)).collect();
    while let Some(group) = needed.pop().and_then(|at| groups.get(at)) {
        let own = std::iter::once(&group.digest).chain(group.tree.documents.keys());
        let key = |digest: &String| (group.repository.clone(), digest.clone());
        let found: Vec<_> = own.filter_map(|digest| waiting.remove(&key(digest))).flatten().collect();
        for at in found {
            if let Some(group) = groups.get_mut(at).filter(|group| !group.kept) {
                group.kept = true;
                needed.push(at);
            }
        }
    }
}

/// Whose signature or attestation a tag has, by the custom of tools that had no other way to say it: `sha256-HEX.sig`.
fn companion(tag: &str) -> Option<String> {
    let (algorithm, rest) = tag.split_once('-')?;
    let hex = rest.split('.').next()?;
    let is_digest = matches!((algorithm, hex.len()), ("sha256", 64) | ("sha512", 128));
    is_digest.then(|| format!("{algorithm}:{hex}"))
}

impl Survey {
    pub(super) fn of(groups: &[Group], problems: Vec<Problem>) -> Self {
        let unknown = problems.into_iter().map(|problem| (problem.name, problem.error)).collect();
        let mut survey = Self { unknown, ..Self::default() };
        survey.add(groups);
        survey
    }

    fn add(&mut self, groups: &[Group]) {
        let mut users: BTreeMap<&str, (usize, bool, u64)> = BTreeMap::new();
        for group in groups {
            for (digest, size) in group.tree.sizes() {
                let entry = users.entry(digest).or_insert((0, false, size));
                entry.0 += 1;
                entry.1 |= group.kept;
            }
        }
        self.images = groups.len();
        self.kept = groups.iter().filter(|group| group.kept).count();
        self.size = users.values().fold(0, |sum, (_, _, size)| sum.saturating_add(*size));
        let free = users.values().filter(|(_, needed, _)| !needed);
        self.freed = free.fold(0, |sum, (_, _, size)| sum.saturating_add(*size));
        for group in groups {
            if let Some(repository) = &group.repository {
                *self.repositories.entry(repository.clone()).or_default() += 1;
            }
            if group.kept {
                continue;
            }
            let (mut frees, mut shared) = (0_u64, 0_u64);
            for (digest, size) in group.tree.sizes() {
                let is_own = users.get(digest).is_some_and(|(count, ..)| *count == 1);
                let sum = if is_own { &mut frees } else { &mut shared };
                *sum = sum.saturating_add(size);
            }
            let Group { repository, tags, digest, .. } = group;
            self.unused.push(Unused {
                repository: repository.clone(),
                tags: tags.clone(),
                digest: digest.clone(),
                frees,
                shared,
            });
        }
        self.unused.sort_by_key(Unused::name);
    }
}
