//! The loop that every wrapping shares: packed bytes in, steps of a [`Decoder`], unpacked bytes out.

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::layer::Packed;

/// How one wrapping is unpacked. It keeps no reader, so that an error of the reader is never taken for one of the data.
pub(super) trait Decoder: Send {
    /// Unpacks some of `packed` into some of `unpacked`, which is never empty; `packed` is, at its end. A step that
    /// moves nothing has come to another state, or can do no more without further packed bytes.
    /// `at` counts the bytes unpacked before, for errors.
    fn step(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step>;

    /// Whether the packed bytes may end where the last step left off.
    fn end(&self, at: u64) -> Result<()>;
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Step {
    /// Packed bytes used up.
    pub taken: usize,
    /// Unpacked bytes written.
    pub given: usize,
}

impl Step {
    /// A step that read, and wrote nothing.
    pub fn taken(taken: usize) -> Self {
        Self { taken, given: 0 }
    }

    /// A step by the totals of bytes in and out that a decoder counts, `before` and `after`.
    pub fn counted(before: (u64, u64), after: (u64, u64)) -> Self {
        let moved = |before, after: u64| usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX);
        Self { taken: moved(before.0, after.0), given: moved(before.1, after.1) }
    }
}

/// Packed bytes that may pass without one unpacked byte. Empty members, skipped frames and padding cost an attacker
/// little and would keep us busy for as long as the source likes; no real file has this much of them.
const BARREN: u64 = 256 << 20;

/// Reads the unpacked bytes.
pub(super) struct Unwrapper<D> {
    packed: Packed,
    decoder: D,
    /// Unpacked bytes handed out.
    at: u64,
    /// Packed bytes read since the last unpacked one.
    barren: u64,
}

impl<D: Decoder> Unwrapper<D> {
    pub fn new(packed: Packed, decoder: D) -> Self {
        Self { packed, decoder, at: 0, barren: 0 }
    }

    /// One that goes on behind `at` unpacked bytes, and `barren` packed ones since.
    pub fn resumed(packed: Packed, decoder: D, at: u64, barren: u64) -> Self {
        Self { packed, decoder, at, barren }
    }

    #[cfg(test)]
    pub fn decoder(&self) -> &D {
        &self.decoder
    }

    fn count(&mut self, step: Step) -> Result<()> {
        self.at = self.at.saturating_add(step.given as u64);
        self.barren = if step.given > 0 { 0 } else { self.barren.saturating_add(step.taken as u64) };
        if self.barren > BARREN {
            let what = format!("{} packed bytes without one unpacked byte: this is no image", self.barren);
            return Err(Error::corrupt("wrapping", "no-output", self.at, what));
        }
        Ok(())
    }
}

impl<D: Decoder> Read for Unwrapper<D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let packed = self.packed.fill_buf()?;
            let ended = packed.is_empty();
            let step = self.decoder.step(packed, buf, self.at)?;
            self.packed.consume(step.taken);
            self.count(step)?;
            if step.given > 0 {
                return Ok(step.given);
            }
            if ended {
                self.decoder.end(self.at)?;
                return Ok(0);
            }
        }
    }
}

/// A header or trailer of up to `N` bytes, which may come one at a time.
pub(super) struct Field<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Field<N> {
    pub fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Takes from `packed` what is missing of the first `want` bytes, and says how many those were.
    pub fn take(&mut self, packed: &[u8], want: usize) -> usize {
        let missing = self.bytes.get_mut(self.len..want).unwrap_or_default();
        let n = missing.len().min(packed.len());
        missing.iter_mut().zip(packed).for_each(|(to, from)| *to = *from);
        self.len = self.len.saturating_add(n);
        n
    }

    /// As [`take`](Self::take), of a header whose first bytes tell its length, and whether it is whole.
    pub fn gather(&mut self, packed: &[u8], len: fn(&[u8]) -> usize) -> (usize, bool) {
        let mut taken = 0_usize;
        loop {
            let want = len(self.bytes());
            taken = taken.saturating_add(self.take(packed.get(taken..).unwrap_or_default(), want));
            if self.len < want {
                return (taken, false);
            }
            if len(self.bytes()) == want {
                return (taken, true);
            }
        }
    }

    /// What has come so far.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The first `M` bytes, once they have come.
    pub fn first<const M: usize>(&self) -> Option<[u8; M]> {
        self.bytes().first_chunk().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// Whether what has come of a member so far can be the beginning of one with `magic`.
pub(super) fn may_begin(head: &[u8], magic: &[u8]) -> bool {
    head.iter().zip(magic).all(|(found, wanted)| found == wanted)
}
