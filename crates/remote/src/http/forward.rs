//! The image from its first byte to its last, over as many connections as it takes.

use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf, Bytes};
use diskferry::Error;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::Xxh3;

use super::answer::Answer;
use super::resource::{Resource, changed, is_wrong_range};
use super::retry::{ENOUGH, Tries};
use crate::failure::Failure;
use crate::runtime::{Runtime, ended, stopped};

/// How the image is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// With one request for all of it.
    Whole,
    /// In parts of [`PART`] bytes, so many of them at the same time.
    Parts(usize),
}

/// A part of its own connection: long enough to hide the request, and a few of them fit into memory.
pub(super) const PART: u64 = 2 << 20;
/// Pieces on their way from the network's thread, which come in some 16 KiB and at most in 400.
const PIECES: usize = 2;
/// The same where a piece is a whole part.
const PARTS: usize = 1;

/// A piece of the image, or its end. A channel that closes without that has lost its sender.
type Piece = Option<Bytes>;

/// Reads what the network's thread brings.
pub(super) struct Reader {
    pieces: mpsc::Receiver<Result<Piece, Error>>,
    piece: Bytes,
    ended: bool,
    /// Keeps the thread.
    _runtime: Runtime,
}

impl Reader {
    /// Brings the image that begins with `first`.
    pub(super) fn start(runtime: &Runtime, resource: Resource, first: Answer, pace: Pace) -> Self {
        Self::start_at(runtime, resource, first, pace, 0)
    }

    /// Brings what comes from the byte at `at` on, with which `first` begins. A server that begins anew after that has changed the
    /// image, as far as can be told here.
    pub(super) fn start_at(runtime: &Runtime, resource: Resource, first: Answer, pace: Pace, at: u64) -> Self {
        let room = if pace == Pace::Whole { PIECES } else { PARTS };
        let (out, pieces) = mpsc::channel(room);
        let tries = resource.tries();
        let forward = Forward { resource, at, passed: Xxh3::new(), tries, ranges_fail: false, out };
        runtime.spawn(forward.run(first, pace));
        Self { pieces, piece: Bytes::new(), ended: false, _runtime: runtime.clone() }
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Ok(Some(piece))) => self.piece = piece,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(ended()),
            }
        }
        let len = buf.len().min(self.piece.len());
        if let Some(buf) = buf.get_mut(..len) {
            self.piece.copy_to_slice(buf);
        }
        Ok(len)
    }
}

/// The other end.
struct Forward {
    resource: Resource,
    /// Up to which byte the image has been handed on.
    at: u64,
    /// Those bytes. It tells accidents, not attacks: who sends them can send what he likes anyway.
    passed: Xxh3,
    tries: Tries,
    /// Whether requests for parts were answered in ways that make no sense.
    ranges_fail: bool,
    out: mpsc::Sender<Result<Piece, Error>>,
}

/// Whether somebody still wants the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
}

impl Forward {
    async fn run(mut self, first: Answer, pace: Pace) {
        let (progress, out) = (self.resource.progress.clone(), self.out.clone());
        let outcome = tokio::select! {
            outcome = self.carry(first, pace) => outcome,
            () = stopped(&progress) => Err(Error::Stopped),
            // The answer is dropped with its connection, however much is still to come.
            () = out.closed() => return,
        };
        let _ = out.send(outcome.map(|()| None)).await;
    }

    async fn carry(&mut self, first: Answer, pace: Pace) -> Result<(), Error> {
        let mut next = match (pace, self.resource.about.total) {
            (Pace::Parts(ahead), Some(total)) if first.is_part() => {
                if self.parts(first, total, ahead).await? == Parts::Ended {
                    return Ok(());
                }
                None
            }
            _ => Some(first),
        };
        loop {
            let began = self.at;
            let answer = match next.take() {
                Some(answer) => Ok(answer),
                None => self.rest().await,
            };
            let came = match answer {
                Ok(answer) => self.pump(answer).await,
                Err(failure) => Err(failure),
            };
            match came {
                Ok(End::Image) => return Ok(()),
                // Some servers give no more than so many bytes with one answer.
                Ok(End::Answer) if self.at - began >= ENOUGH => {}
                Ok(End::Answer) => self.tries.pause_after(self.resource.interrupted(self.at)).await?,
                Err(failure) => {
                    self.ranges_fail |= is_wrong_range(&failure);
                    self.tries.pause_after(failure).await?;
                }
            }
        }
    }

    /// Asks for what has not come yet. Without a validator nothing says that the rest is of the same image, so it is asked
    /// for from the beginning.
    async fn rest(&self) -> Result<Answer, Failure> {
        let about = &self.resource.about;
        let has_ranges = about.validator.is_some() && about.ranges != Some(false) && !self.ranges_fail;
        self.resource.again((has_ranges && self.at > 0).then_some(self.at..u64::MAX)).await
    }

    /// Hands on what `answer` brings beyond that which has passed.
    async fn pump(&mut self, mut answer: Answer) -> Result<End, Failure> {
        let (began, mut at, mut proof) = (self.at, answer.at, Xxh3::new());
        loop {
            if at == self.at && !answer.is_part() {
                // Its prefix is ours, so all of it is the image, whatever its version is called.
                self.resource.about.validator.clone_from(&answer.about.validator);
                self.resource.about.marks.clone_from(&answer.about.marks);
            }
            let Some(mut chunk) = self.resource.chunk(&mut answer).await? else { break };
            let seen = usize::try_from(self.at.saturating_sub(at)).unwrap_or(usize::MAX).min(chunk.len());
            if seen > 0 {
                proof.update(&chunk.split_to(seen));
                at = at.saturating_add(seen as u64);
                if at == self.at && proof.digest128() != self.passed.digest128() {
                    return Err(changed("the server begins anew, with other bytes than before"));
                }
            }
            at = at.saturating_add(chunk.len() as u64);
            if self.hand_on(chunk).await == Wanted::No {
                return Ok(End::Image);
            }
        }
        if at < self.at {
            return Err(match answer.about.total {
                Some(total) if total > at => self.resource.interrupted(at),
                _ => changed("the image on the server is shorter than what has come of it"),
            });
        }
        match self.resource.about.total.or(answer.about.total) {
            Some(total) if self.at >= total => Ok(End::Image),
            Some(_) if !answer.is_part() => Err(self.resource.interrupted(self.at)),
            // An answer that is cut off looks the same. There is something to ask for if it was.
            None if answer.ends_by_closing && answer.about.ranges == Some(true) && self.at > began => Ok(End::Answer),
            None if !answer.is_part() => Ok(End::Image),
            _ => Ok(End::Answer),
        }
    }

    async fn hand_on(&mut self, chunk: Bytes) -> Wanted {
        if chunk.is_empty() {
            return Wanted::Yes;
        }
        self.passed.update(&chunk);
        self.at = self.at.saturating_add(chunk.len() as u64);
        self.tries.gain(chunk.len() as u64);
        if self.out.send(Ok(Some(chunk))).await.is_ok() { Wanted::Yes } else { Wanted::No }
    }

    /// Hands on the image of `total` bytes in parts that are fetched ahead of their turn.
    async fn parts(&mut self, first: Answer, total: u64, ahead: usize) -> Result<Parts, Error> {
        let resource = self.resource.clone();
        let mut first = Some(first);
        let starts = (0..total).step_by(usize::try_from(PART).unwrap_or(usize::MAX));
        let requests = starts.map(|start| {
            let part = Part { resource: resource.clone(), range: start..total.min(start.saturating_add(PART)) };
            part.fetch_ahead(first.take())
        });
        let mut parts = stream::iter(requests).buffered(ahead.max(1));
        while let Some(part) = parts.next().await {
            let Some(bytes) = part? else { return Ok(Parts::Refused) };
            if self.hand_on(bytes).await == Wanted::No {
                break;
            }
        }
        Ok(Parts::Ended)
    }
}

/// What has come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// And with it the answer. Nobody may have wanted the rest of it.
    Image,
    Answer,
}

/// What came of fetching parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    Ended,
    /// The server gives no parts any more, or parts of something else.
    Refused,
}

/// One part of the image.
struct Part {
    resource: Resource,
    range: Range<u64>,
}

impl Part {
    /// [Fetches](Self::fetch) the part while nobody looks, as when the target takes nothing for a while: that is no standstill of the
    /// server's. Ends with whoever waits for it.
    async fn fetch_ahead(self, first: Option<Answer>) -> Result<Option<Bytes>, Error> {
        let (mut done, part) = oneshot::channel();
        tokio::spawn(async move {
            tokio::select! {
                part = self.fetch(first) => drop(done.send(part)),
                () = done.closed() => {}
            }
        });
        part.await.unwrap_or_else(|_| Err(Error::reading(0, ended())))
    }

    /// All bytes of the part; `None` where the server would rather send the whole image.
    async fn fetch(self, first: Option<Answer>) -> Result<Option<Bytes>, Error> {
        let mut tries = self.resource.tries();
        // Copied into one piece: a server that sends it byte by byte would make thousands of them.
        let mut bytes = Vec::with_capacity(usize::try_from(self.range.end - self.range.start).unwrap_or_default());
        let mut next = first;
        loop {
            let at = self.range.start.saturating_add(bytes.len() as u64);
            if at >= self.range.end {
                return Ok(Some(bytes.into()));
            }
            let answer = match next.take() {
                Some(answer) => Ok(answer),
                None => self.resource.again(Some(at..self.range.end)).await,
            };
            let came = match answer {
                Ok(answer) if !answer.is_part() => return Ok(None),
                Ok(answer) => self.collect(answer, &mut bytes, &mut tries).await,
                Err(failure) => Err(failure),
            };
            match came {
                Ok(got) if got >= ENOUGH => {}
                Ok(_) if bytes.len() as u64 >= self.range.end - self.range.start => {}
                Ok(got) => tries.pause_after(self.resource.interrupted(at.saturating_add(got))).await?,
                Err(failure) if is_wrong_range(&failure) => return Ok(None),
                Err(failure) => tries.pause_after(failure).await?,
            }
        }
    }

    /// Adds what `answer` brings to `bytes`, and says how much that is.
    async fn collect(&self, mut answer: Answer, bytes: &mut Vec<u8>, tries: &mut Tries) -> Result<u64, Failure> {
        let began = answer.at;
        while let Some(chunk) = self.resource.chunk(&mut answer).await? {
            // More than was asked for, as some servers send, is for others to fetch.
            let left = usize::try_from(self.range.end.saturating_sub(answer.at - chunk.len() as u64));
            let chunk = chunk.get(..left.unwrap_or(usize::MAX)).unwrap_or(&chunk);
            bytes.extend_from_slice(chunk);
            tries.gain(chunk.len() as u64);
            if answer.at >= self.range.end {
                break;
            }
        }
        Ok(answer.at - began)
    }
}
