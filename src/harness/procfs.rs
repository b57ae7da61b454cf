//! What a process and the machine have spent, as Linux tells it in /proc: CPU time, context switches, memory.
//!
//! A server may be a tree of processes (a Python driver, a supervisor), so everything is summed over the process
//! and its descendants, their threads included. Nothing here needs the server's help, so any make can be measured.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// What a process tree has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// CPU-seconds in user mode.
    pub user: f64,
    /// CPU-seconds in the kernel, io_uring's worker threads included.
    pub system: f64,
    /// Times a thread gave up its CPU to wait for something.
    pub switches_voluntary: u64,
    /// Times a thread was taken off its CPU.
    pub switches_forced: u64,
}

impl Usage {
    /// What was used since `earlier`. A process that ended meanwhile may make the tree's sum shrink: that reads as 0.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            user: (self.user - earlier.user).max(0.0),
            system: (self.system - earlier.system).max(0.0),
            switches_voluntary: self.switches_voluntary.saturating_sub(earlier.switches_voluntary),
            switches_forced: self.switches_forced.saturating_sub(earlier.switches_forced),
        }
    }
}

/// What a process tree holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident pages, mapped files included.
    pub resident: u64,
    /// Resident pages that belong to no file: the heap, stacks, registered buffers on ordinary pages.
    pub anonymous: u64,
    /// Pages of the huge page pool, which `resident` leaves out.
    pub huge: u64,
    /// Resident pages with shared ones divided among their users; 0 in a quick sample, which does not ask for it.
    pub proportional: u64,
}

impl Memory {
    /// The larger of each figure.
    pub fn max(self, other: Memory) -> Memory {
        Memory {
            resident: self.resident.max(other.resident),
            anonymous: self.anonymous.max(other.anonymous),
            huge: self.huge.max(other.huge),
            proportional: self.proportional.max(other.proportional),
        }
    }
}

/// Seconds the machine's CPUs have spent since it started, all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Busy in anything.
    pub busy: f64,
    /// Wanted by this guest and given to another by the hypervisor.
    pub stolen: f64,
}

/// A process and all that descend from it.
#[derive(Debug, Clone)]
pub struct Tree {
    root: u32,
}

impl Tree {
    /// The tree under this process.
    pub fn new(root: u32) -> Tree {
        Tree { root }
    }

    /// The tree's process ids, the root's first. An error when the root is not running.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        stat(self.root)?;
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            // It may have ended since the folder was read.
            if let Ok(stat) = stat(pid) {
                children.entry(stat.parent).or_default().push(pid);
            }
        }
        let mut pids = vec![self.root];
        let mut at = 0;
        while at < pids.len() {
            pids.extend(children.remove(&pids[at]).unwrap_or_default());
            at += 1;
        }
        Ok(pids)
    }

    /// What the tree has used so far.
    pub fn usage(&self) -> io::Result<Usage> {
        let second = rustix::param::clock_ticks_per_second() as f64;
        let mut sum = Usage::default();
        for pid in self.pids()? {
            let Ok(stat) = stat(pid) else { continue };
            sum.user += stat.user_ticks as f64 / second;
            sum.system += stat.system_ticks as f64 / second;
            let Ok(threads) = fs::read_dir(path(pid, "task")) else {
                continue;
            };
            for thread in threads.flatten() {
                let Ok(status) = fs::read_to_string(thread.path().join("status")) else {
                    continue;
                };
                sum.switches_voluntary += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
                sum.switches_forced += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
            }
        }
        Ok(sum)
    }

    /// What the tree holds now. The proportional share costs the kernel a walk over all its pages with the address
    /// space locked, which is felt by a server at work: `exact` asks for it.
    pub fn memory(&self, exact: bool) -> io::Result<Memory> {
        let mut sum = Memory::default();
        for pid in self.pids()? {
            let Ok(status) = fs::read_to_string(path(pid, "status")) else {
                continue;
            };
            let bytes = |name| field(&status, name).unwrap_or(0) * 1024;
            sum.resident += bytes("VmRSS:");
            sum.anonymous += bytes("RssAnon:");
            sum.huge += bytes("HugetlbPages:");
            if exact && let Ok(rollup) = fs::read_to_string(path(pid, "smaps_rollup")) {
                sum.proportional += field(&rollup, "Pss:").unwrap_or(0) * 1024;
            }
        }
        Ok(sum)
    }
}

/// What the machine's CPUs have spent so far.
pub fn machine() -> io::Result<Machine> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user time.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks[..] else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "/proc/stat does not begin with the sum of all CPUs",
        ));
    };
    let second = rustix::param::clock_ticks_per_second() as f64;
    Ok(Machine {
        busy: (user + nice + system + irq + softirq) / second,
        stolen: steal / second,
    })
}

/// The machine in a few words, as a figure is worth nothing without it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    /// The model that the first CPU gives for itself.
    pub cpu: String,
    /// CPUs on line.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// TCP's congestion control.
    pub congestion_control: String,
    /// The 1-minute load average when the run began: above the server's and the load's own, somebody else was at work.
    pub load: f64,
}

impl Host {
    /// What this machine says of itself; what it does not say stays empty.
    pub fn look() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Host {
            cpu: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            // Not those this process may use: it is usually bound to one of them.
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            congestion_control: text("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            load: text("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

struct Stat {
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
}

fn path(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(path(pid, "stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text:?}")))
}

/// proc(5): the name stands in brackets and may hold anything, brackets and blanks too; the fields follow the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    // Children that ended and were waited for (fields 16 and 17) would otherwise leave the sum.
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        user_ticks: ticks(14)? + ticks(16)?,
        system_ticks: ticks(15)? + ticks(17)?,
    })
}

/// The number that follows this name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = parse_stat("7 (a) b (c)) S 3 7 7 0 -1 4 1 0 0 0 50 20 4 1 20 0 1 0 5 6 7").unwrap();
        assert_eq!((stat.parent, stat.user_ticks, stat.system_ticks), (3, 54, 21));
        assert!(parse_stat("7 (a").is_none());
    }

    #[test]
    fn this_process_is_seen_with_its_children() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tree = Tree::new(std::process::id());
        let pids = tree.pids().unwrap();
        assert_eq!(pids[0], std::process::id());
        assert!(pids.contains(&child.id()));
        assert!(tree.memory(true).unwrap().proportional > 0);
        assert!(tree.memory(false).unwrap().anonymous > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Tree::new(child.id()).usage().is_err());
    }

    #[test]
    fn work_shows_as_cpu_time() {
        let tree = Tree::new(std::process::id());
        let (before, machine_before) = (tree.usage().unwrap(), machine().unwrap());
        let mut sum = 0u64;
        let used = loop {
            (0..1_000_000u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
            let used = tree.usage().unwrap().since(&before);
            if used.user >= 0.05 {
                break used;
            }
        };
        assert!(used.user < 60.0);
        assert!(machine().unwrap().busy >= machine_before.busy);
        assert!(Host::look().cpus > 0);
    }
}
