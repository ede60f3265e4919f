//! What can go wrong with a request, and whether it is worth another.

use std::error::Error as Cause;
use std::fmt;
use std::io;
use std::time::Duration;

use diskferry::Error;
use rustls::{AlertDescription, CertificateError};
use url::Url;

use crate::client::{HEAD, HEADERS};
use crate::guard::PrivateName;
use crate::shown::{Host, Shown};

/// Why a request has no answer, or none that helps.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) again: Again,
}

/// Whether the same request might be answered if it is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// The answer will be the same.
    Never,
    /// The answer may be another one, and not before this time has passed if the server has said so.
    Later(Option<Duration>),
}

impl Failure {
    /// A failure that another try will not mend.
    pub(crate) fn never(error: Error) -> Self {
        Self { error, again: Again::Never }
    }

    /// A failure that another try may mend.
    pub(crate) fn later(error: Error) -> Self {
        Self { error: error.for_now(), again: Again::Later(None) }
    }

    /// What `error` means, which a request for `url` has ended with, by way of `proxy`. The text names no credentials: of the URL
    /// only what [`Shown`] shows, and of the error only its innermost cause.
    pub(crate) fn of_request(error: &reqwest::Error, url: &Url, proxy: Option<&Url>) -> Self {
        let host = Host(url);
        if let Some(private) = find::<PrivateName>(error) {
            return Self::never(Error::source("forbidden-host", private.to_string()));
        }
        if let Some(tls) = find::<rustls::Error>(error) {
            let via = Via(proxy);
            return Self::never(Error::source("tls", format!("no TLS with {host}{via}: {}", about_tls(tls))));
        }
        let cause = innermost(error).to_string();
        if let Some(proxy) = proxy.filter(|_| error.is_connect()) {
            let proxy = Shown(proxy);
            // The type is private there; this is what it says where the answer to CONNECT is 407.
            if cause == "tunnel error: proxy authorization required" {
                return Self::never(login_at_proxy(proxy));
            }
            return Self::later(Error::source(
                "unreachable",
                format!("no way to {host} through the proxy {proxy}: {cause}"),
            ));
        }
        if error.is_builder() {
            return Self::never(Error::source(
                "unreachable",
                format!("no request can be made for {}: {cause}", Shown(url)),
            ));
        }
        if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse_too_large) {
            return Self::long_head(url);
        }
        let cause = if error.is_timeout() { "no answer in time" } else { &cause };
        if error.is_connect() {
            return Self::later(Error::source("unreachable", format!("{host} cannot be reached: {cause}")));
        }
        Self::later(Error::source("unreachable", format!("{host} has not answered as HTTP has it: {cause}")))
    }

    /// The head of an answer from `url` is none that is read. It may be another's fault than the server's, and gone the next time.
    pub(crate) fn long_head(url: &Url) -> Self {
        let what = format!(
            "{} answers with a head that has more than the {HEADERS} headers or {} KiB that are allowed",
            Host(url),
            HEAD >> 10
        );
        Self::later(Error::source("unreachable", what))
    }

    /// Says where redirects have led to, since nobody has named that.
    pub(crate) fn of_redirect(mut self, url: &Url) -> Self {
        if let Error::Source { what, .. } = &mut self.error {
            what.push_str(&format!(" (redirects led to {})", Shown(url)));
        }
        self
    }

    /// The proxy wants to know who we are, or knows and does not like it.
    pub(crate) fn proxy_refuses(proxy: &Url) -> Self {
        Self::never(login_at_proxy(Shown(proxy)))
    }
}

fn login_at_proxy(proxy: Shown<'_>) -> Error {
    Error::source(
        "proxy",
        format!(
            "the proxy {proxy} wants another name and password; they stand in its URL, as in http://NAME:PASSWORD@HOST:PORT"
        ),
    )
}

struct Via<'a>(Option<&'a Url>);

impl fmt::Display for Via<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |proxy| write!(f, " through the proxy {}", Shown(proxy)))
    }
}

/// What went wrong, and the remedy if there is one.
fn about_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => about_certificate(error),
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate),
        ) => format!(
            "the server has refused ({alert:?}); it may want a client certificate, or another one (--cert, --key)"
        ),
        rustls::Error::InvalidMessage(_) => format!("what answers there does not speak TLS ({error}); http:// perhaps"),
        rustls::Error::PeerIncompatible(_) => format!("the server speaks no TLS that is still safe ({error})"),
        other => other.to_string(),
    }
}

fn about_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "the certificate is signed by nobody who is trusted here; if that is right, name who has signed it (--cacert)".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate has expired ({error}); the clock may be wrong here")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate is not valid yet ({error}); the clock may be wrong here")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate is for another name ({error})")
        }
        CertificateError::Other(other) if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) => {
            "the certificate is that of an authority (CA:TRUE), as openssl req -x509 makes it, and no server's; curl would take it. Make \
             one for the server that the authority signs, or one with -addext basicConstraints=critical,CA:FALSE"
                .into()
        }
        other => format!("the certificate is not accepted: {other}"),
    }
}

/// The error of type `E` among the causes of `error`.
fn find<'a, E: Cause + 'static>(error: &'a (dyn Cause + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn innermost<'a>(error: &'a (dyn Cause + 'static)) -> &'a (dyn Cause + 'static) {
    causes(error).last().unwrap_or(error)
}

/// All causes from without to within.
fn causes<'a>(error: &'a (dyn Cause + 'static)) -> impl Iterator<Item = &'a (dyn Cause + 'static)> {
    std::iter::successors(error.source(), |cause| within(*cause))
}

/// The next cause. One that travels in an [`io::Error`] is no source of it, but it itself.
fn within<'a>(cause: &'a (dyn Cause + 'static)) -> Option<&'a (dyn Cause + 'static)> {
    match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => cause.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_within_an_io_error_is_found() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let carried = io::Error::other(io::Error::other(tls));
        assert!(find::<rustls::Error>(&Outer(carried)).is_some());
    }

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }

    impl Cause for Outer {
        fn source(&self) -> Option<&(dyn Cause + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn every_certificate_that_is_not_accepted_has_its_reason() {
        let authority = rustls::OtherError(std::sync::Arc::new(webpki::Error::CaUsedAsEndEntity));
        let about = |error| about_tls(&rustls::Error::InvalidCertificate(error));
        assert!(about(CertificateError::Other(authority)).contains("CA:TRUE"));
        assert!(about(CertificateError::UnknownIssuer).contains("--cacert"));
        assert!(about(CertificateError::Expired).contains("clock"));
        assert!(about(CertificateError::NotValidForName).contains("another name"));
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(about_tls(&alert).contains("--cert"));
    }
}
