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

/// How a torrent does with its trackers, or with one of them.
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
    /// Of one alone: it is not asked as long as another answers.
    Waiting,
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
    /// It was not asked since its torrent came back, and had failed before that.
    pub(super) has_failed_before: bool,
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
    /// What trackers said last that a user should know, by their numbers. Most have said nothing.
    pub(super) texts: Vec<(u32, Arc<str>)>,
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

    /// What one of the trackers said last that a user should know.
    pub(super) fn text_of(&self, url: u32) -> Option<&Arc<str>> {
        let text = self.texts.iter().find(|(of, _)| *of == url);
        text.map(|(_, text)| text)
    }

    /// The tracker whose turn it is says so, or nothing. Gives what it said before.
    pub(super) fn say(&mut self, text: Option<Arc<str>>) -> Option<Arc<str>> {
        let url = self.places[self.at].url;
        let before = self.texts.iter().position(|(of, _)| *of == url);
        let before = before.map(|at| self.texts.swap_remove(at).1);
        if let Some(text) = text {
            self.texts.reserve_exact(1);
            self.texts.push((url, text));
        }
        before
    }

    /// How the tracker at this place does, and what there is to say of that. Of one that was not asked since btd was started it is what
    /// was kept.
    pub(super) fn told_of(&self, at: usize) -> (Standing, Option<Box<str>>) {
        let place = &self.places[at];
        let does_work = |place: &Place| place.failures == 0 && !place.dead && !place.has_failed_before;
        let does_one_work = || {
            self.places
                .iter()
                .any(|place| place.url == self.told && does_work(place))
        };
        let standing = match place {
            Place { dead: true, .. } => Standing::Dead,
            Place { failures: 1.., .. }
            | Place {
                has_failed_before: true,
                ..
            } => Standing::Failing,
            place if place.url == self.told => Standing::Working,
            _ if does_one_work() => Standing::Waiting,
            _ => Standing::New,
        };
        let text = match (self.text_of(place.url), place.failures) {
            (Some(text), _) => Some(Box::from(&**text)),
            (None, 0) => None,
            (None, _) if place.dead => Some("it refused for good before this start".into()),
            (None, 1) => Some("it failed the last time before this start".into()),
            (None, failures) => Some(format!("it failed the last {failures} times before this start").into()),
        };
        (standing, text)
    }

    /// Why the last announce was not answered, or was refused, if that is so.
    pub(super) fn failure(&self) -> Option<Box<str>> {
        let has_failed = |at: &usize| matches!(self.told_of(*at).0, Standing::Failing | Standing::Dead);
        // Another tracker's, where that has failed and this one was not asked since.
        let is_failing = matches!(self.standing, Standing::Failing | Standing::Dead);
        let others = (0..self.places.len()).filter(|_| is_failing);
        let at = std::iter::once(self.at).chain(others).find(has_failed)?;
        self.told_of(at).1
    }

    /// The tracker that was asked has answered: it is the first of its tier from now on.
    pub(super) fn promote(&mut self) {
        let Place { tier, .. } = self.places[self.at];
        let first = self.places.partition_point(|place| place.tier < tier);
        self.places[first..=self.at].rotate_right(1);
        self.at = first;
        let place = &mut self.places[first];
        let has_failed = place.failures > 0 || place.has_failed_before;
        (place.until, place.failures, place.has_failed_before) = (0, 0, false);
        if has_failed {
            self.say(None); // Why it failed.
        }
    }

    /// The tracker that was asked has not answered, or refused.
    pub(super) fn put_back(&mut self, failure: &Failure, now: u64, random: u64) {
        let place = &mut self.places[self.at];
        place.failures = place.failures.saturating_add(1);
        place.has_failed_before = false;
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
