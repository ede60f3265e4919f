//! A disk image becomes a container image: one layer with one file, a configuration, a manifest.
//!
//! [Manifest](https://github.com/opencontainers/image-spec/blob/main/manifest.md) and
//! [configuration](https://github.com/opencontainers/image-spec/blob/main/config.md) of OCI: those of Docker have neither annotations nor
//! layers in zstd. Nothing in them says when or by whom, so that the same image gives the same digest.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use diskferry::archive::Envelope;
use diskferry::digest::Checksum;
use diskferry::{Error, Input, Inspection, Kept, Options, Progress, Report, Result, Side, store};
use serde_json::{Value, json};

use super::manifest::{self, MANIFEST};
use super::pipe::{self, pipe};
use super::platform::Platform;
use super::stow::Stow;
use super::upload::Upload;

/// Types of what is written.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// When everything was made.
const TIME: &str = "1970-01-01T00:00:00Z";

/// How often a layer is sent anew from its first byte.
const RESTARTS: u32 = 3;

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

/// What makes blobs an image.
pub(super) struct Publication<'a> {
    pub(super) manifest: &'a [u8],
    pub(super) digest: Checksum,
    pub(super) media_type: &'a str,
    pub(super) platform: &'a Platform,
}

impl Plan {
    /// A plan for a file called `name`, if such a file can be in a container image.
    pub fn new(name: &str, platform: Platform) -> Option<Self> {
        let is_hidden = name.starts_with(".wh.") || [".", ".."].contains(&name);
        let is_clean = !name.is_empty()
            && name.len() <= NAME
            && !name.contains(['/', '\\'])
            && !name.chars().any(char::is_control);
        (is_clean && !is_hidden).then(|| Self { name: name.to_owned(), platform })
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

    /// Stores the image that `open` gives as it is, and gives it its name when everything is there.
    ///
    /// `open` is called again where a registry has lost what it had: an image of known length is not kept.
    pub fn push<E: From<Error>>(
        &self,
        mut open: impl FnMut() -> Result<Input, E>,
        plan: &Plan,
        options: &Options,
        progress: &Progress,
    ) -> Result<Pushed, E> {
        let input = open()?;
        let (report, layer) = match input.stored_len()? {
            None => self.unmeasured(input, plan, options, progress)?,
            Some(len) => {
                let mut opened = Some((input, len));
                anew(|| {
                    let (input, len) = match opened.take() {
                        Some(first) => first,
                        None => {
                            let input = open()?;
                            // What had a length has one still; otherwise it is another source.
                            let len = input.stored_len()?.ok_or_else(changed_source)?;
                            (input, len)
                        }
                    };
                    let produce = |writer: &Arc<Mutex<pipe::Writer>>| store(input, writer.clone(), options, progress);
                    Ok::<_, E>(self.layer(plan, len, progress, produce))
                })??
            }
        };
        Ok(self.finish(report, &layer, plan, progress)?)
    }

    /// Stores the layer of an image whose length is not known: an archive states a file's length in front of it.
    fn unmeasured(&self, input: Input, plan: &Plan, options: &Options, progress: &Progress) -> Result<(Report, Sent)> {
        let kept = Arc::new(Mutex::new(Kept::new(options)));
        let mut report = store(input, kept.clone(), options, progress)?;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let len = kept.len();
        report.spooled = report.spooled.saturating_add(len);
        let ((), layer) = anew(|| {
            kept.rewind();
            let produce = |writer: &Arc<Mutex<pipe::Writer>>| copy(&mut kept, writer, progress);
            Ok::<_, Error>(self.layer(plan, len, progress, produce))
        })??;
        Ok((report, layer))
    }

    /// Stores the configuration, then the manifest.
    fn finish(&self, report: Report, layer: &Sent, plan: &Plan, progress: &Progress) -> Result<Pushed> {
        let found = &report.inspection;
        let config = config(plan, found, &layer.digest).to_string();
        let config = self.blob(&mut config.as_bytes(), progress)?;
        let text = image(plan, found, layer, &config).to_string();
        let image = Publication {
            manifest: text.as_bytes(),
            digest: manifest::digest(text.as_bytes())?,
            media_type: MANIFEST,
            platform: &plan.platform,
        };
        progress.check()?;
        match self {
            Self::Layout(stow) => stow.publish(&image, progress)?,
            Self::Registry(upload) => upload.publish(&image, progress)?,
        }
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
    ) -> Result<(T, Sent)> {
        let envelope = Envelope::new(&plan.name, len);
        let (writer, mut reader, gone) = pipe();
        let (produced, sent) = thread::scope(|scope| {
            let storing = scope.spawn(move || self.blob(&mut reader, progress));
            let writer = Arc::new(Mutex::new(writer));
            let write = |work: &dyn Fn(&mut pipe::Writer) -> std::io::Result<()>| {
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
            (produced, storing.join())
        });
        let sent = sent.unwrap_or_else(|_| Err(unexpected()));
        match (produced, sent) {
            (Ok(produced), Ok(sent)) => Ok((produced, sent)),
            // Who stores has given up first, and knows why.
            (Ok(_), Err(error)) => Err(error),
            (Err(_), Err(error)) if gone.is_set() => Err(error),
            (Err(error), _) => Err(error),
        }
    }

    fn blob(&self, reader: &mut dyn Read, progress: &Progress) -> Result<Sent> {
        match self {
            Self::Layout(stow) => stow.blob(reader, progress),
            Self::Registry(upload) => upload.blob(reader, progress),
        }
    }
}

/// Does `work` again where a registry has lost what it had, some times and no more.
fn anew<T, E>(mut work: impl FnMut() -> Result<Result<T>, E>) -> Result<Result<T>, E> {
    for _ in 0..RESTARTS {
        match work()? {
            Err(Error::Target { code: "upload-lost", .. }) => {}
            done => return Ok(done),
        }
    }
    work()
}

fn changed_source() -> Error {
    Error::source("changed", "the source had a length, and when it was opened again it had none")
}

fn copy(kept: &mut Kept, writer: &Arc<Mutex<pipe::Writer>>, progress: &Progress) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        progress.check()?;
        let got = kept.read(&mut buffer).map_err(|error| Error::writing("reading the spool", None, error))?;
        let Some(bytes) = buffer.get(..got).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        let written = writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
        written.map_err(|error| Error::writing("storing the layer", None, error))?;
    }
}

fn unexpected() -> Error {
    let source = std::io::Error::other("the thread that stores the layer has ended");
    Error::Io { side: Side::Target, doing: "storing the layer", at: None, source }
}

/// Labels by which platforms know what is in an image.
fn labels(found: &Inspection) -> Vec<(&'static str, String)> {
    let size = |size: Option<u64>| size.unwrap_or_default().to_string();
    vec![
        ("source-image-size", size(found.stored_size)),
        ("source-image-virtual-size", size(found.unpacked_size)),
        ("source-image-format", found.image.format.to_owned()),
    ]
}

fn object(pairs: Vec<(&'static str, String)>) -> Value {
    Value::Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
}

fn config(plan: &Plan, found: &Inspection, diff: &Checksum) -> Value {
    let mut labels = labels(found);
    labels.push(("erofs-compatible-layers", "true".into()));
    let mut config = json!({
        "created": TIME,
        "config": { "Labels": object(labels), "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [diff.to_string()] },
        "history": [{ "created": TIME, "created_by": "diskferry push" }],
    });
    // os, architecture and variant.
    if let (Some(config), Ok(Value::Object(platform))) = (config.as_object_mut(), serde_json::to_value(&plan.platform))
    {
        config.extend(platform);
    }
    config
}

fn image(plan: &Plan, found: &Inspection, layer: &Sent, config: &Sent) -> Value {
    let descriptor = |media_type: &str, blob: &Sent| json!({ "mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.size });
    let mut annotations = labels(found);
    annotations.extend([
        ("source-image-cdrom", found.image.cdrom.to_string()),
        ("org.opencontainers.image.title", plan.name.clone()),
        ("org.opencontainers.image.created", TIME.into()),
    ]);
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer)],
        "annotations": object(annotations),
    })
}
