//! The kernel, its io_uring, who forbids it, and its clock.

use std::time::{Duration, SystemTime};

use super::finding::{Finding, Level};
use super::machine::Machine;
use crate::io::uring::{Features, SetupError};

/// The oldest kernel that btd runs on.
const NEEDED: (u32, u32) = (6, 1);
/// What a later kernel makes better, from the oldest on.
const BETTER: [((u32, u32), &str); 3] = [
    ((6, 6), "rings without an index array"),
    ((6, 12), "the minimum wait of a busy shard"),
    (
        (6, 14),
        "reads that leave nothing in the page cache where direct ones are refused",
    ),
];
/// From then on rings count as locked memory.
const LOCKS_RINGS: (u32, u32) = (6, 14);
/// Clocks that the kernel has to be called for, or that are slow to read.
const SLOW_CLOCKS: [&str; 3] = ["hpet", "acpi_pm", "jiffies"];
/// A clock before this (January 2026) was never set.
const CLOCK_MIN: Duration = Duration::from_secs(1_767_225_600);

/// What a ring was given that was tried.
pub(super) type Tried = Result<(Features, Vec<String>), SetupError>;

/// All of them.
pub(super) fn look(machine: &Machine, tried: &Tried, now: SystemTime) -> Vec<Finding> {
    let mut findings = vec![version(machine)];
    findings.extend(switch(machine, tried.is_ok()));
    findings.extend(filter(machine, tried.is_ok()));
    findings.extend(ring(tried));
    findings.extend(clock_source(machine));
    findings.push(clock(now));
    findings
}

fn release(machine: &Machine) -> Option<String> {
    let release = machine.read("proc/sys/kernel/osrelease");
    release.or_else(|| Some(machine.read("proc/version")?.split(' ').nth(2)?.to_owned()))
}

/// Major and minor number.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether rings count as locked memory, as far as the version tells.
pub(super) fn locks_rings(machine: &Machine) -> bool {
    release(machine).and_then(|release| numbers(&release)) >= Some(LOCKS_RINGS)
}

fn version(machine: &Machine) -> Finding {
    let topic = "kernel";
    let Some(release) = release(machine) else {
        return Finding::info(topic, "its version is hidden");
    };
    let Some(has) = numbers(&release) else {
        return Finding::info(topic, format!("{release}: not a version that can be compared"));
    };
    if has < NEEDED {
        let says = format!("{release}: btd needs {}.{} or later", NEEDED.0, NEEDED.1);
        return Finding::bad(
            topic,
            says,
            Some("a newer kernel of the distribution (backports)".to_owned()),
        );
    }
    let later: Vec<String> = BETTER
        .iter()
        .filter(|(since, _)| has < *since)
        .map(|((major, minor), what)| format!("{what} ({major}.{minor})"))
        .collect();
    match later.as_slice() {
        [] => Finding::ok(topic, release),
        later => Finding::info(topic, format!("{release}; later ones have {}", later.join(", "))),
    }
}

fn switch(machine: &Machine, runs: bool) -> Option<Finding> {
    let topic = "io_uring_disabled";
    // Before Linux 6.6 there is none, and ProcSubset=pid hides it.
    let value = machine.read("proc/sys/kernel/io_uring_disabled")?;
    let group = machine.read("proc/sys/kernel/io_uring_group").unwrap_or_default();
    Some(match (value.as_str(), runs) {
        ("0", _) => Finding::ok(topic, "0: everybody may use io_uring"),
        ("1", true) => Finding::info(
            topic,
            format!("1: only the group {group} and who has CAP_SYS_ADMIN may use io_uring, and this process may"),
        )
        .with(format!("SupplementaryGroups={group} in btd.service")),
        ("1", false) => Finding::bad(
            topic,
            format!("1: only the group {group} and who has CAP_SYS_ADMIN may use io_uring"),
            Some(format!(
                "SupplementaryGroups={group} in btd.service, or sysctl kernel.io_uring_disabled=0"
            )),
        ),
        (value, _) => Finding::bad(
            topic,
            format!("{value}: nobody may use io_uring"),
            Some("sysctl kernel.io_uring_disabled=0".to_owned()),
        ),
    })
}

fn filter(machine: &Machine, runs: bool) -> Option<Finding> {
    let topic = "seccomp";
    Some(match (machine.status("Seccomp")?.as_str(), runs) {
        ("0", _) => Finding::ok(topic, "no filter"),
        (_, true) => Finding::ok(topic, "a filter is in force, and lets io_uring through"),
        (_, false) => Finding::bad(
            topic,
            "a filter is in force, and io_uring cannot be had, as in Docker's default profile",
            Some(
                "--security-opt seccomp=config/seccomp.json for a container; SystemCallFilter=@aio for a service"
                    .to_owned(),
            ),
        ),
    })
}

fn ring(tried: &Tried) -> Vec<Finding> {
    let topic = "io_uring";
    let (features, notices) = match tried {
        Ok(tried) => tried,
        Err(error) => return vec![Finding::said(topic, Level::Bad, &error.to_string())],
    };
    let mut findings: Vec<Finding> = features
        .list()
        .into_iter()
        .filter(|(_, has)| !has)
        .map(|(name, _)| fallback(name))
        .collect();
    findings.extend(notices.iter().map(|notice| Finding::said(topic, Level::Info, notice)));
    if findings.is_empty() {
        findings.push(Finding::ok(topic, "everything btd can use is there"));
    }
    findings
}

/// What runs in place of a feature that is not there.
fn fallback(name: &'static str) -> Finding {
    let topic = "io_uring";
    match name {
        "defer_taskrun" => Finding::warn(
            topic,
            "completions interrupt the shards (IORING_SETUP_DEFER_TASKRUN is refused)",
            "a kernel from 6.1 on",
        ),
        "files" => Finding::warn(
            topic,
            "files and sockets are looked up for each operation: the registered table cannot be had",
            "LimitNOFILE=1048576 in btd.service",
        ),
        "buffers" => Finding::warn(
            topic,
            "the pages of each read are looked up: buffers cannot be registered",
            "LimitMEMLOCK=infinity in btd.service, or ulimit -l unlimited",
        ),
        "huge_pages" => Finding::info(topic, "the cache is not on reserved huge pages")
            .with("sysctl vm.nr_hugepages=N, with as many times 2 MiB as storage.cache-size"),
        "min_wait" => Finding::info(topic, "a busy shard wakes up more often: there is no minimum wait")
            .with("a kernel from 6.12 on"),
        "zero_copy" => Finding::info(topic, "sends cannot lend their memory: peers.zero-copy does nothing"),
        "no_sqarray" => Finding::info(topic, "rings have an index array").with("a kernel from 6.6 on"),
        name => Finding::info(topic, format!("{name} is not there")),
    }
}

fn clock_source(machine: &Machine) -> Option<Finding> {
    let topic = "clock source";
    let folder = "sys/devices/system/clocksource/clocksource0";
    let name = machine.read(format!("{folder}/current_clocksource"))?;
    if !SLOW_CLOCKS.contains(&name.as_str()) {
        return Some(Finding::ok(topic, name));
    }
    let others = machine
        .read(format!("{folder}/available_clocksource"))
        .unwrap_or_default();
    let says = format!("{name}: each look at the clock is slow, and shards look twice a turn (there are: {others})");
    Some(Finding::warn(
        topic,
        says,
        "clocksource=tsc tsc=reliable on the kernel's command line, if this machine's TSC can be relied on",
    ))
}

fn clock(now: SystemTime) -> Finding {
    let topic = "clock";
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match since >= CLOCK_MIN {
        true => Finding::ok(topic, "it has been set"),
        false => Finding::warn(
            topic,
            "it was never set: certificates of trackers are refused, and times of files mean nothing",
            "systemctl enable --now systemd-timesyncd",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::worst;
    use super::super::machine::testing::machine;
    use super::*;

    fn all() -> Tried {
        Ok((Features::ALL, Vec::new()))
    }

    fn set() -> SystemTime {
        SystemTime::UNIX_EPOCH + CLOCK_MIN
    }

    fn levels(files: &[(&str, &str)], tried: &Tried) -> Vec<(&'static str, Level)> {
        let (_dir, machine) = machine(files);
        let findings = look(&machine, tried, set());
        findings.iter().map(|finding| (finding.topic, finding.level)).collect()
    }

    #[test]
    fn kernel_that_is_too_old_is_bad_and_one_that_lacks_a_little_is_not() {
        for (release, level) in [
            ("5.15.0-91-generic", Level::Bad),
            ("6.0.1", Level::Bad),
            ("6.1.0-18-amd64", Level::Info),
            ("6.14.0", Level::Ok),
            ("7.0.0-rc1", Level::Ok),
            ("unknown", Level::Info),
        ] {
            let found = levels(&[("proc/sys/kernel/osrelease", release)], &all());
            assert_eq!(found[0], ("kernel", level), "{release}");
        }
    }

    #[test]
    fn sysctl_and_filter_are_blamed_only_where_there_is_no_ring() {
        let refused = || Err(SetupError::Permission);
        let files = |value| {
            [
                ("proc/sys/kernel/io_uring_disabled", value),
                ("proc/self/status", "Seccomp:\t2\n"),
            ]
        };
        let found = |value, tried: &Tried| levels(&files(value), tried);
        assert!(found("0", &all()).contains(&("io_uring_disabled", Level::Ok)));
        assert!(found("1", &all()).contains(&("io_uring_disabled", Level::Info)));
        assert!(found("1", &refused()).contains(&("io_uring_disabled", Level::Bad)));
        assert!(found("2", &refused()).contains(&("io_uring_disabled", Level::Bad)));
        assert!(found("0", &all()).contains(&("seccomp", Level::Ok)));
        assert!(found("0", &refused()).contains(&("seccomp", Level::Bad)));
        let hidden = levels(&[], &all());
        assert!(
            hidden
                .iter()
                .all(|(topic, _)| *topic != "io_uring_disabled" && *topic != "seccomp")
        );
    }

    #[test]
    fn each_feature_that_is_missing_is_named_with_what_runs_instead() {
        let findings = ring(&all());
        assert_eq!(worst(&findings), Level::Ok);
        for (name, _) in Features::ALL.list() {
            let features = Features::masked(name).expect("a feature");
            let findings = ring(&Ok((features, Vec::new())));
            assert_eq!(findings.len(), 1, "{name}");
            assert!(findings[0].level > Level::Ok, "{name}");
        }
        let missing = "io_uring_setup";
        let findings = ring(&Err(SetupError::Kernel { missing }));
        assert_eq!(worst(&findings), Level::Bad);
        assert!(findings[0].remedy.is_some(), "{findings:?}");
    }

    #[test]
    fn slow_clock_and_one_that_was_never_set_are_warned_of() {
        let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        assert!(levels(&[(path, "tsc\n")], &all()).contains(&("clock source", Level::Ok)));
        assert!(levels(&[(path, "hpet\n")], &all()).contains(&("clock source", Level::Warn)));
        assert_eq!(clock(set()).level, Level::Ok);
        assert_eq!(clock(SystemTime::UNIX_EPOCH).level, Level::Warn);
    }
}
