//! A set of byte ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges in order; ranges that touch are kept as one.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    /// Start to end.
    map: BTreeMap<u64, u64>,
}

impl Spans {
    /// How many separate ranges there are.
    pub(crate) fn count(&self) -> usize {
        self.map.len()
    }

    /// Adds `range`.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        while let Some((&near, &near_end)) = self.map.range(..=end).next_back()
            && near_end >= start
        {
            self.map.remove(&near);
            start = start.min(near);
            end = end.max(near_end);
        }
        self.map.insert(start, end);
    }

    /// Takes `range` out, and returns how many bytes of it were there.
    pub(crate) fn remove(&mut self, range: Range<u64>) -> u64 {
        let mut removed = 0;
        while let Some((&near, &near_end)) = self.map.range(..range.end).next_back()
            && near_end > range.start
        {
            self.map.remove(&near);
            if near < range.start {
                self.map.insert(near, range.start);
            }
            if near_end > range.end {
                self.map.insert(range.end, near_end);
            }
            removed += near_end.min(range.end) - near.max(range.start);
        }
        removed
    }

    /// Adds what lies between the first two ranges.
    pub(crate) fn close_first_gap(&mut self) {
        let mut first = self.map.iter();
        if let (Some((&start, _)), Some((_, &end))) = (first.next(), first.next()) {
            self.insert(start..end);
        }
    }

    /// The first byte in `range` that is there.
    pub(crate) fn first_in(&self, range: Range<u64>) -> Option<u64> {
        if self.end_at(range.start).is_some() {
            return Some(range.start);
        }
        self.map.range(range).next().map(|(&start, _)| start)
    }

    /// Where the range that holds `at` ends.
    pub(crate) fn end_at(&self, at: u64) -> Option<u64> {
        self.map.range(..=at).next_back().map(|(_, &end)| end).filter(|&end| end > at)
    }

    /// Where the last range that begins before `at` ends.
    pub(crate) fn end_before(&self, at: u64) -> Option<u64> {
        self.map.range(..at).next_back().map(|(_, &end)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(ranges: &[Range<u64>]) -> Spans {
        let mut spans = Spans::default();
        ranges.iter().for_each(|range| spans.insert(range.clone()));
        spans
    }

    fn ranges(spans: &Spans) -> Vec<(u64, u64)> {
        spans.map.iter().map(|(&start, &end)| (start, end)).collect()
    }

    #[test]
    fn touching_and_overlapping_ranges_become_one() {
        assert_eq!(ranges(&spans(&[10..20, 30..40, 20..30])), [(10, 40)]);
        assert_eq!(ranges(&spans(&[10..20, 30..40, 0..35])), [(0, 40)]);
        assert_eq!(ranges(&spans(&[10..20, 21..30])), [(10, 20), (21, 30)]);
    }

    #[test]
    fn removing_cuts_at_both_ends_and_counts_what_was_there() {
        let mut spans = spans(&[0..10, 20..30, 40..50]);
        assert_eq!(spans.remove(5..45), 20);
        assert_eq!(ranges(&spans), [(0, 5), (45, 50)]);
        assert_eq!(spans.remove(1..2), 1);
        assert_eq!(ranges(&spans), [(0, 1), (2, 5), (45, 50)]);
    }

    #[test]
    fn the_first_gap_is_closed() {
        let mut spans = spans(&[0..10, 20..30, 40..50]);
        for expected in [&[(0, 30), (40, 50)][..], &[(0, 50)], &[(0, 50)]] {
            spans.close_first_gap();
            assert_eq!(ranges(&spans), expected);
        }
    }

    #[test]
    fn the_first_byte_in_a_range_is_found() {
        let spans = spans(&[10..15, 20..30]);
        for (range, first) in [(0..10, None), (0..11, Some(10)), (12..50, Some(12)), (15..20, None), (15..21, Some(20))]
        {
            assert_eq!(spans.first_in(range.clone()), first, "{range:?}");
        }
    }

    #[test]
    fn ends_are_exclusive() {
        let spans = spans(&[10..15, 15..20]);
        assert_eq!(
            (spans.end_at(9), spans.end_at(10), spans.end_at(19), spans.end_at(20)),
            (None, Some(20), Some(20), None)
        );
        assert_eq!((spans.end_before(10), spans.end_before(11), spans.end_before(99)), (None, Some(20), Some(20)));
    }
}
