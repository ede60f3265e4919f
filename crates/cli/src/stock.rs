//! A store of images: how it is named, and how one gets there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use diskferry::{Progress, Result};
use diskferry_remote::http::Patience;
use diskferry_remote::oci::Keys;
use diskferry_remote::oci::stock::{Dealing, Place, Stock};

use crate::access::{AccessArgs, NETWORK};
use crate::exit::Failure;
use crate::output;
use crate::progress::Display;

/// A store, and how one is told of it.
#[derive(Args)]
pub struct StoreArgs {
    /// The store: docker://HOST or a part of it, docker://HOST/PREFIX, or a layout, oci:DIR
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| Place::parse(&typed))))]
    pub store: Place,

    /// Print the result, or the error, as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// How a registry is dealt with. Its heading stands over all that is flattened behind it, so that it comes last in a command.
#[derive(Args)]
#[command(next_help_heading = NETWORK)]
pub struct DealingArgs {
    /// Look for credentials in this file only [default: auth.json of the containers tools, then config.json of Docker]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// Talk to the registry without TLS: anybody on the way can read and replace what is not checked by a digest
    #[arg(long)]
    plain_http: bool,

    /// Give up a server after this many retries in a row that each bring less than 64 KiB
    #[arg(long, value_name = "N", default_value_t = Patience::default().retries)]
    retries: u32,

    /// How long a server may say nothing
    #[arg(long, value_name = "SECONDS", default_value_t = Patience::default().stall.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stall_timeout: u64,

    #[command(flatten)]
    access: AccessArgs,
}

impl DealingArgs {
    /// Opens `store`.
    fn open(&self, store: &Place) -> Result<Stock, Failure> {
        let is_registry = matches!(store, Place::Registry { .. });
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
        Ok(Stock::open(store, &Dealing { access, keys, is_plain: self.plain_http, patience })?)
    }

    /// Does something with `store`, and tells meanwhile when it has failed and is asked again.
    pub fn during<T>(
        &self,
        store: &Place,
        progress: &Progress,
        job: impl FnOnce(&Stock) -> Result<T>,
    ) -> Result<T, Failure> {
        let stock = self.open(store)?;
        let display = if matches!(store, Place::Registry { .. }) { Display::Failures } else { Display::Nothing };
        Ok(display.during(progress, || job(&stock))?)
    }
}
