//! From an input to an opened image (count, digest, take wrappings off, detect, open), and from there to a report.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use crate::convert::{Course, Input, Options};
use crate::digest::{Checksum, verify};
use crate::engine::{self, Carried, Job};
use crate::error::{Error, Kind, Result};
use crate::format::{self, Image, Opening, Order};
use crate::layer::{self, Layer, Unwrapping};
use crate::limits::{Limits, unused};
use crate::progress::Progress;
use crate::report::{Inspection, Report};
use crate::sink::{Discard, Sink};
use crate::source::ahead::ReadAhead;
use crate::source::file::{FileSource, Unchanged, stored_len};
use crate::source::stream::{Past, Stream};
use crate::source::tap::{Copied, Digests, Meter, Tap};
use crate::source::{Aside, Ranges, Source};
use crate::spool::Spool;

/// An opened image: it has been looked at, and can be carried once.
///
/// This is the way for callers that must know what the image is before they can say where it goes.
pub struct Opened {
    source: Box<dyn Source>,
    image: Box<dyn Image>,
    wrappings: Vec<&'static str>,
    stored_size: Option<u64>,
    stored: Option<Stored>,
    unchanged: Option<Unchanged>,
    /// What the wrapping says that it unpacks to: good enough to be shown, nothing is decided by it.
    unpacked_hint: Option<u64>,
    meter: Arc<Meter>,
    digests: Digests,
    options: Options,
    progress: Progress,
    started: Instant,
}

/// A disk that is complete in its sink, and not published.
#[must_use = "the disk is thrown away unless it is published"]
pub struct Complete<'a> {
    sink: &'a dyn Sink,
    size: u64,
    report: Report,
    started: Instant,
}

impl Complete<'_> {
    /// Lets the sink make the disk durable and visible.
    pub fn publish(self) -> Result<Report> {
        self.sink.finish(self.size)?;
        let spooled = self.report.spooled.saturating_add(self.sink.spooled());
        Ok(Report { spooled, elapsed: self.started.elapsed(), ..self.report })
    }
}

/// Opens the image in `input`, reading no more than it takes to say what it is.
pub fn open(input: Input, options: &Options, progress: &Progress) -> Result<Opened> {
    open_copied(input, options, progress, None)
}

/// The same, with the stored bytes handed on while they pass.
pub(crate) fn open_copied(
    input: Input,
    options: &Options,
    progress: &Progress,
    copied: Option<Copied>,
) -> Result<Opened> {
    let started = Instant::now();
    let meter = Arc::new(Meter::new(progress));
    let wanted = options.checksums.iter().map(|sum| sum.algorithm).chain(options.digests.iter().copied());
    let digests = Digests::new(wanted);
    let unchanged = match &input {
        Input::File(file) => Some(Unchanged::since_now(file)?),
        Input::Stream { .. } | Input::Unpacked { .. } | Input::Ranged { .. } => None,
    };
    let opener = Opener { options, meter: &meter, digests: &digests, copied, is_unpacked: false };
    let Unwrapped { mut source, wrappings, stored_size, stored } = match input {
        Input::File(file) => opener.file(file)?,
        Input::Stream { reader, len } => opener.stream(Box::new(opener.tap(reader, len)), len, None)?,
        Input::Unpacked { reader, len } => {
            let unpacked = Opener { is_unpacked: true, ..opener };
            unpacked.stream(Box::new(unpacked.tap(reader, len)), len, None)?
        }
        Input::Ranged { reader, len, ranges } => opener.stream(Box::new(opener.tap(reader, len)), len, Some(ranges))?,
    };
    progress.expect(stored_size.unwrap_or(0));
    let how = Opening { limits: &options.limits, stated: options.format.is_some() };
    let format = match &options.format {
        Some(stated) => stated.format,
        None => format::detect(source.as_mut())?,
    };
    let image = (format.open)(source.as_mut(), &how)?;
    // What is refused anyway may be looked at, whatever size it claims.
    if image.info().refusals.is_empty() {
        check_virtual_size(image.info().virtual_size, &options.limits)?;
    }
    if let Some(size) = image.info().virtual_size {
        source.expect(size);
    }
    let (options, progress) = (options.clone(), progress.clone());
    Ok(Opened {
        source,
        image,
        wrappings,
        stored_size,
        stored,
        unchanged,
        unpacked_hint: None,
        meter,
        digests,
        options,
        progress,
        started,
    })
}

fn check_virtual_size(size: Option<u64>, limits: &Limits) -> Result<()> {
    match size {
        Some(wanted) if wanted > limits.virtual_size => {
            let what = "size of the virtual disk in bytes";
            Err(Error::Limit { what, wanted, limit: limits.virtual_size, option: "--max-size" })
        }
        _ => Ok(()),
    }
}

impl Opened {
    /// What can be said about the image by now.
    pub fn inspection(&self) -> Inspection {
        let image = self.image.info().clone();
        let unpacked_size = image.virtual_size.or(self.unpacked_hint);
        Inspection { image, wrappings: self.wrappings.clone(), stored_size: self.stored_size, unpacked_size }
    }

    /// Looks where the wrapping says what it unpacks to, if nothing else did, so that [`inspection`](Self::inspection) can
    /// tell it. Of a ranged input that is a request or two. Nothing depends on it, so that it fails only where the job is stopped, or the
    /// image has changed.
    pub fn look_for_unpacked_size(&mut self) -> Result<()> {
        let unknown = self.image.info().virtual_size.is_none();
        if let Some(mut stored) = self.stored.take().filter(|_| unknown) {
            self.unpacked_hint = match stored.unpacked_len() {
                Err(error) if error.kind() == Kind::Stopped || error.code() == "source-changed" => return Err(error),
                found => found.unwrap_or(None),
            };
        }
        Ok(())
    }

    /// Carries the image to `sink`. An image with [refusals](format::ImageInfo::refusals) is refused before the sink is touched.
    pub fn convert(self, sink: &dyn Sink) -> Result<Report> {
        self.convert_along(sink, None)
    }

    /// Whether a conversion can go on where another one of the same image was interrupted: of a plain image of known size, of which
    /// any byte can be had, and of which no digest is wanted.
    pub fn is_resumable(&self) -> bool {
        let is_plain = self.wrappings.is_empty() && self.digests.is_empty();
        is_plain && self.image.info().virtual_size.is_some() && self.source.restartable()
    }

    /// Like [`convert`](Self::convert), but goes on where `course` says, and tells it how far it comes. The report counts what was
    /// carried this time. Without effect unless it [is resumable](Self::is_resumable), and [the sink](Sink::is_resumable).
    pub fn convert_along(self, sink: &dyn Sink, course: Option<&Course>) -> Result<Report> {
        self.complete(sink, course)?.publish()
    }

    /// The part of [`convert_along`](Self::convert_along) that decodes: when it returns, `sink` has the whole disk, everything was
    /// checked, and nothing is published. From here on no file is opened, made or named, unless the spool needs one
    /// ([`Options::spool_file`]): the calling thread may have given up the right to.
    pub fn complete<'a>(mut self, sink: &'a dyn Sink, course: Option<&Course>) -> Result<Complete<'a>> {
        self.refuse()?;
        let course = course.filter(|_| self.is_resumable() && sink.is_resumable());
        let read = self.carry(sink, course).and_then(|carried| Ok((carried, self.check_to_the_end()?)));
        let (carried, digests) = self.unless_changed(read)?;
        Ok(Complete { sink, size: carried.size, report: self.report(carried, digests), started: self.started })
    }

    /// That the image is one that may be carried.
    pub(crate) fn refuse(&self) -> Result<()> {
        let info = self.image.info();
        match info.refusals.first() {
            Some(refusal) => {
                Err(Error::Unsupported { format: info.format, code: refusal.code, what: refusal.what.clone() })
            }
            None => Ok(()),
        }
    }

    /// Reads the image to its end and checks everything that a conversion checks. The disk of an image with refusals is
    /// not walked, but its stored bytes are.
    pub fn verify(mut self) -> Result<Report> {
        let walked = self.image.info().refusals.is_empty();
        let carried = if walked { self.carry(&Discard, None) } else { Ok(Carried::default()) };
        let read = carried.and_then(|carried| Ok((carried, self.check_to_the_end()?)));
        let (carried, digests) = self.unless_changed(read)?;
        Ok(self.report(carried, digests))
    }

    /// Walks the image.
    fn carry(&mut self, sink: &dyn Sink, course: Option<&Course>) -> Result<Carried> {
        let order = if self.source.seekable() { sink.order() } else { Order::Source };
        self.image.plan(self.source.as_mut(), order)?;
        sink.prepare(self.image.info().virtual_size)?;
        let (limits, workers) = (&self.options.limits, workers(sink, &self.options));
        let job = Job { sink, limits, workers, progress: &self.progress, course };
        let carried = engine::carry(self.image.as_mut(), self.source.as_mut(), &job)?;
        let info = self.image.info();
        match info.virtual_size {
            Some(size) if size != carried.size => {
                let what = format!("the image names {} bytes of its disk of {size}", carried.size);
                Err(Error::corrupt(info.format, "disk-not-covered", 0, what))
            }
            _ => Ok(carried),
        }
    }

    /// Reads what is left of the stored image, and holds it against what was promised.
    fn check_to_the_end(&mut self) -> Result<Vec<Checksum>> {
        let info = self.image.info();
        let size = info.virtual_size.unwrap_or(self.options.limits.virtual_size);
        let most = unused(size);
        if !self.source.drain(most)? {
            let what = format!("more than {most} bytes follow the last one that the image uses");
            return Err(Error::corrupt(info.format, "trailing-excess", 0, what));
        }
        let computed = self.digests.take();
        verify(&computed, &self.options.checksums)?;
        self.progress.check()?;
        Ok(computed)
    }

    /// What has been `read`, if it can be relied on. A file that was written to meanwhile may be two halves of two images, and
    /// so may a stream and what was read ahead of it; what looks like damage is then none.
    fn unless_changed<T>(&mut self, read: Result<T>) -> Result<T> {
        let seems_damaged = match &read {
            Ok(_) => false,
            Err(error) if matches!(error.kind(), Kind::Image | Kind::Mismatch) => true,
            Err(_) => return read,
        };
        self.unchanged.as_ref().map_or(Ok(()), Unchanged::check)?;
        match seems_damaged.then(|| self.source.prove(PROOF)) {
            Some(Err(error)) if error.code() == "source-changed" => Err(error),
            // Nothing else that is met on the way is worse than what was found first.
            _ => read,
        }
    }

    fn report(&mut self, carried: Carried, digests: Vec<Checksum>) -> Report {
        self.stored_size = self.stored_size.or(Some(self.meter.passed()));
        Report {
            inspection: self.inspection(),
            allocated: carried.allocated,
            transferred: self.meter.transferred(),
            spooled: self.source.spooled(),
            digests,
            elapsed: self.started.elapsed(),
        }
    }
}

/// A sink that wants the disk in order gets it from one worker, so that nothing waits for its turn.
fn workers(sink: &dyn Sink, options: &Options) -> usize {
    match sink.order() {
        Order::Source => options.threads(),
        Order::Virtual => 1,
    }
}

/// How many bytes are read on to tell an image that is damaged from one that has changed. Beyond, the answer comes too late to
/// be worth them.
const PROOF: u64 = 64 << 20;

/// An input with its wrappings off.
struct Unwrapped {
    source: Box<dyn Source>,
    wrappings: Vec<&'static str>,
    stored_size: Option<u64>,
    stored: Option<Stored>,
}

impl Unwrapped {
    /// A file that had none.
    fn plain(source: impl Source + 'static, len: u64) -> Self {
        Self { source: Box::new(source), wrappings: Vec::new(), stored_size: Some(len), stored: None }
    }
}

/// An image with one wrapping on.
struct Stored {
    layer: &'static Layer,
    source: Box<dyn Source>,
}

impl Stored {
    /// What two wrappings unpack to, the outer one does not know.
    fn of(wrappings: &[&'static str], source: impl Source + 'static) -> Option<Self> {
        let [only] = wrappings else { return None };
        layer::by_name(only).map(|layer| Self { layer, source: Box::new(source) })
    }

    fn unpacked_len(&mut self) -> Result<Option<u64>> {
        self.layer.unpacked_len.map_or(Ok(None), |unpacked_len| unpacked_len(self.source.as_mut()))
    }
}

struct Opener<'a> {
    options: &'a Options,
    meter: &'a Arc<Meter>,
    digests: &'a Digests,
    copied: Option<Copied>,
    /// Whether the bytes were unpacked before they came here.
    is_unpacked: bool,
}

impl Opener<'_> {
    fn file(&self, file: File) -> Result<Unwrapped> {
        let Some(len) = stored_len(&file)? else {
            return self.stream(Box::new(self.tap(Positioned { file, at: 0 }, None)), None, None);
        };
        let outermost = match &self.options.format {
            Some(stated) => stated.wrappings.first().copied(),
            None => layer::probe(&head(&file)?),
        };
        if outermost.is_some() {
            let looked_at = self.source(&file, &self.apart())?;
            let unwrapped = self.stream(self.forward(file, len), Some(len), None)?;
            return Ok(Unwrapped { stored: Stored::of(&unwrapped.wrappings, looked_at), ..unwrapped });
        }
        let source = self.source(&file, self.meter)?;
        if self.digests.is_empty() && self.copied.is_none() {
            return Ok(Unwrapped::plain(source, len));
        }
        let stream = Stream::new(self.forward(file, len), Some(len), u64::MAX, Past::File(source));
        Ok(Unwrapped::plain(stream, len))
    }

    /// Reads a file from its start to its end. Whoever gets its bytes besides says when they come.
    fn forward(&self, file: File, len: u64) -> layer::Reader {
        let tap = self.tap(Positioned { file, at: 0 }, Some(len));
        if self.copied.is_some() { Box::new(tap) } else { Box::new(ReadAhead::new(tap)) }
    }

    fn source(&self, file: &File, meter: &Arc<Meter>) -> Result<FileSource> {
        let file = file.try_clone().map_err(|error| Error::reading(0, error))?;
        FileSource::new(file, Arc::clone(meter))
    }

    /// Counts what is looked at besides, and is no part of what is carried.
    fn apart(&self) -> Arc<Meter> {
        Arc::new(Meter::new(self.meter.progress()))
    }

    /// `reader` is tapped.
    fn stream(&self, reader: layer::Reader, len: Option<u64>, ranges: Option<Box<dyn Ranges>>) -> Result<Unwrapped> {
        let limits = &self.options.limits;
        let stated = self.options.format.as_ref().map(|stated| stated.wrappings.as_slice());
        let how = Unwrapping::new(limits, self.options.threads()).until(self.meter.progress());
        let (reader, wrappings) = layer::peel(reader, stated, &how)?;
        let spool = Spool::new(self.options.spool_place(), limits.spool_memory, limits.spool);
        let plain_len = len.filter(|_| wrappings.is_empty());
        // A stream must not run for ever behind a small disk.
        let stream = Stream::new(reader, plain_len, limits.stream(), Past::Spool(spool));
        let stream = if self.is_unpacked || !wrappings.is_empty() { stream.unwrapped() } else { stream };
        let (source, stored) = match ranges {
            Some(ranges) if wrappings.is_empty() => {
                (stream.with_aside(Aside::new(ranges, len, Arc::clone(self.meter))), None)
            }
            Some(ranges) => (stream, Stored::of(&wrappings, Aside::new(ranges, len, self.apart()))),
            None => (stream, None),
        };
        Ok(Unwrapped { source: Box::new(source), wrappings, stored_size: len, stored })
    }

    fn tap<R: Read>(&self, reader: R, len: Option<u64>) -> Tap<R> {
        Tap::new(reader, len, Arc::clone(self.meter), self.digests.clone()).copied_to(self.copied.clone())
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

#[cfg(test)]
mod tests {
    use std::io::{Cursor, repeat};

    use super::*;
    use crate::extent::{Body, Extent};
    use crate::format::ImageInfo;

    /// A format with a bug: it does not name its disk once and whole.
    struct Liar(ImageInfo, Vec<Extent>);

    impl Image for Liar {
        fn info(&self) -> &ImageInfo {
            &self.0
        }

        fn next_extent(&mut self, _: &mut dyn Source) -> Result<Option<Extent>> {
            Ok(self.1.pop())
        }
    }

    fn outcome(ranges: &[(u64, u64)]) -> String {
        let input = Input::Stream { reader: Box::new(Cursor::new(vec![7; 8192])), len: None };
        let mut opened = open(input, &Options::default(), &Progress::default()).unwrap();
        let info = ImageInfo { format: "liar", virtual_size: Some(8192), ..ImageInfo::default() };
        let extents = ranges.iter().map(|(start, len)| Extent { start: *start, len: *len, body: Body::Zero }).collect();
        opened.image = Box::new(Liar(info, extents));
        opened.verify().map_or_else(|error| error.code(), |report| report.allocated.to_string())
    }

    #[test]
    fn what_a_format_does_not_name_once_and_whole_is_not_published() {
        assert_eq!(outcome(&[(0, 4096), (4096, 4096)]), "0");
        assert_eq!(outcome(&[(0, 4096), (4096, 4095)]), "liar-disk-not-covered");
        assert_eq!(outcome(&[(0, 4096), (4096, 4096), (0, 1)]), "liar-disk-not-covered");
        assert_eq!(outcome(&[(0, 4096), (4096, 4097)]), "liar-outside-disk");
        assert_eq!(outcome(&[(8192, 1)]), "liar-outside-disk");
        assert_eq!(outcome(&[(u64::MAX, u64::MAX)]), "max-size");
    }

    #[test]
    fn an_image_may_be_followed_by_eight_gibibytes_and_not_by_a_byte_more() {
        for (more, expected) in [(0, "0"), (1, "liar-trailing-excess")] {
            // Opening has taken some of it; what counts is what is left behind the last byte that was used.
            let reader = Cursor::new([7; 1]).chain(repeat(0).take(unused(0) - 1 + more));
            let input = Input::Stream { reader: Box::new(reader), len: None };
            let options = Options { format: Some("raw".parse().unwrap()), ..Options::default() };
            let mut opened = open(input, &options, &Progress::default()).unwrap();
            let info = ImageInfo { format: "liar", virtual_size: Some(0), ..ImageInfo::default() };
            opened.image = Box::new(Liar(info, Vec::new()));
            let found = opened.verify().map_or_else(|error| error.code(), |report| report.allocated.to_string());
            assert_eq!(found, expected, "{more}");
        }
    }
}
