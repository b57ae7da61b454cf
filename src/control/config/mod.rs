//! The configuration: a TOML file and the environment in, a plan of plain values out.
//!
//! Every key and its default is explained in `config/seed.toml`; a test holds the two together. Unknown keys are
//! refused with the nearest known one, because a misspelt limit that is silently ignored is worse than no limit. A key
//! enters this file together with the code that obeys it, never before. Nothing here touches the disk but [`Config::load`] and
//! [`Config::check`].

mod changes;
mod credentials;
mod document;
mod lenient;
mod problem;
mod reader;
pub(super) mod schedule;
mod store_url;
pub(super) mod units;

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

use clap::ValueEnum;

use super::cli::LogLevel;
use super::metrics::top::TOP_TORRENTS_MAX;
use super::shards::count_of;
use super::tracker::read_list;
use crate::announcer::TrackerUrl;
use crate::proto::choker;
use crate::shard::CACHE_LEN_MIN;
use crate::storage::part::Preallocate;
use crate::tracker;
use document::Table;
use reader::{Context, Section};
use schedule::Slot;

/// More open connections than this would need more than the largest table of file descriptors Linux allows by default.
const CONNECTIONS_MAX: usize = 1_000_000;
/// A shard cannot pass on more than one core's work, and no machine has more cores than this.
const SHARDS_MAX: usize = 1024;
/// Less could not hold the blocks in flight to a handful of peers.
const CACHE_SIZE_MIN: u64 = 16 << 20;
const CACHE_SIZE_MAX: u64 = 1 << 40;
/// What one fast peer has under way, in pieces that are often as long.
const WRITE_BUFFER_MIN: u64 = 16 << 20;
/// A block a second: less would look like a peer that hangs.
pub(super) const RATE_MIN: u64 = 16 << 10;
/// Shorter intervals are for tests; with longer ones whoever left without a word is kept for days.
/// Longer, and who asks for one block at a time would notice.
const GATHER_WAIT_MAX: Duration = Duration::from_millis(10);
const SEED_TIME_MIN: Duration = Duration::from_secs(1);
const SEED_TIME_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Shorter periods are for tests; longer than any disk lasts they mean nothing.
const SCRUB_MIN: Duration = Duration::from_secs(1);
const SCRUB_MAX: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// More peers than clients take from one reply.
const NUMWANT_MAX: usize = 1000;
/// Room for some 50,000 torrents: with less, a tracker's own tables and the parts that its memory is shared out in would leave
/// next to nothing for a swarm to grow.
const TRACKER_MEMORY_MIN: u64 = 4 << 20;
/// No configuration is longer.
const FILE_LEN_MAX: u64 = 1 << 20;
/// Keys outside of any section, which the environment names without `__`.
const TOP_KEYS: [&str; 3] = ["log-level", "state-dir", "watch"];

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
    /// The name servers that are asked through it, in the place of the system's.
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
        let mut root = document::parse(text).map_err(|problems| Error::new(file, problems))?;
        let mut problems = Vec::new();
        let variables = credentials::added_to(variables, &mut problems);
        let others = document::override_from(variables, &TOP_KEYS, &mut root, &mut problems);
        problems.extend(misspelt(others));
        let base = file.parent().unwrap_or(Path::new(""));
        let context = Context {
            looks,
            ..Context::new(base, problems)
        };
        let config = read(&context, root);
        match context.problems.into_inner() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(Error::new(file, problems)),
        }
    }
}

/// Problems with those of these variables that may be meant for keys.
fn misspelt(variables: Vec<String>) -> Vec<Problem> {
    if variables.is_empty() {
        return Vec::new();
    }
    let keys = all_keys();
    let problem = |name: String| {
        let meant = document::meant_by(&name, &keys)?;
        Some(Problem {
            at: At::Variable(name),
            message: format!("no key has this variable (did you mean {meant}?)"),
        })
    };
    variables.into_iter().filter_map(problem).collect()
}

/// Every key that can be given by a variable, as `section.key`.
fn all_keys() -> Vec<String> {
    // Sections that may be absent. What they lack is told to nobody.
    let root = document::parse("[tracker]\n[metrics]\n[[watch]]\n").unwrap_or_default();
    let context = Context::new(Path::new(""), Vec::new());
    read(&context, root);
    let top = TOP_KEYS.map(str::to_owned);
    context.keys.into_inner().into_iter().chain(top).collect()
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

/// Gives the tree its meaning. Each key is named here and nowhere else.
fn read(context: &Context<'_>, root: Table) -> Config {
    let mut top = Section::new(context, "", At::File, root);
    let state_dir = top.path("state-dir", "state");
    let levels = LogLevel::value_variants().iter().map(|level| (level.name(), *level));
    let log_level = top.choice("log-level", LogLevel::Info, &levels.collect::<Vec<_>>());

    let mut section = top.section("peers");
    let default = Peers::default();
    let peers = Peers {
        listen: section.addresses("listen", default.listen),
        max_connections: section.count("max-connections", default.max_connections, 1..=CONNECTIONS_MAX),
        max_connections_per_torrent: section.count(
            "max-connections-per-torrent",
            default.max_connections_per_torrent,
            1..=CONNECTIONS_MAX,
        ),
        max_connections_per_ip: section.count(
            "max-connections-per-ip",
            default.max_connections_per_ip,
            1..=CONNECTIONS_MAX,
        ),
        zero_copy: section.bool("zero-copy", default.zero_copy),
        bind_device: section.device("bind-device"),
        dns_servers: section.ips("dns-servers"),
    };
    if peers.bind_device.is_none() && !peers.dns_servers.is_empty() {
        context.report(
            section.at(),
            "peers.dns-servers: these are asked through peers.bind-device only, and there is none (hint: without it the system's \
             resolver is asked, by /etc/resolv.conf)",
        );
    }
    section.finish();

    let mut section = top.section("storage");
    let default = Storage::default();
    let modes = [
        ("auto", ReadMode::Auto),
        ("direct", ReadMode::Direct),
        ("buffered", ReadMode::Buffered),
    ];
    let lengths = [("sparse", Preallocate::Sparse), ("full", Preallocate::Full)];
    let storage = Storage {
        read_mode: section.choice("read-mode", default.read_mode, &modes),
        cache_size: section.size_or_off("cache-size", default.cache_size, CACHE_SIZE_MIN..=CACHE_SIZE_MAX),
        check_rate: section.rate("check-rate", default.check_rate, 1),
        write_buffer: section.size("write-buffer", default.write_buffer, WRITE_BUFFER_MIN..=CACHE_SIZE_MAX),
        part_names: section.bool("part-names", default.part_names),
        preallocate: section.choice("preallocate", default.preallocate, &lengths),
        scrub: section.time_or_off("scrub", default.scrub, SCRUB_MIN..=SCRUB_MAX),
    };
    section.finish();

    let watch = read_watches(context, &mut top, storage.part_names);

    let mut section = top.section("limits");
    let default = Limits::default();
    let chokers = [
        ("fastest-upload", choker::Kind::FastestUpload),
        ("round-robin", choker::Kind::RoundRobin),
    ];
    let limits = Limits {
        upload_slots: section.count("upload-slots", default.upload_slots, 1..=CONNECTIONS_MAX),
        seed_choker: section.choice("seed-choker", default.seed_choker, &chokers),
        upload_rate: section.rate("upload-rate", default.upload_rate, RATE_MIN),
        upload_rate_per_torrent: section.rate("upload-rate-per-torrent", default.upload_rate_per_torrent, RATE_MIN),
        download_rate: section.rate("download-rate", default.download_rate, RATE_MIN),
        schedule: read_schedule(context, &mut section),
    };
    section.finish();

    let tracker = top
        .optional_section("tracker")
        .map(|section| read_tracker(context, section));

    let mut section = top.section("announce");
    let default = Announce::default();
    let announce = Announce {
        enabled: section.bool("enabled", default.enabled),
        hostname: section.hostname("hostname"),
        port: section.port("port", default.port),
        ip: section.ip("ip"),
        allow_private: section.bool("allow-private", default.allow_private),
        trackers: section.trackers("trackers"),
    };
    section.finish();

    let metrics = top.optional_section("metrics").map(|mut section| {
        let metrics = Metrics {
            listen: section.address("listen", Metrics::default().listen),
            hosts: section.text_list("hosts"),
            top_torrents: section.count("top-torrents", 0, 0..=TOP_TORRENTS_MAX),
        };
        section.finish();
        metrics
    });

    let mut section = top.section("shards");
    let default = Shards::default();
    let shards = Shards {
        count: section.count("count", default.count, 0..=SHARDS_MAX),
        pin: section.bool("pin", default.pin),
        gather_wait: section.time("gather-wait", default.gather_wait, Duration::ZERO..=GATHER_WAIT_MAX),
    };
    section.finish();

    let list = |key, addresses: &[SocketAddr]| -> Vec<_> { addresses.iter().map(|address| (key, *address)).collect() };
    let http = tracker.as_ref().map_or(&[][..], |tracker| tracker.http.as_slice());
    let tcp = [
        list("peers.listen", &peers.listen),
        list("tracker.http", http),
        list(
            "metrics.listen",
            metrics
                .as_ref()
                .map_or(&[][..], |metrics| std::slice::from_ref(&metrics.listen)),
        ),
    ];
    report_shared_ports(context, &tcp.concat());

    let count = count_of(shards.count);
    if let Some(len) = storage.cache_size
        && len / (count as u64) < CACHE_LEN_MIN
    {
        let (len, least) = (units::display_size(len), units::display_size(CACHE_LEN_MIN));
        context.report(
            At::File,
            format!(
                "storage.cache-size: {len} for {count} shards, at least {least} needed for each (hint: a larger cache-size, \
                 \"off\", or a smaller shards.count)"
            ),
        );
    }

    top.finish();
    Config {
        state_dir,
        log_level,
        peers,
        storage,
        watch,
        limits,
        tracker,
        announce,
        metrics,
        shards,
    }
}

/// The memory of this machine in bytes, if that can be told.
#[allow(clippy::useless_conversion)] // It has 32 bits on some machines.
pub(super) fn machine_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    let bytes = u64::from(info.totalram).checked_mul(u64::from(info.mem_unit))?;
    (bytes > 0).then_some(bytes)
}

/// Reports addresses of different keys that one TCP connection could be meant for. The kernel refuses none: sockets that share
/// a port among shards share it with anybody, and each would be given some of the other's connections.
fn report_shared_ports(context: &Context<'_>, addresses: &[(&str, SocketAddr)]) {
    for (index, (key, address)) in addresses.iter().enumerate() {
        let shares = |(_, other): &&(&str, SocketAddr)| {
            let (a, b) = (address.ip(), other.ip());
            // IPv4 has sockets of its own, so that a wildcard is one of its family only.
            let overlap = a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
            address.port() != 0 && address.port() == other.port() && overlap
        };
        let mut others = addresses[..index].iter().filter(|(other_key, _)| other_key != key);
        if let Some((other_key, other)) = others.find(shares) {
            context.report(
                At::File,
                format!("{key}: {address} would take connections of {other_key}, {other} (hint: another port)"),
            );
        }
    }
}

fn read_tracker(context: &Context<'_>, mut section: Section<'_>) -> Tracker {
    let default = Tracker::default();
    let settings = default.settings;
    let (at, is_anywhere) = (section.at(), section.has_any(&["http", "udp"]));
    let interval = section.time("interval", settings.interval, INTERVAL_MIN..=INTERVAL_MAX);
    let min_interval_at = section.at_key("min-interval");
    let default_min = settings.min_interval.min(interval);
    let min_interval = section.time("min-interval", default_min, INTERVAL_MIN..=INTERVAL_MAX);
    if let (Some(at), true) = (min_interval_at, min_interval > interval) {
        let (found, interval) = (units::display_time(min_interval), units::display_time(interval));
        context.report(
            at,
            format!("tracker.min-interval: {found}, longer than tracker.interval, {interval}: nobody could keep both"),
        );
    }
    let memory_at = section.at_key("memory");
    let memory = section.size(
        "memory",
        settings.memory_max as u64,
        TRACKER_MEMORY_MIN..=CACHE_SIZE_MAX,
    );
    if let (Some(at), Some(there)) = (memory_at, machine_memory())
        && memory > there
    {
        let (found, there) = (units::display_size(memory), units::display_size(there));
        context.report(
            at,
            format!("tracker.memory: {found}, more than the {there} that this machine has"),
        );
    }
    let tracker = Tracker {
        http: section.addresses("http", default.http),
        udp: section.addresses("udp", default.udp),
        private: section.bool("private", default.private),
        allow: section.optional_file("allow", can_be_read),
        deny: section.optional_file("deny", can_be_read),
        max_connections: section.count("max-connections", default.max_connections, 1..=CONNECTIONS_MAX),
        max_connections_per_ip: section.count(
            "max-connections-per-ip",
            default.max_connections_per_ip,
            1..=CONNECTIONS_MAX,
        ),
        store: section.store("store"),
        settings: tracker::Settings {
            interval,
            min_interval,
            numwant_max: section.count("numwant-max", settings.numwant_max, 1..=NUMWANT_MAX),
            hostname_allow: section.hostname_rule("hostname-allow"),
            trust_ip: section.bool("trust-ip", settings.trust_ip),
            memory_max: usize::try_from(memory).unwrap_or(usize::MAX),
        },
    };
    if !is_anywhere {
        context.report(at, "[tracker] needs the key \"http\" or \"udp\", or both");
    }
    section.finish();
    tracker
}

/// What `verify` may be.
const VERIFIES: [(&str, Verify); 3] = [("full", Verify::Full), ("lazy", Verify::Lazy), ("trust", Verify::Trust)];

/// Reads a list of info-hashes as the tracker will.
fn can_be_read(path: &Path) -> Result<(), String> {
    match read_list(path) {
        Ok(_) => Ok(()),
        Err(why) => Err(why.to_string()),
    }
}

fn read_schedule(context: &Context<'_>, limits: &mut Section<'_>) -> Vec<Slot> {
    let mut slots = Vec::new();
    for mut section in limits.inner_sections("schedule", "limits.schedule") {
        if slots.len() == schedule::ENTRIES_MAX {
            let message = format!("limits.schedule: at most {} of them", schedule::ENTRIES_MAX);
            context.report(section.at(), message);
            break;
        }
        let (at, is_of_use) = (section.at(), section.has_any(&["upload-rate", "download-rate"]));
        slots.push(Slot::read(&mut section, RATE_MIN));
        if !is_of_use {
            let message = "[limits.schedule] needs the key \"upload-rate\" or \"download-rate\", or both";
            context.report(at, message);
        }
        section.finish();
    }
    slots
}

fn read_watches(context: &Context<'_>, top: &mut Section<'_>, part_names: bool) -> Vec<Watch> {
    let mut watches: Vec<Watch> = Vec::new();
    for mut section in top.sections("watch") {
        let watch = Watch {
            dir: section.required_path("dir"),
            data_dir: section.required_path("data-dir"),
            example: section.bool("example", false),
            peers: section.hosts_with_ports("peers"),
            verify: section.choice("verify", Verify::default(), &VERIFIES),
            label: section.label("label"),
            upload_rate: section.rate("upload-rate", None, RATE_MIN),
            download_rate: section.rate("download-rate", None, RATE_MIN),
            seed_ratio: section.ratio("seed-ratio"),
            seed_time: section.time_or_unlimited("seed-time", SEED_TIME_MIN..=SEED_TIME_MAX),
        };
        if !part_names && watch.verify != Verify::Full {
            context.report(
                section.at(),
                "watch.verify: \"lazy\" and \"trust\" need storage.part-names: without it a file that is not complete looks like one \
                 that is",
            );
        }
        // Two plans for one folder: which of the two data folders would a torrent belong to?
        if watches
            .iter()
            .any(|other| other.dir == watch.dir && !watch.dir.as_os_str().is_empty())
        {
            context.report(
                section.at(),
                format!("watch.dir: {} is watched twice", watch.dir.display()),
            );
        }
        section.finish();
        watches.push(watch);
    }
    watches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: &str = include_str!("../../../config/seed.toml");

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, Path::new("/etc/btd/btd.toml"), [])
    }

    fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Config::parse(text, Path::new("/etc/btd/btd.toml"), variables)
    }

    #[test]
    fn the_defaults_written_in_seed_toml_are_the_defaults_of_the_code() {
        let written = parse(SEED).expect("config/seed.toml is valid");
        let built_in = parse("[metrics]").expect("an empty section is valid");
        assert_eq!(
            Config {
                watch: Vec::new(),
                ..written
            },
            built_in
        );
    }

    /// With the section that is commented out.
    fn whole_seed() -> String {
        let is_off = |line: &str| {
            line.strip_prefix('#')
                .is_some_and(|line| !line.starts_with(' ') && !line.is_empty())
        };
        let on = |line: &str| {
            if is_off(line) {
                line[1..].to_owned()
            } else {
                line.to_owned()
            }
        };
        SEED.lines().map(|line| on(line) + "\n").collect()
    }

    #[test]
    fn the_tracker_is_off_as_it_is_shipped_and_its_defaults_are_those_of_the_code() {
        assert_eq!(parse(SEED).expect("valid").tracker, None);
        let written = parse(&whole_seed()).expect("valid with its # away");
        let written = written.tracker.expect("a tracker");
        assert_eq!(written.allow.as_deref(), Some(Path::new("/etc/btd/allow.txt")));
        assert_eq!((written.http.len(), written.udp.len()), (1, 1));
        let built_in = Tracker {
            http: written.http.clone(),
            udp: written.udp.clone(),
            allow: written.allow.clone(),
            deny: written.deny.clone(),
            ..Tracker::default()
        };
        assert_eq!(written, built_in);
    }

    #[test]
    fn every_key_of_the_code_is_explained_in_seed_toml() {
        let context = Context::new(Path::new(""), Vec::new());
        let root = document::parse(&whole_seed()).unwrap_or_else(|_| panic!("config/seed.toml is valid"));
        read(&context, root);
        for key in context.keys.into_inner() {
            let name = key.rsplit('.').next().expect("a key is not empty");
            // Names that other sections have as well are looked for behind its head.
            let head = match key.starts_with("tracker.") {
                true => SEED.lines().take_while(|line| *line != "#[tracker]").count(),
                false => 0,
            };
            let line = SEED
                .lines()
                .enumerate()
                .skip(head)
                .find(|(_, line)| line.trim_start_matches('#').starts_with(&format!("{name} = ")))
                .map(|(line, _)| line)
                .unwrap_or_else(|| panic!("{key} is not in config/seed.toml"));
            let above = SEED.lines().nth(line.saturating_sub(1)).unwrap_or_default();
            assert!(
                above.starts_with("# "),
                "{key} has no comment above it in config/seed.toml"
            );
        }
    }

    #[test]
    fn relative_paths_start_at_the_file_and_absolute_ones_are_kept() {
        let config =
            parse("state-dir = \"state\"\n[[watch]]\ndir = \"/srv/torrents\"\ndata-dir = \"../data\"").expect("valid");
        assert_eq!(config.state_dir, Path::new("/etc/btd/state"));
        assert_eq!(config.watch[0].dir, Path::new("/srv/torrents"));
        assert_eq!(config.watch[0].data_dir, Path::new("/etc/btd/../data"));
    }

    #[test]
    fn payload_is_not_believed_where_an_unfinished_file_looks_like_a_whole_one() {
        for verify in ["lazy", "trust"] {
            let watch = format!("[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nverify = \"{verify}\"\n");
            let error = parse(&format!("{watch}[storage]\npart-names = false")).expect_err("refused");
            assert!(error.to_string().contains("storage.part-names"), "{error}");
            parse(&watch).expect("with names of their own");
        }
    }

    #[test]
    fn the_environment_takes_the_place_of_the_file_as_toml_or_as_a_plain_string() {
        let variables = [
            ("BTD_STATE_DIR", "/var/lib/btd"),
            ("BTD_LOG_LEVEL", "warn"),
            ("BTD_PEERS__LISTEN", "[\"127.0.0.1:0\", \"[::1]:0\"]"),
            ("BTD_LIMITS__UPLOAD_SLOTS", "7"),
            ("BTD_METRICS__LISTEN", "127.0.0.1:0"),
            ("BTD_STORAGE__CACHE_SIZE", "64 MiB"),
            ("BTD_WATCH", "[{ dir = \"a\", data-dir = \"b\" }]"),
            ("BTD_SHA1", "scalar"),
            ("BTD_URING_MASK", "recv-multishot"),
            ("BTD_TEST_ANY__THING", "1"),
            ("BTD_PORT", "tcp://10.0.0.1:6881"),
            ("PATH", "/bin"),
        ];
        let config = parse_with("state-dir = \"x\"\n[limits]\nupload-slots = 3", &variables).expect("valid");
        assert_eq!(config.state_dir, Path::new("/var/lib/btd"));
        assert_eq!(config.log_level, LogLevel::Warn);
        assert_eq!(config.peers.listen.len(), 2);
        assert_eq!(config.limits.upload_slots, 7);
        assert_eq!(config.metrics.expect("named in the environment").listen.port(), 0);
        assert_eq!(config.storage.cache_size, Some(64 << 20));
        assert_eq!(config.watch[0].dir, Path::new("/etc/btd/a"));
    }

    #[test]
    fn a_variable_that_is_nearly_one_of_a_key_is_refused_and_one_that_is_anybodys_is_not() {
        let refusals = |name: &str| match parse_with("", &[(name, "x")]) {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        for (name, meant) in [
            ("BTD_STATEDIR", "BTD_STATE_DIR"),
            ("BTD_STATE_DIRS", "BTD_STATE_DIR"),
            ("BTD_LOGLEVEL", "BTD_LOG_LEVEL"),
            ("BTD_LIMITS_UPLOAD_SLOTS", "BTD_LIMITS__UPLOAD_SLOTS"),
            ("BTD_UPLOAD_SLOTS", "BTD_LIMITS__UPLOAD_SLOTS"),
            ("BTD_TRACKER_HTTP", "BTD_TRACKER__HTTP"),
            ("BTD_METRICS_LISTN", "BTD_METRICS__LISTEN"),
            ("BTD_ANNOUNCE_PORT", "BTD_ANNOUNCE__PORT"),
            ("BTD_WATCH_DIR", "BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'"),
        ] {
            let expected = format!("{name}: no key has this variable (did you mean {meant}?)");
            assert_eq!(refusals(name), Some(expected));
        }
        // As container runtimes set them for services called btd, btd-metrics and btd-tracker.
        for name in [
            "BTD_PORT",
            "BTD_SERVICE_HOST",
            "BTD_SERVICE_PORT",
            "BTD_SERVICE_PORT_PEERS",
            "BTD_PORT_6881_TCP",
            "BTD_PORT_6881_TCP_ADDR",
            "BTD_PORT_6881_TCP_PROTO",
            "BTD_METRICS_PORT",
            "BTD_METRICS_SERVICE_HOST",
            "BTD_TRACKER_PORT",
            "BTD_TRACKER_SERVICE_PORT",
            "BTD_",
            "BTD_X",
            "BTD_VERSION",
        ] {
            assert_eq!(refusals(name), None, "{name}");
        }
        for (name, message) in [
            (
                "BTD_WATCHES__DIR",
                "BTD_WATCHES__DIR: unknown section [watches] (did you mean BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'?)",
            ),
            (
                "BTD_WATCH__DIR",
                "BTD_WATCH__DIR: watch: a repeated section is set whole: BTD_WATCH='[{ dir = \"...\", data-dir = \"...\" }]'",
            ),
            (
                "BTD_LIMIT__UPLOAD_SLOTS",
                "BTD_LIMIT__UPLOAD_SLOTS: unknown section [limit] (did you mean [limits]?)",
            ),
        ] {
            assert_eq!(refusals(name).as_deref(), Some(message));
        }
    }

    #[test]
    fn what_trackers_are_told_is_read_and_no_key_is_shown() {
        let text = "[announce]\nhostname = \"client1.internal\"\nport = 7000\nip = \"10.0.0.1\"\nallow-private = true\n\
                    trackers = [\"udp://t.example:6969/announce\", \"https://t.example/0123456789/announce\"]";
        let announce = parse(text).expect("valid").announce;
        assert_eq!(announce.hostname.as_deref(), Some("client1.internal"));
        assert_eq!((announce.port, announce.ip), (7000, Some([10, 0, 0, 1].into())));
        assert!(announce.enabled && announce.allow_private && announce.trackers.len() == 2);
        for (text, message) in [
            (
                "hostname = \"a b\"",
                "announce.hostname: expected a name such as \"client1.internal\", or \"\", found \"a b\"",
            ),
            (
                "hostname = \"10.0.0.1\"",
                "announce.hostname: expected a name such as \"client1.internal\", or \"\", found the address \"10.0.0.1\" (hint: ip = \"10.0.0.1\")",
            ),
            (
                "hostname = \"[::1]\"",
                "announce.hostname: expected a name such as \"client1.internal\", or \"\", found the address \"[::1]\" (hint: ip = \"::1\")",
            ),
            ("hostname = \"127.1\"", "found the address \"127.1\""),
            (
                "port = 65536",
                "announce.port: expected a port from 0 to 65535, found 65536",
            ),
            (
                "ip = \"x\"",
                "announce.ip: expected an IP address, or \"\", found \"x\"",
            ),
            (
                "trackers = \"ftp://u:secret@x/\"",
                "announce.trackers: tracker 1 of the list: not an http, https or udp address",
            ),
            (
                "hostnam = \"a\"",
                "unknown key \"hostnam\" in [announce] (did you mean \"hostname\"?)",
            ),
        ] {
            let error = parse(&format!("[announce]\n{text}"))
                .expect_err("it is wrong")
                .to_string();
            assert!(error.contains(message), "{error}");
            assert!(!error.contains("secret"));
        }
    }

    #[test]
    fn a_time_that_cannot_be_read_is_told_with_examples_that_the_key_takes() {
        for (text, message) in [
            (
                "[shards]\ngather-wait = 5",
                "shards.gather-wait: expected a time such as \"500us\" or \"1ms\", found 5",
            ),
            (
                "[tracker]\nhttp = \"127.0.0.1:0\"\ninterval = \"soon\"",
                "tracker.interval: expected a time such as \"30m\" or \"90s\", found \"soon\"",
            ),
        ] {
            let error = parse(text).expect_err("it is wrong").to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn limits_of_a_folder_and_of_hours_are_read_and_what_is_wrong_with_them_is_told() {
        let text = "[limits]\nupload-rate = \"1 MB/s\"\n[[limits.schedule]]\ndays = [\"mon\", \"sun\"]\nfrom = \"22:00\"\nto = \"06:30\"\n\
            upload-rate = \"unlimited\"\n[[limits.schedule]]\nfrom = \"08:00\"\nto = \"09:00\"\ndownload-rate = \"50 MB/s\"\n\
            [[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nlabel = \"linux\"\nupload-rate = \"2 MB/s\"\nseed-ratio = 1.5\nseed-time = \"7d\"";
        let config = parse(text).expect("valid");
        let [night, morning] = &config.limits.schedule[..] else {
            panic!("two of them");
        };
        assert_eq!((night.upload_rate, night.download_rate), (Some(None), None));
        assert_eq!(
            (morning.upload_rate, morning.download_rate),
            (None, Some(Some(50_000_000)))
        );
        assert_eq!(night.to_string(), "mon, sun 22:00-06:30");
        let watch = &config.watch[0];
        assert_eq!(
            (watch.label.as_deref(), watch.upload_rate, watch.download_rate),
            (Some("linux"), Some(2_000_000), None)
        );
        assert_eq!(
            (watch.seed_ratio, watch.seed_time),
            (Some(150), Some(Duration::from_secs(7 * 86_400)))
        );
        for (text, message) in [
            (
                "[[limits.schedule]]\nfrom = \"08:00\"\nto = \"09:00\"",
                "[limits.schedule] needs the key \"upload-rate\" or",
            ),
            (
                "[[limits.schedule]]\nto = \"09:00\"\nupload-rate = \"unlimited\"",
                "[limits.schedule] needs the key \"from\"",
            ),
            (
                "[[limits.schedule]]\nfrom = \"8:00\"\nto = \"09:00\"\nupload-rate = \"unlimited\"",
                "limits.schedule.from: expected a time of day from \"00:00\" to \"24:00\", found \"8:00\" (did you mean \"08:00\"?)",
            ),
            (
                "[[limits.schedule]]\nfrom = \"22:00\"\nto = \"6\"\nupload-rate = \"unlimited\"",
                "found \"6\" (did you mean \"06:00\"?)",
            ),
            (
                "[[limits.schedule]]\nfrom = \"25:00\"\nto = \"6:000\"\nupload-rate = \"unlimited\"",
                "found \"25:00\"\n",
            ),
            (
                "[[limits.schedule]]\nfrom = \"08:00\"\nto = \"09:00\"\ndays = [\"mom\"]\nupload-rate = \"unlimited\"",
                "found \"mom\" (did you mean \"mon\"?)",
            ),
            (
                "[[limits.schedule]]\ntoo = 1",
                "unknown key \"too\" in [limits.schedule] (did you mean \"to\"?)",
            ),
            (
                "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nseed-ratio = 0.001",
                "watch.seed-ratio: expected a ratio from 0.01 to 10000 such as 1.5, or \"unlimited\", found 0.001",
            ),
            (
                "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nseed-time = \"0s\"",
                "watch.seed-time: expected a time from \"1s\" to \"3660d\", or \"unlimited\", found \"0s\"",
            ),
            (
                "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"\nupload-rate = \"1 kB/s\"",
                "watch.upload-rate: expected at least \"16 KiB/s\"",
            ),
            (
                "[peers]\nbind-device = \"a b\"",
                "peers.bind-device: expected the name of a network device such as \"tun0\", or \"\", found \"a b\"",
            ),
            (
                "[peers]\nbind-device = \"0123456789abcdef\"",
                "found \"0123456789abcdef\"",
            ),
            (
                "[peers]\nbind-device = \"tun0\"\ndns-servers = [\"10.0.0.1\", \"dns.example\"]",
                "peers.dns-servers: expected IP addresses such as \"10.0.0.1\", found \"dns.example\"",
            ),
            (
                "[peers]\ndns-servers = \"10.0.0.1\"",
                "peers.dns-servers: these are asked through peers.bind-device only",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn the_metrics_server_is_off_without_its_section() {
        assert_eq!(parse("").expect("valid").metrics, None);
    }

    #[test]
    fn nesting_beyond_reason_is_an_error_and_not_a_stack_overflow() {
        assert!(parse(&format!("a = {}", "[".repeat(1_000_000))).is_err());
        assert!(parse(&format!("a = {}", "{a=".repeat(1_000_000))).is_err());
        assert!(parse(&format!("{}a = 1", "a.".repeat(100_000))).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_read_or_refused_but_never_panics(text in "(?s).{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn arbitrary_values_of_real_keys_are_read_or_refused_but_never_panic(
            key in prop::sample::select(vec!["peers.listen", "storage.cache-size", "storage.read-mode", "watch", "shards.count", "metrics"]),
            value in "[0-9a-zA-Z\"\\[\\]{}=.,:_ +-]{0,40}",
        ) {
            let _ = parse(&format!("{key} = {value}"));
            let variable = format!("BTD_{}", key.replace('.', "__").replace('-', "_").to_uppercase());
            let _ = parse_with("", &[(&variable, &value)]);
        }
    }
}
