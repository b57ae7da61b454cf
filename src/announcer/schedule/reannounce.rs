//! Announces that somebody asks for, ahead of their time.

use std::time::{Duration, Instant};

use super::news::INTERVAL_MIN as INTERVAL_MIN_S;
use super::{Schedule, Standing};
use crate::proto::InfoHash;

/// Nobody who asks gets an announce sooner after the last.
const INTERVAL_MIN: u64 = INTERVAL_MIN_S as u64 * 1000;
/// A network that is back does.
const BACK_AGAIN: u64 = 15 * 1000;
const _: () = assert!(BACK_AGAIN < INTERVAL_MIN);

impl Schedule {
    /// This machine has had no network and has one again, or another one: what failed meanwhile says nothing of trackers. All
    /// torrents are announced as soon as their trackers allow, and no sooner than `BACK_AGAIN` after the last time: a network
    /// may come and go.
    ///
    /// What works is left alone without `all`: for a network that begins to carry some time after it has come.
    pub fn network_is_back(&mut self, all: bool, now: Instant) {
        let time = self.millis(now);
        self.hosts.iter_mut().for_each(|(_, host)| host.forgive());
        let keys: Vec<u32> = self.job_of.values().copied().collect();
        for key in keys {
            let job = &mut self.jobs[key as usize];
            if !all && job.standing == Standing::Working {
                continue;
            }
            for place in &mut job.places {
                if place.is_of_network && !place.dead {
                    (place.until, place.failures) = (0, 0);
                }
            }
            let again_at = job.again_at.saturating_sub(INTERVAL_MIN - BACK_AGAIN);
            job.due = job.due.min(again_at.max(job.min_until).max(time));
            self.changed.insert(job.info_hash);
            self.file(key, time);
        }
        for number in self.hosts.iter().map(|(number, _)| number as u32).collect::<Vec<u32>>() {
            self.wake(number);
        }
    }

    /// Announces a torrent as soon as its trackers allow: not before their `min interval` is over or a minute, and what rests
    /// after a failure or waits for its host goes on doing so. Gives how long the first of them has to be waited for; zero if
    /// one is being asked. `None` if nobody is to be asked at all.
    pub fn reannounce(&mut self, info_hash: InfoHash, now: Instant) -> Option<Duration> {
        let now = self.millis(now);
        let mut first = None;
        for key in self.keys_of(info_hash) {
            let job = &mut self.jobs[key as usize];
            job.due = job.due.min(job.again_at.max(now));
            self.file(key, now);
            let job = &self.jobs[key as usize];
            let at = match job.in_flight {
                true => Some(now),
                false => job.waits.map(|(_, at)| at),
            };
            first = first.into_iter().chain(at).min();
        }
        first.map(|at| Duration::from_millis(at.saturating_sub(now)))
    }
}
