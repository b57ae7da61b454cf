//! A datagram from who has proven nothing has a reply no longer than itself; the tracker's counts stay what was announced.

#![no_main]

use std::net::SocketAddr;
use std::time::Instant;

use btd_fuzz::tracker::{HostnameRule, Settings, Tracker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let settings = Settings {
        hostname_allow: HostnameRule::new([".internal", "client1"]).expect("a rule"),
        trust_ip: true,
        ..Settings::default()
    };
    let now = Instant::now();
    let tracker = Tracker::new(settings, [1; 32], now);
    let mut worker = tracker.worker(1);
    let from = SocketAddr::from(([10, 0, 0, 1], 1000));
    let mut reply = Vec::new();
    tracker.on_datagram(&mut worker, from, input, now, &mut reply);
    assert!(reply.len() <= input.len());
    assert_eq!(tracker.totals().swarms, 0, "an id was guessed");

    // The same with a good connection id.
    if input.len() < 12 {
        return;
    }
    let connect = [&0x417_2710_1980_u64.to_be_bytes()[..], &[0; 8]].concat();
    tracker.on_datagram(&mut worker, from, &connect, now, &mut reply);
    let mut proven = reply[8..].to_vec();
    proven.extend_from_slice(&input[8..]);
    for _ in 0..2 {
        tracker.on_datagram(&mut worker, from, &proven, now, &mut reply);
        assert!(reply.len() <= 1232);
    }
    let totals = tracker.totals();
    assert!(totals.swarms <= 1 && totals.peers_v4 + totals.peers_v6 <= 1 && totals.named <= 1);
});
