//! A log-linear histogram of nanoseconds: 64 steps in each power of two, so that any quantile is exact to 1.6 %, in
//! 30 KiB and a few instructions for each value. It neither resizes nor fails: every `u64` has its bucket.

/// Steps in each power of two, as a power of two.
const STEP_BITS: u32 = 6;
const STEPS: u64 = 1 << STEP_BITS;
/// Values below `STEPS` have a bucket each; above, one group of `STEPS` for each further power of two.
const BUCKETS: usize = ((64 - STEP_BITS as usize) + 1) << STEP_BITS;

/// Counts of values, by size.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros(); // At least STEP_BITS.
    let group = exponent - STEP_BITS + 1;
    let step = (value >> (exponent - STEP_BITS)) - STEPS;
    ((group as usize) << STEP_BITS) + step as usize
}

/// The largest value that falls into the bucket.
fn upper(bucket: usize) -> u64 {
    let (group, step) = (bucket as u64 >> STEP_BITS, bucket as u64 & (STEPS - 1));
    if group == 0 {
        return step;
    }
    let shift = group - 1;
    ((STEPS + step) << shift) + ((1 << shift) - 1)
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest value, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that this share (0 to 1) of all values does not exceed; 0 when nothing was counted.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(bucket).min(self.max);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_no_value_is_off_by_more_than_a_64th() {
        let mut previous = 0;
        for exponent in 0..64 {
            for value in [
                1u64 << exponent,
                (1u64 << exponent) | (1u64 << exponent >> 1),
                (1u64 << exponent) + ((1u64 << exponent) - 1),
            ] {
                let bucket = bucket(value);
                assert!(bucket >= previous && bucket < BUCKETS, "{value}");
                assert!(
                    upper(bucket) >= value && upper(bucket) - value <= value / 64,
                    "{value} -> {}",
                    upper(bucket)
                );
                previous = bucket;
            }
        }
        assert_eq!(upper(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_of_a_known_sequence() {
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|value| histogram.record(value * 1_000));
        let near = |found: u64, wanted: u64| found >= wanted && found <= wanted + wanted / 60;
        assert!(near(histogram.quantile(0.5), 500_000), "{}", histogram.quantile(0.5));
        assert!(near(histogram.quantile(0.99), 990_000), "{}", histogram.quantile(0.99));
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert_eq!((histogram.max(), histogram.count()), (1_000_000, 1_000));
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }

    #[test]
    fn merging_counts_both() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.record(10);
        other.record(20);
        one.merge(&other);
        assert_eq!((one.count(), one.max(), one.quantile(0.5)), (2, 20, 10));
    }
}
