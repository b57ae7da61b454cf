//! What a file on disk is, compared with what the torrent says.

use crate::storage::root::OpenError;

/// What a file on disk is, compared with what the torrent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// A regular file of the right length. Whether its bytes are right, its pieces tell.
    Ok,
    /// There is no such file.
    Missing,
    /// It ends too early.
    Shorter {
        /// Bytes it has.
        have: u64,
        /// Bytes it should have.
        want: u64,
    },
    /// It goes on after its end. Its pieces are good all the same.
    Longer {
        /// Bytes it has.
        have: u64,
        /// Bytes it should have.
        want: u64,
    },
    /// Something else is in its place: a folder, a symbolic link, a FIFO...
    NotRegular(OpenError),
    /// The system refused to open it or to read from it.
    Unreadable(OpenError),
}

impl FileState {
    /// Whether the file is as it should be, as far as can be seen from outside.
    pub fn is_ok(&self) -> bool {
        *self == Self::Ok
    }

    pub(super) fn of_len(have: u64, want: u64) -> Self {
        match have.cmp(&want) {
            std::cmp::Ordering::Less => Self::Shorter { have, want },
            std::cmp::Ordering::Equal => Self::Ok,
            std::cmp::Ordering::Greater => Self::Longer { have, want },
        }
    }
}

impl std::fmt::Display for FileState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Missing => f.write_str("missing"),
            Self::Shorter { have, want } => write!(f, "too short: {have} of {want} bytes"),
            Self::Longer { have, want } => write!(f, "too long: {have} bytes instead of {want}"),
            Self::NotRegular(error) | Self::Unreadable(error) => write!(f, "{error}"),
        }
    }
}

impl From<OpenError> for FileState {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Missing => Self::Missing,
            OpenError::NotAFolder | OpenError::SymbolicLink | OpenError::NotRegular(_) | OpenError::Outside => {
                Self::NotRegular(error)
            }
            OpenError::Denied | OpenError::TooManyOpen | OpenError::Other(_) => Self::Unreadable(error),
        }
    }
}
