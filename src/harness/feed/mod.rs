//! A swarm of seeders that feeds a downloading client of any make, and measures what that costs the client.
//!
//! One run: listen or call, answer requests with blocks from memory, end when the client has everything. The seeders may be
//! at the end of a path with a delay and a rate, which the harness plays itself (`path`, `link`): the kernel has to have
//! nothing for it, and the client meets nothing but late bytes on a loopback socket. What a real path has beside that (slow
//! start, loss, the round trip of TCP's own handshake) is missing.
//!
//! - `seeders`: the sockets. `link`: one connection, without its socket. `path`: rates and distances.
//! - `ledger`: what was asked, sent, and told. `timeline`: the same by the second. `names`: final names.
//! - [`report`]: what came of it.

mod ledger;
mod link;
mod names;
mod path;
mod payload;
pub mod report;
mod seeders;
mod timeline;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::proto::metainfo::Metainfo;

use super::load::raise_open_files;
use super::procfs::{self, Host, Machine, Memory, Tree, Usage};
use super::report::per_gib;
use names::Names;
pub use payload::PayloadError;
use payload::Torrent;
use report::{Client, Connections, Report, Requests, Settings};
use seeders::Seeders;

/// How often the client's memory and CPU time are looked at.
const SAMPLE: Duration = Duration::from_millis(500);
/// A client that was sent everything, and has wanted nothing for so long, is done though it has not said so.
const UNWANTED: Duration = Duration::from_secs(2);
/// A client that has not come, or asked for anything, for so long is told to be waited for.
const TAKES_TIME: Duration = Duration::from_secs(3);
/// While it is waited for names and the end.
const SOON: Duration = Duration::from_millis(2);
/// The largest swarm: each seeder has its own loopback address and descriptor.
pub const SEEDERS_MAX: u32 = 4096;

/// Who calls whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The client calls: the first seeder listens here, the others at the addresses that follow. Port 0 is any, for each.
    Listen(SocketAddrV4),
    /// The seeders call the client, again and again until it lets them stay.
    Connect {
        /// Where the client listens.
        client: SocketAddr,
        /// The first seeder's address when the client is on loopback; the others follow it.
        source: Ipv4Addr,
    },
}

/// A swarm of seeders, and what it does for a client.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Who calls whom.
    pub way: Way,
    /// The client's process, if its CPU time and memory are to be measured.
    pub pid: Option<u32>,
    /// A file in which its number will be when the client shakes hands.
    pub pid_file: Option<PathBuf>,
    /// How many seeders, of all kinds.
    pub seeders: u32,
    /// Bytes a second of each seeder; `None` is as fast as it goes.
    pub rate: Option<u64>,
    /// From one end of the path to the other.
    pub delay: Duration,
    /// Bytes a second of the path; `None` is without limit.
    pub path_rate: Option<u64>,
    /// Requests that a seeder's queue takes, as it says in its extension handshake.
    pub reqq: u32,
    /// How many of the seeders send wrong bytes.
    pub liars: u32,
    /// How many of them send at `slow_rate`.
    pub slow: u32,
    /// Bytes a second of the slow.
    pub slow_rate: u64,
    /// How many of them cut the connection now and then.
    pub dropping: u32,
    /// How long after the first request it ends at the latest, and how long that is waited for.
    pub limit: Duration,
    /// How long the client is measured after it has everything: some write then.
    pub linger: Duration,
    /// Files that have these names when the client is done.
    pub watch: Vec<PathBuf>,
    /// Never sleep once the client is there. A sleeping seeder's wake-up is charged to the client.
    pub busy: bool,
    /// Decides when connections are dropped.
    pub seed: u64,
}

impl Feed {
    /// One honest seeder that listens, flat out and near; every field may be changed.
    pub fn new(way: Way) -> Feed {
        Feed {
            way,
            pid: None,
            pid_file: None,
            seeders: 1,
            rate: None,
            delay: Duration::ZERO,
            path_rate: None,
            reqq: 500,
            liars: 0,
            slow: 0,
            slow_rate: 100_000,
            dropping: 0,
            limit: Duration::from_secs(600),
            linger: Duration::ZERO,
            watch: Vec::new(),
            busy: true,
            seed: 1,
        }
    }

    /// Reads the payload of `metainfo` under `data`, and listens.
    pub fn bind(self, metainfo: &Metainfo, data: &Path) -> Result<Bound, Error> {
        self.check()?;
        let torrent = Torrent::read(metainfo, data)?;
        let clock = Instant::now();
        raise_open_files();
        let seeders = Seeders::new(&self, torrent, clock)?;
        Ok(Bound {
            feed: self,
            seeders,
            clock,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what| Err(Error::Setting(what));
        let special = u64::from(self.liars) + u64::from(self.slow) + u64::from(self.dropping);
        match self {
            feed if !(1..=SEEDERS_MAX).contains(&feed.seeders) => wrong("seeders: from 1 to 4,096"),
            feed if special > u64::from(feed.seeders) => wrong("liars, slow and dropping: no more than seeders"),
            feed if feed.liars == feed.seeders => {
                wrong("liars: from nobody else the client would never have everything")
            }
            feed if !(1..=65_536).contains(&feed.reqq) => wrong("reqq: from 1 to 65,536"),
            feed if feed.delay > Duration::from_secs(60) => wrong("delay: at most a minute"),
            feed if [feed.rate, feed.path_rate, Some(feed.slow_rate)].contains(&Some(0)) => wrong("rates: from 1 B/s"),
            _ => Ok(()),
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that no run could have.
    #[error("{0}")]
    Setting(&'static str),
    /// The payload is not there.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A seeder cannot listen there.
    #[error("cannot listen at {listen}: {error}")]
    Listen {
        /// Where it was to.
        listen: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The seeders' own sockets or counters failed.
    #[error("the seeders failed: {0}")]
    Sockets(io::Error),
    /// The client's process cannot be read: it is gone, or somebody else's.
    #[error("cannot read the client's CPU time and memory: {0}")]
    Client(io::Error),
    /// The file that should name the client's process does not.
    #[error("{path}: {error}")]
    PidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
}

/// Seeders that listen, or are about to call, and have met nobody yet.
pub struct Bound {
    feed: Feed,
    seeders: Seeders,
    clock: Instant,
}

impl Bound {
    /// Where the seeders listen; nowhere if they call.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        self.seeders.addresses().map_err(Error::Sockets)
    }

    /// Feeds the client until it has everything, or time is up. Once it has to be waited for, whom for is told to `waits`.
    pub fn run(mut self, mut waits: impl FnMut(&str)) -> Result<Report, Error> {
        let mut waiting = Waiting::default();
        let mut names = Names::new(self.feed.watch.clone());
        let (mut measure, mut unwanted_at, mut done_at) = (None, None, None);
        loop {
            let latest = match self.seeders.ledger.is_fed() {
                true => self.clock.elapsed() + SOON,
                false => Duration::MAX,
            };
            self.seeders.turn(latest).map_err(Error::Sockets)?;
            let now = self.clock.elapsed();
            let (torrent, ledger) = (self.seeders.torrent(), &self.seeders.ledger);
            let so_far = (ledger.met_at, ledger.asked_at);
            if let Some(whom) = waiting.look((&self.feed, &torrent.name), so_far, now) {
                waits(&whom);
            }
            if measure.is_none() && self.seeders.ledger.met_at.is_some() {
                measure = Some(Measure::begin(&self.feed, now)?);
            }
            if let Some(measure) = &mut measure {
                measure.sample(now);
            }
            if self.seeders.ledger.is_fed() {
                names.look(now);
                unwanted_at = match self.seeders.is_wanted() {
                    true => None,
                    false => unwanted_at.or(Some(now)),
                };
            }
            let is_whole = self.seeders.ledger.whole_at.is_some() || unwanted_at.is_some_and(|at| now - at >= UNWANTED);
            if is_whole && names.are_there() && done_at.is_none() {
                done_at = Some(now);
            }
            let began = self.seeders.ledger.asked_at.unwrap_or_default();
            if done_at.is_some_and(|at| now - at >= self.feed.linger) || now - began >= self.feed.limit {
                break;
            }
        }
        let measured = measure.map(|measure| measure.end(self.clock.elapsed()));
        self.report(&names, (done_at.is_some(), unwanted_at), measured.transpose()?)
    }

    fn report(
        self,
        names: &Names,
        (whole, unwanted_at): (bool, Option<Duration>),
        measured: Option<Measured>,
    ) -> Result<Report, Error> {
        let Bound { feed, seeders, .. } = self;
        let (torrent, ledger) = (seeders.torrent(), &seeders.ledger);
        let counts = &ledger.counts;
        let total = torrent.geometry.total_len();
        let new_bytes = counts.sent_bytes - counts.sent_again_bytes;
        let began = ledger.asked_at.unwrap_or_default();
        let sent_at = ledger.sent_at.unwrap_or(began);
        let seconds = (sent_at - began).as_secs_f64();
        let after_sent = |at: Option<Duration>| Some(at?.saturating_sub(sent_at).as_secs_f64() * 1e3);
        let measured = measured.unwrap_or_default();
        Ok(Report {
            settings: Settings {
                torrent: torrent.name.clone(),
                seeders: feed.seeders,
                connect: match feed.way {
                    Way::Listen(_) => None,
                    Way::Connect { client, .. } => Some(client.to_string()),
                },
                rate: feed.rate,
                delay_ms: feed.delay.as_secs_f64() * 1e3,
                path_rate: feed.path_rate,
                reqq: feed.reqq,
                liars: feed.liars,
                slow: feed.slow,
                slow_rate: feed.slow_rate,
                dropping: feed.dropping,
                busy: feed.busy,
            },
            host: measured.host.unwrap_or_else(Host::look),
            ended: if whole { "whole" } else { "time is up" },
            bytes: total,
            seconds,
            mb_per_second: new_bytes as f64 / 1e6 / seconds.max(1e-9),
            setup_seconds: (began.saturating_sub(ledger.met_at.unwrap_or(began))).as_secs_f64(),
            whole_after_ms: after_sent(ledger.whole_at),
            unwanted_after_ms: after_sent(unwanted_at),
            named_after_ms: after_sent(names.named_at),
            named_early: names.early,
            rates: seeders.timeline.rates(sent_at - began),
            depth_means: seeders.timeline.depth_means(),
            depth_maxima: seeders.timeline.depth_maxima(),
            requests: Requests {
                received: counts.requests,
                again: counts.asked_again,
                refused: counts.refused,
                cancelled: counts.cancelled,
                invalid: counts.invalid,
                sent_bytes: counts.sent_bytes,
                sent_again_bytes: counts.sent_again_bytes,
                lied_bytes: counts.lied_bytes,
                waste: counts.sent_again_bytes as f64 / total as f64,
            },
            connections: Connections {
                opened: seeders.met.opened,
                lost: seeders
                    .met
                    .lost
                    .iter()
                    .map(|(fault, count)| (fault.name(), *count))
                    .collect(),
            },
            client: measured.client.map(|client| {
                let cpu = client.usage.user + client.usage.system;
                Client {
                    cpu_seconds_per_gib: per_gib(cpu, new_bytes),
                    cpu_percent: 100.0 * cpu / measured.seconds.max(1e-9),
                    ..client
                }
            }),
            load_cpu_seconds: measured.own.user + measured.own.system,
            machine_busy_seconds: measured.machine.busy,
            machine_stolen_seconds: measured.machine.stolen,
            measured_seconds: measured.seconds,
        })
    }
}

/// Whom is waited for, told once he takes his time.
#[derive(Default)]
struct Waiting {
    is_met_told: bool,
    is_asked_told: bool,
}

impl Waiting {
    /// `met` and `asked`: when the client has first shaken hands, and asked for something.
    fn look(
        &mut self,
        (feed, name): (&Feed, &str),
        (met, asked): (Option<Duration>, Option<Duration>),
        now: Duration,
    ) -> Option<String> {
        let (whom, what) = match (met, asked) {
            (None, _) if !self.is_met_told && now >= TAKES_TIME => {
                self.is_met_told = true;
                match feed.way {
                    Way::Listen(_) => (
                        "a client".to_owned(),
                        "none has called a seeder and shaken hands for it yet",
                    ),
                    Way::Connect { client, .. } => (format!("the client at {client}"), "it has let no seeder stay yet"),
                }
            }
            (Some(met), None) if !self.is_asked_told && now >= met + TAKES_TIME => {
                self.is_asked_told = true;
                (
                    "the client".to_owned(),
                    "it has shaken hands, and asked for nothing yet",
                )
            }
            _ => return None,
        };
        let seconds = feed.limit.as_secs_f64();
        Some(format!(
            "waiting for {whom} that downloads {name:?}, until {seconds:.0} s after the start: {what}"
        ))
    }
}

/// The client and the machine, from the first handshake on.
struct Measure {
    host: Host,
    began: Duration,
    own: Usage,
    machine: Machine,
    client: Option<Sampled>,
}

struct Sampled {
    tree: Tree,
    before: Usage,
    memory_before: Memory,
    /// The latest.
    usage: Usage,
    memory: Memory,
    memory_peak: Memory,
    at: Duration,
    gone: bool,
}

#[derive(Default)]
struct Measured {
    host: Option<Host>,
    seconds: f64,
    own: Usage,
    machine: Machine,
    client: Option<Client>,
}

impl Measure {
    fn begin(feed: &Feed, now: Duration) -> Result<Measure, Error> {
        let pid = match (&feed.pid, &feed.pid_file) {
            (Some(pid), _) => Some(*pid),
            (None, Some(path)) => Some(read_pid(path)?),
            (None, None) => None,
        };
        let sampled = |pid: u32| {
            let tree = Tree::new(pid);
            let (usage, memory) = (tree.usage()?, tree.memory(false)?);
            Ok(Sampled {
                tree,
                before: usage,
                memory_before: memory,
                usage,
                memory,
                memory_peak: memory,
                at: now,
                gone: false,
            })
        };
        Ok(Measure {
            host: Host::look(),
            began: now,
            own: Tree::new(std::process::id()).usage().map_err(Error::Sockets)?,
            machine: procfs::machine().map_err(Error::Sockets)?,
            client: pid.map(sampled).transpose().map_err(Error::Client)?,
        })
    }

    /// Looks at the client, if it is time to.
    fn sample(&mut self, now: Duration) {
        if let Some(client) = &mut self.client
            && now - client.at >= SAMPLE
        {
            client.look(now);
        }
    }

    fn end(mut self, now: Duration) -> Result<Measured, Error> {
        let machine = procfs::machine().map_err(Error::Sockets)?;
        let own = Tree::new(std::process::id()).usage().map_err(Error::Sockets)?;
        if let Some(client) = &mut self.client {
            client.look(now);
        }
        Ok(Measured {
            host: Some(self.host),
            seconds: (now - self.began).as_secs_f64(),
            own: own.since(&self.own),
            machine: Machine {
                busy: machine.busy - self.machine.busy,
                stolen: machine.stolen - self.machine.stolen,
            },
            client: self.client.map(|client| Client {
                usage: client.usage.since(&client.before),
                cpu_seconds_per_gib: None,
                cpu_percent: 0.0,
                memory_before: client.memory_before,
                memory_peak: client.memory_peak,
                memory_after: client.memory,
                gone: client.gone,
            }),
        })
    }
}

impl Sampled {
    /// A client that has ended keeps what it was last seen with.
    fn look(&mut self, now: Duration) {
        self.at = now;
        if let Ok(usage) = self.tree.usage() {
            self.usage = usage;
        }
        match self.tree.memory(false) {
            Ok(memory) if memory.resident > 0 => {
                self.memory = memory;
                self.memory_peak = self.memory_peak.max(memory);
            }
            // A process that nobody has waited for is there still, without memory.
            _ => self.gone = true,
        }
    }
}

fn read_pid(path: &Path) -> Result<u32, Error> {
    let wrong = |error| Error::PidFile {
        path: path.to_owned(),
        error,
    };
    let text = fs::read_to_string(path).map_err(wrong)?;
    let pid = text.trim().parse();
    pid.map_err(|_| {
        wrong(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{text:?} is no process id"),
        ))
    })
}

#[cfg(test)]
mod tests;
