//! Writes to what may keep us waiting, a pipe whose reader does not read, and gives up when the job is stopped.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use diskferry::{Error, Progress};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PIPE_BUF, fcntl_setpipe_size};

use crate::source::{PATIENCE, PIPE, is_momentary};

/// How long to wait before looking again whether a named pipe has got a reader: nothing tells us.
const PAUSE: Duration = Duration::from_millis(50);

/// A file that is written forward. No write waits longer than it takes to notice that the job has been stopped.
///
/// A blocking write to a pipe waits for room for all of it, however much room poll has seen, and no signal ends it as long as
/// its handler restarts system calls. So the pipe has to be written to without blocking. That is a property of the open
/// description, which stdout shares with the shell and with whatever else it has started: they would fail, with errors that
/// they do not expect, if we changed it. A pipe can be opened again by its name in /proc and then is a description of our own.
///
/// Where that cannot be (no /proc, a socket, a pipe made by another user), no more than [`PIPE_BUF`] bytes are written at a time,
/// and only when poll has seen room: a pipe is writable when it has room for that many.
pub(crate) struct Outlet {
    file: File,
    progress: Progress,
    /// Whether writes to the file could block.
    careful: bool,
    /// Whether what is flushed is on stable storage.
    durable: bool,
}

impl Outlet {
    /// Writes to `file` until `progress` says that the job is stopped.
    pub(crate) fn new(file: File, progress: &Progress) -> Self {
        let outlet = |file, careful| Self { file, progress: progress.clone(), careful, durable: false };
        let kind = file.metadata().map(|metadata| metadata.file_type());
        let (is_pipe, is_socket) = kind.map_or((false, false), |kind| (kind.is_fifo(), kind.is_socket()));
        if is_pipe {
            // So that the two ends of it wait less for each other. A user who has many pipes may be refused.
            let _ = fcntl_setpipe_size(&file, PIPE);
        }
        match is_pipe.then(|| own(&file)) {
            Some(Ok(own)) => outlet(own, false),
            // Neither pipe nor socket, and no terminal: a regular file or a device, for which nobody has to wait.
            _ => outlet(file, is_pipe || is_socket),
        }
    }

    /// The same, where what is flushed is on stable storage, if the file has any: stdout may be led to a regular file or a device.
    pub(crate) fn durable(self) -> Self {
        let kind = self.file.metadata().map(|metadata| metadata.file_type());
        Self { durable: kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device()), ..self }
    }

    /// Waits for room, and returns whether there is some.
    fn wait(&self) -> io::Result<bool> {
        match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&PATIENCE)).map_err(io::Error::from) {
            Err(error) if is_momentary(&error) => Ok(false),
            outcome => outcome.map(|ready| ready > 0),
        }
    }
}

impl Write for Outlet {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut waits = self.careful;
        let most = if self.careful { PIPE_BUF } else { usize::MAX };
        loop {
            self.progress.check()?;
            if waits && !self.wait()? {
                continue;
            }
            match self.file.write(buf.get(..most).unwrap_or(buf)) {
                Err(error) if is_momentary(&error) => waits = true,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        if self.durable {
            self.file.sync_data().map_err(|error| Error::writing("making the disk durable", None, error))?;
        }
        Ok(())
    }
}

/// The same pipe through a description of its own, on which writes do not block.
fn own(pipe: &File) -> io::Result<File> {
    open(&PathBuf::from(format!("/proc/self/fd/{}", pipe.as_raw_fd())))
}

fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

/// Opens the named pipe at `path`, once somebody reads from it. An ordinary open would wait for that without an end.
pub(crate) fn open_fifo(path: &Path, progress: &Progress) -> io::Result<File> {
    loop {
        progress.check()?;
        match open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use diskferry::Error;

    use super::*;

    #[test]
    fn a_careful_writer_fills_a_pipe_and_then_waits_no_longer_than_the_job() {
        let (_reader, writer) = io::pipe().unwrap();
        let progress = Progress::default();
        let file = OwnedFd::from(writer).into();
        let mut outlet = Outlet { file, progress: progress.clone(), careful: true, durable: false };
        let size = fcntl_setpipe_size(&outlet.file, 65536).unwrap();
        outlet.write_all(&vec![1; size]).unwrap();
        let stopper = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            progress.stop();
        });
        let begin = Instant::now();
        let error = Error::writing("writing", None, outlet.write_all(&[2; 100_000]).unwrap_err());
        assert!(matches!(error, Error::Stopped), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5));
        stopper.join().unwrap();
    }

    #[test]
    fn a_pipe_gets_a_description_of_its_own() {
        let (_reader, writer) = io::pipe().unwrap();
        let shared = writer.try_clone().unwrap();
        let outlet = Outlet::new(OwnedFd::from(writer).into(), &Progress::default());
        let is_nonblocking =
            |fd: &dyn std::os::fd::AsFd| rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK);
        assert!(!outlet.careful && is_nonblocking(&outlet.file) && !is_nonblocking(&shared));
    }
}
