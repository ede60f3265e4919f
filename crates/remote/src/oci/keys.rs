//! Credentials for registries, where container tools keep them: Docker's `config.json` and `auth.json` of the containers tools.
//! [containers-auth.json(5)](https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diskferry::{Error, Result};
use serde::Deserialize;

use super::helper;
use super::reference::Reference;
use crate::own_file;
use crate::secret::Secret;

/// Files with credentials, looked at in order until one has some.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    files: Vec<PathBuf>,
    /// Whether the user has named the file, so that it has to be there.
    is_named: bool,
}

/// Who we are for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Anybody.
    None,
    Basic {
        user: String,
        password: Secret,
    },
    /// Who has a token with which others are had.
    Identity(Secret),
    /// Who has the token itself.
    Token(Secret),
}

/// Largest file that is read, in bytes.
const MOST: u64 = 4 << 20;

/// A file of either kind.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Keys {
    /// This file and no other.
    pub fn named(file: &Path) -> Self {
        Self { files: vec![file.to_owned()], is_named: true }
    }

    /// The usual files, as the environment places them: `variable` gives the value of a variable. `REGISTRY_AUTH_FILE` goes
    /// before all others.
    pub fn usual(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = path("REGISTRY_AUTH_FILE") {
            return Self::named(&file);
        }
        let home = path("HOME");
        let at_home = |dir: &str| home.as_ref().map(|home| home.join(dir));
        let containers = |dir: PathBuf| dir.join("containers/auth.json");
        let files = [
            path("XDG_RUNTIME_DIR").map(containers),
            path("XDG_CONFIG_HOME").or_else(|| at_home(".config")).map(containers),
            path("DOCKER_CONFIG").or_else(|| at_home(".docker")).map(|dir| dir.join("config.json")),
        ];
        Self { files: files.into_iter().flatten().collect(), is_named: false }
    }

    /// What the files have for `reference`. May start a credential helper.
    pub(super) fn find(&self, reference: &Reference) -> Result<Credentials> {
        for path in &self.files {
            let text = match own_file::read(path, MOST) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.is_named => continue,
                Err(error) => return Err(unusable(path, &error.to_string())),
                Ok(text) => text,
            };
            // What it says is not shown, it may be secret.
            let config: Config = serde_json::from_slice(&text).map_err(|error| {
                unusable(path, &format!("line {}, column {} cannot be understood", error.line(), error.column()))
            })?;
            let found = config.find(reference).map_err(|why| unusable(path, &why))?;
            if found != Credentials::None {
                return Ok(found);
            }
        }
        Ok(Credentials::None)
    }
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::source("credentials", format!("credentials cannot be read from {}: {why}", path.display()))
}

impl Config {
    fn find(&self, reference: &Reference) -> Result<Credentials, String> {
        let keys = keys(reference);
        if let Some((server, helper)) =
            keys.iter().find_map(|key| self.cred_helpers.iter().find(|(name, _)| names(name, key)))
        {
            return helper::get(helper, server);
        }
        let auth = keys.iter().find_map(|key| self.auths.iter().find(|(name, _)| names(name, key)));
        let found = auth.map_or(Ok(Credentials::None), |(_, auth)| auth.credentials())?;
        match (&found, &self.creds_store) {
            (Credentials::None, Some(helper)) if !helper.is_empty() => {
                // It knows the registry by the name that was used to log in, which `auths` repeats.
                let server = auth.map_or_else(|| server(reference), |(name, _)| name.clone());
                helper::get(helper, &server)
            }
            _ => Ok(found),
        }
    }
}

/// What an entry for `reference` can be called, the most particular first.
fn keys(reference: &Reference) -> Vec<String> {
    let mut name = format!("{}/{}", reference.host(), reference.repository());
    let mut keys = Vec::new();
    loop {
        keys.push(name.clone());
        match name.rfind('/') {
            Some(at) => name.truncate(at),
            None => return keys,
        }
    }
}

/// What `docker login` calls a registry.
fn server(reference: &Reference) -> String {
    if reference.host() == "docker.io" { "https://index.docker.io/v1/".into() } else { reference.host().into() }
}

/// Whether an entry called `entry` is for `key`. Docker has URLs, of which the host counts.
fn names(entry: &str, key: &str) -> bool {
    let bare = entry.strip_prefix("https://").or(entry.strip_prefix("http://"));
    let entry = match bare {
        Some(url) => url.split('/').next().unwrap_or_default(),
        None => entry.trim_end_matches('/'),
    };
    let entry = if ["index.docker.io", "registry-1.docker.io"].contains(&entry) { "docker.io" } else { entry };
    entry == key
}

impl Auth {
    fn credentials(&self) -> Result<Credentials, String> {
        if !self.registrytoken.is_empty() {
            return Ok(Credentials::Token(Secret::new(&self.registrytoken)));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Credentials::Identity(Secret::new(&self.identitytoken)));
        }
        if !self.username.is_empty() {
            let (user, password) = (self.username.clone(), Secret::new(&self.password));
            return Ok(Credentials::Basic { user, password });
        }
        if self.auth.is_empty() {
            return Ok(Credentials::None);
        }
        // Some tools break the line, some put zeros behind the password.
        let packed: String = self.auth.split_whitespace().collect();
        let text = STANDARD.decode(packed).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or("an entry `auth` is not base64 of NAME:PASSWORD")?;
        let (user, password) = text.split_once(':').ok_or("an entry `auth` is not base64 of NAME:PASSWORD")?;
        let password = password.trim_end_matches(['\0', '\r', '\n']);
        Ok(Credentials::Basic { user: user.into(), password: Secret::new(password) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.into(), password: Secret::new(password) }
    }

    fn found(config: &str, reference: &str) -> Credentials {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, config).unwrap();
        Keys::named(&path).find(&Reference::parse(reference).unwrap()).unwrap()
    }

    #[test]
    fn the_most_particular_entry_counts() {
        let config = r#"{"auths": {
            "h.example": {"auth": "bWU6b25l"},
            "h.example/team": {"auth": "bWU6\ndHdvAA=="},
            "h.example:5000": {"username": "you", "password": "three"},
            "https://index.docker.io/v1/": {"identitytoken": "four"},
            "token.example": {"registrytoken": "five"},
            "empty.example": {}
        }}"#;
        assert_eq!(found(config, "//h.example/a"), basic("me", "one"));
        assert_eq!(found(config, "//h.example/team/a"), basic("me", "two"));
        assert_eq!(found(config, "//h.example/teams/a"), basic("me", "one"));
        assert_eq!(found(config, "//h.example:5000/a"), basic("you", "three"));
        assert_eq!(found(config, "//debian"), Credentials::Identity(Secret::new("four")));
        assert_eq!(found(config, "//token.example/a"), Credentials::Token(Secret::new("five")));
        assert_eq!(found(config, "//empty.example/a"), Credentials::None);
        assert_eq!(found(config, "//other.example/a"), Credentials::None);
        assert_eq!(found(config, "//some.example/h.example/a"), Credentials::None);
        assert!(!format!("{:?}", serde_json::from_str::<Config>(config).unwrap()).contains("three"));
    }

    #[test]
    fn a_file_that_was_named_has_to_be_good() {
        let reference = Reference::parse("//h.example/a").unwrap();
        let error = Keys::named(Path::new("/nowhere/auth.json")).find(&reference).unwrap_err();
        assert_eq!(error.code(), "source-credentials");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        for text in ["{\"auths\": \"hunter2\"}", "hunter2", "{\"auths\":{\"h.example\":{\"auth\":\"hunter2\"}}}"] {
            std::fs::write(&path, text).unwrap();
            let error = Keys::named(&path).find(&reference).unwrap_err();
            assert!(error.code() == "source-credentials" && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_file_of_credentials_may_have_four_mebibytes() {
        let config = r#"{"auths":{"h.example":{"auth":"bWU6b25l"}}}"#;
        let padded = |len: usize| config.to_owned() + &" ".repeat(len - config.len());
        assert_eq!(found(&padded(4 << 20), "//h.example/a"), basic("me", "one"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, padded((4 << 20) + 1)).unwrap();
        let error = Keys::named(file.path()).find(&Reference::parse("//h.example/a").unwrap()).unwrap_err();
        assert_eq!(error.code(), "source-credentials");
        assert!(error.to_string().ends_with("it has more than 4194304 bytes"), "{error}");
    }

    #[test]
    fn the_usual_files_follow_the_environment() {
        let usual = |variables: &[(&str, &str)]| {
            let find =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
            Keys::usual(find).files
        };
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(usual(&[]), paths(&[]));
        assert_eq!(usual(&[("HOME", "/h")]), paths(&["/h/.config/containers/auth.json", "/h/.docker/config.json"]));
        let all = [("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")];
        let expected = ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"];
        assert_eq!(usual(&all), paths(&expected));
        assert_eq!(usual(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/f")]), paths(&["/f"]));
    }
}
