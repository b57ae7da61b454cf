//! What systemd is told by the daemon, and what the units that are shipped make of it. There is no systemd here that runs
//! services, as in `booted.rs`: its socket is played by the test, its opinion of the units is asked for with systemd-analyze.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::btd::{Btd, Config};
use support::leech::Leech;
use support::payload::Payload;
use support::process::Process;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{cannot, http, installed, skip, wait_for, within};

/// What is asked of the units: lower is better, and 10 is a service of which nothing is kept away.
const EXPOSURE_MAX: f64 = 1.3;
/// The watchdog's period, so that a shard that hangs is found out in two seconds.
const WATCHDOG: Duration = Duration::from_secs(8);
/// Long enough for a machine that runs all tests at once.
const SECONDS: u64 = 60;

/// The service manager's end of the socket.
struct Manager {
    path: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn listen(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the socket of the service manager");
        let told = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(len) = socket.recv(&mut buf) {
                let message = String::from_utf8_lossy(&buf[..len]).into_owned();
                heard.lock().expect("nobody panicked").push(message);
            }
        });
        Self { path, told }
    }

    /// btd as a service would be started.
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        command.env("NOTIFY_SOCKET", &self.path);
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        command
    }

    /// Messages with this line, so far.
    fn count(&self, line: &str) -> usize {
        self.find(line).len()
    }

    fn find(&self, line: &str) -> Vec<String> {
        let told = self.told.lock().expect("nobody panicked");
        let has = |message: &&String| message.lines().any(|found| found == line);
        told.iter().filter(has).cloned().collect()
    }

    fn wait_for(&self, line: &str, count: usize) -> Vec<String> {
        wait_for(&format!("{line} is told {count} times"), within(SECONDS), || {
            Some(self.find(line)).filter(|found| found.len() >= count)
        })
    }
}

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// A btd with one torrent and two shards.
fn start(scratch: &Scratch, command: Command) -> Btd {
    let (watch, data) = (scratch.dir("watch"), scratch.dir("data"));
    let payload = Payload::make(&data, "payload.bin", 3, &[("payload.bin".to_owned(), 1 << 20)]);
    Torrent::create(&payload.path(), 64 << 10, watch.join("payload.torrent"));
    let config = Config {
        watch: vec![(watch, data)],
        ..Config::default()
    };
    let btd = Btd::start_within(command, scratch.path(), &config);
    btd.wait_seeding(1);
    btd
}

#[test]
fn service_manager_hears_of_the_start_each_reload_the_stop_and_that_btd_is_alive() {
    let scratch = Scratch::new("service");
    let manager = Manager::listen(scratch.path());
    let btd = start(&scratch, manager.command());
    manager.wait_for("READY=1", 1);
    manager.wait_for("STATUS=1 torrent: 1 seeding", 1);
    manager.wait_for("WATCHDOG=1", 2);

    btd.process.signal(Signal::HUP);
    let reloading = manager.wait_for("RELOADING=1", 1);
    let time = reloading[0]
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let time = time.and_then(|time| time.parse::<u64>().ok());
    assert!(time.is_some_and(|time| time > 0), "{reloading:?}");
    manager.wait_for("READY=1", 2);

    // A configuration that is refused ends the reload all the same: nobody waits for it.
    fs::write(scratch.path().join("btd.toml"), "nonsense").expect("write a configuration");
    btd.process.signal(Signal::HUP);
    manager.wait_for("READY=1", 3);
    assert_eq!((manager.count("RELOADING=1"), manager.count("STOPPING=1")), (2, 0));
    let status = "1 torrent: 1 seeding; the last reload was refused (btd ctl health)";
    manager.wait_for(&format!("STATUS={status}"), 1);
    btd.stop();
    manager.wait_for("STOPPING=1", 1);
}

#[test]
fn shard_that_hangs_ends_the_signs_of_life_until_it_goes_on() {
    if !installed("strace") {
        return skip("`strace` is not installed (hint: tests/run installs it)");
    }
    let scratch = Scratch::new("watchdog");
    let manager = Manager::listen(scratch.path());
    let mut btd = start(&scratch, manager.command());
    manager.wait_for("WATCHDOG=1", 1);

    // The kernel holds one of the two shards, and nobody else, in front of its next call.
    let shard = shard_threads(&btd)[1];
    let mut command = Command::new("strace");
    command.args(["-e", "inject=io_uring_enter:delay_enter=600000000"]);
    command.args([
        "-e",
        "trace=io_uring_enter",
        "-o",
        "/dev/null",
        "-p",
        &shard.to_string(),
    ]);
    let mut strace = Process::spawn("strace", &mut command, &scratch.path().join("strace.log"));
    wait_for("the log tells of it", within(SECONDS), || {
        strace.assert_running();
        btd.process.assert_running();
        btd.process.log().contains("shard 1 has not ticked for").then_some(())
    });
    let before = manager.count("WATCHDOG=1");
    // Which it says after ten seconds: four signs of life would have come.
    wait_for("/health tells of it", within(SECONDS), || {
        let health = http::get(btd.metrics, "/health").expect("the control plane answers");
        (health.status == 503 && health.text().contains("shard 1 has not ticked")).then_some(())
    });
    assert_eq!(
        manager.count("WATCHDOG=1"),
        before,
        "btd says that it is alive while a shard hangs"
    );

    strace.signal(Signal::INT);
    strace.wait(within(SECONDS));
    manager.wait_for("WATCHDOG=1", before + 1);
    btd.stop();
}

/// The threads of the shards, in the order of their numbers.
fn shard_threads(btd: &Btd) -> Vec<u32> {
    let tasks = format!("/proc/{}/task", btd.process.pid());
    let mut threads: Vec<(String, u32)> = Vec::new();
    for task in fs::read_dir(tasks).expect("list the threads of btd") {
        let task = task.expect("list the threads of btd").path();
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        let number = task
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        if name.starts_with("btd-shard") {
            threads.push((name, number.expect("a thread's number")));
        }
    }
    threads.sort();
    assert_eq!(threads.len(), 2, "{threads:?}");
    threads.into_iter().map(|(_, number)| number).collect()
}

/// Runs systemd-analyze on copies of the units that stand by themselves; gives what it said.
fn analyze(arguments: &[&str], home: &Path) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    let output = command
        .args(arguments)
        .current_dir(home)
        .output()
        .expect("run systemd-analyze");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The units in a folder of their own, with a btd that is there, and without the manual, which need not be installed.
fn units(scratch: &Scratch) -> Vec<PathBuf> {
    let names = [("btd.service", "btd.service"), ("btd@.service", "btd@alice.service")];
    let copy = |(name, as_name): (&str, &str)| {
        let text = fs::read_to_string(unit(name)).expect("read a unit");
        assert!(text.contains("ExecStart=/usr/bin/btd ") && text.contains("Documentation=man:"));
        let text = text.replace(
            "ExecStart=/usr/bin/btd ",
            &format!("ExecStart={} ", env!("CARGO_BIN_EXE_btd")),
        );
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("Documentation="))
            .map(|line| format!("{line}\n"))
            .collect();
        let path = scratch.path().join(as_name);
        fs::write(&path, text).expect("copy a unit");
        path
    };
    names.into_iter().map(copy).collect()
}

#[test]
fn units_are_understood_and_keep_away_what_btd_does_not_need() {
    if !installed("systemd-analyze") {
        return cannot("`systemd-analyze` is not installed");
    }
    let scratch = Scratch::new("units");
    for unit in units(&scratch) {
        let unit = unit.to_str().expect("a path in UTF-8");
        let (is_good, said) = analyze(&["verify", unit], scratch.path());
        assert!(
            is_good && said.trim().is_empty(),
            "systemd-analyze verify {unit}:\n{said}"
        );
        let (_, said) = analyze(&["security", "--offline=true", "--no-pager", unit], scratch.path());
        let level = said
            .lines()
            .find_map(|line| line.split_once("exposure level for ")?.1.split_once(": "));
        let level = level.and_then(|(_, level)| level.split(' ').next()?.parse::<f64>().ok());
        let level = level.unwrap_or_else(|| panic!("systemd-analyze security {unit}:\n{said}"));
        eprintln!("{unit}: {level}");
        assert!(level <= EXPOSURE_MAX, "{unit} is exposed by {level}:\n{said}");
    }
}

/// What the unit allows: its `SystemCallFilter=` lines in order, the first of which begins a list of what is allowed.
fn allowed_calls(home: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(unit("btd.service")).expect("read the unit");
    let mut allowed = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (takes_away, names) = match line.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, line),
        };
        for name in names.split_whitespace() {
            for call in calls_of(name, home) {
                if takes_away {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    allowed.extend(calls_of("@default", home)); // Always allowed.
    allowed
}

/// What the profile for containers allows, and what it makes the C library do in another way.
fn allowed_by_profile() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/seccomp.json");
    let profile: serde_json::Value = serde_json::from_slice(&fs::read(path).expect("read the profile")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().expect("rules").iter();
    let names = rules.flat_map(|rule| rule["names"].as_array().expect("names"));
    let names: BTreeSet<String> = names.map(|name| name.as_str().expect("a name").to_owned()).collect();
    for call in ["mount", "bpf", "ptrace", "keyctl", "unshare", "reboot"] {
        assert!(!names.contains(call), "{call} is nothing that btd needs");
    }
    names
}

/// A system call, or all of a set of systemd's.
fn calls_of(name: &str, home: &Path) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let (is_known, text) = analyze(&["syscall-filter", "--no-pager", name], home);
    assert!(is_known, "{name}: {text}");
    let members = text.lines().skip(1).map(str::trim);
    let members = members.filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(|member| calls_of(member, home)).collect()
}

/// Calls that btd can do without, and that an older systemd does not know by name and so does not allow.
const UNKNOWN_TO_SOME: [&str; 1] = ["cachestat"];

#[test]
fn every_system_call_of_btds_life_is_one_that_the_unit_allows() {
    if !installed("systemd-analyze") {
        return cannot("`systemd-analyze` is not installed");
    }
    if !installed("strace") {
        return skip("`strace` is not installed (hint: tests/run installs it)");
    }
    let scratch = Scratch::new("calls");
    let allowed = allowed_calls(scratch.path());
    assert!(
        allowed.contains("io_uring_enter") && !allowed.contains("mount"),
        "{allowed:?}"
    );

    let counts = scratch.path().join("counts");
    let traced = || {
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-U", "name", "-o"]).arg(&counts);
        command.arg(env!("CARGO_BIN_EXE_btd"));
        command
    };
    // It seeds, is reloaded, and stops; then it downloads.
    let seed = start(&scratch, traced());
    let torrent = Torrent::open(scratch.path().join("watch/payload.torrent"));
    let leech = Leech::from(&scratch, "leech", &torrent, vec![seed.peers]);
    leech.wait_complete();
    let source = leech.btd.peers;
    reload(&seed, &scratch.path().join("state/lock"));
    end(seed, &scratch.path().join("state/lock"));
    let mut used = counted(&counts);

    let (watch, data) = (scratch.dir("second/watch"), scratch.dir("second/data"));
    fs::copy(&torrent.path, watch.join("payload.torrent")).expect("copy a torrent");
    let config = Config {
        watch: vec![(watch, data)],
        peers: vec![source],
        ..Config::default()
    };
    let second = Btd::start_within(traced(), &scratch.dir("second"), &config);
    second.wait_seeding(1);
    end(second, &scratch.path().join("second/state/lock"));
    used.extend(counted(&counts));
    assert!(used.contains("io_uring_enter"), "strace saw btd: {used:?}");
    // That of containers: what it refuses with ENOSYS has a fallback in the C library.
    let by_profile = allowed_by_profile();
    let refused: Vec<&String> = used.iter().filter(|call| !by_profile.contains(*call)).collect();
    assert!(
        refused.is_empty(),
        "config/seccomp.json does not allow {refused:?}, which btd calls"
    );

    let refused: Vec<&String> = used
        .iter()
        .filter(|call| !allowed.contains(*call) && !UNKNOWN_TO_SOME.contains(&call.as_str()))
        .collect();
    assert!(
        refused.is_empty(),
        "btd.service does not allow {refused:?}, which btd calls"
    );
}

/// The process that strace has started: what it writes into its lock.
fn traced_pid(lock: &Path) -> Pid {
    let pid = fs::read_to_string(lock).expect("read btd's lock");
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
    pid.expect("btd's number")
}

fn reload(btd: &Btd, lock: &Path) {
    kill_process(traced_pid(lock), Signal::HUP).expect("send SIGHUP");
    wait_for("btd has reloaded", within(SECONDS), || {
        (btd.metric("btd_config_reloads_total{result=\"ok\"}") >= 1.0).then_some(())
    });
}

/// Stops a btd under strace, which has written its list when it ends.
fn end(mut btd: Btd, lock: &Path) {
    kill_process(traced_pid(lock), Signal::TERM).expect("send SIGTERM");
    btd.process.wait_success(within(SECONDS));
}

/// The names in what `strace -c -U name` has written.
fn counted(counts: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(counts).expect("read what strace has counted");
    let names = text.lines().map(str::trim);
    let is_name = |name: &&str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && *name != "syscall"
            && *name != "total"
    };
    names.filter(is_name).map(str::to_owned).collect()
}
