//! Where the raw disk goes: a [file](FileSink), a [block device](DeviceSink), a [pipe](PipeSink), or
//! [nowhere](Discard). What each one promises is in docs/targets.md.

mod device;
mod discard;
mod file;
mod reserve;
mod share;
mod stdout;
mod unfinished;

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

pub use device::{DeviceOptions, DeviceSink};
pub use discard::Discard;
pub use file::{FileOptions, FileSink};
pub use stdout::PipeSink;
pub use unfinished::{prefix as unfinished_prefix, remove_leftovers};

use crate::error::{Error, Result};
use crate::format::Order;

/// A raw disk being written. Methods are called from several threads; ranges never overlap.
///
/// [`prepare`](Self::prepare), any number of writes, then [`finish`](Self::finish). A sink dropped without
/// `finish` leaves its target as it was, or plainly unfinished. A sink is for one disk: those that are here refuse another one, but for [`Discard`].
pub trait Sink: Sync {
    /// Called once, before anything is written, with the size of the disk where it is known. Refuses a disk that will not fit.
    fn prepare(&self, size: Option<u64>) -> Result<()>;

    /// Writes `data` at byte `offset` of the disk.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes `len` bytes at `offset` read as zero. Cheap where the target is known to be blank.
    fn zero(&self, offset: u64, len: u64) -> Result<()>;

    /// Whether everything reads as zero that was not written, so that [`zero`](Self::zero) need not be called. It may be all the same.
    fn is_blank(&self) -> bool {
        false
    }

    /// Lets the kernel copy, or share, `len` bytes at `at` of `file` to `offset`. Returns how many leading bytes it took; 0 where it cannot.
    fn copy_from(&self, file: &File, at: u64, offset: u64, len: u64) -> Result<u64> {
        let _ = (file, at, offset, len);
        Ok(0)
    }

    /// The order that costs this sink least.
    fn order(&self) -> Order {
        Order::Source
    }

    /// Makes durable what was written up to now.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Whether a conversion can [go on](crate::Course) that was interrupted: what was written and [synced](Self::sync) before is there, and
    /// [`prepare`](Self::prepare) leaves it as it is.
    fn is_resumable(&self) -> bool {
        false
    }

    /// Makes the disk of `size` bytes durable, then visible.
    fn finish(&self, size: u64) -> Result<()>;

    /// The most bytes that the sink itself had to spool at one time.
    fn spooled(&self) -> u64 {
        0
    }
}

/// That a sink has one disk: of another one, it would have what the first has left.
#[derive(Debug, Default)]
struct OneDisk(AtomicBool);

impl OneDisk {
    fn begin(&self) -> Result<()> {
        match self.0.swap(true, Ordering::Relaxed) {
            true => {
                Err(Error::Target { code: "used", what: "the target was made for one disk, and has had it".into() })
            }
            false => Ok(()),
        }
    }
}

/// What statfs calls ext2, ext3 and ext4.
const EXT: u64 = 0xef53;

/// Zeroes for targets that must be told every one of them. As much as a pipe takes at once.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Hands `range` to `write` as pieces that are all zero, in order.
fn write_zeroes(range: Range<u64>, mut write: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let piece = ZEROES.get(..left).unwrap_or(&ZEROES);
        write(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}
