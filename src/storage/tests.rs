//! What a check says of payload in every state that payload is found in.

mod changing;
mod known;
mod names;
mod reading;
mod reread;
mod strangers;

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::hashing::pool::Waiting;
use crate::hashing::pool::tests::occupy;
use crate::hashing::{Pool, PoolConfig, sha1};
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;
use crate::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
use crate::proto::path::RelPath;
use crate::session::{FileStamp, Record};
use proptest::prelude::*;
use tempfile::TempDir;

/// A torrent named `t` with its payload on disk.
struct Fixture {
    temp: TempDir,
    metainfo: Metainfo,
    pool: Pool,
}

/// Files: their path in the torrent, their length, and whether they are padding.
fn fixture(piece_len: u32, files: &[(&str, usize, bool)]) -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let mut payload = Vec::new();
    let mut new_files = Vec::new();
    for &(path, len, pad) in files {
        let from = payload.len();
        // Differs in every byte position and file, so that no shifted read can pass.
        payload.extend((from..from + len).map(|at| if pad { 0 } else { (at * 31 + at / 251) as u8 }));
        if !pad {
            let on_disk = temp.path().join("t").join(path);
            std::fs::create_dir_all(on_disk.parent().unwrap()).unwrap();
            std::fs::write(&on_disk, &payload[from..]).unwrap();
            age(&on_disk);
        }
        new_files.push(NewFile {
            path: RelPath::parse(path).unwrap(),
            len: len as u64,
            pad,
        });
    }
    let piece_hashes: Vec<[u8; 20]> = payload.chunks(piece_len as usize).map(sha1).collect();
    let torrent = encode(&NewTorrent::new(
        "t",
        NewContent::Folder(&new_files),
        piece_len,
        &piece_hashes,
    ));
    let pool = Pool::start(PoolConfig {
        workers: 2,
        queue_max: 4,
        nice: 10,
        idle: false,
        gather: None,
    })
    .unwrap();
    Fixture {
        temp,
        metainfo: Metainfo::parse(&torrent).unwrap(),
        pool,
    }
}

impl Fixture {
    fn check(&self) -> CheckReport {
        let progress = Progress::default();
        let report = self.check_with(&progress).unwrap();
        assert_eq!(progress.bytes_done(), self.metainfo.geometry.total_len());
        report
    }

    fn check_with(&self, progress: &Progress) -> Result<CheckReport, Error> {
        let root = Root::open(self.temp.path()).unwrap();
        let throttle = Throttle::default();
        check(&self.metainfo, &root, self.means(&throttle), progress, None)
    }

    fn means<'a>(&'a self, throttle: &'a Throttle) -> Means<'a> {
        Means {
            pool: &self.pool,
            throttle,
            seeks: false,
        }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.temp.path().join("t").join(file)
    }

    fn set_len(&self, file: &str, len: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(self.path(file)).unwrap();
        file.set_len(len).unwrap();
    }

    fn flip(&self, file: &str, at: usize) {
        let mut bytes = std::fs::read(self.path(file)).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(self.path(file), bytes).unwrap();
    }
}

/// Makes a file look as if it had not been changed within the last hour: stamps of younger ones are not relied on.
fn age(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    file.set_modified(hour_ago).unwrap();
}

fn indexes(pieces: &crate::proto::bitfield::Bitfield) -> Vec<u32> {
    let has = |index: &u32| pieces.as_bytes()[*index as usize / 8] & (0x80 >> (index % 8)) != 0;
    (0..pieces.piece_count()).filter(has).collect()
}

#[test]
fn payload_as_it_should_be_is_whole() {
    let files = [
        ("a", 5000, false),
        ("d/empty", 0, false),
        ("d/b", 1, false),
        ("z ü", 70_001, false),
    ];
    for piece_len in [1024, 1500, 16 << 10, 1 << 20] {
        let fixture = fixture(piece_len, &files);
        let report = fixture.check();
        assert!(report.is_whole(), "pieces of {piece_len}: {report:?}");
        assert_eq!(
            (report.have.count(), report.absent_count()),
            (fixture.metainfo.geometry.piece_count(), 0)
        );
        assert_eq!(fixture.pool.stats().bytes, 75_002);
    }
}

#[test]
fn pieces_longer_than_a_read_are_hashed_in_parts() {
    let fixture = fixture(2_500_000, &[("a", 4_000_000, false), ("b", 7_000_001, false)]);
    assert!(fixture.check().is_whole());
    fixture.flip("b", 6_999_999);
    let report = fixture.check();
    assert_eq!(
        (indexes(&report.have), indexes(&report.wrong)),
        (vec![0, 1, 2, 3], vec![4])
    );
    fixture.set_len("b", 6_000_001);
    let report = fixture.check();
    assert_eq!(
        (indexes(&report.have), indexes(&report.wrong)),
        (vec![0, 1, 2, 3], vec![])
    );
}

#[test]
fn a_flipped_bit_costs_its_piece_and_no_other() {
    let fixture = fixture(1024, &[("a", 3000, false), ("b", 3000, false)]);
    fixture.flip("b", 100);
    let report = fixture.check();
    assert_eq!(
        (indexes(&report.have), indexes(&report.wrong)),
        (vec![0, 1, 2, 4, 5], vec![3])
    );
    assert!(report.files.iter().all(FileState::is_ok) && !report.is_whole());
}

#[test]
fn pieces_that_touch_a_missing_file_are_neither_had_nor_read() {
    let fixture = fixture(1024, &[("a", 2048, false), ("b", 3000, false), ("c", 5000, false)]);
    std::fs::remove_file(fixture.path("b")).unwrap();
    let report = fixture.check();
    assert_eq!(indexes(&report.have), [0, 1, 5, 6, 7, 8, 9]);
    assert_eq!(report.absent_count(), 3);
    assert_eq!(report.files, [FileState::Ok, FileState::Missing, FileState::Ok]);
    assert_eq!(fixture.pool.stats().bytes, 10_048 - 3 * 1024);
}

#[test]
fn nothing_at_all_is_nothing_read() {
    let fixture = fixture(1024, &[("a", 2048, false), ("b", 3000, false)]);
    std::fs::remove_dir_all(fixture.path("")).unwrap();
    let report = fixture.check();
    assert!(report.have.is_empty());
    assert_eq!(report.files, [FileState::Missing, FileState::Missing]);
    assert_eq!(fixture.pool.stats().jobs, 0);
}

#[test]
fn a_file_that_ends_too_early_keeps_the_pieces_before_its_end() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 1000, false)]);
    fixture.set_len("a", 3000);
    let report = fixture.check();
    assert_eq!(indexes(&report.have), [0, 1, 5]);
    assert_eq!(report.files[0], FileState::Shorter { have: 3000, want: 5000 });
}

#[test]
fn a_file_that_is_too_long_costs_no_piece_but_is_told() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 1000, false)]);
    fixture.set_len("a", 6000);
    let report = fixture.check();
    assert!(report.have.is_full() && !report.is_whole());
    assert_eq!(report.files[0], FileState::Longer { have: 6000, want: 5000 });
}

#[test]
fn an_empty_file_that_is_missing_costs_no_piece_but_is_told() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 0, false)]);
    std::fs::remove_file(fixture.path("b")).unwrap();
    let report = fixture.check();
    assert!(report.have.is_full() && !report.is_whole());
    assert_eq!(report.files[1], FileState::Missing);
}

#[test]
fn what_is_no_regular_file_is_not_read() {
    let fixture = fixture(1024, &[("a", 1024, false), ("b", 1024, false), ("c", 1024, false)]);
    for file in ["a", "b"] {
        std::fs::remove_file(fixture.path(file)).unwrap();
    }
    std::fs::create_dir(fixture.path("a")).unwrap();
    std::os::unix::fs::symlink("c", fixture.path("b")).unwrap();
    let report = fixture.check();
    assert_eq!(indexes(&report.have), [2]);
    assert_eq!(
        report.files[0],
        FileState::NotRegular(OpenError::NotRegular("a folder"))
    );
    assert_eq!(report.files[1], FileState::NotRegular(OpenError::SymbolicLink));
}

#[test]
fn padding_is_zeros_and_never_on_disk() {
    let fixture = fixture(1024, &[("a", 1000, false), (".pad/24", 24, true), ("b", 1000, false)]);
    assert!(!fixture.path(".pad").exists());
    let report = fixture.check();
    assert!(report.is_whole(), "{report:?}");
}

#[test]
fn a_check_that_was_cancelled_ends_before_the_first_read() {
    let fixture = fixture(1024, &[("a", 5000, false)]);
    let progress = Progress::default();
    progress.cancel();
    assert_eq!(fixture.check_with(&progress).unwrap_err(), Error::Cancelled);
    assert_eq!(fixture.pool.stats().jobs, 0);
}

#[test]
fn a_check_is_cancelled_also_while_the_pool_does_not_get_to_it() {
    let mut fixture = fixture(1024, &[("a", 100_000, false)]);
    fixture.pool = Pool::start(PoolConfig {
        workers: 1,
        queue_max: 2,
        nice: 10,
        idle: false,
        gather: None,
    })
    .unwrap();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    occupy(&fixture.pool, &gate);
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let check = scope.spawn(|| fixture.check_with(&progress));
        progress.cancel();
        // Would wait for ever if the check did, for the gate is opened after it.
        assert_eq!(check.join().unwrap().unwrap_err(), Error::Cancelled);
        drop(closed);
    });
}

#[test]
fn a_check_ends_when_the_pool_stops() {
    let fixture = fixture(1024, &[("a", 5000, false)]);
    fixture.pool.stop(Waiting::Drop);
    assert_eq!(
        fixture.check_with(&Progress::default()).unwrap_err(),
        Error::PoolStopped
    );
}

#[test]
fn digests_are_those_of_the_torrent_and_a_changed_file_is_an_error() {
    for piece_len in [1024, 2_000_000] {
        let fixture = fixture(piece_len, &[("a", 5000, false), ("b", 3_000_000, false)]);
        let root = Root::open(fixture.temp.path()).unwrap();
        let Metainfo {
            files,
            geometry,
            piece_hashes,
            ..
        } = &fixture.metainfo;
        let throttle = Throttle::default();
        let run = || digest::digests(&root, files, geometry, fixture.means(&throttle), &Progress::default());
        assert_eq!(run().unwrap(), piece_hashes.as_slice());
        fixture.set_len("b", 2_999_999);
        let state = FileState::Shorter {
            have: 2_999_999,
            want: 3_000_000,
        };
        assert_eq!(run().unwrap_err(), digest::Error::File { file: 1, state });
        fixture.set_len("b", 3_000_001);
        assert!(run().is_err());
    }
}

/// The naive way: all of the payload in memory, missing bytes unknown.
fn expected(metainfo: &Metainfo, dir: &Path) -> Vec<u32> {
    let mut payload: Vec<Option<u8>> = Vec::new();
    for file in &metainfo.files {
        let mut bytes = std::fs::read(dir.join(file.path.as_path())).unwrap_or_default();
        if file.pad {
            bytes = vec![0; file.len as usize];
        }
        let mut bytes: Vec<Option<u8>> = bytes.into_iter().map(Some).collect();
        bytes.resize(file.len as usize, None);
        payload.extend(bytes);
    }
    let good = |piece: &PieceIndex| {
        let from = metainfo.geometry.piece_offset(*piece) as usize;
        let bytes = &payload[from..from + metainfo.geometry.piece_len(*piece) as usize];
        let bytes: Option<Vec<u8>> = bytes.iter().copied().collect();
        bytes.is_some_and(|bytes| sha1(&bytes) == *metainfo.piece_hashes.get(*piece))
    };
    metainfo.geometry.pieces().filter(good).map(PieceIndex::get).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_check_agrees_with_the_naive_way_whatever_was_done_to_the_files(
        piece_len in prop_oneof![Just(1024u32), 1024u32..5000],
        lens in proptest::collection::vec((0usize..6000, proptest::bool::weighted(0.1)), 1..12),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<prop::sample::Index>()), 0..4),
    ) {
        let names: Vec<String> = (0..lens.len()).map(|index| format!("d{}/f{index}", index % 3)).collect();
        // All padding together is shorter than a piece, as each run of it has to be.
        let pad_count = lens.iter().filter(|(_, pad)| *pad).count();
        let len_of = |(len, pad): (usize, bool)| if pad { len % (piece_len as usize / pad_count) } else { len };
        let files: Vec<_> = names.iter().zip(&lens).map(|(name, &file)| (name.as_str(), len_of(file), file.1)).collect();
        prop_assume!(files.iter().any(|file| file.1 > 0));
        let fixture = fixture(piece_len, &files);
        for (file, kind, at) in damage {
            let (name, len, pad) = files[file.index(files.len())];
            if pad || len == 0 || !fixture.path(name).exists() {
                continue;
            }
            match kind {
                0 => std::fs::remove_file(fixture.path(name)).unwrap(),
                1 => fixture.set_len(name, at.index(len) as u64),
                2 => fixture.set_len(name, (len + 1 + at.index(100)) as u64),
                _ => {
                    let len = std::fs::metadata(fixture.path(name)).unwrap().len() as usize;
                    if len > 0 {
                        fixture.flip(name, at.index(len));
                    }
                }
            }
        }
        let report = fixture.check();
        prop_assert_eq!(indexes(&report.have), expected(&fixture.metainfo, fixture.temp.path()));
    }
}

/// A check for which nothing may be read.
fn check_bare(fixture: &Fixture, throttle: &Throttle) -> Result<CheckReport, Error> {
    let root = Root::open(fixture.temp.path()).unwrap();
    let memory = Memory {
        known: None,
        unread: Unread::Now,
        doubted: None,
        only_bare: true,
        keep: &mut |_| (),
    };
    let means = fixture.means(throttle);
    check(&fixture.metainfo, &root, means, &Progress::default(), Some(memory))
}

#[test]
fn where_nothing_is_there_a_check_waits_for_no_pause_to_end() {
    let fixture = fixture(1 << 20, &[("a", 3 << 20, false), ("b", 5, false)]);
    let throttle = Throttle::default();
    throttle.pause();
    for name in ["a", "b"] {
        std::fs::remove_file(fixture.path(name)).unwrap();
    }
    let progress = Progress::default();
    let report = check_knowing(&fixture, &throttle, None, &progress).0.unwrap();
    assert!(report.have.is_empty() && report.wrong.is_empty());
    assert_eq!(progress.bytes_done(), fixture.metainfo.geometry.total_len());
    assert!(check_bare(&fixture, &throttle).unwrap().have.is_empty());
}

#[test]
fn check_for_which_nothing_may_be_read_ends_at_once_if_anything_is_there() {
    let fixture = fixture(16384, &[("a", 16384, false), ("b", 16384, false)]);
    let throttle = Throttle::default();
    std::fs::remove_file(fixture.path("a")).unwrap();
    assert_eq!(check_bare(&fixture, &throttle).unwrap_err(), Error::NotBare);
    // Under the name of what is not complete, too short to be read, or what is no file.
    std::fs::rename(fixture.path("b"), fixture.path("b.part")).unwrap();
    assert_eq!(check_bare(&fixture, &throttle).unwrap_err(), Error::NotBare);
    fixture.set_len("b.part", 3);
    assert_eq!(check_bare(&fixture, &throttle).unwrap_err(), Error::NotBare);
    std::fs::remove_file(fixture.path("b.part")).unwrap();
    std::fs::create_dir(fixture.path("b")).unwrap();
    assert_eq!(check_bare(&fixture, &throttle).unwrap_err(), Error::NotBare);
    // Their folder alone is nothing.
    std::fs::remove_dir(fixture.path("b")).unwrap();
    assert!(check_bare(&fixture, &throttle).is_ok());

    // A piece of nothing but padding is no work for the disk, but to be hashed all the same.
    let fixture = self::fixture(16384, &[("a", 16384, false), ("pad", 7, true)]);
    std::fs::remove_file(fixture.path("a")).unwrap();
    assert_eq!(check_bare(&fixture, &throttle).unwrap_err(), Error::NotBare);
}

/// Checks with a memory; gives the report and every record that was kept.
fn check_knowing(
    fixture: &Fixture,
    throttle: &Throttle,
    known: Option<Record>,
    progress: &Progress,
) -> (Result<CheckReport, Error>, Vec<Record>) {
    check_believing(fixture, throttle, (known, Unread::Now, None), progress)
}

/// The same, with pieces that are not read now, and some that are in any case.
fn check_believing(
    fixture: &Fixture,
    throttle: &Throttle,
    (known, unread, doubted): (Option<Record>, Unread, Option<Bitfield>),
    progress: &Progress,
) -> (Result<CheckReport, Error>, Vec<Record>) {
    let root = Root::open(fixture.temp.path()).unwrap();
    let mut kept = Vec::new();
    let memory = Memory {
        known,
        unread,
        doubted,
        only_bare: false,
        keep: &mut |record| kept.push(record),
    };
    let result = check(
        &fixture.metainfo,
        &root,
        fixture.means(throttle),
        progress,
        Some(memory),
    );
    (result, kept)
}

#[test]
fn a_paused_check_goes_on_when_it_is_resumed() {
    let fixture = fixture(1 << 20, &[("a", 16 << 20, false)]);
    let (progress, throttle) = (Progress::default(), Throttle::default());
    throttle.pause();
    std::thread::scope(|scope| {
        let check = scope.spawn(|| check_knowing(&fixture, &throttle, None, &progress));
        // It has looked for leave to read, and nothing was read.
        throttle.wait_until_asked();
        assert_eq!((progress.bytes_done(), fixture.pool.stats().bytes), (0, 0));
        throttle.resume();
        assert!(check.join().unwrap().0.unwrap().is_whole());
    });
}

impl Fixture {
    /// Gives a file the name of what is not complete.
    fn part(&self, file: &str) -> std::path::PathBuf {
        let part = self.path(&format!("{file}{PART_SUFFIX}"));
        std::fs::rename(self.path(file), &part).unwrap();
        part
    }

    /// Makes the files of the torrent anew, as for a download.
    fn prepare(&self, preallocate: part::Preallocate) {
        std::fs::remove_dir_all(self.path("")).unwrap();
        let root = Root::open(self.temp.path()).unwrap();
        let names = PartNames::new(&self.metainfo.files);
        let options = part::Options {
            preallocate,
            part_names: true,
        };
        let seen = &mut self.check().seen;
        part::prepare(&root, &self.metainfo.files, &names, options, seen).unwrap();
    }
}
