//! The way to peers, trackers and name servers is back, by a device ([`super::device`]) or an address ([`super::addresses`]): what
//! has failed meanwhile is tried again, and once more a little later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Supervisor;

/// How long after its return what has failed meanwhile is tried again.
const TRIES_AFTER: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(10), Duration::from_secs(20)];

/// When what has failed is tried again after the return of what was away: routes, or the tunnel itself, may come later than it.
#[derive(Default)]
pub(super) struct Tries(VecDeque<Instant>);

impl Tries {
    /// It is back.
    pub(super) fn begin(&mut self, now: Instant) {
        self.0 = TRIES_AFTER.map(|after| now + after).into();
    }

    /// It is away.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether it is time for the next, which is told once.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.0.front().is_some_and(|at| *at <= now);
        if is_due {
            self.0.pop_front();
        }
        is_due
    }
}

impl Supervisor<'_> {
    /// What could not be reached may be now: names and trackers that failed, or, at first, all trackers.
    pub(super) fn network_is_back(&mut self, all: bool) {
        self.resolver.forget_failures();
        self.folders.look_up_again();
        self.announcer.network_is_back(all);
    }
}
