//! Documents: small, and wanted as a whole.

use diskferry::{Error, Progress};
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;

use super::resource::Resource;
use super::retry::Patience;
use crate::client::Client;
use crate::failure::Failure;
use crate::room::with_room;
use crate::shown::Shown;

/// What is asked for.
pub(crate) struct Wanted<'a> {
    pub(crate) url: &'a Url,
    /// The types that it may have.
    pub(crate) accept: HeaderValue,
    /// Most bytes of it.
    pub(crate) most: u64,
}

/// A document with what the server said of it.
pub(crate) struct Document {
    pub(crate) bytes: Vec<u8>,
    pub(crate) headers: HeaderMap,
}

/// Asks for a document until it comes, or patience ends.
pub(crate) async fn get(
    client: &Client,
    wanted: &Wanted<'_>,
    patience: Patience,
    progress: &Progress,
) -> Result<Document, Error> {
    let mut resource = Resource::new(client, wanted.url, patience, progress);
    resource.accept = Some(wanted.accept.clone());
    let mut tries = resource.tries();
    loop {
        match whole(&resource, wanted).await {
            Ok(document) => return Ok(document),
            Err(failure) => tries.pause_after(failure).await?,
        }
    }
}

async fn whole(resource: &Resource, wanted: &Wanted<'_>) -> Result<Document, Failure> {
    let mut answer = resource.request(wanted.url, None).await?;
    let headers = answer.response.as_ref().map(|response| response.headers().clone()).unwrap_or_default();
    let mut bytes = with_room();
    while let Some(chunk) = resource.chunk(&mut answer).await? {
        if bytes.len() as u64 + chunk.len() as u64 > wanted.most {
            let what = format!("{} has more than the {} bytes that are allowed", Shown(wanted.url), wanted.most);
            return Err(Failure::never(Error::source("document-size", what)));
        }
        bytes.extend_from_slice(&chunk);
    }
    match answer.about.total {
        Some(total) if (bytes.len() as u64) < total => Err(resource.interrupted(bytes.len() as u64)),
        _ => Ok(Document { bytes, headers }),
    }
}
