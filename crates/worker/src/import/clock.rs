//! Tells the board how far the job is while it runs, and the job when it has to stop.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use diskferry::{Activity, Error, Progress};

use crate::status::{Board, Facts, Phase, Reason};
use crate::verdict::Verdict;

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(100);

/// Code of the errors by which a destination says that it is full.
pub const NO_SPACE: &str = "target-no-space";

/// Before the process is ended in the midst of something, there is so much time to say that it will be.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What runs at the moment.
#[derive(Default)]
struct Job {
    progress: Progress,
    /// The most bytes that any attempt has come to, and when bytes last passed.
    furthest: u64,
    passed: u64,
    moved: Option<Instant>,
    retrying: u32,
    /// Since when it is to stop.
    stopped: Option<Instant>,
}

/// Looks at the job. Clones are the same clock.
#[derive(Clone)]
pub struct Clock {
    board: Board,
    /// What signals stop. Attempts have their own, since bytes are counted from 0 in each.
    master: Progress,
    job: Arc<Mutex<Job>>,
    /// How long it may take to stop: then the process ends, whatever it does.
    grace: Duration,
    /// Whether what passes is the image: of a container image that is copied, the layers are more than that.
    is_image: bool,
}

impl Clock {
    /// A clock for the jobs that `board` tells of, which end when `master` is stopped, and in `grace`.
    pub fn new(board: &Board, master: &Progress, grace: Duration, is_image: bool) -> Self {
        Self { board: board.clone(), master: master.clone(), job: Arc::default(), grace, is_image }
    }

    /// Runs `work`, and looks at it meanwhile. Fails where there can be no thread for that.
    pub fn during<T>(&self, work: impl FnOnce() -> Result<T, Verdict>) -> Result<T, Verdict> {
        let (ended, end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let look = move || {
                while matches!(end.recv_timeout(PAUSE), Err(RecvTimeoutError::Timeout)) {
                    self.look();
                }
                // A short job may have ended before anybody looked.
                self.look();
            };
            let started = thread::Builder::new().name("clock".into()).spawn_scoped(scope, look);
            started.map_err(|error| Verdict::of(&Error::writing("starting a thread", None, error)))?;
            // In here, so that it goes with a job that panics, and the clock does not go on.
            let _ended = ended;
            work()
        })
    }

    /// A new attempt begins.
    pub fn attempt(&self) -> Progress {
        let progress = Progress::default();
        let mut job = self.lock();
        (job.progress, job.passed, job.retrying) = (progress.clone(), 0, 0);
        if self.master.is_stopped() {
            progress.stop();
        }
        progress
    }

    /// Stops the attempt that runs.
    pub fn end_attempt(&self) {
        self.lock().progress.stop();
    }

    /// When bytes last passed.
    pub fn moved(&self) -> Option<Instant> {
        self.lock().moved
    }

    /// The most bytes that any attempt has come to.
    pub fn furthest(&self) -> u64 {
        self.look();
        self.lock().furthest
    }

    /// Waits, and says whether the job may go on then.
    pub fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while !self.master.is_stopped() && Instant::now() < end {
            thread::sleep(PAUSE.min(end.saturating_duration_since(Instant::now())));
        }
        !self.master.is_stopped()
    }

    fn lock(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let mut job = self.lock();
        if self.master.is_stopped() {
            job.progress.stop();
            let since = *job.stopped.get_or_insert_with(Instant::now);
            if since.elapsed() + LAST_WORDS >= self.grace {
                // It may have come to its end in between, or said so already.
                let _ = self.board.enter(Reason::Terminating, "stopped by a signal, and not in time");
            }
        }
        let (passed, in_all, total) = (job.progress.passed(), job.progress.in_all(), job.progress.total());
        if passed > job.passed {
            (job.passed, job.moved) = (passed, Some(Instant::now()));
            job.furthest = job.furthest.max(passed);
        }
        let retrying = match job.progress.activity() {
            Activity::Retrying { attempt, at, code, why } => {
                let reason = if *code == *NO_SPACE { Reason::QuotaExceeded } else { Reason::Provisioning };
                Some((attempt, at.saturating_duration_since(Instant::now()), reason, why))
            }
            _ => None,
        };
        let attempt = retrying.as_ref().map_or(0, |(attempt, ..)| *attempt);
        let is_new = attempt > 0 && attempt != job.retrying;
        let is_over = attempt == 0 && job.retrying > 0;
        job.retrying = attempt;
        drop(job);
        self.board.measure(passed, in_all);
        if let Some(total) = total {
            // Who knows how much it is has seen it.
            self.board.opened();
            let stored_size = Some(total).filter(|_| self.is_image);
            self.board.learn(Facts { stored_size, ..Facts::default() });
        }
        if self.board.phase() == Phase::Provisioning && (is_new || is_over) {
            let (reason, message) = match retrying {
                Some((attempt, left, reason, why)) => {
                    (reason, format!("a server has failed: try {} in {} s: {why}", attempt + 1, left.as_secs() + 1))
                }
                None => (Reason::Provisioning, "going on".to_owned()),
            };
            // The job may have ended in between.
            let _ = self.board.enter(reason, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Outlets, Work};

    #[test]
    fn a_signal_stops_the_attempt_that_runs_and_those_after_it() {
        let (board, master) = (Board::new("", Outlets::none(Work::Import)), Progress::default());
        let clock = Clock::new(&board, &master, Duration::from_secs(60), true);
        let progress = clock.attempt();
        let work = || {
            master.stop();
            let begin = Instant::now();
            while !progress.is_stopped() && begin.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        };
        clock.during(work).unwrap();
        assert!(progress.is_stopped() && clock.attempt().is_stopped());
        assert!(!clock.wait(Duration::from_secs(60)));
    }

    #[test]
    fn a_job_that_does_not_stop_in_time_is_told_of_before_the_process_ends() {
        let (board, master) = (Board::new("", Outlets::none(Work::Import)), Progress::default());
        let clock = Clock::new(&board, &master, Duration::from_millis(400), true);
        board.begin("begun").unwrap();
        clock.attempt();
        master.stop();
        clock.look();
        assert_eq!(board.phase(), Phase::Provisioning);
        thread::sleep(Duration::from_millis(200));
        clock.look();
        assert_eq!(board.phase(), Phase::Terminating);
    }

    #[test]
    fn a_source_that_is_asked_again_is_told_of_once() {
        let (board, master) = (Board::new("", Outlets::none(Work::Import)), Progress::default());
        let clock = Clock::new(&board, &master, Duration::from_secs(60), true);
        board.begin("begun").unwrap();
        let progress = clock.attempt();
        let at = Instant::now() + Duration::from_secs(60);
        let retrying = |attempt, code: &str| Activity::Retrying { at, attempt, code: code.into(), why: "".into() };
        progress.set_activity(retrying(1, "source-unreachable"));
        clock.look();
        let found = board.snapshot();
        assert!(found.message.starts_with("a server has failed: try 2 in 60 s"), "{found:?}");
        assert_eq!(found.reason, Reason::Provisioning);
        progress.set_activity(retrying(2, "target-no-space"));
        clock.look();
        assert_eq!(board.snapshot().reason, Reason::QuotaExceeded);
        progress.set_activity(Activity::Working);
        clock.look();
        assert_eq!((board.snapshot().message.as_str(), board.snapshot().reason), ("going on", Reason::Provisioning));
    }

    #[test]
    fn a_second_pass_moves_and_is_the_second_half() {
        let (board, master) = (Board::new("", Outlets::none(Work::Import)), Progress::default());
        let clock = Clock::new(&board, &master, Duration::from_secs(60), true);
        board.begin("begun").unwrap();
        let progress = clock.attempt();
        progress.expect(1000);
        progress.expect_pass();
        progress.reach(1000);
        assert_eq!(clock.furthest(), 1000);
        let before = clock.moved().unwrap();
        assert_eq!((board.snapshot().percent, board.snapshot().conditions[0].status), (50.0, "True"));
        progress.begin_pass();
        progress.reach(500);
        assert_eq!(clock.furthest(), 1500);
        let found = board.snapshot();
        assert_eq!((found.percent, found.passed, found.stored_size), (75.0, 1500, Some(1000)));
        assert!(clock.moved().unwrap() > before);
    }
}
