//! A btd that seeds a payload, and others that download it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use btd::proto::InfoHash;
use btd::proto::metainfo::Metainfo;

use super::btd::{Btd, Config};
use super::payload::Payload;
use super::scratch::Scratch;
use super::torrent::Torrent;
use super::{wait_for, within};

/// For one download, with a debug build, on a busy machine.
pub const SECONDS: u64 = 120;

/// With so many shards a shard's part of the least write buffer there is, 2 MiB, is too small for four pieces of 1 MiB: they are
/// written as they come.
pub const EARLY_SHARDS: u32 = 8;

/// The configuration for it.
pub const EARLY: &str = "[storage]\nwrite-buffer = \"16 MiB\"\ncache-size = \"64 MiB\"\n";

/// Nested folders, files that share pieces, empty ones, and a last piece that is short.
pub fn files() -> Vec<(String, u64)> {
    let files = [
        ("a/first.bin", 5_000_001),
        ("a/b/c/deep.bin", 70_000),
        ("a/b/empty.txt", 0),
        ("a/b/tiny.txt", 1),
        ("second one, with spaces.bin", 9_437_184),
        ("z/last.bin", 1_234_567),
    ];
    files.map(|(path, len)| (format!("folder/{path}"), len)).to_vec()
}

/// A payload, its torrent, and a btd that seeds it.
pub struct Source {
    pub scratch: Scratch,
    pub payload: Payload,
    pub torrent: Torrent,
    pub btd: Btd,
}

impl Source {
    pub fn start(name: &str, files: &[(String, u64)], piece_len: u32) -> Source {
        Source::start_with(name, files, piece_len, "")
    }

    pub fn start_with(name: &str, files: &[(String, u64)], piece_len: u32, more: &str) -> Source {
        Source::of(name, files, more, |payload, path| {
            Torrent::create(&payload.path(), piece_len, path)
        })
    }

    /// The same of a torrent that is made by the test, under this path.
    pub fn of(
        name: &str,
        files: &[(String, u64)],
        more: &str,
        torrent: impl FnOnce(&Payload, PathBuf) -> Torrent,
    ) -> Source {
        let scratch = Scratch::new(name);
        let (data, watch) = (scratch.dir("seed-data"), scratch.dir("seed-watch"));
        let payload = Payload::make(&data, "folder", 5, files);
        let torrent = torrent(&payload, watch.join("t.torrent"));
        let config = Config {
            shards: 1,
            watch: vec![(watch, data)],
            more: more.to_owned(),
            ..Config::default()
        };
        let btd = Btd::start(&scratch.dir("seed"), &config);
        btd.wait_seeding(1);
        Source {
            scratch,
            payload,
            torrent,
            btd,
        }
    }
}

/// A btd that downloads into a folder of its own.
pub struct Leech {
    pub home: PathBuf,
    pub data: PathBuf,
    pub config: Config,
    pub btd: Btd,
}

impl Leech {
    pub fn start(scratch: &Scratch, name: &str, torrent: &Torrent, config: Config) -> Leech {
        let data = scratch.dir(&format!("{name}/data"));
        Leech::start_in(data, scratch, name, torrent, config)
    }

    /// The same into a data folder that is elsewhere.
    pub fn start_in(data: PathBuf, scratch: &Scratch, name: &str, torrent: &Torrent, config: Config) -> Leech {
        let (home, watch) = (scratch.dir(name), scratch.dir(&format!("{name}/watch")));
        fs::copy(&torrent.path, watch.join("t.torrent")).expect("copy a torrent");
        let config = Config {
            watch: vec![(watch, data.clone())],
            ..config
        };
        let btd = Btd::start(&home, &config);
        Leech {
            home,
            data,
            config,
            btd,
        }
    }

    pub fn from(scratch: &Scratch, name: &str, torrent: &Torrent, peers: Vec<SocketAddr>) -> Leech {
        let config = Config {
            peers,
            ..Config::default()
        };
        Leech::start(scratch, name, torrent, config)
    }

    pub fn wait_complete(&self) {
        wait_for("btd has everything", within(SECONDS), || {
            (self.btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
    }

    /// Everything is there, right, and under its own name.
    pub fn check(&self, payload: &Payload) {
        self.wait_complete();
        payload.assert_same(&self.data, true);
    }
}

/// Shards publish their figures each second.
pub fn wait_for_metric(btd: &Btd, name: &str, is_so: impl Fn(f64) -> bool) {
    wait_for(name, within(10), || is_so(btd.metric(name)).then_some(()));
}

/// What `leech` has asked for comes, and nothing more is asked for: not when it has come, after which `meanwhile` has a look, and
/// not a second later. Gives how many bytes the seed has sent.
pub fn asks_for_nothing(seed: &Btd, leech: &Btd, meanwhile: impl FnOnce()) -> f64 {
    const TURNS: &str = "btd_loop_turns_total";
    wait_for_metric(leech, "btd_requests_under_way", |requests| requests == 0.0);
    // Told by the seed too, which publishes its figures once a second.
    let turns = seed.metric(TURNS);
    wait_for_metric(seed, TURNS, |now| now > turns);
    let given = seed.metric("btd_uploaded_bytes_total");
    meanwhile();
    let turns = seed.metric(TURNS);
    wait_for_metric(seed, TURNS, |now| now > turns + 1.0);
    let later = seed.metric("btd_uploaded_bytes_total");
    assert_eq!(later, given, "something was asked for");
    assert_eq!(leech.metric("btd_requests_under_way"), 0.0);
    given
}

pub fn metainfo(torrent: &Torrent) -> Metainfo {
    Metainfo::parse(&fs::read(&torrent.path).expect("read a torrent")).expect("a torrent of our own")
}

pub fn info_hash(torrent: &Torrent) -> InfoHash {
    metainfo(torrent).info_hash
}
