//! From an input to an opened image: count, digest, take wrappings off, detect, open.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use crate::convert::{Input, Options};
use crate::error::{Error, Result};
use crate::format::{self, Image, Opening, Order};
use crate::layer::{self, Unwrapping};
use crate::progress::Progress;
use crate::report::Inspection;
use crate::source::Source;
use crate::source::file::{FileSource, stored_len};
use crate::source::stream::{Past, Stream};
use crate::source::tap::{Digests, Meter, Tap};
use crate::spool::Spool;

/// An image ready to be walked.
pub(crate) struct Opened {
    pub(crate) source: Box<dyn Source>,
    pub(crate) image: Box<dyn Image>,
    pub(crate) wrappings: Vec<&'static str>,
    pub(crate) stored_size: Option<u64>,
    /// What the wrapping says that it unpacks to: good enough to be shown, nothing is decided by it.
    unpacked_hint: Option<u64>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) digests: Digests,
    pub(crate) started: Instant,
}

impl Opened {
    pub(crate) fn inspection(&self) -> Inspection {
        let image = self.image.info().clone();
        let unpacked_size = image.virtual_size.or(self.unpacked_hint);
        Inspection { image, wrappings: self.wrappings.clone(), stored_size: self.stored_size, unpacked_size }
    }
}

/// Opens the image in `input`, to be walked in `order` if that is possible.
pub(crate) fn open(input: Input, options: &Options, order: Order, progress: &Arc<Progress>) -> Result<Opened> {
    let started = Instant::now();
    let meter = Arc::new(Meter::new(progress));
    let wanted = options.checksums.iter().map(|sum| sum.algorithm).chain(options.digests.iter().copied());
    let digests = Digests::new(wanted);
    let opener = Opener { options, meter: &meter, digests: &digests };
    let Unwrapped { mut source, wrappings, stored_size, unpacked_hint } = match input {
        Input::File(file) => opener.file(file)?,
        Input::Stream { reader, len } => opener.stream(reader, len)?,
    };
    progress.total.store(stored_size.unwrap_or(0), Ordering::Relaxed);
    let order = if source.seekable() { order } else { Order::Source };
    let how = Opening { limits: &options.limits, order, stated: options.format.is_some() };
    let format = match &options.format {
        Some(stated) => format::by_name(stated.format),
        None => Some(format::detect(source.as_mut())?),
    };
    let format =
        format.ok_or_else(|| Error::unsupported("diskferry", "unknown-format", "the stated format is not known"))?;
    let image = (format.open)(source.as_mut(), &how)?;
    Ok(Opened { source, image, wrappings, stored_size, unpacked_hint, meter, digests, started })
}

/// An input with its wrappings off.
struct Unwrapped {
    source: Box<dyn Source>,
    wrappings: Vec<&'static str>,
    stored_size: Option<u64>,
    unpacked_hint: Option<u64>,
}

impl Unwrapped {
    /// A file that had none.
    fn plain(source: impl Source + 'static, len: u64) -> Self {
        Self { source: Box::new(source), wrappings: Vec::new(), stored_size: Some(len), unpacked_hint: None }
    }
}

struct Opener<'a> {
    options: &'a Options,
    meter: &'a Arc<Meter>,
    digests: &'a Digests,
}

impl Opener<'_> {
    fn file(&self, file: File) -> Result<Unwrapped> {
        let len = stored_len(&file).map_err(|error| Error::reading(0, error))?;
        let outermost = match &self.options.format {
            Some(stated) => stated.wrappings.first().and_then(|name| layer::by_name(name)),
            None => layer::probe(&head(&file)?),
        };
        if let Some(outermost) = outermost {
            let unpacked_hint = match outermost.unpacked_len {
                Some(unpacked_len) => unpacked_len(&mut self.source(&file)?)?,
                None => None,
            };
            let unwrapped = self.stream(Positioned { file, at: 0 }, Some(len))?;
            let unpacked_hint = unpacked_hint.filter(|_| unwrapped.wrappings.len() == 1);
            return Ok(Unwrapped { unpacked_hint, ..unwrapped });
        }
        let source = self.source(&file)?;
        if self.digests.is_empty() {
            return Ok(Unwrapped::plain(source, len));
        }
        let tap = self.tap(Positioned { file, at: 0 }, Some(len));
        Ok(Unwrapped::plain(Stream::new(Box::new(tap), Some(len), u64::MAX, Past::File(source)), len))
    }

    fn source(&self, file: &File) -> Result<FileSource> {
        let file = file.try_clone().map_err(|error| Error::reading(0, error))?;
        FileSource::new(file, Arc::clone(self.meter))
    }

    fn stream(&self, reader: impl Read + Send + 'static, len: Option<u64>) -> Result<Unwrapped> {
        let limits = &self.options.limits;
        let stated = self.options.format.as_ref().map(|stated| stated.wrappings.as_slice());
        let how = Unwrapping { limits, threads: threads(self.options) };
        let (reader, wrappings) = layer::peel(Box::new(self.tap(reader, len)), stated, &how)?;
        let spool = Spool::new(self.options.spool_dir.clone(), limits.spool_memory, limits.spool);
        let plain_len = len.filter(|_| wrappings.is_empty());
        // Metadata and snapshots come on top of the disk, but a stream must not run for ever behind a small one.
        let limit = limits.virtual_size.saturating_mul(2).saturating_add(64 << 20);
        let source = Box::new(Stream::new(reader, plain_len, limit, Past::Spool(spool)));
        Ok(Unwrapped { source, wrappings, stored_size: len, unpacked_hint: None })
    }

    fn tap<R: Read>(&self, reader: R, len: Option<u64>) -> Tap<R> {
        Tap::new(reader, len, Arc::clone(self.meter), self.digests.clone())
    }
}

/// How many threads a job may keep busy.
pub(crate) fn threads(options: &Options) -> usize {
    match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        stated => stated,
    }
}

fn head(file: &File) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut reader = Positioned { file: file.try_clone().map_err(|error| Error::reading(0, error))?, at: 0 };
    (&mut reader).take(layer::HEAD as u64).read_to_end(&mut head).map_err(|error| Error::reading(0, error))?;
    Ok(head)
}

/// Reads a file forward from its start, wherever its own cursor stands.
struct Positioned {
    file: File,
    at: u64,
}

impl Read for Positioned {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buf, self.at)?;
        self.at = self.at.saturating_add(got as u64);
        Ok(got)
    }
}
