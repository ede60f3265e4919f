//! How far a job is and how fast: numbers that a person can rely on, whatever a source does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The current speed is that of so much time past.
const WINDOW: Duration = Duration::from_secs(5);

/// Samples that are kept of that time: a clock that is read more often thins them out.
const SAMPLES: usize = 64;

/// The most that is shown before the image is ready: when every byte has passed, there still is data to be made durable.
const MOST: u32 = 9900;

/// Counts what has passed. It is told what the time is.
#[derive(Debug, Default)]
pub struct Meter {
    begun: Option<Instant>,
    ended: Option<Instant>,
    /// Bytes of this attempt, as they were last told.
    seen: u64,
    /// Bytes of all attempts.
    passed: u64,
    samples: VecDeque<(Instant, u64)>,
    /// Hundredths of a percent.
    shown: u32,
}

impl Meter {
    /// The work begins, or begins again.
    pub fn begin(&mut self, now: Instant) {
        self.begun.get_or_insert(now);
        self.seen = 0;
        self.samples.clear();
        self.samples.push_back((now, self.passed));
    }

    /// `source` bytes of `total` have passed in this attempt.
    pub fn measure(&mut self, now: Instant, source: u64, total: Option<u64>) {
        if self.begun.is_none() || source < self.seen {
            self.begin(now);
        }
        self.passed = self.passed.saturating_add(source.saturating_sub(self.seen));
        self.seen = source;
        self.samples.push_back((now, self.passed));
        let is_old = |sample: Option<&(Instant, u64)>| {
            sample.is_some_and(|(then, _)| now.saturating_duration_since(*then) > WINDOW)
        };
        // One that is older than the window stays, so that the window is always covered.
        while is_old(self.samples.get(1)) || self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        if let Some(total) = total.filter(|total| *total > 0) {
            let part = u128::from(source) * 10_000 / u128::from(total);
            let part = u32::try_from(part).unwrap_or(MOST).min(MOST);
            self.shown = self.shown.max(part);
        }
    }

    /// The image is ready.
    pub fn complete(&mut self, now: Instant) {
        self.end(now);
        self.shown = 10_000;
    }

    /// The work has ended, well or not.
    pub fn end(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    /// Percent that have passed: never less than before, and 100 only when the image is ready.
    pub fn percent(&self) -> f64 {
        f64::from(self.shown) / 100.0
    }

    /// Bytes that have passed, those of earlier attempts included.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Since the work has begun, until it has ended.
    pub fn elapsed(&self, now: Instant) -> Duration {
        let end = self.ended.unwrap_or(now);
        self.begun.map_or(Duration::ZERO, |begun| end.saturating_duration_since(begun))
    }

    /// Bytes a second since the work has begun.
    pub fn average(&self, now: Instant) -> u64 {
        speed(self.passed, self.elapsed(now))
    }

    /// Bytes a second of late; nothing once the work has ended.
    pub fn current(&self, now: Instant) -> u64 {
        match self.samples.front() {
            Some((then, before)) if self.ended.is_none() => {
                speed(self.passed.saturating_sub(*before), now.saturating_duration_since(*then))
            }
            _ => 0,
        }
    }
}

fn speed(bytes: u64, time: Duration) -> u64 {
    // What took no time was not measured.
    u64::try_from(u128::from(bytes) * 1000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn percent_never_goes_back_and_is_not_100_before_the_end() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        let mut last = 0.0;
        for (source, total) in
            [(10, None), (500, Some(1000)), (0, Some(1000)), (100, Some(1000)), (400, Some(500)), (9, None)]
        {
            meter.measure(begin, source, total);
            assert!(meter.percent() >= last, "{source} of {total:?}");
            last = meter.percent();
        }
        assert_eq!(last, 80.0);
        meter.measure(begin, 1 << 50, Some(1000));
        assert_eq!(meter.percent(), 99.0);
        meter.complete(begin);
        assert_eq!(meter.percent(), 100.0);
    }

    #[test]
    fn speeds_are_of_all_attempts_and_of_the_last_seconds() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        meter.begin(begin);
        for second in 1..=10 {
            meter.measure(begin + SECOND * second, u64::from(second) * 1000, None);
        }
        let now = begin + SECOND * 10;
        assert_eq!((meter.average(now), meter.current(now)), (1000, 1000));
        // It stands still.
        let now = begin + SECOND * 20;
        meter.measure(now, 10_000, None);
        assert_eq!((meter.average(now), meter.current(now)), (500, 0));
        // It begins anew.
        meter.measure(now + SECOND, 0, None);
        meter.measure(now + SECOND * 2, 3000, None);
        let now = now + SECOND * 2;
        assert_eq!((meter.passed(), meter.current(now)), (13_000, 3000));
        meter.end(now);
        assert_eq!((meter.elapsed(now + SECOND * 9), meter.current(now)), (SECOND * 22, 0));
    }

    #[test]
    fn a_clock_that_is_read_often_does_not_fill_memory() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        for at in 0..10_000_u32 {
            meter.measure(begin + Duration::from_millis(1) * at, u64::from(at), Some(1 << 20));
        }
        assert_eq!(meter.samples.len(), 64);
    }
}
