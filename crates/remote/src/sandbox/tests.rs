//! What can be done within, and what cannot. The kernel of whoever runs them decides which layers there are: seccomp is everywhere, and
//! what it refuses is tried; what Landlock refuses besides, where there is Landlock.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use diskferry::sink::{FileOptions, FileSink};
use diskferry::{Input, Limits, Progress};
use diskferry_testkit::decoders::layers;
use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags, fallocate, fcntl_setfl, renameat_with};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process, pidfd_open, prlimit,
    set_dumpable_behavior,
};
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

use super::*;

/// Every layer that there is.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(Mode::Auto).unwrap();
    assert_eq!(sandbox.layers(), layers());
    sandbox
}

/// Only Landlock, where there is some.
fn landlock() -> Option<Sandbox> {
    let Sandbox(Some(inner)) = sandbox() else { panic!() };
    let files = inner.rules.files.as_ref().filter(|_| layers().contains(&"landlock"))?.try_clone().unwrap();
    let rules = Rules { files: Some(files), calls: None };
    Some(Sandbox(Some(Arc::new(Inner {
        mode: inner.mode,
        rules,
        in_force: OnceLock::new(),
        waiting: Mutex::default(),
    }))))
}

fn refused<T>(what: &str, outcome: io::Result<T>) {
    let Err(error) = outcome else { panic!("{what} is granted") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
}

#[test]
fn no_file_is_opened_made_named_or_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (there, new) = (dir.path().join("there"), dir.path().join("new"));
    fs::write(&there, "x").unwrap();
    let tries = || {
        refused("reading", File::open("/etc/passwd"));
        refused("writing", File::options().write(true).open(&there));
        refused("a new file", File::create(&new));
        refused("a file without a name", tempfile::tempfile_in(dir.path()));
        refused("a directory", fs::read_dir(dir.path()));
        refused("a new directory", fs::create_dir(&new));
        refused("another name", fs::rename(&there, &new));
        refused("another name", renameat_with(CWD, &there, CWD, &new, RenameFlags::NOREPLACE).map_err(Into::into));
        refused("a second name", fs::hard_link(&there, &new));
        refused("a link", std::os::unix::fs::symlink(&there, &new));
        refused("no name", fs::remove_file(&there));
        refused("memory of ours", File::open("/proc/self/mem"));
    };
    sandbox().run(tries).unwrap();
    sandbox()
        .run(|| {
            // Landlock grants these.
            refused("looking", fs::metadata(&there));
            refused("other rights", fs::set_permissions(&there, fs::Permissions::from_mode(0o777)));
        })
        .unwrap();
    if let Some(landlock) = landlock() {
        landlock.run(tries).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn no_socket_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let local = dir.path().join("socket");
    let _listening = UnixListener::bind(&local).unwrap();
    sandbox()
        .run(|| {
            refused("connecting", TcpStream::connect(address));
            refused("listening", TcpListener::bind("127.0.0.1:0"));
            refused("datagrams", UdpSocket::bind("127.0.0.1:0"));
            refused("a socket with a name", UnixStream::connect(&local));
            refused("a pair of sockets", UnixStream::pair());
            refused("accepting", listener.accept());
        })
        .unwrap();
}

#[test]
fn no_program_is_started_and_no_other_process_reached() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid::from_child(&child);
    sandbox()
        .run(|| {
            refused("a program", Command::new("/bin/true").spawn());
            // If it were granted, it would not be found.
            refused("a program in our place", Err::<(), _>(Command::new("/nonexistent").exec()));
            refused("another process", pidfd_open(pid, PidfdFlags::empty()).map_err(Into::into));
            refused("a signal", kill_process(pid, Signal::KILL).map_err(Into::into));
            refused("its memory", File::open(format!("/proc/{}/mem", child.id())));
            let none = Rlimit { current: Some(0), maximum: Some(0) };
            refused("its limits", prlimit(Some(pid), Resource::Core, none).map_err(Into::into));
        })
        .unwrap();
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_open_is_read_written_and_made_durable() {
    let mut file = tempfile::tempfile().unwrap();
    let (mut reader, mut writer) = io::pipe().unwrap();
    sandbox()
        .run(|| -> io::Result<()> {
            file.write_all(&[7; 100_000])?;
            file.write_all_at(&[8; 1000], 1 << 20)?;
            file.set_len(2 << 20)?;
            fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 65536)?;
            file.sync_all()?;
            file.rewind()?;
            let mut copy = file.try_clone()?;
            let mut bytes = Vec::new();
            copy.read_to_end(&mut bytes)?;
            assert_eq!((bytes.len(), bytes[0], bytes[99_999], bytes[1 << 20]), (2 << 20, 0, 7, 8));
            writer.write_all(b"through")?;
            let mut through = [0; 7];
            reader.read_exact(&mut through)?;
            assert_eq!(&through, b"through");
            Ok(())
        })
        .unwrap()
        .unwrap();
}

#[test]
fn threads_that_are_started_within_have_given_up_the_same() {
    let outcome = sandbox().run(|| {
        let named = Builder::new().name("another".into());
        named.spawn(|| (File::open("/etc/passwd").is_err(), UdpSocket::bind("127.0.0.1:0").is_err())).unwrap().join()
    });
    assert_eq!(outcome.unwrap().unwrap(), (true, true));
    assert!(File::open("/etc/passwd").is_ok(), "who has only waited has given up nothing");
}

#[test]
fn what_cannot_be_done_within_is_done_outside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let sandbox = sandbox();
    let options = sandbox.options(Options { spool_dir: Some(dir.path().into()), ..Options::default() });
    assert!(options.threads > 0, "how many cores there are is read from files");
    let within = sandbox.clone();
    let written = path.clone();
    sandbox
        .run(move || {
            refused("itself", fs::write(&written, "x"));
            within.outside(move || fs::write(&written, "x")).unwrap().unwrap();
        })
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), b"x");
}

/// An image of which most has to be spooled comes out of a pipe, is decoded within, and is published outside.
#[test]
fn a_spool_is_filled_within_and_a_disk_published_outside() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    let image = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/disk.qcow2.xz")).unwrap();
    let sandbox = sandbox();
    // Not a byte of it may stay in memory.
    let limits = Limits { spool_memory: 0, ..Limits::default() };
    let options = sandbox.options(Options { limits, spool_dir: Some(dir.path().into()), ..Options::default() });
    let sink = FileSink::create(&disk, FileOptions::default()).unwrap();
    let input = Input::Stream { reader: Box::new(io::Cursor::new(image)), len: None };
    let progress = Progress::default();
    let complete = sandbox.run(|| diskferry::open(input, &options, &progress)?.complete(&sink, None)).unwrap().unwrap();
    assert!(!Path::new(&disk).exists());
    let report = complete.publish().unwrap();
    assert!(report.spooled > 0, "{report:?}");
    assert!(disk.exists());
}

#[test]
fn a_panic_within_is_one_outside() {
    static REACHED: AtomicBool = AtomicBool::new(false);
    let outcome = std::panic::catch_unwind(|| {
        sandbox().run(|| {
            REACHED.store(true, Ordering::Relaxed);
            panic!("on purpose");
        })
    });
    assert!(outcome.is_err() && REACHED.load(Ordering::Relaxed));
}

#[test]
fn what_is_required_is_had_or_refused_and_off_is_nothing() {
    let found = sandbox().layers();
    match Sandbox::new(Mode::Require) {
        Ok(sandbox) => {
            assert_eq!((sandbox.layers(), found), (vec!["landlock", "seccomp"], vec!["landlock", "seccomp"]))
        }
        Err(missing) => {
            assert!(!found.contains(&"landlock"), "{missing}");
            assert!(missing.to_string().starts_with("--sandbox require cannot be had here: landlock: "), "{missing}");
        }
    }
    let off = Sandbox::new(Mode::Off).unwrap();
    assert!(off.layers().is_empty());
    assert!(off.run(|| File::open("/etc/passwd")).unwrap().is_ok());
    let options = off.options(Options::default());
    assert!(options.threads == 0 && options.spool_file.is_none());
}

/// It cannot be taken back, so that it happens in a process of its own.
#[test]
fn a_whole_process_opens_nothing_that_is_there_and_publishes_still() {
    let name = "sandbox::tests::within_a_confined_process";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args([name, "--exact", "--ignored", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

#[test]
#[ignore = "for the process of the test before"]
fn within_a_confined_process() {
    let dir = tempfile::tempdir().unwrap();
    let (there, new) = (dir.path().join("there"), dir.path().join("new"));
    fs::write(&there, "x").unwrap();
    let sandbox = sandbox();
    let (go, wait) = mpsc::channel();
    // A thread that was there before.
    let other = thread::spawn(move || {
        wait.recv().unwrap();
        refused("reading", File::open("/etc/passwd"));
        refused("writing", File::options().write(true).open(&there));
        refused("a file that may be there", File::create(&there));
        refused("a directory", fs::read_dir("/"));
        refused("connecting", TcpStream::connect("127.0.0.1:1"));
        refused("datagrams", UdpSocket::bind("127.0.0.1:0"));
        refused("a program", Command::new("/bin/true").spawn());
        refused("a program in our place", Err::<(), _>(Command::new("/nonexistent").exec()));
        let mut file = File::create_new(&new).unwrap();
        file.write_all(b"y").unwrap();
        file.sync_all().unwrap();
        fs::rename(&new, &there).unwrap();
        fs::remove_file(&there).unwrap();
    });
    sandbox.confine_process().unwrap();
    go.send(()).unwrap();
    other.join().unwrap();
    let options = sandbox.options(Options { spool_dir: Some(dir.path().into()), ..Options::default() });
    refused("reading", File::open("/etc/passwd"));
    let (kept, new) = (dir.path().join("kept"), dir.path().join("new"));
    let mut file = File::create_new(&kept).unwrap();
    sandbox
        .run(|| {
            refused("a new file", File::create_new(&new));
            refused("a file without a name", tempfile::tempfile_in(dir.path()));
            refused("another name", fs::rename(&kept, &new));
            refused("no name", fs::remove_file(&kept));
            refused("looking", fs::metadata(&kept));
            refused("other rights", file.set_permissions(fs::Permissions::from_mode(0o777)));
            refused("a lock", file.lock());
            let more = filter::anything().unwrap();
            assert!(apply_filter(&more).is_err(), "a decoder gives up all at once");
            file.write_all(b"what is open is written").unwrap();
        })
        .unwrap();
    assert!(sandbox.outside(move || tempfile::tempfile_in(options.spool_dir.unwrap())).unwrap().is_ok());
}

/// Runs `work` in a thread for which the kernel does not have `calls`, and neither for what it starts.
pub(crate) fn without<T: Send>(calls: &[libc::c_long], work: impl FnOnce() -> T + Send) -> T {
    let within = || {
        fail(calls.iter().map(|call| (*call, Vec::new())), libc::ENOSYS);
        work()
    };
    thread::scope(|scope| scope.spawn(within).join()).unwrap()
}

/// Runs `work` in a thread that cannot start another, as where there are too many already.
pub(crate) fn without_threads<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    // The flags of `clone3` cannot be seen.
    without(&[libc::SYS_clone3], || {
        let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
        let flags = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(thread), thread).unwrap();
        fail([(libc::SYS_clone, vec![SeccompRule::new(vec![flags]).unwrap()])], libc::EAGAIN);
        work()
    })
}

/// From now on, these calls of this thread and of those that it starts fail.
fn fail(calls: impl IntoIterator<Item = (libc::c_long, Vec<SeccompRule>)>, error: i32) {
    let failed = SeccompAction::Errno(error.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(calls.into_iter().collect(), SeccompAction::Allow, failed, arch).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn a_kernel_that_has_less_is_taken_for_what_it_has_or_refused() {
    let (no_landlock, no_seccomp) = (libc::SYS_landlock_create_ruleset, libc::SYS_seccomp);
    let had = |mode| Sandbox::new(mode).map(|sandbox| sandbox.layers()).map_err(|missing| missing.to_string());
    without(&[no_landlock], || {
        assert_eq!(had(Mode::Auto).unwrap(), ["seccomp"]);
        let missing = had(Mode::Require).unwrap_err();
        assert!(missing.starts_with("--sandbox require cannot be had here: landlock: "), "{missing}");
        assert_eq!(missing.lines().count(), 1);
    });
    let landlock = sandbox().layers().contains(&"landlock");
    without(&[no_seccomp], || {
        assert_eq!(had(Mode::Auto).unwrap(), if landlock { vec!["landlock"] } else { vec![] });
        let missing = had(Mode::Require).unwrap_err();
        assert!(missing.contains("seccomp: ") && missing.contains("landlock: ") != landlock, "{missing}");
    });
    without(&[no_landlock, no_seccomp], || {
        assert!(had(Mode::Auto).unwrap().is_empty() && had(Mode::Off).unwrap().is_empty());
        assert!(had(Mode::Require).is_err());
        assert_eq!(Sandbox::new(Mode::Auto).unwrap().run(|| 7).unwrap(), 7);
    });
}

#[test]
fn a_layer_that_is_there_and_cannot_be_entered_ends_the_job_before_it_has_begun() {
    let sandbox = sandbox();
    without(&[libc::SYS_seccomp], || {
        let error = sandbox.run(|| panic!("it was begun")).unwrap_err();
        assert!(error.to_string().contains("entering the sandbox"), "{error}");
    });
    // Who has not been told what there is takes what there is.
    without(&[libc::SYS_seccomp], || assert_eq!(Sandbox::new(Mode::Auto).unwrap().run(|| 7).unwrap(), 7));
}

/// Of calls that are granted in part, the other part is refused.
#[test]
fn what_is_granted_is_granted_for_nothing_else() {
    let (file, (_reader, writer)) = (tempfile::tempfile().unwrap(), io::pipe().unwrap());
    let (one, other) = UnixDatagram::pair().unwrap();
    sandbox()
        .run(|| {
            refused("flags of what is open", fcntl_setfl(&file, OFlags::NONBLOCK).map_err(Into::into));
            refused("the size of a pipe", fcntl_setpipe_size(&writer, 1 << 20).map_err(Into::into));
            refused("a name for where it goes", one.send_to(b"x", "/run/elsewhere"));
            refused("dumps of memory", set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Into::into));
        })
        .unwrap();
    drop(other);
}
