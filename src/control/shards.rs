//! The shards as the control plane sees them: started and stopped together, told the same things.
//!
//! Splits what the configuration says for all of btd among them, and keeps what a full mailbox did not take, in order.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

use super::blocking;
use super::config::{self, Config};
use super::device::Device;
use super::{locked_memory, memory, open_files};
use crate::hashing::Pool;
use crate::io::uring::{Features, Patience, locked};
use crate::proto::{InfoHash, PeerId, choker};
use crate::shard::tracker::{Served, Service};
use crate::shard::{
    self, Caps, Command, Events, Handle, Limits, Mailbox, Pace, PeersReply, PeersTold, Resting, Settings, ShardConfig,
    Torrent,
};
use crate::stats;
use crate::storage::Loan;
use crate::tracker::Tracker;

/// Buffers of a shard without a cache: sixty-four reads or sends at once. They are each shard's own, so that more than two
/// have more than the smallest cache, which is for all together.
pub(super) const UNCACHED_LEN: u64 = 8 << 20;
/// Commands that a shard has not taken, from which on it is not asked anything more.
const WAITING_MAX: usize = 1024;
/// How long to wait for room in a mailbox that is full when btd stops.
const MAILBOX_PAUSE: Duration = Duration::from_millis(1);
/// How long to wait at the start for a port that is taken, and how often to look.
const PORT_PATIENCE: Duration = Duration::from_secs(1);
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// Why the shards cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address to listen on cannot be had.
    #[error("cannot listen on {address} ({key}): {source}{}", hint(source))]
    Listen {
        /// The key that names it, with its section.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No random numbers for the peer id.
    #[error("cannot get random bytes from the kernel")]
    Random,
    /// `BTD_URING_MASK` names something that is no feature.
    #[error("BTD_URING_MASK: there is no feature {0:?}, only {names}", names = feature_names())]
    Features(String),
    /// A shard could not start.
    #[error(transparent)]
    Start(#[from] shard::StartError),
}

/// What may be done about an address that cannot be listened at.
pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (hint: another program has this port, ss -ltunp shows which; or take another port here)"
        }
        io::ErrorKind::AddrNotAvailable => " (hint: this machine has no such address; ip address shows which it has)",
        io::ErrorKind::PermissionDenied => " (hint: ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

fn feature_names() -> String {
    Features::ALL.list().map(|(name, _)| name).join(", ")
}

/// How many shards there are where the configuration says so many, or 0.
pub(super) fn count_of(wanted: usize) -> usize {
    match wanted {
        0 => cores().len().max(1),
        count => count,
    }
}

/// What they lock of memory at most, in bytes.
pub(super) fn locked_len(config: &Config) -> u64 {
    let count = count_of(config.shards.count) as u64;
    locked(config.storage.cache_size.unwrap_or(UNCACHED_LEN * count), count)
}

/// All shards.
pub(super) struct Shards {
    shards: Vec<One>,
    peer_id: PeerId,
    checks_max: usize,
    /// The rates that all of them keep to together.
    upload_pace: Arc<Pace>,
    download_pace: Arc<Pace>,
    limits: Arc<Limits>,
    resting: Arc<Resting>,
    loan: Arc<Loan>,
    tracker_limits: Option<Arc<Limits>>,
}

struct One {
    handle: Handle,
    /// What it has served for the tracker, if there is one.
    served: Option<Arc<Served>>,
    /// What its mailbox had no room for. Bounded by what is told: two commands for each torrent at most at a time.
    waiting: VecDeque<Command>,
}

impl Shards {
    /// Starts them. The first one settles which ports are taken where the configuration leaves that open.
    /// `pool` hashes what they download, `events` takes what they cannot wait for.
    pub(super) fn start(
        config: &Config,
        patience: Patience,
        (pool, events): (&Arc<Pool>, &Events),
        tracker: Option<&Arc<Tracker>>,
    ) -> Result<Self, Error> {
        let cores = cores();
        let count = count_of(config.shards.count);
        if count > cores.len() {
            tracing::warn!(
                "{count} shards share {} cores, at a higher price for each block (hint: [shards] count = 0 makes one a core)",
                cores.len()
            );
        }
        let by_http = config.tracker.as_ref().filter(|tracker| !tracker.http.is_empty());
        let of_tracker = by_http.map_or(0, |tracker| tracker.max_connections); // Datagrams need none.
        let wanted = config.peers.max_connections + of_tracker;
        let descriptors = open_files::raise((config.peers.max_connections, of_tracker), count);
        // What there is of them is shared out as they were asked for.
        let of_memory = memory::budget(config, count);
        let connections = descriptors
            .connections
            .min(of_memory.map_or(usize::MAX, |budget| budget.connections));
        let of_tracker = connections * of_tracker / wanted;
        let of_peers = (connections - of_tracker).max(1);
        tell_connections((of_peers, of_tracker), wanted, descriptors.connections, of_memory);
        let mut listen = listened_at(&config.peers.listen, has_ipv6);
        ensure_all_free(config, &listen)?;
        let ring_entries = locked_memory::raise(count);
        let mut features = wanted_features()?;
        features.zero_copy &= config.peers.zero_copy;
        let caps = Caps {
            connections: of_peers,
            per_torrent: config.peers.max_connections_per_torrent,
            per_ip: config.peers.max_connections_per_ip,
        };
        let limits = Arc::new(Limits::new(caps));
        let resting = Arc::<Resting>::default();
        // Downloads are left the other half.
        let loan = Arc::new(Loan::new(config.storage.write_buffer / 2));
        let peer_id = peer_id()?;
        let pace = |rate: Option<u64>| Arc::new(Pace::new(rate.and_then(NonZeroU64::new), Instant::now()));
        let upload_pace = pace(config.limits.upload_rate);
        let download_pace = pace(config.limits.download_rate);
        let mut inboxes = VecDeque::with_capacity(count);
        let mut mailboxes = Vec::with_capacity(count);
        for index in 0..count {
            let (mailbox, inbox) = shard::mailbox().map_err(|errno| shard::StartError::Thread {
                index,
                source: errno.into(),
            })?;
            mailboxes.push(mailbox);
            inboxes.push_back(inbox);
        }
        let mailboxes: Arc<[Mailbox]> = mailboxes.into();
        let tracker_limits = config.tracker.as_ref().map(|tracker| {
            Arc::new(Limits::new(Caps {
                connections: of_tracker.max(1),
                per_torrent: usize::MAX,
                per_ip: tracker.max_connections_per_ip,
            }))
        });
        if let Some(device) = &config.peers.bind_device {
            settle_ports(device, &mut listen, &config.peers.bind_address)?;
        }
        let plan = config.tracker.as_ref();
        let mut tracker_udp = plan.map_or(Vec::new(), |plan| plan.udp.clone());
        let mut tracker_http = plan.map_or(Vec::new(), |plan| plan.http.clone());
        let (choker, upload_slots) = choking(&config.limits, count);
        let mut shards: Vec<One> = Vec::with_capacity(count);
        for index in 0..count {
            let pin_cpu = if config.shards.pin && !cores.is_empty() {
                Some(cores[index % cores.len()])
            } else {
                None
            };
            let inbox = inboxes.pop_front().expect("one for each shard");
            let service = tracker.zip(tracker_limits.as_ref()).map(|(tracker, limits)| Service {
                tracker: Arc::clone(tracker),
                limits: Arc::clone(limits),
                served: Arc::default(),
            });
            let served = service.as_ref().map(|service| Arc::clone(&service.served));
            let shard_config = ShardConfig {
                index,
                listen: listen.clone(),
                device: config.peers.bind_device.clone(),
                sources: config.peers.bind_address.clone(),
                tracker_udp: tracker_udp.clone(),
                tracker_http: tracker_http.clone(),
                pin_cpu,
                cache_len: config.storage.cache_size.map_or(UNCACHED_LEN, |len| len / count as u64),
                ring_entries,
                patience,
                // Any shard may be given all connections: which one gets a connection is the kernel's choice.
                descriptors_max: u32::try_from(of_peers + descriptors.files_per_shard).unwrap_or(u32::MAX),
                features,
                settings: Settings {
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                    mailboxes: Arc::clone(&mailboxes),
                    pool: Arc::clone(pool),
                    write_buffer: config.storage.write_buffer / count as u64,
                    loan: Arc::clone(&loan),
                    gather_wait: config.shards.gather_wait,
                    events: events.clone(),
                    peer_id,
                    limits: Arc::clone(&limits),
                    upload_slots,
                    choker,
                    read_mode: match config.storage.read_mode {
                        config::ReadMode::Auto => shard::ReadMode::Auto,
                        config::ReadMode::Direct => shard::ReadMode::Direct,
                        config::ReadMode::Buffered => shard::ReadMode::Buffered,
                    },
                    files_max: descriptors.files_per_shard,
                    upload_pace: Arc::clone(&upload_pace),
                    download_pace: Arc::clone(&download_pace),
                    tracker: service,
                    resting: Arc::clone(&resting),
                    stats: Arc::default(),
                },
            };
            let handle = shard::spawn(shard_config, mailboxes[index].clone(), inbox)?;
            // The shards differ in nothing the kernel sees, so the first one's notices are everybody's.
            for notice in handle.notices.iter().filter(|_| index == 0) {
                tracing::warn!("{notice}");
            }
            listen.clone_from(&handle.local_addrs);
            tracker_udp.clone_from(&handle.tracker_udp);
            tracker_http.clone_from(&handle.tracker_http);
            shards.push(One {
                handle,
                served,
                waiting: VecDeque::new(),
            });
        }
        Ok(Self {
            shards,
            peer_id,
            checks_max: descriptors.checks,
            upload_pace,
            download_pace,
            limits,
            resting,
            loan,
            tracker_limits,
        })
    }

    /// Keeps to these limits from now on, as far as no table was made for others, but for the rates ([`Self::set_rates`]). No
    /// connection ends for it.
    pub(super) fn keep_to(&mut self, config: &Config) {
        let peers = &config.peers;
        self.limits
            .set(peers.max_connections_per_torrent, peers.max_connections_per_ip);
        if let (Some(limits), Some(tracker)) = (&self.tracker_limits, &config.tracker) {
            limits.set(usize::MAX, tracker.max_connections_per_ip);
        }
        let (kind, slots) = choking(&config.limits, self.shards.len());
        self.tell(|| Command::Choke { kind, slots });
    }

    /// Changes the rates of all torrents together, in bytes a second; `None` is no limit.
    pub(super) fn set_rates(&self, upload: Option<u64>, download: Option<u64>) {
        let now = Instant::now();
        self.upload_pace.set(upload.and_then(NonZeroU64::new), now);
        self.download_pace.set(download.and_then(NonZeroU64::new), now);
    }

    /// Checks of payload that may run at once beside them.
    pub(super) fn checks_max(&self) -> usize {
        self.checks_max
    }

    /// What checks may borrow of their write buffers.
    pub(super) fn loan(&self) -> &Arc<Loan> {
        &self.loan
    }

    /// Whether one has ended without being told to: its ring broke.
    pub(super) fn any_has_ended(&self) -> bool {
        self.shards.iter().any(|shard| shard.handle.has_ended())
    }

    /// Listens by this device from now on, at the addresses that it is known by.
    pub(super) fn listen_by(&mut self, device: &str) -> Result<(), shard::StartError> {
        let listeners = |shard: &One| shard::listeners(device, &shard.handle.local_addrs);
        let all: Vec<_> = self.shards.iter().map(listeners).collect::<Result<_, _>>()?;
        for (shard, listeners) in self.shards.iter_mut().zip(all) {
            shard.waiting.push_back(Command::Listen(listeners));
        }
        self.flush();
        Ok(())
    }

    /// Where they listen, one address for each of the configuration.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        self.shards.first().map_or(&[], |shard| &shard.handle.local_addrs)
    }

    /// Where the tracker answers HTTP, and UDP.
    pub(super) fn tracker_addresses(&self) -> (&[SocketAddr], &[SocketAddr]) {
        let first = self.shards.first().map(|shard| &shard.handle);
        first.map_or((&[], &[]), |handle| (&handle.tracker_http, &handle.tracker_udp))
    }

    /// How many connections there may be, over all of them: of peers, and to the tracker if it is asked by HTTP.
    pub(super) fn connections_max(&self) -> (usize, Option<usize>) {
        let (http, _) = self.tracker_addresses();
        let of_tracker = self.tracker_limits.as_ref().filter(|_| !http.is_empty());
        let max = |limits: &Arc<Limits>| limits.caps().connections;
        (max(&self.limits), of_tracker.map(max))
    }

    /// What they have served for the tracker.
    pub(super) fn served(&self) -> Vec<Arc<Served>> {
        self.shards.iter().filter_map(|shard| shard.served.clone()).collect()
    }

    /// What they call themselves.
    pub(super) fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Their counters.
    pub(super) fn counters(&self) -> Vec<Arc<stats::Shared>> {
        self.shards
            .iter()
            .map(|shard| Arc::clone(&shard.handle.stats))
            .collect()
    }

    /// Serve this torrent, or download it.
    pub(super) fn add(&mut self, torrent: &Arc<Torrent>) {
        // Its home first: the others hand connections over to it as soon as they know it.
        let home = torrent
            .home()
            .map(|home| home as usize)
            .filter(|home| *home < self.shards.len());
        if let Some(home) = home {
            self.shards[home].waiting.push_back(Command::Add(Arc::clone(torrent)));
            self.flush();
        }
        for (index, shard) in self.shards.iter_mut().enumerate() {
            if Some(index) != home {
                shard.waiting.push_back(Command::Add(Arc::clone(torrent)));
            }
        }
        self.flush();
    }

    /// The shard that a torrent of this info-hash is downloaded by.
    pub(super) fn home_of(&self, info_hash: InfoHash) -> u32 {
        let InfoHash([a, b, c, d, ..]) = info_hash;
        u32::from_be_bytes([a, b, c, d]) % u32::try_from(self.shards.len()).unwrap_or(1).max(1)
    }

    /// Tells the home of a torrent something.
    pub(super) fn tell_home(&mut self, info_hash: InfoHash, command: Command) {
        let home = self.home_of(info_hash) as usize;
        self.shards[home].waiting.push_back(command);
        self.flush();
    }

    /// Serve it no more.
    pub(super) fn remove(&mut self, info_hash: InfoHash) {
        self.tell(|| Command::Remove(info_hash));
    }

    /// Which torrents they ask for when they are wanted.
    pub(super) fn resting(&self) -> Arc<Resting> {
        Arc::clone(&self.resting)
    }

    /// Let go of a torrent that nobody is connected for.
    pub(super) fn rest(&mut self, info_hash: InfoHash) {
        self.tell(|| Command::Rest(info_hash));
    }

    /// A torrent that some of them may have asked for is not served.
    pub(super) fn refuse(&mut self, info_hash: InfoHash) {
        self.tell(|| Command::Refuse(info_hash));
    }

    /// Asks each of them for a torrent's peers. One that has too much to do already, or ends, gives up its answer.
    pub(super) fn peers_of(&mut self, info_hash: InfoHash) -> Vec<oneshot::Receiver<PeersTold>> {
        let ask = |shard: &mut One| {
            let (answer, told) = oneshot::channel();
            if shard.waiting.len() < WAITING_MAX {
                let reply = PeersReply::new(move |peers| {
                    let _ = answer.send(peers); // Nobody may wait any more.
                });
                shard.waiting.push_back(Command::TellPeers { info_hash, reply });
            }
            told
        };
        let answers = self.shards.iter_mut().map(ask).collect();
        self.flush();
        answers
    }

    fn tell(&mut self, command: impl Fn() -> Command) {
        for shard in &mut self.shards {
            shard.waiting.push_back(command());
        }
        self.flush();
    }

    /// Tries again what a full mailbox did not take.
    pub(super) fn flush(&mut self) {
        for shard in &mut self.shards {
            while let Some(command) = shard.waiting.pop_front() {
                if let Err(shard::Full(command)) = shard.handle.send(command) {
                    shard.waiting.push_front(command);
                    break;
                }
            }
        }
    }

    /// Stops them and waits until they have.
    pub(super) async fn stop(self) {
        let stopped = blocking::run("btd-stop", move || {
            // All are told before any is waited for, and by a mailbox that has room again within a turn.
            for shard in &self.shards {
                while !shard.handle.has_ended() && shard.handle.send(Command::Stop).is_err() {
                    std::thread::sleep(MAILBOX_PAUSE);
                }
            }
            for shard in self.shards {
                let index = shard.handle.index;
                if let Err(errno) = shard.handle.join() {
                    tracing::error!("shard {index} ended with an error of its ring: {errno}");
                }
            }
        });
        if let Err(error) = stopped.await {
            tracing::error!("cannot wait for the shards to stop: {error}");
        }
    }
}

/// Says how many connections there may be, and what that comes of.
fn tell_connections(
    (of_peers, of_tracker): (usize, usize),
    wanted: usize,
    by_files: usize,
    by_memory: Option<memory::Budget>,
) {
    let of_tracker = match of_tracker {
        0 => String::new(),
        count => format!(" and {count} to the tracker"),
    };
    let by_memory_text = by_memory.map(|budget| format!(", {budget}")).unwrap_or_default();
    let text = format!(
        "at most {of_peers} connections of peers{of_tracker}: {wanted} by max-connections, {by_files} by open files{by_memory_text}"
    );
    match by_memory.is_some_and(|budget| budget.connections < wanted.min(by_files)) {
        true => tracing::warn!("{text} (hint: more memory, a smaller cache-size, or fewer of them)"),
        false => tracing::info!("{text}"),
    }
}

/// Who has upload slots in each of so many shards, and how many there are.
fn choking(limits: &config::Limits, shards: usize) -> (choker::Kind, u32) {
    let slots = u32::try_from(limits.upload_slots.div_ceil(shards.max(1))).unwrap_or(u32::MAX);
    (limits.seed_choker, slots)
}

/// What to use of io_uring: everything, but for what `BTD_URING_MASK` takes away to test the fallbacks.
pub(super) fn wanted_features() -> Result<Features, Error> {
    match std::env::var("BTD_URING_MASK") {
        Ok(mask) => Features::masked(&mask).map_err(Error::Features),
        Err(_) => Ok(Features::ALL),
    }
}

/// Chooses ports for addresses that have none, where the device that they are to be listened at by is not there yet: what trackers
/// are told and `ports.json` says has to hold when it is.
fn settle_ports(device: &str, listen: &mut [SocketAddr], sources: &[IpAddr]) -> Result<(), Error> {
    if Device::new(device).index().is_ok() {
        return Ok(());
    }
    for address in listen.iter_mut().filter(|address| address.port() == 0) {
        let refused = |source| Error::Listen {
            key: "[peers] listen",
            address: *address,
            source,
        };
        // Nobody listens at it: the kernel is asked for a number that is free.
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP)).map_err(refused)?;
        if sources.contains(&address.ip()) {
            shard::may_come_later(&socket, address.ip()).map_err(refused)?;
        }
        socket.bind(&SocketAddr::new(address.ip(), 0).into()).map_err(refused)?;
        let bound = socket.local_addr().map_err(refused)?.as_socket();
        address.set_port(bound.map_or(0, |bound| bound.port()));
    }
    Ok(())
}

/// Where peers are listened for. "Every IPv6 address" is none of them where the kernel has no IPv6, unless it is the only one.
fn listened_at(listen: &[SocketAddr], has_ipv6: impl FnOnce() -> bool) -> Vec<SocketAddr> {
    let is_every_ipv6 = |address: &SocketAddr| address.is_ipv6() && address.ip().is_unspecified();
    let (every, others): (Vec<SocketAddr>, _) = listen.iter().copied().partition(is_every_ipv6);
    if every.is_empty() || others.is_empty() || has_ipv6() {
        return listen.to_vec();
    }
    tracing::warn!("peers.listen: this kernel has no IPv6, peers come by IPv4 only");
    others
}

fn has_ipv6() -> bool {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP));
    !socket.is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()))
}

/// Waits for all addresses that are listened at.
fn ensure_all_free(config: &Config, listen: &Vec<SocketAddr>) -> Result<(), Error> {
    let tracker = config.tracker.as_ref();
    let tcp = (Type::STREAM, Protocol::TCP);
    let sources = &config.peers.bind_address[..];
    let lists = [
        (Some(listen), tcp, "[peers] listen", sources),
        (tracker.map(|tracker| &tracker.http), tcp, "[tracker] http", &[]),
        (
            tracker.map(|tracker| &tracker.udp),
            (Type::DGRAM, Protocol::UDP),
            "[tracker] udp",
            &[],
        ),
    ];
    for (addresses, kind, key, sources) in lists {
        for address in addresses.into_iter().flatten().copied() {
            wait_until_free(address, kind, sources).map_err(|source| Error::Listen { key, address, source })?;
        }
    }
    Ok(())
}

/// Waits a moment for a port that is taken: the kernel takes the rings of a btd that was killed down in the background,
/// and their listeners with them, for some 50 ms after the process is gone.
fn wait_until_free(address: SocketAddr, kind: (Type, Protocol), sources: &[IpAddr]) -> io::Result<()> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        match ensure_free(address, kind, sources) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(PORT_PAUSE);
            }
            result => return result,
        }
    }
}

/// Two programs of one user may listen on one port by SO_REUSEPORT, as the shards do, and would share the peers without
/// noticing. A socket that does not agree to that is refused while anybody listens. Of `sources` this machine need have none yet.
fn ensure_free(address: SocketAddr, (kind, protocol): (Type, Protocol), sources: &[IpAddr]) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    // Connections of an earlier run that the kernel still winds down are no reason to refuse. For datagrams the option would
    // mean that the port may be shared.
    socket.set_reuse_address(kind == Type::STREAM)?;
    if sources.contains(&address.ip()) {
        shard::may_come_later(&socket, address.ip())?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

/// The cores this process may use, by number.
fn cores() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).ok();
    let allowed: Vec<usize> = allowed
        .map(|set| {
            (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|core| set.is_set(*core))
                .collect()
        })
        .unwrap_or_default();
    // A machine with more cores than the set has room for: as many shards as cores, unpinned.
    if allowed.is_empty() { Vec::new() } else { allowed }
}

/// `-BT0100-` and twelve random characters, as BEP 20 has it: a new one for each run.
fn peer_id() -> Result<PeerId, Error> {
    use ring::rand::SecureRandom;
    let mut id = *b"-BT0100-............";
    ring::rand::SystemRandom::new()
        .fill(&mut id[8..])
        .map_err(|_| Error::Random)?;
    for byte in &mut id[8..] {
        // Characters that survive a URL and a log unescaped. 64 of them: no bias.
        *byte = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[usize::from(*byte % 64)];
    }
    Ok(PeerId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ipv6_address_is_none_where_the_kernel_has_no_ipv6() {
        let all = ["0.0.0.0:6881", "[::]:6881", "[::1]:6881"].map(|address| address.parse().expect("an address"));
        assert_eq!(listened_at(&all, || true), all);
        // One that was named by itself is wanted.
        assert_eq!(listened_at(&all, || false), [all[0], all[2]]);
        assert_eq!(listened_at(&all[1..2], || false), [all[1]]);
        assert_eq!(listened_at(&all[..1], || panic!("it is not asked")), [all[0]]);
    }

    #[test]
    fn slots_are_shared_out_and_given_as_the_configuration_has_it() {
        for seed_choker in [choker::Kind::RoundRobin, choker::Kind::FastestUpload] {
            let limits = config::Limits {
                upload_slots: 5,
                seed_choker,
                ..config::Limits::default()
            };
            assert_eq!(choking(&limits, 2), (seed_choker, 3));
        }
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_refused_with_a_hint() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("bound");
        let source = ensure_free(address, (Type::STREAM, Protocol::TCP), &[]).expect_err("it is taken");
        let key = "[peers] listen";
        let error = Error::Listen { key, address, source }.to_string();
        assert!(error.contains("another program has this port"), "{error}");
    }

    #[test]
    fn a_port_whose_datagrams_somebody_else_takes_is_refused() {
        let holder = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
        // As another btd of the same user would.
        holder.set_reuse_port(true).expect("set");
        holder
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .expect("a free port");
        let address = holder.local_addr().expect("bound").as_socket().expect("an address");
        let error = ensure_free(address, (Type::DGRAM, Protocol::UDP), &[]).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_whose_last_connections_wind_down_is_free() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("bound");
        let mut far = std::net::TcpStream::connect(address).expect("connected");
        let (near, _) = holder.accept().expect("accepted");
        // Who ends a connection first has its port in it for a minute, as btd does at its end.
        drop(near);
        let ended = std::io::Read::read(&mut far, &mut [0]).expect("its end");
        drop((far, holder));
        assert_eq!(ended, 0);
        ensure_free(address, (Type::STREAM, Protocol::TCP), &[]).expect("nobody listens there");
    }

    #[test]
    fn a_port_that_is_still_being_given_back_is_waited_for() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("bound");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || wait_until_free(address, (Type::STREAM, Protocol::TCP), &[]));
            drop(holder);
            waiting.join().expect("no panic").expect("it is free now");
        });
    }

    #[test]
    fn a_peer_id_names_the_client_and_differs_each_time() {
        let (one, two) = (peer_id().expect("random"), peer_id().expect("random"));
        assert!(one.0.starts_with(b"-BT0100-") && one.0 != two.0);
        assert!(
            one.0[8..]
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        );
    }
}
