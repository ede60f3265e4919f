//! Where requests may go, for services that fetch what strangers name.
//!
//! A URL is checked before each request, so also after each redirect. An address in it is read as connecting would read it, in
//! whatever spelling. A name is resolved by [`Resolver`], which hands out only addresses that were checked, so that a name cannot
//! mean one address while it is looked at and another one afterwards.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use diskferry::Error;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::address::{Block, is_private};
use crate::failure::Failure;
use crate::proxy::is_within;
use crate::runtime::aside;
use crate::shown;

/// Where requests and credentials may go, and how far requests are sent on. The default lets requests go everywhere.
#[derive(Debug, Clone)]
pub struct Guard {
    /// If given, no host but these.
    pub allow_hosts: Option<Vec<HostPattern>>,
    /// No address that is not for everybody: loopback, local and private networks, metadata services, multicast.
    pub deny_private: bool,
    /// Hosts that may give out tokens for the credentials of a registry, besides its own and those above or below that.
    pub token_servers: Vec<HostPattern>,
    /// Most redirects that one request follows.
    pub redirects: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self { allow_hosts: None, deny_private: false, token_servers: Vec::new(), redirects: 10 }
    }
}

/// Hosts: `images.example` is itself, `*.example` what is below, `10.0.0.0/8` or `::1` are addresses; behind a colon, a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Name(String),
    Below(String),
    Block(Block),
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = |hosts| Self { hosts, port: None };
        if let Some(block) = Block::parse(text) {
            return Ok(whole(Hosts::Block(block)));
        }
        let bad = || format!("{text:?} is no host, as in images.example, *.example, 10.0.0.0/8 or images.example:8443");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        if let Some(block) = Block::parse(host) {
            return Ok(Self { hosts: Hosts::Block(block), port });
        }
        let (name, below) = host.strip_prefix("*.").map_or((host, false), |name| (name, true));
        // As a URL would have it: lower case, and without letters beyond ASCII.
        let Ok(Host::Domain(name)) = Host::parse(name.trim_end_matches('.')) else { return Err(bad()) };
        if name.is_empty() || name.contains('*') {
            return Err(bad());
        }
        Ok(Self { hosts: if below { Hosts::Below(name) } else { Hosts::Name(name) }, port })
    }
}

impl HostPattern {
    fn matches(&self, url: &Url) -> bool {
        let host = match (&self.hosts, url.host()) {
            (Hosts::Name(name), Some(Host::Domain(host))) => host.trim_end_matches('.') == name,
            (Hosts::Below(name), Some(Host::Domain(host))) => {
                is_within(host, name) && host.trim_end_matches('.') != name
            }
            (Hosts::Block(block), Some(Host::Ipv4(address))) => block.contains(address.into()),
            (Hosts::Block(block), Some(Host::Ipv6(address))) => block.contains(address.into()),
            _ => false,
        };
        host && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

impl Guard {
    /// Whether a request may be made for `url`, by way of a proxy or not.
    pub(crate) fn check(&self, url: &Url, proxied: bool) -> Result<(), Failure> {
        let host = shown::Host(url);
        if let Some(allowed) = &self.allow_hosts
            && !allowed.iter().any(|pattern| pattern.matches(url))
        {
            return Err(forbidden(format!("{host} is none of the hosts that are allowed (--allow-hosts)")));
        }
        if !self.deny_private {
            return Ok(());
        }
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            // Whoever resolves the name decides where the request goes.
            _ if proxied => {
                return Err(forbidden(format!(
                    "{host} would be resolved by the proxy, where no address can be checked (--deny-private); name it in no_proxy, \
                     or let the proxy refuse private addresses"
                )));
            }
            _ => return Ok(()),
        };
        if is_private(address) {
            return Err(forbidden(format!("{host} is a private address (--deny-private)")));
        }
        Ok(())
    }

    /// Whether the credentials of the registry on `host` may go to `realm`. Whoever has a name with a dot has those below it, so that a host above or
    /// below the registry's is trusted as the registry is.
    pub(crate) fn may_give_tokens(&self, realm: &Url, host: &Host<String>) -> bool {
        let is_own = match (realm.host(), host) {
            (Some(Host::Domain(one)), Host::Domain(other)) => {
                let within = |inner: &str, outer: &str| outer.contains('.') && is_within(inner, outer);
                let (one, other) = (one.trim_end_matches('.'), other.trim_end_matches('.'));
                one == other || within(one, other) || within(other, one)
            }
            (one, other) => one.is_some_and(|one| one.to_owned() == *other),
        };
        is_own || self.token_servers.iter().any(|pattern| pattern.matches(realm))
    }

    /// What resolves names for connections that are made from here.
    pub(crate) fn resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver { deny_private: self.deny_private, lookup: lookup_host })
    }
}

fn forbidden(what: String) -> Failure {
    Failure::never(Error::source("forbidden-host", what))
}

type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
type Lookup = fn(String) -> Looking;

/// Resolves names.
pub(crate) struct Resolver {
    /// To those of their addresses that are for everybody.
    deny_private: bool,
    lookup: Lookup,
}

fn lookup_host(name: String) -> Looking {
    let look = move || Ok((name, 0).to_socket_addrs()?.collect());
    Box::pin(async {
        aside(look)?.await.unwrap_or_else(|_| Err(io::Error::other("looking up the name has come to no end")))
    })
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self { deny_private, lookup } = *self;
        let name = name.as_str().to_owned();
        Box::pin(async move {
            let mut addresses: Vec<SocketAddr> = lookup(name.clone()).await?;
            let found = !addresses.is_empty();
            addresses.retain(|address| !deny_private || !is_private(address.ip()));
            if found && addresses.is_empty() {
                return Err(PrivateName(name).into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

/// A name has private addresses only. Found again in the error of a request.
#[derive(Debug)]
pub(crate) struct PrivateName(String);

impl fmt::Display for PrivateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has none but private addresses (--deny-private)", self.0)
    }
}

impl std::error::Error for PrivateName {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(guard: &Guard, url: &str, proxied: bool) -> Option<String> {
        let failure = guard.check(&Url::parse(url).unwrap(), proxied).err()?;
        assert_eq!((failure.error.code().as_str(), failure.error.is_transient()), ("source-forbidden-host", false));
        Some(failure.error.to_string())
    }

    fn allowing(patterns: &[&str]) -> Guard {
        let patterns = patterns.iter().map(|text| text.parse().unwrap()).collect();
        Guard { allow_hosts: Some(patterns), ..Guard::default() }
    }

    #[test]
    fn hosts_that_are_not_listed_are_refused() {
        let guard =
            allowing(&["images.example", "*.mirror.example", "10.0.0.0/8", "ports.example:8443", "bücher.example"]);
        for url in [
            "https://images.example/",
            "http://IMAGES.example.:81/",
            "http://a.b.mirror.example/",
            "http://10.1.2.3/",
            "http://ports.example:8443/",
            "http://xn--bcher-kva.example/",
        ] {
            assert_eq!(refusal(&guard, url, false), None, "{url}");
        }
        for url in [
            "http://evil.example/",
            "http://images.example.evil/",
            "http://xmirror.example/",
            "http://mirror.example/",
            "http://11.1.2.3/",
            "http://ports.example/",
            "http://sub.images.example/",
        ] {
            assert!(refusal(&guard, url, true).is_some_and(|text| text.contains("--allow-hosts")), "{url}");
        }
        assert!(refusal(&allowing(&[]), "http://images.example/", false).is_some());
        assert_eq!(refusal(&Guard::default(), "http://127.0.0.1/", false), None);
    }

    #[test]
    fn credentials_of_a_registry_stay_on_its_hosts_but_for_those_that_are_named() {
        let token_servers = vec!["sso.example:8443".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
        let named = Guard { token_servers, ..Guard::default() };
        for (registry, realm, is_own, is_named) in [
            ("registry.example", "https://registry.example:5001/token", true, true),
            ("registry.example.", "https://REGISTRY.example/", true, true),
            ("docker.io", "https://auth.docker.io/token", true, true),
            ("registry.gitlab.example", "https://gitlab.example/jwt/auth", true, true),
            ("localhost", "http://localhost:1/", true, true),
            ("127.0.0.1", "http://0x7f.1:1/", true, true),
            ("registry.sso.example", "https://sso.example:8443/", true, true),
            ("registry.example", "https://sso.example:8443/", false, true),
            ("registry.example", "https://sso.example/", false, false),
            ("registry.example", "https://192.0.2.7/", false, true),
            ("registry.example", "https://evilregistry.example/", false, false),
            ("registry.example", "https://auth.example/", false, false),
            ("registry.example", "https://example/", false, false),
            ("registry.example", "https://registry.example.evil.example/", false, false),
            ("127.0.0.1", "http://127.0.0.2/", false, false),
            ("127.0.0.1", "http://[::1]/", false, false),
            ("localhost", "http://a.localhost/", false, false),
        ] {
            let (host, url) = (Host::parse(registry).unwrap(), Url::parse(realm).unwrap());
            assert_eq!(Guard::default().may_give_tokens(&url, &host), is_own, "{registry} {realm}");
            assert_eq!(named.may_give_tokens(&url, &host), is_named, "{registry} {realm}");
        }
    }

    #[test]
    fn private_addresses_are_refused_in_every_spelling() {
        let guard = Guard { deny_private: true, ..Guard::default() };
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://017700000001/",
            "http://0/",
            "http://①②⑦.0.0.1/",
            "http://127.0.0.1./",
            "http://[::ffff:7f00:1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://%31%32%37.0.0.1/",
            "http://169.254.169.254/latest",
            "http://[64:ff9b::7f00:1]/",
        ] {
            assert!(refusal(&guard, url, false).is_some_and(|text| text.contains("private address")), "{url}");
            assert!(refusal(&guard, url, true).is_some(), "{url}");
        }
        assert_eq!(refusal(&guard, "http://8.8.8.8/", true), None);
    }

    #[test]
    fn a_name_that_a_proxy_would_resolve_is_refused_with_deny_private() {
        let guard = Guard { deny_private: true, ..Guard::default() };
        assert!(refusal(&guard, "http://images.example/", true).unwrap().contains("no_proxy"));
        assert_eq!(refusal(&guard, "http://images.example/", false), None);
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for text in ["", "*", "*.", "a.*.example", "host:port", "http://host", "a b", "10.0.0.0/99"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    fn resolved(lookup: Lookup) -> Result<Vec<IpAddr>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let resolving = Resolver { deny_private: true, lookup }.resolve("host.example".parse().unwrap());
        let addresses = runtime.block_on(resolving).map_err(|error| error.to_string())?;
        Ok(addresses.map(|address| address.ip()).collect())
    }

    fn answer(addresses: &[&str]) -> Looking {
        let addresses = addresses.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect();
        Box::pin(async move { Ok(addresses) })
    }

    #[test]
    fn only_public_addresses_of_a_name_are_connected_to() {
        let mixed = resolved(|_| answer(&["127.0.0.1", "8.8.8.8", "::1", "2606:4700::1"])).unwrap();
        assert_eq!(mixed, ["8.8.8.8", "2606:4700::1"].map(|text| text.parse::<IpAddr>().unwrap()));
        let private = resolved(|_| answer(&["10.0.0.1", "::ffff:10.0.0.1"])).unwrap_err();
        assert!(private.contains("host.example has none but private addresses"), "{private}");
    }
}
