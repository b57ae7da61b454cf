//! `/scrape` (BEP 48): the counts of the torrents that are named. All of them at once are not told.

use super::Scratch;
use super::query::{Wrong, decode_20, params};
use super::write::{put_bytes, put_int};
use crate::proto::InfoHash;
use crate::tracker::{SCRAPE_MAX, Tracker, Worker};

/// What is said of a scrape without a torrent.
pub(super) const NO_FULL_SCRAPE: Wrong = "info_hash is missing: a scrape names its torrents";

impl Tracker {
    /// Serves a scrape: the body of the reply is what `worker.scratch.body` holds afterwards. A torrent that is not served
    /// is left out, one that nobody is in has zeros.
    pub(super) fn http_scrape(&self, worker: &mut Worker, query: &[u8]) -> Result<(), Wrong> {
        let Worker { access, scratch, .. } = worker;
        let Scratch { body, info_hashes, .. } = scratch;
        info_hashes.clear();
        for (_, value) in params(query).filter(|(key, _)| *key == b"info_hash") {
            if info_hashes.len() == SCRAPE_MAX {
                return Err("more than 100 torrents in a scrape");
            }
            info_hashes.push(InfoHash(decode_20(value).ok_or("info_hash is not 20 bytes")?));
        }
        if info_hashes.is_empty() {
            return Err(NO_FULL_SCRAPE);
        }
        // Keys of a dictionary are sorted and differ.
        info_hashes.sort_unstable();
        info_hashes.dedup();
        body.clear();
        body.extend_from_slice(b"d5:filesd");
        for info_hash in info_hashes.iter().filter(|info_hash| access.allows(info_hash)) {
            let counts = self.store.scrape(info_hash);
            put_bytes(body, &info_hash.0);
            body.extend_from_slice(b"d8:complete");
            put_int(body, counts.complete as u64);
            body.extend_from_slice(b"10:downloaded");
            put_int(body, counts.downloaded.into());
            body.extend_from_slice(b"10:incomplete");
            put_int(body, counts.incomplete as u64);
            body.push(b'e');
        }
        body.extend_from_slice(b"ee");
        Ok(())
    }
}
