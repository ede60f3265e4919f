//! From the layers of an image to the one file in them, with all digests checked on the way.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskferry::archive::{self, Found, Hidden, Room};
use diskferry::digest::{Checksum, Digester};
use diskferry::layer::{self, Unwrapping};
use diskferry::source::Ranges;
use diskferry::{Error, Input, Limits, Progress, Result};

use super::manifest::{Descriptor, short};
use super::{Blob, Pulled, Store, Wish};

const FORMAT: &str = "oci";

/// Of the memory for windows and dictionaries, a packed layer may take the fourth part; all of it is for the image within.
const SHARE: u64 = 4;

/// What may come beside the image, unpacked, in all layers down to it: more than any system has in which an image may lie.
const BESIDE: u64 = 64 << 30;

/// A layer: the blob, and the digest of what it unpacks to.
pub(super) struct Layer {
    pub(super) blob: Descriptor,
    pub(super) diff: Checksum,
}

/// Looks for the image from the topmost of `layers`, which stand in order from the lowest. Those that lie over it are read
/// to their end.
pub(super) fn open(store: &Store, layers: &[Layer], wish: &Wish, progress: &Progress) -> Result<Pulled> {
    let mut opener = Opener { store, wish, progress, transferred: Arc::default(), passed: 0 };
    let mut hidden = Hidden::default();
    for layer in layers.iter().rev() {
        if let Some(input) = opener.layer(layer, &mut hidden)? {
            return Ok(Pulled { input, transferred: Transferred(opener.transferred) });
        }
    }
    let what = format!("none of the {} layers has a file under disk/, or the one that --path names", layers.len());
    Err(Error::unsupported(FORMAT, "no-image", what))
}

/// Bytes that have really come, while they come.
#[derive(Debug, Clone, Default)]
pub struct Transferred(Arc<AtomicU64>);

impl Transferred {
    /// How many they are by now.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Opener<'a> {
    store: &'a Store,
    wish: &'a Wish,
    progress: &'a Progress,
    transferred: Arc<AtomicU64>,
    /// Bytes of layers without the image, unpacked.
    passed: u64,
}

impl Opener<'_> {
    fn layer(&mut self, layer: &Layer, hidden: &mut Hidden) -> Result<Option<Input>> {
        layer.blob.check_layer()?;
        let expected = layer.blob.checksum()?;
        let Blob { reader, ranges } = self.store.blob(&layer.blob, self.wish, self.progress)?;
        let stored = Verified {
            inner: reader,
            what: format!("layer {}", short(&layer.blob.digest)),
            size: Some(layer.blob.size),
            digester: Some(Digester::new([expected.algorithm])),
            expected,
            count: 0,
            shown_from: None,
            progress: self.progress.clone(),
            transferred: Some(Arc::clone(&self.transferred)),
        };
        // It may unpack all of a layer to find that nothing is in it.
        let found = self.wish.sandbox.run(|| self.image(stored, layer, hidden))??;
        let Some((image, is_plain)) = found else { return Ok(None) };
        let (reader, len) = (image.reader, Some(image.len));
        if !is_plain {
            return Ok(Some(Input::Unpacked { reader, len }));
        }
        let Some(inner) = ranges else { return Ok(Some(Input::Stream { reader, len })) };
        let ranges =
            Box::new(Within { inner, at: image.at, len: image.len, transferred: Arc::clone(&self.transferred) });
        Ok(Some(Input::Ranged { reader, len, ranges }))
    }

    /// The image in a layer, and whether that has no packing.
    fn image(
        &mut self,
        stored: Verified,
        layer: &Layer,
        hidden: &mut Hidden,
    ) -> Result<Option<(archive::Image, bool)>> {
        // One packing is what layers have; the image within is another matter.
        let window = self.wish.limits.window / SHARE;
        let limits = Limits { layers: 1, window, ..self.wish.limits.clone() };
        let how = Unwrapping::new(&limits, self.wish.threads).until(self.progress);
        let (reader, packings) = layer::peel(Box::new(stored), None, &how)?;
        let is_plain = packings.is_empty();
        let reader: layer::Reader = if is_plain && layer.blob.checksum()? == layer.diff {
            // The same bytes and the same digest.
            reader
        } else {
            Box::new(Verified {
                inner: reader,
                what: format!("layer {}, unpacked,", short(&layer.blob.digest)),
                size: None,
                digester: Some(Digester::new([layer.diff.algorithm])),
                expected: layer.diff.clone(),
                count: 0,
                shown_from: None,
                progress: self.progress.clone(),
                transferred: None,
            })
        };
        let room = Room { archive: limits.stream(), beside: BESIDE, passed: self.passed };
        Ok(match archive::find(reader, &self.wish.pick, hidden, room)? {
            Found::Image(image) => Some((image, is_plain)),
            Found::Nothing(len) => {
                self.passed = self.passed.saturating_add(len);
                None
            }
        })
    }
}

/// Reads a blob, and ends only if it was what was promised.
pub(super) struct Verified {
    inner: layer::Reader,
    what: String,
    size: Option<u64>,
    /// `None` once it has been compared.
    digester: Option<Digester>,
    expected: Checksum,
    count: u64,
    /// Where in the job it begins, if it is all that the job reads.
    shown_from: Option<u64>,
    progress: Progress,
    transferred: Option<Arc<AtomicU64>>,
}

impl Verified {
    /// Reads `blob` as it is stored.
    pub(super) fn stored(inner: layer::Reader, blob: &Descriptor, progress: &Progress) -> Result<Self> {
        let expected = blob.checksum()?;
        Ok(Self {
            inner,
            what: format!("blob {}", short(&blob.digest)),
            size: Some(blob.size),
            digester: Some(Digester::new([expected.algorithm])),
            expected,
            count: 0,
            shown_from: None,
            progress: progress.clone(),
            transferred: None,
        })
    }

    /// The same, with its bytes shown as progress behind the first `before` ones of a job.
    pub(super) fn counted_from(self, before: u64) -> Self {
        Self { shown_from: Some(before), ..self }
    }

    /// More than promised is noticed at once.
    fn check_size(&self, ended: bool) -> Result<()> {
        match self.size {
            Some(size) if self.count > size || (ended && self.count < size) => Err(Error::Mismatch {
                what: format!("length of the {} in bytes", self.what),
                expected: size.to_string(),
                found: if ended { self.count.to_string() } else { format!("at least {}", self.count) },
            }),
            _ => Ok(()),
        }
    }

    fn check_digest(&mut self) -> Result<()> {
        let Some(digester) = self.digester.take() else { return Ok(()) };
        match digester.finish().into_iter().next() {
            Some(found) if found == self.expected => Ok(()),
            found => Err(Error::Mismatch {
                what: format!("{} of the {}", self.expected.algorithm, self.what),
                expected: self.expected.hex.clone(),
                found: found.map(|sum| sum.hex).unwrap_or_default(),
            }),
        }
    }
}

impl Read for Verified {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.progress.check()?;
        let got = self.inner.read(buf)?;
        self.count = self.count.saturating_add(got as u64);
        if let Some(transferred) = &self.transferred {
            transferred.fetch_add(got as u64, Ordering::Relaxed);
        }
        if let Some(before) = self.shown_from {
            self.progress.reach(before.saturating_add(self.count));
        }
        self.check_size(got == 0)?;
        if got == 0 {
            self.check_digest()?;
        } else if let (Some(digester), Some(bytes)) = (&mut self.digester, buf.get(..got)) {
            digester.update(bytes);
        }
        Ok(got)
    }
}

/// The image's part of a blob.
struct Within {
    inner: Box<dyn Ranges>,
    at: u64,
    len: u64,
    transferred: Arc<AtomicU64>,
}

impl Ranges for Within {
    fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let Some(buf) = buf.get_mut(..left).filter(|buf| !buf.is_empty()) else { return Ok(Some(0)) };
        let got = self.inner.read_at(buf, self.at.saturating_add(at))?;
        self.transferred.fetch_add(got.unwrap_or_default() as u64, Ordering::Relaxed);
        Ok(got)
    }
}
