//! Torrents whose payload is verified as it is asked for (`verify = "lazy"`): what the shards have found out is recorded, so
//! that a restart does not read it again.
//!
//! Looked at every half minute; where nobody has asked for anything new, nothing is written. `kill -9` costs half a minute
//! of reading, and nothing else. One that is being downloaded is recorded by `downloads` instead.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::session::{Record, Store};
use crate::shard::Torrent;

/// How often what was verified is recorded, for all torrents together.
const RECORD_EVERY: Duration = Duration::from_secs(30);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct UnreadTorrents {
    session: Arc<Store>,
    entries: HashMap<InfoHash, Entry>,
    /// Torrents of which the disk did not take a file or its name when they were checked: a loss of power may take it away, and it
    /// would not be had again if the torrent was noted as whole. The next check does that.
    unsure: HashSet<InfoHash>,
    recorded_at: Instant,
}

#[derive(Debug)]
struct Entry {
    torrent: Arc<Torrent>,
    /// What its check has recorded, and the pieces that there were then.
    base: Record,
    had: Bitfield,
    /// How many pieces were unread when it was recorded last.
    recorded: u32,
}

impl UnreadTorrents {
    pub(super) fn new(session: Arc<Store>, now: Instant) -> Self {
        Self {
            session,
            entries: HashMap::new(),
            unsure: HashSet::new(),
            recorded_at: now,
        }
    }

    /// A torrent was checked, and everything of it is on the disk, or not.
    pub(super) fn on_checked(&mut self, info_hash: InfoHash, is_durable: bool) {
        match is_durable {
            true => self.unsure.remove(&info_hash),
            false => self.unsure.insert(info_hash),
        };
    }

    /// The shards get a torrent, some pieces of which nobody has read; `base` is what is recorded of it, or would be.
    pub(super) fn add(&mut self, torrent: &Arc<Torrent>, base: Record) {
        let entry = Entry {
            base,
            had: torrent.have(),
            recorded: torrent.unread_count(),
            torrent: Arc::clone(torrent),
        };
        self.entries.insert(torrent.info_hash(), entry);
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, info_hash: InfoHash) -> bool {
        self.entries.contains_key(&info_hash)
    }

    /// The shards have it no more: what they have found out is recorded.
    pub(super) fn remove(&mut self, info_hash: InfoHash) {
        if let Some(mut entry) = self.entries.remove(&info_hash) {
            entry.record(&self.session);
        }
    }

    /// It is gone, and nothing is to be known of it.
    pub(super) fn forget(&mut self, info_hash: InfoHash) {
        self.entries.remove(&info_hash);
        self.unsure.remove(&info_hash);
    }

    /// Records what was found out, if it is time to. Gives those of which all is read now, and right, and on the disk.
    pub(super) fn on_tick(&mut self, now: Instant) -> Vec<InfoHash> {
        if now.saturating_duration_since(self.recorded_at) < RECORD_EVERY {
            return Vec::new();
        }
        self.recorded_at = now;
        self.record_all()
    }

    /// Records what was found out, likewise. Does not wait for the disk.
    pub(super) fn record_all(&mut self) -> Vec<InfoHash> {
        for entry in self.entries.values_mut() {
            entry.record(&self.session);
        }
        // All of them were read, and nothing can be found out any more.
        let read = self.entries.extract_if(|_, entry| entry.recorded == 0);
        let whole = read.filter(|(info_hash, entry)| entry.torrent.is_complete() && !self.unsure.contains(info_hash));
        whole.map(|(info_hash, _)| info_hash).collect()
    }
}

impl Entry {
    fn record(&mut self, session: &Store) {
        // Asked first: what comes meanwhile is for the next time.
        let unread = self.torrent.unread_count();
        if std::mem::replace(&mut self.recorded, unread) == unread {
            return;
        }
        session.put_current(self.torrent.info_hash(), || self.current());
    }

    fn current(&self) -> Record {
        let served = self.torrent.have();
        let mut record = self.base.clone();
        for piece in self.torrent.verified().pieces() {
            record.have.set(piece);
        }
        for piece in self.had.pieces().filter(|piece| !served.get(*piece)) {
            record.have.clear(piece);
        }
        for piece in self.torrent.wrong().iter().flat_map(Bitfield::pieces) {
            record.have.clear(piece);
            record.wrong.set(piece);
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metainfo::Metainfo;
    use crate::storage::Root;

    /// A torrent of one piece, and a session.
    struct Fixture {
        session: Arc<Store>,
        root: Arc<Root>,
        _temp: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            Self {
                session: Arc::new(Store::open(temp.path()).unwrap().0),
                root: Arc::new(Root::open(temp.path()).unwrap()),
                _temp: temp,
            }
        }

        /// As the shards get it: its piece is there, and nobody has read it.
        fn torrent(&self) -> Arc<Torrent> {
            let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).unwrap();
            let all = Bitfield::full(1);
            Torrent::new(meta, Arc::clone(&self.root), &all, &[None]).with_unread(&all)
        }
    }

    /// What its check has recorded.
    fn nothing_read() -> Record {
        Record {
            have: Bitfield::new(1),
            wrong: Bitfield::new(1),
            judged: 1,
            files: vec![None],
        }
    }

    #[test]
    fn what_was_verified_is_recorded_once_and_nothing_is_written_where_nothing_was() {
        let fixture = Fixture::new();
        let torrent = fixture.torrent();
        let info_hash = torrent.info_hash();
        let now = Instant::now();
        let mut unread = UnreadTorrents::new(Arc::clone(&fixture.session), now);
        unread.add(&torrent, nothing_read());
        assert!(unread.on_tick(now + RECORD_EVERY).is_empty());
        assert_eq!(
            fixture.session.load(&info_hash, 1, 1),
            None,
            "nobody has asked for anything"
        );
        torrent.grant(torrent.geometry().piece_index(0).unwrap());
        unread.on_tick(now + RECORD_EVERY);
        assert_eq!(fixture.session.load(&info_hash, 1, 1), None, "it is not time yet");
        assert_eq!(unread.on_tick(now + 2 * RECORD_EVERY), [info_hash], "it is whole");
        let have = Bitfield::full(1);
        let expected = Record { have, ..nothing_read() };
        assert_eq!(fixture.session.load(&info_hash, 1, 1), Some(expected));
        assert!(!unread.has(info_hash), "there is nothing more to be found out");
    }

    /// Its files may be gone after a loss of power, and what is noted as whole is not had again by itself.
    #[test]
    fn what_the_disk_did_not_take_is_not_whole_when_all_of_it_was_read() {
        let fixture = Fixture::new();
        let now = Instant::now();
        let mut unread = UnreadTorrents::new(Arc::clone(&fixture.session), now);
        let mut read_all = |checks: &[bool]| {
            let torrent = fixture.torrent();
            let info_hash = torrent.info_hash();
            checks.iter().for_each(|check| unread.on_checked(info_hash, *check));
            unread.add(&torrent, nothing_read());
            torrent.grant(torrent.geometry().piece_index(0).unwrap());
            let whole = unread.record_all();
            assert!(!unread.has(info_hash));
            unread.forget(info_hash);
            whole.len()
        };
        assert_eq!(read_all(&[false]), 0);
        assert_eq!(read_all(&[false, true]), 1, "the next check had better luck");
        assert_eq!(read_all(&[]), 1, "it was forgotten");
    }

    #[test]
    fn what_is_wrong_is_recorded_as_that_when_the_torrent_leaves() {
        let fixture = Fixture::new();
        let torrent = fixture.torrent();
        let mut unread = UnreadTorrents::new(Arc::clone(&fixture.session), Instant::now());
        unread.add(&torrent, nothing_read());
        let piece = torrent.geometry().piece_index(0).unwrap();
        assert!(torrent.withdraw_wrong(piece, "it is wrong"));
        assert!(torrent.judged(piece) && torrent.is_changed());
        unread.remove(torrent.info_hash());
        let wrong = Bitfield::full(1);
        let recorded = fixture.session.load(&torrent.info_hash(), 1, 1);
        assert_eq!(
            recorded,
            Some(Record {
                wrong,
                ..nothing_read()
            })
        );
    }
}
