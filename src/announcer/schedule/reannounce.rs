//! Announces that somebody asks for, ahead of their time.

use std::time::{Duration, Instant};

use super::news::INTERVAL_MIN as INTERVAL_MIN_S;
use super::{Schedule, Standing};
use crate::proto::InfoHash;

/// Nobody who asks gets an announce sooner after the last.
pub(super) const INTERVAL_MIN: u64 = INTERVAL_MIN_S as u64 * 1000;
/// A network that is back does.
const BACK_AGAIN: u64 = 15 * 1000;
const _: () = assert!(BACK_AGAIN < INTERVAL_MIN);

/// What came of asking for an announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reannounced {
    /// How long the first tracker has to be waited for; zero if it is being asked. `None` if none wants to be asked again.
    pub wait: Option<Duration>,
    /// Why the last announce was not answered, or was refused, if that is so.
    pub failure: Option<Box<str>>,
}

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
            let is_unreached = job.standing == Standing::Failing && job.places.iter().any(|place| place.is_of_network);
            let again_at = match is_unreached {
                true => 0, // Nobody has heard the last one.
                false => job.again_at.saturating_sub(INTERVAL_MIN - BACK_AGAIN),
            };
            job.due = job.due.min(again_at.max(job.min_until).max(time));
            job.is_kept = false;
            self.changed.insert(job.info_hash);
            self.file(key, time);
        }
        for number in self.hosts.iter().map(|(number, _)| number as u32).collect::<Vec<u32>>() {
            self.wake(number);
        }
    }

    /// Announces a torrent as soon as its trackers allow: not before their `min interval` is over, nor before the time that one
    /// has named which refused, and a minute after the last time at the earliest. One that has left and come back more often than
    /// that is not held to `min interval`, which was said of the one before. Whoever asks may know that what failed or was
    /// refused is mended: that is not rested from any longer than this, nor is a host that was given up. `None` if it is not
    /// announced.
    pub fn reannounce(&mut self, info_hash: InfoHash, now: Instant) -> Option<Reannounced> {
        let now = self.millis(now);
        let mut first: Option<(u64, Reannounced)> = None;
        for key in self.keys_of(info_hash) {
            let job = &mut self.jobs[key as usize];
            let again_at = job.again_at.max(now);
            job.due = job.due.min(again_at);
            for place in &mut job.places {
                if place.dead || place.has_said_until {
                    continue;
                }
                place.until = place.until.min(again_at);
                if place.failures > 0 {
                    self.hosts[place.host as usize].ask_again(now);
                }
            }
            self.file(key, now);
            let job = &self.jobs[key as usize];
            // One that is held is asked as soon as what was under way before it left is answered.
            let at = match job.in_flight || job.held {
                true => Some(now),
                false => job.waits.map(|(_, at)| at),
            };
            let one = Reannounced {
                wait: at.map(|at| Duration::from_millis(at.saturating_sub(now))),
                failure: job.failure(),
            };
            let at = at.unwrap_or(u64::MAX);
            if first.as_ref().is_none_or(|(earlier, _)| at < *earlier) {
                first = Some((at, one));
            }
        }
        first.map(|(_, one)| one)
    }
}
