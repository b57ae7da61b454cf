//! The configuration: a TOML file and the environment in, a plan of plain values out.
//!
//! Every key and its default is explained in `config/seed.toml`; a test holds the two together. Unknown keys are
//! refused with the nearest known one, because a misspelt limit that is silently ignored is worse than no limit. A key
//! enters the plan together with the code that obeys it, never before. Nothing here touches the disk but [`Config::load`] and
//! [`Config::check`].

mod changes;
mod credentials;
mod document;
mod lenient;
mod problem;
mod quotes;
mod reader;
pub(super) mod schedule;
pub(super) mod sections;
mod store_url;
pub(super) mod units;
mod variables;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use problem::{At, Error, Problem};
pub use store_url::StoreUrl;
pub use units::display_size;

use super::cli::LogLevel;
use crate::announcer::TrackerUrl;
use crate::proto::choker;
use crate::storage::part::Preallocate;
use crate::tracker;
use document::Document;
use reader::Context;
use schedule::Slot;
use variables::TOP_KEYS;

/// No configuration is longer.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What the daemon is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where btd keeps its own files: `lock`, `session.redb`, `ctl.sock`, `ports.json`.
    pub state_dir: PathBuf,
    /// How much is logged.
    pub log_level: LogLevel,
    /// The listening sockets and how many peers may connect.
    pub peers: Peers,
    /// How payload is read.
    pub storage: Storage,
    /// Folders of .torrent files.
    pub watch: Vec<Watch>,
    /// How much is given away.
    pub limits: Limits,
    /// The tracker; absent when there is no `[tracker]`.
    pub tracker: Option<Tracker>,
    /// What trackers are told, and which.
    pub announce: Announce,
    /// The metrics server; absent when there is no `[metrics]`.
    pub metrics: Option<Metrics>,
    /// The threads that serve peers.
    pub shards: Shards,
}

/// `[peers]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Where peers connect. Port 0 means any.
    pub listen: Vec<SocketAddr>,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections of one torrent.
    pub max_connections_per_torrent: usize,
    /// Connections from one address.
    pub max_connections_per_ip: usize,
    /// Whether sends may lend their memory to sockets.
    pub zero_copy: bool,
    /// The network device that peers, trackers and name servers are reached through; `None` is any.
    pub bind_device: Option<String>,
    /// The addresses that peers, trackers and name servers are reached from, at most one of a family; the system chooses where
    /// there are none.
    pub bind_address: Vec<IpAddr>,
    /// The name servers that are asked so, in the place of the system's.
    pub dns_servers: Vec<IpAddr>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 6881))],
            max_connections: 8000,
            max_connections_per_torrent: 4000,
            max_connections_per_ip: 64,
            zero_copy: false,
            bind_device: None,
            bind_address: Vec::new(),
            dns_servers: Vec::new(),
        }
    }
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Whether reads go around the page cache.
    pub read_mode: ReadMode,
    /// Memory for payload that was read lately, over all shards, in bytes; `None` is what reads and sends need and no more.
    pub cache_size: Option<u64>,
    /// How fast payload is read to be checked, over all checks, in bytes a second; `None` is as fast as it goes.
    pub check_rate: Option<u64>,
    /// Memory for pieces that are being downloaded, over all shards, in bytes.
    pub write_buffer: u64,
    /// Whether files have another name until they are complete.
    pub part_names: bool,
    /// How files get their length.
    pub preallocate: Preallocate,
    /// Over which time all payload is read once more; `None` is never.
    pub scrub: Option<Duration>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            read_mode: ReadMode::Auto,
            cache_size: Some(256 << 20),
            check_rate: None,
            write_buffer: 64 << 20,
            part_names: true,
            preallocate: Preallocate::Sparse,
            scrub: None,
        }
    }
}

/// How payload is read from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// As btd chooses: like `Direct`, in this version.
    Auto,
    /// Around the page cache (O_DIRECT) wherever the filesystem allows it.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// `[[watch]]`: each .torrent in `dir` is added, its payload is in `data_dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The folder of .torrent files.
    pub dir: PathBuf,
    /// The folder of their payload.
    pub data_dir: PathBuf,
    /// Whether to fill both with a small example when `dir` has no torrent yet.
    pub example: bool,
    /// Peers that have what is missing, by address or name, with their ports. Without any nothing is downloaded.
    pub peers: Vec<String>,
    /// When payload is read that nothing is known of.
    pub verify: Verify,
    /// What people call it.
    pub label: Option<String>,
    /// Bytes a second that peers of its torrents are sent, all together; `None` is no limit.
    pub upload_rate: Option<u64>,
    /// The same for what they are asked for.
    pub download_rate: Option<u64>,
    /// A torrent is seeded until it has uploaded so many hundredths of its size; `None` is for ever.
    pub seed_ratio: Option<u32>,
    /// A torrent is seeded for so long after it was complete.
    pub seed_time: Option<Duration>,
}

/// When payload is read that nothing is known of, where its files look as they should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// When its torrent is added, all of it.
    #[default]
    Full,
    /// Each piece before its first byte is sent.
    Lazy,
    /// Never, but by a scrub or if somebody asks for it.
    Trust,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Peers that are unchoked at once, over all shards.
    pub upload_slots: usize,
    /// Who has the slots when more peers want one.
    pub seed_choker: choker::Kind,
    /// Bytes a second that peers are sent, all together; `None` is no limit.
    pub upload_rate: Option<u64>,
    /// The same for each torrent by itself.
    pub upload_rate_per_torrent: Option<u64>,
    /// Bytes a second that peers are asked for, all together; `None` is no limit.
    pub download_rate: Option<u64>,
    /// Other rates for all together, at some times of day. The first that holds counts.
    pub schedule: Vec<Slot>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload_slots: 4000,
            seed_choker: choker::Kind::default(),
            upload_rate: None,
            upload_rate_per_torrent: None,
            download_rate: None,
            schedule: Vec::new(),
        }
    }
}

/// `[tracker]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracker {
    /// Where HTTP is answered. Port 0 means any.
    pub http: Vec<SocketAddr>,
    /// Where UDP is answered, likewise.
    pub udp: Vec<SocketAddr>,
    /// Whether only torrents that btd holds are served, and those of `allow`.
    pub private: bool,
    /// The file of the only torrents that are served.
    pub allow: Option<PathBuf>,
    /// The file of torrents that are not served.
    pub deny: Option<PathBuf>,
    /// HTTP connections in all.
    pub max_connections: usize,
    /// HTTP connections from one address.
    pub max_connections_per_ip: usize,
    /// The store that other btds have a part in; absent when this one is alone.
    pub store: Option<StoreUrl>,
    /// What the tracker itself is told.
    pub settings: tracker::Settings,
}

impl Default for Tracker {
    fn default() -> Self {
        Self {
            http: Vec::new(),
            udp: Vec::new(),
            private: false,
            allow: None,
            deny: None,
            max_connections: 10_000,
            max_connections_per_ip: 200,
            store: None,
            settings: tracker::Settings::default(),
        }
    }
}

/// `[announce]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Whether torrents are announced to trackers at all.
    pub enabled: bool,
    /// The name that peers reach us by, for trackers that hand names out.
    pub hostname: Option<String>,
    /// The port that peers reach us at; 0 is the one that is listened on.
    pub port: u16,
    /// The address that peers reach us at, where it is not the one that trackers see.
    pub ip: Option<IpAddr>,
    /// Whether trackers and their peers may be at private addresses.
    pub allow_private: bool,
    /// Trackers of all torrents that are not private, beside their own.
    pub trackers: Vec<TrackerUrl>,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            enabled: true,
            hostname: None,
            port: 0,
            ip: None,
            allow_private: false,
            trackers: Vec::new(),
        }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where `GET /metrics` and `GET /health` are answered.
    pub listen: SocketAddr,
    /// Names, beside addresses and `localhost`, that a request may call this server by.
    pub hosts: Vec<String>,
    /// So many torrents, those that move most, have metrics of their own.
    pub top_torrents: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9469)),
            hosts: Vec::new(),
            top_torrents: 0,
        }
    }
}

/// `[shards]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// How many; 0 is one per core.
    pub count: usize,
    /// Whether each keeps to its own core.
    pub pin: bool,
    /// The least sleep of a shard whose many peers ask for a block now and then.
    pub gather_wait: Duration,
}

impl Default for Shards {
    fn default() -> Self {
        Self {
            count: 0,
            pin: true,
            gather_wait: Duration::from_micros(500),
        }
    }
}

impl Config {
    /// Reads the file and the environment of the process.
    ///
    /// # Errors
    /// The file cannot be read, or says something that cannot be followed.
    pub fn load(file: &Path) -> Result<Self, Error> {
        Self::load_and(file, false)
    }

    /// The same, with a look at the files that it names: what the daemon would find when it starts.
    ///
    /// # Errors
    /// As above, or such a file cannot be read.
    pub fn check(file: &Path) -> Result<Self, Error> {
        Self::load_and(file, true)
    }

    fn load_and(file: &Path, looks: bool) -> Result<Self, Error> {
        Self::parse_and(&read_text(file)?, file, std::env::vars_os(), looks)
    }

    /// Reads the text of `file`, with `variables` taking the place of what it says.
    ///
    /// # Errors
    /// Every problem found, not only the first.
    pub fn parse(
        text: &str,
        file: &Path,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Error> {
        Self::parse_and(text, file, variables, false)
    }

    fn parse_and(
        text: &str,
        file: &Path,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        looks: bool,
    ) -> Result<Self, Error> {
        let Document {
            mut root,
            unquoted,
            problems: not_toml,
        } = document::parse(text);
        let mut problems = Vec::new();
        let variables = credentials::added_to(variables, &mut problems);
        let others = variables::override_from(variables, &TOP_KEYS, &mut root, &mut problems);
        problems.extend(variables::misspelt(others));
        let base = file.parent().unwrap_or(Path::new(""));
        let context = Context {
            looks,
            unquoted,
            ..Context::new(base, problems)
        };
        let config = sections::read(&context, root);
        let Context {
            problems,
            unquoted,
            told_unquoted,
            ..
        } = context;
        let told_unquoted = told_unquoted.into_inner();
        let mut problems = problems.into_inner();
        if !not_toml.is_empty() {
            // What follows such a mistake may have been meant otherwise.
            problems.retain(|problem| unquoted.keys().any(|line| problem.at == At::Line(*line)));
            problems.extend(not_toml);
        }
        let untold = unquoted.into_keys().filter(|line| !told_unquoted.contains(line));
        for line in untold.map(At::Line) {
            // A variable is in its place, which makes it no better.
            if problems.iter().all(|problem| problem.at != line) {
                let message = "not valid TOML: expected text in quotes".to_owned();
                problems.push(Problem { at: line, message });
            }
        }
        match problems.is_empty() {
            true => Ok(config),
            false => Err(Error::new(file, problems)),
        }
    }
}

fn read_text(file: &Path) -> Result<String, Error> {
    let refuse = |message: String| Error::new(file, vec![Problem { at: At::File, message }]);
    let bytes = read_bounded(file).map_err(|error| refuse(format!("cannot read the configuration: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(
            file,
            vec![Problem {
                at: At::Line(line),
                message: "not valid UTF-8".to_owned(),
            }],
        )
    })
}

/// Reads a file that should be small: a pipe would block, and a device never end.
fn read_bounded(file: &Path) -> std::io::Result<Vec<u8>> {
    let refused = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, why.to_owned());
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(refused("not a regular file"));
    }
    let mut bytes = Vec::new();
    if file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)? as u64 > FILE_LEN_MAX {
        return Err(refused("more than 1 MiB long"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
