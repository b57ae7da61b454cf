//! The tracker as the control plane sees it: made from the configuration, and told which torrents it is for.
//!
//! Serving is the shards' affair, and sharing the swarms with other btds is that of [`store`]. Here the lists of
//! info-hashes are read, at start and whenever their files change, and with `private` the torrents that btd holds are
//! told. A list that cannot be read at start stops btd: a tracker meant for a few torrents would be open to all. Later
//! the last good one goes on being used.

mod store;

pub(super) use store::Ending as SharingEnding;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::resolver::Resolver;
use super::{blocking, config};
use crate::proto::InfoHash;
use crate::tracker::access::{ListError, parse_list};
use crate::tracker::{Access, Tracker};

/// How often the lists are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// No list is longer: 1.6 million hashes.
const LIST_LEN_MAX: u64 = 64 << 20;

/// Why there is no tracker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A list cannot be read.
    #[error("cannot read {} ([tracker] {key}): {why}", path.display())]
    List {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        why: ListFault,
    },
    /// No random numbers for the secret.
    #[error("cannot get random bytes from the kernel")]
    Random,
}

/// What is wrong with a list.
#[derive(Debug, thiserror::Error)]
pub enum ListFault {
    /// The filesystem refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what it should be.
    #[error(transparent)]
    Text(#[from] ListError),
}

/// The files of the lists that are allowed and denied.
type Paths = [(Which, Option<PathBuf>); 2];

fn paths(plan: &config::Tracker) -> Paths {
    [(Which::Allow, plan.allow.clone()), (Which::Deny, plan.deny.clone())]
}

/// The tracker, and who may be in it.
pub(super) struct Tracked {
    pub(super) tracker: Arc<Tracker>,
    door: Door,
    lists: Vec<List>,
    /// The files of the lists, and whether what follows them still does.
    paths: Paths,
    follows: Arc<AtomicBool>,
    /// Whether only held torrents are served.
    private: bool,
    /// Whether what is held has changed since it was told.
    is_stale: bool,
    /// The store that others have a part in, and how one hears that there is something to be told.
    store: Option<(config::StoreUrl, Arc<Notify>)>,
}

/// Which torrents the tracker is for, changed a part at a time.
#[derive(Clone)]
struct Door {
    tracker: Arc<Tracker>,
    access: Arc<Mutex<Access>>,
}

impl Door {
    fn change(&self, change: impl FnOnce(&mut Access)) {
        let mut access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut access);
        self.tracker.set_access(access.clone());
    }
}

/// Which of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Allow,
    Deny,
}

impl Which {
    fn key(self) -> &'static str {
        match self {
            Which::Allow => "allow",
            Which::Deny => "deny",
        }
    }

    fn put(self, access: &mut Access, hashes: HashSet<InfoHash>) {
        let hashes = Some(Arc::new(hashes));
        match self {
            Which::Allow => access.allow = hashes,
            Which::Deny => access.deny = hashes,
        }
    }
}

/// How a file looked when it was read: another look, another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file of info-hashes.
#[derive(Debug)]
struct List {
    which: Which,
    path: PathBuf,
    /// How it looked when it was last read, be it in vain; `None` if it was not there.
    seen: Option<Look>,
}

impl List {
    fn look(&self) -> Option<Look> {
        let metadata = std::fs::metadata(&self.path).ok()?;
        Some(Look {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Reads it if it looks otherwise than it did.
    fn read_if_changed(&mut self) -> Option<Result<HashSet<InfoHash>, ListFault>> {
        let look = self.look();
        if look == self.seen {
            return None;
        }
        self.seen = look;
        Some(read_list(&self.path))
    }
}

/// Reads a list.
pub(super) fn read_list(path: &Path) -> Result<HashSet<InfoHash>, ListFault> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file").into());
    }
    let mut text = String::new();
    if file.take(LIST_LEN_MAX + 1).read_to_string(&mut text)? as u64 > LIST_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 64 MiB long").into());
    }
    Ok(parse_list(&text)?)
}

impl Tracked {
    /// Makes the tracker and reads its lists.
    ///
    /// # Errors
    /// A list cannot be read.
    pub(super) fn start(plan: &config::Tracker) -> Result<Self, Error> {
        use ring::rand::SecureRandom;
        let mut secret = [0; 32];
        ring::rand::SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| Error::Random)?;
        let mut access = Access::default();
        if plan.private {
            access.held = Some(Arc::default());
            access.is_finding_out = true;
        }
        let mut lists = Vec::new();
        for (which, path) in &paths(plan) {
            let (which, Some(path)) = (*which, path) else { continue };
            let mut list = List {
                which,
                path: path.clone(),
                seen: None,
            };
            // Before it is read: what is written meanwhile is read again.
            list.seen = list.look();
            let hashes = read_list(path).map_err(|why| Error::List {
                key: which.key(),
                path: path.clone(),
                why,
            })?;
            tracing::info!(
                "{} torrents in {} ([tracker] {})",
                hashes.len(),
                path.display(),
                which.key()
            );
            which.put(&mut access, hashes);
            lists.push(list);
        }
        let mut tracker = Tracker::new(plan.settings.clone(), secret, Instant::now());
        let mut store = None;
        if let Some(url) = &plan.store {
            let news = Arc::new(Notify::new());
            store = Some((url.clone(), Arc::clone(&news)));
            tracker = tracker.shared(move || news.notify_one());
        }
        let tracker = Arc::new(tracker);
        tracker.set_access(access.clone());
        Ok(Self {
            door: Door {
                tracker: Arc::clone(&tracker),
                access: Arc::new(Mutex::new(access)),
            },
            tracker,
            lists,
            paths: paths(plan),
            follows: Arc::new(AtomicBool::new(true)),
            private: plan.private,
            is_stale: plan.private,
            store,
        })
    }

    /// The watch folders have been looked at once: what is not held is not held.
    pub(super) fn on_ready(&mut self) {
        if self.private {
            self.door.change(|access| access.is_finding_out = false);
        }
    }

    /// What follows the lists, for as long as btd runs. Nothing, if there are none.
    pub(super) fn follow(&mut self) -> Option<impl Future<Output = ()> + 'static> {
        let lists = std::mem::take(&mut self.lists);
        (!lists.is_empty()).then(|| follow(self.door.clone(), lists, Arc::clone(&self.follows)))
    }

    /// The configuration names other lists, or another `private`. Gives what follows the lists from now on, if they are
    /// others than before.
    pub(super) fn take_over(&mut self, plan: &config::Tracker) -> Option<impl Future<Output = ()> + 'static> {
        if plan.private != self.private {
            self.private = plan.private;
            self.is_stale = plan.private;
            // All of them are known by now, and told at the next tick.
            let held = plan.private.then(Arc::default);
            self.door.change(|access| access.held = held);
        }
        let new = paths(plan);
        if new == self.paths {
            return None;
        }
        let old = std::mem::replace(&mut self.paths, new.clone());
        let follows = Arc::new(AtomicBool::new(true));
        let before = std::mem::replace(&mut self.follows, Arc::clone(&follows));
        self.door.change(|access| {
            // While the door is held: whoever follows the old lists looks at this before he changes anything.
            before.store(false, Relaxed);
            for ((which, new), (_, old)) in std::iter::zip(&new, &old) {
                match (which, new, old) {
                    (Which::Allow, None, _) => access.allow = None,
                    (Which::Deny, None, _) => access.deny = None,
                    // A tracker for a few is never one for all, not even until its list is read.
                    (Which::Allow, Some(_), None) => access.allow = Some(Arc::default()),
                    _ => {}
                }
            }
        });
        let lists = new.into_iter().filter_map(|(which, path)| {
            let (path, seen) = (path?, None);
            Some(List { which, path, seen })
        });
        let lists: Vec<List> = lists.collect();
        (!lists.is_empty()).then(|| follow(self.door.clone(), lists, follows))
    }

    /// What shares the swarms with other btds until it is ended, and how it is. Nothing, if there is no store to do it by.
    pub(super) fn share(
        &mut self,
        resolver: &Arc<Resolver>,
    ) -> Option<(impl Future<Output = ()> + 'static, store::Ending)> {
        let (url, news) = self.store.take()?;
        let sharing = store::Sharing::new(Arc::clone(&self.tracker), url, news, Arc::clone(resolver));
        let ending = sharing.ending();
        Some((sharing.run(), ending))
    }

    /// The torrents that btd holds are others than before.
    pub(super) fn on_change(&mut self) {
        self.is_stale = self.private;
    }

    /// Tells which torrents are held, if that has changed. All at once, so that a start with many costs one list.
    pub(super) fn tell_held(&mut self, held: impl FnOnce() -> HashSet<InfoHash>) {
        if std::mem::take(&mut self.is_stale) {
            let held = Arc::new(held());
            self.door.change(|access| access.held = Some(held));
        }
    }
}

/// Looks at the lists, at once and then again and again, for as long as `follows` says so.
async fn follow(door: Door, lists: Vec<List>, follows: Arc<AtomicBool>) {
    // Kept here, whatever becomes of the thread that looks.
    let lists = Arc::new(Mutex::new(lists));
    while follows.load(Relaxed) {
        let (lists, door, follows) = (Arc::clone(&lists), door.clone(), Arc::clone(&follows));
        // A file on a dead network mount must hold up nobody but its own list.
        let looked = blocking::run("btd-lists", move || {
            for list in lists.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                let (key, path) = (list.which.key(), list.path.display().to_string());
                match list.read_if_changed() {
                    None => {}
                    Some(Ok(hashes)) => {
                        tracing::info!(
                            "{} torrents in {path} ([tracker] {key}), which has changed",
                            hashes.len()
                        );
                        door.change(|access| {
                            if follows.load(Relaxed) {
                                list.which.put(access, hashes);
                            }
                        });
                    }
                    Some(Err(why)) => tracing::warn!(
                        "cannot read {path} ([tracker] {key}): {why} (what it said before goes on, and it is tried again when \
                         it changes)"
                    ),
                }
            }
        });
        if let Err(error) = looked.await {
            tracing::debug!(%error, "no thread to look at the tracker's lists; tried again");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_read_again_when_it_changes_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, "aa".repeat(20)).unwrap();
        let mut list = List {
            which: Which::Deny,
            path: path.clone(),
            seen: None,
        };
        assert_eq!(list.read_if_changed().unwrap().unwrap().len(), 1);
        assert!(list.read_if_changed().is_none());
        std::fs::write(&path, format!("{}\n{}", "aa".repeat(20), "bb".repeat(20))).unwrap();
        assert_eq!(list.read_if_changed().unwrap().unwrap().len(), 2);
        std::fs::write(&path, "bad").unwrap();
        assert!(matches!(list.read_if_changed(), Some(Err(ListFault::Text(_)))));
        assert!(list.read_if_changed().is_none(), "it is told once");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(list.read_if_changed(), Some(Err(ListFault::Io(_)))));
        assert!(list.read_if_changed().is_none());
        std::fs::write(&path, "cc".repeat(20)).unwrap();
        assert_eq!(list.read_if_changed().unwrap().unwrap().len(), 1);
    }

    #[test]
    fn private_tracker_puts_off_who_asks_before_it_knows_what_is_held() {
        let plan = config::Tracker {
            private: true,
            ..config::Tracker::default()
        };
        let mut tracked = Tracked::start(&plan).expect("no lists");
        let mut worker = tracked.tracker.worker(1);
        let mut announced = |tracked: &Tracked| {
            let request = format!(
                "GET /announce?info_hash={0}&peer_id={0}&port=1 HTTP/1.1\r\n\r\n",
                "%07".repeat(20)
            );
            let (from, mut reply) = ("10.0.0.1:1".parse().expect("an address"), Vec::new());
            let now = Instant::now();
            tracked
                .tracker
                .on_http(&mut worker, from, request.as_bytes(), now, &mut reply);
            String::from_utf8(reply).expect("text")
        };
        let reply = announced(&tracked);
        assert!(
            reply.contains("14:failure reason") && reply.contains("8:retry ini1e"),
            "{reply}"
        );
        tracked.tell_held(HashSet::new);
        assert!(announced(&tracked).contains("8:retry ini1e"), "there may be more");
        tracked.on_ready();
        let reply = announced(&tracked);
        assert!(
            reply.contains("14:failure reason") && !reply.contains("retry in"),
            "{reply}"
        );
        tracked.on_change();
        tracked.tell_held(|| HashSet::from([InfoHash([7; 20])]));
        assert!(announced(&tracked).contains("8:interval"));
    }

    #[test]
    fn lists_are_others_after_a_reload_and_a_new_list_is_never_open_to_all() {
        let dir = tempfile::tempdir().unwrap();
        let list = |name: &str, hash: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, hash.repeat(20)).unwrap();
            Some(path)
        };
        let mut tracked = Tracked::start(&config::Tracker::default()).expect("no lists");
        let allowed = |tracked: &Tracked| {
            let access = tracked.door.access.lock().unwrap();
            access
                .allow
                .as_ref()
                .map(|allow| allow.iter().copied().collect::<Vec<_>>())
        };
        tokio_uring::start(async {
            let mut plan = config::Tracker {
                allow: list("one", "01"),
                ..config::Tracker::default()
            };
            let first = tracked.take_over(&plan).expect("there is a list now");
            assert_eq!(allowed(&tracked), Some(Vec::new()), "closed until it is read");
            let first = tokio::task::spawn_local(first);
            let read = async |tracked: &Tracked, hash: u8| {
                while allowed(tracked) != Some(vec![InfoHash([hash; 20])]) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let within = Duration::from_secs(20);
            tokio::time::timeout(within, read(&tracked, 1))
                .await
                .expect("it is read");
            assert!(tracked.take_over(&plan).is_none(), "nothing is new");
            plan.allow = list("two", "02");
            let second = tracked.take_over(&plan).expect("another list");
            assert_eq!(
                allowed(&tracked),
                Some(vec![InfoHash([1; 20])]),
                "until the new one is read"
            );
            let second = tokio::task::spawn_local(second);
            tokio::time::timeout(within, read(&tracked, 2))
                .await
                .expect("it is read");
            // Who follows the old list has nothing to say any more, and ends.
            list("one", "03").unwrap();
            tokio::time::timeout(within, first).await.expect("it ends").unwrap();
            assert_eq!(allowed(&tracked), Some(vec![InfoHash([2; 20])]));
            plan.allow = None;
            assert!(tracked.take_over(&plan).is_none(), "nothing to follow");
            assert_eq!(allowed(&tracked), None);
            tokio::time::timeout(within, second).await.expect("it ends").unwrap();
        });
    }

    #[test]
    fn list_that_cannot_be_read_is_no_tracker_for_all() {
        let plan = config::Tracker {
            allow: Some("/nowhere/allow".into()),
            ..config::Tracker::default()
        };
        let error = Tracked::start(&plan).err().expect("no such file").to_string();
        let expected = "cannot read /nowhere/allow ([tracker] allow): No such file or directory (os error 2)";
        assert_eq!(error, expected);
    }
}
