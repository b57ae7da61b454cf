//! How many connections the memory has room for that this process may use: that of the machine, or less in a control group.
//!
//! It is a budget and no promise: what one peer can pin at the very worst is a hundred times what one costs that is slow and asks for
//! much (ARCHITECTURE.md, "Who owns memory"). Beyond the budget connections are turned away, instead of all of them ending with the
//! process when the kernel has no memory left.

use std::path::{Path, PathBuf};

use super::config::{Config, display_size};
use super::shards::UNCACHED_LEN;

/// What a connection may cost on average with everything that the kernel keeps for it: its state and queues here, and what waits in its
/// socket of requests and replies. Payload lies in the cache, which is paid for by itself.
const PER_CONNECTION: u64 = 32 << 10;
/// With less nobody could be served.
const CONNECTIONS_MIN: u64 = 64;

/// What memory allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Connections in all.
    pub(super) connections: usize,
    /// What this process may use, in bytes.
    memory: u64,
    /// What of it is planned for other things.
    planned: u64,
}

/// What the memory allows besides what the configuration has planned for caches. `None` if nobody knows how much there is.
pub(super) fn budget(config: &Config, shards: usize) -> Option<Budget> {
    let memory = limit()?;
    let storage = &config.storage;
    let planned = storage.cache_size.unwrap_or(UNCACHED_LEN * shards as u64)
        + storage.write_buffer
        + config
            .tracker
            .as_ref()
            .map_or(0, |tracker| tracker.settings.memory_max as u64);
    Some(of(memory, planned))
}

/// What is wrong with the caches of a configuration, if they are planned larger than the memory that there is here. It may be for
/// another machine.
pub(super) fn too_much(config: &Config) -> Option<String> {
    too_much_of(config, limit()?)
}

fn too_much_of(config: &Config, memory: u64) -> Option<String> {
    let storage = &config.storage;
    let sum = storage.cache_size.unwrap_or(0).saturating_add(storage.write_buffer);
    (sum > memory).then(|| {
        format!(
            "storage.cache-size and write-buffer are {} together, and btd may use {} of memory here (hint: a smaller \
             cache-size)",
            display_size(sum),
            display_size(memory)
        )
    })
}

/// Half of what is left is for connections; torrents, the kernel and other programs have the rest.
fn of(memory: u64, planned: u64) -> Budget {
    let connections = (memory.saturating_sub(planned) / 2 / PER_CONNECTION).max(CONNECTIONS_MIN);
    Budget {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        memory,
        planned,
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (memory, planned) = (display_size(self.memory), display_size(self.planned));
        write!(
            f,
            "{} by memory ({memory}, of which {planned} are planned for caches)",
            self.connections
        )
    }
}

/// The least of what the machine and the control groups of this process allow, in bytes.
fn limit() -> Option<u64> {
    let own = read("/proc/self/cgroup");
    let of_group = limits(&own).filter_map(|file| read(file).trim().parse().ok());
    of_group.chain(super::config::sections::machine_memory()).min()
}

/// The files with the limits of a process' control group and of those that it lies in, by what proc(5) says of it: of version 2, and of
/// version 1, which containers on older machines have. What has no limit says a word, or more than any machine has.
fn limits(cgroup: &str) -> impl Iterator<Item = PathBuf> {
    const UNIFIED: &str = "/sys/fs/cgroup";
    const OF_MEMORY: &str = "/sys/fs/cgroup/memory";
    let unified = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
    // number:controllers:path
    let of_memory = cgroup.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then_some(path)
    });
    let above = |root: &'static str, path: &str, file: &'static str| {
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let all = own.ancestors().take_while(move |dir| dir.starts_with(root));
        all.map(|dir| dir.join(file)).collect::<Vec<_>>()
    };
    // In a container its own group may be the root of what is mounted there, whatever it is called outside.
    let mut files = above(UNIFIED, unified.unwrap_or_default(), "memory.max");
    if let Some(path) = of_memory {
        files.extend(above(OF_MEMORY, path, "memory.limit_in_bytes"));
    }
    files.into_iter()
}

/// What a file of the kernel says; nothing if there is none.
fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_left_is_for_connections_and_never_less_than_a_few() {
        assert_eq!(of(16 << 30, 320 << 20).connections, 257_024);
        assert_eq!(of(512 << 20, 320 << 20).connections, 3072);
        assert_eq!(of(100 << 20, 320 << 20).connections, 64);
        let text = of(512 << 20, 320 << 20).to_string();
        assert_eq!(
            text,
            "3072 by memory (512 MiB, of which 320 MiB are planned for caches)"
        );
    }

    #[test]
    fn a_group_lies_in_those_above_it_and_a_process_of_none_in_the_root() {
        let files = |text| -> Vec<String> { limits(text).map(|file| file.display().to_string()).collect() };
        let expected = [
            "/sys/fs/cgroup/system.slice/btd.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files("0::/system.slice/btd.service\n"), expected);
        assert_eq!(files(""), ["/sys/fs/cgroup/memory.max"]);
        assert!(limit().is_some_and(|bytes| bytes > 1 << 20), "this machine has some");
    }

    #[test]
    fn a_group_of_version_1_has_a_limit_too() {
        let text = "12:pids:/docker/x\n11:cpu,memory:/docker/x\n3:memoryless:/y\n0::/\n";
        let files: Vec<String> = limits(text).map(|file| file.display().to_string()).collect();
        let expected = [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        assert_eq!(files, expected);
    }
}
