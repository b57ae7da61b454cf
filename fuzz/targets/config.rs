//! Any text of a configuration, with any value in the place of one of its keys, is read or refused with a place for each mistake;
//! what is read is within the bounds that are written down. The input is the text, and behind a NUL the variable's value.

#![no_main]

use std::ffi::OsString;
use std::path::Path;

use btd_fuzz::control::config::Config;
use libfuzzer_sys::fuzz_target;

const VARIABLES: [&str; 6] = [
    "BTD_STATE_DIR",
    "BTD_PEERS__LISTEN",
    "BTD_STORAGE__CACHE_SIZE",
    "BTD_LIMITS__UPLOAD_RATE",
    "BTD_TRACKER__STORE",
    "BTD_ANNOUNCE__TRACKERS",
];

fuzz_target!(|input: &str| {
    let (text, value) = input.split_once('\0').unwrap_or((input, ""));
    let which = text.len() % (VARIABLES.len() + 1);
    let variable = VARIABLES
        .get(which)
        .map(|name| (OsString::from(name), OsString::from(value)));
    match Config::parse(text, Path::new("/etc/btd/btd.toml"), variable) {
        Ok(config) => {
            assert!(!config.peers.listen.is_empty() && config.peers.max_connections > 0);
            assert!(
                config
                    .watch
                    .iter()
                    .all(|watch| watch.dir.is_absolute() && watch.data_dir.is_absolute())
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
