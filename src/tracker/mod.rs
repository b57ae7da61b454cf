//! A BitTorrent tracker as values: datagrams and HTTP requests in, replies out.
//!
//! One [`Tracker`] is shared by all shards; each has a [`Worker`] of its own and serves what arrives at it, to the end.
//! What it speaks: HTTP announces and scrapes (BEP 3, 7, 23, 24, 31, 48), UDP (BEP 15, 41), and peers that go by a host
//! name ([`hostname`]). Several trackers can have the same swarms ([`sharing`]).
//!
//! Deliberately not here: sockets, connections and their deadlines, clocks, threads, files. Every moment is an argument.
//! Bytes from outside are hostile: they lead to a refusal or to silence, never to a panic, and to no more memory than
//! [`Settings::memory_max`].
//!
//! Where to go next: `udp` for the plainer of the two protocols, `store` for how peers are kept.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub mod access;
mod address;
mod connection_id;
mod counts;
pub mod hostname;
mod http;
mod random;
pub mod sharing;
mod siphash;
mod store;
mod udp;

pub use access::Access;
pub use counts::{Counts, Kind, Outcome};
pub use hostname::HostnameRule;

use connection_id::ConnectionIds;
use random::Random;
use sharing::Outbox;
use siphash::Key;
use store::{Store, StoreTotals};

/// The longest HTTP request, in bytes. `on_http` answers what has no end by then with 431 and closes.
pub const REQUEST_LEN_MAX: usize = 4096;
/// The longest datagram that is looked at, in bytes.
pub const DATAGRAM_LEN_MAX: usize = 2048;
/// How many torrents one HTTP scrape may ask for.
pub const SCRAPE_MAX: usize = 100;

/// How many peers a reply has when the peer does not say how many it wants.
const NUMWANT_DEFAULT: usize = 50;
/// For how long `/stats` tells the same: counting takes every lock of the store, and requests are free.
const RECOUNT: Duration = Duration::from_secs(1);
/// When a peer that was refused for want of memory may come again, in minutes (BEP 31).
const RETRY_IN_MIN: u64 = 5;
/// The same for one that came before it was known which torrents are served.
const STARTING_RETRY_IN_MIN: u64 = 1;

/// What the section `[tracker]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// When peers are asked to announce again. Who has not done so for twice as long is forgotten.
    pub interval: Duration,
    /// The least time between two announces of a peer; it is told, not enforced.
    pub min_interval: Duration,
    /// How many peers a reply has at most.
    pub numwant_max: usize,
    /// The host names that peers may go by.
    pub hostname_allow: HostnameRule,
    /// Whether a peer at a private address may announce another (`ip=`).
    pub trust_ip: bool,
    /// How many bytes the store may take.
    pub memory_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30 * 60),
            min_interval: Duration::from_secs(15 * 60),
            numwant_max: 200,
            hostname_allow: HostnameRule::default(),
            trust_ip: false,
            memory_max: 256 << 20,
        }
    }
}

/// The tracker, for all shards.
pub struct Tracker {
    settings: Settings,
    start: Instant,
    store: Store,
    connection_ids: ConnectionIds,
    /// What other trackers are to hear, if there are any.
    outbox: Option<Outbox>,
    access: Mutex<Arc<Access>>,
    /// Grows with each [`Tracker::set_access`]: workers look at this number instead of the lock.
    access_version: AtomicU64,
}

/// What a shard keeps of the tracker for itself.
pub struct Worker {
    random: Random,
    counts: Counts,
    access: Arc<Access>,
    access_version: u64,
    scratch: http::Scratch,
    /// What `/stats` told last, and when that was counted.
    counted: Option<(Instant, Totals)>,
}

/// What became of the bytes of an HTTP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    /// More is needed. Nothing was appended.
    Incomplete,
    /// A response was appended for the first `consumed` bytes.
    Answered {
        /// How many bytes are done with.
        consumed: usize,
        /// Whether the connection stays open after the response.
        keep_alive: bool,
    },
}

/// What the tracker knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Torrents, with those that have no peers but a count of completions.
    pub swarms: usize,
    /// IPv4 peers.
    pub peers_v4: usize,
    /// IPv6 peers.
    pub peers_v6: usize,
    /// How many of the peers have everything.
    pub seeders: usize,
    /// How many of the peers go by a host name.
    pub named: usize,
    /// The bytes of the store.
    pub bytes: usize,
    /// Peers forgotten because they were not heard of.
    pub swept: u64,
    /// Torrents that had to make way for others for want of memory.
    pub evicted: u64,
}

impl Tracker {
    /// A tracker that knows nobody. All hashes and connection ids follow from `secret`: it must be random, and need not
    /// be kept.
    pub fn new(settings: Settings, secret: [u8; 32], now: Instant) -> Self {
        let (keys, _) = secret.as_chunks::<16>();
        // Keys of their own for each purpose.
        let derive = |purpose: u8| -> [u8; 16] {
            let mut bytes = [0; 16];
            for (half, key) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(keys) {
                *half = Key::from_bytes(*key).hash_2_4(&[purpose]).to_le_bytes();
            }
            bytes
        };
        let mut store_secret = [0; 32];
        store_secret[..16].copy_from_slice(&derive(1));
        store_secret[16..].copy_from_slice(&derive(2));
        let lifetime = settings.interval.saturating_mul(2);
        Self {
            store: Store::new(store_secret, lifetime, settings.memory_max, now),
            connection_ids: ConnectionIds::new(Key::from_bytes(derive(3)), now),
            outbox: None,
            settings,
            start: now,
            access: Mutex::default(),
            access_version: AtomicU64::new(0),
        }
    }

    /// What a shard needs to serve requests. `seed` decides which peers replies have: another one for each shard.
    pub fn worker(&self, seed: u64) -> Worker {
        let mut worker = Worker {
            random: Random::new(seed),
            counts: Counts::default(),
            access: Arc::default(),
            access_version: 0,
            scratch: http::Scratch::default(),
            counted: None,
        };
        self.refresh_access(&mut worker);
        worker
    }

    /// Serves one datagram. The reply, if there is one, is what `reply` holds afterwards; it is cleared first.
    pub fn on_datagram(
        &self,
        worker: &mut Worker,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        reply: &mut Vec<u8>,
    ) {
        reply.clear();
        self.refresh_access(worker);
        let (kind, outcome) = self.serve_datagram(worker, from, datagram, now, reply);
        worker.counts.add(kind, outcome);
    }

    /// Serves the first request of what a connection has received and not had answered: appends a whole response to
    /// `reply`, and says how many bytes that was for. Call it again with the rest, until it says [`Http::Incomplete`]. A
    /// connection that is not kept alive is closed after the response, whatever else it has sent.
    pub fn on_http(
        &self,
        worker: &mut Worker,
        from: SocketAddr,
        received: &[u8],
        now: Instant,
        reply: &mut Vec<u8>,
    ) -> Http {
        self.refresh_access(worker);
        self.serve_http(worker, from, received, now, reply)
    }

    /// Forgets who has not been heard of for two intervals, a slice at a time: call it every tick (100 ms), from one shard
    /// or all. `budget` is about how many slots it may look at, 20 ns each at worst; it looks at more where it would fall
    /// behind otherwise.
    pub fn sweep(&self, now: Instant, budget: usize) {
        self.store.sweep(now, budget);
    }

    /// Says from now on which torrents are served. Peers of others stay until they are forgotten, but nobody is told of
    /// them.
    pub fn set_access(&self, access: Access) {
        let mut current = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(access);
        self.access_version.fetch_add(1, Ordering::Release);
    }

    /// What the tracker knows, for metrics.
    pub fn totals(&self) -> Totals {
        let StoreTotals {
            swarms,
            peers4,
            peers6,
            seeders,
            named,
            bytes,
            swept,
            evicted,
        } = self.store.totals();
        Totals {
            swarms,
            peers_v4: peers4,
            peers_v6: peers6,
            seeders,
            named,
            bytes,
            swept,
            evicted,
        }
    }

    /// What the tracker knows, or knew within the last second.
    fn totals_of_late(&self, worker: &mut Worker, now: Instant) -> Totals {
        match worker.counted {
            Some((at, totals)) if now.saturating_duration_since(at) < RECOUNT => totals,
            Some(_) | None => {
                let totals = self.totals();
                worker.counted = Some((now, totals));
                totals
            }
        }
    }

    /// Sees to it that the worker knows what `set_access` has said last. That is one load where nothing has changed.
    #[inline]
    fn refresh_access(&self, worker: &mut Worker) {
        if self.access_version.load(Ordering::Acquire) != worker.access_version {
            let current = self.access.lock().unwrap_or_else(PoisonError::into_inner);
            worker.access = Arc::clone(&current);
            // Under the lock, so that it belongs to what was taken.
            worker.access_version = self.access_version.load(Ordering::Acquire);
        }
    }

    /// How many peers a reply may have, of which so many are wanted.
    fn numwant(&self, wanted: Option<u64>) -> usize {
        let wanted = wanted.map_or(NUMWANT_DEFAULT, |wanted| usize::try_from(wanted).unwrap_or(usize::MAX));
        wanted.min(self.settings.numwant_max)
    }

    /// The IP address that a peer is kept by: the one it announces from, or the one it says if that may be believed.
    fn peer_ip(&self, from: IpAddr, said: Option<IpAddr>) -> IpAddr {
        let from = from.to_canonical();
        match said.map(|ip| ip.to_canonical()) {
            Some(said) if self.settings.trust_ip && address::is_private(from) && address::is_host(said) => said,
            Some(_) | None => from,
        }
    }
}

impl Worker {
    /// What it has counted so far.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }
}
