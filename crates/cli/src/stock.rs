//! A store of images: how it is named, and how one gets there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use diskferry_remote::http::Patience;
use diskferry_remote::oci::Keys;
use diskferry_remote::oci::stock::{Dealing, Place, Stock};

use crate::access::AccessArgs;
use crate::exit::Failure;
use crate::output;

/// A store, and what one needs to look into it.
#[derive(Args)]
pub struct StoreArgs {
    /// The store: docker://HOST or a part of it, docker://HOST/PREFIX, or a layout, oci:DIR
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| Place::parse(&typed))))]
    pub store: Place,

    /// Print the result, or the error, as JSON on stdout
    #[arg(long)]
    pub json: bool,

    /// Look for credentials in this file only [default: auth.json of the containers tools, then config.json of Docker]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// Talk to the registry without TLS: anybody on the way can read and replace what is not checked by a digest
    #[arg(long)]
    plain_http: bool,

    /// How often a server is asked again that gives nothing new in between
    #[arg(long, value_name = "N", default_value_t = Patience::default().retries)]
    retries: u32,

    /// How long a server may say nothing
    #[arg(long, value_name = "SECONDS", default_value_t = Patience::default().stall.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stall_timeout: u64,

    #[command(flatten)]
    access: AccessArgs,
}

impl StoreArgs {
    /// Opens it.
    pub fn open(&self) -> Result<Stock, Failure> {
        let is_registry = matches!(self.store, Place::Registry { .. });
        if !is_registry && (self.authfile.is_some() || self.plain_http) {
            return Err(Failure::Usage("--authfile and --plain-http are for registries: docker://HOST".into()));
        }
        if is_registry && self.access.insecure {
            output::say(
                "warning: --insecure: no certificate is checked, and anybody on the way can read and replace what comes",
            );
        }
        let keys =
            self.authfile.as_ref().map_or_else(|| Keys::usual(|name| std::env::var_os(name)), |file| Keys::named(file));
        let stall = Duration::from_secs(self.stall_timeout);
        let patience = Patience { retries: self.retries, stall, ..Patience::default() };
        // What is here needs no credentials.
        let access = if is_registry { self.access.resolve()? } else { diskferry_remote::Access::default() };
        Ok(Stock::open(&self.store, &Dealing { access, keys, is_plain: self.plain_http, patience })?)
    }
}
