//! `diskferry info`.

use diskferry::Progress;

use crate::args::InfoArgs;
use crate::exit::Failure;
use crate::progress::Display;
use crate::{human, json, output, signals, source};

/// Looks at the image and prints what it is.
pub fn run(args: InfoArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;

    let input = source::open(&args.source, &progress)?;
    let display = Display::choose(args.job.progress, args.job.quiet);
    let (as_json, quiet) = (args.job.json, args.job.quiet);
    let options = args.job.options(args.limits, args.checksum, None);

    let (warnings, text) = if args.full {
        let report = display.during(&progress, || diskferry::inspect_full(input, &options, &progress))?;
        let text = if as_json { json::text(&json::report(&args.source, &report)) } else { human::report(&report) };
        (report.inspection.image.warnings, text)
    } else {
        let found = diskferry::inspect(input, &options)?;
        let text =
            if as_json { json::text(&json::inspection(&args.source, &found)) } else { human::inspection(&found) };
        (found.image.warnings, text)
    };
    if !quiet {
        output::warn(&warnings);
    }
    output::result(&text)
}
