//! Opens SOURCE: what can be read at any position is handed on as a file, all else as a stream that a signal can interrupt.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use diskferry::digest::Checksum;
use diskferry::{Error, Input, Progress, Side};
use diskferry_remote::http::{self, How};
use diskferry_remote::publisher::{self, From};
use diskferry_remote::s3::Store;
use diskferry_remote::{Access, Client, Location, Runtime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pipe::fcntl_setpipe_size;
use url::Url;

use crate::access::AccessArgs;
use crate::exit::Failure;

/// How long a read or a write may wait before it looks whether the job has been stopped.
pub const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// What a pipe may hold, sixteen times what it holds by itself: the most that Linux grants to everybody.
pub const PIPE: usize = 1 << 20;

/// What an image is read from: a place, and the means to get there.
pub struct Source<'a> {
    location: &'a Location,
    network: Option<Network>,
}

/// What it takes to fetch.
struct Network {
    runtime: Runtime,
    client: Client,
    url: Url,
}

impl<'a> Source<'a> {
    /// Makes ready what `location` needs. Of a place on the network, reads the files that `access` names.
    pub fn new(location: &'a Location, access: &AccessArgs) -> Result<Self, Failure> {
        let network = match location {
            Location::Stdin | Location::Path(_) => None,
            Location::Http(url) => Some((access.resolve()?, url.clone())),
            Location::S3(object) => {
                let url = Store::from_variables(|name| env::var(name).ok())?.url(object)?;
                // The URL says who we are, and a second answer to that question is one too many.
                let Access { trust, proxies, guard, .. } = access.resolve()?;
                Some((Access { trust, proxies, guard, ..Access::default() }, url))
            }
        };
        let connect = |(access, url)| -> Result<Network, Failure> {
            Ok(Network { runtime: Runtime::new()?, client: Client::new(&access)?, url })
        };
        let network = network.map(connect).transpose()?;
        Ok(Self { location, network })
    }

    /// The digest that the publisher says the image has.
    pub fn published(&self, from: &From, how: &How, progress: &Progress) -> Result<Checksum, Failure> {
        match (self.location, from, &self.network) {
            (Location::Http(_), _, Some(network)) | (Location::S3(_), From::Url(_), Some(network)) => {
                let Network { runtime, client, url } = network;
                Ok(publisher::checksum(runtime, client, url, from, how.patience, progress)?)
            }
            (Location::S3(_), ..) => {
                Err(Failure::Usage("--checksum-url auto does not look into S3: name the file".into()))
            }
            _ => {
                Err(Failure::Usage("--checksum-url is for a SOURCE on the network; --checksum is for every one".into()))
            }
        }
    }

    /// Opens it.
    pub fn open(&self, how: &How, progress: &Progress) -> Result<Input, Failure> {
        if let Some(Network { runtime, client, url }) = &self.network {
            return Ok(http::open(runtime, client, url, how, progress)?);
        }
        let opened = match self.location {
            Location::Path(path) => file(path),
            _ => stdin(),
        };
        let input = |file: File| if file.is_terminal() { Ok(None) } else { input(file, progress).map(Some) };
        match opened.and_then(input) {
            Ok(Some(input)) => Ok(input),
            Ok(None) => Err(Failure::Usage("SOURCE is a terminal: name a file, or pipe an image in".into())),
            Err(error) => Err(Failure::Job(Error::Io {
                side: Side::Source,
                doing: "opening the source",
                at: None,
                source: io::Error::new(error.kind(), format!("{}: {error}", self.location.shown().display())),
            })),
        }
    }
}

fn stdin() -> io::Result<File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

fn file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    if fs::metadata(path)?.file_type().is_fifo() {
        // Otherwise a signal would find us waiting for a writer, where nothing looks whether the job has been stopped.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    }
    options.read(true).open(path)
}

fn input(mut file: File, progress: &Progress) -> io::Result<Input> {
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // Of a file on stdin, somebody may have read the beginning already; the image is what is left.
    if (kind.is_file() || kind.is_block_device()) && file.stream_position()? == 0 {
        return Ok(Input::File(file));
    }
    if kind.is_fifo() {
        // So that the two ends of it wait less for each other. A user who has many pipes may be refused.
        let _ = fcntl_setpipe_size(&file, PIPE);
    }
    Ok(Input::Stream { reader: Box::new(Interruptible { file, progress: progress.clone() }), len: None })
}

/// Reads what may keep us waiting, and gives up when the job is stopped.
struct Interruptible {
    file: File,
    progress: Progress,
}

impl Read for Interruptible {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.progress.check()?;
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&PATIENCE)).map_err(io::Error::from) {
                Ok(0) => continue,
                Err(error) if is_momentary(&error) => continue,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            match self.file.read(buf) {
                Err(error) if is_momentary(&error) => {}
                done => return done,
            }
        }
    }
}

/// Whether the same call is worth another try.
pub fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::time::{Duration, Instant};

    #[test]
    fn a_stopped_job_does_not_wait_for_a_silent_pipe() {
        let (reader, _writer) = io::pipe().unwrap();
        let progress = Progress::default();
        let mut silent = Interruptible { file: OwnedFd::from(reader).into(), progress: progress.clone() };
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            progress.stop();
        });
        let begin = Instant::now();
        let error = Error::reading(0, silent.read(&mut [0; 16]).unwrap_err());
        assert!(matches!(error, Error::Stopped), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5));
        stopper.join().unwrap();
    }
}
