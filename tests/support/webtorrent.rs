//! Webtorrent's own tracker client and tracker, run by Node.js (`tests/clients/webtorrent_*.mjs`).

use super::process::Process;
use super::{installed, tests_dir, wait_for, within};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that has `node_modules/bittorrent-tracker` in it.
fn modules() -> PathBuf {
    std::env::var_os("BTD_TEST_NODE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node"),
        PathBuf::from,
    )
}

/// Why it cannot be run, if it cannot.
pub fn missing() -> Option<String> {
    if !installed("node") {
        return Some("`node` is not installed (hint: tests/run installs it)".to_owned());
    }
    let package = modules().join("node_modules/bittorrent-tracker");
    (!package.is_dir()).then(|| format!("{} is not there (hint: tests/run installs it)", package.display()))
}

fn script(name: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(tests_dir().join("clients").join(name)).arg(modules());
    command
}

/// Has two peers announce to a tracker, and gives a line of JSON for each step.
pub fn announce(url: &str, info_hash: &str) -> Vec<serde_json::Value> {
    let output = script("webtorrent_announce.mjs").args([url, info_hash]).output();
    let output = output.expect("run node");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(read).collect()
}

/// The tracker, until it is dropped.
pub struct Tracker {
    _process: Process,
    pub http: SocketAddr,
    pub udp: SocketAddr,
}

impl Tracker {
    /// Starts one on free ports of this address, with its files in `dir`.
    pub fn start(dir: &Path, ip: IpAddr) -> Self {
        let file = dir.join("ports");
        let mut command = script("webtorrent_tracker.mjs");
        command.arg(ip.to_string()).arg(&file);
        let mut process = Process::spawn("webtorrent's tracker", &mut command, &dir.join("log"));
        let ports = wait_for("webtorrent's tracker listens", within(30), || {
            process.assert_running();
            fs::read_to_string(&file).ok()
        });
        let mut ports = ports
            .split(' ')
            .map(|port| SocketAddr::new(ip, port.parse().expect("a port")));
        let mut next = || ports.next().expect("two ports");
        Self {
            http: next(),
            udp: next(),
            _process: process,
        }
    }
}
