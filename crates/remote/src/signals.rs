//! SIGINT, SIGTERM and SIGHUP: the first asks the job to stop and clean up. A second one, or a job that does not stop in time,
//! ends the process at once, and takes away what the job would have.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use diskferry::Progress;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// How long a job may take to stop, where nobody says otherwise. It looks several times a second, unless it is held up where it cannot
/// look: by a network file system that does not answer, or by nobody reading stderr. What has started us may kill us if we take ten
/// seconds.
pub const GRACE: Duration = Duration::from_secs(3);

/// How often a second signal is looked for during that time.
const PAUSE: Duration = Duration::from_millis(20);

/// The signal that asked the job to stop, once it was seen. Signals are the process's, and so is this.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// The file that must not outlive the job.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The same, or a later one, from the moment that it came: whoever feeds us may have been stopped by it, and must not be taken for one
/// that has come to an end.
static LAST: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Whether a signal has asked the job to stop. What fails then may do so because others have been stopped with it.
pub fn asked() -> bool {
    LAST.load(Ordering::Relaxed) > 0
}

/// The exit code, as shells give it, for the signal that asked the job to stop.
pub fn exit_code() -> u8 {
    let last = i32::try_from(LAST.load(Ordering::Relaxed)).unwrap_or_default();
    let signal = [FIRST.load(Ordering::Relaxed), last].into_iter().find(|signal| *signal > 0).unwrap_or(SIGINT);
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// From now on a signal sets [`Progress::stop`], and ends the process when the job has not ended after `grace`, or when another signal
/// comes. For once in a process.
pub fn watch(progress: &Progress, grace: Duration) -> io::Result<()> {
    let ignored = ignored();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    for signal in wanted.clone() {
        flag::register_usize(signal, Arc::clone(&LAST), usize::try_from(signal).unwrap_or_default())?;
        flag::register(signal, progress.stop_flag())?;
    }
    let mut signals = Signals::new(wanted)?;
    // A file that may not become larger (`ulimit -f`) is an error of the write, and not the end of the process.
    flag::register(SIGXFSZ, Arc::default())?;
    let work = move || {
        let Some(signal) = signals.forever().next() else { return };
        FIRST.store(signal, Ordering::Relaxed);
        let patience = Instant::now() + grace;
        while signals.pending().next().is_none() && Instant::now() < patience {
            thread::sleep(PAUSE);
        }
        end(exit_code());
    };
    thread::Builder::new().name("signals".into()).spawn(work)?;
    Ok(())
}

/// Lets `make` create something, and the temporary file of this name with it, which is removed whatever signals come.
pub fn with_temporary<T, E>(make: impl FnOnce() -> Result<(T, Option<PathBuf>), E>) -> Result<T, E> {
    // Held until the name is known: nothing ends the process between the file's creation and that.
    let mut temporary = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    let (made, name) = make()?;
    *temporary = name;
    Ok(made)
}

/// The temporary file may outlive the job: there is what it can be gone on with by.
pub fn leave_temporary() {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Ends the process while the job still runs, with this exit code, and takes away what the job would have.
pub fn end(code: u8) -> ! {
    // A file system that does not answer may keep whoever removes something, or makes it, for ever.
    let (done, removed) = mpsc::channel();
    let remove = move || {
        remove_temporary();
        let _ = done.send(());
    };
    if thread::Builder::new().name("cleaner".into()).spawn(remove).is_ok() {
        // Whether it has come to its end or not, the time is up.
        let _ = removed.recv_timeout(GRACE);
    }
    process::exit(code.into());
}

fn remove_temporary() {
    let temporary = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*temporary {
        // It may be gone: the job cleans up too, and what it has published has another name.
        let _ = fs::remove_file(path);
    }
}

/// Signals that the caller had us ignore, as `nohup` does with SIGHUP and a shell script with SIGINT for what it puts in the
/// background: a set of bits, 0 where it cannot be learned.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
