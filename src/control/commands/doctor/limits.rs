//! What the process and the network may have: descriptors, locked memory, queues of sockets.

use super::finding::Finding;
use super::kernel;
use super::machine::{Limit, Machine};
use crate::control::config::{Config, display_size};
use crate::control::open_files;
use crate::control::shards::{count_of, locked_len};
use crate::shard::{BACKLOG, DATAGRAM_QUEUE_LEN};

/// What the shortest rings of a shard take, and those of the control plane.
const RINGS_LEN_PER_SHARD: u64 = 64 << 10;
/// `CAP_IPC_LOCK`: who has it may lock as much as there is.
const CAP_IPC_LOCK: u32 = 14;
/// A window for 40 ms at 1 Gbit/s, the distance of a neighbouring country: less holds far peers back.
const WINDOW_MIN: u64 = 4 << 20;
/// And a comfortable one: 130 ms.
const WINDOW: u64 = 16 << 20;
/// inotify instances that others of the same user may have.
const OTHER_INSTANCES: u64 = 8;

/// All of them.
pub(super) fn look(machine: &Machine, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(machine.limit("Max open files").map(|limit| open(limit, config)));
    findings.extend(machine.limit("Max locked memory").map(|limit| {
        let is_free = machine.status("CapEff").is_some_and(|caps| has(&caps, CAP_IPC_LOCK));
        locked(limit, (is_free, kernel::locks_rings(machine)), config)
    }));
    let backlog = machine.number("proc/sys/net/core/somaxconn");
    findings.extend(backlog.map(connections));
    for (name, what) in [("tcp_wmem", "sent to"), ("tcp_rmem", "received from")] {
        let max = machine.read(format!("proc/sys/net/ipv4/{name}"));
        let max = max.and_then(|text| text.split_whitespace().nth(2)?.parse().ok());
        findings.extend(max.map(|max| window(name, what, max)));
    }
    if config.tracker.as_ref().is_some_and(|tracker| !tracker.udp.is_empty()) {
        for name in ["rmem_max", "wmem_max"] {
            let max = machine.number(format!("proc/sys/net/core/{name}"));
            findings.extend(max.map(|max| datagrams(name, max)));
        }
    }
    let instances = machine.number("proc/sys/fs/inotify/max_user_instances");
    findings.extend(instances.map(|max| inotify(max, config)));
    findings
}

fn open(Limit { hard, .. }: Limit, config: &Config) -> Finding {
    let topic = "nofile";
    let of_peers = config.peers.max_connections;
    let by_http = config.tracker.as_ref().filter(|tracker| !tracker.http.is_empty());
    let of_tracker = by_http.map_or(0, |tracker| tracker.max_connections);
    let shards = count_of(config.shards.count);
    let limit = hard.unwrap_or(u64::MAX);
    let fitting = open_files::connections_within(limit, of_peers + of_tracker, shards);
    let shown = hard.map_or("unlimited".to_owned(), |limit| limit.to_string());
    if fitting >= of_peers + of_tracker {
        return Finding::ok(topic, format!("{shown} files may be open at once"));
    }
    let wanted = of_peers + of_tracker;
    Finding::warn(
        topic,
        format!(
            "{shown} files may be open at once: room for {fitting} connections, not the {wanted} of the configuration"
        ),
        "LimitNOFILE=1048576 in btd.service, or ulimit -Hn 1048576, or a lower max-connections",
    )
}

fn locked(Limit { hard, .. }: Limit, (is_free, locks_rings): (bool, bool), config: &Config) -> Finding {
    let topic = "memlock";
    let shards = count_of(config.shards.count) as u64;
    let wanted = locked_len(config);
    match hard {
        _ if is_free => Finding::ok(topic, "this process may lock as much as there is (CAP_IPC_LOCK)"),
        None => Finding::ok(topic, "unlimited"),
        Some(limit) if limit >= wanted => Finding::ok(topic, format!("{} may be locked", display_size(limit))),
        Some(limit) if limit < RINGS_LEN_PER_SHARD * (shards + 1) && locks_rings => Finding::bad(
            topic,
            format!(
                "{} may be locked, of all processes of this user together, and rings count: btd does not start",
                display_size(limit)
            ),
            Some("LimitMEMLOCK=infinity in btd.service, or ulimit -l unlimited".to_owned()),
        ),
        Some(limit) if limit < RINGS_LEN_PER_SHARD * (shards + 1) => Finding::warn(
            topic,
            format!(
                "{} may be locked: buffers will not be registered, and from Linux 6.14 on btd does not start, since its rings \
                 count too",
                display_size(limit)
            ),
            "LimitMEMLOCK=infinity in btd.service, or ulimit -l unlimited",
        ),
        Some(limit) => Finding::warn(
            topic,
            format!(
                "{} may be locked, the cache and the rings are about {}: buffers will not be registered, at a higher price \
                 for each block",
                display_size(limit),
                display_size(wanted)
            ),
            "LimitMEMLOCK=infinity in btd.service, or ulimit -l unlimited, or a smaller storage.cache-size",
        ),
    }
}

fn has(caps: &str, cap: u32) -> bool {
    u64::from_str_radix(caps, 16).is_ok_and(|caps| caps & 1 << cap != 0)
}

fn connections(max: u64) -> Finding {
    let topic = "somaxconn";
    let wanted = u64::from(BACKLOG.unsigned_abs());
    match max >= wanted {
        true => Finding::ok(topic, format!("{max} connections may wait to be accepted")),
        false => Finding::warn(
            topic,
            format!("{max} connections may wait to be accepted: when many come at once, some of them come in vain"),
            format!("sysctl net.core.somaxconn={wanted}"),
        ),
    }
}

fn window(name: &'static str, what: &str, max: u64) -> Finding {
    let shown = display_size(max);
    let remedy = format!("sysctl net.ipv4.{name}='4096 131072 {WINDOW}'");
    if max < WINDOW_MIN {
        let says = format!("{shown} may be on the way to one peer: those far away are {what} slowly");
        return Finding::warn(name, says, remedy);
    }
    let says = format!("{shown} may be on the way to one peer");
    match max >= WINDOW {
        true => Finding::ok(name, says),
        false => Finding::info(
            name,
            format!(
                "{says}: one 100 ms away is {what} at {}/s at most",
                display_size(max * 10)
            ),
        )
        .with(remedy),
    }
}

fn datagrams(name: &'static str, max: u64) -> Finding {
    let wanted = DATAGRAM_QUEUE_LEN as u64;
    let says = format!("{} of the tracker's datagrams may wait in a socket", display_size(max));
    match max >= wanted {
        true => Finding::ok(name, says),
        false => Finding::info(name, format!("{says}: more are lost when many come at once"))
            .with(format!("sysctl net.core.{name}={wanted}")),
    }
}

fn inotify(max: u64, config: &Config) -> Finding {
    let topic = "inotify";
    let wanted = config.watch.len() as u64 + OTHER_INSTANCES;
    match max >= wanted {
        true => Finding::ok(topic, format!("{max} instances a user")),
        false => Finding::warn(
            topic,
            format!(
                "{max} instances a user for {} watch folders: some are only looked at every 10 s",
                config.watch.len()
            ),
            format!("sysctl fs.inotify.max_user_instances={}", wanted.next_power_of_two()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::finding::Level;
    use super::super::machine::testing::machine;
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/btd.toml"), []).expect("valid")
    }

    fn level(files: &[(&str, &str)], text: &str, topic: &str) -> Option<Level> {
        let (_dir, machine) = machine(files);
        let findings = look(&machine, &config(text));
        let found = findings.iter().find(|finding| finding.topic == topic);
        found.map(|finding| finding.level)
    }

    fn limits(open: &str, locked: &str) -> String {
        format!("Max open files  1024  {open}  files\nMax locked memory  {locked}  {locked}  bytes\n")
    }

    #[test]
    fn limits_are_measured_by_what_the_configuration_asks_for() {
        let text = limits("2048", "134217728");
        let files = [("proc/self/limits", text.as_str())];
        assert_eq!(level(&files, "", "nofile"), Some(Level::Warn));
        assert_eq!(
            level(&files, "[peers]\nmax-connections = 500", "nofile"),
            Some(Level::Ok)
        );
        assert_eq!(level(&files, "", "memlock"), Some(Level::Warn));
        let small = "[storage]\ncache-size = \"64 MiB\"\n[shards]\ncount = 2";
        assert_eq!(level(&files, small, "memlock"), Some(Level::Ok));
        let status = ("proc/self/status", "CapEff:\t0000000000004000\n");
        assert_eq!(level(&[files[0], status], "", "memlock"), Some(Level::Ok));
        let little = limits("2048", "65536");
        let (_dir, machine) = machine(&[("proc/self/limits", little.as_str())]);
        let findings = look(&machine, &config(small));
        let memlock = findings
            .iter()
            .find(|finding| finding.topic == "memlock")
            .expect("told");
        assert!(memlock.says.contains("does not start"), "{}", memlock.says);
        for (release, expected) in [("6.13.9-amd64", Level::Warn), ("6.14.0", Level::Bad)] {
            let files = [
                ("proc/self/limits", little.as_str()),
                ("proc/sys/kernel/osrelease", release),
            ];
            assert_eq!(level(&files, small, "memlock"), Some(expected), "{release}");
        }
        let none = limits("unlimited", "unlimited");
        let files = [("proc/self/limits", none.as_str())];
        assert_eq!(level(&files, "", "nofile"), Some(Level::Ok));
        assert_eq!(level(&files, "", "memlock"), Some(Level::Ok));
        assert_eq!(level(&[], "", "nofile"), None, "what is hidden is no finding");
    }

    #[test]
    fn queues_of_sockets_that_are_short_are_told_with_the_line_to_change() {
        let files = [
            ("proc/sys/net/core/somaxconn", "128"),
            ("proc/sys/net/core/rmem_max", "212992"),
            ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t65536"),
            ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t33554432"),
            ("proc/sys/fs/inotify/max_user_instances", "8"),
        ];
        assert_eq!(level(&files, "", "somaxconn"), Some(Level::Warn));
        assert_eq!(level(&files, "", "tcp_wmem"), Some(Level::Warn));
        assert_eq!(level(&files, "", "tcp_rmem"), Some(Level::Ok));
        assert_eq!(level(&files, "", "rmem_max"), None, "nobody sends datagrams here");
        let tracker = "[tracker]\nudp = \"127.0.0.1:6969\"";
        assert_eq!(level(&files, tracker, "rmem_max"), Some(Level::Info));
        assert_eq!(level(&files, "", "inotify"), Some(Level::Ok));
        let watch = "[[watch]]\ndir = \"a\"\ndata-dir = \"b\"";
        assert_eq!(level(&files, watch, "inotify"), Some(Level::Warn));
    }
}
