//! A regular file or block device, read by position.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{Advice, FileType, SeekFrom as Whence, fstat};
use rustix::io::Errno;

use super::tap::Meter;
use super::{Source, fill};
use crate::error::{Error, Result};

/// An unwrapped image in a file.
pub(crate) struct FileSource {
    file: Arc<File>,
    len: u64,
    meter: Arc<Meter>,
    /// Whether the file system tells where holes are; block devices and some file systems do not.
    maps_holes: bool,
    /// The data that was found last: neighbouring extents mostly lie in it too.
    found: Range<u64>,
}

impl FileSource {
    pub(crate) fn new(file: File, meter: Arc<Meter>) -> Result<Self> {
        let len = stored_len(&file)?.unwrap_or_default();
        // The walk reads forward, apart from metadata: let the kernel read ahead. Best effort.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        let file = Arc::new(file);
        Ok(Self { file, len, meter, maps_holes: true, found: 0..0 })
    }

    fn seek(&mut self, whence: Whence) -> Result<Option<u64>> {
        match rustix::fs::seek(&self.file, whence) {
            Ok(at) => Ok(Some(at)),
            // SEEK_DATA: no data up to the end of the file.
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(Error::reading(0, error.into())),
        }
    }
}

/// What tells that a file was written to: its length, and when that was last done. Reading changes neither. The time at which
/// the inode changed is not asked for: that a file is renamed, or gets another owner, does not matter to its bytes.
pub(crate) struct Unchanged {
    file: File,
    seen: Option<Written>,
}

/// Length, and time in seconds and nanoseconds.
type Written = (i64, i64, u64);

impl Unchanged {
    /// Remembers what `file` is now. Block devices keep no time that could be relied on: they always pass.
    pub(crate) fn since_now(file: &File) -> Result<Self> {
        let seen = file.try_clone().and_then(|file| Ok(Self { seen: written(&file)?, file }));
        seen.map_err(|error| Error::reading(0, error))
    }

    /// Fails if the file was written to since.
    pub(crate) fn check(&self) -> Result<()> {
        if written(&self.file).map_err(|error| Error::reading(0, error))? == self.seen {
            return Ok(());
        }
        let what = "the source was written to while it was read: convert it again when nobody uses it";
        Err(Error::source("changed", what).for_now())
    }
}

fn written(file: &File) -> io::Result<Option<Written>> {
    let stat = fstat(file)?;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    Ok(is_file.then_some((stat.st_size, stat.st_mtime, stat.st_mtime_nsec)))
}

/// Length of a regular file or block device in bytes. `None` where it says that it is empty: files that the kernel makes up do not
/// say how much is in them.
pub(crate) fn stored_len(mut file: &File) -> Result<Option<u64>> {
    let mut len = || {
        // Not by what a path could be given to as well: a thread that decodes may have no right to call that.
        let stat = fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode).is_block_device() {
            return file.seek(SeekFrom::End(0));
        }
        u64::try_from(stat.st_size).map_err(io::Error::other)
    };
    let len = len().map_err(|error| Error::reading(0, error))?;
    Ok(Some(len).filter(|len| *len > 0))
}

/// Reads from a [lent](Source::lend) file until `buf` is full or the file ends, and returns how much was read.
pub(crate) fn read_lent(file: &File, buf: &mut [u8], at: u64) -> Result<usize> {
    fill(buf, at, |buf, at| read_some(file, buf, at))
}

fn read_some(file: &File, buf: &mut [u8], at: u64) -> Result<usize> {
    loop {
        match file.read_at(buf, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|error| Error::reading(at, error)),
        }
    }
}

impl Source for FileSource {
    fn len(&self) -> Option<u64> {
        Some(self.len)
    }

    fn read_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        let got = self.look_at(buf, at)?;
        self.meter.reach(at.saturating_add(got as u64));
        Ok(got)
    }

    fn look_at(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        self.meter.check()?;
        let got = read_some(&self.file, buf, at)?;
        self.meter.read(at, got as u64);
        Ok(got)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn restartable(&self) -> bool {
        true
    }

    fn drain(&mut self, _most: u64) -> Result<bool> {
        self.meter.reach(self.len);
        Ok(true)
    }

    fn next_data(&mut self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.meter.reach(range.start.min(self.len));
        if !self.maps_holes || (self.found.start <= range.start && range.end <= self.found.end) {
            return Ok(Some(range));
        }
        let start = match self.seek(Whence::Data(range.start)) {
            Ok(start) => start,
            Err(_) => {
                self.maps_holes = false;
                return Ok(Some(range));
            }
        };
        let end = range.end.min(self.len);
        match start {
            Some(start) if start < end => {
                let hole = self.seek(Whence::Hole(start))?.unwrap_or(end);
                self.found = start..hole;
                Ok(Some(start..hole.min(range.end)))
            }
            // What lies past the end of the file is no hole: it is missing, and reading it says so.
            _ if range.end > self.len => Ok(Some(self.len.max(range.start)..range.end)),
            _ => Ok(None),
        }
    }

    fn lend(&mut self, range: Range<u64>) -> Option<(Arc<File>, u64)> {
        if range.end > self.len {
            return None;
        }
        self.meter.read(range.start, range.end - range.start);
        self.meter.reach(range.end);
        Some((Arc::clone(&self.file), range.start))
    }

    fn copied(&mut self, range: Range<u64>) {
        self.meter.reach(range.end);
    }

    fn file(&self, range: Range<u64>) -> Option<(&File, u64)> {
        (range.end <= self.len).then_some((&self.file, range.start))
    }
}
