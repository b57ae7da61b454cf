//! What the session database says of trackers is what was written, or nothing.

#![no_main]

use btd_fuzz::announced::{TRACKERS_MAX, decode};
use btd_fuzz::announced_again;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(trackers) = decode(input) {
        assert!(trackers.len() <= TRACKERS_MAX);
        assert_eq!(announced_again(&trackers), input);
    }
});
