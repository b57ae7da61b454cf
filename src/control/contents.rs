//! What is in a torrent's file: here already, or to be read when it is needed.
//!
//! Torrents that wait for something (for their turn to be checked, for payload that is missing) may be 100,000, with
//! megabytes in each file: they wait by the path of their file.

use std::path::Path;
use std::sync::Arc;

use super::torrent_file;
use crate::proto::InfoHash;
use crate::proto::metainfo::Metainfo;

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) enum Contents {
    /// These.
    Here(Arc<Metainfo>),
    /// Those of this file.
    InFile(Arc<Path>),
}

/// Why they are not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It cannot be read, or holds none.
    #[error("{file:?}: {source}")]
    File {
        /// Which.
        file: Arc<Path>,
        /// See there.
        source: torrent_file::Error,
    },
    /// It holds another by now.
    #[error("{file:?} holds another torrent now")]
    Another {
        /// Which.
        file: Arc<Path>,
    },
}

impl Contents {
    /// Those of this torrent. Blocks on the disk.
    ///
    /// # Errors
    /// Its file cannot be read any more, or is another's.
    pub(crate) fn get(&self, info_hash: InfoHash) -> Result<Arc<Metainfo>, Unread> {
        let file = match self {
            Self::Here(meta) => return Ok(Arc::clone(meta)),
            Self::InFile(file) => file,
        };
        match torrent_file::read(file) {
            Ok(meta) if meta.info_hash == info_hash => Ok(Arc::new(meta)),
            Ok(_) => Err(Unread::Another { file: Arc::clone(file) }),
            Err(source) => Err(Unread::File {
                file: Arc::clone(file),
                source,
            }),
        }
    }
}

impl From<Arc<Metainfo>> for Contents {
    fn from(meta: Arc<Metainfo>) -> Self {
        Self::Here(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::watch::testing::torrent;

    #[test]
    fn file_that_holds_another_torrent_by_now_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("a.torrent");
        std::fs::write(&file, torrent("a")).expect("written");
        let meta = torrent_file::read(&file).expect("a torrent");
        let contents = Contents::InFile(file.as_path().into());
        assert_eq!(*contents.get(meta.info_hash).expect("read"), meta);
        std::fs::write(&file, torrent("b")).expect("written");
        assert!(matches!(contents.get(meta.info_hash), Err(Unread::Another { .. })));
        std::fs::remove_file(&file).expect("removed");
        assert!(matches!(contents.get(meta.info_hash), Err(Unread::File { .. })));
        assert_eq!(
            Contents::from(Arc::new(meta.clone()))
                .get(meta.info_hash)
                .expect("here")
                .name,
            "a"
        );
    }
}
