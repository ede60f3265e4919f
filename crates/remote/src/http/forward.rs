//! The image from its first byte to its last, over as many connections as it takes.

use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf, Bytes};
use diskferry::Error;
use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

use super::answer::Answer;
use super::resource::{Resource, changed};
use super::retry::Tries;
use crate::failure::Failure;
use crate::runtime::{Runtime, stopped};

/// How the image is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// With one request for all of it.
    Whole,
    /// In parts of `len` bytes, `ahead` of them at the same time.
    Parts { len: u64, ahead: usize },
}

/// Bytes on their way from the network's thread, which are not many when each answer comes in pieces of some 16 KiB.
const IN_FLIGHT: usize = 32;
/// The same for callers who want to see the beginning only.
const FEW: usize = 1;

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
    pub(super) fn start(runtime: &Runtime, resource: Resource, first: Answer, pace: Pace) -> io::Result<Self> {
        let room = if matches!(pace, Pace::Parts { ahead: 1, .. }) { FEW } else { IN_FLIGHT };
        let (out, pieces) = mpsc::channel(room);
        let tries = resource.tries();
        let forward = Forward { resource, at: 0, passed: Xxh3::new(), tries, out };
        runtime.spawn(forward.run(first, pace))?;
        Ok(Self { pieces, piece: Bytes::new(), ended: false, _runtime: runtime.clone() })
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Ok(Some(piece))) => self.piece = piece,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(io::Error::other("the network's thread has ended")),
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
    /// How many bytes have been handed on.
    at: u64,
    /// Those bytes. It tells accidents, not attacks: who sends them can send what he likes anyway.
    passed: Xxh3,
    tries: Tries,
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
            (Pace::Parts { len, ahead }, Some(total)) if first.is_part => {
                if self.parts(first, total, len, ahead).await? == Outcome::Ended {
                    return Ok(());
                }
                None
            }
            _ => Some(first),
        };
        loop {
            let answer = match next.take() {
                Some(answer) => Ok(answer),
                None => self.rest().await,
            };
            let ended = match answer {
                Ok(answer) => self.pump(answer).await,
                Err(failure) => Err(failure),
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(failure) => self.tries.pause_after(failure).await?,
            }
        }
    }

    /// Asks for what has not come yet. Without a validator nothing says that the rest is of the same image, so it is asked
    /// for from the beginning.
    async fn rest(&self) -> Result<Answer, Failure> {
        let known = self.resource.about.validator.is_some() && !self.resource.about.refuses_ranges;
        self.resource.again((known && self.at > 0).then_some(self.at..u64::MAX)).await
    }

    /// Hands on what `answer` brings beyond that which has passed.
    async fn pump(&mut self, mut answer: Answer) -> Result<(), Failure> {
        let mut proof = Xxh3::new();
        let total = answer.about.total;
        while let Some(mut chunk) = self.resource.chunk(&mut answer).await? {
            let seen = usize::try_from(self.at.saturating_sub(answer.at)).unwrap_or(usize::MAX).min(chunk.len());
            if seen > 0 {
                proof.update(&chunk.split_to(seen));
                answer.at = answer.at.saturating_add(seen as u64);
                if answer.at == self.at && proof.digest128() != self.passed.digest128() {
                    return Err(changed("the server begins anew, with other bytes than before"));
                }
            }
            answer.at = answer.at.saturating_add(chunk.len() as u64);
            if self.hand_on(chunk).await == Wanted::No {
                return Ok(());
            }
        }
        if answer.at < self.at {
            return Err(match total {
                Some(total) if total > answer.at => self.resource.interrupted(answer.at),
                _ => changed("the server begins anew, and ends before it has come as far as before"),
            });
        }
        match self.resource.about.total.or(total) {
            Some(total) if self.at < total => Err(self.resource.interrupted(self.at)),
            _ => Ok(()),
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
    async fn parts(&mut self, first: Answer, total: u64, len: u64, ahead: usize) -> Result<Outcome, Error> {
        let resource = self.resource.clone();
        let mut first = Some(first);
        let starts = (0..total).step_by(usize::try_from(len).unwrap_or(usize::MAX));
        let requests = starts.map(|start| {
            let part = Part { resource: resource.clone(), range: start..total.min(start.saturating_add(len)) };
            let answer = first.take();
            part.fetch(answer)
        });
        let mut parts = stream::iter(requests).buffered(ahead.max(1));
        while let Some(part) = parts.next().await {
            let Some(chunks) = part? else { return Ok(Outcome::Unranged) };
            for chunk in chunks {
                if self.hand_on(chunk).await == Wanted::No {
                    return Ok(Outcome::Ended);
                }
            }
        }
        Ok(Outcome::Ended)
    }
}

/// What came of fetching parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ended,
    /// The server gives no parts any more, or parts of something else.
    Unranged,
}

/// One part of the image.
struct Part {
    resource: Resource,
    range: Range<u64>,
}

impl Part {
    /// All bytes of the part; `None` where the server would rather send the whole image.
    async fn fetch(self, first: Option<Answer>) -> Result<Option<Vec<Bytes>>, Error> {
        let mut tries = self.resource.tries();
        let (mut chunks, mut at, mut next) = (Vec::new(), self.range.start, first);
        while at < self.range.end {
            let answer = match next.take() {
                Some(answer) => Ok(answer),
                None => self.resource.again(Some(at..self.range.end)).await,
            };
            let came = match answer {
                Ok(answer) if !answer.is_part => return Ok(None),
                Ok(answer) => self.collect(answer, &mut chunks, &mut at, &mut tries).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = came {
                tries.pause_after(failure).await?;
            }
        }
        Ok(Some(chunks))
    }

    async fn collect(
        &self,
        mut answer: Answer,
        chunks: &mut Vec<Bytes>,
        at: &mut u64,
        tries: &mut Tries,
    ) -> Result<(), Failure> {
        while *at < self.range.end {
            let Some(mut chunk) = self.resource.chunk(&mut answer).await? else {
                return Err(self.resource.interrupted(*at));
            };
            // More than was asked for is nobody's.
            chunk.truncate(usize::try_from(self.range.end - *at).unwrap_or(usize::MAX));
            *at = at.saturating_add(chunk.len() as u64);
            tries.gain(chunk.len() as u64);
            chunks.push(chunk);
        }
        Ok(())
    }
}
