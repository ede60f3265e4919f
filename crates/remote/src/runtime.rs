//! The network's own thread.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use diskferry::{Error, Progress, Side};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Runs what waits for the network. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    handle: Handle,
    /// The thread runs as long as this is there, and is not waited for.
    _end: oneshot::Sender<Infallible>,
}

impl Runtime {
    /// [Starts](Self::start) the thread; its error is one of the source.
    pub fn new() -> diskferry::Result<Self> {
        Self::start().map_err(|source| Error::Io {
            side: Side::Source,
            doing: "starting the network's thread",
            at: None,
            source,
        })
    }

    /// Starts the thread. One: it decrypts and hands on, and there are few cores to spare beside those that unpack. A runtime that starts its threads
    /// itself panics where there are too many already.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().thread_name("network").enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<Infallible>();
        let run = move || {
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        thread::Builder::new().name("network".into()).spawn(run)?;
        Ok(Self(Arc::new(Inner { handle, _end: end })))
    }

    /// Waits for `work`.
    ///
    /// # Panics
    ///
    /// Within asynchronous work of this runtime or of another one.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.handle.block_on(work)
    }

    /// Waits for `work` to be done on the network's thread: for callers that may have no right to make a connection.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (done, waiting) = mpsc::channel();
        self.spawn(async move {
            // Whoever has asked waits.
            let _ = done.send(work.await);
        });
        waiting.recv().map_err(|_| ended())
    }

    /// Lets `work` run on the network's thread.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.0.handle.spawn(work)
    }
}

/// Does `work`, which waits for other things than the network, on a thread of its own. A runtime that starts one itself panics where there
/// are too many already.
pub(crate) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // Whoever has asked may have gone.
        let _ = done.send(work());
    };
    thread::Builder::new().name("aside".into()).spawn(work)?;
    Ok(result)
}

pub(crate) fn ended() -> io::Error {
    io::Error::other("the network's thread has ended")
}

/// Ends when the job is stopped.
pub(crate) async fn stopped(progress: &Progress) {
    const PAUSE: Duration = Duration::from_millis(100);
    while !progress.is_stopped() {
        sleep(PAUSE).await;
    }
}

/// Waits for `work`, or for the job to be stopped.
pub(crate) async fn unless_stopped<T>(progress: &Progress, work: impl Future<Output = T>) -> diskferry::Result<T> {
    tokio::select! {
        done = work => Ok(done),
        () = stopped(progress) => Err(Error::Stopped),
    }
}
