//! What a run found, as a table for people and as JSON for machines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::procfs::{Host, Memory, Usage};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// The outcome of one run. Bytes are payload; rates are per second; GiB is 2^30 bytes and MB is 10^6.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The run's own settings, so that a figure can be repeated.
    pub settings: Settings,
    /// The machine it ran on.
    pub host: Host,
    /// From go to the last byte.
    pub seconds: f64,
    /// Payload received whole-block, in bytes.
    pub bytes: u64,
    /// Blocks received whole.
    pub blocks: u64,
    /// Throughput in units of 10^6 bytes a second.
    pub mb_per_second: f64,
    /// What became of the connections.
    pub connections: Connections,
    /// From a request's send to its block's last byte; absent when no block came.
    pub latency: Option<Latency>,
    /// Things a faultless server under a fitting load does not show.
    pub trouble: Trouble,
    /// Pieces whose SHA-1 was checked.
    pub verified: Verified,
    /// What the server spent; absent without its process id.
    pub server: Option<Server>,
    /// What this generator spent itself, in CPU-seconds: near `seconds` means that it, not the server, was the limit.
    pub load_cpu_seconds: f64,
    /// All CPUs' busy seconds while the clock ran, whoever was at work.
    pub machine_busy_seconds: f64,
    /// The same for each GiB of payload, less what the generator spent.
    pub machine_less_load_per_gib: Option<f64>,
    /// Seconds the hypervisor gave this machine's CPUs to others: above a few per cent the run is worth little.
    pub machine_stolen_seconds: f64,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// The torrent's name.
    pub torrent: String,
    /// The server's address.
    pub server: String,
    /// Connections wanted.
    pub connections: u32,
    /// Requests kept outstanding on each.
    pub queue: usize,
    /// Bytes a request asks for.
    pub block: u32,
    /// Bytes a second of each connection; absent is flat out.
    pub pace: Option<f64>,
    /// `random` or `sequential` pieces, or `idle`.
    pub order: &'static str,
    /// Whether the generator never sleeps while the clock runs.
    pub busy: bool,
    /// Threads of the generator.
    pub threads: u32,
    /// The share of pieces that were to be verified, 0 to 1.
    pub verify: f64,
}

/// What became of the connections.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Connections {
    /// Handshake done at the run's end.
    pub open: u32,
    /// Unchoked, with something on offer, when the clock started.
    pub ready_at_start: u32,
    /// Received a block or more.
    pub served: u32,
    /// Lost, by reason.
    pub lost: BTreeMap<&'static str, u32>,
    /// Seconds from the first connect to the start of the clock.
    pub setup_seconds: f64,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Half of all blocks came within this time.
    pub p50_ms: f64,
    /// Nine of ten.
    pub p90_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// Counts that should be zero.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Trouble {
    /// Requests rejected (BEP 6).
    pub rejects: u64,
    /// Chokes received.
    pub chokes: u64,
    /// Blocks that were not asked for, or not at that length.
    pub unasked: u64,
    /// Paced requests that were not sent, the queue being full or the server choking.
    pub missed: u64,
}

/// Sampled pieces.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Verified {
    /// The hash was the torrent's.
    pub good: u64,
    /// It was not.
    pub bad: u64,
    /// Not checked for want of memory.
    pub skipped: u64,
}

/// What the server's process tree spent between go and the last byte, and the memory it held.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Server {
    /// CPU time and context switches.
    pub usage: Usage,
    /// CPU-seconds, user and system, for each GiB of payload; absent when nothing was served.
    pub cpu_seconds_per_gib: Option<f64>,
    /// Of one CPU.
    pub cpu_percent: f64,
    /// Before the first connection.
    pub memory_before: Memory,
    /// The largest of the samples taken while the clock ran.
    pub memory_peak: Memory,
    /// At the end, with the connections still open.
    pub memory_after: Memory,
    /// Anonymous and huge pages that came with the connections, divided among those that are open. Of idle runs only: in
    /// the others buffers that come and go outweigh it.
    pub bytes_per_connection: Option<f64>,
}

/// Per GiB, if there was any payload.
pub(super) fn per_gib(amount: f64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| amount / (bytes as f64 / GIB))
}

impl Report {
    /// No connection was lost, no piece was wrong, and (unless idle) every connection was served.
    pub fn is_clean(&self) -> bool {
        let served = self.settings.order == "idle" || self.connections.served == self.settings.connections;
        served && self.connections.lost.is_empty() && self.verified.bad == 0 && self.trouble.unasked == 0
    }

    /// Pieces were to be verified, and not one was: the report says nothing of whether the bytes were right.
    pub fn is_unverified(&self) -> bool {
        self.settings.verify > 0.0 && self.verified.good + self.verified.bad == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value}");
        row("server", format!("{} ({})", settings.server, settings.torrent))?;
        let pace = settings.pace.map_or("flat out".to_owned(), |rate| {
            format!("paced to {:.3} MB/s each", rate / 1e6)
        });
        row(
            "load",
            format!(
                "{} connections x {} requests of {} bytes, {}, {pace}",
                settings.connections, settings.queue, settings.block, settings.order
            ),
        )?;
        let connections = &self.connections;
        row(
            "connections",
            format!(
                "{} open, {} served, {} ready at the start ({:.1} s)",
                connections.open, connections.served, connections.ready_at_start, connections.setup_seconds
            ),
        )?;
        for (reason, count) in &connections.lost {
            row("  lost", format!("{count} {reason}"))?;
        }
        row(
            "payload",
            format!(
                "{:.3} GiB, {} blocks in {:.2} s",
                self.bytes as f64 / GIB,
                self.blocks,
                self.seconds
            ),
        )?;
        row("throughput", format!("{:.1} MB/s", self.mb_per_second))?;
        if let Some(latency) = &self.latency {
            let Latency {
                p50_ms,
                p90_ms,
                p99_ms,
                max_ms,
            } = latency;
            row(
                "latency p50/90/99/max",
                format!("{p50_ms:.2} / {p90_ms:.2} / {p99_ms:.2} / {max_ms:.2} ms"),
            )?;
        }
        let Trouble {
            rejects,
            chokes,
            unasked,
            missed,
        } = self.trouble;
        if rejects + chokes + unasked + missed > 0 {
            row(
                "trouble",
                format!("{rejects} rejects, {chokes} chokes, {unasked} blocks not asked for, {missed} requests missed"),
            )?;
        }
        let Verified { good, bad, skipped } = self.verified;
        let verified = match settings.verify > 0.0 {
            true if self.is_unverified() => {
                format!("NONE came whole, {skipped} skipped: nothing is known of the bytes")
            }
            true => format!("{good} good, {bad} BAD, {skipped} skipped"),
            false => "none were to be: nothing is known of the bytes".to_owned(),
        };
        row("pieces verified", verified)?;
        if let Some(server) = &self.server {
            let Usage {
                user,
                system,
                switches_voluntary,
                switches_forced,
            } = server.usage;
            let per_gib = server
                .cpu_seconds_per_gib
                .map_or("-".to_owned(), |cost| format!("{cost:.3} CPU-s/GiB"));
            row(
                "server CPU",
                format!(
                    "{per_gib}: {user:.2} s user, {system:.2} s system, {:.0} % of a CPU",
                    server.cpu_percent
                ),
            )?;
            row(
                "  context switches",
                format!("{switches_voluntary} voluntary, {switches_forced} forced"),
            )?;
            for (name, memory) in [
                ("server memory before", server.memory_before),
                ("  peak", server.memory_peak),
                ("  after", server.memory_after),
            ] {
                let Memory {
                    resident,
                    anonymous,
                    huge,
                    proportional,
                } = memory;
                let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB);
                let share = if proportional > 0 {
                    format!(", {} proportional", mib(proportional))
                } else {
                    String::new()
                };
                row(
                    name,
                    format!(
                        "{} MiB resident, {} anonymous, {} huge{share}",
                        mib(resident),
                        mib(anonymous),
                        mib(huge)
                    ),
                )?;
            }
            if let Some(bytes) = server.bytes_per_connection {
                row("  each connection", format!("{:.2} KiB", bytes / 1024.0))?;
            }
        }
        let others = self
            .machine_less_load_per_gib
            .map_or(String::new(), |cost| format!(" ({cost:.3} s/GiB less the load's)"));
        row(
            "all CPUs busy",
            format!(
                "{:.2} s{others}, {:.2} s stolen",
                self.machine_busy_seconds, self.machine_stolen_seconds
            ),
        )?;
        row(
            "load generator CPU",
            format!(
                "{:.2} s, {} thread(s), {}",
                self.load_cpu_seconds,
                settings.threads,
                if settings.busy {
                    "never asleep"
                } else {
                    "asleep between events"
                }
            ),
        )?;
        row(
            "machine",
            format!(
                "{}, {} CPUs, Linux {}, {}, load average {:.2}",
                self.host.cpu, self.host.cpus, self.host.kernel, self.host.congestion_control, self.host.load
            ),
        )
    }
}
