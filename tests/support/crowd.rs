//! Many peers of one bad manner at once, and what they cost others: a table of [`Crowd`]s is run against the real btd, each
//! beside honest leechers that are measured alone before and beside the crowd after.
//!
//! A crowd is driven by one thread, which comes round to each of its peers, so that a thousand of them cost the machine no more
//! than their bytes do. What a crowd is held to stands in its [`Bounds`].

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use btd::harness::Target;
use btd::harness::load::{Load, Order, Until, raise_open_files};
use btd::harness::report::Report;
use btd::proto::InfoHash;
use btd::proto::metainfo::Metainfo;

use super::btd::{Btd, Config};
use super::payload::Payload;
use super::peer::Peer;
use super::scratch::Scratch;
use super::torrent::Torrent;
use super::{wait_for, within};

pub const PIECE_LEN: u32 = 256 << 10;
pub const PIECE_COUNT: u32 = 128;
pub const BLOCK_LEN: u32 = 16 << 10;
const PAYLOAD_LEN: u64 = PIECE_LEN as u64 * PIECE_COUNT as u64;

/// Honest leechers, and what each asks for in a second. Far less than btd can give, also in a debug build on a machine that
/// does other things besides: what is measured is whether somebody is kept waiting, not how fast the machine is.
const HONEST: u32 = 8;
const HONEST_PACE: f64 = 1e6;
/// Requests that each has under way: a second's worth, so that what is measured is not how evenly blocks come.
const HONEST_QUEUE: usize = 64;
/// They get at least this much of what they got alone.
const SHARE_MIN: f64 = 0.9;
/// How long they are measured each time.
const MEASURED: Duration = Duration::from_secs(4);

/// Memory that btd may take beside a crowd whatever it does: pools that grow in steps, the allocator's reserve, the scrapes.
const MEMORY_SLACK: u64 = 12 << 20;

/// What one of a crowd is about to do. An error ends its connection.
pub type Come = fn(&Place, Ipv4Addr) -> io::Result<Peer>;
pub type Again = fn(&mut Member) -> io::Result<()>;

/// Where a crowd goes.
pub struct Place {
    pub server: SocketAddr,
    pub info_hash: InfoHash,
}

/// One of a crowd.
pub struct Member {
    pub peer: Peer,
    /// How often it was come round to.
    pub round: u64,
    /// When it came.
    since: Instant,
    /// How many of its seconds it has said something in.
    second: u64,
    /// What its socket has not taken yet of what it is saying.
    unsaid: Vec<u8>,
}

impl Member {
    /// Says this as far as the socket takes it, and the rest before anything else. Whoever does not read must not wait either:
    /// what is said while something is unsaid is left out.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unsaid.is_empty() {
            self.unsaid.extend_from_slice(bytes);
        }
        while !self.unsaid.is_empty() {
            match (&mut self.peer.stream()).write(&self.unsaid) {
                Ok(len) => drop(self.unsaid.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says this once a second.
    pub fn push_each_second(&mut self, bytes: &[u8]) -> io::Result<()> {
        let seconds = self.since.elapsed().as_secs();
        if seconds > self.second {
            self.second = seconds;
            self.push(bytes)?;
        }
        Ok(())
    }

    /// Whether all that was said has left.
    pub fn has_said_all(&self) -> bool {
        self.unsaid.is_empty()
    }

    /// Reads and drops what has come. An error is the connection's end.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        loop {
            match (&mut self.peer.stream()).read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What becomes of them.
pub enum Then {
    /// Every one is dropped for this reason no sooner and no later than so many seconds after the first came.
    AllDropped { reason: &'static str, seconds: (u64, u64) },
    /// They come again as soon as they are dropped, which happens for this reason and so many times at least.
    DroppedAgainAndAgain { reason: &'static str, times: u64 },
    /// They stay, and are served or left alone.
    Stay,
    /// So many are let in, and the others turned away at the door.
    TurnedAway { let_in: u64 },
}

/// What it may cost.
pub struct Bounds {
    /// Memory for each of them, in bytes.
    pub memory_each: u64,
    pub then: Then,
}

/// See the module's page.
pub struct Crowd {
    pub name: &'static str,
    pub count: u32,
    /// Whether all come from one address, not each from its own.
    pub together: bool,
    pub come: Come,
    pub again: Again,
    pub bounds: Bounds,
}

/// What the crowd's thread counts.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    /// Connections that were made.
    came: AtomicU64,
    /// Those that have ended.
    ended: AtomicU64,
    /// Rounds over all of them.
    rounds: AtomicU64,
    /// When the last of them ended, in milliseconds of the crowd's life.
    last_ended_ms: AtomicU64,
    first_ended_ms: AtomicU64,
}

impl Crowd {
    /// `BTD_TEST_CROWD` makes crowds so many times as large.
    fn count(&self) -> u32 {
        let times = std::env::var("BTD_TEST_CROWD")
            .ok()
            .and_then(|times| times.parse().ok());
        self.count * times.unwrap_or(1)
    }

    fn comes_back(&self) -> bool {
        matches!(self.bounds.then, Then::DroppedAgainAndAgain { .. })
    }

    fn source(&self, number: u32) -> Ipv4Addr {
        let first = Ipv4Addr::new(127, 60, 0, 1).to_bits();
        Ipv4Addr::from_bits(if self.together { first } else { first + number })
    }

    /// Comes round to each until it is told to stop.
    fn work(&self, place: &Place, progress: &Progress) {
        let started = Instant::now();
        let mut members: Vec<Option<Member>> = (0..self.count()).map(|_| None).collect();
        let mut is_gone = vec![false; members.len()];
        while !progress.stop.load(Relaxed) {
            for (number, (member, is_gone)) in (0..).zip(members.iter_mut().zip(&mut is_gone)) {
                if *is_gone {
                    continue;
                }
                let went = match member {
                    Some(member) => {
                        member.round += 1;
                        (self.again)(member)
                    }
                    None => (self.come)(place, self.source(number)).map(|peer| {
                        progress.came.fetch_add(1, Relaxed);
                        peer.set_nonblocking();
                        let (since, unsaid) = (Instant::now(), Vec::new());
                        *member = Some(Member {
                            peer,
                            round: 0,
                            second: 0,
                            since,
                            unsaid,
                        });
                    }),
                };
                if went.is_err() {
                    // One that was not let in has come and gone as well.
                    if member.take().is_none() {
                        progress.came.fetch_add(1, Relaxed);
                    }
                    *is_gone = !self.comes_back();
                    let now = started.elapsed().as_millis() as u64;
                    progress.last_ended_ms.store(now, Relaxed);
                    let first = progress.first_ended_ms.load(Relaxed);
                    progress
                        .first_ended_ms
                        .store(if first == 0 { now } else { first }, Relaxed);
                    progress.ended.fetch_add(1, Relaxed);
                }
            }
            progress.rounds.fetch_add(1, Relaxed);
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Raised when it is dropped, in a panic too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A btd with one torrent.
struct Scene {
    btd: Btd,
    target: Target,
    info_hash: InfoHash,
    _scratch: Scratch,
}

impl Scene {
    fn new(name: &str, connections: u32) -> Scene {
        let files = raise_open_files();
        let wanted = u64::from(connections) + 500;
        assert!(
            files >= wanted,
            "{wanted} open files are needed, the hard limit is {files}"
        );
        let scratch = Scratch::new(name);
        let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
        let payload = Payload::make(&data, "crowd.bin", 3, &[("crowd.bin".to_owned(), PAYLOAD_LEN)]);
        let torrent = Torrent::create(&payload.path(), PIECE_LEN, watch.join("crowd.torrent"));
        let bytes = fs::read(&torrent.path).expect("read the torrent");
        let metainfo = Metainfo::parse(&bytes).expect("a torrent of our own");
        let config = Config {
            watch: vec![(watch, data)],
            more: "[storage]\ncache-size = \"64 MiB\"\n".to_owned(),
            ..Config::default()
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        let all = (connections + 100).max(8_000).to_string();
        command.env("BTD_PEERS__MAX_CONNECTIONS", &all);
        command.env("BTD_PEERS__MAX_CONNECTIONS_PER_TORRENT", &all);
        // A slot for everybody: of more than have one, all wait for their turn.
        command.env("BTD_LIMITS__UPLOAD_SLOTS", &all);
        let btd = Btd::start_within(command, scratch.path(), &config);
        btd.wait_seeding(1);
        Scene {
            btd,
            target: Target::from(&metainfo),
            info_hash: metainfo.info_hash,
            _scratch: scratch,
        }
    }

    /// Has every shard send all of the payload, so that what its cache takes is not held against anybody who comes later.
    fn fill_cache(&self) {
        // As many as are not all of them one shard's.
        let connections = 16;
        let load = Load {
            connections,
            queue: HONEST_QUEUE,
            order: Order::Sequential,
            until: Until::Bytes(u64::from(connections) * PAYLOAD_LEN),
            fast: true,
            ..Load::new(self.btd.peers)
        };
        load.run(&self.target).expect("drive leechers of all of it");
    }

    /// Honest leechers for a while; every piece that one has whole is hashed.
    fn honest(&self, what: &str) -> Report {
        let load = Load {
            connections: HONEST,
            queue: HONEST_QUEUE,
            pace: Some(HONEST_PACE),
            until: Until::Elapsed(MEASURED),
            verify: 1.0,
            busy: false,
            fast: true,
            ..Load::new(self.btd.peers)
        };
        let report = load.run(&self.target).expect("drive the honest leechers");
        assert_eq!(
            report.connections.lost.len(),
            0,
            "{what}: {:?}",
            report.connections.lost
        );
        assert_eq!(
            (report.verified.bad, report.trouble.unasked),
            (0, 0),
            "{what}: {report}"
        );
        assert_eq!(report.connections.served, HONEST, "{what}: {report}");
        report
    }

    /// Memory of its own that btd has, in bytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.btd.process.pid()));
        let status = status.expect("btd is alive");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") << 10
    }

    fn drops(&self, reason: &str) -> u64 {
        self.btd.metric(&format!("btd_peer_drops_total{{reason=\"{reason}\"}}")) as u64
    }
}

/// Runs a crowd, and holds btd to its bounds.
pub fn stands(crowd: &Crowd) {
    let name = crowd.name;
    let count = u64::from(crowd.count());
    let scene = Scene::new(name, crowd.count());
    let place = Place {
        server: scene.btd.peers,
        info_hash: scene.info_hash,
    };
    scene.fill_cache();
    let alone = scene.honest("alone");
    let memory_before = scene.memory();
    let drops_before = match crowd.bounds.then {
        Then::AllDropped { reason, .. } | Then::DroppedAgainAndAgain { reason, .. } => scene.drops(reason),
        Then::Stay | Then::TurnedAway { .. } => 0,
    };
    let progress = Progress::default();
    thread::scope(|scope| {
        let stop = Stop(&progress.stop);
        scope.spawn(|| crowd.work(&place, &progress));
        wait_for("all of them have come", within(60), || {
            (progress.came.load(Relaxed) >= count).then_some(())
        });
        let rounds = progress.rounds.load(Relaxed);
        wait_for("each has set to work", within(60), || {
            (progress.rounds.load(Relaxed) >= rounds + 2).then_some(())
        });
        let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let beside = thread::scope(|inner| {
            let watcher = inner.spawn(|| {
                while !done.load(Relaxed) {
                    peak.fetch_max(scene.memory(), Relaxed);
                    thread::park_timeout(Duration::from_millis(100));
                }
            });
            let beside = {
                let _done = Stop(&done);
                // The honest ones never see it: their connections, pieces and pace are checked within.
                scene.honest(name)
            };
            watcher.join().expect("memory can be read");
            beside
        });
        let grown = peak.load(Relaxed).saturating_sub(memory_before);
        let share = beside.bytes as f64 / alone.bytes as f64;
        println!(
            "{name}: {count} peers; others had {:.1} MB/s alone and {:.1} beside ({share:.3}), p99 {:?} and {:?} ms; \
             memory grew by {} KiB, {} bytes for each; longest turns {}",
            alone.mb_per_second,
            beside.mb_per_second,
            alone.latency.map(|latency| latency.p99_ms),
            beside.latency.map(|latency| latency.p99_ms),
            grown >> 10,
            grown / count,
            stalls(&scene.btd),
        );
        assert!(
            share >= SHARE_MIN,
            "{name}: the others had {share:.3} of what they had alone"
        );
        let allowed = count * crowd.bounds.memory_each + MEMORY_SLACK;
        assert!(
            grown <= allowed,
            "{name}: memory grew by {grown} bytes, at most {allowed} allowed"
        );
        match crowd.bounds.then {
            Then::AllDropped { reason, seconds } => {
                wait_for(&format!("{name}: all are dropped"), within(seconds.1 + 10), || {
                    (progress.ended.load(Relaxed) == count).then_some(())
                });
                let first = progress.first_ended_ms.load(Relaxed);
                let last = progress.last_ended_ms.load(Relaxed);
                assert!(
                    first >= seconds.0 * 1000 && last <= seconds.1 * 1000,
                    "{name}: dropped between {first} and {last} ms"
                );
                counted(&scene, name, reason, drops_before + count);
            }
            Then::DroppedAgainAndAgain { reason, times } => {
                wait_for(&format!("{name}: dropped often enough"), within(60), || {
                    (progress.ended.load(Relaxed) >= times).then_some(())
                });
                wait_for(&format!("{name}: counted as {reason}"), within(10), || {
                    (scene.drops(reason) >= drops_before + times).then_some(())
                });
            }
            Then::Stay => {
                assert_eq!(progress.ended.load(Relaxed), 0, "{name}: some were dropped");
            }
            Then::TurnedAway { let_in } => {
                wait_for(&format!("{name}: turned away"), within(10), || {
                    (scene.btd.metric("btd_connections_turned_away_total") >= (count - let_in) as f64).then_some(())
                });
                assert_eq!(progress.ended.load(Relaxed), count - let_in, "{name}");
            }
        }
        drop(stop);
    });
    // Nothing is left of them.
    wait_for(&format!("{name}: all connections are gone"), within(30), || {
        (scene.btd.metric("btd_connections") == 0.0).then_some(())
    });
    scene.btd.stop();
}

fn counted(scene: &Scene, name: &str, reason: &str, times: u64) {
    let deadline = within(10);
    wait_for(&format!("{name}: counted as {reason}"), within(20), || {
        // What they were counted as instead is what one wants to know.
        let is_late = Instant::now() > deadline;
        assert!(
            !is_late,
            "{name}: {times} times {reason} expected:\n{}",
            all_drops(&scene.btd)
        );
        (scene.drops(reason) == times).then_some(())
    });
}

fn all_drops(btd: &Btd) -> String {
    let text = super::http::get(btd.metrics, "/metrics")
        .expect("read btd's metrics")
        .text();
    let drops = text.lines().filter(|line| line.starts_with("btd_peer_drops_total"));
    drops.collect::<Vec<_>>().join("\n")
}

/// How many turns of the shards took longer than so many seconds: the histogram's buckets from the last that is empty on.
fn stalls(btd: &Btd) -> String {
    let text = super::http::get(btd.metrics, "/metrics")
        .expect("read btd's metrics")
        .text();
    let buckets = text
        .lines()
        .filter(|line| line.starts_with("btd_loop_stall_seconds_bucket"));
    let buckets: Vec<(&str, u64)> = buckets
        .filter_map(|line| {
            let (key, count) = line.rsplit_once(' ')?;
            let le = key.split("le=\"").nth(1)?.split('"').next()?;
            Some((le, count.parse().ok()?))
        })
        .collect();
    let all = buckets.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let bound = buckets.iter().find(|(_, count)| *count == all);
    bound.map_or(String::new(), |(le, _)| format!("<= {le} s"))
}
