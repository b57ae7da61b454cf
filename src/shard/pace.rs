//! Keeping to a rate, up or down, of all torrents together or of one.
//!
//! A rate is one number: the time up to which it is used up. Whoever sends a batch moves it on by the time the batch
//! takes at that rate, once and whatever else goes on; nobody sends while it lies ahead. Shards share it without a lock. The
//! rate can be changed at any time, and without one nothing is counted. A time that lies behind is worth no more than
//! [`BURST`], so that a quiet hour is not made up for.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::proto::geometry::BLOCK_LEN_MAX;

/// How often those who wait for the rate are looked at.
pub(super) const QUANTUM: Duration = Duration::from_millis(10);

/// What may be made up for: two looks, so that one that comes late loses nothing.
const BURST: Duration = Duration::from_millis(20);

/// A rate that is kept to, if there is one. It can be changed while it is.
#[derive(Debug)]
pub struct Pace {
    /// 0 is none.
    bytes_per_second: AtomicU64,
    start: Instant,
    /// Nanoseconds after `start` at which what was sent so far will have taken its time.
    used_up_to: AtomicU64,
}

impl Pace {
    /// A rate in bytes a second, of which nothing has been used; `None` is no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<NonZeroU64>, now: Instant) -> Pace {
        Pace {
            bytes_per_second: AtomicU64::new(bytes_per_second.map_or(0, NonZeroU64::get)),
            start: now,
            used_up_to: AtomicU64::new(0),
        }
    }

    /// Another rate from now on, or none. What was sent at the old one is not waited for.
    pub fn set(&self, bytes_per_second: Option<NonZeroU64>, now: Instant) {
        self.bytes_per_second
            .store(bytes_per_second.map_or(0, NonZeroU64::get), Relaxed);
        self.used_up_to.fetch_min(self.nanoseconds(now), Relaxed);
    }

    /// The rate in bytes a second; `None` is no limit.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.bytes_per_second.load(Relaxed))
    }

    /// This, if there is a limit to keep to.
    pub(super) fn limited(&self) -> Option<&Pace> {
        self.bytes_per_second().map(|_| self)
    }

    /// Whether something may be sent.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.bytes_per_second().is_none() || self.used_up_to.load(Relaxed) <= self.nanoseconds(now)
    }

    /// How much one connection may send at once: what the rate gives in a look, so that all get something, but a block at
    /// least.
    pub(super) fn share(&self) -> u64 {
        let Some(rate) = self.bytes_per_second() else {
            return u64::MAX;
        };
        let quantum = u128::from(rate.get()) * QUANTUM.as_millis() / 1000;
        u64::try_from(quantum).unwrap_or(u64::MAX).max(u64::from(BLOCK_LEN_MAX))
    }

    /// So many bytes were sent.
    pub(super) fn charge(&self, bytes: u64, now: Instant) {
        let Some(rate) = self.bytes_per_second() else {
            return;
        };
        let took = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        let earliest = self.nanoseconds(now).saturating_sub(BURST.as_nanos() as u64);
        let used = |before: u64| Some(before.max(earliest).saturating_add(took));
        // It always succeeds: the closure never declines.
        let _ = self.used_up_to.fetch_update(Relaxed, Relaxed, used);
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The rates that all torrents of a folder keep to together, beside those of all torrents and their own.
#[derive(Debug)]
pub struct FolderPace {
    /// What peers are sent.
    pub upload: Pace,
    /// What peers are asked for.
    pub download: Pace,
}

impl FolderPace {
    /// No limits.
    #[must_use]
    pub fn new(now: Instant) -> FolderPace {
        FolderPace {
            upload: Pace::new(None, now),
            download: Pace::new(None, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: u64, now: Instant) -> Pace {
        Pace::new(Some(NonZeroU64::new(rate).unwrap()), now)
    }

    /// Bytes sent within `seconds` by whoever looks each `look`, in batches of the pace's share.
    fn sent(pace: &Pace, start: Instant, look: Duration, seconds: u64) -> u64 {
        let (mut now, mut bytes) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            while pace.is_due(now) {
                pace.charge(pace.share(), now);
                bytes += pace.share();
            }
            now += look;
        }
        bytes
    }

    #[test]
    fn rate_is_kept_over_time_however_often_it_is_looked_at() {
        for rate in [100_000, 1_000_000, 100_000_000, 10_000_000_000] {
            for look in [1, 7, 10, 19] {
                let start = Instant::now();
                let bytes = sent(&pace(rate, start), start, Duration::from_millis(look), 20);
                let exact = rate * 20;
                assert!(
                    bytes.abs_diff(exact) < exact / 50,
                    "{bytes} of {exact}, every {look} ms"
                );
            }
        }
    }

    #[test]
    fn quiet_hour_is_not_made_up_for() {
        let start = Instant::now();
        let pace = pace(1_000_000, start);
        let bytes = sent(&pace, start + Duration::from_secs(3600), Duration::from_millis(1), 1);
        assert!((1_000_000..1_060_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn slow_rate_sends_whole_blocks_and_waits_longer() {
        let start = Instant::now();
        let pace = pace(16_384, start);
        pace.charge(pace.share(), start);
        assert!(!pace.is_due(start + Duration::from_millis(999)));
        assert!(pace.is_due(start + Duration::from_millis(1000)));
    }

    #[test]
    fn rate_that_is_changed_holds_at_once_and_none_is_no_limit() {
        let start = Instant::now();
        let pace = pace(16_384, start);
        pace.charge(1 << 20, start);
        assert!(!pace.is_due(start + Duration::from_secs(60)));
        let faster = NonZeroU64::new(1_000_000);
        pace.set(faster, start);
        assert_eq!(pace.bytes_per_second(), faster);
        let bytes = sent(&pace, start, Duration::from_millis(7), 20);
        assert!(bytes.abs_diff(20_000_000) < 400_000, "{bytes}");
        pace.set(None, start);
        assert!(pace.is_due(start) && pace.share() == u64::MAX && pace.limited().is_none());
        pace.set(faster, start);
        assert!(pace.is_due(start), "what went without a limit is not waited for");
    }
}
