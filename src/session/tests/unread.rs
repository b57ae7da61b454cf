//! What cannot be read, or not yet: what whoever asks is told, how long he waits, and what becomes of what is recorded meanwhile.

use super::*;
use crate::session::{Unread, simulated};

/// What a torrent has moved is on top of what is known of it.
fn moved(history: Option<History>, uploaded: u64, downloaded: u64) -> Option<History> {
    let history = history.unwrap_or(History {
        uploaded: 0,
        downloaded: 0,
        added: 1_800_000_000,
        completed: None,
    });
    Some(History {
        uploaded: history.uploaded + uploaded,
        downloaded: history.downloaded + downloaded,
        ..history
    })
}

/// The database is closed after a transaction that failed. A torrent was taken for an unknown one then, and what it moved next was
/// written over all that it had been through.
#[test]
fn what_a_torrent_moves_while_the_disk_is_full_is_on_top_of_what_it_had() {
    for refuses in [false, true] {
        let dir = folder();
        let disk = Disk::default();
        let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
        store.put_history(info_hash(1), history(1));
        assert!(store.flush());
        disk.set_refusing(refuses);
        disk.set_full(true);
        store.put(info_hash(2), record(2));
        assert!(!store.flush());
        store.change_history(info_hash(1), |history| moved(history, 5, 6));
        store.change_history(info_hash(1), |history| moved(history, 10, 20));
        assert!(!store.flush());
        store.change_history(info_hash(1), |history| moved(history, 100, 200));
        store.change_history(info_hash(3), |history| moved(history, 1, 2));
        disk.set_refusing(false);
        assert!(store.flush());
        let wanted = moved(Some(history(1)), 115, 226);
        assert_eq!(store.load_history(&info_hash(1)), wanted, "refuses: {refuses}");
        drop(store);
        let store = open(dir.path());
        assert_eq!(store.load_history(&info_hash(1)), wanted);
        assert_eq!(store.load_history(&info_hash(3)), moved(None, 1, 2));
    }
}

/// Pieces of torrents of which more than eight are not in memory at a time.
const MANY: u32 = 2_000_000;

/// More than there is room for, and than is kept in memory.
fn fill(store: &Store, count: u32) {
    let piece_count = MANY;
    let mut have = Bitfield::full(piece_count);
    have.clear(Bitfield::full(piece_count).pieces().next().expect("there are more"));
    let record = Record {
        have,
        wrong: Bitfield::new(piece_count),
        judged: piece_count,
        files: vec![None],
    };
    for number in 1000..1000 + count {
        store.put(info_hash(number), record.clone());
    }
}

#[test]
fn a_full_disk_is_read() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    store.put_history(info_hash(1), history(1));
    store.put(info_hash(1), record(1));
    store.put_paused(info_hash(1), true);
    assert!(store.flush());
    let len = fs::metadata(dir.path().join("session.redb")).expect("a file").len();
    disk.end.store(len, Ordering::Relaxed);
    fill(&store, 100);
    assert!(!store.flush());
    let opens = disk.opens.load(Ordering::Relaxed);
    for _ in 0..100 {
        assert_eq!(load(&store, 1), Some(record(1)));
        assert_eq!(store.find_history(&info_hash(1)).expect("it is read"), Some(history(1)));
        assert_eq!(store.find_history(&info_hash(2)).expect("it is read"), None);
        assert_eq!(store.load_paused().expect("it is read"), [info_hash(1)]);
    }
    assert_eq!(disk.opens.load(Ordering::Relaxed), opens + 1);
    store.change_history(info_hash(1), |history| moved(history, 1, 1));
    assert_eq!(store.load_history(&info_hash(1)), moved(Some(history(1)), 1, 1));
    disk.end.store(0, Ordering::Relaxed);
    assert!(store.flush());
    drop(store);
    assert_eq!(
        open(dir.path()).load_history(&info_hash(1)),
        moved(Some(history(1)), 1, 1)
    );
}

/// Thousands ask, and each try may read all of the file.
#[test]
fn what_cannot_be_opened_is_an_error_and_is_not_tried_each_time() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    store.put_history(info_hash(1), history(1));
    assert!(store.flush());
    disk.set_refusing(true);
    store.put(info_hash(2), record(2));
    assert!(!store.flush());
    let (opens, start) = (disk.opens.load(Ordering::Relaxed), Instant::now());
    for _ in 0..1000 {
        assert!(store.find_history(&info_hash(1)).is_err());
        assert!(store.find_record(&info_hash(1), PIECES, 1).is_err());
        assert!(store.load_repair(&info_hash(1)).is_err());
        assert!(store.load_pauses().is_err());
        assert!(store.load_place(dir.path()).is_err());
    }
    let opens = disk.opens.load(Ordering::Relaxed) - opens;
    assert!(
        opens <= 1 + start.elapsed().as_secs(),
        "{opens} in {:?}",
        start.elapsed()
    );
    assert_eq!(load(&store, 2), Some(record(2)), "it is queued");
    disk.set_refusing(false);
    wait_for("another try to open it", || store.find_history(&info_hash(1)).is_ok());
    assert_eq!(store.load_history(&info_hash(1)), Some(history(1)));
}

/// Whoever reads would wait for the sync behind who wants to close the file, and so would all that comes behind them.
#[test]
fn nobody_who_reads_waits_for_a_sync_that_has_no_end() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    store.put_history(info_hash(1), history(1));
    fill(&store, 30);
    assert!(store.flush());
    let syncs = disk.syncs.load(Ordering::Relaxed);
    let stuck = disk.stuck.lock().expect("free");
    store.put(info_hash(2), record(2));
    wait_for("a sync", || disk.syncs.load(Ordering::Relaxed) > syncs);
    let (done, dones) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let done = done; // Dropped if this panics.
            let read = || {
                let many = |number| store.find_record(&info_hash(number), MANY, 1).map(|_| ());
                (1000..1030).try_for_each(many)
            };
            // One that can be read, and one that cannot, and those that come then.
            done.send(read().is_ok() && store.is_readable())
                .expect("it is waited for");
            disk.unreadable.store(true, Ordering::Relaxed);
            done.send(read().is_err()).expect("likewise");
            done.send(read().is_err()).expect("likewise");
            disk.unreadable.store(false, Ordering::Relaxed);
            store.change_history(info_hash(1), |history| moved(history, 1, 1));
            store.forget(info_hash(3));
            done.send(true).expect("likewise");
        });
        let told: Vec<bool> = (0..4)
            .map_while(|_| dones.recv_timeout(Duration::from_secs(20)).ok())
            .collect();
        drop(stuck); // Before anything fails, or the thread would be waited for.
        assert_eq!(told, [true; 4]);
    });
    // Of what has failed redb wants no more, and it is opened anew.
    wait_for("a transaction", || store.flush());
    wait_for("a read", || store.find_history(&info_hash(1)).is_ok());
    assert_eq!(store.load_history(&info_hash(1)), moved(Some(history(1)), 1, 1));
    assert_eq!(load(&store, 2), Some(record(2)));
}

/// Nobody else may read or write: a torrent that waits for that would wait for ever.
#[test]
fn who_asks_whether_it_can_be_read_has_it_opened() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_millis(1)).expect("opened");
    assert!(store.is_readable());
    disk.set_refusing(true);
    store.put(info_hash(2), record(2));
    assert!(!store.flush() && !store.is_readable());
    disk.set_refusing(false);
    wait_for("a try to open it", || store.is_readable());
    assert!(store.flush());
    // With nothing to write, too.
    let inner = &store.writer.database;
    inner.close_for_tests();
    assert!(!store.is_readable());
    wait_for("a try to open it", || store.is_readable());
}

/// All payload was read that was looked at in the next second.
#[test]
fn who_is_patient_reads_what_could_not_be_read_a_moment_ago() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    store.put(info_hash(1), record(1));
    assert!(store.flush());
    disk.set_refusing(true);
    store.put(info_hash(2), record(2));
    assert!(!store.flush());
    assert!(store.find_record(&info_hash(1), PIECES, 1).is_err());
    let patiently = |goes_on| store.find_record_patiently(&info_hash(1), (PIECES, 1), || goes_on);
    assert!(patiently(false).is_err(), "nobody waits for it any more");
    disk.set_refusing(false);
    assert!(
        store.find_record(&info_hash(1), PIECES, 1).is_err(),
        "it is not tried yet"
    );
    assert_eq!(patiently(true).expect("it is tried again"), Some(record(1)));
}

#[test]
fn reading_neither_makes_a_database_nor_sets_one_aside() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    let (path, aside) = (dir.path().join("session.redb"), dir.path().join("session.redb.bad"));
    disk.set_full(true);
    store.put(info_hash(1), record(1));
    assert!(!store.flush());
    fs::write(&path, "garbage").expect("written");
    assert!(store.find_history(&info_hash(1)).is_err());
    assert!(!aside.exists());
    fs::remove_file(&path).expect("removed");
    // When it was tried a moment ago, it is not tried again.
    wait_for("a try to open it", || {
        let found = store.find_history(&info_hash(1));
        found.is_err_and(|error| error.to_string().contains("cannot look at"))
    });
    assert!(!path.exists());
    fs::write(&path, "garbage").expect("written");
    disk.set_full(false);
    assert!(store.flush());
    assert!(aside.exists() && on_disk(dir.path(), 1) == Some(record(1)));
}

/// A history is read before it is added to, and written as the sum from then on.
#[test]
fn what_is_added_is_added_once_though_a_transaction_fails_in_between() {
    let disk = simulated::Disk::default();
    let store = Store::simulated(&disk);
    store.put_history(info_hash(1), history(2));
    assert!(store.flush());
    disk.set_unreadable(true);
    disk.set_failing(true);
    store.change_history(info_hash(1), |history| moved(history, 1, 2));
    let known = store.load_history(&info_hash(1));
    assert_eq!(known, moved(None, 1, 2), "what has come since");
    assert!(!store.flush());
    disk.set_unreadable(false);
    assert_eq!(store.load_history(&info_hash(1)), moved(Some(history(2)), 1, 2));
    assert!(!store.flush(), "it is read, and cannot be written");
    store.change_history(info_hash(1), |history| moved(history, 10, 20));
    assert!(!store.flush());
    disk.set_failing(false);
    assert!(store.flush());
    let wanted = moved(Some(history(2)), 11, 22);
    assert_eq!(Store::simulated(&disk).load_history(&info_hash(1)), wanted);
    // What is forgotten, or put, takes its place.
    disk.set_unreadable(true);
    store.change_history(info_hash(1), |history| moved(history, 1, 2));
    store.forget(info_hash(1));
    store.change_history(info_hash(1), |history| moved(history, 5, 6));
    store.change_history(info_hash(2), |history| moved(history, 1, 2));
    store.put_history(info_hash(2), history(3));
    store.change_history(info_hash(2), |history| moved(history, 5, 6));
    disk.set_unreadable(false);
    assert!(store.flush());
    let store = Store::simulated(&disk);
    assert_eq!(store.load_history(&info_hash(1)), moved(None, 5, 6));
    assert_eq!(store.load_history(&info_hash(2)), moved(Some(history(3)), 5, 6));
}

#[test]
fn completion_while_nothing_can_be_read_does_not_take_the_place_of_an_earlier_one() {
    let disk = simulated::Disk::default();
    let store = Store::simulated(&disk);
    store.put_history(info_hash(1), history(1));
    assert!(store.flush());
    disk.set_unreadable(true);
    let complete = |history: Option<History>, announced| {
        let completed = Some(Completed {
            at: 1_900_000_000,
            announced,
        });
        moved(history, 0, 0).map(|history| History { completed, ..history })
    };
    store.change_history(info_hash(1), |history| complete(history, false));
    store.change_history(info_hash(1), |history| complete(history, true));
    disk.set_unreadable(false);
    assert!(store.flush());
    let completed = Some(Completed {
        at: 1_700_000_001,
        announced: true,
    });
    assert_eq!(
        Store::simulated(&disk).load_history(&info_hash(1)),
        Some(History {
            completed,
            ..history(1)
        })
    );
}

/// It would be believed once it can be read again.
#[test]
fn record_that_cannot_be_read_when_a_piece_is_doubted_is_dropped() {
    let disk = simulated::Disk::default();
    let store = Store::simulated(&disk);
    store.put(info_hash(1), record(1));
    assert!(store.flush());
    disk.set_unreadable(true);
    let piece = Bitfield::full(PIECES).pieces().nth(7).expect("there are more");
    store.doubt(info_hash(1), (PIECES, 1), piece, true);
    disk.set_unreadable(false);
    assert_eq!(load(&store, 1), None);
    assert_eq!(load(&Store::simulated(&disk), 1), None);
}

#[test]
fn check_does_not_put_back_what_may_have_been_doubted_while_nothing_could_be_read() {
    let disk = simulated::Disk::default();
    let store = Store::simulated(&disk);
    let mut before = record(1);
    let (seventh, eighth) = {
        let mut pieces = Bitfield::full(PIECES).pieces().skip(7).collect::<Vec<_>>().into_iter();
        (pieces.next().expect("there are more"), pieces.next().expect("likewise"))
    };
    before.have.clear(eighth);
    store.put(info_hash(1), before.clone());
    store.doubt(info_hash(1), (PIECES, 1), seventh, false);
    assert!(store.flush());
    disk.set_unreadable(true);
    // The check has read the eighth since it looked at the record.
    let put = store.put_found(info_hash(1), Ok(Some(&before)), &record(1));
    assert!(!put.have.get(seventh) && put.have.get(eighth));
    disk.set_unreadable(false);
    assert!(store.flush());
    assert_eq!(load(&Store::simulated(&disk), 1), Some(put));
    // It is what was found if nobody has looked before.
    disk.set_unreadable(true);
    assert_eq!(store.put_found(info_hash(2), Ok(None), &record(2)), record(2));
    assert_eq!(store.put_found(info_hash(3), Err(Unread), &record(3)), record(3));
    // Unless a piece was doubted meanwhile, nobody knows which.
    disk.set_failing(true);
    store.doubt(info_hash(4), (PIECES, 1), seventh, false);
    assert!(store.put_found(info_hash(4), Err(Unread), &record(4)).have.is_empty());
}
