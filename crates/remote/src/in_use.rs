//! Whether QEMU has a disk open: it then has locks on single bytes of it, which keep nobody from anything who does not look.
//!
//! Which ones, [its documentation](https://www.qemu.org/docs/master/system/images.html#disk-image-file-locking) does not say:
//! byte 100 and the four behind it are for what the holder does (read, write, write the same again, resize, change the chain of images), byte 200
//! and the four behind it for what it lets nobody else do.

#![expect(clippy::cast_possible_truncation, reason = "small constants")]

use std::fs::File;
use std::ops::Range;

use nix::fcntl::{FcntlArg, fcntl};

/// Locked by who writes.
const WRITES: Range<i64> = 101..102;
/// Locked by who does anything.
const DOES: Range<i64> = 100..105;
/// Locked by who wants something for itself.
const KEEPS: Range<i64> = 200..205;

/// Of locks, as their fields have it.
const WRITE: libc::c_short = libc::F_WRLCK as libc::c_short;
const NONE: libc::c_short = libc::F_UNLCK as libc::c_short;
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// Whether a virtual machine, or a tool of QEMU, writes to `file` now and then.
pub(crate) fn is_written(file: &File) -> bool {
    is_locked(file, WRITES)
}

/// Whether one has `file` open at all.
pub(crate) fn is_open(file: &File) -> bool {
    is_locked(file, DOES) || is_locked(file, KEEPS)
}

/// Whether somebody else has a lock there. A filesystem that cannot tell has none.
fn is_locked(file: &File, bytes: Range<i64>) -> bool {
    let mut lock = libc::flock {
        l_type: WRITE,
        l_whence: FROM_START,
        l_start: bytes.start,
        l_len: bytes.end - bytes.start,
        l_pid: 0,
    };
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    // Who locks all of a file, as `flock` on NFS does, is somebody else. Of neighbours the kernel makes one.
    let is_qemus = lock.l_len > 0 && lock.l_start >= DOES.start && lock.l_start + lock.l_len <= KEEPS.end;
    asked.is_ok() && lock.l_type != NONE && is_qemus
}
