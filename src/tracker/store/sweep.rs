//! Forgetting who has not been heard of, a slice at a time.
//!
//! A pass goes through all stripes in order and remembers where it has come to. It begins when time has moved on by a unit
//! of the clock, since nobody can have become old before. The caller's budget says how fast it goes; but it goes at least
//! so fast that a pass takes a quarter of the time after which the old would seem young again ([`super::stamp`]).

use std::sync::TryLockError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::many::Place;
use super::{STRIPES, Shelf, Stamp, Store, lock};

/// The longest a stripe is locked for, in slots: some ten microseconds.
const SLICE: usize = 4096;

/// Where the sweep has come to.
pub(super) struct Sweeper {
    /// The stripe; `STRIPES` between two passes.
    stripe: usize,
    /// The entry of its map.
    entry: usize,
    /// The place in its swarm.
    place: Place,
    /// When the pass began, in the clock's units.
    began: u64,
    called: Instant,
    /// How many stripes must be done now, whatever the budget.
    owed: f64,
}

impl Sweeper {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stripe: STRIPES,
            entry: 0,
            place: Place::default(),
            began: 0,
            called: now,
            owed: 0.0,
        }
    }
}

impl Store {
    /// Forgets who has outlived its time, going through about `budget` slots. Another thread that sweeps goes on alone.
    pub(in crate::tracker) fn sweep(&self, now: Instant, budget: usize) {
        let mut sweeper = match self.sweeper.try_lock() {
            Ok(sweeper) => sweeper,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let units = self.clock.units(now);
        let stamp = self.clock.stamp(now);
        let gone = now.saturating_duration_since(sweeper.called).as_secs_f64();
        sweeper.called = now;
        if sweeper.stripe == STRIPES {
            if units == sweeper.began {
                return;
            }
            sweeper.stripe = 0;
            sweeper.began = units;
            sweeper.owed = 0.0;
        }
        let pass = self.clock.slack().as_secs_f64() / 4.0;
        sweeper.owed = (sweeper.owed + gone / pass * STRIPES as f64).min(STRIPES as f64);
        let mut left = budget;
        while sweeper.stripe < STRIPES && (left > 0 || sweeper.owed >= 1.0) {
            let slice = if left == 0 { SLICE } else { left.min(SLICE) };
            let mut slots_left = slice;
            let done = self.sweep_stripe(&mut sweeper, &mut slots_left, stamp);
            left = left.saturating_sub(slice - slots_left);
            if done {
                sweeper.stripe += 1;
                sweeper.owed = (sweeper.owed - 1.0).max(0.0);
            }
        }
    }

    /// Goes on with a stripe for so many slots. Whether it is through with it.
    fn sweep_stripe(&self, sweeper: &mut Sweeper, slots_left: &mut usize, now: Stamp) -> bool {
        // Whatever the swarms' sizes: a sweep takes nothing.
        let context = self.context(0, now);
        let mut shelf = lock(&self.stripes[sweeper.stripe].0);
        let Shelf { map, tally } = &mut *shelf;
        *slots_left -= 1; // A stripe without torrents is not free.
        while sweeper.entry < map.capacity() {
            if *slots_left == 0 {
                return false;
            }
            *slots_left -= 1;
            let place = std::mem::take(&mut sweeper.place);
            let Some(entry) = map.at(sweeper.entry) else {
                sweeper.entry += 1;
                continue;
            };
            let before = entry.swarm.tally();
            let more = entry.swarm.sweep(place, slots_left, context);
            let after = entry.swarm.tally();
            tally.replace(&before, &after);
            let swept = (before.peers() - after.peers()) as u64;
            if swept > 0 {
                self.swept.fetch_add(swept, Relaxed);
            }
            if let Some(place) = more {
                sweeper.place = place;
                return false;
            }
            let is_over = match entry.swarm.empty_since() {
                Some(since) => entry.downloads.count() == 0 || now.has_outlived(since),
                None => false,
            };
            if is_over {
                map.remove(sweeper.entry, self.hash_key);
            } else {
                sweeper.entry += 1;
            }
        }
        map.shrink(self.hash_key, &self.budgets.all);
        sweeper.entry = 0;
        true
    }
}
