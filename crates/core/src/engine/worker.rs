//! The writing end: batches in, the disk out.

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;

use super::batch::{Batch, LENT, Piece, What};
use super::unpack::Unpacker;
use super::{Job, STEP, Shared, grain};
use crate::aligned::Aligned;
use crate::error::{Error, Result};
use crate::extent::Codec;
use crate::lock::lock;
use crate::source::ends_early;
use crate::source::file::read_lent;

/// Neighbouring packed units are gathered up to this size and written together.
const GATHER: usize = 1 << 20;

/// What all workers gather together, if they are more than two, and what each of them does at least.
const GATHER_ALL: usize = 2 << 20;
const GATHER_LEAST: usize = 256 << 10;

/// Unpacks, and writes what is not zero.
pub(super) struct Worker<'a> {
    job: &'a Job<'a>,
    shared: &'a Shared,
    format: &'static str,
    /// Where packed units are clipped.
    virtual_size: u64,
    /// Unpacked bytes from which on they are written.
    gather: usize,
    unpacker: Unpacker,
}

impl<'a> Worker<'a> {
    /// One of so many `workers`.
    pub(super) fn new(
        job: &'a Job<'a>,
        shared: &'a Shared,
        format: &'static str,
        virtual_size: Option<u64>,
        workers: usize,
    ) -> Self {
        let virtual_size = virtual_size.unwrap_or(job.limits.virtual_size);
        let gather = (GATHER_ALL / workers.max(1)).clamp(GATHER_LEAST, GATHER);
        Self { job, shared, format, virtual_size, gather, unpacker: Unpacker::new() }
    }

    /// Works until the reader is done. After a failure batches are still taken, so that the reader never waits for nobody.
    pub(super) fn run(mut self, receive: &Mutex<Receiver<Batch>>) {
        while let Ok(mut batch) = { lock(receive).recv() } {
            let _done = Done { shared: self.shared, bytes: batch.memory() };
            let room = lock(&self.shared.rooms).pop();
            let mut gathered = Gathered { bytes: room.unwrap_or_default(), ..Gathered::default() };
            if !self.shared.failed()
                && let Err(error) = self.deliver(&mut batch, &mut gathered)
            {
                self.shared.fail(error);
            }
            lock(&self.shared.rooms).push(gathered.bytes);
            self.shared.give_back(batch.into_buffer());
        }
    }

    fn deliver(&mut self, batch: &mut Batch, gathered: &mut Gathered) -> Result<()> {
        batch.fetch(self.format)?;
        batch.sort();
        for piece in &batch.pieces {
            self.job.progress.check()?;
            let stored = batch.stored(piece);
            if !matches!(piece.what, What::Packed { .. } | What::Lent { .. }) {
                // What comes in order goes out in order: a pipe has to keep the rest.
                self.flush(gathered)?;
            }
            match piece.what {
                What::Lent { ref file, at } => self.relay(file, at, piece, gathered)?,
                What::Packed { codec, at } => self.unpack(piece, codec, at, stored, gathered)?,
                What::Plain | What::Shared { .. } => self.write(stored, piece.start)?,
                What::Zero => self.zero(piece.start, piece.len)?,
            }
        }
        self.flush(gathered)
    }

    /// Reads a piece from its file behind what has been gathered, if it follows it on the disk.
    fn relay(&self, file: &File, at: u64, piece: &Piece, gathered: &mut Gathered) -> Result<()> {
        let len = usize::try_from(piece.len).unwrap_or_default();
        self.go_on_at(piece.start, gathered.len.saturating_add(len) <= LENT, gathered)?;
        let got = read_lent(file, gathered.room(len), at)?;
        if got < len {
            return Err(ends_early(self.format, "data", at, piece.len, got as u64));
        }
        gathered.len = gathered.len.saturating_add(len);
        Ok(())
    }

    /// Unpacks one unit behind what has been gathered, if it follows it on the disk.
    fn unpack(&mut self, piece: &Piece, codec: Codec, at: u64, stored: &[u8], gathered: &mut Gathered) -> Result<()> {
        self.go_on_at(piece.start, gathered.len < self.gather, gathered)?;
        let unit = usize::try_from(piece.len).unwrap_or(usize::MAX);
        let needed = piece.len.min(self.virtual_size.saturating_sub(piece.start));
        let unpacked = self.unpacker.unpack(codec, stored, gathered.room(unit));
        let got = unpacked.map_err(|what| self.damaged(at, &what))?;
        let enough = if codec.may_end_with_the_disk() { needed } else { piece.len };
        if (got as u64) < enough {
            return Err(self.damaged(at, &format!("{got} bytes come out, {enough} are needed")));
        }
        gathered.len = gathered.len.saturating_add(usize::try_from(needed).unwrap_or(unit));
        Ok(())
    }

    fn damaged(&self, at: u64, what: &str) -> Error {
        Error::corrupt(self.format, "packed-data", at, format!("packed data does not unpack: {what}"))
    }

    /// Writes what has been gathered, unless what is at `start` follows it on the disk and there `is_room`.
    fn go_on_at(&self, start: u64, is_room: bool, gathered: &mut Gathered) -> Result<()> {
        if gathered.end() != start || !is_room {
            self.flush(gathered)?;
            gathered.start = start;
        }
        Ok(())
    }

    fn flush(&self, gathered: &mut Gathered) -> Result<()> {
        self.write(gathered.bytes.get(..gathered.len).unwrap_or_default(), gathered.start)?;
        gathered.start = gathered.end();
        gathered.len = 0;
        Ok(())
    }

    fn zero(&self, start: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            self.job.progress.check()?;
            let part = (len - done).min(STEP);
            self.job.sink.zero(start.saturating_add(done), part)?;
            self.job.progress.add_written(part);
            done += part;
        }
        Ok(())
    }

    fn write(&self, data: &[u8], start: u64) -> Result<()> {
        let mut allocated = 0;
        for (is_data, run) in grain::runs(data, start) {
            let at = start.saturating_add(run.start as u64);
            if is_data {
                self.job.sink.write_at(data.get(run.clone()).unwrap_or_default(), at)?;
                allocated += run.len() as u64;
            } else {
                self.job.sink.zero(at, run.len() as u64)?;
            }
        }
        self.shared.allocated.fetch_add(allocated, Ordering::Relaxed);
        self.job.progress.add_written(data.len() as u64);
        Ok(())
    }
}

/// Says that a batch is done with, however that came.
struct Done<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.give_up();
        }
        self.shared.end(self.bytes);
    }
}

/// Unpacked bytes that follow one another on the disk.
#[derive(Default)]
struct Gathered {
    start: u64,
    /// The first `len` bytes. What lies behind them is left over from earlier ones, since clearing it takes its time.
    bytes: Aligned,
    len: usize,
}

impl Gathered {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len as u64)
    }

    /// Where the next `unit` bytes go.
    fn room(&mut self, unit: usize) -> &mut [u8] {
        let end = self.len.saturating_add(unit);
        self.bytes.grow(end);
        self.bytes.get_mut(self.len..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::limits::Limits;
    use crate::progress::Progress;
    use crate::sink::Discard;

    #[test]
    fn a_lent_file_that_has_become_shorter_is_told_with_what_is_left() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 1000]).unwrap();
        let (limits, progress) = (Limits::default(), Progress::default());
        let job = Job { sink: &Discard, limits: &limits, workers: 1, progress: &progress, course: None };
        let shared = Shared::default();
        let worker = Worker::new(&job, &shared, "raw", None, 1);
        let mut gathered = Gathered::default();
        let file = std::sync::Arc::new(file);
        let piece = |len| Piece { start: 0, len, what: What::Zero, stored: 0..0 };
        worker.relay(&file, 600, &piece(400), &mut gathered).unwrap();
        let error = worker.relay(&file, 600, &piece(500), &mut gathered).unwrap_err();
        assert_eq!(error.code(), "raw-ends-early");
        let text = error.to_string();
        assert!(text.contains("takes 500 bytes, of which the image has 400"), "{text}");
    }
}
