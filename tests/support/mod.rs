//! What whole-program tests share: a scratch folder, made-up payload, the real btd binary as a child process, a
//! tracker, and five other people's clients that download from it.
//!
//! A test file says `mod support;` and takes what it needs. Nothing here asserts anything about btd beyond "it
//! started" and "it stopped when asked"; the claims stand in the test files.
//!
//! Read on: [`btd`] (the daemon under test), [`private_net`] (why a test runs itself again in a network namespace),
//! [`client`] (how each client is driven).

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod announce;
pub mod aquatic;
pub mod btd;
pub mod cgroup;
pub mod claims;
pub mod client;
pub mod crowd;
pub mod ctl;
pub mod dns;
pub mod docker;
pub mod fault_fs;
pub mod http;
pub mod leech;
pub mod mount;
pub mod overlay;
pub mod package;
pub mod payload;
pub mod peer;
pub mod private_net;
pub mod process;
pub mod redis;
pub mod relays;
pub mod rogue;
pub mod scrape;
pub mod scratch;
pub mod scripted_store;
pub mod shared_tracker;
pub mod shims;
pub mod stub_tracker;
pub mod system;
pub mod torrent;
pub mod tracker;
pub mod ward;
pub mod webtorrent;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Looks again every few milliseconds until `look` gives something, and panics with `what` at `deadline`.
pub fn wait_for<T>(what: &str, deadline: Instant, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {:?} in vain: {what}",
            started.elapsed()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A deadline `seconds` from now.
pub fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Where the tests' own files lie: `tests/`.
pub fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Says that a test cannot run here, and why. Under `tests/run`, which installs everything, that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var_os("BTD_TEST_REQUIRE_CLIENTS").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
}

/// Says that this machine does not allow what a test needs, which nothing that is installed would change.
pub fn cannot(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Whether `program` is found in `PATH`.
pub fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Makes a file look as if it had not been changed within the last hour: times of younger ones are not relied on.
pub fn age(file: &Path) {
    set_modified(file, std::time::SystemTime::now() - Duration::from_secs(3600));
}

/// Changes a byte, as a disk does that goes bad: the file's times say nothing of it.
pub fn rot(file: &Path, at: usize) {
    let read = std::fs::metadata(file).and_then(|metadata| Ok((metadata.modified()?, std::fs::read(file)?)));
    let (modified, mut bytes) = read.unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
    set_modified(file, modified);
}

/// What touch(1) does.
pub fn touch(file: &Path) {
    set_modified(file, std::time::SystemTime::now());
}

fn set_modified(file: &Path, time: std::time::SystemTime) {
    let opened = std::fs::File::options().append(true).open(file);
    let set = opened.and_then(|file| file.set_modified(time));
    set.unwrap_or_else(|error| panic!("set the time of {}: {error}", file.display()));
}
