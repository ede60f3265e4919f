//! Sharing blocks between two files, where the filesystem can.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{copy_file_range, fstat, fstatfs, ioctl_ficlone, statfs};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Answers of the kernel that mean "not between these two files", and not that something broke.
const CANNOT: [Errno; 6] = [Errno::XDEV, Errno::OPNOTSUPP, Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::TXTBSY];

/// The largest filesystem block that sharing is tried with.
const LARGEST_BLOCK: u64 = 1 << 20;

/// What is known about sharing blocks with files in one directory.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// The filesystem's block size if it shares blocks.
    block: Option<u64>,
    refused: AtomicBool,
    /// Whether the first file that was shared with lies on the same filesystem.
    near: OnceLock<bool>,
}

/// Filesystems that never do, so that no file has to be made to find out: ext2 to ext4, and tmpfs.
const NEVER: [u64; 2] = [super::EXT, 0x0102_1994];

impl Sharing {
    /// Finds out about files in `directory`. At once, since it takes files, which whoever writes the disk may have no right to make.
    pub(super) fn within(directory: &Path) -> Self {
        Self { block: shared_block(directory).ok(), ..Self::default() }
    }

    /// Shares the leading whole blocks of `len` bytes at `at` of `from` with `to` at `offset`, a file in the directory.
    /// Returns how many bytes that were; 0 where nothing can be shared.
    pub(super) fn share(&self, from: (&File, u64), to: (&File, u64), len: u64) -> Result<u64> {
        let Some(block) = self.block else { return Ok(0) };
        let ((from, mut at), (to, mut offset)) = (from, to);
        let whole = len - len % block;
        if self.refused.load(Ordering::Relaxed) || !at.is_multiple_of(block) || !offset.is_multiple_of(block) {
            return Ok(0);
        }
        if !*self.near.get_or_init(|| are_near(from, to)) {
            return Ok(0);
        }
        let mut done = 0;
        while done < whole {
            let left = usize::try_from(whole - done).unwrap_or(usize::MAX);
            match copy_file_range(from, Some(&mut at), to, Some(&mut offset), left) {
                Ok(0) => break,
                Ok(n) => done += n as u64,
                Err(Errno::INTR) => {}
                Err(error) if CANNOT.contains(&error) => {
                    self.refused.store(true, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(Error::writing("sharing blocks with the disk", Some(offset), error)),
            }
        }
        Ok(done)
    }
}

/// Whether two files lie on one filesystem: kernels before 5.19 copy from one to another, zeroes and all. Subvolumes of btrfs have numbers of
/// their own.
fn are_near(one: &File, other: &File) -> bool {
    let device = |file: &File| fstat(file).map(|found| found.st_dev).ok();
    let is_btrfs = |file: &File| fstatfs(file).is_ok_and(|found| u64::try_from(found.f_type) == Ok(BTRFS));
    (device(one).is_some() && device(one) == device(other)) || (is_btrfs(one) && is_btrfs(other))
}

const BTRFS: u64 = 0x9123_683e;

/// The block size of the filesystem, if a file in `directory` can be cloned.
///
/// The filesystem's name does not tell (XFS comes with and without it), and copy_file_range does not either: it
/// copies, zeroes and all, where it cannot share.
fn shared_block(directory: &Path) -> std::io::Result<u64> {
    if NEVER.contains(&u64::try_from(statfs(directory)?.f_type).unwrap_or(0)) {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let (mut original, clone) = (tempfile::tempfile_in(directory)?, tempfile::tempfile_in(directory)?);
    let block = u64::try_from(fstatfs(&original)?.f_bsize).unwrap_or(0);
    if !block.is_power_of_two() || block > LARGEST_BLOCK {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    super::write_zeroes(0..block, |zeroes, at| {
        original.write_all(zeroes).map_err(|e| Error::writing("writing a file to be cloned", Some(at), e))
    })?;
    ioctl_ficlone(&clone, &original)?;
    Ok(block)
}
