//! What the worker tells whoever asks: `/metrics`, `/healthz`, `/readyz` and `/status`, from the [`Board`].
//!
//! [`answer`] is the whole of it: a server that has paths of its own asks it for those that it does not know. [`Server`] is the small one
//! of `import`. Platforms scrape it with TLS and believe every certificate, so that one made at start is enough.

mod metrics;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use diskferry_remote::escape::json_line;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::status::{Board, Phase};

pub use self::metrics::metrics;

/// The body of an answer.
pub type Body = Full<Bytes>;

/// How long a client may take for its handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at one time: the next one waits until one of them goes. A controller has one, Prometheus another.
const MOST: usize = 64;

/// The answer to a request for `path`, if it is one of those that this knows. `HEAD` is as good as `GET`.
pub fn answer(board: &Board, method: &Method, path: &str) -> Option<Response<Body>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let known = matches!(path, "/metrics" | "/healthz" | "/readyz" | "/status");
    if known && method != Method::GET && method != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(refused);
    }
    match path {
        "/metrics" => Some(text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics(board))),
        "/healthz" => Some(text(StatusCode::OK, TEXT, "ok\n")),
        "/readyz" => Some(match board.phase() {
            Phase::Failed | Phase::Terminating => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "ended\n"),
            _ => text(StatusCode::OK, TEXT, "ok\n"),
        }),
        "/status" => {
            let status = json_line(&board.snapshot()) + "\n";
            Some(text(StatusCode::OK, "application/json", status))
        }
        _ => None,
    }
}

/// An answer with a text in it, which nobody may keep.
pub fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A server with a thread of its own. It ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves `board` at `listen`, with TLS if there is a configuration for it.
    pub fn start(listen: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>, board: &Board) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, mut stopped) = watch::channel(());
        let board = board.clone();
        let acceptor = tls.map(TlsAcceptor::from);
        let serve = move || {
            runtime.block_on(async {
                // Whatever it waits for: whoever takes all the places does not keep us from ending.
                tokio::select! {
                    () = accept(listener, acceptor, board) => {}
                    _ = stopped.changed() => {}
                }
            });
        };
        let thread = thread::Builder::new().name("metrics".into()).spawn(serve)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Connections that are open then are cut: nobody may keep the worker from ending.
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves connections until the runtime ends.
async fn accept(listener: std::net::TcpListener, acceptor: Option<TlsAcceptor>, board: Board) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let room = Arc::new(Semaphore::new(MOST));
    accept_into(room, listener, |stream| converse(stream, acceptor.clone(), board.clone())).await;
}

/// Has `converse` serve connections until the runtime ends, as many at one time as there is `room` for.
pub async fn accept_into<F: Future<Output = ()> + Send + 'static>(
    room: Arc<Semaphore>,
    listener: TcpListener,
    converse: impl Fn(TcpStream) -> F,
) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or of memory: asking again at once would only burn the processor.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let conversation = converse(stream);
        tokio::spawn(async move {
            conversation.await;
            drop(permit);
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, acceptor: Option<TlsAcceptor>, board: Board) {
    match acceptor {
        None => connection(stream, board).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(stream)).await {
                connection(stream, board).await;
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, board: Board) {
    let service = service_fn(move |request: Request<Incoming>| {
        let found = answer(&board, request.method(), request.uri().path());
        let nothing = || text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "nothing is here\n");
        async move { Ok::<_, Infallible>(found.unwrap_or_else(nothing)) }
    });
    // One answer for each connection, and so long for it: places are few, and probes want one of them.
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away is none of our trouble.
    let _ = timeout(PATIENCE * 2, conversation).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Outlets, Work};
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::testing::{a_handshake_is_waited_for, answered};

    const HEAD: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

    fn board() -> Board {
        Board::new("uid-1", Outlets::none(Work::Import))
    }

    fn get(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn each_path_is_answered_and_no_other() {
        let board = board();
        let server = Server::start("127.0.0.1:0".parse().unwrap(), None, &board).unwrap();
        let get = |head| get(server.address(), head);
        assert!(get("GET /healthz").starts_with("HTTP/1.1 200 OK"));
        assert!(get("GET /readyz").starts_with("HTTP/1.1 200 OK"));
        assert!(get("GET /metrics").contains("\nregistry_progress{ownerUID=\"uid-1\"} 0\n"));
        let status = get("GET /status");
        let body = status.split("\r\n\r\n").nth(1).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["phase"], "Pending");
        assert!(get("GET /").starts_with("HTTP/1.1 404"));
        assert!(get("POST /metrics").starts_with("HTTP/1.1 405"));
        assert!(get("HEAD /status").starts_with("HTTP/1.1 200") && get("HEAD /status").ends_with("\r\n\r\n"));
        board.enter(crate::status::Reason::Terminating, "").unwrap();
        assert!(get("GET /readyz").starts_with("HTTP/1.1 503"));
    }

    #[test]
    fn a_silent_client_does_not_keep_the_server_from_ending() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), None, &board()).unwrap();
        let _silent = TcpStream::connect(server.address()).unwrap();
        let began = std::time::Instant::now();
        drop(server);
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn clients_who_take_all_the_places_do_not_keep_the_server_from_ending() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), None, &board()).unwrap();
        let connect = |_| TcpStream::connect(server.address()).unwrap();
        let silent: Vec<_> = (0..MOST + 6).map(connect).collect();
        // Until they have their places.
        std::thread::sleep(Duration::from_millis(300));
        let began = std::time::Instant::now();
        drop(server);
        assert!(began.elapsed() < Duration::from_secs(5), "{} clients", silent.len());
    }

    #[test]
    fn who_has_been_answered_gives_the_place_back() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), None, &board()).unwrap();
        let ask = |_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        };
        let began = std::time::Instant::now();
        // Nobody of them goes away.
        let asking: Vec<_> = (0..MOST * 2).map(ask).collect();
        assert!(get(server.address(), "GET /healthz").starts_with("HTTP/1.1 200"), "{} clients", asking.len());
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    }

    #[test]
    fn connections_are_served_up_to_64_and_the_next_when_one_has_gone() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), None, &board()).unwrap();
        let connect = |_| TcpStream::connect(server.address()).unwrap();
        let mut silent: Vec<_> = (0..63).map(connect).collect();
        assert!(get(server.address(), "GET /healthz").starts_with("HTTP/1.1 200"));
        silent.push(connect(0));
        let mut next = connect(0);
        Write::write_all(&mut next, HEAD.as_bytes()).unwrap();
        next.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(next.peek(&mut [0]).is_err(), "it waits");
        drop(silent.pop());
        next.set_read_timeout(Some(PATIENCE / 2)).unwrap();
        assert_eq!(next.peek(&mut [0]).unwrap(), 1);
    }

    fn client(bytes: usize) -> DuplexStream {
        testing::client(bytes, |server| converse(server, None, board()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_may_take_ten_seconds() {
        a_handshake_is_waited_for(HEAD, |server, acceptor| converse(server, Some(acceptor), board())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_may_take_ten_seconds() {
        for (time, is_served) in [(9_900, true), (10_100, false)] {
            let mut client = client(1 << 14);
            let (early, late) = HEAD.split_at(9);
            client.write_all(early.as_bytes()).await.unwrap();
            sleep(Duration::from_millis(time)).await;
            assert_eq!(client.write_all(late.as_bytes()).await.is_ok(), is_served, "{time}");
            assert_eq!(answered(client).await.starts_with("HTTP/1.1 200 "), is_served, "{time}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_and_its_answer_may_take_twenty_seconds() {
        for (time, is_whole) in [(19_900, true), (20_100, false)] {
            let mut client = client(100);
            client.write_all(HEAD.as_bytes()).await.unwrap();
            sleep(Duration::from_millis(time)).await;
            let answer = answered(client).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{time}: {answer}");
            assert_eq!(answer.ends_with(&metrics(&board())), is_whole, "{time}: {answer}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), None, &board()).unwrap();
        assert!(Server::start(server.address(), None, &board()).is_err());
    }
}
