//! `diskferry info`.

use diskferry::Progress;

use crate::args::InfoArgs;
use crate::exit::Failure;
use crate::progress::Display;
use crate::source::{Reading, Source};
use crate::{human, json, output, signals};

/// Looks at the image and prints what it is.
pub fn run(args: InfoArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    args.fetch.access.warn(&args.source, args.job.quiet);

    let display = Display::choose(args.job.progress, args.job.quiet);
    let (as_json, quiet) = (args.job.json, args.job.quiet);
    let (source, shown) = (args.source.clone(), args.source.shown());
    let reading = Reading::new(&args.fetch, &args.job, &args.limits, !args.full);
    let mut options = args.job.options(args.limits, args.checksum, None);

    let (warnings, text) = if args.full {
        let report = display.during(&progress, || {
            let source = Source::new(&source, reading)?;
            if let Some(from) = &args.checksum_url {
                options.checksums.push(source.published(from, &progress)?);
            }
            let input = source.open(&progress)?;
            Ok::<_, Failure>(source.correct(diskferry::inspect_full(input, &options, &progress)?))
        })?;
        let text = if as_json { json::text(&json::report(&shown, &report)) } else { human::report(&report) };
        (report.inspection.image.warnings, text)
    } else {
        let source = Source::new(&source, reading)?;
        if let Some(claimed) = source.claims(&progress)? {
            let text = if as_json { json::text(&json::claimed(&shown, &claimed)) } else { human::claimed(&claimed) };
            (claimed.image.warnings, text)
        } else {
            let found = diskferry::inspect(source.open(&progress)?, &options)?;
            let text = if as_json { json::text(&json::inspection(&shown, &found)) } else { human::inspection(&found) };
            (found.image.warnings, text)
        }
    };
    if !quiet {
        output::warn(&warnings);
    }
    output::result(&text)
}
