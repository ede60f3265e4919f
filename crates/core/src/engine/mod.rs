//! The engine: a [reader] that takes extents as they lie in the image, and [workers](worker) that unpack, skip zeroes and
//! write. It knows no format.

#![warn(clippy::indexing_slicing)]

mod batch;
mod grain;
mod reader;
mod unpack;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use self::batch::{LARGE, STORED};
use self::reader::Reader;
use self::worker::Worker;
use crate::aligned::Aligned;
use crate::convert::Course;
use crate::error::{Error, Result};
use crate::format::{Image, ImageInfo};
use crate::limits::Limits;
use crate::lock::lock;
use crate::progress::Progress;
use crate::sink::Sink;
use crate::source::Source;

/// The kernel copies, and zeroes are made, in steps of this size: a slow disk takes seconds for one, and a job can be stopped between them.
const STEP: u64 = 64 << 20;

/// Most batches that wait.
const WAITING: usize = 4;

/// Memory of all batches that wait or are worked on. Usual batches come to less than that with 8 workers; an image that claims 4 MiB
/// for each packed unit has fewer of them under way.
const UNDER_WAY: usize = 9 << 19;

/// Bytes of the buffers that wait for some: all that can have been under way, and the one that the reader fills. What is given back to the allocator
/// it may keep, each thread's part of it by itself.
const SPARE: usize = 10 << 20;

/// What all workers together may take to unpack units into, if all that an image maps is packed. Clusters of 2 MiB are dealt with by four at a
/// time; more of them would have to wait for one another when they write.
const UNITS: u64 = 8 << 20;

/// What the engine needs to know besides the two ends.
pub(crate) struct Job<'a> {
    pub(crate) sink: &'a dyn Sink,
    pub(crate) limits: &'a Limits,
    /// Workers; the reader is a thread besides.
    pub(crate) workers: usize,
    pub(crate) progress: &'a Progress,
    /// What was carried before, and who wants to know what is.
    pub(crate) course: Option<&'a Course<'a>>,
}

/// What was carried.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Carried {
    /// Bytes of the disk that were named.
    pub(crate) size: u64,
    /// Bytes of the disk that hold data.
    pub(crate) allocated: u64,
}

/// Carries every extent of `image`, which has been planned, to the sink.
pub(crate) fn carry(image: &mut dyn Image, source: &mut dyn Source, job: &Job) -> Result<Carried> {
    let shared = Shared::default();
    let (format, size) = (image.info().format, image.info().virtual_size);
    let workers = workers(image.info(), job);
    let read = thread::scope(|scope| {
        // Of an image whose blocks are shared nothing is left for them: they begin with the first batch.
        let start = || {
            // As many batches wait as are worked on, and no more than it takes for neither side to wait for the other's every step.
            let (send, receive) = sync_channel(workers.min(WAITING));
            // Only workers hold the receiver: when the last of them is gone, even by a panic, the reader's next batch is refused.
            let receive = Arc::new(Mutex::new(receive));
            for started in 0..workers {
                let receive = Arc::clone(&receive);
                let worker = Worker::new(job, &shared, format, size, workers);
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, move || worker.run(&receive)) {
                    // Fewer do it too.
                    if started == 0 {
                        shared.fail(Error::writing("starting a thread", None, error));
                    }
                    break;
                }
            }
            send
        };
        Reader::new(job, &shared, format, &start).run(image, source)
    });
    if let Some(error) = lock(&shared.error).take() {
        return Err(error);
    }
    Ok(Carried { size: read?, allocated: shared.allocated.into_inner() })
}

/// How many workers there is room for.
fn workers(info: &ImageInfo, job: &Job) -> usize {
    let unit = info.cluster_size.map_or(1, |size| size.clamp(1, job.limits.unit.max(1)));
    let most = usize::try_from(UNITS / unit).unwrap_or(usize::MAX);
    job.workers.min(most.max(1))
}

/// What the reader and the workers tell each other.
#[derive(Default)]
struct Shared {
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    allocated: AtomicU64,
    /// What was handed over and is not done with.
    pending: Mutex<Pending>,
    /// Told when it has become less.
    less: Condvar,
    /// Buffers to be used again.
    spare: Mutex<Vec<Aligned>>,
    /// Those that units are unpacked into: as many as workers were at that at one time.
    rooms: Mutex<Vec<Aligned>>,
}

/// Batches, and the memory that they take.
#[derive(Default)]
struct Pending {
    batches: usize,
    bytes: usize,
}

impl Shared {
    /// Keeps the first error; the others follow from it.
    fn fail(&self, error: Error) {
        lock(&self.error).get_or_insert(error);
        self.give_up();
    }

    /// Lets everybody stop.
    fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
        // Whoever waits has looked before, or looks now.
        drop(lock(&self.pending));
        self.less.notify_all();
    }

    fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Counts a batch that takes so many bytes of memory, once there is room for them.
    fn begin(&self, bytes: usize) {
        let mut pending = self.wait_for_room(bytes);
        pending.batches = pending.batches.saturating_add(1);
        pending.bytes = pending.bytes.saturating_add(bytes);
    }

    /// Waits until so many bytes more may be under way.
    fn wait_for_room(&self, bytes: usize) -> MutexGuard<'_, Pending> {
        self.wait_while(|pending| pending.bytes.saturating_add(bytes) > UNDER_WAY)
    }

    /// One of them is done with.
    fn end(&self, bytes: usize) {
        let mut pending = lock(&self.pending);
        pending.batches = pending.batches.saturating_sub(1);
        pending.bytes = pending.bytes.saturating_sub(bytes);
        self.less.notify_all();
    }

    /// Waits until every batch that was handed over is done with. False if one of them failed.
    fn wait_until_idle(&self) -> bool {
        drop(self.wait_while(|_| true));
        !self.failed()
    }

    /// Waits as long as something is under way that is too much, and nobody has failed.
    fn wait_while(&self, is_too_much: impl Fn(&Pending) -> bool) -> MutexGuard<'_, Pending> {
        let mut pending = lock(&self.pending);
        while pending.batches > 0 && is_too_much(&pending) && !self.failed() {
            pending = self.less.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        pending
    }

    /// A buffer of the usual size.
    fn buffer(&self) -> Aligned {
        let mut spare = lock(&self.spare);
        let usual = spare.iter().rposition(|buffer| buffer.len() <= LARGE);
        usual.map(|place| spare.remove(place)).unwrap_or_else(|| Aligned::with_capacity(2 * STORED))
    }

    /// The smallest one that has room for a large unit of `len` bytes. If there is none, a new one takes the place of all others.
    fn large_buffer(&self, len: usize) -> Aligned {
        let mut spare = lock(&self.spare);
        let fitting = spare.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= len);
        match fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(place, _)| place) {
            Some(place) => spare.remove(place),
            None => {
                spare.clear();
                Aligned::default()
            }
        }
    }

    fn give_back(&self, buffer: Aligned) {
        if buffer.is_empty() {
            // Its batch stored nothing.
            return;
        }
        let mut spare = lock(&self.spare);
        if spare.iter().map(Aligned::capacity).sum::<usize>().saturating_add(buffer.capacity()) <= SPARE {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_held_nothing_are_not_kept_and_large_ones_are_for_large_units() {
        const MIB: usize = 1 << 20;
        let shared = Shared::default();
        (0..1000).for_each(|_| shared.give_back(Aligned::default()));
        assert!(lock(&shared.spare).is_empty());
        for len in [MIB / 4, 3 * MIB, 2 * MIB] {
            shared.give_back(Aligned::zeroed(len));
        }
        assert_eq!([shared.buffer().len(), shared.buffer().len()], [MIB / 4, 0]);
        assert_eq!(shared.large_buffer(2 * MIB - 1).len(), 2 * MIB);
        assert_eq!((shared.large_buffer(4 * MIB).len(), lock(&shared.spare).len()), (0, 0));
    }
}
