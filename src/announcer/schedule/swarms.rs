//! How large swarms are. Most trackers say so in the answer to each announce; those that do not, or whose interval is long, are
//! asked by scrapes, many torrents at once.
//!
//! A torrent is in a scrape when nothing has been heard of its swarm for half an hour or more, only of the tracker that has us
//! in its list, and never while the host has announces to be sent. A tracker that refuses is not asked again for a day: it does
//! no harm not to know.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::super::answer::Failure;
use super::super::scrape::{Swarm, batch_max};
use super::super::url::TrackerUrl;
use super::job::NONE;
use super::{Schedule, next_random};
use crate::proto::InfoHash;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
/// What was heard of a swarm is asked for again when it is so old at the latest, and this much before, with others, at the
/// earliest.
const AGE_MAX: u64 = 45 * MINUTE;
const TOGETHER: u64 = 15 * MINUTE;
/// How long after an announce that said nothing of it: others will have been announced by then.
const FIRST_AFTER: u64 = MINUTE;
/// From one scrape of a tracker to the next.
const GAP: u64 = 5 * SECOND;
/// When the host has something better to do, or does not answer.
const BUSY_FOR: u64 = SECOND;
const AWAY_FOR: u64 = 5 * MINUTE;
/// After a scrape that came to nothing, and after a refusal.
const FAILED_FOR: u64 = 30 * MINUTE;
const REFUSED_FOR: u64 = 24 * 60 * MINUTE;
/// Scrapes under way in all.
const IN_FLIGHT_MAX: usize = 4;

/// What is known of all swarms: each as the trackers count it that have us in their lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swarms {
    /// Lists of torrents whose tracker has told.
    pub known: usize,
    /// Peers that have everything, in all of them.
    pub seeders: u64,
    /// Those that do not.
    pub leechers: u64,
}

/// A scrape to be sent now.
#[derive(Clone, Debug)]
pub struct ScrapeCall {
    /// To which tracker.
    pub url: Arc<TrackerUrl>,
    /// Of which torrents.
    pub hashes: Vec<InfoHash>,
    tracker: u32,
    serial: u32,
    /// The jobs of those torrents, in the same order.
    jobs: Vec<u32>,
}

/// The scrapes of one tracker. Times are in milliseconds.
#[derive(Debug)]
pub(super) struct Scrapes {
    /// Jobs whose swarm is to be asked for, and when at the latest.
    due: BTreeSet<(u64, u32)>,
    /// Torrents of one scrape; 0 where there is no address for it.
    batch_max: usize,
    /// Not before.
    until: u64,
    in_flight: Option<u32>,
    /// As the schedule has it in its own order.
    pub(super) wakes_at: Option<u64>,
}

impl Scrapes {
    pub(super) fn new(url: &TrackerUrl) -> Self {
        Self {
            due: BTreeSet::new(),
            batch_max: batch_max(url),
            until: 0,
            in_flight: None,
            wakes_at: None,
        }
    }

    #[cfg(test)]
    pub(super) fn has(&self, due: (u64, u32)) -> bool {
        self.due.contains(&due)
    }

    fn next(&self) -> Option<u64> {
        let (due, _) = self.due.first().filter(|_| self.in_flight.is_none())?;
        Some(self.until.max(*due))
    }
}

impl Schedule {
    /// What is known of all swarms.
    #[must_use]
    pub fn swarms(&self) -> Swarms {
        self.swarms
    }

    /// The next scrape to be sent, if one may be sent now. What came of it is to be told by [`Schedule::on_scraped`].
    pub fn poll_scrape(&mut self, now: Instant) -> Option<ScrapeCall> {
        let now = self.millis(now);
        loop {
            let (_, number) = self.first_scrape().filter(|(at, _)| *at <= now)?;
            let tracker = &mut self.trackers[number as usize];
            let host = &mut self.hosts[tracker.host as usize];
            if !host.is_proven() || !host.is_free(now) {
                let after = if host.is_proven() { BUSY_FOR } else { AWAY_FOR };
                tracker.scrapes.until = now + after;
                self.wake_scrapes(number);
                continue;
            }
            host.take_scrape(now);
            let wake = tracker.host;
            self.serial = self.serial.wrapping_add(1);
            let scrapes = &mut tracker.scrapes;
            scrapes.in_flight = Some(self.serial);
            let due = scrapes.due.iter().take_while(|(at, _)| *at <= now + TOGETHER);
            let jobs: Vec<u32> = due.map(|(_, key)| *key).take(scrapes.batch_max).collect();
            let call = ScrapeCall {
                url: Arc::clone(&tracker.url),
                hashes: jobs.iter().map(|key| self.jobs[*key as usize].info_hash).collect(),
                tracker: number,
                serial: self.serial,
                jobs,
            };
            self.scrapes_in_flight += 1;
            self.wake_scrapes(number);
            self.wake(wake);
            return Some(call);
        }
    }

    /// What came of a scrape: of each of its torrents, in their order, what the tracker says of it.
    pub fn on_scraped(&mut self, call: &ScrapeCall, result: Result<&[Option<Swarm>], &Failure>, now: Instant) {
        let now = self.millis(now);
        self.scrapes_in_flight -= 1;
        let tracker = self.trackers.get_mut(call.tracker as usize);
        let Some(tracker) = tracker.filter(|tracker| tracker.scrapes.in_flight == Some(call.serial)) else {
            return; // All its torrents have left.
        };
        tracker.scrapes.in_flight = None;
        let after = match result {
            Ok(_) | Err(Failure::Busy) => GAP,
            Err(Failure::Unreachable(_) | Failure::Name(_)) => FAILED_FOR,
            Err(failure) if failure.is_of_host() && !matches!(failure, Failure::TooLong(_)) => FAILED_FOR,
            // It refuses, or its answer is of another kind, such as of all torrents that it has.
            Err(_) => REFUSED_FOR,
        };
        tracker.scrapes.until = now + after;
        let swarms = result.unwrap_or_default().iter();
        for ((key, info_hash), swarm) in call.jobs.iter().zip(&call.hashes).zip(swarms) {
            let job = self.jobs.get(*key as usize);
            // Another may have its number, or it another tracker by now.
            if job.is_none_or(|job| job.info_hash != *info_hash || job.leaving || job.told != call.tracker) {
                continue;
            }
            if swarm.is_some() {
                self.set_swarm(*key, *swarm);
            }
            // Of whatever it said nothing, it is not asked again at once.
            self.uncount(*key);
            let after = self.age_max();
            self.count(*key, now + after);
        }
        self.wake_scrapes(call.tracker);
    }

    /// The tracker that can be scraped first, and when that is.
    pub(super) fn first_scrape(&self) -> Option<(u64, u32)> {
        let first = self.scrape_wakes.first();
        first.filter(|_| self.scrapes_in_flight < IN_FLIGHT_MAX).copied()
    }

    /// A job's tracker has answered it: its swarm is asked for when what is known of it is old.
    pub(super) fn count_from(&mut self, key: u32, now: u64) {
        let after = match self.jobs[key as usize].swarm {
            Some(_) => self.age_max(),
            None => FIRST_AFTER,
        };
        self.uncount(key);
        self.count(key, now + after);
    }

    fn age_max(&mut self) -> u64 {
        AGE_MAX - next_random(&mut self.random) % (AGE_MAX / 10)
    }

    fn count(&mut self, key: u32, at: u64) {
        let job = &mut self.jobs[key as usize];
        let number = job.told;
        if number == NONE || self.trackers[number as usize].scrapes.batch_max == 0 {
            return;
        }
        job.scrape_at = Some(at);
        self.trackers[number as usize].scrapes.due.insert((at, key));
        self.wake_scrapes(number);
    }

    /// A job's swarm is not asked for any more.
    pub(super) fn uncount(&mut self, key: u32) {
        let job = &mut self.jobs[key as usize];
        if let Some(at) = job.scrape_at.take() {
            let number = job.told;
            self.trackers[number as usize].scrapes.due.remove(&(at, key));
            self.wake_scrapes(number);
        }
    }

    /// How large a job's swarm is.
    pub(super) fn set_swarm(&mut self, key: u32, swarm: Option<Swarm>) {
        let before = std::mem::replace(&mut self.jobs[key as usize].swarm, swarm);
        let Swarms {
            known,
            seeders,
            leechers,
        } = &mut self.swarms;
        if let Some(before) = before {
            *known -= 1;
            *seeders -= u64::from(before.seeders);
            *leechers -= u64::from(before.leechers);
        }
        if let Some(swarm) = swarm {
            *known += 1;
            *seeders += u64::from(swarm.seeders);
            *leechers += u64::from(swarm.leechers);
        }
    }

    /// A tracker's scrapes have changed.
    fn wake_scrapes(&mut self, number: u32) {
        let scrapes = &mut self.trackers[number as usize].scrapes;
        let next = scrapes.next();
        let before = std::mem::replace(&mut scrapes.wakes_at, next);
        if next == before {
            return;
        }
        if let Some(at) = before {
            self.scrape_wakes.remove(&(at, number));
        }
        if let Some(at) = next {
            self.scrape_wakes.insert((at, number));
        }
    }
}
