//! Datagrams of trackers are read or refused.

#![no_main]

use btd_fuzz::announcer::answer::PEERS_MAX;
use btd_fuzz::announcer::scrape;
use btd_fuzz::announcer::udp::{self, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match udp::read(input) {
        Some((_, Reply::Announce(body))) => {
            for from in ["1.1.1.1:1", "[2001:db8::1]:1"] {
                if let Ok(answer) = udp::read_announce(body, from.parse().expect("an address")) {
                    assert!(answer.peers.len() <= PEERS_MAX);
                }
            }
        }
        Some((_, Reply::Scrape(body))) => {
            for count in [1, 2, scrape::UDP_MAX] {
                assert!(
                    scrape::read(body, count).is_ok_and(|swarms| swarms.len() == count) || body.len() != 12 * count
                );
            }
        }
        Some((_, Reply::Error(text))) => assert!(!udp::read_error(text).to_string().chars().any(char::is_control)),
        Some((_, Reply::Connection(_))) | None => {}
    }
});
