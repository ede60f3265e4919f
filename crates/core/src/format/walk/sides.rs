//! Whether bytes are mapped by a table in front of them and again by one behind them.
//!
//! A stream that comes to such a table has passed the bytes and cannot give them again. No writer is known that makes such
//! an image, so it is refused wherever it comes from: what a file carries, a pipe carries too.

use std::mem::take;
use std::ops::Range;

use crate::spans::Spans;

/// Into how many parts the mapped bytes may fall before this is not asked any more, a MiB or so of memory.
const MOST_PARTS: usize = 16 << 10;

/// What has been mapped from either side.
#[derive(Default)]
pub(super) struct Sides {
    /// By tables in front, and by tables behind.
    mapped: [Spans; 2],
    /// What the entries named last make up, and from which side: neighbours mostly follow each other.
    open: (Range<u64>, usize),
    given_up: bool,
}

impl Sides {
    /// Notes that the table at `table` maps `range`. Gives the first byte that is mapped from both sides.
    pub(super) fn map(&mut self, table: u64, range: Range<u64>) -> Option<u64> {
        let side = usize::from(range.start < table);
        if side == self.open.1 && range.start == self.open.0.end {
            self.open.0.end = range.end;
            return None;
        }
        let found = self.close();
        self.open = (range, side);
        found
    }

    /// No more entries of this table will come.
    pub(super) fn close(&mut self) -> Option<u64> {
        let (range, side) = take(&mut self.open);
        if range.is_empty() || self.given_up {
            return None;
        }
        let [front, behind] = &mut self.mapped;
        let (own, other) = if side == 0 { (front, behind) } else { (behind, front) };
        let found = other.first_in(range.clone());
        own.insert(range);
        if own.count().saturating_add(other.count()) > MOST_PARTS {
            *self = Self { given_up: true, ..Self::default() };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a table at 1000 and one at 5000 find, each with ranges to map.
    fn found(first: &[(u64, u64)], second: &[(u64, u64)]) -> Option<u64> {
        let mut sides = Sides::default();
        let mut all = Vec::new();
        for (table, ranges) in [(1000, first), (5000, second)] {
            all.extend(ranges.iter().map(|(start, end)| sides.map(table, *start..*end)));
            all.push(sides.close());
        }
        all.into_iter().flatten().next()
    }

    #[test]
    fn bytes_between_two_tables_that_both_map_them_are_found() {
        assert_eq!(found(&[(2000, 3000)], &[(2000, 3000)]), Some(2000));
        assert_eq!(found(&[(2000, 3000), (3000, 4000)], &[(100, 200), (3500, 3501)]), Some(3500));
        assert_eq!(found(&[(3000, 4000), (1100, 1200)], &[(1000, 3001)]), Some(1100));
        assert_eq!(found(&[(2000, 4000)], &[(2500, 2600), (2600, 2700)]), Some(2500));
    }

    #[test]
    fn bytes_that_all_their_tables_lie_in_front_of_or_behind_are_not() {
        assert_eq!(found(&[(6000, 7000), (6000, 7000)], &[(6000, 7000)]), None);
        assert_eq!(found(&[(100, 200), (100, 200)], &[(100, 200)]), None);
        assert_eq!(found(&[(2000, 3000)], &[(1100, 2000), (3000, 4000), (6000, 7000)]), None);
    }

    #[test]
    fn what_is_scattered_over_too_many_parts_is_not_looked_at_any_more_and_takes_no_memory() {
        let mut sides = Sides::default();
        for at in (2000..).step_by(20).take(MOST_PARTS + 2) {
            assert_eq!(sides.map(1000, at..at + 10), None);
        }
        assert_eq!(sides.map(u64::MAX, 2000..2010).or(sides.close()), None);
        assert_eq!(sides.mapped.each_ref().map(Spans::count), [0, 0]);
    }
}
