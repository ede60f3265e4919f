//! `diskferry info`.

use diskferry::Progress;

use crate::args::InfoArgs;
use crate::exit::Failure;
use crate::progress::Display;
use crate::source::Source;
use crate::{human, json, output, signals};

/// Looks at the image and prints what it is.
pub fn run(args: InfoArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    args.fetch.access.warn(&args.source, args.job.quiet);

    let display = Display::choose(args.job.progress, args.job.quiet);
    let (as_json, quiet) = (args.job.json, args.job.quiet);
    let (source, shown) = (args.source.clone(), args.source.shown());
    let access = args.fetch.access.clone();
    let how = args.fetch.how(&args.job, !args.full);
    let mut options = args.job.options(args.limits, args.checksum, None);

    let (warnings, text) = if args.full {
        let report = display.during(&progress, || {
            let source = Source::new(&source, &access)?;
            if let Some(from) = &args.checksum_url {
                options.checksums.push(source.published(from, &how, &progress)?);
            }
            let input = source.open(&how, &progress)?;
            Ok::<_, Failure>(diskferry::inspect_full(input, &options, &progress)?)
        })?;
        let text = if as_json { json::text(&json::report(&shown, &report)) } else { human::report(&report) };
        (report.inspection.image.warnings, text)
    } else {
        let input = Source::new(&source, &access)?.open(&how, &progress)?;
        let found = diskferry::inspect(input, &options)?;
        let text = if as_json { json::text(&json::inspection(&shown, &found)) } else { human::inspection(&found) };
        (found.image.warnings, text)
    };
    if !quiet {
        output::warn(&warnings);
    }
    output::result(&text)
}
