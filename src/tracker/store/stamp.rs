//! When a peer was last heard of, in one byte.
//!
//! A stamp is the time since the tracker's start, counted in units of a fixed length, modulo 256. An interval and its
//! double must be told apart, so the unit follows from the interval: a peer lives for [`LIFETIME_UNITS`] of them. The rest
//! of the byte is how late the sweep may be before the old would seem young again.

use std::time::{Duration, Instant};

/// How long a peer lives, in units.
pub(in crate::tracker) const LIFETIME_UNITS: u8 = 192;
/// How many units a moment may lie ahead of another that is taken for later: each shard has its own idea of what time it is,
/// and peers that one has just heard of must not seem old to the others.
const AHEAD_UNITS: u8 = 2;
/// How many units after a peer's end it would be taken for a fresh one.
const SLACK_UNITS: u8 = u8::MAX - AHEAD_UNITS - LIFETIME_UNITS;
/// An interval and a quarter: whoever is still there has been heard of since.
const LATE_UNITS: u8 = LIFETIME_UNITS / 8 * 5;

/// A moment, modulo 256 units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tracker) struct Stamp(pub(super) u8);

impl Stamp {
    /// Whether what was last heard of at `then` is to be forgotten at `self`. Both are rounded down, so the age in units
    /// may be one more than what has gone by: only above the lifetime is it certain.
    #[inline]
    pub(super) const fn has_outlived(self, then: u8) -> bool {
        let age = self.0.wrapping_sub(then);
        age > LIFETIME_UNITS && age <= u8::MAX - AHEAD_UNITS
    }

    /// Whether somebody of this age, in units, should have been heard of again by now.
    pub(super) const fn is_late(age: u8) -> bool {
        age > LATE_UNITS
    }

    /// The moment so many units before this one.
    pub(super) const fn before(self, units: u8) -> Self {
        Self(self.0.wrapping_sub(units))
    }

    /// The age in units of what was last heard of at `then`.
    pub(super) const fn age(self, then: u8) -> u8 {
        let age = self.0.wrapping_sub(then);
        if age <= u8::MAX - AHEAD_UNITS { age } else { 0 }
    }
}

/// Makes stamps of moments.
#[derive(Debug, Clone)]
pub(in crate::tracker) struct Clock {
    start: Instant,
    unit_ms: u64,
}

impl Clock {
    /// A clock by which peers are forgotten after `lifetime`, or up to a 192nd of it later.
    pub(in crate::tracker) fn new(start: Instant, lifetime: Duration) -> Self {
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        Self {
            start,
            unit_ms: lifetime_ms.div_ceil(u64::from(LIFETIME_UNITS)).max(1),
        }
    }

    /// Whole units since the start.
    pub(super) fn units(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        (since.as_secs() * 1000 + u64::from(since.subsec_millis())) / self.unit_ms
    }

    /// The stamp of this moment.
    pub(in crate::tracker) fn stamp(&self, now: Instant) -> Stamp {
        Stamp(self.units(now) as u8) // The low byte is what a stamp is.
    }

    /// How long a unit is, in milliseconds.
    pub(in crate::tracker) const fn unit_ms(&self) -> u64 {
        self.unit_ms
    }

    /// How late the sweep may be.
    pub(super) fn slack(&self) -> Duration {
        Duration::from_millis(self.unit_ms.saturating_mul(u64::from(SLACK_UNITS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_never_forgotten_before_its_time_and_soon_after_it() {
        let start = Instant::now();
        let lifetime = Duration::from_secs(3600);
        let clock = Clock::new(start, lifetime);
        let unit = lifetime / u32::from(LIFETIME_UNITS);
        for began in [0, 1, 17_000, 18_749, 18_750, 1_000_000, 4_000_000] {
            let began = start + Duration::from_millis(began);
            let then = clock.stamp(began).0;
            assert!(!clock.stamp(began).has_outlived(then));
            assert!(!clock.stamp(began + lifetime).has_outlived(then));
            assert!(clock.stamp(began + lifetime + unit).has_outlived(then));
            assert!(clock.stamp(began + lifetime + clock.slack() - unit).has_outlived(then));
        }
    }

    #[test]
    fn who_was_heard_of_on_a_shard_that_is_ahead_is_not_old() {
        let now = Stamp(7);
        assert!(!now.has_outlived(8) && !now.has_outlived(9) && now.has_outlived(10));
        assert_eq!((now.age(8), now.age(9), now.age(7), now.age(250)), (0, 0, 0, 13));
    }

    #[test]
    fn a_short_interval_has_short_units() {
        let start = Instant::now();
        let clock = Clock::new(start, Duration::from_millis(400));
        let then = clock.stamp(start).0;
        assert!(!clock.stamp(start + Duration::from_millis(400)).has_outlived(then));
        assert!(clock.stamp(start + Duration::from_millis(582)).has_outlived(then));
    }

    #[test]
    fn what_was_before_the_start_is_the_start() {
        let start = Instant::now() + Duration::from_secs(10);
        let clock = Clock::new(start, Duration::from_secs(60));
        assert_eq!(clock.stamp(start - Duration::from_secs(5)), Stamp(0));
    }
}
