//! The one state machine: whoever knows something writes it on the board, whoever asks reads it there.
//!
//! Clones of a [`Board`] are the same board. What is written to it goes to the status file, to the events on stdout and, at the end, to
//! the termination message. `GET /status` and `/metrics` read it.

mod meter;
mod phase;
mod snapshot;
mod termination;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use diskferry_remote::escape::json_line;
use serde::Serialize;

use self::meter::Meter;
use self::termination::Ending;
use crate::human::{iec, rfc3339, say};
use crate::lines::Lines;
use crate::verdict::Verdict;

pub use self::phase::{Condition, Phase, Reason};
pub use self::snapshot::{Facts, Snapshot};
pub use self::termination::{MOST as MOST_TERMINATION, Work};

/// The least time between two events that tell of nothing but bytes that have passed.
const PAUSE: Duration = Duration::from_secs(1);

/// The same where they are less than a percent, or nobody knows of how many.
const SILENCE: Duration = Duration::from_secs(10);

/// Where a board is shown.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// Whether the termination message speaks of an import or an upload.
    pub work: Work,
    /// The file for the termination message.
    pub termination: Option<PathBuf>,
    /// A file that always has the last snapshot.
    pub status_file: Option<PathBuf>,
    /// Whether every change is a line of JSON on stdout.
    pub events: bool,
}

impl Outlets {
    /// No outlet at all.
    pub fn none(work: Work) -> Self {
        Self { work, termination: None, status_file: None, events: false }
    }
}

/// What is known of the image and of the work on it. Cheap to clone; clones are the same board.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    owner: String,
    outlets: Outlets,
    events: Option<Lines>,
    state: Mutex<State>,
}

struct State {
    reason: Reason,
    message: String,
    /// Since when it is in its phase, and since when its source is known to be there.
    entered: SystemTime,
    opened: Option<SystemTime>,
    facts: Facts,
    meter: Meter,
    attempt: u32,
    sandbox: Vec<&'static str>,
    error: Option<Verdict>,
    /// When an event was last written, at which percent, and after how many bytes.
    told: Option<(Instant, u32, u64)>,
}

/// A change that cannot be: the phase that there is does not lead to the phase that was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Illegal {
    /// The phase that there is.
    pub from: Phase,
    /// The phase that was wanted.
    pub to: Phase,
}

impl std::fmt::Display for Illegal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no way leads from {:?} to {:?}", self.from, self.to)
    }
}

impl std::error::Error for Illegal {}

/// An event: what has changed, and everything that is known.
#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
}

impl Board {
    /// A board in the phase `Pending`; `owner` is the object that the work is for, as metrics name it.
    pub fn new(owner: impl Into<String>, outlets: Outlets) -> Self {
        let state = State {
            reason: Reason::ProvisioningNotStarted,
            message: String::new(),
            entered: SystemTime::now(),
            opened: None,
            facts: Facts::default(),
            meter: Meter::default(),
            attempt: 0,
            sandbox: Vec::new(),
            error: None,
            told: None,
        };
        let events = outlets.events.then(|| Lines::start(io::stdout())).transpose().unwrap_or_else(|error| {
            complain("events", Err(error));
            None
        });
        Self(Arc::new(Shared { owner: owner.into(), outlets, events, state: Mutex::new(state) }))
    }

    /// The object that the work is for.
    pub fn owner(&self) -> &str {
        &self.0.owner
    }

    /// Enters the phase that `reason` belongs to, with a message for people. Fails, and changes nothing, where no way leads there. How a job
    /// ends badly is for [`fail`](Self::fail) to say.
    pub fn enter(&self, reason: Reason, message: impl Into<String>) -> Result<(), Illegal> {
        self.change(reason, message.into(), |_, _| {})
    }

    /// An attempt begins: its bytes are counted from 0.
    pub fn begin(&self, message: impl Into<String>) -> Result<(), Illegal> {
        self.change(Reason::Provisioning, message.into(), |state, now| {
            state.attempt = state.attempt.saturating_add(1);
            state.meter.begin(now);
        })
    }

    /// Images are decoded where these are in force.
    pub fn confined(&self, layers: Vec<&'static str>) {
        self.lock().sandbox = layers;
    }

    /// The source is there, and could be opened.
    pub fn opened(&self) {
        let mut state = self.lock();
        if state.opened.is_none() {
            state.opened = Some(SystemTime::now());
            self.tell(&mut state, "source");
        }
    }

    /// What has been found out about the image. What is `None` in `facts` stays what it was.
    pub fn learn(&self, facts: Facts) {
        let mut state = self.lock();
        if state.facts.learn(facts) {
            self.tell(&mut state, "facts");
        }
    }

    /// `source` bytes of `total` have passed in this attempt. For a clock that calls it once or more in a second.
    pub fn measure(&self, source: u64, total: Option<u64>) {
        let mut state = self.lock();
        if state.reason.phase() != Phase::Provisioning {
            return;
        }
        let now = Instant::now();
        state.meter.measure(now, source, total);
        let (percent, passed) = (whole(state.meter.percent()), state.meter.passed());
        let is_news =
            |(then, told, before)| is_news(now.saturating_duration_since(then), percent > told, passed > before);
        if state.told.is_none_or(is_news) {
            self.tell(&mut state, "progress");
        }
    }

    /// The image is where it belongs, and this is what is known of it.
    pub fn ready(&self, facts: Facts, message: impl Into<String>) -> Result<(), Illegal> {
        self.change(Reason::Ready, message.into(), |state, now| {
            state.facts.learn(facts);
            state.meter.complete(now);
        })
    }

    /// The work has ended without success.
    pub fn fail(&self, verdict: &Verdict) -> Result<(), Illegal> {
        self.fail_for(verdict.reason(), verdict)
    }

    /// The same for a reason of the phase `Failed` that says more than the verdict's own.
    pub fn fail_for(&self, reason: Reason, verdict: &Verdict) -> Result<(), Illegal> {
        let reason = if reason.phase() == Phase::Failed { reason } else { verdict.reason() };
        self.change(reason, verdict.message.clone(), |state, now| {
            state.error = Some(verdict.clone());
            state.meter.end(now);
        })
    }

    /// The phase that there is.
    pub fn phase(&self) -> Phase {
        self.lock().reason.phase()
    }

    /// Everything that is known.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// What the container leaves behind, in the words of both platforms: at most [`MOST_TERMINATION`] bytes.
    pub fn termination(&self) -> String {
        self.ending(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, reason: Reason, message: String, also: impl FnOnce(&mut State, Instant)) -> Result<(), Illegal> {
        let mut state = self.lock();
        let (from, to) = (state.reason.phase(), reason.phase());
        if !from.leads_to(to) {
            return Err(Illegal { from, to });
        }
        if from != to {
            state.entered = SystemTime::now();
        }
        (state.reason, state.message) = (reason, message);
        also(&mut state, Instant::now());
        self.tell(&mut state, "phase");
        if to.is_end()
            && let Some(path) = &self.0.outlets.termination
        {
            complain("termination message", termination::write(path, &self.ending(&state)));
        }
        drop(state);
        if let Some(events) = self.0.events.as_ref().filter(|_| to.is_end()) {
            events.flush();
        }
        Ok(())
    }

    fn ending(&self, state: &State) -> String {
        let now = Instant::now();
        let ending = Ending {
            work: self.0.outlets.work,
            phase: state.reason.phase(),
            message: &state.message,
            facts: &state.facts,
            duration: state.meter.elapsed(now),
            average: state.meter.average(now),
            error: state.error.as_ref(),
        };
        ending.text()
    }

    /// Tells everybody who has asked to be told. Who holds the lock keeps the order of what is told.
    fn tell(&self, state: &mut State, event: &'static str) {
        state.told = Some((Instant::now(), whole(state.meter.percent()), state.meter.passed()));
        let (status_file, events) = (&self.0.outlets.status_file, &self.0.events);
        if status_file.is_none() && events.is_none() {
            return;
        }
        let snapshot = state.snapshot();
        if let Some(path) = status_file {
            complain("status file", termination::replace(path, &json_line(&snapshot)));
        }
        if let Some(events) = events {
            events.leave(json_line(&Event { event, snapshot: &snapshot }));
        }
    }
}

impl State {
    fn snapshot(&self) -> Snapshot {
        let (now, facts) = (Instant::now(), &self.facts);
        Snapshot {
            time: rfc3339(SystemTime::now()),
            phase: self.reason.phase(),
            reason: self.reason,
            message: self.message.clone(),
            percent: self.meter.percent(),
            stored_size: facts.stored_size,
            stored_size_human: facts.stored_size.map(iec),
            unpacked_size: facts.unpacked_size,
            unpacked_size_human: facts.unpacked_size.map(iec),
            format: facts.format.clone(),
            cdrom: facts.cdrom,
            digest: facts.digest.clone(),
            warnings: facts.warnings.clone(),
            passed: self.meter.passed(),
            average_speed: self.meter.average(now),
            current_speed: self.meter.current(now),
            seconds: self.meter.elapsed(now).as_secs_f64(),
            attempt: self.attempt,
            sandbox: self.sandbox.clone(),
            conditions: self.conditions(),
            error: self.error.clone(),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        let phase = self.reason.phase();
        let known = |status: bool| if status { "True" } else { "False" };
        let condition = |kind, status, reason, message: &str, since| Condition {
            kind,
            status,
            reason,
            message: message.to_owned(),
            last_transition_time: rfc3339(since),
        };
        let (status, reason) = match self.opened {
            Some(_) => ("True", "Available"),
            None if phase == Phase::Failed => ("False", "Unavailable"),
            None => ("Unknown", "NotOpenedYet"),
        };
        let since = self.opened.unwrap_or(self.entered);
        let mut all = vec![
            condition("DatasourceReady", status, reason, "", since),
            condition("Ready", known(phase == Phase::Ready), self.reason.name(), &self.message, self.entered),
        ];
        if phase == Phase::Terminating {
            all.push(condition("Terminating", "True", self.reason.name(), &self.message, self.entered));
        }
        all
    }
}

fn whole(percent: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    let whole = percent as u32;
    whole
}

/// Says that somebody could not be told; that alone does not end the work.
fn complain(what: &str, written: io::Result<()>) {
    if let Err(error) = written {
        say(&format!("the {what} cannot be written: {error}"));
    }
}

/// Whether bytes that have passed are told of after a silence.
fn is_news(silence: Duration, is_percent: bool, is_more: bool) -> bool {
    is_percent && silence >= PAUSE || is_more && silence >= SILENCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Lasting;
    use std::fs;

    fn board() -> Board {
        Board::new("uid-1", Outlets::none(Work::Import))
    }

    fn verdict() -> Verdict {
        Verdict {
            code: "target-too-small".into(),
            message: "too small".into(),
            verdict: Lasting::Permanent,
            kind: None,
        }
    }

    #[test]
    fn a_job_goes_from_pending_to_ready_and_no_further() {
        let board = board();
        assert_eq!(board.phase(), Phase::Pending);
        assert_eq!(board.ready(Facts::default(), ""), Err(Illegal { from: Phase::Pending, to: Phase::Ready }));
        board.begin("on its way").unwrap();
        board.opened();
        board.measure(50, Some(100));
        assert_eq!(board.snapshot().percent, 50.0);
        board.ready(Facts { format: Some("raw".into()), ..Facts::default() }, "there").unwrap();
        board.measure(1, Some(100));
        let found = board.snapshot();
        assert_eq!((found.phase, found.percent, found.attempt), (Phase::Ready, 100.0, 1));
        assert_eq!(board.begin(""), Err(Illegal { from: Phase::Ready, to: Phase::Provisioning }));
        assert!(board.fail(&verdict()).is_err());
        board.enter(Reason::ImageLost, "gone").unwrap();
        board.enter(Reason::Ready, "back").unwrap();
        board.enter(Reason::Terminating, "stopped").unwrap();
        assert!(board.enter(Reason::Ready, "").is_err());
    }

    #[test]
    fn bytes_of_which_nobody_knows_how_many_there_are_are_told_of_too() {
        let nearly = |time: Duration| time - Duration::from_millis(1);
        assert!(is_news(PAUSE, true, true) && !is_news(nearly(PAUSE), true, true));
        assert!(is_news(SILENCE, false, true) && !is_news(nearly(SILENCE), false, true));
        assert!(!is_news(SILENCE * 9, false, false), "it stands still");
    }

    #[test]
    fn a_verdict_is_not_taken_back() {
        let board = board();
        board.begin("").unwrap();
        board.fail(&verdict()).unwrap();
        let other = Verdict { message: "other".into(), ..verdict() };
        assert!(board.fail(&other).is_err() && board.begin("").is_err());
        assert!(board.ready(Facts::default(), "").is_err());
        let found = board.snapshot();
        assert_eq!((found.reason, found.message.as_str()), (Reason::ProvisioningFailedTerminally, "too small"));
        assert_eq!(found.error.unwrap().code, "target-too-small");
    }

    #[test]
    fn a_reason_of_another_phase_fails_nobody_wrongly() {
        let board = board();
        board.fail_for(Reason::Ready, &verdict()).unwrap();
        assert_eq!(board.phase(), Phase::Failed);
    }

    #[test]
    fn what_is_known_stays_known() {
        let board = board();
        board.learn(Facts { stored_size: Some(1 << 20), cdrom: Some(true), ..Facts::default() });
        board.learn(Facts { warnings: vec!["odd".into()], ..Facts::default() });
        board.learn(Facts { unpacked_size: Some(5 << 30), ..Facts::default() });
        let found = serde_json::to_value(board.snapshot()).unwrap();
        assert_eq!(found["stored-size"], 1 << 20);
        assert_eq!(found["stored-size-human"], "1 MiB");
        assert_eq!(found["unpacked-size-human"], "5 GiB");
        assert_eq!(found["cdrom"], true);
        assert_eq!(found["warnings"], serde_json::json!(["odd"]));
        assert!(found.get("digest").is_none());
        assert_eq!(found["conditions"][0]["type"], "DatasourceReady");
        assert_eq!(found["conditions"][0]["status"], "Unknown");
        assert_eq!(found["conditions"][1]["status"], "False");
    }

    #[test]
    fn the_file_has_the_last_state_and_the_termination_message_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (status, termination) = (dir.path().join("status"), dir.path().join("termination"));
        let outlets = Outlets {
            work: Work::Upload,
            termination: Some(termination.clone()),
            status_file: Some(status.clone()),
            events: false,
        };
        let board = Board::new("", outlets);
        board.enter(Reason::WaitForUserUpload, "waiting").unwrap();
        let read = |path| serde_json::from_str::<serde_json::Value>(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(read(&status)["phase"], "WaitForUserUpload");
        assert!(!termination.exists());
        board.begin("").unwrap();
        board.ready(Facts { stored_size: Some(7), ..Facts::default() }, "").unwrap();
        assert_eq!(read(&status)["phase"], "Ready");
        assert_eq!(read(&termination)["message"], "Upload Complete");
        assert_eq!(read(&termination)["source-image-size"], 7);
        assert_eq!(fs::read_to_string(&termination).unwrap(), board.termination());
    }
}
