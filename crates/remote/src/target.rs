//! Opens what a disk is written to: which sink fits what it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use diskferry::sink::{DeviceOptions, DeviceSink, FileOptions, FileSink, PipeSink, Sink};
use diskferry::{Error, Input, Options, Progress, Result};

use rustix::fs::{OFlags, fcntl_getfl};

use crate::in_use;
use crate::outlet::{Outlet, open_fifo};
use crate::signals;
use crate::storage::is_shared;

/// What kind of thing the disk is written to.
pub enum Target {
    /// A regular file, which need not exist yet.
    File(PathBuf),
    /// A block device.
    Device(PathBuf),
    /// What can only be written forward: a pipe, a character device, or stdout whatever it is.
    Forward(File),
}

impl Target {
    /// Looks what `path` is; `-` is stdout. A named pipe is waited for until somebody reads from it.
    pub fn find(path: &Path, progress: &Progress) -> Result<Self> {
        if let Some(what) = misnamed(path) {
            return Err(Error::Target { code: "cannot-create", what });
        }
        let target = if path == Path::new("-") { stdout().map(Self::Forward) } else { Self::at(path, progress) };
        match target {
            Ok(target) => Ok(target),
            Err(error) => Err(match error.downcast() {
                Ok(stopped) => stopped,
                Err(error) => {
                    let error = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                    Error::writing("opening the target", None, error)
                }
            }),
        }
    }

    fn at(path: &Path, progress: &Progress) -> io::Result<Self> {
        let kind = match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if is_among_devices(path) {
                    let what = format!("there is no device {}", path.display());
                    return Err(Error::Target { code: "not-a-device", what }.into());
                }
                return Ok(Self::File(path.to_owned()));
            }
            Err(error) => return Err(error),
        };
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if kind.is_block_device() {
            return Ok(Self::Device(path.to_owned()));
        }
        if kind.is_file() {
            // A link stays a link, and /dev/stdout stays what it is: what they lead to is replaced.
            return fs::canonicalize(path).map(Self::File);
        }
        if kind.is_fifo() {
            return open_fifo(path, progress).map(Self::Forward);
        }
        OpenOptions::new().write(true).open(path).map(Self::Forward)
    }

    /// Whether it is a terminal, to which nobody has meant to write a disk.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Forward(file) if file.is_terminal())
    }

    /// Where the disk will be, if that is a directory that can hold other files too.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::File(path) => path.parent().map(|dir| if dir == Path::new("") { Path::new(".") } else { dir }),
            Self::Device(_) | Self::Forward(_) => None,
        }
    }

    /// Refuses to put the disk in the place of what is read.
    pub fn refuse_source(&self, input: &Input) -> Result<()> {
        let (Self::Device(path) | Self::File(path), Input::File(source)) = (self, input) else { return Ok(()) };
        // What cannot be looked at cannot be read or written either, which will be said then.
        let (Ok(source), Ok(target)) = (source.metadata(), fs::metadata(path)) else { return Ok(()) };
        if is_shared(&source, &target) {
            let what = format!("{} is the source itself, lies on it or holds it", path.display());
            return Err(Error::Target { code: "is-source", what });
        }
        Ok(())
    }

    /// Refuses to take a disk away from a virtual machine.
    pub fn refuse_in_use(&self) -> Result<()> {
        let (Self::Device(path) | Self::File(path)) = self else { return Ok(()) };
        // What is not there, or cannot be read, is nobody's, or will be refused.
        if File::open(path).is_ok_and(|file| in_use::is_open(&file)) {
            let what = format!("{} is open in QEMU: stop the virtual machine first", path.display());
            return Err(Error::Target { code: "in-use", what });
        }
        Ok(())
    }

    /// The sink for it. The file that is made for it is removed when a signal ends the process.
    pub fn sink(self, how: FileOptions, options: &Options, progress: &Progress) -> Result<Box<dyn Sink>> {
        self.refuse_in_use()?;
        Ok(match self {
            Self::File(path) => Box::new(signals::with_temporary(|| {
                let sink = FileSink::create(path, how)?;
                let temporary = sink.temporary();
                Ok::<_, Error>((sink, temporary))
            })?),
            Self::Device(path) => Box::new(DeviceSink::open(path, DeviceOptions { sync: how.sync })?),
            Self::Forward(file) => {
                let outlet = Outlet::new(file, progress);
                let outlet = if how.sync { outlet.durable() } else { outlet };
                Box::new(PipeSink::of_job(outlet, options))
            }
        })
    }
}

/// What is wrong with the name of a target that would make a file which nobody has meant.
fn misnamed(path: &Path) -> Option<String> {
    let shown = path.display();
    if path.as_os_str().as_bytes().ends_with(b"/") && !path.is_dir() {
        return Some(format!("{shown} ends in a slash, and there is no such directory: name a file"));
    }
    let scheme = path.to_str()?.split_once(':')?.0;
    match scheme.to_ascii_lowercase().as_str() {
        "docker" | "oci" => {
            Some(format!("{shown} is no file: `diskferry push` makes container images (of a file say ./{shown})"))
        }
        "file" => Some(format!("{shown}: a TARGET is named without file: (of a file of that name say ./{shown})")),
        // There may be a password in it.
        "http" | "https" | "s3" => {
            Some(format!("{scheme}:… is no file: nothing is sent there (of a file say ./{scheme}:…)"))
        }
        _ => None,
    }
}

/// Whether a file at `path`, which is not there yet, would be one in memory among the devices.
fn is_among_devices(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let dev = device(Path::new("/dev"));
    let parent = path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
    let parent = parent.and_then(|parent| fs::canonicalize(parent).ok());
    // Shared memory is for everybody, and need not be a filesystem of its own.
    let is_among = |parent: &PathBuf| device(parent) == dev && !parent.starts_with("/dev/shm");
    dev.is_some() && dev != device(Path::new("/")) && parent.as_ref().is_some_and(is_among)
}

fn stdout() -> io::Result<File> {
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if is_stopgap(&stdout)? {
        let what = "stdout is closed: the disk would be lost".into();
        return Err(Error::Target { code: "cannot-open", what }.into());
    }
    Ok(stdout)
}

/// Whether `stdout` is what Rust puts in the place of one that is closed: /dev/null, for reading and writing. Who throws a disk away
/// on purpose has it for writing alone.
fn is_stopgap(stdout: &File) -> io::Result<bool> {
    let (found, null) = (stdout.metadata()?, fs::metadata("/dev/null"));
    let is_null = found.file_type().is_char_device() && null.is_ok_and(|null| null.rdev() == found.rdev());
    Ok(is_null && fcntl_getfl(stdout)?.contains(OFlags::RDWR))
}
