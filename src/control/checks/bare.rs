//! Torrents of which nothing is there, as of new downloads: there is nothing to read, so that they do not wait for those that are read.
//!
//! Only what looks so at once is taken for such a one. All others have their turn, and what is there of them is seen then.

use super::Job;
use crate::session::Store;
use crate::storage::{self, Root};

/// Whether nothing is recorded of a torrent and none of its files is there. Blocks on the disk.
pub(super) fn is_bare(job: &Job, root: &Root, session: &Store) -> bool {
    // First, as it is of most at a start: then no .torrent is read for it.
    if !matches!(session.has_record(&job.info_hash), Ok(false)) {
        return false;
    }
    // What is wrong with its file is told in its turn.
    let meta = job.contents.get(job.info_hash);
    let goes_on = || !job.progress.inner.is_cancelled();
    meta.is_ok_and(|meta| storage::is_bare(&meta, root, goes_on))
}
