//! What waits for its turn: jobs in the queues of their hosts, and hosts in the order in which something can be asked of them.

use std::collections::BTreeSet;

use super::host::Wake;
use super::{IN_FLIGHT_MAX, PARTING_MAX, Schedule, TRIALS_MAX};

impl Schedule {
    /// Queues a job where and when it is to be done, in place of where it was. One that is under way is left to its end.
    pub(super) fn file(&mut self, key: u32, now: u64) {
        let job = &mut self.jobs[key as usize];
        if let Some((host, at)) = job.waits.take() {
            self.hosts[host as usize].queue.remove(&(at, key));
            self.wake(host);
        }
        let job = &mut self.jobs[key as usize];
        if job.in_flight || job.held {
            return;
        }
        let hosts = &self.hosts;
        let Some((at, time)) = job.choose(now, |host| hosts[host as usize].until()) else {
            return;
        };
        job.at = at;
        let host = job.places[at].host;
        job.waits = Some((host, time));
        self.hosts[host as usize].queue.insert((time, key));
        self.wake(host);
    }

    /// A host's queue has changed.
    pub(super) fn wake(&mut self, number: u32) {
        let Some(host) = self.hosts.get_mut(number as usize) else {
            return; // Its last tracker has left.
        };
        let next = host.next();
        let before = std::mem::replace(&mut host.wakes_at, next);
        if next == before {
            return;
        }
        if let Some(wake) = before {
            self.wakes_of(wake).remove(&(wake.at, number));
        }
        if let Some(wake) = next {
            self.wakes_of(wake).insert((wake.at, number));
        }
    }

    pub(super) fn wakes_of(&mut self, wake: Wake) -> &mut BTreeSet<(u64, u32)> {
        match wake.proven {
            true => &mut self.wakes,
            false => &mut self.trial_wakes,
        }
    }

    /// The host that wakes first of those that may be asked now, and when that is.
    pub(super) fn first_wake(&self) -> Option<(u64, u32)> {
        let max = if self.parting { PARTING_MAX } else { IN_FLIGHT_MAX };
        let proven = self.wakes.first().filter(|_| self.in_flight < max);
        let trial = self.trial_wakes.first();
        let trial = trial.filter(|_| self.in_flight < max && self.trials < TRIALS_MAX);
        proven.into_iter().chain(trial).min().copied()
    }

    /// A job's call has come to its end. The host that it was to.
    pub(super) fn land(&mut self, key: u32) -> u32 {
        let job = &mut self.jobs[key as usize];
        job.in_flight = false;
        self.in_flight -= 1;
        self.trials -= usize::from(job.is_trial);
        let number = job.places[job.at].host;
        self.hosts[number as usize].in_flight -= 1;
        number
    }
}
