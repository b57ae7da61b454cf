//! Starts everything: the threads, the sockets, the folders, and the supervisor that tells them of each other.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::Supervisor;
use super::addresses::BoundAddresses;
use super::appearing::Appearing;
use super::device::BoundDevice;
use super::error::Error;
use super::folders::Folders;
use super::goals::Goals;
use super::places::DataFolders;
use super::rates::Rates;
use super::reload::Reload;
use super::resting::Resting;
use crate::control::announce::{Announcer, Sources};
use crate::control::catalog::Catalog;
use crate::control::checks::Checks;
use crate::control::config::Config;
use crate::control::ctl::door::door;
use crate::control::ctl::{handlers, socket};
use crate::control::device::Device;
use crate::control::dns::Dns;
use crate::control::downloads::{self, Downloads};
use crate::control::example;
use crate::control::few_lines::FewLines;
use crate::control::history::Totals;
use crate::control::meter::Throughput;
use crate::control::metrics::top::Top;
use crate::control::metrics::{self, Reporter};
use crate::control::outlet::{self, Outlet};
use crate::control::pulse::Pulse;
use crate::control::resolver::Resolver;
use crate::control::scrub::Scrubs;
use crate::control::shards::{self, Shards};
use crate::control::signals::{Early, Signals};
use crate::control::state_dir::{Ports, StateDir, patience, until_free};
use crate::control::torrents::Torrents;
use crate::control::tracker::Tracked;
use crate::control::unread::UnreadTorrents;
use crate::control::wakes::Wakes;
use crate::control::watchdog::Watchdog;
use crate::hashing::{Gather, Pool, PoolConfig};
use crate::io::uring::{Patience, SetupError};
use crate::proto::InfoHash;
use crate::session::{self, Pause, Store};
use crate::shard::{Event, Events, StartError};
use crate::storage::Throttle;
use crate::storage::part;

/// Events that wait to be handled. A folder of 100,000 files is not read faster than they are taken in.
const EVENTS_MAX: usize = 64;
/// Pieces that wait to be hashed for downloads. Their memory is bounded by `write-buffer`.
const DOWNLOADED_MAX: usize = 1 << 16;
/// How long a piece that is here may wait for others to be hashed beside it: at 10 Gbit/s there are 30 MiB of them by then.
const GATHER_MAX: Duration = Duration::from_millis(25);

/// How long a start waits that cannot read which torrents are paused, before it tries again: until the database may be opened again.
const PAUSES_RETRY: Duration = Duration::from_secs(6);

/// The torrents that are paused. No start is refused for a disk that fails: it goes on without, and says so.
async fn pauses(session: &Store, retry: Duration) -> Vec<(InfoHash, Pause)> {
    if let Ok(pauses) = session.load_pauses() {
        return pauses;
    }
    tokio::time::sleep(retry).await;
    session.load_pauses().unwrap_or_else(|error| {
        tracing::warn!(
            "it is not known which torrents are paused, and none is until btd is started again: {error} (hint: look after the disk of \
             the state folder; `btd ctl pause` pauses them)"
        );
        Vec::new()
    })
}

/// The torrents whose payload somebody wants to be read, which has not been begun. No start is refused for want of that either.
fn to_be_read(session: &Store) -> HashSet<InfoHash> {
    let wanted = session.load_verifies().unwrap_or_else(|error| {
        tracing::warn!(
            "it is not known of which torrents all payload was to be read: {error} (hint: look after the disk of the state folder; \
             `btd ctl verify` asks for it again)"
        );
        Vec::new()
    });
    wanted.into_iter().collect()
}

/// Runs the daemon until a signal stops it. The configuration was read from `file`, and is again when a signal says so.
///
/// # Errors
/// It could not start, or not stop cleanly.
pub fn run(config: &Config, file: &Path) -> Result<(), Error> {
    let started = Instant::now();
    let system = |step| move |source| Error::System { step, source };
    let early = Early::new().map_err(system("listen to signals"))?;
    tracing::info!(
        "btd {} starts as process {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    let mut wait = patience();
    let state_dir = StateDir::open(&config.state_dir, &mut wait)?;
    // Of one that was killed a moment ago it may be held a little longer than the folder.
    let (session, notice) = until_free(
        || Store::open(&config.state_dir),
        |error| matches!(error, session::Error::InUse { .. }),
        wait,
    )?;
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
    if let Some(warning) = outlet::listens_elsewhere(&config.peers) {
        tracing::warn!("{warning}");
    }
    // Before the runtime, which also needs io_uring but does not say why it cannot have it.
    let for_rings = Patience::begin();
    let tracker = tracked.as_ref().map(|tracked| &tracked.tracker);
    let shards = Shards::start(config, for_rings, (&pool, &events), tracker)?;
    let is_short = |error: &std::io::Error| error.kind() == std::io::ErrorKind::OutOfMemory;
    let runtime = for_rings
        .make("the control plane", is_short, || {
            tokio_uring::Runtime::new(&tokio_uring::builder())
        })
        .map_err(|source| no_ring(source, config))?;
    runtime.block_on(async {
        let mut supervisor = Supervisor::start(
            (config, file),
            &state_dir,
            &session,
            (shards, tracked, pool, told),
            (device, early, started),
        )
        .await?;
        let served = supervisor.serve().await;
        served.and(supervisor.stop().await)
    })
}

/// Why the control plane has no ring. A shard has told whether there may be any at all.
fn no_ring(source: std::io::Error, config: &Config) -> Error {
    match source.kind() {
        std::io::ErrorKind::OutOfMemory => {
            let error = SetupError::memlock(shards::locked_len(config));
            shards::Error::Start(StartError::Ring(error)).into()
        }
        _ => Error::System {
            step: "set up the control plane's io_uring",
            source,
        },
    }
}

impl<'a> Supervisor<'a> {
    async fn start(
        (config, file): (&Config, &Path),
        state_dir: &'a StateDir,
        session: &Arc<Store>,
        (shards, mut tracked, hashing, events): (Shards, Option<Tracked>, Arc<Pool>, mpsc::UnboundedReceiver<Event>),
        (bound, early, started): (Option<BoundDevice>, Early, Instant),
    ) -> Result<Self, Error> {
        let system = |step| move |source| Error::System { step, source };
        let signals = Signals::new(early).map_err(system("listen to signals"))?;
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
        let throttle = Throttle::new(config.storage.check_rate, Some(Box::new(peers_reads)));
        let throttle = Arc::new(throttle.with_memory_of(Arc::clone(shards.loan())));
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
            metrics::publish_connections_max(shards.connections_max().0);
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
        let (goals, paused) = Goals::load(&pauses(session, PAUSES_RETRY).await);
        let (teller, standings) = mpsc::unbounded_channel(); // One for each torrent at a time, and those that are asked for.
        let (done, disk_done) = mpsc::unbounded_channel();
        let options = part::Options {
            preallocate: config.storage.preallocate,
            part_names: config.storage.part_names,
        };
        let device = bound.as_ref().map(|bound| bound.device().clone());
        let outlet = Outlet::new(device, &config.peers.bind_address);
        let new_resolver = || match outlet.is_any() {
            true => Resolver::new(),
            false => Resolver::through(Dns::new(&outlet, &config.peers.dns_servers)),
        };
        let resolver = new_resolver();
        let (found, resolved) = mpsc::unbounded_channel();
        let mut folders = Folders::new((sender, Catalog::new(session)), Arc::clone(&resolver), found);
        config.watch.iter().cloned().for_each(|watch| folders.open(watch));
        if let Some(lists) = tracked.as_mut().and_then(Tracked::follow) {
            tasks.push(tokio::task::spawn_local(lists));
        }
        // The store is no peer: its name is the system's.
        let of_store = match outlet.is_any() {
            true => Arc::clone(&resolver),
            false => Resolver::new(),
        };
        let sharing = tracked.as_mut().and_then(|tracked| tracked.share(&of_store));
        let sharing = sharing.map(|(sharing, ending)| (tokio::task::spawn_local(sharing), ending));
        let (tracker_http, tracker_udp) = shards.tracker_addresses();
        let (found, peers_found) = mpsc::unbounded_channel();
        let port = shards.addresses().first().map_or(0, SocketAddr::port);
        let announcer = Announcer::start(
            &config.announce,
            (shards.peer_id(), port, Sources::new(shards.addresses(), outlet.clone())),
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
        let lines = Arc::new(FewLines::default());
        let (scrubs, scrub_asks) = match config.storage.scrub {
            Some(period) => {
                let (scrubs, asks) = Scrubs::new(period, session, (&throttle, &lines));
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
            addresses: BoundAddresses::new(outlet),
            resolver,
            watchdog: Watchdog::new(shards.counters(), now),
            torrents: Torrents::new(paused, shards.resting()),
            shards,
            tracked,
            checks,
            throttle,
            pool,
            session: Arc::clone(session),
            downloads: Downloads::new(
                Arc::clone(session),
                options,
                done,
                (downloads::on_thread, Arc::clone(&lines)),
            ),
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
            lines,
            sharing,
            ports,
            metrics_address,
            reporter,
            missing: Vec::new(),
            spoilt: Vec::new(),
            to_be_read: to_be_read(session),
            appearing,
            appeared,
            doubtful: Vec::new(),
            missing_tried: now,
            start_told: 0,
            ready: false,
            started,
            progress_told: now,
            pause_told: false,
            status_told: String::new(),
        };
        supervisor.follow_places();
        supervisor.follow_scrubs();
        Ok(supervisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::simulated;

    /// It was refused, each time.
    #[test]
    fn start_goes_on_though_it_cannot_be_read_what_is_paused() {
        let disk = simulated::Disk::default();
        let session = Store::simulated(&disk);
        session.put_paused(InfoHash([1; 20]), true);
        assert!(session.flush());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        disk.set_unreadable(true);
        assert_eq!(runtime.block_on(pauses(&session, Duration::ZERO)), []);
        // What can be read a moment later is.
        let made_readable = async {
            tokio::task::yield_now().await;
            disk.set_unreadable(false);
        };
        let first = async { tokio::join!(pauses(&session, Duration::from_millis(1)), made_readable).0 };
        assert_eq!(runtime.block_on(first), [(InfoHash([1; 20]), Pause::Asked)]);
    }
}
