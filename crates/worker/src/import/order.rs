//! What is to be done, made of settings: where the image is, where it goes, and how. Whatever cannot be meant is refused here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diskferry::archive::Pick;
use diskferry::digest::Checksum;
use diskferry::{Limits, Options, Stated, names};
use diskferry_remote::http::{How, MOST_CONNECTIONS, Patience};
use diskferry_remote::oci::{Form, Keys, Plan, Platform, Reference, Wish};
use diskferry_remote::own_file;
use diskferry_remote::source::Reading;
use diskferry_remote::{Access, Guard, Headers, HostPattern, Location, Login, Proxies, Sandbox, Secret, Trust};
use url::Url;

use crate::settings::{Unusable, Values, parse};

/// Variables, as the environment has them.
pub type Environment = BTreeMap<String, String>;

/// Variables that may be secret, and are printed without their values.
#[derive(Default)]
pub struct Hidden(Environment);

impl Hidden {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What kind of source there is, where that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A server, a registry or a file: what the image is has to be found out.
    Anywhere,
    /// A container image that may be copied as it is.
    Registry,
    /// A disk that a guest could write to: it is no image of another format, whatever it looks like.
    Device,
}

/// What is to be done.
#[derive(Debug)]
pub struct Order {
    /// What kind of source there is.
    pub origin: Origin,
    /// Where the image is.
    pub location: Location,
    /// How it is read.
    pub reading: Reading,
    /// What a store that speaks S3 is told.
    pub s3: Hidden,
    /// Whether a registry that has no TLS may be read without.
    pub source_may_be_plain: bool,
    /// Where it goes.
    pub destination: Destination,
    /// Digests that it must have, its format if that is stated, and limits.
    pub options: Options,
    /// How long what may pass is waited out.
    pub patience: Duration,
    /// Where images are decoded.
    pub sandbox: Sandbox,
}

/// Where an image goes.
#[derive(Debug)]
pub enum Destination {
    /// Into a registry.
    Registry(Box<Store>),
    /// To a volume, as a raw disk.
    Volume(Volume),
}

impl Destination {
    /// The same, with everything that is decoded for it decoded in `sandbox`.
    pub fn within(mut self, sandbox: &Sandbox) -> Self {
        if let Self::Registry(store) = &mut self {
            store.plan.sandbox = sandbox.clone();
        }
        self
    }
}

/// A container image to be made.
#[derive(Debug)]
pub struct Store {
    /// What it is called.
    pub reference: Reference,
    /// Who we are, and whom we believe.
    pub access: Access,
    /// Where credentials are looked for, unless `access` has some.
    pub keys: Keys,
    /// Without TLS.
    pub plain_http: bool,
    /// Without TLS if there is none.
    pub may_be_plain: bool,
    /// Patience with it.
    pub patience: Patience,
    /// How the image is put into it.
    pub plan: Plan,
}

/// A volume for a raw disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// A block device, or a file that need not exist.
    pub path: PathBuf,
    /// Whether it is a block device.
    pub is_block: bool,
    /// Size of the disk, if it was stated, in bytes.
    pub size: Option<u64>,
    /// What of the free room a disk may not take, in millionths.
    pub overhead: u32,
    /// Whether room is reserved first.
    pub preallocate: bool,
    /// After how many stored bytes the journal is written; 0 for never.
    pub journal_every: u64,
}

/// What is written again at most by who goes on. Making so much durable takes a disk the better part of a second.
const JOURNAL_EVERY: u64 = 256 << 20;

/// Where a platform mounts a volume: as a device, and as a filesystem.
const BLOCK: &str = "/dev/cdi-block-volume";
const DISK: &str = "/data/disk.img";

/// Where a platform mounts a source.
const SOURCE_DEVICE: &str = "/dev/xvda";
const SOURCE_DISK: &str = "/tmp/fs/disk.img";

/// Where a platform mounts secret headers.
const HEADERS: &str = "/extraheaders";
/// Most bytes of a file of headers.
const HEADERS_MOST: u64 = 1 << 20;

/// What a variable with a header begins with.
const HEADER_VARIABLE: &str = "IMPORTER_EXTRA_HEADER_";

/// Part of a filesystem that is not for the disk, in millionths.
const OVERHEAD: u32 = 60_000;

/// Memory for windows and dictionaries: the largest of `xz -9`. With more, blocks of an xz file are unpacked at the same time, and pods
/// have little memory.
const WINDOW: u64 = 64 << 20;

/// How long what may pass is waited out.
const PATIENCE: Duration = Duration::from_secs(17 * 60);

impl Order {
    /// Understands `values`; `environment` has the variables with headers, whose number nobody knows before.
    pub fn new(values: &Values, environment: &Environment) -> Result<Self, Unusable> {
        for (name, only) in [("content-type", "kubevirt"), ("pull-method", "pod")] {
            if values.text(name).is_some_and(|text| text != only) {
                return Err(values.unusable(name, format!("{only:?} is the only one that there is")));
            }
        }
        let kind = values.text("source").unwrap_or("http");
        let (patience, patient) = patience(values)?;
        let destination = destination(values, patient)?;
        let mut access = access(values, environment)?;
        let mut keys = keys(values, "auth-config");
        let mut may_be_plain = values.is_on("insecure-tls")?;
        let mut plain_http = values.is_on("plain-http")?;
        let (origin, location, s3) = source(values, kind)?;
        if kind == "dvcr"
            && let Destination::Registry(store) = &destination
        {
            // It is the same registry, and its credentials are those of the destination unless there are others.
            if access.login.is_none() && values.text("auth-config").is_none() {
                (access.login, keys) = (store.access.login.clone(), store.keys.clone());
            }
            access.trust.ca.extend(store.access.trust.ca.iter().cloned());
            access.trust.insecure |= store.access.trust.insecure;
            may_be_plain |= store.may_be_plain;
            plain_http |= store.plain_http;
        }
        let options = options(values, &destination)?;
        let format = if origin == Origin::Device { None } else { options.format.clone() };
        let connections = values.read("connections", parse::number::<usize>)?.unwrap_or(1);
        if !(1..=MOST_CONNECTIONS).contains(&connections) {
            return Err(values.unusable("connections", format!("from 1 to {MOST_CONNECTIONS}")));
        }
        let how = How { look: false, connections, patience: patient, format };
        let wish = Wish {
            pick: Pick::UnderDisk,
            platform: platform(values)?,
            limits: options.limits.clone(),
            threads: options.threads,
            sandbox: Sandbox::default(),
            // What a server puts around a layer is not what was stated about the image in it.
            how: How { format: None, ..how.clone() },
        };
        let reading = Reading { how, wish, access, keys, plain_http };
        let s3 = Hidden(s3);
        Ok(Self {
            origin,
            location,
            reading,
            s3,
            source_may_be_plain: may_be_plain,
            destination,
            options,
            patience,
            sandbox: Sandbox::default(),
        })
    }

    /// The same, with everything that is decoded decoded in `sandbox`.
    pub fn within(mut self, sandbox: &Sandbox) -> Self {
        self.reading.wish.sandbox = sandbox.clone();
        self.destination = self.destination.within(sandbox);
        self.options = sandbox.options(self.options);
        Self { sandbox: sandbox.clone(), ..self }
    }

    /// What people may be told of where the image is.
    pub fn shown(&self) -> String {
        self.location.shown().to_string_lossy().into_owned()
    }
}

/// How long what may pass is waited for, and what that means for one server.
pub(crate) fn patience(values: &Values) -> Result<(Duration, Patience), Unusable> {
    let patience = values.read("patience", parse::span)?.unwrap_or(PATIENCE);
    let most = patience.saturating_mul(2);
    let patient = Patience {
        retries: retries(patience),
        first_pause: Duration::from_secs(1),
        most: Some(most),
        ..stall(values)?
    };
    Ok((patience, patient))
}

/// How often is tried again until about `patience` has passed, when pauses double from a second to a minute.
fn retries(patience: Duration) -> u32 {
    let mut left = patience.as_secs();
    let mut pause = 1;
    let mut retries = 0_u32;
    while left > 0 {
        left = left.saturating_sub(pause);
        pause = (pause * 2).min(60);
        retries = retries.saturating_add(1);
    }
    retries
}

fn stall(values: &Values) -> Result<Patience, Unusable> {
    let stall = values.read("stall-timeout", parse::span)?.unwrap_or(Patience::default().stall);
    if stall.is_zero() {
        return Err(values.unusable("stall-timeout", "a server needs some time"));
    }
    Ok(Patience { stall, ..Patience::default() })
}

/// Where the image is, and what a store that speaks S3 has to be told for it.
fn source(values: &Values, kind: &str) -> Result<(Origin, Location, Environment), Unusable> {
    let endpoint = values.text("endpoint").map(str::trim);
    let needed = || endpoint.ok_or_else(|| Unusable("IMPORTER_ENDPOINT (--endpoint) is not set".into()));
    let bad = |why: String| values.unusable("endpoint", why);
    let none = Environment::new;
    match kind {
        "http" => match needed()?.parse::<Location>() {
            Ok(location @ Location::Http(_)) => Ok((Origin::Anywhere, location, none())),
            Ok(_) => Err(bad("expected an http:// or https:// URL".into())),
            Err(why) => Err(bad(why)),
        },
        "registry" | "dvcr" => {
            let origin = if kind == "dvcr" { Origin::Registry } else { Origin::Anywhere };
            let reference = reference(needed()?).map_err(bad)?;
            Ok((origin, Location::Registry(reference), none()))
        }
        "s3" => {
            let (location, variables) = object(values, needed()?).map_err(bad)?;
            Ok((Origin::Anywhere, location, variables))
        }
        "blockDevice" => Ok((Origin::Device, Location::Path(endpoint.unwrap_or(SOURCE_DEVICE).into()), none())),
        "filesystem" => Ok((Origin::Anywhere, Location::Path(endpoint.unwrap_or(SOURCE_DISK).into()), none())),
        _ => {
            let known = "http, registry, dvcr, s3, blockDevice and filesystem";
            Err(values.unusable("source", format!("this kind of source is not known, only {known}")))
        }
    }
}

/// An image in a registry, with `docker://` in front or without.
fn reference(text: &str) -> Result<Reference, String> {
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    if bare.contains("://") {
        return Err("expected docker://HOST/REPOSITORY:TAG".into());
    }
    match format!("docker://{bare}").parse()? {
        Location::Registry(reference) => Ok(reference),
        _ => Err("expected docker://HOST/REPOSITORY:TAG".into()),
    }
}

/// An object as in `s3://bucket/key` or `https://host/bucket/key`.
fn object(values: &Values, text: &str) -> Result<(Location, Environment), String> {
    let mut variables = Environment::new();
    let pairs = [
        ("AWS_ACCESS_KEY_ID", secret(values, "access-key-id")),
        ("AWS_SECRET_ACCESS_KEY", secret(values, "secret-key")),
        ("AWS_REGION", values.text("s3-region")),
    ];
    variables.extend(pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
    let typed = if text.starts_with("s3://") {
        text.to_owned()
    } else {
        let wrong = || "expected s3://BUCKET/KEY or https://HOST/BUCKET/KEY".to_owned();
        let url = Url::parse(text).map_err(|_| wrong())?;
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        let path = percent_encoding::percent_decode_str(url.path().trim_start_matches('/')).decode_utf8();
        let path = path.ok().filter(|path| is_web && path.contains('/')).ok_or_else(wrong)?;
        variables.insert("AWS_ENDPOINT_URL".into(), url.origin().ascii_serialization());
        format!("s3://{path}")
    };
    match typed.parse()? {
        location @ Location::S3(_) => Ok((location, variables)),
        _ => Err("expected s3://BUCKET/KEY".into()),
    }
}

pub(crate) fn destination(values: &Values, patience: Patience) -> Result<Destination, Unusable> {
    let endpoint = values.text("destination-endpoint");
    let usual = match endpoint {
        Some(_) => "registry",
        None if Path::new(BLOCK).exists() => "block",
        None => "filesystem",
    };
    match values.text("destination").unwrap_or(usual) {
        "registry" => {
            let endpoint = endpoint
                .ok_or_else(|| Unusable("IMPORTER_DESTINATION_ENDPOINT (--destination-endpoint) is not set".into()))?;
            store(values, endpoint.trim(), patience).map(|store| Destination::Registry(Box::new(store)))
        }
        kind @ ("block" | "filesystem") => {
            let is_block = kind == "block";
            let path = values.path("destination-path").unwrap_or_else(|| if is_block { BLOCK } else { DISK }.into());
            Ok(Destination::Volume(Volume {
                path,
                is_block,
                size: values.read("image-size", parse::quantity)?.filter(|size| *size > 0),
                overhead: values.read("filesystem-overhead", parse::part)?.unwrap_or(OVERHEAD),
                preallocate: values.is_on("preallocation")?,
                journal_every: values.read("journal-every", parse::quantity)?.unwrap_or(JOURNAL_EVERY),
            }))
        }
        _ => Err(values.unusable("destination", "expected registry, block or filesystem")),
    }
}

fn store(values: &Values, endpoint: &str, patience: Patience) -> Result<Store, Unusable> {
    let bad = |why: String| values.unusable("destination-endpoint", why);
    let reference = reference(endpoint).map_err(bad)?;
    if Location::Registry(reference.clone()).has_digest() {
        return Err(bad("a digest is what comes of it: name a tag".into()));
    }
    let insecure = values.is_on("destination-insecure-tls")?;
    // Some platforms put the certificates themselves there.
    let pem = values.text("destination-cert-dir").filter(|text| text.trim_start().starts_with("-----BEGIN"));
    let ca = values.path("destination-cert-dir").filter(|_| pem.is_none()).into_iter().collect();
    let pem = pem.map(str::to_owned);
    let login = login(values, "destination-access-key-id", "destination-secret-key");
    let token_servers = values.read("destination-token-servers", hosts)?.unwrap_or_default();
    let access = Access {
        login,
        trust: Trust { ca, pem, identity: None, insecure },
        proxies: proxies(values)?,
        guard: Guard { token_servers, ..Guard::default() },
        ..Access::default()
    };
    let form = match values.text("store-as").unwrap_or("stored") {
        "stored" => Form::Stored,
        "raw" => Form::Raw,
        "raw-zstd" => Form::RawZstd,
        _ => return Err(values.unusable("store-as", "expected stored, raw or raw-zstd")),
    };
    let name = values.text("name").unwrap_or("disk.img");
    let plan = Plan::new(name, Platform::usual(), form)
        .ok_or_else(|| values.unusable("name", "a file in a container image cannot have that name"))?;
    Ok(Store {
        reference,
        access,
        keys: keys(values, "destination-auth-config"),
        plain_http: values.is_on("destination-plain-http")?,
        may_be_plain: insecure,
        patience,
        plan,
    })
}

/// Who we are for the source, and whom we believe.
fn access(values: &Values, environment: &Environment) -> Result<Access, Unusable> {
    let ca = ["cert-dir", "proxy-cert-dir"].into_iter().filter_map(|name| values.path(name)).collect();
    Ok(Access {
        login: login(values, "access-key-id", "secret-key"),
        headers: headers(values, environment)?,
        trust: Trust { ca, insecure: values.is_on("insecure-tls")?, ..Trust::default() },
        proxies: proxies(values)?,
        guard: Guard {
            allow_hosts: values.read("allow-hosts", hosts)?,
            deny_private: values.is_on("deny-private")?,
            token_servers: values.read("token-servers", hosts)?.unwrap_or_default(),
            redirects: values.read("max-redirects", parse::number)?.unwrap_or(Guard::default().redirects),
        },
        ..Access::default()
    })
}

fn hosts(text: &str) -> Result<Vec<HostPattern>, String> {
    text.split(',').map(|host| host.trim().parse()).collect()
}

fn login(values: &Values, user: &str, password: &str) -> Option<Login> {
    let (user, password) = (secret(values, user), secret(values, password));
    (user.is_some() || password.is_some()).then(|| Login::Basic {
        user: user.unwrap_or_default().to_owned(),
        password: Secret::new(password.unwrap_or_default()),
    })
}

/// What was encoded for a secret by hand often has the end of its line.
fn secret<'a>(values: &'a Values, name: &str) -> Option<&'a str> {
    values.text(name).map(|text| text.trim_end_matches(['\n', '\r']))
}

fn keys(values: &Values, name: &str) -> Keys {
    values.path(name).map_or_else(Keys::default, |path| Keys::named(&path))
}

fn proxies(values: &Values) -> Result<Proxies, Unusable> {
    let names = [
        ("http_proxy", "http-proxy"),
        ("https_proxy", "https-proxy"),
        ("all_proxy", "all-proxy"),
        ("no_proxy", "no-proxy"),
    ];
    let variable = |wanted: &str| {
        let (_, name) = names.iter().find(|(variable, _)| *variable == wanted)?;
        values.text(name).map(str::to_owned)
    };
    Proxies::from_variables(variable).map_err(|error| {
        // The text begins with the name of a variable that may not be where the value is from.
        let text = error.to_string();
        let named = text.split_once(": ").and_then(|(variable, why)| {
            let (_, name) = names.iter().find(|(known, _)| *known == variable)?;
            Some(values.unusable(name, why))
        });
        named.unwrap_or(Unusable(text))
    })
}

/// Headers of the settings, of the environment and of files; each source may have several of one name.
fn headers(values: &Values, environment: &Environment) -> Result<Headers, Unusable> {
    let mut all = values.read("headers", str::parse::<Headers>)?.unwrap_or_default();
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with(HEADER_VARIABLE)) {
        all = all.and(&value.parse().map_err(|why| Unusable(format!("{name}: {why}")))?);
    }
    let named = values.path("extra-headers-dir");
    let dir = named.clone().unwrap_or_else(|| HEADERS.into());
    if named.is_none() && !dir.is_dir() {
        return Ok(all);
    }
    let bad = |path: &Path, why: String| Unusable(format!("{}: {why}", path.display()));
    let mut paths = Vec::new();
    for name in names(&dir).map_err(|error| bad(&dir, error.to_string()))? {
        paths.push(dir.join(name.map_err(|error| bad(&dir, error.to_string()))?));
    }
    paths.sort();
    for path in paths {
        // A mounted secret has directories whose names begin with two dots, and links into them.
        if !fs::metadata(&path).is_ok_and(|file| file.is_file()) {
            continue;
        }
        let text = own_file::read_text(&path, HEADERS_MOST).map_err(|error| bad(&path, error.to_string()))?;
        all = all.and(&text.parse().map_err(|why| bad(&path, why))?);
    }
    Ok(all)
}

fn platform(values: &Values) -> Result<Option<Platform>, Unusable> {
    let whole = values.read("platform", str::parse::<Platform>)?;
    let processor = values.read("architecture", |text| format!("linux/{text}").parse::<Platform>())?;
    Ok(whole.or(processor))
}

pub(crate) fn options(values: &Values, destination: &Destination) -> Result<Options, Unusable> {
    let usual = Limits::default();
    let size = |name, usual| Ok(values.read(name, parse::quantity)?.unwrap_or(usual));
    let limits = Limits {
        virtual_size: size("max-size", usual.virtual_size)?,
        table: size("limit-table", usual.table)?,
        unit: size("limit-unit", usual.unit)?,
        layers: values.read("limit-layers", parse::number)?.unwrap_or(usual.layers),
        window: size("limit-window", WINDOW)?,
        spool_memory: size("limit-spool-memory", usual.spool_memory)?,
        spool: size("spool-limit", usual.spool)?,
    };
    let checksums = |text: &str| {
        let each = text.split(',').map(str::trim).filter(|sum| !sum.is_empty());
        each.map(str::parse::<Checksum>).collect::<Result<Vec<_>, _>>()
    };
    let beside = match destination {
        Destination::Volume(volume) if !volume.is_block => volume.path.parent().map(Path::to_owned),
        _ => None,
    };
    Ok(Options {
        format: values.read("format", str::parse::<Stated>)?,
        limits,
        threads: values.read("threads", parse::number)?.unwrap_or(0),
        checksums: values.read("checksum", checksums)?.unwrap_or_default(),
        spool_dir: values.path("spool-dir").or(beside),
        ..Options::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::GROUPS;
    use super::*;
    use crate::settings;

    fn order(variables: &[(&str, &str)]) -> Result<Order, String> {
        let environment: Environment =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let typed = settings::command(clap::Command::new("x"), GROUPS).get_matches_from(["x"]);
        let (values, refused) = Values::gather(GROUPS, &typed, |name| environment.get(name).cloned());
        refused.map_or(Ok(()), |refused| Err(refused.0))?;
        Order::new(&values, &environment).map_err(|error| error.0)
    }

    const HTTP: [(&str, &str); 3] = [
        ("IMPORTER_SOURCE", "http"),
        ("IMPORTER_ENDPOINT", "https://images.example/debian.qcow2"),
        ("IMPORTER_DESTINATION_ENDPOINT", "dvcr.example/vi/team/debian:1"),
    ];

    fn with(more: &[(&str, &str)]) -> Result<Order, String> {
        order(&[&HTTP[..], more].concat())
    }

    #[test]
    fn the_variables_of_an_importer_are_understood() {
        let order = with(&[
            ("IMPORTER_ACCESS_KEY_ID", "me"),
            ("IMPORTER_SECRET_KEY", "hunter2"),
            ("IMPORTER_DESTINATION_ACCESS_KEY_ID", "pusher"),
            ("IMPORTER_DESTINATION_SECRET_KEY", "hunter3"),
            ("DESTINATION_INSECURE_TLS", "true"),
            ("INSECURE_TLS", "false"),
            ("IMPORTER_CHECKSUMS", "md5:900150983cd24fb0d6963f7d28e17f72, sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"),
            ("IMPORTER_EXTRA_HEADER_0", "X-One: 1"),
            ("IMPORTER_EXTRA_HEADER_1", "X-Two: hunter4"),
            ("https_proxy", "http://proxy.example:3128"),
            ("IMPORTER_REGISTRY_IMAGE_ARCHITECTURE", "arm64"),
            ("DISKFERRY_TOKEN_SERVERS", "sso.example, *.auth.example"),
            ("DISKFERRY_DESTINATION_TOKEN_SERVERS", "dvcr-auth.example"),
        ])
        .unwrap();
        assert_eq!(order.options.checksums.len(), 2);
        assert_eq!(order.reading.wish.platform.as_ref().unwrap().to_string(), "linux/arm64");
        let Destination::Registry(store) = &order.destination else { panic!() };
        assert_eq!(store.reference.to_string(), "docker://dvcr.example/vi/team/debian:1");
        assert_eq!(store.access.guard.token_servers, ["dvcr-auth.example".parse().unwrap()]);
        let trusted = ["sso.example", "*.auth.example"].map(|host| host.parse().unwrap());
        assert_eq!(order.reading.access.guard.token_servers, trusted);
        assert!(store.access.trust.insecure && !order.reading.access.trust.insecure);
        let printed = format!("{order:?}");
        assert!(printed.contains("x-two") && printed.contains("pusher") && !printed.contains("hunter"), "{printed}");
    }

    #[test]
    fn what_nobody_states_is_as_the_page_says() {
        let settings = GROUPS.iter().flat_map(|group| group.settings);
        for setting in settings.filter(|setting| setting.default.starts_with(|first: char| first.is_ascii_digit())) {
            for destination in ["registry", "filesystem"] {
                let destination = ("DISKFERRY_DESTINATION", destination);
                let stated = with(&[destination, (setting.variables[0], setting.default)]).unwrap();
                assert_eq!(format!("{stated:?}"), format!("{:?}", with(&[destination]).unwrap()), "{}", setting.name);
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_names_its_variable() {
        for (name, value, says) in [
            ("INSECURE_TLS", "yes", "INSECURE_TLS: expected true or false"),
            ("IMPORTER_SOURCE", "vddk", "IMPORTER_SOURCE: this kind of source is not known"),
            ("IMPORTER_ENDPOINT", "nonsense", "IMPORTER_ENDPOINT: expected an http://"),
            ("IMPORTER_CONTENTTYPE", "archive", "IMPORTER_CONTENTTYPE: \"kubevirt\" is the only one"),
            ("IMPORTER_PULL_METHOD", "node", "IMPORTER_PULL_METHOD: \"pod\" is the only one"),
            ("IMPORTER_CHECKSUM", "crc32:00", "IMPORTER_CHECKSUM: unknown algorithm"),
            ("IMPORTER_EXTRA_HEADER_3", "hunter2", "IMPORTER_EXTRA_HEADER_3: line 1 is no header"),
            ("HTTP_PROXY", "ftp://u:hunter2@p", "HTTP_PROXY: a proxy speaks one of"),
            ("DISKFERRY_CONNECTIONS", "99", "DISKFERRY_CONNECTIONS: from 1 to 16"),
            ("DISKFERRY_NAME", "../x", "DISKFERRY_NAME: a file in a container image"),
            ("IMPORTER_DESTINATION_ENDPOINT", "h/A:1", "IMPORTER_DESTINATION_ENDPOINT: a repository"),
            ("DISKFERRY_PATIENCE", "soon", "DISKFERRY_PATIENCE: \"soon\" is no time"),
            (
                "DISKFERRY_TOKEN_SERVERS",
                "http://sso.example",
                "DISKFERRY_TOKEN_SERVERS: \"http://sso.example\" is no host",
            ),
            ("DISKFERRY_FORMAT", "vhd", "DISKFERRY_FORMAT: unknown format"),
        ] {
            let refused = with(&[(name, value)]).unwrap_err();
            assert!(refused.starts_with(says) && !refused.contains("hunter"), "{refused}");
        }
        assert!(order(&[]).unwrap_err().starts_with("IMPORTER_ENDPOINT (--endpoint) is not set"));
        let preallocation = [HTTP[0], HTTP[1], ("PREALLOCATION", "maybe")];
        assert_eq!(order(&preallocation).unwrap_err(), "PREALLOCATION: expected true or false");
    }

    #[test]
    fn a_volume_is_the_destination_where_no_registry_is_named() {
        let volume = |more: &[(&str, &str)]| match order(&[&HTTP[..2], more].concat()).unwrap().destination {
            Destination::Volume(volume) => volume,
            Destination::Registry(_) => panic!(),
        };
        let usual = Volume {
            path: DISK.into(),
            is_block: false,
            size: None,
            overhead: OVERHEAD,
            preallocate: false,
            journal_every: 256 << 20,
        };
        assert_eq!(volume(&[]), usual);
        let stated = volume(&[
            ("DISKFERRY_DESTINATION", "block"),
            ("IMPORTER_IMAGE_SIZE", "2Gi"),
            ("FILESYSTEM_OVERHEAD", "0.055"),
            ("PREALLOCATION", "true"),
            ("DISKFERRY_JOURNAL_EVERY", "0"),
        ]);
        let expected = Volume {
            path: BLOCK.into(),
            is_block: true,
            size: Some(2 << 30),
            overhead: 55_000,
            preallocate: true,
            journal_every: 0,
        };
        assert_eq!(stated, expected);
    }

    #[test]
    fn each_kind_of_source_has_its_place() {
        let place = |kind: &str, endpoint: &str| {
            let order = order(&[("IMPORTER_SOURCE", kind), ("IMPORTER_ENDPOINT", endpoint)]).unwrap();
            (order.origin, order.shown())
        };
        let reference = "docker://h.example/a:1";
        assert_eq!(place("registry", reference), (Origin::Anywhere, reference.into()));
        assert_eq!(place("dvcr", "h.example/a:1"), (Origin::Registry, reference.into()));
        assert_eq!(place("blockDevice", ""), (Origin::Device, "/dev/xvda".into()));
        assert_eq!(place("filesystem", "/x/y"), (Origin::Anywhere, "/x/y".into()));
        assert_eq!(place("s3", "https://store.example/b/a/c%20d"), (Origin::Anywhere, "s3://b/a/c d".into()));
        assert_eq!(place("s3", "s3://b/a"), (Origin::Anywhere, "s3://b/a".into()));
    }

    #[test]
    fn what_a_store_is_told_is_not_printed() {
        let order = order(&[
            ("IMPORTER_SOURCE", "s3"),
            ("IMPORTER_ENDPOINT", "s3://b/a"),
            ("IMPORTER_ACCESS_KEY_ID", "AKID"),
            ("IMPORTER_SECRET_KEY", "hunter2"),
        ])
        .unwrap();
        assert_eq!(order.s3.get("AWS_SECRET_ACCESS_KEY").as_deref(), Some("hunter2"));
        assert!(!format!("{order:?}").contains("hunter2"));
    }

    #[test]
    fn a_copy_within_a_registry_has_the_credentials_of_the_destination() {
        let order = order(&[
            ("IMPORTER_SOURCE", "dvcr"),
            ("IMPORTER_ENDPOINT", "dvcr.example/vi/a:1"),
            ("IMPORTER_DESTINATION_ENDPOINT", "dvcr.example/vi/b:1"),
            ("IMPORTER_DESTINATION_ACCESS_KEY_ID", "pusher"),
            ("DESTINATION_INSECURE_TLS", "true"),
        ])
        .unwrap();
        assert!(matches!(&order.reading.access.login, Some(Login::Basic { user, .. }) if user == "pusher"));
        assert!(order.reading.access.trust.insecure && order.source_may_be_plain);
    }

    #[test]
    fn seventeen_minutes_are_about_twenty_tries() {
        assert_eq!((retries(PATIENCE), retries(Duration::ZERO), retries(Duration::from_secs(3))), (22, 0, 2));
    }

    #[test]
    fn headers_of_a_mounted_secret_are_read_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2026")).unwrap();
        fs::write(dir.path().join("..2026/token"), "Authorization: Bearer hunter2\n").unwrap();
        std::os::unix::fs::symlink("..2026", dir.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/token", dir.path().join("token")).unwrap();
        let path = dir.path().to_str().unwrap();
        let order = with(&[("DISKFERRY_EXTRA_HEADERS_DIR", path)]).unwrap();
        assert!(order.reading.access.headers.authorize());
        assert!(with(&[("DISKFERRY_EXTRA_HEADERS_DIR", "/nowhere")]).unwrap_err().contains("/nowhere: No such file"));
    }

    #[test]
    fn a_file_of_headers_has_a_mebibyte_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let with = |len: usize| {
            fs::write(dir.path().join("token"), "X-One: 1\n".to_owned() + &"\n".repeat(len - 9)).unwrap();
            with(&[("DISKFERRY_EXTRA_HEADERS_DIR", dir.path().to_str().unwrap())])
        };
        assert!(with(1 << 20).is_ok());
        let refused = with((1 << 20) + 1).unwrap_err();
        assert!(refused.ends_with("/token: it has more than 1048576 bytes"), "{refused}");
    }
}
