//! What the process costs the machine, under the names that Prometheus' own clients give it: dashboards and alerts that know nothing
//! of btd find them.
//!
//! The kernel is asked when somebody scrapes. What it does not tell is left out: a 0 would be taken for a figure. It is written here
//! and not recorded, since counters of the recorder are whole numbers, and a second of CPU time is much.

use std::fmt::Write;
use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Writes all of them.
pub(super) fn write(text: &mut String) {
    let spent = duration(ClockId::ProcessCPUTime).as_secs_f64();
    counter(
        text,
        "process_cpu_seconds_total",
        "CPU time of all threads, io_uring's too, in user mode and in the kernel.",
        spent,
    );
    let status = Status::of(&read("status"));
    let figures = [
        (
            "process_resident_memory_bytes",
            "Memory in RAM, pages of the huge page pool left out.",
            status.resident,
        ),
        (
            "btd_huge_page_bytes",
            "Memory of the machine's huge page pool.",
            status.huge,
        ),
        ("process_virtual_memory_bytes", "Address space.", status.address_space),
        ("process_threads", "Threads.", status.threads),
        ("process_open_fds", "Open file descriptors.", open_files()),
        (
            "process_max_fds",
            "File descriptors that may be open.",
            getrlimit(Resource::Nofile).current,
        ),
    ];
    for (name, help, value) in figures {
        if let Some(value) = value {
            gauge(text, name, help, value as f64);
        }
    }
    // Once: computed of two clocks it would be another each time, and each a new start to Prometheus.
    static BEGUN: OnceLock<Option<Duration>> = OnceLock::new();
    if let Some(begun) = BEGUN.get_or_init(|| begun(&read("stat"))) {
        gauge(
            text,
            "process_start_time_seconds",
            "When the process began, in seconds since 1970.",
            begun.as_secs_f64(),
        );
    }
}

fn counter(text: &mut String, name: &str, help: &str, value: f64) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
}

fn gauge(text: &mut String, name: &str, help: &str, value: f64) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
}

/// What the kernel says of this process in a file of proc(5); nothing if there is none.
fn read(file: &str) -> String {
    fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default()
}

/// Of `/proc/self/status`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    /// In bytes, as all but the threads.
    resident: Option<u64>,
    huge: Option<u64>,
    address_space: Option<u64>,
    threads: Option<u64>,
}

impl Status {
    fn of(text: &str) -> Self {
        let field = |name| -> Option<u64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let bytes = |name| field(name).map(|kib| kib.saturating_mul(1024));
        Self {
            resident: bytes("VmRSS:"),
            huge: bytes("HugetlbPages:"),
            address_space: bytes("VmSize:"),
            threads: field("Threads:"),
        }
    }
}

/// Linux 6.2 tells the number as the folder's length; before, they have to be counted.
fn open_files() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).ok()?.len() {
        // The folder that is read is one of them.
        0 => Some(fs::read_dir(FOLDER).ok()?.count().saturating_sub(1) as u64),
        count => Some(count),
    }
}

/// Since 1970. `/proc/self/stat` counts from the start of the machine: the wall clock may have been set since.
fn begun(stat: &str) -> Option<Duration> {
    let age =
        duration(ClockId::Boottime).checked_sub(begun_after_boot(stat, rustix::param::clock_ticks_per_second())?)?;
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(age)
}

/// The 22nd field, in ticks. The name of the process, the second, may have blanks and brackets in it.
fn begun_after_boot(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let ticks: u64 = behind_name.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second.max(1) as f64))
}

fn duration(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a metric of its own says.
    fn said(text: &str, name: &str) -> f64 {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {name} in:\n{text}"))
            .parse()
            .expect("a number")
    }

    fn now() -> String {
        let mut text = String::new();
        write(&mut text);
        text
    }

    #[test]
    fn process_tells_what_this_one_uses() {
        let memory = vec![1_u8; 64 << 20];
        let files: Vec<fs::File> = (0..100)
            .map(|_| fs::File::open("/proc/self/stat").expect("open"))
            .collect();
        let more = now();
        assert!(memory.iter().all(|byte| *byte == 1));
        let (resident, opened) = (
            said(&more, "process_resident_memory_bytes"),
            said(&more, "process_open_fds"),
        );
        assert!(resident > memory.len() as f64, "{resident}");
        assert!(said(&more, "process_virtual_memory_bytes") >= resident);
        assert!(opened >= 103.0 && opened <= said(&more, "process_max_fds"), "{opened}");
        drop(files);
        assert!(said(&now(), "process_open_fds") <= opened - 100.0 + 50.0, "{opened}");
        assert!(said(&more, "process_threads") >= 1.0);
        let spent = said(&more, "process_cpu_seconds_total");
        assert!(spent > 0.0 && said(&now(), "process_cpu_seconds_total") > spent);
    }

    #[test]
    fn process_begun_is_a_moment_ago_and_no_other_each_time() {
        let begun = said(&now(), "process_start_time_seconds");
        let now_seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs_f64();
        assert!(
            begun <= now_seconds && begun > now_seconds - 24.0 * 3600.0,
            "{begun}, {now_seconds}"
        );
        let later: Vec<f64> = (0..50).map(|_| said(&now(), "process_start_time_seconds")).collect();
        assert!(later.iter().all(|again| *again == begun), "{begun}, {later:?}");
    }

    #[test]
    fn process_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = "7 (b) t d) S 1 7 7 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 9 0 12345 1000 10";
        assert_eq!(begun_after_boot(stat, 100), Some(Duration::from_millis(123_450)));
        for broken in [
            "",
            "7 (btd",
            "7 (btd) S 1 2",
            "7 (btd) S 1 7 7 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 9 0 x",
        ] {
            assert_eq!(begun_after_boot(broken, 100), None, "{broken}");
        }
    }

    #[test]
    fn process_status_gives_bytes_and_leaves_out_what_is_not_there() {
        let text = "Name:\tbtd\nVmSize:\t    2000 kB\nVmRSS:\t    1000 kB\nHugetlbPages:\t       0 kB\nThreads:\t9\n";
        let all = Status {
            resident: Some(1_024_000),
            huge: Some(0),
            address_space: Some(2_048_000),
            threads: Some(9),
        };
        assert_eq!(Status::of(text), all);
        assert_eq!(Status::of("Name:\tbtd\nVmRSS:\tmuch\n"), Status::default());
    }
}
