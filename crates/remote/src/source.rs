//! Opens what an image is read from: what can be read at any position is handed on as a file, all else as a stream that a signal can interrupt.

use std::cell::{Cell, OnceCell, RefCell};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use diskferry::archive::Pick;
use diskferry::digest::Checksum;
use diskferry::format::{FORMATS, ImageInfo};
use diskferry::{Error, Input, Inspection, Progress, Report, Result, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pipe::fcntl_setpipe_size;
use url::Url;

use crate::access::Access;
use crate::client::Client;
use crate::http::{self, How};
use crate::in_use;
use crate::location::Location;
use crate::oci::{self, Image, Keys, Layout, Registry, Transferred, Wish};
use crate::publisher::{self, From};
use crate::runtime::Runtime;
use crate::s3;

/// How long a read or a write may wait before it looks whether the job has been stopped.
pub(crate) const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// What a pipe may hold, sixteen times what it holds by itself: the most that Linux grants to everybody.
pub(crate) const PIPE: usize = 1 << 20;

/// What an image is read from: a place, and the means to get there.
pub struct Source<'a> {
    location: &'a Location,
    means: Means,
    how: How,
    wish: Wish,
    /// The container image, once it has been looked for.
    image: OnceCell<Image>,
    /// What of it has come since its layer was opened.
    transferred: RefCell<Option<Transferred>>,
    /// Whether only the end of the connection tells where it ends.
    ends_by_closing: Cell<bool>,
}

/// How one gets to a place.
enum Means {
    /// It is here.
    Local,
    /// By requests for what is at the URL.
    Fetch { runtime: Runtime, client: Client, url: Url },
    /// By looking into container images.
    Containers(oci::Store),
}

/// How a source is to be read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// How a server is dealt with.
    pub how: How,
    /// What is wanted of a container image.
    pub wish: Wish,
    /// Who we are for a server, and whom we believe.
    pub access: Access,
    /// Where credentials for a registry are looked for, unless `access` has some.
    pub keys: Keys,
    /// Talk to a registry without TLS.
    pub plain_http: bool,
}

impl Means {
    /// Makes ready what `location` needs. Of a place on the network, reads the files that are named for it.
    fn of(location: &Location, reading: &Reading, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let Reading { access, keys, plain_http, .. } = reading;
        let fetch = |access: Access, url| -> Result<Self> {
            Ok(Self::Fetch { runtime: Runtime::new()?, client: Client::new(&access)?, url })
        };
        match location {
            Location::Stdin | Location::Path(_) => Ok(Self::Local),
            Location::Http(url) => fetch(access.clone(), url.clone()),
            Location::S3(object) => {
                let url = s3::Store::from_variables(variable)?.url(object)?;
                // The URL says who we are, and a second answer to that question is one too many.
                let Access { trust, proxies, guard, .. } = access.clone();
                fetch(Access { trust, proxies, guard, ..Access::default() }, url)
            }
            Location::Registry(reference) => {
                let (runtime, client) = (Runtime::new()?, Client::new(access)?);
                let registry = Registry::new(&runtime, &client, reference, keys, *plain_http);
                Ok(Self::Containers(oci::Store::Registry(Box::new(registry))))
            }
            Location::Layout(dir, name) => Ok(Self::Containers(oci::Store::Layout(Layout::open(dir)?, name.clone()))),
        }
    }
}

impl<'a> Source<'a> {
    /// Makes ready what it takes to read what lies at `location`. Of a store that speaks S3, variables say where it is and who we are there;
    /// `variable` gives the value of one.
    pub fn new(location: &'a Location, reading: Reading, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let means = Means::of(location, &reading, variable)?;
        let Reading { how, wish, .. } = reading;
        let (image, transferred, ends_by_closing) = (OnceCell::new(), RefCell::default(), Cell::default());
        Ok(Self { location, means, how, wish, image, transferred, ends_by_closing })
    }

    /// What the labels of a container image say of the disk image in it, where they say enough and something that we know.
    pub fn claims(&self, progress: &Progress) -> Result<Option<Inspection>> {
        if self.how.format.is_some() || self.wish.pick != Pick::UnderDisk {
            // They speak of the usual file, as it is.
            return Ok(None);
        }
        let Some(claims) = self.image(progress)?.and_then(|(_, image)| image.claims()) else { return Ok(None) };
        let format = FORMATS.iter().find(|format| format.name == claims.format);
        let warning = "this is what the labels of the container image say, and was not checked (--full does)";
        Ok(format.map(|format| Inspection {
            image: ImageInfo {
                format: format.name,
                virtual_size: Some(claims.virtual_size),
                cdrom: format.name == "iso",
                warnings: vec![warning.into()],
                ..ImageInfo::default()
            },
            wrappings: Vec::new(),
            stored_size: claims.stored_size,
            unpacked_size: Some(claims.virtual_size),
        }))
    }

    fn image(&self, progress: &Progress) -> Result<Option<(&oci::Store, &Image)>> {
        let Means::Containers(store) = &self.means else { return Ok(None) };
        if self.image.get().is_none() {
            let _ = self.image.set(store.find(&self.wish, progress)?);
        }
        Ok(self.image.get().map(|image| (store, image)))
    }

    /// Adds to the report what only we know. Of a container image the layer is what crosses the wire, and not the image in it. Of a raw disk
    /// from a server that may have been cut off, nothing else tells.
    pub fn correct(&self, mut report: Report) -> Report {
        let found = &mut report.inspection;
        let is_bare = found.image.format == "raw" && found.wrappings.is_empty() && report.digests.is_empty();
        if is_bare && self.ends_by_closing.get() {
            let what = "the server said neither a length nor where the disk ends: if the connection was cut, it looks the same (--checksum tells)";
            found.image.warnings.push(what.into());
        }
        if let Some(transferred) = &*self.transferred.borrow() {
            report.transferred = transferred.bytes();
        }
        report
    }

    /// The digest that the publisher says the image has; `None` where nobody can look beside the image for it.
    pub fn published(&self, from: &From, progress: &Progress) -> Result<Option<Checksum>> {
        match (self.location, from, &self.means) {
            (Location::Http(_), _, Means::Fetch { runtime, client, url })
            | (Location::S3(_), From::Url(_), Means::Fetch { runtime, client, url }) => {
                publisher::checksum(runtime, client, url, from, self.how.patience, progress).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Opens it; `None` for a terminal, from which nobody has meant to read an image.
    pub fn open(&self, progress: &Progress) -> Result<Option<Input>> {
        if let Some((store, image)) = self.image(progress)? {
            let pulled = store.open(image, &self.wish, progress)?;
            *self.transferred.borrow_mut() = Some(pulled.transferred);
            return Ok(Some(pulled.input));
        }
        if let Means::Fetch { runtime, client, url } = &self.means {
            let (input, ends_by_closing) = http::open_and_tell(runtime, client, url, &self.how, progress)?;
            self.ends_by_closing.set(ends_by_closing);
            return Ok(Some(input));
        }
        let opened = match self.location {
            Location::Path(path) => file(path),
            _ => stdin(),
        };
        if let (Location::Path(path), Ok(file)) = (self.location, &opened)
            && in_use::is_written(file)
        {
            let what = format!(
                "{} is being written to by QEMU: stop the virtual machine (from stdin it is carried all the same)",
                path.display()
            );
            return Err(Error::source("in-use", what));
        }
        let input = |file: File| if file.is_terminal() { Ok(None) } else { input(file, progress).map(Some) };
        opened.and_then(input).map_err(|error| Error::Io {
            side: Side::Source,
            doing: "opening the source",
            at: None,
            source: io::Error::new(error.kind(), format!("{}: {error}", self.location.shown().display())),
        })
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
pub(crate) fn is_momentary(error: &io::Error) -> bool {
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
