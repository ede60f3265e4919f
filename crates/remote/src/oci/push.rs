//! A disk image becomes a container image: one layer with one file, a configuration, a manifest.
//!
//! The layer is stored while it is made: at one end of a pipe the image is read, at the other its layer is written or sent.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use diskferry::archive::Envelope;
use diskferry::digest::{Algorithm, Checksum, Digester};
use diskferry::sink::PipeSink;
use diskferry::{Error, Input, Kept, Opened, Options, Progress, Report, Result, Side, store};
use zstd::stream::read::Encoder;

use super::describe::{self, Described};
use super::manifest::{self, Descriptor, MANIFEST};
use super::pipe::{self, pipe};
use super::platform::Platform;
use super::stow::Stow;
use super::upload::Upload;
use crate::sandbox::Sandbox;

/// How hard zstd tries. It is what the tool takes by itself, and keeps up with a network.
const LEVEL: i32 = 3;

/// How often a layer is sent anew from its first byte.
pub(super) const RESTARTS: u32 = 3;

/// Longest name of a file in a container image that filesystems take.
const NAME: usize = 255;

/// Where a container image is put.
pub enum Target {
    /// Into a directory.
    Layout(Box<Stow>),
    /// To a registry.
    Registry(Box<Upload>),
}

/// How a disk image is put into a container image.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The file's name under `disk/`.
    pub name: String,
    /// The machine that it is for.
    pub platform: Platform,
    /// What of it is stored.
    pub form: Form,
    /// Where it is decoded.
    pub sandbox: Sandbox,
}

/// What is stored of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Its own bytes, whatever they are.
    #[default]
    Stored,
    /// The disk that it unpacks to.
    Raw,
    /// The disk, in a layer that zstd has packed.
    RawZstd,
}

/// What was stored.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The disk image. What was spooled because its length was not known is counted.
    pub report: Report,
    /// Digest of the layer.
    pub layer: Checksum,
    /// Digest of the manifest.
    pub manifest: Checksum,
    /// Bytes that were sent or written.
    pub uploaded: u64,
    /// Bytes that were there already.
    pub skipped: u64,
}

/// A blob that is where it belongs.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its digest.
    pub digest: Checksum,
    /// Its length in bytes.
    pub size: u64,
    /// How many bytes were sent or written; none if it was there.
    pub uploaded: u64,
}

/// A layer that is where it belongs.
pub(super) struct Layer {
    pub(super) blob: Sent,
    /// Digest of the archive.
    pub(super) diff: Checksum,
    pub(super) form: Form,
}

/// What makes blobs an image.
pub(super) struct Publication<'a> {
    pub(super) manifest: &'a [u8],
    pub(super) digest: Checksum,
    pub(super) media_type: &'a str,
    pub(super) platform: Option<&'a Platform>,
}

impl Plan {
    /// A plan for a file called `name`, if such a file can be in a container image.
    pub fn new(name: &str, platform: Platform, form: Form) -> Option<Self> {
        let is_hidden = name.starts_with(".wh.") || [".", ".."].contains(&name);
        let is_clean = !name.is_empty()
            && name.len() <= NAME
            && !name.contains(['/', '\\'])
            && !name.chars().any(char::is_control);
        (is_clean && !is_hidden).then(|| Self { name: name.to_owned(), platform, form, sandbox: Sandbox::default() })
    }
}

impl Target {
    /// A file that has to be removed by whoever ends the process before it is dropped.
    pub fn temporary(&self) -> Option<PathBuf> {
        match self {
            Self::Layout(stow) => stow.temporary(),
            Self::Registry(_) => None,
        }
    }

    /// Stores the image that `open` gives, and gives it its name when everything is there.
    ///
    /// `open` is called again where a registry has lost what it had: an image of known length is not kept.
    pub fn push<E: From<Error>>(
        &self,
        open: impl FnMut() -> Result<Input, E>,
        plan: &Plan,
        options: &Options,
        progress: &Progress,
    ) -> Result<Pushed, E> {
        let (report, layer) = match plan.form {
            Form::Stored => self.stored(open, plan, options, progress)?,
            Form::Raw | Form::RawZstd => self.disk(open, plan, options, progress)?,
        };
        Ok(self.finish(report, &layer, plan, progress)?)
    }

    /// Stores the layer of an image as it is.
    fn stored<E: From<Error>>(
        &self,
        mut open: impl FnMut() -> Result<Input, E>,
        plan: &Plan,
        options: &Options,
        progress: &Progress,
    ) -> Result<(Report, Layer), E> {
        let input = open()?;
        let Some(len) = input.stored_len()? else {
            let fill = |kept: &Arc<Mutex<Kept>>| plan.sandbox.run(|| store(input, kept.clone(), options, progress))?;
            return Ok(self.unmeasured(fill, plan, options, progress)?);
        };
        let archive = Envelope::new(&plan.name, len).archive_len(len);
        let mut opened = if matches!(input, Input::File(_)) && self.may_have(archive, progress)? {
            progress.expect_pass();
            if let Some(there) = self.known(input, len, plan, options, progress)? {
                progress.forgo_pass();
                return Ok(there);
            }
            None
        } else {
            Some((input, len))
        };
        let stored = anew(RESTARTS, || {
            let (input, len) = match opened.take() {
                Some(first) => first,
                None => {
                    progress.begin_pass();
                    let input = open()?;
                    // What had a length has one still; otherwise it is another source.
                    let len = input.stored_len()?.ok_or_else(changed_source)?;
                    (input, len)
                }
            };
            let produce = |writer: &Arc<Mutex<pipe::Writer>>| {
                let report = plan.sandbox.run(|| store(input, writer.clone(), options, progress))??;
                // A file may have grown before it was opened as an image, and the archive says in front how long it is.
                if report.inspection.stored_size == Some(len) { Ok(report) } else { Err(changed_source()) }
            };
            Ok::<_, E>(self.layer(plan, len, progress, produce))
        })??;
        Ok(stored)
    }

    /// The layer of an image, if it is there already. The image is read, and checked, for its digest.
    fn known(
        &self,
        input: Input,
        len: u64,
        plan: &Plan,
        options: &Options,
        progress: &Progress,
    ) -> Result<Option<(Report, Layer)>> {
        let envelope = Envelope::new(&plan.name, len);
        let digester = Arc::new(Mutex::new(Counted { digester: Digester::new([Algorithm::Sha256]), count: 0 }));
        let update = |bytes: &[u8]| digester.lock().unwrap_or_else(PoisonError::into_inner).add(bytes);
        update(&envelope.head);
        let report = plan.sandbox.run(|| store(input, digester.clone(), options, progress))??;
        update(&envelope.tail);
        let Some(Counted { digester, count }) =
            Arc::into_inner(digester).and_then(|digester| digester.into_inner().ok())
        else {
            return Ok(None);
        };
        let digest = manifest::finish(digester)?;
        if count != envelope.archive_len(len) || !self.has(&digest, count, progress)? {
            return Ok(None);
        }
        let blob = Sent { digest: digest.clone(), size: count, uploaded: 0 };
        Ok(Some((report, Layer { blob, diff: digest, form: plan.form })))
    }

    /// Whether something of this length is there, which may be what is to be stored: worth its digest before it is sent.
    fn may_have(&self, size: u64, progress: &Progress) -> Result<bool> {
        match self {
            Self::Layout(stow) => stow.has_blob_of(size),
            Self::Registry(upload) => upload.has_layer_of(size, progress),
        }
    }

    /// Stores the layer of the disk that an image unpacks to.
    fn disk<E: From<Error>>(
        &self,
        mut open: impl FnMut() -> Result<Input, E>,
        plan: &Plan,
        options: &Options,
        progress: &Progress,
    ) -> Result<(Report, Layer), E> {
        let input = open()?;
        // What came through a pipe does not come again.
        let restarts = if input.stored_len()?.is_some() { RESTARTS } else { 0 };
        let opened = plan.sandbox.run(|| diskferry::open(input, options, progress))??;
        let size = |opened: &Opened| opened.inspection().image.virtual_size;
        let Some(len) = size(&opened) else {
            let fill = |kept: &Arc<Mutex<Kept>>| plan.sandbox.run(|| to_pipe(opened, kept, options))?;
            return Ok(self.unmeasured(fill, plan, options, progress)?);
        };
        let mut opened = Some(opened);
        let stored = anew(restarts, || {
            let opened = match opened.take() {
                Some(first) => first,
                None => {
                    progress.begin_pass();
                    let input = open()?;
                    plan.sandbox.run(|| diskferry::open(input, options, progress))??
                }
            };
            if size(&opened) != Some(len) {
                return Err(changed_source().into());
            }
            let produce = |writer: &Arc<Mutex<pipe::Writer>>| plan.sandbox.run(|| to_pipe(opened, writer, options))?;
            Ok::<_, E>(self.layer(plan, len, progress, produce))
        })??;
        Ok(stored)
    }

    /// Stores the layer of something whose length is known when `fill` has come to its end: an archive states a file's length in front of
    /// it.
    fn unmeasured(
        &self,
        fill: impl FnOnce(&Arc<Mutex<Kept>>) -> Result<Report>,
        plan: &Plan,
        options: &Options,
        progress: &Progress,
    ) -> Result<(Report, Layer)> {
        let kept = Arc::new(Mutex::new(Kept::new(options)));
        progress.expect_pass();
        let mut report = fill(&kept)?;
        // All of it has passed, and is known to be all.
        let stored = progress.source();
        progress.expect(stored);
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let len = kept.len();
        report.spooled = report.spooled.saturating_add(len);
        let ((), layer) = anew(RESTARTS, || {
            kept.rewind();
            progress.begin_pass();
            let produce = |writer: &Arc<Mutex<pipe::Writer>>| {
                copy(&mut kept, writer, |at| {
                    // Of an image that was unpacked, another number of bytes was kept than passed.
                    let part = u128::from(stored) * u128::from(at) / u128::from(len.max(1));
                    progress.reach(u64::try_from(part).unwrap_or(stored));
                    progress.check()
                })
            };
            Ok::<_, Error>(self.layer(plan, len, progress, produce))
        })??;
        Ok((report, layer))
    }

    /// Stores the configuration, then the manifest.
    fn finish(&self, report: Report, layer: &Layer, plan: &Plan, progress: &Progress) -> Result<Pushed> {
        let found = Described::of(&report.inspection, plan.form);
        let config = describe::config(plan, &found, &layer.diff).to_string();
        let config = anew(RESTARTS, || Ok::<_, Error>(self.blob(&mut config.as_bytes(), progress)))??;
        let text = describe::image(plan, &found, layer, &config).to_string();
        let image = Publication {
            manifest: text.as_bytes(),
            digest: manifest::digest(text.as_bytes())?,
            media_type: MANIFEST,
            platform: Some(&plan.platform),
        };
        progress.check()?;
        self.publish(&image, progress)?;
        let layer = &layer.blob;
        let uploaded = layer.uploaded.saturating_add(config.uploaded);
        let skipped = (layer.size.saturating_add(config.size)).saturating_sub(uploaded);
        Ok(Pushed { report, layer: layer.digest.clone(), manifest: image.digest, uploaded, skipped })
    }

    /// Stores the layer around what `produce` writes, which must be `len` bytes.
    fn layer<T>(
        &self,
        plan: &Plan,
        len: u64,
        progress: &Progress,
        produce: impl FnOnce(&Arc<Mutex<pipe::Writer>>) -> Result<T>,
    ) -> Result<(T, Layer)> {
        let envelope = Envelope::new(&plan.name, len);
        let (writer, mut reader, gone) = pipe();
        let (produced, sent) = thread::scope(|scope| {
            let store = move || self.pack(&mut reader, plan.form, progress);
            let storing = thread::Builder::new().spawn_scoped(scope, store).map_err(no_thread)?;
            let writer = Arc::new(Mutex::new(writer));
            let write = |work: &dyn Fn(&mut pipe::Writer) -> io::Result<()>| {
                let done = work(&mut writer.lock().unwrap_or_else(PoisonError::into_inner));
                done.map_err(|error| Error::writing("storing the layer", None, error))
            };
            let produced =
                write(&|writer| writer.write_all(&envelope.head)).and_then(|()| produce(&writer)).and_then(|made| {
                    write(&|writer| {
                        writer.write_all(&envelope.tail)?;
                        writer.end()
                    })?;
                    Ok(made)
                });
            writer.lock().unwrap_or_else(PoisonError::into_inner).give_up();
            Ok::<_, Error>((produced, storing.join()))
        })?;
        let sent = sent.unwrap_or_else(|_| Err(unexpected()));
        match (produced, sent) {
            (Ok(produced), Ok(sent)) => Ok((produced, sent)),
            // Who stores has given up first, and knows why.
            (Ok(_), Err(error)) => Err(error),
            (Err(_), Err(error)) if gone.is_set() => Err(error),
            (Err(error), _) => Err(error),
        }
    }

    /// Stores an archive as a layer.
    fn pack(&self, archive: &mut pipe::Reader, form: Form, progress: &Progress) -> Result<Layer> {
        if form != Form::RawZstd {
            let blob = self.blob(archive, progress)?;
            return Ok(Layer { diff: blob.digest.clone(), blob, form });
        }
        let mut digested = Digested { inner: archive, digester: Digester::new([Algorithm::Sha256]) };
        let failed = |error| Error::writing("packing the layer", None, error);
        let blob = self.blob(&mut Encoder::new(&mut digested, LEVEL).map_err(failed)?, progress)?;
        Ok(Layer { diff: manifest::finish(digested.digester)?, blob, form })
    }

    fn blob(&self, reader: &mut (dyn Read + Send), progress: &Progress) -> Result<Sent> {
        self.blob_of(reader, Algorithm::Sha256, progress)
    }

    /// Stores a blob whose digest is of this algorithm.
    pub(super) fn blob_of(
        &self,
        reader: &mut (dyn Read + Send),
        algorithm: Algorithm,
        progress: &Progress,
    ) -> Result<Sent> {
        match self {
            Self::Layout(stow) => stow.blob_of(reader, algorithm, progress),
            Self::Registry(upload) => upload.blob_of(reader, algorithm, progress),
        }
    }

    /// Whether there is a blob of this digest and length. It stays there at least until the image has its name.
    pub(super) fn has(&self, digest: &Checksum, size: u64, progress: &Progress) -> Result<bool> {
        match self {
            Self::Layout(stow) => stow.has(digest, size, progress),
            Self::Registry(upload) => upload.blob_exists(digest, size, progress),
        }
    }

    /// Stores a manifest or an index that has no name.
    pub(super) fn document(&self, document: &Descriptor, bytes: &[u8], progress: &Progress) -> Result<()> {
        match self {
            Self::Layout(stow) => {
                stow.blob_of(&mut &*bytes, document.checksum()?.algorithm, progress)?;
                Ok(())
            }
            Self::Registry(upload) => upload.put_manifest(bytes, &document.media_type, &document.digest, progress),
        }
    }

    /// Gives an image its name. Everything that it names is there.
    pub(super) fn publish(&self, image: &Publication<'_>, progress: &Progress) -> Result<()> {
        match self {
            Self::Layout(stow) => stow.publish(image, progress),
            Self::Registry(upload) => upload.publish(image, progress),
        }
    }
}

/// Does `work` again where a registry has lost what it had, so many times and no more.
pub(super) fn anew<T, E>(restarts: u32, mut work: impl FnMut() -> Result<Result<T>, E>) -> Result<Result<T>, E> {
    for _ in 0..restarts {
        match work()? {
            Err(Error::Target { code: "upload-lost", .. }) => {}
            done => return Ok(done),
        }
    }
    work()
}

fn changed_source() -> Error {
    Error::source("changed", "when the source was opened again it was of another size")
}

/// Writes the disk of an image from its first byte to its last.
fn to_pipe<W: Write + Send>(opened: Opened, writer: &Arc<Mutex<W>>, options: &Options) -> Result<Report> {
    opened.convert(&PipeSink::of_job(Shared(Arc::clone(writer)), options))
}

/// A writer that somebody else goes on with.
struct Shared<W>(Arc<Mutex<W>>);

impl<W: Write> Write for Shared<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// Computes the digest of what is written.
struct Counted {
    digester: Digester,
    count: u64,
}

impl Counted {
    fn add(&mut self, bytes: &[u8]) {
        self.digester.update(bytes);
        self.count = self.count.saturating_add(bytes.len() as u64);
    }
}

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.add(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Computes the digest of what is read.
struct Digested<'a> {
    inner: &'a mut pipe::Reader,
    digester: Digester,
}

impl Read for Digested<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.digester.update(buf.get(..got).unwrap_or_default());
        Ok(got)
    }
}

/// Hands on what was kept, and says after each piece, and at first, how far it is.
fn copy(kept: &mut Kept, writer: &Arc<Mutex<pipe::Writer>>, reach: impl Fn(u64) -> Result<()>) -> Result<()> {
    let (mut buffer, mut at) = (vec![0; 64 << 10], 0);
    loop {
        reach(at)?;
        let got = kept.read(&mut buffer).map_err(|error| Error::writing("reading the spool", None, error))?;
        let Some(bytes) = buffer.get(..got).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        let written = writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
        written.map_err(|error| Error::writing("storing the layer", None, error))?;
        at += got as u64;
    }
}

pub(super) fn no_thread(error: io::Error) -> Error {
    Error::writing("starting a thread", None, error)
}

pub(super) fn unexpected() -> Error {
    let source = io::Error::other("the thread that stores the layer has ended");
    Error::Io { side: Side::Target, doing: "storing the layer", at: None, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::tests::without_threads;

    #[test]
    fn where_no_thread_can_be_started_a_layer_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::Layout(Box::new(Stow::create(&dir.path().join("layout"), None).unwrap()));
        let plan = Plan::new("a.img", Platform::usual(), Form::Stored).unwrap();
        let stored = without_threads(|| target.layer(&plan, 0, &Progress::default(), |_| Ok(())).map(|_| ()));
        let error = stored.unwrap_err();
        assert!(error.to_string().contains("starting a thread"), "{error}");
    }
}
