//! `btd bench floor-server` and `tracker-floor`: the yardsticks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Error, read_torrent, write_port};
use crate::harness::floor::{self, Floor};
use crate::harness::tracker;

#[derive(Debug, Args)]
pub(super) struct FloorServer {
    /// The torrent to serve.
    #[arg(long, value_name = "FILE")]
    pub(super) torrent: PathBuf,
    /// The folder that holds its payload, taken to be whole and right.
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,
    /// Read the payload into memory first, and send it from there: many blocks in a vectored send instead of one in a
    /// sendfile.
    #[arg(long)]
    pub(super) in_memory: bool,
    /// Sleep so many milliseconds after each turn, so that requests gather.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = milliseconds)]
    pub(super) gather_ms: Duration,
    /// Where to listen; port 0 takes any.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(super) listen: SocketAddr,
    /// Write the port that was taken to this file.
    #[arg(long, value_name = "FILE")]
    pub(super) port_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct TrackerFloor {
    /// Answer UDP (recvfrom and sendto), or HTTP (epoll).
    #[arg(long, value_enum)]
    pub(super) protocol: Protocol,
    /// Where to listen; port 0 takes any.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(super) listen: SocketAddr,
    /// Write the port that was taken to this file.
    #[arg(long, value_name = "FILE")]
    pub(super) port_file: Option<PathBuf>,
}

/// What a floor speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections, kept and not.
    Http,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number <= 1_000.0);
    let time = number.and_then(|number| Duration::try_from_secs_f64(number / 1e3).ok());
    time.ok_or_else(|| "a number of milliseconds, up to 1000".to_owned())
}

pub(super) fn serve(args: &FloorServer) -> Result<(), Error> {
    let metainfo = read_torrent(&args.torrent)?;
    let floor = Floor::bind(&metainfo, &args.data, args.listen, args.in_memory)?.gathering(args.gather_ms);
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

pub(super) fn serve_tracker(args: &TrackerFloor) -> Result<(), Error> {
    let floor = match args.protocol {
        Protocol::Udp => tracker::floor::Floor::udp(args.listen),
        Protocol::Http => tracker::floor::Floor::http(args.listen),
    };
    let listen = args.listen;
    let floor = floor.map_err(|error| Error::Listen { listen, error })?;
    let address = floor.local_addr().map_err(Error::TrackerFloor)?;
    println!("tracker floor on {address}, process {}", std::process::id());
    write_port(args.port_file.as_deref(), address)?;
    // Until a signal ends the process: there is nothing to be tidied up.
    floor.run(&AtomicBool::new(false)).map_err(Error::TrackerFloor)
}
