//! Looking at an image without carrying it.

use crate::convert::{Input, Options};
use crate::error::Result;
use crate::progress::Progress;
use crate::report::{Inspection, Report};

/// Says what the image in `input` is, reading no more than that needs.
pub fn inspect(input: Input, options: &Options) -> Result<Inspection> {
    let _ = (input, options);
    Ok(Inspection::default())
}

/// Says what the image in `input` is and reads it to its end, checking everything that a conversion checks.
/// An image with [refusals](crate::format::ImageInfo::refusals) is only looked at.
pub fn inspect_full(input: Input, options: &Options, progress: &Progress) -> Result<Report> {
    let _ = (input, options, progress);
    Ok(Report::default())
}
