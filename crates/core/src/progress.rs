//! How far a job is, for a front end to poll.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::lock::lock;

/// Shared between a job and whoever watches it: clones speak of the same job. Counters only grow.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    source: AtomicU64,
    total: AtomicU64,
    written: AtomicU64,
    stop: Arc<AtomicBool>,
    activity: Mutex<Activity>,
}

/// What a job is busy with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Activity {
    /// Carrying bytes.
    #[default]
    Working,
    /// The source failed and will be asked again.
    Retrying {
        /// When.
        at: Instant,
        /// How often it will have been asked again by then, since it last gave bytes.
        attempt: u32,
        /// Why: what would have been the job's error.
        why: Arc<str>,
    },
}

impl Progress {
    /// Bytes of the stored image that have passed, holes of a sparse file included.
    pub fn source(&self) -> u64 {
        self.0.source.load(Ordering::Relaxed)
    }

    /// Length of the stored image in bytes, once it is known.
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }

    /// Bytes of the virtual disk dealt with, zeroes included.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// What the job is busy with.
    pub fn activity(&self) -> Activity {
        lock(&self.0.activity).clone()
    }

    /// Says what the job is busy with. For sources that wait for something.
    pub fn set_activity(&self, activity: Activity) {
        *lock(&self.0.activity) = activity;
    }

    /// Ends the job with [`Error::Stopped`]; nothing is published then.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// What says so: to be set where nothing can be called, as by the handler of a signal.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.stop)
    }

    /// Whether somebody asked the job to end.
    pub fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    /// Ends the job early if somebody asked for it.
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Says that the stored image has passed up to byte `at`. The library does that where it reads an image; this is for who carries
    /// bytes in another way.
    pub fn reach(&self, at: u64) {
        self.0.source.fetch_max(at, Ordering::Relaxed);
    }

    /// Says that the stored image is `total` bytes long; likewise.
    pub fn expect(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// `count` more bytes of the disk are dealt with.
    pub(crate) fn add_written(&self, count: u64) {
        self.0.written.fetch_add(count, Ordering::Relaxed);
    }
}
