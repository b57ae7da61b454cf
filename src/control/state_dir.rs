//! btd's own folder: the lock that keeps a second instance out, and `ports.json`, the sign that btd is ready.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

const LOCK: &str = "lock";
const PORTS: &str = "ports.json";

/// How long somebody else is waited for who has what is wanted: a process that was killed has its locks until it has ended, which
/// takes a moment where it had gigabytes, or a ring with operations in flight.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried meanwhile.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The folder, held for as long as this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Locked by flock(2), which the kernel gives back however the process ends.
    _lock: File,
}

/// Why the folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another btd holds it.
    #[error("{} is in use by another btd, {}: two on one state folder would undo each other's work", path.display(), holder(*pid))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who holds it, if that could be read.
        pid: Option<u32>,
    },
    /// The filesystem refused.
    #[error("cannot {step} {}: {source}{}", path.display(), hint(path, source))]
    Io {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// The filesystem's answer.
        source: io::Error,
    },
}

/// What may be done about a folder that cannot be used.
fn hint(path: &Path, source: &io::Error) -> String {
    let is_within = path.file_name().is_some_and(|name| name == LOCK || name == PORTS);
    let dir = path.parent().filter(|_| is_within).unwrap_or(path).display();
    let elsewhere = "or use another state-dir, as by BTD_STATE_DIR=\"$HOME/btd-state\"";
    match source.kind() {
        io::ErrorKind::PermissionDenied if is_within => {
            format!(" (hint: another user has run btd there: sudo chown -R \"$USER\" {dir}; {elsewhere})")
        }
        io::ErrorKind::PermissionDenied => {
            format!(" (hint: make it for this user: sudo install -d -m 700 -o \"$USER\" {dir}; {elsewhere})")
        }
        io::ErrorKind::ReadOnlyFilesystem => format!(" (hint: {dir} cannot be written to; {elsewhere})"),
        _ => String::new(),
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "just starting".to_owned(), |pid| format!("process {pid}"))
}

/// The ports taken: what `ports.json` says. A service that is off is left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ports {
    /// One for each entry of `[peers] listen`.
    pub peers: Vec<u16>,
    /// The first address of the tracker for HTTP, and for UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracker_http: Option<u16>,
    /// See `tracker_http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracker_udp: Option<u16>,
    /// The metrics server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<u16>,
}

/// Tries until nobody else has what is wanted, which `is_in_use` tells, as long as `wait` says so.
pub(super) fn until_free<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_in_use: impl Fn(&E) -> bool,
    mut wait: impl FnMut() -> bool,
) -> Result<T, E> {
    loop {
        match attempt() {
            Err(error) if is_in_use(&error) && wait() => {}
            result => return result,
        }
    }
}

/// Waits a moment, and a few moments in all. See [`PATIENCE`].
pub(super) fn patience() -> impl FnMut() -> bool {
    let until = Instant::now() + PATIENCE;
    move || {
        std::thread::sleep(TRY_EVERY);
        Instant::now() < until
    }
}

impl StateDir {
    /// Makes the folder if it is missing, readable by its owner only, and locks it. A holder that is ending is waited for, for as
    /// long as `wait` says: see [`patience`].
    ///
    /// # Errors
    /// Another btd holds it, or the filesystem refuses.
    pub(super) fn open(path: &Path, wait: impl FnMut() -> bool) -> Result<Self, Error> {
        let is_in_use = |error: &Error| matches!(error, Error::InUse { .. });
        until_free(|| Self::try_open(path), is_in_use, wait)
    }

    fn try_open(path: &Path) -> Result<Self, Error> {
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { step, path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("make the state folder", path))?;
        let file = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // Until the lock is ours, the content is its holder's.
            .mode(0o600)
            .open(&file)
            .map_err(io("open", &file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = (&lock).take(32).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(Error::InUse {
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock", &file)(source)),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(io("write", &file))?;
        let state = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        state.remove_ports()?; // Left by a btd that was killed: it would say "ready" too early.
        Ok(state)
    }

    /// Says that btd is ready, and on which ports. Readers see the whole file or none.
    ///
    /// # Errors
    /// The filesystem refuses.
    pub async fn write_ports(&self, ports: &Ports) -> Result<(), Error> {
        let path = self.ports_path();
        let mut text = serde_json::to_vec(ports).unwrap_or_else(|_| unreachable!("numbers are always JSON"));
        text.push(b'\n');
        write_whole(&path, text).await.map_err(|source| Error::Io {
            step: "write",
            path,
            source,
        })
    }

    /// Says that btd is no longer ready.
    ///
    /// # Errors
    /// The filesystem refuses.
    pub fn remove_ports(&self) -> Result<(), Error> {
        let path = self.ports_path();
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io {
                step: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    fn ports_path(&self) -> PathBuf {
        self.path.join(PORTS)
    }
}

/// Writes beside the file, then renames over it.
async fn write_whole(path: &Path, content: Vec<u8>) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let file = tokio_uring::fs::File::create(&beside).await?;
    let (written, _) = file.write_all_at(content, 0).await;
    file.close().await?;
    written?;
    tokio_uring::fs::rename(&beside, path).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_folder_is_made_for_its_owner_only_and_names_the_process() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a/b");
        let _state = StateDir::open(&path, || false).expect("nobody else is here");
        assert_eq!(
            std::fs::metadata(&path).expect("made").permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            std::fs::read_to_string(path.join("lock")).expect("written"),
            format!("{}\n", std::process::id())
        );
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone_and_learns_its_pid() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = StateDir::open(dir.path(), || false).expect("nobody else is here");
        let refused = StateDir::open(dir.path(), || false).expect_err("the first still holds it");
        assert!(
            refused.to_string().contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        StateDir::open(dir.path(), || false).expect("the first is gone");
    }

    /// `kill -9` and a start right behind it ended with 73.
    #[test]
    fn a_holder_that_is_ending_is_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut ending = Some(StateDir::open(dir.path(), || false).expect("nobody else is here"));
        let mut waits = 0;
        let opened = StateDir::open(dir.path(), || {
            waits += 1;
            if waits == 3 {
                drop(ending.take());
            }
            true
        });
        opened.expect("the first is gone");
        assert_eq!(waits, 3);
    }

    #[test]
    fn ports_are_written_whole_and_a_stale_file_is_removed_at_start() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("ports.json"), "stale").expect("written");
        let state = StateDir::open(dir.path(), || false).expect("nobody else is here");
        assert!(!dir.path().join("ports.json").exists());
        let ports = Ports {
            peers: vec![6881, 6882],
            tracker_http: Some(6969),
            ..Ports::default()
        };
        tokio_uring::start(state.write_ports(&ports)).expect("written");
        let text = std::fs::read_to_string(dir.path().join("ports.json")).expect("written");
        assert_eq!(text, "{\"peers\":[6881,6882],\"tracker_http\":6969}\n");
        assert!(!dir.path().join("ports.tmp").exists());
    }
}
