//! What threads find out about a download's files, and what comes of it.

use std::path::Path;

use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::control::checks;
use crate::proto::metainfo::Metainfo;
use crate::session;
use crate::storage::{PART_SUFFIX, Root};

/// A torrent of one piece that is being downloaded, and what its threads have done.
struct Fixture {
    temp: TempDir,
    torrent: Arc<Torrent>,
    session: Arc<Store>,
    downloads: Downloads,
    done: UnboundedReceiver<Done>,
}

fn fixture() -> Fixture {
    fixture_with(|temp| Store::open(temp).unwrap().0)
}

/// One whose session is written when it is flushed, and can be made to fail.
fn fixture_on(disk: &session::simulated::Disk) -> Fixture {
    fixture_with(|_| Store::simulated(disk))
}

fn fixture_with(session: impl FnOnce(&Path) -> Store) -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("data")).unwrap();
    let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).unwrap();
    let root = Arc::new(Root::open(temp.path().join("data")).unwrap());
    let none = Bitfield::new(1);
    let torrent = Torrent::to_download(meta, root, &none, &[true], 0);
    let session = Arc::new(session(temp.path()));
    let (sender, done) = unbounded_channel();
    let options = Options {
        preallocate: part::Preallocate::Sparse,
        part_names: true,
    };
    let mut downloads = Downloads::new(Arc::clone(&session), options, sender, (on_thread, Arc::default()));
    let judged = Judged {
        stamps: vec![None],
        seen: vec![Seen::Nothing],
    };
    downloads.add(Arc::clone(&torrent), judged);
    Fixture {
        temp,
        torrent,
        session,
        downloads,
        done,
    }
}

impl Fixture {
    fn part(&self) -> std::path::PathBuf {
        self.temp.path().join("data").join(format!("x{PART_SUFFIX}"))
    }

    fn wanted(&mut self) -> Vec<Outcome> {
        self.downloads.on_wanted(self.torrent.info_hash());
        self.next()
    }

    /// All that is missing was written.
    fn written(&mut self) -> Vec<Outcome> {
        self.begin_written();
        self.next()
    }

    fn begin_written(&mut self) {
        let geometry = *self.torrent.geometry();
        self.torrent.grant(geometry.pieces().next().unwrap());
        let info_hash = self.torrent.info_hash();
        let have = self.torrent.have();
        self.downloads.on_written(info_hash, have, (vec![0], vec![0]));
    }

    fn next(&mut self) -> Vec<Outcome> {
        let done = self.done.blocking_recv().expect("a thread ends");
        self.downloads.on_done(done, Instant::now())
    }

    fn known(&self) -> Option<u32> {
        self.session.flush();
        self.session
            .load(&self.torrent.info_hash(), 1, 1)
            .map(|record| record.have.count())
    }
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

#[test]
fn files_are_made_recorded_and_named() {
    let mut fixture = fixture();
    assert!(matches!(fixture.wanted()[..], [Outcome::Prepared(_)]));
    assert!(exists(&fixture.part()));
    assert_eq!(fixture.known(), Some(0));
    let history = fixture.session.load_history(&fixture.torrent.info_hash());
    assert!(history.is_some(), "btd has made them, should it be killed now");
    assert!(matches!(fixture.written()[..], [Outcome::Complete(_)]));
    assert!(!exists(&fixture.part()) && exists(&fixture.temp.path().join("data/x")));
    assert_eq!(fixture.known(), Some(1));
}

/// A file of which nothing is right is somebody else's, unless btd knows that it has begun it.
#[test]
fn files_are_known_to_be_begun_before_anything_is_written_to_them() {
    let mut fixture = fixture();
    assert!(matches!(fixture.wanted()[..], [Outcome::Prepared(_)]));
    fixture.session.flush();
    let history = fixture.session.load_history(&fixture.torrent.info_hash());
    assert!(history.is_some_and(|history| history.completed.is_none() && history.uploaded == 0));
}

/// Found by the simulated swarm: the session could not be written when a download began, and it was killed within seconds. What was
/// left of its file was taken for somebody else's.
#[test]
fn nothing_is_written_to_files_before_it_is_on_the_disk_that_they_are_begun() {
    let disk = session::simulated::Disk::default();
    let mut fixture = fixture_on(&disk);
    let info_hash = fixture.torrent.info_hash();
    let is_begun = || checks::is_begun(&Store::simulated(&disk), info_hash, None).unwrap();
    disk.set_failing(true);
    let outcomes = fixture.wanted();
    assert!(
        matches!(&outcomes[..], [Outcome::NotRecorded { why, .. }] if why.contains("cannot write")),
        "{outcomes:?}"
    );
    fixture.downloads.on_wanted(info_hash);
    fixture.downloads.on_tick(Instant::now() + RETRY);
    assert!(
        fixture.downloads.at_rest(info_hash).is_none(),
        "nothing can be written yet"
    );
    assert!(!is_begun());
    disk.set_failing(false);
    assert!(fixture.session.flush(), "as the session does by itself");
    fixture.downloads.on_tick(Instant::now());
    assert!(
        fixture.downloads.at_rest(info_hash).is_some(),
        "no minute is waited for"
    );
    assert!(matches!(fixture.next()[..], [Outcome::Prepared(_)]));
    assert!(is_begun());
}

#[test]
fn files_are_not_made_while_it_is_known_that_the_session_cannot_be_written() {
    let disk = session::simulated::Disk::default();
    let mut fixture = fixture_on(&disk);
    let info_hash = fixture.torrent.info_hash();
    disk.set_failing(true);
    fixture.session.put_paused(info_hash, false);
    assert!(!fixture.session.flush());
    assert!(matches!(fixture.wanted()[..], [Outcome::NotRecorded { .. }]));
    assert!(!exists(&fixture.part()));
    disk.set_failing(false);
    assert!(fixture.session.flush());
    fixture.downloads.on_tick(Instant::now());
    assert!(matches!(fixture.next()[..], [Outcome::Prepared(_)]));
    assert!(exists(&fixture.part()));
}

/// A thousand downloads and a full disk made a thousand lines.
#[test]
fn one_download_is_told_of_that_waits_for_the_session_and_the_next_only_after_it_was_back() {
    let disk = session::simulated::Disk::default();
    let mut fixture = fixture_on(&disk);
    let meta = Metainfo::parse(&crate::control::watch::testing::torrent("y")).unwrap();
    let root = fixture.torrent.root().clone();
    let second = Torrent::to_download(meta, root, &Bitfield::new(1), &[true], 0);
    let judged = Judged {
        stamps: vec![None],
        seen: vec![Seen::Nothing],
    };
    fixture.downloads.add(Arc::clone(&second), judged);
    // One at a time: nobody else writes the session.
    let folder = folder_of(&second).to_owned();
    fixture.downloads.lanes.entry(folder).or_default().threads = THREADS_MAX - 1;
    let is_told = |outcomes: Vec<Outcome>| match &outcomes[..] {
        [Outcome::NotRecorded { is_first, .. }] => *is_first,
        _ => panic!("{outcomes:?}"),
    };
    for _ in 0..2 {
        disk.set_failing(true);
        fixture.session.put_paused(second.info_hash(), false);
        assert!(!fixture.session.flush());
        assert!(is_told(fixture.wanted()));
        fixture.downloads.on_tick(Instant::now());
        fixture.downloads.on_wanted(second.info_hash());
        assert!(!is_told(fixture.next()));
        disk.set_failing(false);
        assert!(fixture.session.flush());
        disk.set_failing(true);
        fixture.downloads.on_tick(Instant::now());
        // Both try again, and fail.
        let told = [fixture.next(), fixture.next()].map(is_told);
        assert_eq!(told, [true, false]);
        disk.set_failing(false);
        assert!(fixture.session.flush());
        // Those that waited have left.
        fixture
            .downloads
            .entries
            .values_mut()
            .for_each(|entry| entry.waits_for_session = false);
        fixture.downloads.on_tick(Instant::now());
    }
}

/// What is wanted just when the session could be written again does not wait for the session to find that out.
#[test]
fn download_that_finds_the_session_in_order_again_begins_at_once() {
    let disk = session::simulated::Disk::default();
    let mut fixture = fixture_on(&disk);
    disk.set_failing(true);
    fixture.session.put_paused(fixture.torrent.info_hash(), false);
    assert!(!fixture.session.flush());
    disk.set_failing(false);
    assert!(matches!(fixture.wanted()[..], [Outcome::Prepared(_)]));
}

/// What was to be recorded and named goes on to be, once the torrent is known to be begun.
#[test]
fn what_was_told_while_nothing_could_be_recorded_is_done_later() {
    let disk = session::simulated::Disk::default();
    let mut fixture = fixture_on(&disk);
    disk.set_failing(true);
    assert!(matches!(fixture.written()[..], [Outcome::NotRecorded { .. }]));
    disk.set_failing(false);
    assert!(fixture.session.flush());
    fixture.downloads.on_tick(Instant::now());
    let outcomes = fixture.next();
    assert!(
        matches!(outcomes[..], [Outcome::Prepared(_), Outcome::Complete(_)]),
        "{outcomes:?}"
    );
    assert_eq!(fixture.known(), Some(1));
}

/// Nothing of what a thread was to do is lost when there is none: neither the files that were wanted nor what was written.
#[test]
fn what_no_thread_was_to_be_had_for_is_done_when_there_is_one() {
    fn no_thread(_: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
        Err(rustix::io::Errno::AGAIN.into())
    }
    let mut fixture = fixture();
    let info_hash = fixture.torrent.info_hash();
    fixture.downloads.spawn = no_thread;
    fixture.downloads.on_wanted(info_hash);
    fixture.downloads.on_tick(Instant::now());
    fixture.downloads.spawn = on_thread;
    fixture.downloads.on_tick(Instant::now());
    assert!(fixture.downloads.at_rest(info_hash).is_none(), "it is not time yet");
    fixture.downloads.on_tick(Instant::now() + RETRY);
    assert!(fixture.downloads.at_rest(info_hash).is_some(), "a thread is at work");
    assert!(matches!(fixture.next()[..], [Outcome::Prepared(_)]));
    fixture.downloads.spawn = no_thread;
    fixture.begin_written();
    fixture.downloads.spawn = on_thread;
    fixture.downloads.on_tick(Instant::now() + RETRY);
    assert!(fixture.downloads.at_rest(info_hash).is_some(), "a thread is at work");
    assert!(matches!(fixture.next()[..], [Outcome::Complete(_)]));
    assert_eq!(fixture.known(), Some(1));
}

/// Its files could be made after they were deleted.
#[test]
fn torrent_that_has_left_is_not_at_rest_before_its_thread_has_ended() {
    let mut fixture = fixture();
    let info_hash = fixture.torrent.info_hash();
    assert!(fixture.downloads.at_rest(info_hash).is_none(), "nothing was begun");
    fixture.downloads.on_wanted(info_hash);
    fixture.downloads.remove(info_hash);
    let mut rests = fixture.downloads.at_rest(info_hash).expect("a thread is at work");
    assert_eq!(rests.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    fixture.next();
    assert_eq!(rests.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    assert!(fixture.downloads.at_rest(info_hash).is_none());
}

/// A disk that takes nothing of files, and all of folders.
#[derive(Debug)]
struct Lossy;

impl crate::storage::simulated::Disk for Lossy {
    fn step(&self) {}

    fn sync(&self, fd: std::os::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
        let stat = rustix::fs::fstat(fd)?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => Ok(()),
            _ => Err(rustix::io::Errno::IO),
        }
    }

    fn forget_cached(&self, _fd: std::os::fd::BorrowedFd<'_>) {}
}

/// Found by the simulated swarm: a piece could not be read any more while others had been written and not synced, so that its
/// files were made once more, and the others were recorded with that.
#[test]
fn what_was_written_is_on_the_disk_before_it_is_recorded_when_files_are_made_again() {
    let mut fixture = fixture();
    fixture.downloads.spawn = |work| {
        work();
        Ok(())
    };
    fixture.wanted();
    fixture
        .torrent
        .grant(fixture.torrent.geometry().pieces().next().unwrap());
    let outcomes = crate::storage::simulated::on(std::rc::Rc::new(Lossy), || fixture.wanted());
    assert!(matches!(outcomes[..], [Outcome::Doubtful(_)]), "{outcomes:?}");
    assert_eq!(fixture.known(), Some(0));
}

/// A disk that takes nothing, and how many pieces a torrent was said to have when what the page cache held was dropped.
struct Watched(Arc<Torrent>, std::cell::RefCell<Vec<u32>>);

impl crate::storage::simulated::Disk for Watched {
    fn step(&self) {}

    fn sync(&self, _: std::os::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
        Err(rustix::io::Errno::IO)
    }

    fn forget_cached(&self, _: std::os::fd::BorrowedFd<'_>) {
        self.1.borrow_mut().push(self.0.have_count());
    }
}

/// Found by the simulated swarm: peers were told of a piece that was gone by then, until the shard was told to let go of it.
#[test]
fn what_the_disk_has_lost_is_not_said_to_be_there_before_its_cache_is_dropped() {
    let mut fixture = fixture();
    fixture.downloads.spawn = |work| {
        work();
        Ok(())
    };
    fixture.wanted();
    let disk = std::rc::Rc::new(Watched(Arc::clone(&fixture.torrent), Vec::new().into()));
    let outcomes = crate::storage::simulated::on(std::rc::Rc::<Watched>::clone(&disk), || fixture.written());
    assert!(matches!(outcomes[..], [Outcome::Doubtful(_)]), "{outcomes:?}");
    assert_eq!(disk.1.take(), [0]);
}

#[test]
fn file_that_is_gone_is_a_doubt_and_nothing_is_recorded_of_it() {
    let mut fixture = fixture();
    fixture.wanted();
    std::fs::remove_file(fixture.part()).unwrap();
    assert!(matches!(fixture.written()[..], [Outcome::Doubtful(_)]));
    assert_eq!(fixture.known(), Some(0));
}

/// What was to be made goes on to be made, although all pieces were told of since.
#[test]
fn files_that_could_not_be_made_are_made_later() {
    let mut fixture = fixture();
    // Something is in the way.
    std::fs::create_dir(fixture.part()).unwrap();
    let outcomes = fixture.written();
    assert!(
        matches!(outcomes[..], [Outcome::NotPrepared(_), Outcome::Failed(_)]),
        "{outcomes:?}"
    );
    std::fs::remove_dir(fixture.part()).unwrap();
    fixture.downloads.on_tick(Instant::now() + RETRY);
    let outcomes = fixture.next();
    assert!(
        matches!(outcomes[..], [Outcome::Prepared(_), Outcome::Complete(_)]),
        "{outcomes:?}"
    );
}

#[test]
fn thread_of_a_download_that_has_left_records_nothing() {
    let mut fixture = fixture();
    fixture.wanted();
    let info_hash = fixture.torrent.info_hash();
    let is_current = Arc::clone(&fixture.downloads.entries[&info_hash].is_current);
    let mut gate = lock(&is_current);
    fixture.begin_written();
    // The thread waits here, and the torrent leaves.
    *gate = false;
    drop(gate);
    fixture.next();
    assert_eq!(fixture.known(), Some(0), "as it was before");
}

#[test]
fn download_that_leaves_is_not_current_any_more() {
    let mut fixture = fixture();
    let info_hash = fixture.torrent.info_hash();
    let is_current = Arc::clone(&fixture.downloads.entries[&info_hash].is_current);
    fixture.downloads.remove(info_hash);
    assert!(!*lock(&is_current));
}

/// The end comes while a thread has the stamps: what it finds out is waited for, and what was written since is recorded.
#[test]
fn what_was_written_while_a_thread_was_at_work_is_recorded_at_the_end() {
    let mut fixture = fixture();
    let info_hash = fixture.torrent.info_hash();
    // The thread that makes the files cannot come to its end before it is waited for.
    let is_current = Arc::clone(&fixture.downloads.entries[&info_hash].is_current);
    let gate = lock(&is_current);
    fixture.downloads.on_wanted(info_hash);
    assert!(fixture.downloads.entries[&info_hash].busy);
    fixture
        .torrent
        .grant(fixture.torrent.geometry().pieces().next().unwrap());
    let Fixture {
        mut downloads,
        mut done,
        session,
        torrent,
        temp,
    } = fixture;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut rest = Box::pin(downloads.rest(&mut done));
    runtime.block_on(async {
        let once = std::future::poll_fn(|context| std::task::Poll::Ready(rest.as_mut().poll(context).is_pending()));
        assert!(once.await, "the thread is waited for");
    });
    drop(gate);
    runtime.block_on(rest);
    // A shard's last word begins no other thread.
    downloads.on_written(info_hash, torrent.have(), (vec![0], vec![]));
    std::fs::write(temp.path().join("data").join(format!("x{PART_SUFFIX}")), vec![0; 16384]).unwrap();
    downloads.settle()();
    session.flush();
    let record = session.load(&info_hash, 1, 1).unwrap();
    assert_eq!(record.have.count(), 1);
    assert!(
        record.files[0].is_some_and(|stamp| !stamp.is_being_written()),
        "{record:?}"
    );
    assert_eq!(session.load_history(&info_hash).unwrap().completed, None);
}

/// Files that become complete faster than the disk takes their names: all that wait are the next thread's, at once.
#[test]
fn what_is_written_while_a_thread_is_at_work_is_left_to_one_other() {
    let mut fixture = fixture();
    let info_hash = fixture.torrent.info_hash();
    let is_current = Arc::clone(&fixture.downloads.entries[&info_hash].is_current);
    fixture.wanted();
    // The thread that begins with the first cannot come to its end.
    let gate = lock(&is_current);
    for _ in 0..4 {
        fixture.begin_written();
    }
    let threads = |fixture: &Fixture| fixture.downloads.lanes.values().map(|lane| lane.threads).sum::<usize>();
    assert_eq!(threads(&fixture), 1);
    drop(gate);
    assert!(fixture.next().is_empty());
    assert_eq!(threads(&fixture), 1);
    assert!(matches!(fixture.next()[..], [Outcome::Complete(_)]));
    assert_eq!(threads(&fixture), 0, "nothing is left to do");
}

/// A dead network mount holds up its own torrents alone.
#[test]
fn folders_have_threads_of_their_own() {
    let mut fixture = fixture();
    let folder = folder_of(&fixture.torrent).to_owned();
    let others = fixture.temp.path().join("others");
    fixture.downloads.lanes.entry(others).or_default().threads = THREADS_MAX;
    fixture.wanted();
    fixture.downloads.lanes.entry(folder.clone()).or_default().threads = THREADS_MAX;
    fixture.begin_written();
    let info_hash = fixture.torrent.info_hash();
    assert!(!fixture.downloads.entries[&info_hash].busy);
    assert_eq!(fixture.downloads.lanes[&folder].waiting, [info_hash]);
}

/// Of a thread that could not be started nothing is waited for.
#[test]
fn nothing_is_waited_for_when_no_thread_is_at_work() {
    let mut fixture = fixture();
    let folder = folder_of(&fixture.torrent).to_owned();
    fixture.downloads.lanes.entry(folder).or_default();
    let mut rest = std::pin::pin!(fixture.downloads.rest(&mut fixture.done));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(rest.as_mut().poll(&mut context).is_ready());
}
