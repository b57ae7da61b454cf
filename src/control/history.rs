//! What each torrent has been through: bytes uploaded and downloaded, and when it was added and completed. Kept over
//! restarts, and for as long as the torrent is known.
//!
//! The shards count ([`Torrent::uploaded`]); here their numbers are looked at once a minute, and those that have grown are
//! added to what is recorded. Where nothing moves, nothing is written. `kill -9` costs a minute of the totals, and of
//! nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::UnboundedSender;

use crate::proto::InfoHash;
use crate::session::{Completed, History, Store};
use crate::shard::Torrent;

/// How often totals are recorded. Each time costs a transaction with a sync, for all torrents together.
const RECORD_EVERY: Duration = Duration::from_secs(60);

/// The same, but for tests of the whole program, which say otherwise in seconds.
fn record_every() -> Duration {
    let seconds = std::env::var("BTD_TEST_TOTALS_EVERY").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    seconds.map_or(RECORD_EVERY, |seconds: u32| Duration::from_secs(seconds.max(1).into()))
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The history of a torrent, which begins now if there is none.
fn begun(history: Option<History>) -> History {
    history.unwrap_or_else(|| History {
        uploaded: 0,
        downloaded: 0,
        added: now(),
        completed: None,
    })
}

/// A torrent is being downloaded, and its files are made. Not if nobody wants it any more, which `is_wanted` says: it might have been
/// forgotten.
///
/// One that was served in part before and has had nothing from peers yet is given a byte ([`History::as_begun`]): that is what tells that
/// its files are btd's, over the time when they have their lengths and are zeros.
pub(super) fn note_begun(session: &Store, info_hash: InfoHash, is_wanted: impl FnOnce() -> bool) {
    session.change_history(info_hash, |history| {
        // Asked in here: what is forgotten after this is forgotten.
        is_wanted().then(|| begun(history).as_begun())
    });
}

/// A torrent was downloaded as a whole. Its trackers are still to be told.
pub(super) fn note_complete(session: &Store, info_hash: InfoHash) {
    note_completed(session, info_hash, false, || true);
}

/// A torrent was found complete by a check: it is never downloaded again of itself, should its payload be missing one day.
/// Not if it was removed meanwhile, which `is_wanted` says: it might have been forgotten with its payload. Nor while it cannot be read what
/// it has been through: it may have been downloaded, and its trackers are still to be told. The next check notes it.
pub(super) fn note_whole(session: &Store, info_hash: InfoHash, is_wanted: impl FnOnce() -> bool) {
    note_completed(session, info_hash, true, is_wanted);
}

fn note_completed(session: &Store, info_hash: InfoHash, announced: bool, is_wanted: impl FnOnce() -> bool) {
    // What cannot be read may be there.
    if session.load_repair(&info_hash).unwrap_or(true) {
        session.put_repair(info_hash, false);
    }
    session.change_known_history(info_hash, |history, is_all| {
        // Asked in here: what is forgotten after this is forgotten.
        (is_wanted() && (is_all || !announced)).then(|| {
            let history = begun(history);
            let completed = history.completed.unwrap_or_else(|| Completed { at: now(), announced });
            History {
                completed: Some(completed),
                ..history
            }
        })
    });
}

/// A tracker has heard that a torrent is complete: none is told again.
pub(super) fn note_announced(session: &Store, info_hash: InfoHash) {
    session.change_known_history(info_hash, |history, is_all| {
        if is_all && history.is_none() {
            return None; // It was forgotten meanwhile.
        }
        let history = begun(history);
        // Nobody is told of what is not complete. When it was so is what is there, and cannot be read.
        let completed = history.completed.or_else(|| {
            let announced = true;
            (!is_all).then(|| Completed { at: now(), announced })
        });
        let completed = completed.map(|completed| Completed {
            announced: true,
            ..completed
        });
        Some(History { completed, ..history })
    });
}

/// Bytes that a torrent has moved and that are not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moved {
    info_hash: InfoHash,
    uploaded: u64,
    downloaded: u64,
}

/// What a torrent has done in all of its life, as it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) info_hash: InfoHash,
    /// Bytes of payload.
    pub(super) uploaded: u64,
    /// When it was complete, in seconds since 1970.
    pub(super) completed: Option<u64>,
}

/// A torrent that shards have, or may still have, and how much of what it has moved was taken over.
#[derive(Debug)]
struct Counted {
    /// Of `torrent`, which would have to be fetched from elsewhere in memory to be asked.
    info_hash: InfoHash,
    torrent: Arc<Torrent>,
    uploaded: u64,
    downloaded: u64,
}

/// How often a thread has begun to record totals, and has ended.
#[derive(Debug, Default)]
struct Batches {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// When totals were looked at that are not recorded. They are to be added to what is recorded, as long as that is still what it
/// was then: what is recorded meanwhile would be counted twice.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    batches: Arc<Batches>,
    ended: u64,
}

impl Moment {
    /// Whether nothing was recorded since. To be asked after what is recorded was looked at.
    pub(super) fn lasts(&self) -> bool {
        self.batches.begun.load(SeqCst) == self.ended
    }
}

/// Takes over what the shards count.
#[derive(Debug)]
pub(super) struct Totals {
    session: Arc<Store>,
    counted: Vec<Counted>,
    /// Taken over and not handed to a thread.
    moved: Vec<Moved>,
    /// Handed to a thread, which may have recorded it by now.
    in_hand: Vec<Moved>,
    batches: Arc<Batches>,
    /// How many times something was handed to a thread.
    handed: u64,
    /// Of which somebody wants to know how they stand.
    asked: Vec<InfoHash>,
    /// Of which all was read, and is right: complete from then on, if they were not before.
    whole: Vec<InfoHash>,
    standings: UnboundedSender<Standing>,
    /// Reading what was recorded waits for the disk.
    thread: Option<JoinHandle<()>>,
    recorded_at: Instant,
    /// See [`RECORD_EVERY`].
    every: Duration,
    /// Torrents that were forgotten: what is still told of them is not recorded.
    forgotten: Forgotten,
}

/// See [`Totals`]. No more than were forgotten since the start and not added again.
type Forgotten = Arc<Mutex<HashSet<InfoHash>>>;

impl Totals {
    /// How torrents stand is told to `standings`: those that are asked for, and, if somebody wants that, those that have moved.
    pub(super) fn new(session: Arc<Store>, standings: UnboundedSender<Standing>, now: Instant) -> Self {
        Self {
            session,
            counted: Vec::new(),
            moved: Vec::new(),
            in_hand: Vec::new(),
            batches: Arc::default(),
            handed: 0,
            asked: Vec::new(),
            whole: Vec::new(),
            standings,
            thread: None,
            recorded_at: now,
            every: record_every(),
            forgotten: Forgotten::default(),
        }
    }

    /// Forgets all that is known of a torrent, and what it has moved and is not recorded: its payload is deleted.
    pub(super) fn forget(&mut self, info_hash: InfoHash) {
        self.counted.retain(|counted| counted.info_hash != info_hash);
        self.moved.retain(|moved| moved.info_hash != info_hash);
        self.in_hand.retain(|moved| moved.info_hash != info_hash);
        lock(&self.forgotten).insert(info_hash);
        self.session.forget(info_hash);
    }

    /// The shards get a torrent. It is looked at for as long as anybody else has it: a shard that has let it go has counted
    /// all that it will.
    pub(super) fn follow(&mut self, torrent: &Arc<Torrent>) {
        lock(&self.forgotten).remove(&torrent.info_hash());
        self.counted.push(Counted {
            info_hash: torrent.info_hash(),
            torrent: Arc::clone(torrent),
            uploaded: 0,
            downloaded: 0,
        });
    }

    /// What a torrent has moved, up and down, and that is not recorded: before it was last checked, too. Also when that was so.
    pub(super) fn unrecorded(&self, info_hash: InfoHash) -> ((u64, u64), Moment) {
        let (unrecorded, moment) = self.unrecorded_between(info_hash, info_hash);
        (unrecorded.get(&info_hash).copied().unwrap_or_default(), moment)
    }

    /// The same of all from one info-hash to another that have moved anything.
    pub(super) fn unrecorded_between(
        &self,
        first: InfoHash,
        last: InfoHash,
    ) -> (HashMap<InfoHash, (u64, u64)>, Moment) {
        let range = first..=last;
        let counted = self.counted.iter().filter(|counted| range.contains(&counted.info_hash));
        let counted = counted.map(|counted| Moved {
            info_hash: counted.info_hash,
            uploaded: counted.torrent.uploaded() - counted.uploaded,
            downloaded: counted.torrent.downloaded() - counted.downloaded,
        });
        let ended = self.batches.ended.load(SeqCst);
        let in_hand = self.in_hand.iter().filter(|_| ended < self.handed);
        let moved = self.moved.iter().chain(in_hand);
        let moved = moved.filter(|moved| range.contains(&moved.info_hash));
        let mut unrecorded: HashMap<InfoHash, (u64, u64)> = HashMap::new();
        for moved in counted.chain(moved.copied()) {
            let sum = unrecorded.entry(moved.info_hash).or_default();
            *sum = (sum.0 + moved.uploaded, sum.1 + moved.downloaded);
        }
        let batches = Arc::clone(&self.batches);
        (unrecorded, Moment { batches, ended })
    }

    /// Somebody wants to know how a torrent stands.
    pub(super) fn ask(&mut self, info_hash: InfoHash) {
        self.asked.push(info_hash);
    }

    /// All of a torrent was read as it was asked for, and is right: it is complete, and how it stands is told.
    pub(super) fn note_whole(&mut self, info_hash: InfoHash) {
        self.whole.push(info_hash);
        self.ask(info_hash);
    }

    /// Records what has been moved, if it is time to, and with `tells` tells how those stand. Those that are asked for are told of
    /// in any case, and soon.
    pub(super) fn on_tick(&mut self, tells: bool, now: Instant) {
        let is_busy = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        let is_time = now.saturating_duration_since(self.recorded_at) >= self.every;
        if is_busy || !is_time && self.asked.is_empty() {
            return;
        }
        if is_time {
            self.recorded_at = now;
            self.take_over();
        }
        if self.moved.is_empty() && self.asked.is_empty() {
            return;
        }
        let (session, moved, mut told) = (Arc::clone(&self.session), self.moved.clone(), self.asked.clone());
        let (whole, forgotten) = (self.whole.clone(), Arc::clone(&self.forgotten));
        if tells {
            told.extend(moved.iter().map(|moved| moved.info_hash));
        }
        let (standings, batches) = (self.standings.clone(), Arc::clone(&self.batches));
        let thread = std::thread::Builder::new().name("btd-history".to_owned());
        let work = move || {
            batches.begun.fetch_add(1, SeqCst);
            record(&session, &moved, &forgotten);
            batches.ended.fetch_add(1, SeqCst);
            note_all_whole(&session, &whole, &forgotten);
            tell(&session, &told, &standings);
        };
        match thread.spawn(work) {
            Ok(thread) => {
                self.thread = Some(thread);
                self.handed += 1;
                self.in_hand = std::mem::take(&mut self.moved);
                self.whole.clear();
                self.asked.clear();
            }
            Err(error) => tracing::debug!("cannot start the thread that records totals: {error} (tried again)"),
        }
    }

    /// The shards have stopped. What is to be recorded at the end, which waits for the disk.
    pub(super) fn settle(mut self) -> impl FnOnce() + Send + 'static {
        self.take_over();
        let Self {
            session,
            moved,
            whole,
            thread,
            forgotten,
            ..
        } = self;
        move || {
            if let Some(thread) = thread {
                let _ = thread.join(); // Err: it panicked, and has said so itself.
            }
            record(&session, &moved, &forgotten);
            note_all_whole(&session, &whole, &forgotten);
        }
    }

    fn take_over(&mut self) {
        let moved = &mut self.moved;
        self.counted.retain_mut(|counted| {
            // Asked first: whoever has it after that may count on.
            let is_left = Arc::strong_count(&counted.torrent) == 1;
            let Counted {
                info_hash,
                torrent,
                uploaded,
                downloaded,
            } = counted;
            let grown = |before: &mut u64, now: u64| now - std::mem::replace(before, now);
            let of_torrent = Moved {
                info_hash: *info_hash,
                uploaded: grown(uploaded, torrent.uploaded()),
                downloaded: grown(downloaded, torrent.downloaded()),
            };
            if (of_torrent.uploaded, of_torrent.downloaded) != (0, 0) {
                moved.push(of_torrent);
            }
            !is_left
        });
    }
}

/// Adds to what is recorded.
fn record(session: &Store, moved: &[Moved], forgotten: &Forgotten) {
    for moved in moved {
        session.change_history(moved.info_hash, |history| {
            // Asked in here: what is forgotten after this is forgotten.
            let is_forgotten = lock(forgotten).contains(&moved.info_hash);
            (!is_forgotten).then(|| {
                let new = History {
                    uploaded: moved.uploaded,
                    downloaded: moved.downloaded,
                    ..begun(None)
                };
                // What was begun stays so, though it uploads before it has anything.
                history.map_or(new, |history| {
                    let added = history.added;
                    history.and(History { added, ..new })
                })
            })
        });
    }
}

fn note_all_whole(session: &Store, whole: &[InfoHash], forgotten: &Forgotten) {
    for info_hash in whole {
        note_whole(session, *info_hash, || !lock(forgotten).contains(info_hash));
    }
}

/// A panic leaves nothing half done in here.
fn lock(forgotten: &Forgotten) -> MutexGuard<'_, HashSet<InfoHash>> {
    forgotten.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells how torrents stand, of which anything is recorded.
fn tell(session: &Store, told: &[InfoHash], standings: &UnboundedSender<Standing>) {
    for info_hash in told {
        let Ok(Some(history)) = session.find_history(info_hash) else {
            continue;
        };
        // Nobody listens any more when btd is stopping.
        let _ = standings.send(Standing {
            info_hash: *info_hash,
            uploaded: history.uploaded,
            completed: history.completed.map(|completed| completed.at),
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::proto::bitfield::Bitfield;
    use crate::proto::metainfo::Metainfo;
    use crate::session::simulated;
    use crate::storage::Root;

    struct Fixture {
        _temp: tempfile::TempDir,
        session: Arc<Store>,
        totals: Totals,
        now: Instant,
        torrent: Arc<Torrent>,
        told: UnboundedReceiver<Standing>,
    }

    fn fixture() -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let session = Arc::new(Store::open(temp.path()).unwrap().0);
        let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).unwrap();
        let root = Arc::new(Root::open(temp.path()).unwrap());
        let torrent = Torrent::new(meta, root, &Bitfield::full(1), &[None]);
        let now = Instant::now();
        let (standings, told) = unbounded_channel();
        let mut totals = Totals::new(Arc::clone(&session), standings, now);
        totals.follow(&torrent);
        Fixture {
            _temp: temp,
            session,
            totals,
            now,
            torrent,
            told,
        }
    }

    impl Fixture {
        /// A minute later.
        fn minute(&mut self) {
            self.now += RECORD_EVERY;
            self.totals.on_tick(true, self.now);
            if let Some(thread) = self.totals.thread.take() {
                thread.join().unwrap();
            }
        }

        fn recorded(&self) -> Option<(u64, u64)> {
            let history = self.session.load_history(&self.torrent.info_hash())?;
            Some((history.uploaded, history.downloaded))
        }
    }

    #[test]
    fn torrent_that_was_served_in_part_is_known_to_be_downloaded_once_its_files_are_made() {
        let fixture = fixture();
        let info_hash = fixture.torrent.info_hash();
        let served = History {
            uploaded: 5,
            ..begun(None)
        };
        fixture.session.change_history(info_hash, |_| Some(served));
        note_begun(&fixture.session, info_hash, || false);
        assert_eq!(fixture.recorded(), Some((5, 0)), "nobody wants it any more");
        note_begun(&fixture.session, info_hash, || true);
        assert_eq!(fixture.recorded(), Some((5, 1)));
        note_begun(&fixture.session, info_hash, || true);
        assert_eq!(fixture.recorded(), Some((5, 1)));
    }

    /// Its files were somebody else's once it had uploaded, until something had come.
    #[test]
    fn download_that_uploads_before_it_has_anything_from_peers_stays_begun() {
        let mut fixture = fixture();
        note_begun(&fixture.session, fixture.torrent.info_hash(), || true);
        assert_eq!(fixture.recorded(), Some((0, 0)));
        fixture.torrent.count_uploaded(5);
        fixture.minute();
        let history = fixture.session.load_history(&fixture.torrent.info_hash());
        assert!(history.is_some_and(|history| history.is_begun()), "{history:?}");
        fixture.torrent.count_downloaded(7);
        fixture.torrent.count_uploaded(2);
        fixture.minute();
        assert_eq!(fixture.recorded(), Some((7, 8)));
    }

    #[test]
    fn totals_grow_by_what_was_moved_and_nothing_is_written_where_nothing_is() {
        let mut fixture = fixture();
        fixture.minute();
        assert_eq!(fixture.recorded(), None, "nothing has moved");
        fixture.torrent.count_uploaded(5);
        fixture.totals.on_tick(true, fixture.now + RECORD_EVERY / 2);
        assert!(fixture.totals.thread.is_none(), "it is not time yet");
        fixture.minute();
        assert_eq!(fixture.recorded(), Some((5, 0)));
        fixture.torrent.count_uploaded(2);
        fixture.torrent.count_downloaded(3);
        fixture.minute();
        assert_eq!(fixture.recorded(), Some((7, 3)));
        fixture.totals.on_tick(true, fixture.now + RECORD_EVERY);
        assert!(fixture.totals.thread.is_none(), "nothing has moved since");
    }

    /// What was recorded between a look at the one and a look at the other was counted twice, and what a thread had in hand not at all.
    #[test]
    fn what_is_not_recorded_and_what_is_make_a_sum_that_holds_at_one_moment() {
        let mut fixture = fixture();
        let info_hash = fixture.torrent.info_hash();
        fixture.torrent.count_uploaded(5);
        let (unrecorded, moment) = fixture.totals.unrecorded(info_hash);
        assert!(unrecorded == (5, 0) && moment.lasts());
        // A thread has it in hand, and is not at work yet.
        fixture.totals.take_over();
        fixture.totals.in_hand = std::mem::take(&mut fixture.totals.moved);
        fixture.totals.handed += 1;
        let (unrecorded, moment) = fixture.totals.unrecorded(info_hash);
        assert!(unrecorded == (5, 0) && moment.lasts());
        fixture.totals.batches.begun.fetch_add(1, SeqCst);
        assert!(!moment.lasts(), "it may be recorded by now");
        record(&fixture.session, &fixture.totals.in_hand, &Forgotten::default());
        assert!(!fixture.totals.unrecorded(info_hash).1.lasts());
        fixture.totals.batches.ended.fetch_add(1, SeqCst);
        let (unrecorded, moment) = fixture.totals.unrecorded(info_hash);
        assert!(unrecorded == (0, 0) && moment.lasts(), "it is recorded");
        assert_eq!(fixture.recorded(), Some((5, 0)));
        fixture.torrent.count_uploaded(2);
        fixture.minute();
        assert_eq!(fixture.totals.unrecorded(info_hash).0, (0, 0));
        assert!(!moment.lasts() && fixture.totals.unrecorded(info_hash).1.lasts());
    }

    /// It is checked anew: the shards get another one of the same info-hash, and count from zero.
    #[test]
    fn torrent_that_comes_after_another_of_the_same_info_hash_adds_to_its_total() {
        let mut fixture = fixture();
        fixture.torrent.count_uploaded(5);
        let meta = fixture.torrent.meta().clone();
        let root = fixture.torrent.root().clone();
        fixture.torrent = Torrent::new(meta, root, &Bitfield::full(1), &[None]);
        fixture.totals.follow(&fixture.torrent);
        fixture.torrent.count_uploaded(6);
        assert_eq!(fixture.totals.counted.len(), 2);
        let info_hash = fixture.torrent.info_hash();
        assert_eq!(fixture.totals.unrecorded(info_hash).0, (11, 0), "of both");
        fixture.minute();
        assert_eq!(fixture.recorded(), Some((11, 0)));
        assert_eq!(fixture.totals.counted.len(), 1, "nobody else has the first any more");
    }

    #[test]
    fn torrent_of_which_the_last_piece_was_read_as_it_was_asked_for_is_complete_from_then_on() {
        let mut fixture = fixture();
        let info_hash = fixture.torrent.info_hash();
        fixture.totals.note_whole(info_hash);
        fixture.totals.on_tick(true, fixture.now);
        fixture
            .totals
            .thread
            .take()
            .expect("not a minute later")
            .join()
            .unwrap();
        let told = fixture.told.try_recv().expect("somebody may have waited for it");
        let at = told.completed.expect("it is complete");
        fixture.totals.note_whole(info_hash);
        fixture.minute();
        assert_eq!(
            fixture.told.try_recv().map(|told| told.completed),
            Ok(Some(at)),
            "once for ever"
        );
        // What was forgotten meanwhile stays so.
        fixture.totals.note_whole(info_hash);
        fixture.totals.forget(info_hash);
        fixture.minute();
        assert_eq!(fixture.session.load_history(&info_hash), None);
    }

    #[test]
    fn how_a_torrent_stands_is_told_when_it_has_moved_and_soon_to_who_asks() {
        let mut fixture = fixture();
        let info_hash = fixture.torrent.info_hash();
        let standing = |uploaded, completed: Option<u64>| Standing {
            info_hash,
            uploaded,
            completed,
        };
        fixture.torrent.count_uploaded(5);
        fixture.minute();
        assert_eq!(fixture.told.try_recv(), Ok(standing(5, None)));
        fixture.minute();
        assert!(fixture.told.try_recv().is_err(), "it has not moved");
        note_whole(&fixture.session, info_hash, || true);
        let completed = fixture.session.load_history(&info_hash).unwrap().completed.unwrap().at;
        fixture.totals.ask(info_hash);
        fixture.torrent.count_uploaded(2);
        fixture.totals.on_tick(false, fixture.now);
        fixture.totals.thread.take().unwrap().join().unwrap();
        assert_eq!(
            fixture.told.try_recv(),
            Ok(standing(5, Some(completed))),
            "what is recorded by then"
        );
        fixture.now += RECORD_EVERY;
        fixture.totals.on_tick(false, fixture.now);
        fixture.totals.thread.take().unwrap().join().unwrap();
        assert!(fixture.told.try_recv().is_err(), "nobody has asked");
        assert_eq!(fixture.recorded(), Some((7, 0)));
    }

    #[test]
    fn what_was_moved_last_is_recorded_at_the_end() {
        let fixture = fixture();
        fixture.torrent.count_uploaded(5);
        fixture.totals.settle()();
        let history = fixture.session.load_history(&fixture.torrent.info_hash()).unwrap();
        assert_eq!(history.uploaded, 5);
    }

    #[test]
    fn what_ends_after_a_torrent_was_forgotten_brings_nothing_of_it_back() {
        let mut fixture = fixture();
        let info_hash = fixture.torrent.info_hash();
        fixture.torrent.count_uploaded(5);
        fixture.minute();
        assert_eq!(fixture.recorded(), Some((5, 0)));
        fixture.torrent.count_uploaded(6);
        // What a thread is about to record, and what shards go on to tell.
        let late = [Moved {
            info_hash,
            uploaded: 1,
            downloaded: 0,
        }];
        fixture.totals.forget(info_hash);
        record(&fixture.session, &late, &fixture.totals.forgotten);
        note_whole(&fixture.session, info_hash, || false);
        note_announced(&fixture.session, info_hash);
        fixture.torrent.count_uploaded(7);
        fixture.minute();
        assert_eq!(fixture.recorded(), None);
        // It is added again: it begins anew.
        fixture.totals.follow(&fixture.torrent);
        fixture.minute();
        assert_eq!(fixture.recorded(), Some((18, 0)), "of the torrent that shards have");
    }

    /// One whose session can be made unreadable, with a torrent that was downloaded and of which no tracker has heard that.
    fn complete_on(disk: &simulated::Disk) -> (Store, InfoHash, History) {
        let (session, info_hash) = (Store::simulated(disk), InfoHash([7; 20]));
        let history = History {
            uploaded: 1,
            downloaded: 2,
            added: 3,
            completed: Some(Completed {
                at: 4,
                announced: false,
            }),
        };
        session.put_history(info_hash, history);
        assert!(session.flush());
        (session, info_hash, history)
    }

    /// Nothing was noted of it then, and the next start told the trackers once more.
    #[test]
    fn trackers_that_were_told_while_the_session_cannot_be_read_are_not_told_again() {
        let disk = simulated::Disk::default();
        let (session, info_hash, history) = complete_on(&disk);
        for moves in [false, true] {
            session.put_history(info_hash, history);
            assert!(session.flush());
            disk.set_unreadable(true);
            let uploaded = u64::from(moves);
            if moves {
                let moved = Moved {
                    info_hash,
                    uploaded,
                    downloaded: 0,
                };
                record(&session, &[moved], &Forgotten::default());
            }
            note_announced(&session, info_hash);
            disk.set_unreadable(false);
            assert!(session.flush());
            let completed = Some(Completed { at: 4, announced: true });
            let uploaded = history.uploaded + uploaded;
            let wanted = History {
                uploaded,
                completed,
                ..history
            };
            assert_eq!(session.load_history(&info_hash), Some(wanted), "{moves}");
        }
        // Of one of which nothing is known, and that can be read, nothing is noted.
        note_announced(&session, InfoHash([8; 20]));
        assert_eq!(session.load_history(&InfoHash([8; 20])), None);
    }

    /// It was noted as one of which trackers need not be told, and they never were.
    #[test]
    fn torrent_that_is_found_whole_while_the_session_cannot_be_read_is_announced_as_complete_later() {
        let disk = simulated::Disk::default();
        let (session, info_hash, history) = complete_on(&disk);
        disk.set_unreadable(true);
        note_whole(&session, info_hash, || true);
        note_whole(&session, InfoHash([8; 20]), || true);
        disk.set_unreadable(false);
        assert!(session.flush());
        assert_eq!(session.load_history(&info_hash), Some(history));
        // The next check notes it.
        assert_eq!(session.load_history(&InfoHash([8; 20])), None);
        note_whole(&session, InfoHash([8; 20]), || true);
        let noted = session
            .load_history(&InfoHash([8; 20]))
            .and_then(|noted| noted.completed);
        assert!(noted.is_some_and(|completed| completed.announced));
        // That it was downloaded, somebody has to tell.
        disk.set_unreadable(true);
        note_complete(&session, InfoHash([9; 20]));
        disk.set_unreadable(false);
        let noted = session
            .load_history(&InfoHash([9; 20]))
            .and_then(|noted| noted.completed);
        assert!(noted.is_some_and(|completed| !completed.announced));
    }

    #[test]
    fn completion_is_noted_once_and_keeps_the_totals() {
        let fixture = fixture();
        let info_hash = fixture.torrent.info_hash();
        record(
            &fixture.session,
            &[Moved {
                info_hash,
                uploaded: 1,
                downloaded: 2,
            }],
            &Forgotten::default(),
        );
        note_complete(&fixture.session, info_hash);
        note_whole(&fixture.session, info_hash, || true);
        let history = fixture.session.load_history(&info_hash).unwrap();
        assert!(!history.completed.unwrap().announced, "as it was noted first");
        assert_eq!((history.uploaded, history.downloaded), (1, 2));
    }
}
