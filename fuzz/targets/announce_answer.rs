//! What trackers say over HTTP is read or refused, and what is taken of it is bounded.

#![no_main]

use btd_fuzz::announcer::answer::{self, NAMES_MAX, PEERS_MAX};
use btd_fuzz::announcer::text::TEXT_LEN_MAX;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let is_clean = |text: &str| !text.chars().any(char::is_control) && text.chars().count() <= TEXT_LEN_MAX + 100;
    match answer::parse(input) {
        Ok(answer) => {
            assert!(answer.peers.len() <= PEERS_MAX && answer.names.len() <= NAMES_MAX);
            assert!(answer.peers.iter().all(|peer| peer.port() != 0));
            assert!(answer.names.iter().all(|(name, port)| *port != 0 && is_clean(name)));
            assert!(answer.warning.as_deref().is_none_or(is_clean));
        }
        Err(failure) => assert!(is_clean(&failure.to_string())),
    }
});
