//! How long a job may take in all, however it spends the time.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use diskferry::{Error, Progress};

use crate::exit::Failure;

/// Does `job`, which ends when `progress` is stopped. That is done when it has not ended after `limit`.
pub fn within<T>(
    limit: Option<Duration>,
    progress: &Progress,
    job: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(limit) = limit else { return job() };
    let (ended, end) = mpsc::channel::<()>();
    let (outcome, is_late) = thread::scope(|scope| {
        let watch = thread::Builder::new().name("deadline".into()).spawn_scoped(scope, move || {
            let is_late = matches!(end.recv_timeout(limit), Err(RecvTimeoutError::Timeout));
            if is_late {
                progress.stop();
            }
            is_late
        });
        let watch = match watch {
            Ok(watch) => watch,
            Err(error) => return (Err(Failure::Unexpected(format!("watching the time: {error}"))), false),
        };
        // In here, so that it goes with a job that panics, and the time is not waited for.
        let ended = ended;
        let outcome = job();
        drop(ended);
        (outcome, watch.join().unwrap_or(false))
    });
    match outcome {
        Err(Failure::Job(Error::Stopped)) if is_late => {
            let (seconds, came) = (limit.as_secs(), progress.source());
            let what =
                format!("{came} bytes of the image have come in {seconds} s, which is all it may take (--timeout)");
            Err(Failure::Job(Error::source("timeout", what)))
        }
        outcome => outcome,
    }
}
