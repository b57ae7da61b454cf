//! The scrub: all payload is read once more over a period (`storage.scrub`), so that what a disk has lost is found before
//! somebody asks for it, or the last other copy is gone.
//!
//! A thread for each data folder reads one piece at a time, and of one disk one thread at a time. How long it rests between
//! two pieces comes from what is left of the period and of the payload: a pass that was held up makes up for it at up to
//! ten times the rate. How far it is is kept in the session, so that a restart goes on from there. It holds on to no torrent
//! while it rests, and asks for the next one each time: torrents come and go.
//!
//! A piece that is wrong is read once more: an error of a cable or of memory is another matter than one of the disk. What is
//! wrong twice, or cannot be read, is withdrawn, and the torrent is checked at once. It is taken out of what the session knows
//! as well, without waiting for that check: a disk that goes away, or a `kill -9`, would otherwise have it believed again.
//! Files that are not those that were judged, by length and time, are found as well.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::few_lines::FewLines;
use crate::io::uring::run_when_idle;
use crate::proto::InfoHash;
use crate::proto::geometry::PieceIndex;
use crate::session::{ScrubState, Store};
use crate::shard::Torrent;
use crate::storage::reread::{Reread, Rereader};
use crate::storage::{Device, Throttle};

/// How often it is recorded how far a pass is.
const RECORD_EVERY: Duration = Duration::from_secs(60);
/// How long to wait where it cannot be read how far a pass is, before that is tried again.
const LOAD_RETRY: Duration = Duration::from_secs(10);
/// How long to wait where there is nothing to read, before it is asked for again.
const EMPTY_PAUSE: Duration = Duration::from_secs(10);
/// The longest rest without a look at what there is: torrents are added and removed meanwhile. Each look has the torrent woken
/// that is next, if it rests.
const REST_MAX: Duration = Duration::from_secs(3600);
/// How much faster than planned a pass goes that was held up.
const HASTE_MAX: u32 = 10;

/// Which torrent of a data folder comes behind one; the answer is `None` behind the last.
#[derive(Debug)]
pub(super) struct NextPlease {
    pub(super) folder: PathBuf,
    pub(super) behind: Option<InfoHash>,
    /// Whether it is wanted how much there is.
    pub(super) is_counted: bool,
    pub(super) reply: Sender<Option<Next>>,
}

/// A torrent to be read, and how many bytes there are in all torrents from it on and in all of the folder, if that was asked for.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) torrent: Arc<Torrent>,
    pub(super) left: u64,
    pub(super) total: u64,
}

/// The threads that read.
#[derive(Debug)]
pub(super) struct Scrubs {
    period: Duration,
    session: Arc<Store>,
    throttle: Arc<Throttle>,
    lines: Arc<FewLines>,
    asks: UnboundedSender<NextPlease>,
    /// Each ends when its sender is dropped.
    running: HashMap<PathBuf, Sender<()>>,
    disks: Arc<Disks>,
    /// Closed when the last thread has ended: each holds a sender, and nobody sends.
    alive: (UnboundedSender<()>, UnboundedReceiver<()>),
}

/// Whose turn it is on each disk.
type Disks = Mutex<HashMap<Device, Arc<Mutex<()>>>>;

impl Scrubs {
    /// None yet. What they ask is received from the other end.
    pub(super) fn new(
        period: Duration,
        session: &Arc<Store>,
        (throttle, lines): (&Arc<Throttle>, &Arc<FewLines>),
    ) -> (Self, UnboundedReceiver<NextPlease>) {
        let (asks, asked) = unbounded_channel(); // One for each folder at a time.
        let scrubs = Self {
            period,
            session: Arc::clone(session),
            throttle: Arc::clone(throttle),
            lines: Arc::clone(lines),
            asks,
            running: HashMap::new(),
            disks: Arc::default(),
            alive: unbounded_channel(),
        };
        (scrubs, asked)
    }

    /// Reads what is in these folders and no others.
    pub(super) fn follow<'a>(&mut self, dirs: impl Iterator<Item = &'a Path>) {
        let dirs: HashSet<&Path> = dirs.collect();
        self.running.retain(|path, _| dirs.contains(path.as_path()));
        for dir in dirs {
            if self.running.contains_key(dir) {
                continue;
            }
            let (stop, stopped) = channel();
            let scrub = Scrub {
                folder: dir.to_owned(),
                period: self.period,
                session: Arc::clone(&self.session),
                throttle: Arc::clone(&self.throttle),
                lines: Arc::clone(&self.lines),
                asks: self.asks.clone(),
                stopped,
                disks: Arc::clone(&self.disks),
            };
            let alive = self.alive.0.clone();
            let thread = std::thread::Builder::new().name("btd-scrub".to_owned()).spawn(move || {
                let _alive = alive;
                run_when_idle();
                scrub.run();
            });
            match thread {
                Ok(_) => _ = self.running.insert(dir.to_owned(), stop),
                Err(error) => tracing::error!("no thread that scrubs {}: {error}", dir.display()),
            }
        }
    }

    /// Ends all of them, and waits until they have recorded how far they are; not longer than `deadline`.
    pub(super) async fn end(self, deadline: Duration) {
        let Self {
            running, alive, asks, ..
        } = self;
        let (sender, mut ended) = alive;
        drop((running, asks, sender));
        let _ = tokio::time::timeout(deadline, ended.recv()).await;
    }
}

/// One thread.
struct Scrub {
    folder: PathBuf,
    period: Duration,
    session: Arc<Store>,
    throttle: Arc<Throttle>,
    lines: Arc<FewLines>,
    asks: UnboundedSender<NextPlease>,
    stopped: Receiver<()>,
    disks: Arc<Disks>,
}

/// Nobody wants it to go on.
struct Ended;

impl Scrub {
    fn run(self) {
        // One that began anew would be written over what is there.
        let state = loop {
            match self.session.load_scrub(&self.folder) {
                Ok(state) => break state,
                Err(error) => tracing::debug!("cannot scrub {}: {error} (tried again)", self.folder.display()),
            }
            if let Err(Ended) = self.wait(LOAD_RETRY) {
                return;
            }
        };
        let mut state = state.unwrap_or_else(|| ScrubState::begun(now()));
        if let Some(at) = state.completed {
            self.publish_completed(at);
        }
        while let Ok(()) = self.pass(&mut state) {}
        self.session.put_scrub(&self.folder, &state);
    }

    /// Reads what is left of a pass.
    fn pass(&self, state: &mut ScrubState) -> Result<(), Ended> {
        // A clock that was set back does not hold it up for longer than a pass takes.
        let early = Duration::from_secs(state.begun.saturating_sub(now())).min(self.period);
        self.wait(early)?;
        let mut is_anything = state.behind.is_some();
        let (mut read_at, mut recorded) = (Instant::now(), Instant::now());
        // Of the torrents from the one in hand on, and which that is.
        let mut counted: Option<(InfoHash, u64, u64)> = None;
        loop {
            let Some(next) = self.next(state.behind, counted.is_none())? else {
                break;
            };
            let torrent = next.torrent;
            let info_hash = torrent.info_hash();
            let (left, total) = match counted {
                Some((of, left, total)) if of == info_hash => (left, total),
                Some(_) => {
                    counted = None; // Another one is there: it is asked for once more.
                    continue;
                }
                None => (next.left, next.total),
            };
            counted = Some((info_hash, left, total));
            if !is_anything && state.current.is_none() {
                state.begun = now(); // Before, there was nothing to be read.
            }
            is_anything = true;
            if state.current != Some(info_hash) {
                (state.current, state.piece) = (Some(info_hash), 0);
                judge_files(&torrent);
            }
            let wanted = |piece: &PieceIndex| torrent.has(*piece);
            let Some(piece) = torrent.geometry().pieces().skip(state.piece as usize).find(wanted) else {
                (state.behind, state.current, state.piece) = (Some(info_hash), None, 0);
                counted = None;
                continue;
            };
            let before = u64::from(piece.get()) * u64::from(torrent.geometry().piece_len_max());
            let len = u64::from(torrent.geometry().piece_len(piece));
            let left = left.saturating_sub(before);
            let rest = rest(self.period, (state.begun, now()), (left, total), len);
            if let Some(wait) = rest.checked_sub(read_at.elapsed()).filter(|wait| !wait.is_zero()) {
                // Nothing is held on to meanwhile, and what is there may be other torrents afterwards.
                drop(torrent);
                self.wait(wait.min(REST_MAX))?;
                continue;
            }
            read_at = Instant::now();
            self.judge(&torrent, piece)?;
            state.piece = piece.get() + 1;
            if recorded.elapsed() >= RECORD_EVERY {
                recorded = Instant::now();
                self.session.put_scrub(&self.folder, state);
            }
        }
        if !is_anything {
            return self.wait(EMPTY_PAUSE);
        }
        self.publish_completed(now());
        tracing::info!("all payload in {} was read once more", self.folder.display());
        // The next pass begins when this one should have ended.
        let end = state.begun.saturating_add(self.period.as_secs());
        *state = ScrubState {
            completed: Some(now()),
            ..ScrubState::begun(end.max(now()))
        };
        self.session.put_scrub(&self.folder, state);
        Ok(())
    }

    /// Reads a piece, once more if it is wrong.
    fn judge(&self, torrent: &Torrent, piece: PieceIndex) -> Result<(), Ended> {
        let device = Device::of(&**torrent.root());
        let name = device.name();
        let disk = {
            let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
            let disk = disks.entry(device).or_insert_with(|| {
                publish_no_errors(&name);
                Arc::default()
            });
            Arc::clone(disk)
        };
        let _turn = disk.lock().unwrap_or_else(PoisonError::into_inner);
        let keep_going = || self.stopped.try_recv() != Err(TryRecvError::Disconnected);
        let read = || {
            let len = torrent.geometry().piece_len(piece);
            ::metrics::counter!("btd_scrub_bytes_total", "device" => name.clone()).increment(len.into());
            Rereader::new(torrent.root(), torrent.meta()).reread(piece, &self.throttle, &keep_going)
        };
        let first = read();
        let (what, second) = match first {
            Reread::Stopped => return Err(Ended),
            Reread::Right => {
                torrent.on_reread(piece);
                return Ok(());
            }
            Reread::Wrong => (format!("piece {} is wrong", piece.get()), read()),
            Reread::Unreadable(why) => (format!("piece {} cannot be read: {why}", piece.get()), read()),
        };
        let count = |kind: &'static str| {
            ::metrics::counter!("btd_scrub_errors_total", "device" => name.clone(), "kind" => kind).increment(1);
        };
        let (torrent_name, info_hash) = (&torrent.meta().name, torrent.info_hash());
        match second {
            Reread::Stopped => return Err(Ended),
            Reread::Right => {
                count("transient");
                self.lines.warn(
                    "pieces that were wrong once",
                    format_args!(
                        "{torrent_name:?} ({info_hash}): {what}, and was right when it was read once more: look after the disk \
                         {name}, its cable, and memory"
                    ),
                );
            }
            Reread::Wrong => {
                count("lasting");
                let why = format!("piece {} is wrong, twice, as the scrub has found", piece.get());
                self.withdraw(torrent, piece, &why, (&name, true));
            }
            // Nothing is known of the bytes: that is another matter than wrong ones, and may be over when it is checked.
            Reread::Unreadable(why) => {
                count("unreadable");
                let why = format!("piece {} cannot be read ({why}), as the scrub has found", piece.get());
                self.withdraw(torrent, piece, &why, (&name, false));
            }
        }
        Ok(())
    }

    /// A piece is not to be served any more, nor believed after a restart.
    fn withdraw(&self, torrent: &Torrent, piece: PieceIndex, why: &str, (device, is_wrong): (&str, bool)) {
        let (meta, info_hash) = (torrent.meta(), torrent.info_hash());
        let shape = (torrent.geometry().piece_count(), meta.files.len());
        // First: a disk that takes its time with the record must not have it served meanwhile, and whoever records what is
        // served sees it gone.
        torrent.withdraw_wrong(piece, why);
        self.session.doubt(info_hash, shape, piece, is_wrong);
        let kind = match is_wrong {
            true => "pieces found wrong by the scrub",
            false => "pieces that the scrub cannot read",
        };
        self.lines.error(
            kind,
            format_args!(
                "{:?} ({info_hash}) on {device}: {why}; it is not served any more",
                meta.name
            ),
        );
    }

    fn next(&self, behind: Option<InfoHash>, is_counted: bool) -> Result<Option<Next>, Ended> {
        let (reply, told) = channel();
        let ask = NextPlease {
            folder: self.folder.clone(),
            behind,
            is_counted,
            reply,
        };
        self.asks.send(ask).map_err(|_| Ended)?;
        // It ends unanswered when btd is stopping.
        told.recv().map_err(|_| Ended)
    }

    fn wait(&self, time: Duration) -> Result<(), Ended> {
        match self.stopped.recv_timeout(time) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Ended),
        }
    }

    fn publish_completed(&self, at: u64) {
        let folder = String::from_utf8_lossy(self.folder.as_os_str().as_bytes()).into_owned();
        ::metrics::gauge!("btd_scrub_completed_seconds", "folder" => folder).set(at as f64);
    }
}

/// Prometheus sees a counter grow only from a value that it has seen: the first error would not be one.
fn publish_no_errors(device: &str) {
    for kind in ["lasting", "transient", "unreadable"] {
        ::metrics::counter!("btd_scrub_errors_total", "device" => device.to_owned(), "kind" => kind).increment(0);
    }
}

/// Looks whether files are those that were judged.
fn judge_files(torrent: &Torrent) {
    let reader = Rereader::new(torrent.root(), torrent.meta());
    for (file, _) in (0..).zip(&torrent.meta().files).filter(|(_, entry)| !entry.pad) {
        match reader.look(file) {
            Ok((len, modified)) => torrent.on_seen(file, Some((len, modified))),
            // What cannot be opened for want of something else is found out when it is read.
            Err(crate::storage::OpenError::Missing) => torrent.on_seen(file, None),
            Err(_) => {}
        }
    }
}

/// How long to rest before a piece of `len` bytes is read, of which, with all behind it, `left` are left of the `total` of a
/// pass that was begun at `begun` and is to take `period`. Times in seconds since 1970.
fn rest(period: Duration, (begun, now): (u64, u64), (left, total): (u64, u64), len: u64) -> Duration {
    let end = begun.saturating_add(period.as_secs());
    let time_left = Duration::from_secs(end.saturating_sub(now)).min(period);
    let part = |of: u64| (len as f64 / of.max(len).max(1) as f64).min(1.0);
    // However late it is.
    let least = (period / HASTE_MAX).mul_f64(part(total));
    time_left.mul_f64(part(left)).max(least)
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_pass_rests_so_long_that_it_takes_its_period() {
        let period = Duration::from_secs(30 * DAY);
        // A terabyte in pieces of 4 MiB.
        const TOTAL: u64 = 1 << 40;
        let (mut left, len, mut time) = (TOTAL, 4 << 20, 0.0);
        while left > 0 {
            time += rest(period, (0, time as u64), (left, TOTAL), len).as_secs_f64();
            left -= len;
        }
        let days = time / DAY as f64;
        assert!((29.0..31.0).contains(&days), "{days} days");
    }

    #[test]
    fn a_pass_that_was_held_up_makes_up_for_it_and_does_not_run_wild() {
        const TOTAL: u64 = 1 << 40;
        let period = Duration::from_secs(30 * DAY);
        let at = |now| rest(period, (0, now), (TOTAL, TOTAL), 1 << 20).as_secs_f64();
        assert!((at(0) / at(15 * DAY) - 2.0).abs() < 0.01, "half of the time is left");
        assert!(
            (at(0) / at(60 * DAY) - 10.0).abs() < 0.01,
            "it is over, and it is not read at once"
        );
        // A clock that was set back.
        let early = rest(period, (10 * DAY, 0), (TOTAL, TOTAL), 1 << 20).as_secs_f64();
        assert!((early - at(0)).abs() < 0.001, "{early}");
        assert_eq!(rest(period, (0, 0), (0, 0), 5), period, "the last of it");
    }
}
