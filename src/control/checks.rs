//! Looks at payload: a few torrents at once, each on its own thread, in the order they came.
//!
//! The reading and hashing is in [`crate::storage`]; here is the queue, the progress that the log tells, and the torrent
//! that the shards get for what was found.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::config::display_size;
use crate::hashing::Pool;
use crate::proto::InfoHash;
use crate::proto::metainfo::Metainfo;
use crate::shard::Torrent;
use crate::storage::{self, CheckReport, Device, Means, Root, Throttle};

/// How many at once. Small torrents overlap their waiting; of large ones, a rotating disk can read only one well.
const THREADS: usize = 2;

/// One torrent to look at.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) info_hash: InfoHash,
    /// See [`super::torrents::Entry`].
    pub(super) generation: u64,
    pub(super) meta: Arc<Metainfo>,
    pub(super) data_dir: PathBuf,
    pub(super) progress: Arc<Progress>,
}

/// How far a check is. Written by its thread, read by the log; also how it is told to give up.
#[derive(Debug, Default)]
pub(super) struct Progress {
    started: OnceLock<Instant>,
    total: u64,
    inner: storage::Progress,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// Nobody wants the result any more.
    pub(super) fn cancel(&self) {
        self.inner.cancel();
    }

    /// How long ago it began.
    pub(super) fn seconds(&self) -> f64 {
        self.started
            .get()
            .map_or(0.0, |started| started.elapsed().as_secs_f64())
    }

    /// `42 % of 12.3 GiB, 1.9 GB/s, 4 s left`, or nothing while it waits for its turn.
    pub(super) fn line(&self) -> Option<String> {
        self.started.get()?;
        Some(line(self.inner.bytes_done(), self.total, self.seconds()))
    }
}

fn line(done: u64, total: u64, seconds: f64) -> String {
    let percent = if total == 0 {
        100
    } else {
        u128::from(done) * 100 / u128::from(total)
    };
    let mut line = format!("{percent} % of {}", display_size(total));
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
pub(super) struct Found {
    /// Pieces that are right.
    pub(super) have_count: u32,
    /// Pieces that are there and wrong.
    pub(super) wrong_count: u32,
    /// What the first file that is not as it should be is, and how many more there are.
    pub(super) why: Option<String>,
    /// For the shards, if any piece is right.
    pub(super) torrent: Option<Arc<Torrent>>,
}

/// Why nothing can be said about the payload.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The folder of the payload is there, but cannot be opened.
    #[error("cannot open the data folder {path:?}: {source}")]
    Root {
        /// The folder.
        path: PathBuf,
        /// The filesystem's answer.
        source: io::Error,
    },
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
    queue: mpsc::Sender<Job>,
    cancelled: Arc<AtomicBool>,
}

impl Checks {
    /// Starts the threads. Each result goes to `results`.
    pub(super) fn start(pool: &Arc<Pool>, results: UnboundedSender<Checked>) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let cancelled = Arc::new(AtomicBool::new(false));
        let roots = Arc::new(Roots::default());
        for _ in 0..THREADS {
            let (jobs, cancelled) = (Arc::clone(&jobs), Arc::clone(&cancelled));
            let (roots, pool, results) = (Arc::clone(&roots), Arc::clone(pool), results.clone());
            std::thread::Builder::new()
                .name("btd-check".to_owned())
                .spawn(move || {
                    loop {
                        // The thread that holds the lock waits for a job; the others wait for the lock.
                        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = next else { return };
                        if cancelled.load(Ordering::Relaxed) {
                            return;
                        }
                        if job.progress.inner.is_cancelled() {
                            continue;
                        }
                        let _ = job.progress.started.set(Instant::now());
                        let result = look(&job, &roots, &pool);
                        if results.send(Checked { job, result }).is_err() {
                            return;
                        }
                    }
                })?;
        }
        Ok(Self { queue, cancelled })
    }

    /// Queues a torrent. The queue holds no more than there are torrents.
    pub(super) fn submit(&self, job: Job) {
        // The threads outlive the supervisor, which is the only one to submit.
        let _ = self.queue.send(job);
    }

    /// Begins no more checks. Those that run are told one by one, by their [`Progress`].
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// The data folders in use. Torrents of one folder share its descriptor, however many they are.
#[derive(Default)]
struct Roots {
    open: Mutex<HashMap<PathBuf, Arc<Root>>>,
}

impl Roots {
    fn get(&self, path: &Path) -> io::Result<Arc<Root>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = open.get(path) {
            // What was held may have been unmounted or replaced since.
            let (held, there) = (rustix::fs::fstat(root.fd())?, rustix::fs::stat(path)?);
            if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino) {
                return Ok(Arc::clone(root));
            }
        }
        let root = Arc::new(Root::open(path)?);
        open.insert(path.to_owned(), Arc::clone(&root));
        Ok(root)
    }
}

/// One check, on the thread that called.
fn look(job: &Job, roots: &Roots, pool: &Pool) -> Result<Found, Error> {
    let root = match roots.get(&job.data_dir) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = Some(format!("the data folder {:?} is not there", job.data_dir));
            return Ok(Found {
                have_count: 0,
                wrong_count: 0,
                why,
                torrent: None,
            });
        }
        Err(source) => {
            return Err(Error::Root {
                path: job.data_dir.clone(),
                source,
            });
        }
    };
    let means = Means {
        pool,
        throttle: &Throttle::default(),
        seeks: Device::of(&*root).seeks,
    };
    let report = storage::check(&job.meta, &root, means, &job.progress.inner)?;
    let have_count = report.have.count();
    Ok(Found {
        have_count,
        wrong_count: report.wrong.count(),
        why: why_not_whole(&job.meta, &report),
        torrent: (have_count > 0).then(|| Torrent::new(Metainfo::clone(&job.meta), root, &report.have)),
    })
}

fn why_not_whole(meta: &Metainfo, report: &CheckReport) -> Option<String> {
    let mut wrong = std::iter::zip(&meta.files, &report.files).filter(|(_, state)| !state.is_ok());
    let (file, state) = wrong.next()?;
    let more = match wrong.count() {
        0 => String::new(),
        count => format!(", and {count} more of its files are not as they should be"),
    };
    Some(format!("{:?}: {state}{more}", file.path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(Progress::new(10).line(), None);
    }
}
