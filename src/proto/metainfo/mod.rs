//! Torrent files: what is in one, and how one is written (BEP 3, with BEP 12, 19, 27 and 47).
//!
//! [`Metainfo::parse`] reads hostile bytes and either gives a torrent whose sums, paths and hashes fit each other, or
//! an error that names the field. Hybrid torrents (BEP 52) are read by their v1 half; a torrent that has only the v2
//! half is refused, as are symbolic links with a length.
//!
//! What is lenient: fields outside `info` that only inform (trackers, comment, date) are passed over where they make no
//! sense, and keys may be out of order ([`Metainfo::unsorted_at`]), since torrents with both are about and their payload
//! is well defined all the same. Piece lengths need not be powers of two and may be as small as 1 KiB.
//!
//! Where files lie on disk is `storage`'s business.

mod encode;
mod parse;

pub use encode::{NewContent, NewFile, NewTorrent, encode};

use super::geometry::{self, Geometry, PieceIndex};
use super::path::{self, RelPath};
use super::{InfoHash, bencode};

/// The most files a torrent may have. A file is eight tokens of bencode and one more for each folder it is in, so that
/// [`bencode::Limits::METAINFO`] would soon end a longer list without naming it.
pub const FILE_COUNT_MAX: usize = 200_000;

/// The longest all paths may be together: every path repeats the torrent's name, so that a small torrent file could
/// otherwise take a large multiple of its size.
pub const PATHS_LEN_MAX: usize = 32 << 20;

/// The names that clients gave to pad files before BEP 47 marked them.
const PAD_PREFIX_OLD: &str = "_____padding_file";

/// A torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// The SHA-1 of the `info` dictionary as it stands in the file.
    pub info_hash: InfoHash,
    /// The name of the file or folder. Not for logs as it is: see [`path::escaped`].
    pub name: String,
    /// Whether peers may come from its trackers only (BEP 27).
    pub private: bool,
    /// Its length and how it is cut into pieces.
    pub geometry: Geometry,
    /// The SHA-1 of every piece.
    pub piece_hashes: PieceHashes,
    /// The files in the order of their bytes; they cover the torrent without gaps.
    pub files: Vec<FileEntry>,
    /// Trackers in tiers (BEP 12).
    pub announce: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub url_list: Vec<String>,
    /// What its maker said about it.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// When it was made, in seconds since 1970.
    pub creation_date: Option<i64>,
    /// Whether it is also a v2 torrent (BEP 52).
    pub hybrid: bool,
    /// How many empty symbolic links (BEP 47) were left out of `files`: btd makes none, and they have no bytes.
    pub symlinks: u32,
    /// The byte of the first key that stands out of order, as bencode does not allow. Worth telling the user, since
    /// other clients may refuse the file.
    pub unsorted_at: Option<usize>,
}

/// One file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it is kept. In a torrent of several files the first name is the torrent's.
    pub path: RelPath,
    /// Its length.
    pub len: u64,
    /// Where in the torrent it begins.
    pub offset: u64,
    /// Whether it stands for zeros that align the next file to a piece (BEP 47), and is never on disk. Several of them
    /// may have the same path.
    pub pad: bool,
}

/// The SHA-1 of every piece.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceHashes(Box<[[u8; 20]]>);

impl PieceHashes {
    /// The hash that this piece must have.
    pub fn get(&self, piece: PieceIndex) -> &[u8; 20] {
        &self.0[piece.as_usize()]
    }

    /// How many pieces there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none, which [`Metainfo::parse`] never gives.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All hashes, in order.
    pub fn as_slice(&self) -> &[[u8; 20]] {
        &self.0
    }
}

impl std::fmt::Debug for PieceHashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PieceHashes({})", self.0.len())
    }
}

impl Metainfo {
    /// Reads a torrent file.
    pub fn parse(input: &[u8]) -> Result<Self, Error> {
        parse::parse(input)
    }
}

/// Why a torrent file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not bencode, or too much of it.
    #[error("broken bencode: {0}")]
    Bencode(#[from] bencode::Error),
    /// It is bencode, but no dictionary.
    #[error("not a torrent: a dictionary was expected at its beginning")]
    NotATorrent,
    /// It has only the v2 half of BEP 52.
    #[error("a torrent of version 2 only (BEP 52), which btd does not support")]
    V2Only,
    /// A field is missing or wrong.
    #[error("`{field}`: {problem}")]
    Field {
        /// Which, for example `info.files[3].path`.
        field: String,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What is wrong with a field of a torrent file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is not there.
    #[error("missing")]
    Missing,
    /// It is of another kind.
    #[error("not {0}")]
    NotA(&'static str),
    /// A length below zero.
    #[error("a negative length of {0}")]
    Negative(i64),
    /// A name or path that btd would not open.
    #[error(transparent)]
    Path(#[from] path::Error),
    /// Two files that cannot both be.
    #[error(transparent)]
    Clash(#[from] path::Clash),
    /// A shape that is out of bounds.
    #[error(transparent)]
    Geometry(#[from] geometry::Error),
    /// The hashes do not fit the length.
    #[error("{len} bytes of hashes, {expected} expected for {total_len} bytes in pieces of {piece_len}")]
    PiecesLen {
        /// The bytes that are there.
        len: usize,
        /// The bytes that fit.
        expected: usize,
        /// The torrent's length.
        total_len: u64,
        /// The piece length.
        piece_len: u32,
    },
    /// The lengths of the files add up to more than any torrent may have.
    #[error("more than {max} bytes in all", max = geometry::TOTAL_LEN_MAX)]
    TotalLen,
    /// Padding without end: zeros that nobody stores, but that somebody would have to hash.
    #[error("padding as long as a piece or longer, where less than a piece would do (BEP 47)")]
    PadTooLong,
    /// Too many files.
    #[error("more than {FILE_COUNT_MAX} files")]
    TooManyFiles,
    /// The paths are too long together.
    #[error("paths of more than {PATHS_LEN_MAX} bytes in all")]
    PathsTooLong,
    /// A single file and a list of files at once.
    #[error("present beside `info.length`: one file or several?")]
    LengthAndFiles,
    /// A symbolic link that claims bytes of the torrent.
    #[error("a symbolic link with a length of {0}")]
    Symlink(u64),
}
