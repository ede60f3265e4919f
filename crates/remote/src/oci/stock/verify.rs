//! Whether images are there and whole: every document, and every byte of every blob.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

use diskferry::{Error, Progress, Result};

use super::super::Store;
use super::super::layer::Verified;
use super::super::manifest::Descriptor;
use super::list::name;
use super::tree::Tree;
use super::{Memory, Named, Stock, own};

/// What was found out about an image.
pub struct Verdict {
    /// As [`Row::name`](super::Row::name) has it.
    pub name: String,
    /// The digest of its topmost document, where that is known.
    pub digest: Option<String>,
    /// Bytes of all that it consists of, as far as that is known.
    pub size: u64,
    /// What is wrong. An image without is whole.
    pub findings: Vec<Finding>,
}

/// Something that an image lacks, or that is not what it should be.
pub struct Finding {
    /// Which part it is, where that is known.
    pub digest: Option<String>,
    /// What is wrong with it. Several images may have the same part.
    pub error: Rc<Error>,
}

impl Stock {
    /// Reads every image, or the one that is called `wanted` or has this digest, and compares it with its digests. A blob that
    /// several images have is read once; that other repositories have it too is asked.
    pub fn verify(&self, wanted: Option<&str>, progress: &Progress) -> Result<Vec<Verdict>> {
        let mut known: BTreeMap<String, Option<Rc<Error>>> = BTreeMap::new();
        let mut verdicts = Vec::new();
        let mut memory = Memory::default();
        self.each(progress, |named| {
            let full = name(named.repository.as_deref(), named.tag.as_deref(), named.digest.as_deref());
            if wanted.is_some_and(|wanted| wanted != full && Some(wanted) != named.digest.as_deref()) {
                return Ok(());
            }
            let before = known.len();
            let verdict = self.verdict(full, named, &mut known, progress)?;
            memory.image(known.len().saturating_sub(before), verdict.findings.len())?;
            verdicts.push(verdict);
            Ok(())
        })?;
        match wanted {
            Some(wanted) if verdicts.is_empty() => {
                Err(Error::source("not-found", format!("there is no image {wanted:?}; list shows the names")))
            }
            _ => Ok(verdicts),
        }
    }

    fn verdict(
        &self,
        name: String,
        named: Named,
        known: &mut BTreeMap<String, Option<Rc<Error>>>,
        progress: &Progress,
    ) -> Result<Verdict> {
        let (repository, digest) = (named.repository.clone().unwrap_or_default(), named.digest.clone());
        let (tree, store) = Tree::of(named, &self.wish, progress)?;
        let mut findings: Vec<_> =
            tree.problems.into_iter().map(|(digest, error)| Finding { digest, error: Rc::new(error) }).collect();
        let mut size = tree.documents.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
        for (digest, len) in &tree.blobs {
            size = size.saturating_add(*len);
            // Another image may say another length of it, and in another repository it may be missing.
            let content = format!("{digest} {len} ");
            let key = format!("{content}{repository}");
            if !known.contains_key(&key) {
                let blob = Descriptor::blob(digest, *len);
                let mut elsewhere = known.range(content.clone()..).take_while(|(key, _)| key.starts_with(&content));
                let found = match elsewhere.any(|(_, error)| error.is_none()) {
                    true => store.blob(&blob, &self.wish, progress).map(drop),
                    false => self.read(&store, &blob, progress),
                };
                known.insert(key.clone(), own(found)?.err().map(Rc::new));
            }
            if let Some(Some(error)) = known.get(&key) {
                findings.push(Finding { digest: Some(digest.clone()), error: Rc::clone(error) });
            }
        }
        Ok(Verdict { name, digest, size, findings })
    }

    fn read(&self, store: &Store, blob: &Descriptor, progress: &Progress) -> Result<()> {
        let found = store.blob(blob, &self.wish, progress)?;
        let mut reader = Verified::stored(found.reader, blob, progress)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::reading(0, error)),
            }
        }
    }
}
