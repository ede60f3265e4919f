//! How far a job is, for a front end to poll.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    passes: Mutex<Passes>,
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
        /// The [code](Error::code) of what would have been the job's error.
        code: Arc<str>,
        /// Its text.
        why: Arc<str>,
    },
}

/// How often the stored image is gone over.
#[derive(Debug, Default)]
struct Passes {
    /// Bytes that have passed in this pass, and in those that have ended.
    source: u64,
    earlier: u64,
    /// How many come after this one.
    further: u64,
}

impl Progress {
    /// Bytes of the stored image that have passed, holes of a sparse file included. Where all of it is gone over more than once, in this
    /// pass.
    pub fn source(&self) -> u64 {
        lock(&self.0.passes).source
    }

    /// The same of all passes.
    pub fn passed(&self) -> u64 {
        let passes = lock(&self.0.passes);
        passes.earlier.saturating_add(passes.source)
    }

    /// Length of the stored image in bytes, once it is known.
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }

    /// How many bytes pass in all, once it is known: the length of the stored image for each pass.
    pub fn in_all(&self) -> Option<u64> {
        let total = self.total()?;
        let passes = lock(&self.0.passes);
        // Of a pass that broke off, what has passed; those that come are whole.
        Some(passes.earlier.saturating_add(total.saturating_mul(passes.further.saturating_add(1))))
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
        let mut passes = lock(&self.0.passes);
        passes.source = passes.source.max(at);
    }

    /// Says that the stored image is `total` bytes long; likewise.
    pub fn expect(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// Says that the stored image will be gone over once more when this pass has ended.
    pub fn expect_pass(&self) {
        lock(&self.0.passes).further += 1;
    }

    /// Says that it will not, although that was expected.
    pub fn forgo_pass(&self) {
        let mut passes = lock(&self.0.passes);
        passes.further = passes.further.saturating_sub(1);
    }

    /// Ends a pass over the stored image, and begins another one from its first byte. For who has ended everything that still counts.
    pub fn begin_pass(&self) {
        let mut passes = lock(&self.0.passes);
        passes.earlier = passes.earlier.saturating_add(passes.source);
        passes.source = 0;
        passes.further = passes.further.saturating_sub(1);
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
        // One that turns out not to be needed.
        progress.expect_pass();
        assert_eq!(progress.in_all(), Some(330));
        progress.forgo_pass();
        assert_eq!(progress.in_all(), Some(230));
    }
}
