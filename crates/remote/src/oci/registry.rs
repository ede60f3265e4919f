//! Images in a registry: its API, as far as reading goes.
//! [Specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md).

use diskferry::digest::Checksum;
use diskferry::{Input, Progress, Result};
use reqwest::header::{CONTENT_TYPE, HeaderValue};

use super::desk::Desk;
use super::keys::Keys;
use super::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT, Descriptor, INDEX, MANIFEST, checksum, media_type, verify,
};
use super::reference::Reference;
use super::{Blob, Wish};
use crate::client::Client;
use crate::http::{self, document};
use crate::runtime::{Runtime, unless_stopped};

/// Images in one repository of a registry.
pub struct Registry {
    runtime: Runtime,
    client: Client,
    reference: Reference,
    is_plain: bool,
}

impl Registry {
    /// The image that `reference` names. It is asked for without TLS only if `is_plain` says so, whatever the host. Who we are is what
    /// `client` has, else what is found in `keys` when the registry wants to know.
    pub fn new(runtime: &Runtime, client: &Client, reference: &Reference, keys: &Keys, is_plain: bool) -> Self {
        let desk = Desk::new(client, reference, keys);
        let client = client.with_desk(desk);
        Self { runtime: runtime.clone(), client, reference: reference.clone(), is_plain }
    }

    /// What it was opened for.
    pub(super) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The document that the reference names: its descriptor, and its bytes, which have that digest.
    pub(super) fn named(&self, wish: &Wish, progress: &Progress) -> Result<(Descriptor, Vec<u8>)> {
        let found = self.document("manifests", &self.reference.version(), wish, progress)?;
        let stated = text(&found, CONTENT_TYPE.as_str()).and_then(|text| text.split(';').next()).unwrap_or_default();
        let media_type = media_type(&found.bytes, stated.trim());
        let digest = match (self.reference.digest(), text(&found, "docker-content-digest")) {
            (Some(digest), _) => digest.clone(),
            (None, Some(stated)) => checksum(stated)?,
            (None, None) => super::manifest::digest(&found.bytes)?,
        };
        verify(&found.bytes, &digest, "manifest")?;
        let descriptor = Descriptor {
            media_type,
            digest: digest.to_string(),
            size: found.bytes.len() as u64,
            platform: None,
            annotations: None,
        };
        Ok((descriptor, found.bytes))
    }

    /// The bytes of a manifest or another document, not compared with anything yet.
    pub(super) fn bytes(&self, kind: &str, digest: &Checksum, wish: &Wish, progress: &Progress) -> Result<Vec<u8>> {
        Ok(self.document(kind, &digest.to_string(), wish, progress)?.bytes)
    }

    fn document(&self, kind: &str, name: &str, wish: &Wish, progress: &Progress) -> Result<document::Document> {
        let url = self.reference.url(self.is_plain, kind, name)?;
        let accept = format!("{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}");
        let accept = if kind == "manifests" { accept } else { "*/*".into() };
        let accept = HeaderValue::try_from(accept).unwrap_or(HeaderValue::from_static("*/*"));
        let wanted = document::Wanted { url: &url, accept, most: DOCUMENT };
        let work = unless_stopped(progress, document::get(&self.client, &wanted, wish.how.patience, progress));
        self.runtime.block_on(work)?
    }

    pub(super) fn blob(&self, blob: &Descriptor, wish: &Wish, progress: &Progress) -> Result<Blob> {
        let url = self.reference.url(self.is_plain, "blobs", &blob.checksum()?.to_string())?;
        match http::open(&self.runtime, &self.client, &url, &wish.how, progress)? {
            Input::Stream { reader, .. } | Input::Unpacked { reader, .. } => Ok(Blob { reader, ranges: None }),
            Input::Ranged { reader, ranges, .. } => Ok(Blob { reader, ranges: Some(ranges) }),
            Input::File(file) => Ok(Blob { reader: Box::new(file), ranges: None }),
        }
    }
}

fn text<'a>(document: &'a document::Document, name: &str) -> Option<&'a str> {
    document.headers.get(name)?.to_str().ok()
}
