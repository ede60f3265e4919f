//! How long a job may take in all, however it spends the time: then it is stopped, and ended if it does not stop.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use diskferry::{Error, Progress};
use diskferry_remote::signals::{self, GRACE};

use crate::exit::Failure;
use crate::output;

/// Does `job`, which ends when `progress` is stopped. That is done when it has not ended after `limit`. One that is held up where it cannot
/// look, as by a file system that does not answer, is ended with the process, as after a signal.
pub fn within<T>(
    limit: Option<Duration>,
    progress: &Progress,
    job: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(limit) = limit else { return job() };
    let (ended, end) = mpsc::channel::<()>();
    let (outcome, is_late) = thread::scope(|scope| {
        let watch = thread::Builder::new().name("deadline".into()).spawn_scoped(scope, move || {
            let goes_on = |time| matches!(end.recv_timeout(time), Err(RecvTimeoutError::Timeout));
            let is_late = goes_on(limit);
            if is_late {
                progress.stop();
                if goes_on(GRACE) {
                    let late = late(limit, progress);
                    say(late.message());
                    signals::end(late.kind().1);
                }
            }
            is_late
        });
        let watch = match watch {
            Ok(watch) => watch,
            Err(error) => return (Err(Failure::Job(Error::writing("starting a thread", None, error))), false),
        };
        // In here, so that it goes with a job that panics, and the time is not waited for.
        let ended = ended;
        let outcome = job();
        drop(ended);
        (outcome, watch.join().unwrap_or(false))
    });
    match outcome {
        Err(Failure::Job(Error::Stopped)) if is_late => Err(late(limit, progress)),
        outcome => outcome,
    }
}

/// Says it, for a second at most: who does not read it may be what the job waits for.
fn say(message: String) {
    let (said, heard) = mpsc::channel();
    let say = move || {
        output::say(&message);
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(say).is_ok() {
        let _ = heard.recv_timeout(Duration::from_secs(1));
    }
}

fn late(limit: Duration, progress: &Progress) -> Failure {
    let (seconds, came) = (limit.as_secs(), progress.source());
    let what = format!("{came} bytes of the image have come in {seconds} s, which is all it may take (--timeout)");
    Failure::Job(Error::source("timeout", what))
}
