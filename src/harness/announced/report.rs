//! What a run found, as a table for people and as JSON for machines.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Setting;
use super::ledger::{Gaps, Sums};
use crate::harness::procfs::{Host, Memory, Usage};

const MIB: f64 = (1_u64 << 20) as f64;

/// The outcome of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The trackers' addresses.
    pub trackers: Vec<String>,
    /// Torrents, in turn at one of them each.
    pub torrents: u32,
    /// What the client is told, in seconds.
    pub interval_seconds: f64,
    /// How long an answer takes, in milliseconds.
    pub delay_ms: f64,
    /// The machine it ran on.
    pub host: Host,
    /// From the beginning of the run until all torrents had been announced, in seconds.
    pub start_seconds: f64,
    /// What was asked by then.
    pub start: Sums,
    /// The most that one tracker was asked in any second of it.
    pub start_most_per_second: usize,
    /// How long it was counted after that, in seconds.
    pub seconds: f64,
    /// What was asked then.
    pub steady: Sums,
    /// The most that one tracker was asked in any second of it.
    pub most_per_second: usize,
    /// The share of requests over HTTP that came over a connection which had been used; absent when there were none.
    pub reuse: Option<f64>,
    /// From one announce of a torrent to the next.
    pub gaps: Gaps,
    /// What it cost the client; absent when its process is not known.
    pub client: Option<Cost>,
    /// How the client ended; absent unless it was to.
    pub stopped: Option<Stopped>,
}

/// What the client spent while it was counted.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// CPU time and context switches.
    pub usage: Usage,
    /// Of one CPU.
    pub cpu_percent: f64,
    /// At the end.
    pub memory: Memory,
}

impl Cost {
    pub(super) fn new(usage: Usage, memory: Memory, seconds: f64) -> Self {
        Self {
            usage,
            cpu_percent: 100.0 * (usage.user + usage.system) / seconds.max(1e-9),
            memory,
        }
    }
}

/// The end of the client.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stopped {
    /// From SIGTERM until its process had ended.
    pub seconds: f64,
    /// Torrents of which a tracker was told that it was the last time.
    pub torrents: u32,
    /// What was asked.
    pub requests: u64,
    /// The most that one tracker was asked in any second of it.
    pub most_per_second: usize,
}

/// What [`Report`] is made of.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) setting: Setting,
    pub(super) urls: Vec<String>,
    pub(super) host: Host,
    /// Until all were announced, what was asked, and the most of a second.
    pub(super) start: (Duration, Sums, usize),
    /// How long it was counted, what was asked, and the most of a second.
    pub(super) steady: (Duration, Sums, usize),
    pub(super) gaps: Gaps,
    pub(super) client: Option<Cost>,
    pub(super) stopped: Option<Stopped>,
}

impl Report {
    pub(super) fn new(measured: Measured) -> Self {
        let (started, start, start_most_per_second) = measured.start;
        let (time, steady, most_per_second) = measured.steady;
        let fresh = steady.connections.min(steady.http);
        Self {
            trackers: measured.urls,
            torrents: measured.setting.torrents,
            interval_seconds: measured.setting.interval.as_secs_f64(),
            delay_ms: measured.setting.delay.as_secs_f64() * 1e3,
            host: measured.host,
            start_seconds: started.as_secs_f64(),
            start,
            start_most_per_second,
            seconds: time.as_secs_f64(),
            steady,
            most_per_second,
            reuse: (steady.http > 0).then(|| 1.0 - fresh as f64 / steady.http as f64),
            gaps: measured.gaps,
            client: measured.client,
            stopped: measured.stopped,
        }
    }

    /// No torrent was announced too late, nothing was asked that is no request, and if the client was to stop, the trackers
    /// have heard it of all torrents.
    pub fn is_clean(&self) -> bool {
        let told = self.stopped.is_none_or(|stopped| stopped.torrents == self.torrents);
        self.gaps.late == 0 && self.start.others + self.steady.others == 0 && told
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value}");
        row("trackers", self.trackers.join(" "))?;
        row(
            "torrents",
            format!(
                "{}, each {} s, answered after {} ms",
                self.torrents, self.interval_seconds, self.delay_ms
            ),
        )?;
        let asked = |sums: &Sums| {
            format!(
                "{} announces, {} scrapes, {} connections, {} connection ids, {} OTHERS",
                sums.requests - sums.scrapes,
                sums.scrapes,
                sums.connections,
                sums.connection_ids,
                sums.others
            )
        };
        row(
            "all announced",
            format!("after {:.1} s: {}", self.start_seconds, asked(&self.start)),
        )?;
        row(
            "  at one tracker",
            format!("{} in a second at most", self.start_most_per_second),
        )?;
        row("counted", format!("{:.1} s: {}", self.seconds, asked(&self.steady)))?;
        row(
            "  at one tracker",
            format!("{} in a second at most", self.most_per_second),
        )?;
        let Gaps {
            count,
            shortest,
            longest,
            late,
        } = self.gaps;
        row(
            "from one to the next",
            format!("{shortest:.1} to {longest:.1} s ({count} times), {late} torrents LATE"),
        )?;
        if let Some(reuse) = self.reuse {
            row("connections reused", format!("by {:.2} % of requests", 100.0 * reuse))?;
        }
        if let Some(Cost {
            usage,
            cpu_percent,
            memory,
        }) = &self.client
        {
            row(
                "client CPU",
                format!(
                    "{cpu_percent:.2} % of a CPU: {:.2} s user, {:.2} s system, {} + {} context switches",
                    usage.user, usage.system, usage.switches_voluntary, usage.switches_forced
                ),
            )?;
            row(
                "client memory",
                format!("{:.1} MiB", (memory.resident + memory.huge) as f64 / MIB),
            )?;
        }
        if let Some(Stopped {
            seconds,
            torrents,
            requests,
            most_per_second,
        }) = self.stopped
        {
            row(
                "stopped",
                format!(
                    "{torrents} torrents, ended after {seconds:.2} s ({requests} requests, {most_per_second} of one tracker in a second)"
                ),
            )?;
        }
        row(
            "machine",
            format!(
                "{}, {} CPUs, Linux {}, load average {:.2}",
                self.host.cpu, self.host.cpus, self.host.kernel, self.host.load
            ),
        )
    }
}
