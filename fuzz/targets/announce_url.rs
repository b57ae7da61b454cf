//! An address of a tracker can stand in a request and survives its text; a redirect stays one. The input is both, a line
//! each.

#![no_main]

use btd_fuzz::announcer::TrackerUrl;
use btd_fuzz::announcer::url::Scheme;
use libfuzzer_sys::fuzz_target;

fn check(url: &TrackerUrl) {
    let is_right = |byte: u8| (b'!'..=b'~').contains(&byte);
    assert!(url.target().starts_with('/') && url.target().bytes().all(is_right));
    assert!(url.authority().bytes().all(is_right) && url.port() != 0);
    let text = format!("{}://{}{}", url.scheme().name(), url.authority(), url.target());
    // What was escaped is longer than it was, and may be too long by then.
    assert!(TrackerUrl::parse(&text).is_ok_and(|again| again == *url) || text.len() > 2048);
}

fuzz_target!(|input: &str| {
    let (text, location) = input.split_once('\n').unwrap_or((input, ""));
    if let Ok(url) = TrackerUrl::parse(text) {
        check(&url);
        if let Ok(next) = url.join(location) {
            check(&next);
            assert_ne!(next.scheme(), Scheme::Udp);
        }
    }
});
