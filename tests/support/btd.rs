//! The daemon under test: the real binary, with a configuration of the test's own.

use super::http;
use super::process::Process;
use super::{wait_for, within};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long btd may take to start, payload checking included: a debug build hashes a few GiB here.
const START_SECONDS: u64 = 120;
/// What is promised of a clean stop.
const STOP_SECONDS: u64 = 5;

/// What differs between the tests. `Default` is a seed on a free port of 127.0.0.1 with two shards.
pub struct Config {
    pub listen: IpAddr,
    /// For peers; 0 takes a free one.
    pub port: u16,
    /// Where the metrics are, on a free port.
    pub metrics: IpAddr,
    pub shards: u32,
    /// Watch folder and data folder, each pair a `[[watch]]`.
    pub watch: Vec<(PathBuf, PathBuf)>,
    /// Peers to download from, for every watch folder.
    pub peers: Vec<SocketAddr>,
    /// Further lines at the end of the file, with their section heads.
    pub more: String,
    pub log_level: &'static str,
    pub zero_copy: bool,
}

impl Default for Config {
    fn default() -> Self {
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            listen,
            port: 0,
            metrics: listen,
            shards: 2,
            watch: Vec::new(),
            peers: Vec::new(),
            more: String::new(),
            log_level: "info",
            zero_copy: false,
        }
    }
}

impl Config {
    /// The file. Port 0 where no other is asked for: the ports taken are in `ports.json`.
    pub fn to_toml(&self) -> String {
        let mut toml = format!(
            "state-dir = \"state\"\n\n[peers]\nlisten = [\"{}\"]\nzero-copy = {}\n\n[shards]\ncount = {}\npin = false\n\n\
             [metrics]\nlisten = \"{}\"\n",
            SocketAddr::new(self.listen, self.port),
            self.zero_copy,
            self.shards,
            SocketAddr::new(self.metrics, 0)
        );
        for (watch, data) in &self.watch {
            let peers: Vec<String> = self.peers.iter().map(SocketAddr::to_string).collect();
            toml.push_str(&format!(
                "\n[[watch]]\ndir = {watch:?}\ndata-dir = {data:?}\npeers = {peers:?}\n"
            ));
        }
        toml + "\n" + &self.more
    }
}

/// A running btd. Killed when dropped; [`Btd::stop`] is the clean way.
pub struct Btd {
    pub process: Process,
    /// Where peers connect.
    pub peers: SocketAddr,
    /// Where `/metrics` and `/health` answer.
    pub metrics: SocketAddr,
    /// Where the tracker answers, if it has one: at the address that peers connect to.
    pub tracker_http: Option<SocketAddr>,
    pub tracker_udp: Option<SocketAddr>,
}

impl Btd {
    /// Starts btd with its configuration, state and log in `home`, and waits until it says that it is ready.
    pub fn start(home: &Path, config: &Config) -> Self {
        Self::start_within(Command::new(env!("CARGO_BIN_EXE_btd")), home, config)
    }

    /// The same by a command that ends with btd's path: one that goes elsewhere first.
    pub fn start_within(mut command: Command, home: &Path, config: &Config) -> Self {
        let file = home.join("btd.toml");
        fs::write(&file, config.to_toml()).expect("write the configuration");
        command
            .arg("--config")
            .arg(&file)
            .args(["--log-level", config.log_level])
            .current_dir(home);
        Self::start_by(&mut command, home, config)
    }

    /// The same by a command of the caller's, with the configuration written.
    pub fn start_by(command: &mut Command, home: &Path, config: &Config) -> Self {
        // That of one that was killed would say that this one is ready.
        let _ = fs::remove_file(home.join("state/ports.json"));
        let mut process = Process::spawn("btd", command, &home.join("btd.log"));
        let ports: Value = wait_for("btd writes ports.json", within(START_SECONDS), || {
            process.assert_running();
            serde_json::from_slice(&fs::read(home.join("state/ports.json")).ok()?).ok()
        });
        let port = |value: &Value, name: &str| {
            let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
            port.unwrap_or_else(|| panic!("ports.json has no port for {name}: {ports}"))
        };
        let peers = SocketAddr::new(config.listen, port(&ports["peers"][0], "peers"));
        let metrics = SocketAddr::new(config.metrics, port(&ports["metrics"], "metrics"));
        let tracker =
            |name: &str| (!ports[name].is_null()).then(|| SocketAddr::new(config.listen, port(&ports[name], name)));
        Self {
            process,
            peers,
            metrics,
            tracker_http: tracker("tracker_http"),
            tracker_udp: tracker("tracker_udp"),
        }
    }

    /// Waits until `count` torrents are checked and served: a peer that comes sooner is turned away.
    pub fn wait_seeding(&self, count: usize) {
        wait_for("btd seeds all torrents", within(START_SECONDS), || {
            (self.metric("btd_torrents{state=\"seeding\"}") >= count as f64).then_some(())
        });
    }

    /// Waits until so many torrents are in this state, no fewer and no more.
    pub fn wait_torrents(&self, state: &str, count: usize) {
        let name = format!("btd_torrents{{state=\"{state}\"}}");
        wait_for(&format!("{count} torrents are {state}"), within(START_SECONDS), || {
            (self.metric(&name) == count as f64).then_some(())
        });
    }

    /// Waits until the log says this.
    pub fn wait_log(&self, text: &str) {
        wait_for(&format!("the log says {text:?}"), within(START_SECONDS), || {
            self.process.log().contains(text).then_some(())
        });
    }

    /// The sum of the samples of one metric whose line begins with `name` (`btd_peers`, or with labels
    /// `btd_torrents{state="seeding"}`). 0 if there is none yet.
    pub fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.metrics, "/metrics").expect("read btd's metrics").text();
        let samples = text.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let labels = key.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then(|| value.parse::<f64>().ok())?
        });
        samples.sum()
    }

    /// SIGTERM; panics unless btd ends with success within the promised time.
    pub fn stop(mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait_success(within(STOP_SECONDS));
    }
}
