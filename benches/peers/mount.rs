//! A file system of one's own, in a file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::remove;

/// A mounted file system. It goes away when it is dropped.
pub struct Mount {
    file: PathBuf,
    dir: PathBuf,
}

impl Mount {
    /// A file system of `size` bytes made by `mkfs`, in `scratch`. Tools are in `path`.
    pub fn new(scratch: &Path, mkfs: &[&str], size: u64, path: &OsStr) -> Result<Self, String> {
        let mount = Self { file: scratch.join("mounted.file"), dir: scratch.join("mounted") };
        File::create(&mount.file).unwrap().set_len(size).unwrap();
        fs::create_dir_all(&mount.dir).unwrap();
        let run = |command: &mut Command| {
            let output = command.env("PATH", path).output().map_err(|error| format!("{command:?}: {error}"))?;
            let said = String::from_utf8_lossy(&output.stderr);
            let program = command.get_program().to_string_lossy();
            output.status.success().then_some(()).ok_or_else(|| format!("{program}: {}: {said}", output.status))
        };
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&mount.file))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&mount.file, &mount.dir]))?;
        Ok(mount)
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that are in use, when everything has found its place.
    pub fn taken(&self) -> u64 {
        let synced = Command::new("sync").arg("-f").arg(&self.dir).status().unwrap();
        assert!(synced.success(), "sync");
        let found = Command::new("stat").args(["-f", "-c", "%b %f %S"]).arg(&self.dir).output().unwrap();
        let text = String::from_utf8(found.stdout).unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [blocks, free, size] = numbers[..] else { panic!("stat says {text}") };
        (blocks - free) * size
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).output();
        // An error is no reason to hide the one that may have led here.
        let _ = fs::remove_dir(&self.dir);
        remove(&self.file);
    }
}
