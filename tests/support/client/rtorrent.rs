//! rTorrent 0.9.8, without a terminal. Refuses torrents without a tracker.

use super::Job;
use crate::support::process::Process;
use crate::support::{wait_for, within};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Starts it with the torrents, of which it checks what is there.
fn start(job: &Job, done: &Path, more: &str) -> Process {
    for dir in [done, &job.home.join("session")] {
        fs::create_dir_all(dir).expect("make rTorrent's folders");
    }
    let mut rc = format!(
        "system.daemon.set = true\n\
         session.path.set = {home}/session\n\
         log.open_file = log, {home}/rtorrent.log\n\
         log.add_output = info, log\n\
         log.add_output = connection_debug, log\n\
         network.bind_address.set = {addr}\n\
         network.port_range.set = {port}-{port}\n\
         dht.mode.set = disable\n\
         protocol.pex.set = no\n\
         trackers.use_udp.set = no\n\
         method.set_key = event.download.finished, done, \"execute.nothrow=touch,(cat,{done}/,(d.hash))\"\n",
        home = job.home.display(),
        addr = job.addr,
        port = job.port,
        done = done.display(),
    );
    rc.push_str(more);
    for download in &job.downloads {
        let (torrent, save) = (download.torrent.path.display(), download.save.display());
        rc.push_str(&format!("load.start = {torrent}, \"d.directory.set={save}\"\n"));
    }
    fs::write(job.home.join("rtorrent.rc"), rc).expect("write rTorrent's configuration");

    let mut command = Command::new("rtorrent");
    command
        .arg("-n")
        .arg("-o")
        .arg(format!("import={}", job.home.join("rtorrent.rc").display()));
    let command = command
        .env("HOME", &job.home)
        .env("TERM", "dumb")
        .current_dir(&job.home);
    Process::spawn("rtorrent", command, &job.home.join("log"))
}

pub fn seed(job: &Job) -> Process {
    // It would close what is complete to check it, and tell the tracker of that only with the next announce.
    start(job, &job.home.join("done"), "pieces.hash.on_completion.set = no\n")
}

pub fn download(job: &Job) {
    let done = job.home.join("done");
    let mut rtorrent = start(job, &done, "");
    // Its files are mapped, so what it calls finished can be read by others at once.
    wait_for("rTorrent has everything", job.deadline, || {
        rtorrent.assert_running();
        let there = |hash: String| done.join(hash.to_uppercase()).exists();
        job.downloads
            .iter()
            .all(|download| there(download.torrent.info_hash_hex()))
            .then_some(())
    });
    // Once is a clean end: it tells its trackers.
    rtorrent.signal(Signal::INT);
    rtorrent.wait_success(within(30));
}
