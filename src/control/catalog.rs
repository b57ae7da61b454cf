//! The .torrent files that were read by an earlier btd, so that a start does not read them again.
//!
//! A file is the one that was read if its inode, length and times are the same. What was kept of it ([`Card`]) is enough to list
//! its torrent, to announce it, and to know it when a peer asks for it; the rest is read then. A torrent of which the session
//! says that it is whole rests until somebody wants it: its payload is not touched by the start.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::hashing::sha1;
use crate::proto::metainfo::Metainfo;
use crate::session::{Card, CardKey, FileIdentity, Store};

/// See the head of this file. Blocks on the disk.
#[derive(Clone, Debug)]
pub(super) struct Catalog {
    session: Arc<Store>,
}

impl Catalog {
    pub(super) fn new(session: &Arc<Store>) -> Self {
        Self {
            session: Arc::clone(session),
        }
    }

    /// What was kept of this file, which looks like this, and whether all of its torrent was right by what is recorded. `None`
    /// if it has to be read.
    pub(super) fn find(&self, file: &Path, metadata: &Metadata) -> Option<(Card, bool)> {
        let card = self.session.load_card(&key(file))?;
        if card.file != identity(metadata) {
            return None;
        }
        let is_whole = self
            .session
            .is_whole(&card.info_hash, card.piece_count, card.file_count);
        Some((card, is_whole))
    }

    /// Keeps what is needed of this file, which looked like this before it was read.
    pub(super) fn note(&self, file: &Path, metadata: &Metadata, meta: &Metainfo) {
        let card = Card {
            file: identity(metadata),
            info_hash: meta.info_hash,
            total_len: meta.geometry.total_len(),
            piece_count: meta.geometry.piece_count(),
            file_count: u32::try_from(meta.files.len()).unwrap_or(u32::MAX),
            private: meta.private,
            name: meta.name.as_str().into(),
            announce: meta.announce.clone(),
        };
        self.session.put_card(&key(file), Some(&card));
    }

    /// There are these files and no others: what was kept of files that went while btd did not run is of no use.
    pub(super) fn keep_only(&self, files: &[Arc<Path>]) {
        let keys: HashSet<CardKey> = files.iter().map(|file| key(file)).collect();
        let gone = self.session.keep_cards(&keys);
        if gone > 0 {
            tracing::debug!("{gone} .torrent files are not there any more that an earlier btd has read");
        }
    }

    /// This file is gone, or holds no torrent.
    pub(super) fn forget(&self, file: &Path) {
        self.session.put_card(&key(file), None);
    }
}

fn key(file: &Path) -> CardKey {
    sha1(file.as_os_str().as_bytes())
}

fn identity(metadata: &Metadata) -> FileIdentity {
    // Times outside of the years 1677 to 2262 are all the same one.
    let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
    FileIdentity {
        inode: metadata.ino(),
        len: metadata.len(),
        mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::torrent_file;
    use crate::control::watch::testing::torrent;
    use crate::proto::bitfield::Bitfield;
    use crate::session::{FileStamp, Record};

    #[test]
    fn what_was_kept_of_files_that_went_meanwhile_is_removed_and_of_the_others_it_stays() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let session = Arc::new(Store::open(dir.path()).expect("opened").0);
        let catalog = Catalog::new(&session);
        let files = ["a.torrent", "b.torrent"].map(|name| dir.path().join(name));
        for file in &files {
            std::fs::write(file, torrent("a")).expect("written");
            let look = std::fs::metadata(file).expect("there");
            catalog.note(file, &look, &torrent_file::read(file).expect("a torrent"));
        }
        session.flush();
        catalog.keep_only(&[Arc::from(files[1].as_path())]);
        session.flush();
        let kept = files.map(|file| session.load_card(&key(&file)).is_some());
        assert_eq!(kept, [false, true]);
    }

    #[test]
    fn file_is_known_until_it_is_replaced_or_touched() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let session = Arc::new(Store::open(dir.path()).expect("opened").0);
        let catalog = Catalog::new(&session);
        let file = dir.path().join("a.torrent");
        std::fs::write(&file, torrent("a")).expect("written");
        let look = || std::fs::metadata(&file).expect("there");
        let meta = torrent_file::read(&file).expect("a torrent");
        assert_eq!(catalog.find(&file, &look()), None);
        catalog.note(&file, &look(), &meta);
        let (card, is_whole) = catalog.find(&file, &look()).expect("known");
        assert_eq!(
            (card.info_hash, &*card.name, card.total_len),
            (meta.info_hash, "a", 16384)
        );
        assert!(!is_whole, "nothing is recorded of its payload");
        let mut record = Record {
            have: Bitfield::full(1),
            wrong: Bitfield::new(1),
            judged: 1,
            files: vec![Some(FileStamp {
                len: 16384,
                mtime_ns: 5,
            })],
        };
        session.put(meta.info_hash, record.clone());
        assert!(catalog.find(&file, &look()).expect("known").1);
        record.have = Bitfield::new(1);
        session.put(meta.info_hash, record);
        assert!(
            !catalog.find(&file, &look()).expect("known").1,
            "nothing of it is right"
        );
        // Another file of the same name, length and time of modification.
        let before = look();
        let other = dir.path().join("other");
        std::fs::write(&other, torrent("b")).expect("written");
        let opened = std::fs::File::options().write(true).open(&other).expect("opened");
        opened.set_modified(before.modified().expect("dated")).expect("dated");
        std::fs::rename(&other, &file).expect("replaced");
        assert_eq!(look().modified().expect("dated"), before.modified().expect("dated"));
        assert_eq!(catalog.find(&file, &look()), None, "it is another one");
        catalog.note(&file, &look(), &meta);
        assert!(catalog.find(&file, &look()).is_some());
        catalog.forget(&file);
        assert_eq!(catalog.find(&file, &look()), None);
    }
}
