//! TLS in front of a server that has none. Whatever the server does to a connection becomes of the one with TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, copy, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::fault::Server;
use super::tls::Identity;

/// How TLS ends where the server ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    /// By saying so (`close_notify`).
    Said,
    /// Without a word, as if somebody in between had cut it.
    Unsaid,
}

/// What takes TLS off for a server. It ends when it is dropped, and its connections after [`Server::LIFE`].
pub struct TlsFront {
    address: SocketAddr,
    _running: Runtime,
}

impl TlsFront {
    /// Takes connections for `server` on a free port of 127.0.0.1, as who has this certificate.
    pub fn start(identity: &Identity, server: SocketAddr, goodbye: Goodbye) -> Self {
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
        let running = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = running.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(timeout(Server::LIFE, relay(client, acceptor.clone(), server, goodbye)));
            }
        });
        Self { address, _running: running }
    }

    /// The URL of `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

async fn relay(client: TcpStream, acceptor: TlsAcceptor, server: SocketAddr, goodbye: Goodbye) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let Ok(mut client) = acceptor.accept(client).await else { return };
    if goodbye == Goodbye::Unsaid {
        let (mut from_client, mut to_client) = split(client);
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            _ = copy(&mut from_client, &mut to_server) => {}
            _ = copy(&mut from_server, &mut to_client) => drop(to_client.flush().await),
        }
        return;
    }
    if copy_bidirectional(&mut client, &mut server).await.is_ok() {
        // Both have said that nothing more will come.
        let _ = client.shutdown().await;
    } else {
        let _ = client.get_ref().0.set_zero_linger();
    }
}
