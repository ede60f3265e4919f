//! What a document of a store names, whether it is understood or not: something has to stay whole, or to be copied, as well if it is no disk
//! image.

use std::fmt;

use diskferry::{Error, Result};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::DEPTH;
use super::manifest::{Descriptor, Each, json, short};
use super::platform::Platform;

const FORMAT: &str = "oci";

/// Bytes of the documents of one image, and what all of them may name, together: sixty machines with as many layers as Docker takes.
const DOCUMENTS: u64 = 16 << 20;
const NAMED: usize = 1 << 13;

/// Bytes of a digest: some more than any that can be checked. What is only kept in mind may have another algorithm.
const DIGEST: usize = 160;

/// What the documents of one image have had so far.
#[derive(Debug, Default)]
pub(super) struct Count {
    bytes: u64,
    named: usize,
}

impl Count {
    /// Reads one more, which lies `depth` below the topmost one.
    pub(super) fn read(&mut self, bytes: &[u8], depth: usize) -> Result<Below> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > DOCUMENTS {
            let what = format!("the documents of the image have more than {DOCUMENTS} bytes together");
            return Err(Error::corrupt(FORMAT, "document-size", 0, what));
        }
        let below = Below::of(bytes, depth)?;
        let named = || below.documents.iter().chain(&below.blobs);
        if let Some(long) =
            named().map(|named| &named.digest).chain(&below.subject).find(|digest| digest.len() > DIGEST)
        {
            let what = format!("{:?} is no digest: it has {} bytes, {DIGEST} are allowed", short(long), long.len());
            return Err(Error::corrupt(FORMAT, "digest", 0, what));
        }
        self.named = self.named.saturating_add(named().count());
        if self.named > NAMED {
            let what = format!("the documents of the image name more than {NAMED} others and blobs together");
            return Err(Error::corrupt(FORMAT, "document", 0, what));
        }
        Ok(below)
    }

    /// Whether there were more than an image may have, so that no other is read.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes > DOCUMENTS || self.named > NAMED
    }
}

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
        let Document { manifests, config, layers, blobs, subject } = json(bytes, "manifest")?;
        // The last ones are of artifact manifests that were in a draft of the specification.
        let named: Vec<_> = [config, layers, blobs].into_iter().filter_map(|Named(named)| named).flatten().collect();
        if manifests.0.is_none() && named.is_empty() {
            let what = "a manifest names neither layers nor other manifests";
            return Err(Error::corrupt(FORMAT, "manifest", 0, what));
        }
        let documents = manifests.0.unwrap_or_default();
        Ok(Self { documents, blobs: named, subject: subject.map(|subject| subject.digest) })
    }
}

/// An index, a manifest or an artifact. Read at once into what is needed: a tree of whatever stands there takes a hundred times its text.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Named,
    #[serde(default)]
    config: Named,
    #[serde(default)]
    layers: Named,
    #[serde(default)]
    blobs: Named,
    subject: Option<Subject>,
}

/// A descriptor, without the annotations: these can be as long as all of the document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

impl From<Part> for Descriptor {
    fn from(Part { media_type, digest, size, platform }: Part) -> Self {
        Self { media_type, digest, size, platform, annotations: None }
    }
}

#[derive(Deserialize)]
struct Subject {
    digest: String,
}

/// What a field names: descriptors in a list, or one by itself.
#[derive(Default)]
struct Named(Option<Vec<Descriptor>>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("descriptors")
    }

    fn visit_unit<E>(self) -> std::result::Result<Named, E> {
        Ok(Named(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Named, A::Error> {
        Ok(Named(Some(vec![Part::deserialize(MapAccessDeserializer::new(map))?.into()])))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> std::result::Result<Named, A::Error> {
        let mut parts = Vec::new();
        Each::new(NAMED, |part: Part| parts.push(part.into())).visit_seq(list)?;
        Ok(Named(Some(parts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn found(text: &str) -> std::result::Result<[usize; 2], String> {
        let text = text.replace("ONE", &format!(r#"{{"digest":"{SUM}","size":3}}"#));
        let below = Below::of(text.as_bytes(), 0).map_err(|error| error.code())?;
        Ok([below.documents.len(), below.blobs.len()])
    }

    #[test]
    fn whatever_names_something_is_understood() {
        for (text, expected) in [
            (r#"{"manifests":[ONE,ONE]}"#, [2, 0]),
            (r#"{"manifests":[]}"#, [0, 0]),
            (r#"{"config":ONE,"layers":[ONE,ONE],"subject":ONE}"#, [0, 3]),
            (r#"{"config":null,"blobs":[ONE],"other":[[{}]]}"#, [0, 1]),
        ] {
            assert_eq!(found(text), Ok(expected), "{text}");
        }
        for (text, code) in [
            (r#"{"layers":[]}"#, "oci-manifest"),
            (r#"{"manifests":null}"#, "oci-manifest"),
            (r#"{"layers":[{"":0}]}"#, "oci-document"),
            (r#"{"layers":7}"#, "oci-document"),
        ] {
            assert_eq!(found(text), Err(code.to_owned()), "{text}");
        }
    }

    #[test]
    fn no_document_names_more_than_it_may() {
        let list = |count: usize| format!(r#"{{"layers":[{}]}}"#, vec!["ONE"; count].join(","));
        assert_eq!(found(&list(NAMED)), Ok([0, NAMED]));
        assert_eq!(found(&list(NAMED + 1)), Err("oci-document".into()));
    }

    #[test]
    fn the_documents_of_an_image_name_no_more_than_they_may_together() {
        let list =
            |count: usize| format!(r#"{{"manifests":[{}]}}"#, vec![r#"{"digest":"","size":0}"#; count].join(","));
        let mut count = Count::default();
        for _ in 0..2 {
            assert!(count.read(list(NAMED / 2).as_bytes(), 0).is_ok() && !count.is_too_much());
        }
        assert_eq!(count.read(list(1).as_bytes(), 0).err().unwrap().code(), "oci-document");
        assert!(count.is_too_much());
    }

    #[test]
    fn no_digest_is_longer_than_any_that_there_is() {
        for field in ["layers", "manifests", "subject"] {
            let read = |len: usize| {
                let one = format!(r#"{{"digest":"{}","size":0}}"#, "x".repeat(len));
                let text = if field == "subject" {
                    format!(r#"{{"layers":[{{"digest":"","size":0}}],"subject":{one}}}"#)
                } else {
                    format!(r#"{{"{field}":[{one}]}}"#)
                };
                Count::default().read(text.as_bytes(), 0).err().map(|error| error.code())
            };
            assert_eq!([DIGEST, DIGEST + 1].map(read), [None, Some("oci-digest".into())], "{field}");
        }
    }
}
