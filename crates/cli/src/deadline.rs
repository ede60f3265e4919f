//! How long a job may take in all, however it spends the time: then it is stopped, and ended if it does not stop.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use diskferry::{Error, Progress};
use diskferry_remote::signals::{self, GRACE};

use crate::exit::Failure;
use crate::output;

/// How long the end is held up at least by who does not read why a job failed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Does `job`, which ends when `progress` is stopped. That is done when it has not ended after `limit`. One that is held up where it cannot
/// look, as by a file system that does not answer, is ended with the process, as after a signal. So is one that has failed, and nobody
/// reads why.
pub fn within<T>(
    limit: Option<Duration>,
    progress: &Progress,
    job: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(limit) = limit else { return job() };
    let begun = Instant::now();
    let (ended, end) = mpsc::channel();
    let watched = progress.clone();
    let watch = move || watch(limit, &watched, &end);
    let started = thread::Builder::new().name("deadline".into()).spawn(watch);
    started.map_err(|error| Error::writing("starting a thread", None, error))?;
    let failure = match job() {
        Ok(done) => return Ok(done),
        Err(Failure::Job(Error::Stopped)) if begun.elapsed() >= limit => late(limit, progress),
        Err(failure) => failure,
    };
    let _ = ended.send(failure.kind().1);
    Err(failure)
}

/// Stops the job after `limit`, and ends the process where it has to be. `end` has the exit code of a job that has failed, and closes
/// with any other.
fn watch(limit: Duration, progress: &Progress, end: &Receiver<u8>) {
    let begun = Instant::now();
    let mut ended = end.recv_timeout(limit);
    if ended == Err(RecvTimeoutError::Timeout) {
        progress.stop();
        ended = end.recv_timeout(GRACE);
    }
    match ended {
        Ok(code) => {
            // Where somebody reads, the process has ended before that.
            thread::sleep(limit.saturating_sub(begun.elapsed()).max(LAST_WORDS));
            signals::end(code);
        }
        Err(RecvTimeoutError::Timeout) => {
            let late = late(limit, progress);
            say(late.message());
            signals::end(late.kind().1);
        }
        Err(RecvTimeoutError::Disconnected) => {}
    }
}

/// Says it, and waits for that no longer than is good: who does not read it may be what the job waits for.
fn say(message: String) {
    let (said, heard) = mpsc::channel();
    let say = move || {
        output::say(&message);
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(say).is_ok() {
        let _ = heard.recv_timeout(LAST_WORDS);
    }
}

fn late(limit: Duration, progress: &Progress) -> Failure {
    let (seconds, came) = (limit.as_secs(), progress.passed());
    let what = format!("{came} bytes of the image have come in {seconds} s, which is all it may take (--timeout)");
    Failure::Job(Error::source("timeout", what))
}
