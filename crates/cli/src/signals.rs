//! SIGINT, SIGTERM and SIGHUP: the first asks the job to stop and clean up, the second ends at once.

use std::fs;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use diskferry::Progress;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::Failure;

/// The signal that asked the job to stop. Signals are the process's, and so is this.
static FIRST: AtomicI32 = AtomicI32::new(SIGINT);

/// The exit code, as shells give it, for the signal that asked the job to stop.
pub fn exit_code() -> u8 {
    u8::try_from(128 + FIRST.load(Ordering::Relaxed)).unwrap_or(u8::MAX)
}

/// From now on a signal sets [`Progress::stop`].
pub fn watch(progress: &Arc<Progress>) -> Result<(), Failure> {
    let ignored = ignored();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(wanted).map_err(unexpected)?;
    let progress = Arc::clone(progress);
    let work = move || {
        for signal in signals.forever() {
            if progress.stop.load(Ordering::Relaxed) {
                process::exit(exit_code().into());
            }
            FIRST.store(signal, Ordering::Relaxed);
            progress.stop.store(true, Ordering::Relaxed);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(work).map_err(unexpected)?;
    Ok(())
}

fn unexpected(error: io::Error) -> Failure {
    Failure::Unexpected(format!("watching for signals: {error}"))
}

/// Signals that the caller had us ignore, as `nohup` does with SIGHUP and a shell script with SIGINT for what it puts in the background: a set of bits, 0 where it cannot be learned.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
