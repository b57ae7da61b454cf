//! What threads find out about a download's files, and what comes of it.

use std::path::Path;

use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::proto::metainfo::Metainfo;
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
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("data")).unwrap();
    let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).unwrap();
    let root = Arc::new(Root::open(temp.path().join("data")).unwrap());
    let none = Bitfield::new(1);
    let torrent = Torrent::to_download(meta, root, &none, &[true], 0);
    let session = Arc::new(Store::open(temp.path()).unwrap().0);
    let (sender, done) = unbounded_channel();
    let options = Options {
        preallocate: part::Preallocate::Sparse,
        part_names: true,
    };
    let mut downloads = Downloads::new(Arc::clone(&session), options, sender);
    downloads.add(Arc::clone(&torrent), vec![None]);
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
        let geometry = *self.torrent.geometry();
        self.torrent.grant(geometry.pieces().next().unwrap());
        let info_hash = self.torrent.info_hash();
        let have = self.torrent.have();
        self.downloads.on_written(info_hash, have, (vec![0], vec![0]), 16384);
        self.next()
    }

    fn next(&mut self) -> Vec<Outcome> {
        let done = self.done.blocking_recv().expect("a thread ends");
        self.downloads.on_done(done)
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
    assert!(matches!(fixture.written()[..], [Outcome::Complete]));
    assert!(!exists(&fixture.part()) && exists(&fixture.temp.path().join("data/x")));
    assert_eq!(fixture.known(), Some(1));
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
        matches!(outcomes[..], [Outcome::Prepared(_), Outcome::Complete]),
        "{outcomes:?}"
    );
}

#[test]
fn thread_of_a_download_that_has_left_records_nothing() {
    let mut fixture = fixture();
    fixture.wanted();
    let info_hash = fixture.torrent.info_hash();
    let is_current = Arc::clone(&fixture.downloads.entries[&info_hash].is_current);
    let gate = lock(&is_current);
    fixture
        .torrent
        .grant(fixture.torrent.geometry().pieces().next().unwrap());
    let have = fixture.torrent.have();
    fixture.downloads.on_written(info_hash, have, (vec![0], vec![0]), 16384);
    // The thread waits here, and the torrent leaves.
    drop(gate);
    fixture.downloads.remove(info_hash);
    let recorded = fixture.known();
    assert!(fixture.next().is_empty());
    assert_eq!(fixture.known(), recorded, "nothing after it left");
}
