//! Certificates of the worker's own servers.

use std::io;
use std::path::Path;
use std::sync::Arc;

use diskferry_remote::own_file;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::danger::ClientCertVerifier;

/// Largest file that is read, in bytes.
const MOST: u64 = 4 << 20;

/// A certificate, what it is signed by, and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// One that is made now and signed by itself: good for who believes everybody.
    pub fn made_now() -> io::Result<Self> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, "diskferry-worker");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok(Self { chain: vec![certificate.into()], key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }

    /// One that was given to us, both as PEM. The error names the file, and shows nothing of it.
    pub fn read(certificate: &Path, key: &Path) -> io::Result<Self> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
        let chain =
            chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| bad(certificate, "no PEM certificate"))?;
        let found = PrivateKeyDer::from_pem_slice(&read(key)?);
        Ok(Self { chain, key: found.map_err(|_| bad(key, "no PEM private key that is not encrypted"))? })
    }

    /// Settings for a server of this identity; `clients` decides who may come, and without it everybody may.
    pub fn config(self, clients: Option<Arc<dyn ClientCertVerifier>>) -> io::Result<Arc<ServerConfig>> {
        // The provider is named here and not installed for the process, where another library may have installed its own.
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(self.chain, self.key).map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// A file of certificates or keys. The error names it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    own_file::read(path, MOST).map_err(|error| bad(path, error))
}

fn bad(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {what}", path.display()))
}

/// A server whose certificate is made now, and a client that believes it.
#[cfg(test)]
pub(crate) fn pair() -> (tokio_rustls::TlsAcceptor, tokio_rustls::TlsConnector) {
    let identity = Identity::made_now().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.chain[0].clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (identity.config(None).unwrap().into(), Arc::new(client).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_of_certificates_has_four_mebibytes_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.crt");
        fs::write(&path, vec![b'\n'; 4 << 20]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 4 << 20);
        fs::write(&path, vec![b'\n'; (4 << 20) + 1]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with("tls.crt: it has more than 4194304 bytes"), "{error}");
    }

    #[test]
    fn a_certificate_is_made_in_a_moment() {
        assert!(Identity::made_now().unwrap().config(None).is_ok());
    }

    #[test]
    fn what_is_no_certificate_is_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.crt");
        fs::write(&path, "hunter2").unwrap();
        let error = Identity::read(&path, &path).err().unwrap().to_string();
        assert!(error.contains("tls.crt: no PEM certificate") && !error.contains("hunter2"), "{error}");
        let error = Identity::read(&dir.path().join("none"), &path).err().unwrap().to_string();
        assert!(error.contains("none: No such file"), "{error}");
    }
}
