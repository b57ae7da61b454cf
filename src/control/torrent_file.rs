//! One .torrent file, from a path to a torrent that can be trusted to be well-formed.
//!
//! The file is foreign: it may be huge, a pipe, half-written or hostile. It is looked at before it is opened, opened so
//! that nothing can block, and measured before it is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::proto::metainfo::{self, Metainfo};

/// A .torrent of a terabyte in small pieces is a tenth of this.
pub const FILE_LEN_MAX: u64 = 32 << 20;

/// Why a file is not a torrent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pipe, a device, a folder.
    #[error("not a regular file")]
    NotRegular,
    /// Refused unread.
    #[error("{len} bytes long, at most {FILE_LEN_MAX} accepted")]
    TooLong {
        /// Of the file.
        len: u64,
    },
    /// The filesystem refused.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The content is not a torrent, or a hostile one.
    #[error(transparent)]
    Content(#[from] metainfo::Error),
}

/// Reads and parses the file. Blocks on the disk, but on nothing else.
///
/// # Errors
/// The file is not one that btd will read, or not a torrent that btd will load.
pub fn read(path: &Path) -> Result<Metainfo, Error> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::NotRegular);
    }
    // It may be something else by now: a pipe would block the open without O_NONBLOCK.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let bytes = read_bounded(&file)?;
    Ok(Metainfo::parse(&bytes)?)
}

fn read_bounded(file: &File) -> Result<Vec<u8>, Error> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Error::NotRegular);
    }
    if metadata.len() > FILE_LEN_MAX {
        return Err(Error::TooLong { len: metadata.len() });
    }
    // One byte more than it says, to notice that it has grown and is still being written.
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 1);
    let read = file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)? as u64;
    if read > FILE_LEN_MAX {
        return Err(Error::TooLong { len: read });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_a_folder_and_a_giant_are_refused_unread() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let pipe = dir.path().join("pipe.torrent");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("made");
        assert!(matches!(read(&pipe), Err(Error::NotRegular)));
        assert!(matches!(read(dir.path()), Err(Error::NotRegular)));
        let giant = dir.path().join("giant.torrent");
        File::create(&giant)
            .and_then(|file| file.set_len(FILE_LEN_MAX + 1))
            .expect("made");
        assert!(matches!(read(&giant), Err(Error::TooLong { len }) if len == FILE_LEN_MAX + 1));
    }

    #[test]
    fn a_file_that_is_not_a_torrent_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("x.torrent");
        std::fs::write(&file, "d4:infod").expect("written");
        assert!(matches!(read(&file), Err(Error::Content(_))));
        assert!(matches!(read(&dir.path().join("absent")), Err(Error::Io(_))));
    }
}
