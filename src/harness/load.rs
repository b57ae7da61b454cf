//! One run of the load: connect, wait until everybody is served, start the clocks, stop at so many bytes or seconds.
//!
//! With one thread (the default) the caller's thread is the whole generator, as a second one would compete with the
//! server for a small machine's CPUs. With more, the others publish their counts and this thread decides.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Target;
use super::leecher::{Fault, Habits, Tally};
use super::procfs::{self, Host, Memory, Tree, Usage};
use super::report::{self, Connections, Latency, Report, Server, Settings, Trouble, Verified};
use super::swarm::{Plan, Standing, Swarm};

/// A server that has not unchoked everybody by then is measured with those it has.
const UNCHOKE_WAIT: Duration = Duration::from_secs(12);
/// How often the server's memory is looked at while the clock runs.
const MEMORY_EVERY: Duration = Duration::from_millis(500);
/// The largest swarm: each leecher has its own loopback address, and 127.0.0.0/8 has 16 million.
pub const CONNECTIONS_MAX: u32 = 1_000_000;

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// This much payload was received.
    Bytes(u64),
    /// This much time has passed since the start.
    Elapsed(Duration),
}

/// Which pieces are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any, each leecher for itself.
    Random,
    /// One after the other, each leecher from a place of its own.
    Sequential,
    /// None: handshakes only.
    Idle,
}

/// A swarm of leechers, and what it does to a server.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Its process, if its CPU time and memory are to be measured.
    pub pid: Option<u32>,
    /// How many leechers.
    pub connections: u32,
    /// Requests that each keeps outstanding.
    pub queue: usize,
    /// Bytes of a request, at most 16 KiB.
    pub block: u32,
    /// Bytes a second of each leecher; `None` is as fast as it goes.
    pub pace: Option<f64>,
    /// Which pieces.
    pub order: Order,
    /// When it ends. Idle runs end by time.
    pub until: Until,
    /// The share of pieces whose SHA-1 is checked, 0 to 1.
    pub verify: f64,
    /// Offer the fast extension.
    pub fast: bool,
    /// Offer the extension protocol.
    pub extended: bool,
    /// Never sleep while the clock runs. A sleeping receiver's wake-up (on a virtual machine an interrupt to a halted
    /// CPU) is charged to the sender, that is, to the server under test.
    pub busy: bool,
    /// Threads of the generator.
    pub threads: u32,
    /// The first leecher's address when the server is on loopback; the others follow it.
    pub source: Ipv4Addr,
    /// Chooses the pieces.
    pub seed: u64,
}

impl Load {
    /// One flat-out leecher of random pieces for a second; every field may be changed.
    pub fn new(server: SocketAddr) -> Load {
        Load {
            server,
            pid: None,
            connections: 1,
            queue: 16,
            block: 16 * 1024,
            pace: None,
            order: Order::Random,
            until: Until::Elapsed(Duration::from_secs(1)),
            verify: 0.0,
            fast: false,
            extended: false,
            busy: true,
            threads: 1,
            source: Ipv4Addr::new(127, 16, 0, 1),
            seed: 1,
        }
    }

    /// Runs it to its end.
    pub fn run(&self, target: &Target) -> Result<Report, Error> {
        self.check()?;
        let files = raise_open_files();
        let wanted = u64::from(self.connections) + 64;
        if files < wanted {
            return Err(Error::OpenFiles { wanted, limit: files });
        }
        let habits = Habits {
            queue: self.queue,
            block: self.block,
            sequential: self.order == Order::Sequential,
            verify: self.verify,
            fast: self.fast,
            extended: self.extended,
            idle: self.order == Order::Idle,
        };
        let clock = Instant::now();
        let shared: Vec<Shared> = (1..self.threads).map(|_| Shared::default()).collect();
        thread::scope(|scope| {
            let helpers: Vec<_> = (1..self.threads)
                .zip(&shared)
                .map(|(thread, shared)| {
                    let (plan, habits) = (self.plan(thread), &habits);
                    scope.spawn(move || help(plan, habits, target, clock, shared))
                })
                .collect();
            let outcome = self.lead(&habits, target, clock, &shared);
            shared
                .iter()
                .for_each(|shared| shared.phase.store(STOP, Ordering::Release));
            let mut report = outcome?;
            for helper in helpers {
                report.add(&helper.join().expect("a helper of the load generator does not panic")?);
            }
            Ok(self.report(target, report))
        })
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what| Err(Error::Setting(what));
        match self {
            load if !(1..=CONNECTIONS_MAX).contains(&load.connections) => wrong("connections: from 1 to 1,000,000"),
            load if !(1..=65_536).contains(&load.queue) => wrong("queue: from 1 to 65,536"),
            load if !(1..=16 * 1024).contains(&load.block) => wrong("block: from 1 to 16,384 bytes"),
            load if !(0.0..=1.0).contains(&load.verify) => wrong("verify: from 0 to 1"),
            load if !(1..=64).contains(&load.threads) || load.threads > load.connections => {
                wrong("threads: from 1 to 64, and no more than connections")
            }
            load if load.pace.is_some_and(|rate| !(1.0..=1e12).contains(&rate)) => wrong("pace: from 1 B/s"),
            load if load.order == Order::Idle && matches!(load.until, Until::Bytes(_)) => {
                wrong("an idle run has no bytes to count: give it seconds")
            }
            load if load.order == Order::Idle && load.verify > 0.0 => wrong("an idle run has no pieces to verify"),
            _ => Ok(()),
        }
    }

    /// The part of the swarm that this thread drives.
    fn plan(&self, thread: u32) -> Plan {
        let share = |n: u32| u64::from(self.connections) * u64::from(n) / u64::from(self.threads);
        let first = u32::try_from(share(thread)).expect("a share of a u32");
        let end = u32::try_from(share(thread + 1)).expect("a share of a u32");
        Plan {
            server: self.server,
            source: (self.server.is_ipv4() && self.server.ip().is_loopback()).then_some(self.source),
            first,
            count: end - first,
            total: self.connections,
            interval: self
                .pace
                .map(|rate| Duration::from_secs_f64(f64::from(self.block) / rate)),
            busy: self.busy && self.order != Order::Idle,
            seed: self.seed,
        }
    }

    /// Drives this thread's part and decides for all.
    fn lead(&self, habits: &Habits, target: &Target, clock: Instant, shared: &[Shared]) -> Result<Outcome, Error> {
        let tree = self.pid.map(Tree::new);
        let memory = |exact| {
            tree.as_ref()
                .map_or(Ok(Memory::default()), |tree| tree.memory(exact))
                .map_err(Error::Server)
        };
        let host = Host::look();
        let memory_before = memory(true)?;
        let mut swarm = Swarm::new(self.plan(0), habits, target, clock).map_err(Error::Load)?;
        let settled = |swarm: &Swarm<'_>| {
            let mut all = swarm.standing();
            shared.iter().for_each(|shared| all = shared.add_to(all));
            let reached = if habits.idle { all.open } else { all.ready };
            reached + all.lost >= self.connections
        };
        while clock.elapsed() < UNCHOKE_WAIT && !settled(&swarm) {
            swarm.turn().map_err(Error::Load)?;
        }
        let mut ready_at_start = swarm.standing().ready;
        ready_at_start += shared
            .iter()
            .map(|shared| shared.ready.load(Ordering::Acquire))
            .sum::<u32>();

        let own = Tree::new(std::process::id());
        let usage = || {
            tree.as_ref()
                .map_or(Ok(Usage::default()), Tree::usage)
                .map_err(Error::Server)
        };
        let (usage_before, own_before) = (usage()?, own.usage().map_err(Error::Load)?);
        let machine_before = procfs::machine().map_err(Error::Load)?;
        let begun = clock.elapsed();
        let mut memory_peak = memory_before;
        let mut memory_at = begun;
        if !habits.idle {
            shared
                .iter()
                .for_each(|shared| shared.phase.store(RUN, Ordering::Release));
            swarm.start();
        }
        let mut now = begun;
        loop {
            let done = match self.until {
                Until::Bytes(bytes) => {
                    let others: u64 = shared.iter().map(|shared| shared.bytes.load(Ordering::Relaxed)).sum();
                    swarm.tally.bytes + others >= bytes
                }
                Until::Elapsed(time) => now - begun >= time,
            };
            let all = shared.iter().fold(swarm.standing(), |all, shared| shared.add_to(all));
            if done || all.lost == self.connections {
                break;
            }
            swarm.turn().map_err(Error::Load)?;
            now = clock.elapsed();
            if tree.is_some() && now - memory_at >= MEMORY_EVERY {
                memory_at = now;
                memory_peak = memory_peak.max(memory(false)?);
            }
        }
        // The counters first, as what follows is not part of the run.
        let used = usage()?.since(&usage_before);
        let machine = procfs::machine().map_err(Error::Load)?;
        let own = own.usage().map_err(Error::Load)?.since(&own_before);
        let memory_after = memory(true)?;
        let mut outcome = Outcome {
            host,
            seconds: (now - begun).as_secs_f64(),
            setup_seconds: begun.as_secs_f64(),
            ready_at_start,
            used,
            own,
            busy: machine.busy - machine_before.busy,
            stolen: machine.stolen - machine_before.stolen,
            memory_before,
            memory_peak: memory_peak.max(memory_after),
            memory_after,
            part: Part::default(),
        };
        outcome.add(&Part::of(&swarm));
        Ok(outcome)
    }

    fn report(&self, target: &Target, outcome: Outcome) -> Report {
        let Part {
            standing,
            served,
            tally,
            faults,
            missed,
        } = outcome.part;
        let quantile = |share| tally.latency.quantile(share) as f64 / 1e6;
        let own_memory = |memory: &Memory| (memory.anonymous + memory.huge) as f64;
        let grown = own_memory(&outcome.memory_after) - own_memory(&outcome.memory_before);
        let cpu = outcome.used.user + outcome.used.system;
        let load_cpu_seconds = outcome.own.user + outcome.own.system;
        Report {
            settings: Settings {
                torrent: target.name.clone(),
                server: self.server.to_string(),
                connections: self.connections,
                queue: self.queue,
                block: self.block,
                pace: self.pace,
                order: match self.order {
                    Order::Random => "random",
                    Order::Sequential => "sequential",
                    Order::Idle => "idle",
                },
                busy: self.plan(0).busy,
                threads: self.threads,
                verify: self.verify,
            },
            seconds: outcome.seconds,
            bytes: tally.bytes,
            blocks: tally.blocks,
            mb_per_second: tally.bytes as f64 / 1e6 / outcome.seconds.max(1e-9),
            connections: Connections {
                open: standing.open,
                ready_at_start: outcome.ready_at_start,
                served,
                lost: faults.iter().map(|(fault, count)| (fault.name(), *count)).collect(),
                setup_seconds: outcome.setup_seconds,
            },
            latency: (tally.latency.count() > 0).then(|| Latency {
                p50_ms: quantile(0.5),
                p90_ms: quantile(0.9),
                p99_ms: quantile(0.99),
                max_ms: tally.latency.max() as f64 / 1e6,
            }),
            trouble: Trouble {
                rejects: tally.rejects,
                chokes: tally.chokes,
                unasked: tally.unasked,
                missed,
            },
            verified: Verified {
                good: tally.verified_good,
                bad: tally.verified_bad,
                skipped: tally.samples_skipped,
            },
            server: self.pid.map(|_| Server {
                usage: outcome.used,
                cpu_seconds_per_gib: report::per_gib(cpu, tally.bytes),
                cpu_percent: 100.0 * cpu / outcome.seconds.max(1e-9),
                memory_before: outcome.memory_before,
                memory_peak: outcome.memory_peak,
                memory_after: outcome.memory_after,
                bytes_per_connection: (self.order == Order::Idle && standing.open > 0)
                    .then(|| grown / f64::from(standing.open)),
            }),
            load_cpu_seconds,
            machine_busy_seconds: outcome.busy,
            machine_less_load_per_gib: report::per_gib((outcome.busy - load_cpu_seconds).max(0.0), tally.bytes),
            machine_stolen_seconds: outcome.stolen,
            host: outcome.host,
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that no run could have.
    #[error("{0}")]
    Setting(&'static str),
    /// Every connection is an open file.
    #[error("the run needs {wanted} open files, the hard limit is {limit} (hint: `ulimit -Hn`)")]
    OpenFiles {
        /// Open files needed.
        wanted: u64,
        /// What the process may have.
        limit: u64,
    },
    /// The server's process cannot be read: it is gone, or somebody else's.
    #[error("cannot read the server's CPU time and memory: {0}")]
    Server(io::Error),
    /// The generator's own sockets or counters failed.
    #[error("the load generator failed: {0}")]
    Load(#[from] io::Error),
}

/// Lets this process open as many files as its hard limit allows, and says how many that is.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused, the soft limit stays as it was and is what counts.
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .is_ok();
    let reached = if raised { limit.maximum } else { limit.current };
    reached.unwrap_or(u64::MAX)
}

const CONNECT: u8 = 0;
const RUN: u8 = 1;
const STOP: u8 = 2;

/// What a helping thread publishes, and the word it gets.
#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    open: AtomicU32,
    ready: AtomicU32,
    lost: AtomicU32,
    bytes: AtomicU64,
}

impl Shared {
    fn add_to(&self, mut standing: Standing) -> Standing {
        standing.open += self.open.load(Ordering::Acquire);
        standing.ready += self.ready.load(Ordering::Acquire);
        standing.lost += self.lost.load(Ordering::Acquire);
        standing
    }
}

fn help(plan: Plan, habits: &Habits, target: &Target, clock: Instant, shared: &Shared) -> io::Result<Part> {
    let mut swarm = Swarm::new(plan, habits, target, clock)?;
    let mut running = false;
    loop {
        match shared.phase.load(Ordering::Acquire) {
            CONNECT => {}
            RUN if running => {}
            RUN => {
                running = true;
                swarm.start();
            }
            _ => return Ok(Part::of(&swarm)),
        }
        swarm.turn()?;
        let standing = swarm.standing();
        shared.open.store(standing.open, Ordering::Release);
        shared.ready.store(standing.ready, Ordering::Release);
        shared.lost.store(standing.lost, Ordering::Release);
        shared.bytes.store(swarm.tally.bytes, Ordering::Relaxed);
    }
}

/// What one thread counted.
#[derive(Debug, Default)]
struct Part {
    standing: Standing,
    served: u32,
    tally: Tally,
    faults: std::collections::BTreeMap<Fault, u32>,
    missed: u64,
}

impl Part {
    fn of(swarm: &Swarm<'_>) -> Part {
        Part {
            standing: swarm.standing(),
            served: swarm.served(),
            tally: swarm.tally.clone(),
            faults: swarm.faults.clone(),
            missed: swarm.missed,
        }
    }
}

#[derive(Debug)]
struct Outcome {
    host: Host,
    seconds: f64,
    setup_seconds: f64,
    ready_at_start: u32,
    used: Usage,
    own: Usage,
    busy: f64,
    stolen: f64,
    memory_before: Memory,
    memory_peak: Memory,
    memory_after: Memory,
    part: Part,
}

impl Outcome {
    fn add(&mut self, part: &Part) {
        let sum = &mut self.part;
        sum.standing.pending += part.standing.pending;
        sum.standing.open += part.standing.open;
        sum.standing.ready += part.standing.ready;
        sum.standing.lost += part.standing.lost;
        sum.served += part.served;
        sum.missed += part.missed;
        sum.tally.add(&part.tally);
        for (fault, count) in &part.faults {
            *sum.faults.entry(*fault).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests;
