//! What is known of payload after a restart: what is not read again, and what is not believed.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::io::Errno;

use super::*;
use crate::storage::folder::steps::stop_after;
use crate::storage::root::OpenError;
use crate::storage::simulated;

/// Checks with what was known from before: what there is, and each record that was to be kept.
fn check_with(fixture: &Fixture, known: Option<&Record>) -> (CheckReport, Vec<Record>) {
    let (report, kept) = check_knowing(fixture, &Throttle::default(), known.cloned(), &Progress::default());
    (report.unwrap(), kept)
}

#[test]
fn what_is_known_of_unchanged_files_is_not_read_again() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 5000, false), ("c", 5000, false)]);
    fixture.flip("c", 4999);
    age(&fixture.path("c"));
    let (first, kept) = check_with(&fixture, None);
    let record = kept.last().unwrap().clone();
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
    let (changed, _) = check_with(&fixture, Some(&record));
    assert_eq!(indexes(&changed.wrong), [7, 14]);
    assert_eq!(changed.known_count, 4 + 5, "pieces with no byte of the changed file");
}

#[test]
fn pieces_that_were_not_judged_are_read() {
    let fixture = fixture(1024, &[("a", 10_240, false)]);
    let (_, kept) = check_with(&fixture, None);
    let mut record = kept.last().unwrap().clone();
    record.have.clear(fixture.metainfo.geometry.piece_index(2).unwrap());
    let (report, _) = check_with(&fixture, Some(&record));
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
    let (report, _) = check_with(&fixture, Some(&record));
    assert_eq!((report.known_count, report.have.is_full()), (1, true));
    assert_eq!(fixture.pool.stats().bytes - read_before, 15 << 20);
}

#[test]
fn what_is_known_of_a_download_is_known_after_a_restart_and_after_it_is_finished() {
    let fixture = fixture(1024, &[("a", 5000, false), ("b", 5000, false)]);
    let part = fixture.part("a");
    fixture.flip("a.part", 100);
    age(&part);
    let (first, kept) = check_with(&fixture, None);
    assert_eq!(indexes(&first.wrong), [0]);
    let record = kept.last().unwrap().clone();
    let read_before = fixture.pool.stats().bytes;
    for finished in [false, true] {
        if finished {
            let root = Root::open(fixture.temp.path()).unwrap();
            let names = PartNames::new(&fixture.metainfo.files);
            let failed = part::finish(&root, &fixture.metainfo.files, &names, &[true, false], &[0]);
            assert_eq!(failed, []);
        }
        let (again, kept) = check_with(&fixture, Some(&record));
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
        let (report, kept) = check_with(&fixture, Some(record));
        (report, kept.last().unwrap().clone())
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
    let torrent = encode(&NewTorrent::new(
        "t",
        NewContent::Folder(&files),
        piece_len,
        &piece_hashes,
    ));
    fixture.metainfo = Metainfo::parse(&torrent).unwrap();
    fixture.prepare(part::Preallocate::Sparse);
    let report = fixture.check();
    assert_eq!((indexes(&report.have), report.absent_count()), (vec![0, 1, 2], 1));
}

/// Files of a download whose pieces were all written a moment ago, of which the first piece of two is in the record: btd was
/// killed since.
fn unrecorded() -> (Fixture, Record) {
    let fixture = fixture(1024, &[("a", 3072, false), ("b", 2048, false), ("c", 1024, false)]);
    fixture.part("a");
    for file in ["a.part", "b"] {
        fixture.flip(file, 0);
        fixture.flip(file, 0);
    }
    let mut have = crate::proto::bitfield::Bitfield::new(6);
    for piece in [0, 3] {
        have.set(fixture.metainfo.geometry.piece_index(piece).unwrap());
    }
    let being_written = |len| Some(FileStamp::being_written(len));
    let record = Record {
        wrong: crate::proto::bitfield::Bitfield::new(6),
        have,
        judged: 6,
        files: vec![being_written(3072), being_written(2048), None],
    };
    (fixture, record)
}

/// What was read may have been in the page cache alone, and the kernel forgets that it was not written.
#[test]
fn pieces_of_files_that_cannot_be_synced_are_not_had_but_for_those_that_were_recorded() {
    let (fixture, record) = unrecorded();
    let ((report, kept), refused) = stop_after(0, || check_with(&fixture, Some(&record)));
    assert!(refused);
    assert_eq!((indexes(&report.have), report.wrong.count()), (vec![0, 3], 0));
    let unreadable = FileState::Unreadable(OpenError::Other(rustix::io::Errno::IO));
    assert_eq!(report.files, [unreadable; 3]);
    let kept = kept.last().unwrap();
    assert_eq!((indexes(&kept.have), &kept.files), (vec![0, 3], &vec![None; 3]));
    // The next check reads them anew.
    let (report, _) = check_with(&fixture, Some(kept));
    assert_eq!((report.known_count, report.have.is_full()), (0, true));
}

#[test]
fn what_was_wrong_of_a_file_that_cannot_be_synced_is_not_said_to_be_wrong() {
    let (fixture, record) = unrecorded();
    fixture.flip("b", 1500);
    let ((report, _), refused) = stop_after(3, || check_with(&fixture, Some(&record)));
    assert!(refused, "but for the first file, and the two folders it lies in");
    assert_eq!((indexes(&report.have), report.wrong.count()), (vec![0, 1, 2, 3], 0));
}

/// A disk that notes what is synced, by its path, and does not take one of them.
struct Noting {
    synced: RefCell<Vec<PathBuf>>,
    refuses: Option<PathBuf>,
}

impl simulated::Disk for Noting {
    fn step(&self) {}

    fn sync(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let is_refused = self.refuses.as_ref() == Some(&path);
        self.synced.borrow_mut().push(path);
        if is_refused { Err(Errno::IO) } else { Ok(()) }
    }

    fn forget_cached(&self, _: BorrowedFd<'_>) {}
}

/// As after a kill between a file's renaming and the sync of its folder.
#[test]
fn a_name_that_is_young_is_on_the_disk_before_anything_is_recorded_of_its_file() {
    let fixture = fixture(
        1024,
        &[("in/deeper/a", 2048, false), ("in/b", 1024, false), ("c", 1024, false)],
    );
    age(&fixture.path("c"));
    let check = |refuses: Option<&str>| {
        let refuses = refuses.map(|path| fixture.path(path));
        let disk = Rc::new(Noting {
            synced: RefCell::default(),
            refuses,
        });
        let known = || check_with(&fixture, None);
        let (report, kept) = simulated::on(Rc::<Noting>::clone(&disk), known);
        let synced = disk.synced.take();
        (report, kept.last().unwrap().clone(), synced)
    };
    let (report, record, synced) = check(None);
    assert!(report.is_whole() && record.have.is_full());
    let folder = fixture.path("");
    let inner = ["in/deeper/a", "", "in", "in/deeper", "in/b", "c"].map(|path| match path {
        "" => folder.components().collect(),
        path => fixture.path(path),
    });
    let [first, inner @ ..] = inner;
    let expected: Vec<PathBuf> = [first, fixture.temp.path().to_owned()]
        .into_iter()
        .chain(inner)
        .collect();
    assert_eq!(synced, expected);

    let (report, record, _) = check(Some("in/deeper"));
    assert_eq!(
        indexes(&record.have),
        [2, 3],
        "nothing of the file whose name may be lost"
    );
    assert!(record.files[0].is_none());
    assert!(matches!(
        report.files[0],
        FileState::Unreadable(OpenError::Other(Errno::IO))
    ));
}

/// A disk that takes so many syncs and no more.
struct Takes(std::cell::Cell<u32>);

impl simulated::Disk for Takes {
    fn step(&self) {}

    fn sync(&self, _: BorrowedFd<'_>) -> Result<(), Errno> {
        let left = self.0.get().checked_sub(1).ok_or(Errno::IO)?;
        self.0.set(left);
        Ok(())
    }

    fn forget_cached(&self, _: BorrowedFd<'_>) {}
}

/// What somebody does who is not allowed everything, on a thread of its own: the tests may run as root.
fn without_rights<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// A file can be made in a folder that cannot be listed, nor opened to be synced.
#[test]
fn name_in_a_folder_that_may_not_be_listed_is_synced_by_way_of_its_file_or_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "payload").unwrap();
    let set_mode = |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o300);
    let files = [crate::proto::metainfo::FileEntry {
        path: RelPath::parse("in/a").unwrap(),
        len: 7,
        offset: 0,
        pad: false,
    }];
    let look = || {
        let root = Root::open(temp.path()).unwrap();
        let layout = Layout::of_files(&files);
        let mut payload = payload::Payload::look(&root, &layout, &files, None, || true).unwrap();
        (payload.sync_young(|| true), payload.is_on_disk(0))
    };
    // Of the file, the data folder, and the folder by way of the file.
    let of = |syncs| without_rights(|| simulated::on(Rc::new(Takes(std::cell::Cell::new(syncs))), look));
    let found = [2, 3].map(of);
    let by_a_real_one = without_rights(look);
    set_mode(0o700); // So that it can be deleted.
    assert_eq!(found, [(vec![0], false), (vec![], true)]);
    assert_eq!(by_a_real_one, (vec![], true));
}

/// As on procfs, or an image that nobody can write to: there is nothing to sync.
#[test]
fn filesystem_that_knows_no_sync_loses_nothing() {
    let root = Root::open("/proc/self").unwrap();
    let entry = crate::proto::metainfo::FileEntry {
        path: RelPath::parse("stat").unwrap(),
        len: 0,
        offset: 0,
        pad: false,
    };
    let files = [entry];
    let layout = Layout::of_files(&files);
    let mut payload = payload::Payload::look(&root, &layout, &files, None, || true).unwrap();
    assert!(payload.sync_young(|| true).is_empty());
    assert!(payload.states()[0].is_ok() && payload.stamps()[0].is_none());
    assert!(!payload.is_on_disk(0), "nobody knows that it is");
}

/// With two pieces of a file that is too short, one of them whole, and a file that is wrong and looks right.
fn believed() -> Fixture {
    let fixture = fixture(1024, &[("a", 5120, false), ("b", 2048, false), ("c", 3072, false)]);
    fixture.flip("a", 1500);
    age(&fixture.path("a"));
    fixture.set_len("b", 2000);
    age(&fixture.path("b"));
    fixture
}

#[test]
fn what_is_read_later_is_taken_for_right_and_not_recorded_where_files_look_whole() {
    let fixture = believed();
    let later = |known, doubted| {
        let read_before = fixture.pool.stats().bytes;
        let what = (known, Unread::Later, doubted);
        let (report, kept) = check_believing(&fixture, &Throttle::default(), what, &Progress::default());
        let read = fixture.pool.stats().bytes - read_before;
        (report.unwrap(), kept.last().unwrap().clone(), read)
    };
    let (report, record, read) = later(None, None);
    assert_eq!(read, 1024, "what is there of a file that is too short is read");
    assert_eq!(indexes(&report.unread), [0, 1, 2, 3, 4, 7, 8, 9]);
    assert_eq!(indexes(&report.have), [0, 1, 2, 3, 4, 5, 7, 8, 9]);
    assert_eq!((indexes(&record.have), indexes(&record.wrong)), (vec![5], vec![]));
    // What was verified since is known, and what was wrong stays so.
    let mut known = record;
    known.have.set(fixture.metainfo.geometry.piece_index(0).unwrap());
    known.wrong.set(fixture.metainfo.geometry.piece_index(1).unwrap());
    let (report, record, read) = later(Some(known.clone()), None);
    assert_eq!((read, indexes(&report.unread)), (0, vec![2, 3, 4, 7, 8, 9]));
    assert_eq!((indexes(&report.have), &record), (vec![0, 2, 3, 4, 5, 7, 8, 9], &known));
    // And what is doubted is read, whatever is known of it.
    let mut doubted = Bitfield::new(10);
    for piece in [0, 1, 2] {
        doubted.set(fixture.metainfo.geometry.piece_index(piece).unwrap());
    }
    let (report, record, read) = later(Some(known), Some(doubted));
    assert_eq!((read, indexes(&report.unread)), (3 * 1024, vec![3, 4, 7, 8, 9]));
    assert_eq!(
        (indexes(&record.have), indexes(&record.wrong)),
        (vec![0, 2, 5], vec![1])
    );
}

#[test]
fn what_is_never_read_is_recorded_as_right_where_files_look_whole() {
    let fixture = believed();
    let what = (None, Unread::Never, None);
    let (report, kept) = check_believing(&fixture, &Throttle::default(), what, &Progress::default());
    let report = report.unwrap();
    assert_eq!(fixture.pool.stats().bytes, 1024);
    assert_eq!(indexes(&report.have), [0, 1, 2, 3, 4, 5, 7, 8, 9]);
    assert!(report.unread.is_empty() && !report.is_whole());
    assert_eq!(kept.last().unwrap().have, report.have);
}

#[test]
fn what_is_not_complete_by_its_name_is_read_whatever_is_believed() {
    let fixture = fixture(1024, &[("a", 3072, false), ("b", 2048, false)]);
    age(&fixture.part("a"));
    for unread in [Unread::Later, Unread::Never] {
        let read_before = fixture.pool.stats().bytes;
        let (report, _) = check_believing(
            &fixture,
            &Throttle::default(),
            (None, unread, None),
            &Progress::default(),
        );
        assert_eq!(fixture.pool.stats().bytes - read_before, 3072);
        assert!(report.unwrap().have.is_full());
    }
}

/// Issue 7: it was taken for right again, by its length.
#[test]
fn what_is_never_read_is_read_as_a_whole_once_a_file_of_it_has_changed() {
    let fixture = fixture(1024, &[("a", 5120, false), ("b", 2048, false)]);
    let check = |known| {
        let read_before = fixture.pool.stats().bytes;
        let what = (known, Unread::Never, None);
        let (report, kept) = check_believing(&fixture, &Throttle::default(), what, &Progress::default());
        let read = fixture.pool.stats().bytes - read_before;
        (report.unwrap(), kept.last().cloned(), read)
    };
    fixture.flip("a", 1500);
    age(&fixture.path("a"));
    let (report, known, read) = check(None);
    assert!(report.have.is_full() && read == 0);
    let known = known.unwrap();
    let (report, _, read) = check(Some(known.clone()));
    assert!(report.have.is_full() && read == 0, "it is as it was");
    // One that is gone says nothing of the others.
    let bytes = std::fs::read(fixture.path("b")).unwrap();
    std::fs::remove_file(fixture.path("b")).unwrap();
    let (report, _, read) = check(Some(known.clone()));
    assert!(report.have.count() == 5 && read == 0);
    std::fs::write(fixture.path("b"), bytes).unwrap();
    let (report, _, read) = check(Some(known));
    assert_eq!((read, indexes(&report.wrong)), (7168, vec![1]));
}
