//! How a registry lets somebody in: it answers a request with a challenge, and that says where a token is given out.
//! [Token authentication](https://distribution.github.io/distribution/spec/auth/token/) and
//! [with identity tokens](https://distribution.github.io/distribution/spec/auth/oauth/).
//!
//! Credentials go to the registry and to whom it names for giving out tokens, if that is its own host, one above or below it, or trusted by the user, and to
//! nobody else: a blob is often somewhere else, and a redirect there takes none along.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diskferry::{Error, Result};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::oneshot;
use url::Url;
use url::form_urlencoded::Serializer;

use super::keys::{Credentials, Keys};
use super::reference::Reference;
use crate::access::Login;
use crate::client::{Client, Errand, Ticket};
use crate::failure::Failure;
use crate::runtime::aside;
use crate::secret::Secret;
use crate::shown::Host;

/// Gets what lets us in at one registry, for one repository.
pub(crate) struct Desk {
    /// A client without a desk.
    client: Client,
    reference: Reference,
    keys: Keys,
    /// What is to be done in the repository, where that is more than what the registry says for each request.
    actions: Option<&'static str>,
    /// Another repository that is read.
    also: Option<String>,
    /// What let us in the last time.
    ticket: Mutex<Option<HeaderValue>>,
    /// One at a time asks for another, which begins with looking for credentials. A person may be asked for them: who has no time left
    /// lets the next one go on waiting.
    asking: tokio::sync::Mutex<Option<oneshot::Receiver<Result<Credentials>>>>,
}

/// What a registry wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Most bytes of an answer with a token.
const TOKEN: usize = 1 << 20;

impl Desk {
    /// A desk for what `reference` names. Credentials are looked up in `keys` when they are wanted, unless `client` has some.
    pub(super) fn new(client: &Client, reference: &Reference, keys: &Keys) -> Self {
        let ticket = match client.login() {
            Some(Login::Bearer(token)) => header(&format!("Bearer {}", token.reveal())),
            _ => None,
        };
        Self {
            client: client.clone(),
            reference: reference.clone(),
            keys: keys.clone(),
            actions: None,
            also: None,
            ticket: Mutex::new(ticket),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The same, for somebody who writes, and has the registry take blobs from the repository `also`.
    pub(super) fn for_pushing(client: &Client, reference: &Reference, keys: &Keys, also: Option<String>) -> Self {
        Self { actions: Some("pull,push"), also, ..Self::new(client, reference, keys) }
    }

    /// The same, for somebody who deletes.
    pub(super) fn for_deleting(client: &Client, reference: &Reference, keys: &Keys) -> Self {
        Self { actions: Some("pull,delete"), ..Self::new(client, reference, keys) }
    }

    /// What to show first.
    pub(crate) fn ticket(&self) -> Option<HeaderValue> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an answer asks for, if that is something we can do.
    pub(crate) fn challenge(&self, answer: &Response) -> Option<Challenge> {
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let known: Vec<_> = challenges.filter_map(|value| Challenge::parse(value.to_str().ok()?)).collect();
        let is_bearer = |challenge: &Challenge| matches!(challenge, Challenge::Bearer { .. });
        let at = known.iter().position(is_bearer).unwrap_or(0);
        known.into_iter().nth(at)
    }

    /// Does what the registry at `home` wants, which did not let in who showed `shown`. `None` if there is nothing better to show.
    pub(crate) async fn apply(
        &self,
        home: &Url,
        challenge: Challenge,
        shown: Option<HeaderValue>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let mut looking = self.asking.lock().await;
        let now = self.ticket();
        if now != shown {
            // Somebody else has asked meanwhile.
            return Ok(now);
        }
        let ticket = match (self.credentials(&mut looking).await?, challenge) {
            (Credentials::Token(token), _) => header(&format!("Bearer {}", token.reveal())),
            (Credentials::Basic { user, password }, Challenge::Basic) => basic(&user, &password),
            (_, Challenge::Basic) => None,
            (credentials, Challenge::Bearer { realm, service, scope }) => {
                let realm = self.realm(home, &realm)?;
                if credentials != Credentials::None {
                    self.trust(home, &realm)?;
                }
                let of = |repository: &str, actions: &str| format!("repository:{repository}:{actions}");
                let usual = |actions: &str| of(self.reference.repository(), actions);
                // One token for all that is to be done, where the registry would give out one for each.
                let scope = match (self.actions, scope) {
                    (Some(actions), _) => usual(actions),
                    (None, scope) => scope.unwrap_or_else(|| usual("pull")),
                };
                let also = self.also.as_deref().map(|repository| of(repository, "pull"));
                let ask = Ask { realm, service, scopes: [scope].into_iter().chain(also).collect() };
                Some(self.token(ask, credentials).await?)
            }
        };
        if ticket == shown {
            // It was of no use before.
            return Ok(None);
        }
        *self.ticket.lock().unwrap_or_else(PoisonError::into_inner) = ticket.clone();
        Ok(ticket)
    }

    async fn credentials(
        &self,
        looking: &mut Option<oneshot::Receiver<Result<Credentials>>>,
    ) -> Result<Credentials, Failure> {
        match self.client.login() {
            Some(Login::Basic { user, password }) => {
                return Ok(Credentials::Basic { user: user.clone(), password: password.clone() });
            }
            Some(Login::Bearer(token)) => return Ok(Credentials::Token(token.clone())),
            None => {}
        }
        let look = || {
            let (keys, reference) = (self.keys.clone(), self.reference.clone());
            aside(move || keys.find(&reference)).map_err(|error| {
                let what = format!("no thread can be had for looking for credentials: {error}");
                Failure::later(Error::source("unreachable", what))
            })
        };
        let search = match looking {
            Some(search) => search,
            None => looking.insert(look()?),
        };
        let found = search.await;
        *looking = None;
        let found = found.map_err(|_| Error::source("credentials", "looking for credentials has come to no end"));
        found.and_then(|found| found).map_err(Failure::never)
    }

    /// Who gives out tokens. A registry that is asked with TLS must not have us send a password without.
    fn realm(&self, home: &Url, realm: &str) -> Result<Url, Failure> {
        let url = Url::parse(realm).ok().filter(Url::has_host);
        match url {
            Some(url) if url.scheme() == "https" || (url.scheme() == "http" && home.scheme() == "http") => Ok(url),
            _ => {
                let what = format!("{} names no place with TLS that gives out tokens", Host(home));
                Err(Failure::never(Error::source("denied", what)))
            }
        }
    }

    /// A registry must not have us send its credentials to anybody.
    fn trust(&self, home: &Url, realm: &Url) -> Result<(), Failure> {
        let hosts = [home.host().map(|host| host.to_owned()), self.reference.known_as()];
        let guard = self.client.guard();
        if hosts.iter().flatten().any(|host| guard.may_give_tokens(realm, host)) {
            return Ok(());
        }
        let (home, realm) = (Host(home), Host(realm));
        let what = format!(
            "{home} wants its credentials shown to {realm}, which is another's host as far as names tell; \
             if that gives out its tokens, name it (--token-servers)"
        );
        Err(Failure::never(Error::source("forbidden-host", what)))
    }

    async fn token(&self, ask: Ask, credentials: Credentials) -> Result<HeaderValue, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let realm = ask.realm;
        let errand = match credentials {
            Credentials::Identity(token) => {
                let mut form = Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.reveal());
                form.append_pair("client_id", "diskferry").append_pair("scope", &ask.scopes.join(" "));
                form.extend_pairs(ask.service.map(|service| ("service", service)));
                let (ticket, form) = (Ticket::Token(None), Some(form.finish()));
                Errand { method: Method::POST, named: &realm, url: &realm, headers, ticket, form, payload: None }
            }
            other => {
                let mut url = realm.clone();
                url.query_pairs_mut().extend_pairs(ask.service.map(|service| ("service", service)));
                url.query_pairs_mut().extend_pairs(ask.scopes.iter().map(|scope| ("scope", scope)));
                let ticket = match &other {
                    Credentials::Basic { user, password } => basic(user, password),
                    _ => None,
                };
                let errand = Errand {
                    method: Method::GET,
                    named: &realm,
                    url: &url,
                    headers,
                    ticket: Ticket::Token(ticket),
                    form: None,
                    payload: None,
                };
                return answer(&realm, self.client.travel(errand).await?).await;
            }
        };
        answer(&realm, self.client.travel(errand).await?).await
    }
}

struct Ask {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
}

/// An answer with a token, of which there are two forms.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

async fn answer(realm: &Url, mut answer: Response) -> Result<HeaderValue, Failure> {
    let denied = |what: &str| {
        Failure::never(Error::source("denied", format!("{}, which gives out tokens, {what}", Host(realm))))
    };
    match answer.status() {
        StatusCode::OK => {}
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            let what = format!("{}, which gives out tokens, answered with {status}", Host(realm));
            return Err(Failure::later(Error::source("http-status", what)));
        }
        status => return Err(denied(&format!("does not let us in ({status})"))),
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| Failure::of_request(&error, realm, None))? {
        if bytes.len() + chunk.len() > TOKEN {
            return Err(denied(&format!("answered with more than the {TOKEN} bytes that a token may take")));
        }
        bytes.extend_from_slice(&chunk);
    }
    let found: Option<Token> = serde_json::from_slice(&bytes).ok();
    let token = found.and_then(|found| found.token.or(found.access_token)).filter(|token| !token.is_empty());
    token
        .and_then(|token| header(&format!("Bearer {token}")))
        .ok_or_else(|| denied("answered with something that is no token"))
}

fn basic(user: &str, password: &Secret) -> Option<HeaderValue> {
    header(&format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal()))))
}

fn header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Challenge {
    /// Reads a header: RFC 9110, section 11.6.1, with one challenge in each, as registries have it.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        let mut found = [None, None, None];
        for (name, value) in scheme.eq_ignore_ascii_case("bearer").then(|| parameters(rest))? {
            let place = ["realm", "service", "scope"].iter().position(|known| known.eq_ignore_ascii_case(&name));
            if let Some(place) = place.and_then(|at| found.get_mut(at)) {
                *place = Some(value);
            }
        }
        let [realm, service, scope] = found;
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// `name=value` and `name="value"`, with commas between them.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|char| char.is_whitespace() || *char == ',').is_some() {}
        let mut name = String::new();
        while let Some(char) = chars.next_if(|char| *char != '=' && *char != ',') {
            name.push(char);
        }
        if chars.next_if_eq(&'=').is_none() {
            if chars.peek().is_none() {
                return found;
            }
            continue;
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(char) = chars.next().filter(|char| *char != '"') {
                value.extend(if char == '\\' { chars.next() } else { Some(char) });
            }
        } else {
            while let Some(char) = chars.next_if(|char| *char != ',') {
                value.push(char);
            }
        }
        found.push((name.trim().to_owned(), value.trim_end().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.into(), service: owned(service), scope: owned(scope) })
        };
        for (text, found) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            ("Negotiate", None),
            ("Bearer", None),
            ("Bearer service=\"x\"", None),
            ("Bearer realm=\"https://a/b?c=d\"", bearer("https://a/b?c=d", None, None)),
            (
                "bearer Realm=\"https://a\", service=x ,scope=\"repository:a:pull,push\",error=\"y\"",
                bearer("https://a", Some("x"), Some("repository:a:pull,push")),
            ),
            (r#"Bearer realm="a\"b",service="open"#, bearer("a\"b", Some("open"), None)),
            ("Bearer junk,,realm=x", bearer("x", None, None)),
        ] {
            assert_eq!(Challenge::parse(text), found, "{text}");
        }
    }
}
