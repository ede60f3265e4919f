//! Asking again: how often, and after how long.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use diskferry::{Activity, Error, Progress};
use tokio::time::sleep;

use crate::failure::{Again, Failure};

/// How patient a source is with its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often a server is asked again that gives nothing new in between.
    pub retries: u32,
    /// The first pause before that; each one after it is twice as long, and none is exact, so that many clients do not come at once.
    pub first_pause: Duration,
    /// The longest pause; also for a server that asks for a longer one.
    pub longest_pause: Duration,
    /// How long a server may say nothing.
    pub stall: Duration,
    /// How long it is asked again at most since it first failed, its pauses and what it says nothing in together.
    pub most: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            retries: 8,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            most: None,
        }
    }
}

/// Less than this is no progress: a server that dies after every few bytes is not asked for ever.
pub(super) const PROGRESS: u64 = 64 << 10;

/// An answer that has brought less than this and does not end with the image is taken for a failure.
pub(super) const ENOUGH: u64 = 4 << 10;

/// What is left of one request's patience.
pub(crate) struct Tries {
    patience: Patience,
    progress: Progress,
    pauses: ExponentialBackoff,
    attempt: u32,
    /// Since when it has failed.
    failing: Option<Instant>,
    gained: u64,
    /// Whether the last answer had little.
    had_little: bool,
}

/// Says so when it goes.
struct Working<'a>(&'a Progress);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.set_activity(Activity::Working);
    }
}

impl Tries {
    pub(crate) fn new(patience: Patience, progress: &Progress) -> Self {
        Self {
            patience,
            progress: progress.clone(),
            pauses: pauses(&patience),
            attempt: 0,
            failing: None,
            gained: 0,
            had_little: false,
        }
    }

    /// The server gave `count` bytes that are new.
    pub(crate) fn gain(&mut self, count: u64) {
        self.gained = self.gained.saturating_add(count);
        if self.attempt > 0 && self.gained >= PROGRESS {
            (self.attempt, self.failing) = (0, None);
            self.pauses = pauses(&self.patience);
        }
    }

    /// Whether an answer that has brought `count` bytes, and not the end of the image, is to be taken for a failure. Where it is not
    /// known how long that is, one may be short: it may have been the last.
    pub(super) fn is_too_little(&mut self, count: u64, is_len_known: bool) -> bool {
        let had_little = std::mem::replace(&mut self.had_little, count < ENOUGH);
        self.had_little && (had_little || is_len_known)
    }

    /// Waits until the server may be asked again, or gives the reason why not.
    pub(crate) async fn pause_after(&mut self, failure: Failure) -> Result<(), Error> {
        let Again::Later(asked_for) = failure.again else { return Err(failure.error) };
        let Some(pause) = self.pauses.next() else { return Err(self.exhausted(failure.error)) };
        let pause = pause.max(asked_for.unwrap_or_default()).min(self.patience.longest_pause);
        let failing = self.failing.get_or_insert_with(Instant::now).elapsed();
        if self.patience.most.is_some_and(|most| failing.saturating_add(pause) > most) {
            return Err(self.exhausted(failure.error));
        }
        self.attempt += 1;
        self.gained = 0;
        let at = Instant::now() + pause;
        let (code, why) = (failure.error.code().into(), failure.error.to_string().into());
        self.progress.set_activity(Activity::Retrying { at, attempt: self.attempt, code, why });
        // Also where this is waited for no longer.
        let _working = Working(&self.progress);
        sleep(pause).await;
        Ok(())
    }

    fn exhausted(&self, error: Error) -> Error {
        match error {
            Error::Source { code, what, .. } if self.attempt > 0 => {
                let times = if self.attempt == 1 { "once".into() } else { format!("{} times", self.attempt) };
                Error::Source { code, what: format!("{what} (tried again {times}; --retries)"), transient: true }
            }
            error => error.for_now(),
        }
    }
}

fn pauses(patience: &Patience) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(patience.first_pause)
        .with_max_delay(patience.longest_pause)
        .with_max_times(usize::try_from(patience.retries).unwrap_or(usize::MAX))
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    fn tries(retries: u32) -> Tries {
        let pause = Duration::from_millis(1);
        let patience = Patience { retries, first_pause: pause, longest_pause: pause * 3, ..Patience::default() };
        Tries::new(patience, &Progress::default())
    }

    fn failure(again: Again) -> Failure {
        Failure { error: Error::source("unreachable", "nobody is there"), again }
    }

    fn pause(tries: &mut Tries, again: Again) -> Result<(), Error> {
        Runtime::new().unwrap().block_on(tries.pause_after(failure(again)))
    }

    #[test]
    fn a_final_failure_is_not_tried_again() {
        let error = pause(&mut tries(3), Again::Never).unwrap_err();
        assert_eq!(error.to_string(), "nobody is there");
        assert!(!error.is_transient());
    }

    #[test]
    fn tries_are_counted_until_the_server_gives_enough() {
        let mut tries = tries(2);
        for round in 0..3 {
            pause(&mut tries, Again::Later(None)).unwrap();
            pause(&mut tries, Again::Later(None)).unwrap();
            tries.gain(PROGRESS - 1);
            if round < 2 {
                tries.gain(1);
            }
        }
        let error = pause(&mut tries, Again::Later(None)).unwrap_err();
        assert_eq!(error.to_string(), "nobody is there (tried again 2 times; --retries)");
        assert!(error.is_transient());
    }

    #[test]
    fn eight_pauses_of_half_a_second_to_a_minute_take_two_or_three_minutes() {
        let patience = Patience::default();
        let pauses: Vec<_> = pauses(&patience).map(|pause| pause.min(patience.longest_pause)).collect();
        assert_eq!(pauses.len(), 8);
        let bounds = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0];
        for (pause, least) in pauses.iter().zip(bounds) {
            // As long again at most, so that not all come at once.
            assert!((least..=least * 2.0).contains(&pause.as_secs_f64()) && pause.as_secs() <= 60, "{pauses:?}");
        }
        assert!((120..=183).contains(&pauses.iter().sum::<Duration>().as_secs()), "{pauses:?}");
    }

    #[test]
    fn a_pause_that_is_waited_for_no_longer_is_none() {
        let mut tries = tries(3);
        tries.patience.longest_pause = Duration::from_secs(60);
        let progress = tries.progress.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let error = Error::source("x", "y");
            let paused = tries.pause_after(Failure { error, again: Again::Later(Some(Duration::from_secs(60))) });
            assert!(tokio::time::timeout(Duration::from_millis(20), paused).await.is_err());
        });
        assert!(matches!(progress.activity(), Activity::Working), "{:?}", progress.activity());
    }

    #[test]
    fn a_server_that_takes_its_time_to_fail_is_asked_no_longer_than_may_be() {
        let mut tries = tries(1000);
        tries.patience.most = Some(Duration::from_millis(200));
        let began = Instant::now();
        let mut asked = 0;
        while pause(&mut tries, Again::Later(None)).is_ok() {
            asked += 1;
            std::thread::sleep(Duration::from_millis(40));
        }
        // Pauses alone would take a hundred tries for that.
        assert!((1..=5).contains(&asked), "{asked} in {:?}", began.elapsed());
        tries.gain(PROGRESS);
        pause(&mut tries, Again::Later(None)).unwrap();
    }

    #[test]
    fn a_server_may_ask_for_a_pause_but_not_for_a_day() {
        let began = Instant::now();
        pause(&mut tries(1), Again::Later(Some(Duration::from_secs(86_400)))).unwrap();
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
