//! Torrents that leave, one or all of them: whoever has them in its list is told, and what comes back meanwhile waits for that
//! or has never left.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::url::Scheme;
use super::host::Host;
use super::job::{Job, NONE};
use super::kept::fingerprint;
use super::{CallId, IN_FLIGHT_MAX, PARTING_HOST_MAX, PARTING_MAX, Schedule};
use crate::proto::InfoHash;

/// Trackers of torrents that have left that are remembered. Beyond that one that comes back again and again is announced each
/// time.
pub(super) const RETURNS_MAX: usize = 100_000;
/// How often a torrent that leaves and comes back is announced to a tracker that names no least interval, in milliseconds.
const RETURN_EVERY: u64 = 60 * 1000;

/// Leechers of a swarm by which torrents that leave are told of in order. There is no telling larger swarms apart.
const LEECHERS_MAX: u32 = 50_000;

/// When a torrent that has left a tracker may be announced to it again, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Return {
    /// By itself: once in the least interval that the tracker has named.
    next: u64,
    /// If somebody asks for it.
    again: u64,
}

impl Schedule {
    /// A torrent is not announced any more, once its trackers are told.
    pub fn remove(&mut self, info_hash: InfoHash, now: Instant) {
        let now = self.millis(now);
        for key in self.keys_of(info_hash) {
            self.leave(key, now);
        }
        self.changed.remove(&info_hash);
    }

    /// No torrent is announced any more, once its trackers are told, which is to be sent within this time. What was kept stays
    /// as it is, and is to be taken before. What is under way may have reached its tracker: once it is answered that is taken
    /// back as well.
    ///
    /// The rate that hosts are asked at otherwise would hold twenty thousand torrents up for minutes. So each host is sent as
    /// much as there is, over as many connections as there are for it, those torrents first of which most peers would go on
    /// being sent here. With few torrents nothing is faster than ever.
    pub fn remove_all(&mut self, within: Duration, now: Instant) {
        let now = self.millis(now);
        self.parting = true;
        let keys: Vec<u32> = self.job_of.values().copied().collect();
        for key in keys {
            let job = &mut self.jobs[key as usize];
            let leechers = job.swarm.map_or(0, |swarm| swarm.leechers);
            // As if they had been due for longer.
            job.due = now.saturating_sub(leechers.min(LEECHERS_MAX).into());
            self.leave(key, now);
        }
        let waits = |host: &Host| !host.queue.is_empty() || host.in_flight > 0;
        let of = |by_udp: bool| move |host: &Host| (host.name.0 == Scheme::Udp) == by_udp;
        let hosts = |by_udp: bool| {
            let of = of(by_udp);
            self.hosts
                .iter()
                .filter(|(_, host)| waits(host) && of(host))
                .count()
                .max(1)
        };
        let share = |max: usize, by_udp: bool, of_host: usize| (max / hosts(by_udp)).clamp(1, of_host);
        let by_http = share(IN_FLIGHT_MAX, false, PARTING_HOST_MAX);
        let by_udp = share(PARTING_MAX - IN_FLIGHT_MAX, true, PARTING_MAX);
        let numbers = self.hosts.iter().map(|(number, _)| number as u32);
        for number in numbers.collect::<Vec<u32>>() {
            let host = &mut self.hosts[number as usize];
            host.part(within, if of(true)(host) { by_udp } else { by_http });
            self.wake(number);
        }
    }

    /// Gives up the calls of torrents that are leaving to hosts where none is known, so that hosts that do answer have
    /// their turn. Nobody waits any more for the answers to the calls that are returned.
    pub fn give_up(&mut self, now: Instant) -> Vec<CallId> {
        let now = self.millis(now);
        let told = self.jobs.iter().filter(|(_, job)| job.told != NONE);
        let told: HashSet<u32> = told.map(|(_, job)| self.trackers[job.told as usize].host).collect();
        let in_vain = |job: &Job| job.leaving && job.in_flight && !told.contains(&job.places[job.at].host);
        let jobs = self.jobs.iter().filter(|(_, job)| in_vain(job));
        let given_up: Vec<CallId> = jobs
            .map(|(key, job)| CallId {
                job: u32::try_from(key).expect("keys are 32 bits"),
                serial: job.serial,
            })
            .collect();
        for call in &given_up {
            let number = self.land(call.job);
            match self.jobs[call.job as usize].told {
                NONE => self.forget(call.job, now),
                _ => self.file(call.job, now),
            }
            self.wake(number);
        }
        given_up
    }

    /// A job ends: at once if no tracker knows of it.
    pub(super) fn leave(&mut self, key: u32, now: u64) {
        self.uncount(key);
        self.remember_failures(key);
        let job = &mut self.jobs[key as usize];
        self.job_of.remove(&(job.info_hash, job.list));
        job.leaving = true;
        job.held = false;
        self.leaving_of.entry(job.info_hash).or_default().push(key);
        job.due = job.due.min(now);
        if job.told == NONE && !job.in_flight {
            self.forget(key, now);
        } else {
            self.file(key, now);
        }
    }

    /// So that one that comes back says why its trackers had failed, until they are asked again.
    fn remember_failures(&mut self, key: u32) {
        if self.parting {
            return;
        }
        let job = &self.jobs[key as usize];
        for (at, place) in job.places.iter().enumerate() {
            let has_failed = place.failures > 0 || place.has_failed_before;
            if let Some(text) = job.told_of(at).1.filter(|_| has_failed) {
                if self.failed_before.len() >= RETURNS_MAX {
                    self.failed_before.clear(); // Of torrents that did not come back, nearly all of it.
                }
                let url = &self.trackers[place.url as usize].url;
                self.failed_before
                    .insert((job.info_hash, fingerprint(url)), Arc::from(text));
            }
        }
    }

    /// A tracker was told that a torrent leaves, and hands it out to nobody any more: when it may be asked again was said of one
    /// that is there, and holds no longer. So that nobody has it told again and again, it is noted that it was.
    pub(super) fn remember_leaving(&mut self, key: u32, now: u64) {
        let job = &self.jobs[key as usize];
        let url = &self.trackers[job.places[job.at].url as usize].url;
        let name = (job.info_hash, fingerprint(url));
        if self.returns.len() >= RETURNS_MAX {
            self.returns.retain(|_, at| at.next > now);
        }
        if self.returns.len() < RETURNS_MAX {
            let at_once = Return { next: now, again: now };
            self.returns.entry(name).or_insert(at_once);
        }
    }

    /// A torrent that has left and comes back is announced at once, and then once in the least interval that its tracker has named,
    /// or in `RETURN_EVERY` if that is longer: the next time it waits.
    pub(super) fn come_back(&mut self, key: u32, now: u64) {
        if self.returns.is_empty() {
            return;
        }
        let job = &mut self.jobs[key as usize];
        for place in &mut job.places {
            let url = &self.trackers[place.url as usize].url;
            if let Some(at) = self.returns.get_mut(&(job.info_hash, fingerprint(url))) {
                place.until = place.until.max(at.next);
                job.again_at = job.again_at.max(at.again);
                at.next = now.max(at.next) + RETURN_EVERY;
                at.again = now.max(at.again) + RETURN_EVERY;
            }
        }
    }

    /// A tracker has answered a torrent that is there anew: if it has left before, the next time it waits for as long as that has
    /// said.
    pub(super) fn on_returned(&mut self, key: u32) {
        let job = &self.jobs[key as usize];
        let url = &self.trackers[job.places[job.at].url as usize].url;
        if !self.returns.is_empty()
            && let Some(at) = self.returns.get_mut(&(job.info_hash, fingerprint(url)))
        {
            at.next = at.next.max(job.min_until);
        }
    }

    pub(super) fn forget(&mut self, key: u32, now: u64) {
        self.uncount(key);
        self.set_swarm(key, None);
        let job = self.jobs.remove(key as usize);
        if let Some((host, at)) = job.waits {
            self.hosts[host as usize].queue.remove(&(at, key));
            self.wake(host);
        }
        if let Some(leaving) = self.leaving_of.get_mut(&job.info_hash) {
            leaving.retain(|other| *other != key);
            if leaving.is_empty() {
                self.leaving_of.remove(&job.info_hash);
            }
        }
        // Those that waited for it.
        for key in self.keys_of(job.info_hash) {
            if self.jobs[key as usize].held && !self.meets_leaving(key) {
                self.jobs[key as usize].held = false;
                self.come_back(key, now);
                let now = self.jobs[key as usize].due;
                self.file(key, now);
            }
        }
        job.places.iter().for_each(|place| self.release(place.url));
    }

    /// A torrent that comes again before its tracker was told that it leaves has never left.
    pub(super) fn inherit(&mut self, key: u32, now: u64) {
        let job = &self.jobs[key as usize];
        let leaving = self.leaving_of.get(&job.info_hash).into_iter().flatten().copied();
        let found = leaving
            .filter(|old| !self.jobs[*old as usize].in_flight)
            .find_map(|old| {
                let told = self.jobs[old as usize].told;
                let at = job.places.iter().position(|place| place.url == told)?;
                Some((old, at))
            });
        let Some((old, at)) = found else { return };
        let old_job = &mut self.jobs[old as usize];
        let (told, min_until, id) = (old_job.told, old_job.min_until, old_job.tracker_id.take());
        let job = &mut self.jobs[key as usize];
        (job.told, job.min_until, job.tracker_id) = (told, min_until, id);
        job.due = job.due.max(min_until);
        job.at = at;
        job.promote(); // It has answered before.
        self.forget(old, now);
        self.count_from(key, now);
    }

    /// Whether one that is leaving still has to do with a tracker of this job: what a tracker is told last must be what
    /// holds.
    pub(super) fn meets_leaving(&self, key: u32) -> bool {
        let job = &self.jobs[key as usize];
        let meets = |old: &u32| {
            let old = &self.jobs[*old as usize];
            let asked = old.in_flight.then(|| old.places[old.at].url);
            job.places
                .iter()
                .any(|place| place.url == old.told || Some(place.url) == asked)
        };
        self.leaving_of
            .get(&job.info_hash)
            .is_some_and(|old| old.iter().any(meets))
    }
}
