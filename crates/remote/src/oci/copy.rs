//! From one store to another, as it stands there: documents and blobs keep their bytes, and so their digests.
//!
//! All documents are read first, which tells what there is to do. Then blobs go over, those that are there already left out; then documents,
//! each after those that it names; and last the one that gets the name.

use std::collections::BTreeSet;

use diskferry::digest::Checksum;
use diskferry::{Error, Progress, Result};

use super::below::Count;
use super::layer::Verified;
use super::manifest::Descriptor;
use super::push::{Publication, RESTARTS, Sent, Target, anew};
use super::{Blob, Store, Wish};

/// What was copied.
#[derive(Debug, Clone)]
pub struct Copied {
    /// Digest of the document that has the name.
    pub digest: Checksum,
    /// Manifests and indexes.
    pub documents: usize,
    /// Configurations and layers.
    pub blobs: usize,
    /// Bytes of all blobs.
    pub size: u64,
    /// Bytes of blobs that were sent or written.
    pub uploaded: u64,
    /// Bytes of blobs that were there already.
    pub skipped: u64,
    /// Bytes of blobs that the registry took from another of its repositories.
    pub mounted: u64,
}

/// Copies an image from `from` to `to`: all that its name leads to, or with a platform the image for that.
pub fn copy(from: &Store, to: &Target, wish: &Wish, progress: &Progress) -> Result<Copied> {
    let (mut top, mut bytes) = from.named(wish, progress)?;
    if wish.platform.is_some() {
        let manifest;
        ((top, bytes), manifest) = from.below(top, bytes, wish, progress)?;
        let config = from.config(&manifest, wish, progress)?;
        // Who looks for it in a layout reads that there.
        top.platform.get_or_insert_with(|| config.platform());
    }
    let digest = top.checksum()?;
    let mut image = Image::default();
    image.descend(from, top, bytes, 0, wish, progress)?;
    let size = image.check_sizes(wish)?;
    progress.expect(size);

    let mut copied = Copied {
        digest,
        documents: image.documents.len(),
        blobs: image.blobs.len(),
        size,
        uploaded: 0,
        skipped: 0,
        mounted: 0,
    };
    let copier = Copier { from, to, wish, progress };
    for blob in &image.blobs {
        copier.blob(blob, &mut copied)?;
        progress.reach(copied.done());
    }
    progress.check()?;
    let last = image.documents.pop();
    for (document, bytes) in &image.documents {
        to.document(document, bytes, progress)?;
    }
    if let Some((top, bytes)) = last {
        let named = Publication {
            manifest: &bytes,
            digest: copied.digest.clone(),
            media_type: &top.media_type,
            platform: top.platform.as_ref(),
        };
        to.publish(&named, progress)?;
    }
    Ok(copied)
}

/// An image, as far as it has been read.
#[derive(Default)]
struct Image {
    /// Each behind those that it names.
    documents: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<Descriptor>,
    /// What is in one of the two, or will be.
    known: BTreeSet<String>,
    count: Count,
}

impl Image {
    fn descend(
        &mut self,
        from: &Store,
        document: Descriptor,
        bytes: Vec<u8>,
        depth: usize,
        wish: &Wish,
        progress: &Progress,
    ) -> Result<()> {
        progress.check()?;
        self.known.insert(document.digest.clone());
        let below = self.count.read(&bytes, depth)?;
        for blob in below.blobs {
            let blob = blob.bare()?;
            if self.known.insert(blob.digest.clone()) {
                self.blobs.push(blob);
            }
        }
        for next in below.documents {
            if self.known.insert(next.digest.clone()) {
                let bytes = from.document(&next, "manifest", wish, progress)?;
                self.descend(from, next, bytes, depth + 1, wish, progress)?;
            }
        }
        // Without the room that it was read into.
        self.documents.push((document, bytes.to_vec()));
        Ok(())
    }

    /// That no blob is larger than a layer may be that is read; bytes of all of them.
    fn check_sizes(&self, wish: &Wish) -> Result<u64> {
        let limit = wish.limits.stream();
        match self.blobs.iter().map(|blob| blob.size).find(|size| *size > limit) {
            Some(wanted) => Err(Error::Limit { what: "size of a blob in bytes", wanted, limit, option: "--max-size" }),
            None => Ok(self.blobs.iter().fold(0, |sum, blob| blob.size.saturating_add(sum))),
        }
    }
}

struct Copier<'a> {
    from: &'a Store,
    to: &'a Target,
    wish: &'a Wish,
    progress: &'a Progress,
}

impl Copier<'_> {
    fn blob(&self, blob: &Descriptor, copied: &mut Copied) -> Result<()> {
        let digest = blob.checksum()?;
        if self.to.has(&digest, blob.size, self.progress)? {
            copied.skipped = copied.skipped.saturating_add(blob.size);
            return Ok(());
        }
        if self.mount(&digest)? {
            copied.mounted = copied.mounted.saturating_add(blob.size);
            return Ok(());
        }
        let before = copied.done();
        let sent: Sent = anew(RESTARTS, || {
            let Blob { reader, .. } = self.from.blob(blob, self.wish, self.progress)?;
            let reader = Verified::stored(reader, blob, self.progress)?.counted_from(before);
            Ok::<_, Error>(self.to.blob_of(&mut { reader }, digest.algorithm, self.progress))
        })??;
        copied.uploaded = copied.uploaded.saturating_add(sent.uploaded);
        copied.skipped = copied.skipped.saturating_add(sent.size.saturating_sub(sent.uploaded));
        Ok(())
    }

    /// Whether the registry that has the blob in another repository has taken it from there.
    fn mount(&self, digest: &Checksum) -> Result<bool> {
        let (Store::Registry(from), Target::Registry(to)) = (self.from, self.to) else { return Ok(false) };
        match to.mount_from(from, digest, self.progress) {
            // Who may not do that may still send it.
            Err(Error::Target { .. }) => Ok(false),
            done => done,
        }
    }
}

impl Copied {
    fn done(&self) -> u64 {
        self.uploaded.saturating_add(self.skipped).saturating_add(self.mounted)
    }
}
