//! A block device: written in place, and made unusable until it is complete.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
use rustix::io::{Errno, pwrite, retry_on_intr};

use super::{OneDisk, Sink, write_zeroes};
use crate::error::{Error, Result};
use crate::lock::lock;

/// How a device is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Wait until the device says that the disk is on stable storage.
    pub sync: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self { sync: true }
    }
}

/// A disk that is written to a block device.
///
/// Its first MiB, with the boot code and the tables that say where everything is, reads as zero from
/// [`prepare`](Sink::prepare) on and is written when all the rest is durable: what is not done cannot be booted or
/// mounted by mistake. Of that MiB the first 4 KiB come last. Bytes of the device behind the disk's end are left alone.
#[derive(Debug)]
pub struct DeviceSink {
    device: File,
    name: String,
    size: u64,
    options: DeviceOptions,
    disk: OneDisk,
    /// What [`finish`](Sink::finish) writes at the start of the device.
    head: Mutex<Vec<u8>>,
    /// Which of [`BLANKING`] is tried next.
    blanking: AtomicUsize,
}

/// How much is written last.
const HEAD: u64 = 1 << 20;

/// How much of that is written last of all. A process that is killed in the middle of a write has written its
/// beginning, but of one page it has written all or nothing.
const FIRST: u64 = 4 << 10;

/// Ways to make a range read as zero without sending zeroes, cheapest first. Linux promises zeroes for both on a
/// block device, for the first one by giving room back; a discard would promise nothing.
const BLANKING: [FallocateFlags; 2] = [
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];

/// Ranges are blanked in units of this size, and what sticks out is written. No sector and no page is larger: the
/// kernel blanks behind the page cache's back, where a write to another part of the same page could bring old bytes
/// back.
const BLANKING_UNIT: u64 = 64 << 10;

impl DeviceSink {
    /// A sink for the block device at `path`, which nobody else may be using.
    pub fn open(path: impl AsRef<Path>, options: DeviceOptions) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        // O_EXCL on a block device claims it as a mount does, its partitions included.
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let mut device: File = open(path, flags, Mode::empty()).map_err(|e| cannot_open(&name, e))?.into();
        let kind = device.metadata().map_err(|e| Error::writing("looking at the device", None, e))?.file_type();
        if !kind.is_block_device() {
            return Err(Error::Target { code: "not-a-device", what: format!("{name} is not a block device") });
        }
        // Linux opens a read-only device for writing, and then refuses every write, even one of no bytes.
        pwrite(&device, &[], 0).map_err(|e| cannot_open(&name, e))?;
        let size =
            device.seek(SeekFrom::End(0)).map_err(|e| Error::writing("asking for the device's size", None, e))?;
        let (disk, head, blanking) = (OneDisk::default(), Mutex::default(), AtomicUsize::new(0));
        Ok(Self { device, name, size, options, disk, head, blanking })
    }

    fn head(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.head)
    }

    fn check_size(&self, size: u64) -> Result<()> {
        if size > self.size {
            let Self { name, size: has, .. } = self;
            let what = format!("the disk takes {size} bytes, {name} has {has}");
            return Err(Error::Target { code: "too-small", what });
        }
        Ok(())
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        self.device.write_all_at(data, offset).map_err(|e| Error::writing("writing the disk", Some(offset), e))
    }

    fn sync(&self) -> Result<()> {
        if self.options.sync {
            self.device.sync_data().map_err(|e| Error::writing("making the disk durable", None, e))?;
        }
        Ok(())
    }

    /// Writes what was held back.
    fn publish(&self, head: &[u8]) -> Result<()> {
        let (first, rest) = head.split_at(usize::try_from(FIRST).map_or(0, |first| first.min(head.len())));
        self.write(rest, FIRST)?;
        self.sync()?;
        self.write(first, 0)?;
        self.sync()
    }

    /// Makes `range` of the device read as zero.
    fn blank(&self, range: Range<u64>) -> Result<()> {
        let write = |range| write_zeroes(range, |zeroes, at| self.write(zeroes, at));
        let units = range.start.next_multiple_of(BLANKING_UNIT)..range.end - range.end % BLANKING_UNIT;
        if units.is_empty() || !self.blank_units(&units) {
            return write(range);
        }
        write(range.start..units.start)?;
        write(units.end..range.end)
    }

    /// Whether the device could be made to do it. What it did not know it is not asked for again.
    fn blank_units(&self, units: &Range<u64>) -> bool {
        let first = self.blanking.load(Ordering::Relaxed);
        for (way, &mode) in BLANKING.iter().enumerate().skip(first) {
            match retry_on_intr(|| fallocate(&self.device, mode, units.start, units.end - units.start)) {
                Ok(()) => return true,
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.blanking.fetch_max(way + 1, Ordering::Relaxed);
                }
                Err(_) => return false, // writing will tell what is wrong, if it is
            }
        }
        false
    }
}

impl Sink for DeviceSink {
    fn prepare(&self, size: Option<u64>) -> Result<()> {
        self.disk.begin()?;
        let size = size.unwrap_or(self.size);
        self.check_size(size)?;
        let head = vec![0; usize::try_from(size.min(HEAD)).unwrap_or_default()];
        self.blank(0..head.len() as u64)?;
        *self.head() = head;
        self.sync()
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_size(offset.saturating_add(data.len() as u64))?;
        let kept = match usize::try_from(offset) {
            Ok(start) if offset < HEAD => fill(self.head().get_mut(start..).unwrap_or_default(), data),
            _ => 0,
        };
        let (_, rest) = data.split_at(kept);
        if rest.is_empty() { Ok(()) } else { self.write(rest, offset + kept as u64) }
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len);
        self.check_size(end)?;
        let start = offset.max(self.head().len() as u64); // the head is blank since it was prepared
        if start < end { self.blank(start..end) } else { Ok(()) }
    }

    fn finish(&self, size: u64) -> Result<()> {
        self.check_size(size)?;
        self.sync()?;
        let head = self.head();
        let Err(error) = self.publish(&head) else { return Ok(()) };
        // What is reported as failed must not look like a disk, even if all of it may be there.
        let blanked = self.blank(0..head.len() as u64).and_then(|()| self.sync());
        Err(match error {
            Error::Io { side, at, source, .. } if blanked.is_err() => {
                let doing = "writing the first MiB, which cannot be made zero again: the device may look like a disk,";
                Error::Io { side, doing, at, source }
            }
            error => error,
        })
    }
}

/// Copies as much of `data` as `buf` takes, and returns how much that is.
fn fill(buf: &mut [u8], data: &[u8]) -> usize {
    let n = buf.len().min(data.len());
    buf[..n].copy_from_slice(&data[..n]);
    n
}

fn cannot_open(name: &str, error: Errno) -> Error {
    let what = |why| format!("{name} {why} ({error})");
    match error {
        Errno::BUSY => Error::Target { code: "in-use", what: what("is mounted or otherwise in use") },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => {
            Error::Target { code: "not-writable", what: what("is read-only, or not ours to write") }
        }
        _ => Error::Target { code: "cannot-open", what: what("cannot be opened for writing") },
    }
}
