//! A disk in memory, for whatever an image makes of it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use diskferry::Result;
use diskferry::sink::Sink;

/// Zeroes are found by blocks of this size.
const BLOCK: u64 = 4096;

/// Takes so many bytes and no more: who writes another one has not kept to the limit.
pub(crate) struct Disk {
    most: u64,
    bytes: Mutex<Vec<u8>>,
    /// Blocks that something was written to.
    written: Mutex<BTreeSet<u64>>,
    is_finished: AtomicBool,
}

impl Disk {
    /// A disk of at most so many bytes.
    pub(crate) fn new(most: u64) -> Self {
        Self { most, bytes: Mutex::default(), written: Mutex::default(), is_finished: AtomicBool::default() }
    }

    /// What is on it, if it was finished.
    pub(crate) fn finished(self) -> Option<Vec<u8>> {
        let bytes = self.bytes.into_inner().expect("no writer has panicked");
        self.is_finished.into_inner().then_some(bytes)
    }
}

impl Sink for Disk {
    fn prepare(&self, _: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut disk = self.bytes.lock().expect("no writer has panicked");
        let start = usize::try_from(offset).expect("within the limit");
        let end = start + data.len();
        assert!(end as u64 <= self.most, "{end} bytes, where {} are allowed", self.most);
        if disk.len() < end {
            disk.resize(end, 0);
        }
        disk[start..end].copy_from_slice(data);
        if end > start {
            let blocks = offset / BLOCK..(end as u64).div_ceil(BLOCK);
            self.written.lock().expect("no writer has panicked").extend(blocks);
        }
        Ok(())
    }

    fn zero(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    fn finish(&self, size: u64) -> Result<()> {
        let size = usize::try_from(size).expect("within the limit");
        let mut disk = self.bytes.lock().expect("no writer has panicked");
        assert!(disk.len() <= size, "written behind the end: {} of {size}", disk.len());
        disk.resize(size, 0);
        // So two disks of the same bytes have the same holes.
        for block in self.written.lock().expect("no writer has panicked").iter() {
            let [start, end] =
                [*block, block + 1].map(|block| usize::try_from(block * BLOCK).expect("within the limit"));
            let bytes = &disk[start..end.min(size)];
            assert!(bytes.iter().any(|byte| *byte != 0), "zeroes were written to block {block}");
        }
        self.is_finished.store(true, Ordering::Relaxed);
        Ok(())
    }
}
