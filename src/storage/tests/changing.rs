//! Files that change while they are checked: what is said of them holds of what they are at the end.

use super::*;

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
