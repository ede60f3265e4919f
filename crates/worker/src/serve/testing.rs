//! Clients of a server in the same process, whose time is that of the test.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::tls;

/// A client of `serve`, with so many bytes that may be on their way to each of the two.
pub fn client<F: Future<Output = ()> + Send + 'static>(
    bytes: usize,
    serve: impl FnOnce(DuplexStream) -> F,
) -> DuplexStream {
    let (client, server) = duplex(bytes);
    tokio::spawn(serve(server));
    client
}

/// What comes until the connection ends.
pub async fn answered(mut client: impl AsyncRead + Unpin) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

/// That a request with this head is answered by `serve` after a handshake within ten seconds, and not after a later one.
pub async fn a_handshake_is_waited_for<F: Future<Output = ()> + Send + 'static>(
    head: &str,
    serve: impl Fn(DuplexStream, TlsAcceptor) -> F,
) {
    let (acceptor, connector) = tls::pair();
    for (time, is_served) in [(9_900, true), (10_100, false)] {
        let client = client(1 << 14, |server| serve(server, acceptor.clone()));
        sleep(Duration::from_millis(time)).await;
        let shaken = connector.connect("localhost".try_into().unwrap(), client).await;
        assert_eq!(shaken.is_ok(), is_served, "{time}");
        if let Ok(mut client) = shaken {
            client.write_all(head.as_bytes()).await.unwrap();
            assert!(answered(client).await.starts_with("HTTP/1.1 200 "));
        }
    }
}
