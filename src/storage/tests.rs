//! What a check says of payload in every state that payload is found in.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::hashing::pool::Waiting;
use crate::hashing::pool::tests::occupy;
use crate::hashing::{Pool, PoolConfig, sha1};
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
    let torrent = encode(&NewTorrent {
        name: "t",
        content: NewContent::Folder(&new_files),
        piece_len,
        piece_hashes: &piece_hashes,
        private: false,
        source: None,
        announce: &[],
        url_list: &[],
        comment: None,
        created_by: None,
        creation_date: None,
    });
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
fn several_checks_share_one_pool() {
    let fixture = fixture(1024, &[("a", 300_000, false), ("b", 77_777, false)]);
    std::thread::scope(|scope| {
        let checks: Vec<_> = (0..4).map(|_| scope.spawn(|| fixture.check())).collect();
        for check in checks {
            assert!(check.join().unwrap().is_whole());
        }
    });
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

/// Checks with a memory; gives the report and every record that was kept.
fn check_knowing(
    fixture: &Fixture,
    throttle: &Throttle,
    known: Option<Record>,
    progress: &Progress,
) -> (Result<CheckReport, Error>, Vec<Record>) {
    let root = Root::open(fixture.temp.path()).unwrap();
    let mut kept = Vec::new();
    let memory = Memory {
        known,
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
fn what_is_known_of_unchanged_files_is_not_read_again() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 5000, false), ("c", 5000, false)]);
    fixture.flip("c", 4999);
    age(&fixture.path("c"));
    let (first, kept) = check_knowing(&fixture, &Throttle::default(), None, &Progress::default());
    let (first, record) = (first.unwrap(), kept.last().unwrap().clone());
    assert_eq!((first.known_count, record.judged), (0, 15));
    assert_eq!((record.have.count(), indexes(&record.wrong)), (14, vec![14]));

    let read_before = fixture.pool.stats().bytes;
    let progress = Progress::default();
    let (again, kept) = check_knowing(&fixture, &Throttle::default(), Some(record.clone()), &progress);
    let again = again.unwrap();
    assert_eq!((again.known_count, fixture.pool.stats().bytes), (15, read_before));
    assert_eq!((&again.have, &again.wrong), (&first.have, &first.wrong));
    assert_eq!(kept, std::slice::from_ref(&record));
    assert_eq!(progress.bytes_done(), 15_000);

    // As long as before, and no longer the same; its first piece is also the last of "a".
    fixture.flip("b", 2500);
    let file = std::fs::File::options().write(true).open(fixture.path("b")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let (changed, _) = check_knowing(&fixture, &Throttle::default(), Some(record), &Progress::default());
    let changed = changed.unwrap();
    assert_eq!(indexes(&changed.wrong), [7, 14]);
    assert_eq!(changed.known_count, 4 + 5, "pieces with no byte of the changed file");
}

#[test]
fn pieces_that_were_not_judged_are_read() {
    let fixture = fixture(1024, &[("a", 10_240, false)]);
    let (_, kept) = check_knowing(&fixture, &Throttle::default(), None, &Progress::default());
    let mut record = kept.last().unwrap().clone();
    record.have.clear(fixture.metainfo.geometry.piece_index(2).unwrap());
    let (report, _) = check_knowing(&fixture, &Throttle::default(), Some(record), &Progress::default());
    let report = report.unwrap();
    assert_eq!((report.known_count, report.have.is_full()), (9, true));
}

#[test]
fn a_check_that_was_cancelled_goes_on_from_where_it_stood() {
    let fixture = fixture(1 << 20, &[("a", 16 << 20, false)]);
    let progress = Progress::default();
    // The first piece is read at once, and the next in twelve days.
    let throttle = Throttle::new(Some(1), None);
    let (result, kept) = std::thread::scope(|scope| {
        let check = scope.spawn(|| check_knowing(&fixture, &throttle, None, &progress));
        while progress.bytes_done() < 1 << 20 {
            std::thread::yield_now();
        }
        progress.cancel();
        check.join().unwrap()
    });
    assert_eq!(result.unwrap_err(), Error::Cancelled);
    let record = kept.last().unwrap().clone();
    assert_eq!(record.judged, 1);
    let read_before = fixture.pool.stats().bytes;
    let (report, _) = check_knowing(&fixture, &Throttle::default(), Some(record), &Progress::default());
    let report = report.unwrap();
    assert_eq!((report.known_count, report.have.is_full()), (1, true));
    assert_eq!(fixture.pool.stats().bytes - read_before, 15 << 20);
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

/// Throws a file out of the page cache, so that it is read with `O_DIRECT` where there is such a thing.
fn chill(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn files_that_are_in_no_cache_and_begin_anywhere_are_read_right() {
    // Long ones, whose parts are read direct at a place of their own in the buffer, between short ones.
    let lens = [70_001, 1, 300_000, 4096, 65_536, 999, 1_500_003, 8192, 200_000];
    let names: Vec<String> = (0..lens.len()).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, usize, bool)> = names
        .iter()
        .zip(lens)
        .map(|(name, len)| (&**name, len, false))
        .collect();
    for piece_len in [1024, 40_000, 1 << 20, 2 << 20] {
        for seeks in [false, true] {
            let fixture = fixture(piece_len, &files);
            fixture.flip("f6", 1_400_000);
            names.iter().for_each(|name| chill(&fixture.path(name)));
            let root = Root::open(fixture.temp.path()).unwrap();
            let throttle = Throttle::default();
            let means = Means {
                seeks,
                ..fixture.means(&throttle)
            };
            let report = check(&fixture.metainfo, &root, means, &Progress::default(), None).unwrap();
            let flipped = lens[..6].iter().sum::<usize>() + 1_400_000;
            assert_eq!(
                indexes(&report.wrong),
                [flipped as u32 / piece_len],
                "pieces of {piece_len}"
            );
            assert_eq!(report.absent_count(), 0);
        }
    }
}

#[test]
fn pieces_that_come_from_the_disk_one_by_one_are_hashed_side_by_side() {
    // Each as long as what is read at once.
    let fixture = fixture(1 << 20, &[("f", 32 << 20, false)]);
    chill(&fixture.path("f"));
    let pool = Pool::start(PoolConfig {
        workers: 1,
        ..PoolConfig::default()
    })
    .unwrap();
    let (root, throttle) = (Root::open(fixture.temp.path()).unwrap(), Throttle::default());
    let means = Means {
        pool: &pool,
        ..fixture.means(&throttle)
    };
    let report = check(&fixture.metainfo, &root, means, &Progress::default(), None).unwrap();
    assert_eq!(report.have.count(), 32);
    let lanes = pool.lanes();
    pool.stop(Waiting::Finish);
    let work = pool.stats().workers[0].work;
    assert!(
        lanes == 1 || work.lane_blocks > 3 * work.single_blocks,
        "{lanes} lanes: {work:?}"
    );
}

/// Checks a torrent of one long file and stops in the middle of it, where `change` is made.
fn changed_in_the_middle(change: impl FnOnce(&Fixture, &Path)) -> CheckReport {
    let fixture = fixture(1 << 20, &[("a", 16 << 20, false), ("b", 1000, false)]);
    let (progress, throttle) = (Progress::default(), Throttle::new(Some(1), None));
    std::thread::scope(|scope| {
        let check = scope.spawn(|| check_knowing(&fixture, &throttle, None, &progress));
        while progress.bytes_done() < 1 << 20 {
            std::thread::yield_now();
        }
        change(&fixture, &fixture.path("a"));
        throttle.lift();
        check.join().unwrap().0.unwrap()
    })
}

#[test]
fn a_file_cut_off_while_it_is_checked_is_too_short_and_what_is_left_is_good() {
    for at in [12 << 20, 1 << 19] {
        let report = changed_in_the_middle(|fixture, _| fixture.set_len("a", at));
        assert_eq!(
            report.files[0],
            FileState::Shorter {
                have: at,
                want: 16 << 20
            }
        );
        let left = (at >> 20) as u32;
        // The other file is the last piece.
        assert_eq!(indexes(&report.have), (0..left).chain([16]).collect::<Vec<_>>());
        assert_eq!(report.wrong.count(), 0);
    }
}

#[test]
fn a_file_that_grows_while_it_is_checked_is_too_long_and_its_pieces_are_good() {
    let report = changed_in_the_middle(|fixture, _| fixture.set_len("a", 17 << 20));
    let (have, want) = (17 << 20, 16 << 20);
    assert_eq!(report.files[0], FileState::Longer { have, want });
    assert!(report.have.is_full());
}

#[test]
fn a_file_replaced_by_something_else_while_it_is_checked_is_not_there_any_more() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    type Replace = fn(&Path);
    let cases: [(Replace, FileState); 4] = [
        (|_| (), FileState::Missing),
        (
            |path| std::fs::create_dir(path).unwrap(),
            FileState::NotRegular(OpenError::NotRegular("a folder")),
        ),
        (
            |path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
            FileState::NotRegular(OpenError::NotRegular("a FIFO")),
        ),
        (
            |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
            FileState::NotRegular(OpenError::SymbolicLink),
        ),
    ];
    for (replace, state) in cases {
        let report = changed_in_the_middle(|_, path| {
            std::fs::remove_file(path).unwrap();
            replace(path);
        });
        assert_eq!(report.files, [state, FileState::Ok]);
        assert_eq!(indexes(&report.have), [16], "what was read of it before is gone");
        assert_eq!(report.absent_count(), 16);
    }
}

#[test]
fn a_file_overwritten_while_it_is_checked_has_wrong_pieces_and_no_crash() {
    let report = changed_in_the_middle(|_, path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4 << 20], 12 << 20).unwrap();
    });
    assert_eq!(indexes(&report.wrong), [12, 13, 14, 15]);
    assert_eq!(report.absent_count(), 0);
}

#[test]
fn a_file_cut_off_between_the_look_at_the_cache_and_the_copy_is_too_short() {
    let mut fixture = fixture(1 << 20, &[("a", 8 << 20, false)]);
    fixture.pool = Pool::start(PoolConfig {
        workers: 1,
        ..PoolConfig::default()
    })
    .unwrap();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    occupy(&fixture.pool, &gate);
    let (progress, throttle) = (Progress::default(), Throttle::default());
    let report = std::thread::scope(|scope| {
        let check = scope.spawn(|| check_knowing(&fixture, &throttle, None, &progress));
        // All of it is with the worker, or read, and nothing is hashed.
        while throttle.bytes_begun() < 8 << 20 {
            std::thread::yield_now();
        }
        fixture.set_len("a", (5 << 20) + 7);
        drop(closed);
        check.join().unwrap().0.unwrap()
    });
    let (have, want) = ((5 << 20) + 7, 8 << 20);
    assert_eq!(report.files[0], FileState::Shorter { have, want });
    assert_eq!(indexes(&report.have), [0, 1, 2, 3, 4]);
    assert_eq!(report.wrong.count(), 0);
}

#[test]
fn what_changes_while_it_is_checked_or_did_a_moment_ago_is_not_known_afterwards() {
    let fixture = fixture(
        1 << 20,
        &[("a", 16 << 20, false), ("b", 1000, false), ("c", 1000, false)],
    );
    fixture.flip("c", 0);
    fixture.flip("c", 0);
    let (progress, throttle) = (Progress::default(), Throttle::new(Some(1), None));
    let kept = std::thread::scope(|scope| {
        let check = scope.spawn(|| check_knowing(&fixture, &throttle, None, &progress));
        while progress.bytes_done() < 1 << 20 {
            std::thread::yield_now();
        }
        // The same bytes once more, which whoever read them before could not know.
        let bytes = std::fs::read(fixture.path("a")).unwrap();
        std::fs::write(fixture.path("a"), bytes).unwrap();
        throttle.lift();
        let (report, kept) = check.join().unwrap();
        assert!(report.unwrap().is_whole());
        kept
    });
    let stamped: Vec<bool> = kept.last().unwrap().files.iter().map(Option::is_some).collect();
    assert_eq!(stamped, [false, true, false]);
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
        part::prepare(&root, &self.metainfo.files, &names, options).unwrap();
    }
}

#[test]
fn a_file_that_is_not_complete_is_found_under_its_other_name() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 5000, false), ("c", 2000, false)]);
    let part = fixture.part("b");
    let report = fixture.check();
    assert_eq!(report.parts, [false, true, false]);
    assert_eq!(report.files, [FileState::Ok; 3]);
    assert!(report.have.is_full() && !report.is_whole());
    assert_eq!(
        indexes(&report.have_by_final_names(&fixture.metainfo)),
        [0, 1, 2, 3, 10, 11]
    );

    // Something of the right length under its own name is what counts, and anything else is not.
    std::fs::write(fixture.path("b"), [0; 5000]).unwrap();
    let report = fixture.check();
    assert_eq!(
        (report.parts[1], indexes(&report.wrong)),
        (false, vec![4, 5, 6, 7, 8, 9])
    );
    for len in [4999, 5001] {
        fixture.set_len("b", len);
        let report = fixture.check();
        assert!(report.parts[1] && report.have.is_full(), "{len} bytes");
    }
    std::fs::remove_file(fixture.path("b")).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&part)
        .unwrap()
        .set_len(2500)
        .unwrap();
    let report = fixture.check();
    let (have, want) = (2500, 5000);
    assert_eq!(report.files[1], FileState::Shorter { have, want });
    assert_eq!(indexes(&report.have), [0, 1, 2, 3, 4, 5, 6, 10, 11]);
}

#[test]
fn a_name_that_belongs_to_the_torrent_is_not_taken_for_another_file() {
    let fixture = fixture(1024, &[("x", 2048, false), ("x.part", 2048, false)]);
    assert!(fixture.check().is_whole());
    std::fs::remove_file(fixture.path("x")).unwrap();
    let report = fixture.check();
    assert_eq!(report.files, [FileState::Missing, FileState::Ok]);
    assert_eq!((indexes(&report.have), report.wrong.count()), (vec![2, 3], 0));
}

#[test]
fn files_that_become_a_torrent_have_the_names_they_have() {
    let fixture = fixture(1024, &[("a", 5000, false)]);
    fixture.part("a");
    let root = Root::open(fixture.temp.path()).unwrap();
    let Metainfo { files, geometry, .. } = &fixture.metainfo;
    let throttle = Throttle::default();
    let digests = digest::digests(&root, files, geometry, fixture.means(&throttle), &Progress::default());
    let state = FileState::Missing;
    assert_eq!(digests.unwrap_err(), digest::Error::File { file: 0, state });
}

#[test]
fn what_is_known_of_a_download_is_known_after_a_restart_and_after_it_is_finished() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 5000, false)]);
    let part = fixture.part("a");
    fixture.flip("a.part", 100);
    age(&part);
    let (first, kept) = check_knowing(&fixture, &Throttle::default(), None, &Progress::default());
    assert_eq!(indexes(&first.unwrap().wrong), [0]);
    let record = kept.last().unwrap().clone();
    let read_before = fixture.pool.stats().bytes;
    for finished in [false, true] {
        if finished {
            let root = Root::open(fixture.temp.path()).unwrap();
            let names = PartNames::new(&fixture.metainfo.files);
            let failed = part::finish(&root, &fixture.metainfo.files, &names, &[true, false], &[0]);
            assert_eq!(failed, []);
        }
        let (again, kept) = check_knowing(
            &fixture,
            &Throttle::default(),
            Some(record.clone()),
            &Progress::default(),
        );
        let again = again.unwrap();
        assert_eq!((again.known_count, again.parts), (10, vec![!finished, false]));
        assert_eq!(kept.last(), Some(&record));
        assert_eq!(fixture.pool.stats().bytes, read_before);
    }
}

/// As after a kill: the next one may come before anything is recorded but by the check.
#[test]
fn what_btd_was_writing_to_a_moment_ago_stays_known_though_it_is_too_young_for_a_stamp() {
    let fixture = fixture(1024, &[("a", 3072, false), ("b", 2048, false), ("c", 1024, false)]);
    // Piece 1 is wrong, and each file was changed just now.
    fixture.flip("a", 1500);
    for file in ["b", "c"] {
        fixture.flip(file, 0);
        fixture.flip(file, 0);
    }
    let mut have = crate::proto::bitfield::Bitfield::new(6);
    have.set(fixture.metainfo.geometry.piece_index(0).unwrap());
    let being_written = |len| Some(FileStamp::being_written(len));
    let record = Record {
        wrong: crate::proto::bitfield::Bitfield::new(6),
        have,
        judged: 6,
        // The second has another length than it had then.
        files: vec![being_written(3072), being_written(2047), None],
    };
    let check = |record: &Record| {
        let (report, kept) = check_knowing(
            &fixture,
            &Throttle::default(),
            Some(record.clone()),
            &Progress::default(),
        );
        (report.unwrap(), kept.last().unwrap().clone())
    };
    let (report, kept) = check(&record);
    assert_eq!((report.known_count, indexes(&report.wrong)), (1, vec![1]));
    assert_eq!(kept.files, [being_written(3072), None, None]);
    assert_eq!(
        (indexes(&kept.have), indexes(&kept.wrong)),
        (vec![0, 2, 3, 4, 5], vec![])
    );
    // What was found right then is not read again, and what was wrong is.
    let (report, kept_again) = check(&kept);
    assert_eq!((report.known_count, indexes(&report.wrong)), (2, vec![1]));
    assert_eq!(kept_again, kept);

    // Of a torrent of which nothing is missing the length does not tell enough.
    fixture.flip("a", 1500);
    let (report, whole) = check(&kept);
    assert_eq!((report.known_count, indexes(&report.wrong)), (2, vec![]));
    assert_eq!(whole.files, [None, None, None]);
}

#[test]
fn a_download_that_has_only_begun_is_not_read() {
    use std::os::unix::fs::FileExt;
    // Pieces of 64 KiB, as holes are of whole blocks.
    let piece_len = 64 << 10;
    let fixture = fixture(
        piece_len,
        &[("a", 10 << 16, false), ("b", 6 << 16, false), ("c", 5, false)],
    );
    let payload = std::fs::read(fixture.path("a")).unwrap();
    for preallocate in [part::Preallocate::Sparse, part::Preallocate::Full] {
        fixture.prepare(preallocate);
        let read_before = fixture.pool.stats().bytes;
        let report = fixture.check();
        assert_eq!((report.have.count(), report.wrong.count()), (0, 0));
        assert_eq!(report.parts, [true; 3]);
        assert_eq!(fixture.pool.stats().bytes, read_before, "{preallocate:?}");

        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(fixture.path("a.part"))
            .unwrap();
        // Two pieces, and a part of another.
        for (from, to) in [(1, 2), (5, 6)] {
            let (from, to) = (from << 16, to << 16);
            file.write_all_at(&payload[from..to], from as u64).unwrap();
        }
        file.write_all_at(&payload[8 << 16..][..4096], 8 << 16).unwrap();
        let report = fixture.check();
        assert_eq!((indexes(&report.have), indexes(&report.wrong)), (vec![1, 5], vec![8]));
        assert_eq!(fixture.pool.stats().bytes - read_before, 3 << 16);
    }
}

/// A torrent whose payload is zeros, but for its last piece.
#[test]
fn zeros_are_right_where_they_are_due_whether_they_were_written_or_not() {
    let piece_len = 64 << 10;
    let mut fixture = fixture(piece_len, &[("a", 4 << 16, false)]);
    let payload = [vec![0; 3 << 16], vec![1; 1 << 16]].concat();
    let files = [NewFile {
        path: RelPath::parse("a").unwrap(),
        len: payload.len() as u64,
        pad: false,
    }];
    let piece_hashes: Vec<[u8; 20]> = payload.chunks(piece_len as usize).map(sha1).collect();
    let torrent = encode(&NewTorrent {
        name: "t",
        content: NewContent::Folder(&files),
        piece_len,
        piece_hashes: &piece_hashes,
        private: false,
        source: None,
        announce: &[],
        url_list: &[],
        comment: None,
        created_by: None,
        creation_date: None,
    });
    fixture.metainfo = Metainfo::parse(&torrent).unwrap();
    fixture.prepare(part::Preallocate::Sparse);
    let report = fixture.check();
    assert_eq!((indexes(&report.have), report.absent_count()), (vec![0, 1, 2], 1));
}
