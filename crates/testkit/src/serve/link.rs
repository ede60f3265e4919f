//! Two hosts and a cable between them, made of network namespaces, for what cannot be seen on a loopback device: a rate, lost
//! packets, connections that are cut or fall silent on their way. Needs root.
//!
//! Nothing of it is connected to the network of the machine. Tests that use it stand in a module called `link`, which
//! `scripts/test` skips, and says so, where namespaces cannot be had.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::daemon::path_for_administration;

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where the client is.
    Near,
    /// Where the server is.
    Far,
}

/// The two hosts. They are taken away when it is dropped; what still runs in them then is cut off, but goes on.
pub struct Link {
    /// By which the namespaces of other links differ.
    name: String,
}

/// What the end of the cable is called on both sides.
const DEVICE: &str = "cable";

/// What the namespaces of all links start with; then come the process and a number.
const PREFIX: &str = "diskferry";

impl Link {
    /// Makes the hosts, and connects them.
    ///
    /// # Errors
    ///
    /// Why there are none, if namespaces cannot be had here.
    pub fn new() -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        sweep();
        let name = format!("{PREFIX}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // From here on the drop takes away what there is.
        let link = Self { name };
        link.connect().map_err(|error| format!("no network namespaces here, root can make them: {error}"))?;
        Ok(link)
    }

    fn connect(&self) -> Result<(), String> {
        let [near, far] = [Side::Near, Side::Far].map(|side| self.namespace(side));
        tool("ip", &["netns", "add", &near])?;
        tool("ip", &["netns", "add", &far])?;
        tool("ip", &["-n", &near, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", &far])?;
        for (side, namespace) in [(Side::Near, near), (Side::Far, far)] {
            let address = format!("{}/24", self.address(side));
            tool("ip", &["-n", &namespace, "address", "add", &address, "dev", DEVICE])?;
            tool("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
            tool("ip", &["-n", &namespace, "link", "set", DEVICE, "up"])?;
        }
        Ok(())
    }

    /// The address of a host, of a net that is for documentation.
    pub fn address(&self, side: Side) -> Ipv4Addr {
        match side {
            Side::Near => Ipv4Addr::new(192, 0, 2, 1),
            Side::Far => Ipv4Addr::new(192, 0, 2, 2),
        }
    }

    /// Does `work` on a host: sockets that it opens, threads and processes that it starts are there, and stay there.
    pub fn inside<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(self.namespace(side))).unwrap();
        // A thread of its own, because a namespace is a property of threads.
        let worker = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        let result = thread::scope(|scope| scope.spawn(worker).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run on a host.
    pub fn command(&self, side: Side, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.env("PATH", path_for_administration());
        command.args(["netns", "exec", &self.namespace(side)]).arg(program);
        command
    }

    /// Lets a host send at this rate at most, as in `200mbit`.
    pub fn rate(&self, side: Side, rate: &str) {
        let namespace = self.namespace(side);
        let queue =
            ["qdisc", "replace", "dev", DEVICE, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"];
        tool("tc", &[&["-n", &namespace], &queue[..]].concat()).unwrap();
    }

    /// Resets each connection to this port of the far host, for both ends, after about so many bytes have come from there.
    pub fn reset_after(&self, port: u16, bytes: u64) {
        // A reset goes to whoever has sent the packet that is rejected, so to the client. The client's own reset, with which it
        // answers what the server still sends, has to pass.
        let (port, bytes) = (port.to_string(), format!("{bytes}:"));
        let rule = ["-A", "INPUT", "-p", "tcp", "--dport", &port, "!", "--tcp-flags", "RST", "RST"];
        let reject = ["-j", "REJECT", "--reject-with", "tcp-reset"];
        self.rule(Side::Far, &[&rule[..], &from_server(&bytes), &reject].concat());
    }

    /// Lets each connection to this port of the far host fall silent after about so many bytes have come from there.
    pub fn silence_after(&self, port: u16, bytes: u64) {
        let (port, bytes) = (port.to_string(), format!("{bytes}:"));
        let rule = ["-A", "OUTPUT", "-p", "tcp", "--sport", &port];
        self.rule(Side::Far, &[&rule[..], &from_server(&bytes), &["-j", "DROP"]].concat());
    }

    /// Loses every n-th packet that a host is sent.
    pub fn lose_every(&self, side: Side, nth: u32) {
        let nth = nth.to_string();
        let statistic = ["-m", "statistic", "--mode", "nth", "--every", &nth, "--packet", "0"];
        self.rule(side, &[&["-A", "INPUT"], &statistic[..], &["-j", "DROP"]].concat());
    }

    /// Any rule, as `iptables` takes it.
    pub fn rule(&self, side: Side, rule: &[&str]) {
        let namespace = self.namespace(side);
        tool("ip", &[&["netns", "exec", &namespace, "iptables", "--wait"], rule].concat()).unwrap();
    }

    /// Takes away all rules of both hosts. Rates stay.
    pub fn heal(&self) {
        self.rule(Side::Near, &["--flush"]);
        self.rule(Side::Far, &["--flush"]);
    }

    fn namespace(&self, side: Side) -> String {
        match side {
            Side::Near => format!("{}-near", self.name),
            Side::Far => format!("{}-far", self.name),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for side in [Side::Near, Side::Far] {
            let namespace = self.namespace(side);
            if namespaces().contains(&namespace) {
                // With its name the cable goes too, unless something still runs there.
                let _ = tool("ip", &["-n", &namespace, "link", "delete", DEVICE]);
                let _ = tool("ip", &["netns", "delete", &namespace]);
            }
        }
    }
}

/// Matches packets of connections of which so many bytes have come from the server.
fn from_server(bytes: &str) -> [&str; 8] {
    ["-m", "connbytes", "--connbytes-mode", "bytes", "--connbytes-dir", "reply", "--connbytes", bytes]
}

/// Takes away namespaces of tests that were killed.
fn sweep() {
    for namespace in namespaces() {
        let process = namespace.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another test may be at it, too.
            let _ = tool("ip", &["netns", "delete", &namespace]);
        }
    }
}

fn namespaces() -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Runs an administration tool. An error has the command and what it complained about.
fn tool(program: &str, args: &[&str]) -> Result<(), String> {
    let failed = |why: &str| format!("{program} {}: {}", args.join(" "), why.trim_end());
    let result = Command::new(program).args(args).env("PATH", path_for_administration()).output();
    let output = result.map_err(|error| failed(&error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(&String::from_utf8_lossy(&output.stderr))) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::serve::fault::{File, Server};
    use crate::serve::nginx::{Nginx, Origin};

    const LEN: usize = 10_000_000;

    /// A disk on the far side.
    fn server(link: &Link) -> Server {
        let listener = link.inside(Side::Far, || TcpListener::bind((link.address(Side::Far), 0)).unwrap());
        let server = Server::on(listener);
        server.put("/disk", File::new(vec![7; LEN]));
        server
    }

    /// How much of the disk came to the near side, and what ended it.
    fn get(link: &Link, server: &Server) -> (usize, Option<ErrorKind>) {
        let mut stream = link.inside(Side::Near, || TcpStream::connect(server.address()).unwrap());
        stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
        stream.write_all(b"GET /disk HTTP/1.1\r\nHost: far\r\nConnection: close\r\n\r\n").unwrap();
        let mut got = Vec::new();
        let error = stream.read_to_end(&mut got).err().map(|error| error.kind());
        (got.iter().filter(|&&byte| byte == 7).count(), error)
    }

    #[test]
    fn hosts_see_each_other_and_nobody_else() {
        let link = Link::new().unwrap();
        let server = server(&link);
        assert_eq!(get(&link, &server), (LEN, None));
        let outside = TcpStream::connect_timeout(&server.address(), Duration::from_millis(200));
        assert!(outside.is_err(), "the machine itself sees the far host");
        let elsewhere = link.inside(Side::Near, || TcpStream::connect("203.0.113.1:80").unwrap_err().kind());
        assert_eq!(elsewhere, ErrorKind::NetworkUnreachable);
    }

    #[test]
    fn servers_and_commands_run_on_a_host() {
        let link = Link::new().unwrap();
        let nginx = link.inside(Side::Far, || Nginx::new().address(link.address(Side::Far)).start());
        fs::write(nginx.root().join("disk"), "far away").unwrap();
        let mut curl = link.command(Side::Near, "curl");
        let output = curl.args(["--silent", "--noproxy", "*", &nginx.url(Origin::Plain, "/disk")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "far away");
    }

    #[test]
    fn a_rate_is_kept() {
        let link = Link::new().unwrap();
        let server = server(&link);
        link.rate(Side::Far, "100mbit");
        let began = Instant::now();
        assert_eq!(get(&link, &server), (LEN, None));
        // 0.8 s, less what passes at once.
        assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
    }

    #[test]
    fn connections_are_reset_or_fall_silent_on_their_way() {
        let link = Link::new().unwrap();
        let server = server(&link);
        link.reset_after(server.address().port(), 2_000_000);
        let (reset, error) = get(&link, &server);
        assert_eq!(error, Some(ErrorKind::ConnectionReset));
        link.heal();
        link.silence_after(server.address().port(), 2_000_000);
        let (silent, error) = get(&link, &server);
        assert_eq!(error, Some(ErrorKind::WouldBlock));
        for got in [reset, silent] {
            assert!((1_000_000..LEN).contains(&got), "{got}");
        }
        link.heal();
        assert_eq!(get(&link, &server), (LEN, None));
    }

    #[test]
    fn a_reset_reaches_both_ends() {
        let link = Link::new().unwrap();
        let listener = link.inside(Side::Far, || TcpListener::bind((link.address(Side::Far), 0)).unwrap());
        let address = listener.local_addr().unwrap();
        link.reset_after(address.port(), 100_000);
        let mut near = link.inside(Side::Near, || TcpStream::connect(address).unwrap());
        let (mut far, _) = listener.accept().unwrap();
        far.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let reader = thread::spawn(move || near.read_to_end(&mut Vec::new()).unwrap_err().kind());
        let error = far.write_all(&vec![7; LEN]).unwrap_err().kind();
        assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        assert_eq!(reader.join().unwrap(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn lost_packets_are_sent_again() {
        let link = Link::new().unwrap();
        let server = server(&link);
        link.lose_every(Side::Near, 50);
        assert_eq!(get(&link, &server), (LEN, None));
    }

    #[test]
    fn a_dropped_link_leaves_no_namespace() {
        let link = Link::new().unwrap();
        let name = link.name.clone();
        assert_eq!(namespaces().iter().filter(|namespace| namespace.starts_with(&format!("{name}-"))).count(), 2);
        drop(link);
        assert!(!namespaces().iter().any(|namespace| namespace.starts_with(&format!("{name}-"))));
    }

    #[test]
    fn namespaces_of_a_killed_test_are_swept() {
        // No process has this number: it is above what the kernel gives.
        let stale = format!("{PREFIX}-4294967295-0-near");
        tool("ip", &["netns", "add", &stale]).unwrap();
        drop(Link::new().unwrap());
        assert!(!namespaces().contains(&stale));
    }
}
