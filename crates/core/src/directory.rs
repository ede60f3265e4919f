//! What lies in a directory.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, open};

/// Names of everything in `directory`, in no order. The first one that cannot be read is the last.
///
/// As [`std::fs::read_dir`], which panics where the directory cannot be closed. For the crates around this one.
#[doc(hidden)]
pub fn names(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
    let opened = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let names = Dir::new(opened)?.map(|entry| {
        let entry = entry.map_err(io::Error::from)?;
        Ok(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
    });
    Ok(names.filter(|name| !name.as_ref().is_ok_and(|name| name == "." || name == "..")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_are_those_of_files_directories_and_links_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(names(dir.path()).unwrap().count(), 0);
        let unreadable = OsStr::from_bytes(b"\xff");
        fs::write(dir.path().join(unreadable), "").unwrap();
        fs::create_dir(dir.path().join("...")).unwrap();
        std::os::unix::fs::symlink("nothing", dir.path().join("link")).unwrap();
        let mut found: Vec<_> = names(dir.path()).unwrap().map(|name| name.unwrap()).collect();
        found.sort();
        assert_eq!(found, ["...".as_ref(), "link".as_ref(), unreadable]);
    }

    #[test]
    fn what_is_no_directory_has_no_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = names(file.path()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }
}
