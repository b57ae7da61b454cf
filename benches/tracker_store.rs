//! What the tracker costs without sockets: an announce, a scrape, and the memory of each peer and the time it
//! takes to look whether it is to be forgotten.
//!
//! `cargo bench --bench tracker_store` measures times; `cargo bench --bench tracker_store -- memory` fills a tracker in a
//! process of its own for each population and says what the process grew by. Figures are in PERF.md.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use btd::tracker::{Settings, Tracker, Worker};
use criterion::{BatchSize, Criterion};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many addresses announce: peers differ by address and port.
const SOURCES: u32 = 16;
const NUMWANT: i32 = 50;
/// More than anything here needs.
const MEMORY_MAX: usize = 4 << 30;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A number from 0 up to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Which torrent an announce is for.
enum Torrents {
    /// The n-th as often as 1/n.
    Zipf(Vec<f64>),
    /// All of so many alike.
    Even(usize),
}

impl Torrents {
    fn zipf(count: usize) -> Self {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=count)
            .map(|n| {
                sum += 1.0 / n as f64;
                sum
            })
            .collect();
        Self::Zipf(sums.iter().map(|part| part / sum).collect())
    }

    fn count(&self) -> usize {
        match self {
            Self::Zipf(sums) => sums.len(),
            Self::Even(count) => *count,
        }
    }

    fn draw(&self, random: &mut Random) -> usize {
        match self {
            Self::Zipf(sums) => {
                let at = random.fraction();
                sums.partition_point(|sum| *sum < at).min(sums.len() - 1)
            }
            Self::Even(count) => random.below(*count),
        }
    }
}

/// A tracker and who announces to it by UDP.
struct World {
    tracker: Tracker,
    worker: Worker,
    now: Instant,
    sources: Vec<(SocketAddr, [u8; 8])>,
    reply: Vec<u8>,
}

impl World {
    fn new(v6: bool, memory_max: usize) -> Self {
        let now = Instant::now();
        let settings = Settings {
            memory_max,
            ..Settings::default()
        };
        let tracker = Tracker::new(settings, [7; 32], now);
        let mut worker = tracker.worker(1);
        let mut reply = Vec::with_capacity(2048);
        let connect = [&0x417_2710_1980_u64.to_be_bytes()[..], &[0; 8]].concat();
        let source = |n: u32| {
            let ip = if v6 {
                IpAddr::from(Ipv6Addr::from(0xfd00_0009_u128 << 96 | u128::from(n)))
            } else {
                IpAddr::from(Ipv4Addr::from(0x0a09_0000 | n))
            };
            let source = SocketAddr::new(ip, 2000);
            tracker.on_datagram(&mut worker, source, &connect, now, &mut reply);
            (source, *reply.last_chunk().expect("a connection id"))
        };
        let sources = (0..SOURCES).map(source).collect();
        Self {
            tracker,
            worker,
            now,
            sources,
            reply,
        }
    }

    /// An announce of a torrent's n-th peer; one of three is a leecher.
    fn announce(&mut self, torrent: usize, peer: u32, event: u32, numwant: i32) {
        self.announce_as(torrent, peer, event, numwant, u64::from(peer.is_multiple_of(3)));
    }

    fn announce_as(&mut self, torrent: usize, peer: u32, event: u32, numwant: i32, left: u64) {
        let mut datagram = [0; 98];
        let (source, id) = self.sources[(peer % SOURCES) as usize];
        let port = u16::try_from(peer / SOURCES + 1).expect("a port for each peer");
        datagram[..8].copy_from_slice(&id);
        datagram[11] = 1;
        datagram[16..36].copy_from_slice(&info_hash(torrent));
        datagram[64..72].copy_from_slice(&left.to_be_bytes());
        datagram[80..84].copy_from_slice(&event.to_be_bytes());
        datagram[92..96].copy_from_slice(&numwant.to_be_bytes());
        datagram[96..].copy_from_slice(&port.to_be_bytes());
        self.tracker
            .on_datagram(&mut self.worker, source, &datagram, self.now, &mut self.reply);
        // Or refused, where there is a cap.
        assert!(matches!(self.reply[3], 1 | 3), "an announce without an answer");
    }

    /// So many peers, one after another in whichever swarm chance has it. Returns how many each torrent has.
    fn fill(&mut self, torrents: &Torrents, peers: usize, numwant: i32) -> Vec<u32> {
        let mut random = Random(1);
        let mut counts = vec![0; torrents.count()];
        for _ in 0..peers {
            let torrent = torrents.draw(&mut random);
            self.announce(torrent, counts[torrent], 2, numwant);
            counts[torrent] += 1;
        }
        counts
    }
}

/// As random as a hash is.
fn info_hash(torrent: usize) -> [u8; 20] {
    let mut random = Random(torrent as u64);
    let mut hash = [0; 20];
    hash[..8].copy_from_slice(&random.next().to_le_bytes());
    hash[8..16].copy_from_slice(&random.next().to_le_bytes());
    hash
}

/// The process's own memory, in bytes: without the pages of the program, which come in as it is first used.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.expect("a line").trim().trim_end_matches(" kB");
    1024 * kib.parse::<usize>().expect("a number")
}

/// Name, peers, torrents, whether IPv6.
fn populations() -> [(&'static str, usize, Torrents, bool); 4] {
    [
        (
            "1 M IPv4 peers, 10,000 torrents",
            1_000_000,
            Torrents::zipf(10_000),
            false,
        ),
        (
            "5 M IPv4 peers, 10,000 torrents",
            5_000_000,
            Torrents::zipf(10_000),
            false,
        ),
        (
            "1 M IPv6 peers, 10,000 torrents",
            1_000_000,
            Torrents::zipf(10_000),
            true,
        ),
        (
            "1 M IPv4 peers, 632,000 torrents",
            1_000_000,
            Torrents::Even(1_000_000),
            false,
        ),
    ]
}

/// Fills a tracker with one of the populations and says what it took.
fn memory(at: usize) {
    let (name, peers, torrents, v6) = populations().into_iter().nth(at).expect("a population");
    let mut world = World::new(v6, MEMORY_MAX);
    let warm = vec![1_u32; torrents.count()];
    black_box(&warm);
    let before = resident();
    let counts = world.fill(&torrents, peers, 0);
    let grown = (resident() - before).saturating_sub(counts.len() * 4);
    // Passes in which nobody is old yet: a pass begins when the clock has moved on.
    let mut passes: Vec<Duration> = (1..=20)
        .map(|pass| {
            let began = Instant::now();
            world
                .tracker
                .sweep(world.now + Duration::from_secs(19) * pass, usize::MAX);
            began.elapsed()
        })
        .collect();
    passes.sort_unstable();
    let sweep = passes[passes.len() / 2];
    let totals = world.tracker.totals();
    assert_eq!(totals.peers_v4 + totals.peers_v6, peers);
    println!(
        "{name}: {} torrents, {:.2} bytes a peer in tables, {:.2} by the process's growth; a sweep of all {:.1} ns a peer",
        totals.swarms,
        totals.bytes as f64 / peers as f64,
        grown as f64 / peers as f64,
        sweep.as_nanos() as f64 / peers as f64,
    );
}

/// Ten million made-up torrents with one peer each, beside a real one, within the default cap.
fn flood() {
    let cap = Settings::default().memory_max;
    let mut world = World::new(false, cap);
    (0..1000).for_each(|peer| world.announce(usize::MAX, peer, 2, 0));
    let before = resident();
    let began = Instant::now();
    let (mut most, mut refused) = (0, 0);
    for torrent in 0..10_000_000 {
        world.announce(torrent, 1, 2, NUMWANT);
        refused += u32::from(world.reply[3] == 3);
        if torrent % 100_000 == 0 {
            most = most.max(world.tracker.totals().bytes);
        }
    }
    let took = began.elapsed();
    let totals = world.tracker.totals();
    assert!(most <= cap, "{most} bytes of {cap}");
    println!(
        "10 M made-up torrents: at most {} MiB of {} in tables, the process grew by {} MiB; {} torrents kept, {} made way, \
         {refused} refused, {} ns each",
        most >> 20,
        cap >> 20,
        (resident() - before) >> 20,
        totals.swarms,
        totals.evicted,
        took.as_nanos() / 10_000_000,
    );
}

fn announces(c: &mut Criterion) {
    let mut group = c.benchmark_group("announce");
    group.sample_size(30).measurement_time(Duration::from_secs(3));
    for size in [50, 50_000] {
        let mut world = World::new(false, MEMORY_MAX);
        // Among others, so that the caches hold neither whole.
        world.fill(&Torrents::zipf(1000), 100_000, 0);
        // All alike and fewer wanted than there are, so that replies are of one length.
        (0..size).for_each(|peer| world.announce_as(5000, peer, 2, 0, 1));
        let mut random = Random(2);
        group.bench_function(format!("again, swarm of {size}"), |b| {
            b.iter(|| world.announce_as(5000, random.below(size as usize) as u32, 0, 40, 1));
        });
        group.bench_function(format!("leave and come back, swarm of {size}"), |b| {
            b.iter(|| {
                let peer = random.below(size as usize) as u32;
                world.announce_as(5000, peer, 3, 40, 1);
                world.announce_as(5000, peer, 2, 40, 1);
            });
        });
    }
    for peers in [500_000, 5_000_000] {
        let mut world = World::new(false, MEMORY_MAX);
        let torrents = Torrents::zipf(10_000);
        let counts = world.fill(&torrents, peers, 0);
        let mut random = Random(3);
        group.bench_function(format!("again, {peers} peers over 10,000 torrents"), |b| {
            b.iter_batched(
                || {
                    let torrent = torrents.draw(&mut random);
                    (torrent, random.below(counts[torrent].max(1) as usize) as u32)
                },
                |(torrent, peer)| world.announce(torrent, peer, 0, NUMWANT),
                BatchSize::NumIterations(10_000),
            );
        });
    }
    group.finish();
}

fn scrapes(c: &mut Criterion) {
    let mut world = World::new(false, MEMORY_MAX);
    world.fill(&Torrents::zipf(10_000), 500_000, 0);
    let (source, id) = world.sources[0];
    let mut random = Random(4);
    c.bench_function("scrape of 50", |b| {
        b.iter_batched(
            || {
                let mut datagram = [&id[..], &[0, 0, 0, 2, 0, 0, 0, 0]].concat();
                (0..50).for_each(|_| datagram.extend_from_slice(&info_hash(random.below(10_000))));
                datagram
            },
            |datagram| {
                world
                    .tracker
                    .on_datagram(&mut world.worker, source, &datagram, world.now, &mut world.reply);
                assert_eq!(world.reply.len(), 8 + 12 * 50);
            },
            BatchSize::NumIterations(1000),
        );
    });
}

fn http(c: &mut Criterion) {
    let mut world = World::new(false, MEMORY_MAX);
    (0..1000).for_each(|peer| world.announce(1, peer, 2, 0));
    let hash: String = info_hash(1).iter().map(|byte| format!("%{byte:02x}")).collect();
    let request = format!(
        "GET /announce?info_hash={hash}&peer_id=-XX0001-abcdefghijkl&port=1&uploaded=0&downloaded=0&left=1&compact=1\
         &numwant=50 HTTP/1.1\r\nHost: tracker.example:6969\r\nUser-Agent: client/1.0\r\nAccept-Encoding: gzip\r\n\r\n"
    );
    let (source, _) = world.sources[0];
    c.bench_function("HTTP announce", |b| {
        b.iter(|| {
            world.reply.clear();
            let World {
                tracker,
                worker,
                now,
                reply,
                ..
            } = &mut world;
            black_box(tracker.on_http(worker, source, request.as_bytes(), *now, reply));
        });
    });
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().position(|arg| arg == "memory") {
        None => {
            let mut criterion = Criterion::default().configure_from_args();
            announces(&mut criterion);
            scrapes(&mut criterion);
            http(&mut criterion);
            criterion.final_summary();
        }
        Some(at) => match args.get(at + 1).and_then(|number| number.parse().ok()) {
            Some(number) if number < populations().len() => memory(number),
            Some(_) => flood(),
            None => {
                // Each in a process of its own: memory that was given back does not count for the next.
                for number in 0..=populations().len() {
                    let this = std::env::current_exe().expect("this program");
                    let status = Command::new(this).args(["memory", &number.to_string()]).status();
                    assert!(status.expect("a process").success());
                }
            }
        },
    }
}
