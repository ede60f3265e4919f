//! How far a job is, for a front end to poll.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Shared between a job and whoever watches it. Counters only grow.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the stored image that have passed, holes of a sparse file included.
    pub source: AtomicU64,
    /// Length of the stored image in bytes; 0 while it is not known.
    pub total: AtomicU64,
    /// Bytes of the virtual disk dealt with, zeroes included.
    pub written: AtomicU64,
    /// Set this to end the job with [`Error::Stopped`]; nothing is published then.
    pub stop: AtomicBool,
}

impl Progress {
    /// Ends the job early if somebody asked for it.
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }
}
