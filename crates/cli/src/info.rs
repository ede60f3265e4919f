//! `diskferry info`.

use diskferry::{Options, Progress};

use crate::args::InfoArgs;
use crate::exit::Failure;
use crate::progress::Display;
use crate::source::{Reading, Source};
use crate::{deadline, human, json, output, signals};

/// Looks at the image and prints what it is.
pub fn run(args: InfoArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    let sandbox = args.job.sandbox.resolve()?;
    args.fetch.access.warn(&[&args.source], args.job.quiet);

    let display = Display::choose(args.job.progress, args.job.quiet, args.source.is_remote());
    let (as_json, quiet) = (args.job.json, args.job.quiet);
    let (source, shown) = (args.source.clone(), args.source.shown());
    let reading = Reading::new(&args.fetch, &args.job, &args.limits, !args.full).within(&sandbox);
    let wanted = args.job.options(args.limits, args.checksum, None);
    // Where little is unpacked, it takes longer to find out how many cores there are.
    let threads = if args.full { wanted.threads } else { 1 };
    let mut options = sandbox.options(Options { threads, ..wanted });

    let text = |value| json::text(&json::within(value, &sandbox));
    let timeout = args.fetch.timeout();
    let (warnings, text) = if args.full {
        let job = || {
            let source = Source::new(&source, reading)?;
            if let Some(from) = &args.checksum_url {
                options.checksums.push(source.published(from, &progress)?);
            }
            let input = source.open(&progress)?;
            source.confine_process(&sandbox)?;
            let report = sandbox.run(|| diskferry::inspect_full(input, &options, &progress))??;
            Ok(source.correct(report))
        };
        let report = display.during(&progress, || deadline::within(timeout, &progress, job))?;
        let text = if as_json { text(json::report(&shown, &report)) } else { human::report(&report) };
        (report.inspection.image.warnings, text)
    } else {
        let job = || {
            let source = Source::new(&source, reading)?;
            if let Some(claimed) = source.claims(&progress)? {
                let text = if as_json { text(json::claimed(&shown, &claimed)) } else { human::claimed(&claimed) };
                return Ok((claimed.image.warnings, text));
            }
            let input = source.open(&progress)?;
            source.confine_process(&sandbox)?;
            let found = sandbox.run(|| diskferry::inspect_along(input, &options, &progress))??;
            let text = if as_json { text(json::inspection(&shown, &found)) } else { human::inspection(&found) };
            Ok((found.image.warnings, text))
        };
        display.of_something_short().during(&progress, || deadline::within(timeout, &progress, job))?
    };
    if !quiet {
        output::warn(&warnings);
    }
    output::result(&text)
}
