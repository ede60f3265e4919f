//! The network's own thread.

use std::future::Future;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use diskferry::{Error, Progress, Side};
use tokio::runtime::{Builder, Runtime as Tokio};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Runs what waits for the network. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

/// `None` only while it is being dropped.
struct Inner(Option<Tokio>);

impl Runtime {
    /// Starts the thread.
    pub fn new() -> diskferry::Result<Self> {
        // One thread: it decrypts and hands on, and there are few cores to spare beside those that unpack.
        let built = Builder::new_multi_thread().worker_threads(1).thread_name("network").enable_all().build();
        let runtime = built.map_err(|source| Error::Io {
            side: Side::Source,
            doing: "starting the network's thread",
            at: None,
            source,
        })?;
        Ok(Self(Arc::new(Inner(Some(runtime)))))
    }

    /// Waits for `work`, which must not be called from a thread that a runtime owns.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        let runtime = self.0.0.as_ref().ok_or_else(ended)?;
        Ok(runtime.block_on(work))
    }

    /// Waits for `work` to be done on the network's thread: for callers that may have no right to make a connection.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (done, waiting) = mpsc::channel();
        self.spawn(async move {
            // Whoever has asked waits.
            let _ = done.send(work.await);
        })?;
        waiting.recv().map_err(|_| ended())
    }

    /// Lets `work` run on the network's thread.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> io::Result<JoinHandle<()>> {
        Ok(self.0.0.as_ref().ok_or_else(ended)?.spawn(work))
    }
}

fn ended() -> io::Error {
    io::Error::other("the network's thread has ended")
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Looking up a name cannot be cancelled; nobody wants to wait for it.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
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
