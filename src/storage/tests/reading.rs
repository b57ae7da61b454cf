//! How payload is read and hashed: past the page cache, and side by side.

use std::sync::Arc;

use super::*;
use crate::storage::Loan;

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

#[test]
fn checks_read_into_what_all_of_them_together_may_borrow() {
    for piece_len in [100_000, 1 << 20, 3 << 20] {
        let fixture = fixture(piece_len, &[("f", 40 << 20, false), ("g", 5_000_001, false)]);
        fixture.flip("f", 39 << 20);
        for max in [0, 9 << 20] {
            let loan = Arc::new(Loan::new(max));
            let throttle = Throttle::default().with_memory_of(Arc::clone(&loan));
            // Two buffers are everybody's. Who comes when another has taken all gets half of it, and the other gives it up by and by.
            for (threads, most) in [(1, max.max(5 << 19)), (2, (max + max / 2).max(5 << 20))] {
                ["f", "g"].iter().for_each(|name| chill(&fixture.path(name)));
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            let root = Root::open(fixture.temp.path()).unwrap();
                            let means = fixture.means(&throttle);
                            let report = check(&fixture.metainfo, &root, means, &Progress::default(), None).unwrap();
                            assert_eq!(indexes(&report.wrong), [(39 << 20) / piece_len]);
                        });
                    }
                });
                assert_eq!(loan.bytes(), 0, "all of it was given back");
                assert!((1..=most).contains(&loan.most()), "{} of {most}", loan.most());
            }
        }
    }
}
