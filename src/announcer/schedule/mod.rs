//! When each torrent is announced to which tracker: all of them as one state machine, time passed in.
//!
//! A torrent has one or two lists of trackers: that of its file, and the one of the configuration. Of each list one
//! tracker is told, the first that answers in the order of BEP 12. What is due waits in the queue of its tracker's host,
//! which is asked at most 50 times a second; nothing is ever dropped, and [`Schedule::overdue`] says what waits too long.
//!
//! Two things are put off, each twice as long after each failure, up to six hours: one tracker of one torrent, and a
//! host that has not answered three times in a row, so that a dead one costs 100,000 torrents no more than it costs one.
//!
//! [`Schedule::poll`] gives what is to be sent, [`Schedule::on_answer`] takes what came of it. Sending, and what a
//! torrent has uploaded by then, is the caller's.
//!
//! - `job`: a torrent and one of its lists; `host`: a tracker's host; `trackers`: which of both there are.
//! - `queue`: who waits for whom. `news`: what an answer means. `kept`: what outlives a restart.
//! - `leaving`: torrents that end, and the end of all. `swarms`: scrapes.

mod host;
mod job;
mod kept;
mod leaving;
mod news;
mod queue;
mod reannounce;
mod swarms;
#[cfg(test)]
mod tests;
mod trackers;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::answer::{Answer, Failure};
use super::request::Event;
use super::scrape::Swarm;
use super::url::TrackerUrl;
use crate::proto::InfoHash;
use host::Host;
pub use job::Standing;
use job::{Job, NONE, Place, listed, shuffle};
pub use kept::Kept;
use kept::fingerprint;
use leaving::Return;
pub use news::News;
use news::{put_off, take_in};
pub use reannounce::Reannounced;
pub use swarms::{ScrapeCall, Swarms};
use trackers::{HostName, Tracker};

/// After the first failure, and the most, in milliseconds.
const BACKOFF: u64 = 30 * 1000;
const BACKOFF_MAX: u64 = 6 * 60 * 60 * 1000;
/// Requests under way in all: each may be a socket.
pub const IN_FLIGHT_MAX: usize = 192;
/// The same when all torrents are leaving: beyond those there may be datagrams, which share a socket. And those of one
/// host that have a socket each.
const PARTING_MAX: usize = IN_FLIGHT_MAX + 2048;
const PARTING_HOST_MAX: usize = 64;
/// Of these, to hosts that have not answered yet, or were given up: a dead one holds each of its own for minutes, and
/// however many are dead, those that answer have the rest.
pub const TRIALS_MAX: usize = IN_FLIGHT_MAX / 3;
/// What is due longer than this is overdue.
const OVERDUE: u64 = 60 * 1000;
/// Trackers of one list. The rest would hardly ever be asked.
pub const TRACKERS_MAX: usize = 64;

/// How long something rests that has failed so many times: 30 s, twice as long each time, up to six hours, give or take
/// an eighth.
fn backoff(failures: u32, random: u64) -> u64 {
    let time = BACKOFF << failures.saturating_sub(1).min(20);
    let time = time.min(BACKOFF_MAX * 8 / 9);
    time - time / 8 + random % (time / 4)
}

/// Which request an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    job: u32,
    serial: u32,
}

/// An announce to be sent now.
#[derive(Clone, Debug)]
pub struct Call {
    /// For [`Schedule::on_answer`].
    pub id: CallId,
    /// Of which torrent.
    pub info_hash: InfoHash,
    /// To which tracker.
    pub url: Arc<TrackerUrl>,
    /// Why.
    pub event: Event,
    /// What this tracker asked to be told.
    pub tracker_id: Option<Box<[u8]>>,
    /// How large the swarm is, as the tracker that has us in its list has said.
    pub swarm: Option<Swarm>,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Who has answered, or has not.
    pub url: Arc<TrackerUrl>,
    /// What has changed by it.
    pub news: Option<News>,
    /// The trackers of all its lists have heard that nothing is missing any more, but for those that are dead.
    pub completed_told: bool,
    /// The torrent is still to be announced, and peers of it are welcome.
    pub stays: bool,
    /// The tracker has heard that this was the last time: what was kept of it holds no longer.
    pub stopped_told: bool,
}

/// How a torrent does with one of its trackers.
#[derive(Clone, Debug)]
pub struct Status {
    /// The tracker.
    pub url: Arc<TrackerUrl>,
    /// Whether it answers.
    pub standing: Standing,
    /// It is being asked now.
    pub asking: bool,
    /// What it said last that a user should know, or what is wrong with it.
    pub text: Option<Box<str>>,
    /// How large it says the swarm is.
    pub swarm: Option<Swarm>,
    /// When it is asked next, from now: if nothing happens before, and if those that are asked before it do not answer. `None` if that
    /// is not known.
    pub next: Option<Duration>,
}

/// All announces. See the module's page.
#[derive(Debug)]
pub struct Schedule {
    epoch: Instant,
    random: u64,
    trackers: Slab<Tracker>,
    tracker_of: HashMap<Arc<TrackerUrl>, u32>,
    hosts: Slab<Host>,
    host_of: HashMap<HostName, u32>,
    jobs: Slab<Job>,
    job_of: HashMap<(InfoHash, u8), u32>,
    /// Those that are leaving.
    leaving_of: HashMap<InfoHash, Vec<u32>>,
    /// Hosts of which something can be asked, and when: those that have answered, and those that have not.
    wakes: BTreeSet<(u64, u32)>,
    trial_wakes: BTreeSet<(u64, u32)>,
    in_flight: usize,
    /// Of these, to hosts that had not answered.
    trials: usize,
    serial: u32,
    /// Trackers that can be scraped, and when.
    scrape_wakes: BTreeSet<(u64, u32)>,
    scrapes_in_flight: usize,
    swarms: Swarms,
    /// When torrents that have left may be announced again, by their trackers and what those are known by over a restart.
    returns: HashMap<(InfoHash, u64), Return>,
    /// Why trackers of torrents that have left had failed, likewise: it is told until they are asked again.
    failed_before: HashMap<(InfoHash, u64), Arc<str>>,
    /// All torrents are leaving.
    parting: bool,
    /// Torrents of which what is kept over a restart has changed.
    changed: HashSet<InfoHash>,
}

impl Schedule {
    /// An empty one. `seed` is random.
    #[must_use]
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            epoch: now,
            random: seed,
            trackers: Slab::new(),
            tracker_of: HashMap::new(),
            hosts: Slab::new(),
            host_of: HashMap::new(),
            jobs: Slab::new(),
            job_of: HashMap::new(),
            leaving_of: HashMap::new(),
            wakes: BTreeSet::new(),
            trial_wakes: BTreeSet::new(),
            in_flight: 0,
            trials: 0,
            serial: 0,
            scrape_wakes: BTreeSet::new(),
            scrapes_in_flight: 0,
            swarms: Swarms::default(),
            returns: HashMap::new(),
            failed_before: HashMap::new(),
            parting: false,
            changed: HashSet::new(),
        }
    }

    /// A torrent is announced to one tracker of this list from now on. `kept` is what was kept of its lists, `unix` the
    /// time in seconds since 1970. With `completed` the tracker is told that the torrent is complete when it has heard
    /// of it. A torrent that is announced to the same trackers already goes on as it is.
    pub fn add(
        &mut self,
        (info_hash, list): (InfoHash, u8),
        tiers: &[Vec<Arc<TrackerUrl>>],
        completed: bool,
        (kept, unix): (&[Kept], u64),
        now: Instant,
    ) {
        let time = self.millis(now);
        if let Some(key) = self.job_of.get(&(info_hash, list)).copied() {
            if self.has_same_trackers(key, tiers) {
                self.jobs[key as usize].completed |= completed;
                return;
            }
            self.leave(key, time);
        }
        let mut flat = listed(tiers);
        shuffle(&mut flat, || next_random(&mut self.random));
        if flat.is_empty() {
            return;
        }
        let mut job = Job {
            info_hash,
            list,
            serial: 0,
            places: Box::default(),
            due: time,
            min_until: 0,
            again_at: 0,
            waits: None,
            at: 0,
            in_flight: false,
            is_trial: false,
            told: NONE,
            completed,
            leaving: false,
            held: false,
            is_kept: false,
            standing: Standing::New,
            texts: Vec::new(),
            tracker_id: None,
            swarm: None,
            scrape_at: None,
        };
        let (mut known, mut texts) = (None, Vec::new());
        let places = flat.into_iter().enumerate().map(|(at, (tier, url))| {
            let mut place = Place {
                url: NONE,
                host: NONE,
                until: 0,
                tier,
                failures: 0,
                dead: false,
                is_ours: false,
                is_of_network: false,
                has_said_until: false,
                has_failed_before: false,
            };
            if let Some(kept) = kept.iter().find(|kept| kept.tracker == fingerprint(&url)) {
                let left = Duration::from_secs(kept.due.saturating_sub(unix));
                // The clock may have been set meanwhile: nothing is due later than could have been kept.
                let due = time + u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(BACKOFF_MAX * 5);
                if kept.told && kept.failures == 0 {
                    // It has us in its list, where we stay as long as we come back in time.
                    // No tracker asks for longer: more is a clock that was set back.
                    job.due = job.due.max(due.min(time + BACKOFF_MAX));
                    known = Some(at);
                } else if kept.failures > 0 {
                    place.recall(kept, due, time);
                    if !place.has_said_until && !place.dead {
                        job.again_at = job.again_at.max(place.until);
                    }
                }
            }
            (place.url, place.host) = self.number(&url);
            if let Some(text) = self.failed_before.remove(&(info_hash, fingerprint(&url))) {
                // It is asked anew.
                place.has_failed_before = place.failures == 0 && known != Some(at);
                texts.extend(place.has_failed_before.then_some((place.url, text)));
            }
            place
        });
        job.places = places.collect();
        job.texts = texts;
        if job.places.iter().all(|place| place.dead) {
            job.standing = Standing::Dead;
        }
        if let Some(at) = known {
            job.at = at;
            job.promote(); // It has answered before.
        }
        let key = u32::try_from(self.jobs.insert(job)).expect("fewer torrents than 2^32");
        self.job_of.insert((info_hash, list), key);
        self.inherit(key, time);
        let is_held = self.meets_leaving(key);
        self.jobs[key as usize].held = is_held;
        if !is_held && self.jobs[key as usize].told == NONE {
            self.come_back(key, time);
        }
        self.file(key, time);
    }

    /// Nothing is missing of a torrent any more: its trackers are told.
    pub fn completed(&mut self, info_hash: InfoHash, now: Instant) {
        let now = self.millis(now);
        for key in self.keys_of(info_hash) {
            let job = &mut self.jobs[key as usize];
            job.completed = true;
            job.due = job.due.min(now);
            self.file(key, now);
        }
    }

    /// How many lists are announced, also those whose trackers are told that it is the last time.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether nothing is announced, and nobody has to be told anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many announces could have been sent a minute ago and wait for their turn. What rests after a failure does not,
    /// nor what waits for a host that was given up.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> usize {
        let now = self.millis(now);
        let hosts = self.hosts.iter().filter(|(_, host)| !host.is_given_up());
        let overdue = |host: &Host| host.queue.iter().take_while(|(at, _)| at + OVERDUE < now).count();
        hosts.map(|(_, host)| overdue(host)).sum()
    }

    /// How a torrent does with each of its trackers, in the order in which those of a list are tried.
    #[must_use]
    pub fn status(&self, info_hash: InfoHash, now: Instant) -> Vec<Status> {
        let now = self.millis(now);
        let jobs = self.keys_of(info_hash).map(|key| &self.jobs[key as usize]);
        jobs.flat_map(|job| (0..job.places.len()).map(move |at| self.status_of(job, at, now)))
            .collect()
    }

    fn status_of(&self, job: &Job, at: usize, now: u64) -> Status {
        let place = &job.places[at];
        let (standing, text) = job.told_of(at);
        let is_next = job.at == at;
        let next = match standing {
            _ if is_next => job.waits.map(|(_, at)| at),
            // Should those before it not answer.
            Standing::Failing | Standing::Working => {
                let host_until = self.hosts[place.host as usize].until();
                Some(place.until.max(host_until).max(job.due))
            }
            Standing::New | Standing::Dead | Standing::Waiting => None,
        };
        Status {
            url: Arc::clone(&self.trackers[place.url as usize].url),
            standing,
            asking: is_next && job.in_flight,
            text,
            swarm: job.swarm.filter(|_| place.url == job.told),
            next: next.map(|at| Duration::from_millis(at.saturating_sub(now))),
        }
    }

    /// When [`Schedule::poll`] or [`Schedule::poll_scrape`] will have something, if nothing happens before.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        let (at, _) = self.first_wake().into_iter().chain(self.first_scrape()).min()?;
        Some(self.epoch + Duration::from_millis(at))
    }

    /// The next announce to be sent, if one may be sent now.
    pub fn poll(&mut self, now: Instant) -> Option<Call> {
        let now = self.millis(now);
        loop {
            let (_, number) = self.first_wake().filter(|(at, _)| *at <= now)?;
            let host = &mut self.hosts[number as usize];
            let (_, key) = *host.queue.first().expect("a host that wakes has something to do");
            let job = &mut self.jobs[key as usize];
            if host.until() > now && !job.leaving {
                // It was given up since this was queued: there may be another tracker.
                self.file(key, now);
                continue;
            }
            host.queue.pop_first();
            host.take(now);
            let is_trial = !host.is_proven();
            self.wake(number);
            self.in_flight += 1;
            self.trials += usize::from(is_trial);
            self.serial = self.serial.wrapping_add(1);
            let job = &mut self.jobs[key as usize];
            (job.waits, job.in_flight, job.is_trial, job.serial) = (None, true, is_trial, self.serial);
            return Some(Call {
                id: CallId {
                    job: key,
                    serial: self.serial,
                },
                info_hash: job.info_hash,
                url: Arc::clone(&self.trackers[job.places[job.at].url as usize].url),
                event: job.event(),
                // It is the one's that has us.
                tracker_id: job.tracker_id.clone().filter(|_| job.places[job.at].url == job.told),
                swarm: job.swarm,
            });
        }
    }

    /// What came of a call. `event` is as it was sent. `None` if nobody waits for it any more.
    pub fn on_answer(&mut self, call: &Call, result: Result<&Answer, &Failure>, now: Instant) -> Option<Outcome> {
        let (time, random) = (self.millis(now), next_random(&mut self.random));
        let key = call.id.job;
        let job = self.jobs.get(key as usize)?;
        if !job.in_flight || job.serial != call.id.serial {
            return None;
        }
        let number = self.land(key);
        let (job, host) = (&mut self.jobs[key as usize], &mut self.hosts[number as usize]);
        match result {
            Err(Failure::Busy) => {}
            Err(failure) if failure.is_of_host() => host.on_failure(time, random),
            Ok(_) | Err(_) => host.on_answer(),
        }
        let mut outcome = Outcome {
            info_hash: call.info_hash,
            url: Arc::clone(&call.url),
            news: None,
            completed_told: false,
            stays: !job.leaving,
            stopped_told: call.event == Event::Stopped && result.is_ok(),
        };
        if call.event == Event::Stopped {
            self.remember_leaving(key, time);
            self.forget(key, time);
            self.wake(number);
            return Some(outcome);
        }
        match result {
            Ok(answer) => {
                let (said, is_another) = (swarm_of(answer), job.told != job.places[job.at].url);
                // What one that says nothing was scraped for holds until it is scraped again.
                if said.is_some() || is_another {
                    self.uncount(key);
                    self.set_swarm(key, said);
                }
                let job = &mut self.jobs[key as usize];
                outcome.news = take_in(job, answer, call.event, time, random);
                if call.event == Event::Started {
                    self.on_returned(key);
                }
                outcome.completed_told = call.event == Event::Completed && self.all_told(call.info_hash);
            }
            Err(failure) => outcome.news = put_off(job, failure, time, random),
        }
        self.share_text(key);
        let job = &self.jobs[key as usize];
        if job.leaving && job.told == NONE {
            self.forget(key, time);
        } else {
            if !job.leaving {
                self.note(key, call.event, result.is_ok());
                let job = &self.jobs[key as usize];
                if result.is_ok() && job.scrape_at.is_none() {
                    self.count_from(key, time);
                }
            }
            self.file(key, time);
        }
        self.wake(number);
        Some(outcome)
    }

    /// No list of a torrent has yet to tell that it is complete.
    fn all_told(&self, info_hash: InfoHash) -> bool {
        let mut jobs = self.keys_of(info_hash).map(|key| &self.jobs[key as usize]);
        jobs.all(|job| !job.completed || job.standing == Standing::Dead)
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn keys_of(&self, info_hash: InfoHash) -> impl Iterator<Item = u32> + use<> {
        let keys = [0, 1].map(|list| self.job_of.get(&(info_hash, list)).copied());
        keys.into_iter().flatten()
    }

    fn has_same_trackers(&self, key: u32, tiers: &[Vec<Arc<TrackerUrl>>]) -> bool {
        let places = &self.jobs[key as usize].places;
        let wanted: HashSet<Arc<TrackerUrl>> = listed(tiers).into_iter().map(|(_, url)| url).collect();
        let has = |place: &Place| wanted.contains(&self.trackers[place.url as usize].url);
        wanted.len() == places.len() && places.iter().all(has)
    }
}

/// How large the swarm is, if an answer says so.
fn swarm_of(answer: &Answer) -> Option<Swarm> {
    (answer.complete.is_some() || answer.incomplete.is_some()).then(|| Swarm {
        seeders: answer.complete.unwrap_or(0),
        leechers: answer.incomplete.unwrap_or(0),
    })
}

/// SplitMix64, by Steele, Lea and Flood: even enough for jitter.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
