//! One number for one file, however many torrents name it: what is cached of a hard-linked or cross-seeded file is cached
//! once, and what was cached of a file that has been replaced or written to since is not taken for the new one.
//!
//! A name has a number from its first use on. Only when it is opened does it turn out which file it is; if that file has
//! a number already, the name takes it over. What was cached under the number it had before is found by nobody and leaves
//! the cache on its own.

use std::collections::HashMap;

use super::open_files::FileKey;

/// Which file it is, and in which state: statx(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device number of its filesystem.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes as the torrent has it: what is read of the file ends there. Names with another length are another
    /// file, or one's extents would lack what the other expects in them.
    pub len: u64,
    /// When it was last written to: nanoseconds of Unix time.
    pub modified: i128,
}

#[derive(Debug)]
struct Name {
    number: u32,
    /// Absent until it was opened.
    id: Option<FileId>,
}

/// The numbers. Those of a torrent are forgotten with it.
#[derive(Debug, Default)]
pub struct FileNumbers {
    names: HashMap<FileKey, Name>,
    /// The number of each file that was opened, and how many names have it.
    files: HashMap<FileId, (u32, u32)>,
    next: u32,
}

impl FileNumbers {
    /// The number under which a file is cached.
    pub fn get(&mut self, key: FileKey) -> u32 {
        let next = &mut self.next;
        self.names
            .entry(key)
            .or_insert_with(|| Name {
                number: take(next),
                id: None,
            })
            .number
    }

    /// The number that a name has, if it was ever looked for.
    #[must_use]
    pub fn find(&self, key: FileKey) -> Option<u32> {
        self.names.get(&key).map(|name| name.number)
    }

    /// Names that have a number.
    #[cfg(test)]
    pub fn known(&self) -> usize {
        self.names.len()
    }

    /// Whether the name has this number.
    #[must_use]
    pub fn is(&self, key: FileKey, number: u32) -> bool {
        self.names.get(&key).is_some_and(|name| name.number == number)
    }

    /// The name was opened, and this is the file.
    pub fn opened(&mut self, key: FileKey, id: FileId) {
        let own = self.get(key);
        let name = self.names.get_mut(&key).expect("has a number");
        if name.id == Some(id) {
            return;
        }
        let before = name.id.replace(id);
        // Another file, or the same with other contents, must not be found under the old number.
        let fresh = match before {
            Some(_) => take(&mut self.next),
            None => own,
        };
        let (number, names) = self.files.entry(id).or_insert((fresh, 0));
        *names += 1;
        name.number = *number;
        if let Some(before) = before {
            self.leave(before);
        }
    }

    /// A torrent is no longer served. Gives the numbers that nobody has any more.
    pub fn forget(&mut self, torrent: u32) -> Vec<u32> {
        let leaving: Vec<Name> = self
            .names
            .extract_if(|key, _| key.torrent == torrent)
            .map(|(_, name)| name)
            .collect();
        let gone = |name: Name| match name.id {
            Some(id) => self.leave(id),
            None => Some(name.number),
        };
        leaving.into_iter().filter_map(gone).collect()
    }

    /// One name less for a file; gives its number if that was the last.
    fn leave(&mut self, id: FileId) -> Option<u32> {
        let (number, names) = self.files.get_mut(&id)?;
        *names -= 1;
        let last = (*names == 0).then_some(*number);
        if last.is_some() {
            self.files.remove(&id);
        }
        last
    }
}

/// Numbers are used once. Four thousand million files opened by one shard are beyond its life.
fn take(next: &mut u32) -> u32 {
    let number = *next;
    *next = next.wrapping_add(1);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(torrent: u32, file: u32) -> FileKey {
        FileKey { torrent, file }
    }

    fn id(inode: u64, modified: i128) -> FileId {
        FileId {
            device: 1,
            inode,
            len: 10,
            modified,
        }
    }

    #[test]
    fn names_of_one_file_have_one_number() {
        let mut numbers = FileNumbers::default();
        let first = numbers.get(key(1, 0));
        assert_ne!(numbers.get(key(2, 0)), first, "nobody knows yet");
        numbers.opened(key(1, 0), id(7, 0));
        assert_eq!(
            numbers.get(key(1, 0)),
            first,
            "what was begun before it was opened goes on"
        );
        numbers.opened(key(2, 0), id(7, 0));
        assert_eq!(numbers.get(key(2, 0)), first);
        numbers.opened(key(2, 1), id(8, 0));
        assert_ne!(numbers.get(key(2, 1)), first);
    }

    #[test]
    fn file_that_was_written_to_has_another_number() {
        let mut numbers = FileNumbers::default();
        numbers.opened(key(1, 0), id(7, 0));
        let old = numbers.get(key(1, 0));
        numbers.opened(key(1, 0), id(7, 1));
        assert_ne!(numbers.get(key(1, 0)), old);
        numbers.opened(key(1, 0), id(7, 0));
        assert_ne!(numbers.get(key(1, 0)), old, "used once");
    }

    #[test]
    fn number_goes_with_its_last_name() {
        let mut numbers = FileNumbers::default();
        numbers.opened(key(1, 0), id(7, 0));
        numbers.opened(key(2, 0), id(7, 0));
        let shared = numbers.get(key(1, 0));
        let unopened = numbers.get(key(1, 1));
        assert_eq!(numbers.forget(1), [unopened]);
        assert_eq!(numbers.forget(2), [shared]);
        assert!(numbers.files.is_empty() && numbers.names.is_empty());
    }
}
