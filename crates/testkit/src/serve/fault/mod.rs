//! An HTTP/1.1 server that misbehaves by a script.
//!
//! A [`Server`] holds [`File`]s by path. A file has one or more versions of its bytes and says for each GET, counted
//! from 0, which [`Answer`] it gets: the right one, or one with any number of faults put on it. Nothing is random here:
//! [`Schedule`] makes random scripts, and these are values that can be printed and played again.
//!
//! ```
//! use diskferry_testkit::serve::fault::{Answer, End, File, Server};
//!
//! let server = Server::start();
//! let disk = File::new(vec![7; 100_000]).gets([
//!     Answer::status(503).header("Retry-After", "0"),
//!     Answer::right().cut(40_000, End::Reset),
//! ]);
//! server.put("/disk.raw", disk); // the third GET and all others get the right answer
//! // ... a client reads server.url("/disk.raw") ...
//! assert!(server.requests().is_empty());
//! ```
//!
//! In its flow a connection is accepted here, `wire` reads a request, the file's script names an answer, `reply` works out
//! what that answer is for this request, and `wire` sends it.

mod answer;
mod file;
mod reply;
mod request;
mod schedule;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

pub use answer::{After, Answer, Chunks, End, Framing, Ranges, Tag};
pub use file::File;
pub use request::Request;
pub use schedule::{Expect, Finding, Schedule};

/// A server on a loopback port. It ends when it is dropped, and in any case after [`Server::LIFE`].
pub struct Server {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

/// What happens to a connection before anything is read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// Requests are read and answered.
    Serve,
    /// It is ended at once.
    End(End),
    /// Requests are neither read nor answered, until the client gives up.
    Mute,
}

/// What the threads of a server share.
#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    files: HashMap<String, Arc<File>>,
    /// How many answers each path has given, to GET and to HEAD.
    given: HashMap<(String, bool), usize>,
    greetings: VecDeque<Greeting>,
    log: Vec<Request>,
    /// Every connection that was accepted, to be cut when the server ends. Held weakly: only its thread may keep it open.
    streams: Vec<Weak<TcpStream>>,
    stopped: bool,
}

impl Server {
    /// How long a server lives at most, should a test hang.
    pub const LIFE: Duration = Duration::from_secs(120);

    /// Starts a server on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Starts a server on `listener`, as on `[::1]` or inside a network namespace.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let listener = Arc::new(listener);
        let state = Arc::new(State::default());
        let accepting = thread::spawn({
            let (listener, state) = (Arc::clone(&listener), Arc::clone(&state));
            move || accept(&listener, &state)
        });
        Self { address, listener, state, accepting: Some(accepting) }
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Puts a file at `path`, in place of what was there, and counts its requests from 0.
    pub fn put(&self, path: &str, file: File) {
        let mut inner = self.state.lock();
        inner.files.insert(path.to_owned(), Arc::new(file));
        inner.given.retain(|(of, _), _| of != path);
    }

    /// What happens to the next connections; those after them are served.
    pub fn greet(&self, greetings: impl IntoIterator<Item = Greeting>) {
        self.state.lock().greetings.extend(greetings);
    }

    /// All requests so far, in the order in which they were read.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().log.clone()
    }

    /// How many bytes of bodies were sent so far, by all requests together.
    pub fn sent(&self) -> u64 {
        self.state.lock().log.iter().map(|request| request.sent).sum()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.state.lock().streams.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On Linux this ends an accept that is under way.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Read);
        self.state.stop();
        let ended = self.accepting.take().map(JoinHandle::join);
        assert!(thread::panicking() || !matches!(ended, Some(Err(_))), "a thread of the fault server panicked");
    }
}

/// Accepts connections until the server is dropped or has lived for too long, and returns when all have ended.
fn accept(listener: &TcpListener, state: &State) {
    let deadline = Instant::now() + Server::LIFE;
    thread::scope(|scope| {
        while let Some(stream) = next_connection(listener, deadline) {
            let Some((stream, ordinal, greeting)) = state.admit(stream) else { break };
            // A connection that the client breaks is none of the server's trouble.
            scope.spawn(move || wire::converse(&stream, ordinal, greeting, state));
        }
        state.stop();
    });
}

fn next_connection(listener: &TcpListener, deadline: Instant) -> Option<TcpStream> {
    while becomes(listener, PollFlags::IN, deadline).unwrap() {
        match listener.accept() {
            Ok((stream, _)) => return Some(stream),
            // The listener was shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return None,
            // The client has gone before it was accepted.
            Err(_) => {}
        }
    }
    None
}

/// Waits for one of `flags`; `false` at the deadline.
fn becomes(socket: impl AsFd, flags: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&socket, flags)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Remembers a connection; none once the server has been stopped.
    fn admit(&self, stream: TcpStream) -> Option<(Arc<TcpStream>, usize, Greeting)> {
        let stream = Arc::new(stream);
        let mut inner = self.lock();
        inner.streams.push(Arc::downgrade(&stream));
        let greeting = inner.greetings.pop_front().unwrap_or(Greeting::Serve);
        (!inner.stopped).then(|| (stream, inner.streams.len() - 1, greeting))
    }

    /// Records a request and returns its place in the log, and what is to be done with it.
    fn receive(&self, request: Request) -> (usize, Option<(Arc<File>, Answer)>) {
        let mut inner = self.lock();
        let path = match inner.files.contains_key(&request.path) {
            true => request.path.clone(),
            false => request.path.split('?').next().unwrap_or_default().to_owned(),
        };
        let file = inner.files.get(&path).map(Arc::clone);
        let given = inner.given.entry((path, request.is_head())).or_default();
        let nth = *given;
        *given += 1;
        inner.log.push(request.clone());
        let place = inner.log.len() - 1;
        // The script is code of the test and may ask the server something.
        drop(inner);
        let answer = file.map(|file| {
            let answer = file.answer(&request, nth);
            (file, answer)
        });
        (place, answer)
    }

    fn answered(&self, place: usize, status: u16) {
        self.lock().log[place].status = Some(status);
    }

    /// Counts bytes of a body before they are written, so that no client has them earlier than the log.
    fn sending(&self, place: usize, bytes: usize) {
        self.lock().log[place].sent += bytes as u64;
    }

    /// Takes back what could not be written after all.
    fn unsent(&self, place: usize, bytes: usize) {
        self.lock().log[place].sent -= bytes as u64;
    }

    /// Cuts every connection, which ends whatever their threads wait for.
    fn stop(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        for stream in inner.streams.iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests;
