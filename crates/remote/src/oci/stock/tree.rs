//! What an image consists of: its topmost document, and all that this names.

use std::collections::{BTreeMap, BTreeSet};

use diskferry::{Error, Progress, Result};
use serde_json::Value;

use super::super::manifest::{Descriptor, json};
use super::super::{DEPTH, Store, Wish};
use super::{Named, own};

const FORMAT: &str = "oci";

/// A document with all below it.
#[derive(Default)]
pub(super) struct Tree {
    /// Manifests and indexes by digest, with their sizes.
    pub(super) documents: BTreeMap<String, u64>,
    /// Configurations, layers and whatever else manifests name.
    pub(super) blobs: BTreeMap<String, Descriptor>,
    /// What cannot be read, or not be understood, with the digest if it is known. What lies below is not known then.
    pub(super) problems: Vec<(Option<String>, Error)>,
    /// What it belongs to, as a signature does.
    pub(super) subjects: BTreeSet<String>,
}

/// Most descriptors in one document: a document of the largest size has room for no more.
const DESCRIPTORS: usize = 1 << 16;

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

    /// Digests and bytes of all that it consists of.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        let documents = self.documents.iter().map(|(digest, size)| (digest.as_str(), *size));
        let is_blob = |digest: &str| !self.documents.contains_key(digest);
        let blobs = self.blobs.values().map(|blob| (blob.digest.as_str(), blob.size));
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
        let below = match Below::of(bytes, depth) {
            Err(error) => {
                self.problems.push((Some(digest.to_owned()), error));
                return Ok(());
            }
            Ok(below) => below,
        };
        self.subjects.extend(below.subject);
        for blob in below.blobs {
            self.blobs.entry(blob.digest.clone()).or_insert(blob);
        }
        for document in below.documents {
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

/// What a document names.
struct Below {
    documents: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
    subject: Option<String>,
}

impl Below {
    /// Reads an index, a manifest, or something that is built like one: an artifact has to stay whole as well.
    fn of(bytes: &[u8], depth: usize) -> Result<Self> {
        if depth > DEPTH {
            let what = format!("indexes lie in one another, more than {DEPTH} deep");
            return Err(Error::corrupt(FORMAT, "index-depth", 0, what));
        }
        let value: Value = json(bytes, "manifest")?;
        let list = |name: &str| -> Result<Vec<Descriptor>> {
            let Some(found) = value.get(name).filter(|found| !found.is_null()) else { return Ok(Vec::new()) };
            let found = if found.is_array() { found.clone() } else { Value::Array(vec![found.clone()]) };
            let found: Option<Vec<Descriptor>> = serde_json::from_value(found).ok();
            let found = found.filter(|found: &Vec<Descriptor>| found.len() <= DESCRIPTORS);
            found.ok_or_else(|| {
                Error::corrupt(FORMAT, "manifest", 0, format!("{name:?} of the manifest has no descriptors"))
            })
        };
        let documents = list("manifests")?;
        let mut blobs = list("config")?;
        blobs.extend(list("layers")?);
        // Of artifact manifests that were in a draft of the specification.
        blobs.extend(list("blobs")?);
        if documents.is_empty() && blobs.is_empty() && value.get("manifests").is_none() {
            let what = "a manifest names neither layers nor other manifests";
            return Err(Error::corrupt(FORMAT, "manifest", 0, what));
        }
        let subject = value.get("subject").and_then(|subject| subject.get("digest")).and_then(Value::as_str);
        Ok(Self { documents, blobs, subject: subject.map(str::to_owned) })
    }
}
