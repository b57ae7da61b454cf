//! Announces that somebody asks for, ahead of their time.

use std::time::{Duration, Instant};

use super::Schedule;
use crate::proto::InfoHash;

impl Schedule {
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
