//! Debian's opentracker, to hand out btd's address.

use super::http;
use super::process::Process;
use super::torrent::Torrent;
use super::{wait_for, within};
use rustix::process::Signal;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

pub struct Tracker {
    process: Process,
    addr: SocketAddr,
}

impl Tracker {
    /// Starts one on `addr` that knows `torrents` and no others (Debian's build has a white list). Its files are in `dir`.
    pub fn start(dir: &Path, addr: SocketAddr, torrents: &[Torrent]) -> Self {
        let hashes: String = torrents.iter().map(|torrent| torrent.info_hash_hex() + "\n").collect();
        fs::write(dir.join("whitelist"), hashes).expect("write the white list");
        // It changes its root to `dir` and its user to nobody, and then reads the white list.
        fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("open a folder to all");
        let mut command = Command::new("opentracker");
        command.args([
            "-i",
            &addr.ip().to_string(),
            "-p",
            &addr.port().to_string(),
            "-P",
            &addr.port().to_string(),
            "-u",
            "nobody",
            "-w",
            "whitelist",
        ]);
        let process = Process::spawn(
            "opentracker",
            command.arg("-d").arg(dir).current_dir(dir),
            &dir.join("log"),
        );
        let mut tracker = Self { process, addr };
        wait_for("opentracker answers", within(10), || {
            tracker.process.assert_running();
            http::get(addr, "/scrape").ok()
        });
        tracker
    }

    pub fn announce_url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    pub fn udp_url(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }

    /// Announces a seed that is on this machine and does not announce itself. opentracker believes it for 45 minutes,
    /// far longer than a test runs.
    pub fn announce_seed(&self, torrent: &Torrent, seed: SocketAddr) {
        let info_hash: String = torrent.info_hash.iter().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!(
            "/announce?info_hash={info_hash}&peer_id=-XX0000-seedseedseed&port={}&left=0&compact=1",
            seed.port()
        );
        // The tracker takes the address that the announce comes from. Its white list is read by a thread of its own, some
        // time after it has begun to answer; until then it refuses all.
        wait_for("opentracker takes a seed", within(30), || {
            let response = http::get_from(seed.ip(), self.addr, &path).expect("announce to opentracker");
            let text = response.text();
            let taken = text.contains("8:complete");
            assert!(
                taken || text.contains("not authorized"),
                "opentracker refused a seed: {text}"
            );
            taken.then_some(())
        });
    }

    /// Ends it. (Also done when it is dropped.)
    pub fn stop(self) {
        self.process.signal(Signal::TERM);
    }
}
