//! `diskferry convert`.

use std::io::{self, IsTerminal};

use diskferry::sink::FileOptions;
use diskferry::{Progress, Report};
use diskferry_remote::Sandbox;

use crate::args::{ConvertArgs, When};
use crate::exit::Failure;
use crate::progress::Display;
use crate::source::{Reading, Source};
use crate::{deadline, human, json, output, signals, target};

/// Carries the image to the target, and says what came of it.
pub fn run(args: ConvertArgs) -> Result<(), Failure> {
    if args.job.json && target::is_stdout(&args.target) {
        return Err(Failure::Usage("--json and the disk cannot both go to stdout: name a TARGET".into()));
    }
    let progress = Progress::default();
    signals::watch(&progress)?;
    let sandbox = args.job.sandbox.resolve()?;
    args.fetch.access.warn(&[&args.source], args.job.quiet);

    let when = if args.bar { When::Always } else { args.job.progress };
    let display = Display::choose(when, args.job.quiet, args.source.is_remote());
    let (as_json, quiet) = (args.job.json, args.job.quiet);
    let shown = args.source.shown();
    let watched = progress.clone();
    // The sink goes with the job, and its temporary file with it: a display that nobody reads from may take longer.
    let within = sandbox.clone();
    let timeout = args.fetch.timeout();
    let report =
        display.during(&watched, move || deadline::within(timeout, &progress, || carry(args, &within, &progress)))?;

    if !quiet {
        output::warn(&report.inspection.image.warnings);
        if when == When::Always || (when == When::Auto && io::stderr().is_terminal()) {
            output::say(&human::summary(&report));
        }
    }
    if as_json {
        output::result(&json::text(&json::within(json::report(&shown, &report), &sandbox)))?;
    }
    Ok(())
}

fn carry(args: ConvertArgs, sandbox: &Sandbox, progress: &Progress) -> Result<Report, Failure> {
    if (args.preallocate || args.no_sparse) && !target::may_be_file(&args.target) {
        let what = "--preallocate and --no-sparse are for a TARGET that is a file, and not for devices, pipes and -";
        return Err(Failure::Usage(what.into()));
    }
    let reading = Reading::new(&args.fetch, &args.job, &args.limits, false).within(sandbox);
    let source = Source::new(&args.source, reading)?;
    let mut checksums = args.checksum;
    if let Some(from) = &args.checksum_url {
        checksums.push(source.published(from, progress)?);
    }
    let input = source.open(progress)?;
    let target = target::find(&args.target, progress)?;
    target.refuse_source(&input)?;
    let options = sandbox.options(args.job.options(args.limits, checksums, target.dir()));
    let how = FileOptions {
        sparse: !args.no_sparse,
        share: input.may_share(),
        preallocate: args.preallocate,
        sync: !args.no_sync,
    };
    let sink = target.sink(how, &options, progress)?;
    source.confine_process(sandbox)?;
    let complete = sandbox.run(|| diskferry::open(input, &options, progress)?.complete(&*sink, None))??;
    // The time may have passed meanwhile, or a signal come that has stopped who has written to us.
    progress.check()?;
    Ok(source.correct(complete.publish()?))
}
