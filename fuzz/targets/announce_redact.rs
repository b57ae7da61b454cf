//! No key of a tracker's address is told in that tracker's words, however they are put. The input is the key, and behind a line's
//! end what the tracker says.

#![no_main]

use btd_fuzz::announcer::{Failure, Retry, TrackerUrl, redacted_failure};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (key, words) = input.split_once('\n').unwrap_or((input, ""));
    // A word that every such address has is no key.
    if key.len() < 8 || key == "announce" || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return;
    }
    let Ok(url) = TrackerUrl::parse(&format!("http://tracker.example/{key}/announce")) else {
        return;
    };
    for said in [
        words.to_owned(),
        format!("{words}{key}{words}"),
        format!("{words} /{key}/announce {words}"),
    ] {
        let reason = said.into();
        let told = redacted_failure(
            &url,
            Failure::Refused {
                reason,
                retry: Retry::Unsaid,
            },
        )
        .to_string();
        assert!(!told.contains(key), "{told:?}");
    }
});
