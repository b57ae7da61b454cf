//! A btd that downloads a torrent to a disk that fails and another to one that does not.

use std::fs;
use std::path::{Path, PathBuf};

use super::btd::{Btd, Config};
use super::leech::{EARLY, EARLY_SHARDS, SECONDS, Source, files, metainfo};
use super::payload::Payload;
use super::torrent::Torrent;
use super::{wait_for, within};

/// See the module's page.
pub struct Ward {
    pub source: Source,
    /// Where the failing disk is mounted, or the folder that is to go.
    pub disk: PathBuf,
    pub sick: Payload,
    pub torrent: Torrent,
    pub well: PathBuf,
    pub config: Config,
    pub home: PathBuf,
}

impl Ward {
    /// The sick torrent is slow enough that it is not over before its disk fails.
    pub fn open(name: &str) -> Ward {
        Ward::of_pieces(name, 64 << 10)
    }

    /// The same, and the pieces of the sick one are so long that they are written as they come.
    pub fn open_early(name: &str) -> Ward {
        let mut ward = Ward::of_pieces(name, 1 << 20);
        ward.config.shards = EARLY_SHARDS;
        ward.config.more = EARLY.to_owned();
        ward
    }

    fn of_pieces(name: &str, piece_len: u32) -> Ward {
        let source = Source::start_with(
            name,
            &files(),
            64 << 10,
            "[limits]\nupload-rate-per-torrent = \"3 MB/s\"\n",
        );
        let scratch = &source.scratch;
        let sick_data = scratch.dir("sick-seed-data");
        let sick = Payload::make(&sick_data, "sick", 9, &[("sick".to_owned(), 12_000_000)]);
        let torrent = Torrent::create(&sick.path(), piece_len, scratch.path().join("sick.torrent"));
        let (disk, well) = (scratch.dir("disk"), scratch.dir("well"));
        let (sick_watch, well_watch) = (scratch.dir("sick-watch"), scratch.dir("well-watch"));
        fs::copy(&torrent.path, sick_watch.join("sick.torrent")).expect("copy a torrent");
        fs::copy(&source.torrent.path, well_watch.join("well.torrent")).expect("copy a torrent");
        // A second seed, of the sick one.
        let seed_watch = scratch.path().join("seed-watch");
        fs::copy(sick.path(), scratch.path().join("seed-data/sick")).expect("copy payload");
        fs::copy(&torrent.path, seed_watch.join("sick.torrent")).expect("copy a torrent");
        source.btd.wait_seeding(2);
        let config = Config {
            watch: vec![(sick_watch, disk.clone()), (well_watch, well.clone())],
            peers: vec![source.btd.peers],
            ..Config::default()
        };
        let home = scratch.dir("leech");
        Ward {
            disk,
            sick,
            torrent,
            well,
            config,
            home,
            source,
        }
    }

    /// Pieces of the sick torrent.
    pub fn pieces(&self) -> u32 {
        metainfo(&self.torrent).geometry.piece_count()
    }

    /// Starts btd, and waits until some of the sick torrent is written.
    pub fn start(&self) -> Btd {
        let btd = Btd::start(&self.home, &self.config);
        wait_for("something is written", within(SECONDS), || {
            let some = |file: &Path| fs::metadata(file).is_ok_and(|part| part.len() > 0);
            let is_there = some(&self.disk.join("sick.part"));
            (is_there && btd.metric("btd_pieces_written_total") >= 3.0).then_some(())
        });
        btd
    }

    /// Starts btd once more, after its end.
    pub fn start_again(&self) -> Btd {
        Btd::start(&self.home, &self.config)
    }

    /// The log says why the sick one stopped; the other is whole.
    pub fn stops_alone(&self, btd: &Btd, why: &str) {
        wait_for(&format!("the log says {why:?}"), within(SECONDS), || {
            let log = btd.process.log();
            let of_sick = |line: &str| line.contains("\"sick\"") && line.contains(why);
            log.lines().any(of_sick).then_some(())
        });
        wait_for("the other torrent is whole", within(SECONDS), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        self.source.payload.assert_same(&self.well, true);
    }

    /// Both are whole.
    pub fn recovers(&self, btd: Btd) {
        wait_for("the sick torrent is whole too", within(SECONDS), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") >= 2.0).then_some(())
        });
        self.sick.assert_same(&self.disk, true);
        btd.stop();
    }
}
