//! Looks at payload: a few torrents of each disk at once, each on its own thread, in the order they came.
//!
//! The reading and hashing is in [`crate::storage`]; here are the threads, their queue (`queue`), the progress that the log
//! tells (`progress`), and the torrent that the shards get for what was found (`look`). A torrent of which nothing is there has nothing
//! to be read, and waits for nobody: one of which nothing is recorded is looked at at once, and has its turn if anything is there.

mod look;
mod progress;
mod queue;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "sim"))]
pub(crate) use look::is_begun;
pub(crate) use look::{Found, look};
pub(crate) use progress::Progress;
pub(crate) use queue::Wait;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::contents::{self, Contents};
use super::places::{Absence, Places};
use crate::hashing::Pool;
use crate::io::uring::run_when_idle;
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::session::Store;
use crate::storage::strangers::Blanks;
use crate::storage::{self, Device, Means, Throttle, Unread};
use queue::{Placed, Queue, Task};

/// Threads beside those that check: they find out where torrents lie and whether anything of them is there, while all checks are paused or
/// long. A disk that hangs takes three.
const THREADS_BESIDE: usize = 4;

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
    /// What was found of files that may be somebody else's.
    pub(crate) blanks: Blanks,
    /// The shard that downloads what is missing, if anybody has it.
    pub(crate) home: Option<u32>,
    pub(crate) progress: Arc<Progress>,
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

impl Error {
    /// What torrents that are not served for this are called where many of them are told of: what is wrong with some is not to hide
    /// what else is wrong with others.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) | Self::Lost(_) => "torrents whose data folder is not there",
            Self::Taken { .. } => "torrents not served, as a file is another's too",
            Self::Unread(_) => "torrents not served, as their file cannot be read",
            Self::Stopped(_) => "torrents not served, as they cannot be checked",
        }
    }
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
    /// Starts the threads, for so many checks at once. Each result goes to `results`.
    pub(super) fn start(
        pool: &Arc<Pool>,
        throttle: &Arc<Throttle>,
        (session, places): (&Arc<Store>, &Arc<Places>),
        checks_max: usize,
        results: UnboundedSender<Checked>,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(checks_max));
        let (running, alive) = unbounded_channel();
        for _ in 0..checks_max + THREADS_BESIDE {
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

    /// What a torrent waits for, by the generation of its entry; `None` if it is being looked at.
    pub(super) fn wait_of(&self, info_hash: InfoHash, generation: u64) -> Option<Wait> {
        let is_it = |job: &Job| job.info_hash == info_hash && job.generation == generation;
        self.queue.wait_of(is_it)
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

fn cancelled() -> Error {
    storage::Error::Cancelled.into()
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
                        // Of most at a start something is recorded: they are looked at in their turn alone.
                        let may_be_bare = matches!(self.session.has_record(&job.info_hash), Ok(false));
                        let device = Device::of(&*root);
                        let placed = Placed { job, root };
                        match may_be_bare {
                            true => self.queue.place_bare(device, placed),
                            false => self.line_up(device, placed),
                        }
                        true
                    }
                    Err(absence) => self.tell(job, Err(absence.into())),
                }
            }
            Task::Bare(device, placed) => {
                let told = self.check_bare(device, placed);
                self.queue.bare_done(device);
                told
            }
            Task::Check(device, Placed { job, root }) => {
                let result = if job.progress.inner.is_cancelled() {
                    Err(cancelled())
                } else {
                    let _ = job.progress.started.set(Instant::now());
                    let means = self.means(device);
                    look(&job, Arc::clone(&root), means, &self.session)
                };
                // From now on payload is there, and elsewhere it would have to be something else.
                if result.as_ref().is_ok_and(|found| found.have_count > 0) {
                    self.places.bind(&job.data_dir, &root);
                }
                drop(root); // Whoever is told of it may let go of the folder.
                // Before it is told: whoever asks for the next check then would be told that it waits behind this one.
                self.queue.done(device);
                self.tell(job, result)
            }
        }
    }
}

impl Worker {
    /// Checks one of which nothing is recorded, if nothing is there either. If something is, it has its turn like others.
    fn check_bare(&self, device: Device, placed: Placed) -> bool {
        let Placed { job, root } = placed;
        if job.progress.inner.is_cancelled() {
            return self.stopped(job);
        }
        let means = self.means(device);
        match look::look_if_bare(&job, Arc::clone(&root), means, &self.session) {
            Some(result) => {
                drop(root); // Whoever is told of it may let go of the folder.
                self.tell(job, result)
            }
            None => {
                self.line_up(device, Placed { job, root });
                true
            }
        }
    }

    fn means(&self, device: Device) -> Means<'_> {
        Means {
            pool: &self.pool,
            throttle: &self.throttle,
            seeks: device.seeks,
        }
    }

    /// Tells of one that was cancelled before it was begun: whoever cancelled it may want it checked later.
    fn stopped(&self, job: Job) -> bool {
        self.tell(job, Err(cancelled()))
    }

    /// One waits for its turn from now on.
    fn line_up(&self, device: Device, placed: Placed) {
        let progress = Arc::clone(&placed.job.progress);
        self.queue.place(device, placed);
        progress.place();
    }

    /// Tells what came of one. False when nobody listens any more.
    fn tell(&self, job: Job, result: Result<Found, Error>) -> bool {
        let progress = Arc::clone(&job.progress);
        let told = self.results.send(Checked { job, result }).is_ok();
        progress.place();
        told
    }
}
