//! What a download has been through: bytes and completion, kept for as long as its torrent is known.

use std::time::SystemTime;

use crate::proto::InfoHash;
use crate::session::{Completed, History, Store};

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Adds to what a torrent has been through.
pub(super) fn add_to_history(session: &Store, info_hash: InfoHash, downloaded: u64, is_complete: bool) {
    let before = session.load_history(&info_hash);
    let mut history = before.unwrap_or(History {
        uploaded: 0,
        downloaded: 0,
        added: now(),
        completed: None,
    });
    history.downloaded = history.downloaded.saturating_add(downloaded);
    if is_complete && history.completed.is_none() {
        history.completed = Some(Completed {
            at: now(),
            announced: false,
        });
    }
    if before != Some(history) {
        session.put_history(info_hash, history);
    }
}

/// A torrent was found complete by a check: it is never downloaded again of itself, should its payload be missing one day.
pub(in crate::control) fn note_whole(session: &Store, info_hash: InfoHash) {
    let before = session.load_history(&info_hash);
    if before.is_some_and(|history| history.completed.is_some()) {
        return;
    }
    let at = now();
    let history = before.unwrap_or(History {
        uploaded: 0,
        downloaded: 0,
        added: at,
        completed: None,
    });
    let completed = Some(Completed { at, announced: true });
    session.put_history(info_hash, History { completed, ..history });
}
