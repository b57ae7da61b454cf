//! Transmission 3.00, by its daemon's JSON remote control. Takes no peers in 127.0.0.0/8, and one peer of an
//! address.

use super::Job;
use crate::support::process::Process;
use crate::support::{http, wait_for, within};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

/// Starts it with the torrents, of which it checks what is there.
fn start(job: &Job) -> (Process, Control) {
    let settings = json!({
        "bind-address-ipv4": job.addr.to_string(),
        "bind-address-ipv6": "::1",
        "dht-enabled": false,
        "lpd-enabled": false,
        "pex-enabled": false,
        "peer-port": job.port,
        "port-forwarding-enabled": false,
        // With uTP, which btd does not speak, it waits ten seconds for the answer to each peer's first packet, then
        // drops its own first TCP connection, and comes back after minutes.
        "utp-enabled": false,
        "rpc-bind-address": job.control.ip().to_string(),
        "rpc-port": job.control.port(),
        "rpc-host-whitelist-enabled": false,
        "rpc-whitelist-enabled": false,
        "rpc-authentication-required": false,
        // Set to what it is by default: tries encryption first and falls back to plain.
        "encryption": 1,
    });
    fs::write(job.home.join("settings.json"), settings.to_string()).expect("write Transmission's settings");
    let mut command = Command::new("transmission-daemon");
    command
        .args(["--foreground", "--log-info", "--config-dir"])
        .arg(&job.home)
        .env("HOME", &job.home);
    let mut daemon = Process::spawn("transmission", &mut command, &job.home.join("log"));

    let mut control = Control::new(job.control);
    wait_for("Transmission's remote control answers", within(20), || {
        daemon.assert_running();
        control.call("session-get", &json!({}))
    });
    for download in &job.downloads {
        let arguments = json!({"filename": download.torrent.path, "download-dir": download.save, "paused": false});
        control
            .call("torrent-add", &arguments)
            .expect("add a torrent to Transmission");
    }
    (daemon, control)
}

pub fn seed(job: &Job) -> Process {
    start(job).0
}

pub fn download(job: &Job) {
    let (mut daemon, mut control) = start(job);
    // "Seeding" (6) comes after the last piece is written and the files have their final names.
    wait_for("Transmission has everything", job.deadline, || {
        daemon.assert_running();
        let answer = control.call(
            "torrent-get",
            &json!({"fields": ["status", "leftUntilDone", "errorString"]}),
        )?;
        let torrents = answer["torrents"].as_array()?;
        let done = |torrent: &Value| torrent["leftUntilDone"] == 0 && torrent["status"] == 6;
        (torrents.len() == job.downloads.len() && torrents.iter().all(done)).then_some(())
    });
    control.call("session-close", &json!({})).expect("end Transmission");
    daemon.wait_success(within(30));
}

/// Takes all torrents out of their swarms. Version 3.00 may end without telling its trackers; this way it tells them.
pub fn leave(control: SocketAddr) {
    Control::new(control)
        .call("torrent-stop", &json!({}))
        .expect("stop Transmission's torrents");
}

struct Control {
    addr: SocketAddr,
    session_id: String,
}

impl Control {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            session_id: String::new(),
        }
    }

    fn call(&mut self, method: &str, arguments: &Value) -> Option<Value> {
        let body = json!({"method": method, "arguments": arguments}).to_string();
        loop {
            let headers = [("X-Transmission-Session-Id", self.session_id.as_str())];
            let response = http::request(self.addr, "POST", "/transmission/rpc", &headers, body.as_bytes()).ok()?;
            // The first answer is always 409, with the id that the following calls must carry.
            if response.status == 409 {
                self.session_id = response.header("X-Transmission-Session-Id")?.to_owned();
                continue;
            }
            let answer: Value = serde_json::from_slice(&response.body).ok()?;
            assert_eq!(answer["result"], "success", "Transmission, {method}");
            return Some(answer["arguments"].clone());
        }
    }
}
