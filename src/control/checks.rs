//! Looks at payload: a few torrents of each disk at once, each on its own thread, in the order they came.
//!
//! The reading and hashing is in [`crate::storage`]; here is the queue, the progress that the log tells, and the torrent
//! that the shards get for what was found.

mod queue;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::config::display_size;
use super::contents::{self, Contents};
use super::downloads::Judged;
use super::history;
use super::places::{Absence, Places};
use crate::hashing::Pool;
use crate::io::uring::run_when_idle;
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::metainfo::Metainfo;
use crate::session::{FileStamp, Record, Store};
use crate::shard::Torrent;
use crate::storage::{
    self, CheckReport, Device, FileState, Layout, Means, Memory, PART_SUFFIX, Root, Throttle, Unread,
};
use queue::{Placed, Queue, Task};

/// One torrent to look at.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) info_hash: InfoHash,
    /// See [`super::torrents::Entry`].
    pub(crate) generation: u64,
    pub(crate) contents: Contents,
    pub(crate) data_dir: PathBuf,
    /// Whether what is known of it may be relied on. Not when somebody asked for another look.
    pub(crate) trust: bool,
    /// What becomes of pieces of which nothing is known, and which are read in any case.
    pub(crate) unread: Unread,
    pub(crate) doubted: Option<Bitfield>,
    /// The shard that downloads what is missing, if anybody has it.
    pub(crate) home: Option<u32>,
    pub(crate) progress: Arc<Progress>,
}

/// How far a check is. Written by its thread, read by the log; also how it is told to give up.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    started: OnceLock<Instant>,
    total: u64,
    inner: storage::Progress,
    /// Somebody wants all of it read, whatever is known.
    for_all: AtomicBool,
    /// It relies on something that is known, or believed.
    relies: AtomicBool,
}

impl Progress {
    pub(crate) fn new(total: u64) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// The bytes that there are to look at.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Those that were looked at.
    pub(super) fn done(&self) -> u64 {
        self.inner.bytes_done()
    }

    /// Nobody wants the result any more.
    pub(super) fn cancel(&self) {
        self.inner.cancel();
    }

    /// Somebody wants all of the payload read, whatever is known of it. One that has begun otherwise is ended early, and is to be
    /// made again ([`Progress::is_to_be_again`]). Whether that is news.
    pub(super) fn want_all(&self) -> bool {
        let is_news = !self.for_all.swap(true, SeqCst);
        if is_news && self.relies.load(SeqCst) {
            self.cancel();
        }
        is_news
    }

    /// Whether somebody wants all of it read.
    pub(super) fn is_for_all(&self) -> bool {
        self.for_all.load(SeqCst)
    }

    fn relies(&self, relies: bool) {
        self.relies.store(relies, SeqCst);
    }

    /// Whether the check has relied on what was known when somebody wanted all of it read.
    pub(super) fn is_to_be_again(&self) -> bool {
        self.is_for_all() && self.relies.load(SeqCst)
    }

    /// Whether that was said.
    #[cfg(test)]
    pub(super) fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled()
    }

    /// How long ago it began.
    pub(super) fn seconds(&self) -> f64 {
        self.started
            .get()
            .map_or(0.0, |started| started.elapsed().as_secs_f64())
    }

    /// `42 % of 12.3 GiB, 1.9 GB/s, 4 s left`, or nothing while it waits for its turn. Paused, it has no rate.
    pub(super) fn line(&self, paused: bool) -> Option<String> {
        self.started.get()?;
        let seconds = self.seconds();
        Some(match paused {
            true => format!(
                "paused at {} (SIGUSR2 lets it go on)",
                share(self.inner.bytes_done(), self.total)
            ),
            false => line(self.inner.bytes_done(), self.total, seconds),
        })
    }
}

/// `42 % of 12.3 GiB`.
fn share(done: u64, total: u64) -> String {
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    format!("{percent} % of {}", display_size(total))
}

fn line(done: u64, total: u64, seconds: f64) -> String {
    let mut line = share(done, total);
    let rate = done as f64 / seconds.max(0.001);
    if rate >= 1.0 {
        let left = total.saturating_sub(done) as f64 / rate;
        // Rates in powers of ten, as disks are sold.
        let (unit, scale) = if rate >= 1e9 { ("GB/s", 1e9) } else { ("MB/s", 1e6) };
        line += &format!(", {:.1} {unit}, {left:.0} s left", rate / scale);
    }
    line
}

/// What there is of a torrent's payload.
#[derive(Debug)]
pub(crate) struct Found {
    /// Pieces of the torrent.
    pub(crate) piece_count: u32,
    /// Pieces that are right and can be served.
    pub(crate) have_count: u32,
    /// Pieces that are there and wrong.
    pub(crate) wrong_count: u32,
    /// Whether all of it was known from an earlier check, and nothing was read.
    pub(crate) known: bool,
    /// What the first file that is not as it should be is, and how many more there are.
    pub(crate) why: Option<String>,
    /// For the shards, if any piece is right, or the rest is to be downloaded.
    pub(crate) torrent: Option<Arc<Torrent>>,
    /// What its files look like; only of a torrent that is to be downloaded.
    pub(crate) stamps: Option<Judged>,
    /// What of the files that are there it will write over, if it is downloaded.
    pub(crate) to_write_over: Option<String>,
    /// As it would be downloaded: it is not, as it would be written over files that have nothing of it. `why` says which.
    pub(crate) held: Option<Arc<Torrent>>,
    /// It was complete once, and is not downloaded again by itself.
    pub(crate) was_whole: bool,
    /// How many of the pieces nobody has read yet, and what was recorded of the others.
    pub(crate) unread: Option<(u32, Record)>,
    /// The disk took all files and their names that it may not have had.
    pub(crate) is_durable: bool,
    /// The disk did not take files that may be right: nothing is downloaded over them, and they are to be looked at again in a while.
    pub(crate) is_unsynced: bool,
}

/// Why nothing can be said about the payload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Its disk is not there: it is checked when that is back.
    #[error(transparent)]
    Unavailable(#[from] Absence),
    /// Its disk went away meanwhile, likewise.
    #[error("{0}")]
    Lost(String),
    /// Downloading it would write to what is another torrent's.
    #[error(
        "{path:?} is a file of {name:?} ({by}) too, and downloading it would overwrite that one's (hint: give one of them \
         a `data-dir` of its own)"
    )]
    Taken {
        /// The file, below the data folder.
        path: String,
        /// The other torrent.
        name: String,
        /// See there.
        by: InfoHash,
    },
    /// What is in the torrent's file is not to be had any more.
    #[error(transparent)]
    Unread(#[from] contents::Unread),
    /// It was stopped, and nobody waits for it.
    #[error(transparent)]
    Stopped(#[from] storage::Error),
}

/// The end of a check.
#[derive(Debug)]
pub(super) struct Checked {
    /// As submitted.
    pub(super) job: Job,
    /// What came of it.
    pub(super) result: Result<Found, Error>,
}

/// The threads that check, and their queue.
#[derive(Debug)]
pub(super) struct Checks {
    queue: Arc<Queue>,
    /// Closed when the last thread has ended: each holds a sender, and nobody sends.
    alive: UnboundedReceiver<()>,
}

impl Checks {
    /// Starts the threads, as many as there may be checks at once. Each result goes to `results`.
    pub(super) fn start(
        pool: &Arc<Pool>,
        throttle: &Arc<Throttle>,
        (session, places): (&Arc<Store>, &Arc<Places>),
        threads: usize,
        results: UnboundedSender<Checked>,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let (running, alive) = unbounded_channel();
        for _ in 0..threads {
            let worker = Worker {
                queue: Arc::clone(&queue),
                places: Arc::clone(places),
                pool: Arc::clone(pool),
                throttle: Arc::clone(throttle),
                session: Arc::clone(session),
                results: results.clone(),
            };
            let running = running.clone();
            std::thread::Builder::new()
                .name("btd-check".to_owned())
                .spawn(move || {
                    let _running = running;
                    run_when_idle();
                    while worker.one() {}
                })?;
        }
        Ok(Self { queue, alive })
    }

    /// Queues a torrent. The queue holds no more than there are torrents.
    pub(super) fn submit(&self, job: Job) {
        self.queue.submit(job);
    }

    /// How many torrents wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Begins no more checks. Those that run are told one by one, by their [`Progress`].
    pub(super) fn cancel(&self) {
        self.queue.close();
    }

    /// Waits until all threads have ended, so that what they found out is in the session; not longer than `deadline`, as
    /// one may hang on a dead network mount.
    pub(super) async fn ended(mut self, deadline: Duration) {
        let _ = tokio::time::timeout(deadline, self.alive.recv()).await;
    }
}

/// One thread.
struct Worker {
    queue: Arc<Queue>,
    places: Arc<Places>,
    pool: Arc<Pool>,
    throttle: Arc<Throttle>,
    session: Arc<Store>,
    results: UnboundedSender<Checked>,
}

impl Worker {
    /// Takes one job as far as it goes. False when there will be no more.
    fn one(&self) -> bool {
        match self.queue.next() {
            Task::Ended => false,
            Task::Place(job) => {
                if job.progress.inner.is_cancelled() {
                    self.queue.placed(&job.data_dir);
                    return self.stopped(job);
                }
                // Outside of the lock: a folder on a dead network mount holds up this thread only.
                let root = self.places.open(&job.data_dir);
                self.queue.placed(&job.data_dir);
                match root {
                    Ok(root) => {
                        let device = Device::of(&*root);
                        self.queue.place(device, Placed { job, root });
                        true
                    }
                    Err(absence) => {
                        let result = Err(absence.into());
                        self.results.send(Checked { job, result }).is_ok()
                    }
                }
            }
            Task::Check(device, Placed { job, root }) => {
                let told = if job.progress.inner.is_cancelled() {
                    self.stopped(job)
                } else {
                    let _ = job.progress.started.set(Instant::now());
                    let means = Means {
                        pool: &self.pool,
                        throttle: &self.throttle,
                        seeks: device.seeks,
                    };
                    let result = look(&job, Arc::clone(&root), means, &self.session);
                    // From now on payload is there, and elsewhere it would have to be something else.
                    if result.as_ref().is_ok_and(|found| found.have_count > 0) {
                        self.places.bind(&job.data_dir, &root);
                    }
                    drop(root); // Whoever is told of it may let go of the folder.
                    self.results.send(Checked { job, result }).is_ok()
                };
                self.queue.done(device);
                told
            }
        }
    }
}

impl Worker {
    /// Tells of one that was cancelled before it was begun: whoever cancelled it may want it checked later.
    fn stopped(&self, job: Job) -> bool {
        let result = Err(storage::Error::Cancelled.into());
        self.results.send(Checked { job, result }).is_ok()
    }
}

/// One check, on the thread that called.
pub(crate) fn look(job: &Job, root: Arc<Root>, means: Means<'_>, session: &Store) -> Result<Found, Error> {
    let info_hash = job.info_hash;
    let shared = job.contents.get(info_hash)?;
    let meta = &*shared;
    let mut kept = session.load(&info_hash, meta.geometry.piece_count(), meta.files.len());
    let is_known_here = kept.is_some();
    let trust = job.trust && !job.progress.is_for_all();
    let known = kept.clone().filter(|_| trust);
    let mut last = None;
    // What btd downloads itself is not believed by its length: its files have theirs from the start.
    let is_download = session
        .load_history(&info_hash)
        .is_some_and(|history| history.completed.is_none() && (history.downloaded > 0 || history.uploaded == 0));
    let is_repair = session.load_repair(&info_hash);
    let believed = match is_download || is_repair || !trust {
        true => Unread::Now,
        false => job.unread,
    };
    job.progress.relies(known.is_some() || believed != Unread::Now);
    let memory = Memory {
        known,
        unread: believed,
        doubted: job.doubted.clone(),
        keep: &mut |record| {
            if believed == Unread::Later {
                last = Some(record.clone());
            }
            // Payload that is not there is looked for every half minute, and what is known already is on the disk.
            let blank = record.have.is_empty() && record.wrong.is_empty() && kept.is_none();
            if !blank && kept.as_ref() != Some(&record) {
                kept = Some(record.clone());
                session.put(info_hash, record);
            }
        },
    };
    let report = storage::check(meta, &root, means, &job.progress.inner, Some(memory))?;
    let is_named = !report.parts.contains(&true);
    // What the disk does not take, bytes or names, may be gone after a loss of power: it would be had again then.
    let is_lost = |state: &FileState| matches!(state, FileState::Unreadable(_));
    let is_durable = !report.files.iter().any(is_lost);
    if report.have.is_full() && is_named && is_durable && report.unread.is_empty() {
        history::note_whole(session, info_hash, || !job.progress.inner.is_cancelled());
    }
    let is_lacking = !report.have.is_full() || !is_named;
    let history = session.load_history(&info_hash).filter(|_| is_lacking);
    let was_complete = history.is_some_and(|history| history.completed.is_some());
    let was_whole = trust && was_complete && !is_repair;
    // A disk that does not even take what is there is not written to.
    let home = job.home.filter(|_| is_lacking && !was_whole && !report.unsynced);
    // What was complete here once is the torrent's, and whoever wants it downloaded again has asked for that. A torrent that
    // was complete in another folder has nothing here.
    let strangers = match home {
        Some(_) if !(was_complete && (is_known_here || is_repair)) => {
            storage::strangers(meta, &root, &report, is_download)
        }
        _ => Vec::new(),
    };
    let to_download = |root, home| {
        let torrent = Torrent::to_download(Arc::clone(&shared), root, &report.have, &report.parts, home);
        torrent.with_unread(&report.unread)
    };
    let held = home.filter(|_| !strangers.is_empty());
    let held = held.map(|home| to_download(Arc::clone(&root), home));
    if let Some(home) = home.filter(|_| held.is_none()) {
        if was_complete && !is_repair {
            session.put_repair(info_hash, true); // Until it is complete, over restarts too.
        }
        let judged = Judged {
            stamps: complete_files(meta, &report),
            seen: report.seen.clone(),
        };
        let torrent = to_download(root, home);
        for (file, stamp) in (0..).zip(&judged.stamps) {
            if let Some(stamp) = stamp {
                torrent.finished(file, Some(stamp.mtime_ns));
            }
        }
        let to_write_over = to_write_over(meta, &report);
        return Ok(Found {
            piece_count: meta.geometry.piece_count(),
            have_count: report.have.count(),
            wrong_count: report.wrong.count(),
            known: false,
            why: to_write_over.clone().or_else(|| why_not_whole(meta, &report)),
            to_write_over,
            torrent: Some(torrent),
            stamps: Some(judged),
            held,
            was_whole,
            unread: unread(&report.unread, last),
            is_durable,
            is_unsynced: report.unsynced,
        });
    }
    // Shards open files by the names that the torrent gives them.
    let have = report.have_by_final_names(meta);
    let have_count = have.count();
    let not_read = report.unread.and(&have);
    let torrent = (have_count > 0)
        .then(|| Torrent::new(Arc::clone(&shared), root, &have, &report.modified).with_unread(&not_read));
    Ok(Found {
        piece_count: meta.geometry.piece_count(),
        stamps: None,
        to_write_over: None,
        held,
        was_whole,
        have_count,
        wrong_count: report.wrong.count(),
        known: report.known_count == meta.geometry.piece_count(),
        why: why_held(meta, &strangers).or_else(|| why_not_whole(meta, &report)),
        torrent,
        unread: unread(&not_read, last),
        is_durable,
        is_unsynced: report.unsynced,
    })
}

/// What there is to be verified later, if there is anything.
fn unread(pieces: &Bitfield, recorded: Option<Record>) -> Option<(u32, Record)> {
    recorded
        .filter(|_| !pieces.is_empty())
        .map(|record| (pieces.count(), record))
}

/// What each file looked like that nothing is missing of, under its final name.
fn complete_files(meta: &Metainfo, report: &CheckReport) -> Vec<Option<FileStamp>> {
    let (layout, geometry) = (Layout::new(meta), &meta.geometry);
    let mut is_whole: Vec<bool> = std::iter::zip(&report.files, &report.parts)
        .map(|(state, part)| state.is_ok() && !part)
        .collect();
    for piece in geometry.pieces().filter(|piece| !report.have.get(*piece)) {
        for span in layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into()) {
            is_whole[span.file as usize] = false;
        }
    }
    let files = std::iter::zip(&meta.files, std::iter::zip(is_whole, &report.modified));
    files
        .map(|(entry, (is_whole, modified))| {
            let mtime_ns = modified.filter(|_| is_whole && !entry.pad)?;
            Some(FileStamp {
                len: entry.len,
                mtime_ns,
            })
        })
        .collect()
}

/// Why a torrent is not downloaded that would be written over these files.
fn why_held(meta: &Metainfo, strangers: &[u32]) -> Option<String> {
    let (first, others) = strangers.split_first()?;
    let more = match others.len() {
        0 => String::new(),
        count => format!(" (and {count} more like it)"),
    };
    Some(format!(
        "{:?}{more} is there already and has nothing of this torrent in it, so that it is not downloaded over it \
         (hint: move it away, or give the torrent a `data-dir` of its own)",
        meta.files[*first as usize].path.as_str()
    ))
}

/// Files of a piece that are named.
const TOLD_MAX: usize = 4;

/// What a download will write over in files that lie under their final names, if there is anything.
fn to_write_over(meta: &Metainfo, report: &CheckReport) -> Option<String> {
    let (layout, geometry) = (Layout::new(meta), &meta.geometry);
    let (mut first, mut count) = (Vec::new(), 0);
    for piece in geometry.pieces().filter(|piece| report.wrong.get(*piece)) {
        let spans = layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
        let files = spans.filter(|span| !span.pad && !report.parts[span.file as usize]);
        // Any of them may be the one that was changed.
        let mut paths = files.map(|span| format!("{:?}", meta.files[span.file as usize].path.as_str()));
        let Some(path) = paths.next() else { continue };
        count += 1;
        if first.is_empty() {
            first = std::iter::once(path).chain(paths.take(TOLD_MAX - 1)).collect();
        }
    }
    let paths = first.join(", ");
    match count {
        0 => None,
        1 => Some(format!(
            "a piece of what is there is wrong, and will be written over, in {paths}"
        )),
        count => Some(format!(
            "{count} pieces of what is there are wrong, and will be written over, the first in {paths}"
        )),
    }
}

fn why_not_whole(meta: &Metainfo, report: &CheckReport) -> Option<String> {
    let files = std::iter::zip(&meta.files, std::iter::zip(&report.files, &report.parts));
    let mut wrong = files.filter(|(_, (state, part))| !state.is_ok() || **part);
    let (file, (state, part)) = wrong.next()?;
    let state = match (state, part) {
        (FileState::Ok, true) => format!("not complete, as its name with `{PART_SUFFIX}` says"),
        (state, _) => state.to_string(),
    };
    let more = match wrong.count() {
        0 => String::new(),
        count => format!(", and {count} more of its files are not as they should be"),
    };
    Some(format!("{:?}: {state}{more}", file.path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::part::Seen;

    #[test]
    fn a_line_of_progress_says_how_far_how_fast_and_how_long() {
        assert_eq!(
            line(5_547_000_000, 13_207_024_435, 2.92),
            "42 % of 12.3 GiB, 1.9 GB/s, 4 s left"
        );
        assert_eq!(line(1 << 20, 4 << 20, 0.5), "25 % of 4 MiB, 2.1 MB/s, 2 s left");
        assert_eq!(line(0, 4 << 20, 0.0), "0 % of 4 MiB");
        assert_eq!(line(0, 0, 0.0), "100 % of 0 B");
    }

    #[test]
    fn a_check_that_waits_has_no_line() {
        assert_eq!(Progress::new(10).line(false), None);
    }

    /// A torrent of one piece of zeros, `x`, and what is known of it.
    struct Fixture {
        _temp: tempfile::TempDir,
        data: PathBuf,
        meta: Arc<Metainfo>,
        session: Store,
        pool: Arc<Pool>,
    }

    fn fixture() -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let (state, data) = (temp.path().join("state"), temp.path().join("data"));
        std::fs::create_dir(&state).unwrap();
        std::fs::create_dir(&data).unwrap();
        let mut bytes = crate::control::watch::testing::torrent("x");
        let at = bytes.len() - 22;
        let mut hasher = crate::hashing::Hasher::new();
        hasher.update(&[0; 16384]);
        bytes[at..at + 20].copy_from_slice(&hasher.finish());
        Fixture {
            _temp: temp,
            meta: Arc::new(Metainfo::parse(&bytes).unwrap()),
            session: Store::open(&state).unwrap().0,
            pool: Arc::new(Pool::start(crate::hashing::PoolConfig::default()).unwrap()),
            data,
        }
    }

    impl Fixture {
        fn job(&self, trust: bool) -> Job {
            Job {
                info_hash: self.meta.info_hash,
                generation: 0,
                contents: Arc::clone(&self.meta).into(),
                data_dir: self.data.clone(),
                trust,
                unread: Unread::Now,
                doubted: None,
                home: Some(0),
                progress: Arc::new(Progress::new(16384)),
            }
        }

        fn look_as(&self, job: &Job) -> Found {
            let throttle = Throttle::default();
            let means = Means {
                pool: &self.pool,
                throttle: &throttle,
                seeks: false,
            };
            let root = Arc::new(Root::open(&self.data).unwrap());
            look(job, root, means, &self.session).unwrap()
        }

        fn look(&self, trust: bool) -> Found {
            self.look_as(&self.job(trust))
        }

        /// Writes the file, an hour ago.
        fn write(&self, byte: u8) {
            std::fs::write(self.data.join("x"), [byte; 16384]).unwrap();
            let file = std::fs::File::options().append(true).open(self.data.join("x")).unwrap();
            let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
            file.set_modified(hour_ago).unwrap();
        }
    }

    #[test]
    fn torrent_is_not_downloaded_over_a_file_of_somebody_elses_until_that_is_gone() {
        let fixture = fixture();
        fixture.write(7);
        for trust in [true, false] {
            let found = fixture.look(trust);
            assert!(found.held.is_some() && found.stamps.is_none() && found.torrent.is_none());
            let why = found.why.unwrap();
            assert!(why.contains("\"x\" is there already"), "{why}");
        }
        std::fs::remove_file(fixture.data.join("x")).unwrap();
        let found = fixture.look(true);
        assert!(found.held.is_none() && found.stamps.is_some_and(|judged| judged.seen == [Seen::Nothing]));
    }

    /// Issue 7: it was forgotten by a restart, and the torrent not downloaded to its end.
    #[test]
    fn repair_goes_on_after_a_restart_until_the_torrent_is_whole() {
        let fixture = fixture();
        fixture.write(0);
        assert_eq!(fixture.look(true).have_count, 1);
        fixture.write(7);
        let found = fixture.look(true);
        assert!(found.was_whole && found.stamps.is_none(), "not by itself");
        let found = fixture.look(false);
        let why = found.to_write_over.clone().unwrap();
        assert!(
            found.stamps.is_some() && why.contains("will be written over, in \"x\""),
            "{why}"
        );
        assert!(fixture.look(true).stamps.is_some(), "as somebody wants it");
        // Nor is what is wrong believed by its length.
        let job = Job {
            unread: Unread::Never,
            ..fixture.job(true)
        };
        fixture.session.remove(fixture.meta.info_hash);
        assert!(fixture.look_as(&job).stamps.is_some());
        fixture.write(0);
        assert_eq!(fixture.look(true).have_count, 1);
        fixture.write(7);
        assert!(fixture.look(true).was_whole, "it is over");
    }

    #[test]
    fn check_that_somebody_wants_of_all_relies_on_nothing_whenever_that_is_said() {
        let fixture = fixture();
        fixture.write(0);
        let job = fixture.job(true);
        assert!(!fixture.look_as(&job).known && job.progress.want_all());
        assert!(!job.progress.is_to_be_again(), "it has read all of it anyway");
        // Before it begins.
        let job = fixture.job(true);
        assert!(job.progress.want_all() && !job.progress.want_all());
        assert!(!fixture.look_as(&job).known && !job.progress.is_to_be_again());
        // When it has begun, or ended.
        let job = fixture.job(true);
        assert!(fixture.look_as(&job).known && !job.progress.is_to_be_again());
        assert!(job.progress.want_all() && job.progress.is_to_be_again() && job.progress.is_cancelled());
    }

    /// A disk that takes all of files, and folders as it says.
    struct Folders(bool);

    impl crate::storage::simulated::Disk for Folders {
        fn step(&self) {}

        fn sync(&self, fd: std::os::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
            let stat = rustix::fs::fstat(fd)?;
            match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                rustix::fs::FileType::Directory if !self.0 => Err(rustix::io::Errno::IO),
                _ => Ok(()),
            }
        }

        fn forget_cached(&self, _: std::os::fd::BorrowedFd<'_>) {}
    }

    /// Found by the simulated swarm: it was taken for whole, its name was lost with the power, and it was not had again.
    #[test]
    fn a_download_whose_last_name_may_be_lost_is_not_noted_as_whole() {
        let temp = tempfile::tempdir().unwrap();
        let (state, data) = (temp.path().join("state"), temp.path().join("data"));
        std::fs::create_dir(&state).unwrap();
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("x"), [0; 16384]).unwrap();
        let mut bytes = crate::control::watch::testing::torrent("x");
        let at = bytes.len() - 22;
        let mut hasher = crate::hashing::Hasher::new();
        hasher.update(&[0; 16384]);
        bytes[at..at + 20].copy_from_slice(&hasher.finish());
        let meta = Metainfo::parse(&bytes).unwrap();
        let info_hash = meta.info_hash;
        let session = Store::open(&state).unwrap().0;
        session.put(
            info_hash,
            Record {
                have: Bitfield::full(1),
                wrong: Bitfield::new(1),
                judged: 1,
                files: vec![Some(FileStamp::being_written(16384))],
            },
        );
        let job = Job {
            info_hash,
            generation: 0,
            contents: Arc::new(meta).into(),
            data_dir: data.clone(),
            trust: true,
            unread: Unread::Now,
            doubted: None,
            home: Some(0),
            progress: Arc::new(Progress::new(16384)),
        };
        for takes_folders in [false, true] {
            let disk: std::rc::Rc<dyn crate::storage::simulated::Disk> = std::rc::Rc::new(Folders(takes_folders));
            let (pool, throttle) = (Pool::by_hand(4), Throttle::default());
            let means = Means {
                pool: &pool,
                throttle: &throttle,
                seeks: false,
            };
            let root = Arc::new(Root::open(&data).unwrap());
            let found = crate::storage::simulated::on(disk, || look(&job, root, means, &session)).unwrap();
            assert_eq!(found.have_count, 1, "what was synced before is served");
            let history = session.load_history(&info_hash);
            let is_whole = history.is_some_and(|history| history.completed.is_some());
            assert_eq!(is_whole, takes_folders);
        }
    }

    /// A disk that takes folders, and no files.
    struct NoFiles;

    impl crate::storage::simulated::Disk for NoFiles {
        fn step(&self) {}

        fn sync(&self, fd: std::os::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
            let stat = rustix::fs::fstat(fd)?;
            match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                rustix::fs::FileType::Directory => Ok(()),
                _ => Err(rustix::io::Errno::IO),
            }
        }

        fn forget_cached(&self, _: std::os::fd::BorrowedFd<'_>) {}
    }

    /// Found by the simulated swarm: long pieces are written as they come, and a liar's went over the only copy there was.
    #[test]
    fn what_may_be_right_and_cannot_be_synced_is_not_downloaded_over() {
        let temp = tempfile::tempdir().unwrap();
        let (state, data) = (temp.path().join("state"), temp.path().join("data"));
        std::fs::create_dir(&state).unwrap();
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("x"), [0; 16384]).unwrap();
        let mut bytes = crate::control::watch::testing::torrent("x");
        let at = bytes.len() - 22;
        let mut hasher = crate::hashing::Hasher::new();
        hasher.update(&[0; 16384]);
        bytes[at..at + 20].copy_from_slice(&hasher.finish());
        let meta = Metainfo::parse(&bytes).unwrap();
        let session = Store::open(&state).unwrap().0;
        let job = Job {
            info_hash: meta.info_hash,
            generation: 0,
            contents: Arc::new(meta).into(),
            data_dir: data.clone(),
            trust: true,
            unread: Unread::Now,
            doubted: None,
            home: Some(0),
            progress: Arc::new(Progress::new(16384)),
        };
        let look_at_it = || {
            let (pool, throttle) = (Pool::by_hand(4), Throttle::default());
            let means = Means {
                pool: &pool,
                throttle: &throttle,
                seeks: false,
            };
            look(&job, Arc::new(Root::open(&data).unwrap()), means, &session).unwrap()
        };
        let found = crate::storage::simulated::on(std::rc::Rc::new(NoFiles), look_at_it);
        assert!(found.is_unsynced && found.torrent.is_none() && found.stamps.is_none());
        let found = look_at_it();
        assert!(!found.is_unsynced && found.have_count == 1);
        // What is not there at all is downloaded.
        std::fs::remove_file(data.join("x")).unwrap();
        session.forget(job.info_hash);
        let found = crate::storage::simulated::on(std::rc::Rc::new(NoFiles), look_at_it);
        assert!(!found.is_unsynced && found.stamps.is_some());
    }
}
