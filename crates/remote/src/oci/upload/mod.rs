//! Writing to a registry: the half of its [API] that sends.
//!
//! A blob goes up in chunks. When one fails, the registry is asked how many bytes it has, and gets the rest: as much of what was sent is
//! kept as it could have lost, and no more, whatever the size of the blob; of chunks that are longer than usual, none that has arrived. The blob exists when the registry has compared its digest;
//! the manifest, which names it, comes after that.
//!
//! [API]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push

mod answer;
mod session;

use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;
use std::pin::pin;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use diskferry::digest::{Algorithm, Checksum, Digester};
use diskferry::{Error, Progress, Result};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode};
use tokio::time::{sleep, timeout};
use url::Url;

use self::answer::{agrees, given_up, header, offset, refused, target, untaken};
use self::session::Session;
use super::below::Below;
use super::desk::Desk;
use super::keys::Keys;
use super::manifest;
use super::push::{Publication, Sent, no_thread, unexpected};
use super::reference::Reference;
use super::registry::Registry;
use super::stow::fill;
use crate::client::{Client, Payload};
use crate::failure::{Again, Failure};
use crate::http::{Patience, Tries, document};
use crate::runtime::{Runtime, unless_stopped};
use crate::shown::Host;

/// What is sent with one request. Each takes the registry a moment, since some sync what they have got; and three are in memory.
const CHUNK: usize = 8 << 20;

/// Largest chunk, where the registry wants large ones. One that wants larger ones gets none. Of chunks that are larger than usual there is one
/// in memory: none is read while another is sent, and none is kept.
const LARGEST: usize = 24 << 20;

/// A registry that takes less than this part of a chunk is asked what it has, and waited for.
const ENOUGH: u64 = 8;

/// Chunks that are kept after they have arrived: a registry that is started again may have lost the last ones.
const TAIL: usize = 1;

/// Images of a repository that are looked at for a layer that may be there already, besides the one of the same name.
const LOOKS: usize = 16;

/// How often a registry is asked again for what can be had in another way.
const SPARED: u32 = 2;

/// How long a registry may take to hear that an upload is not gone on with.
const FAREWELL: Duration = Duration::from_secs(1);

/// When the system has ended a connection over which nothing leaves any more.
const ENDS: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 40 });

/// One repository of a registry, to write to.
pub struct Upload {
    runtime: Runtime,
    client: Client,
    reference: Reference,
    is_plain: bool,
    patience: Patience,
}

impl Upload {
    /// For the repository of `reference`. Who we are is what `client` has, else what is found in `keys`. Blobs may also be
    /// [mounted](Self::mount) from the repository of `other`, if that is in the same registry.
    pub fn new(
        runtime: &Runtime,
        client: &Client,
        reference: &Reference,
        other: Option<&Reference>,
        keys: &Keys,
        is_plain: bool,
        patience: Patience,
    ) -> Self {
        let is_beside =
            |other: &&Reference| other.host() == reference.host() && other.repository() != reference.repository();
        let also = other.filter(is_beside).map(|other| other.repository().to_owned());
        let client = client.with_desk(Desk::for_pushing(client, reference, keys, also));
        Self { runtime: runtime.clone(), client, reference: reference.clone(), is_plain, patience }
    }

    /// Whether some image of the repository has a layer of this many bytes. Then it is likely to be the one that is about to be sent, and
    /// worth its digest. Only the images of some tags are looked at, and who cannot say has none.
    pub(super) fn has_layer_of(&self, size: u64, progress: &Progress) -> Result<bool> {
        let own = self.reference.version();
        // What was pushed last is often listed last.
        let mut tags = VecDeque::new();
        if let Some(list) = self.document("tags", "list", progress)? {
            let keep = |tag: String| {
                if tag != own {
                    tags.truncate(LOOKS - 1);
                    tags.push_front(tag);
                }
            };
            // Without a list there is still the image that has the name.
            let _ = manifest::each_of("tags", usize::MAX, &list, "list of tags", keep);
        }
        tags.push_front(own);
        for tag in &tags {
            let Some(bytes) = self.document("manifests", tag, progress)? else { continue };
            let below = Below::of(&bytes, 0);
            if below.is_ok_and(|below| below.blobs.iter().any(|blob| blob.size == size)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A document, if the registry gives it at once.
    fn document(&self, kind: &str, name: &str, progress: &Progress) -> Result<Option<Vec<u8>>> {
        let accept = format!("{}, {}", manifest::MANIFEST, manifest::DOCKER_MANIFEST);
        let accept = if kind == "manifests" { accept } else { "*/*".into() };
        let accept = HeaderValue::try_from(accept).unwrap_or(HeaderValue::from_static("*/*"));
        let url = self.url(kind, name)?;
        let wanted = document::Wanted { url: &url, accept, most: manifest::DOCUMENT };
        let patience = Patience { retries: 0, ..self.patience };
        let work = unless_stopped(progress, document::get(&self.client, &wanted, patience, progress));
        match self.runtime.block_on(work)? {
            Ok(found) => Ok(Some(found.bytes)),
            Err(Error::Stopped) => Err(Error::Stopped),
            Err(_) => Ok(None),
        }
    }

    /// Whether there is a blob with this digest in the repository, and of this many bytes.
    pub fn blob_exists(&self, digest: &Checksum, size: u64, progress: &Progress) -> Result<bool> {
        let url = self.url("blobs", &digest.to_string())?;
        self.ask(progress, async |_| self.is_there(&url, size).await)
    }

    async fn is_there(&self, url: &Url, size: u64) -> Result<bool, Failure> {
        let answer = self.send(Method::HEAD, url, HeaderMap::new(), None).await?;
        match answer.status() {
            StatusCode::OK => Ok(header(&answer, &CONTENT_LENGTH).is_none_or(|found| found == size.to_string())),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refused(answer).await),
        }
    }

    /// Has the registry take a blob from its repository `from`, and says whether it has.
    pub fn mount(&self, digest: &Checksum, from: &str, progress: &Progress) -> Result<bool> {
        let mut url = self.url("blobs", "uploads/")?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        // Who does not get it may still send it, and is as patient as may be then.
        let patience = Patience { retries: self.patience.retries.min(SPARED), ..self.patience };
        self.ask_with(patience, progress, async |_| {
            let answer = self.send(Method::POST, &url, HeaderMap::new(), Some(Payload::default())).await?;
            match answer.status() {
                StatusCode::CREATED => Ok(true),
                // It has begun an upload instead, which nobody will go on with.
                StatusCode::ACCEPTED => {
                    let session = self.location(&url, &answer)?;
                    self.abandon(&session).await;
                    Ok(false)
                }
                _ => Err(refused(answer).await),
            }
        })
    }

    /// Has the registry take a blob from the repository of `from`, if that is one of its own, and says whether it has.
    pub(super) fn mount_from(&self, from: &Registry, digest: &Checksum, progress: &Progress) -> Result<bool> {
        let (here, there) = (&self.reference, from.reference());
        if here.host() != there.host() || here.repository() == there.repository() {
            return Ok(false);
        }
        self.mount(digest, there.repository(), progress)
    }

    /// Sends what `reader` gives as a blob.
    pub fn blob(&self, reader: &mut (dyn Read + Send), progress: &Progress) -> Result<Sent> {
        self.blob_of(reader, Algorithm::Sha256, progress)
    }

    /// The same, with a digest of this algorithm.
    pub(super) fn blob_of(
        &self,
        reader: &mut (dyn Read + Send),
        algorithm: Algorithm,
        progress: &Progress,
    ) -> Result<Sent> {
        let mut digester = Digester::new([algorithm]);
        let chunk = read_chunk(reader, BytesMut::new(), 0..CHUNK, 0, &mut digester)?;
        if chunk.len() < CHUNK {
            // Small, and known as a whole.
            let digest = manifest::finish(digester)?;
            let size = chunk.len() as u64;
            if self.blob_exists(&digest, size, progress)? {
                return Ok(Sent { digest, size, uploaded: 0 });
            }
            let (session, _) = self.begin(progress)?;
            return self.finish(session, |session| {
                self.transfer(session, chunk, progress)?;
                self.close(session, digest, progress)
            });
        }
        let (session, least) = self.begin(progress)?;
        self.finish(session, |session| {
            let digest = self.chunks(session, least, chunk, reader, digester, progress)?;
            self.close(session, digest, progress)
        })
    }

    /// Sends what begins with `chunk`, and gives the digest of all of it.
    fn chunks(
        &self,
        session: &mut Session,
        least: u64,
        mut chunk: BytesMut,
        reader: &mut (dyn Read + Send),
        mut digester: Digester,
        progress: &Progress,
    ) -> Result<Checksum> {
        let len = self.chunk_len(least)?;
        // The first chunk is to be as long as the others.
        chunk = read_chunk(reader, chunk, CHUNK..len, CHUNK as u64, &mut digester)?;
        if len > CHUNK {
            while !chunk.is_empty() {
                let is_last = chunk.len() < len;
                self.transfer(session, chunk, progress)?;
                if is_last {
                    // It is kept until the blob is complete.
                    break;
                }
                let spare = self.let_go(session, 0, progress)?;
                chunk = read_chunk(reader, spare, 0..len, session.end(), &mut digester)?;
            }
            return manifest::finish(digester);
        }
        thread::scope(|scope| {
            // The next chunk is read while one is on its way. No more than that: each is memory, and used again.
            let (send, receive) = sync_channel(0);
            let (give_back, spare) = channel();
            let first = chunk.len() as u64;
            let read = move || chunks(reader, first, digester, &send, &spare);
            let reading = thread::Builder::new().spawn_scoped(scope, read).map_err(no_thread)?;
            self.transfer(session, chunk, progress)?;
            for chunk in receive {
                // Nobody reads any more where this fails.
                let _ = give_back.send(self.let_go(session, TAIL, progress)?);
                self.transfer(session, chunk, progress)?;
            }
            reading.join().unwrap_or_else(|_| Err(unexpected()))
        })
    }

    /// Does the rest of an upload. One that is given up is not left to the registry, which would keep what it has of it for days.
    fn finish(&self, mut session: Session, rest: impl FnOnce(&mut Session) -> Result<Sent>) -> Result<Sent> {
        let sent = rest(&mut session);
        if sent.is_err() {
            self.runtime.block_on(self.abandon(&session.url));
        }
        sent
    }

    /// Tells the registry that nobody goes on with an upload. That it may not hear it is put up with.
    async fn abandon(&self, session: &Url) {
        let _ = timeout(FAREWELL, self.send(Method::DELETE, session, HeaderMap::new(), None)).await;
    }

    /// Names an image.
    pub(super) fn publish(&self, image: &Publication<'_>, progress: &Progress) -> Result<()> {
        self.put_manifest(image.manifest, image.media_type, &self.reference.version(), progress)
    }

    /// Puts a manifest under a tag, or under its digest.
    pub fn put_manifest(&self, bytes: &[u8], media_type: &str, name: &str, progress: &Progress) -> Result<()> {
        let url = self.url("manifests", name)?;
        // What is put under its digest has that one, whatever the algorithm.
        let digest = manifest::checksum(name).or_else(|_| manifest::digest(bytes))?;
        let bytes = Bytes::copy_from_slice(bytes);
        let media_type = HeaderValue::try_from(media_type).unwrap_or(HeaderValue::from_static(manifest::MANIFEST));
        self.ask(progress, async |_| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type.clone())]);
            let answer = self.send(Method::PUT, &url, headers, Some(Payload::new(bytes.clone()))).await?;
            if !answer.status().is_success() {
                return Err(refused(answer).await);
            }
            agrees(&answer, &digest, "manifest")
        })
    }

    /// How long chunks are for a registry that wants `least` bytes in each that is not the last.
    fn chunk_len(&self, least: u64) -> Result<usize> {
        match usize::try_from(least) {
            Ok(least) if least <= LARGEST => Ok(CHUNK.max(least)),
            _ => {
                let host = self.reference.host();
                let what = format!("{host} wants chunks of {least} bytes at least, {LARGEST} are sent at most");
                Err(Error::Target { code: "chunk-length", what })
            }
        }
    }

    /// Begins a blob; the least that the registry wants in a chunk that is not the last.
    fn begin(&self, progress: &Progress) -> Result<(Session, u64)> {
        let url = self.url("blobs", "uploads/")?;
        self.ask(progress, async |_| {
            let answer = self.send(Method::POST, &url, HeaderMap::new(), Some(Payload::default())).await?;
            match answer.status() {
                StatusCode::ACCEPTED => {
                    let least = header(&answer, &HeaderName::from_static("oci-chunk-min-length"));
                    let least = least.and_then(|least| least.parse().ok()).unwrap_or(0);
                    let url = self.location(&url, &answer)?;
                    Ok((Session::new(url), least))
                }
                _ => Err(refused(answer).await),
            }
        })
    }

    /// Sends the next chunk, until the registry has all of it.
    fn transfer(&self, session: &mut Session, chunk: BytesMut, progress: &Progress) -> Result<()> {
        session.tail.push_back(chunk.freeze());
        self.ask(progress, async |tries| self.catch_up(session, tries).await)
    }

    /// Has the registry compare the digest of all that was sent.
    fn close(&self, session: &mut Session, digest: Checksum, progress: &Progress) -> Result<Sent> {
        let size = session.end();
        self.complete(session, &digest, size, progress)?;
        self.let_go(session, 0, progress)?;
        Ok(Sent { digest, size, uploaded: size })
    }

    /// Keeps the last `most` chunks. Of the others one comes back to be used again. A chunk that the registry says it has, and that is still
    /// on its way there, is memory that it could have more and more of.
    fn let_go(&self, session: &mut Session, most: usize, progress: &Progress) -> Result<BytesMut> {
        const PAUSE: Duration = Duration::from_millis(10);
        // A connection of an earlier try, which was stalled, has ended by then.
        let patience = self.patience.stall.max(ENDS);
        let mut spare = BytesMut::new();
        while session.tail.len() > most {
            let Some(mut old) = session.tail.pop_front() else { break };
            session.tail_at = session.tail_at.saturating_add(old.len() as u64);
            let deadline = Instant::now() + patience;
            spare = loop {
                old = match old.try_into_mut() {
                    Ok(free) => break free,
                    Err(old) => old,
                };
                progress.check()?;
                if Instant::now() > deadline {
                    return Err(untaken(&self.reference.host()));
                }
                thread::sleep(PAUSE);
            };
        }
        Ok(spare)
    }

    /// Sends what the registry lacks of what was read.
    async fn catch_up(&self, session: &mut Session, tries: &mut Tries) -> Result<(), Failure> {
        let mut sure = true;
        while session.offset < session.end() {
            let sent = if sure { self.patch(session).await } else { self.locate(session).await };
            match sent {
                Ok(()) => {
                    tries.gain(session.gained());
                    sure = true;
                }
                // What of it has arrived is for the registry to say.
                Err(failure) => {
                    sure = false;
                    tries.pause_after(failure).await.map_err(Failure::never)?;
                }
            }
        }
        Ok(())
    }

    /// Sends the next of what the registry lacks. That it takes it and has hardly more then than before is a failure.
    async fn patch(&self, session: &mut Session) -> Result<(), Failure> {
        let bytes = session.missing()?;
        let (start, len) = (session.offset, bytes.len() as u64);
        let range = format!("{start}-{}", (start + len).saturating_sub(1));
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))]);
        headers.extend(HeaderValue::try_from(range).ok().map(|range| (CONTENT_RANGE, range)));
        let payload = Payload::new(bytes);
        let answer = self.send(Method::PATCH, &session.url, headers, Some(payload.clone())).await?;
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                if payload.taken() < len {
                    return Err(Failure::never(untaken(&Host(answer.url()))));
                }
                session.url = self.location(&session.url, &answer)?;
                // Of one byte a registry says the same as of none.
                let offset = offset(&answer).filter(|_| start + len > 1).unwrap_or(start + len);
                session.reach(offset, start + len)?;
                if offset.saturating_sub(start).saturating_mul(ENOUGH) >= len {
                    return Ok(());
                }
                let what = format!(
                    "{} takes {len} bytes from byte {start} on, and says then that it has {offset} bytes",
                    Host(answer.url())
                );
                Err(Failure::later(Error::source("interrupted", what)))
            }
            // So it may have one.
            StatusCode::RANGE_NOT_SATISFIABLE if start == 0 => session.reach(1, len),
            // It has another number of bytes than we think.
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::later(refused(answer).await.error)),
            _ => Err(given_up(answer).await),
        }
    }

    /// Asks how much has arrived.
    async fn locate(&self, session: &mut Session) -> Result<(), Failure> {
        let answer = self.send(Method::GET, &session.url, HeaderMap::new(), None).await?;
        match answer.status() {
            StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::OK => {
                session.url = self.location(&session.url, &answer)?;
                session.reach(offset(&answer).unwrap_or(0), session.end())
            }
            _ => Err(given_up(answer).await),
        }
    }

    /// Has the registry compare the digest.
    fn complete(&self, session: &mut Session, digest: &Checksum, size: u64, progress: &Progress) -> Result<()> {
        let place = self.url("blobs", &digest.to_string())?;
        self.ask(progress, async |tries| {
            loop {
                let mut url = session.url.clone();
                url.query_pairs_mut().append_pair("digest", &digest.to_string());
                let headers =
                    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))]);
                let stall = commit_time(self.patience.stall, size);
                let failure = match self.send_within(stall, Method::PUT, &url, headers, Some(Payload::default())).await
                {
                    Ok(answer) if answer.status().is_success() => return agrees(&answer, digest, "blob"),
                    Ok(answer) => given_up(answer).await,
                    Err(failure) => failure,
                };
                // The answer may be all that was lost.
                if let Ok(true) = self.is_there(&place, size).await {
                    return Ok(());
                }
                tries.pause_after(failure).await.map_err(Failure::never)?;
                // It may have lost some of it since. What is not complete is not closed.
                match self.locate(session).await {
                    Ok(()) => self.catch_up(session, tries).await?,
                    Err(failure @ Failure { error: Error::Target { code: "upload-lost", .. }, .. }) => {
                        // An upload that was closed is known no more either.
                        let is_there = self.is_there(&place, size).await;
                        return if let Ok(true) = is_there { Ok(()) } else { Err(failure) };
                    }
                    Err(_) => {}
                }
            }
        })
    }

    /// Does `work` until it succeeds, patience ends, or the job is stopped.
    fn ask<T>(&self, progress: &Progress, work: impl AsyncFnMut(&mut Tries) -> Result<T, Failure>) -> Result<T> {
        self.ask_with(self.patience, progress, work)
    }

    fn ask_with<T>(
        &self,
        patience: Patience,
        progress: &Progress,
        mut work: impl AsyncFnMut(&mut Tries) -> Result<T, Failure>,
    ) -> Result<T> {
        let work = async {
            let mut tries = Tries::new(patience, progress);
            loop {
                match work(&mut tries).await {
                    Ok(done) => return Ok(done),
                    Err(failure) => tries.pause_after(failure).await?,
                }
            }
        };
        let done = self.runtime.block_on(unless_stopped(progress, work));
        done.and_then(|done| done).map_err(target)
    }

    /// Sends one request. The server may take as long as it wants as long as it takes bytes, and no longer than is allowed when it
    /// does not.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        payload: Option<Payload>,
    ) -> Result<Response, Failure> {
        self.send_within(self.patience.stall, method, url, headers, payload).await
    }

    /// The same with another time in which the server has to take something, or to answer.
    async fn send_within(
        &self,
        stall: Duration,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        payload: Option<Payload>,
    ) -> Result<Response, Failure> {
        let home = self.url("blobs", "").map_err(Failure::never)?;
        let watch = payload.clone().unwrap_or_default();
        let mut sending = pin!(self.client.send_with(method, &home, url, headers, payload));
        let mut taken = watch.taken();
        loop {
            tokio::select! {
                answer = &mut sending => return answer,
                () = sleep(stall) => {}
            }
            let now = watch.taken();
            if now == taken {
                let seconds = stall.as_secs_f64();
                let what = format!("{} has taken nothing for {seconds} s (--stall-timeout)", Host(&home));
                return Err(Failure { error: Error::source("stalled", what).for_now(), again: Again::Later(None) });
            }
            taken = now;
        }
    }

    fn url(&self, kind: &str, name: &str) -> Result<Url> {
        self.reference.url(self.is_plain, kind, name)
    }

    /// Where the next request goes, which may be another host. It must have TLS where the registry has.
    fn location(&self, url: &Url, answer: &Response) -> Result<Url, Failure> {
        let Some(location) = answer.headers().get(LOCATION) else { return Ok(url.clone()) };
        let next = location.to_str().ok().and_then(|location| answer.url().join(location).ok());
        match next {
            Some(next)
                if next.has_host() && (next.scheme() == "https" || (next.scheme() == "http" && self.is_plain)) =>
            {
                Ok(next)
            }
            _ => {
                let what = format!("{} sends us on to a place without TLS, or to none", Host(answer.url()));
                Err(Failure::never(Error::source("redirect", what)))
            }
        }
    }
}

/// How long a registry may take to close a blob of `size` bytes, if it may say nothing for `stall`: some read all of it again for its
/// digest, or copy it, before they answer.
fn commit_time(stall: Duration, size: u64) -> Duration {
    const SLOWEST: u64 = 16 << 20;
    stall.saturating_add(Duration::from_secs(size / SLOWEST))
}

/// Reads the bytes of `chunk` in `part`, of which the first is byte `at` of the blob, or as many as there are.
fn read_chunk(
    reader: &mut (dyn Read + Send),
    mut chunk: BytesMut,
    part: Range<usize>,
    at: u64,
    digester: &mut Digester,
) -> Result<BytesMut> {
    chunk.resize(part.end, 0);
    let read = &mut chunk[part.start..];
    let got = fill(reader, read).map_err(|error| Error::reading(at, error))?;
    digester.update(&read[..got]);
    chunk.truncate(part.start + got);
    Ok(chunk)
}

/// Hands on chunks from byte `at` to the end, and has their digest then. For each there is one in return that is not needed any more, if
/// there is one. Ends early if nobody takes them.
fn chunks(
    reader: &mut (dyn Read + Send),
    mut at: u64,
    mut digester: Digester,
    chunks: &SyncSender<BytesMut>,
    spare: &Receiver<BytesMut>,
) -> Result<Checksum> {
    let mut chunk = BytesMut::new();
    loop {
        chunk = read_chunk(reader, chunk, 0..CHUNK, at, &mut digester)?;
        at = at.saturating_add(chunk.len() as u64);
        if chunk.is_empty() || chunks.send(chunk).is_err() {
            return manifest::finish(digester);
        }
        chunk = spare.recv().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::Access;
    use crate::sandbox::tests::without_threads;

    #[test]
    fn where_no_thread_can_be_started_a_blob_is_an_error_and_no_panic() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let reference = Reference::parse(&format!("//{}/a:1", listener.local_addr().unwrap())).unwrap();
        let runtime = Runtime::new().unwrap();
        let client = Client::new(&Access::default()).unwrap();
        let upload = Upload::new(&runtime, &client, &reference, None, &Keys::default(), true, Patience::default());
        // Two chunks, of which one is read while the other is sent. The upload is begun, and no more is asked for.
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let head = BufReader::new(client.try_clone().unwrap());
            let first = head.lines().map_while(io::Result::ok).take_while(|line| !line.is_empty()).next();
            client.write_all(b"HTTP/1.1 202 X\r\nLocation: /u\r\nContent-Length: 0\r\n\r\n").unwrap();
            first.unwrap()
        });
        let mut reader = io::repeat(7).take(2 * CHUNK as u64);
        let error = without_threads(|| upload.blob(&mut reader, &Progress::default())).unwrap_err();
        assert!(error.to_string().contains("starting a thread"), "{error}");
        assert!(server.join().unwrap().starts_with("POST /v2/a/blobs/uploads/"));
    }

    #[test]
    fn a_chunk_that_nobody_has_any_more_is_used_again() {
        let reference = Reference::parse("//127.0.0.1:1/a:1").unwrap();
        let patience = Patience { stall: Duration::from_millis(50), ..Patience::default() };
        let (runtime, client) = (Runtime::new().unwrap(), Client::new(&Access::default()).unwrap());
        let upload = Upload::new(&runtime, &client, &reference, None, &Keys::default(), true, patience);
        let url = Url::parse("http://127.0.0.1:1/").unwrap();
        let tail = [vec![1; 100], vec![2; 10]].map(Bytes::from).into();
        let mut session = Session { url, tail, tail_at: 5, offset: 115, furthest: 115 };
        let first = session.tail[0].as_ptr();
        let on_its_way = session.tail[1].slice(3..4);
        let progress = Progress::default();
        assert!(upload.let_go(&mut session, 2, &progress).unwrap().is_empty());
        let spare = upload.let_go(&mut session, 1, &progress).unwrap();
        assert!(spare.as_ptr() == first && spare.len() == 100 && session.tail_at == 105);
        assert_eq!(upload.let_go(&mut session, 0, &progress).unwrap_err().code(), "target-refused");
        assert_eq!(on_its_way[..], [2]);
    }
}
