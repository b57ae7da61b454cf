//! `btd bench`: the measuring harness on the command line. What the figures mean is told in PERF.md.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::harness::Target;
use crate::harness::feed::{self, Feed, Way};
use crate::harness::floor::{self, Floor};
use crate::harness::load::{self, Load, Order, Until};
use crate::harness::tracker;
use crate::proto::metainfo::{self, Metainfo};

use super::super::config::units;

/// Measure a BitTorrent client of any make, seeding or downloading, or a tracker.
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
    Seed(Seed),
    /// Feed a downloading client as a swarm of seeders and tell what it costs.
    ///
    /// The first line of output tells where the seeders listen, so that a script can hand it to the client; with --connect
    /// they call the client instead, until it knows the torrent. The run ends when the client says that it has everything,
    /// or has been sent everything and wants no more. The clock of the rate starts with its first request, that of the CPU
    /// time with its first handshake. The exit code is 0 if the client got everything, else 1.
    Leech(Leech),
    /// Serve one torrent with the least work there is (epoll and sendfile): the yardstick for `seed`.
    FloorServer(FloorServer),
    /// Announce to a tracker, or scrape it, and tell what it costs.
    ///
    /// First the whole population announces itself: so many peers, over the torrents by Zipf's law, from addresses of their own.
    /// Then the clock starts, and peers announce by chance, 2 % each started, completed and stopped. Every reply must have
    /// its request's transaction and be what the protocol says; with --verify its peers are looked up as well. The exit code
    /// is 0 if every request had a good reply and no malformed one was answered with more than it was, else 1.
    Tracker(Tracker),
    /// Answer announces and scrapes with bytes that are ready: the yardstick for `tracker`.
    TrackerFloor(TrackerFloor),
}

#[derive(Debug, Args)]
struct Seed {
    /// The torrent that the server seeds.
    #[arg(long, value_name = "FILE")]
    torrent: PathBuf,
    /// Where the server listens for peers.
    #[arg(long, value_name = "IP:PORT")]
    connect: SocketAddr,
    /// The server's process: its CPU time and memory are measured, with those of its threads and descendants.
    #[arg(long)]
    pid: Option<u32>,
    /// How many leechers; against a loopback address each has its own 127.x.y.z.
    #[arg(long, value_name = "N", default_value_t = 8)]
    connections: u32,
    /// Requests that each leecher keeps outstanding.
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// End after so much payload, "8GiB" [default: --seconds 10].
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "seconds")]
    bytes: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Each leecher asks at this rate, "250kB" a second, by a timetable [default: flat out].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pace: Option<u64>,
    /// Ask for random pieces (the default).
    #[arg(long, conflicts_with_all = ["sequential", "idle"])]
    random_pieces: bool,
    /// Ask for the pieces in order, each leecher from a place of its own.
    #[arg(long, conflicts_with = "idle")]
    sequential: bool,
    /// Only shake hands and stay: tells what a connection costs in memory. Needs --seconds.
    #[arg(long, conflicts_with_all = ["bytes", "pace"])]
    idle: bool,
    /// Bytes of a request, at most 16384.
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024)]
    block: u32,
    /// The share of pieces, 0 to 1, that are kept whole and checked by their SHA-1. It costs the load generator time.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    verify: f64,
    /// Offer the fast extension (BEP 6).
    #[arg(long)]
    fast: bool,
    /// Offer the extension protocol (BEP 10).
    #[arg(long)]
    extended: bool,
    /// Sleep between events. A receiver that sleeps has its wake-ups charged to the server, so without this the load
    /// generator keeps one CPU busy from start to end.
    #[arg(long)]
    sleep: bool,
    /// Threads of the load generator.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u32,
    /// The first leecher's loopback address; the others count up from it.
    #[arg(long, value_name = "IP", default_value = "127.16.0.1")]
    source: Ipv4Addr,
    /// Decides which pieces are asked for.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Leech {
    /// The torrent that the client downloads.
    #[arg(long, value_name = "FILE")]
    torrent: PathBuf,
    /// The folder that holds its payload, taken to be whole and right; it is read into memory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How many seeders.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeders: u32,
    /// Where the first seeder listens; the others' addresses count up from it. Port 0 takes any, for each.
    #[arg(long, value_name = "IP:PORT", default_value = "127.32.0.1:0")]
    listen: SocketAddrV4,
    /// Do not listen: call the client, which listens here, from the addresses of --listen.
    #[arg(long, value_name = "IP:PORT")]
    connect: Option<SocketAddr>,
    /// The client's process: its CPU time and memory are measured, with those of its threads and descendants.
    #[arg(long, conflicts_with = "pid_file")]
    pid: Option<u32>,
    /// A file that names the client's process by the time it shakes hands.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Each seeder sends at this rate, "1MB" a second [default: flat out].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<u64>,
    /// How long everything takes from one end of the path to the other, either way: half a round trip.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    delay_ms: f64,
    /// What the path carries, all seeders together, "25MB" a second [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    path_rate: Option<u64>,
    /// Requests that a seeder's queue takes, and says it takes. Those beyond it are rejected, or dropped where the client
    /// lacks the fast extension.
    #[arg(long, value_name = "N", default_value_t = 500)]
    reqq: u32,
    /// So many of the seeders send wrong bytes.
    #[arg(long, value_name = "K", default_value_t = 0)]
    liars: u32,
    /// So many of them send at --slow-rate.
    #[arg(long, value_name = "K", default_value_t = 0)]
    slow: u32,
    /// The rate of the slow.
    #[arg(long, value_name = "RATE", value_parser = rate, default_value = "100kB")]
    slow_rate: u64,
    /// So many of them cut the connection now and then, after 8 MiB on the average.
    #[arg(long, value_name = "K", default_value_t = 0)]
    dropping: u32,
    /// End so many seconds after the first request at the latest, or if there is none by then.
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    seconds: f64,
    /// Measure the client for so long after it has everything: some write and sync then.
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    linger: f64,
    /// A file that has this name when the client is done, which is waited for. May be given more than once.
    #[arg(long, value_name = "PATH")]
    watch_file: Vec<PathBuf>,
    /// The folder in which all files of the torrent have their names when the client is done, which is waited for.
    #[arg(long, value_name = "DIR")]
    watch_data: Option<PathBuf>,
    /// Sleep between events. A seeder that sleeps has its wake-ups charged to the client, so without this one CPU is kept
    /// busy from the first handshake to the end.
    #[arg(long)]
    sleep: bool,
    /// Decides when connections are cut.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print where the seeders listen, and then the report, as one JSON object each.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct FloorServer {
    /// The torrent to serve.
    #[arg(long, value_name = "FILE")]
    torrent: PathBuf,
    /// The folder that holds its payload, taken to be whole and right.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Read the payload into memory first, and send it from there: many blocks in a vectored send instead of one in a
    /// sendfile.
    #[arg(long)]
    in_memory: bool,
    /// Where to listen; port 0 takes any.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the port that was taken to this file.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Tracker {
    /// Where the tracker listens for what --kind says.
    #[arg(long, value_name = "IP:PORT")]
    connect: SocketAddrV4,
    /// What it is asked.
    #[arg(long, value_enum, default_value_t = Kind::Udp)]
    kind: Kind,
    /// The tracker's process: its CPU time and memory are measured, with those of its threads and descendants.
    #[arg(long)]
    pid: Option<u32>,
    /// Peers of the population, at most 60,000 for each of --sources.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    peers: u32,
    /// Torrents of the population.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    torrents: u32,
    /// Addresses of the population.
    #[arg(long, value_name = "N", default_value_t = 16)]
    sources: u32,
    /// The first of the addresses; the others count up from it. They must be this machine's, as 127.x.y.z are.
    #[arg(long, value_name = "IP", default_value = "127.16.0.1")]
    source: Ipv4Addr,
    /// Where the population announces itself by UDP [default: as the load does].
    #[arg(long, value_name = "IP:PORT")]
    fill: Option<SocketAddrV4>,
    /// Requests without a reply at a time. Over HTTP each is a connection.
    #[arg(long, value_name = "N", default_value_t = 128)]
    in_flight: u32,
    /// End after so many requests; 0 is a fill alone [default: --seconds 10].
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    requests: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Peers wanted in a reply.
    #[arg(long, value_name = "N", default_value_t = 50)]
    numwant: u32,
    /// Torrents of a scrape, at most 74.
    #[arg(long, value_name = "N", default_value_t = 50)]
    scrape: u32,
    /// Send so many malformed requests before each honest one. The latency is that of the honest ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    junk: u32,
    /// The share of replies, 0 to 1, whose peers must be those of the torrent. It costs the load generator time.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    verify: f64,
    /// Decides who is in which torrent, and who announces when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the info-hashes to this file, one a line, and end: for a tracker that is to be told of them.
    #[arg(long, value_name = "FILE")]
    write_hashes: Option<PathBuf>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a tracker is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Announces over UDP.
    Udp,
    /// Scrapes over UDP, of --scrape torrents each.
    UdpScrape,
    /// Announces over HTTP, on connections that are kept.
    Http,
    /// Announces over HTTP, a connection for each.
    HttpClose,
}

#[derive(Debug, Args)]
struct TrackerFloor {
    /// Answer UDP (recvfrom and sendto), or HTTP (epoll).
    #[arg(long, value_enum)]
    protocol: Protocol,
    /// Where to listen; port 0 takes any.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the port that was taken to this file.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

/// What a floor speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections, kept and not.
    Http,
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
    Load(#[from] load::Error),
    /// The seeders could not feed.
    #[error(transparent)]
    Feed(#[from] feed::Error),
    /// The floor server could not serve.
    #[error(transparent)]
    Floor(#[from] floor::Error),
    /// The load on a tracker could not be run.
    #[error(transparent)]
    Tracker(#[from] tracker::Error),
    /// The tracker's floor could not serve.
    #[error("cannot serve: {0}")]
    TrackerFloor(io::Error),
    /// The report could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The run came to its end, but the server did not do all that was asked of it.
    #[error("not clean: connections were lost or never served, or bytes were wrong (see the report)")]
    NotClean,
    /// The run came to its end before the client had everything.
    #[error("the client did not get everything in time (see the report)")]
    NotFed,
    /// The run came to its end, but some requests had no good reply.
    #[error("not clean: requests were lost, refused or answered wrongly (see the report)")]
    NotAnswered,
}

/// Runs `btd bench`.
///
/// # Errors
/// [`Error::NotClean`], [`Error::NotFed`] and [`Error::NotAnswered`] after the report was written; any other before.
pub fn run(bench: &Bench) -> Result<(), Error> {
    match &bench.what {
        What::Seed(args) => seed(args),
        What::Leech(args) => leech(args),
        What::FloorServer(args) => floor_server(args),
        What::Tracker(args) => bench_tracker(args),
        What::TrackerFloor(args) => tracker_floor(args),
    }
}

fn seed(args: &Seed) -> Result<(), Error> {
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
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{report}")
    };
    written.map_err(Error::Output)?;
    if report.is_clean() {
        Ok(())
    } else {
        Err(Error::NotClean)
    }
}

fn leech(args: &Leech) -> Result<(), Error> {
    let metainfo = read_torrent(&args.torrent)?;
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let way = match args.connect {
        None => Way::Listen(args.listen),
        Some(client) => Way::Connect {
            client,
            source: *args.listen.ip(),
        },
    };
    let mut watch = args.watch_file.clone();
    if let Some(dir) = &args.watch_data {
        let files = metainfo.files.iter().filter(|file| !file.pad);
        watch.extend(files.map(|file| dir.join(file.path.as_path())));
    }
    let feed = Feed {
        pid: args.pid,
        pid_file: args.pid_file.clone(),
        seeders: args.seeders,
        rate: args.rate,
        delay: seconds(args.delay_ms / 1e3),
        path_rate: args.path_rate,
        reqq: args.reqq,
        liars: args.liars,
        slow: args.slow,
        slow_rate: args.slow_rate,
        dropping: args.dropping,
        limit: seconds(args.seconds),
        linger: seconds(args.linger),
        watch,
        busy: !args.sleep,
        seed: args.seed,
        ..Feed::new(way)
    };
    let bound = feed.bind(&metainfo, &args.data)?;
    let addresses: Vec<String> = bound.addresses()?.iter().map(SocketAddr::to_string).collect();
    let mut out = io::stdout().lock();
    let told = match args.json {
        true => writeln!(out, "{}", serde_json::json!({ "seeders": addresses })),
        false => writeln!(out, "seeders listen at      {}", addresses.join(" ")),
    };
    // A script waits for it.
    told.and_then(|()| out.flush()).map_err(Error::Output)?;
    let report = bound.run()?;
    let written = if args.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{report}")
    };
    written.map_err(Error::Output)?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Error::NotFed),
    }
}

fn floor_server(args: &FloorServer) -> Result<(), Error> {
    let metainfo = read_torrent(&args.torrent)?;
    let floor = Floor::bind(&metainfo, &args.data, args.listen, args.in_memory)?;
    let address = floor.local_addr().map_err(floor::Error::Serve)?;
    println!(
        "floor server for {} on {address}, process {}",
        metainfo.name,
        std::process::id()
    );
    write_port(args.port_file.as_deref(), address)?;
    // Until a signal ends the process: there is nothing to be tidied up.
    floor.run(&AtomicBool::new(false))?;
    Ok(())
}

fn bench_tracker(args: &Tracker) -> Result<(), Error> {
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
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| io::Write::write_all(&mut out, b"\n"))
    } else {
        io::Write::write_fmt(&mut out, format_args!("{report}"))
    };
    written.map_err(Error::Output)?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Error::NotAnswered),
    }
}

fn tracker_floor(args: &TrackerFloor) -> Result<(), Error> {
    let floor = match args.protocol {
        Protocol::Udp => tracker::floor::Floor::udp(args.listen),
        Protocol::Http => tracker::floor::Floor::http(args.listen),
    };
    let floor = floor.map_err(Error::TrackerFloor)?;
    let address = floor.local_addr().map_err(Error::TrackerFloor)?;
    println!("tracker floor on {address}, process {}", std::process::id());
    write_port(args.port_file.as_deref(), address)?;
    // Until a signal ends the process: there is nothing to be tidied up.
    floor.run(&AtomicBool::new(false)).map_err(Error::TrackerFloor)
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
