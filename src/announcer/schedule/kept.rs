//! What is kept over a restart, so that it neither asks all trackers at once nor one too early.

use std::time::Instant;

use super::super::request::Event;
use super::super::url::TrackerUrl;
use super::Schedule;
use super::job::{NONE, Standing};
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

    /// What is to be kept of a torrent: of each list the tracker that has us, and those that fail.
    fn kept(&self, info_hash: InfoHash, now: Instant, unix: u64) -> Vec<Kept> {
        let now = self.millis(now);
        let mut kept = Vec::new();
        for key in self.keys_of(info_hash) {
            let job = &self.jobs[key as usize];
            for place in &job.places {
                let told = place.url == job.told;
                let due = if place.failures > 0 { place.until } else { job.due };
                if told || place.failures > 0 && !place.is_ours {
                    kept.push(Kept {
                        tracker: fingerprint(&self.trackers[place.url as usize].url),
                        due: unix + due.saturating_sub(now) / 1000,
                        failures: place.failures,
                        told,
                    });
                }
            }
        }
        kept
    }
}
