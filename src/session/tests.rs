//! The store as its callers see it, over files that are what they should be and over those that are not (`unread`: those that cannot be
//! read).

mod unread;

use std::fs::{self, File};
use std::io::Error as IoError;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::io::Errno;
use tempfile::TempDir;

use super::database::Opener;
use super::record::tests::any_record;
use super::{Completed, Error, FileStamp, History, Record, Store};
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;

const PIECES: u32 = 1000;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn info_hash(number: u32) -> InfoHash {
    let mut bytes = [0; 20];
    // Spread, as digests are.
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
    InfoHash(bytes)
}

/// A whole torrent of one file, of which `number` tells it from others.
fn record(number: u32) -> Record {
    Record {
        have: Bitfield::full(PIECES),
        wrong: Bitfield::new(PIECES),
        judged: PIECES,
        files: vec![Some(FileStamp {
            len: u64::from(number),
            mtime_ns: 1_700_000_000_000_000_000,
        })],
    }
}

fn load(store: &Store, number: u32) -> Option<Record> {
    store.load(&info_hash(number), PIECES, 1)
}

/// A store that opens without a word.
fn open(dir: &Path) -> Store {
    let (store, notice) = Store::open(dir).expect("a folder of our own");
    assert_eq!(notice, None);
    store
}

/// A closed database with records of these numbers.
fn closed(dir: &Path, numbers: std::ops::Range<u32>) {
    let store = open(dir);
    for number in numbers {
        store.put(info_hash(number), record(number));
    }
}

#[test]
fn what_is_doubted_of_a_piece_is_on_the_disk_when_that_was_said_and_the_others_are_as_they_were() {
    let dir = folder();
    let store = open(dir.path());
    let piece = |index| Bitfield::full(PIECES).pieces().nth(index).expect("there are more");
    store.doubt(info_hash(1), (PIECES, 1), piece(7), true);
    assert_eq!(load(&store, 1), None, "nothing is known of it, and nothing is to be");
    store.put(info_hash(1), record(1));
    store.doubt(info_hash(1), (PIECES, 1), piece(7), true);
    store.doubt(info_hash(1), (PIECES, 1), piece(8), false);
    let mut doubted = record(1);
    doubted.have.clear(piece(7));
    doubted.have.clear(piece(8));
    doubted.wrong.set(piece(7));
    assert_eq!(load(&store, 1), Some(doubted));
    assert!(
        store
            .writer
            .queued(super::writer::Kind::Record, &info_hash(1))
            .is_none(),
        "it is written"
    );
}

/// The record is changed by two at once: both changes hold, and a record that was removed meanwhile is not put back.
#[test]
fn what_others_record_while_a_record_is_changed_is_not_lost() {
    let dir = folder();
    let store = open(dir.path());
    let piece = |index| Bitfield::full(PIECES).pieces().nth(index).expect("there are more");
    store.put(info_hash(1), record(1));
    let asked = std::cell::Cell::new(0);
    let clear = |mut record: Record, index| {
        record.have.clear(piece(index));
        record
    };
    store.change_record(info_hash(1), (PIECES, 1), |found| {
        if asked.replace(asked.get() + 1) == 0 {
            store.put(info_hash(1), clear(record(1), 8));
        }
        clear(found, 7)
    });
    assert_eq!(asked.get(), 2);
    assert_eq!(load(&store, 1), Some(clear(clear(record(1), 7), 8)));
    store.change_record(info_hash(1), (PIECES, 1), |found| {
        store.remove(info_hash(1));
        found
    });
    assert_eq!(load(&store, 1), None, "it was removed, and stays so");
}

/// All torrents had one count: beside thousands that are recorded, a change was made anew without end.
#[test]
fn a_change_is_not_made_anew_for_another_torrents_record() {
    let dir = folder();
    let store = open(dir.path());
    store.put(info_hash(1), record(1));
    let asked = std::cell::Cell::new(0);
    store.put_current(info_hash(1), || {
        asked.set(asked.get() + 1);
        // Not each time, or it would be asked without end.
        if asked.get() == 1 {
            store.put(info_hash(2), record(2));
        }
        record(1)
    });
    assert_eq!(asked.get(), 1);
}

/// Whoever records what a torrent has may have looked at it before a piece was withdrawn.
#[test]
fn a_piece_that_is_doubted_is_not_recorded_by_who_looked_before() {
    let dir = folder();
    let store = open(dir.path());
    let seventh = Bitfield::full(PIECES).pieces().nth(7).expect("there are more");
    store.put(info_hash(1), record(1));
    let is_withdrawn = std::cell::Cell::new(false);
    store.put_current(info_hash(1), || {
        let mut current = record(1);
        if is_withdrawn.replace(true) {
            current.have.clear(seventh);
        } else {
            store.doubt(info_hash(1), (PIECES, 1), seventh, false);
        }
        current
    });
    let recorded = load(&store, 1).expect("a record");
    assert!(!recorded.have.get(seventh) && recorded.have.count() == PIECES - 1);
}

/// That the database in `dir` is set aside for a fresh one, that the notice says `why`, and that the fresh one works.
fn assert_set_aside(dir: &Path, why: &str) {
    let before = fs::read(dir.join("session.redb"));
    let (store, notice) = Store::open(dir).expect("a folder of our own");
    let notice = notice.expect("something to say");
    assert!(notice.contains(why) && notice.contains("session.redb.bad"), "{notice}");
    assert_eq!(notice.lines().count(), 1);
    // In what is a database, redb notes that it had a look.
    if let Ok(before) = before.map(|before| before.strip_prefix(b"redb").is_none().then_some(before)) {
        let kept = fs::read(dir.join("session.redb.bad")).expect("set aside");
        assert!(
            before.is_none_or(|before| before == kept),
            "what is set aside is not as it was"
        );
    }
    assert_eq!(load(&store, 1), None);
    store.put(info_hash(1), record(1));
    drop(store);
    assert_eq!(load(&open(dir), 1), Some(record(1)));
}

#[test]
fn a_record_is_seen_at_once_replaced_and_removed() {
    let dir = folder();
    let store = open(dir.path());
    assert_eq!(load(&store, 1), None);
    store.put(info_hash(1), record(1));
    assert_eq!(load(&store, 1), Some(record(1)));
    assert!(store.flush());
    assert_eq!(load(&store, 1), Some(record(1)));
    store.put(info_hash(1), record(2));
    assert_eq!(load(&store, 1), Some(record(2)));
    assert!(store.flush());
    assert_eq!(load(&store, 1), Some(record(2)));
    store.remove(info_hash(1));
    assert_eq!(load(&store, 1), None);
    assert!(store.flush());
    assert_eq!(load(&store, 1), None);
    assert!(store.flush(), "nothing is queued");
}

#[test]
fn a_record_of_another_shape_is_none() {
    let dir = folder();
    let store = open(dir.path());
    store.put(info_hash(1), record(1));
    assert!(store.flush());
    assert_eq!(store.load(&info_hash(1), PIECES + 1, 1), None);
    assert_eq!(store.load(&info_hash(1), PIECES, 2), None);
}

#[test]
fn what_was_queued_when_the_store_was_dropped_is_there_when_it_is_opened_again() {
    let dir = folder();
    closed(dir.path(), 0..200);
    let store = open(dir.path());
    for number in 0..200 {
        assert_eq!(load(&store, number), Some(record(number)));
    }
    store.remove(info_hash(7));
    drop(store);
    let store = open(dir.path());
    assert_eq!(load(&store, 7), None);
    assert_eq!(load(&store, 8), Some(record(8)));
}

/// A history of which `number` tells it from others.
fn history(number: u64) -> History {
    History {
        uploaded: number << 30,
        downloaded: number,
        added: 1_700_000_000,
        completed: (number % 2 == 1).then_some(Completed {
            at: 1_700_000_001,
            announced: false,
        }),
    }
}

#[test]
fn a_history_is_seen_at_once_replaced_kept_and_outlives_its_record() {
    let dir = folder();
    let store = open(dir.path());
    assert_eq!(store.load_history(&info_hash(1)), None);
    store.put(info_hash(1), record(1));
    for number in 1..4 {
        store.put_history(info_hash(1), history(number));
        assert_eq!(store.load_history(&info_hash(1)), Some(history(number)));
        assert!(store.flush());
        assert_eq!(store.load_history(&info_hash(1)), Some(history(number)));
    }
    store.remove(info_hash(1));
    store.put(info_hash(2), record(2));
    drop(store);

    let store = open(dir.path());
    assert_eq!(
        (load(&store, 1), store.load_history(&info_hash(1))),
        (None, Some(history(3)))
    );
    assert_eq!(
        (load(&store, 2), store.load_history(&info_hash(2))),
        (Some(record(2)), None)
    );
    store.put(info_hash(1), record(1));
    assert!(store.flush());
    store.forget(info_hash(1));
    assert_eq!((load(&store, 1), store.load_history(&info_hash(1))), (None, None));
    drop(store);
    let store = open(dir.path());
    assert_eq!((load(&store, 1), store.load_history(&info_hash(1))), (None, None));
}

#[test]
fn what_is_paused_is_known_after_a_restart_until_it_is_resumed_or_forgotten() {
    let dir = folder();
    let store = open(dir.path());
    assert_eq!(store.load_paused().unwrap(), [], "there is no such table yet");
    for number in 1..4 {
        store.put_paused(info_hash(number), true);
    }
    store.put_paused(info_hash(2), false);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.load_paused().unwrap(), [info_hash(1), info_hash(3)]);
    store.put_paused(info_hash(1), false);
    store.forget(info_hash(3));
    drop(store);
    assert_eq!(open(dir.path()).load_paused().unwrap(), []);
}

#[test]
fn a_database_from_before_there_were_histories_is_read_and_given_them() {
    let dir = folder();
    // As the first btd made it, and nothing else.
    let database = redb::Database::create(dir.path().join("session.redb")).expect("made");
    let write = database.begin_write().expect("begun");
    let meta = redb::TableDefinition::<&str, u32>::new("meta");
    let records = redb::TableDefinition::<&[u8; 20], &[u8]>::new("records");
    write
        .open_table(meta)
        .expect("a table")
        .insert("format", 1)
        .expect("in");
    write
        .open_table(records)
        .expect("a table")
        .insert(&info_hash(1).0, &record(1).encode()[..])
        .expect("in");
    write.commit().expect("committed");
    drop(database);

    let store = open(dir.path());
    assert_eq!(
        (load(&store, 1), store.load_history(&info_hash(1))),
        (Some(record(1)), None)
    );
    store.put_history(info_hash(1), history(1));
    drop(store);
    let store = open(dir.path());
    assert_eq!(
        (load(&store, 1), store.load_history(&info_hash(1))),
        (Some(record(1)), Some(history(1)))
    );
}

#[test]
fn a_full_disk_keeps_histories_in_memory_beside_records() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    disk.set_full(true);
    store.put_history(info_hash(1), history(1));
    store.put(info_hash(1), record(1));
    assert!(!store.flush());
    store.put_history(info_hash(1), history(2));
    disk.set_full(false);
    assert!(store.flush());
    assert_eq!(
        (load(&store, 1), store.load_history(&info_hash(1))),
        (Some(record(1)), Some(history(2)))
    );
}

#[test]
fn a_process_that_is_killed_loses_nothing_that_was_flushed() {
    let (dir, copied) = (folder(), folder());
    let store = open(dir.path());
    for round in 0..20 {
        for number in 0..10 {
            store.put(info_hash(number), record(round * 100 + number));
        }
        assert!(store.flush());
        // What a process that is killed now leaves behind.
        fs::copy(dir.path().join("session.redb"), copied.path().join("session.redb")).expect("copied");
        let copy = open(copied.path());
        for number in 0..10 {
            assert_eq!(load(&copy, number), Some(record(round * 100 + number)));
        }
    }
}

#[test]
fn what_is_no_database_is_set_aside() {
    let dir = folder();
    let path = dir.path().join("session.redb");
    fs::write(&path, "").expect("written");
    assert_set_aside(dir.path(), "empty");
    for garbage in [vec![b'x'], vec![0; 4096], b"not a database\n".repeat(10_000)] {
        fs::write(&path, garbage).expect("written");
        assert_set_aside(dir.path(), "");
    }
}

#[test]
fn a_folder_in_the_place_of_the_database_is_set_aside_whatever_lay_there_before() {
    let dir = folder();
    let path = dir.path().join("session.redb");
    for _ in 0..2 {
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).expect("made");
        fs::write(path.join("inside"), "kept").expect("written");
        assert_set_aside(dir.path(), "not a file");
        assert!(dir.path().join("session.redb.bad/inside").exists());
    }
    fs::write(&path, "garbage").expect("written");
    assert_set_aside(dir.path(), "");
}

#[test]
fn a_truncated_database_is_set_aside() {
    let dir = folder();
    closed(dir.path(), 0..100);
    let path = dir.path().join("session.redb");
    let whole = fs::read(&path).expect("a file");
    for len in [1, 63, 64, 319, 320, 4095, 4096, 8192, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).expect("written");
        assert_set_aside(dir.path(), "");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Not every byte of the file is in use, so that some changes do no harm; but none may do more than lose records.
    #[test]
    fn bytes_that_change_on_the_disk_never_panic_nor_lie(
        places in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        // The header and what is at the front matter most.
        front: bool,
    ) {
        let dir = folder();
        closed(dir.path(), 0..20);
        let path = dir.path().join("session.redb");
        let mut bytes = fs::read(&path).expect("a file");
        let len = if front { 512 } else { bytes.len() };
        for (at, change) in places {
            bytes[at.index(len)] ^= change;
        }
        fs::write(&path, bytes).expect("written");
        let (store, _) = Store::open(dir.path()).expect("a fresh one at least");
        for number in 0..20 {
            let loaded = load(&store, number);
            prop_assert!(loaded.is_none_or(|loaded| loaded == record(number)));
        }
        store.put(info_hash(5), record(500));
        prop_assert!(store.flush());
        prop_assert_eq!(load(&store, 5), Some(record(500)));
    }

    #[test]
    fn any_record_survives_the_disk(records in proptest::collection::vec(any_record(), 1..8)) {
        let dir = folder();
        let store = open(dir.path());
        for (record, number) in records.iter().zip(0..) {
            store.put(info_hash(number), record.clone());
        }
        drop(store);
        let store = open(dir.path());
        for (record, number) in records.iter().zip(0..) {
            let loaded = store.load(&info_hash(number), record.have.piece_count(), record.files.len());
            prop_assert_eq!(loaded.as_ref(), Some(record));
        }
    }
}

#[test]
fn a_database_of_another_format_or_program_is_set_aside() {
    let dir = folder();
    let path = dir.path().join("session.redb");
    let write = |name: &str, key: &str, value: u32| {
        let _ = fs::remove_file(&path);
        let table = redb::TableDefinition::<&str, u32>::new(name);
        let database = redb::Database::create(&path).expect("made");
        let write = database.begin_write().expect("begun");
        write
            .open_table(table)
            .expect("a table")
            .insert(key, value)
            .expect("in");
        write.commit().expect("committed");
    };
    write("meta", "format", 2);
    assert_set_aside(dir.path(), "format 2");
    // Whoever goes back to the newer btd finds it whole.
    redb::Database::open(dir.path().join("session.redb.bad")).expect("kept as it was");
    write("meta", "something", 1);
    assert_set_aside(dir.path(), "another program");
    write("things", "format", 1);
    assert_set_aside(dir.path(), "another program");
    // The right version, and not the tables that belong to it.
    write("meta", "format", 1);
    assert_set_aside(dir.path(), "records");

    // Any of the others, which a start would be refused for when it is read.
    for (name, is_multimap) in [("paused", false), ("paused", true), ("cards", false)] {
        let _ = fs::remove_file(&path);
        closed(dir.path(), 0..1);
        let database = redb::Database::open(&path).expect("opened");
        let write = database.begin_write().expect("begun");
        match is_multimap {
            true => drop(write.open_multimap_table(redb::MultimapTableDefinition::<&[u8; 20], &[u8]>::new(name))),
            false => drop(write.open_table(redb::TableDefinition::<u64, &str>::new(name))),
        }
        write.commit().expect("committed");
        drop(database);
        assert_set_aside(dir.path(), name);
    }

    let _ = fs::remove_file(&path);
    let table = redb::TableDefinition::<u64, &str>::new("meta");
    let database = redb::Database::create(&path).expect("made");
    let write = database.begin_write().expect("begun");
    write
        .open_table(table)
        .expect("a table")
        .insert(1, "format")
        .expect("in");
    write.commit().expect("committed");
    drop(database);
    assert_set_aside(dir.path(), "meta");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let dir = folder();
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    // In /proc not even root makes a file.
    for path in [dir.path().join("missing"), file, "/proc/self".into()] {
        let refused = Store::open(&path).expect_err("there is no such folder");
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
    }
}

#[test]
fn a_database_that_is_open_is_left_alone() {
    let dir = folder();
    let first = open(dir.path());
    first.put(info_hash(1), record(1));
    let refused = Store::open(dir.path()).expect_err("it is open");
    assert!(matches!(refused, Error::InUse { .. }), "{refused}");
    assert!(first.flush());
    assert!(!dir.path().join("session.redb.bad").exists());
}

/// A disk that is full, stuck or not to be opened or read when told so.
#[derive(Debug, Clone, Default)]
struct Disk {
    /// Nothing is written behind this, as on a disk that has no room for more; 0 for no end.
    end: Arc<AtomicU64>,
    /// Nothing is written at all.
    full: Arc<AtomicBool>,
    /// No database on it can be opened.
    refuses: Arc<AtomicBool>,
    /// How often that was tried.
    opens: Arc<AtomicU64>,
    /// Nothing on it can be read.
    unreadable: Arc<AtomicBool>,
    /// How many syncs were begun.
    syncs: Arc<AtomicU64>,
    /// Whoever holds it stops all syncs.
    stuck: Arc<Mutex<()>>,
}

impl Disk {
    fn opener(&self) -> Opener {
        let disk = self.clone();
        Box::new(move |builder, file: File| {
            disk.opens.fetch_add(1, Ordering::Relaxed);
            if disk.refuses.load(Ordering::Relaxed) {
                return Err(redb::StorageError::Io(Errno::ROFS.into()).into());
            }
            let file = FileBackend::new(file)?;
            builder.create_with_backend(Faulty {
                file,
                disk: disk.clone(),
            })
        })
    }

    fn open(&self, dir: &Path, retry: Duration) -> Result<Store, Error> {
        let (store, notice) = Store::open_with(dir, self.opener(), retry)?;
        assert_eq!(notice, None);
        Ok(store)
    }

    fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    fn set_refusing(&self, refuses: bool) {
        self.set_full(refuses);
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    fn room(&self) -> Result<(), IoError> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(Errno::NOSPC.into()),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    disk: Disk,
}

impl StorageBackend for Faulty {
    fn len(&self) -> Result<u64, IoError> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), IoError> {
        if self.disk.unreadable.load(Ordering::Relaxed) {
            return Err(Errno::IO.into());
        }
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), IoError> {
        self.disk.room()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), IoError> {
        self.disk.syncs.fetch_add(1, Ordering::Relaxed);
        let _stuck = self.disk.stuck.lock().expect("no test panics with it");
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.disk.room()?;
        let end = self.disk.end.load(Ordering::Relaxed);
        if end > 0 && offset + data.len() as u64 > end {
            return Err(Errno::NOSPC.into());
        }
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), IoError> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

/// Waits for what another thread does.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a process that is killed now leaves behind for the next.
fn on_disk(dir: &Path, number: u32) -> Option<Record> {
    let copied = folder();
    fs::copy(dir.join("session.redb"), copied.path().join("session.redb")).expect("copied");
    let (store, _) = Store::open(copied.path()).expect("a folder of our own");
    load(&store, number)
}

#[test]
fn a_full_disk_keeps_changes_in_memory_and_they_are_written_when_there_is_room() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_millis(20)).expect("opened");
    store.put(info_hash(1), record(1));
    store.put(info_hash(2), record(2));
    assert!(store.flush());

    disk.set_full(true);
    store.put(info_hash(1), record(10));
    store.remove(info_hash(2));
    assert!(!store.flush());
    assert!(!store.flush(), "it tries again, and fails again");
    let why = store.keep().expect_err("it is not on the disk");
    assert!(why.contains("session.redb") && store.trouble().is_some(), "{why}");
    assert_eq!(load(&store, 1), Some(record(10)));
    assert_eq!(load(&store, 2), None);
    assert_eq!(on_disk(dir.path(), 1), Some(record(1)));
    store.put(info_hash(1), record(11)); // Newer than the one that failed.
    assert!(!store.flush());

    disk.set_full(false);
    wait_for("another try without being asked", || {
        on_disk(dir.path(), 1) == Some(record(11))
    });
    assert!(store.flush());
    assert_eq!((on_disk(dir.path(), 2), store.trouble()), (None, None));
    assert!(!dir.path().join("session.redb.bad").exists());
}

#[test]
fn a_flush_does_not_wait_for_the_time_to_try_again() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    disk.set_full(true);
    store.put(info_hash(1), record(1));
    assert!(!store.flush());
    disk.set_full(false);
    assert!(store.flush());
    assert_eq!(on_disk(dir.path(), 1), Some(record(1)));
}

#[test]
fn a_store_over_a_full_disk_can_be_dropped_and_keeps_what_it_had() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    store.put(info_hash(1), record(1));
    assert!(store.flush());
    disk.set_full(true);
    store.put(info_hash(1), record(2));
    drop(store);
    let refused = disk.open(dir.path(), Duration::from_secs(3600));
    disk.set_full(false);
    // Whether redb writes as it opens is its own affair: the database stays where it is.
    assert!(refused.is_err() || refused.is_ok_and(|store| load(&store, 1) == Some(record(1))));
    assert!(!dir.path().join("session.redb.bad").exists());
    assert_eq!(load(&open(dir.path()), 1), Some(record(1)));
}

#[test]
fn putting_does_not_wait_for_a_stuck_disk_and_only_the_last_record_is_kept() {
    let dir = folder();
    let disk = Disk::default();
    let store = disk.open(dir.path(), Duration::from_secs(3600)).expect("opened");
    let stuck = disk.stuck.lock().expect("free");
    for round in 0..1000 {
        store.put(info_hash(round % 10), record(round));
    }
    assert_eq!(load(&store, 9), Some(record(999)));
    assert!(store.writer.queue_len() <= 2 * 10);
    drop(stuck);
    assert!(store.flush());
    assert_eq!(on_disk(dir.path(), 9), Some(record(999)));
}

/// What `database.rs` says of the check at the start: `cargo nextest run --release --run-ignored only open_time`.
#[test]
#[ignore = "measures, and judges nothing: `cargo test --release -- --ignored --nocapture open_time`"]
fn open_time_of_ten_thousand_records() {
    let dir = folder();
    let count = 10_000;
    let rss_kib = || {
        let status = fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("a process");
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
    };
    let took = |what: &str, since: Instant| println!("{what}: {:.1} ms", since.elapsed().as_secs_f64() * 1e3);
    let store = open(dir.path());
    let start = Instant::now();
    for number in 0..count {
        let mut record = record(number);
        record.files = vec![record.files[0]; 4];
        if number % 10 == 0 {
            let mut bytes = record.have.as_bytes().to_vec();
            bytes[5] = 0;
            record.have = Bitfield::from_wire(&bytes, PIECES).expect("for so many pieces");
        }
        store.put(info_hash(number), record);
    }
    took("put", start);
    assert!(store.flush());
    took("put and flushed", start);
    let start = Instant::now();
    for number in 0..100 {
        store.put(info_hash(number), record(number));
        assert!(store.flush());
    }
    took("100 transactions of one record", start);
    drop(store);
    let len = fs::metadata(dir.path().join("session.redb")).expect("a file").len();
    println!("file: {} KiB", len >> 10);
    for _ in 0..3 {
        let before = rss_kib();
        let start = Instant::now();
        let store = open(dir.path());
        took("opened", start);
        println!("RSS: {before} KiB before, {} KiB after", rss_kib());
        let start = Instant::now();
        let found = (100..count).filter(|number| store.load(&info_hash(*number), PIECES, 4).is_some());
        assert_eq!(found.count(), 9_900);
        took("all loaded", start);
        println!("RSS: {} KiB after loading", rss_kib());
    }
}
