//! `btd bench announcer`: trackers that a client announces to.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::super::config::units;
use super::{Error, tell};
use crate::harness::announced::{Process, Setting};

#[derive(Debug, Args)]
pub(super) struct Announcer {
    /// Write the torrents into this folder, for the client to take them from.
    #[arg(long, value_name = "DIR", requires = "data_dir")]
    pub(super) torrents_dir: Option<PathBuf>,
    /// And their payload, which is one small file, into this.
    #[arg(long, value_name = "DIR", requires = "torrents_dir")]
    pub(super) data_dir: Option<PathBuf>,
    /// How many torrents. Each is announced to one of the trackers.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(super) torrents: u32,
    /// Trackers that speak HTTP.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) http: u32,
    /// Trackers that speak UDP.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) udp: u32,
    /// Where they listen, each on a port of its own.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub(super) listen: IpAddr,
    /// A name that leads there, for the torrents' files [default: the address].
    #[arg(long, value_name = "NAME")]
    pub(super) host: Option<String>,
    /// When the client is to announce again.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30m")]
    pub(super) interval: Duration,
    /// How long an answer takes.
    #[arg(long, value_name = "MS", default_value_t = 20.0)]
    pub(super) delay_ms: f64,
    /// The client's process: its CPU time and memory are measured, with those of its threads and descendants.
    #[arg(long, conflicts_with = "pid_file")]
    pub(super) pid: Option<u32>,
    /// A file that will name the client's process.
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// How long all torrents may take to be announced once.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30m")]
    pub(super) start: Duration,
    /// How long nothing is counted after that.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s")]
    pub(super) settle: Duration,
    /// How long it is counted then.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10m")]
    pub(super) time: Duration,
    /// Send the client SIGTERM at the end, and count of how many torrents the trackers hear that they stop.
    #[arg(long)]
    pub(super) stop: bool,
    /// Print where the trackers listen, and then the report, as one JSON object each.
    #[arg(long)]
    pub(super) json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    units::time(text).ok_or_else(|| "a time, such as 30m or 90s".to_owned())
}

pub(super) fn run(args: &Announcer) -> Result<(), Error> {
    let setting = Setting {
        listen: args.listen,
        host: args.host.clone(),
        http: args.http,
        udp: args.udp,
        torrents: args.torrents,
        interval: args.interval,
        delay: Duration::try_from_secs_f64(args.delay_ms / 1e3).unwrap_or_default(),
        write: args.torrents_dir.clone().zip(args.data_dir.clone()),
        process: match (args.pid, &args.pid_file) {
            (Some(pid), _) => Process::Pid(pid),
            (None, Some(path)) => Process::File(path.clone()),
            (None, None) => Process::Unknown,
        },
        start: args.start,
        settle: args.settle,
        time: args.time,
        stop: args.stop,
    };
    let bound = setting.bind()?;
    let mut out = io::stdout().lock();
    let told = match args.json {
        true => writeln!(out, "{}", serde_json::json!({ "trackers": bound.urls() })),
        false => writeln!(out, "trackers listen at     {}", bound.urls().join(" ")),
    };
    // A script waits for it.
    told.and_then(|()| out.flush()).map_err(Error::Output)?;
    drop(out);
    let report = bound.run()?;
    tell(&report, args.json)?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Error::NotAnnounced),
    }
}
