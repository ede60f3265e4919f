//! A real server as a child process: started on a free port, waited for, bounded in time, ended with its value.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::oracle::Scratch;

/// How long anything that a server does at once may take on a machine under load.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How many times a server is started anew because somebody else took its port.
const ATTEMPTS: usize = 5;

/// The process, and the directory that it works in.
pub(super) struct Daemon {
    child: Child,
    scratch: Scratch,
}

impl Daemon {
    /// Even if the test is killed, its servers end after so many seconds.
    const LIFE: u32 = 300;

    /// Starts `program` with `args`; it must not go to the background. What it prints is in `output` of the directory.
    fn start(program: &str, args: &[&str], scratch: Scratch) -> Self {
        let output = File::create(scratch.path("output")).unwrap();
        let child = Command::new("timeout")
            .args(["--kill-after=5", &Self::LIFE.to_string(), program])
            .args(args)
            .env("PATH", path_for_administration())
            // Its own group, so that all of it can be killed at once, and nothing else.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("timeout {program}: {error}"));
        Self { child, scratch }
    }

    /// Starts a server on free ports of `address`. `configure` writes what it needs into the directory and gives its
    /// arguments, `ready` says whether it has begun to listen.
    ///
    /// # Panics
    ///
    /// When it does not start. The message has what it said.
    pub(super) fn start_on_free_ports<const PORTS: usize>(
        program: &str,
        address: IpAddr,
        configure: impl Fn(&Scratch, &[SocketAddr; PORTS]) -> Vec<String>,
        ready: impl Fn(&Path) -> bool,
    ) -> (Self, [SocketAddr; PORTS]) {
        for attempt in 1.. {
            let scratch = Scratch::new();
            let ports = free_ports(address);
            let args = configure(&scratch, &ports);
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let mut daemon = Self::start(program, &args, scratch);
            let mut ended = None;
            let up = becomes_true(|| {
                ended = daemon.child.try_wait().unwrap();
                ended.is_some() || ready(daemon.scratch.dir())
            });
            match ended {
                None if up => return (daemon, ports),
                Some(_) if attempt < ATTEMPTS && daemon.said().contains("in use") => {}
                ended => panic!("{program} does not start ({}): {}", describe(ended), daemon.said()),
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    /// The directory that the server works in.
    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What is in a log of the directory, once that has at least `lines` lines: servers write them after the client has got
    /// its answer.
    pub(super) fn log(&self, name: &str, lines: usize) -> Vec<String> {
        let read = || -> Vec<String> {
            let log = fs::read(self.scratch.path(name)).unwrap_or_default();
            // The last line may be half written.
            let whole = log.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            String::from_utf8_lossy(&log[..whole]).lines().map(str::to_owned).collect()
        };
        assert!(becomes_true(|| read().len() >= lines), "{name} has not {lines} lines: {:#?}", read());
        read()
    }

    fn said(&self) -> String {
        let logs =
            ["output", "error.log", "cache.log"].map(|name| fs::read(self.scratch.path(name)).unwrap_or_default());
        String::from_utf8_lossy(&logs.concat()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Not waited for yet, so the number cannot have been given to anybody else.
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        let _ = kill_process(pid, Signal::TERM);
        if !becomes_true(|| !matches!(self.child.try_wait(), Ok(None))) {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Asks until it is so, or until patience ends.
pub(super) fn becomes_true(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Administration tools are not in everybody's path.
pub(super) fn path_for_administration() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Whether the test is run by root, as some servers then need to be told whom to become.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Ports that nobody listens on, all different. Somebody else may take one before the server does.
fn free_ports<const PORTS: usize>(address: IpAddr) -> [SocketAddr; PORTS] {
    let held = [(); PORTS].map(|()| TcpListener::bind((address, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

fn describe(ended: Option<ExitStatus>) -> String {
    match ended {
        None => "it still runs".to_owned(),
        Some(status) => match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => status.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    use super::*;

    /// A server that is a shell script.
    fn start(script: impl Fn() -> &'static str) -> Daemon {
        let configure = |scratch: &Scratch, _: &[SocketAddr; 2]| {
            scratch.write("script", script().as_bytes());
            vec!["-c".to_owned(), format!("cd {} && . ./script", scratch.dir().display())]
        };
        Daemon::start_on_free_ports("sh", Ipv4Addr::LOCALHOST.into(), configure, |dir| dir.join("ready").exists()).0
    }

    #[test]
    fn a_dropped_server_ends_with_all_that_it_has_started() {
        let daemon = start(|| "sleep 1000 & echo $! >log; echo $$ >>log; touch ready; wait");
        let pids = daemon.log("log", 2);
        // One that has ended may keep its number until whoever has inherited it looks.
        let runs = |pid: &String| {
            let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        assert!(pids.iter().all(runs));
        drop(daemon);
        assert!(becomes_true(|| !pids.iter().any(runs)));
    }

    #[test]
    fn a_port_that_was_taken_is_given_up_for_another() {
        let attempts = Cell::new(0);
        let _daemon = start(|| {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 { "echo port in use >&2; exit 1" } else { "touch ready; exec sleep 1000" }
        });
        assert_eq!(attempts.get(), 3);
    }

    #[test]
    #[should_panic(expected = "sh does not start (exit status: 3): no such luck")]
    fn a_server_that_does_not_start_says_why() {
        start(|| "echo no such luck; exit 3");
    }
}
