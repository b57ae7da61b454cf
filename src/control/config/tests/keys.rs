//! Each key has its own place in the plan, and its own section in `config/seed.toml`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::control::config::sections;
use crate::tracker::HostnameRule;

/// A key, another value than its default, and what that changes.
type Row = (&'static str, &'static str, fn(&mut Config));

/// What has to be there for a key to be of use.
const BASE: [(&str, &str); 9] = [
    ("peers.bind-device", "\"tun0\""),
    ("watch.dir", "\"torrents\""),
    ("watch.data-dir", "\"data\""),
    ("limits.schedule.from", "\"08:00\""),
    ("limits.schedule.to", "\"09:00\""),
    ("limits.schedule.upload-rate", "\"1 MB/s\""),
    ("metrics.listen", "\"127.0.0.1:1\""),
    ("tracker.http", "\"127.0.0.1:2\""),
    ("tracker.interval", "\"30m\""),
];

fn tracker(config: &mut Config) -> &mut Tracker {
    config.tracker.as_mut().expect("there is one")
}

fn metrics(config: &mut Config) -> &mut Metrics {
    config.metrics.as_mut().expect("there is one")
}

fn rows() -> Vec<Row> {
    let rows = [
        outside(),
        in_peers(),
        in_storage(),
        in_watch(),
        in_limits(),
        others(),
        in_tracker(),
    ];
    rows.concat()
}

fn outside() -> Vec<Row> {
    vec![
        ("state-dir", "\"elsewhere\"", |c| {
            c.state_dir = "/etc/btd/elsewhere".into()
        }),
        ("log-level", "\"debug\"", |c| c.log_level = LogLevel::Debug),
    ]
}

fn in_peers() -> Vec<Row> {
    vec![
        ("peers.listen", "[\"127.0.0.1:3\"]", |c| {
            c.peers.listen = vec![([127, 0, 0, 1], 3).into()]
        }),
        ("peers.max-connections", "70", |c| c.peers.max_connections = 70),
        ("peers.max-connections-per-torrent", "71", |c| {
            c.peers.max_connections_per_torrent = 71
        }),
        ("peers.max-connections-per-ip", "72", |c| {
            c.peers.max_connections_per_ip = 72
        }),
        ("peers.zero-copy", "true", |c| c.peers.zero_copy = true),
        ("peers.bind-device", "\"tun1\"", |c| {
            c.peers.bind_device = Some("tun1".to_owned())
        }),
        ("peers.bind-address", "\"10.8.0.2\"", |c| {
            c.peers.bind_address = vec![[10, 8, 0, 2].into()];
            c.peers.listen = vec![([10, 8, 0, 2], 6881).into()];
        }),
        ("peers.dns-servers", "[\"10.0.0.1\"]", |c| {
            c.peers.dns_servers = vec![[10, 0, 0, 1].into()]
        }),
    ]
}

fn in_storage() -> Vec<Row> {
    vec![
        ("storage.read-mode", "\"buffered\"", |c| {
            c.storage.read_mode = ReadMode::Buffered
        }),
        ("storage.cache-size", "\"off\"", |c| c.storage.cache_size = None),
        ("storage.check-rate", "\"5 MB/s\"", |c| {
            c.storage.check_rate = Some(5_000_000)
        }),
        ("storage.write-buffer", "\"32 MiB\"", |c| {
            c.storage.write_buffer = 32 << 20
        }),
        ("storage.part-names", "false", |c| c.storage.part_names = false),
        ("storage.preallocate", "\"full\"", |c| {
            c.storage.preallocate = Preallocate::Full
        }),
        ("storage.scrub", "\"1d\"", |c| {
            c.storage.scrub = Some(Duration::from_secs(86_400))
        }),
    ]
}

fn in_watch() -> Vec<Row> {
    vec![
        ("watch.dir", "\"x\"", |c| c.watch[0].dir = "/etc/btd/x".into()),
        ("watch.data-dir", "\"x\"", |c| c.watch[0].data_dir = "/etc/btd/x".into()),
        ("watch.example", "true", |c| c.watch[0].example = true),
        ("watch.peers", "[\"a:1\"]", |c| {
            c.watch[0].peers = vec!["a:1".to_owned()]
        }),
        ("watch.verify", "\"lazy\"", |c| c.watch[0].verify = Verify::Lazy),
        ("watch.label", "\"x\"", |c| c.watch[0].label = Some("x".to_owned())),
        ("watch.upload-rate", "\"1 MB/s\"", |c| {
            c.watch[0].upload_rate = Some(1_000_000)
        }),
        ("watch.download-rate", "\"1 MB/s\"", |c| {
            c.watch[0].download_rate = Some(1_000_000)
        }),
        ("watch.seed-ratio", "1.5", |c| c.watch[0].seed_ratio = Some(150)),
        ("watch.seed-time", "\"1d\"", |c| {
            c.watch[0].seed_time = Some(Duration::from_secs(86_400))
        }),
    ]
}

fn in_limits() -> Vec<Row> {
    vec![
        ("limits.upload-slots", "7", |c| c.limits.upload_slots = 7),
        ("limits.seed-choker", "\"round-robin\"", |c| {
            c.limits.seed_choker = choker::Kind::RoundRobin
        }),
        ("limits.upload-rate", "\"1 MB/s\"", |c| {
            c.limits.upload_rate = Some(1_000_000)
        }),
        ("limits.upload-rate-per-torrent", "\"1 MB/s\"", |c| {
            c.limits.upload_rate_per_torrent = Some(1_000_000);
        }),
        ("limits.download-rate", "\"1 MB/s\"", |c| {
            c.limits.download_rate = Some(1_000_000)
        }),
        ("limits.schedule.days", "[\"tue\"]", |c| c.limits.schedule[0].days = 2),
        ("limits.schedule.from", "\"07:00\"", |c| {
            c.limits.schedule[0].from = 7 * 60
        }),
        ("limits.schedule.to", "\"10:00\"", |c| c.limits.schedule[0].to = 10 * 60),
        ("limits.schedule.upload-rate", "\"2 MB/s\"", |c| {
            c.limits.schedule[0].upload_rate = Some(Some(2_000_000));
        }),
        ("limits.schedule.download-rate", "\"2 MB/s\"", |c| {
            c.limits.schedule[0].download_rate = Some(Some(2_000_000));
        }),
    ]
}

fn others() -> Vec<Row> {
    vec![
        ("announce.enabled", "false", |c| c.announce.enabled = false),
        ("announce.hostname", "\"a\"", |c| {
            c.announce.hostname = Some("a".to_owned())
        }),
        ("announce.port", "7000", |c| c.announce.port = 7000),
        ("announce.ip", "\"10.0.0.1\"", |c| {
            c.announce.ip = Some([10, 0, 0, 1].into())
        }),
        ("announce.allow-private", "true", |c| c.announce.allow_private = true),
        ("announce.trackers", "[\"udp://t:1/\"]", |c| {
            c.announce.trackers = vec![TrackerUrl::parse("udp://t:1/").expect("an address")];
        }),
        ("metrics.listen", "\"127.0.0.1:3\"", |c| {
            metrics(c).listen = ([127, 0, 0, 1], 3).into()
        }),
        ("metrics.hosts", "[\"a\"]", |c| metrics(c).hosts = vec!["a".to_owned()]),
        ("metrics.top-torrents", "5", |c| metrics(c).top_torrents = 5),
        ("shards.count", "3", |c| c.shards.count = 3),
        ("shards.pin", "false", |c| c.shards.pin = false),
        ("shards.gather-wait", "\"1ms\"", |c| {
            c.shards.gather_wait = Duration::from_millis(1)
        }),
    ]
}

fn in_tracker() -> Vec<Row> {
    vec![
        ("tracker.http", "\"127.0.0.1:3\"", |c| {
            tracker(c).http = vec![([127, 0, 0, 1], 3).into()]
        }),
        ("tracker.udp", "\"127.0.0.1:3\"", |c| {
            tracker(c).udp = vec![([127, 0, 0, 1], 3).into()]
        }),
        ("tracker.interval", "\"40m\"", |c| {
            tracker(c).settings.interval = Duration::from_secs(2400)
        }),
        ("tracker.min-interval", "\"7m\"", |c| {
            tracker(c).settings.min_interval = Duration::from_secs(420)
        }),
        ("tracker.numwant-max", "60", |c| tracker(c).settings.numwant_max = 60),
        ("tracker.hostname-allow", "[\".a\"]", |c| {
            tracker(c).settings.hostname_allow = HostnameRule::new([".a"]).expect("a name");
        }),
        ("tracker.private", "true", |c| tracker(c).private = true),
        ("tracker.allow", "\"x\"", |c| {
            tracker(c).allow = Some("/etc/btd/x".into())
        }),
        ("tracker.deny", "\"x\"", |c| tracker(c).deny = Some("/etc/btd/x".into())),
        ("tracker.trust-ip", "true", |c| tracker(c).settings.trust_ip = true),
        ("tracker.max-connections", "73", |c| tracker(c).max_connections = 73),
        ("tracker.max-connections-per-ip", "74", |c| {
            tracker(c).max_connections_per_ip = 74
        }),
        ("tracker.memory", "\"8 MiB\"", |c| {
            tracker(c).settings.memory_max = 8 << 20
        }),
        ("tracker.store", "\"redis://a\"", |c| {
            tracker(c).store = Some(StoreUrl::parse("redis://a").expect("an address"));
        }),
    ]
}

/// The base, but for one key.
fn with(key: &str, value: &str) -> String {
    let mut sections: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (key, value) in BASE.into_iter().chain([(key, value)]) {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        sections.entry(section).or_default().insert(name, value);
    }
    let mut text = String::new();
    for (section, keys) in sections {
        text += &match section {
            "" => String::new(),
            "watch" | "limits.schedule" => format!("[[{section}]]\n"),
            _ => format!("[{section}]\n"),
        };
        keys.iter()
            .for_each(|(name, value)| text += &format!("{name} = {value}\n"));
    }
    text
}

#[test]
fn each_key_changes_its_own_place_in_the_plan_and_no_other() {
    let rows = rows();
    let base = parse(&with(BASE[0].0, BASE[0].1)).expect("valid");
    for (key, value, change) in &rows {
        let mut expected = base.clone();
        change(&mut expected);
        assert_ne!(expected, base, "{key}: this is no other value");
        let text = with(key, value);
        let read = parse(&text).unwrap_or_else(|error| panic!("{error} in:\n{text}"));
        assert_eq!(read, expected, "{key}");
    }
    let covered: BTreeSet<&str> = rows.iter().map(|(key, ..)| *key).collect();
    let all = all_keys();
    let all: BTreeSet<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(covered, all);
}

/// Every key that the code asks for, with its section.
fn all_keys() -> BTreeSet<String> {
    let context = Context::new(Path::new(""), Vec::new());
    let Document { root, problems, .. } = document::parse(&whole_seed());
    assert!(problems.is_empty(), "config/seed.toml is valid: {problems:?}");
    sections::read(&context, root);
    context.keys.into_inner().into_iter().collect()
}

#[test]
fn every_key_of_the_code_is_explained_in_its_section_of_seed_toml() {
    let mut section = String::new();
    let mut explained = BTreeSet::new();
    let mut before = "";
    for line in SEED.lines() {
        let on = line
            .strip_prefix('#')
            .filter(|line| !line.starts_with(' '))
            .unwrap_or(line);
        if let Some(head) = on.strip_prefix('[') {
            section = head.trim_matches(['[', ']']).to_owned() + ".";
        } else if let Some((name, _)) = on.split_once(" = ").filter(|_| !on.starts_with('#')) {
            let key = format!("{section}{name}");
            assert!(
                before.starts_with("# "),
                "{key} has no comment above it in config/seed.toml"
            );
            assert!(explained.insert(key), "{section}{name} is in config/seed.toml twice");
        }
        before = line;
    }
    assert_eq!(explained, all_keys());
}
