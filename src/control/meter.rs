//! How fast things move, for those who look now and then: counters that only grow are turned into rates.

use std::time::{Duration, Instant};

use crate::proto::rate::Rate;
use crate::stats::Counters;

/// The least time between two looks that a rate is taken over: shards tell of what they moved once a second.
const LOOK_MIN: Duration = Duration::from_secs(4);
/// How long after the last byte rates may still have to fall: torrents are looked at in turn.
const SETTLES_IN: Duration = Duration::from_secs(15);

/// The rates of one torrent, taken between two looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    looked_at: Option<Instant>,
    uploaded: u64,
    downloaded: u64,
    /// Bytes a second, up and down.
    rates: (u64, u64),
}

impl Meter {
    /// The counters stand so now. Smaller ones than before are those of a torrent that was checked anew.
    pub(super) fn look(&mut self, (uploaded, downloaded): (u64, u64), now: Instant) {
        let passed = self.looked_at.map(|at| now.saturating_duration_since(at));
        if passed.is_some_and(|passed| passed < LOOK_MIN) {
            return;
        }
        let seconds = passed.map(|passed| passed.as_secs_f64());
        let rate = |before: u64, after: u64| match seconds {
            Some(seconds) if seconds > 0.0 => (after.saturating_sub(before) as f64 / seconds) as u64,
            _ => 0,
        };
        self.rates = (rate(self.uploaded, uploaded), rate(self.downloaded, downloaded));
        (self.uploaded, self.downloaded, self.looked_at) = (uploaded, downloaded, Some(now));
    }

    /// Bytes a second, up and down.
    pub(super) fn rates(&self) -> (u64, u64) {
        self.rates
    }
}

/// The rates of all torrents together.
#[derive(Debug)]
pub(super) struct Throughput {
    uploaded: u64,
    downloaded: u64,
    up: Rate,
    down: Rate,
    moved_at: Instant,
}

impl Throughput {
    /// Nothing has moved.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            uploaded: 0,
            downloaded: 0,
            up: Rate::new(now),
            down: Rate::new(now),
            moved_at: now,
        }
    }

    /// The counters of the shards stand so now.
    pub(super) fn look(&mut self, shards: impl Iterator<Item = Counters>, now: Instant) {
        let (mut uploaded, mut downloaded) = (0, 0);
        for shard in shards {
            uploaded += shard.uploaded_bytes;
            downloaded += shard.downloaded_bytes;
        }
        let (up, down) = (uploaded - self.uploaded, downloaded - self.downloaded);
        (self.uploaded, self.downloaded) = (uploaded, downloaded);
        if (up, down) != (0, 0) {
            self.moved_at = now;
            self.up.add(up, now);
            self.down.add(down, now);
        }
    }

    /// Bytes a second, up and down.
    pub(super) fn rates(&self, now: Instant) -> (u64, u64) {
        (self.up.bytes_per_second(now), self.down.bytes_per_second(now))
    }

    /// Whether the rates of single torrents may have changed lately.
    pub(super) fn is_moving(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.moved_at) < SETTLES_IN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_between_two_looks_and_none_before_the_second() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.look((1000, 5), start);
        assert_eq!(meter.rates(), (0, 0));
        meter.look((11_000, 5), start + Duration::from_secs(5));
        assert_eq!(meter.rates(), (2000, 0));
        meter.look((0, 0), start + Duration::from_secs(10));
        assert_eq!(meter.rates(), (0, 0), "it was checked anew");
        meter.look((50, 100), start + Duration::from_secs(15));
        assert_eq!(meter.rates(), (10, 20));
        meter.look((9000, 100), start + Duration::from_secs(16));
        assert_eq!(meter.rates(), (10, 20), "too early to tell");
        meter.look((9000, 100), start + Duration::from_secs(20));
        assert_eq!(meter.rates(), (1790, 0));
    }

    #[test]
    fn rates_of_all_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let mut all = Throughput::new(start);
        let mut counters = Counters::default();
        for tick in 1..=60 {
            counters.uploaded_bytes += 250;
            all.look(
                [counters, Counters::default()].into_iter(),
                start + Duration::from_millis(250) * tick,
            );
        }
        let now = start + Duration::from_secs(15);
        let (up, down) = all.rates(now);
        assert!((900..=1100).contains(&up), "{up}");
        assert_eq!(down, 0);
        assert!(all.is_moving(now) && !all.is_moving(now + SETTLES_IN));
    }
}
