//! Squid, the proxy that many networks have as their only way out.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::Path;

use super::daemon::{Daemon, is_root};
use crate::oracle::Scratch;
use crate::wrap;

/// What Debian's squid becomes when root starts it.
const USER: &str = "proxy";

/// The settings. The default lets everybody through, to servers on loopback addresses and those of documentation nets.
#[derive(Debug, Clone)]
pub struct Squid {
    address: IpAddr,
    settings: Vec<String>,
    user: Option<(String, String)>,
}

/// A running squid. It ends when it is dropped.
pub struct RunningSquid {
    daemon: Daemon,
    listen: SocketAddr,
}

/// A request, as the access log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// `CONNECT` for tunnels, which are logged when they end.
    pub method: String,
    /// A URL, or host and port for `CONNECT`.
    pub target: String,
    /// The status that the client got.
    pub status: u16,
    /// Who the client said to be, and was.
    pub user: Option<String>,
}

impl Squid {
    /// The defaults.
    #[expect(clippy::new_without_default, reason = "the loopback address is no default of squid")]
    pub fn new() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), settings: Vec::new(), user: None }
    }

    /// Listens on this address instead of 127.0.0.1.
    #[must_use]
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Lets only this user through; others get 407.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// Any directive; those that decide about access come before the usual ones.
    #[must_use]
    pub fn setting(mut self, directive: &str) -> Self {
        self.settings.push(directive.to_owned());
        self
    }

    /// Starts it, and returns when it listens.
    ///
    /// # Panics
    ///
    /// If it does not start, with what it said.
    pub fn start(&self) -> RunningSquid {
        let configure = |scratch: &Scratch, [listen]: &[SocketAddr; 1]| {
            let config = self.config(scratch, *listen);
            let config = scratch.write("squid.conf", config.as_bytes());
            if is_root() {
                give_away(scratch.dir());
            }
            // In the foreground, and errors on stderr.
            ["-N", "-d", "1", "-f", config.to_str().unwrap()].map(str::to_owned).to_vec()
        };
        let ready = |dir: &Path| {
            let log = fs::read(dir.join("cache.log")).unwrap_or_default();
            String::from_utf8_lossy(&log).contains("Accepting HTTP Socket connections")
        };
        let (daemon, [listen]) = Daemon::start_on_free_ports("squid", self.address, configure, ready);
        RunningSquid { daemon, listen }
    }

    fn config(&self, scratch: &Scratch, listen: SocketAddr) -> String {
        let dir = scratch.dir().to_str().unwrap();
        let mut access = String::new();
        for setting in &self.settings {
            access += &format!("{setting}\n");
        }
        if let Some((name, password)) = &self.user {
            // Besides what crypt() makes, the helper takes the plain digest.
            let digest = String::from_utf8(wrap::filter("md5sum", &[], password.as_bytes())).unwrap();
            let digest = digest.split(' ').next().unwrap_or_default();
            let users = scratch.write("users", format!("{name}:{digest}\n").as_bytes());
            access += &format!(
                "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
                 auth_param basic children 1 startup=1\n\
                 auth_param basic realm proxy\n\
                 acl known proxy_auth REQUIRED\n\
                 http_access deny !known\n",
                users.display()
            );
        }
        let user = if is_root() { format!("cache_effective_user {USER}\n") } else { String::new() };
        format!(
            "http_port {listen}\n\
             {user}\
             pid_filename {dir}/pid\n\
             cache_log {dir}/cache.log\n\
             logformat tabs %rm\t%ru\t%>Hs\t%un\n\
             access_log stdio:{dir}/access.log tabs\n\
             buffered_logs off\n\
             # Nothing is kept, nobody is asked, and the end is at once.\n\
             cache deny all\n\
             cache_mem 1 MB\n\
             memory_cache_shared off\n\
             max_filedescriptors 512\n\
             coredump_dir {dir}\n\
             pinger_enable off\n\
             dns_nameservers 127.0.0.1\n\
             visible_hostname proxy.test\n\
             shutdown_lifetime 0 seconds\n\
             {access}\
             acl near dst 127.0.0.0/8 ::1 192.0.2.0/24\n\
             http_access allow near\n\
             http_access deny all\n"
        )
    }
}

impl RunningSquid {
    /// The URL of the proxy, as `HTTP_PROXY` takes it, with these credentials if any.
    pub fn url(&self, credentials: Option<(&str, &str)>) -> String {
        let credentials = credentials.map(|(name, password)| format!("{name}:{password}@")).unwrap_or_default();
        format!("http://{credentials}{}", self.listen)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The requests that came to their end, once they are at least so many.
    ///
    /// # Panics
    ///
    /// If there are fewer for long.
    pub fn passages(&self, at_least: usize) -> Vec<Passage> {
        let passage = |line: String| {
            let fields: Vec<_> = line.split('\t').collect();
            let [method, target, status, user] = fields[..] else {
                panic!("a line of squid's log has other fields: {line}");
            };
            let user = (user != "-").then(|| user.to_owned());
            Passage { method: method.to_owned(), target: target.to_owned(), status: status.parse().unwrap(), user }
        };
        self.daemon.log("access.log", at_least).into_iter().map(passage).collect()
    }
}

/// Makes the squid's user the owner of a directory and of what is in it.
fn give_away(dir: &Path) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(USER)).expect("squid's user");
    let [uid, gid] = [2, 3].map(|field| line.split(':').nth(field).unwrap().parse().unwrap());
    let inside = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for path in inside.chain([dir.to_owned()]) {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::curl;
    use crate::serve::fault::{File, Server};
    use crate::serve::nginx::{Nginx, Origin};
    use crate::serve::tls::Authority;

    #[test]
    fn requests_go_through_and_are_logged() {
        let (squid, server) = (Squid::new().start(), Server::start());
        server.put("/disk", File::new(vec![7; 1000]));
        let url = server.url("/disk");
        let answer = curl(&["--proxy", &squid.url(None), "--range", "10-19", &url]).unwrap();
        assert_eq!((answer.status, answer.body), (206, vec![7; 10]));
        let passage = Passage { method: "GET".into(), target: url, status: 206, user: None };
        assert_eq!(squid.passages(1), [passage]);
        assert!(server.requests()[0].header("via").is_some());
    }

    #[test]
    fn tunnels_lead_to_servers_with_tls() {
        let (squid, authority) = (Squid::new().start(), Authority::new());
        let nginx = Nginx::new().tls(authority.server(&["127.0.0.1"])).start();
        fs::write(nginx.root().join("disk"), [7; 1000]).unwrap();
        let scratch = Scratch::new();
        let ca = scratch.write("ca.pem", authority.certificate().as_bytes());
        let url = nginx.url(Origin::Tls, "/disk");
        let answer = curl(&["--proxy", &squid.url(None), "--cacert", ca.to_str().unwrap(), &url]).unwrap();
        assert_eq!((answer.status, answer.body), (200, vec![7; 1000]));
        let tunnel = &squid.passages(1)[0];
        assert_eq!((tunnel.method.as_str(), &tunnel.target), ("CONNECT", &nginx.address(Origin::Tls).to_string()));
    }

    #[test]
    fn only_the_user_gets_through() {
        let (squid, server) = (Squid::new().user("me", "a secret").start(), Server::start());
        server.put("/disk", File::new([7]));
        let url = server.url("/disk");
        let ask = |proxy: &str, more: &[&str]| {
            curl(&[&["--proxy", proxy], more, &[&url]].concat()).map(|answer| answer.status)
        };
        assert_eq!(ask(&squid.url(None), &[]), Ok(407));
        assert_eq!(ask(&squid.url(Some(("me", "wrong"))), &[]), Ok(407));
        assert_eq!(ask(&squid.url(Some(("me", "a%20secret"))), &[]), Ok(200));
        // 56 is curl's number for a tunnel that was refused.
        assert_eq!(ask(&squid.url(None), &["--proxytunnel"]), Err(56));
        assert_eq!(ask(&squid.url(Some(("me", "a%20secret"))), &["--proxytunnel"]), Ok(200));
        assert_eq!(server.requests().len(), 2);
        assert_eq!(squid.passages(5)[2].user.as_deref(), Some("me"));
    }

    #[test]
    fn what_is_not_near_is_forbidden() {
        let squid = Squid::new().start();
        let answer = curl(&["--proxy", &squid.url(None), "http://203.0.113.1/disk"]).unwrap();
        assert_eq!(answer.status, 403);
    }
}
