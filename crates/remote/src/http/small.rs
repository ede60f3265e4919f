//! Small files, as a whole.

use diskferry::{Error, Progress};
use url::Url;

use super::resource::Resource;
use super::retry::Patience;
use crate::client::Client;
use crate::failure::Failure;
use crate::shown::Shown;

/// Largest file of checksums, in bytes. Those of whole archives are a tenth of that.
const MOST: usize = 1 << 20;

/// The bytes at `url`.
pub(crate) async fn get(client: &Client, url: &Url, patience: Patience, progress: &Progress) -> Result<Vec<u8>, Error> {
    let resource = Resource::new(client, url, patience, progress);
    let mut tries = resource.tries();
    loop {
        match whole(&resource, url).await {
            Ok(bytes) => return Ok(bytes),
            Err(failure) => tries.pause_after(failure).await?,
        }
    }
}

async fn whole(resource: &Resource, url: &Url) -> Result<Vec<u8>, Failure> {
    let mut answer = resource.request(url, None).await?;
    if let Some(encoding) = &answer.about.encoding {
        let what = format!("{} comes packed as {encoding:?} (Content-Encoding)", Shown(url));
        return Err(Failure::never(Error::source("encoding", what)));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = resource.chunk(&mut answer).await? {
        if bytes.len() + chunk.len() > MOST {
            let what = format!("{} is larger than 1 MiB, and no file of checksums", Shown(url));
            return Err(Failure::never(Error::source("checksum-file", what)));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
