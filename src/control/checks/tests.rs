//! What a check makes of what is there and what is known.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::look::look_if_bare;
use super::{Checks, Found, Job, Progress, Wait, look};
use crate::control::places::Places;
use crate::hashing::Pool;
use crate::proto::bitfield::Bitfield;
use crate::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
use crate::proto::path::RelPath;
use crate::session::{FileStamp, Record, Store, simulated};
use crate::storage::part::Seen;
use crate::storage::strangers::Blanks;
use crate::storage::{Means, Root, Throttle, Unread};

/// A torrent of one piece of zeros, `x`, and what is known of it.
struct Fixture {
    _temp: tempfile::TempDir,
    data: PathBuf,
    meta: Arc<Metainfo>,
    session: Store,
    pool: Arc<Pool>,
}

fn fixture() -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let (state, data) = (temp.path().join("state"), temp.path().join("data"));
    std::fs::create_dir(&state).unwrap();
    std::fs::create_dir(&data).unwrap();
    let mut bytes = crate::control::watch::testing::torrent("x");
    let at = bytes.len() - 22;
    let mut hasher = crate::hashing::Hasher::new();
    hasher.update(&[0; 16384]);
    bytes[at..at + 20].copy_from_slice(&hasher.finish());
    Fixture {
        _temp: temp,
        meta: Arc::new(Metainfo::parse(&bytes).unwrap()),
        session: Store::open(&state).unwrap().0,
        pool: Arc::new(Pool::start(crate::hashing::PoolConfig::default()).unwrap()),
        data,
    }
}

/// A torrent of two files, `a` of two pieces and `b` of one, each byte of them 1.
fn fixture_of_two() -> Fixture {
    let files = [("a", 32768), ("b", 16384)].map(|(path, len)| NewFile {
        path: RelPath::parse(path).unwrap(),
        len,
        pad: false,
    });
    let bytes = encode(&NewTorrent {
        name: "t",
        content: NewContent::Folder(&files),
        piece_len: 16384,
        piece_hashes: &[crate::hashing::sha1(&[1; 16384]); 3],
        private: false,
        source: None,
        announce: &[],
        url_list: &[],
        comment: None,
        created_by: None,
        creation_date: None,
    });
    let fixture = fixture();
    std::fs::create_dir(fixture.data.join("t")).unwrap();
    Fixture {
        meta: Arc::new(Metainfo::parse(&bytes).unwrap()),
        ..fixture
    }
}

impl Fixture {
    fn job(&self, trust: bool) -> Job {
        Job {
            info_hash: self.meta.info_hash,
            generation: 0,
            contents: Arc::clone(&self.meta).into(),
            data_dir: self.data.clone(),
            trust,
            unread: Unread::Now,
            doubted: None,
            blanks: Blanks::default(),
            home: Some(0),
            progress: Arc::new(Progress::new(16384)),
        }
    }

    fn look_as(&self, job: &Job) -> Found {
        let throttle = Throttle::default();
        let means = Means {
            pool: &self.pool,
            throttle: &throttle,
            seeks: false,
        };
        let root = Arc::new(Root::open(&self.data).unwrap());
        look(job, root, means, &self.session).unwrap()
    }

    fn look(&self, trust: bool) -> Found {
        self.look_as(&self.job(trust))
    }

    /// Writes the file, an hour ago.
    fn write(&self, byte: u8) {
        std::fs::write(self.data.join("x"), [byte; 16384]).unwrap();
        let file = std::fs::File::options().append(true).open(self.data.join("x")).unwrap();
        let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(hour_ago).unwrap();
    }
}

#[test]
fn torrent_is_not_downloaded_over_a_file_of_somebody_elses_until_that_is_gone() {
    let fixture = fixture();
    fixture.write(7);
    for trust in [true, false] {
        let found = fixture.look(trust);
        assert!(found.held.is_some() && found.stamps.is_none() && found.torrent.is_none());
        let why = found.why.unwrap();
        assert!(why.contains("\"x\" is there already"), "{why}");
    }
    std::fs::remove_file(fixture.data.join("x")).unwrap();
    let found = fixture.look(true);
    assert!(found.held.is_none() && found.stamps.is_some_and(|judged| judged.seen == [Seen::Nothing]));
}

/// Issue 7: it was forgotten by a restart, and the torrent not downloaded to its end.
#[test]
fn repair_goes_on_after_a_restart_until_the_torrent_is_whole() {
    let fixture = fixture();
    fixture.write(0);
    assert_eq!(fixture.look(true).have_count, 1);
    fixture.write(7);
    let found = fixture.look(true);
    assert!(found.was_whole && found.stamps.is_none(), "not by itself");
    let found = fixture.look(false);
    let why = found.to_write_over.clone().unwrap();
    assert!(
        found.stamps.is_some() && why.contains("will be written over, in \"x\""),
        "{why}"
    );
    assert!(fixture.look(true).stamps.is_some(), "as somebody wants it");
    // Nor is what is wrong believed by its length.
    let job = Job {
        unread: Unread::Never,
        ..fixture.job(true)
    };
    fixture.session.remove(fixture.meta.info_hash);
    assert!(fixture.look_as(&job).stamps.is_some());
    fixture.write(0);
    assert_eq!(fixture.look(true).have_count, 1);
    fixture.write(7);
    assert!(fixture.look(true).was_whole, "it is over");
}

#[test]
fn check_that_somebody_wants_of_all_relies_on_nothing_whenever_that_is_said() {
    let fixture = fixture();
    fixture.write(0);
    let job = fixture.job(true);
    assert!(!fixture.look_as(&job).known && job.progress.want_all());
    assert!(!job.progress.is_to_be_again(), "it has read all of it anyway");
    // Before it begins.
    let job = fixture.job(true);
    assert!(job.progress.want_all() && !job.progress.want_all());
    assert!(!fixture.look_as(&job).known && !job.progress.is_to_be_again());
    // When it has begun, or ended.
    let job = fixture.job(true);
    assert!(fixture.look_as(&job).known && !job.progress.is_to_be_again());
    assert!(job.progress.want_all() && job.progress.is_to_be_again() && job.progress.is_cancelled());
}

/// Of `a` pieces with these bytes are there, `b` is not, and what is there is believed by its length.
fn look_lazily(fixture: &Fixture, pieces: [u8; 2]) -> Found {
    let bytes = pieces.map(|byte| [byte; 16384]).concat();
    let path = fixture.data.join("t/a");
    std::fs::write(&path, bytes).unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    file.set_modified(hour_ago).unwrap();
    let job = Job {
        unread: Unread::Later,
        ..fixture.job(true)
    };
    fixture.session.forget(fixture.meta.info_hash);
    fixture.look_as(&job)
}

#[test]
fn file_that_was_believed_by_its_length_is_looked_into_before_it_is_written_over() {
    let fixture = fixture_of_two();
    let found = look_lazily(&fixture, [7, 7]);
    assert!(found.held.is_some() && found.stamps.is_none());
    assert_eq!(found.strangers[0].path.as_str(), "t/a");
    let found = look_lazily(&fixture, [1, 1]);
    assert!(found.stamps.is_some() && found.have_count == 2);
    assert_eq!(found.unread.unwrap().0, 1, "one piece says whose it is");
    // What is wrong of it is not believed, and something right makes it the torrent's.
    let found = look_lazily(&fixture, [7, 1]);
    let why = found.to_write_over.unwrap();
    assert!(found.stamps.is_some() && why.contains("in \"t/a\""), "{why}");
    assert_eq!((found.have_count, found.wrong_count), (1, 1));
}

#[test]
fn link_in_the_place_of_a_folder_is_named_and_not_the_files_in_it() {
    let fixture = fixture_of_two();
    std::fs::remove_dir(fixture.data.join("t")).unwrap();
    std::os::unix::fs::symlink(&fixture.data, fixture.data.join("t")).unwrap();
    let why = fixture.look(true).why.unwrap();
    assert!(why.starts_with("\"t\": a symbolic link"), "{why}");
}

#[test]
fn part_that_btd_has_not_begun_and_that_has_nothing_of_the_torrent_is_not_written_over() {
    let fixture = fixture();
    std::fs::write(fixture.data.join("x.part"), [7; 16384]).unwrap();
    let found = fixture.look(true);
    let why = found.why.unwrap();
    assert!(
        found.held.is_some() && why.contains("\"x.part\" is there already"),
        "{why}"
    );
    crate::control::history::note_begun(&fixture.session, fixture.meta.info_hash, || true);
    assert!(fixture.look(true).stamps.is_some(), "it is btd's own");
    // As it is of one that was served in part before, when its record says that it is being written.
    let served = |history: Option<crate::session::History>| {
        history.map(|history| crate::session::History { uploaded: 5, ..history })
    };
    fixture.session.change_history(fixture.meta.info_hash, served);
    assert!(fixture.look(true).stamps.is_none(), "nothing says so");
    let record = Record {
        files: vec![Some(FileStamp::being_written(16384))],
        ..fixture.session.load(&fixture.meta.info_hash, 1, 1).unwrap()
    };
    fixture.session.put(fixture.meta.info_hash, record);
    assert!(fixture.look(true).stamps.is_some());
    // Nor is there a `.part` without `part-names`.
    std::fs::remove_file(fixture.data.join("x.part")).unwrap();
    fixture.write(7);
    assert!(fixture.look(true).stamps.is_some());
}

#[test]
fn piece_that_is_doubted_while_a_check_runs_is_not_put_back_into_the_record() {
    let fixture = fixture();
    fixture.write(0);
    assert_eq!(fixture.look(true).have_count, 1);
    let (info_hash, piece) = (fixture.meta.info_hash, fixture.meta.geometry.piece_index(0).unwrap());
    let before = fixture.session.load(&info_hash, 1, 1).unwrap();
    // It could not be read, or was wrong.
    for is_wrong in [false, true] {
        fixture.session.doubt(info_hash, (1, 1), piece, is_wrong);
        let put = fixture.session.put_found(info_hash, Ok(Some(&before)), &before);
        assert!(put.have.is_empty() && put.wrong.get(piece) == is_wrong);
        assert_eq!(fixture.session.load(&info_hash, 1, 1), Some(put.clone()));
        // One that has seen it has read the piece.
        fixture.session.put_found(info_hash, Ok(Some(&put)), &before);
        assert_eq!(fixture.session.load(&info_hash, 1, 1).as_ref(), Some(&before));
    }
}

/// A disk that takes all of files, and folders as it says.
struct Folders(bool);

impl crate::storage::simulated::Disk for Folders {
    fn step(&self) {}

    fn sync(&self, fd: std::os::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
        let stat = rustix::fs::fstat(fd)?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory if !self.0 => Err(rustix::io::Errno::IO),
            _ => Ok(()),
        }
    }

    fn forget_cached(&self, _: std::os::fd::BorrowedFd<'_>) {}
}

/// Found by the simulated swarm: it was taken for whole, its name was lost with the power, and it was not had again.
#[test]
fn a_download_whose_last_name_may_be_lost_is_not_noted_as_whole() {
    let temp = tempfile::tempdir().unwrap();
    let (state, data) = (temp.path().join("state"), temp.path().join("data"));
    std::fs::create_dir(&state).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("x"), [0; 16384]).unwrap();
    let mut bytes = crate::control::watch::testing::torrent("x");
    let at = bytes.len() - 22;
    let mut hasher = crate::hashing::Hasher::new();
    hasher.update(&[0; 16384]);
    bytes[at..at + 20].copy_from_slice(&hasher.finish());
    let meta = Metainfo::parse(&bytes).unwrap();
    let info_hash = meta.info_hash;
    let session = Store::open(&state).unwrap().0;
    session.put(
        info_hash,
        Record {
            have: Bitfield::full(1),
            wrong: Bitfield::new(1),
            judged: 1,
            files: vec![Some(FileStamp::being_written(16384))],
        },
    );
    let job = Job {
        info_hash,
        generation: 0,
        contents: Arc::new(meta).into(),
        data_dir: data.clone(),
        trust: true,
        unread: Unread::Now,
        doubted: None,
        blanks: Blanks::default(),
        home: Some(0),
        progress: Arc::new(Progress::new(16384)),
    };
    for takes_folders in [false, true] {
        let disk: std::rc::Rc<dyn crate::storage::simulated::Disk> = std::rc::Rc::new(Folders(takes_folders));
        let (pool, throttle) = (Pool::by_hand(4), Throttle::default());
        let means = Means {
            pool: &pool,
            throttle: &throttle,
            seeks: false,
        };
        let root = Arc::new(Root::open(&data).unwrap());
        let found = crate::storage::simulated::on(disk, || look(&job, root, means, &session)).unwrap();
        assert_eq!(found.have_count, 1, "what was synced before is served");
        let history = session.load_history(&info_hash);
        let is_whole = history.is_some_and(|history| history.completed.is_some());
        assert_eq!(is_whole, takes_folders);
    }
}

/// One whose session can be made unreadable.
fn fixture_on(disk: &simulated::Disk) -> Fixture {
    Fixture {
        session: Store::simulated(disk),
        ..fixture()
    }
}

/// One that was complete, and whose file has gone since, with a session that cannot be read.
fn gone_and_unreadable() -> (simulated::Disk, Fixture) {
    let disk = simulated::Disk::default();
    let fixture = fixture_on(&disk);
    fixture.write(0);
    assert_eq!(fixture.look(true).have_count, 1);
    assert!(fixture.session.flush());
    std::fs::remove_file(fixture.data.join("x")).unwrap();
    disk.set_unreadable(true);
    (disk, fixture)
}

/// It was taken for one that nobody has ever had, and was downloaded again.
#[test]
fn torrent_that_was_complete_once_is_not_downloaded_while_the_session_cannot_be_read() {
    let (disk, fixture) = gone_and_unreadable();
    let found = fixture.look(true);
    let why = found.why.unwrap();
    assert!(
        found.stamps.is_none() && found.is_unsynced && why.contains("cannot read"),
        "{why}"
    );
    // What is there is served.
    fixture.write(0);
    let found = fixture.look(true);
    assert!(found.torrent.is_some() && found.have_count == 1 && !found.is_unsynced);
    std::fs::remove_file(fixture.data.join("x")).unwrap();
    disk.set_unreadable(false);
    let found = fixture.look(true);
    assert!(found.was_whole && found.stamps.is_none() && !found.is_unsynced);
}

/// It was looked at once more as one of which nothing was asked, and never had again.
#[test]
fn verify_while_the_session_cannot_be_read_is_done_once_it_can_be() {
    let (disk, fixture) = gone_and_unreadable();
    for (trust, wants_all) in [(true, false), (false, false), (true, true)] {
        let job = fixture.job(trust);
        if wants_all {
            job.progress.want_all();
        }
        let found = fixture.look_as(&job);
        assert!(found.is_unknown && found.stamps.is_none() && !found.was_whole);
        assert_eq!(found.trusts_next(&job), trust && !wants_all);
    }
    let job = fixture.job(false);
    let found = fixture.look_as(&job);
    disk.set_unreadable(false);
    let found = fixture.look(found.trusts_next(&job));
    assert!(found.stamps.is_some() && found.trusts_next(&job), "it is had again");
}

/// It was called one that is not downloaded again by itself when there was somebody to have it from.
#[test]
fn verify_while_there_is_nobody_to_have_it_from_is_done_once_there_is() {
    let fixture = fixture();
    fixture.write(0);
    assert_eq!(fixture.look(true).have_count, 1);
    fixture.write(7);
    let job = |trust, home| Job {
        home,
        ..fixture.job(trust)
    };
    // Nobody has asked for it yet.
    assert!(fixture.look_as(&job(true, None)).was_whole && fixture.look(true).was_whole);
    let found = fixture.look_as(&job(false, None));
    assert!(!found.was_whole && found.stamps.is_none());
    let found = fixture.look(true);
    assert!(!found.was_whole && found.stamps.is_some(), "it is had again");
}

/// A download's files have their lengths from the start.
#[test]
fn payload_is_not_believed_while_it_cannot_be_read_whether_it_is_being_downloaded() {
    let disk = simulated::Disk::default();
    let fixture = fixture_on(&disk);
    fixture.write(7);
    disk.set_unreadable(true);
    let job = Job {
        unread: Unread::Never,
        ..fixture.job(true)
    };
    let found = fixture.look_as(&job);
    assert!(found.have_count == 0 && found.stamps.is_none() && found.held.is_none() && found.is_unsynced);
    disk.set_unreadable(false);
    assert!(fixture.look(true).held.is_some(), "it is somebody else's");
}

/// A disk that takes folders, and no files.
struct NoFiles;

impl crate::storage::simulated::Disk for NoFiles {
    fn step(&self) {}

    fn sync(&self, fd: std::os::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
        let stat = rustix::fs::fstat(fd)?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => Ok(()),
            _ => Err(rustix::io::Errno::IO),
        }
    }

    fn forget_cached(&self, _: std::os::fd::BorrowedFd<'_>) {}
}

/// Found by the simulated swarm: long pieces are written as they come, and a liar's went over the only copy there was.
#[test]
fn what_may_be_right_and_cannot_be_synced_is_not_downloaded_over() {
    let temp = tempfile::tempdir().unwrap();
    let (state, data) = (temp.path().join("state"), temp.path().join("data"));
    std::fs::create_dir(&state).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("x"), [0; 16384]).unwrap();
    let mut bytes = crate::control::watch::testing::torrent("x");
    let at = bytes.len() - 22;
    let mut hasher = crate::hashing::Hasher::new();
    hasher.update(&[0; 16384]);
    bytes[at..at + 20].copy_from_slice(&hasher.finish());
    let meta = Metainfo::parse(&bytes).unwrap();
    let session = Store::open(&state).unwrap().0;
    let job = Job {
        info_hash: meta.info_hash,
        generation: 0,
        contents: Arc::new(meta).into(),
        data_dir: data.clone(),
        trust: true,
        unread: Unread::Now,
        doubted: None,
        blanks: Blanks::default(),
        home: Some(0),
        progress: Arc::new(Progress::new(16384)),
    };
    let look_at_it = || {
        let (pool, throttle) = (Pool::by_hand(4), Throttle::default());
        let means = Means {
            pool: &pool,
            throttle: &throttle,
            seeks: false,
        };
        look(&job, Arc::new(Root::open(&data).unwrap()), means, &session).unwrap()
    };
    let found = crate::storage::simulated::on(std::rc::Rc::new(NoFiles), look_at_it);
    assert!(found.is_unsynced && found.torrent.is_none() && found.stamps.is_none());
    let found = look_at_it();
    assert!(!found.is_unsynced && found.have_count == 1);
    // What is not there at all is downloaded.
    std::fs::remove_file(data.join("x")).unwrap();
    session.forget(job.info_hash);
    let found = crate::storage::simulated::on(std::rc::Rc::new(NoFiles), look_at_it);
    assert!(!found.is_unsynced && found.stamps.is_some());
}

/// What comes of `look`, within a minute.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Some(seen) => return seen,
            None => assert!(Instant::now() < until, "it does not come"),
        }
        std::thread::yield_now();
    }
}

/// It began after all checks before it, and after the end of a pause.
#[test]
fn torrent_of_which_nothing_is_there_waits_for_no_check_and_for_no_pause() {
    let fixture = fixture();
    fixture.write(0);
    let other = Metainfo::parse(&crate::control::watch::testing::torrent("y")).unwrap();
    let jobs = [0, 1].map(|generation| Job {
        generation,
        ..fixture.job(true)
    });
    let bare = Job {
        info_hash: other.info_hash,
        generation: 2,
        contents: Arc::new(other).into(),
        ..fixture.job(true)
    };
    let (session, throttle) = (Arc::new(fixture.session), Arc::new(Throttle::default()));
    let places = Arc::new(Places::new(Arc::clone(&session)));
    let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
    let checks = Checks::start(&fixture.pool, &throttle, (&session, &places), 1, sender).unwrap();
    throttle.pause();
    let [first, second] = jobs;
    let begun = Arc::clone(&first.progress);
    checks.submit(first);
    wait_for(|| begun.has_begun().then_some(()));
    checks.submit(second);
    let wait = wait_for(|| {
        checks
            .wait_of(fixture.meta.info_hash, 1)
            .filter(|wait| *wait != Wait::ToBePlaced)
    });
    assert!(matches!(wait, Wait::InLine(_, 1)), "{wait:?}");
    checks.submit(bare);
    let checked = wait_for(|| results.try_recv().ok());
    let found = checked.result.unwrap();
    assert!(checked.job.generation == 2 && found.have_count == 0 && found.stamps.is_some());
    assert!(results.try_recv().is_err(), "the others wait");
    throttle.resume();
    let generations = [(); 2].map(|()| wait_for(|| results.try_recv().ok()).job.generation);
    assert_eq!(generations, [0, 1]);
    checks.cancel();
}

/// `btd ctl verify` said of the next one that it waited behind one other, and there was none.
#[test]
fn check_that_has_been_told_of_is_over_for_those_that_come_after_it() {
    let fixture = fixture();
    fixture.write(0);
    let job = |generation| Job {
        generation,
        ..fixture.job(false)
    };
    let (first, second) = (job(1), job(2));
    let begun = Arc::clone(&second.progress);
    let (session, throttle) = (Arc::new(fixture.session), Arc::new(Throttle::default()));
    let places = Arc::new(Places::new(Arc::clone(&session)));
    let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
    let checks = Checks::start(&fixture.pool, &throttle, (&session, &places), 1, sender).unwrap();
    checks.submit(first);
    wait_for(|| results.try_recv().ok());
    checks.submit(second);
    wait_for(|| {
        let wait = checks.wait_of(fixture.meta.info_hash, 2);
        assert!(!matches!(wait, Some(Wait::InLine(..))), "{wait:?}");
        begun.has_begun().then_some(())
    });
    wait_for(|| results.try_recv().ok());
    checks.cancel();
}

#[test]
fn what_is_recorded_or_there_has_its_turn() {
    let fixture = fixture();
    let root = Arc::new(Root::open(&fixture.data).unwrap());
    let throttle = Throttle::default();
    let means = Means {
        pool: &fixture.pool,
        throttle: &throttle,
        seeks: true,
    };
    let job = fixture.job(true);
    let look = || look_if_bare(&job, Arc::clone(&root), means, &fixture.session);
    assert!(look().unwrap().unwrap().stamps.is_some());
    fixture.write(0);
    assert!(look().is_none(), "it is there");
    assert_eq!(fixture.look(true).have_count, 1);
}

/// It was forgotten if btd ended before its turn.
#[test]
fn all_is_to_be_read_whatever_a_check_has_recorded_until_that_is_told() {
    let fixture = fixture();
    fixture.write(0);
    assert_eq!(fixture.look(true).have_count, 1);
    let to_be_read = || {
        assert!(fixture.session.flush());
        fixture.session.load_verifies().unwrap()
    };
    fixture.session.put_verify(fixture.meta.info_hash, true);
    assert_eq!(to_be_read(), [fixture.meta.info_hash]);
    assert!(fixture.look(true).known, "another check does not do it");
    assert_eq!(to_be_read(), [fixture.meta.info_hash]);
    // A check that was cut short records what it has read, and the next start is to read the rest as well.
    fixture.write(7);
    assert_eq!(fixture.look(false).wrong_count, 1);
    assert_eq!(to_be_read(), [fixture.meta.info_hash]);
}
