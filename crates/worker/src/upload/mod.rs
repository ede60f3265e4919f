//! `diskferry-worker upload`: a server that takes one image, and carries it to its destination while its bytes arrive.

mod access;
mod answer;
mod id;
pub mod intake;
mod order;
mod page;
pub mod server;
pub mod table;

pub use self::access::Paths;

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use diskferry::{Error, Input, Progress};
use diskferry_remote::Runtime;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use self::intake::{Intake, Job, Outcome};
use self::order::Order;
use self::server::Door;
use crate::import;
use crate::import::clock::Clock;
use crate::import::job::{self, How};
use crate::import::order::Environment;
use crate::serve::Server;
use crate::settings::{Unusable, Values};
use crate::status::{Board, Facts, Reason, Work};
use crate::verdict::{DEADLINE, Verdict};

/// How long who is sending an image is answered where the worker is to stop.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often is looked for what takes too long.
const PAUSE: Duration = Duration::from_millis(100);

/// Does what the arguments, the environment and the file of settings say, and gives the exit code. `refused` says that arguments were
/// not understood, which is told as any other end is.
pub fn run(typed: &ArgMatches, refused: Option<Unusable>, environment: &Environment) -> u8 {
    let (values, another) = Values::gather(table::GROUPS, typed, |name| environment.get(name).cloned());
    let refused = refused.or(another);
    let board = Board::new(values.text("owner-uid").unwrap_or_default(), import::outlets(&values, Work::Upload));
    let (verdict, open) =
        match refused.map_or_else(|| Open::new(&values, &board), |refused| Err(Verdict::settings(refused.0))) {
            Ok(open) => (open.take(&board), Some(open)),
            Err(verdict) => (Err(verdict), None),
        };
    let is_zero = values.text("permanent-exit") == Some("zero");
    let is_timeout =
        verdict.as_ref().is_err_and(|verdict| ["source-stalled", DEADLINE].contains(&verdict.code.as_str()));
    if let (Err(verdict), true) = (&verdict, is_timeout && board.snapshot().attempt == 0) {
        let _ = board.fail_for(Reason::WaitForUserUploadTimeout, verdict);
    }
    let outcome = verdict.clone().map_or_else(Outcome::Bad, |_| Outcome::Good);
    let code = import::ended(&board, verdict, false, is_zero);
    if let Some(open) = open {
        open.linger(outcome);
    }
    code
}

/// What takes an image, and still answers when that has ended.
struct Open {
    order: Order,
    intake: Intake,
    jobs: Receiver<Job>,
    master: Progress,
    clock: Clock,
    _runtime: Runtime,
    _servers: Vec<Server>,
}

impl Open {
    fn new(values: &Values, board: &Board) -> Result<Self, Verdict> {
        let unusable = |refused: Unusable| Verdict::settings(refused.0);
        import::check(values).map_err(unusable)?;
        let grace = import::grace(values).map_err(unusable)?;
        let order = Order::new(values).map_err(unusable)?.within(&import::sandbox(values, board)?);
        more_files();
        let (intake, jobs) = Intake::new(order.times);
        let door = Door {
            intake: intake.clone(),
            board: board.clone(),
            paths: order.paths.clone(),
            client_name: order.client_name.clone(),
        };
        let runtime = serve(&order, door).map_err(|error| import::not_served(values, "listen-port", error))?;
        let mut servers = Vec::new();
        servers.extend(import::serve(values, board)?);
        if !order.healthz.is_empty() {
            let start = |address: &SocketAddr| Server::start(*address, None, board);
            let server = first(&order.healthz, start);
            servers.push(server.map_err(|error| import::not_served(values, "healthz-port", error))?);
        }
        let master = Progress::default();
        import::watch_signals(&master, grace)?;
        let clock = Clock::new(board, &master, grace, true);
        let ticking = (intake.clone(), master.clone(), clock.clone());
        let look = async move {
            let (intake, master, clock) = ticking;
            loop {
                tokio::time::sleep(PAUSE).await;
                if intake.look(master.is_stopped()).is_some() {
                    clock.end_attempt();
                }
            }
        };
        runtime.spawn(look);
        board
            .enter(Reason::WaitForUserUpload, "waiting for an image")
            .map_err(|error| Verdict::unexpected(error.to_string()))?;
        Ok(Self { order, intake, jobs, master, clock, _runtime: runtime, _servers: servers })
    }

    /// Takes an image.
    fn take(&self, board: &Board) -> Result<Facts, Verdict> {
        let work = || self.clock.during(|| self.carry(board));
        // The panic's own message has gone to stderr by then.
        let taken = catch_unwind(AssertUnwindSafe(work));
        taken.unwrap_or_else(|_| Err(Verdict::unexpected("the worker has a fault, see its log")))
    }

    /// Waits for an image and carries it. One that is begun anew ends the one before, and is carried in its place.
    fn carry(&self, board: &Board) -> Result<Facts, Verdict> {
        loop {
            let Job { feed, len } = match self.jobs.recv_timeout(PAUSE) {
                Ok(job) => job,
                Err(RecvTimeoutError::Disconnected) => return Err(Verdict::unexpected("nobody can come any more")),
                Err(RecvTimeoutError::Timeout) => match self.intake.look(self.master.is_stopped()) {
                    Some(error) => return Err(Verdict::of(&error)),
                    None => continue,
                },
            };
            let progress = self.clock.attempt();
            board.begin("an image is coming").map_err(|error| Verdict::unexpected(error.to_string()))?;
            board.opened();
            let input = Input::Stream { reader: Box::new(feed), len };
            let how = How { options: &self.order.options, sandbox: &self.order.sandbox };
            match job::deliver(input, &self.order.destination, &how, board, &progress) {
                Ok(facts) => return Ok(facts),
                // Begun anew, and the next one is there; or given up, and the look says why.
                Err(Error::Stopped) if !self.master.is_stopped() => {}
                Err(error) => return Err(Verdict::of(&error)),
            }
        }
    }

    /// Tells everybody who is waiting, and who comes in the next moments, how it has ended.
    fn linger(self, outcome: Outcome) {
        self.intake.end(outcome);
        let began = Instant::now();
        let may_go = || began.elapsed() >= self.order.linger || self.master.is_stopped() && began.elapsed() >= FAREWELL;
        while !may_go() {
            thread::sleep(PAUSE);
        }
    }
}

/// Starts the server that takes images.
fn serve(order: &Order, door: Door) -> io::Result<Runtime> {
    let listener = first(&order.listen, |address| std::net::TcpListener::bind(address))?;
    listener.set_nonblocking(true)?;
    // One thread takes bytes in, and there are few cores to spare beside those that unpack.
    let runtime = Runtime::start()?;
    let acceptor = order.tls.clone().map(TlsAcceptor::from);
    let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
    runtime.spawn(server::accept(listener, acceptor, Arc::new(door)));
    Ok(runtime)
}

/// What can be made of the first address that is good for it.
fn first<T>(addresses: &[SocketAddr], make: impl Fn(&SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match make(address) {
            Ok(made) => return Ok(made),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Many who come at the same time must not keep us from opening a file.
fn more_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
