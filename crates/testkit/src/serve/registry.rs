//! A real registry, as Debian has it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::daemon::Daemon;
use super::desk::{ISSUER, SERVICE, TokenDesk};
use super::tls::Identity;
use crate::oracle::Scratch;

/// The settings. The default lets everybody in, without TLS.
#[derive(Clone, Default)]
pub struct Registry {
    identity: Option<Identity>,
    locked: bool,
    desk: Option<TokenDesk>,
    deletes: bool,
    read_only: bool,
}

/// A running registry. It ends when it is dropped.
pub struct RunningRegistry {
    daemon: Daemon,
    listen: SocketAddr,
}

/// Who a locked registry lets in, and the password.
pub const USER: (&str, &str) = ("me", "s3cr3t");

/// Their line in the file of passwords, as `htpasswd -nbB` makes it.
const HTPASSWD: &str = "me:$2y$05$badyVQsjuGC77NWIgCmb7eTATZ2NIjpdYfzu89VVuGeJnVQPGcooO\n";

impl Registry {
    /// Has a certificate, and speaks TLS only.
    #[must_use]
    pub fn tls(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Lets nobody in but [`USER`].
    #[must_use]
    pub fn locked(mut self) -> Self {
        self.locked = true;
        self
    }

    /// Wants a token of `desk` for everything.
    #[must_use]
    pub fn tokens(mut self, desk: &TokenDesk) -> Self {
        self.desk = Some(desk.clone());
        self
    }

    /// Lets images be deleted.
    #[must_use]
    pub fn deletes(mut self) -> Self {
        self.deletes = true;
        self
    }

    /// Takes nothing, as while its garbage is collected.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Starts it on a loopback port.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(&self) -> RunningRegistry {
        let configure = |scratch: &Scratch, [listen]: &[SocketAddr; 1]| {
            fs::write(scratch.path("listen"), listen.to_string()).unwrap();
            let config = scratch.write("config.yml", self.config(scratch, *listen).as_bytes());
            vec!["serve".to_owned(), config.display().to_string()]
        };
        let ready = |dir: &Path| {
            let listen: SocketAddr = fs::read_to_string(dir.join("listen")).unwrap().parse().unwrap();
            TcpStream::connect(listen).is_ok()
        };
        let (daemon, [listen]) =
            Daemon::start_on_free_ports("docker-registry", Ipv4Addr::LOCALHOST.into(), configure, ready);
        RunningRegistry { daemon, listen }
    }

    fn config(&self, scratch: &Scratch, listen: SocketAddr) -> String {
        let path = |name: &str, text: &str| scratch.write(name, text.as_bytes()).display().to_string();
        let data = scratch.path("data").display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: {}}}, maintenance: {{readonly: {{enabled: {}}}}}}}\n",
            self.deletes, self.read_only
        );
        if self.locked {
            let file = path("htpasswd", HTPASSWD);
            config.push_str(&format!("auth: {{htpasswd: {{realm: test, path: {file}}}}}\n"));
        }
        if let Some(desk) = &self.desk {
            let (realm, bundle) = (desk.realm(), path("desk.pem", &desk.certificate()));
            config.push_str(&format!(
                "auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {bundle}}}}}\n"
            ));
        }
        let tls = self.identity.as_ref().map(|identity| {
            let (certificate, key) = (path("cert.pem", &identity.certificate), path("key.pem", &identity.key));
            format!(", tls: {{certificate: {certificate}, key: {key}}}")
        });
        config.push_str(&format!("http: {{addr: '{listen}'{}}}\n", tls.unwrap_or_default()));
        config
    }
}

impl RunningRegistry {
    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.listen.to_string()
    }

    /// Has its own collector remove the blobs that no manifest names.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn collect(&self) {
        let config = self.daemon.scratch().path("config.yml");
        let output = Command::new("docker-registry").arg("garbage-collect").arg(config).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Where it keeps what it has of a repository.
    pub fn repository(&self, name: &str) -> std::path::PathBuf {
        self.daemon.scratch().path("data/docker/registry/v2/repositories").join(name)
    }

    /// Where its blobs are, in a directory for each.
    pub fn blobs(&self) -> std::path::PathBuf {
        self.daemon.scratch().path("data/docker/registry/v2/blobs")
    }
}
