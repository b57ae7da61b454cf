//! How many bytes a second, lately.
//!
//! Two buckets of [`WINDOW`] each: the one being filled, and the one before it, of which less and less counts. That is
//! a sliding window that costs one addition a block and 32 bytes a connection.

use std::time::{Duration, Instant};

/// The time a rate is taken over.
pub const WINDOW: Duration = Duration::from_secs(5);

/// A rate in bytes a second over the last [`WINDOW`]. It rises from 0 over the first one.
#[derive(Debug, Clone)]
pub struct Rate {
    began: Instant,
    previous: u64,
    current: u64,
}

const _: () = assert!(size_of::<Rate>() <= 32);

impl Rate {
    /// A rate of nothing so far.
    pub const fn new(now: Instant) -> Self {
        Self {
            began: now,
            previous: 0,
            current: 0,
        }
    }

    /// Counts bytes that went by.
    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.advance(now);
        self.current = self.current.saturating_add(bytes);
    }

    /// The rate at this moment.
    pub fn bytes_per_second(&self, now: Instant) -> u64 {
        let mut at = self.clone();
        at.advance(now);
        let gone = now.saturating_duration_since(at.began).as_secs_f64() / WINDOW.as_secs_f64();
        let bytes = at.previous as f64 * (1.0 - gone).max(0.0) + at.current as f64;
        (bytes / WINDOW.as_secs_f64()) as u64
    }

    fn advance(&mut self, now: Instant) {
        let gone = now.saturating_duration_since(self.began);
        if gone >= 2 * WINDOW {
            *self = Self::new(now);
        } else if gone >= WINDOW {
            *self = Self {
                began: self.began + WINDOW,
                previous: self.current,
                current: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds `bytes` every 100 ms for so many seconds, and gives the time at the end.
    fn flow(rate: &mut Rate, bytes: u64, seconds: u64, from: Instant) -> Instant {
        for tick in 1..=seconds * 10 {
            rate.add(bytes, from + Duration::from_millis(tick * 100));
        }
        from + Duration::from_secs(seconds)
    }

    #[test]
    fn a_steady_flow_shows_its_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let mut now = start;
        for _ in 0..7 {
            now = flow(&mut rate, 1000, 3, now);
        }
        let shown = rate.bytes_per_second(now);
        assert!((9_500..=10_500).contains(&shown), "{shown}");
    }

    #[test]
    fn a_flow_that_stops_is_forgotten_after_two_windows() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let now = flow(&mut rate, 1000, 10, start);
        let half = rate.bytes_per_second(now + WINDOW / 2);
        assert!(half > 0 && half < rate.bytes_per_second(now));
        assert_eq!(rate.bytes_per_second(now + 2 * WINDOW), 0);
    }

    #[test]
    fn time_that_goes_backwards_does_no_harm() {
        let start = Instant::now() + WINDOW;
        let mut rate = Rate::new(start);
        rate.add(5000, start - WINDOW);
        assert_eq!(rate.bytes_per_second(start - WINDOW), 1000);
    }
}
