//! What an answer, or that there is none, means for the torrent it is about: when it is due again, and what is worth a line.

use std::sync::Arc;

use super::super::answer::{Answer, Failure};
use super::super::request::Event;
use super::super::scrape::Swarm;
use super::super::text::clean;
use super::job::{Job, Standing};

/// What is due when a tracker does not say, and the bounds of what it may say, in seconds.
const INTERVAL: i64 = 30 * 60;
pub(super) const INTERVAL_MIN: i64 = 60;
const INTERVAL_MAX: i64 = 6 * 60 * 60;

/// By which part of the interval an announce is due before its time.
const EARLIER: u64 = 50;

/// When what could not be sent is due again, in milliseconds.
const BUSY: u64 = 10 * 1000;

/// What has changed for a torrent, and is worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A tracker has answered, after none had.
    Working {
        /// How large the swarm is, if it said so.
        swarm: Option<Swarm>,
    },
    /// It says something to its users.
    Warning(Box<str>),
    /// It has not answered, or refused.
    Failing(Box<str>),
    /// It does not want to be asked again; others are.
    Refused(Box<str>),
    /// None of the trackers wants to be asked again; the last one's reason.
    Dead(Box<str>),
}

/// A tracker has answered. Times are in milliseconds.
pub(super) fn take_in(job: &mut Job, answer: &Answer, event: Event, now: u64, random: u64) -> Option<News> {
    job.promote();
    let url = job.places[job.at].url;
    if job.told != url {
        job.tracker_id = None; // It was another's.
    }
    job.told = url;
    if let Some(id) = &answer.tracker_id {
        job.tracker_id = Some(id.clone());
    }
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0) * 1000;
    let interval = millis(answer.interval.unwrap_or(INTERVAL).clamp(INTERVAL_MIN, INTERVAL_MAX));
    let least = answer
        .min_interval
        .map_or(0, |least| millis(least.clamp(0, INTERVAL_MAX)));
    job.min_until = now + least;
    job.again_at = now + least.max(INTERVAL_MIN as u64 * 1000);
    // Earlier by up to a tenth: those that began together part. And a little earlier in any case, so that whoever waits for its
    // turn at a host, and for the way there, is not late.
    job.due = (now + interval - interval / EARLIER - random % (interval / 10))
        .max(now + INTERVAL_MIN as u64 * 1000)
        .max(job.min_until);
    if event == Event::Completed {
        job.completed = false;
    }
    if job.completed || job.leaving {
        job.due = now; // There is more to tell.
    }
    let was = std::mem::replace(&mut job.standing, Standing::Working);
    let said = job.say(answer.warning.as_deref().map(Arc::from));
    match &answer.warning {
        Some(warning) if said.as_deref() != Some(warning) => Some(News::Warning(warning.clone())),
        _ => (was != Standing::Working).then_some(News::Working { swarm: job.swarm }),
    }
}

/// A tracker has not answered, or refused.
pub(super) fn put_off(job: &mut Job, failure: &Failure, now: u64, random: u64) -> Option<News> {
    if *failure == Failure::Busy {
        // It says nothing of the tracker.
        job.due = now + BUSY + random % (BUSY / 4);
        return None;
    }
    let url = job.places[job.at].url;
    job.put_back(failure, now, random);
    let is_dead = job.places.iter().any(|place| place.url == url && place.dead);
    job.again_at = job.again_at.max(now + INTERVAL_MIN as u64 * 1000);
    // Some of it is a stranger's, by way of libraries that quote what they cannot read.
    let text: Box<str> = clean(failure.to_string().as_bytes()).into();
    let standing = match job.places.iter().all(|place| place.dead) {
        true => Standing::Dead,
        false => Standing::Failing,
    };
    let was = std::mem::replace(&mut job.standing, standing);
    let said = job.say(Some(Arc::from(&*text)));
    match standing {
        _ if was == standing && said.as_deref() == Some(&text) => None,
        Standing::Dead => Some(News::Dead(text)),
        _ if is_dead => Some(News::Refused(text)),
        _ => Some(News::Failing(text)),
    }
}
