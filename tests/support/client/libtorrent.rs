//! libtorrent 2.1, by a small Python program: `tests/clients/libtorrent_get.py`.

use super::Job;
use crate::support::process::Process;
use crate::support::tests_dir;
use crate::support::torrent::Torrent;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python of the venv that tests/run makes.
fn python() -> PathBuf {
    let venv = std::env::var_os("BTD_TEST_VENV").map(PathBuf::from);
    venv.unwrap_or_else(|| tests_dir().join("../target/venv"))
        .join("bin/python")
}

pub fn missing() -> Option<String> {
    let import = Command::new(python()).args(["-c", "import libtorrent"]).output();
    let there = import.is_ok_and(|output| output.status.success());
    (!there).then(|| format!("{} has no libtorrent (hint: tests/run makes it)", python().display()))
}

pub(super) fn seed(job: &Job) -> Process {
    let mut command = Command::new(python());
    command.arg(tests_dir().join("clients/libtorrent_seed.py"));
    command.arg("--listen").arg(format!("{}:{}", job.addr, job.port));
    for download in &job.downloads {
        command.arg(&download.torrent.path).arg(&download.save);
    }
    Process::spawn("libtorrent", &mut command, &job.home.join("log"))
}

/// One peer of a swarm, driven by signals: see `tests/clients/libtorrent_peer.py`.
pub fn peer(listen: SocketAddr, announce: &str, holds: bool, torrent: &Torrent, save: &Path, log: &Path) -> Process {
    let mut command = Command::new(python());
    command.arg(tests_dir().join("clients/libtorrent_peer.py"));
    command.args(["--listen", &listen.to_string(), "--tracker", announce]);
    if holds {
        command.arg("--hold");
    }
    command.arg(&torrent.path).arg(save);
    Process::spawn("libtorrent", &mut command, log)
}

pub(super) fn download(job: &Job) {
    let mut command = Command::new(python());
    command.arg(tests_dir().join("clients/libtorrent_get.py"));
    command.arg("--listen").arg(format!("{}:{}", job.addr, job.port));
    match &job.by_tracker {
        Some(url) => command.arg("--tracker").arg(url),
        None => command.arg("--peer").arg(job.seed.to_string()),
    };
    for download in &job.downloads {
        command.arg(&download.torrent.path).arg(&download.save);
    }
    let mut libtorrent = Process::spawn("libtorrent", &mut command, &job.home.join("log"));
    libtorrent.wait_success(job.deadline);
}
