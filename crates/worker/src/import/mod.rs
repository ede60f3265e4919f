//! `diskferry-worker import`: settings, then attempts until one succeeds or trying again cannot help, then a verdict.

pub(crate) mod clock;
pub(crate) mod job;
mod journal;
pub(crate) mod order;
pub mod table;
mod volume;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use diskferry::{Error, Kind, Progress};
use diskferry_remote::sandbox::{Missing, Sandbox};
use diskferry_remote::signals;

use self::clock::Clock;
use self::order::{Environment, Order};
use crate::human::say;
use crate::serve::{self, Server};
use crate::settings::{Unusable, Values, parse};
use crate::status::{Board, Facts, Outlets, Phase, Reason, Work};
use crate::verdict::{DEADLINE, Verdict};

/// Where a platform reads the termination message.
const TERMINATION: &str = "/dev/termination-log";

/// The port that platforms scrape.
const PORT: u16 = 8443;

/// How long a job may take to stop, where nobody says otherwise, and at least: its end has to be told.
const GRACE: Duration = Duration::from_secs(10);
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// The first pause between two attempts, and the longest; each is twice as long as the one before.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// An attempt that comes so much further than all before has shown that trying again helps.
const FURTHER: u64 = 64 << 20;

/// Does what the arguments, the environment and the file of settings say, and gives the exit code. `refused` says that arguments were
/// not understood, which is told as any other end is.
pub fn run(typed: &ArgMatches, refused: Option<Unusable>, environment: &Environment) -> u8 {
    let (values, another) = Values::gather(table::GROUPS, typed, |name| environment.get(name).cloned());
    let refused = refused.or(another);
    let board = Board::new(values.text("owner-uid").unwrap_or_default(), outlets(&values, Work::Import));
    let verdict = match refused {
        Some(refused) => Err(Verdict::settings(refused.0)),
        None => prepared(&values, environment, &board),
    };
    let is_zero = values.text("permanent-exit") == Some("zero");
    let is_pull = matches!(values.text("source"), Some("registry" | "dvcr"));
    ended(&board, verdict, is_pull, is_zero)
}

/// Where a board is shown, as settings say. What cannot be understood of them is refused later.
pub fn outlets(values: &Values, work: Work) -> Outlets {
    let usual = Path::new(TERMINATION).exists().then(|| TERMINATION.into());
    Outlets {
        work,
        termination: values.path("termination-log").or(usual),
        status_file: values.path("status-file"),
        events: values.read("events", parse::switch).ok().flatten().unwrap_or(true),
    }
}

/// Serves a board where settings say, or nowhere.
pub fn serve(values: &Values, board: &Board) -> Result<Option<Server>, Verdict> {
    let listen = |text: &str| match text {
        "off" => Ok(None),
        text => {
            text.parse::<SocketAddr>().map(Some).map_err(|_| "expected an address and a port, as in [::]:8443, or off")
        }
    };
    let refused = |refused: Unusable| Verdict::settings(refused.0);
    let with_tls = values.read("listen-tls", parse::switch).map_err(refused)?.unwrap_or(true);
    let stated = values.read("listen", listen).map_err(refused)?;
    if stated == Some(None) {
        return Ok(None);
    }
    let start = |address| {
        let tls = with_tls.then(|| serve::tls::Identity::made_now().and_then(|made| made.config(None))).transpose()?;
        Server::start(address, tls, board)
    };
    match stated.flatten() {
        Some(address) => start(address).map(Some).map_err(|error| not_served(values, "listen", error)),
        // Not every machine has IPv6. Nobody has asked for this port, so that a job need not end for it.
        None => Ok(start((Ipv6Addr::UNSPECIFIED, PORT).into())
            .or_else(|_| start((Ipv4Addr::UNSPECIFIED, PORT).into()))
            .ok()),
    }
}

/// How long a job may take to stop.
pub(crate) fn grace(values: &Values) -> Result<Duration, Unusable> {
    Ok(values.read("grace", parse::span)?.unwrap_or(GRACE).max(LEAST_GRACE))
}

/// The verdict on a server that cannot be started as the setting `name` has it. That there are too many threads is no fault of the setting.
pub(crate) fn not_served(values: &Values, name: &'static str, error: io::Error) -> Verdict {
    match error.kind() {
        ErrorKind::WouldBlock => Verdict::of(&Error::writing("starting a thread", None, error)),
        _ => Verdict::settings(values.unusable(name, error).0),
    }
}

/// From now on a signal stops `master`, which has `grace` for that.
pub(crate) fn watch_signals(master: &Progress, grace: Duration) -> Result<(), Verdict> {
    signals::watch(master, grace).map_err(|error| Verdict::of(&Error::writing("watching for signals", None, error)))
}

/// Tells the board how the job ended, and gives the exit code. `is_pull` says that the source was a container image.
pub fn ended(board: &Board, outcome: Result<Facts, Verdict>, is_pull: bool, is_zero: bool) -> u8 {
    match outcome {
        Ok(facts) => {
            for warning in &facts.warnings {
                say(&format!("warning: {warning}"));
            }
            // Only a signal can have been faster, and the image is there all the same.
            let _ = board.ready(facts, "the image is there");
            0
        }
        Err(verdict) if verdict.is_stopped() => {
            let _ = board.enter(Reason::Terminating, "stopped by a signal");
            signals::exit_code()
        }
        Err(verdict) => {
            say(&verdict.message);
            let reason =
                if is_pull && verdict.kind == Some(Kind::Source) { Reason::ImagePullFailed } else { verdict.reason() };
            let _ = board.fail_for(reason, &verdict);
            // Who is started again as he is has the same deadline.
            let is_over = !verdict.is_transient() || verdict.code == DEADLINE;
            if is_zero && is_over { 0 } else { verdict.exit_code() }
        }
    }
}

/// That what is said of how an end is told can be understood.
pub(crate) fn check(values: &Values) -> Result<(), Unusable> {
    values.read("events", parse::switch)?;
    if values.text("permanent-exit").is_some_and(|text| !matches!(text, "code" | "zero")) {
        return Err(values.unusable("permanent-exit", "expected code or zero"));
    }
    Ok(())
}

/// What images are decoded in, as settings say.
pub(crate) fn sandbox(values: &Values, board: &Board) -> Result<Sandbox, Verdict> {
    let mode = values.read("sandbox", str::parse).map_err(|refused| Verdict::settings(refused.0))?;
    let sandbox = Sandbox::new(mode.unwrap_or_default())
        .map_err(|missing| Verdict { code: Missing::CODE.into(), ..Verdict::settings(missing.to_string()) })?;
    board.confined(sandbox.layers());
    Ok(sandbox)
}

fn prepared(values: &Values, environment: &Environment, board: &Board) -> Result<Facts, Verdict> {
    let unusable = |refused: Unusable| Verdict::settings(refused.0);
    check(values).map_err(unusable)?;
    let grace = grace(values).map_err(unusable)?;
    let order = Order::new(values, environment).map_err(unusable)?;
    let order = order.within(&sandbox(values, board)?);
    let _server = serve(values, board)?;
    let master = Progress::default();
    watch_signals(&master, grace)?;
    let clock = Clock::new(board, &master, grace, !job::is_copy(&order));
    let work = || clock.during(|| attempts(&order, board, &clock));
    // The panic's own message has gone to stderr by then.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Verdict::unexpected("the worker has a fault, see its log")))
}

/// Tries until it works, until it cannot work, or until patience ends.
fn attempts(order: &Order, board: &Board, clock: &Clock) -> Result<Facts, Verdict> {
    let mut tries = Tries::new(order.patience);
    loop {
        let begun = Instant::now();
        let progress = clock.attempt();
        board.begin(format!("from {}", order.shown())).map_err(|error| Verdict::unexpected(error.to_string()))?;
        let error = match job::attempt(order, board, &progress) {
            Ok(facts) => return Ok(facts),
            Err(error) => error,
        };
        let verdict = Verdict::of(&error);
        if !verdict.is_transient() || matches!(error, Error::Stopped) {
            return Err(verdict);
        }
        let furthest = clock.furthest();
        let moved = clock.moved().map_or(begun, |moved| moved.max(begun));
        let Some(pause) = tries.failed(Instant::now(), moved, furthest) else { return Err(verdict) };
        let reason = if verdict.code == clock::NO_SPACE { Reason::QuotaExceeded } else { Reason::Provisioning };
        let message = format!("{}; trying again in {} s", verdict.message, pause.as_secs());
        board.enter(reason, message).map_err(|error| Verdict::unexpected(error.to_string()))?;
        if !clock.wait(pause) {
            return Err(Verdict::of(&Error::Stopped));
        }
        debug_assert_eq!(board.phase(), Phase::Provisioning);
    }
}

/// What has failed so far, and how long that is put up with.
struct Tries {
    patience: Duration,
    /// Before the next one.
    pause: Duration,
    /// Since when it has not worked, and how far it had come then.
    failing: Option<(Instant, u64)>,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Self { patience, pause: PAUSES.0, failing: None }
    }

    /// Another one has failed by `now`, in which nothing has passed since `moved`; `furthest` bytes have in the best one of all. Gives the
    /// pause before the next one, if patience lasts for it.
    fn failed(&mut self, now: Instant, moved: Instant, furthest: u64) -> Option<Duration> {
        let since = match self.failing {
            Some((since, before)) if furthest < before.saturating_add(FURTHER) => since,
            // What has failed slowly has been waited out for some time already.
            _ => {
                self.pause = PAUSES.0;
                self.failing = Some((moved, furthest));
                moved
            }
        };
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES.1);
        (now.saturating_duration_since(since) + pause <= self.patience).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_to_a_minute_until_patience_ends() {
        let pauses = |patience| {
            let (mut tries, begun) = (Tries::new(patience), Instant::now());
            let mut now = begun;
            let next = std::iter::from_fn(|| tries.failed(now, begun, 0).inspect(|pause| now += *pause));
            next.map(|pause| pause.as_secs()).collect::<Vec<_>>()
        };
        let patience = SECOND * 243;
        assert_eq!(pauses(patience), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pauses(patience - Duration::from_millis(1)), [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn patience_begins_anew_64_mib_further_on() {
        let begun = Instant::now();
        let (later, start) = (begun + SECOND * 10, 7);
        for (more, pause) in [((64 << 20) - 1, None), (64 << 20, Some(SECOND))] {
            let mut tries = Tries::new(SECOND * 10);
            assert_eq!(tries.failed(begun, begun, start), Some(SECOND));
            assert_eq!(tries.failed(later, later, start + more), pause, "{more}");
        }
    }
}
