//! A btd that is a tracker with a shared store, and what can be asked of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use super::btd::{Btd, Config};
use super::{http, wait_for, within};

pub const HASH: [u8; 20] = [0xa1; 20];
pub const OTHER: [u8; 20] = [0xb2; 20];
pub const THIRD: [u8; 20] = [0xc3; 20];

pub fn config(store: &str, more: &str) -> Config {
    Config {
        more: format!(
            "[tracker]\nhttp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\nhostname-allow = [\".internal\"]\ntrust-ip = true\n\
             store = \"{store}\"\n{more}"
        ),
        ..Config::default()
    }
}

pub fn start(home: &Path, store: &str) -> Btd {
    let btd = Btd::start(home, &config(store, ""));
    wait_up(&btd, true);
    btd
}

pub fn wait_up(btd: &Btd, is: bool) {
    let what = format!("the store is {}", if is { "up" } else { "away" });
    wait_for(&what, within(20), || {
        (btd.metric("btd_tracker_store_up") == f64::from(u8::from(is))).then_some(())
    });
}

pub fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn key(hash: &[u8; 20]) -> Vec<u8> {
    format!("btd:swarm:{}", hex(hash)).into_bytes()
}

/// The body of the answer to an announce from 127.0.0.`host`.
pub fn announce(to: &Btd, hash: &[u8; 20], host: u8, port: u16, more: &str) -> Vec<u8> {
    let path = format!(
        "/announce?info_hash={}&peer_id=-XX0000-{port:0>12}&port={port}{more}",
        escaped(hash)
    );
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
    let response = http::get_from(from, tracker(to), &path).expect("announce");
    let text = response.text();
    assert!(!text.contains("failure reason"), "{text}");
    response.body
}

pub fn tracker(btd: &Btd) -> SocketAddr {
    btd.tracker_http.expect("HTTP")
}

pub fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// Seeders, leechers and completions, as a scrape says.
pub fn counts(of: &Btd, hash: &[u8; 20]) -> [u32; 3] {
    let path = format!("/scrape?info_hash={}", escaped(hash));
    let text = http::get(tracker(of), &path).expect("scrape").text();
    let count = |name: &str| -> u32 {
        let rest = text.split_once(&format!("{name}i")).map(|(_, rest)| rest);
        let number = rest.and_then(|rest| rest.split_once('e')).map(|(number, _)| number);
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{text}"))
    };
    [count("8:complete"), count("10:incomplete"), count("10:downloaded")]
}

/// Waits until a tracker counts so many, which must not take longer than `time`.
#[track_caller]
pub fn counts_within(time: Duration, of: &Btd, hash: &[u8; 20], expected: [u32; 3]) {
    let begun = Instant::now();
    loop {
        let counted = counts(of, hash);
        if counted == expected {
            return;
        }
        assert!(
            begun.elapsed() < time,
            "{counted:?} and not {expected:?} after {time:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How often a text is in btd's log.
pub fn logged(btd: &Btd, text: &str) -> usize {
    btd.process.log().matches(text).count()
}
