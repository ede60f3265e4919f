//! Who may send: the token in the path, and the certificate of the client.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use subtle::ConstantTimeEq;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Where images are sent to.
const PATH: &str = "/upload";

/// The same, for who was made for CDI. What it answers is ours.
const CDI_PATHS: [&str; 2] = ["/v1beta1/upload", "/v1alpha1/upload"];

/// Fewest characters of a token, and fewest that differ: nobody guesses one that was made by chance.
const TOKEN: usize = 32;
const DIFFERENT: usize = 8;

/// Which paths lead to the upload.
#[derive(Clone)]
pub struct Paths {
    token: Option<String>,
    /// Whether the path without a token leads there though there is one.
    is_open: bool,
}

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { token, is_open } = self;
        f.debug_struct("Paths").field("has_token", &token.is_some()).field("is_open", is_open).finish()
    }
}

impl Paths {
    /// With a token, only the path that has it; `is_open` lets those without one be as good, for an ingress that looks at the token itself.
    pub fn new(token: Option<&str>, is_open: bool) -> Result<Self, &'static str> {
        let is_good = |token: &str| {
            let mut bytes: Vec<u8> = token.bytes().collect();
            let is_plain = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
            bytes.sort_unstable();
            bytes.dedup();
            is_plain && token.len() >= TOKEN && bytes.len() >= DIFFERENT
        };
        match token {
            Some(token) if !is_good(token) => {
                Err("a token has at least 32 letters, digits, - and _, made by chance, as by: openssl rand -hex 32")
            }
            token => Ok(Self { token: token.map(str::to_owned), is_open }),
        }
    }

    /// Whether `path` leads to the upload.
    pub fn leads(&self, path: &str) -> bool {
        let path = path.strip_suffix('/').unwrap_or(path);
        let is_bare = path == PATH || CDI_PATHS.contains(&path);
        match &self.token {
            None => is_bare,
            Some(token) => {
                let shown = path.strip_prefix(PATH).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
                // How long it takes tells nothing of how much was right.
                let is_right = bool::from(shown.as_bytes().ct_eq(token.as_bytes()));
                is_right || (self.is_open && is_bare)
            }
        }
    }
}

/// Lets in only who has a certificate of these authorities, as PEM.
pub fn clients(authorities: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|_| "no PEM certificate")?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider())).build();
    verifier.map(|verifier| verifier as _).map_err(|error| error.to_string())
}

/// Whether the certificate of a client has this name: as its common name, as platforms make them, or as a DNS name.
pub fn is_named(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let mut common = certificate.subject().iter_common_name().filter_map(|common| common.as_str().ok());
    let others = certificate.subject_alternative_name().ok().flatten();
    let mut others = others.iter().flat_map(|names| &names.value.general_names);
    common.any(|common| common == name)
        || others.any(|other| matches!(other, GeneralName::DNSName(dns) if *dns == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskferry_testkit::serve::tls::Authority;

    const GOOD: &str = "0123456789abcdefghijklmnopqrstuv";

    #[test]
    fn a_token_is_long_and_opens_its_own_path_only() {
        for bad in ["", "short", &"a".repeat(40), &format!("{GOOD}/"), &GOOD[1..], &"abcdefg".repeat(8)] {
            assert!(Paths::new(Some(bad), false).is_err(), "{bad}");
        }
        assert!(Paths::new(Some(&"abcdefgh".repeat(4)), false).is_ok());
        let paths = Paths::new(Some(GOOD), false).unwrap();
        assert!(paths.leads(&format!("/upload/{GOOD}")) && paths.leads(&format!("/upload/{GOOD}/")));
        for other in ["/upload", "/upload/", "/", "/v1beta1/upload", &format!("/upload/{GOOD}x"), &format!("/{GOOD}")] {
            assert!(!paths.leads(other), "{other}");
        }
        assert!(Paths::new(Some(GOOD), true).unwrap().leads("/upload"));
        let open = Paths::new(None, false).unwrap();
        assert!(open.leads("/upload") && open.leads("/v1beta1/upload") && !open.leads("/upload/x"));
        assert!(!format!("{paths:?}").contains(GOOD));
    }

    #[test]
    fn a_client_is_known_by_its_names() {
        let authority = Authority::new();
        let client = CertificateDer::from_pem_slice(authority.client("uploader").certificate.as_bytes()).unwrap();
        assert!(is_named(&client, "uploader") && !is_named(&client, "other") && !is_named(&client, ""));
        let server = CertificateDer::from_pem_slice(authority.server(&["a.example"]).certificate.as_bytes()).unwrap();
        assert!(is_named(&server, "a.example"));
        assert!(clients(authority.certificate().as_bytes()).is_ok() && clients(b"hunter2").is_err());
    }
}
