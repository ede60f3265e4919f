//! What is to be done, made of settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use diskferry::Options;
use diskferry_remote::Sandbox;
use jiff::Timestamp;
use rustls::ServerConfig;

use super::access::{Paths, clients};
use super::intake::Times;
use crate::import::order::{self, Destination};
use crate::serve::tls::{Identity, read};
use crate::settings::{Unusable, Values, parse};

/// The ports that platforms use.
const PORT: u16 = 8444;
const HEALTHZ: u16 = 8080;

const FIRST: Duration = Duration::from_secs(600);
const STALL: Duration = Duration::from_secs(60);
const RESUME: Duration = Duration::from_secs(600);
const LINGER: Duration = Duration::from_secs(3);

/// What is to be done.
pub struct Order {
    /// Where images are taken; the first that can be had.
    pub listen: Vec<SocketAddr>,
    /// Where health is told, if it is; likewise.
    pub healthz: Vec<SocketAddr>,
    /// With TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// The name that the certificate of a client must have.
    pub client_name: Option<String>,
    /// Which paths lead to it.
    pub paths: Paths,
    /// How long is waited for what.
    pub times: Times,
    /// How long is answered behind the end.
    pub linger: Duration,
    /// Where the image goes.
    pub destination: Destination,
    /// Digests that it must have, its format if that is stated, and limits.
    pub options: Options,
    /// Where it is decoded.
    pub sandbox: Sandbox,
}

impl Order {
    /// Understands `values`.
    pub fn new(values: &Values) -> Result<Self, Unusable> {
        let (_, patient) = order::patience(values)?;
        let destination = order::destination(values, patient)?;
        let options = order::options(values, &destination)?;
        let token = values.text("token").map(str::trim);
        let is_open = values.is_on("open-path")?;
        let tls = tls(values)?;
        let client_name = values.text("client-name").map(str::to_owned);
        if client_name.is_some() && values.text("client-ca-file").is_none() {
            return Err(
                values.unusable("client-name", "whoever comes can say so: name its authorities (CLIENT_CA_FILE)")
            );
        }
        let port = |name, usual| Ok(values.read(name, parse::number::<u16>)?.unwrap_or(usual));
        let healthz = port("healthz-port", HEALTHZ)?;
        let time = |name, usual| Ok(values.read(name, parse::span)?.unwrap_or(usual));
        Ok(Self {
            listen: addresses(values, port("listen-port", PORT)?)?,
            healthz: if healthz == 0 { Vec::new() } else { addresses(values, healthz)? },
            tls,
            client_name,
            paths: Paths::new(token, is_open).map_err(|why| values.unusable("token", why))?,
            times: Times {
                first: time("first-byte-timeout", FIRST)?,
                stall: time("upload-stall-timeout", STALL)?,
                resume: time("resume-timeout", RESUME)?,
                whole: values.read("deadline", deadline)?,
            },
            linger: time("linger", LINGER)?,
            destination,
            options,
            sandbox: Sandbox::default(),
        })
    }

    /// The same, with the image decoded in `sandbox`.
    pub fn within(mut self, sandbox: &Sandbox) -> Self {
        self.destination = self.destination.within(sandbox);
        self.options = sandbox.options(self.options);
        Self { sandbox: sandbox.clone(), ..self }
    }
}

/// The address that was stated; else all there are, of which not every machine has those of IPv6.
fn addresses(values: &Values, port: u16) -> Result<Vec<SocketAddr>, Unusable> {
    let stated = values.read("listen-address", |text| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse::<IpAddr>().map_err(|_| "expected an address, as in 0.0.0.0 or [::1]")
    })?;
    let usual = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let all = stated.map_or_else(|| usual.to_vec(), |address| vec![address]);
    Ok(all.into_iter().map(|address: IpAddr| (address, port).into()).collect())
}

/// What is left until a moment, or a time.
fn deadline(text: &str) -> Result<Duration, String> {
    match text.parse::<Timestamp>() {
        Ok(moment) => {
            // One that has passed is told as it is told of when it passes.
            Ok(SystemTime::from(moment).duration_since(SystemTime::now()).unwrap_or_default())
        }
        Err(_) => parse::span(text),
    }
}

fn tls(values: &Values) -> Result<Option<Arc<ServerConfig>>, Unusable> {
    let (certificate, key) = (values.path("tls-cert-file"), values.path("tls-key-file"));
    let authorities = values.path("client-ca-file");
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) if authorities.is_none() => return Ok(None),
        _ => {
            let what = "TLS_CERT_FILE (--tls-cert-file) and TLS_KEY_FILE (--tls-key-file) are needed for TLS, both";
            return Err(Unusable(what.into()));
        }
    };
    let clients = authorities.map(|path| {
        let pem = read(&path).map_err(|error| values.unusable("client-ca-file", error))?;
        clients(&pem).map_err(|why| values.unusable("client-ca-file", format!("{}: {why}", path.display())))
    });
    let identity = Identity::read(&certificate, &key).map_err(|error| values.unusable("tls-cert-file", error))?;
    let config = identity.config(clients.transpose()?);
    config.map(Some).map_err(|error| values.unusable("tls-cert-file", error))
}

#[cfg(test)]
mod tests {
    use super::super::table::GROUPS;
    use super::*;
    use crate::settings;

    /// What an order has of its own, besides what it shares with that of an import.
    fn own(variable: Option<(&str, &str)>) -> String {
        let typed = settings::command(clap::Command::new("x"), GROUPS).get_matches_from(["x"]);
        let (values, _) = Values::gather(GROUPS, &typed, |name| match variable {
            _ if name == "DISKFERRY_DESTINATION" => Some("filesystem".to_owned()),
            Some((stated, value)) if stated == name => Some(value.to_owned()),
            _ => None,
        });
        let order = Order::new(&values).unwrap_or_else(|error| panic!("{error}"));
        format!("{:?}", (order.times, order.linger, order.listen, order.healthz, order.options.limits))
    }

    #[test]
    fn what_nobody_states_is_as_the_page_says() {
        let settings = GROUPS.iter().flat_map(|group| group.settings);
        for setting in settings.filter(|setting| setting.default.starts_with(|first: char| first.is_ascii_digit())) {
            assert_eq!(own(Some((setting.variables[0], setting.default))), own(None), "{}", setting.name);
        }
    }
}
