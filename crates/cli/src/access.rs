//! What a server is told of who asks, whom to believe, and where requests may go: from options, files and the environment.
//!
//! What is typed can be read by everybody on the machine in the list of processes. So secrets come from files or from the
//! environment, and there is no option that takes one.

use std::env;
use std::path::{Path, PathBuf};

use clap::Args;
use diskferry::Error;
use diskferry_remote::{
    Access, Guard, Headers, HostPattern, Identity, Location, Login, Netrc, Proxies, Trust, own_file,
};

use crate::exit::Failure;
use crate::output;

/// Largest file of a password or of headers that is read, in bytes.
const MOST: u64 = 1 << 20;

/// What stands over options about servers.
pub const NETWORK: &str = "Network";

/// Access to servers.
#[derive(Args, Debug, Clone)]
#[cfg_attr(test, derive(Default))]
#[command(next_help_heading = NETWORK)]
pub struct AccessArgs {
    /// Trust these certificates, too: a PEM file, or a directory of such; may be repeated
    ///
    /// Besides those that the system trusts. SSL_CERT_FILE and SSL_CERT_DIR say where the system's are.
    #[arg(long, value_name = "FILE|DIR")]
    cacert: Vec<PathBuf>,

    /// Client certificate, as PEM
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Its private key, as PEM and not encrypted [default: the file of --cert]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Trust every certificate: anybody on the way can read and replace the image
    #[arg(long)]
    pub insecure: bool,

    /// File with NAME:PASSWORD, for basic authentication
    ///
    /// The environment variable DISKFERRY_USER has the same without a file. Credentials go only to the server of SOURCE or STORE (of TARGET,
    /// where SOURCE has none), and not along with a redirect to another one.
    #[arg(long, value_name = "FILE")]
    user_file: Option<PathBuf>,

    /// File with a bearer token; else DISKFERRY_TOKEN
    #[arg(long, value_name = "FILE", conflicts_with = "user_file")]
    token_file: Option<PathBuf>,

    /// Header for each request, as in 'X-Mirror: 2'; may be repeated
    ///
    /// Everybody on this machine can read what is typed: use --header-file for what is secret.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,

    /// File with such headers, one on a line; else DISKFERRY_HEADERS
    #[arg(long, value_name = "FILE")]
    header_file: Option<PathBuf>,

    /// Take names and passwords from FILE [default: $NETRC, else ~/.netrc]
    #[arg(long, value_name = "FILE", require_equals = true)]
    netrc: Option<Option<PathBuf>>,

    /// Make requests to these hosts only, also after redirects
    ///
    /// As in images.example, *.example (what is below it), images.example:8443, 192.0.2.0/24, ::1.
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    allow_hosts: Option<Vec<HostPattern>>,

    /// Make no request to a private address: loopback, local networks, metadata services
    ///
    /// Names are resolved first, and the address that was checked is the one that is connected to. For services that fetch what
    /// strangers name.
    #[arg(long)]
    deny_private: bool,

    /// Hosts that may give out tokens for a registry's credentials
    ///
    /// Besides its own host, and those above and below that. In the same form as for --allow-hosts.
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    token_servers: Vec<HostPattern>,

    /// Most redirects that one request follows
    #[arg(long, value_name = "N", default_value_t = Guard::default().redirects)]
    max_redirects: u32,
}

impl AccessArgs {
    /// Reads the files that are named, and the environment.
    pub fn resolve(&self) -> Result<Access, Failure> {
        self.resolve_with(|name| env::var(name).ok())
    }

    /// Tells a person what should be known before anything is fetched.
    pub fn warn(&self, places: &[&Location], quiet: bool) {
        if self.insecure && places.iter().any(|place| place.is_remote()) && !quiet {
            output::say(
                "warning: --insecure: no certificate is checked, and anybody on the way can read and replace the image",
            );
        }
    }

    fn resolve_with(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Access, Failure> {
        let (login, headers) = self.credentials(&variable)?;
        let netrc = match &self.netrc {
            None => Netrc::default(),
            Some(None) => match Netrc::place(&variable) {
                Some(path) => Netrc::read(&path)?,
                None => return Err(Failure::Usage("--netrc: neither NETRC nor HOME is set, name the file".into())),
            },
            Some(Some(path)) => Netrc::read(path)?,
        };
        let key = |cert: &PathBuf| self.key.clone().unwrap_or_else(|| cert.clone());
        let identity = self.cert.as_ref().map(|cert| Identity { cert: cert.clone(), key: key(cert) });
        Ok(Access {
            login,
            headers,
            netrc,
            trust: Trust { ca: self.cacert.clone(), pem: None, identity, insecure: self.insecure },
            proxies: Proxies::from_variables(&variable)?,
            guard: Guard {
                allow_hosts: self.allow_hosts.clone(),
                deny_private: self.deny_private,
                token_servers: self.token_servers.clone(),
                redirects: self.max_redirects,
            },
        })
    }

    /// What is named by options goes before what the environment has.
    fn credentials(&self, variable: impl Fn(&str) -> Option<String>) -> Result<(Option<Login>, Headers), Failure> {
        let mut headers = Headers::default();
        for header in &self.header {
            // Two options of the same name are two headers; a line is not shown, it may be secret after all.
            headers = headers.and(&header.parse().map_err(|why| Failure::Usage(format!("--header: {why}")))?);
        }
        if let Some(path) = &self.header_file {
            headers = headers.or(&read(path, |text| text.parse::<Headers>())?);
        }
        let login = match (&self.user_file, &self.token_file) {
            (Some(path), _) => Some(read(path, |text| Login::basic(text).map_err(str::to_owned))?),
            (_, Some(path)) => Some(read(path, |text| Login::bearer(text).map_err(str::to_owned))?),
            _ => None,
        };
        if login.is_some() && headers.authorize() {
            let what = "an Authorization header and --user-file or --token-file contradict each other";
            return Err(Failure::Usage(what.into()));
        }
        let named = login.is_some() || headers.authorize();
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let bad = |name: &str, why: String| Failure::Usage(format!("{name}: {why}"));
        if let Some(text) = set("DISKFERRY_HEADERS") {
            let more: Headers = text.parse().map_err(|why| bad("DISKFERRY_HEADERS", why))?;
            headers = headers.or(&if named { more.without_authorization() } else { more });
        }
        if named || headers.authorize() {
            return Ok((login, headers));
        }
        let login = match (set("DISKFERRY_USER"), set("DISKFERRY_TOKEN")) {
            (Some(_), Some(_)) => {
                return Err(Failure::Usage("DISKFERRY_USER and DISKFERRY_TOKEN contradict each other".into()));
            }
            (Some(text), None) => Some(Login::basic(&text).map_err(|why| bad("DISKFERRY_USER", why.to_owned()))?),
            (None, Some(text)) => Some(Login::bearer(&text).map_err(|why| bad("DISKFERRY_TOKEN", why.to_owned()))?),
            (None, None) => None,
        };
        Ok((login, headers))
    }
}

/// What `understand` makes of the text in the file at `path`. Errors name the file and show none of it.
fn read<T>(path: &Path, understand: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
    let text = own_file::read_text(path, MOST).map_err(|error| error.to_string());
    let understood = text.and_then(|text| understand(&text));
    understood.map_err(|why| Failure::Job(Error::source("access", format!("{}: {why}", path.display()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn resolve(args: &AccessArgs, variables: &[(&str, &str)]) -> Result<Access, Failure> {
        args.resolve_with(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn refusal(args: &AccessArgs, variables: &[(&str, &str)]) -> String {
        resolve(args, variables).unwrap_err().message()
    }

    fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn options_go_before_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let environment =
            [("DISKFERRY_USER", "env:secret"), ("DISKFERRY_HEADERS", "X-Env: 1\nX-Both: env\nAuthorization: env")];
        let access = resolve(&AccessArgs::default(), &environment).unwrap();
        assert!(access.headers.authorize() && access.login.is_none());

        let args = AccessArgs {
            user_file: Some(file(&dir, "user", "me:secret\n")),
            header: vec!["X-Both: option".into()],
            ..AccessArgs::default()
        };
        let access = resolve(&args, &environment).unwrap();
        assert!(matches!(&access.login, Some(Login::Basic { user, .. }) if user == "me"));
        assert!(!access.headers.authorize());
        let printed = format!("{access:?}");
        assert!(printed.contains("x-env") && !printed.contains("secret"), "{printed}");
    }

    #[test]
    fn contradictions_are_refused_and_nothing_secret_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let none = AccessArgs::default();
        assert!(refusal(&none, &[("DISKFERRY_USER", "a:b"), ("DISKFERRY_TOKEN", "c")]).contains("contradict"));
        assert!(!refusal(&none, &[("DISKFERRY_TOKEN", "hunter 2")]).contains("hunter"));
        assert!(!refusal(&none, &[("DISKFERRY_HEADERS", "hunter2")]).contains("hunter"));
        let both = AccessArgs {
            token_file: Some(file(&dir, "token", "abc\n")),
            header: vec!["Authorization: x".into()],
            ..AccessArgs::default()
        };
        assert!(refusal(&both, &[]).contains("contradict"));
        let bad = AccessArgs { user_file: Some(file(&dir, "user", "hunter2")), ..AccessArgs::default() };
        let message = refusal(&bad, &[]);
        assert!(message.contains("user: no NAME:PASSWORD") && !message.contains("hunter"), "{message}");
    }

    #[test]
    fn netrc_is_read_only_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let place = file(&dir, "netrc", "machine h login l password p\n");
        let variables = [("NETRC", place.to_str().unwrap())];
        assert_eq!(resolve(&AccessArgs::default(), &variables).unwrap().netrc, Netrc::default());
        let asked = AccessArgs { netrc: Some(None), ..AccessArgs::default() };
        assert_ne!(resolve(&asked, &variables).unwrap().netrc, Netrc::default());
        assert!(refusal(&asked, &[]).contains("neither NETRC nor HOME"));
        let missing = AccessArgs { netrc: Some(Some("/nowhere/netrc".into())), ..AccessArgs::default() };
        assert!(refusal(&missing, &[]).contains("/nowhere/netrc: No such file"));
    }
}
