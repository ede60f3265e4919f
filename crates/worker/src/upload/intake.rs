//! The one image that is taken: how much of it has come, who is sending, and what became of it.
//!
//! Bytes go from whoever sends through a bounded channel to the thread that carries the image. When a sender breaks off, the other end just
//! waits: the next one goes on at the byte that is missing. One who begins anew has the job begin anew.

use std::io::{self, Read};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use diskferry::Error;
use tokio::sync::{mpsc, watch};

use super::id::Id;
use crate::verdict::Verdict;

/// Pieces that may wait for the job. Each is what one read of a connection gave.
const PIECES: usize = 16;

/// The image that is taken. Clones are the same.
#[derive(Clone)]
pub struct Intake(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Jobs, for the thread that carries images.
    jobs: std::sync::mpsc::SyncSender<Job>,
    /// Counts changes that somebody may be waiting for.
    changed: watch::Sender<u64>,
    times: Times,
    began: Instant,
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For somebody to begin.
    pub first: Duration,
    /// For the next bytes of somebody who is sending.
    pub stall: Duration,
    /// For somebody to go on with what broke off.
    pub resume: Duration,
    /// For all of it.
    pub whole: Option<Duration>,
}

/// What somebody has begun to send.
pub struct Job {
    /// Its bytes.
    pub feed: Feed,
    /// How many they will be, if that is known.
    pub len: Option<u64>,
}

struct State {
    stage: Stage,
    /// How often it was begun. What belongs to an earlier beginning is over.
    round: u64,
    /// What whoever has begun it calls it, if it was called anything.
    id: Option<Id>,
    /// Why it was given up: then it ends, whoever comes.
    given_up: Option<Why>,
}

/// Why an image is given up.
#[derive(Debug, Clone, Copy)]
enum Why {
    Stopped,
    /// What has not come about in this time.
    Late(&'static str, Duration),
    /// What has not by the moment at which all is to have ended, this time after the beginning.
    Deadline(&'static str, Duration),
}

impl Why {
    fn error(self) -> Error {
        match self {
            Self::Stopped => Error::Stopped,
            Self::Late(what, time) => Error::source("stalled", format!("{what} {} s", time.as_secs())).for_now(),
            Self::Deadline(what, time) => {
                Error::source("deadline", format!("{what} {} s, when the deadline passed", time.as_secs())).for_now()
            }
        }
    }
}

const NOT_THERE: &str = "all of the image was not there after";

enum Stage {
    /// Nobody has come.
    Waiting,
    /// Bytes are coming, or should.
    Taking(Taking),
    /// All bytes are there, and are being dealt with.
    Working { len: u64 },
    /// It has ended, after so many bytes.
    Ended { outcome: Outcome, len: u64 },
}

struct Taking {
    sender: mpsc::Sender<Bytes>,
    gone: Gone,
    is_whole: Arc<AtomicBool>,
    offset: u64,
    total: Option<u64>,
    /// Whether somebody is sending, and if not, since when.
    broken: Option<Instant>,
}

/// How it has ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The image is where it belongs.
    Good,
    /// It is not.
    Bad(Verdict),
}

/// Why somebody cannot send now.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else is sending.
    Busy,
    /// There is an image already, or a verdict on one.
    Over,
    /// What was begun is another upload than the one that was to be gone on with.
    Another,
    /// What was sent begins elsewhere than where bytes are missing.
    Elsewhere {
        /// Where they are missing.
        offset: u64,
    },
    /// The whole has another length than was said before.
    OtherLength {
        /// What was said before.
        total: u64,
    },
}

/// What somebody wants to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What they call the upload, if they do.
    pub id: Option<Id>,
    /// From which byte on.
    pub start: u64,
    /// How many the image has, if that is said.
    pub total: Option<u64>,
    /// How much of the image it is.
    pub scope: Scope,
}

/// How much of an image somebody sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it: of an image whose length nobody has said, its end is where this ends.
    Whole,
    /// A part. The first one begins the image anew, if it may.
    Part,
    /// A part that goes on, whatever it begins with.
    More,
}

/// Who is sending. When this is dropped before the end, somebody else may go on.
pub struct Ticket {
    intake: Intake,
    sender: mpsc::Sender<Bytes>,
    round: u64,
    /// Bytes that are missing of the image, if that is known.
    missing: Option<u64>,
    scope: Scope,
    is_done: bool,
}

/// What is known of it, for those who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What whoever has begun it calls it.
    pub id: Option<Id>,
    /// Bytes that have come.
    pub offset: u64,
    /// How many they will be.
    pub total: Option<u64>,
    /// Whether more of them may come.
    pub is_open: bool,
    /// Whether somebody is sending.
    pub is_busy: bool,
}

/// Why the bytes have come to no end. Empty while they come.
type Gone = Arc<Mutex<Option<Error>>>;

/// The bytes as they come. They end when all are there, and fail with the reason when no more will come.
pub struct Feed {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
    gone: Gone,
    is_whole: Arc<AtomicBool>,
}

impl Intake {
    /// Takes an image, with `jobs` for whoever carries it.
    pub fn new(times: Times) -> (Self, std::sync::mpsc::Receiver<Job>) {
        let (jobs, next) = std::sync::mpsc::sync_channel(1);
        let state = Mutex::new(State { stage: Stage::Waiting, round: 0, id: None, given_up: None });
        let shared = Shared { state, jobs, changed: watch::channel(0).0, times, began: Instant::now() };
        (Self(Arc::new(shared)), next)
    }

    /// How long is waited for what.
    pub fn times(&self) -> Times {
        self.0.times
    }

    /// Somebody wants to send something. What starts with 0 begins everything anew, if it may.
    pub fn enter(&self, entry: Entry) -> Result<Ticket, Refusal> {
        let Entry { id, start, total, scope } = entry;
        let mut state = self.lock();
        let may_begin = start == 0 && scope != Scope::More;
        let is_another = id.is_some() && id != state.id;
        let goes_on = match &state.stage {
            Stage::Working { .. } => return Err(Refusal::Busy),
            Stage::Ended { .. } => return Err(Refusal::Over),
            // The verdict is on its way.
            _ if state.given_up.is_some() => return Err(Refusal::Busy),
            Stage::Taking(taking) if taking.broken.is_none() => return Err(Refusal::Busy),
            Stage::Waiting if start > 0 => return Err(Refusal::Elsewhere { offset: 0 }),
            Stage::Waiting => false,
            Stage::Taking(_) if !may_begin && is_another => return Err(Refusal::Another),
            Stage::Taking(taking) if !may_begin && start != taking.offset => {
                return Err(Refusal::Elsewhere { offset: taking.offset });
            }
            Stage::Taking(Taking { total: Some(before), .. })
                if !may_begin && total.is_some_and(|now| now != *before) =>
            {
                return Err(Refusal::OtherLength { total: *before });
            }
            // Of what was made room for and not begun, the length that was said stays.
            Stage::Taking(taking) => {
                let is_same = !is_another && (total.is_none() || total == taking.total);
                start == taking.offset && (!may_begin || is_same)
            }
        };
        if !goes_on {
            self.begin(&mut state, id, total)?;
        }
        let round = state.round;
        let Stage::Taking(taking) = &mut state.stage else { return Err(Refusal::Busy) };
        taking.broken = None;
        taking.total = taking.total.or(total);
        let missing = taking.total.map(|total| total.saturating_sub(taking.offset));
        let sender = taking.sender.clone();
        Ok(Ticket { intake: self.clone(), sender, round, missing, scope, is_done: false })
    }

    fn begin(&self, state: &mut State, id: Option<Id>, total: Option<u64>) -> Result<(), Refusal> {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (gone, is_whole) = (Gone::default(), Arc::<AtomicBool>::default());
        let feed = Feed { pieces, piece: Bytes::new(), gone: Arc::clone(&gone), is_whole: Arc::clone(&is_whole) };
        // One that was begun before has been taken by the job's thread, or it is still here, and then somebody is very fast.
        if self.0.jobs.try_send(Job { feed, len: total }).is_err() {
            return Err(Refusal::Busy);
        }
        state.round += 1;
        state.id = id;
        // The sender of the one before goes, so that its job ends.
        state.stage = Stage::Taking(Taking { sender, gone, is_whole, offset: 0, total, broken: None });
        self.tell();
        Ok(())
    }

    /// Makes room for an image of `total` bytes, of which nothing is sent yet.
    pub fn create(&self, id: Option<Id>, total: Option<u64>) -> Result<(), Refusal> {
        self.enter(Entry { id, start: 0, total, scope: Scope::Part }).map(drop)
    }

    /// What is known of it.
    pub fn place(&self) -> Place {
        let state = self.lock();
        let place = |offset, total| Place { id: state.id.clone(), offset, total, is_open: false, is_busy: false };
        match &state.stage {
            Stage::Taking(taking) => {
                let is_busy = taking.broken.is_none();
                Place { is_open: true, is_busy, ..place(taking.offset, taking.total) }
            }
            Stage::Working { len } => Place { is_busy: true, ..place(*len, Some(*len)) },
            // Whoever has missed the answer sees that all of it has come.
            Stage::Ended { outcome: Outcome::Good, len } => place(*len, Some(*len)),
            Stage::Waiting | Stage::Ended { .. } => place(0, None),
        }
    }

    /// How it has ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.lock().stage {
            Stage::Ended { outcome, .. } => Some(outcome.clone()),
            _ => None,
        }
    }

    /// Waits for how it ends; `None` if it is begun anew meanwhile.
    pub async fn ended(&self, round: u64) -> Option<Outcome> {
        let mut changes = self.0.changed.subscribe();
        loop {
            {
                let state = self.lock();
                match &state.stage {
                    Stage::Ended { outcome, .. } => return Some(outcome.clone()),
                    _ if state.round != round && state.given_up.is_none() => return None,
                    _ => {}
                }
            }
            if changes.changed().await.is_err() {
                return None;
            }
        }
    }

    /// It has ended.
    pub fn end(&self, outcome: Outcome) {
        let mut state = self.lock();
        let len = if let Stage::Working { len } = state.stage { len } else { 0 };
        state.stage = Stage::Ended { outcome, len };
        // Who has come since the job ended waits for nobody.
        state.round += 1;
        drop(state);
        self.tell();
    }

    /// Gives up what takes too long, or what has been stopped, and says why, from then on. To be called now and then. A job that waits
    /// for bytes hears of it, one that is busy with those that it has does not.
    pub fn look(&self, is_stopped: bool) -> Option<Error> {
        let mut state = self.lock();
        let Times { first, resume, whole, .. } = self.0.times;
        let late = |what, time: Duration, since: Instant| (since.elapsed() > time).then_some(Why::Late(what, time));
        let deadline = whole.filter(|whole| self.0.began.elapsed() > *whole);
        let whole = |what| deadline.map(|time| Why::Deadline(what, time));
        let why = match &state.stage {
            Stage::Ended { .. } => return None,
            _ if state.given_up.is_some() => state.given_up,
            Stage::Working { .. } => whole("the image had come, but was not carried after"),
            _ if is_stopped => Some(Why::Stopped),
            Stage::Waiting => whole(NOT_THERE).or(late("nobody has sent an image for", first, self.0.began)),
            Stage::Taking(Taking { broken: Some(since), .. }) => {
                whole(NOT_THERE).or(late("nobody has gone on with an upload that broke off for", resume, *since))
            }
            Stage::Taking(_) => whole(NOT_THERE),
        }?;
        if state.given_up.replace(why).is_none()
            && let Stage::Taking(taking) = &mut state.stage
        {
            taking.gone.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why.error());
            // Nobody sends any more.
            taking.sender = mpsc::channel(1).0;
            state.round += 1;
            self.tell();
        }
        Some(why.error())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }
}

impl Ticket {
    /// Which beginning it belongs to.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// How many bytes may come, if that is known.
    pub fn missing(&self) -> Option<u64> {
        self.missing
    }

    /// Hands on bytes; false if nobody wants them any more.
    pub async fn send(&mut self, bytes: Bytes) -> bool {
        let len = bytes.len() as u64;
        let mut changes = self.intake.0.changed.subscribe();
        let mut sending = pin!(self.sender.send(bytes));
        let sent = loop {
            tokio::select! {
                sent = &mut sending => break sent.is_ok(),
                _ = changes.changed() => if self.intake.lock().round != self.round { break false },
            }
        };
        let mut state = self.intake.lock();
        let is_ours = state.round == self.round;
        match &mut state.stage {
            Stage::Taking(taking) if sent && is_ours => {
                taking.offset = taking.offset.saturating_add(len);
                true
            }
            _ => false,
        }
    }

    /// Waits until nobody wants its bytes any more.
    pub async fn over(&self) {
        let mut changes = self.intake.0.changed.subscribe();
        while self.intake.lock().round == self.round {
            tokio::select! {
                () = self.sender.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What was sent has come to its end. Says whether that is the end of the image: it is with the last byte of what was promised. Where
    /// nothing was promised, behind a part there may be another one.
    pub fn finish(mut self) -> bool {
        let mut state = self.intake.lock();
        let Stage::Taking(taking) = &state.stage else { return matches!(state.stage, Stage::Ended { .. }) };
        let is_end = taking.total.map_or(self.scope == Scope::Whole, |total| total == taking.offset);
        if state.round != self.round || !is_end {
            return false;
        }
        taking.is_whole.store(true, Ordering::Release);
        state.stage = Stage::Working { len: taking.offset };
        drop(state);
        self.is_done = true;
        self.intake.tell();
        true
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut state = self.intake.lock();
        let round = state.round;
        if let Stage::Taking(taking) = &mut state.stage
            && round == self.round
        {
            taking.broken = Some(Instant::now());
        }
    }
}

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None if self.is_whole.load(Ordering::Acquire) => return Ok(0),
                None => {
                    let why = self.gone.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return Err(why.unwrap_or(Error::Stopped).into());
                }
            }
        }
        let len = buf.len().min(self.piece.len());
        if let Some(buf) = buf.get_mut(..len) {
            self.piece.copy_to_slice(buf);
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_the_job_has_ended_is_told_of_its_end() {
        let second = Duration::from_secs(1);
        let (intake, _jobs) = Intake::new(Times { first: second, stall: second, resume: second, whole: None });
        let mut ticket = intake.enter(Entry { id: None, start: 0, total: None, scope: Scope::Whole }).unwrap();
        let round = ticket.round();
        intake.end(Outcome::Good);
        timeout(second, ticket.over()).await.unwrap();
        assert_eq!(timeout(second, ticket.send(Bytes::from_static(b"x"))).await, Ok(false));
        assert!(ticket.finish(), "there is nothing to go on with");
        assert!(matches!(timeout(second, intake.ended(round)).await, Ok(Some(Outcome::Good))));
    }

    #[test]
    fn who_comes_when_the_upload_was_given_up_takes_nothing_over() {
        let second = Duration::from_secs(1);
        let (intake, jobs) = Intake::new(Times { first: second, stall: second, resume: second, whole: None });
        assert!(intake.look(false).is_none() && intake.look(true).is_some());
        let entry = Entry { id: None, start: 0, total: None, scope: Scope::Whole };
        assert!(matches!(intake.enter(entry), Err(Refusal::Busy)));
        assert!(jobs.try_recv().is_err(), "nobody carries what nobody sends");
    }

    #[tokio::test(start_paused = true)]
    async fn sixteen_pieces_may_wait_for_the_job() {
        let second = Duration::from_secs(1);
        let (intake, jobs) = Intake::new(Times { first: second, stall: second, resume: second, whole: None });
        let entry = Entry { id: None, start: 0, total: None, scope: Scope::Whole };
        let mut ticket = intake.enter(entry).unwrap();
        let piece = Bytes::from_static(b"x");
        for at in 0..16 {
            assert_eq!(timeout(second, ticket.send(piece.clone())).await, Ok(true), "{at}");
        }
        assert!(timeout(second, ticket.send(piece.clone())).await.is_err());
        let mut job = jobs.recv().unwrap();
        assert!(job.feed.pieces.recv().await.is_some());
        assert_eq!(timeout(second, ticket.send(piece)).await, Ok(true));
    }
}
