//! qBittorrent 4.5.2 (on libtorrent 2.0.8) without a window, by its web interface.

use super::Job;
use crate::support::process::Process;
use crate::support::{http, wait_for, within};
use serde_json::Value;
use std::fs;
use std::process::Command;

const BOUNDARY: &str = "----a-line-that-is-in-no-torrent----";

/// Starts it with the torrents, of which it checks what is there.
fn start(job: &Job) -> Process {
    let config = job.home.join("qBittorrent/config");
    fs::create_dir_all(&config).expect("make qBittorrent's profile");
    let settings = format!(
        "[LegalNotice]\nAccepted=true\n\n\
         [BitTorrent]\n\
         Session\\Interface=lo\nSession\\InterfaceAddress={addr}\nSession\\InterfaceName=lo\nSession\\Port={port}\n\
         Session\\DHTEnabled=false\nSession\\LSDEnabled=false\nSession\\PeXEnabled=false\n\
         Session\\QueueingSystemEnabled=false\n\n\
         [Network]\nPortForwardingEnabled=false\n\n\
         [Preferences]\n\
         WebUI\\Enabled=true\nWebUI\\Address={control}\nWebUI\\Port={control_port}\nWebUI\\LocalHostAuth=false\n\
         WebUI\\UseUPnP=false\n",
        addr = job.addr,
        port = job.port,
        control = job.control.ip(),
        control_port = job.control.port(),
    );
    fs::write(config.join("qBittorrent.conf"), settings).expect("write qBittorrent's settings");
    let mut command = Command::new("qbittorrent-nox");
    command
        .arg(format!("--profile={}", job.home.display()))
        .env("HOME", &job.home);
    let mut qbittorrent = Process::spawn("qbittorrent", &mut command, &job.home.join("log"));

    wait_for("qBittorrent's web interface answers", within(30), || {
        qbittorrent.assert_running();
        http::get(job.control, "/api/v2/app/version")
            .ok()
            .filter(|response| response.status == 200)
    });
    for download in &job.downloads {
        let torrent = fs::read(&download.torrent.path).expect("read a .torrent");
        let form = form(&download.save.display().to_string(), &torrent);
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let headers = [("Content-Type", kind.as_str())];
        let response = http::request(job.control, "POST", "/api/v2/torrents/add", &headers, &form);
        let response = response.expect("add a torrent to qBittorrent");
        assert_eq!((response.status, response.text().as_str()), (200, "Ok."));
    }
    qbittorrent
}

pub fn seed(job: &Job) -> Process {
    start(job)
}

pub fn download(job: &Job) {
    let mut qbittorrent = start(job);
    wait_for("qBittorrent has everything", job.deadline, || {
        qbittorrent.assert_running();
        let response = http::get(job.control, "/api/v2/torrents/info").ok()?;
        let torrents: Vec<Value> = serde_json::from_slice(&response.body).ok()?;
        let done = |torrent: &Value| torrent["progress"] == 1.0 && torrent["state"].as_str().is_some_and(is_seeding);
        (torrents.len() == job.downloads.len() && torrents.iter().all(done)).then_some(())
    });
    http::request(job.control, "POST", "/api/v2/app/shutdown", &[], b"").expect("end qBittorrent");
    qbittorrent.wait_success(within(30));
}

fn is_seeding(state: &str) -> bool {
    matches!(state, "uploading" | "stalledUP" | "forcedUP" | "queuedUP")
}

fn form(save: &str, torrent: &[u8]) -> Vec<u8> {
    let field = |name: &str, value: &str| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let file = "Content-Disposition: form-data; name=\"torrents\"; filename=\"t.torrent\"\r\n\
                Content-Type: application/x-bittorrent";
    let head = format!(
        "{}{}--{BOUNDARY}\r\n{file}\r\n\r\n",
        field("savepath", save),
        field("autoTMM", "false")
    );
    [head.as_bytes(), torrent, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat()
}
