//! Which proxy a request goes through, by the variables that everybody uses.
//!
//! The reader that comes with the HTTP library ignores a value that it cannot read and then goes without a proxy; one that a
//! user has set on purpose should not be passed by. It also takes upper case first, where curl takes lower case.

use std::fmt;

use diskferry::{Error, Result};
use url::{Host, Url};

use crate::address::Block;
use crate::shown::Shown;

/// What a proxy may speak. Names are resolved by the proxy, except with `socks4` and `socks5`.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// Proxies for http and https, and the hosts that are reached without.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    without: Vec<Without>,
}

/// An entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Without {
    Everything,
    Block(Block),
    /// This name and all below it.
    Domain(String),
}

impl Proxies {
    /// Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` in lower and then in upper case. The first that is set
    /// decides; an empty one means none. `HTTP_PROXY` does not count where `REQUEST_METHOD` is set, since a CGI program's client
    /// can set it by a header. Fails if a value is no proxy.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let find = |name: &str| {
            let upper = name.to_uppercase();
            let may_upper = !(is_cgi && name == "http_proxy");
            match variable(name) {
                Some(value) => Some((name.to_owned(), value)),
                None if may_upper => variable(&upper).map(|value| (upper, value)),
                None => None,
            }
        };
        let proxy = |name: &str| {
            let found = find(name).or_else(|| find("all_proxy"));
            let given = found.filter(|(_, value)| !value.trim().is_empty());
            given.map(|(name, value)| parse(&name, value.trim())).transpose()
        };
        let without = find("no_proxy").map(|(_, value)| without(&value)).unwrap_or_default();
        Ok(Self { http: proxy("http_proxy")?, https: proxy("https_proxy")?, without })
    }

    /// Whether there is a proxy for anything.
    pub(crate) fn any(&self) -> bool {
        self.http.is_some() || self.https.is_some()
    }

    /// The proxy that a request for `url` goes through, with its credentials.
    pub(crate) fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.without.iter().any(|entry| entry.matches(url)))
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<Url>| url.as_ref().map(|url| Shown(url).to_string());
        let (http, https) = (shown(&self.http), shown(&self.https));
        f.debug_struct("Proxies").field("http", &http).field("https", &https).field("without", &self.without).finish()
    }
}

/// A proxy's address; without a scheme it speaks HTTP.
fn parse(name: &str, value: &str) -> Result<Url> {
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let bad = |why: &str| Err(Error::source("proxy", format!("{name}: {why}, as in http://proxy.example:3128")));
    // The value itself is not shown, it may hold a password.
    let Ok(mut url) = Url::parse(&with_scheme) else { return bad("the value is no address of a proxy") };
    if !SCHEMES.contains(&url.scheme()) {
        return bad(&format!("a proxy speaks one of {}, not {}", SCHEMES.join(", "), url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return bad("the value names no host");
    }
    if url.port().is_none() && url.scheme().starts_with("socks") {
        let _ = url.set_port(Some(1080));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn without(list: &str) -> Vec<Without> {
    let entries = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty());
    let entry = |text: &str| match Block::parse(text) {
        _ if text == "*" => Without::Everything,
        Some(block) => Without::Block(block),
        None => {
            let name = text.trim_start_matches("*.").trim_matches('.');
            // As URLs have it.
            Without::Domain(Host::parse(name).map_or_else(|_| name.to_ascii_lowercase(), |host| host.to_string()))
        }
    };
    entries.map(entry).collect()
}

impl Without {
    fn matches(&self, url: &Url) -> bool {
        match (self, url.host()) {
            (Self::Everything, _) => true,
            (Self::Block(block), Some(Host::Ipv4(address))) => block.contains(address.into()),
            (Self::Block(block), Some(Host::Ipv6(address))) => block.contains(address.into()),
            (Self::Domain(domain), Some(Host::Domain(host))) => is_within(host, domain),
            _ => false,
        }
    }
}

/// Whether `host` is `domain` or lies below it. Both in lower case.
pub(crate) fn is_within(host: &str, domain: &str) -> bool {
    let host = host.trim_end_matches('.');
    let above = host.strip_suffix(domain);
    !domain.is_empty() && above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        read(variables).unwrap()
    }

    fn read(variables: &[(&str, &str)]) -> Result<Proxies> {
        Proxies::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn of(variables: &[(&str, &str)], url: &str) -> Option<String> {
        proxies(variables).of(&Url::parse(url).unwrap()).map(|url| url.to_string())
    }

    #[test]
    fn each_scheme_has_its_proxy_and_the_rest_is_for_all() {
        let both = [("http_proxy", "a:1"), ("all_proxy", "socks5h://u:p@b")];
        assert_eq!(of(&both, "http://host/").as_deref(), Some("http://a:1/"));
        assert_eq!(of(&both, "https://host/").as_deref(), Some("socks5h://u:p@b:1080"));
        assert_eq!(of(&[("https_proxy", "https://c:8443/x?y")], "https://host/").as_deref(), Some("https://c:8443/x"));
        assert_eq!(of(&[("https_proxy", "c")], "http://host/"), None);
    }

    #[test]
    fn lower_case_goes_first_and_an_empty_value_is_no_proxy() {
        assert_eq!(
            of(&[("HTTP_PROXY", "upper"), ("http_proxy", "lower")], "http://h/").as_deref(),
            Some("http://lower/")
        );
        assert_eq!(of(&[("HTTP_PROXY", "upper"), ("http_proxy", "")], "http://h/"), None);
        assert_eq!(of(&[("ALL_PROXY", "upper")], "https://h/").as_deref(), Some("http://upper/"));
        assert_eq!(of(&[("http_proxy", ""), ("all_proxy", "b")], "http://h/"), None);
    }

    #[test]
    fn a_cgi_program_does_not_take_http_proxy_from_its_client() {
        assert_eq!(of(&[("HTTP_PROXY", "evil"), ("REQUEST_METHOD", "GET")], "http://h/"), None);
        let lower = [("http_proxy", "own"), ("REQUEST_METHOD", "GET")];
        assert_eq!(of(&lower, "http://h/").as_deref(), Some("http://own/"));
        let https = [("HTTPS_PROXY", "own"), ("REQUEST_METHOD", "GET")];
        assert_eq!(of(&https, "https://h/").as_deref(), Some("http://own/"));
    }

    #[test]
    fn hosts_of_no_proxy_are_reached_directly() {
        let list = "example.org, .internal *.lan,10.0.0.0/8,[::1],192.168.1.7,bücher.example";
        let direct = |url: &str| of(&[("all_proxy", "p"), ("no_proxy", list)], url).is_none();
        for url in [
            "http://example.org/",
            "https://www.EXAMPLE.org:444/",
            "http://example.org./",
            "http://a.internal/",
            "http://internal/",
            "http://x.lan/",
            "http://10.255.0.1/",
            "http://0xa000001/",
            "http://[::1]:8/",
            "http://192.168.1.7/",
            "http://BÜCHER.example/",
            "http://www.xn--bcher-kva.example/",
        ] {
            assert!(direct(url), "{url}");
        }
        for url in
            ["http://notexample.org/", "http://example.org.evil/", "http://11.0.0.1/", "http://[::2]/", "http://lan.x/"]
        {
            assert!(!direct(url), "{url}");
        }
        assert_eq!(of(&[("all_proxy", "p"), ("NO_PROXY", "*")], "http://h/"), None);
    }

    #[test]
    fn what_is_no_proxy_is_an_error_that_shows_no_password() {
        for value in ["ftp://user:hunter2@p", "http://user:hunter2@", "http://user:hunter2@p:port", "http://"] {
            let error = read(&[("http_proxy", value)]).unwrap_err();
            assert_eq!(error.code(), "source-proxy");
            assert!(!error.to_string().contains("hunter2") && error.to_string().starts_with("http_proxy: "), "{error}");
        }
        assert!(!format!("{:?}", proxies(&[("http_proxy", "http://user:hunter2@p")])).contains("hunter2"));
    }
}
