//! The data folders, and whether each is the one that it was: there, and on the filesystem that its payload is on.
//!
//! An empty mount point looks like payload that was deleted, and what is downloaded into it lies on another disk. So a
//! folder is *bound* to its filesystem as soon as something of a torrent was found in it or made there, and that is kept in
//! the session. Before that any will do: at a first start nobody can know better. A folder that is not there, or on another
//! filesystem, is absent: its torrents wait, nothing is read or written, and what was known of them holds when it is back.
//!
//! Everything that reads or writes payload goes by a [`Root`] that [`Places::open`] has judged, by its own descriptor; that
//! a path leads elsewhere a moment later changes nothing for it. A thread for each folder looks at its path now and then:
//! one that hangs on a dead network mount holds up nobody else.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::session::{self, Filesystem, Store};
use crate::storage::{Root, filesystem_of};

/// How often folders are looked at. What is back is seen, and what is gone, within it.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a data folder cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Absence {
    /// Nothing is there.
    #[error(
        "the data folder {} is not there (hint: mount its disk, or make the folder: btd goes on by itself)",
        path.display()
    )]
    Gone {
        /// The folder.
        path: PathBuf,
    },
    /// Something else is in its place.
    #[error(
        "the data folder {} is on {now} and no longer on {then}, so that its disk seems not to be mounted (hint: mount it, \
         and btd goes on by itself; if the payload has moved here for good, `btd ctl moved {}` says so)",
        path.display(), path.display()
    )]
    Other {
        /// The folder.
        path: PathBuf,
        /// What it was on.
        then: Box<Filesystem>,
        /// What it is on.
        now: Box<Filesystem>,
    },
    /// It is there, and cannot be used.
    #[error("cannot open the data folder {}: {source} (tried again every {} s)", path.display(), LOOK_EVERY.as_secs())]
    Closed {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is there, and whether it is the one that it was cannot be read.
    #[error(
        "it is not known which disk the data folder {} was on: {source} (tried again every {} s; hint: look after the disk of the state \
         folder)",
        path.display(), LOOK_EVERY.as_secs()
    )]
    Unknown {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: session::Error,
    },
}

impl Absence {
    fn unknown(path: &Path, source: session::Error) -> Self {
        let path = path.to_owned();
        Self::Unknown { path, source }
    }

    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Gone { path },
            _ => Self::Closed { path, source },
        }
    }
}

/// What a look at a folder has found.
#[derive(Debug)]
pub(super) struct Look {
    /// The folder.
    pub(super) path: PathBuf,
    /// Which one it is, by device and inode, or why it cannot be used.
    pub(super) found: Result<(u64, u64), Absence>,
}

/// What became of a folder that is to be bound again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BoundAgain {
    /// It is bound from now on.
    Now,
    /// It was bound when something was found in it.
    Already,
    /// Nobody has looked at it since it was said to have moved. To be tried again after the next look.
    NotYet,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Places {
    session: Arc<Store>,
    known: Mutex<HashMap<PathBuf, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which it was when it was judged last.
    root: Option<Arc<Root>>,
    seen: Option<Filesystem>,
    /// What it was on when it was looked at last, and could be used.
    looked: Option<Filesystem>,
    /// What it is bound to, once that was read from the session.
    bound: Option<Option<Filesystem>>,
    /// Somebody said that its payload has moved, and nothing was bound since.
    has_moved: bool,
}

impl Places {
    pub(super) fn new(session: Arc<Store>) -> Self {
        let known = Mutex::default();
        Self { session, known }
    }

    /// Takes hold of a data folder, if it is the one that it was. Torrents of one folder share its descriptor, however many
    /// they are. Blocks on the disk.
    pub(super) fn open(&self, path: &Path) -> Result<Arc<Root>, Absence> {
        let absence = |error| Absence::of(path, error);
        // The lock is not held while a filesystem is asked: a dead network mount would stop everybody.
        let held = self.lock().get(path).and_then(|known| known.root.clone());
        if let Some(root) = held {
            // What was held may have been unmounted or replaced since. What is held keeps its numbers from being used again.
            let there = rustix::fs::stat(path).map_err(|errno| absence(errno.into()))?;
            if root.identity() == (there.st_dev, there.st_ino) {
                return Ok(root);
            }
        }
        let root = Arc::new(Root::open(path).map_err(absence)?);
        let now = self.judge(path, &root)?;
        let mut known = self.lock();
        let known = known.entry(path.to_owned()).or_default();
        known.root = Some(Arc::clone(&root));
        known.seen = Some(now);
        Ok(root)
    }

    /// Looks whether a folder is the one that it was, and holds on to nothing. Blocks on the disk.
    pub(super) fn look(&self, path: &Path) -> Result<(u64, u64), Absence> {
        let root = Root::open(path).map_err(|error| Absence::of(path, error))?;
        let looked = self.judge(path, &root)?;
        self.lock().entry(path.to_owned()).or_default().looked = Some(looked);
        Ok(root.identity())
    }

    /// The filesystem of a folder, if it may be this one.
    fn judge(&self, path: &Path, root: &Root) -> Result<Filesystem, Absence> {
        let now = filesystem_of(root).map_err(|error| Absence::of(path, error))?;
        match self.bound(path)? {
            Some(then) if !then.is_same(&now) => {
                let path = path.to_owned();
                let (then, now) = (Box::new(then), Box::new(now));
                Err(Absence::Other { path, then, now })
            }
            _ => Ok(now),
        }
    }

    /// What a folder is bound to. While that cannot be read, nothing of it is used: its disk may not be mounted.
    fn bound(&self, path: &Path) -> Result<Option<Filesystem>, Absence> {
        if let Some(bound) = self.lock().get(path).and_then(|known| known.bound.clone()) {
            return Ok(bound);
        }
        let loaded = self.session.load_place(path);
        let loaded = loaded.map_err(|error| Absence::unknown(path, error))?;
        let mut known = self.lock();
        let known = known.entry(path.to_owned()).or_default();
        Ok(known.bound.get_or_insert(loaded).clone())
    }

    /// Something of a torrent is in this folder, which [`Places::open`] gave for this path: from now on what is there has to
    /// be on the filesystem that it is on. Another may have been opened there since, in which nothing was found. Blocks on
    /// the disk if that is so.
    pub(super) fn bind(&self, path: &Path, root: &Root) {
        let (held, has_moved) = {
            let known = self.lock();
            let has_moved = known.get(path).is_some_and(|known| known.has_moved);
            let of_root = known
                .get(path)
                .filter(|known| known.root.as_ref().is_some_and(|held| held.is_same(root)));
            (of_root.and_then(|known| known.seen.clone()), has_moved)
        };
        // What was found before somebody said that all of it is elsewhere is not what is meant.
        if has_moved && held.is_none() && !is_at(path, root) {
            return;
        }
        let Some(seen) = held.or_else(|| filesystem_of(root).ok()) else {
            return; // It has gone this moment. What is there when it is back says what it is.
        };
        let mut known = self.lock();
        let known = known.entry(path.to_owned()).or_default();
        // Somebody said so meanwhile, and it was bound anew.
        let is_older = matches!(&known.bound, Some(Some(bound)) if !bound.is_same(&seen));
        // Where it is mounted and what from may have changed since.
        if !is_older && known.bound.as_ref() != Some(&Some(seen.clone())) {
            self.session.put_place(path, Some(&seen));
            known.bound = Some(Some(seen));
            known.has_moved = false;
        }
    }

    /// Nothing of the folder has to be found anew: torrents are served from it, and it is the one that it was. Binds it to the
    /// filesystem that was seen when it was looked at last, if somebody has looked since it was said to have moved. Does not wait
    /// for a disk.
    pub(super) fn bind_again(&self, path: &Path) -> BoundAgain {
        let mut known = self.lock();
        let Some(known) = known.get_mut(path) else {
            return BoundAgain::NotYet;
        };
        if matches!(known.bound, Some(Some(_))) {
            return BoundAgain::Already;
        }
        let Some(looked) = &known.looked else {
            return BoundAgain::NotYet;
        };
        self.session.put_place(path, Some(looked));
        known.bound = Some(Some(looked.clone()));
        known.has_moved = false;
        BoundAgain::Now
    }

    /// Somebody says that a folder's payload has moved: it may be on any filesystem, until it is bound anew.
    pub(super) fn unbind(&self, path: &Path) {
        self.session.put_place(path, None);
        let bound = Some(None);
        let unbound = Known {
            bound,
            has_moved: true,
            ..Known::default()
        };
        self.lock().insert(path.to_owned(), unbound);
    }

    /// Nobody needs the folder open any more: its filesystem can be unmounted.
    pub(super) fn release(&self, path: &Path) {
        if let Some(known) = self.lock().get_mut(path) {
            known.root = None;
        }
    }

    /// Looks at a folder now, and now and then from now on, as long as the watch is kept. What is found is told.
    pub(super) fn watch(self: &Arc<Self>, path: PathBuf, told: UnboundedSender<Look>) -> io::Result<Watching> {
        let (sender, wanted) = channel();
        let places = Arc::clone(self);
        std::thread::Builder::new()
            .name("btd-place".to_owned())
            .spawn(move || {
                loop {
                    let found = places.look(&path);
                    let path = path.clone();
                    let is_heard = told.send(Look { path, found }).is_ok();
                    if !is_heard || wanted.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected) {
                        return;
                    }
                }
            })?;
        Ok(Watching(sender))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Known>> {
        // No state here is broken by a panic half-way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Places::watch`]. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watching(Sender<()>);

impl Watching {
    /// Looks once more, now.
    pub(super) fn hurry(&self) {
        let _ = self.0.send(()); // The thread may have ended with btd.
    }
}

/// Whether this folder is what the path leads to now.
fn is_at(path: &Path, root: &Root) -> bool {
    std::fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == root.identity())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::simulated;

    /// What lies at its path may not be its disk.
    #[test]
    fn folder_is_not_used_while_it_cannot_be_read_what_it_is_bound_to() {
        let temp = tempfile::tempdir().unwrap();
        let disk = simulated::Disk::default();
        let places = Places::new(Arc::new(Store::simulated(&disk)));
        disk.set_unreadable(true);
        let absence = places.open(temp.path()).unwrap_err();
        assert!(matches!(absence, Absence::Unknown { .. }), "{absence}");
        disk.set_unreadable(false);
        places.open(temp.path()).unwrap();
        // It is known from then on.
        disk.set_unreadable(true);
        places.look(temp.path()).unwrap();
    }

    struct Fixture {
        temp: tempfile::TempDir,
        session: Arc<Store>,
        places: Places,
    }

    fn fixture() -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let session = Arc::new(Store::open(temp.path()).unwrap().0);
        std::fs::create_dir(temp.path().join("data")).unwrap();
        let places = Places::new(Arc::clone(&session));
        Fixture { temp, session, places }
    }

    impl Fixture {
        fn data(&self) -> PathBuf {
            self.temp.path().join("data")
        }

        /// As after a restart, with this recorded.
        fn bound_to(&self, filesystem: &Filesystem) -> Places {
            self.session.put_place(&self.data(), Some(filesystem));
            Places::new(Arc::clone(&self.session))
        }
    }

    fn elsewhere() -> Filesystem {
        filesystem_of(std::fs::File::open("/proc").unwrap()).unwrap()
    }

    #[test]
    fn a_folder_may_be_anywhere_until_something_is_found_in_it() {
        let fixture = fixture();
        let data = fixture.data();
        let root = fixture.places.open(&data).unwrap();
        assert_eq!(fixture.session.load_place(&data).unwrap(), None);
        fixture.places.bind(&data, &root);
        let bound = fixture.session.load_place(&data).unwrap().expect("it is recorded");
        assert!(bound.is_same(&filesystem_of(std::fs::File::open(&data).unwrap()).unwrap()));
        assert!(fixture.places.open(&data).is_ok() && fixture.places.look(&data).is_ok());
    }

    #[test]
    fn a_folder_on_another_filesystem_than_before_is_not_opened_until_somebody_says_so() {
        let fixture = fixture();
        let data = fixture.data();
        let places = fixture.bound_to(&elsewhere());
        let absence = places.open(&data).unwrap_err();
        assert!(matches!(absence, Absence::Other { .. }), "{absence}");
        assert!(absence.to_string().contains("btd ctl moved"), "{absence}");
        assert!(places.look(&data).is_err());
        places.bind(&data, &Root::open(&data).unwrap());
        assert_eq!(
            fixture.session.load_place(&data).unwrap(),
            Some(elsewhere()),
            "it is not the one that it was"
        );
        places.unbind(&data);
        assert_eq!(fixture.session.load_place(&data).unwrap(), None);
        assert!(places.look(&data).is_ok() && places.open(&data).is_ok());
    }

    #[test]
    fn what_a_folder_is_bound_to_is_what_its_payload_was_found_on_and_not_what_was_opened_since() {
        let fixture = fixture();
        let (data, places) = (fixture.data(), &fixture.places);
        // Payload is looked for on one disk; meanwhile there is another in its place, which is opened as well.
        let found_in = Arc::new(Root::open(Path::new("/proc")).unwrap());
        places.open(&data).unwrap();
        places.bind(&data, &found_in);
        let bound = fixture.session.load_place(&data).unwrap().expect("it is recorded");
        assert!(bound.is_same(&elsewhere()), "{bound}");
        assert!(places.look(&data).is_err(), "the other one is not taken for it");
    }

    #[test]
    fn what_was_opened_before_a_folder_moved_does_not_bind_it_afterwards() {
        let fixture = fixture();
        let (data, places) = (fixture.data(), &fixture.places);
        // A check holds the folder of before while somebody says that its payload is elsewhere now.
        let before = Arc::new(Root::open(Path::new("/proc")).unwrap());
        places.unbind(&data);
        places.bind(&data, &before);
        assert_eq!(fixture.session.load_place(&data).unwrap(), None);
        let now = places.open(&data).unwrap();
        places.bind(&data, &now);
        assert!(fixture.session.load_place(&data).unwrap().is_some());
    }

    #[test]
    fn a_folder_that_is_well_is_bound_again_after_somebody_said_that_it_has_moved() {
        let fixture = fixture();
        let (data, places) = (fixture.data(), &fixture.places);
        let root = places.open(&data).unwrap();
        places.bind(&data, &root);
        places.unbind(&data);
        assert_eq!(places.bind_again(&data), BoundAgain::NotYet);
        assert_eq!(
            fixture.session.load_place(&data).unwrap(),
            None,
            "nobody has looked since"
        );
        places.look(&data).unwrap();
        assert_eq!(places.bind_again(&data), BoundAgain::Now);
        assert!(fixture.session.load_place(&data).unwrap().is_some());
        assert_eq!(places.bind_again(&data), BoundAgain::Already);
    }

    #[test]
    fn a_folder_that_is_not_there_is_absent_and_is_not_made() {
        let fixture = fixture();
        let none = fixture.temp.path().join("none");
        assert!(matches!(fixture.places.open(&none), Err(Absence::Gone { .. })));
        assert!(matches!(fixture.places.look(&none), Err(Absence::Gone { .. })));
        assert!(!none.exists());
        let file = fixture.temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(fixture.places.open(&file), Err(Absence::Closed { .. })));
    }

    #[test]
    fn a_folder_in_the_place_of_one_that_is_held_is_opened_anew() {
        let fixture = fixture();
        let data = fixture.data();
        let before = fixture.places.open(&data).unwrap();
        assert!(Arc::ptr_eq(&before, &fixture.places.open(&data).unwrap()));
        std::fs::rename(&data, fixture.temp.path().join("moved")).unwrap();
        std::fs::create_dir(&data).unwrap();
        let after = fixture.places.open(&data).unwrap();
        assert!(!after.is_same(&before));
        assert_eq!(fixture.places.look(&data).unwrap(), after.identity());
    }

    #[test]
    fn a_folder_that_is_watched_is_told_of_at_once_and_when_it_is_asked_for() {
        let fixture = fixture();
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let places = Arc::new(fixture.places);
        let data = fixture.temp.path().join("data");
        let watching = places.watch(data.clone(), sender).unwrap();
        assert!(told.blocking_recv().unwrap().found.is_ok());
        std::fs::remove_dir(&data).unwrap();
        watching.hurry();
        assert!(matches!(told.blocking_recv().unwrap().found, Err(Absence::Gone { .. })));
        drop(watching);
        assert!(told.blocking_recv().is_none(), "the thread ends");
    }
}
