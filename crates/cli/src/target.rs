//! TARGET, as it was typed.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use diskferry::Progress;

use crate::exit::Failure;

pub use diskferry_remote::target::Target;

/// Whether `path` is what stdout is, by whatever name, so that other output would come into the disk, or be lost with what the disk replaces.
pub fn is_stdout(path: &Path) -> bool {
    let stdout = || File::from(io::stdout().as_fd().try_clone_to_owned().ok()?).metadata().ok();
    let is_same = |target: Metadata| {
        // What a character device is told does not stay, or it is a terminal, which is refused anyhow.
        let is_kept = !target.file_type().is_char_device();
        is_kept && stdout().is_some_and(|stdout| (stdout.dev(), stdout.ino()) == (target.dev(), target.ino()))
    };
    path == Path::new("-") || path.metadata().is_ok_and(is_same)
}

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
