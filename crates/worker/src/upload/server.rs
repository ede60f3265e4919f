//! HTTP for whoever sends an image: one path, and every answer says what a person would want to know.
//!
//! `PUT` and `POST` take the image, with `Content-Length` or in chunks; with `Content-Range` they go on with one that broke off, at the offset
//! that `HEAD` tells. The core of [tus](https://tus.io/protocols/resumable-upload) 1.0 with its creation is the same in other words.
//! `Upload-Id` tells one upload from another.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName,
    HeaderValue, LOCATION, REFERRER_POLICY, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::access::{Paths, is_named};
use super::answer::{self, DEFER_LENGTH, DEFERRED, EXTENSION, ID, LENGTH, OFFSET, RESUMABLE, TUS, VERSION};
use super::id::Id;
use super::intake::{Entry, Intake, Refusal, Scope, Ticket};
use super::page;
use crate::serve::{Body, accept_into, text};
use crate::status::Board;

/// How long a client may take for its handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at one time: the next one waits until one of them goes. Those that say nothing are gone after [`PATIENCE`].
const MOST: usize = 2048;

/// What a client is told whose head has not come by then. There was no request yet that could be answered.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Fewest bytes in a second of somebody who is sending. Who sends less keeps everybody else out.
const SLOWEST: u64 = 1 << 10;

/// Longest head of a request, and most bytes that wait in a connection.
const BUFFER: usize = 16 << 10;

/// What is read of a body that nobody wants, so that its sender comes to read the answer.
const DRAINED: usize = 256 << 20;
const DRAINING: Duration = Duration::from_secs(10);

/// How long a client may take to read an answer, with what is read of its body meanwhile.
const READING: Duration = Duration::from_secs(20);

/// The type that tus has for bytes.
const OFFSET_STREAM: &str = "application/offset+octet-stream";

/// A stream that is one of CDI's clones and no image.
const CDI_TYPE: HeaderName = HeaderName::from_static("x-cdi-content-type");

/// What a server needs to know.
pub struct Door {
    /// Where bytes go.
    pub intake: Intake,
    /// What is told.
    pub board: Board,
    /// Which paths lead to it.
    pub paths: Paths,
    /// Who may come, if only one may.
    pub client_name: Option<String>,
}

/// Serves connections until the runtime ends.
pub async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, door: Arc<Door>) {
    let room = Arc::new(Semaphore::new(MOST));
    accept_into(room, listener, |stream| converse(stream, acceptor.clone(), Arc::clone(&door))).await;
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, acceptor: Option<TlsAcceptor>, door: Arc<Door>) {
    let Some(acceptor) = acceptor else { return connection(stream, door, true).await };
    let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(stream)).await else { return };
    let is_known = door.client_name.as_ref().is_none_or(|name| {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        certificates.first().is_some_and(|certificate| is_named(certificate, name))
    });
    connection(stream, door, is_known).await;
}

/// Serves one connection to its end. Whether the client is the one that may come, if only one may, has been looked at by the caller.
pub async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, door: Arc<Door>, is_known: bool) {
    let answered = Notify::new();
    let service = service_fn(async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let answer = if is_known {
            door.answer(&head.method, head.uri.path(), &head.headers, body).await
        } else {
            drain(body, head.headers.contains_key(EXPECT));
            let what = "the certificate of the client has another name";
            answer::error(StatusCode::UNAUTHORIZED, "wrong-client", what)
        };
        answered.notify_one();
        Ok::<_, Infallible>(answer)
    });
    let read = async {
        answered.notified().await;
        sleep(READING).await;
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = read => return,
    };
    // A client that goes away is none of our trouble: what it has begun can be gone on with.
    if ended.is_err_and(|error| error.is_timeout()) {
        let mut stream = connection.into_parts().io.into_inner();
        // Who is slow to send may be slow to read as well.
        let _ = timeout(PATIENCE, async {
            stream.write_all(TOO_SLOW).await?;
            stream.shutdown().await
        })
        .await;
    }
}

/// What part of the image a request brings.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// What stands in its head of the image.
    entry: Entry,
    /// Bytes of the request, if it says so.
    len: Option<u64>,
}

impl Door {
    async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, body: Incoming) -> Response<Body> {
        if path == "/healthz" && (method == Method::GET || method == Method::HEAD) {
            return text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n");
        }
        let is_asking = headers.contains_key(EXPECT);
        if !self.paths.leads(path) {
            drain(body, is_asking);
            return answer::error(StatusCode::NOT_FOUND, "not-found", "nothing is here");
        }
        match *method {
            Method::GET if wants_page(headers) => page(),
            Method::GET | Method::HEAD => answer::status(&self.board, &self.intake.place()),
            Method::OPTIONS => options(),
            Method::POST if headers.contains_key(RESUMABLE) => self.create(path, headers),
            Method::PUT | Method::POST | Method::PATCH => match part(method, headers) {
                Ok(part) => self.take(method, part, body, is_asking).await,
                Err((status, code, message)) => {
                    drain(body, is_asking);
                    answer::error(status, code, message)
                }
            },
            _ => {
                drain(body, is_asking);
                let mut answer = answer::error(StatusCode::METHOD_NOT_ALLOWED, "method", "PUT or POST an image");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS, PATCH, POST, PUT"));
                answer
            }
        }
    }

    /// Makes room for an image that is sent later.
    fn create(&self, path: &str, headers: &HeaderMap) -> Response<Body> {
        let total = number(headers, &LENGTH);
        if total.is_none() && headers.get(DEFER_LENGTH).is_none_or(|said| *said != DEFERRED) {
            return answer::error(StatusCode::BAD_REQUEST, "no-length", "Upload-Length is missing");
        }
        let id = match id(headers) {
            Ok(id) => id,
            Err((status, code, message)) => return answer::error(status, code, message),
        };
        match self.intake.create(id, total) {
            Ok(()) => {
                let mut created = text(StatusCode::CREATED, "text/plain", "");
                created.headers_mut().extend(HeaderValue::try_from(path).ok().map(|path| (LOCATION, path)));
                answer::placed(created, &self.intake.place())
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        answer::refusal(refusal, self.intake.outcome().as_ref(), &self.intake.place())
    }

    /// Takes bytes, and answers when they are there, or when the image has come to its end.
    async fn take(&self, method: &Method, part: Part, mut body: Incoming, is_asking: bool) -> Response<Body> {
        let end = part.end();
        let mut ticket = match self.intake.enter(part.entry) {
            Ok(ticket) => ticket,
            Err(refusal) => {
                drain(body, is_asking);
                return self.refuse(&refusal);
            }
        };
        let round = ticket.round();
        let came = self.receive(&mut ticket, part.len, &mut body).await;
        let is_end = match came {
            Came::All => ticket.finish(),
            Came::Unwanted => {
                drop(ticket);
                true
            }
            Came::Broken(answer) => {
                drop(ticket);
                // Who sends nothing has nothing that could be in the way.
                if answer.status() != StatusCode::REQUEST_TIMEOUT {
                    drain(body, false);
                }
                return answer;
            }
        };
        if !is_end {
            // A part of it, and more is to come.
            let status = if method == Method::PATCH { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
            let place = self.intake.place();
            let mut partly = answer::status(&self.board, &place);
            if status == StatusCode::NO_CONTENT {
                partly = answer::placed(text(status, "text/plain", ""), &place);
            }
            *partly.status_mut() = status;
            return partly;
        }
        if matches!(came, Came::Unwanted) {
            drain(body, false);
        }
        match self.intake.ended(round).await {
            Some(outcome) => {
                let mut answer = answer::outcome(&outcome, &self.board, &self.intake.place());
                if method == Method::PATCH && answer.status() == StatusCode::OK {
                    answer = text(StatusCode::NO_CONTENT, "text/plain", "");
                    answer.headers_mut().insert(RESUMABLE, TUS);
                    answer.headers_mut().extend(end.map(|end| (OFFSET, end.into())));
                }
                answer
            }
            None => answer::begun_anew(&self.intake.place()),
        }
    }

    /// Reads the body to its end, which has `len` bytes if that was said.
    async fn receive(&self, ticket: &mut Ticket, len: Option<u64>, body: &mut Incoming) -> Came {
        let stall = self.intake.times().stall;
        let mut left = len.into_iter().chain(ticket.missing()).min();
        let mut pace = Pace::default();
        loop {
            let began = Instant::now();
            let frame = tokio::select! {
                frame = timeout(stall, body.frame()) => frame,
                () = ticket.over() => return Came::Unwanted,
            };
            let frame = match frame {
                Err(_) => {
                    let what =
                        format!("nothing has come for {} s: go on at the offset that HEAD tells", stall.as_secs());
                    return Came::Broken(answer::error(StatusCode::REQUEST_TIMEOUT, "stalled", &what));
                }
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => {
                    let what = "the body breaks off: go on at the offset that HEAD tells";
                    return Came::Broken(answer::error(StatusCode::BAD_REQUEST, "interrupted", what));
                }
                Ok(None) => return Came::All,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            if let Some(came) = pace.is_too_slow(bytes.len() as u64, began.elapsed(), stall) {
                let what = format!(
                    "only {came} bytes have come in {} s: go on at the offset that HEAD tells",
                    stall.as_secs()
                );
                return Came::Broken(answer::error(StatusCode::REQUEST_TIMEOUT, "stalled", &what));
            }
            if let Some(left) = &mut left {
                let Some(less) = left.checked_sub(bytes.len() as u64) else {
                    let what = "there are more bytes than was said";
                    return Came::Broken(answer::error(StatusCode::BAD_REQUEST, "too-many", what));
                };
                *left = less;
            }
            if !bytes.is_empty() && !ticket.send(bytes).await {
                return Came::Unwanted;
            }
        }
    }
}

/// How fast somebody sends, by the time that was spent waiting for it: what the destination takes is not theirs.
#[derive(Default)]
struct Pace {
    waited: Duration,
    came: u64,
}

impl Pace {
    /// So many bytes have come after that time. Gives how many came in the last `time`, if they were too few.
    fn is_too_slow(&mut self, came: u64, waited: Duration, time: Duration) -> Option<u64> {
        (self.came, self.waited) = (self.came.saturating_add(came), self.waited.saturating_add(waited));
        if self.waited < time {
            return None;
        }
        let came = std::mem::take(self).came;
        (came < time.as_secs().max(1).saturating_mul(SLOWEST)).then_some(came)
    }
}

/// How a body has come to its end.
enum Came {
    All,
    /// Whoever carries the image takes no more: there is a verdict, or there will be.
    Unwanted,
    Broken(Response<Body>),
}

impl Part {
    fn end(&self) -> Option<u64> {
        self.len.and_then(|len| self.entry.start.checked_add(len))
    }
}

type Wrong = (StatusCode, &'static str, &'static str);

/// What a request brings, by its head.
fn part(method: &Method, headers: &HeaderMap) -> Result<Part, Wrong> {
    let bad = |code, message| (StatusCode::BAD_REQUEST, code, message);
    if headers.contains_key(CDI_TYPE) {
        let what = "a clone is no image: send the image itself";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "clone", what));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("multipart/") || kind.starts_with("application/x-www-form-urlencoded") {
        let what = "a form is no image: send the bytes themselves, as by curl -T FILE";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "form", what));
    }
    let (id, len) = (id(headers)?, number(headers, &CONTENT_LENGTH));
    if *method == Method::PATCH {
        if kind != OFFSET_STREAM {
            let what = "PATCH takes application/offset+octet-stream";
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", what));
        }
        let start = number(headers, &OFFSET).ok_or(bad("no-offset", "Upload-Offset is missing"))?;
        // It may be said with any part.
        let total = number(headers, &LENGTH);
        if total.is_none() && headers.contains_key(LENGTH) {
            return Err(bad("no-length", "Upload-Length is not understood: expected a number of bytes"));
        }
        let entry = Entry { id, start, total, scope: Scope::More };
        if total.is_some_and(|total| start.saturating_add(len.unwrap_or_default()) > total) {
            return Err(bad("too-many", "the part reaches beyond Upload-Length"));
        }
        return Ok(Part { entry, len });
    }
    let Some(range) = headers.get(CONTENT_RANGE) else {
        // Of what comes in chunks nobody says how long it is.
        if len.is_none_or(|len| len == 0) && !headers.contains_key(TRANSFER_ENCODING) {
            return Err(bad("nothing", "nothing is sent: send the bytes of the image, as by curl -T FILE"));
        }
        return Ok(Part { entry: Entry { id, start: 0, total: len, scope: Scope::Whole }, len });
    };
    let wrong = bad("content-range", "Content-Range is not understood: expected bytes FIRST-LAST/TOTAL");
    let (start, end, total) = range.to_str().ok().and_then(range_of).ok_or(wrong)?;
    if len.is_some_and(|len| start.checked_add(len) != Some(end)) {
        return Err(bad("content-range", "Content-Range and Content-Length contradict each other"));
    }
    Ok(Part { entry: Entry { id, start, total, scope: Scope::Part }, len: Some(end - start) })
}

/// What the sender calls the upload.
fn id(headers: &HeaderMap) -> Result<Option<Id>, Wrong> {
    let what = "Upload-Id has at most 64 letters, digits, - and _";
    let parse = |value| Id::parse(value).ok_or((StatusCode::BAD_REQUEST, "upload-id", what));
    headers.get(ID).map(parse).transpose()
}

/// `bytes 5-9/10` is from 5 to 10 of 10; of a length that nobody knows it is `*`.
fn range_of(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (start, end) = (digits(first)?, digits(last)?.checked_add(1)?);
    let total = if total == "*" { None } else { Some(digits(total)?) };
    (start < end && total.is_none_or(|total| end <= total)).then_some((start, end, total))
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    digits(headers.get(name)?.to_str().ok()?.trim())
}

/// A browser wants a page, a program does not.
fn wants_page(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

fn page() -> Response<Body> {
    let mut answer = text(StatusCode::OK, "text/html; charset=utf-8", page::HTML);
    let headers = answer.headers_mut();
    headers.extend(HeaderValue::try_from(page::policy()).ok().map(|policy| (CONTENT_SECURITY_POLICY, policy)));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // The path is a secret.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

fn options() -> Response<Body> {
    let mut answer = text(StatusCode::NO_CONTENT, "text/plain", Bytes::new());
    let headers = answer.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS, PATCH, POST, PUT"));
    headers.insert(RESUMABLE, TUS);
    headers.insert(VERSION, TUS);
    headers.insert(EXTENSION, HeaderValue::from_static("creation,creation-defer-length"));
    answer
}

/// Reads on for a while. A connection that is closed with bytes unread would take the answer with it. Who asks first whether to send the
/// body (`Expect`) has sent none, and reading would tell them to.
fn drain(mut body: Incoming, is_asking: bool) {
    if is_asking {
        return;
    }
    tokio::spawn(timeout(DRAINING, async move {
        let mut left = DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, Bytes::len);
            if len > left {
                return;
            }
            left -= len;
        }
    }));
}

#[cfg(test)]
mod tests;
