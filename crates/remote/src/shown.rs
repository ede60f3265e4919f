//! How a URL is shown to people: without what may be secret in it.

use std::fmt;

use url::Url;

/// Shows scheme, host, port and path. Name and password are left out, and so is the query, where presigned URLs have their
/// signature and others their token. No URL is printed in another way.
pub(crate) struct Shown<'a>(pub(crate) &'a Url);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.0;
        write!(f, "{}://{}{}", url.scheme(), Host(url), url.path())
    }
}

/// Shows the host of a URL, and the port if it has one of its own.
pub(crate) struct Host<'a>(pub(crate) &'a Url);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.host_str().unwrap_or_default())?;
        self.0.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_and_query_of_a_url_are_not_shown() {
        let shown = |url: &str| Shown(&Url::parse(url).unwrap()).to_string();
        let presigned = "https://user:pass@host.example:8443/a/b%20c.raw?X-Amz-Signature=abc#top";
        assert_eq!(shown(presigned), "https://host.example:8443/a/b%20c.raw");
        assert_eq!(shown("https://user@[::1]/"), "https://[::1]/");
    }
}
