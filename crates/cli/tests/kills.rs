//! Signals at random moments: whenever a job is killed, its target is what it was, the disk, or plainly unfinished, and the next run makes
//! it the disk and takes away what was left. `scripts/kill` does it thousands of times, every day some dozen.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::judge::{Feed, HANGS, Outcome, Stage, State, To};
use diskferry_testkit::random::Random;
use rustix::process::Signal;

const SIZE: u64 = (6 << 20) + 512;
const AT_ONCE: usize = 2;

/// How long a job may take to end by a signal.
const MOMENT: Duration = Duration::from_secs(5);

const SOURCES: [(&str, Feed); 4] =
    [("qcow2", Feed::File), ("vmdk", Feed::Pipe), ("qcow2", Feed::Http), ("raw.xz", Feed::File)];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |number| number.parse().unwrap())
}

/// A job, and how long it takes.
struct Job {
    stage: Stage,
    time: Duration,
}

impl Job {
    fn new((name, feed): (&str, Feed), to: To) -> Self {
        let mut job = Self { stage: Stage::new(SIZE, name, feed, to), time: Duration::ZERO };
        for _ in 0..3 {
            job.stage.target.reset();
            let began = Instant::now();
            assert_eq!(job.again().unwrap().state, State::Complete);
            job.time += began.elapsed() / 3;
        }
        job
    }

    /// Runs it to its end, which is the disk.
    fn again(&self) -> Result<Outcome, String> {
        self.stage.judge(&self.stage.run(&[])?, &[])
    }

    /// Sends `signal` at a random moment, and runs it again.
    fn disturb(&self, signal: Signal, random: &mut Random) -> Result<Outcome, String> {
        let stage = &self.stage;
        stage.target.reset();
        let moment = self.time.mul_f64(random.below(1000) as f64 / 1000.0);
        let running = stage.begin(&[]);
        thread::sleep(moment);
        let sent = Instant::now();
        running.signal(signal);
        let output = running.end(HANGS)?;
        let at = format!("{signal:?} after {moment:?}");
        let outcome = match output.status.signal() {
            // Nothing has begun as long as nobody listens for a signal.
            Some(_) => stage.judge_cut_off(&output),
            None => stage.judge(&output, &[128 + signal.as_raw()]),
        };
        let outcome = outcome.map_err(|what| format!("{at}: {what}"))?;
        let is_kill = signal == Signal::KILL;
        let is_clean = outcome.state != State::Unfinished && stage.leftovers().is_empty();
        if !is_kill && output.status.signal().is_some() && !is_clean {
            return Err(format!("{at}: it did not listen, and {outcome}"));
        }
        if !is_kill && sent.elapsed() > MOMENT {
            return Err(format!("{at}: it took {:?}", sent.elapsed()));
        }
        // What it left is what the next one finds.
        self.again().map_err(|what| format!("again, behind {at}: {what}"))?;
        Ok(outcome)
    }
}

/// Disturbs jobs with all sources and these targets, and fails if one goes wrong.
fn check(targets: &[To]) {
    let seed = number("DISKFERRY_SEED", 1);
    // Of all, each target has its share.
    let kills = number("DISKFERRY_KILLS", 24).div_ceil(12);
    let signals = number("DISKFERRY_SIGNALS", 12).div_ceil(12);
    let jobs: Vec<_> = SOURCES.iter().flat_map(|&source| targets.iter().map(move |&target| (source, target))).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let outcomes: Mutex<BTreeMap<String, u64>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(source, target)) = jobs.get(at) else { break };
                    let job = Job::new(source, target);
                    let random = &mut Random::new(seed + at as u64);
                    let polite = [Signal::TERM, Signal::INT, Signal::HUP].into_iter().cycle().skip(at);
                    let polite = polite.take(usize::try_from(signals).unwrap());
                    for signal in (0..kills).map(|_| Signal::KILL).chain(polite) {
                        let group = if signal == Signal::KILL { "SIGKILL" } else { "others" };
                        match job.disturb(signal, random) {
                            Ok(outcome) => {
                                *outcomes.lock().unwrap().entry(format!("{group}: {outcome}")).or_default() += 1;
                            }
                            Err(what) => {
                                wrong.lock().unwrap().push(format!("{source:?} to {target:?}, seed {seed}: {what}"));
                            }
                        }
                    }
                }
            });
        }
    });
    let (wrong, outcomes) = (wrong.into_inner().unwrap(), outcomes.into_inner().unwrap());
    let runs: u64 = outcomes.values().sum::<u64>() + wrong.len() as u64;
    eprintln!("seed {seed}: {runs} runs, {} wrong: {outcomes:#?}", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whenever_a_job_is_killed_a_file_is_what_it_was_or_the_disk_and_the_next_run_cleans_up() {
    check(&[To::New, To::Existing]);
}

mod device {
    use super::*;

    #[test]
    fn whenever_a_job_is_killed_a_device_is_what_it_was_or_unfinished_or_the_disk() {
        check(&[To::Device]);
    }
}
