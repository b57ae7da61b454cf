//! Why a file could not be prepared or finished, and what can be done about it.

use std::os::fd::AsFd;

use crate::proto::path::RelPath;
use crate::storage::root::OpenError;
use rustix::io::Errno;

/// What was tried, with which file, and why it did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {step} {path:?}: {cause}")]
pub struct Error {
    /// The place of the file in the torrent, or of one that lies in the folder.
    pub file: u32,
    /// The file or folder that it went wrong with.
    pub path: RelPath,
    /// What was tried.
    pub step: &'static str,
    /// Why it did not work.
    pub cause: Cause,
}

impl Error {
    /// Whether nobody knows any more what of the file is on the disk, or whether it is the file that was written to. Trying
    /// again tells nothing: the torrent has to be checked.
    pub fn is_doubtful(&self) -> bool {
        self.step == "sync" || matches!(self.cause, Cause::TooShort | Cause::Open(OpenError::Missing))
    }

    /// Whether something is there that was not looked at. Trying again tells nothing here either.
    pub fn is_unjudged(&self) -> bool {
        self.cause == Cause::Unjudged
    }
}

/// Why a step did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The disk is full, or would be.
    #[error(
        "{needed} bytes are needed on the disk and {free} are free, {} too few (hint: make room; it goes on from here)",
        .needed.saturating_sub(*.free)
    )]
    NoSpace {
        /// How much is needed.
        needed: u64,
        /// How much there is.
        free: u64,
    },
    /// There is room for bytes, but not for another file.
    #[error("the filesystem has as many files as it can hold (hint: `df -i`)")]
    NoInodes,
    /// What btd's user may have on this disk is used up.
    #[error("the disk quota of btd's user is used up, and {needed} bytes are needed (hint: `quota`)")]
    Quota {
        /// How much is needed.
        needed: u64,
    },
    /// The process may not do it.
    #[error("permission denied (hint: btd's user needs to write to the data folder and all that is in it)")]
    Denied,
    /// The filesystem takes no writes.
    #[error(
        "its filesystem is read-only (hint: under systemd `ReadWritePaths=` has to name the folder: `systemctl edit btd`; \
         or it is mounted that way, or by the kernel after an error of the disk: `dmesg`)"
    )]
    ReadOnly,
    /// Its name is taken, and nothing is ever replaced.
    #[error("there is something of that name, which btd does not replace (hint: move it away, or delete it)")]
    Exists,
    /// Nobody has looked at what is there.
    #[error(
        "it was put there or changed after the torrent was checked, and btd writes over nothing that it has not looked at"
    )]
    Unjudged,
    /// Longer than the filesystem takes.
    #[error("a file of {len} bytes is longer than its filesystem takes")]
    TooLarge {
        /// How long it has to be.
        len: u64,
    },
    /// What is there is another file.
    #[error("it has become shorter than the torrent says (hint: check the torrent again)")]
    TooShort,
    /// What is there is not what it has to be.
    #[error(transparent)]
    Open(OpenError),
    /// Anything else the system says.
    #[error("{}", std::io::Error::from(*.0))]
    Other(Errno),
}

impl Cause {
    /// What an error number means for a step that needs so many bytes, on the disk that `fd` lies on.
    pub(super) fn of(errno: Errno, needed: u64, fd: impl AsFd) -> Self {
        match errno {
            Errno::NOSPC => no_space(needed, fd),
            Errno::DQUOT => Self::Quota { needed },
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::ROFS => Self::ReadOnly,
            Errno::EXIST => Self::Exists,
            Errno::FBIG => Self::TooLarge { len: needed },
            other => Self::Other(other),
        }
    }

    /// The same of what an open says.
    pub(super) fn of_open(error: OpenError, needed: u64, fd: impl AsFd) -> Self {
        match error {
            OpenError::Denied => Self::Denied,
            OpenError::Other(errno) => Self::of(errno, needed, fd),
            error => Self::Open(error),
        }
    }
}

fn no_space(needed: u64, fd: impl AsFd) -> Cause {
    let Ok(disk) = rustix::fs::fstatvfs(fd) else {
        return Cause::NoSpace { needed, free: 0 };
    };
    // Some filesystems do not count files, and say 0 of 0.
    match disk.f_files > 0 && disk.f_favail == 0 {
        true => Cause::NoInodes,
        false => Cause::NoSpace {
            needed: needed.max(disk.f_frsize), // A folder's entry takes a block.
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
        },
    }
}
