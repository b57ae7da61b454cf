//! A histogram of durations with fixed buckets, cheap enough to count every block.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds, roughly 1-2-5; a last bucket takes what is longer.
pub const BOUNDS_US: [u64; 20] = [
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

const BUCKETS: usize = BOUNDS_US.len() + 1;

/// The histogram as its owner counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell into each bucket (not cumulative).
    pub buckets: [u64; BUCKETS],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts `count` events of one duration.
    pub fn record(&mut self, duration: Duration, count: u64) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound| bound < us);
        self.buckets[bucket] += count;
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(count));
    }

    /// Counts the events of another as well.
    pub fn add(&mut self, other: &Histogram) {
        std::iter::zip(&mut self.buckets, other.buckets).for_each(|(sum, count)| *sum += count);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// All events.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The histogram as others read it.
#[derive(Debug, Default)]
pub struct Published {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Published {
    pub(super) fn store(&self, histogram: &Histogram) {
        for (to, from) in self.buckets.iter().zip(&histogram.buckets) {
            to.store(*from, Relaxed);
        }
        self.sum_us.store(histogram.sum_us, Relaxed);
    }

    pub(super) fn load(&self) -> Histogram {
        let mut histogram = Histogram {
            sum_us: self.sum_us.load(Relaxed),
            ..Histogram::default()
        };
        for (to, from) in histogram.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Relaxed);
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_micros(50), 1);
        histogram.record(Duration::from_micros(51), 1);
        histogram.record(Duration::from_secs(1000), 3);
        assert_eq!(histogram.buckets[0], 1);
        assert_eq!(histogram.buckets[1], 1);
        assert_eq!(histogram.buckets[BUCKETS - 1], 3);
        assert_eq!(histogram.count(), 5);
    }
}
