//! nginx, the HTTP server that most images are downloaded from, with the settings that people give it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::daemon::{Daemon, is_root};
use super::tls::Identity;
use crate::oracle::Scratch;

/// Where nginx listens: two origins without TLS, and one with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `http://`
    Plain,
    /// `http://` on another port, which makes it another origin.
    Other,
    /// `https://`, if there is a certificate.
    Tls,
}

/// The settings. The default serves whole files and ranges to everybody.
#[derive(Debug, Clone)]
pub struct Nginx {
    address: IpAddr,
    settings: Vec<String>,
    locations: Vec<Location>,
    identity: Option<Identity>,
    client_authority: Option<String>,
    http2: bool,
    user: Option<(String, String)>,
}

#[derive(Debug, Clone)]
enum Location {
    Redirect { from: String, status: u16, origin: Origin, to: String },
    Status { path: String, status: u16 },
}

/// A running nginx. It ends when it is dropped.
pub struct RunningNginx {
    daemon: Daemon,
    listen: [SocketAddr; 3],
}

/// A request, as the access log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Where it came in.
    pub origin: Origin,
    /// As in `GET`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// As in `HTTP/1.1`.
    pub protocol: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the body that were sent, as they are on the wire.
    pub sent: u64,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `If-Range`.
    pub if_range: Option<String>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The header `User-Agent`.
    pub agent: Option<String>,
    /// The header `Accept-Encoding`.
    pub accept_encoding: Option<String>,
}

/// The fields of a line of the log, in the order of [`Access`], with tabs between them.
const LOG_FORMAT: &str = "$server_port\t$request_method\t$request_uri\t$server_protocol\t$status\t$body_bytes_sent\t\
                          $http_range\t$http_if_range\t$http_authorization\t$http_user_agent\t$http_accept_encoding";

impl Nginx {
    /// The defaults.
    #[expect(clippy::new_without_default, reason = "the loopback address is no default of nginx")]
    pub fn new() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            settings: Vec::new(),
            locations: Vec::new(),
            identity: None,
            client_authority: None,
            http2: false,
            user: None,
        }
    }

    /// Listens on this address instead of 127.0.0.1, as on `::1` or on the far side of a link.
    #[must_use]
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Gives whole files only, and does not speak of ranges.
    #[must_use]
    pub fn without_ranges(self) -> Self {
        self.setting("max_ranges 0;")
    }

    /// Sends at most so many bytes a second on each connection.
    #[must_use]
    pub fn rate(self, bytes: u64) -> Self {
        self.setting(&format!("limit_rate {bytes};"))
    }

    /// Packs everything for clients that accept it. Answers then have a weak ETag and no length.
    #[must_use]
    pub fn gzip(self) -> Self {
        self.setting("gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;")
    }

    /// Any directive of a server block.
    #[must_use]
    pub fn setting(mut self, directive: &str) -> Self {
        self.settings.push(directive.to_owned());
        self
    }

    /// Also listens with TLS.
    #[must_use]
    pub fn tls(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Offers HTTP/2 to clients that come with TLS.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Answers only clients that have a certificate of this authority (PEM) and come with TLS; to others it says 400.
    #[must_use]
    pub fn client_authority(mut self, certificate: String) -> Self {
        self.client_authority = Some(certificate);
        self
    }

    /// Gives files only to this user, whose password has no colon. Redirects and bare statuses go to everybody.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// Redirects `from`, on every origin, to the path `to` of this origin.
    #[must_use]
    pub fn redirect(mut self, from: &str, status: u16, origin: Origin, to: &str) -> Self {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.locations.push(Location::Redirect { from, status, origin, to });
        self
    }

    /// Answers `path` with a status and nginx's page for it.
    #[must_use]
    pub fn status(mut self, path: &str, status: u16) -> Self {
        self.locations.push(Location::Status { path: path.to_owned(), status });
        self
    }

    /// Starts it, and returns when it listens.
    ///
    /// # Panics
    ///
    /// If it does not start, with what it said.
    pub fn start(&self) -> RunningNginx {
        let configure = |scratch: &Scratch, listen: &[SocketAddr; 3]| {
            fs::create_dir(scratch.path("www")).unwrap();
            let config = scratch.write("nginx.conf", self.config(scratch, listen).as_bytes());
            let [dir, config, log] = [scratch.dir(), &config, &scratch.path("error.log")].map(text);
            ["-p", &dir, "-c", &config, "-e", &log].map(str::to_owned).to_vec()
        };
        // nginx writes the file after it has bound its ports.
        let ready = |dir: &Path| fs::metadata(dir.join("pid")).is_ok_and(|pid| pid.len() > 0);
        let (daemon, listen) = Daemon::start_on_free_ports("nginx", self.address, configure, ready);
        RunningNginx { daemon, listen }
    }

    fn config(&self, scratch: &Scratch, listen: &[SocketAddr; 3]) -> String {
        let dir = text(scratch.dir());
        // The directory is for its owner only, and workers of root would become somebody else.
        let user = if is_root() { "user root;" } else { "" };
        let [plain, other, tls] = listen;
        let mut server = format!("listen {plain}; listen {other}; root {dir}/www; autoindex on;\n");
        if let Some(identity) = &self.identity {
            let http2 = if self.http2 { " http2" } else { "" };
            let certificate = text(&scratch.write("certificate.pem", identity.certificate.as_bytes()));
            let key = text(&scratch.write("key.pem", identity.key.as_bytes()));
            server += &format!("listen {tls} ssl{http2}; ssl_certificate {certificate}; ssl_certificate_key {key};\n");
        }
        if let Some(authority) = &self.client_authority {
            let authority = text(&scratch.write("clients.pem", authority.as_bytes()));
            server += &format!("ssl_client_certificate {authority}; ssl_verify_client on;\n");
            // Of connections without TLS nginx asks for no certificate.
            server += "if ($ssl_client_verify != SUCCESS) { return 400; }\n";
        }
        if let Some((name, password)) = &self.user {
            let users = text(&scratch.write("users", format!("{name}:{{PLAIN}}{password}\n").as_bytes()));
            server += &format!("auth_basic disks; auth_basic_user_file {users};\n");
        }
        for setting in &self.settings {
            server += &format!("{setting}\n");
        }
        for location in &self.locations {
            server += &match location {
                Location::Redirect { from, status, origin, to } => {
                    let to = url(*origin, listen, to);
                    format!("location = {from} {{ return {status} \"{to}\"; }}\n")
                }
                Location::Status { path, status } => format!("location = {path} {{ return {status}; }}\n"),
            };
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"]
            .map(|name| format!("{name}_temp_path {dir}/{name};\n"))
            .concat();
        format!(
            "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log info; {user}\n\
             events {{ worker_connections 256; }}\n\
             http {{\n{temporary}\
             types {{ text/html html; text/plain txt; }} default_type application/octet-stream;\n\
             log_format tabs \"{LOG_FORMAT}\"; access_log {dir}/access.log tabs;\n\
             sendfile on;\n\
             server {{\n{server}}}\n}}\n"
        )
    }
}

impl RunningNginx {
    /// The directory that is served, with a listing of it. What is put there is at the same path of every origin.
    pub fn root(&self) -> PathBuf {
        self.daemon.scratch().path("www")
    }

    /// The URL of `path`, which starts with a slash.
    pub fn url(&self, origin: Origin, path: &str) -> String {
        url(origin, &self.listen, path)
    }

    /// Where an origin listens.
    pub fn address(&self, origin: Origin) -> SocketAddr {
        self.listen[origin as usize]
    }

    /// The requests that were answered to their end, once they are at least so many.
    ///
    /// # Panics
    ///
    /// If there are fewer for long.
    pub fn accesses(&self, at_least: usize) -> Vec<Access> {
        self.daemon.log("access.log", at_least).iter().map(|line| self.access(line)).collect()
    }

    fn access(&self, line: &str) -> Access {
        let fields: Vec<_> = line.split('\t').collect();
        let [port, method, path, protocol, status, sent, range, if_range, authorization, agent, encoding] = fields[..]
        else {
            panic!("a line of nginx's log has other fields: {line}");
        };
        let port = port.parse().unwrap();
        let origins = [Origin::Plain, Origin::Other, Origin::Tls];
        let origin = origins.into_iter().find(|&origin| self.address(origin).port() == port).unwrap();
        let some = |field: &str| (field != "-").then(|| field.to_owned());
        Access {
            origin,
            method: method.to_owned(),
            path: path.to_owned(),
            protocol: protocol.to_owned(),
            status: status.parse().unwrap(),
            sent: sent.parse().unwrap(),
            range: some(range),
            if_range: some(if_range),
            authorization: some(authorization),
            agent: some(agent),
            accept_encoding: some(encoding),
        }
    }
}

fn url(origin: Origin, listen: &[SocketAddr; 3], path: &str) -> String {
    let scheme = if origin == Origin::Tls { "https" } else { "http" };
    format!("{scheme}://{}{path}", listen[origin as usize])
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[cfg(test)]
mod tests;
