//! The announces of one torrent to one list of trackers, in tiers (BEP 12).

use std::sync::Arc;

use super::super::answer::{Failure, Retry};
use super::super::request::Event;
use super::super::scrape::Swarm;
use super::super::url::TrackerUrl;
use super::{TRACKERS_MAX, backoff};
use crate::proto::InfoHash;

/// No tracker has this number.
pub(super) const NONE: u32 = u32::MAX;

/// How long after a refusal a tracker is asked again, at least: what it refuses is seldom different a minute later.
const REFUSED_MIN: u64 = 5 * 60 * 1000;
/// A tracker may ask to be left alone for so long.
const RETRY_MAX: u64 = 24 * 60 * 60 * 1000;
const RETRY_MIN: u64 = 60 * 1000;

/// How a torrent does with its trackers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// None has answered yet.
    New,
    /// The last announce was answered.
    Working,
    /// The last announce was not, or refused.
    Failing,
    /// None of its trackers wants to be asked again.
    Dead,
}

/// One tracker of a list.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its number in the schedule.
    pub(super) url: u32,
    pub(super) host: u32,
    /// It is not asked before.
    pub(super) until: u64,
    pub(super) tier: u8,
    pub(super) failures: u8,
    /// It does not want to be asked again.
    pub(super) dead: bool,
    /// It was not asked, for a reason that lies here: another start may find another.
    pub(super) is_ours: bool,
    /// Nobody there was reached, the last time: that may be for want of a network here.
    pub(super) is_of_network: bool,
    /// It has said itself that it is not to be asked before `until`.
    pub(super) has_said_until: bool,
}

/// A list of trackers and when to ask which. Times are in milliseconds.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) info_hash: InfoHash,
    /// Which of the torrent's lists.
    pub(super) list: u8,
    /// Tells the request that counts from earlier ones.
    pub(super) serial: u32,
    /// In the order in which they are tried.
    pub(super) places: Box<[Place]>,
    /// When the next announce is due, whether or not a tracker can be asked then.
    pub(super) due: u64,
    /// No regular announce to the tracker that is told before that.
    pub(super) min_until: u64,
    /// Nobody who asks for an announce gets one before that.
    pub(super) again_at: u64,
    /// Where it waits: the host and its place in that queue.
    pub(super) waits: Option<(u32, u64)>,
    /// Which of the trackers is asked next, or being asked.
    pub(super) at: usize,
    pub(super) in_flight: bool,
    /// What is in flight is to a host that had not answered when it was sent.
    pub(super) is_trial: bool,
    /// The tracker that has us in its list.
    pub(super) told: u32,
    /// A tracker is to be told that nothing is missing any more.
    pub(super) completed: bool,
    /// It ends when the tracker is told.
    pub(super) leaving: bool,
    /// It waits for one of the same torrent that is leaving the same tracker.
    pub(super) held: bool,
    /// What is kept over a restart is as it is now, but for when it is due next.
    pub(super) is_kept: bool,
    pub(super) standing: Standing,
    /// What the tracker said last that a user should know.
    pub(super) text: Option<Arc<str>>,
    pub(super) tracker_id: Option<Box<[u8]>>,
    /// How large the swarm is, as the tracker counts it.
    pub(super) swarm: Option<Swarm>,
    /// When the tracker is asked that again, at the latest, and has not told by itself.
    pub(super) scrape_at: Option<u64>,
}

impl Job {
    /// Which tracker to ask next, and when that may be, `host_until` telling when a host may be asked. `None` if none
    /// wants to be asked again.
    pub(super) fn choose(&self, now: u64, host_until: impl Fn(u32) -> u64) -> Option<(usize, u64)> {
        if self.leaving {
            // Only the one that knows us; whether it is there shows when it is asked.
            let at = self.places.iter().position(|place| place.url == self.told)?;
            return Some((at, self.due));
        }
        let from = self.due.max(now);
        let willing = self.places.iter().enumerate().filter(|(_, place)| !place.dead);
        let times = willing.map(|(at, place)| (at, place.until.max(host_until(place.host)).max(from)));
        // The first of those that are equal: the order is that of the tiers.
        let (at, time) = times.min_by_key(|(_, time)| *time)?;
        // What is due counts from when it was due, so that those who wait longest come first.
        Some((at, if time == from { self.due } else { time }))
    }

    /// Why the tracker is told, whose turn it is.
    pub(super) fn event(&self) -> Event {
        match &self.places[self.at] {
            _ if self.leaving => Event::Stopped,
            place if place.url != self.told => Event::Started,
            _ if self.completed => Event::Completed,
            _ => Event::Regular,
        }
    }

    /// How it does, and what there is to say of that. Of a tracker that was not asked since btd was started it is what was kept.
    pub(super) fn told_of(&self) -> (Standing, Option<Box<str>>) {
        let Place { failures, dead, .. } = self.places[self.at];
        match (&self.text, self.standing, failures) {
            (None, Standing::New | Standing::Dead, 1..) if dead => {
                (Standing::Dead, Some("it refused for good before this start".into()))
            }
            (None, Standing::New, 1) => (
                Standing::Failing,
                Some("it failed the last time before this start".into()),
            ),
            (None, Standing::New, 2..) => {
                let text = format!("it failed the last {failures} times before this start");
                (Standing::Failing, Some(text.into()))
            }
            (text, standing, _) => (standing, text.as_deref().map(Box::from)),
        }
    }

    /// The tracker that was asked has answered: it is the first of its tier from now on.
    pub(super) fn promote(&mut self) {
        let Place { tier, .. } = self.places[self.at];
        let first = self.places.partition_point(|place| place.tier < tier);
        self.places[first..=self.at].rotate_right(1);
        self.at = first;
        let place = &mut self.places[first];
        (place.until, place.failures) = (0, 0);
    }

    /// The tracker that was asked has not answered, or refused.
    pub(super) fn put_back(&mut self, failure: &Failure, now: u64, random: u64) {
        let place = &mut self.places[self.at];
        place.failures = place.failures.saturating_add(1);
        place.is_ours = matches!(failure, Failure::Forbidden(_) | Failure::Busy);
        place.is_of_network = matches!(failure, Failure::Unreachable(_) | Failure::Name(_));
        place.has_said_until = false;
        let mut after = backoff(u32::from(place.failures), random);
        if !failure.is_of_host() {
            after = after.max(REFUSED_MIN + random % (REFUSED_MIN / 4));
        }
        if let Failure::Refused { retry, .. } | Failure::Status { retry, .. } = failure {
            match retry {
                Retry::Unsaid => {}
                Retry::After(time) => {
                    let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    // A little later than was asked for, and not all at once.
                    let time = time.clamp(RETRY_MIN, RETRY_MAX);
                    after = time + random % (time / 16);
                    place.has_said_until = true;
                }
                Retry::Never => place.dead = true,
            }
        }
        place.until = now + after;
    }
}

/// The trackers of a list that are used: each once, with its tier, and the first of those that are too many.
pub(super) fn listed(tiers: &[Vec<Arc<TrackerUrl>>]) -> Vec<(u8, Arc<TrackerUrl>)> {
    let mut flat: Vec<(u8, Arc<TrackerUrl>)> = Vec::new();
    for (tier, urls) in (0..=u8::MAX).zip(tiers) {
        for url in urls {
            if flat.len() < TRACKERS_MAX && !flat.iter().any(|(_, other)| other == url) {
                flat.push((tier, Arc::clone(url)));
            }
        }
    }
    flat
}

/// Trackers as they are tried: each tier in an order of its own (BEP 12).
pub(super) fn shuffle(flat: &mut [(u8, Arc<TrackerUrl>)], mut random: impl FnMut() -> u64) {
    for tier in flat.chunk_by_mut(|(one, _), (other, _)| one == other) {
        // Fisher and Yates.
        for end in (1..tier.len()).rev() {
            let other = (random() % (end + 1) as u64) as usize;
            tier.swap(end, other);
        }
    }
}
