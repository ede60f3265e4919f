//! TARGET, as it was typed.

use std::path::Path;

use diskferry::Progress;

use crate::exit::Failure;

pub use diskferry_remote::target::Target;

/// Whether `path` is a file, or nothing yet.
pub fn may_be_file(path: &Path) -> bool {
    path != Path::new("-") && path.metadata().map_or(true, |found| found.is_file())
}

/// Looks what `path` is; `-` is stdout.
pub fn find(path: &Path, progress: &Progress) -> Result<Target, Failure> {
    let target = Target::find(path, progress)?;
    if target.is_terminal() {
        return Err(Failure::Usage("TARGET is a terminal: name a file, or pipe the disk on".into()));
    }
    Ok(target)
}
