//! Requests: connections, trust and redirects. What an answer means is for others to say.
//!
//! Redirects are followed here and not by the HTTP library, which sends headers of the user's to whatever host it is sent to.

use std::sync::Arc;
use std::time::Duration;

use diskferry::{Error, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Body, Method, Proxy, RequestBuilder, Response, StatusCode};
use rustls::ClientConfig;
use url::{Origin, Url};

use crate::access::{Access, Login};
use crate::failure::Failure;
use crate::guard::Guard;
use crate::oci::Desk;
pub(crate) use crate::payload::Payload;
use crate::secret::Secret;
use crate::shown::{Host, Shown};

/// How long a connection may take to be made, TLS and proxies included.
const CONNECT: Duration = Duration::from_secs(30);

/// Headers of one answer, or of what follows its body, at most. Servers and what stands before them have a few dozen.
pub(crate) const HEADERS: usize = 100;

/// Bytes of them together: what curl takes. The HTTP library has no setting for that, and gives up a head that has not ended after
/// something more than 400 KiB.
pub(crate) const HEAD: usize = 300 << 10;

/// Makes requests with one set of credentials. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Whether the credentials of `Access` are for the server that is asked. They are for one, and only the caller knows which.
    login: bool,
    /// Gets what lets us in where a registry is asked.
    desk: Option<Arc<Desk>>,
}

struct Shared {
    access: Access,
    direct: Connections,
    proxied: Option<Connections>,
    rootless: bool,
}

/// Connections that show our certificate, and such that do not: it says who we are as a password does.
struct Connections {
    own: reqwest::Client,
    anonymous: reqwest::Client,
}

impl Client {
    /// A client with the means that `access` names. Reads the files of certificates.
    pub fn new(access: &Access) -> Result<Self> {
        let settings = access.trust.settings()?;
        let connections = |proxied| -> Result<Connections> {
            Ok(Connections {
                own: connections(access, settings.own.clone(), proxied)?,
                anonymous: connections(access, settings.anonymous.clone(), proxied)?,
            })
        };
        let direct = connections(false)?;
        let proxied = access.proxies.any().then(|| connections(true)).transpose()?;
        let shared = Shared { access: access.clone(), direct, proxied, rootless: settings.rootless };
        Ok(Self { shared: Arc::new(shared), login: true, desk: None })
    }

    /// The same without the credentials of `Access`, for another server than the one that they are for. What stands in a URL, or in
    /// netrc for a host, is still sent there.
    pub(crate) fn stranger(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), login: false, desk: None }
    }

    /// Sends one request without a body, follows redirects, and gives the first answer that is none, whatever its status.
    ///
    /// The credentials of the user go to the origin of `named` and to no other. So that must be what the user has named; `url` is
    /// the same, or where a redirect from there has led before. `headers` must be without secrets, they go everywhere.
    pub(crate) async fn send(
        &self,
        method: Method,
        named: &Url,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, Failure> {
        self.send_with(method, named, url, headers, None).await
    }

    /// The same, with a body.
    pub(crate) async fn send_with(
        &self,
        method: Method,
        named: &Url,
        url: &Url,
        headers: HeaderMap,
        payload: Option<Payload>,
    ) -> Result<Response, Failure> {
        let Some(desk) = &self.desk else {
            let ticket = Ticket::Own;
            return self.travel(Errand { method, named, url, headers, ticket, form: None, payload }).await;
        };
        let errand = |ticket| Errand {
            method: method.clone(),
            named,
            url,
            headers: headers.clone(),
            ticket: Ticket::Registry(ticket),
            form: None,
            payload: payload.clone(),
        };
        let shown = desk.ticket();
        let response = self.travel(errand(shown.clone())).await?;
        // Where a redirect has led to, nobody may ask us who we are.
        let asks = response.status() == StatusCode::UNAUTHORIZED && response.url().origin() == named.origin();
        let asks = asks && !self.shared.access.headers.authorize();
        match asks.then(|| desk.challenge(&response)).flatten() {
            Some(challenge) => match desk.apply(named, challenge, shown).await? {
                Some(ticket) => self.travel(errand(Some(ticket))).await,
                None => Ok(response),
            },
            None => Ok(response),
        }
    }

    /// The same, that gets what lets us in at `desk`.
    pub(crate) fn with_desk(&self, desk: Desk) -> Self {
        Self { desk: Some(Arc::new(desk)), ..self.clone() }
    }

    /// Where requests and credentials may go.
    pub(crate) fn guard(&self) -> &Guard {
        &self.shared.access.guard
    }

    /// Who the user has said to be.
    pub(crate) fn login(&self) -> Option<&Login> {
        self.shared.access.login.as_ref()
    }

    /// Sends a request, as [`send`](Self::send) does.
    pub(crate) async fn travel(&self, errand: Errand<'_>) -> Result<Response, Failure> {
        let (named, userinfo) = without_userinfo(errand.named);
        let (mut url, _) = without_userinfo(errand.url);
        let host = named.host_str().unwrap_or_default().to_owned();
        let first = First { origin: named.origin(), host, userinfo };
        let most = self.shared.access.guard.redirects;
        for _ in 0..=most {
            let response = self.ask(&errand, &url, &first).await?;
            match redirect(&url, &response)? {
                None => return Ok(response),
                Some(_) if errand.form.is_some() => {
                    return Err(misdirected(
                        &url,
                        format_args!("redirects a form with credentials, which is not followed"),
                    ));
                }
                // The others make another request of it.
                Some(_) if errand.payload.is_some() && !matches!(response.status().as_u16(), 307 | 308) => {
                    return Err(misdirected(&url, format_args!("redirects what is sent there, which is not followed")));
                }
                Some(next) => url = next,
            }
        }
        Err(misdirected(
            &url,
            format_args!(
                "is where redirect {} leads, {most} are followed (--max-redirects); they may go in a circle",
                u64::from(most) + 1
            ),
        ))
    }

    /// Sends one request to one server.
    async fn ask(&self, errand: &Errand<'_>, url: &Url, first: &First) -> Result<Response, Failure> {
        let Shared { access, direct, proxied, rootless } = &*self.shared;
        let proxy = access.proxies.of(url);
        access.guard.check(url, proxy.is_some())?;
        let connections = match (proxy, proxied) {
            (Some(_), Some(proxied)) => proxied,
            _ => direct,
        };
        let at_home = url.origin() == first.origin;
        let as_user = at_home && self.login && !matches!(errand.ticket, Ticket::Token(_));
        let client = if as_user { &connections.own } else { &connections.anonymous };
        let mut request = client.request(errand.method.clone(), url.clone()).headers(errand.headers.clone());
        if as_user {
            request = request.headers(access.headers.map().clone());
        }
        if let Some(form) = &errand.form {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
        }
        if let Some(payload) = &errand.payload {
            request = request.body(Body::wrap(payload.body()));
        }
        let request = match &errand.ticket {
            Ticket::Own => self.identify(request, url, first, at_home),
            Ticket::Registry(Some(_)) if access.headers.authorize() => request,
            Ticket::Registry(Some(ticket)) | Ticket::Token(Some(ticket)) if at_home => {
                request.header(AUTHORIZATION, ticket.clone())
            }
            Ticket::Registry(_) | Ticket::Token(_) => request,
        };
        let sent = request.send().await;
        let response = sent.map_err(|error| {
            let failure = Failure::of_request(&error, url, proxy);
            if *rootless { without_roots(failure) } else { failure }
        })?;
        let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
        if response.headers().iter().map(line).sum::<usize>() > HEAD {
            return Err(Failure::long_head(url));
        }
        match proxy {
            Some(proxy) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(Failure::proxy_refuses(proxy))
            }
            _ => Ok(response),
        }
    }

    /// Adds who we are, where that is known for this server.
    fn identify(&self, request: RequestBuilder, url: &Url, first: &First, at_home: bool) -> RequestBuilder {
        let access = &self.shared.access;
        if at_home && self.login {
            if access.headers.authorize() {
                return request;
            }
            match &access.login {
                Some(Login::Basic { user, password }) => return request.basic_auth(user, Some(password.reveal())),
                Some(Login::Bearer(token)) => return request.bearer_auth(token.reveal()),
                None => {}
            }
        }
        if at_home && let Some((user, password)) = &first.userinfo {
            return request.basic_auth(user, Some(password.reveal()));
        }
        // `default` is for whom the user has named, and a host that a redirect leads to is not.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        // netrc knows no ports: its entry for the host that was named is for the server that was named, and for no other one there.
        if !at_home && url.host_str() == Some(first.host.as_str()) {
            return request;
        }
        match access.netrc.login(host, at_home) {
            Some((user, password)) => request.basic_auth(user, Some(password.reveal())),
            None => request,
        }
    }
}

/// A request and what it needs.
pub(crate) struct Errand<'a> {
    pub(crate) method: Method,
    /// Whose origin credentials may go to.
    pub(crate) named: &'a Url,
    pub(crate) url: &'a Url,
    pub(crate) headers: HeaderMap,
    pub(crate) ticket: Ticket,
    /// Fields of a form, encoded. They are not sent along with a redirect.
    pub(crate) form: Option<String>,
    /// What is sent, where that is no form.
    pub(crate) payload: Option<Payload>,
}

/// Who a request says we are, to the server that is named.
pub(crate) enum Ticket {
    /// Whom `Access` has.
    Own,
    /// Who has been given this header by a registry's rules. Of `Access`, everything but its login goes along.
    Registry(Option<HeaderValue>),
    /// Who shows this header to whoever gives out a registry's tokens. Nothing else goes along.
    Token(Option<HeaderValue>),
}

/// The server that the user has named, and what stood in its URL.
struct First {
    origin: Origin,
    host: String,
    userinfo: Option<(String, Secret)>,
}

fn connections(access: &Access, mut tls: ClientConfig, proxied: bool) -> Result<reqwest::Client> {
    // One body at a time, and several connections only to have several: HTTP/2 would put them all on one.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .http1_max_headers(HEADERS)
        .connect_timeout(CONNECT)
        .user_agent(concat!("diskferry/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls)
        .no_proxy();
    if proxied {
        // The resolver is not guarded here: it resolves the names of proxies, which the operator has named.
        let proxies = access.proxies.clone();
        let proxy = Proxy::custom(move |url| proxies.of(url).cloned());
        builder = builder.proxy(proxy).dns_resolver(Guard::default().resolver());
    } else {
        builder = builder.dns_resolver(access.guard.resolver());
    }
    builder.build().map_err(|error| Error::source("access", error.without_url().to_string()))
}

/// `url` as it is asked for, and the name and password that stood in it.
pub(crate) fn without_userinfo(url: &Url) -> (Url, Option<(String, Secret)>) {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = url.password().unwrap_or_default();
    let known = !url.username().is_empty() || !password.is_empty();
    let userinfo = known.then(|| (decode(url.username()), Secret::new(decode(password))));
    let mut url = url.clone();
    // These fail for URLs that can have no name in them, which then have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    (url, userinfo)
}

/// Where `response`, which `url` was answered with, sends us, if it does.
fn redirect(url: &Url, response: &Response) -> Result<Option<Url>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|location| std::str::from_utf8(location.as_bytes()).ok());
    let Some(next) = location.and_then(|location| url.join(location).ok()) else {
        return Err(misdirected(url, format_args!("redirects without saying where to")));
    };
    // A name and password there are not the user's.
    let (next, _) = without_userinfo(&next);
    match (url.scheme(), next.scheme()) {
        ("https", "http") => Err(misdirected(url, format_args!("redirects from https to http, to {}", Host(&next)))),
        (_, "http" | "https") if next.has_host() => Ok(Some(next)),
        (_, scheme) => Err(misdirected(url, format_args!("redirects to {scheme}:, which is not fetched"))),
    }
}

fn misdirected(url: &Url, what: std::fmt::Arguments<'_>) -> Failure {
    Failure::never(Error::source("redirect", format!("{} {what}", Shown(url))))
}

fn without_roots(failure: Failure) -> Failure {
    match failure.error {
        Error::Source { code: "tls", what, .. } => Failure::never(Error::source(
            "tls",
            format!("{what}; no roots were found on this system (SSL_CERT_FILE, --cacert)"),
        )),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_password_are_taken_out_of_a_url() {
        let url = Url::parse("https://us%40er:p%3Ass@host/a?b#c").unwrap();
        let (bare, userinfo) = without_userinfo(&url);
        let (user, password) = userinfo.unwrap();
        assert_eq!((bare.as_str(), user.as_str(), password.reveal()), ("https://host/a?b", "us@er", "p:ss"));
        assert!(without_userinfo(&bare).1.is_none());
    }
}
