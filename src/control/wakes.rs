//! Torrents that rest and are wanted: their .torrent is read, and their files are compared with what is recorded.
//!
//! A few threads for each data folder, which end when there is nothing to do: a folder on a dead network mount holds up its own
//! torrents and no others. Those that peers wait for come first; the others are looked at to see whether they are still there.
//! Nothing of the payload is read, and whatever is not exactly as it was recorded is for a check to judge.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use super::contents::{Contents, Unread};
use super::places::{Absence, Places};
use crate::proto::InfoHash;
use crate::session::Store;
use crate::shard::Torrent;
use crate::storage::unchanged;

/// Threads for the torrents of one data folder.
const THREADS_MAX: usize = 4;

/// A torrent to be looked at.
#[derive(Clone, Debug)]
pub(super) struct Wake {
    pub(super) info_hash: InfoHash,
    /// The .torrent.
    pub(super) file: Arc<Path>,
    pub(super) data_dir: PathBuf,
    /// The watch folder that this is the data folder of.
    pub(super) folder: usize,
    /// Whether somebody waits for it.
    pub(super) wanted: bool,
}

/// Why a torrent cannot be served as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum Changed {
    #[error(transparent)]
    Unread(#[from] Unread),
    /// The folder of its payload is not there, or another.
    #[error(transparent)]
    Absent(#[from] Absence),
    #[error("nothing is recorded of it")]
    Unknown,
    #[error("{0}")]
    File(String),
    #[error("no thread to look at it: {0}")]
    Thread(io::Error),
}

/// What came of a look.
#[derive(Debug)]
pub(super) struct Woken {
    pub(super) wake: Wake,
    pub(super) result: Result<Arc<Torrent>, Changed>,
}

/// The threads and their queues.
#[derive(Debug)]
pub(super) struct Wakes {
    session: Arc<Store>,
    places: Arc<Places>,
    told: UnboundedSender<Woken>,
    lanes: HashMap<PathBuf, Arc<Mutex<Lane>>>,
}

/// What waits for one data folder.
#[derive(Debug, Default)]
struct Lane {
    wanted: VecDeque<Wake>,
    others: VecDeque<Wake>,
    threads: usize,
}

fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    // Nothing is left half done under the lock.
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wakes {
    /// None yet. What comes of each is told to `told`.
    pub(super) fn new(session: &Arc<Store>, places: Arc<Places>, told: UnboundedSender<Woken>) -> Self {
        Self {
            session: Arc::clone(session),
            places,
            told,
            lanes: HashMap::new(),
        }
    }

    /// Has a torrent looked at. The queue holds no more than there are torrents, as long as none is asked for twice.
    pub(super) fn submit(&mut self, wake: Wake) {
        let lane = match self.lanes.get(&wake.data_dir) {
            Some(lane) => Arc::clone(lane),
            None => Arc::clone(self.lanes.entry(wake.data_dir.clone()).or_default()),
        };
        let mut state = lock(&lane);
        match wake.wanted {
            true => state.wanted.push_back(wake),
            false => state.others.push_back(wake),
        }
        if state.threads == THREADS_MAX {
            return;
        }
        state.threads += 1;
        let worker = Worker {
            lane: Arc::clone(&lane),
            session: Arc::clone(&self.session),
            places: Arc::clone(&self.places),
            told: self.told.clone(),
        };
        let thread = std::thread::Builder::new().name("btd-wake".to_owned());
        if let Err(error) = thread.spawn(move || worker.run()) {
            state.threads -= 1;
            // Those that are at work come to it.
            if state.threads == 0
                && let Some(wake) = state.wanted.pop_back().or_else(|| state.others.pop_back())
            {
                let result = Err(Changed::Thread(error));
                let _ = self.told.send(Woken { wake, result });
            }
        }
    }
}

/// One thread.
struct Worker {
    lane: Arc<Mutex<Lane>>,
    session: Arc<Store>,
    places: Arc<Places>,
    told: UnboundedSender<Woken>,
}

impl Worker {
    fn run(self) {
        loop {
            let wake = {
                let mut lane = lock(&self.lane);
                let Lane { wanted, others, .. } = &mut *lane;
                match wanted.pop_front().or_else(|| others.pop_front()) {
                    Some(wake) => wake,
                    None => {
                        // Under the lock: whoever comes after this starts another.
                        lane.threads -= 1;
                        return;
                    }
                }
            };
            let result = self.look(&wake);
            // Nobody waits any more when btd is stopping.
            let _ = self.told.send(Woken { wake, result });
        }
    }

    fn look(&self, wake: &Wake) -> Result<Arc<Torrent>, Changed> {
        let meta = Contents::InFile(Arc::clone(&wake.file)).get(wake.info_hash)?;
        let root = self.places.open(&wake.data_dir)?;
        let record = self
            .session
            .load(&wake.info_hash, meta.geometry.piece_count(), meta.files.len())
            .ok_or(Changed::Unknown)?;
        let modified = unchanged(&meta, &root, &record).map_err(Changed::File)?;
        // From now on payload is there, as after a check: what an older btd has recorded says nothing of that.
        self.places.bind(&wake.data_dir, &root);
        Ok(Torrent::new(meta, root, &record.have, &modified))
    }
}
