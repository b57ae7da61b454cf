//! The digests of files that are to become a torrent.
//!
//! Here, unlike in [`check`](mod@super::check), a file that is not what it was said to be ends the work: a torrent made of
//! bytes that are changing would be one nobody can seed.

use super::layout::Layout;
use super::payload::{FileState, Payload};
use super::pieces::{self, Means, Progress, Visitor};
use super::root::Root;
use crate::hashing::{Outcome, Then};
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::metainfo::FileEntry;

/// Why there are no digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file is not there as announced, or could not be read.
    #[error("file {file}: {state}")]
    File {
        /// Its place among the files given.
        file: usize,
        /// What is wrong with it.
        state: FileState,
    },
    /// A file could not be read, and is in order now.
    #[error(
        "a file could not be read while it was hashed, and is there again now (hint: nothing may change it meanwhile)"
    )]
    Unsteady,
    /// The run itself was ended.
    #[error(transparent)]
    Run(#[from] pieces::Error),
}

/// The digest of every piece of `files`, which follow each other as in a torrent and lie below `root`.
///
/// # Errors
/// When a file does not have the announced length, cannot be read, or changes its length while being read.
pub fn digests(
    root: &Root,
    files: &[FileEntry],
    geometry: &Geometry,
    means: Means<'_>,
    progress: &Progress,
) -> Result<Vec<[u8; 20]>, Error> {
    let layout = Layout::of_files(files);
    let payload = Payload::look(root, &layout, files, None, || !progress.is_cancelled());
    let mut payload = payload.ok_or(pieces::Error::Cancelled)?;
    all_ok(&payload)?;
    let mut collector = Collector {
        digests: vec![[0; 20]; geometry.piece_count() as usize],
        failed: false,
    };
    pieces::run(geometry, &mut payload, means, progress, &mut collector)?;
    payload.look_again();
    all_ok(&payload)?;
    if collector.failed {
        return Err(Error::Unsteady);
    }
    Ok(collector.digests)
}

fn all_ok(payload: &Payload<'_>) -> Result<(), Error> {
    match payload.states().iter().enumerate().find(|(_, state)| !state.is_ok()) {
        Some((file, &state)) => Err(Error::File { file, state }),
        None => Ok(()),
    }
}

struct Collector {
    digests: Vec<[u8; 20]>,
    failed: bool,
}

impl Visitor for Collector {
    fn wanted(&mut self, _piece: PieceIndex, _payload: &Payload<'_>) -> Option<Then> {
        // After the first failure the rest is not worth reading.
        (!self.failed).then_some(Then::Finish)
    }

    fn unreadable(&mut self, _piece: PieceIndex) {
        self.failed = true;
    }

    fn hashed(&mut self, piece: PieceIndex, outcome: Outcome) {
        if let Outcome::Digest(digest) = outcome {
            self.digests[piece.as_usize()] = digest;
        }
    }

    fn settled_below(&mut self, _piece: u32, _payload: &mut Payload<'_>) {
        // A torrent is made in one go.
    }
}
