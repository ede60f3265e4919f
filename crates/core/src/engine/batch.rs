//! What the reader hands to a worker at once.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::extent::Codec;

/// Stored bytes in a batch: large enough that system calls and wake-ups hardly matter, and so small that what has been read
/// is still in the processor's cache when it is written. Copying plain clusters by the MiB costs half as much again.
pub(super) const STORED: usize = 256 << 10;

/// Bytes of the disk that a batch may unpack to before it is handed over, so that highly packed units share out too.
const UNPACKED: u64 = 4 << 20;

/// Pieces in a batch, so that a batch of tiny pieces ends too.
const PIECES: usize = 4096;

/// Stored bytes and what is to be made of them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
    unpacked: u64,
}

impl Batch {
    /// An empty batch that stores its bytes in `buffer`.
    pub(super) fn new(buffer: Vec<u8>) -> Self {
        Self { bytes: buffer, ..Self::default() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= STORED || self.unpacked >= UNPACKED || self.pieces.len() >= PIECES
    }

    /// Adds a piece; zeroes that follow zeroes become one.
    pub(super) fn add(&mut self, piece: Piece) {
        match (self.pieces.last_mut(), &piece.what) {
            (Some(Piece { what: What::Zero, start, len, .. }), What::Zero)
                if start.saturating_add(*len) == piece.start =>
            {
                *len = len.saturating_add(piece.len);
            }
            (_, What::Zero) => self.pieces.push(piece),
            _ => {
                self.unpacked = self.unpacked.saturating_add(piece.len);
                self.pieces.push(piece);
            }
        }
    }
}

/// A range of the virtual disk; `stored` are its bytes in the batch.
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) what: What,
    pub(super) stored: Range<usize>,
}

pub(super) enum What {
    Plain,
    /// To be read by the worker, so that the bytes stay on one core: `len` of them at `at` of the file.
    Lent {
        file: Arc<File>,
        at: u64,
    },
    /// `at` is where the unit lies in the image.
    Packed {
        codec: Codec,
        at: u64,
    },
    Zero,
}
