//! The load on a tracker: a population announces itself, and goes on announcing (or scrapes) while the clock runs.
//!
//! - [`Load`]: one run, and its [`report`].
//! - [`floor`]: what answers anything with the same bytes, to compare with.
//! - `population` (who is in which swarm), `work` (what to ask next, what became of it), `request` and `reply` (the protocol),
//!   `udp` and `http` (sockets).
//!
//! One thread is the whole generator, and never sleeps: a second one, or a sleeping one, would take from the tracker or be
//! charged to it. IPv4 only. It knows the protocol and nothing of btd's own tracker.

pub mod floor;
mod http;
mod population;
mod reply;
pub mod report;
mod request;
mod udp;
mod work;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::load::raise_open_files;
use super::procfs::{self, Host, Memory, Tree, Usage};
use crate::proto::InfoHash;
use http::Http;
use population::{PEERS_PER_SOURCE, Population};
use report::{Report, Settings};
use udp::Udp;
use work::{Tally, Work};

/// How often what is overdue is looked for.
const SWEEP: Duration = Duration::from_millis(100);
/// A tracker that has not given connection ids by then is not there.
const READY_WAIT: Duration = Duration::from_secs(10);
/// A population that takes longer to announce itself is too large for the tracker.
const FILL_WAIT: Duration = Duration::from_secs(600);
/// How long the last replies are waited for: longer than a wire's patience with any of them.
const DRAIN_WAIT: Duration = Duration::from_secs(12);

/// What a load is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Announces over UDP.
    Udp,
    /// Scrapes over UDP, of so many torrents each.
    UdpScrape(u32),
    /// Announces over HTTP, on connections that are kept.
    Http,
    /// Announces over HTTP, a connection for each.
    HttpClose,
}

impl Kind {
    /// As on the command line.
    fn name(self) -> &'static str {
        match self {
            Kind::Udp => "udp",
            Kind::UdpScrape(_) => "udp-scrape",
            Kind::Http => "http",
            Kind::HttpClose => "http-close",
        }
    }
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So many requests have been answered, or are lost. 0: after the fill.
    Requests(u64),
    /// This much time has passed since the fill.
    Elapsed(Duration),
}

/// A load on a tracker.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the tracker listens.
    pub server: SocketAddrV4,
    /// Its process, if its CPU time and memory are to be measured.
    pub pid: Option<u32>,
    /// What it is asked.
    pub kind: Kind,
    /// Peers that announce themselves before the clock starts.
    pub peers: u32,
    /// Torrents that they are in.
    pub torrents: u32,
    /// Addresses that they have.
    pub sources: u32,
    /// The first of those addresses.
    pub source: Ipv4Addr,
    /// Where the population announces itself by UDP; `None` is as the load does.
    pub fill: Option<SocketAddrV4>,
    /// Requests without a reply at a time.
    pub in_flight: u32,
    /// When it ends.
    pub until: Until,
    /// Peers wanted in a reply.
    pub numwant: u32,
    /// Malformed requests before each honest one.
    pub junk: u32,
    /// The share of replies, 0 to 1, whose peers are looked up in the population.
    pub verify: f64,
    /// Decides everything that is left to chance.
    pub seed: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that no run could have.
    #[error("{0}")]
    Setting(String),
    /// The tracker gave no connection id to somebody.
    #[error("the tracker at {0} gives no connection ids")]
    Silent(SocketAddrV4),
    /// The population could not be announced in time.
    #[error("the tracker took {taken} of {peers} peers in {} s", FILL_WAIT.as_secs())]
    Slow {
        /// Announced.
        taken: u64,
        /// To be announced.
        peers: u32,
    },
    /// The server's process cannot be read: it is gone, or somebody else's.
    #[error("cannot read the tracker's CPU time and memory: {0}")]
    Server(io::Error),
    /// The generator's own sockets or counters failed.
    #[error("the load generator failed: {0}")]
    Load(#[from] io::Error),
}

/// A way to the tracker.
trait Wire {
    /// Sends what there is room for, and takes what has come. Never sleeps.
    fn turn(&mut self, work: &mut Work<'_>, clock: &dyn Fn() -> Duration) -> io::Result<()>;
    /// Whether it can ask.
    fn is_ready(&self) -> bool;
    /// Requests that have neither been answered nor given up.
    fn in_flight(&self) -> usize;
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What was measured beside the tally.
#[derive(Debug)]
struct Measured {
    host: Host,
    fill_seconds: f64,
    seconds: f64,
    answered: u64,
    used: Usage,
    own: Usage,
    busy: f64,
    stolen: f64,
    memory_before: Memory,
    memory_filled: Memory,
    memory_after: Memory,
}

impl Load {
    /// Half a minute's worth for a look: every field may be changed.
    pub fn new(server: SocketAddrV4, kind: Kind) -> Load {
        Load {
            server,
            pid: None,
            kind,
            peers: 100_000,
            torrents: 10_000,
            sources: 16,
            source: Ipv4Addr::new(127, 16, 0, 1),
            fill: None,
            in_flight: 128,
            until: Until::Elapsed(Duration::from_secs(10)),
            numwant: 50,
            junk: 0,
            verify: 0.0,
            seed: 1,
        }
    }

    /// The info-hashes of the run, for a tracker that is to be told of them.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn info_hashes(&self) -> Result<Vec<InfoHash>, Error> {
        Ok(self.population()?.torrents().to_vec())
    }

    fn population(&self) -> Result<Population, Error> {
        let wrong = |what: &str| Err(Error::Setting(what.to_owned()));
        let files = raise_open_files();
        match self {
            load if load.peers == 0 || load.torrents == 0 => wrong("peers and torrents: at least 1"),
            load if load.torrents > 10_000_000 => wrong("torrents: at most 10,000,000"),
            load if !(1..=65_536).contains(&load.sources) => wrong("sources: from 1 to 65,536"),
            load if u64::from(load.peers) > u64::from(load.sources) * u64::from(PEERS_PER_SOURCE) => {
                let sources = load.peers.div_ceil(PEERS_PER_SOURCE);
                wrong(&format!("{} peers need {sources} sources", load.peers))
            }
            load if !(1..=udp::IN_FLIGHT_MAX / 2).contains(&load.in_flight) => wrong("in flight: from 1 to 32,768"),
            load if u64::from(load.in_flight) * 5 + u64::from(load.sources) * 2 + 64 > files => {
                wrong("in flight: each needs up to 5 open files (hint: `ulimit -Hn`)")
            }
            load if load.numwant > 1_000 => wrong("numwant: at most 1,000"),
            load if load.junk > 10_000 => wrong("junk: at most 10,000"),
            load if !(0.0..=1.0).contains(&load.verify) => wrong("verify: from 0 to 1"),
            Load {
                kind: Kind::UdpScrape(count),
                ..
            } if !(1..=74).contains(count) => wrong("torrents of a scrape: from 1 to 74"),
            load => Ok(Population::new(
                load.peers,
                load.torrents,
                load.source,
                load.sources,
                load.seed,
            )),
        }
    }

    fn wire(&self, work: &Work<'_>) -> Result<Box<dyn Wire>, Error> {
        Ok(match self.kind {
            Kind::Udp | Kind::UdpScrape(_) => Box::new(Udp::open(work, self.server, self.in_flight)?),
            Kind::Http => Box::new(Http::open(work, self.server, self.in_flight, true)?),
            Kind::HttpClose => Box::new(Http::open(work, self.server, self.in_flight, false)?),
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Any but of replies, which are counted.
    pub fn run(&self) -> Result<Report, Error> {
        let host = Host::look();
        let population = self.population()?;
        let mut work = Work::new(&population, self.seed);
        work.numwant = self.numwant;
        work.junk = self.junk;
        work.verify = self.verify;

        let tree = self.pid.map(Tree::new);
        let usage = || {
            tree.as_ref()
                .map_or(Ok(Usage::default()), Tree::usage)
                .map_err(Error::Server)
        };
        let memory = || {
            let memory = tree.as_ref().map(|tree| tree.memory(true));
            memory.unwrap_or(Ok(Memory::default())).map_err(Error::Server)
        };
        let own = Tree::new(std::process::id());
        let begun = Instant::now();
        let clock = || begun.elapsed();

        let memory_before = memory()?;
        let mut wire = match self.fill {
            Some(server) => Box::new(Udp::open(&work, server, self.in_flight)?),
            None => self.wire(&work)?,
        };
        ready(wire.as_mut(), &mut work, &clock, self.fill.unwrap_or(self.server))?;
        work.fill();
        let fill_begun = clock();
        while !work.is_exhausted() || wire.in_flight() > 0 {
            wire.turn(&mut work, &clock)?;
            if clock() - fill_begun >= FILL_WAIT {
                let taken = work.tally.answered();
                return Err(Error::Slow {
                    taken,
                    peers: self.peers,
                });
            }
        }
        let fill_seconds = (clock() - fill_begun).as_secs_f64();
        let filled: Tally = work.tally.clone();
        if self.fill.is_some() {
            drop(wire);
            work.drain();
            wire = self.wire(&work)?;
            ready(wire.as_mut(), &mut work, &clock, self.server)?;
        }
        let memory_filled = memory()?;

        if let Kind::UdpScrape(count) = self.kind {
            work.scrape = count;
        }
        work.run(match self.until {
            Until::Requests(count) => Some(count),
            Until::Elapsed(_) => None,
        });
        let usage_before = usage()?;
        let own_before = own.usage()?;
        let machine_before = procfs::machine()?;
        let run_begun = clock();
        loop {
            let over = match self.until {
                Until::Requests(_) => work.is_exhausted() && wire.in_flight() == 0,
                Until::Elapsed(time) => clock() - run_begun >= time,
            };
            if over {
                break;
            }
            wire.turn(&mut work, &clock)?;
        }
        // The counters first, as what follows is not part of the run.
        let seconds = (clock() - run_begun).as_secs_f64();
        let used = usage()?.since(&usage_before);
        let own = own.usage()?.since(&own_before);
        let machine = procfs::machine()?;
        let answered = work.tally.answered();
        let memory_after = memory()?;
        work.drain();
        let drain_begun = clock();
        while wire.in_flight() > 0 && clock() - drain_begun < DRAIN_WAIT {
            wire.turn(&mut work, &clock)?;
        }
        let measured = Measured {
            host,
            fill_seconds,
            seconds,
            answered,
            used,
            own,
            busy: machine.busy - machine_before.busy,
            stolen: machine.stolen - machine_before.stolen,
            memory_before,
            memory_filled,
            memory_after,
        };
        Ok(Report::new(
            self.settings(),
            &filled,
            &work.tally,
            measured,
            self.pid.is_some(),
        ))
    }

    fn settings(&self) -> Settings {
        Settings {
            server: self.server.to_string(),
            kind: self.kind.name(),
            scrape: match self.kind {
                Kind::UdpScrape(count) => Some(count),
                Kind::Udp | Kind::Http | Kind::HttpClose => None,
            },
            peers: self.peers,
            torrents: self.torrents,
            sources: self.sources,
            in_flight: self.in_flight,
            numwant: self.numwant,
            junk: self.junk,
            verify: self.verify,
            seed: self.seed,
        }
    }
}

fn ready(
    wire: &mut dyn Wire,
    work: &mut Work<'_>,
    clock: &dyn Fn() -> Duration,
    server: SocketAddrV4,
) -> Result<(), Error> {
    let begun = clock();
    while !wire.is_ready() {
        if clock() - begun >= READY_WAIT {
            return Err(Error::Silent(server));
        }
        wire.turn(work, clock).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Error::Silent(server),
            _ => Error::Load(error),
        })?;
    }
    Ok(())
}
