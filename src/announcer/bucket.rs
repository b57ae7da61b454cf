//! How many requests a tracker host is sent in a second, whatever the number of torrents.
//!
//! At the end of a run, when every tracker is to hear within seconds that all torrents stop, a host may have more: as many as it
//! takes, which for few torrents is no more than ever.

use std::time::Duration;

/// When the next request may be sent. Outside, times are in milliseconds; here they are in microseconds.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// When it was full, or will be. It is empty when that is [`BURST`] intervals ahead.
    full_at: u64,
    /// Between requests that follow each other.
    interval: u64,
    /// Requests at once, after a pause.
    burst: u64,
}

/// Requests in any second.
#[cfg(test)]
pub(super) const PER_SECOND_MAX: u64 = 50;
/// Some room is left for those that are held up on their way and come close together.
const INTERVAL: u64 = 25_000;
/// With those that follow them within a second there are no more than are promised.
const BURST: u64 = 5;
const _: () = assert!(BURST - 1 + 1_000_000_u64.div_ceil(INTERVAL) <= 50);

/// The same in a hurry, at the least. Whoever sends looks every millisecond or two.
const HURRY_INTERVAL: u64 = 200;
const HURRY_BURST: u64 = 16;

impl Bucket {
    pub(super) fn new() -> Self {
        Self {
            full_at: 0,
            interval: INTERVAL,
            burst: BURST,
        }
    }

    /// When the next request may be sent.
    pub(super) fn ready_at(&self) -> u64 {
        self.full_at
            .saturating_sub((self.burst - 1) * self.interval)
            .div_ceil(1000)
    }

    /// One is sent.
    pub(super) fn take(&mut self, now: u64) {
        self.full_at = self.full_at.max(now * 1000) + self.interval;
    }

    /// From now on as fast as so many requests need to be sent in this time, and never slower than before.
    pub(super) fn hurry(&mut self, count: usize, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let interval = time / u64::try_from(count.max(1)).unwrap_or(u64::MAX);
        if interval < self.interval {
            (self.interval, self.burst) = (interval.max(HURRY_INTERVAL), HURRY_BURST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When requests are sent, in milliseconds, by one who sends as many as may be sent in this time.
    fn sent(bucket: &mut Bucket, times: std::ops::Range<u64>) -> Vec<u64> {
        let mut sent = Vec::new();
        for now in times {
            while bucket.ready_at() <= now {
                bucket.take(now);
                sent.push(now);
            }
        }
        sent
    }

    #[test]
    fn no_second_has_more_than_the_rate_and_the_burst() {
        let mut bucket = Bucket::new();
        let sent = sent(&mut bucket, 100_000..110_000);
        assert!(sent.len() as u64 >= 10_000_000 / INTERVAL);
        let most = sent
            .iter()
            .map(|from| sent.iter().filter(|at| (*from..from + 1000).contains(*at)).count());
        assert!(most.max().unwrap() as u64 <= PER_SECOND_MAX);
    }

    #[test]
    fn in_a_hurry_as_many_are_sent_as_are_to_be_told_and_few_no_faster_than_ever() {
        let time = Duration::from_secs(2);
        for (count, expected) in [(7000, 7000..=7100), (10, 80..=90), (1_000_000, 9_900..=10_100)] {
            let mut bucket = Bucket::new();
            bucket.hurry(count, time);
            let sent = sent(&mut bucket, 100_000..102_000);
            assert!(expected.contains(&sent.len()), "{count}: {}", sent.len());
        }
    }
}
