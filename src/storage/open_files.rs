//! Files that a shard holds open: at most so many, the one used longest ago is closed first.
//!
//! None stays open for long. One that was removed keeps its room on the disk as long as it is open, and one that was
//! changed or replaced is found out only when it is opened again, which costs next to nothing every half minute.

use std::collections::HashMap;
use std::time::Duration;

use crate::io::Handle;

/// A file of a torrent; `torrent` is the shard's own number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The torrent.
    pub torrent: u32,
    /// The file's place in the torrent.
    pub file: u32,
}

#[derive(Debug)]
enum State<W> {
    /// Being opened, for those who wait.
    Opening(Vec<W>),
    /// Open.
    Open {
        handle: Handle,
        device: u64,
        /// When it was used, as a count of uses.
        used: u64,
        /// When it was opened.
        since: Duration,
    },
}

/// What [`OpenFiles::get`] found.
#[derive(Debug)]
pub enum Found {
    /// Open, on the device of this number.
    Open(Handle, u64),
    /// Somebody is opening it; the caller is told together with them.
    Opening,
    /// Not open: the caller has to open it, and then calls [`OpenFiles::opened`] or [`OpenFiles::failed`].
    Closed,
}

/// The table. `W` names who waits for a file.
#[derive(Debug)]
pub struct OpenFiles<W> {
    files: HashMap<FileKey, State<W>>,
    max: usize,
    uses: u64,
    /// The time as it was told last, and when the files were last looked through.
    now: Duration,
    looked_at: Duration,
}

/// How long a file stays open, and how often that is looked at.
pub const OPEN_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl<W> OpenFiles<W> {
    /// A table of at most `max` open files.
    #[must_use]
    pub fn new(max: usize) -> Self {
        assert!(max > 0, "a table of no files");
        OpenFiles {
            files: HashMap::new(),
            max,
            uses: 0,
            now: Duration::ZERO,
            looked_at: Duration::ZERO,
        }
    }

    /// Looks a file up for `waiter`, who is told by [`OpenFiles::opened`] or [`OpenFiles::failed`] if it is not open.
    pub fn get(&mut self, key: FileKey, waiter: W) -> Found {
        self.uses += 1;
        match self.files.get_mut(&key) {
            Some(State::Open {
                handle, device, used, ..
            }) => {
                *used = self.uses;
                Found::Open(handle.clone(), *device)
            }
            Some(State::Opening(waiters)) => {
                waiters.push(waiter);
                Found::Opening
            }
            None => {
                self.files.insert(key, State::Opening(vec![waiter]));
                Found::Closed
            }
        }
    }

    /// It is so late, since any time that stays the same. Closes what has been open for long; who reads from it at the
    /// moment has a handle of its own.
    pub fn on_time(&mut self, now: Duration) {
        self.now = now;
        if now.saturating_sub(self.looked_at) >= LOOK_EVERY {
            self.looked_at = now;
            self.files.retain(|_, state| match state {
                State::Opening(_) => true,
                State::Open { since, .. } => now.saturating_sub(*since) < OPEN_MAX,
            });
        }
    }

    /// Files that are open, or being opened.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// The device of a file that is open.
    #[must_use]
    pub fn device(&self, key: FileKey) -> Option<u64> {
        match self.files.get(&key)? {
            State::Open { device, .. } => Some(*device),
            State::Opening(_) => None,
        }
    }

    /// The file is open; gives those who wait for it. With the table full, another is closed as soon as no read needs it.
    pub fn opened(&mut self, key: FileKey, handle: Handle, device: u64) -> Vec<W> {
        let Some(state @ State::Opening(_)) = self.files.get_mut(&key) else {
            return Vec::new(); // Its torrent left meanwhile.
        };
        let open = State::Open {
            handle,
            device,
            used: self.uses,
            since: self.now,
        };
        let State::Opening(waiters) = std::mem::replace(state, open) else {
            unreachable!("matched above");
        };
        if self.files.len() > self.max {
            self.close_oldest(key);
        }
        waiters
    }

    /// Whether somebody waits for the file to be opened.
    #[must_use]
    pub fn is_opening(&self, key: FileKey) -> bool {
        matches!(self.files.get(&key), Some(State::Opening(_)))
    }

    /// The file could not be opened; gives those who wait for it.
    pub fn failed(&mut self, key: FileKey) -> Vec<W> {
        match self.files.remove(&key) {
            Some(State::Opening(waiters)) => waiters,
            Some(State::Open { .. }) | None => Vec::new(),
        }
    }

    /// Closes a file, so that it is opened anew by the next who asks.
    pub fn close(&mut self, key: FileKey) {
        if let Some(State::Open { .. }) = self.files.get(&key) {
            self.files.remove(&key);
        }
    }

    /// Closes the files of a torrent; gives those who wait for one of them.
    pub fn forget(&mut self, torrent: u32) -> Vec<W> {
        self.files
            .extract_if(|key, _| key.torrent == torrent)
            .flat_map(|(_, state)| match state {
                State::Opening(waiters) => waiters,
                State::Open { .. } => Vec::new(),
            })
            .collect()
    }

    /// A walk over the table, but only when a file was just opened, which costs more than the walk.
    fn close_oldest(&mut self, keep: FileKey) {
        let oldest = self
            .files
            .iter()
            .filter_map(|(key, state)| match state {
                State::Open { used, .. } if *key != keep => Some((*used, *key)),
                State::Open { .. } | State::Opening(_) => None,
            })
            .min_by_key(|(used, _)| *used);
        if let Some((_, key)) = oldest {
            self.files.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(file: u32) -> FileKey {
        FileKey { torrent: 1, file }
    }

    #[test]
    fn file_is_opened_once_for_all_who_wait() {
        let mut files = OpenFiles::new(4);
        assert!(matches!(files.get(key(0), 1), Found::Closed));
        assert!(matches!(files.get(key(0), 2), Found::Opening));
        assert_eq!(files.opened(key(0), Handle::memory(1), 1), [1, 2]);
        assert!(matches!(files.get(key(0), 3), Found::Open(..)));
    }

    #[test]
    fn file_used_longest_ago_is_closed_when_there_are_too_many() {
        let mut files = OpenFiles::new(2);
        for file in 0..3 {
            assert!(matches!(files.get(key(file), 0), Found::Closed));
            files.opened(key(file), Handle::memory(u64::from(file)), 1);
            assert!(matches!(files.get(key(0), 0), Found::Open(..)));
        }
        assert!(matches!(files.get(key(1), 0), Found::Closed));
        assert!(matches!(files.get(key(2), 0), Found::Open(..)));
    }

    #[test]
    fn file_is_closed_when_it_has_been_open_for_long_however_often_it_is_used() {
        let mut files = OpenFiles::new(2);
        let at = Duration::from_secs;
        files.on_time(at(100));
        assert!(matches!(files.get(key(0), 0), Found::Closed));
        files.opened(key(0), Handle::memory(0), 1);
        assert!(matches!(files.get(key(1), 7), Found::Closed));
        for seconds in (100..130).step_by(5) {
            files.on_time(at(seconds));
            assert!(matches!(files.get(key(0), 0), Found::Open(..)), "after {seconds} s");
        }
        files.on_time(at(130));
        assert!(matches!(files.get(key(0), 0), Found::Closed));
        assert_eq!(files.opened(key(1), Handle::memory(1), 1), [7], "who waits is told");
    }

    #[test]
    fn file_that_failed_is_tried_again() {
        let mut files = OpenFiles::new(1);
        assert!(matches!(files.get(key(0), 5), Found::Closed));
        assert_eq!(files.failed(key(0)), [5]);
        assert!(matches!(files.get(key(0), 6), Found::Closed));
    }

    #[test]
    fn torrent_that_leaves_tells_those_who_wait() {
        let mut files = OpenFiles::new(1);
        assert!(matches!(files.get(key(0), 5), Found::Closed));
        assert_eq!(files.forget(1), [5]);
        assert!(files.opened(key(0), Handle::memory(1), 1).is_empty());
    }
}
