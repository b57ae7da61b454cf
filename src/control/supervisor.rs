//! Runs the daemon: starts everything, tells each part what the others found, stops everything.
//!
//! Events come from the watch folders, the checks, a clock and the signals; each is one method call here. The supervisor
//! decides nothing about bytes: what a torrent is comes from `torrent_file`, what is there of it from `checks`, and
//! who gets it is the shards' affair.

mod appearing;
mod controlling;
mod device;
mod downloading;
mod folders;
mod goals;
mod places;
mod rates;
mod reload;
mod resting;
mod scrubbing;

pub(super) use controlling::{Neighbour, Source};

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::announce::{Announcer, Found as FoundPeers, Sources};
use super::catalog::Catalog;
use super::checks::{self, Checked, Checks, Found, Job, Progress};
use super::config::{Config, Verify, display_size};
use super::contents::Contents;
use super::ctl::door::{Ask, door};
use super::ctl::{handlers, socket};
use super::device::Device;
use super::dns::Dns;
use super::downloads::{self, Downloads};
use super::history::{Standing, Totals};
use super::meter::Throughput;
use super::metrics::top::Top;
use super::metrics::{self, Reporter};
use super::places::Look;
use super::pulse::Pulse;
use super::resolver::Resolver;
use super::rivals::{Rival, rival_of};
use super::scrub::{NextPlease, Scrubs};
use super::shards::{self, Shards};
use super::signals::{Request, Signals};
use super::state_dir::{self, Ports, StateDir};
use super::torrents::{Addition, Entry, Reach, Removal, STATE_NAMES, State, Torrents};
use super::tracker::{self, SharingEnding, Tracked};
use super::unread::UnreadTorrents;
use super::wakes::{Wakes, Woken};
use super::watch;
use super::watchdog::Watchdog;
use super::{example, service_manager};
use crate::hashing::{Gather, Pool, PoolConfig};
use crate::io::uring::SetupError;
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::metainfo::Metainfo;
use crate::session::{self, Store};
use crate::shard::{Event, Events, StartError, Torrent};
use crate::storage::part;
use crate::storage::{Throttle, Unread};
use appearing::Appearing;
use device::BoundDevice;
use folders::Folders;
use goals::Goals;
use places::DataFolders;
use rates::Rates;
use reload::{Refused, Reload};
use resting::Resting;

/// Events that wait to be handled. A folder of 100,000 files is not read faster than they are taken in.
const EVENTS_MAX: usize = 64;
/// Torrents whose contents are kept in memory while they wait for their check: the others are read again.
const CHECKS_HELD: usize = 64;
/// How often the status is brought up to date and messages that a full mailbox refused are tried again.
const TICK: Duration = Duration::from_millis(250);
/// Each torrent is measured once in so many ticks, which takes 5 s.
const MEASURE_TURNS: usize = 20;
/// How often a long check says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often payload that was not there is looked for again: it may be on a disk that is mounted late.
const MISSING_RETRY: Duration = Duration::from_secs(30);
/// Pieces that wait to be hashed for downloads. Their memory is bounded by `write-buffer`.
const DOWNLOADED_MAX: usize = 1 << 16;
/// How long a piece that is here may wait for others to be hashed beside it: at 10 Gbit/s there are 30 MiB of them by then.
const GATHER_MAX: Duration = Duration::from_millis(25);
/// How much more time the service manager is asked for while more torrent files are read.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long the shards may take to stop. With the rest it stays within the 5 s that are promised.
const STOP_DEADLINE: Duration = Duration::from_secs(4);

/// Of it, how long trackers are waited for.
const UNANNOUNCE_DEADLINE: Duration = Duration::from_secs(3);

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder is in use or cannot be written.
    #[error(transparent)]
    StateDir(#[from] state_dir::Error),
    /// The session database cannot be had.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// The tracker could not be made.
    #[error(transparent)]
    Tracker(#[from] tracker::Error),
    /// The shards could not be started.
    #[error(transparent)]
    Shards(#[from] shards::Error),
    /// The metrics server cannot have its address.
    #[error("cannot listen on {address} ([metrics] listen): {source}{}", shards::hint(source))]
    Metrics {
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The example of the first run could not be made.
    #[error(transparent)]
    Example(#[from] example::Error),
    /// The kernel refused something every process needs.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A shard's ring broke. The others are stopped too: half of the peers would wait in vain.
    #[error("a shard ended by itself; btd has stopped and should be started again")]
    ShardEnded,
    /// The shards hung.
    #[error("the shards did not stop within {} s", STOP_DEADLINE.as_secs())]
    Stop,
}

/// What kind of remedy an [`Error`] has; each has an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another btd has the state folder.
    InUse,
    /// The configuration, the kernel, its settings or its limits: starting again would not help.
    Setting,
    /// Anything that may be gone at the next start.
    Io,
}

impl Error {
    /// What kind of remedy it has.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::StateDir(state_dir::Error::InUse { .. }) | Self::Session(session::Error::InUse { .. }) => {
                Fault::InUse
            }
            Self::Shards(
                shards::Error::Features(_)
                | shards::Error::Start(StartError::Ring(_) | StartError::CacheTooSmall { .. }),
            ) => Fault::Setting,
            // `BTD_SHA1` names what this machine has not.
            Self::System { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput => Fault::Setting,
            Self::StateDir(state_dir::Error::Io { .. })
            | Self::Session(_)
            | Self::Tracker(_)
            | Self::Shards(_)
            | Self::ShardEnded
            | Self::Metrics { .. }
            | Self::Example(_)
            | Self::System { .. }
            | Self::Stop => Fault::Io,
        }
    }
}

/// Runs the daemon until a signal stops it. The configuration was read from `file`, and is again when a signal says so.
///
/// # Errors
/// It could not start, or not stop cleanly.
pub fn run(config: &Config, file: &Path) -> Result<(), Error> {
    let started = Instant::now();
    tracing::info!(
        "btd {} starts as process {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    let state_dir = StateDir::open(&config.state_dir)?;
    let (session, notice) = Store::open(&config.state_dir)?;
    if let Some(notice) = notice {
        tracing::warn!("{notice}");
    }
    let session = Arc::new(session);
    for watch in config.watch.iter().filter(|watch| watch.example) {
        example::make_if_empty(watch)?;
    }
    if config.watch.is_empty() && config.tracker.is_none() {
        tracing::warn!(
            "there is neither a [[watch]] nor a [tracker] section: without a folder of torrents there is nothing to serve"
        );
    }
    // Before the runtime, which also needs io_uring but does not say why it cannot have it.
    let system = |step| move |source| Error::System { step, source };
    // Peers wait for what is hashed here, and it is not idle's to give way.
    let pool = PoolConfig {
        workers: std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        queue_max: DOWNLOADED_MAX,
        nice: 0,
        idle: false,
        gather: Some(Gather {
            time: GATHER_MAX,
            bytes: config.storage.write_buffer / 4,
        }),
    };
    let pool = Arc::new(Pool::start(pool).map_err(system("start the threads that hash"))?);
    let (teller, told) = mpsc::unbounded_channel(); // Shards tell each torrent's news a few times a second at most.
    let events = Events::new(move |event| {
        // Nobody listens any more when btd is stopping.
        let _ = teller.send(event);
    });
    let tracked = config.tracker.as_ref().map(Tracked::start).transpose()?;
    // Before anything listens by it.
    let device = config.peers.bind_device.as_deref().map(Device::new);
    let device = device.map(BoundDevice::new);
    let shards = Shards::start(config, &pool, &events, tracked.as_ref().map(|tracked| &tracked.tracker))?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(no_ring)?;
    runtime.block_on(async {
        let mut supervisor = Supervisor::start(
            (config, file),
            &state_dir,
            &session,
            (shards, tracked, pool, told),
            (device, started),
        )
        .await?;
        let served = supervisor.serve().await;
        served.and(supervisor.stop().await)
    })
}

/// Why the control plane has no ring. A shard has told whether there may be any at all.
fn no_ring(source: std::io::Error) -> Error {
    match source.kind() {
        std::io::ErrorKind::OutOfMemory => shards::Error::Start(StartError::Ring(SetupError::memlock())).into(),
        _ => Error::System {
            step: "set up the control plane's io_uring",
            source,
        },
    }
}

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
    /// What shares the tracker's swarms, and how it is ended.
    sharing: Option<(JoinHandle<()>, SharingEnding)>,
    ports: Ports,
    metrics_address: Option<SocketAddr>,
    reporter: Option<Arc<Reporter>>,
    /// Torrents of which nothing was there, to be looked for again.
    missing: Vec<Job>,
    /// Those of which something is there and none of it right: looked at again when they can be had from others.
    spoilt: Vec<Job>,
    appearing: Appearing,
    appeared: mpsc::UnboundedReceiver<InfoHash>,
    /// Downloads of which nobody knows what is on the disk, when they are to be checked, and whether what is known of them may be
    /// relied on then.
    doubtful: Vec<(Instant, Arc<Torrent>, bool)>,
    missing_tried: Instant,
    /// Torrents there were when more time was asked for to start.
    start_told: usize,
    ready: bool,
    started: Instant,
    progress_told: Instant,
    status_told: String,
}

impl<'a> Supervisor<'a> {
    async fn start(
        (config, file): (&Config, &Path),
        state_dir: &'a StateDir,
        session: &Arc<Store>,
        (shards, mut tracked, hashing, events): (Shards, Option<Tracked>, Arc<Pool>, mpsc::UnboundedReceiver<Event>),
        (bound, started): (Option<BoundDevice>, Instant),
    ) -> Result<Self, Error> {
        let system = |step| move |source| Error::System { step, source };
        let signals = Signals::new().map_err(system("listen to signals"))?;
        let mut tasks = Vec::new();
        let (sender, checked) = mpsc::unbounded_channel(); // Holds no more than there are torrents.
        let idle = PoolConfig {
            idle: true,
            ..PoolConfig::default()
        };
        let pool = Pool::start(idle).map_err(system("start the threads that hash"))?;
        let pool = Arc::new(pool);
        let counters = shards.counters();
        let peers_reads = move || counters.iter().map(|shard| shard.counters().disk_reads).sum();
        let throttle = Arc::new(Throttle::new(config.storage.check_rate, Some(Box::new(peers_reads))));
        let (data_folders, looks) = DataFolders::new(session);
        let kept = (session, &data_folders.places);
        let checks = Checks::start(&pool, &throttle, kept, shards.checks_max(), sender)
            .map_err(system("start the threads that check payload"))?;
        let top = Top::new(config.metrics.as_ref().map_or(0, |plan| plan.top_torrents));
        let mut metrics_address = None;
        let mut reporter = None;
        if let Some(plan) = &config.metrics {
            let refused = |source| Error::Metrics {
                address: plan.listen,
                source,
            };
            let listener = TcpListener::bind(plan.listen).await.map_err(refused)?;
            metrics_address = Some(listener.local_addr().map_err(refused)?);
            let source = Arc::new(Reporter::new(
                shards.counters(),
                vec![Arc::clone(&pool), hashing],
                Arc::clone(&throttle),
                tracked
                    .as_ref()
                    .map(|tracked| (Arc::clone(&tracked.tracker), shards.served())),
                top.picked(),
            ));
            let served = metrics::server::serve(listener, Arc::clone(&source), plan.hosts.clone());
            tasks.push(tokio::task::spawn_local(served));
            reporter = Some(source);
        }
        let (sender, watched) = mpsc::channel(EVENTS_MAX);
        let (door, asked) = door();
        match socket::listen(&config.state_dir) {
            Ok(listener) => {
                let means = handlers::Means::new(door);
                tasks.push(tokio::task::spawn_local(socket::serve(listener, means)));
            }
            // Peers are served all the same.
            Err(error) => tracing::error!(
                "cannot listen on {}: {error} (`btd ctl` does not work)",
                config.state_dir.join(socket::FILE_NAME).display()
            ),
        }
        let (goals, paused) = Goals::load(&session.load_pauses());
        let (teller, standings) = mpsc::unbounded_channel(); // One for each torrent at a time, and those that are asked for.
        let (done, disk_done) = mpsc::unbounded_channel();
        let options = part::Options {
            preallocate: config.storage.preallocate,
            part_names: config.storage.part_names,
        };
        let device = bound.as_ref().map(|bound| bound.device().clone());
        let new_resolver = || match &device {
            None => Resolver::new(),
            Some(device) => Resolver::through(Dns::new(device, &config.peers.dns_servers)),
        };
        let resolver = new_resolver();
        let (found, resolved) = mpsc::unbounded_channel();
        let mut folders = Folders::new((sender, Catalog::new(session)), Arc::clone(&resolver), found);
        config.watch.iter().cloned().for_each(|watch| folders.open(watch));
        if let Some(lists) = tracked.as_mut().and_then(Tracked::follow) {
            tasks.push(tokio::task::spawn_local(lists));
        }
        // The store is no peer: its name is the system's.
        let of_store = match &device {
            None => Arc::clone(&resolver),
            Some(_) => Resolver::new(),
        };
        let sharing = tracked.as_mut().and_then(|tracked| tracked.share(&of_store));
        let sharing = sharing.map(|(sharing, ending)| (tokio::task::spawn_local(sharing), ending));
        let (tracker_http, tracker_udp) = shards.tracker_addresses();
        let (found, peers_found) = mpsc::unbounded_channel();
        let port = shards.addresses().first().map_or(0, SocketAddr::port);
        let announcer = Announcer::start(
            &config.announce,
            (shards.peer_id(), port, Sources::new(shards.addresses(), device.clone())),
            session,
            (&resolver, new_resolver()),
            found,
        );
        let ports = Ports {
            tracker_http: tracker_http.first().map(SocketAddr::port),
            tracker_udp: tracker_udp.first().map(SocketAddr::port),
            peers: shards.addresses().iter().map(SocketAddr::port).collect(),
            metrics: metrics_address.as_ref().map(SocketAddr::port),
        };
        let now = Instant::now();
        let (told, woken) = mpsc::unbounded_channel(); // Holds no more than there are torrents.
        let resting = Resting::new(Wakes::new(session, Arc::clone(&data_folders.places), told), now);
        let (appearing, appeared) = Appearing::new(now);
        let (reload, config_read) = Reload::new(PathBuf::from(file));
        metrics::publish_config();
        let pulse = Pulse::new(shards.counters(), now);
        let (scrubs, scrub_asks) = match config.storage.scrub {
            Some(period) => {
                let (scrubs, asks) = Scrubs::new(period, session, &throttle);
                (Some(scrubs), asks)
            }
            None => (None, mpsc::unbounded_channel().1),
        };
        let mut supervisor = Self {
            config: config.clone(),
            reload,
            config_read,
            state_dir,
            folders,
            data_folders,
            looks,
            scrubs,
            scrub_asks,
            device: bound,
            resolver,
            watchdog: Watchdog::new(shards.counters(), now),
            torrents: Torrents::new(paused, shards.resting()),
            shards,
            tracked,
            checks,
            throttle,
            pool,
            session: Arc::clone(session),
            downloads: Downloads::new(Arc::clone(session), options, done, downloads::on_thread),
            unread: UnreadTorrents::new(Arc::clone(session), now),
            totals: Totals::new(Arc::clone(session), teller, now),
            goals,
            standings,
            events,
            disk_done,
            peers: downloads::Peers::new(),
            resolved,
            announcer,
            peers_found,
            checked,
            resting,
            woken,
            watched,
            asked,
            expected: Vec::new(),
            rates: Rates::default(),
            top,
            throughput: Throughput::new(now),
            pulse,
            signals,
            tasks,
            sharing,
            ports,
            metrics_address,
            reporter,
            missing: Vec::new(),
            spoilt: Vec::new(),
            appearing,
            appeared,
            doubtful: Vec::new(),
            missing_tried: now,
            start_told: 0,
            ready: false,
            started,
            progress_told: now,
            status_told: String::new(),
        };
        supervisor.follow_places();
        supervisor.follow_scrubs();
        Ok(supervisor)
    }

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
                Some(info_hash) = self.appeared.recv() => self.on_appeared(info_hash),
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
                tracing::warn!("refused {file:?}: {error} (it is tried again when it changes)");
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
            Addition::SameAs(other) => return Self::tell_same(file, &other, info_hash),
        };
        tracing::debug!("checking {:?} ({info_hash}) from {file:?}", meta.name);
        let contents = match self.checks.waiting() {
            0..CHECKS_HELD => Contents::Here(meta),
            _ => Contents::InFile(Arc::from(file)),
        };
        self.check(folder, generation, (info_hash, contents), trust, progress);
    }

    fn check(
        &mut self,
        folder: usize,
        generation: u64,
        of: (InfoHash, Contents),
        trust: bool,
        progress: Arc<Progress>,
    ) {
        self.check_doubting(folder, generation, of, (trust, None), progress);
    }

    /// The same, with pieces that are to be read whatever is known of them.
    fn check_doubting(
        &mut self,
        folder: usize,
        generation: u64,
        (info_hash, contents): (InfoHash, Contents),
        (trust, doubted): (bool, Option<Bitfield>),
        progress: Arc<Progress>,
    ) {
        // What shards have found out since the last one is not to be found out again.
        self.unread.remove(info_hash);
        if !trust {
            progress.want_all();
        }
        let home = self.home_in(folder, info_hash);
        let unread = match self.folders.plan(folder).verify {
            Verify::Lazy if trust => Unread::Later,
            Verify::Trust if trust => Unread::Never,
            Verify::Full | Verify::Lazy | Verify::Trust => Unread::Now,
        };
        self.checks.submit(Job {
            info_hash,
            generation,
            contents,
            data_dir: self.folders.plan(folder).data_dir.clone(),
            trust,
            unread,
            doubted,
            home,
            progress,
        });
    }

    /// Whether what is missing of a torrent of this folder can be had from anybody.
    fn downloads_in(&self, folder: usize, info_hash: InfoHash) -> bool {
        let reach = self.torrents.entry(info_hash).map(Entry::reach);
        !self.folders.plan(folder).peers.is_empty() || reach.is_some_and(|reach| self.announcer.announces(reach))
    }

    /// The shard that a torrent of this folder is downloaded by, if it is.
    fn home_in(&self, folder: usize, info_hash: InfoHash) -> Option<u32> {
        self.downloads_in(folder, info_hash)
            .then(|| self.shards.home_of(info_hash))
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
                let Some(entry) = self.torrents.entry(info_hash) else {
                    return;
                };
                let (name, progress) = (Arc::clone(&entry.name), Arc::new(Progress::new(entry.len())));
                if let Some(generation) = self.torrents.check_in(folder, info_hash, &progress) {
                    self.stop_downloading(info_hash);
                    tracing::info!("{name:?} ({info_hash}) comes from {file:?} now: its payload is looked for there");
                    // What is known is of the other folder's payload.
                    let trust = false;
                    self.session.remove(info_hash);
                    self.session.put_repair(info_hash, false);
                    // It is read by the thread that checks it. Should it have changed, its own folder will tell.
                    let contents = Contents::InFile(Arc::from(file));
                    self.check(folder, generation, (info_hash, contents), trust, progress);
                }
            }
        }
    }

    fn on_checked(&mut self, checked: Checked) {
        let Some(checked) = self.unless_lost(checked) else {
            return;
        };
        let Some(Checked { job, result }) = self.holds_back(checked) else {
            return;
        };
        let Job {
            info_hash, generation, ..
        } = &job;
        let entry = self.torrents.entry(*info_hash);
        let (name, len) = entry.map_or_else(Default::default, |entry| (Arc::clone(&entry.name), entry.len()));
        let len = display_size(len);
        let piece_count = result.as_ref().map_or(0, |found| found.piece_count);
        let result = result.and_then(|found| self.is_its_own(found));
        let (state, served) = match &result {
            Ok(found) if found.stamps.is_some() => (State::Downloading, found.torrent.clone()),
            Ok(found) if found.have_count > 0 && found.have_count == piece_count => {
                (State::Seeding, found.torrent.clone())
            }
            Ok(found) if found.have_count > 0 => (State::Partial, found.torrent.clone()),
            Ok(_) => (State::Missing, None),
            Err(checks::Error::Unavailable(_) | checks::Error::Lost(_)) => (State::Unavailable, None),
            Err(_) => (State::Error, None),
        };
        // What is paused is looked at like the others, and nothing is done with it.
        let is_paused = self.torrents.is_paused(*info_hash);
        let state = if is_paused { State::Paused } else { state };
        let Some(settled) = self
            .torrents
            .settle(*info_hash, *generation, state.clone(), served.clone())
        else {
            // A check that was cancelled because its torrent went has kept what it knew a moment later than that.
            if !self.torrents.has(*info_hash) {
                self.session.remove(*info_hash);
                self.session.put_repair(*info_hash, false);
            }
            return;
        };
        if settled.was_served {
            self.shards.remove(*info_hash); // What it had then is not what it has now.
        }
        self.downloads.remove(*info_hash);
        self.unread.forget(*info_hash);
        if let Ok(found) = &result {
            self.unread.on_checked(*info_hash, found.is_durable);
            // Where nothing is served it is looked for again anyway.
            if let Some(torrent) = served.as_ref().filter(|_| found.is_unsynced) {
                self.look_later(torrent);
            }
        }
        let why = match &result {
            Ok(found) => found.why.clone(),
            Err(error) => Some(error.to_string()),
        };
        self.torrents.explain(*info_hash, result.is_ok(), why);
        if is_paused {
            self.announcer.remove(*info_hash);
            if let Some(why) = self.goals.why(*info_hash) {
                self.torrents.give_reason(*info_hash, Some(why));
            }
            tracing::info!("{name:?} ({info_hash}) is paused: it is neither served nor downloaded until it is resumed");
            self.publish_counts();
            return;
        }
        if let (State::Seeding, Some(torrent)) = (&state, &served)
            && self.rests_at_once(torrent)
        {
            // Its trackers are told all the same.
        } else if let Some(torrent) = &served {
            let rate = self.config.limits.upload_rate_per_torrent;
            torrent.keep_to(rate.and_then(NonZeroU64::new), Instant::now());
            if let Some((folder, _)) = self.torrents.get(*info_hash) {
                torrent.keep_to_folder(self.folders.pace(folder));
            }
            if let Ok(Found {
                stamps: Some(stamps), ..
            }) = &result
            {
                self.downloads.add(Arc::clone(torrent), stamps.clone());
            }
            match &result {
                Ok(found) if found.stamps.is_some() => self.appearing.on_checked(*info_hash, found),
                _ => self.appearing.forget(*info_hash),
            }
            // What is downloaded is recorded with that.
            if let Ok(Found {
                unread: Some((_, recorded)),
                stamps: None,
                ..
            }) = &result
            {
                self.unread.add(torrent, recorded.clone());
            }
            self.totals.follow(torrent);
            self.shards.add(torrent);
            self.tell_peers(torrent);
            // Before it announces itself, perhaps to this very tracker.
            self.tell_held();
            self.announcer.serve(torrent, &name);
        } else {
            self.announcer.remove(*info_hash);
        }
        if matches!(state, State::Seeding) {
            self.look_at_goals(*info_hash);
        }
        match (state, result) {
            // That was said of its folder.
            (State::Unavailable, _) => tracing::debug!("{name:?} ({info_hash}) waits for its data folder"),
            (_, Err(error)) => {
                tracing::error!(
                    "cannot serve {name:?} ({info_hash}): {error} (`btd ctl verify {info_hash}` checks it again)"
                );
            }
            (
                State::Seeding,
                Ok(Found {
                    unread: Some((count, _)),
                    ..
                }),
            ) => {
                tracing::info!(
                    "seeding {name:?} ({info_hash}): {len}, {count} of {piece_count} pieces are verified when they are first asked for"
                );
            }
            (State::Seeding, Ok(Found { known: true, .. })) => {
                tracing::info!("seeding {name:?} ({info_hash}): {len}, unchanged since it was checked");
            }
            (State::Seeding, Ok(_)) => {
                tracing::info!(
                    "seeding {name:?} ({info_hash}): {len}, checked in {:.1} s",
                    job.progress.seconds()
                );
            }
            (State::Downloading, Ok(found)) => {
                let had = match found.have_count {
                    0 => "none of it is there".to_owned(),
                    count => format!("{count} of {piece_count} pieces are there"),
                };
                tracing::info!("downloading {name:?} ({info_hash}): {len}, {had}");
                if let Some(why) = found.to_write_over {
                    tracing::warn!("downloading {name:?} ({info_hash}): {why}");
                }
            }
            (State::Missing, Ok(found)) => {
                if settled.is_news {
                    let why = found.why.unwrap_or_else(|| match found.wrong_count {
                        0 => "no piece of it could be read".to_owned(),
                        count => format!("{count} of {piece_count} pieces are there, and none is right"),
                    });
                    let next = match found.wrong_count {
                        _ if found.was_whole => {
                            format!("it was complete once; `btd ctl verify {info_hash}` downloads it again")
                        }
                        count if count == 0 || found.held.is_some() => {
                            format!("looked for again every {} s", MISSING_RETRY.as_secs())
                        }
                        _ => format!("`btd ctl verify {info_hash}` checks it again"),
                    };
                    tracing::warn!("nothing to seed of {name:?} ({info_hash}): {why} ({next})");
                }
                // What is there and wrong would be hashed to its end each time.
                if let Some(entry) = self.torrents.entry(*info_hash) {
                    let contents = Contents::InFile(Arc::clone(entry.file()));
                    let job = Job { contents, ..job };
                    if found.held.is_some() || found.is_unsynced {
                        // What is known to be wrong is not read again, as long as it stays as it is.
                        self.missing.push(Job {
                            trust: true,
                            doubted: None,
                            ..job
                        });
                    } else if found.wrong_count == 0 {
                        self.missing.push(job);
                    } else {
                        self.spoilt.retain(|before| before.info_hash != job.info_hash);
                        self.spoilt.push(job);
                    }
                }
            }
            (_, Ok(found)) => {
                let why = found.why.map(|why| format!("; {why}")).unwrap_or_default();
                let next = match found.was_whole {
                    true => format!("it was complete once; `btd ctl verify {info_hash}` downloads what is missing"),
                    false => format!("`btd ctl verify {info_hash}` checks it again"),
                };
                tracing::warn!(
                    "seeding a part of {name:?} ({info_hash}): {} of {piece_count} pieces are right, {} wrong{why} ({next})",
                    found.have_count,
                    found.wrong_count,
                );
            }
        }
        self.publish_counts();
    }

    /// What was found of a torrent, unless it is to be downloaded over the files of another.
    fn is_its_own(&self, found: Found) -> Result<Found, checks::Error> {
        let torrent = found.torrent.as_ref().filter(|_| found.stamps.is_some());
        // Whose it is says more than that it is none of this one's.
        let torrent = torrent.or(found.held.as_ref());
        match torrent.and_then(|torrent| rival_of(torrent, self.torrents.served())) {
            None => Ok(found),
            Some(Rival { path, name, info_hash }) => Err(checks::Error::Taken {
                path,
                name,
                by: info_hash,
            }),
        }
    }

    fn on_tick(&mut self) {
        self.shards.flush();
        self.look_at_device();
        self.look_at_rates();
        self.tell_held();
        let now = Instant::now();
        self.downloads.on_tick(now);
        self.totals.on_tick(self.wants_standings(), now);
        for info_hash in self.unread.on_tick(now) {
            self.totals.note_whole(info_hash);
        }
        self.look_at_due();
        self.check_doubtful(now);
        self.look_for_payload(now);
        self.measure(now);
        self.tend_resting(now);
        self.publish_counts();
        if let Some(reporter) = &self.reporter {
            reporter.look_at_shards(now);
        }
        self.watchdog.on_tick(now);
        if now.duration_since(self.progress_told) >= PROGRESS_EVERY {
            self.progress_told = now;
            self.tell_progress();
            self.check_changed();
            self.tell_damage();
        }
        if now.duration_since(self.missing_tried) >= MISSING_RETRY {
            self.missing_tried = now;
            for job in std::mem::take(&mut self.missing) {
                if self.torrents.is_missing(job.info_hash, job.generation) {
                    self.look_again(job);
                }
            }
        }
        let status = self.status();
        if self.ready && status != self.status_told {
            service_manager::status(&status);
            self.status_told = status;
        }
        let count = self.torrents.len();
        if !self.ready && count > self.start_told {
            service_manager::starting(&format!("reading torrent files, {count} so far"), START_PATIENCE);
            self.start_told = count;
        }
    }

    /// Takes the rates that those who ask are told.
    fn measure(&mut self, now: Instant) {
        let shards = self.shards.counters();
        self.pulse.look(now);
        self.throughput.look(shards.iter().map(|shard| shard.counters()), now);
        if self.throughput.is_moving(now) {
            let (count, top) = (self.torrents.loaded_count() / MEASURE_TURNS + 1, &mut self.top);
            if self.torrents.measure(count, now, |torrent| top.offer(torrent)) {
                self.top.end_round();
            }
        }
    }

    /// Looks again for payload that was not there.
    fn look_again(&mut self, job: Job) {
        // A new one: it tells how far and how long this look is, and can be cancelled.
        let Some(entry) = self.torrents.entry(job.info_hash) else {
            return;
        };
        let progress = Arc::new(Progress::new(entry.len()));
        // There may be peers to have it from since it was looked for last.
        let home = self.home_in(entry.folder(), job.info_hash);
        if let Some(generation) = self.torrents.check_again(job.info_hash, &progress) {
            self.checks.submit(Job {
                generation,
                progress,
                home,
                ..job
            });
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
        self.appearing.forget(info_hash);
        self.on_held_changed();
        self.announcer.remove(info_hash);
        // Whoever adds it again wants to know whether it is still there.
        self.session.remove(info_hash);
        self.session.put_repair(info_hash, false);
        if self.goals.forget(info_hash) || entry.is_paused() {
            self.session.put_paused(info_hash, false);
        }
        tracing::info!("removed {:?} ({info_hash}): {why}", entry.name);
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

    /// One line for each check that takes long, but not a screenful.
    fn tell_progress(&self) {
        let [checking, ..] = self.torrents.counts();
        if checking == 0 {
            return;
        }
        let mut told = 0;
        for entry in self.torrents.iter() {
            let State::Checking(progress) = &entry.state else {
                continue;
            };
            let Some(line) = progress.line(self.throttle.is_paused()) else {
                continue;
            };
            tracing::info!("checking {:?}: {line}", entry.name);
            told += 1;
        }
        if checking > told {
            tracing::info!("{} more torrents wait to be checked", checking - told);
        }
    }

    /// Files that were changed after they were checked are checked again; of the others of their torrents is known that
    /// they are as they were.
    fn check_changed(&mut self) {
        for (folder, torrent) in self.torrents.changed() {
            let meta = torrent.shared_meta();
            let progress = Arc::new(Progress::new(meta.geometry.total_len()));
            let Some(generation) = self.torrents.check_anew(meta.info_hash, &progress) else {
                continue;
            };
            self.stop_downloading(meta.info_hash);
            let doubted = torrent.wrong();
            match &doubted {
                Some(wrong) => tracing::warn!(
                    "{} pieces of {:?} ({}) are wrong on the disk, or cannot be read, and are not served any more: {}",
                    wrong.count(),
                    meta.name,
                    meta.info_hash,
                    torrent.fault().unwrap_or_default()
                ),
                None => tracing::warn!(
                    "a file of {:?} ({}) was changed after it was checked: it is checked again",
                    meta.name,
                    meta.info_hash
                ),
            }
            let of = (meta.info_hash, meta.into());
            self.check_doubting(folder, generation, of, (true, doubted), progress);
        }
    }

    /// A disk that fails while serving takes pieces away.
    fn tell_damage(&mut self) {
        for torrent in self.torrents.newly_damaged() {
            let (have, count) = (torrent.have_count(), torrent.geometry().piece_count());
            let why = torrent.fault().unwrap_or_default();
            let (name, info_hash) = (&torrent.meta().name, torrent.info_hash());
            // Of one that is read as it is asked for, what can be read still holds.
            if !self.unread.has(info_hash) {
                self.session.remove(info_hash);
            }
            tracing::warn!(
                "{name:?} ({info_hash}) is no longer whole, {have} of {count} pieces are left: {why} \
                 (`btd ctl verify {info_hash}` checks it again)"
            );
            self.publish_counts();
        }
    }

    /// One line for the service manager: `3 torrents: 2 seeding, 1 checking`.
    fn status(&self) -> String {
        let count = self.torrents.len();
        let parts: Vec<String> = std::iter::zip(self.torrents.counts(), STATE_NAMES)
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        let plural = if count == 1 { "" } else { "s" };
        let colon = if parts.is_empty() { "" } else { ": " };
        format!("{count} torrent{plural}{colon}{}", parts.join(", "))
    }

    fn publish_counts(&self) {
        metrics::publish_torrents(&STATE_NAMES, &self.torrents.counts());
    }

    /// Ends everything in the order that keeps promises: nobody is sent here any more, then the work ends.
    async fn stop(mut self) -> Result<(), Error> {
        let started = Instant::now();
        tracing::info!("stopping");
        service_manager::stopping();
        if let Err(error) = self.state_dir.remove_ports() {
            tracing::error!("{error}");
        }
        socket::remove(&self.config.state_dir);
        for task in &self.tasks {
            task.abort();
        }
        self.folders.close_all();
        let scrubs = self.take_scrubs();
        drop(self.scrub_asks); // Who waits for an answer ends.
        drop(self.asked); // Who waits for an answer is told that there will be none.
        self.watched.close();
        self.checks.cancel();
        for entry in self.torrents.iter() {
            if let State::Checking(progress) = &entry.state {
                progress.cancel();
            }
        }
        // The end of the process ends the hashing threads: one may hang on a dead network mount, and is not waited for.
        std::mem::forget(self.pool);
        let (checks, session, announcer) = (self.checks, self.session, self.announcer);
        let (mut downloads, mut disk_done, mut events) = (self.downloads, self.disk_done, self.events);
        let (mut totals, shards, sharing, mut unread) = (self.totals, self.shards, self.sharing, self.unread);
        let served = async {
            shards.stop().await;
            // Nothing is announced any more.
            if let Some((task, ending)) = sharing {
                ending.end(task).await;
            }
        };
        let kept = async {
            // A disk that hangs takes its time from nobody else's record.
            let rested = tokio::time::timeout(STOP_DEADLINE / 2, downloads.rest(&mut disk_done));
            let unannounced = announcer.stop(UNANNOUNCE_DEADLINE);
            let scrubbed = async {
                if let Some(scrubs) = scrubs {
                    scrubs.end(STOP_DEADLINE / 2).await;
                }
            };
            let (_, (), _, (), ()) =
                tokio::join!(checks.ended(STOP_DEADLINE / 2), served, rested, unannounced, scrubbed);
            // What the shards have told last.
            while let Ok(event) = events.try_recv() {
                if let Event::Written {
                    info_hash,
                    have,
                    files,
                    complete,
                } = event
                {
                    downloads.on_written(info_hash, have, (files, complete));
                }
            }
            for info_hash in unread.record_all() {
                totals.note_whole(info_hash);
            }
            let settle = downloads.settle();
            let totals = totals.settle();
            // On a thread of its own: a disk that hangs must not delay the stop beyond its time.
            let settled = super::blocking::run("btd-flush", move || {
                settle();
                totals();
                session.flush()
            });
            let _ = settled.await;
        };
        let stopped = tokio::time::timeout(STOP_DEADLINE, kept);
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                result = &mut stopped => {
                    result.map_err(|_| Error::Stop)?;
                    tracing::info!("stopped after {:.2} s", started.elapsed().as_secs_f64());
                    return Ok(());
                }
                request = self.signals.next() => if request == Request::Stop {
                    tracing::warn!("stopped at once by a second signal");
                    return Ok(());
                },
            }
        }
    }
}
