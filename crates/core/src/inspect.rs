//! Looking at an image without carrying it.

use crate::convert::{Input, Options};
use crate::error::Result;
use crate::open::open;
use crate::progress::Progress;
use crate::report::{Inspection, Report};

/// Says what the image in `input` is, reading no more than that needs.
///
/// ```
/// use diskferry::{Input, Options, inspect};
///
/// # fn main() -> diskferry::Result<()> {
/// let image = std::io::Cursor::new(vec![0xeb; 4096]);
/// let found = inspect(Input::Stream { reader: Box::new(image), len: Some(4096) }, &Options::default())?;
/// assert_eq!(found.image.format, "raw");
/// assert_eq!(found.unpacked_size, Some(4096));
/// # Ok(())
/// # }
/// ```
pub fn inspect(input: Input, options: &Options) -> Result<Inspection> {
    inspect_along(input, options, &Progress::default())
}

/// The same, to be stopped by `progress`.
pub fn inspect_along(input: Input, options: &Options, progress: &Progress) -> Result<Inspection> {
    // Several threads would unpack more than is looked at, and fetch that first.
    let options = Options { threads: 1, ..options.clone() };
    let mut opened = open(input, &options, progress)?;
    progress.check()?;
    opened.look_for_unpacked_size()?;
    Ok(opened.inspection())
}

/// Says what the image in `input` is and reads it to its end, checking everything that a conversion checks.
/// Of an image with [refusals](crate::format::ImageInfo::refusals), that is the stored bytes alone.
pub fn inspect_full(input: Input, options: &Options, progress: &Progress) -> Result<Report> {
    open(input, options, progress)?.verify()
}
