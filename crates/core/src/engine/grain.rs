//! Tells data from zeroes, in grains of 4 KiB of the virtual disk: a disk's holes are no finer than that.

use std::ops::Range;

use crate::zero::is_zero;

/// The unit in which zeroes are left out.
const GRAIN: u64 = 4096;

/// Splits `data`, which lies at `start` of the virtual disk, into runs of grains that are all zero (`false`) or not (`true`).
pub(super) fn runs(data: &[u8], start: u64) -> impl Iterator<Item = (bool, Range<usize>)> {
    let mut grains = grains(data.len(), start)
        .map(|range| (!is_zero(data.get(range.clone()).unwrap_or_default()), range))
        .peekable();
    std::iter::from_fn(move || {
        let (kind, mut run) = grains.next()?;
        while let Some((_, next)) = grains.next_if(|(next, _)| *next == kind) {
            run.end = next.end;
        }
        Some((kind, run))
    })
}

/// Cuts `len` bytes at `start` where the virtual disk's grains end.
fn grains(len: usize, start: u64) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        let offset = start.wrapping_add(at as u64) % GRAIN;
        let to_edge = usize::try_from(GRAIN - offset).unwrap_or(len);
        let range = at..at.saturating_add(to_edge).min(len);
        at = range.end;
        (!range.is_empty()).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_at_grains_of_the_disk() {
        let mut data = vec![0; 3 * 4096];
        data[5000] = 1;
        let runs: Vec<_> = runs(&data, 4096 - 100).collect();
        // Grains begin at 100, 4196 and 8292; the set byte lies in the second.
        assert_eq!(runs, [(false, 0..4196), (true, 4196..8292), (false, 8292..12288)]);
    }
}
