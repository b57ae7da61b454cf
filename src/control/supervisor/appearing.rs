//! Payload that is put in its place after its torrent was: of a download of which nothing was there, and nothing was written
//! since, the files are looked for now and then, by their names and lengths. When all are there they are read, as at a start,
//! and what is right is not downloaded. Less than all of them may still be being copied: `btd ctl verify` has it looked at.
//!
//! What is not downloaded (`missing`) is looked for by checks, every half minute (`ticking`).

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Supervisor;
use crate::control::checks::Found;
use crate::proto::InfoHash;
use crate::shard::Torrent;

/// How often they are looked for. Of one that is not there this is one look at a name.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// See the head of this file.
pub(super) struct Appearing {
    /// Downloads of which nothing was there.
    wanted: HashSet<InfoHash>,
    /// Those whose files have appeared and were read once: should nothing of them be readable, they are not read for ever.
    read: HashSet<InfoHash>,
    told: UnboundedSender<InfoHash>,
    /// It may wait for a dead network mount, and nobody else does.
    thread: Option<JoinHandle<()>>,
    looked_at: Instant,
}

impl Appearing {
    /// None yet. Those that have appeared are received from the other end.
    pub(super) fn new(now: Instant) -> (Self, UnboundedReceiver<InfoHash>) {
        let (told, appeared) = unbounded_channel(); // Holds no more than there are torrents.
        let appearing = Self {
            wanted: HashSet::new(),
            read: HashSet::new(),
            told,
            thread: None,
            looked_at: now,
        };
        (appearing, appeared)
    }

    /// A torrent was checked, and is to be downloaded.
    pub(super) fn on_checked(&mut self, info_hash: InfoHash, found: &Found) {
        match found.have_count == 0 && found.wrong_count == 0 && !self.read.contains(&info_hash) {
            true => self.wanted.insert(info_hash),
            false => self.wanted.remove(&info_hash),
        };
    }

    /// It has gone.
    pub(super) fn forget(&mut self, info_hash: InfoHash) {
        self.wanted.remove(&info_hash);
        self.read.remove(&info_hash);
    }
}

impl Supervisor<'_> {
    /// Looks for files that have appeared, if it is time to.
    pub(super) fn look_for_payload(&mut self, now: Instant) {
        let appearing = &mut self.appearing;
        let is_busy = appearing.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        if is_busy || now.duration_since(appearing.looked_at) < LOOK_EVERY || appearing.wanted.is_empty() {
            return;
        }
        appearing.looked_at = now;
        // What was written to, or may be by now, is btd's own.
        let untouched: HashSet<InfoHash> = self.downloads.untouched().map(|torrent| torrent.info_hash()).collect();
        appearing.wanted.retain(|info_hash| untouched.contains(info_hash));
        let wanted = |torrent: &&Arc<Torrent>| appearing.wanted.contains(&torrent.info_hash());
        let torrents: Vec<Arc<Torrent>> = self.downloads.untouched().filter(wanted).cloned().collect();
        let told = appearing.told.clone();
        let look = move || {
            for torrent in torrents {
                if torrent.root().has_all(&torrent.meta().files) && told.send(torrent.info_hash()).is_err() {
                    return;
                }
            }
        };
        // It is tried again when there is no thread to be had.
        appearing.thread = std::thread::Builder::new()
            .name("btd-appear".to_owned())
            .spawn(look)
            .ok();
    }

    /// All files of a download are there that were not.
    pub(super) fn on_appeared(&mut self, info_hash: InfoHash) {
        let is_untouched = self
            .downloads
            .untouched()
            .any(|torrent| torrent.info_hash() == info_hash);
        if !is_untouched || !self.appearing.wanted.remove(&info_hash) {
            return; // It has begun, or gone, meanwhile.
        }
        self.appearing.read.insert(info_hash);
        let name = self.name_of(info_hash);
        tracing::info!(
            "the files of {name:?} ({info_hash}) are there now: they are checked before anything is downloaded"
        );
        self.check_known(info_hash, true);
    }
}
