//! btds whose torrents have trackers.

use std::fs;
use std::path::PathBuf;

use super::btd::{Btd, Config};
use super::payload::Payload;
use super::scratch::Scratch;
use super::stub_tracker::StubTracker;
use super::torrent::Torrent;
use super::{wait_for, within};

pub const ALLOW: &str = "[announce]\nallow-private = true\n";
/// For one download, with a debug build, on a busy machine.
pub const SECONDS: u64 = 120;

/// A watch folder and a data folder with a payload.
pub struct Home {
    pub watch: PathBuf,
    pub data: PathBuf,
    pub payload: Payload,
    /// Without a tracker, and not in the watch folder.
    pub torrent: Torrent,
}

impl Home {
    pub fn new(scratch: &Scratch, name: &str, len: u64) -> Self {
        let (watch, data) = (
            scratch.dir(&format!("{name}/watch")),
            scratch.dir(&format!("{name}/data")),
        );
        let payload = Payload::make(&data, "payload.bin", len, &[("payload.bin".to_owned(), len)]);
        let torrent = Torrent::create(
            &payload.path(),
            64 << 10,
            scratch.path().join(format!("{name}.torrent")),
        );
        Self {
            watch,
            data,
            payload,
            torrent,
        }
    }

    /// Puts its torrent with this tracker into the watch folder.
    pub fn with_tracker(&self, url: &str) -> Torrent {
        self.torrent.with_tracker(url, self.watch.join("t.torrent"))
    }
}

pub fn config(homes: &[&Home], more: &str) -> Config {
    Config {
        shards: 1,
        watch: homes
            .iter()
            .map(|home| (home.watch.clone(), home.data.clone()))
            .collect(),
        more: more.to_owned(),
        ..Config::default()
    }
}

/// A btd with an empty data folder and this torrent.
pub fn leech(scratch: &Scratch, name: &str, torrent: &Torrent, config: Config) -> (Btd, PathBuf) {
    let (watch, data) = (
        scratch.dir(&format!("{name}/watch")),
        scratch.dir(&format!("{name}/data")),
    );
    fs::copy(&torrent.path, watch.join("t.torrent")).expect("copy a torrent");
    let config = Config {
        shards: 1,
        watch: vec![(watch, data.clone())],
        ..config
    };
    (Btd::start(&scratch.dir(name), &config), data)
}

pub fn wait_complete(btd: &Btd) {
    wait_for("btd has everything", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
    });
}

pub fn wait_announced(btd: &Btd) {
    wait_for("btd has announced", within(30), || {
        (btd.metric("btd_announces_total{result=\"ok\"}") >= 1.0).then_some(())
    });
}

pub fn wait_asked(stub: &StubTracker, event: &str) -> String {
    wait_for(&format!("a tracker hears {event}"), within(60), || {
        stub.with_event(event).pop()
    })
}
