//! `btd bench`: the measuring harness on the command line. What the figures mean is told in PERF.md.

mod announcer;
mod floor;
mod leech;
mod seed;
mod sends;
mod tracker;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::super::config::units;
use super::Fault;
use crate::harness;
use crate::proto::metainfo::{self, Metainfo};

/// Measure a BitTorrent client of any make (seeding, downloading or announcing), or a tracker.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Drive a seeding server as a swarm of leechers and tell what it costs.
    ///
    /// Every leecher asks for a random piece at a time, its blocks in order, and drops what it gets. The clocks start
    /// when the server has unchoked all of them, or after 12 seconds. The exit code is 0 if every connection was served
    /// to the end and every sampled piece was right, else 1.
    Seed(seed::Seed),
    /// Feed a downloading client as a swarm of seeders and tell what it costs.
    ///
    /// The first line of output tells where the seeders listen, so that a script can hand it to the client; with --connect
    /// they call the client instead, until it knows the torrent. The run ends when the client says that it has everything,
    /// or has been sent everything and wants no more. The clock of the rate starts with its first request, that of the CPU
    /// time with its first handshake. The exit code is 0 if the client got everything, else 1.
    Leech(leech::Leech),
    /// Serve one torrent with the least work there is (epoll and sendfile): the yardstick for `seed`.
    FloorServer(floor::FloorServer),
    /// Tell what a bare sender costs on this machine, by three ways to send: no server can be below the cheapest.
    ///
    /// One thread sends batches over loopback, another takes them and asks for the next ones; nothing else is done. Also told is
    /// what a cache line takes between the two CPUs, which on a virtual machine changes with what its host does.
    Sends(sends::SendsArgs),
    /// Announce to a tracker, or scrape it, and tell what it costs.
    ///
    /// First the whole population announces itself: so many peers, over the torrents by Zipf's law, from addresses of their own.
    /// Then the clock starts, and peers announce by chance, 2 % each started, completed and stopped. Every reply must have
    /// its request's transaction and be what the protocol says; with --verify its peers are looked up as well. The exit code
    /// is 0 if every request had a good reply and no malformed one was answered with more than it was, else 1.
    Tracker(tracker::Tracker),
    /// Answer announces and scrapes with bytes that are ready: the yardstick for `tracker`.
    TrackerFloor(floor::TrackerFloor),
    /// Be the trackers of a client that announces many torrents, and tell what it asks and what that costs it.
    ///
    /// The first line of output tells where the trackers listen; by then the torrents are written, if they are to be. The run
    /// begins when the client's process is known. When all torrents have been announced, and some time after that, the
    /// clock starts. The exit code is 0 if each was announced within its interval (and with --stop, was told of as stopped),
    /// else 1.
    Announcer(announcer::Announcer),
}

/// Why a measurement did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The torrent file is not one.
    #[error("{path}: {error}")]
    Torrent {
        /// Which.
        path: PathBuf,
        /// Why.
        error: metainfo::Error,
    },
    /// The load could not be run.
    #[error(transparent)]
    Load(#[from] harness::load::Error),
    /// The seeders could not feed.
    #[error(transparent)]
    Feed(#[from] harness::feed::Error),
    /// The floor server could not serve.
    #[error(transparent)]
    Floor(#[from] harness::floor::Error),
    /// The bare sender could not be measured.
    #[error(transparent)]
    Sends(#[from] harness::sends::Error),
    /// The load on a tracker could not be run.
    #[error(transparent)]
    Tracker(#[from] harness::tracker::Error),
    /// The tracker's floor cannot listen there.
    #[error("cannot listen at {listen}: {error}")]
    Listen {
        /// Where it was to.
        listen: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The tracker's floor could not serve.
    #[error("cannot serve: {0}")]
    TrackerFloor(io::Error),
    /// The trackers could not be announced to.
    #[error(transparent)]
    Announced(#[from] harness::announced::Error),
    /// The report could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The run came to its end, but the server did not do all that was asked of it.
    #[error("not clean: connections were lost or never served, or bytes were wrong (see the report)")]
    NotClean,
    /// The run came to its end without one of the pieces that were to be verified.
    #[error(
        "nothing was verified: none of the pieces that were to be came whole (hint: a larger --verify, or more --bytes or --seconds)"
    )]
    NotVerified,
    /// The run came to its end before the client had everything.
    #[error("the client did not get everything in time (see the report)")]
    NotFed,
    /// The run came to its end, but some requests had no good reply.
    #[error("not clean: requests were lost, refused or answered wrongly (see the report)")]
    NotAnswered,
    /// The run came to its end, but some torrents were not announced as they should have been.
    #[error("not clean: torrents were announced late, or not told of as stopped (see the report)")]
    NotAnnounced,
}

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Error::NotClean | Error::NotVerified | Error::NotFed | Error::NotAnswered | Error::NotAnnounced => {
                Fault::NotWhole
            }
            Error::Torrent { .. } => Fault::Data,
            Error::Load(harness::load::Error::Setting(_))
            | Error::Feed(harness::feed::Error::Setting(_))
            | Error::Sends(harness::sends::Error::Batch(_))
            | Error::Tracker(harness::tracker::Error::Setting(_))
            | Error::Announced(harness::announced::Error::Setting(_)) => Fault::Usage,
            Error::File { .. }
            | Error::Listen { .. }
            | Error::Load(_)
            | Error::Feed(_)
            | Error::Floor(_)
            | Error::Sends(_)
            | Error::Tracker(_)
            | Error::TrackerFloor(_)
            | Error::Announced(_)
            | Error::Output(_) => Fault::Io,
        }
    }
}

/// Runs `btd bench`.
///
/// # Errors
/// [`Error::NotClean`], [`Error::NotVerified`], [`Error::NotFed`], [`Error::NotAnswered`] and [`Error::NotAnnounced`] after the
/// report was written; any other before.
pub fn run(bench: &Bench) -> Result<(), Error> {
    match &bench.what {
        What::Seed(args) => seed::run(args),
        What::Leech(args) => leech::run(args),
        What::FloorServer(args) => floor::serve(args),
        What::Sends(args) => sends::run(args),
        What::Tracker(args) => tracker::run(args),
        What::TrackerFloor(args) => floor::serve_tracker(args),
        What::Announcer(args) => announcer::run(args),
    }
}

/// Writes a report as JSON, or for people.
fn tell(report: &(impl Serialize + fmt::Display), json: bool) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = if json {
        serde_json::to_writer(&mut out, report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{report}")
    };
    written.map_err(Error::Output)
}

fn write_port(path: Option<&Path>, address: SocketAddr) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, format!("{}\n", address.port())).map_err(|error| Error::File {
        path: path.to_owned(),
        error,
    })
}

fn read_torrent(path: &Path) -> Result<Metainfo, Error> {
    let bytes = fs::read(path).map_err(|error| Error::File {
        path: path.to_owned(),
        error,
    })?;
    Metainfo::parse(&bytes).map_err(|error| Error::Torrent {
        path: path.to_owned(),
        error,
    })
}

fn size(text: &str) -> Result<u64, String> {
    units::size(text).ok_or_else(|| "a number and a unit, such as 8GiB or 500MB".to_owned())
}

fn rate(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let bytes = units::size(text.strip_suffix("/s").unwrap_or(text));
    bytes.ok_or_else(|| "a size in a second, such as 250kB/s".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::tracker::Kind;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn parse(words: &str) -> Result<What, clap::Error> {
        Line::try_parse_from(words.split(' ')).map(|line| line.bench.what)
    }

    #[test]
    fn a_line_of_measurement_is_understood() {
        let line = "bench seed --torrent t --connect 127.0.0.1:1 --pid 7 --connections 500 --queue 4 --bytes 8GiB --pace 250kB/s";
        let What::Seed(seed) = parse(line).unwrap() else {
            panic!("not seed")
        };
        assert_eq!((seed.pid, seed.connections, seed.queue), (Some(7), 500, 4));
        assert_eq!((seed.bytes, seed.pace), (Some(8 << 30), Some(250_000)));
    }

    #[test]
    fn a_line_that_feeds_a_client_is_understood() {
        let line = "bench leech --torrent t --data d --seeders 8 --liars 1 --delay-ms 50 --path-rate 25MB/s --reqq 2000 \
            --watch-file a --watch-file b";
        let What::Leech(leech) = parse(line).unwrap() else {
            panic!("not leech")
        };
        assert_eq!((leech.seeders, leech.liars, leech.reqq), (8, 1, 2000));
        assert_eq!((leech.delay_ms, leech.path_rate), (50.0, Some(25_000_000)));
        assert_eq!((leech.slow_rate, leech.watch_file.len()), (100_000, 2));
        assert!(parse("bench leech --torrent t --data d --pid 1 --pid-file p").is_err());
        assert!(parse("bench leech --torrent t").is_err());
    }

    #[test]
    fn a_line_that_asks_a_tracker_is_understood() {
        let line = "bench tracker --connect 127.0.0.1:1 --kind udp-scrape --peers 1000 --junk 3 --requests 0";
        let What::Tracker(tracker) = parse(line).unwrap() else {
            panic!("not tracker")
        };
        assert_eq!((tracker.kind, tracker.scrape), (Kind::UdpScrape, 50));
        assert_eq!((tracker.peers, tracker.junk, tracker.requests), (1_000, 3, Some(0)));
        assert!(parse("bench tracker --connect 127.0.0.1:1 --requests 1 --seconds 1").is_err());
        assert!(parse("bench tracker --connect [::1]:1").is_err());
        assert!(parse("bench tracker-floor --protocol http").is_ok());
        assert!(parse("bench tracker-floor").is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        let seed = "bench seed --torrent t --connect 127.0.0.1:1";
        for more in [
            "--bytes 1GiB --seconds 2",
            "--idle --bytes 1GiB",
            "--sequential --random-pieces",
            "--pace quick",
        ] {
            assert!(parse(&format!("{seed} {more}")).is_err(), "{more}");
        }
        assert!(parse(seed).is_ok());
        assert!(parse("bench seed --torrent t").is_err());
    }
}
