//! `btd bench tracker`: a population that announces itself.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Error, tell};
use crate::harness::tracker;

#[derive(Debug, Args)]
pub(super) struct Tracker {
    /// Where the tracker listens for what --kind says.
    #[arg(long, value_name = "IP:PORT")]
    pub(super) connect: SocketAddrV4,
    /// What it is asked.
    #[arg(long, value_enum, default_value_t = Kind::Udp)]
    pub(super) kind: Kind,
    /// The tracker's process: its CPU time and memory are measured, with those of its threads and descendants.
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// Peers of the population, at most 60,000 for each of --sources.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub(super) peers: u32,
    /// Torrents of the population.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(super) torrents: u32,
    /// Addresses of the population.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(super) sources: u32,
    /// The first of the addresses; the others count up from it. They must be this machine's, as 127.x.y.z are.
    #[arg(long, value_name = "IP", default_value = "127.16.0.1")]
    pub(super) source: Ipv4Addr,
    /// Where the population announces itself by UDP [default: as the load does].
    #[arg(long, value_name = "IP:PORT")]
    pub(super) fill: Option<SocketAddrV4>,
    /// Requests without a reply at a time. Over HTTP each is a connection.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) in_flight: u32,
    /// End after so many requests; 0 is a fill alone [default: --seconds 10].
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    pub(super) requests: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "S")]
    pub(super) seconds: Option<f64>,
    /// Peers wanted in a reply.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) numwant: u32,
    /// Torrents of a scrape, at most 74.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) scrape: u32,
    /// Send so many malformed requests before each honest one. The latency is that of the honest ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) junk: u32,
    /// The share of replies, 0 to 1, whose peers must be those of the torrent. It costs the load generator time.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(super) verify: f64,
    /// Decides who is in which torrent, and who announces when.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Write the info-hashes to this file, one a line, and end: for a tracker that is to be told of them.
    #[arg(long, value_name = "FILE")]
    pub(super) write_hashes: Option<PathBuf>,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// What a tracker is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Announces over UDP.
    Udp,
    /// Scrapes over UDP, of --scrape torrents each.
    UdpScrape,
    /// Announces over HTTP, on connections that are kept.
    Http,
    /// Announces over HTTP, a connection for each.
    HttpClose,
}

pub(super) fn run(args: &Tracker) -> Result<(), Error> {
    let kind = match args.kind {
        Kind::Udp => tracker::Kind::Udp,
        Kind::UdpScrape => tracker::Kind::UdpScrape(args.scrape),
        Kind::Http => tracker::Kind::Http,
        Kind::HttpClose => tracker::Kind::HttpClose,
    };
    let load = tracker::Load {
        pid: args.pid,
        peers: args.peers,
        torrents: args.torrents,
        sources: args.sources,
        source: args.source,
        fill: args.fill,
        in_flight: args.in_flight,
        until: match args.requests {
            Some(count) => tracker::Until::Requests(count),
            None => {
                let time = Duration::try_from_secs_f64(args.seconds.unwrap_or(10.0));
                tracker::Until::Elapsed(time.unwrap_or_default())
            }
        },
        numwant: args.numwant,
        junk: args.junk,
        verify: args.verify,
        seed: args.seed,
        ..tracker::Load::new(args.connect, kind)
    };
    if let Some(path) = &args.write_hashes {
        let mut text = String::new();
        for hash in load.info_hashes()? {
            hash.0
                .iter()
                .for_each(|byte| write!(text, "{byte:02x}").expect("text takes everything"));
            text.push('\n');
        }
        return fs::write(path, text).map_err(|error| Error::File {
            path: path.clone(),
            error,
        });
    }
    let report = load.run()?;
    tell(&report, args.json)?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Error::NotAnswered),
    }
}
