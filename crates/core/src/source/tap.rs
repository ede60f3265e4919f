//! Counts and digests the stored bytes on their way in, and is where a job notices that it should stop.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::digest::{Algorithm, Checksum, Digester};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::progress::Progress;
use crate::spans::Spans;

/// What has been read of the stored image.
pub(crate) struct Meter {
    progress: Progress,
    transferred: AtomicU64,
    /// How far the stored image has passed in order.
    passed: AtomicU64,
    /// Which stored bytes have been read.
    read: Mutex<Spans>,
}

/// Into how many parts what was read may fall before gaps are forgotten.
const PARTS: usize = 16 << 10;

impl Meter {
    pub(crate) fn new(progress: &Progress) -> Self {
        Self {
            progress: progress.clone(),
            transferred: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            read: Mutex::default(),
        }
    }

    /// The `count` stored bytes at `at` have been read from a source that lies near. Bytes that were looked at before they are
    /// carried, or that are digested besides, count once.
    pub(crate) fn read(&self, at: u64, count: u64) {
        let mut read = lock(&self.read);
        let range = at..at.saturating_add(count);
        let again = read.remove(range.clone());
        read.insert(range);
        if read.count() > PARTS {
            // The lowest one has mostly been passed for good.
            read.close_first_gap();
        }
        self.add(count.saturating_sub(again));
    }

    /// `count` more bytes have left the source.
    pub(crate) fn add(&self, count: u64) {
        self.transferred.fetch_add(count, Ordering::Relaxed);
    }

    /// The image has passed up to the stored byte `at`.
    pub(crate) fn reach(&self, at: u64) {
        self.passed.fetch_max(at, Ordering::Relaxed);
        self.progress.reach(at);
    }

    /// How far that is, which at the end is the length of the image.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    pub(crate) fn transferred(&self) -> u64 {
        self.transferred.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.progress.check()
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }
}

/// Digests that are computed while a [`Tap`] is read, to be collected when it has ended.
#[derive(Clone, Default)]
pub(crate) struct Digests(Arc<Mutex<Digester>>);

impl Digests {
    pub(crate) fn new(algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        Self(Arc::new(Mutex::new(Digester::new(algorithms))))
    }

    /// Whether nobody asked for a digest.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    fn update(&self, bytes: &[u8]) {
        lock(&self.0).update(bytes);
    }

    /// The values over everything read. Leaves nothing behind.
    pub(crate) fn take(&self) -> Vec<Checksum> {
        std::mem::take(&mut *lock(&self.0)).finish()
    }
}

/// Who else gets the stored bytes while they pass, in order and each once.
pub(crate) type Copied = Arc<Mutex<dyn Write + Send>>;

/// A reader of stored bytes that is counted, digested and held to its promised length.
pub(crate) struct Tap<R> {
    inner: R,
    meter: Arc<Meter>,
    digests: Digests,
    copied: Option<Copied>,
    promised: Option<u64>,
    count: u64,
}

impl<R: Read> Tap<R> {
    pub(crate) fn new(inner: R, promised: Option<u64>, meter: Arc<Meter>, digests: Digests) -> Self {
        Self { inner, meter, digests, copied: None, promised, count: 0 }
    }

    /// The same, that hands on what it reads.
    pub(crate) fn copied_to(self, copied: Option<Copied>) -> Self {
        Self { copied, ..self }
    }

    /// The same for a reader that begins with the byte at `at`.
    pub(crate) fn from(self, at: u64) -> Self {
        Self { count: at, ..self }
    }

    /// More bytes than promised are as wrong as fewer.
    fn hold_to_promise(&self, ended: bool) -> Result<()> {
        match self.promised {
            Some(promised) if self.count > promised || (ended && self.count < promised) => Err(Error::Mismatch {
                what: "length of the source in bytes".into(),
                expected: promised.to_string(),
                found: if ended { self.count.to_string() } else { format!("at least {}", self.count) },
            }),
            _ => Ok(()),
        }
    }
}

/// What a reader says that cannot be.
pub(super) fn read_too_much(at: u64) -> Error {
    Error::reading(at, io::Error::other("the reader says that it has read more than it was asked for"))
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.meter.check()?;
        let got = loop {
            match self.inner.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.meter.check()?,
                Err(error) => return Err(Error::reading(self.count, error).into()),
                Ok(got) if got > buf.len() => return Err(read_too_much(self.count).into()),
                Ok(got) => break got,
            }
        };
        self.meter.read(self.count, got as u64);
        self.count = self.count.saturating_add(got as u64);
        self.meter.reach(self.count);
        self.digests.update(buf.get(..got).unwrap_or_default());
        self.hold_to_promise(got == 0 && !buf.is_empty())?;
        if let Some(copied) = &self.copied {
            let handed = lock(copied).write_all(buf.get(..got).unwrap_or_default());
            handed.map_err(|error| Error::writing("handing on the image", None, error))?;
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], promised: Option<u64>) -> Result<usize> {
        let meter = Arc::new(Meter::new(&Progress::default()));
        let mut tap = Tap::new(bytes, promised, meter, Digests::default());
        tap.read_to_end(&mut Vec::new()).map_err(|error| Error::reading(0, error))
    }

    #[test]
    fn a_promised_length_must_be_kept_exactly() {
        assert_eq!(read(b"abc", Some(3)).unwrap(), 3);
        assert_eq!(read(b"abc", Some(4)).unwrap_err().to_string(), "length of the source in bytes is 3, expected 4");
        assert_eq!(read(b"abc", Some(2)).unwrap_err().code(), "mismatch");
    }

    #[test]
    fn a_reader_that_says_more_than_it_can_have_read_is_an_error() {
        struct Liar;
        impl Read for Liar {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                Ok(buf.len() + 1)
            }
        }
        let meter = Arc::new(Meter::new(&Progress::default()));
        let mut tap = Tap::new(Liar, None, meter, Digests::default());
        let error = Error::reading(0, tap.read(&mut [0; 16]).unwrap_err());
        assert_eq!(error.code(), "source-read");
    }

    #[test]
    fn what_is_read_again_counts_once() {
        let meter = Meter::new(&Progress::default());
        for (at, count, expected) in [(0, 100, 100), (50, 100, 150), (1000, 10, 160), (0, 2000, 2000), (7, 7, 2000)] {
            meter.read(at, count);
            assert_eq!(meter.transferred(), expected);
        }
    }

    #[test]
    fn scattered_reads_take_no_more_memory_and_never_count_as_more_than_there_is() {
        let meter = Meter::new(&Progress::default());
        let parts = 3 * PARTS as u64;
        for _ in 0..2 {
            (0..parts).for_each(|part| meter.read(part * 2, 1));
            assert_eq!(meter.transferred(), parts);
        }
        assert_eq!(meter.read.lock().unwrap().count(), PARTS);
        meter.read(0, parts * 2);
        assert!((parts..=parts * 2).contains(&meter.transferred()));
    }

    #[test]
    fn a_stopped_job_reads_no_further() {
        let progress = Progress::default();
        let meter = Arc::new(Meter::new(&progress));
        let mut tap = Tap::new(&b"abc"[..], None, meter, Digests::default());
        progress.stop();
        let error = tap.read(&mut [0; 2]).unwrap_err();
        assert_eq!(Error::reading(0, error).code(), "stopped");
    }
}
