//! Who we say we are, whom we believe, and where we may go.

use std::str::FromStr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::guard::Guard;
use crate::netrc::Netrc;
use crate::proxy::Proxies;
use crate::secret::Secret;
use crate::trust::Trust;

/// What a client needs to be let in, how it knows whom it talks to, and where it may go.
///
/// [`login`](Self::login) and [`headers`](Self::headers) are for the server that the user has named and for no other, neither
/// after a redirect nor for a second URL.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Who we say we are. Goes before a name and password in a URL, and these before `netrc`.
    pub login: Option<Login>,
    /// Headers that go with every request. `Authorization` among them goes before all logins.
    pub headers: Headers,
    /// Logins by host.
    pub netrc: Netrc,
    /// Certificates.
    pub trust: Trust,
    /// Proxies.
    pub proxies: Proxies,
    /// Where requests may go.
    pub guard: Guard,
}

/// How we say who we are.
#[derive(Debug, Clone)]
pub enum Login {
    /// By name and password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// By a token.
    Bearer(Secret),
}

impl Login {
    /// Reads `name:password`, as it stands on the first line of a file. Names have no colon, passwords may.
    pub fn basic(text: &str) -> Result<Self, &'static str> {
        let (user, password) = line(text)?.split_once(':').ok_or("no NAME:PASSWORD, there is no colon")?;
        Ok(Self::Basic { user: user.to_owned(), password: Secret::new(password) })
    }

    /// Reads a token, as it stands on the first line of a file.
    pub fn bearer(text: &str) -> Result<Self, &'static str> {
        let token = line(text)?.trim();
        // RFC 6750 has fewer characters; servers have more.
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("no token, which is one word of ASCII characters");
        }
        Ok(Self::Bearer(Secret::new(token)))
    }
}

/// The only line of `text`.
fn line(text: &str) -> Result<&str, &'static str> {
    let line = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if line.contains(['\n', '\r', '\0']) { Err("more than one line") } else { Ok(line) }
}

/// Headers for every request. Printed without values.
#[derive(Debug, Clone, Default)]
pub struct Headers(HeaderMap);

/// What requests say of themselves; another value would change what the answer means, or break the connection.
const OWN: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-range",
    "proxy-authorization",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Headers {
    /// Adds all headers of `other`.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (name, value) in &other.0 {
            self.0.append(name.clone(), value.clone());
        }
        self
    }

    /// Adds the headers of `other` whose names are not here yet.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        let missing: Vec<_> = other.0.iter().filter(|(name, _)| !self.0.contains_key(*name)).collect();
        for (name, value) in missing {
            self.0.append(name.clone(), value.clone());
        }
        self
    }

    /// Whether `Authorization` is among them.
    pub fn authorize(&self) -> bool {
        self.0.contains_key(reqwest::header::AUTHORIZATION)
    }

    /// The others.
    #[must_use]
    pub fn without_authorization(mut self) -> Self {
        self.0.remove(reqwest::header::AUTHORIZATION);
        self
    }

    pub(crate) fn map(&self) -> &HeaderMap {
        &self.0
    }
}

impl FromStr for Headers {
    type Err = String;

    /// Reads `Name: value` from each line that is neither empty nor begins with `#`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (line, number) in text.lines().zip(1..) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            // The line itself is not shown, it may be all secret.
            let bad = || format!("line {number} is no header, as in Name: value");
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
            if OWN.contains(&name.as_str()) {
                return Err(format!("{name} is a header that requests set themselves"));
            }
            let mut value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self(headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_by_line_and_printed_without_values() {
        let headers: Headers = "# for the mirror\nX-Key: hunter2:x \r\n\ncookie:a=b\n".parse().unwrap();
        assert_eq!(headers.map()["x-key"], "hunter2:x");
        assert_eq!(headers.map()["cookie"], "a=b");
        assert!(!format!("{headers:?}").contains("hunter2"));
        let both = headers.or(&"X-Key: other\nX-More: 1".parse().unwrap());
        assert_eq!((both.map()["x-key"].to_str().unwrap(), both.map().len()), ("hunter2:x", 3));
    }

    #[test]
    fn what_is_no_header_is_refused_without_showing_it() {
        for text in ["hunter2", "na me: hunter2", ": hunter2", "Name: hunter2\u{7}"] {
            let refusal = text.parse::<Headers>().unwrap_err();
            assert!(refusal.contains("line 1") && !refusal.contains("hunter2"), "{refusal}");
        }
        assert!("Range: bytes=0-".parse::<Headers>().unwrap_err().contains("range is a header that requests set"));
    }

    #[test]
    fn logins_are_one_line() {
        let Ok(Login::Basic { user, password }) = Login::basic("me:pass:word \n") else { panic!() };
        assert_eq!((user.as_str(), password.reveal()), ("me", "pass:word "));
        let Ok(Login::Bearer(token)) = Login::bearer("abc.def==\r\n") else { panic!() };
        assert_eq!(token.reveal(), "abc.def==");
        assert!(Login::basic("me").is_err() && Login::basic("me:a\nb\n").is_err());
        assert!(Login::bearer("").is_err() && Login::bearer("two words").is_err());
    }
}
