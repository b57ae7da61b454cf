//! What a run of the load on a tracker found, as a table for people and as JSON for machines.

use std::fmt;

use serde::Serialize;

use super::Measured;
use super::work::Tally;
use crate::harness::procfs::{Host, Memory, Usage};
use crate::harness::report::Latency;

const MIB: f64 = (1_u64 << 20) as f64;

/// The outcome of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The run's own settings, so that a figure can be repeated.
    pub settings: Settings,
    /// The machine it ran on.
    pub host: Host,
    /// For which the population announced itself, before the clock started.
    pub fill_seconds: f64,
    /// Announces of the fill that had to be made again, as no reply had come.
    pub fill_lost: u64,
    /// Those that the tracker would not have, or answered with nonsense.
    pub fill_failed: u64,
    /// From the start of the clock to its end.
    pub seconds: f64,
    /// Answered while the clock ran.
    pub requests: u64,
    /// The same in a second.
    pub requests_per_second: f64,
    /// From a request's send to its reply; absent when there was none.
    pub latency: Option<Latency>,
    /// What became of the requests, those included that were answered when the clock had stopped.
    pub replies: Replies,
    /// Peers in a good reply to an announce, on the average.
    pub peers_per_reply: f64,
    /// What became of the malformed ones.
    pub junk: Junk,
    /// What the server spent; absent without its process id.
    pub server: Option<Server>,
    /// What this generator spent itself, in CPU-seconds.
    pub load_cpu_seconds: f64,
    /// All CPUs' busy seconds while the clock ran, whoever was at work.
    pub machine_busy_seconds: f64,
    /// The same for each million requests, less what the generator spent.
    pub machine_less_load_per_million: Option<f64>,
    /// Seconds the hypervisor gave this machine's CPUs to others: above a few per cent the run is worth little.
    pub machine_stolen_seconds: f64,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// The tracker's address.
    pub server: String,
    /// `udp`, `udp-scrape`, `http` or `http-close`.
    pub kind: &'static str,
    /// Torrents of a scrape.
    pub scrape: Option<u32>,
    /// Peers of the population.
    pub peers: u32,
    /// Torrents of the population.
    pub torrents: u32,
    /// Addresses of the population.
    pub sources: u32,
    /// Requests without a reply at a time.
    pub in_flight: u32,
    /// Peers wanted in a reply.
    pub numwant: u32,
    /// Malformed requests before each honest one.
    pub junk: u32,
    /// The share of replies that were compared with the population.
    pub verify: f64,
    /// What decided everything that is left to chance.
    pub seed: u64,
}

/// What became of the honest requests.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Replies {
    /// The right transaction, and what the protocol says a reply is.
    pub good: u64,
    /// Errors: the tracker would not.
    pub refused: u64,
    /// No reply to what was asked.
    pub implausible: u64,
    /// None came.
    pub lost: u64,
    /// Came too late, or to nobody's request.
    pub stray: u64,
    /// Of the good ones, compared with the population.
    pub compared: u64,
    /// Of those, with peers that are not in that torrent, or more than it has.
    pub mismatched: u64,
    /// Connections that could not be made; their requests are among the lost.
    pub unconnected: u64,
}

/// What became of the malformed requests.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Junk {
    /// Said.
    pub sent: u64,
    /// Answered with anything.
    pub answered: u64,
    /// Datagrams that proved nothing and were answered with more bytes than they had.
    pub amplified: u64,
}

/// What the server's process tree spent while the clock ran, and the memory it held.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Server {
    /// CPU time and context switches.
    pub usage: Usage,
    /// CPU-seconds, user and system, for each million requests; absent when none was answered.
    pub cpu_seconds_per_million: Option<f64>,
    /// Of one CPU.
    pub cpu_percent: f64,
    /// Before the population announced itself.
    pub memory_before: Memory,
    /// After that.
    pub memory_filled: Memory,
    /// When the clock stopped.
    pub memory_after: Memory,
    /// Resident memory that came with the population, for each of its peers.
    pub bytes_per_peer: f64,
}

impl Report {
    pub(super) fn new(settings: Settings, filled: &Tally, tally: &Tally, measured: Measured, known: bool) -> Report {
        let requests = measured.answered;
        let per_million = |seconds: f64| (requests > 0).then(|| seconds / (requests as f64 / 1e6));
        let quantile = |share| tally.latency.quantile(share) as f64 / 1e6;
        let cpu = measured.used.user + measured.used.system;
        let load_cpu_seconds = measured.own.user + measured.own.system;
        let seconds = measured.seconds.max(1e-9);
        let held = |memory: Memory| (memory.resident + memory.huge) as f64;
        let grown = held(measured.memory_filled) - held(measured.memory_before);
        Report {
            host: measured.host,
            fill_seconds: measured.fill_seconds,
            fill_lost: filled.lost,
            fill_failed: filled.refused + filled.implausible,
            seconds: measured.seconds,
            requests,
            requests_per_second: requests as f64 / seconds,
            latency: (tally.latency.count() > 0).then(|| Latency {
                p50_ms: quantile(0.5),
                p90_ms: quantile(0.9),
                p99_ms: quantile(0.99),
                max_ms: tally.latency.max() as f64 / 1e6,
            }),
            replies: Replies {
                good: tally.good,
                refused: tally.refused,
                implausible: tally.implausible,
                lost: tally.lost,
                stray: tally.stray,
                compared: tally.compared,
                mismatched: tally.mismatched,
                unconnected: tally.unconnected,
            },
            peers_per_reply: tally.peers as f64 / tally.good.max(1) as f64,
            junk: Junk {
                sent: tally.junk,
                answered: tally.junk_answered,
                amplified: tally.junk_amplified,
            },
            server: known.then(|| Server {
                usage: measured.used,
                cpu_seconds_per_million: per_million(cpu),
                cpu_percent: 100.0 * cpu / seconds,
                memory_before: measured.memory_before,
                memory_filled: measured.memory_filled,
                memory_after: measured.memory_after,
                bytes_per_peer: grown / f64::from(settings.peers),
            }),
            load_cpu_seconds,
            machine_busy_seconds: measured.busy,
            machine_less_load_per_million: per_million((measured.busy - load_cpu_seconds).max(0.0)),
            machine_stolen_seconds: measured.stolen,
            settings,
        }
    }

    /// Every honest request had a good reply, and no junk was answered with more than it was.
    pub fn is_clean(&self) -> bool {
        let Replies {
            good: _,
            refused,
            implausible,
            lost,
            stray: _,
            compared: _,
            mismatched,
            unconnected,
        } = self.replies;
        self.fill_failed + refused + implausible + lost + mismatched + unconnected + self.junk.amplified == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value}");
        row("tracker", settings.server.clone())?;
        let of = settings.scrape.map_or(String::new(), |count| format!(" of {count}"));
        let junk = match settings.junk {
            0 => String::new(),
            junk => format!(", {junk} malformed before each"),
        };
        row(
            "load",
            format!(
                "{}{of}, {} in flight, numwant {}{junk}",
                settings.kind, settings.in_flight, settings.numwant
            ),
        )?;
        row(
            "population",
            format!(
                "{} peers at {} addresses in {} torrents, in {:.1} s ({} lost, {} failed)",
                settings.peers,
                settings.sources,
                settings.torrents,
                self.fill_seconds,
                self.fill_lost,
                self.fill_failed
            ),
        )?;
        row(
            "requests",
            format!(
                "{} in {:.2} s, {:.0}/s",
                self.requests, self.seconds, self.requests_per_second
            ),
        )?;
        if let Some(latency) = &self.latency {
            let Latency {
                p50_ms,
                p90_ms,
                p99_ms,
                max_ms,
            } = latency;
            row(
                "latency p50/90/99/max",
                format!("{p50_ms:.3} / {p90_ms:.3} / {p99_ms:.3} / {max_ms:.3} ms"),
            )?;
        }
        let Replies {
            good,
            refused,
            implausible,
            lost,
            stray,
            compared,
            mismatched,
            unconnected,
        } = self.replies;
        row(
            "replies",
            format!(
                "{good} good ({:.1} peers), {refused} errors, {implausible} WRONG, {lost} lost",
                self.peers_per_reply
            ),
        )?;
        if stray + unconnected > 0 {
            row("  trouble", format!("{stray} stray, {unconnected} not connected"))?;
        }
        row(
            "replies compared",
            format!("{compared}, {mismatched} WITH OTHERS' PEERS"),
        )?;
        if self.junk.sent > 0 {
            let Junk {
                sent,
                answered,
                amplified,
            } = self.junk;
            row(
                "junk",
                format!("{sent} sent, {answered} answered, {amplified} AMPLIFIED"),
            )?;
        }
        if let Some(server) = &self.server {
            let Usage {
                user,
                system,
                switches_voluntary,
                switches_forced,
            } = server.usage;
            let cost = server
                .cpu_seconds_per_million
                .map_or("-".to_owned(), |cost| format!("{cost:.3} CPU-s/million"));
            row(
                "server CPU",
                format!(
                    "{cost}: {user:.2} s user, {system:.2} s system, {:.0} % of a CPU",
                    server.cpu_percent
                ),
            )?;
            row(
                "  context switches",
                format!("{switches_voluntary} voluntary, {switches_forced} forced"),
            )?;
            let mib = |memory: Memory| (memory.resident + memory.huge) as f64 / MIB;
            row(
                "server memory",
                format!(
                    "{:.1} MiB, {:.1} filled, {:.1} after: {:.1} bytes a peer",
                    mib(server.memory_before),
                    mib(server.memory_filled),
                    mib(server.memory_after),
                    server.bytes_per_peer
                ),
            )?;
        }
        let others = self
            .machine_less_load_per_million
            .map_or(String::new(), |cost| format!(" ({cost:.3} s/million less the load's)"));
        row(
            "all CPUs busy",
            format!(
                "{:.2} s{others}, {:.2} s stolen",
                self.machine_busy_seconds, self.machine_stolen_seconds
            ),
        )?;
        row(
            "load generator CPU",
            format!("{:.2} s, never asleep", self.load_cpu_seconds),
        )?;
        row(
            "machine",
            format!(
                "{}, {} CPUs, Linux {}, load average {:.2}",
                self.host.cpu, self.host.cpus, self.host.kernel, self.host.load
            ),
        )
    }
}
