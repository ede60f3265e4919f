//! The disk as a stream of bytes, for standard output.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use super::{OneDisk, Sink, write_zeroes};
use crate::convert::Options;
use crate::error::{Error, Result};
use crate::format::Order;
use crate::limits::Limits;
use crate::lock::lock;
use crate::spans::Spans;
use crate::spool::{BOOKKEEPING, Place, Spool, within_memory};

/// Writes the disk from its first byte to its last, zeroes included.
///
/// What comes before its turn is spooled. The writer gets large pieces and needs no buffer of its own: hand in a
/// [`File`](std::fs::File) made of standard output, as [`Stdout`](std::io::Stdout) looks for line ends. It is flushed at the end, and the
/// disk is as durable as that makes it.
pub struct PipeSink<W> {
    disk: OneDisk,
    state: Mutex<State<W>>,
}

struct State<W> {
    out: Out<W>,
    /// That a byte was named twice: nothing is written from then on.
    twice: Option<Error>,
    early: Spool,
    early_zeroes: Spans,
    memory: u64,
    buffer: Vec<u8>,
}

/// The writer, and how far it is.
struct Out<W> {
    writer: W,
    at: u64,
}

/// Which part of the spool's memory may hold data here, and which of it may be used to find them: a stream has a spool of its own.
const KEPT: u64 = 8;
const FOUND: u64 = 2;

/// How much is brought back from the spool at once; pipes take no more.
const BUFFER: usize = 64 << 10;

impl<W: Write + Send> PipeSink<W> {
    /// A sink that writes to `writer` and spools within `limits`, with the spool's file in `spool_dir` or in the
    /// system's temporary directory.
    pub fn new(writer: W, limits: &Limits, spool_dir: Option<PathBuf>) -> Self {
        Self::spooling(writer, limits, spool_dir.into())
    }

    /// The same with the limits and the spool of a job.
    pub fn of_job(writer: W, options: &Options) -> Self {
        Self::spooling(writer, &options.limits, options.spool_place())
    }

    fn spooling(writer: W, limits: &Limits, place: Place) -> Self {
        let memory = limits.spool_memory;
        let state = State {
            out: Out { writer, at: 0 },
            twice: None,
            early: Spool::new(place, memory, limits.spool).keeping(memory / KEPT),
            early_zeroes: Spans::default(),
            memory,
            buffer: vec![0; BUFFER],
        };
        Self { disk: OneDisk::default(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        lock(&self.state)
    }
}

impl<W: Write + Send> Sink for PipeSink<W> {
    fn prepare(&self, _size: Option<u64>) -> Result<()> {
        self.disk.begin()
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let state = &mut *self.state();
        if state.is_twice(offset) {
            return Ok(());
        }
        if offset > state.out.at {
            state.early.put(data, offset)?;
            return state.bound_pieces();
        }
        state.out.send(data)?;
        state.catch_up()
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let state = &mut *self.state();
        let end = offset.saturating_add(len);
        if state.is_twice(offset) {
            return Ok(());
        }
        if offset > state.out.at {
            state.early_zeroes.insert(offset..end);
            return state.bound_pieces();
        }
        write_zeroes(offset..end, |zeroes, _| state.out.send(zeroes))?;
        state.catch_up()
    }

    fn order(&self) -> Order {
        Order::Virtual
    }

    fn finish(&self, size: u64) -> Result<()> {
        let State { out, twice, .. } = &mut *self.state();
        if let Some(error) = twice.take() {
            return Err(error);
        }
        if out.at != size {
            return Err(Error::Target {
                code: "incomplete",
                what: format!("of the disk's {size} bytes only {} were named in one piece: this is a bug", out.at),
            });
        }
        out.writer.flush().map_err(|e| out.failed(e))
    }

    fn spooled(&self) -> u64 {
        self.state().early.peak()
    }
}

impl<W: Write> State<W> {
    /// Whether the byte at `offset`, or any before, was named twice. What is written is gone and cannot be changed.
    ///
    /// That is no failure yet: an image that names a byte twice is damaged, its own checks say how, and what they say must not
    /// depend on where the disk goes. So the job runs on, and only if nobody finds a fault it ends with this one.
    fn is_twice(&mut self, offset: u64) -> bool {
        let written = self.out.at;
        if offset < written && self.twice.is_none() {
            let what = format!("byte {offset} of the disk was named twice, {written} are written: this is a bug");
            self.twice = Some(Error::Target { code: "overlap", what });
        }
        self.twice.is_some()
    }

    /// Refuses to remember more ranges than there is room for.
    fn bound_pieces(&self) -> Result<()> {
        let zeroes = self.early_zeroes.count() as u64 * BOOKKEEPING;
        within_memory((zeroes + self.early.bookkeeping()) * FOUND, self.memory)
    }

    /// Writes whatever has its turn now.
    fn catch_up(&mut self) -> Result<()> {
        let Self { out, early, early_zeroes, buffer, .. } = self;
        loop {
            let start = out.at;
            if let Some(end) = early_zeroes.end_at(start) {
                write_zeroes(start..end, |zeroes, _| out.send(zeroes))?;
                early_zeroes.remove(start..end);
                continue;
            }
            match early.read(buffer, start)? {
                0 => return Ok(()),
                n => out.send(&buffer[..n])?,
            }
            early.take(start..out.at);
        }
    }
}

impl<W: Write> Out<W> {
    fn send(&mut self, data: &[u8]) -> Result<()> {
        self.writer.write_all(data).map_err(|e| self.failed(e))?;
        self.at += data.len() as u64;
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        if error.kind() == ErrorKind::BrokenPipe {
            let what = format!("whoever reads the disk from the pipe stopped after byte {}", self.at);
            return Error::Target { code: "closed-pipe", what };
        }
        Error::writing("writing the disk", Some(self.at), error)
    }
}
