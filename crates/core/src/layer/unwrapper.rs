//! The loop that every wrapping shares: packed bytes in, steps of a [`Decoder`], unpacked bytes out.

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::layer::Packed;

/// How one wrapping is unpacked. It keeps no reader, so that an error of the reader is never taken for one of the data.
pub(super) trait Decoder: Send {
    /// Unpacks some of `packed` into some of `unpacked`, which is never empty; `packed` is, at its end. A step that
    /// moves nothing has come to another state, or can do no more without further packed bytes. An error comes only when all that lies in
    /// front of it has been given: so it is the same however the packed bytes come, and with it what a limit in front of it does.
    /// `at` counts the bytes unpacked before, for errors.
    fn step(&mut self, packed: &[u8], unpacked: &mut [u8], at: u64) -> Result<Step>;

    /// Whether the packed bytes may end where the last step left off.
    fn end(&self, at: u64) -> Result<()>;

    /// Members, streams or frames read to their end.
    fn members(&self) -> u64;
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

/// Packed bytes that may pass for next to nothing. Members that are empty or hold a few bytes, skipped frames and padding cost an attacker
/// little, nothing at all where they are packed once more, and would keep us busy for as long as the source likes; no real file has this much
/// of them.
const BARREN: u64 = 256 << 20;

/// Packed bytes that an unpacked one makes up for. What does not shrink grows by a hundredth.
const MADE_UP: u64 = 2;

/// A member counts as so many packed bytes more: some decoders clear megabytes for each. So members of 2 KiB that do not shrink are even.
const MEMBER_COST: u64 = 2 << 10;

/// Reads the unpacked bytes.
pub(super) struct Unwrapper<D> {
    packed: Packed,
    decoder: D,
    /// Unpacked bytes handed out.
    at: u64,
    /// Members read to their end.
    members: u64,
    /// Packed bytes read that no unpacked ones have made up for.
    barren: u64,
}

impl<D: Decoder> Unwrapper<D> {
    pub fn new(packed: Packed, decoder: D) -> Self {
        Self::resumed(packed, decoder, 0, 0)
    }

    /// One that goes on behind `at` unpacked bytes, and `barren` packed ones for which these have not made up.
    pub fn resumed(packed: Packed, decoder: D, at: u64, barren: u64) -> Self {
        Self { packed, members: decoder.members(), decoder, at, barren }
    }

    #[cfg(test)]
    pub fn decoder(&self) -> &D {
        &self.decoder
    }

    /// Refuses too many packed bytes for next to nothing; where exactly hangs on how they come.
    fn count(&mut self, step: Step) -> Result<()> {
        self.at = self.at.saturating_add(step.given as u64);
        let members = self.decoder.members();
        let ended = members.saturating_sub(std::mem::replace(&mut self.members, members));
        self.barren = still_barren(self.barren, step.taken as u64, ended, step.given as u64);
        if self.barren > BARREN {
            let what = format!("{BARREN} packed bytes for next to nothing: this is no image");
            return Err(Error::corrupt("wrapping", "no-output", self.at, what));
        }
        Ok(())
    }
}

/// Packed bytes that nothing has made up for, after so many more, which ended so many members and gave so many unpacked bytes.
pub(super) fn still_barren(barren: u64, taken: u64, members: u64, given: u64) -> u64 {
    let spent = barren.saturating_add(taken).saturating_add(members.saturating_mul(MEMBER_COST));
    spent.saturating_sub(given.saturating_mul(MADE_UP))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_what_does_not_shrink_are_not_barren_if_they_are_not_tiny() {
        let mut barren = 0;
        // A tape that does not shrink, in members of two sorts.
        for _ in 0..100_000 {
            barren = still_barren(barren, 66_000, 1, 65_280);
            barren = still_barren(barren, 4200, 1, 4096);
            assert_eq!(barren, 0);
        }
        // What is read ahead of what it gives is made up for.
        barren = still_barren(barren, BARREN / 2, 0, 0);
        assert_eq!(still_barren(barren, 0, 1, BARREN / 2), 0);
    }

    #[test]
    fn members_for_next_to_nothing_add_up_and_a_byte_now_and_then_changes_little() {
        let after = |members: u64, given: u64| (0..members).fold(0, |barren, _| still_barren(barren, 14, 1, given));
        assert_eq!(after(1000, 0), 1000 * (14 + MEMBER_COST));
        assert_eq!(after(1000, 1), 1000 * (12 + MEMBER_COST));
        // Streams of bzip2 take 32 microseconds each.
        assert!(after(1 << 18, 1) > BARREN);
    }
}
