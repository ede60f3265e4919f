//! The engine: a reader that takes extents as they lie in the image, and workers that unpack, skip zeroes and write.

use std::mem::take;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::codec::Unpacker;
use crate::error::{Error, Result};
use crate::extent::{Body, Codec, Extent};
use crate::format::Image;
use crate::grain;
use crate::limits::Limits;
use crate::progress::Progress;
use crate::sink::Sink;
use crate::source::{Source, ends_early, read_full};

/// Stored bytes handed to a worker at once: large enough that system calls and wake-ups do not matter.
const BATCH: usize = 1 << 20;

/// Bytes of the disk that a batch may unpack to before it is handed over, so that highly packed units share out too.
const BATCH_UNPACKED: u64 = 4 << 20;

/// Pieces in a batch, so that a batch of tiny pieces ends too.
const BATCH_PIECES: usize = 4096;

/// The kernel copies, and zeroes are made, in steps of this size: each can take its time, and a job can be stopped between them.
const STEP: u64 = 1 << 30;

/// Neighbouring packed units are gathered up to this size and written together.
const GATHER: usize = 2 << 20;

/// Packed units begin at any byte, and are said to be some number of these long.
const SECTOR: u64 = 512;

/// What a ferry needs to know besides its two ends.
pub(crate) struct Crossing<'a> {
    pub(crate) sink: &'a dyn Sink,
    pub(crate) limits: &'a Limits,
    pub(crate) threads: usize,
    pub(crate) progress: &'a Progress,
}

/// What was carried.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cargo {
    /// Bytes of the disk that were named.
    pub(crate) size: u64,
    /// Bytes of the disk that hold data.
    pub(crate) allocated: u64,
}

/// Carries every extent of `image` to the sink.
pub(crate) fn ferry(image: &mut dyn Image, source: &mut dyn Source, crossing: &Crossing) -> Result<Cargo> {
    let shared = Shared::default();
    let (send, receive) = sync_channel(crossing.threads * 2);
    let receive = Mutex::new(receive);
    let format = image.info().format;
    let virtual_size = image.info().virtual_size.unwrap_or(crossing.limits.virtual_size);
    let read = thread::scope(|scope| {
        for _ in 0..crossing.threads {
            scope.spawn(|| {
                Worker { crossing, shared: &shared, format, virtual_size, unpacker: Unpacker::new() }.run(&receive)
            });
        }
        let mut reader =
            Reader { crossing, shared: &shared, format, send, batch: Batch::default(), size: 0, packed_to: 0 };
        reader.run(image, source).map(|()| reader.size)
    });
    if let Some(error) = shared.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(Cargo { size: read?, allocated: shared.allocated.into_inner() })
}

/// What the reader and the workers tell each other.
#[derive(Default)]
struct Shared {
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    allocated: AtomicU64,
    /// Buffers to be used again.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn fail(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn buffer(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Stored bytes and what is to be made of them.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    unpacked: u64,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH || self.unpacked >= BATCH_UNPACKED || self.pieces.len() >= BATCH_PIECES
    }
}

/// A range of the virtual disk; `stored` are its bytes in the batch.
struct Piece {
    start: u64,
    len: u64,
    what: What,
    stored: Range<usize>,
}

enum What {
    Plain,
    Packed { codec: Codec, at: u64 },
    Zero,
}

struct Reader<'a> {
    crossing: &'a Crossing<'a>,
    shared: &'a Shared,
    format: &'static str,
    send: SyncSender<Batch>,
    batch: Batch,
    size: u64,
    /// End on the disk of the last packed unit.
    packed_to: u64,
}

impl Reader<'_> {
    fn run(&mut self, image: &mut dyn Image, source: &mut dyn Source) -> Result<()> {
        while !self.shared.failed()
            && let Some(extent) = image.next_extent(source)?
        {
            self.crossing.progress.check()?;
            self.count(&extent, image.info().virtual_size)?;
            match extent.body {
                Body::Zero => self.zero(extent.start, extent.len),
                Body::Data { at } => self.data(source, at, extent.start, extent.len)?,
                Body::Packed { at, len, codec } => self.packed(source, extent, at, len, codec)?,
            }
        }
        self.hand_over();
        Ok(())
    }

    /// Adds up what has been named. Only a stream of unknown size can run past what may be written.
    fn count(&mut self, extent: &Extent, virtual_size: Option<u64>) -> Result<()> {
        let end = extent.start.saturating_add(extent.len);
        let limit = self.crossing.limits.virtual_size;
        let inside = virtual_size.map_or(end, |size| end.min(size));
        self.size = self.size.saturating_add(inside.saturating_sub(extent.start));
        if inside > limit {
            let what = "size of the virtual disk in bytes";
            return Err(Error::Limit { what, wanted: inside, limit, option: "--max-size" });
        }
        Ok(())
    }

    fn zero(&mut self, start: u64, len: u64) {
        if let Some(Piece { what: What::Zero, start: before, len: so_far, .. }) = self.batch.pieces.last_mut()
            && before.saturating_add(*so_far) == start
        {
            *so_far = so_far.saturating_add(len);
            return;
        }
        self.add(Piece { start, len, what: What::Zero, stored: 0..0 });
    }

    /// Hands on stored bytes, except those on holes of the image file.
    fn data(&mut self, source: &mut dyn Source, mut at: u64, mut start: u64, len: u64) -> Result<()> {
        let end = at.checked_add(len).ok_or_else(|| ends_early(self.format, "data", at, len, 0))?;
        while at < end {
            source.passed(at);
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
        while done < len && !self.shared.failed() {
            self.crossing.progress.check()?;
            let room = BATCH.saturating_sub(self.batch.bytes.len()).max(1);
            let part = usize::try_from(len - done).unwrap_or(room).min(room);
            let at = range.start.saturating_add(done);
            let stored = self.read(source, at, part)?;
            if stored.len() < part {
                return Err(ends_early(self.format, "data", at, part as u64, stored.len() as u64));
            }
            self.add(Piece { start: start.saturating_add(done), len: part as u64, what: What::Plain, stored });
            source.passed(at.saturating_add(part as u64));
            done = done.saturating_add(part as u64);
        }
        Ok(len)
    }

    /// Lets the kernel copy as much of `range` as it can, and returns how many bytes that was.
    fn copied(&mut self, source: &mut dyn Source, range: &Range<u64>, start: u64) -> Result<u64> {
        let mut at = range.start;
        while at < range.end {
            self.crossing.progress.check()?;
            let end = range.end.min(at.saturating_add(STEP));
            let Some((file, file_at)) = source.file(at..end) else { break };
            let to = start.saturating_add(at - range.start);
            let taken = self.crossing.sink.copy_from(file, file_at, to, end - at)?;
            self.shared.allocated.fetch_add(taken, Ordering::Relaxed);
            self.crossing.progress.written.fetch_add(taken, Ordering::Relaxed);
            at = at.saturating_add(taken);
            source.passed(at);
            if at < end {
                break;
            }
        }
        Ok(at - range.start)
    }

    fn packed(&mut self, source: &mut dyn Source, extent: Extent, at: u64, len: u32, codec: Codec) -> Result<()> {
        let limit = self.crossing.limits.unit;
        if extent.len > limit {
            let what = "bytes that one packed unit unpacks to";
            return Err(Error::Limit { what, wanted: extent.len, limit, option: "--limit-unit" });
        }
        // Units packed one after the other leave nothing between them that something else could need.
        if self.packed_to == extent.start {
            source.linger(0);
        }
        // The image may end inside the last sector of a unit: whether that matters shows when it is unpacked.
        let stored = self.read(source, at, len as usize)?;
        if stored.is_empty() {
            return Err(ends_early(self.format, "packed data", at, u64::from(len), 0));
        }
        source.linger(SECTOR - 1);
        source.passed(at.saturating_add(u64::from(len)));
        self.packed_to = extent.start.saturating_add(extent.len);
        self.add(Piece { start: extent.start, len: extent.len, what: What::Packed { codec, at }, stored });
        Ok(())
    }

    /// Reads up to `len` bytes into the batch, fewer only at the end of the image.
    fn read(&mut self, source: &mut dyn Source, at: u64, len: usize) -> Result<Range<usize>> {
        let bytes = &mut self.batch.bytes;
        let from = bytes.len();
        bytes.resize(from + len, 0);
        let got = read_full(source, bytes.get_mut(from..).unwrap_or_default(), at)?;
        bytes.truncate(from + got);
        Ok(from..from + got)
    }

    fn add(&mut self, piece: Piece) {
        if !matches!(piece.what, What::Zero) {
            self.batch.unpacked = self.batch.unpacked.saturating_add(piece.len);
        }
        self.batch.pieces.push(piece);
        if self.batch.is_full() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let next = Batch { bytes: self.shared.buffer(), ..Batch::default() };
        // Fails only when every worker is gone, and then one of them has said why.
        let _ = self.send.send(std::mem::replace(&mut self.batch, next));
    }
}

struct Worker<'a> {
    crossing: &'a Crossing<'a>,
    shared: &'a Shared,
    format: &'static str,
    /// Where packed units are clipped.
    virtual_size: u64,
    unpacker: Unpacker,
}

impl Worker<'_> {
    /// Works until the reader is done. After a failure batches are still taken, so that the reader never waits for nobody.
    fn run(mut self, receive: &Mutex<Receiver<Batch>>) {
        let mut gathered = Gathered::default();
        while let Ok(batch) = { receive.lock().unwrap_or_else(PoisonError::into_inner).recv() } {
            if !self.shared.failed()
                && let Err(error) = self.deliver(&batch, &mut gathered)
            {
                self.shared.fail(error);
            }
            self.shared.give_back(batch.bytes);
        }
    }

    fn deliver(&mut self, batch: &Batch, gathered: &mut Gathered) -> Result<()> {
        for piece in &batch.pieces {
            self.crossing.progress.check()?;
            let stored = batch.bytes.get(piece.stored.clone()).unwrap_or_default();
            match piece.what {
                What::Packed { codec, at } => self.unpack(piece, codec, at, stored, gathered)?,
                What::Plain => self.write(stored, piece.start)?,
                What::Zero => self.zero(piece.start, piece.len)?,
            }
        }
        self.flush(gathered)
    }

    /// Unpacks one unit behind what has been gathered, if it follows it on the disk.
    fn unpack(&mut self, piece: &Piece, codec: Codec, at: u64, stored: &[u8], gathered: &mut Gathered) -> Result<()> {
        if gathered.end() != piece.start || gathered.bytes.len() >= GATHER {
            self.flush(gathered)?;
            gathered.start = piece.start;
        }
        let unit = usize::try_from(piece.len).unwrap_or(usize::MAX);
        let needed = piece.len.min(self.virtual_size.saturating_sub(piece.start));
        let bytes = &mut gathered.bytes;
        let from = bytes.len();
        bytes.resize(from.saturating_add(unit), 0);
        let unpacked = self.unpacker.unpack(codec, stored, bytes.get_mut(from..).unwrap_or_default());
        let got = unpacked.map_err(|what| self.damaged(at, &what))?;
        // Only VMDK's last grain is stored short.
        let enough = if codec == Codec::Zlib { needed } else { piece.len };
        if (got as u64) < enough {
            return Err(self.damaged(at, &format!("{got} bytes come out, {enough} are needed")));
        }
        bytes.truncate(from.saturating_add(usize::try_from(needed).unwrap_or(unit)));
        Ok(())
    }

    fn damaged(&self, at: u64, what: &str) -> Error {
        Error::Corrupt {
            format: self.format,
            code: "packed-data",
            at,
            what: format!("packed data does not unpack: {what}"),
        }
    }

    fn flush(&self, gathered: &mut Gathered) -> Result<()> {
        let bytes = take(&mut gathered.bytes);
        self.write(&bytes, gathered.start)?;
        gathered.start = gathered.start.saturating_add(bytes.len() as u64);
        gathered.bytes = bytes;
        gathered.bytes.clear();
        Ok(())
    }

    fn zero(&self, start: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            self.crossing.progress.check()?;
            let part = (len - done).min(STEP);
            self.crossing.sink.zero(start.saturating_add(done), part)?;
            self.crossing.progress.written.fetch_add(part, Ordering::Relaxed);
            done += part;
        }
        Ok(())
    }

    fn write(&self, data: &[u8], start: u64) -> Result<()> {
        let mut allocated = 0;
        for (is_data, run) in grain::runs(data, start) {
            let at = start.saturating_add(run.start as u64);
            if is_data {
                self.crossing.sink.write_at(data.get(run.clone()).unwrap_or_default(), at)?;
                allocated += run.len() as u64;
            } else {
                self.crossing.sink.zero(at, run.len() as u64)?;
            }
        }
        self.shared.allocated.fetch_add(allocated, Ordering::Relaxed);
        self.crossing.progress.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Unpacked bytes that follow one another on the disk.
#[derive(Default)]
struct Gathered {
    start: u64,
    bytes: Vec<u8>,
}

impl Gathered {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }
}
