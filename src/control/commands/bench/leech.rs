//! `btd bench leech`: a swarm of seeders.

use std::io::{self, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Error, rate, read_torrent, tell};
use crate::harness::feed::{Feed, Way};

#[derive(Debug, Args)]
pub(super) struct Leech {
    /// The torrent that the client downloads.
    #[arg(long, value_name = "FILE")]
    pub(super) torrent: PathBuf,
    /// The folder that holds its payload, taken to be whole and right; it is read into memory.
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,
    /// How many seeders.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seeders: u32,
    /// Where the first seeder listens; the others' addresses count up from it. Port 0 takes any, for each.
    #[arg(long, value_name = "IP:PORT", default_value = "127.32.0.1:0")]
    pub(super) listen: SocketAddrV4,
    /// Do not listen: call the client, which listens here, from the addresses of --listen.
    #[arg(long, value_name = "IP:PORT")]
    pub(super) connect: Option<SocketAddr>,
    /// The client's process: its CPU time and memory are measured, with those of its threads and descendants.
    #[arg(long, conflicts_with = "pid_file")]
    pub(super) pid: Option<u32>,
    /// A file that names the client's process by the time it shakes hands.
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Each seeder sends at this rate, "1MB" a second [default: flat out].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) rate: Option<u64>,
    /// How long everything takes from one end of the path to the other, either way: half a round trip.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub(super) delay_ms: f64,
    /// What the path carries, all seeders together, "25MB" a second [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) path_rate: Option<u64>,
    /// Requests that a seeder's queue takes, and says it takes. Those beyond it are rejected, or dropped where the client
    /// lacks the fast extension.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(super) reqq: u32,
    /// So many of the seeders send wrong bytes.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(super) liars: u32,
    /// So many of them send at --slow-rate.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(super) slow: u32,
    /// The rate of the slow.
    #[arg(long, value_name = "RATE", value_parser = rate, default_value = "100kB")]
    pub(super) slow_rate: u64,
    /// So many of them cut the connection now and then, after 8 MiB on the average.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(super) dropping: u32,
    /// End so many seconds after the first request at the latest, or if there is none by then.
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    pub(super) seconds: f64,
    /// Measure the client for so long after it has everything: some write and sync then.
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    pub(super) linger: f64,
    /// A file that has this name when the client is done, which is waited for. May be given more than once.
    #[arg(long, value_name = "PATH")]
    pub(super) watch_file: Vec<PathBuf>,
    /// The folder in which all files of the torrent have their names when the client is done, which is waited for.
    #[arg(long, value_name = "DIR")]
    pub(super) watch_data: Option<PathBuf>,
    /// Sleep between events. A seeder that sleeps has its wake-ups charged to the client, so without this one CPU is kept
    /// busy from the first handshake to the end.
    #[arg(long)]
    pub(super) sleep: bool,
    /// Decides when connections are cut.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Print where the seeders listen, and then the report, as one JSON object each.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Leech) -> Result<(), Error> {
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
    let report = bound.run(|whom| super::super::tell(format_args!("{whom}")))?;
    drop(out);
    tell(&report, args.json)?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Error::NotFed),
    }
}
