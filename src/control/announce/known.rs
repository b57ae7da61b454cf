//! What is known of a torrent's trackers: by its file and the configuration, and from before a restart.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use super::Lists;
use super::task::Task;
use crate::announcer::schedule::TRACKERS_MAX;
use crate::announcer::{Kept, TrackerUrl};
use crate::control::blocking;
use crate::proto::InfoHash;
use crate::session::{self, Announced, Store};

/// The lists of trackers that a torrent may have.
const OWN: u8 = 0;
const CONFIGURED: u8 = 1;

/// What a thread has found out about torrents: what was kept, and whether `completed` is to be told.
pub(super) type Loaded = Vec<(Fresh, Vec<Kept>, bool)>;

/// A torrent, and its own trackers where they are not to be had of it.
pub(super) type Fresh = (InfoHash, Option<Box<Lists>>);

/// So many are loaded and taken in at a time: nothing else is done here meanwhile.
const LOADED_MAX: usize = 1024;

impl Task {
    /// Has a thread find out what is known of new torrents: the database may have to be waited for.
    pub(super) fn load(&mut self) {
        if self.fresh.is_empty() || !self.loads.is_empty() {
            return;
        }
        let some: Vec<InfoHash> = self.fresh.keys().take(LOADED_MAX).copied().collect();
        let mut fresh: Vec<Fresh> = Vec::with_capacity(some.len());
        for info_hash in some {
            // It may rest by the time that this is known.
            let lists = self.fresh.remove(&info_hash).flatten();
            fresh.push((info_hash, lists.or_else(|| self.lists_of(info_hash))));
        }
        if self.fresh.is_empty() {
            self.fresh.shrink_to_fit(); // There may have been 100,000 at the start.
        }
        let (session, is_stopping) = (Arc::clone(&self.session), Arc::clone(&self.is_stopping));
        self.loads.spawn(async move {
            let nothing = fresh.iter().map(|fresh| (fresh.clone(), Vec::new(), false)).collect();
            let loaded = blocking::run("btd-announce", move || {
                let load = |(info_hash, lists): Fresh| {
                    let (kept, completed) = known_of(&session, info_hash, || !is_stopping.load(Relaxed));
                    ((info_hash, lists), kept, completed)
                };
                fresh.into_iter().map(load).collect()
            });
            match loaded.await {
                Ok(Some(loaded)) => loaded,
                failed => {
                    tracing::error!("no thread to load what is known of trackers: {:?}", failed.err());
                    nothing
                }
            }
        });
    }

    /// What a torrent's file says of its trackers; `None` of one that rests.
    pub(super) fn lists_of(&self, info_hash: InfoHash) -> Option<Box<Lists>> {
        let entry = self.torrents.get(&info_hash)?;
        let announce = entry.torrent.as_ref()?.meta().announce.clone();
        let private = entry.private;
        Some(Box::new(Lists { private, announce }))
    }

    pub(super) fn on_loaded(&mut self, loaded: Loaded) {
        let (now, unix) = (Instant::now(), unix());
        for ((info_hash, lists), kept, completed) in loaded {
            let Some(entry) = self.torrents.get(&info_hash) else {
                continue; // It has left.
            };
            let announce = lists.as_ref().map(|lists| &lists.announce);
            let own = match announce {
                Some(announce) => read_tiers(announce),
                // It rests, and other trackers of the configuration are all that is new.
                None => vec![self.schedule.trackers_of(info_hash, OWN)],
            };
            let known: HashSet<&Arc<TrackerUrl>> = own.iter().flatten().collect();
            // BEP 27: of a private torrent nobody hears but its own trackers.
            let more = self.plan.trackers.iter().filter(|_| !entry.private);
            let more: Vec<Arc<TrackerUrl>> = more.cloned().map(Arc::new).filter(|url| !known.contains(url)).collect();
            let lists = [(OWN, own.as_slice()), (CONFIGURED, std::slice::from_ref(&more))];
            let is_told = |list| announce.is_some() || list == CONFIGURED;
            for (list, tiers) in lists.into_iter().filter(|(list, _)| is_told(*list)) {
                self.schedule
                    .add((info_hash, list), tiers, completed, (&kept, unix), now);
            }
        }
    }

    /// Writes down what has changed.
    pub(super) fn keep(&mut self) {
        for (info_hash, kept) in self.schedule.take_changed(Instant::now(), unix()) {
            let kept: Vec<Announced> = kept.into_iter().map(from_kept).collect();
            self.session.put_announced(info_hash, &kept);
        }
    }

    /// Writes down that no tracker has a torrent in its list any more, and which of them fail when btd stops.
    pub(super) fn keep_failed(&self, info_hash: InfoHash) {
        let failed = self.failed.get(&info_hash).into_iter().flatten();
        let kept: Vec<Announced> = failed.map(|(_, kept)| from_kept(*kept)).collect();
        self.session.put_announced(info_hash, &kept);
    }
}

/// What was kept of a torrent's trackers, and whether `completed` is to be told. Where that cannot be read, it is tried again once,
/// in the first seconds of that unless `goes_on` says otherwise, and the torrent announced then as one of which nothing is known; of its
/// completion the next start tells.
fn known_of(session: &Store, info_hash: InfoHash, goes_on: impl Fn() -> bool) -> (Vec<Kept>, bool) {
    let load = || Ok::<_, session::Error>((session.find_history(&info_hash)?, session.load_announced(&info_hash)?));
    let loaded = load().or_else(|error| match session.wait_to_read(goes_on) {
        true => load(),
        false => Err(error),
    });
    let (history, kept) = loaded.unwrap_or_else(|error| {
        tracing::debug!("{info_hash}: {error}: it is announced as one of which nothing is known");
        Default::default()
    });
    let completed = history.and_then(|history| history.completed);
    let kept = kept.into_iter().map(to_kept);
    (kept.collect(), completed.is_some_and(|completed| !completed.announced))
}

/// The trackers of a torrent file that btd can speak to. A file may have thousands, which the schedule would not keep.
fn read_tiers(tiers: &[Vec<String>]) -> Vec<Vec<Arc<TrackerUrl>>> {
    let read = |tier: &Vec<String>| {
        let urls = tier.iter().take(TRACKERS_MAX);
        urls.filter_map(|url| TrackerUrl::parse(url).ok().map(Arc::new))
            .collect()
    };
    let tiers = tiers.iter().take(TRACKERS_MAX).map(read);
    tiers.filter(|tier: &Vec<_>| !tier.is_empty()).collect()
}

fn to_kept(announced: Announced) -> Kept {
    let Announced {
        tracker,
        due,
        failures,
        told,
        is_said,
        is_final,
    } = announced;
    Kept {
        tracker,
        due,
        failures,
        told,
        is_said,
        is_final,
    }
}

fn from_kept(kept: Kept) -> Announced {
    let Kept {
        tracker,
        due,
        failures,
        told,
        is_said,
        is_final,
    } = kept;
    Announced {
        tracker,
        due,
        failures,
        told,
        is_said,
        is_final,
    }
}

/// Seconds since 1970.
pub(super) fn unix() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Completed, History, simulated};

    /// A part of a history was taken for all of it.
    #[test]
    fn completion_is_not_told_while_it_cannot_be_read_whether_it_was() {
        let disk = simulated::Disk::default();
        let (session, info_hash) = (Store::simulated(&disk), InfoHash([1; 20]));
        let completed = |announced| History {
            uploaded: 0,
            downloaded: 0,
            added: 1,
            completed: Some(Completed { at: 2, announced }),
        };
        session.put_history(info_hash, completed(true));
        assert!(session.flush());
        disk.set_unreadable(true);
        session.change_history(info_hash, |_| Some(completed(false)));
        assert_eq!(known_of(&session, info_hash, || true), (Vec::new(), false));
        disk.set_unreadable(false);
        session.put_history(info_hash, completed(false));
        assert_eq!(known_of(&session, info_hash, || true), (Vec::new(), true));
    }

    #[test]
    fn a_file_with_thousands_of_trackers_is_cut() {
        let tier = vec!["http://a/".to_owned(); 1000];
        let tiers = read_tiers(&vec![tier; 1000]);
        assert!(tiers.len() <= 64 && tiers.iter().all(|tier| tier.len() <= 64));
        assert!(read_tiers(&[vec!["wss://x/".to_owned()]]).is_empty());
    }
}
