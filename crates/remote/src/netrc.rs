//! `.netrc`: names and passwords by host, as many tools know it.
//!
//! The format has no specification. This reads what curl reads: tokens apart by white space, values in double quotes with
//! backslashes in them, comments at the beginning of a line, and `macdef` with its lines up to an empty one. As curl does, it is
//! read whoever else may read the file.

use std::path::{Path, PathBuf};

use diskferry::{Error, Result};

use crate::own_file;
use crate::secret::Secret;

/// Largest file that is read, in bytes.
const MOST: u64 = 1 << 20;

/// The entries of a `.netrc`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Netrc {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    /// The host, or none for `default`.
    machine: Option<String>,
    login: Option<String>,
    password: Option<Secret>,
}

impl Netrc {
    /// Reads the file at `path`, which must be there.
    pub fn read(path: &Path) -> Result<Self> {
        let text = own_file::read_text(path, MOST)
            .map_err(|error| Error::source("access", format!("{}: {error}", path.display())))?;
        Self::parse(&text).map_err(|what| Error::source("access", format!("{}: {what}", path.display())))
    }

    /// Where the file is if nobody says: `$NETRC`, else `~/.netrc`.
    pub fn place(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        given("NETRC").or_else(|| Some(given("HOME")?.join(".netrc")))
    }

    /// Name and password for `host`: of its first entry, or of `default` where `or_default` allows it.
    pub(crate) fn login(&self, host: &str, or_default: bool) -> Option<(&str, Secret)> {
        let is_host = |entry: &&Entry| match &entry.machine {
            Some(machine) => machine.eq_ignore_ascii_case(host),
            None => or_default,
        };
        let entry = self.entries.iter().find(is_host)?;
        let password = entry.password.clone().unwrap_or_else(|| Secret::new(""));
        Some((entry.login.as_deref().unwrap_or_default(), password))
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut tokens = Tokens { rest: text, fresh: true };
        while let Some(token) = tokens.next()? {
            match token.as_str() {
                "machine" => {
                    let machine = Some(tokens.value()?);
                    entries.push(Entry { machine, ..Entry::default() });
                }
                "default" => entries.push(Entry::default()),
                "login" => {
                    let login = tokens.value()?;
                    entries.last_mut().ok_or("a login without a machine")?.login = Some(login);
                }
                "password" => {
                    let password = Secret::new(tokens.value()?);
                    entries.last_mut().ok_or("a password without a machine")?.password = Some(password);
                }
                "account" => drop(tokens.value()?),
                "macdef" => tokens.skip_macro(),
                // The word itself is not shown: it may be a password that was meant to be in quotes.
                _ => return Err("a word that is none of machine, default, login, password, account and macdef"),
            }
        }
        Ok(Self { entries })
    }
}

struct Tokens<'a> {
    rest: &'a str,
    /// Whether a line begins here.
    fresh: bool,
}

impl Tokens<'_> {
    fn value(&mut self) -> Result<String, &'static str> {
        self.next()?.ok_or("ends where a value is missing")
    }

    fn next(&mut self) -> Result<Option<String>, &'static str> {
        loop {
            let trimmed = self.rest.trim_start();
            // A comment is a line of its own: a password may begin with the same sign.
            let skipped = self.rest.get(..self.rest.len() - trimmed.len()).unwrap_or_default();
            let line_begins = self.fresh || skipped.contains('\n');
            (self.rest, self.fresh) = (trimmed, false);
            if !(trimmed.starts_with('#') && line_begins) {
                break;
            }
            self.rest = trimmed.find('\n').and_then(|end| trimmed.get(end..)).unwrap_or_default();
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut chars = self.rest.char_indices().peekable();
        let quoted = chars.next_if(|(_, c)| *c == '"').is_some();
        let mut token = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' if quoted => {
                    self.rest = self.rest.get(at + 1..).unwrap_or_default();
                    return Ok(Some(token));
                }
                '\\' if quoted => token.push(match chars.next().ok_or("ends within a quoted value")?.1 {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                }),
                _ if !quoted && c.is_whitespace() => {
                    self.rest = self.rest.get(at..).unwrap_or_default();
                    return Ok(Some(token));
                }
                _ => token.push(c),
            }
        }
        if quoted {
            return Err("ends within a quoted value");
        }
        self.rest = "";
        Ok(Some(token))
    }

    fn skip_macro(&mut self) {
        // Up to the first empty line, which is one with nothing in it, or to the end.
        let unix = self.rest.find("\n\n").map(|at| at + 2);
        let dos = self.rest.find("\r\n\r\n").map(|at| at + 4);
        let end = unix.into_iter().chain(dos).min();
        self.rest = end.and_then(|end| self.rest.get(end..)).unwrap_or_default();
        self.fresh = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str, host: &str) -> Option<(String, String)> {
        let netrc = Netrc::parse(text).unwrap();
        netrc.login(host, true).map(|(login, password)| (login.to_owned(), password.reveal().to_owned()))
    }

    fn pair(login: &str, password: &str) -> Option<(String, String)> {
        Some((login.to_owned(), password.to_owned()))
    }

    const MANY: &str = "# for builds\nmachine one.example login a password b\n\
        machine two.example\n\tlogin \"a b\"\n\taccount x\n\tpassword \"q\\\"\\\\\\n\"\n\
        macdef init\ncd /pub\nmachine evil.example login x password y\n\n\
        machine three.example password #p login l\ndefault login anonymous password me@example\n";

    #[test]
    fn entries_are_found_by_host() {
        assert_eq!(login(MANY, "one.example"), pair("a", "b"));
        assert_eq!(login(MANY, "ONE.example"), pair("a", "b"));
        assert_eq!(login(MANY, "two.example"), pair("a b", "q\"\\\n"));
        assert_eq!(login(MANY, "three.example"), pair("l", "#p"));
    }

    #[test]
    fn a_macro_is_no_entry_and_others_get_the_default() {
        assert_eq!(login(MANY, "evil.example"), pair("anonymous", "me@example"));
        assert!(Netrc::parse(MANY).unwrap().login("evil.example", false).is_none());
    }

    #[test]
    fn what_is_no_netrc_is_refused_without_showing_it() {
        for text in ["login a", "machine", "machine h password \"never ends", "machine h passwort hunter2"] {
            let refusal = Netrc::parse(text).unwrap_err();
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
        assert_eq!(Netrc::parse(" \n").unwrap(), Netrc::default());
    }

    #[test]
    fn a_netrc_may_have_a_mebibyte() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (len, refusal) in [(1 << 20, None), ((1 << 20) + 1, Some("more than 1048576 bytes"))] {
            let entry = "machine h login l password p";
            std::fs::write(&file, entry.to_owned() + &" ".repeat(len - entry.len())).unwrap();
            let error = Netrc::read(file.path()).err().map(|error| format!("{} {error}", error.code()));
            assert_eq!(error.is_some(), refusal.is_some(), "{error:?}");
            assert!(error.is_none_or(|error| error.starts_with("source-access ") && error.contains(refusal.unwrap())));
        }
    }

    #[test]
    fn a_comment_is_skipped_at_the_beginning_and_within() {
        assert_eq!(login("#machine a login b\n  # more\nmachine h login l password p", "h"), pair("l", "p"));
    }

    #[test]
    fn the_place_is_said_or_at_home() {
        let home = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        assert_eq!(Netrc::place(home), Some(PathBuf::from("/home/me/.netrc")));
        assert_eq!(Netrc::place(|name| Some(name.to_lowercase())), Some(PathBuf::from("netrc")));
        assert_eq!(Netrc::place(|_| None), None);
    }
}
