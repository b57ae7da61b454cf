//! All that is known here, a part at a time: for others that have lost it.

use std::time::Instant;

use super::batch::{Batch, To};
use crate::proto::InfoHash;
use crate::tracker::store::Place;
use crate::tracker::{Tracker, Worker};

/// Slots of a swarm that are looked at under one lock: some 20 us.
const PAGE_SLOTS: usize = 4096;

/// How far somebody has come who goes through all swarms.
#[derive(Debug, Default)]
pub struct Cursor {
    stripe: usize,
    /// Torrents of the stripe that are still to come, the next one last.
    left: Vec<InfoHash>,
    place: Place,
}

impl Tracker {
    /// Adds more peers to `batch`, and their torrents' counts of completions, and takes note that these have been asked for:
    /// who calls this looks up those that it adds to `done`, of which all peers have been told. Peers and torrents are about
    /// `count` together. False when there is no more. What changes meanwhile leaves updates, as ever: whoever takes them after
    /// this leaves their peers out of the batch.
    pub fn tell_known(
        &self,
        worker: &mut Worker,
        cursor: &mut Cursor,
        count: usize,
        batch: &mut Batch,
        done: &mut Vec<InfoHash>,
        now: Instant,
    ) -> bool {
        self.refresh_access(worker);
        let stamp = self.store.stamp(now);
        let before = batch.len() + done.len();
        while batch.len() + done.len() < before + count {
            let Some(info_hash) = self.torrent_at(cursor) else {
                return false;
            };
            let place = std::mem::take(&mut cursor.place);
            let more = if worker.access.allows(&info_hash) {
                let (downloaded, more) = self.store.page(&info_hash, place, PAGE_SLOTS, stamp, |known| {
                    let to = To::Joined {
                        is_seeder: known.is_seeder,
                        is_completion: false,
                        // Never 0, which is for who has just announced: what the others have heard since counts.
                        age: known.age.max(1),
                    };
                    batch.add_known(info_hash, known.address, known.name, to);
                });
                if downloaded > 0 {
                    batch.set_downloaded(info_hash, downloaded);
                }
                more
            } else {
                None
            };
            match more {
                Some(place) => cursor.place = place,
                None => {
                    self.store.set_asked_for(&info_hash, true);
                    done.push(info_hash);
                    cursor.left.pop();
                }
            }
        }
        true
    }

    /// Adds about `count` more torrents that are known here to `done`, likewise, of which nothing is told. False when there is
    /// no more.
    pub fn list_known(&self, worker: &mut Worker, cursor: &mut Cursor, count: usize, done: &mut Vec<InfoHash>) -> bool {
        self.refresh_access(worker);
        for _ in 0..count {
            let Some(info_hash) = self.torrent_at(cursor) else {
                return false;
            };
            cursor.left.pop();
            if worker.access.allows(&info_hash) {
                self.store.set_asked_for(&info_hash, true);
                done.push(info_hash);
            }
        }
        true
    }

    /// The torrent that somebody has come to.
    fn torrent_at(&self, cursor: &mut Cursor) -> Option<InfoHash> {
        while cursor.left.is_empty() {
            cursor.left = self.store.stripe(cursor.stripe)?;
            cursor.stripe += 1;
        }
        cursor.left.last().copied()
    }

    /// Takes note that a torrent has not been asked for after all: its next announce says so once more.
    pub fn ask_again(&self, info_hash: &InfoHash) {
        self.store.set_asked_for(info_hash, false);
    }
}
