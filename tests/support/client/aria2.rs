//! aria2 1.36: finds peers only through a tracker, and bans one that sends anything together with its handshake.

use super::Job;
use crate::support::process::Process;
use std::fs;
use std::process::Command;

pub fn seed(job: &Job) -> Process {
    // For ever, what it finds to be right.
    start(job, &["--check-integrity=true", "--seed-ratio=0.0"])
}

pub fn download(job: &Job) {
    // Ends when everything is there, instead of seeding.
    start(job, &["--seed-time=0"]).wait_success(job.deadline);
}

fn start(job: &Job, more: &[&str]) -> Process {
    let list: String = job
        .downloads
        .iter()
        .map(|download| {
            format!(
                "{}\n dir={}\n",
                download.torrent.path.display(),
                download.save.display()
            )
        })
        .collect();
    let input = job.home.join("downloads");
    fs::write(&input, list).expect("write the list of downloads");

    let mut command = Command::new("aria2c");
    // No configuration of the user's; the log says what it thinks of its peers.
    command.args([
        "--no-conf",
        "--log-level=info",
        "--console-log-level=notice",
        "--summary-interval=10",
    ]);
    command.arg(format!("--log={}", job.home.join("aria2.log").display()));
    command
        .arg(format!("--input-file={}", input.display()))
        .env("HOME", &job.home);
    command
        .arg(format!("--listen-port={}", job.port))
        .arg(format!("--interface={}", job.addr));
    command.args([
        "--enable-dht=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
    ]);
    command
        .args(["--max-concurrent-downloads=8", "--file-allocation=none"])
        .args(more);
    Process::spawn("aria2", command.current_dir(&job.home), &job.home.join("log"))
}
