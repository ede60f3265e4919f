//! `diskferry push`.

use std::io::{self, IsTerminal};
use std::path::Path;

use diskferry::{Error, Progress};
use diskferry_remote::http::Patience;
use diskferry_remote::oci::{Form, Plan, Platform, Pushed, Stow, Target, Upload};
use diskferry_remote::{Access, Client, Location, Runtime, Sandbox, Trust};

use crate::args::{FetchArgs, PushArgs, When};
use crate::exit::Failure;
use crate::progress::Display;
use crate::source::{Reading, Source};
use crate::{deadline, human, json, output, signals};

/// What the image is called in its layer where the source has no name that it could have there.
const NAME: &str = "disk.img";

/// What stands behind the names of images and of what they are packed in, and not behind that of a disk.
const ENDINGS: [&str; 14] = [
    ".gz", ".xz", ".zst", ".zstd", ".bz2", ".qcow2", ".qcow2c", ".vmdk", ".vdi", ".iso", ".raw", ".img", ".dd", ".bin",
];

/// Stores the image as a container image, and says what came of it.
pub fn run(args: PushArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    let sandbox = args.job.sandbox.resolve()?;
    args.fetch.access.warn(&[&args.source, &args.target], args.job.quiet);

    let display = Display::choose(args.job.progress, args.job.quiet, true);
    let (as_json, quiet, when) = (args.job.json, args.job.quiet, args.job.progress);
    let (source, target) = (args.source.shown(), args.target.shown());
    let watched = progress.clone();
    let within = sandbox.clone();
    let timeout = args.fetch.timeout();
    let pushed =
        display.during(&watched, move || deadline::within(timeout, &progress, || carry(args, &within, &progress)))?;

    if !quiet {
        output::warn(&pushed.report.inspection.image.warnings);
        if when == When::Always || (when == When::Auto && io::stderr().is_terminal()) {
            output::say(&human::pushed(&pushed));
        }
    }
    if as_json {
        output::result(&json::text(&json::within(json::pushed(&source, &target, &pushed), &sandbox)))?;
    }
    Ok(())
}

fn carry(args: PushArgs, sandbox: &Sandbox, progress: &Progress) -> Result<Pushed, Failure> {
    let container = &args.fetch.container;
    container.refuse_without_registry(&args.source, &args.target)?;
    if container.names_a_file() && !matches!(args.source, Location::Registry(_) | Location::Layout(..)) {
        return Err(Failure::Usage("--path is for a SOURCE that is a container image: docker:// or oci:".into()));
    }
    let platform = container.platform.clone().unwrap_or_else(Platform::usual);
    let plan = Plan { sandbox: sandbox.clone(), ..plan(&args, platform)? };
    let reading = Reading::new(&args.fetch, &args.job, &args.limits, false).for_push().within(sandbox);
    let source = Source::new(&args.source, reading)?;
    let mut checksums = args.checksum.clone();
    if let Some(from) = &args.checksum_url {
        checksums.push(source.published(from, progress)?);
    }
    // First of all: without a source, nothing is made for it.
    let mut input = Some(source.open(progress)?);
    let patience = args.fetch.how(&args.job, false).patience;
    let (target, dir) = open_target(&args.target, &args.source, &args.fetch, patience)?;
    let dir = dir.map(Path::to_owned);
    let options = sandbox.options(args.job.options(args.limits, checksums, dir.as_deref()));
    let open = || input.take().map_or_else(|| source.open(progress), Ok);
    let mut pushed = target.push(open, &plan, &options, progress)?;
    pushed.report = source.correct(pushed.report);
    Ok(pushed)
}

fn plan(args: &PushArgs, platform: Platform) -> Result<Plan, Failure> {
    let form = args.form.map_or(Form::Stored, |form| form.resolve());
    match &args.name {
        Some(name) => Plan::new(name, platform, form)
            .ok_or_else(|| Failure::Usage("--name: a file in a container image cannot have that name".into())),
        None => {
            let own = args.source.file_name();
            let own = if form == Form::Stored { own } else { own.and_then(|name| disk_name(&name)) };
            let own = own.and_then(|name| Plan::new(&name, platform.clone(), form));
            own.or_else(|| Plan::new(NAME, platform, form)).ok_or_else(|| Failure::Unexpected("no name is left".into()))
        }
    }
}

/// The name of the disk that the image called `name` unpacks to.
fn disk_name(name: &str) -> Option<String> {
    let mut stem = name;
    while let Some(shorter) = ENDINGS.iter().find_map(|ending| stem.strip_suffix(ending)) {
        stem = shorter;
    }
    (!stem.is_empty()).then(|| format!("{stem}.img"))
}

/// The same without what says who we are: that is for the server of SOURCE.
fn of_nobody(Access { trust, proxies, guard, .. }: Access) -> Access {
    let trust = Trust { identity: None, ..trust };
    Access { trust, proxies, guard, ..Access::default() }
}

/// Makes ready what the image goes to, and says where a spool may be beside it.
pub fn open_target<'a>(
    target: &'a Location,
    source: &Location,
    fetch: &FetchArgs,
    patience: Patience,
) -> Result<(Target, Option<&'a Path>), Failure> {
    match target {
        Location::Layout(dir, name) => {
            let stow = signals::with_temporary(|| {
                let stow = Stow::create(dir, name.as_deref())?;
                let temporary = stow.temporary();
                Ok::<_, Error>((stow, temporary))
            })?;
            Ok((Target::Layout(Box::new(stow)), Some(dir)))
        }
        Location::Registry(reference) => {
            let mut access = fetch.access.resolve()?;
            if source.is_remote() {
                access = of_nobody(access);
            }
            let (runtime, client) = (Runtime::new()?, Client::new(&access)?);
            let container = &fetch.container;
            let beside = if let Location::Registry(source) = source { Some(source) } else { None };
            let upload =
                Upload::new(&runtime, &client, reference, beside, &container.keys(), container.plain_http, patience);
            Ok((Target::Registry(Box::new(upload)), None))
        }
        _ => Err(Failure::Usage("TARGET is neither docker://HOST/REPOSITORY:TAG nor oci:DIR:NAME".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use diskferry_remote::{Identity, Login};

    use super::*;

    #[test]
    fn who_we_are_is_for_one_server() {
        let identity = Some(Identity { cert: PathBuf::from("me.pem"), key: PathBuf::from("me.key") });
        let trust = Trust { identity, ca: vec![PathBuf::from("ca.pem")], ..Trust::default() };
        let login = Login::bearer("x").ok();
        assert!(login.is_some());
        let access = of_nobody(Access { trust, login, ..Access::default() });
        assert!(access.login.is_none() && access.trust.identity.is_none());
        assert!(!access.trust.ca.is_empty(), "whom we trust is for all");
    }
}
