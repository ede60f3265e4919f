//! `diskferry copy`.

use std::io::{self, IsTerminal};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use diskferry::Progress;
use diskferry_remote::oci::{self, Copied, Layout, Registry, Store};
use diskferry_remote::{Client, Location, Runtime};

use crate::args::{FetchArgs, When, destination, image};
use crate::exit::Failure;
use crate::progress::Display;
use crate::push::open_target;
use crate::{deadline, human, json, output, signals};

const EXAMPLES: &str = "\
Examples:
  diskferry copy docker://registry.example/images/debian:12 docker://mirror.example/images/debian:12
  diskferry copy --platform linux/arm64 docker://registry.example/images/debian:12 oci:/srv/images:debian-12";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CopyArgs {
    /// The image: docker://HOST/REPOSITORY:TAG or oci:DIR:NAME, or with @DIGEST
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| image(&typed))))]
    source: Location,

    /// Where it goes: docker://HOST/REPOSITORY:TAG or oci:DIR:NAME
    ///
    /// A directory that is empty or not there becomes an image layout. What has the same name in it is replaced.
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| destination(&typed))))]
    target: Location,

    /// Print the result, or the error, as JSON on stdout
    #[arg(long)]
    pub json: bool,

    /// Only errors on stderr
    #[arg(short, long)]
    quiet: bool,

    /// Show progress on stderr
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    progress: When,

    #[command(flatten)]
    fetch: FetchArgs,
}

/// Copies the image, and says what came of it.
pub fn run(args: CopyArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    args.fetch.access.warn(&[&args.source, &args.target], args.quiet);
    let display = Display::choose(args.progress, args.quiet, true);
    let (watched, shown) = (progress.clone(), (args.source.shown(), args.target.shown()));
    let (as_json, quiet, when) = (args.json, args.quiet, args.progress);
    let timeout = args.fetch.timeout();
    let copied = display.during(&watched, move || deadline::within(timeout, &progress, || carry(&args, &progress)))?;
    if !quiet && (when == When::Always || (when == When::Auto && io::stderr().is_terminal())) {
        output::say(&human::copied(&copied));
    }
    if as_json {
        output::result(&json::text(&json::copied(&shown.0, &shown.1, &copied)))?;
    }
    Ok(())
}

fn carry(args: &CopyArgs, progress: &Progress) -> Result<Copied, Failure> {
    if args.fetch.container.names_a_file() {
        return Err(Failure::Usage("--path is for one disk image; a container image is copied as a whole".into()));
    }
    args.fetch.container.refuse_without_registry(&args.source, &args.target)?;
    let wish = args.fetch.wish_to_copy();
    let source = match &args.source {
        Location::Layout(dir, name) => Store::Layout(Layout::open(dir)?, name.clone()),
        Location::Registry(reference) => {
            let (runtime, client) = (Runtime::new()?, Client::new(&args.fetch.access.resolve()?)?);
            let container = &args.fetch.container;
            let registry = Registry::new(&runtime, &client, reference, &container.keys(), container.plain_http);
            Store::Registry(Box::new(registry))
        }
        _ => return Err(Failure::Usage("SOURCE is neither docker://HOST/REPOSITORY:TAG nor oci:DIR:NAME".into())),
    };
    let (target, _) = open_target(&args.target, &args.source, &args.fetch, wish.how.patience)?;
    Ok(oci::copy(&source, &target, &wish, progress)?)
}
