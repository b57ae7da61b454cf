//! A rule and a name: what is allowed is a host name, and is what an entry says.

#![no_main]

use btd_fuzz::tracker::hostname::{HOSTNAME_LEN_MAX, HostnameRule, is_hostname};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(at) = input.iter().position(|byte| *byte == 0) else {
        return;
    };
    let (entries, name) = (&input[..at], &input[at + 1..]);
    let Ok(entries) = std::str::from_utf8(entries) else {
        return;
    };
    let Ok(rule) = HostnameRule::new(entries.lines()) else {
        return;
    };
    if !rule.allows(name) {
        return;
    }
    assert!(is_hostname(name) && name.len() <= HOSTNAME_LEN_MAX);
    let name = std::str::from_utf8(name)
        .expect("a host name is ASCII")
        .to_ascii_lowercase();
    let said = entries.lines().map(str::to_ascii_lowercase).any(|entry| {
        if entry.starts_with('.') {
            name.ends_with(&entry) && name.len() > entry.len()
        } else {
            name == entry
        }
    });
    assert!(said, "{name:?} by {entries:?}");
    assert!(name.parse::<std::net::IpAddr>().is_err());
});
