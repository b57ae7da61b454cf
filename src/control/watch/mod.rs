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
use std::time::{Duration, Instant};

use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::{blocking, torrent_file};
use crate::proto::metainfo::Metainfo;
use folder::{Folder, Look, is_torrent_name};

/// How long to wait for more events after one: files dropped together are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// ... but not longer than this, however many come.
const GATHER_MAX: Duration = Duration::from_millis(500);
/// More names than this at once are looked up faster by listing the folder.
const NAMES_MAX: usize = 4096;
/// How often everything is looked at again.
const RESCAN: Duration = Duration::from_secs(10);
/// A rescan takes at most this part of the time, however large the folder: one in 200.
const RESCAN_SHARE: u32 = 200;
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
    /// As given to [`run`].
    pub folder: usize,
    /// What happened.
    pub event: Event,
}

type Events = EventStream<Vec<u8>>;

/// Watches `dir`, which is called `folder`, until nobody receives its events any more.
pub async fn run(folder: usize, dir: PathBuf, events: mpsc::Sender<Told>) {
    let index = folder;
    let mut folder = Folder::new(dir.clone());
    let mut stream = None;
    let mut look = Look::All;
    let mut scanned = false;
    let mut told = false;
    loop {
        if stream.is_none() {
            stream = arm(&dir, &mut told);
            // Whatever happened while nobody listened.
            look = Look::All;
        }
        let started = Instant::now();
        let sender = events.clone();
        let looked = blocking::run("btd-watch", move || {
            folder.look(&look, &mut |event| {
                sender.blocking_send(Told { folder: index, event }).is_ok()
            });
            folder
        });
        folder = match looked.await {
            Ok(Some(folder)) => folder,
            // No thread to be had, or a look that panicked: start over with nothing known. The supervisor takes no
            // harm from being told again what it knows.
            Ok(None) | Err(_) => {
                tracing::error!(dir = %dir.display(), "a look into the watch folder failed; it is looked at again");
                tokio::time::sleep(RETRY).await;
                stream = None;
                Folder::new(dir.clone())
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
        let wait = if folder.is_lost() {
            RETRY
        } else {
            RESCAN.max(started.elapsed() * RESCAN_SHARE)
        };
        look = tokio::select! {
            () = events.closed() => return,
            () = tokio::time::sleep(wait) => Look::Settled,
            gathered = gather(stream.as_mut()) => match gathered {
                Some(look) => look,
                None => {
                    stream = None;
                    Look::All
                }
            },
        };
        if folder.is_lost() {
            stream = None; // The folder that comes back is another one to inotify.
        }
    }
}

/// Asks the kernel for events. Without them (no folder yet, no instances left) the rescans have to do.
///
/// Not for the creation of a file: it is empty then, and the end of its writing is an event. A link, which nobody writes
/// to, is found by the rescan.
fn arm(dir: &Path, told: &mut bool) -> Option<Events> {
    let mask = WatchMask::CLOSE_WRITE
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
                "no events from the watch folder, it is only looked at every {} s (hint: sysctl fs.inotify.max_user_instances)",
                RESCAN.as_secs()
            );
            None
        }
    }
}

/// Waits for an event and those that follow it closely. `None`: the folder itself went, or events cannot be had.
async fn gather(stream: Option<&mut Events>) -> Option<Look> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    let mut names = BTreeSet::new();
    let mut all = false;
    let mut deadline = None;
    loop {
        let next = match deadline {
            None => stream.next().await,
            Some(deadline) => {
                let wait = tokio::time::Instant::min(deadline, tokio::time::Instant::now() + GATHER);
                match tokio::time::timeout_at(wait, stream.next()).await {
                    Ok(next) => next,
                    Err(_) => return Some(if all { Look::All } else { Look::Names(names) }),
                }
            }
        };
        match hint(next?.ok()?) {
            Hint::Nothing => continue,
            Hint::Name(name) => {
                names.insert(name);
            }
            Hint::All => all = true,
            Hint::Folder => return None,
        }
        all |= names.len() > NAMES_MAX;
        deadline.get_or_insert(tokio::time::Instant::now() + GATHER_MAX);
    }
}

enum Hint {
    Nothing,
    Name(OsString),
    All,
    Folder,
}

fn hint(event: EventOwned) -> Hint {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        return Hint::All;
    }
    if event
        .mask
        .intersects(EventMask::IGNORED | EventMask::UNMOUNT | EventMask::DELETE_SELF | EventMask::MOVE_SELF)
    {
        return Hint::Folder;
    }
    match event.name {
        Some(name) if is_torrent_name(&name) => Hint::Name(name),
        _ => Hint::Nothing,
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

    const DEADLINE: Duration = Duration::from_secs(20);

    /// What is told about a folder while `change` happens to it, up to the event that `last` knows.
    fn watch(dir: &Path, change: impl FnOnce() + 'static, last: impl Fn(&[String]) -> bool + 'static) -> Vec<String> {
        let dir = dir.to_owned();
        tokio_uring::start(async move {
            let (sender, mut events) = mpsc::channel(8);
            tokio::task::spawn_local(run(0, dir, sender));
            let mut seen = Vec::new();
            let mut change = Some(change);
            let all = async {
                while let Some(told) = events.recv().await {
                    match told.event {
                        Event::Added { meta, .. } => seen.push(format!("+{}", meta.name)),
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
