//! Runs the daemon: tells each part what the others found.
//!
//! Events come from the watch folders, the checks, a clock and the signals; each is one method call here. The supervisor
//! decides nothing about bytes: what a torrent is comes from `torrent_file`, what is there of it from `checks`, and
//! who gets it is the shards' affair. How everything is started is in `starting`, how it is ended in `stopping`.

mod addresses;
mod appearing;
mod checking;
mod controlling;
mod device;
mod downloading;
mod error;
mod folders;
mod goals;
mod network;
mod places;
mod rates;
mod reload;
mod resting;
mod scrubbing;
mod starting;
mod stopping;
mod ticking;

pub(super) use controlling::{CheckStanding, Known, Neighbour, Page, Source, Unannounced};
pub use error::{Error, Fault};
pub use starting::run;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::announce::{Announcer, Found as FoundPeers};
use super::checks::{Checked, Checks, Job, Progress};
use super::config::Config;
use super::contents::Contents;
use super::ctl::door::Ask;
use super::downloads::{self, Downloads};
use super::few_lines::FewLines;
use super::history::{Standing, Totals};
use super::meter::Throughput;
use super::metrics::Reporter;
use super::metrics::top::Top;
use super::places::Look;
use super::pulse::Pulse;
use super::resolver::Resolver;
use super::scrub::{NextPlease, Scrubs};
use super::shards::Shards;
use super::signals::{Request, Signals};
use super::state_dir::{Ports, StateDir};
use super::torrents::{Addition, Entry, Reach, Removal, State, Torrents};
use super::tracker::{SharingEnding, Tracked};
use super::unread::UnreadTorrents;
use super::wakes::Woken;
use super::watch;
use super::watchdog::Watchdog;
use super::{example, service_manager};
use crate::hashing::Pool;
use crate::proto::InfoHash;
use crate::proto::metainfo::Metainfo;
use crate::session::Store;
use crate::shard::Event;
use crate::storage::Throttle;
use addresses::BoundAddresses;
use appearing::{Appeared, Appearing};
use device::BoundDevice;
use folders::Folders;
use goals::Goals;
use places::DataFolders;
use rates::Rates;
use reload::{Refused, Reload};
use resting::Resting;

/// Torrents whose contents are kept in memory while they wait for their check: the others are read again.
const CHECKS_HELD: usize = 64;
/// How often the status is brought up to date and messages that a full mailbox refused are tried again.
const TICK: Duration = Duration::from_millis(250);

/// Everything, and what has to be told to whom.
pub(super) struct Supervisor<'a> {
    /// What is in force: a reload leaves what needs a restart as it was.
    config: Config,
    reload: Reload,
    config_read: mpsc::UnboundedReceiver<Result<Config, Refused>>,
    state_dir: &'a StateDir,
    folders: Folders,
    data_folders: DataFolders,
    looks: mpsc::UnboundedReceiver<Look>,
    scrubs: Option<Scrubs>,
    scrub_asks: mpsc::UnboundedReceiver<NextPlease>,
    /// What peers, trackers and name servers are reached through, if it is to be a certain one.
    device: Option<BoundDevice>,
    addresses: BoundAddresses,
    /// Of peers' names.
    resolver: Arc<Resolver>,
    watchdog: Watchdog,
    shards: Shards,
    tracked: Option<Tracked>,
    torrents: Torrents,
    checks: Checks,
    throttle: Arc<Throttle>,
    pool: Arc<Pool>,
    session: Arc<Store>,
    downloads: Downloads,
    unread: UnreadTorrents,
    totals: Totals,
    goals: Goals,
    standings: mpsc::UnboundedReceiver<Standing>,
    events: mpsc::UnboundedReceiver<Event>,
    disk_done: mpsc::UnboundedReceiver<downloads::Done>,
    /// Addresses of the peers that the configuration names, by watch folder.
    peers: downloads::Peers,
    resolved: mpsc::UnboundedReceiver<(folders::Of, Vec<SocketAddr>)>,
    announcer: Announcer,
    peers_found: mpsc::UnboundedReceiver<FoundPeers>,
    checked: mpsc::UnboundedReceiver<Checked>,
    resting: Resting,
    woken: mpsc::UnboundedReceiver<Woken>,
    watched: mpsc::Receiver<watch::Told>,
    /// What those who control btd ask for.
    asked: mpsc::Receiver<Ask>,
    /// Torrents that somebody has added, and waits for.
    expected: Vec<(InfoHash, oneshot::Sender<()>)>,
    rates: Rates,
    /// Those that have metrics of their own.
    top: Top,
    throughput: Throughput,
    pulse: Pulse,
    signals: Signals,
    tasks: Vec<JoinHandle<()>>,
    /// What is said of each torrent goes through it: there may be thousands at once.
    lines: Arc<FewLines>,
    /// What shares the tracker's swarms, and how it is ended.
    sharing: Option<(JoinHandle<()>, SharingEnding)>,
    ports: Ports,
    metrics_address: Option<SocketAddr>,
    reporter: Option<Arc<Reporter>>,
    /// Torrents of which nothing was there, to be looked for again.
    missing: Vec<Job>,
    /// Those of which something is there and none of it right: looked at again when they can be had from others.
    spoilt: Vec<Job>,
    /// Those of which somebody has asked to read everything, which could not be done: their folder is not there, or it cannot be read
    /// whose their files are, or btd was ended before their turn. Their next check does it, whatever it is made for.
    to_be_read: HashSet<InfoHash>,
    appearing: Appearing,
    appeared: mpsc::UnboundedReceiver<Appeared>,
    doubtful: Vec<downloading::Doubtful>,
    missing_tried: Instant,
    /// Torrents there were when more time was asked for to start.
    start_told: usize,
    ready: bool,
    started: Instant,
    progress_told: Instant,
    /// It was told what waits for the end of this pause of all checks.
    pause_told: bool,
    status_told: String,
}

impl Supervisor<'_> {
    /// Handles events until a signal asks to stop.
    async fn serve(&mut self) -> Result<(), Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if !self.ready && self.folders.all_scanned() {
                self.ready = true;
                self.on_ready().await;
            }
            tokio::select! {
                Some(told) = self.watched.recv() => self.on_watch(told),
                Some(checked) = self.checked.recv() => self.on_checked(checked),
                Some(look) = self.looks.recv() => self.on_look(look),
                Some(ask) = self.scrub_asks.recv() => self.on_scrub(ask),
                Some(appeared) = self.appeared.recv() => self.on_appeared(appeared),
                Some(woken) = self.woken.recv() => self.on_woken(woken),
                Some(event) = self.events.recv() => self.on_event(event),
                Some(done) = self.disk_done.recv() => self.on_disk_done(done),
                Some((folder, addrs)) = self.resolved.recv() => self.on_resolved(folder, addrs),
                Some(found) = self.peers_found.recv() => self.on_peers_found(found),
                Some(read) = self.config_read.recv() => self.on_config(read),
                Some(standing) = self.standings.recv() => self.on_standing(&standing),
                () = tokio::task::yield_now(), if self.is_reloading() => self.go_on_reloading(),
                () = tokio::task::yield_now(), if self.has_places_to_see_to() => self.go_on_with_places(),
                Some(ask) = self.asked.recv() => ask(self),
                _ = tick.tick() => {
                    self.on_tick();
                    if self.shards.any_has_ended() {
                        return Err(Error::ShardEnded);
                    }
                }
                request = self.signals.next() => match request {
                    Request::Stop => return Ok(()),
                    Request::Reload => self.on_reload(),
                    Request::PauseChecks => {
                        self.throttle.pause();
                        tracing::info!("SIGUSR1: checks of payload are paused until SIGUSR2");
                    }
                    Request::ResumeChecks => {
                        self.throttle.resume();
                        self.pause_told = false;
                        tracing::info!("SIGUSR2: checks of payload go on");
                    }
                },
            }
        }
    }
}

/// What an event means.
impl Supervisor<'_> {
    async fn on_ready(&mut self) {
        self.torrents.pack();
        self.folders.forget_others(self.torrents.all_files());
        self.forget_verifies();
        self.tell_held();
        if let Some(tracked) = &mut self.tracked {
            tracked.on_ready();
        }
        let status = self.status();
        if let Err(error) = self.state_dir.write_ports(&self.ports).await {
            // Peers are served all the same; only whoever waits for the file has to be told.
            tracing::error!("{error}");
        }
        service_manager::ready(&status);
        let (http, udp) = self.shards.tracker_addresses();
        let http = http.iter().map(|at| format!(", tracker on http://{at}/announce"));
        let udp = udp.iter().map(|at| format!(", tracker on udp://{at}"));
        let tracker: String = http.chain(udp).collect();
        let peers: Vec<String> = self.shards.addresses().iter().map(ToString::to_string).collect();
        tracing::info!(
            "ready after {:.2} s: peers on {}{tracker}{}; {status}",
            self.started.elapsed().as_secs_f64(),
            peers.join(", "),
            self.metrics_address
                .map(|at| format!(", metrics on http://{at}/metrics"))
                .unwrap_or_default(),
        );
        for watch in self.config.watch.iter().filter(|watch| watch.example) {
            example::tell_how_to_fetch(watch, &self.ports.peers, self.ports.tracker_http);
        }
    }

    /// Forgets that all payload was to be read of torrents that went while btd was down.
    fn forget_verifies(&mut self) {
        if self.folders.is_any_lost() || self.folders.was_any_refused() {
            return; // They may be there, or in a file that could not be read just now.
        }
        let (torrents, session) = (&self.torrents, &self.session);
        self.to_be_read.retain(|info_hash| {
            let is_there = torrents.has(*info_hash);
            if !is_there {
                session.put_verify(*info_hash, false);
            }
            is_there
        });
    }

    fn on_watch(&mut self, told: watch::Told) {
        if !self.folders.is_open(told.folder) {
            return; // It was on its way when a reload closed the folder.
        }
        match told.event {
            watch::Event::Added { file, meta } => self.on_torrent_file(told.folder, &file, Arc::from(meta)),
            // Of these there are 100,000 at the start, and whoever reads metrics reads them later.
            watch::Event::Known { file, card, whole } => {
                return self.on_known_file(told.folder, &file, &card, whole);
            }
            watch::Event::Refused { file, error } => {
                self.folders.on_refused();
                let line = format_args!("refused {file:?}: {error} (it is tried again when it changes)");
                self.lines.warn("files refused", line);
            }
            watch::Event::Removed { file } => {
                let removal = self.torrents.remove(&file);
                self.on_removal(removal, || format!("{file:?} is gone"));
            }
            watch::Event::FolderLost { dir, error } => {
                self.folders.on_lost(told.folder, true);
                tracing::warn!(
                    "cannot look into watch folder {dir:?}: {error} (its torrents stay, and it is tried again)"
                );
            }
            watch::Event::FolderBack { dir } => {
                self.folders.on_lost(told.folder, false);
                tracing::info!("watch folder {dir:?} is there");
            }
            watch::Event::Scanned => self.folders.on_scanned(told.folder),
        }
        self.publish_counts();
    }

    fn on_torrent_file(&mut self, folder: usize, file: &Path, meta: Arc<Metainfo>) {
        let info_hash = meta.info_hash;
        let progress = Arc::new(Progress::new(meta.geometry.total_len()));
        let reach = Reach {
            private: meta.private,
            has_trackers: self.announcer.can_speak_to(&meta.announce),
        };
        let added = self
            .torrents
            .add(folder, file, info_hash, (&meta.name, reach), &progress);
        let (addition, replaced) = added;
        self.on_removal(replaced, || format!("{file:?} holds another torrent now"));
        let (generation, trust) = match addition {
            Addition::New { generation } => {
                self.on_held_changed();
                self.tell_arrived(info_hash);
                (generation, true)
            }
            // Somebody touched the file: the way to ask for another look. What was served is served until its
            // end; then the peers are let go, as the files may be others, and come back.
            Addition::Known => match self.torrents.check_anew(info_hash, &progress) {
                Some(generation) => {
                    self.stop_downloading(info_hash);
                    (generation, false)
                }
                None => {
                    self.read_all(info_hash);
                    return;
                }
            },
            Addition::SameAs(other) => return self.on_same((folder, file), &other, info_hash),
        };
        tracing::debug!("checking {:?} ({info_hash}) from {file:?}", meta.name);
        let contents = match self.checks.waiting() {
            0..CHECKS_HELD => Contents::Here(meta),
            _ => Contents::InFile(Arc::from(file)),
        };
        self.check(folder, generation, (info_hash, contents), trust, progress);
    }

    /// A file that held a torrent does no more.
    fn on_removal(&mut self, removal: Removal, why: impl FnOnce() -> String) {
        match removal {
            Removal::Nothing => {}
            Removal::Gone(info_hash, entry) => self.drop_torrent(info_hash, &entry, &why()),
            Removal::Moved {
                info_hash,
                file,
                folder,
            } => {
                self.look_in(folder, info_hash, &file, (false, true));
            }
        }
    }

    /// A torrent has another file, maybe of another watch folder. At a start they are read in any order, and the first folder of the
    /// configuration is that whose payload counts: it would be another one each time.
    fn on_same(&mut self, (folder, file): (usize, &Path), other: &Path, info_hash: InfoHash) {
        self.tell_same(file, other, info_hash);
        let Some(entry) = self.torrents.entry(info_hash) else {
            return;
        };
        let (before, rests) = (entry.folder(), entry.rests());
        let data_dir = |folder| &self.folders.plan(folder).data_dir;
        if !self.ready && folder < before && data_dir(folder) != data_dir(before) {
            // What was recorded of it as whole is judged by its times. Anything else may be what has been begun in the other folder.
            self.look_in(folder, info_hash, file, (true, !rests));
        }
    }

    /// The payload of a torrent is looked for in the data folder of another watch folder, where this file is. Whether what is known may
    /// be relied on, and whether that is forgotten, as it is of the other folder's payload.
    fn look_in(&mut self, folder: usize, info_hash: InfoHash, file: &Path, (trust, forgets): (bool, bool)) {
        let Some(entry) = self.torrents.entry(info_hash) else {
            return;
        };
        let was_for_all = matches!(&entry.state, State::Checking(progress) if progress.is_for_all());
        let (name, progress) = (Arc::clone(&entry.name), Arc::new(Progress::new(entry.len())));
        if let Some(generation) = self.torrents.check_in(folder, info_hash, &progress) {
            self.stop_downloading(info_hash);
            if forgets {
                self.session.remove(info_hash);
                self.session.put_repair(info_hash, false);
            }
            if was_for_all {
                self.read_all_next(info_hash);
            }
            self.lines.info(
                "torrents that come from another file now",
                format_args!("{name:?} ({info_hash}) comes from {file:?} now: its payload is looked for there"),
            );
            // It is read by the thread that checks it. Should it have changed, its own folder will tell.
            let contents = Contents::InFile(Arc::from(file));
            self.check(folder, generation, (info_hash, contents), trust, progress);
        }
    }

    fn drop_torrent(&mut self, info_hash: InfoHash, entry: &Entry, why: &str) {
        if let State::Checking(progress) = &entry.state {
            progress.cancel();
        }
        if entry.served.is_some() {
            self.shards.remove(info_hash);
        }
        self.downloads.remove(info_hash);
        self.unread.forget(info_hash);
        self.data_folders.forget(info_hash);
        self.to_be_read.remove(&info_hash);
        self.appearing.forget(info_hash);
        self.on_held_changed();
        self.announcer.remove(info_hash);
        // Whoever adds it again wants to know whether it is still there.
        self.session.remove(info_hash);
        self.session.put_repair(info_hash, false);
        self.session.put_verify(info_hash, false);
        if self.goals.forget(info_hash) || entry.is_paused() {
            self.session.put_paused(info_hash, false);
        }
        let line = format_args!("removed {:?} ({info_hash}): {why}", entry.name);
        self.lines.info("torrents removed", line);
    }

    fn on_held_changed(&mut self) {
        if let Some(tracked) = &mut self.tracked {
            tracked.on_change();
        }
    }

    /// Tells a private tracker which torrents it is for.
    fn tell_held(&mut self) {
        if let Some(tracked) = &mut self.tracked {
            tracked.tell_held(|| self.torrents.info_hashes().collect());
        }
    }
}
