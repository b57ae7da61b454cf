//! The sections of the configuration: each key, with the values that it may have. Defaults stand with the plan (`mod.rs`).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::document::Table;
use super::problem::At;
use super::reader::{Context, Section};
use super::schedule::{self, Slot};
use super::{Announce, Config, Limits, Metrics, Peers, ReadMode, Shards, Storage, Tracker, Verify, Watch, units};
use crate::control::cli::LogLevel;
use crate::control::metrics::top::TOP_TORRENTS_MAX;
use crate::control::shards::count_of;
use crate::control::tracker::read_list;
use crate::proto::choker;
use crate::shard::CACHE_LEN_MIN;
use crate::storage::part::Preallocate;
use crate::tracker;

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
pub(in crate::control) const RATE_MIN: u64 = 16 << 10;
/// Longer, and who asks for one block at a time would notice.
const GATHER_WAIT_MAX: Duration = Duration::from_millis(10);
const SEED_TIME_MIN: Duration = Duration::from_secs(1);
const SEED_TIME_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// Shorter intervals are for tests; with longer ones whoever left without a word is kept for days.
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

/// Gives the tree its meaning. Each key is named here and nowhere else.
pub(super) fn read(context: &Context<'_>, root: Table) -> Config {
    let mut top = Section::new(context, "", At::File, root);
    let state_dir = top.path("state-dir", "state");
    let levels = LogLevel::value_variants().iter().map(|level| (level.name(), *level));
    let log_level = top.choice("log-level", LogLevel::Info, &levels.collect::<Vec<_>>());

    let mut section = top.section("peers");
    let mut default = Peers::default();
    // Whoever is reached from an address is to find btd there, and nowhere else unless that is said.
    let bind_address = section.bind_addresses("bind-address");
    if let (Some(any), false) = (default.listen.first().copied(), bind_address.is_empty()) {
        default.listen = bind_address.iter().map(|ip| SocketAddr::new(*ip, any.port())).collect();
    }
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
        bind_address,
        dns_servers: section.ips("dns-servers"),
    };
    if peers.bind_device.is_none() && peers.bind_address.is_empty() && !peers.dns_servers.is_empty() {
        context.report(
            section.at(),
            "peers.dns-servers: these are asked through peers.bind-device or from peers.bind-address only, and there is neither (hint: \
             without them the system's resolver is asked, by /etc/resolv.conf)",
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
pub(in crate::control) fn machine_memory() -> Option<u64> {
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
            let message = "[[limits.schedule]] needs the key \"upload-rate\" or \"download-rate\", or both";
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
