//! What a download has been through: bytes and completion, kept for as long as its torrent is known.

use std::time::SystemTime;

use crate::proto::InfoHash;
use crate::session::{Completed, History, Store};

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A torrent that was added just now.
fn fresh() -> History {
    History {
        uploaded: 0,
        downloaded: 0,
        added: now(),
        completed: None,
    }
}

/// Adds to what a torrent has been through.
pub(super) fn add_to_history(session: &Store, info_hash: InfoHash, downloaded: u64, is_complete: bool) {
    session.update_history(info_hash, |before| {
        let mut history = before.unwrap_or_else(fresh);
        history.downloaded = history.downloaded.saturating_add(downloaded);
        if is_complete && history.completed.is_none() {
            history.completed = Some(Completed {
                at: now(),
                announced: false,
            });
        }
        Some(history)
    });
}

/// A torrent was found complete by a check: it is never downloaded again of itself, should its payload be missing one day.
pub(in crate::control) fn note_whole(session: &Store, info_hash: InfoHash) {
    session.update_history(info_hash, |before| {
        let history = before.unwrap_or_else(fresh);
        let completed = history.completed.or(Some(Completed {
            at: now(),
            announced: true,
        }));
        Some(History { completed, ..history })
    });
}

/// A tracker has heard that a torrent is complete: none is told again.
pub(in crate::control) fn note_announced(session: &Store, info_hash: InfoHash) {
    session.update_history(info_hash, |before| {
        let history = before?;
        let completed = history.completed.map(|completed| Completed {
            announced: true,
            ..completed
        });
        Some(History { completed, ..history })
    });
}
