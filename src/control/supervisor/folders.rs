//! The watch folders of a running btd: opened at the start, and opened and closed as a reload says.
//!
//! A folder keeps its number for as long as btd runs, and a number is never given to another: what a folder's threads tell
//! after it was closed is told of a number that means nothing any more.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::downloading;
use crate::control::catalog::Catalog;
use crate::control::config::Watch;
use crate::control::resolver::Resolver;
use crate::control::watch;
use crate::shard::FolderPace;

/// A folder with the peers that were planned for it, by their numbers: one whose plan was changed since means nothing any more.
pub(super) type Of = (usize, u32);
/// Tells which addresses the peers of a folder have.
pub(super) type Resolved = mpsc::UnboundedSender<(Of, Vec<SocketAddr>)>;

/// See the head of this file.
pub(super) struct Folders {
    all: Vec<Folder>,
    told: mpsc::Sender<watch::Told>,
    catalog: Catalog,
    resolver: Arc<Resolver>,
    resolved: Resolved,
    was_any_refused: bool,
}

struct Folder {
    plan: Watch,
    /// What its torrents keep to together.
    pace: Arc<FolderPace>,
    watches: JoinHandle<()>,
    /// How often its plan has changed.
    round: u32,
    /// Looks up the names of its peers, if it has any.
    resolves: Option<JoinHandle<()>>,
    /// Told when nobody is where one of those names has led.
    unreachable: Arc<Notify>,
    /// Its first look is over.
    is_scanned: bool,
    /// It could not be looked into the last time.
    is_lost: bool,
    is_closed: bool,
}

impl Folders {
    /// None yet. What happens in them is told to `told`, and what is known of their files is in `catalog`; where their peers are to `resolved`.
    pub(super) fn new(
        (told, catalog): (mpsc::Sender<watch::Told>, Catalog),
        resolver: Arc<Resolver>,
        resolved: Resolved,
    ) -> Self {
        Self {
            all: Vec::new(),
            told,
            catalog,
            resolver,
            resolved,
            was_any_refused: false,
        }
    }

    /// Watches another one.
    pub(super) fn open(&mut self, plan: Watch) {
        let number = self.all.len();
        let watched = watch::run(number, plan.dir.clone(), self.catalog.clone(), self.told.clone());
        let unreachable = Arc::default();
        self.all.push(Folder {
            watches: tokio::task::spawn_local(watched),
            resolves: self.resolve((number, 0), &plan, &unreachable),
            round: 0,
            unreachable,
            pace: Arc::new(FolderPace::new(Instant::now())),
            plan,
            is_scanned: false,
            is_lost: false,
            is_closed: false,
        });
        self.all[number].keep_to_rates();
    }

    /// Watches one no more.
    pub(super) fn close(&mut self, number: usize) {
        let folder = &mut self.all[number];
        folder.is_closed = true;
        folder.stop();
    }

    /// Watches none any more.
    pub(super) fn close_all(&mut self) {
        self.all.iter_mut().for_each(Folder::stop);
    }

    /// Changes what is planned for one, but not where it and its payload are.
    pub(super) fn change(&mut self, number: usize, plan: Watch) {
        let round = self.all[number].round + 1;
        let resolves = self.resolve((number, round), &plan, &self.all[number].unreachable);
        let folder = &mut self.all[number];
        if let Some(task) = std::mem::replace(&mut folder.resolves, resolves) {
            task.abort();
        }
        (folder.plan, folder.round) = (plan, round);
        folder.keep_to_rates();
    }

    /// The rates that torrents of one keep to together.
    pub(super) fn pace(&self, number: usize) -> &Arc<FolderPace> {
        &self.all[number].pace
    }

    /// What is planned for one, be it closed.
    pub(super) fn plan(&self, number: usize) -> &Watch {
        &self.all[number].plan
    }

    /// Those that are watched, with their numbers.
    pub(super) fn open_ones(&self) -> impl Iterator<Item = (usize, &Watch)> {
        let open = self.all.iter().enumerate().filter(|(_, folder)| !folder.is_closed);
        open.map(|(number, folder)| (number, &folder.plan))
    }

    /// Whether one is watched.
    pub(super) fn is_open(&self, number: usize) -> bool {
        self.all.get(number).is_some_and(|folder| !folder.is_closed)
    }

    /// Whether one is watched, and these peers are planned for it.
    pub(super) fn is_planned(&self, (number, round): Of) -> bool {
        self.is_open(number) && self.all[number].round == round
    }

    /// The first look at one is over.
    pub(super) fn on_scanned(&mut self, number: usize) {
        self.all[number].is_scanned = true;
    }

    /// One could not be looked into, or can be again.
    pub(super) fn on_lost(&mut self, number: usize, is_lost: bool) {
        self.all[number].is_lost = is_lost;
    }

    /// Forgets what was read of files that were not among these, all of those that there are. Not where a folder cannot be
    /// looked into: its files may be there. Reads and writes on a thread of its own.
    pub(super) fn forget_others(&self, files: Vec<Arc<Path>>) {
        if self.is_any_lost() {
            return;
        }
        let catalog = self.catalog.clone();
        let thread = std::thread::Builder::new().name("btd-catalog".to_owned());
        if let Err(error) = thread.spawn(move || catalog.keep_only(&files)) {
            tracing::debug!("no thread that forgets files which have gone: {error}"); // The next start does.
        }
    }

    /// Whether one cannot be looked into.
    pub(super) fn is_any_lost(&self) -> bool {
        self.all.iter().any(|folder| folder.is_lost)
    }

    /// A file could not be read, or holds no torrent.
    pub(super) fn on_refused(&mut self) {
        self.was_any_refused = true;
    }

    /// Whether there was a file since the start that could not be read, or held no torrent.
    pub(super) fn was_any_refused(&self) -> bool {
        self.was_any_refused
    }

    /// Whether all were looked at once.
    pub(super) fn all_scanned(&self) -> bool {
        self.all.iter().all(|folder| folder.is_scanned || folder.is_closed)
    }

    /// Nobody is where a name of this folder's peers has led.
    pub(super) fn on_unreachable(&self, number: usize) {
        self.all[number].unreachable.notify_one();
    }

    /// The network is there again: names that could not be looked up may be.
    pub(super) fn look_up_again(&self) {
        self.all.iter().for_each(|folder| folder.unreachable.notify_one());
    }

    fn resolve(&self, of: Of, plan: &Watch, unreachable: &Arc<Notify>) -> Option<JoinHandle<()>> {
        (!plan.peers.is_empty()).then(|| {
            tokio::task::spawn_local(downloading::resolve(
                of,
                plan.peers.clone(),
                Arc::clone(&self.resolver),
                Arc::clone(unreachable),
                self.resolved.clone(),
            ))
        })
    }
}

impl Folder {
    /// Those of its plan hold from now on.
    fn keep_to_rates(&self) {
        let now = Instant::now();
        let of = |rate: Option<u64>| rate.and_then(NonZeroU64::new);
        for (pace, rate) in [
            (&self.pace.upload, of(self.plan.upload_rate)),
            (&self.pace.download, of(self.plan.download_rate)),
        ] {
            // Of one that stays what was used up of it stays so, too.
            if pace.bytes_per_second() != rate {
                pace.set(rate, now);
            }
        }
    }

    fn stop(&mut self) {
        self.watches.abort();
        if let Some(task) = &self.resolves {
            task.abort();
        }
    }
}
