//! Shows how far a job is, by looking at its [`Progress`] while it runs.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use diskferry::{Activity, Progress};
use diskferry_remote::escape::{for_people, json_line};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::args::When;
use crate::output;
use crate::size::iec;

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    Nothing,
    /// Nothing but that a source failed, and is asked again.
    Failures,
    Bar,
    Lines,
    Json,
}

impl Display {
    /// What was asked for, as far as stderr can show it. A source that is not `remote` is asked once.
    pub fn choose(when: When, quiet: bool, remote: bool) -> Self {
        match (when, io::stderr().is_terminal()) {
            (When::Auto, true) if !quiet => Self::Bar,
            (When::Auto, false) if !quiet && remote => Self::Failures,
            (When::Auto | When::Never, _) => Self::Nothing,
            (When::Always, true) => Self::Bar,
            (When::Always, false) => Self::Lines,
            (When::Json, _) => Self::Json,
        }
    }

    /// The same for a job that mostly is short, and of which nobody knows how far it is.
    pub fn of_something_short(self) -> Self {
        if matches!(self, Self::Bar | Self::Lines) { Self::Failures } else { self }
    }

    /// Runs `job`, and shows `progress` meanwhile.
    pub fn during<T, E>(self, progress: &Progress, job: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (mut view, pause): (Box<dyn View>, _) = match self {
            Self::Nothing => return job(),
            Self::Failures => (Box::new(Failures::default()), Duration::from_millis(100)),
            Self::Bar => (Box::new(Bar::new()), Duration::from_millis(100)),
            Self::Lines => (Box::new(Lines), Duration::from_secs(10)),
            Self::Json => (Box::new(Json), Duration::from_secs(1)),
        };
        let begin = Instant::now();
        let (ended, end) = mpsc::channel();
        thread::scope(|scope| {
            let shown = move || {
                let outcome = loop {
                    match end.recv_timeout(pause) {
                        Err(RecvTimeoutError::Timeout) => view.show(&Moment::of(progress, begin)),
                        outcome => break outcome,
                    }
                };
                view.end(&Moment::of(progress, begin), outcome == Ok(true));
            };
            // Where no thread can be started, the job is done all the same, or says so.
            let _ = thread::Builder::new().name("display".into()).spawn_scoped(scope, shown);
            // In here, so that it goes with a job that panics, and the view is not waited for in vain.
            let ended = ended;
            let outcome = job();
            let _ = ended.send(outcome.is_ok());
            outcome
        })
    }
}

/// A way of showing progress.
trait View: Send {
    fn show(&mut self, now: &Moment);
    fn end(&mut self, now: &Moment, published: bool);
}

/// How far a job is at one moment.
struct Moment {
    source: u64,
    total: Option<u64>,
    written: u64,
    elapsed: Duration,
    /// While a source waits to be asked again.
    retrying: Option<Retry>,
}

/// What a source that failed waits for.
#[derive(Debug, Clone)]
struct Retry {
    /// How often it will have been asked again.
    attempt: u32,
    seconds: u64,
    why: Arc<str>,
}

impl Moment {
    fn of(progress: &Progress, begin: Instant) -> Self {
        Self {
            source: progress.passed(),
            total: progress.in_all(),
            written: progress.written(),
            elapsed: begin.elapsed(),
            retrying: retrying(progress.activity()),
        }
    }
}

fn retrying(activity: Activity) -> Option<Retry> {
    match activity {
        Activity::Retrying { at, attempt, why, .. } => {
            let left = at.saturating_duration_since(Instant::now());
            Some(Retry { attempt, seconds: left.as_secs() + u64::from(left.subsec_nanos() > 0), why })
        }
        _ => None,
    }
}

/// What a person is told about it.
fn waiting(Retry { attempt, seconds, why }: &Retry) -> String {
    format!("try {} in {seconds} s: {why}", attempt + 1)
}

/// Tells of each failure once.
#[derive(Default)]
struct Failures {
    /// The attempt that was told of last.
    told: u32,
}

impl View for Failures {
    fn show(&mut self, now: &Moment) {
        let attempt = now.retrying.as_ref().map_or(0, |retry| retry.attempt);
        if let Some(retry) = now.retrying.as_ref().filter(|_| attempt != self.told) {
            output::say(&waiting(retry));
        }
        self.told = attempt;
    }

    fn end(&mut self, _: &Moment, _: bool) {}
}

/// The largest part of `total` that is shown before the disk is published: when every byte has passed there still is data to be synced.
fn short_of(total: u64) -> u64 {
    total - total.div_ceil(100)
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        Self(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()))
    }

    fn draw(&self, now: &Moment, published: bool) {
        let template = match now.total {
            _ if now.retrying.is_some() => "{binary_bytes}, {wide_msg}",
            Some(_) if published => "[{bar:30}] 100%  {binary_total_bytes} in {elapsed}",
            Some(total) if now.source >= total => "[{bar:30}] {percent:>3}%  {binary_total_bytes}, finishing",
            Some(_) => {
                "[{bar:30}] {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
            }
            None if published => "{binary_bytes} in {elapsed}",
            None => "{binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style.progress_chars("=> "));
        }
        if let Some(total) = now.total {
            self.0.set_length(total);
        }
        if let Some(retrying) = &now.retrying {
            self.0.set_message(for_people(&waiting(retrying)));
        }
        let shown = now.total.map_or(now.source, |total| now.source.min(short_of(total)));
        self.0.set_position(shown);
    }
}

impl View for Bar {
    fn show(&mut self, now: &Moment) {
        self.draw(now, false);
    }

    fn end(&mut self, now: &Moment, published: bool) {
        self.draw(now, published);
        if published { self.0.finish() } else { self.0.finish_and_clear() }
    }
}

struct Lines;

impl View for Lines {
    fn show(&mut self, now: &Moment) {
        output::say(&line(now));
    }

    fn end(&mut self, _: &Moment, _: bool) {}
}

fn line(now: &Moment) -> String {
    if let Some(retrying) = &now.retrying {
        return format!("{}, {}", iec(now.source), waiting(retrying));
    }
    let rate = iec(now.source / now.elapsed.as_secs().max(1));
    match now.total {
        Some(total) => {
            let percent = u128::from(now.source.min(short_of(total))) * 100 / u128::from(total);
            format!("{percent}%, {} of {}, {rate}/s", iec(now.source), iec(total))
        }
        None => format!("{}, {rate}/s", iec(now.source)),
    }
}

struct Json;

impl Json {
    fn line(now: &Moment, done: bool) {
        let line = json!({ "progress": {
            "source": now.source,
            "total": now.total,
            "written": now.written,
            "seconds": now.elapsed.as_secs_f64(),
            "done": done,
            "retrying": now.retrying.as_ref().map(|Retry { attempt, seconds, why }| {
                json!({ "attempt": attempt, "seconds": seconds, "why": **why })
            }),
        }});
        let _ = writeln!(io::stderr().lock(), "{}", json_line(&line));
    }
}

impl View for Json {
    fn show(&mut self, now: &Moment) {
        Self::line(now, false);
    }

    fn end(&mut self, now: &Moment, published: bool) {
        if published {
            Self::line(now, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_as_whole_before_it_is() {
        for total in [1, 99, 100, 101, u64::MAX] {
            assert!(short_of(total) < total);
        }
        let all = Moment {
            source: 1 << 40,
            total: Some(1 << 40),
            written: 0,
            elapsed: Duration::from_secs(1024),
            retrying: None,
        };
        assert_eq!(line(&all), "98%, 1 TiB of 1 TiB, 1 GiB/s");
    }

    #[test]
    fn without_a_length_there_is_no_percentage() {
        let now = Moment { source: 3 << 20, total: None, written: 0, elapsed: Duration::from_secs(2), retrying: None };
        assert_eq!(line(&now), "3 MiB, 1.5 MiB/s");
        let retrying = Some(Retry { attempt: 2, seconds: 4, why: "host: connection refused".into() });
        let now = Moment { retrying, ..now };
        assert_eq!(line(&now), "3 MiB, try 3 in 4 s: host: connection refused");
    }

    #[test]
    fn the_outcome_of_the_job_comes_through() {
        let outcome: Result<i32, i32> = Display::Json.during(&Progress::default(), || Err(7));
        assert_eq!(outcome, Err(7));
    }
}
