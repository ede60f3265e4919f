//! The sandbox: a thread that decodes an image gives up first what it does not need for that.
//!
//! When the source and the target are open, a decoder reads, computes and writes, and so do the threads that it starts. [`Sandbox::run`]
//! is where that happens: a thread of its own, which the kernel grants no more than that, by [Landlock] no name of a file, and by a
//! filter of system calls no file at all, no socket, no program and no other process. Both are given up for good and are
//! inherited, so that whatever has to be opened, made or named while an image is decoded, as the spool's file, is
//! [done outside](Sandbox::outside), by the thread that waits for the decoder.
//!
//! [Landlock]: https://docs.kernel.org/userspace-api/landlock.html

mod filter;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::io::{self, ErrorKind};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::{self, Builder, ThreadId};
use std::time::Duration;

use diskferry::{Error, MakeFile, Options, Result, Side};
use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreated, RulesetStatus, Scope};
use seccompiler::{BpfProgram, apply_filter, apply_filter_all_threads};

/// How much is wanted of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As much as the kernel has.
    #[default]
    Auto,
    /// Both layers, or nothing is done. Of Landlock any version counts: the newer ones only add to what the filter of calls refuses as well.
    Require,
    /// None.
    Off,
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "require" => Ok(Self::Require),
            "off" => Ok(Self::Off),
            _ => Err("expected auto, require or off"),
        }
    }
}

/// Why there is no sandbox although one is required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(String);

impl Missing {
    /// Its stable name: see docs/errors.md.
    pub const CODE: &'static str = "sandbox-missing";
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What decodes, decodes in here. Without anything that could be given up, as [by default](Default), it is done as it comes.
#[derive(Clone, Default)]
pub struct Sandbox(Option<Arc<Inner>>);

struct Inner {
    mode: Mode,
    rules: Rules,
    in_force: OnceLock<Vec<&'static str>>,
    waiting: Mutex<Vec<Waiting>>,
}

/// Something that is done outside.
type Errand = Box<dyn FnOnce() + Send>;

/// A thread that waits for one that decodes, and does its errands meanwhile.
struct Waiting {
    decoder: ThreadId,
    errands: mpsc::Sender<Errand>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.as_ref().map(|inner| (inner.mode, inner.in_force.get()));
        write!(f, "Sandbox({known:?})")
    }
}

impl Sandbox {
    /// If both layers are [required](Mode::Require), it is tried whether the kernel has them, and less is an error.
    pub fn new(mode: Mode) -> Result<Self, Missing> {
        if mode == Mode::Off {
            return Ok(Self::default());
        }
        let (rules, cannot) = Rules::new();
        if mode == Mode::Require {
            let missing = [cannot, rules.tried().1].concat();
            if let Some(first) = missing.first() {
                let rest = missing.iter().skip(1).map(|why| format!(", {why}")).collect::<String>();
                return Err(Missing(format!("--sandbox require cannot be had here: {first}{rest}")));
            }
        }
        if rules.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self(Some(Arc::new(Inner { mode, rules, in_force: OnceLock::new(), waiting: Mutex::default() }))))
    }

    /// What is in force within: what was when something was done there, or, before that, what a thread finds that tries it.
    pub fn layers(&self) -> Vec<&'static str> {
        let in_force = |inner: &Arc<Inner>| inner.in_force.get_or_init(|| inner.rules.tried().0).clone();
        self.0.as_ref().map(in_force).unwrap_or_default()
    }

    /// Does `work` within.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let Some(inner) = &self.0 else { return Ok(work()) };
        let done = thread::scope(|scope| {
            let (errands, to_do) = mpsc::channel();
            let within = || {
                let _end = inner.expect(errands);
                inner.enter().map(|()| work())
            };
            let decoder = Builder::new().name("decoder".into()).spawn_scoped(scope, within)?;
            // Until nobody can have any.
            to_do.into_iter().for_each(|errand: Errand| errand());
            decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        done.map_err(entering)
    }

    /// Takes from all threads of the process what a job no longer needs of which source and target are open, and are here: opening what is
    /// there, sockets, programs and other processes. Those that decode have the same memory as the others, and could have them do it.
    ///
    /// New files can be made still, and files be renamed and removed: that is how a disk appears. If a thread cannot be had to, as one that
    /// somebody else has confined in another way, that is an error only where the sandbox is [required](Mode::Require).
    pub fn confine_process(&self) -> Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let Some(calls) = &inner.rules.calls else { return Ok(()) };
        match calls.confine_process() {
            Err(error) if inner.mode == Mode::Require => Err(entering(error)),
            _ => Ok(()),
        }
    }

    /// Does `work` outside, when called from within, and waits for it.
    pub fn outside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match &self.0 {
            Some(inner) => inner.outside(work),
            None => Ok(work()),
        }
    }

    /// `options` for a job that is done within: what they would look up there is looked up now, and files are made outside.
    pub fn options(&self, options: Options) -> Options {
        let Some(inner) = &self.0 else { return options };
        let (inner, dir) = (Arc::clone(inner), options.spool_dir.clone());
        let make = move || {
            let dir = dir.clone();
            inner.outside(move || dir.map_or_else(tempfile::tempfile, tempfile::tempfile_in))?
        };
        Options { threads: options.threads(), spool_file: Some(MakeFile::new(make)), ..options }
    }
}

fn entering(source: io::Error) -> Error {
    Error::Io { side: Side::Source, doing: "entering the sandbox", at: None, source }
}

impl Inner {
    /// Gives up, on the calling thread and for those that it starts, what the kernel lets it give up. An error where it has a layer, and
    /// that cannot be entered.
    fn enter(&self) -> io::Result<()> {
        let (layers, missing) = self.rules.enter(Calls::enter);
        for (layer, error) in missing {
            let is_there = self.in_force.get().is_some_and(|layers| layers.contains(&layer));
            if self.mode == Mode::Require || is_there || error.kind() != ErrorKind::Unsupported {
                return Err(error);
            }
        }
        self.in_force.get_or_init(|| layers);
        Ok(())
    }

    /// Has the errands of the calling thread, and of all others that decode, done by the one at the other end, until what is returned is dropped.
    fn expect(&self, errands: mpsc::Sender<Errand>) -> impl Drop {
        let decoder = thread::current().id();
        self.waiting().push(Waiting { decoder, errands });
        End(self, decoder)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        // Who has waited longest has given up nothing: only those within could have given up something before.
        let Some(errands) = self.waiting().first().map(|waiting| waiting.errands.clone()) else { return Ok(work()) };
        let ended = || io::Error::other("the thread that does what a decoder cannot has ended");
        let (answer, answered) = mpsc::channel();
        let errand = move || {
            // Whoever has asked may be gone by now.
            let _ = answer.send(work());
        };
        errands.send(Box::new(errand)).map_err(|_| ended())?;
        drop(errands);
        answered.recv().map_err(|_| ended())
    }
}

/// The end of what this thread decodes.
struct End<'a>(&'a Inner, ThreadId);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let Self(inner, decoder) = self;
        inner.waiting().retain(|waiting| waiting.decoder != *decoder);
    }
}

/// The layers' names.
const LANDLOCK: &str = "landlock";
const SECCOMP: &str = "seccomp";

/// What a thread is told to give up.
struct Rules {
    files: Option<RulesetCreated>,
    calls: Option<Calls>,
}

/// Programs that see every call.
struct Calls {
    /// A short one that takes nothing away: of long ones the kernel looks long at every call that there is.
    anything: BpfProgram,
    decoding: BpfProgram,
    /// The same in a process that is confined, once it is.
    not_publishing: OnceLock<BpfProgram>,
}

impl Calls {
    fn new() -> io::Result<Self> {
        let anything = filter::anything().map_err(io::Error::other)?;
        let decoding = filter::decoding().map_err(io::Error::other)?;
        Ok(Self { anything, decoding, not_publishing: OnceLock::new() })
    }

    /// Whether the kernel takes programs at all.
    fn try_it(&self) -> io::Result<()> {
        apply_filter(&self.anything).map_err(|error| io::Error::new(ErrorKind::Unsupported, error))
    }

    fn enter(&self) -> io::Result<()> {
        if let Some(not_publishing) = self.not_publishing.get() {
            return apply_filter(not_publishing).map_err(io::Error::other);
        }
        self.try_it()?;
        apply_filter(&self.decoding).map_err(io::Error::other)
    }

    fn confine_process(&self) -> io::Result<()> {
        let publishing = filter::publishing().map_err(io::Error::other)?;
        let not_publishing = filter::not_publishing().map_err(io::Error::other)?;
        apply_everywhere(&publishing)?;
        self.not_publishing.get_or_init(|| not_publishing);
        Ok(())
    }
}

/// A thread that is just ending with a filter of its own, as the one that has [tried](Rules::tried), keeps older kernels from it for a moment.
fn apply_everywhere(program: &BpfProgram) -> io::Result<()> {
    let mut tries = 50;
    loop {
        match apply_filter_all_threads(program) {
            Err(seccompiler::Error::ThreadSync(_)) if tries > 0 => tries -= 1,
            applied => return applied.map_err(io::Error::other),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

impl Rules {
    /// What can be asked of the kernel, and why not all of it can.
    fn new() -> (Self, Vec<String>) {
        let (files, calls) = (ruleset(), Calls::new());
        let cannot = [(LANDLOCK, files.as_ref().err()), (SECCOMP, calls.as_ref().err())];
        let cannot = cannot.into_iter().filter_map(|(name, error)| error.map(|error| format!("{name}: {error}")));
        let cannot = cannot.collect();
        (Self { files: files.ok(), calls: calls.ok() }, cannot)
    }

    /// What there is of it, and why not all is. A thread tries, which ends with that.
    fn tried(&self) -> (Vec<&'static str>, Vec<String>) {
        let failed = || io::Error::other("the thread that tries it fails");
        let (layers, missing) = thread::scope(|scope| {
            let trying = Builder::new().spawn_scoped(scope, || self.enter(Calls::try_it)).ok();
            let entered = trying.and_then(|trying| trying.join().ok());
            entered.unwrap_or_else(|| (Vec::new(), vec![(LANDLOCK, failed()), (SECCOMP, failed())]))
        });
        (layers, missing.into_iter().map(|(name, error)| format!("{name}: {error}")).collect())
    }

    fn is_empty(&self) -> bool {
        self.files.is_none() && self.calls.is_none()
    }

    /// Gives it up, on the calling thread and for those that it starts. Returns what could be, and what could not.
    fn enter(&self, calls: fn(&Calls) -> io::Result<()>) -> (Vec<&'static str>, Vec<(&'static str, io::Error)>) {
        let (mut entered, mut failed) = (Vec::new(), Vec::new());
        let files = self.files.as_ref().map(|files| (LANDLOCK, enter_files(files)));
        // Calls last: with them nothing else could be given up.
        for (name, outcome) in files.into_iter().chain(self.calls.as_ref().map(|rules| (SECCOMP, calls(rules)))) {
            match outcome {
                Ok(()) => entered.push(name),
                Err(error) => failed.push((name, error)),
            }
        }
        (entered, failed)
    }
}

fn enter_files(files: &RulesetCreated) -> io::Result<()> {
    let status = files.try_clone()?.restrict_self().map_err(io::Error::other)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => {
            Err(io::Error::new(ErrorKind::Unsupported, "the kernel does not have it, or not switched on"))
        }
        _ => Ok(()),
    }
}

/// Nothing that has a name, no port, and nobody outside. An older kernel knows less of it, the first one all that is done with files but
/// cutting them off.
fn ruleset() -> io::Result<RulesetCreated> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V7))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V7)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V7)))
        .and_then(Ruleset::create);
    ruleset.map_err(io::Error::other)
}
