//! `btd bench seed`: a swarm of leechers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Error, rate, read_torrent, size, tell};
use crate::harness::Target;
use crate::harness::load::{Load, Order, Until};

#[derive(Debug, Args)]
pub(super) struct Seed {
    /// The torrent that the server seeds.
    #[arg(long, value_name = "FILE")]
    pub(super) torrent: PathBuf,
    /// Where the server listens for peers.
    #[arg(long, value_name = "IP:PORT")]
    pub(super) connect: SocketAddr,
    /// The server's process: its CPU time and memory are measured, with those of its threads and descendants.
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// How many leechers; against a loopback address each has its own 127.x.y.z.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(super) connections: u32,
    /// Requests that each leecher keeps outstanding.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(super) queue: usize,
    /// End after so much payload, "8GiB" [default: --seconds 10].
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "seconds")]
    pub(super) bytes: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "S")]
    pub(super) seconds: Option<f64>,
    /// Each leecher asks at this rate, "250kB" a second, by a timetable [default: flat out].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) pace: Option<u64>,
    /// Ask for random pieces (the default).
    #[arg(long, conflicts_with_all = ["sequential", "idle"])]
    pub(super) random_pieces: bool,
    /// Ask for the pieces in order, each leecher from a place of its own.
    #[arg(long, conflicts_with = "idle")]
    pub(super) sequential: bool,
    /// Only shake hands and stay: tells what a connection costs in memory. Needs --seconds.
    #[arg(long, conflicts_with_all = ["bytes", "pace", "verify"])]
    pub(super) idle: bool,
    /// Bytes of a request, at most 16384.
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024)]
    pub(super) block: u32,
    /// The share of pieces, 0 to 1, that are kept whole and checked by their SHA-1. It costs the load generator time. A run in which
    /// none of them came whole fails.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(super) verify: f64,
    /// Offer the fast extension (BEP 6).
    #[arg(long)]
    pub(super) fast: bool,
    /// Offer the extension protocol (BEP 10).
    #[arg(long)]
    pub(super) extended: bool,
    /// Sleep between events. A receiver that sleeps has its wake-ups charged to the server, so without this the load
    /// generator keeps one CPU busy from start to end.
    #[arg(long)]
    pub(super) sleep: bool,
    /// Threads of the load generator.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) threads: u32,
    /// The first leecher's loopback address; the others count up from it.
    #[arg(long, value_name = "IP", default_value = "127.16.0.1")]
    pub(super) source: Ipv4Addr,
    /// Decides which pieces are asked for.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Seed) -> Result<(), Error> {
    let metainfo = read_torrent(&args.torrent)?;
    let load = Load {
        pid: args.pid,
        connections: args.connections,
        queue: args.queue,
        block: args.block,
        pace: args.pace.map(|rate| rate as f64),
        order: if args.idle {
            Order::Idle
        } else if args.sequential {
            Order::Sequential
        } else {
            Order::Random
        },
        until: match args.bytes {
            Some(bytes) => Until::Bytes(bytes),
            None => Until::Elapsed(Duration::try_from_secs_f64(args.seconds.unwrap_or(10.0)).unwrap_or_default()),
        },
        verify: args.verify,
        fast: args.fast,
        extended: args.extended,
        busy: !args.sleep,
        threads: args.threads,
        source: args.source,
        seed: args.seed,
        ..Load::new(args.connect)
    };
    let report = load.run(&Target::from(&metainfo))?;
    tell(&report, args.json)?;
    if !report.is_clean() {
        return Err(Error::NotClean);
    }
    match report.is_unverified() {
        true => Err(Error::NotVerified),
        false => Ok(()),
    }
}
