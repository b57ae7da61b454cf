//! Payload that is put in its place after its torrent was: of a download of which nothing was there, and nothing was written
//! since, the files are looked for now and then, by their names and lengths. When all are there they are read, as at a start,
//! and what is right is not downloaded. Less than all of them may still be being copied: `btd ctl verify` has it looked at.
//!
//! Likewise files of somebody else's, for the sake of which a torrent is not downloaded that is served in part: when one of them
//! has gone or is another, the torrent is checked. What is not served at all (`missing`) is looked for by checks, every half
//! minute (`ticking`).

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Supervisor;
use crate::control::checks::Found;
use crate::control::torrents::State;
use crate::proto::InfoHash;
use crate::shard::Torrent;
use crate::storage::Root;
use crate::storage::strangers::Stranger;

/// How often they are looked for. Of one that is not there this is one look at a name.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appeared {
    /// All files of this download are there.
    Payload(InfoHash),
    /// A file that kept this torrent from being downloaded has gone, or is another.
    Room(InfoHash),
}

/// See the head of this file.
pub(super) struct Appearing {
    /// Downloads of which nothing was there.
    wanted: HashSet<InfoHash>,
    /// Those whose files have appeared and were read once: should nothing of them be readable, they are not read for ever.
    read: HashSet<InfoHash>,
    /// Torrents that are served in part, and what they are not to be written over.
    held: HashMap<InfoHash, (Arc<Root>, Vec<Stranger>)>,
    told: UnboundedSender<Appeared>,
    /// One for each data folder: it may wait for a dead network mount, and nobody else does.
    threads: HashMap<PathBuf, JoinHandle<()>>,
    looked_at: Instant,
}

/// What is looked for in one data folder.
#[derive(Default)]
struct Looks {
    wanted: Vec<Arc<Torrent>>,
    held: Vec<(InfoHash, Arc<Root>, Vec<Stranger>)>,
}

impl Looks {
    /// Looks once. Blocks on the disk.
    fn look(&self, told: &UnboundedSender<Appeared>) {
        // Nobody listens any more when btd is stopping.
        for torrent in &self.wanted {
            if torrent.root().has_all(&torrent.meta().files)
                && told.send(Appeared::Payload(torrent.info_hash())).is_err()
            {
                return;
            }
        }
        for (info_hash, root, strangers) in &self.held {
            if strangers.iter().any(|stranger| !stranger.is_still(root))
                && told.send(Appeared::Room(*info_hash)).is_err()
            {
                return;
            }
        }
    }
}

impl Appearing {
    /// None yet. Those that have appeared are received from the other end.
    pub(super) fn new(now: Instant) -> (Self, UnboundedReceiver<Appeared>) {
        let (told, appeared) = unbounded_channel(); // Holds no more than there are torrents.
        let appearing = Self {
            wanted: HashSet::new(),
            read: HashSet::new(),
            held: HashMap::new(),
            told,
            threads: HashMap::new(),
            looked_at: now,
        };
        (appearing, appeared)
    }

    /// A torrent was checked, and is to be downloaded, or served in part.
    pub(super) fn on_checked(&mut self, info_hash: InfoHash, found: &Found) {
        self.held.remove(&info_hash);
        if let Some(torrent) = found.held.as_ref().filter(|_| found.torrent.is_some()) {
            let held = (Arc::clone(torrent.root()), found.strangers.clone());
            self.held.insert(info_hash, held);
        }
        if found.stamps.is_none() {
            self.wanted.remove(&info_hash);
            self.read.remove(&info_hash);
            return;
        }
        match found.have_count == 0 && found.wrong_count == 0 && !self.read.contains(&info_hash) {
            true => self.wanted.insert(info_hash),
            false => self.wanted.remove(&info_hash),
        };
    }

    /// It has gone.
    pub(super) fn forget(&mut self, info_hash: InfoHash) {
        self.wanted.remove(&info_hash);
        self.read.remove(&info_hash);
        self.held.remove(&info_hash);
    }

    /// Begins to look in those folders in which nobody looks now.
    fn begin(&mut self, looks: HashMap<PathBuf, Looks>) {
        self.threads.retain(|_, thread| !thread.is_finished());
        for (folder, looks) in looks {
            if self.threads.contains_key(&folder) {
                continue;
            }
            let told = self.told.clone();
            let thread = std::thread::Builder::new().name("btd-appear".to_owned());
            // It is tried again when there is no thread to be had.
            if let Ok(thread) = thread.spawn(move || looks.look(&told)) {
                self.threads.insert(folder, thread);
            }
        }
    }
}

impl Supervisor<'_> {
    /// Looks for files that have appeared, if it is time to.
    pub(super) fn look_for_payload(&mut self, now: Instant) {
        let appearing = &mut self.appearing;
        let is_anything = !appearing.wanted.is_empty() || !appearing.held.is_empty();
        if now.duration_since(appearing.looked_at) < LOOK_EVERY || !is_anything {
            return;
        }
        appearing.looked_at = now;
        // What was written to, or may be by now, is btd's own.
        let downloads = &self.downloads;
        appearing.wanted.retain(|info_hash| downloads.is_untouched(*info_hash));
        let mut looks: HashMap<PathBuf, Looks> = HashMap::new();
        let wanted = |torrent: &&Arc<Torrent>| appearing.wanted.contains(&torrent.info_hash());
        for torrent in downloads.untouched().filter(wanted) {
            let of_folder = looks.entry(torrent.root().path().to_owned()).or_default();
            of_folder.wanted.push(Arc::clone(torrent));
        }
        for (info_hash, (root, strangers)) in &appearing.held {
            let of_folder = looks.entry(root.path().to_owned()).or_default();
            of_folder.held.push((*info_hash, Arc::clone(root), strangers.clone()));
        }
        appearing.begin(looks);
    }

    /// Something is there that was not, or the other way round.
    pub(super) fn on_appeared(&mut self, appeared: Appeared) {
        match appeared {
            Appeared::Payload(info_hash) => self.on_payload(info_hash),
            Appeared::Room(info_hash) => {
                let state = self.torrents.entry(info_hash).map(|entry| &entry.state);
                // It may be being checked meanwhile.
                if self.appearing.held.remove(&info_hash).is_some() && matches!(state, Some(State::Partial)) {
                    let name = self.name_of(info_hash);
                    self.lines.info(
                        "torrents whose place is free now",
                        format_args!(
                            "what {name:?} ({info_hash}) would have been written over has gone or is another: it is checked \
                             again"
                        ),
                    );
                    self.check_known(info_hash, true);
                }
            }
        }
    }

    /// All files of a download are there that were not.
    fn on_payload(&mut self, info_hash: InfoHash) {
        if !self.downloads.is_untouched(info_hash) || !self.appearing.wanted.remove(&info_hash) {
            return; // It has begun, or gone, meanwhile.
        }
        self.appearing.read.insert(info_hash);
        let name = self.name_of(info_hash);
        self.lines.info(
            "torrents whose files are there now",
            format_args!(
                "the files of {name:?} ({info_hash}) are there now: they are checked before anything is downloaded"
            ),
        );
        self.check_known(info_hash, true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::proto::bitfield::Bitfield;
    use crate::proto::metainfo::Metainfo;

    /// A download of nothing in a folder of its own, in which its file is.
    fn download() -> (tempfile::TempDir, Arc<Torrent>) {
        let temp = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(temp.path().join("x"), [0; 16384]).expect("written");
        let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).expect("a torrent");
        let root = Arc::new(Root::open(temp.path()).expect("opened"));
        let torrent = Torrent::to_download(Arc::new(meta), root, &Bitfield::new(1), &[false], 0);
        (temp, torrent)
    }

    #[test]
    fn folder_that_hangs_holds_up_no_other() {
        let (mut appearing, mut appeared) = Appearing::new(Instant::now());
        let (_hanging, one) = download();
        let (_other, two) = download();
        // Its thread waits for a mount that is dead.
        let (revive, dead) = channel::<()>();
        let thread = std::thread::spawn(move || _ = dead.recv());
        appearing.threads.insert(one.root().path().to_owned(), thread);
        let looks = [&one, &two].map(|torrent| {
            let looks = Looks {
                wanted: vec![Arc::clone(torrent)],
                held: Vec::new(),
            };
            (torrent.root().path().to_owned(), looks)
        });
        appearing.begin(HashMap::from(looks));
        assert_eq!(appearing.threads.len(), 2);
        let told = appeared.blocking_recv();
        assert_eq!(told, Some(Appeared::Payload(two.info_hash())));
        let thread = appearing.threads.remove(two.root().path()).expect("it was begun");
        thread.join().expect("it ends");
        assert!(
            appeared.try_recv().is_err(),
            "one look at a time at the folder that hangs"
        );
        drop(revive);
    }
}
