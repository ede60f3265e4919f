//! How far a job is, for a front end to poll.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::lock::lock;

/// Shared between a job and whoever watches it: clones speak of the same job. Counters only grow, but for [`source`](Self::source), which
/// begins anew with each pass.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    source: AtomicU64,
    total: AtomicU64,
    /// Passes that have ended, those that are known to be needed beside the first, and bytes of those that have ended.
    ended: AtomicU32,
    further: AtomicU32,
    earlier: AtomicU64,
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
        /// Why: the [code](Error::code) and the text of what would have been the job's error.
        code: Arc<str>,
        /// See there.
        why: Arc<str>,
    },
}

impl Progress {
    /// Bytes of the stored image that have passed, holes of a sparse file included. Where all of it is gone over more than once, in this
    /// pass.
    pub fn source(&self) -> u64 {
        self.0.source.load(Ordering::Relaxed)
    }

    /// The same of all passes.
    pub fn passed(&self) -> u64 {
        self.0.earlier.load(Ordering::Relaxed).saturating_add(self.source())
    }

    /// Length of the stored image in bytes, once it is known.
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }

    /// How many bytes pass in all, once it is known: the length of the stored image for each pass.
    pub fn in_all(&self) -> Option<u64> {
        let (ended, further) = (self.0.ended.load(Ordering::Relaxed), self.0.further.load(Ordering::Relaxed));
        let total = self.total()?;
        // Of a pass that broke off, what has passed; those that come are whole.
        let passes = u64::from(further.saturating_sub(ended)).saturating_add(1);
        Some(self.0.earlier.load(Ordering::Relaxed).saturating_add(total.saturating_mul(passes)))
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

    /// Says that the stored image will be gone over once more when this pass has ended.
    pub fn expect_pass(&self) {
        self.0.further.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a pass over the stored image, and begins another one from its first byte. For who has ended everything that still counts.
    pub fn begin_pass(&self) {
        let passed = self.0.source.swap(0, Ordering::Relaxed);
        self.0.earlier.fetch_add(passed, Ordering::Relaxed);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// `count` more bytes of the disk are dealt with.
    pub(crate) fn add_written(&self, count: u64) {
        self.0.written.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_counted_together() {
        let progress = Progress::default();
        assert_eq!((progress.passed(), progress.in_all()), (0, None));
        progress.expect(100);
        progress.expect_pass();
        progress.reach(100);
        assert_eq!((progress.source(), progress.passed(), progress.in_all()), (100, 100, Some(200)));
        progress.begin_pass();
        progress.reach(30);
        assert_eq!((progress.source(), progress.passed(), progress.in_all()), (30, 130, Some(200)));
        // One that breaks off, and that nobody has foreseen.
        progress.begin_pass();
        assert_eq!((progress.source(), progress.passed(), progress.in_all()), (0, 130, Some(230)));
        progress.reach(100);
        assert_eq!((progress.passed(), progress.in_all()), (230, Some(230)));
    }
}
