//! What an image consists of: its topmost document, and all that this names.

use std::collections::{BTreeMap, BTreeSet};

use diskferry::{Error, Progress, Result};

use super::super::below::Count;
use super::super::{Store, Wish};
use super::{Named, own};

/// A document with all below it.
#[derive(Default)]
pub(super) struct Tree {
    /// Manifests and indexes by digest, with their sizes.
    pub(super) documents: BTreeMap<String, u64>,
    /// Configurations, layers and whatever else manifests name, with their sizes.
    pub(super) blobs: BTreeMap<String, u64>,
    /// What cannot be read, or not be understood, with the digest if it is known. What lies below is not known then.
    pub(super) problems: Vec<(Option<String>, Error)>,
    /// What it belongs to, as a signature does.
    pub(super) subjects: BTreeSet<String>,
    count: Count,
}

impl Tree {
    /// Follows everything that the topmost document of an image names. No blob is looked at.
    pub(super) fn of(named: Named, wish: &Wish, progress: &Progress) -> Result<(Self, Store)> {
        let Named { digest, store, top, .. } = named;
        let mut tree = Self::default();
        match top {
            Err(error) => tree.problems.push((digest, error)),
            Ok((descriptor, bytes)) => {
                tree.documents.insert(descriptor.digest.clone(), descriptor.size);
                tree.descend(&store, &descriptor.digest, &bytes, 0, wish, progress)?;
            }
        }
        Ok((tree, store))
    }

    /// How many names it has of something.
    pub(super) fn len(&self) -> usize {
        self.documents.len().saturating_add(self.blobs.len()).saturating_add(self.subjects.len())
    }

    /// Digests and bytes of all that it consists of.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        let documents = self.documents.iter().map(|(digest, size)| (digest.as_str(), *size));
        let is_blob = |digest: &str| !self.documents.contains_key(digest);
        let blobs = self.blobs.iter().map(|(digest, size)| (digest.as_str(), *size));
        documents.chain(blobs.filter(move |(digest, _)| is_blob(digest)))
    }

    fn descend(
        &mut self,
        store: &Store,
        digest: &str,
        bytes: &[u8],
        depth: usize,
        wish: &Wish,
        progress: &Progress,
    ) -> Result<()> {
        progress.check()?;
        let below = match self.count.read(bytes, depth) {
            Err(error) => {
                self.problems.push((Some(digest.to_owned()), error));
                return Ok(());
            }
            Ok(below) => below,
        };
        self.subjects.extend(below.subject);
        for blob in below.blobs {
            self.blobs.entry(blob.digest).or_insert(blob.size);
        }
        for document in below.documents {
            if self.count.is_too_much() {
                // Has been told.
                break;
            }
            if self.documents.insert(document.digest.clone(), document.size).is_some() {
                continue;
            }
            match own(store.document(&document, "manifest", wish, progress))? {
                Ok(bytes) => self.descend(store, &document.digest, &bytes, depth + 1, wish, progress)?,
                Err(error) => self.problems.push((Some(document.digest), error)),
            }
        }
        Ok(())
    }
}
