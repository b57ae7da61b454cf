//! What the scrub asks the supervisor: see [`crate::control::scrub`].

use std::sync::Arc;

use super::{State, Supervisor};
use crate::control::scrub::{Next, NextPlease, Scrubs};
use crate::control::torrents::Entry;

impl Supervisor<'_> {
    /// Scrubs the data folders of the watch folders that there are now, if payload is scrubbed at all.
    pub(super) fn follow_scrubs(&mut self) {
        if let Some(scrubs) = &mut self.scrubs {
            let dirs = self.folders.open_ones().map(|(_, watch)| watch.data_dir.as_path());
            scrubs.follow(dirs);
        }
    }

    /// The scrub of a folder wants its next torrent: one that is served, and that nobody writes to. One that rests is woken for
    /// it, and it waits until then.
    pub(super) fn on_scrub(&mut self, ask: NextPlease) {
        let (folder, behind, is_counted) = (&ask.folder, ask.behind, ask.is_counted);
        let of_folder = |entry: &Entry| {
            let is_at_rest = matches!(entry.state, State::Seeding | State::Partial);
            is_at_rest && self.folders.plan(entry.folder()).data_dir == *folder
        };
        let (mut next, mut left, mut total) = (None, 0, 0);
        for (info_hash, entry) in self.torrents.after(behind.filter(|_| !is_counted)) {
            if !of_folder(entry) || entry.served.is_none() && !entry.rests() {
                continue;
            }
            total += entry.len();
            if behind.is_some_and(|behind| info_hash <= behind) {
                continue; // Only counted.
            }
            left += entry.len();
            next.get_or_insert((info_hash, entry.served.as_ref()));
            if !is_counted {
                break;
            }
        }
        let next = match next {
            Some((info_hash, None)) => return self.scrub_when_woken(info_hash, ask),
            Some((_, Some(torrent))) => Some(Next {
                torrent: Arc::clone(torrent),
                left,
                total,
            }),
            None => None,
        };
        // The thread may have ended with its folder.
        let _ = ask.reply.send(next);
    }

    /// What scrubs, to be ended.
    pub(super) fn take_scrubs(&mut self) -> Option<Scrubs> {
        self.scrubs.take()
    }
}
