//! Whom we believe on the other end of TLS, and by what we prove who we are there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskferry::{Error, Result, names};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::own_file;

/// Largest file of certificates that is read, in bytes. All roots of a system are a quarter of a megabyte.
const MOST: u64 = 16 << 20;

/// Whom we believe, and who we are. The default believes whom the system believes.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Files of PEM certificates, and directories of such files, that are believed besides the system's.
    pub ca: Vec<PathBuf>,
    /// The same, as PEM itself.
    pub pem: Option<String>,
    /// What proves who we are.
    pub identity: Option<Identity>,
    /// Believe everybody.
    pub insecure: bool,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// PEM: the certificate, and what it is signed by.
    pub cert: PathBuf,
    /// PEM: its key, which may stand in the same file.
    pub key: PathBuf,
}

/// Settings for connections, made once.
pub(crate) struct Settings {
    /// With the client certificate, if there is one.
    pub(crate) own: ClientConfig,
    /// Without it.
    pub(crate) anonymous: ClientConfig,
    /// Whether nobody is believed, as in a container without a file of roots.
    pub(crate) rootless: bool,
}

impl Trust {
    /// Reads all files that are named.
    pub(crate) fn settings(&self) -> Result<Settings> {
        // The provider is named here and not installed for the process, where another library may have installed its own.
        let provider = Arc::new(ring::default_provider());
        let builder =
            || ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let roots = Arc::new(self.roots()?);
        let rootless = roots.is_empty() && !self.insecure;
        let verified = || -> Result<_> {
            let builder = builder().map_err(|error| Error::source("access", error.to_string()))?;
            Ok(if self.insecure {
                let everybody = Arc::new(Everybody { provider: Arc::clone(&provider) });
                builder.dangerous().with_custom_certificate_verifier(everybody)
            } else {
                builder.with_root_certificates(Arc::clone(&roots))
            })
        };
        let anonymous = verified()?.with_no_client_auth();
        let own = match &self.identity {
            None => anonymous.clone(),
            Some(identity) => {
                let (chain, key) = (certificates(&identity.cert)?, key(&identity.key)?);
                let pair = verified()?.with_client_auth_cert(chain, key);
                pair.map_err(|error| {
                    bad(&identity.cert, format!("not usable with {}: {error}", identity.key.display()))
                })?
            }
        };
        Ok(Settings { own, anonymous, rootless })
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        if self.insecure {
            return Ok(roots);
        }
        // Honours SSL_CERT_FILE and SSL_CERT_DIR. A certificate of the system that cannot be read is one that is not believed.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for path in &self.ca {
            let is_dir = fs::metadata(path).map_err(|error| bad(path, error))?.is_dir();
            let certificates = if is_dir { certificates_in(path)? } else { certificates(path)? };
            for certificate in certificates {
                roots.add(certificate).map_err(|error| bad(path, error))?;
            }
        }
        for certificate in CertificateDer::pem_slice_iter(self.pem.as_deref().unwrap_or_default().as_bytes()) {
            let bad = |what: String| Error::source("access", format!("a certificate that was given: {what}"));
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        Ok(roots)
    }
}

/// All certificates of all files in `dir`.
fn certificates_in(dir: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let mut all = Vec::new();
    for name in names(dir).map_err(|error| bad(dir, error))? {
        let path = dir.join(name.map_err(|error| bad(dir, error))?);
        if fs::metadata(&path).is_ok_and(|file| file.is_file()) {
            // Other files may lie there too.
            all.extend(certificates(&path).unwrap_or_default());
        }
    }
    if all.is_empty() {
        return Err(bad(dir, "no file in it has a PEM certificate"));
    }
    Ok(all)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(bad(path, "no PEM certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(bad(path, error)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| bad(path, "no PEM private key in it that is not encrypted (openssl pkey -in KEY -out PLAIN)"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    own_file::read(path, MOST).map_err(|error| bad(path, error))
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::source("access", format!("{}: {what}", path.display()))
}

/// Believes everybody, but still checks that whoever it is has the key.
#[derive(Debug)]
struct Everybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Everybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(trust: &Trust) -> String {
        let error = trust.settings().err().unwrap();
        assert_eq!(error.code(), "source-access");
        error.to_string()
    }

    #[test]
    fn files_without_certificates_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        fs::write(&file, "not a certificate\n").unwrap();
        let of = |path: &Path| refusal(&Trust { ca: vec![path.to_owned()], ..Trust::default() });
        assert!(of(&file).contains("ca.pem: no PEM certificate in it"), "{}", of(&file));
        assert!(of(dir.path()).contains("no file in it has a PEM certificate"));
        assert!(of(&dir.path().join("missing")).contains("missing: No such file"));
        fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(of(&file).contains("ca.pem: "));
    }

    #[test]
    fn a_file_of_certificates_or_a_key_may_have_16_mebibytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (len, says) in [(16 << 20, "no PEM "), ((16 << 20) + 1, "it has more than 16777216 bytes")] {
            file.as_file().set_len(len).unwrap();
            for error in [certificates(file.path()).unwrap_err(), key(file.path()).unwrap_err()] {
                assert_eq!(error.code(), "source-access");
                assert!(error.to_string().contains(says), "{error}");
            }
        }
    }

    #[test]
    fn an_identity_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        fs::write(&file, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n").unwrap();
        let identity = Some(Identity { cert: file.clone(), key: file.clone() });
        assert!(refusal(&Trust { identity, ..Trust::default() }).contains("key.pem: no PEM certificate in it"));
        assert!(key(&file).unwrap_err().to_string().contains("not encrypted"));
    }

    #[test]
    fn settings_are_made_as_often_as_wanted() {
        for insecure in [false, true] {
            let trust = Trust { insecure, ..Trust::default() };
            assert!(trust.settings().is_ok() && trust.settings().is_ok());
        }
    }
}
