//! What is kept over a restart, so that it neither asks all trackers at once nor one too early.
//!
//! A tracker that works is asked when it was to be, and so is one that has failed and named a time itself. One that has failed and said
//! nothing of the kind is asked soon. One that has refused for good is not asked: to be asked anew, its torrent is paused and resumed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::super::request::Event;
use super::super::url::TrackerUrl;
use super::Schedule;
use super::job::{Job, NONE, Place, Standing};
use super::reannounce::INTERVAL_MIN;
use crate::proto::InfoHash;

/// What of a list is kept over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Stands for the tracker that this is about.
    pub tracker: u64,
    /// When it is to be asked next, in seconds since 1970.
    pub due: u64,
    /// How many times in a row it has failed.
    pub failures: u8,
    /// Whether it has us in its list.
    pub told: bool,
    /// It has named that time itself, and is not asked before.
    pub is_said: bool,
    /// It does not want to be asked again, whatever is due (BEP 31).
    pub is_final: bool,
}

/// What a tracker is known by over a restart: FNV-1a, which needs to tell the few trackers of one torrent from each
/// other, and does not write their keys down.
pub(super) fn fingerprint(url: &TrackerUrl) -> u64 {
    let text = [url.scheme().name(), &url.authority(), url.target()];
    let bytes = text.iter().flat_map(|part| part.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Place {
    /// Whether it has failed or refused, for a reason that may be there after a restart.
    fn has_failed(&self) -> bool {
        self.failures > 0 && !self.is_ours
    }

    /// A tracker that failed before btd was started, and was to be asked again at `due`. If that was of our own choice, it is asked
    /// once soon, and rests again as long as it would have if it fails again: thousands of torrents of a tracker that is still
    /// away cost it no more than the few announces after which its host is given up.
    pub(super) fn recall(&mut self, kept: &Kept, due: u64, now: u64) {
        self.until = match kept.is_said {
            true => due,
            // By versions that kept the whole rest, or a clock that was set back.
            false => due.min(now + INTERVAL_MIN),
        };
        (self.failures, self.has_said_until, self.dead) = (kept.failures, kept.is_said, kept.is_final);
    }
}

impl Schedule {
    /// A tracker has been asked. Of those answers that change nothing but when it is asked next the first of a run is kept, and no other:
    /// else as many torrents as btd has would be written down in every interval, for good. What is lost by it is one announce of each that
    /// comes early, after a power cut or `kill -9` that is later than that first time.
    pub(super) fn note(&mut self, key: u32, event: Event, is_answered: bool) {
        let job = &mut self.jobs[key as usize];
        if !(is_answered && event == Event::Regular && job.is_kept) {
            self.changed.insert(job.info_hash);
        }
        job.is_kept = is_answered && job.standing == Standing::Working;
    }

    /// btd stops: what is kept is as it is now, for those trackers that cannot be told of it in time.
    pub fn note_all(&mut self) {
        let told = self.job_of.values().map(|key| &self.jobs[*key as usize]);
        let told = told.filter(|job| job.told != NONE && !job.leaving);
        self.changed.extend(told.map(|job| job.info_hash));
    }

    /// What is to be kept over a restart of the torrents of which it has changed since the last call.
    pub fn take_changed(&mut self, now: Instant, unix: u64) -> Vec<(InfoHash, Vec<Kept>)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|info_hash| (info_hash, self.kept(info_hash, now, unix)))
            .collect()
    }

    /// What is to be kept of those trackers that fail when none has us in its list any more, and which these are.
    #[must_use]
    pub fn failed(&self, now: Instant, unix: u64) -> HashMap<InfoHash, Vec<(Arc<TrackerUrl>, Kept)>> {
        let now = self.millis(now);
        let mut failed: HashMap<InfoHash, Vec<_>> = HashMap::new();
        for key in self.job_of.values() {
            let job = &self.jobs[*key as usize];
            for place in job.places.iter().filter(|place| place.has_failed()) {
                let url = Arc::clone(&self.trackers[place.url as usize].url);
                let kept = self.kept_of(job, place, now, unix);
                let of_torrent = failed.entry(job.info_hash).or_default();
                of_torrent.push((url, Kept { told: false, ..kept }));
            }
        }
        failed
    }

    /// What is to be kept of a torrent: of each list the tracker that has us, and those that fail.
    fn kept(&self, info_hash: InfoHash, now: Instant, unix: u64) -> Vec<Kept> {
        let now = self.millis(now);
        let jobs = self.keys_of(info_hash).map(|key| &self.jobs[key as usize]);
        let places = jobs.flat_map(|job| job.places.iter().map(move |place| (job, place)));
        places
            .filter(|(job, place)| place.url == job.told || place.has_failed())
            .map(|(job, place)| self.kept_of(job, place, now, unix))
            .collect()
    }

    fn kept_of(&self, job: &Job, place: &Place, now: u64, unix: u64) -> Kept {
        let is_said = place.failures > 0 && place.has_said_until;
        let due = match place.failures {
            0 => job.due,
            _ if is_said => place.until,
            // Whoever restarts btd has often mended something, and is treated like one who asks for an announce.
            _ => place.until.min(job.again_at),
        };
        Kept {
            tracker: fingerprint(&self.trackers[place.url as usize].url),
            due: unix + due.saturating_sub(now) / 1000,
            failures: place.failures,
            told: place.url == job.told,
            is_said,
            is_final: place.dead,
        }
    }
}
