//! The reading end: extents in, batches out.

use std::mem::take;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use super::batch::{Batch, LARGE, LENT, Piece, What};
use super::{Job, STEP, Shared};
use crate::error::{Error, Result};
use crate::extent::{Body, Codec, Extent};
use crate::format::Image;
use crate::source::{BEHIND, Loan, Source, ends_early, read_full};
use crate::zero::is_zero;

/// Takes extents from the image and reads what they store.
pub(super) struct Reader<'a> {
    job: &'a Job<'a>,
    shared: &'a Shared,
    format: &'static str,
    /// Starts the workers, who take batches at the other end.
    start: &'a dyn Fn() -> SyncSender<Batch>,
    send: Option<SyncSender<Batch>>,
    batch: Batch,
    /// Bytes of the disk that have been named.
    size: u64,
    /// Where the extent begins that is being read, and how many bytes had been named before it.
    extent: (u64, u64),
    /// Stored bytes since the last mark.
    passed: u64,
    /// Whether the source has still to be told where what was not carried before begins.
    begins: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        job: &'a Job<'a>,
        shared: &'a Shared,
        format: &'static str,
        start: &'a dyn Fn() -> SyncSender<Batch>,
    ) -> Self {
        let begins = job.course.is_some_and(|course| course.from > 0);
        Self {
            job,
            shared,
            format,
            start,
            send: None,
            batch: Batch::default(),
            size: 0,
            extent: (0, 0),
            passed: 0,
            begins,
        }
    }

    /// Reads to the end of the image, or until a worker fails. Returns how many bytes of the disk were named.
    pub(super) fn run(mut self, image: &mut dyn Image, source: &mut dyn Source) -> Result<u64> {
        if let Some(course) = self.job.course.filter(|course| course.from > 0) {
            source.pass();
            self.size = image.pass(course.from);
            if self.size > 0 {
                self.begin(source, self.size)?;
            }
        }
        while !self.shared.failed()
            && let Some(extent) = image.next_extent(source)?
        {
            self.job.progress.check()?;
            let before = self.size;
            self.count(&extent, image.info().virtual_size)?;
            let Some(extent) = self.rest_of(extent, before) else { continue };
            match extent.body {
                Body::Zero => self.zero(extent.start, extent.len),
                Body::Data { at } => {
                    self.begin(source, at)?;
                    self.data(source, at, extent.start, extent.len)?;
                }
                Body::Packed { at, len, codec } => {
                    self.begin(source, at)?;
                    self.packed(source, extent, at, len, codec)?;
                    self.mark(self.size, len.into())?;
                }
            }
        }
        if let Some(len) = source.len() {
            // Everything had been carried: only the end is to be seen.
            self.begin(source, len)?;
        }
        self.hand_over();
        Ok(self.size)
    }

    /// What of `extent` was not carried before. `before` is how many bytes had been named when it was.
    fn rest_of(&mut self, extent: Extent, before: u64) -> Option<Extent> {
        let carried = self.job.course.map_or(0, |course| course.from).saturating_sub(before);
        if carried > 0 && before.saturating_add(carried) >= self.size {
            return None;
        }
        let rest = match extent.body {
            Body::Data { at } => Extent {
                start: extent.start.saturating_add(carried),
                len: extent.len.saturating_sub(carried),
                body: Body::Data { at: at.saturating_add(carried) },
            },
            // Zeroes cost nothing, and a unit is not parted.
            Body::Zero | Body::Packed { .. } => return Some(extent),
        };
        self.extent = (rest.start, before.saturating_add(carried));
        Some(rest)
    }

    /// Tells the source, once, that nothing before `at` is wanted but what shares a sector with it.
    fn begin(&mut self, source: &mut dyn Source, at: u64) -> Result<()> {
        match take(&mut self.begins) {
            true => source.begin_at(at.saturating_sub(BEHIND)),
            false => Ok(()),
        }
    }

    /// Sets a mark behind the first `named` bytes of the disk, if enough has passed since the last one. `stored` bytes more have.
    fn mark(&mut self, named: u64, stored: u64) -> Result<()> {
        let Some(course) = self.job.course else { return Ok(()) };
        self.passed = self.passed.saturating_add(stored);
        if self.passed < course.every {
            return Ok(());
        }
        self.passed = 0;
        self.hand_over();
        if self.shared.wait_until_idle() {
            self.job.sink.sync()?;
            (course.mark)(named)?;
        }
        Ok(())
    }

    /// The same behind the byte of the disk at `at`, which is in or at the end of the extent that is being read.
    fn mark_at(&mut self, at: u64, stored: u64) -> Result<()> {
        let (start, named) = self.extent;
        self.mark(named.saturating_add(at.saturating_sub(start)), stored)
    }

    /// Adds up what has been named, none of which may lie outside of the disk. Only a stream's size is not known before.
    fn count(&mut self, extent: &Extent, virtual_size: Option<u64>) -> Result<()> {
        let limit = self.job.limits.virtual_size;
        let size = virtual_size.unwrap_or(limit);
        let end = extent.start.saturating_add(extent.len);
        let clipped = match extent.body {
            Body::Packed { .. } if extent.start < size => end.min(size),
            _ => end,
        };
        if clipped > limit {
            let what = "size of the virtual disk in bytes";
            return Err(Error::Limit { what, wanted: clipped, limit, option: "--max-size" });
        }
        if clipped > size {
            let what = format!("the image maps byte {} of its disk of {size}", clipped - 1);
            return Err(Error::corrupt(self.format, "outside-disk", 0, what));
        }
        self.size = self.size.saturating_add(clipped - extent.start);
        Ok(())
    }

    fn zero(&mut self, start: u64, len: u64) {
        if self.job.sink.is_blank() {
            self.job.progress.add_written(len);
            // Data do not wait for the end of zeroes that take their time.
            if self.batch.is_full() {
                self.hand_over();
            }
            return;
        }
        self.add(Piece { start, len, what: What::Zero, stored: 0..0 });
    }

    /// Hands on stored bytes, except those on holes of the image file.
    fn data(&mut self, source: &mut dyn Source, mut at: u64, mut start: u64, len: u64) -> Result<()> {
        let end = at.checked_add(len).ok_or_else(|| ends_early(self.format, "data", at, len, 0))?;
        while at < end && !self.shared.failed() {
            self.job.progress.check()?;
            let data = source.next_data(at..end)?.unwrap_or(end..end);
            if data.start > at {
                self.zero(start, data.start - at);
                start += data.start - at;
            }
            start += self.stored(source, data.clone(), start)?;
            at = data.end;
        }
        Ok(())
    }

    /// Hands on `range` of the image, whose length it returns.
    fn stored(&mut self, source: &mut dyn Source, range: Range<u64>, start: u64) -> Result<u64> {
        let len = range.end - range.start;
        let mut done = self.copied(source, &range, start)?;
        self.mark_at(start.saturating_add(done), done)?;
        while done < len && !self.shared.failed() {
            self.job.progress.check()?;
            let at = range.start.saturating_add(done);
            if let Some(part) = self.lent(source, at..range.end, start.saturating_add(done))? {
                done = done.saturating_add(part);
                self.mark_at(start.saturating_add(done), part)?;
                continue;
            }
            let room = self.batch.room().max(1);
            let part = usize::try_from(len - done).unwrap_or(room).min(room);
            let stored = self.read(source, at, part)?;
            if stored.len() < part {
                return Err(ends_early(self.format, "data", at, part as u64, stored.len() as u64));
            }
            self.add(Piece { start: start.saturating_add(done), len: part as u64, what: What::Plain, stored });
            done = done.saturating_add(part as u64);
            self.mark_at(start.saturating_add(done), part as u64)?;
        }
        Ok(len)
    }

    /// Hands on the beginning of `range` without copying it, if its file or its bytes can be had, and returns how much that was.
    fn lent(&mut self, source: &mut dyn Source, range: Range<u64>, start: u64) -> Result<Option<u64>> {
        let len = (range.end - range.start).min(LENT as u64);
        let range = range.start..range.start.saturating_add(len);
        if let Some((file, at)) = source.lend(range.clone()) {
            self.add(Piece { start, len, what: What::Lent { file, at }, stored: 0..0 });
            return Ok(Some(len));
        }
        let Some(Loan { bytes, place: stored }) = source.share(range)? else { return Ok(None) };
        let len = stored.len() as u64;
        // Mostly this thread has just unpacked them: zeroes need not travel to another core to be seen.
        if bytes.get(stored.clone()).is_some_and(is_zero) {
            self.batch.pass(len);
            self.zero(start, len);
        } else {
            self.add(Piece { start, len, what: What::Shared { bytes }, stored });
        }
        Ok(Some(len))
    }

    /// Lets the kernel copy as much of `range` as it can, and returns how many bytes that was.
    fn copied(&mut self, source: &mut dyn Source, range: &Range<u64>, start: u64) -> Result<u64> {
        let mut at = range.start;
        while at < range.end {
            self.job.progress.check()?;
            let end = range.end.min(at.saturating_add(STEP));
            let Some((file, file_at)) = source.file(at..end) else { break };
            let to = start.saturating_add(at - range.start);
            let taken = self.job.sink.copy_from(file, file_at, to, end - at)?;
            self.shared.allocated.fetch_add(taken, Ordering::Relaxed);
            self.job.progress.add_written(taken);
            source.copied(at..at.saturating_add(taken));
            at = at.saturating_add(taken);
            if at < end {
                break;
            }
        }
        Ok(at - range.start)
    }

    fn packed(&mut self, source: &mut dyn Source, extent: Extent, at: u64, len: u32, codec: Codec) -> Result<()> {
        let limit = self.job.limits.unit;
        // Packing makes nothing much longer, so what is stored is bounded by the same limit.
        let wanted = extent.len.max(u64::from(len) / 2);
        if wanted > limit {
            let what = "bytes of one packed unit";
            return Err(Error::Limit { what, wanted, limit, option: "--limit-unit" });
        }
        // The image may end inside the last sector of a unit: whether that matters shows when it is unpacked.
        let least = if codec.is_exact() { u64::from(len) } else { 1 };
        let format = self.format;
        let early = |got| Err(ends_early(format, "packed data", at, u64::from(len), got));
        self.make_room(len as usize);
        let stored = match source.lend(at..at.saturating_add(len.into())) {
            Some((file, file_at)) => {
                let there = source.len().map_or(u64::MAX, |end| end.saturating_sub(at));
                if there < least {
                    return early(there);
                }
                self.batch.lend(file, file_at, len as usize)
            }
            None => self.read(source, at, len as usize)?,
        };
        if (stored.len() as u64) < least {
            return early(stored.len() as u64);
        }
        self.add(Piece { start: extent.start, len: extent.len, what: What::Packed { codec, at }, stored });
        Ok(())
    }

    /// Makes room for a unit that is stored in `len` bytes. A large one counts from here on, and gets a buffer that held one before.
    fn make_room(&mut self, len: usize) {
        if len <= LARGE {
            return;
        }
        self.hand_over();
        drop(self.shared.wait_for_room(len));
        self.shared.give_back(take(&mut self.batch).into_buffer());
        self.batch = Batch::new(self.shared.large_buffer(len));
    }

    /// Reads up to `len` bytes into the batch, fewer only at the end of the image.
    fn read(&mut self, source: &mut dyn Source, at: u64, len: usize) -> Result<Range<usize>> {
        self.batch.fill(len, |room| read_full(source, room, at))
    }

    fn add(&mut self, piece: Piece) {
        self.batch.add(piece);
        if self.batch.is_full() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let unused = self.batch.unused_buffer();
        self.shared.begin(self.batch.memory());
        // What room was waited for was given back by then.
        let next = Batch::new(unused.unwrap_or_else(|| self.shared.buffer()));
        let send = self.send.get_or_insert_with(self.start);
        if send.send(std::mem::replace(&mut self.batch, next)).is_err() {
            // Every worker has panicked, which the end of their scope will say, or none could be started.
            self.shared.give_up();
        }
    }
}
