//! Objects in stores that speak S3: a signed URL is made, and the rest is HTTP.
//!
//! What is not read: `~/.aws`, and the services that give credentials to machines and pods.

use std::time::Duration;

use diskferry::{Error, Result};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use url::Url;

/// How long a signed URL is good for. It is signed once; resuming a download needs it until the end. No longer than it must be, and
/// temporary credentials end it earlier.
const VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// What the region is if nobody says.
const REGION: &str = "us-east-1";

/// An object, as in `s3://bucket/key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The key, without the slash in front and as it is, not escaped.
    pub key: String,
}

impl Object {
    /// Reads what stands behind `s3://`.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        // It becomes a part of a host name.
        let is_name = !bucket.is_empty()
            && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if !is_name || key.is_empty() {
            return Err("an object in S3 is named as in s3://bucket/key".into());
        }
        // A URL cannot name it: it would be another key, or one of another bucket.
        if key.split('/').any(|part| part == "." || part == "..") {
            return Err("a key in S3 with a part that is . or .. cannot be asked for".into());
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

/// A store, and who we are there.
pub struct Store {
    /// Where it is, if not at Amazon.
    endpoint: Option<Url>,
    region: String,
    credentials: Option<Credentials>,
}

impl Store {
    /// Reads `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`. Without a key, requests are not signed. Fails if they contradict each other.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let endpoint = match set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL")) {
            None => None,
            Some(typed) => {
                let url = Url::parse(&typed).ok();
                let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
                Some(url.ok_or_else(|| bad("AWS_ENDPOINT_URL is no http:// or https:// URL"))?)
            }
        };
        let region = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")).unwrap_or_else(|| REGION.to_owned());
        // It becomes a part of a host name.
        if !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(bad("AWS_REGION is no name of a region, as in eu-central-1"));
        }
        let credentials = match (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY"), set("AWS_SESSION_TOKEN")) {
            (Some(key), Some(secret), Some(token)) => Some(Credentials::new_with_token(key, secret, token)),
            (Some(key), Some(secret), None) => Some(Credentials::new(key, secret)),
            (None, None, _) => None,
            _ => return Err(bad("one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set, and the other is not")),
        };
        Ok(Self { endpoint, region, credentials })
    }

    /// A URL that `object` can be had from for a day, by everybody who knows it.
    pub fn url(&self, object: &Object) -> Result<Url> {
        let amazon = || format!("https://s3.{}.amazonaws.com", self.region).parse();
        let endpoint = self.endpoint.clone().map_or_else(amazon, Ok).map_err(|_| bad("there is no such region"))?;
        // Other stores seldom have a name for each bucket, and a certificate for `*` covers no name with a dot.
        let style = match self.endpoint {
            None if !object.bucket.contains('.') => UrlStyle::VirtualHost,
            _ => UrlStyle::Path,
        };
        let bucket = Bucket::new(endpoint, style, object.bucket.clone(), self.region.clone());
        let bucket = bucket.map_err(|error| bad(&error.to_string()))?;
        Ok(bucket.get_object(self.credentials.as_ref(), &object.key).sign(VALID))
    }
}

fn bad(what: &str) -> Error {
    Error::source("s3", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

    fn store(variables: &[(&str, &str)]) -> Result<Store> {
        Store::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn url(variables: &[(&str, &str)], object: &str) -> Url {
        store(variables).unwrap().url(&Object::parse(object).unwrap()).unwrap()
    }

    fn query(url: &Url, name: &str) -> Option<String> {
        url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    #[test]
    fn without_a_key_the_url_is_not_signed() {
        assert_eq!(
            url(&[], "images/a b/disk.raw").as_str(),
            "https://images.s3.us-east-1.amazonaws.com/a%20b/disk.raw"
        );
        let dotted = url(&[("AWS_DEFAULT_REGION", "eu-central-1")], "images.example/disk.raw");
        assert_eq!(dotted.as_str(), "https://s3.eu-central-1.amazonaws.com/images.example/disk.raw");
    }

    #[test]
    fn with_a_key_the_url_is_signed_and_shows_no_secret() {
        let variables = [&KEYS[..], &[("AWS_SESSION_TOKEN", "token"), ("AWS_REGION", "eu-west-1")]].concat();
        let url = url(&variables, "images/disk.raw");
        assert_eq!(query(&url, "X-Amz-Algorithm").as_deref(), Some("AWS4-HMAC-SHA256"));
        let credential = query(&url, "X-Amz-Credential").unwrap();
        assert!(
            credential.starts_with("AKIDEXAMPLE/") && credential.ends_with("/eu-west-1/s3/aws4_request"),
            "{credential}"
        );
        assert_eq!(query(&url, "X-Amz-Expires").as_deref(), Some("86400"));
        assert_eq!(query(&url, "X-Amz-Security-Token").as_deref(), Some("token"));
        assert_eq!(query(&url, "X-Amz-Signature").map(|signature| signature.len()), Some(64));
        assert!(!url.as_str().contains("hunter2"));
    }

    #[test]
    fn another_store_is_asked_by_path() {
        let general = [("AWS_ENDPOINT_URL", "http://general:9000")];
        assert_eq!(url(&general, "images/disk.raw").as_str(), "http://general:9000/images/disk.raw");
        let both = [general[0], ("AWS_ENDPOINT_URL_S3", "https://s3.example/store/")];
        assert_eq!(url(&both, "images/disk.raw").as_str(), "https://s3.example/store/images/disk.raw");
    }

    #[test]
    fn contradictions_are_refused() {
        for variables in
            [&KEYS[..1], &KEYS[1..], &[("AWS_ENDPOINT_URL", "host:9000")], &[("AWS_REGION", "evil.example/")]]
        {
            let error = store(variables).err().unwrap();
            assert!(error.code() == "source-s3" && !error.to_string().contains("hunter2"), "{error}");
        }
        for object in ["", "bucket", "bucket/", "/key", "user@host/key", "host:80/key"] {
            assert!(Object::parse(object).is_err(), "{object}");
        }
    }
}
