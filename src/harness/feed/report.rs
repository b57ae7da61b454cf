//! What a run found, as a table for people and as JSON for machines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::super::procfs::{Host, Memory, Usage};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// The outcome of one run. Bytes are payload; rates are per second; GiB is 2^30 bytes and MB is 10^6.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The run's own settings, so that a figure can be repeated.
    pub settings: Settings,
    /// The machine it ran on.
    pub host: Host,
    /// How it ended: `whole` (the client told that it has everything, or wanted nothing more when it had been sent
    /// everything) or `time is up`.
    pub ended: &'static str,
    /// Bytes of the torrent.
    pub bytes: u64,
    /// From the client's first request to the last byte that it was sent.
    pub seconds: f64,
    /// Bytes of the torrent that were sent in that time, in units of 10^6 a second.
    pub mb_per_second: f64,
    /// From the first handshake to the first request.
    pub setup_seconds: f64,
    /// From the last byte sent until the client said that it has everything; absent if it never did. Some hang up on seeders
    /// when they are whole, and have said nothing of their last pieces.
    pub whole_after_ms: Option<f64>,
    /// From the last byte sent until the client wanted nothing more, or was not connected any more, and stayed so; absent if
    /// that was not so at the end.
    pub unwanted_after_ms: Option<f64>,
    /// From the last byte sent until the files had their final names; absent if they had them before.
    pub named_after_ms: Option<f64>,
    /// Whether the files had their final names before everything was sent.
    pub named_early: bool,
    /// What was sent in each second since the first request, in units of 10^6 bytes.
    pub rates: Vec<f64>,
    /// Requests outstanding at a connection: received and not answered, what is on the path included. The mean over
    /// connections of each second, and the most of any.
    pub depth_means: Vec<f64>,
    /// See `depth_means`.
    pub depth_maxima: Vec<u32>,
    /// What was asked for and sent.
    pub requests: Requests,
    /// What became of the connections.
    pub connections: Connections,
    /// What the client spent; absent without its process id.
    pub client: Option<Client>,
    /// What this generator spent itself, in CPU-seconds: busy from start to end unless it was to sleep.
    pub load_cpu_seconds: f64,
    /// All CPUs' busy seconds while the client was measured, whoever was at work.
    pub machine_busy_seconds: f64,
    /// Seconds the hypervisor gave this machine's CPUs to others: above a few per cent the run is worth little.
    pub machine_stolen_seconds: f64,
    /// How long that was: from the first handshake to the end of the run.
    pub measured_seconds: f64,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// The torrent's name.
    pub torrent: String,
    /// Seeders of all kinds.
    pub seeders: u32,
    /// Where the client listened, if the seeders called it.
    pub connect: Option<String>,
    /// Bytes a second of each seeder; absent is flat out.
    pub rate: Option<u64>,
    /// One way.
    pub delay_ms: f64,
    /// Bytes a second of all seeders together; absent is without limit.
    pub path_rate: Option<u64>,
    /// Requests that each seeder's queue takes.
    pub reqq: u32,
    /// Seeders that send wrong bytes.
    pub liars: u32,
    /// Seeders at `slow_rate`.
    pub slow: u32,
    /// Bytes a second of the slow.
    pub slow_rate: u64,
    /// Seeders that drop the connection now and then.
    pub dropping: u32,
    /// Whether the generator never sleeps.
    pub busy: bool,
}

/// What was asked for and sent.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Requests {
    /// All that were received.
    pub received: u64,
    /// For something that had been sent or asked for before.
    pub again: u64,
    /// Beyond what a queue takes: rejected, or dropped where the client cannot be told.
    pub refused: u64,
    /// Cancelled before the block left.
    pub cancelled: u64,
    /// For no block of the torrent, or for more than 16 KiB.
    pub invalid: u64,
    /// Right bytes sent, all of them.
    pub sent_bytes: u64,
    /// Right bytes sent that had been sent before.
    pub sent_again_bytes: u64,
    /// Wrong bytes sent.
    pub lied_bytes: u64,
    /// Bytes sent again, as a share of the torrent's. With liars, what the client threw away with their blocks is in it.
    pub waste: f64,
}

/// What became of the connections.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Connections {
    /// Handshakes.
    pub opened: u32,
    /// Lost before the end, by reason.
    pub lost: BTreeMap<&'static str, u32>,
}

/// What the client's process tree spent from the first handshake to the end of the run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Client {
    /// CPU time and context switches.
    pub usage: Usage,
    /// CPU-seconds, user and system, for each GiB of the torrent that it was sent.
    pub cpu_seconds_per_gib: Option<f64>,
    /// Of one CPU.
    pub cpu_percent: f64,
    /// At the first handshake.
    pub memory_before: Memory,
    /// The largest of the samples taken while it downloaded.
    pub memory_peak: Memory,
    /// At the end.
    pub memory_after: Memory,
    /// Whether it had ended before the run did: what it spent after the last sample is missing.
    pub gone: bool,
}

impl Report {
    /// The client has everything.
    pub fn is_clean(&self) -> bool {
        self.ended == "whole"
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value}");
        let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(" ");
        let settings = &self.settings;
        row("seeders", settings.to_string())?;
        let Connections { opened, lost } = &self.connections;
        row(
            "connections",
            format!(
                "{opened}, the first request {:.2} s after the first handshake",
                self.setup_seconds
            ),
        )?;
        for (reason, count) in lost {
            row("  lost", format!("{count} {reason}"))?;
        }
        row("ended", format!("{}, after {:.2} s", self.ended, self.measured_seconds))?;
        row(
            "payload",
            format!(
                "{:.3} GiB in {:.2} s: {:.1} MB/s",
                self.bytes as f64 / GIB,
                self.seconds,
                self.mb_per_second
            ),
        )?;
        row(
            "  MB/s each second",
            list(&mut self.rates.iter().map(|rate| format!("{rate:.1}"))),
        )?;
        row(
            "requests outstanding",
            list(&mut self.depth_means.iter().map(|depth| format!("{depth:.0}"))),
        )?;
        row("  at most", list(&mut self.depth_maxima.iter().map(u32::to_string)))?;
        let requests = &self.requests;
        row(
            "requests",
            format!(
                "{} received, {} for the second time, {} refused, {} cancelled, {} invalid",
                requests.received, requests.again, requests.refused, requests.cancelled, requests.invalid
            ),
        )?;
        row(
            "waste",
            format!(
                "{:.2} %: {:.1} MiB sent twice; {:.1} MiB of lies",
                100.0 * requests.waste,
                requests.sent_again_bytes as f64 / MIB,
                requests.lied_bytes as f64 / MIB
            ),
        )?;
        let after =
            |ms: Option<f64>, none: &str| ms.map_or(none.to_owned(), |ms| format!("{ms:.1} ms after the last byte"));
        let unsaid = match self.unwanted_after_ms {
            Some(ms) => format!("it did not say so, and wanted nothing more from {ms:.1} ms after the last byte on"),
            None => "it never said so".to_owned(),
        };
        row("client whole", after(self.whole_after_ms, &unsaid))?;
        let none = if self.named_early {
            "from the start"
        } else {
            "not looked for, or never"
        };
        row("final names", after(self.named_after_ms, none))?;
        if let Some(client) = &self.client {
            let Usage {
                user,
                system,
                switches_voluntary,
                switches_forced,
            } = client.usage;
            let per_gib = client
                .cpu_seconds_per_gib
                .map_or("-".to_owned(), |cost| format!("{cost:.3} CPU-s/GiB"));
            row(
                "client CPU",
                format!(
                    "{per_gib}: {user:.2} s user, {system:.2} s system, {:.0} % of a CPU{}",
                    client.cpu_percent,
                    if client.gone {
                        " (it ended before the run did)"
                    } else {
                        ""
                    }
                ),
            )?;
            row(
                "  context switches",
                format!("{switches_voluntary} voluntary, {switches_forced} forced"),
            )?;
            for (name, memory) in [
                ("client memory before", client.memory_before),
                ("  peak", client.memory_peak),
                ("  after", client.memory_after),
            ] {
                let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB);
                row(
                    name,
                    format!(
                        "{} MiB resident, {} anonymous, {} huge",
                        mib(memory.resident),
                        mib(memory.anonymous),
                        mib(memory.huge)
                    ),
                )?;
            }
        }
        row(
            "all CPUs busy",
            format!(
                "{:.2} s, of it the seeders {:.2} s ({}); {:.2} s stolen",
                self.machine_busy_seconds,
                self.load_cpu_seconds,
                if settings.busy {
                    "never asleep"
                } else {
                    "asleep between events"
                },
                self.machine_stolen_seconds
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

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |rate: Option<u64>, none: &str| {
            rate.map_or(none.to_owned(), |rate| format!("{:.3} MB/s", rate as f64 / 1e6))
        };
        write!(
            f,
            "{} of {:?}, {} each, {} ms away, path {}, reqq {}",
            self.seeders,
            self.torrent,
            mb(self.rate, "flat out"),
            self.delay_ms,
            mb(self.path_rate, "without limit"),
            self.reqq
        )?;
        for (count, kind) in [(self.liars, "lie"), (self.slow, "are slow"), (self.dropping, "drop")] {
            if count > 0 {
                write!(f, ", {count} {kind}")?;
            }
        }
        Ok(())
    }
}
