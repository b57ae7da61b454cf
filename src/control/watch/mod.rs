//! Watch folders: the .torrent files that come and go, at start and while btd runs.
//!
//! Each folder has one task. It arms inotify before it looks, so that nothing falls between the two, and looks at
//! everything again now and then, because events get lost: the queue overflows, network filesystems send none. What a
//! torrent is, and that two files may hold the same one, is for the supervisor to know.

mod folder;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::catalog::Catalog;
use super::{blocking, torrent_file};
use crate::proto::metainfo::Metainfo;
use crate::session::Card;
use folder::{Folder, Look, is_torrent_name};

/// How long to wait for more events after one: files dropped together are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// ... but not longer than this, however many come.
const GATHER_MAX: Duration = Duration::from_millis(500);
/// More names than this at once are looked up faster by listing the folder.
const NAMES_MAX: usize = 4096;
/// How often everything is looked at again.
const RESCAN: Duration = Duration::from_secs(10);
/// A rescan takes at most this part of the time, however large the folder: one in 200 ...
const RESCAN_SHARE: u32 = 200;
/// ... but it comes at least this often.
const RESCAN_MAX: Duration = Duration::from_secs(600);
/// How often a missing folder is looked for.
const RETRY: Duration = Duration::from_secs(2);
/// Room for one kernel event with the longest name, many times.
const EVENT_BUFFER_LEN: usize = 16 << 10;

/// What happened in a folder.
#[derive(Debug)]
pub enum Event {
    /// A file appeared, or its content changed, and it holds this torrent.
    Added {
        /// The file.
        file: PathBuf,
        /// Its torrent.
        meta: Box<Metainfo>,
    },
    /// A file was there when btd started, and is the one that an earlier btd has read.
    Known {
        /// The file.
        file: PathBuf,
        /// What was kept of it.
        card: Box<Card>,
        /// Whether all of its torrent was right by what is recorded.
        whole: bool,
    },
    /// A file appeared that cannot be loaded. It is tried again when it changes.
    Refused {
        /// The file.
        file: PathBuf,
        /// Why.
        error: torrent_file::Error,
    },
    /// A file that held a torrent is gone.
    Removed {
        /// The file.
        file: PathBuf,
    },
    /// The folder cannot be looked into. Its torrents stay as they are.
    FolderLost {
        /// The folder.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder can be looked into again.
    FolderBack {
        /// The folder.
        dir: PathBuf,
    },
    /// The first look is over: every file that was there at start has been reported.
    Scanned,
}

/// An event and the folder it is about.
#[derive(Debug)]
pub struct Told {
    /// As given to `run`.
    pub folder: usize,
    /// What happened.
    pub event: Event,
}

type Events = EventStream<Vec<u8>>;

/// Watches `dir`, which is called `folder`, until nobody receives its events any more. Files that `catalog` knows are not read.
pub(super) async fn run(folder: usize, dir: PathBuf, catalog: Catalog, events: mpsc::Sender<Told>) {
    let index = folder;
    let folder = Arc::new(Mutex::new(Folder::new(dir.clone(), Some(catalog))));
    let mut hints = Hints::default();
    let mut stream = None;
    let mut next_rescan = Instant::now();
    let mut scanned = false;
    let mut told = false;
    let mut is_refused = false;
    loop {
        if stream.is_none() {
            stream = arm(&dir, &mut told);
            hints.all = true; // Whatever happened while nobody listened.
        }
        let look = match hints.take() {
            Some(look) => look,
            None => Look::Settled,
        };
        let is_rescan = matches!(look, Look::Settled);
        let is_whole = !matches!(look, Look::Names { .. });
        let (sender, shared) = (events.clone(), Arc::clone(&folder));
        let looked = blocking::run("btd-watch", move || {
            let mut folder = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let started = Instant::now();
            let mut telling = Duration::ZERO;
            folder.look(&look, &mut |event| {
                let told_at = Instant::now();
                let listens = sender.blocking_send(Told { folder: index, event }).is_ok();
                telling += told_at.elapsed();
                listens
            });
            (started.elapsed().saturating_sub(telling), folder.is_lost())
        });
        let (took, is_lost) = match looked.await {
            Ok(Some(looked)) => {
                is_refused = false;
                looked
            }
            // What is known of the folder stays known. Told once, until it can be looked at again.
            failed => {
                if !std::mem::replace(&mut is_refused, true) {
                    let why = match failed {
                        Err(error) => format!("no thread for it: {error} (hint: TasksMax= in btd.service)"),
                        Ok(_) => "the look has failed".to_owned(),
                    };
                    tracing::error!(dir = %dir.display(), "cannot look into the watch folder: {why}; tried again");
                }
                tokio::time::sleep(RETRY).await;
                hints.all = true;
                continue;
            }
        };
        if !std::mem::replace(&mut scanned, true)
            && events
                .send(Told {
                    folder: index,
                    event: Event::Scanned,
                })
                .await
                .is_err()
        {
            return;
        }
        if is_lost {
            stream = None; // The folder that comes back is another one to inotify.
            next_rescan = Instant::now() + RETRY;
        } else if is_rescan {
            next_rescan = Instant::now() + (took * RESCAN_SHARE).clamp(RESCAN, RESCAN_MAX);
        } else if is_whole {
            next_rescan = Instant::now() + RESCAN;
        }
        tokio::select! {
            () = events.closed() => return,
            () = hints.gather(&mut stream, next_rescan) => {}
        }
    }
}

/// What the kernel's events ask to be looked at.
#[derive(Debug, Default)]
struct Hints {
    names: BTreeSet<OsString>,
    /// Names that appeared, and are looked at only if no end of writing will tell of them.
    created: BTreeSet<OsString>,
    all: bool,
}

impl Hints {
    /// The look that is asked for, if any. It is not asked for any more.
    fn take(&mut self) -> Option<Look> {
        let Hints { names, created, all } = std::mem::take(self);
        match all || names.len() + created.len() > NAMES_MAX {
            true => Some(Look::All),
            false if names.is_empty() && created.is_empty() => None,
            false => Some(Look::Names { names, created }),
        }
    }

    fn add(&mut self, event: EventOwned) -> Heard {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            self.all = true;
            return Heard::Something;
        }
        let folder_itself = EventMask::IGNORED | EventMask::UNMOUNT | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
        if event.mask.intersects(folder_itself) {
            self.all = true;
            return Heard::FolderWent;
        }
        match event.name.filter(|name| is_torrent_name(name)) {
            Some(name) if event.mask.contains(EventMask::CREATE) => self.created.insert(name),
            Some(name) => self.names.insert(name),
            None => return Heard::Nothing,
        };
        Heard::Something
    }

    /// Waits until something is to be looked at: for an event and those that follow it closely, or until it is time for a
    /// rescan. Nothing is lost if it is dropped meanwhile: what was heard is here, not in the future. A `stream` that can
    /// give no more is taken away.
    async fn gather(&mut self, stream: &mut Option<Events>, next_rescan: Instant) {
        let mut last = None;
        loop {
            let until = match last {
                Some(last) => Instant::min(last, Instant::now() + GATHER),
                None => next_rescan,
            };
            let heard = tokio::select! {
                () = tokio::time::sleep_until(until.into()) => return,
                event = next(stream) => match event {
                    Some(Ok(event)) => self.add(event),
                    Some(Err(_)) | None => Heard::FolderWent,
                },
            };
            match heard {
                Heard::Nothing => {}
                Heard::Something => {
                    last.get_or_insert(Instant::now() + GATHER_MAX);
                }
                Heard::FolderWent => {
                    *stream = None;
                    return;
                }
            }
        }
    }
}

/// What an event was good for.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Something,
    /// No more events will come.
    FolderWent,
}

/// The next event, for ever if there is no stream.
async fn next(stream: &mut Option<Events>) -> Option<io::Result<EventOwned>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Asks the kernel for events. Without them (no folder yet, no instances left) the rescans have to do.
///
/// The creation of a file is an event too, because of links, which nobody writes to.
fn arm(dir: &Path, told: &mut bool) -> Option<Events> {
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    let armed = Inotify::init().and_then(|inotify| {
        inotify.watches().add(dir, mask)?;
        inotify.into_event_stream(vec![0; EVENT_BUFFER_LEN])
    });
    match armed {
        Ok(stream) => Some(stream),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None, // Told by the look.
        Err(_) if std::mem::replace(told, true) => None,
        Err(error) => {
            tracing::warn!(
                dir = %dir.display(), %error,
                "no events from the watch folder, it is only looked at every {} s{}",
                RESCAN.as_secs(),
                match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENOSPC) =>
                        " (hint: sysctl fs.inotify.max_user_instances and fs.inotify.max_user_watches)",
                    _ => "",
                }
            );
            None
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    /// A torrent of one empty-looking piece, called `name`.
    pub(crate) fn torrent(name: &str) -> Vec<u8> {
        let mut bytes = format!(
            "d4:infod6:lengthi16384e4:name{}:{name}12:piece lengthi16384e6:pieces20:",
            name.len()
        )
        .into_bytes();
        bytes.extend([7; 20]);
        bytes.extend(b"ee");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::torrent;
    use super::*;
    use crate::session::Store;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// What is told about a folder while `change` happens to it, up to the event that `last` knows.
    fn watch(dir: &Path, change: impl FnOnce() + 'static, last: impl Fn(&[String]) -> bool + 'static) -> Vec<String> {
        let dir = dir.to_owned();
        tokio_uring::start(async move {
            let (sender, mut events) = mpsc::channel(8);
            let state = tempfile::tempdir().expect("a temporary folder");
            let session = Arc::new(Store::open(state.path()).expect("opened").0);
            tokio::task::spawn_local(run(0, dir, Catalog::new(&session), sender));
            let mut seen = Vec::new();
            let mut change = Some(change);
            let all = async {
                while let Some(told) = events.recv().await {
                    match told.event {
                        Event::Added { meta, .. } => seen.push(format!("+{}", meta.name)),
                        Event::Known { card, .. } => seen.push(format!("={}", card.name)),
                        Event::Removed { file } => {
                            seen.push(format!("-{}", file.file_name().expect("a name").to_string_lossy()))
                        }
                        Event::Refused { .. } => seen.push("!".to_owned()),
                        Event::FolderLost { .. } => seen.push("lost".to_owned()),
                        Event::FolderBack { .. } => seen.push("back".to_owned()),
                        Event::Scanned => change.take().expect("told once")(),
                    }
                    if change.is_none() && last(&seen) {
                        break;
                    }
                }
            };
            tokio::time::timeout(DEADLINE, all)
                .await
                .expect("told within the deadline");
            seen
        })
    }

    #[test]
    fn what_comes_and_goes_while_running_is_told() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("a.torrent"), torrent("a")).expect("written");
        let here = dir.path().to_owned();
        let change = move || {
            std::fs::write(here.join("b.tmp"), torrent("b")).expect("written");
            std::fs::rename(here.join("b.tmp"), here.join("b.torrent")).expect("renamed in");
            std::fs::remove_file(here.join("a.torrent")).expect("removed");
        };
        let seen = watch(dir.path(), change, |seen| seen.len() == 3);
        assert_eq!(seen, ["+a", "+b", "-a.torrent"]);
    }

    #[test]
    fn a_thousand_files_at_once_are_told_once_each() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let here = dir.path().to_owned();
        let change = move || {
            for index in 0..1000 {
                std::fs::write(here.join(format!("{index}.torrent")), torrent(&format!("t{index}"))).expect("written");
            }
            // Told last, because it comes last in the order of names of the last look.
            std::fs::write(here.join("z.torrent"), torrent("z")).expect("written");
        };
        let mut seen = watch(dir.path(), change, |seen| seen.last().is_some_and(|last| last == "+z"));
        seen.sort();
        let mut expected: Vec<_> = (0..1000)
            .map(|index| format!("+t{index}"))
            .chain(["+z".to_owned()])
            .collect();
        expected.sort();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_link_is_told_when_it_appears() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let elsewhere = tempfile::tempdir_in(dir.path()).expect("another");
        for name in ["a", "b"] {
            std::fs::write(elsewhere.path().join(name), torrent(name)).expect("written");
        }
        let (here, from) = (dir.path().to_owned(), elsewhere.path().to_owned());
        let change = move || {
            std::fs::hard_link(from.join("a"), here.join("a.torrent")).expect("linked");
            std::os::unix::fs::symlink(from.join("b"), here.join("b.torrent")).expect("linked");
        };
        // Sooner than a rescan, which leaves new files alone for a while.
        let mut seen = watch(dir.path(), change, |seen| seen.len() == 2);
        seen.sort();
        assert_eq!(seen, ["+a", "+b"]);
    }

    #[test]
    fn what_was_heard_survives_a_wait_that_was_dropped() {
        tokio_uring::start(async {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let mut stream = arm(dir.path(), &mut false);
            std::fs::write(dir.path().join("a.torrent"), torrent("a")).expect("written");
            let mut hints = Hints::default();
            let later = Instant::now() + DEADLINE;
            while hints.names.is_empty() && hints.created.is_empty() {
                // Dropped as soon as it waits, however little it has gathered.
                let _ = tokio::time::timeout(Duration::from_millis(1), hints.gather(&mut stream, later)).await;
            }
            let Some(Look::Names { names, created }) = hints.take() else {
                panic!("names were heard");
            };
            assert!(names.union(&created).all(|name| name == "a.torrent"));
            assert!(hints.take().is_none());
        });
    }

    #[test]
    fn a_rescan_comes_when_it_is_due_whatever_else_happens() {
        tokio_uring::start(async {
            let mut hints = Hints::default();
            let due = Instant::now();
            // In the past: nothing is waited for, and nothing was heard, so the look is a rescan.
            hints.gather(&mut None, due).await;
            assert!(hints.take().is_none());
        });
    }

    #[test]
    fn a_folder_that_appears_later_is_picked_up() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let late = dir.path().join("late");
        let change = {
            let late = late.clone();
            move || {
                std::fs::create_dir(&late).expect("made");
                std::fs::write(late.join("a.torrent"), torrent("a")).expect("written");
            }
        };
        let seen = watch(&late, change, |seen| seen.last().is_some_and(|last| last == "+a"));
        assert_eq!(seen, ["lost", "back", "+a"]);
    }
}
