//! Whatever a connection sends, each response is whole, says its length, and has a well-formed body; a request that comes in
//! two pieces is answered as if it had come in one.

#![no_main]

use std::net::SocketAddr;
use std::time::Instant;

use btd_fuzz::proto::bencode::{Limits, scan};
use btd_fuzz::tracker::{Access, HostnameRule, Http, REQUEST_LEN_MAX, Settings, Tracker};
use libfuzzer_sys::fuzz_target;

fn tracker(now: Instant) -> Tracker {
    let settings = Settings {
        hostname_allow: HostnameRule::new([".internal", "client1"]).expect("a rule"),
        trust_ip: true,
        ..Settings::default()
    };
    let tracker = Tracker::new(settings, [1; 32], now);
    tracker.set_access(Access::default());
    tracker
}

fuzz_target!(|input: &[u8]| {
    let now = Instant::now();
    let from = SocketAddr::from(([10, 0, 0, 1], 1000));
    let (whole, torn) = (tracker(now), tracker(now));
    let (mut whole_worker, mut torn_worker) = (whole.worker(1), torn.worker(1));
    let mut rest = input;
    loop {
        let mut reply = Vec::new();
        match whole.on_http(&mut whole_worker, from, rest, now, &mut reply) {
            Http::Incomplete => {
                assert!(reply.is_empty() && rest.len() < REQUEST_LEN_MAX);
                break;
            }
            Http::Answered { consumed, keep_alive } => {
                assert!((1..=rest.len()).contains(&consumed));
                check(&reply, keep_alive);
                // A part of a request is waited for, or already known to be none.
                let mut early = Vec::new();
                match torn.on_http(&mut torn_worker, from, &rest[..consumed / 2], now, &mut early) {
                    Http::Incomplete => {
                        torn.on_http(&mut torn_worker, from, &rest[..consumed], now, &mut early);
                        assert_eq!(early, reply);
                    }
                    Http::Answered { keep_alive, .. } => assert!(!keep_alive),
                }
                if !keep_alive {
                    break;
                }
                rest = &rest[consumed..];
            }
        }
    }
});

fn check(reply: &[u8], keep_alive: bool) {
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = std::str::from_utf8(&reply[..end]).expect("a head in ASCII");
    let body = &reply[end..];
    let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    assert_eq!(len.map(str::parse), Some(Ok(body.len())));
    assert_eq!(head.contains("\r\nConnection: close\r\n"), !keep_alive);
    if !body.starts_with(b"btd tracker") {
        let scanned = scan(body, Limits::METAINFO).expect("bencode");
        assert!(scanned.unsorted_at.is_none());
    }
}
