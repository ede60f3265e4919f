//! A thousand servers that fail in random ways: the bytes are those of the image, or there is the right error.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::Fetcher;
use diskferry_testkit::serve::fault::{Expect, Finding, Schedule, Server};

const SCHEDULES: u64 = 1000;
/// They mostly wait.
const AT_ONCE: usize = 8;

#[test]
fn a_thousand_random_schedules_end_with_the_image_or_with_the_right_error() {
    run(1);
}

#[test]
fn parts_at_the_same_time_change_nothing_about_that() {
    run(3);
}

fn run(connections: usize) {
    let next = AtomicU64::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let fetcher = Fetcher::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SCHEDULES {
                        break;
                    }
                    let schedule = Schedule::random(seed);
                    if let Err(what) = check(&fetcher, &schedule, connections) {
                        wrong.lock().unwrap().push(format!("{what}: {schedule:?}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {SCHEDULES} ended wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

fn check(fetcher: &Fetcher, schedule: &Schedule, connections: usize) -> Result<(), String> {
    let server = Server::start();
    server.put("/disk", schedule.file());
    let mut how = fetcher.how.clone();
    how.connections = connections;
    how.format = Some("raw".parse().unwrap());
    // Each connection can meet each fault.
    how.patience.retries = u32::try_from(schedule.tries() * connections).unwrap();
    let fetcher = Fetcher { runtime: fetcher.runtime.clone(), client: fetcher.client.clone(), how };
    match (fetcher.fetch(&server.url("/disk")), &schedule.expect) {
        (Ok(bytes), _) if schedule.is_whole(&bytes) => Ok(()),
        (Ok(bytes), _) => Err(format!("{} bytes of no version", bytes.len())),
        (Err(error), Expect::WholeOr(findings)) if findings.iter().any(|f| codes(*f).contains(&&*error.code())) => {
            Ok(())
        }
        (Err(error), _) => Err(format!("{error} ({})", error.code())),
    }
}

/// What a finding is called here.
fn codes(finding: Finding) -> &'static [&'static str] {
    match finding {
        Finding::Changed => &["source-changed"],
        Finding::Unresumable => &["source-changed", "source-interrupted"],
        Finding::Malformed => {
            &["source-web-page", "source-wrong-range", "source-interrupted", "source-unreachable", "source-http-status"]
        }
        Finding::Refused(401 | 403) => &["source-denied"],
        Finding::Refused(404 | 410) => &["source-not-found"],
        Finding::Refused(_) => &["source-http-status"],
        Finding::Encoded => &["source-encoding"],
        Finding::Redirects => &["source-redirect"],
    }
}
