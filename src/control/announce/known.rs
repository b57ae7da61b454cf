//! What is known of a torrent's trackers: by its file and the configuration, and from before a restart.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::task::Task;
use crate::announcer::schedule::TRACKERS_MAX;
use crate::announcer::{Kept, TrackerUrl};
use crate::control::blocking;
use crate::proto::InfoHash;
use crate::session::Announced;

/// The lists of trackers that a torrent may have.
const OWN: u8 = 0;
const CONFIGURED: u8 = 1;

/// What a thread has found out about torrents: what was kept, and whether `completed` is to be told.
pub(super) type Loaded = Vec<(InfoHash, Vec<Kept>, bool)>;

impl Task {
    /// Has a thread find out what is known of new torrents: the database may have to be waited for.
    pub(super) fn load(&mut self) {
        if self.fresh.is_empty() || !self.loads.is_empty() {
            return;
        }
        let fresh: Vec<InfoHash> = self.fresh.drain().collect();
        let session = Arc::clone(&self.session);
        self.loads.spawn(async move {
            let nothing = fresh.iter().map(|info_hash| (*info_hash, Vec::new(), false)).collect();
            let loaded = blocking::run("btd-announce", move || {
                let load = |info_hash: InfoHash| {
                    let history = session.load_history(&info_hash);
                    let completed = history.and_then(|history| history.completed);
                    let kept = session.load_announced(&info_hash).into_iter().map(to_kept);
                    (
                        info_hash,
                        kept.collect(),
                        completed.is_some_and(|completed| !completed.announced),
                    )
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

    pub(super) fn on_loaded(&mut self, loaded: Loaded) {
        let (now, unix) = (Instant::now(), unix());
        for (info_hash, kept, completed) in loaded {
            let Some(entry) = self.torrents.get(&info_hash) else {
                continue; // It has left.
            };
            let meta = entry.torrent.meta();
            let own = read_tiers(&meta.announce);
            let known: HashSet<&Arc<TrackerUrl>> = own.iter().flatten().collect();
            // BEP 27: of a private torrent nobody hears but its own trackers.
            let more = self.plan.trackers.iter().filter(|_| !meta.private);
            let more: Vec<Arc<TrackerUrl>> = more.cloned().map(Arc::new).filter(|url| !known.contains(url)).collect();
            let lists = [(OWN, own.as_slice()), (CONFIGURED, std::slice::from_ref(&more))];
            for (list, tiers) in lists {
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
    } = announced;
    Kept {
        tracker,
        due,
        failures,
        told,
    }
}

fn from_kept(kept: Kept) -> Announced {
    let Kept {
        tracker,
        due,
        failures,
        told,
    } = kept;
    Announced {
        tracker,
        due,
        failures,
        told,
    }
}

/// Seconds since 1970.
fn unix() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_thousands_of_trackers_is_cut() {
        let tier = vec!["http://a/".to_owned(); 1000];
        let tiers = read_tiers(&vec![tier; 1000]);
        assert!(tiers.len() <= 64 && tiers.iter().all(|tier| tier.len() <= 64));
        assert!(read_tiers(&[vec!["wss://x/".to_owned()]]).is_empty());
    }
}
