//! What a document of a store names, whether it is understood or not: something has to stay whole, or to be copied, as well if it is no disk
//! image.

use diskferry::{Error, Result};
use serde_json::Value;

use super::DEPTH;
use super::manifest::{Descriptor, json};

const FORMAT: &str = "oci";

/// Most descriptors in one document: a document of the largest size has room for no more.
const DESCRIPTORS: usize = 1 << 16;

/// What a document names.
pub(super) struct Below {
    /// Manifests and indexes.
    pub(super) documents: Vec<Descriptor>,
    /// Configurations, layers and whatever else.
    pub(super) blobs: Vec<Descriptor>,
    /// Digest of what it belongs to, as a signature does.
    pub(super) subject: Option<String>,
}

impl Below {
    /// Reads an index, a manifest, or something that is built like one: an artifact has to stay whole as well.
    pub(super) fn of(bytes: &[u8], depth: usize) -> Result<Self> {
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
