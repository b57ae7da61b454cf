//! The shared store: several btds that are one tracker, by way of a Redis or Valkey.
//!
//! One task on the control plane's thread. No announce waits for it: what shards have accepted waits in the tracker's outbox,
//! and what others have accepted is put into the swarms here as it is heard. While the store is away everybody goes on with
//! what they know; when it is back they tell each other all of it.
//!
//! - [`dial`]: the way to the store, by name and address.
//! - [`link`]: a connection, over TLS or not, whose replies are bounded by [`guard`].
//! - [`keys`]: a batch as commands: a sorted set for each torrent, which the engine forgets by itself.
//! - [`session`]: what is done while there is a connection.
//! - [`figures`]: what of it is counted.
//!
//! Deliberately absent: what members and messages mean, which is [`crate::tracker::sharing`]'s affair; clusters and sentinels.

mod dial;
mod figures;
mod guard;
mod keys;
mod link;
mod session;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::control::config::StoreUrl;
use crate::control::resolver::Resolver;
use crate::proto::InfoHash;
use crate::tracker::Tracker;
use crate::tracker::sharing::{Batch, OUTBOX_MAX, SenderId, Update};
use dial::Dial;
use figures::Figures;
use link::Link;

/// How long updates are gathered after the first.
const GATHER: Duration = Duration::from_millis(50);
/// Between two attempts, at first and at most.
const RETRY_LEAST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Peers and torrents of which something is to be told once while the store is away. Beyond that the newest are dropped.
const PENDING_MAX: usize = 1 << 16;
/// The same while there is a connection: with an outbox full of torrents that have a peer each.
const PENDING_MAX_IN_ALL: usize = PENDING_MAX + 2 * OUTBOX_MAX;
/// How long what was announced last may take to be told when btd stops.
const STOP_PATIENCE: Duration = Duration::from_millis(300);
/// Torrents that are not looked up because the reply could not be borne.
const SPURNED_MAX: usize = 4096;

/// What is said between the task and who ends it.
#[derive(Debug, Default)]
struct Flags {
    is_up: AtomicBool,
    is_stopping: AtomicBool,
}

impl Flags {
    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Relaxed)
    }
}

/// How sharing is ended.
pub(in crate::control) struct Ending {
    flags: Arc<Flags>,
    news: Arc<Notify>,
}

impl Ending {
    /// Ends the task that shares, which tells what it has still to tell if the store is there: for a moment at most. Nothing
    /// is announced any more when this is called.
    pub(in crate::control) async fn end(self, mut task: JoinHandle<()>) {
        self.flags.is_stopping.store(true, Relaxed);
        self.news.notify_one();
        if self.flags.is_up.load(Relaxed) && tokio::time::timeout(STOP_PATIENCE, &mut task).await.is_err() {
            tracing::warn!(
                "the tracker's store does not take what was announced last: others may know peers that have left"
            );
        }
        task.abort();
    }
}

/// What the task has over all connections.
pub(in crate::control) struct Sharing {
    tracker: Arc<Tracker>,
    url: StoreUrl,
    dial: Arc<Dial>,
    flags: Arc<Flags>,
    /// Told by the tracker that there are updates.
    news: Arc<Notify>,
    id: SenderId,
    figures: Figures,
    updates: Vec<Update>,
    /// What is still to be told.
    pending: Batch,
    /// Torrents whose keys hold what would be too long for us.
    spurned: HashSet<InfoHash>,
}

impl Sharing {
    /// Shares the swarms of `tracker`, which tells `news`.
    pub(in crate::control) fn new(
        tracker: Arc<Tracker>,
        url: StoreUrl,
        news: Arc<Notify>,
        resolver: Arc<Resolver>,
    ) -> Self {
        Self {
            tracker,
            dial: Arc::new(Dial::new(url.clone(), resolver)),
            url,
            flags: Arc::default(),
            news,
            id: random(),
            figures: Figures::new(),
            updates: Vec::new(),
            pending: Batch::default(),
            spurned: HashSet::new(),
        }
    }

    /// How this is ended.
    pub(in crate::control) fn ending(&self) -> Ending {
        Ending {
            flags: Arc::clone(&self.flags),
            news: Arc::clone(&self.news),
        }
    }

    /// Shares until it is ended.
    pub(in crate::control) async fn run(mut self) {
        let mut away: Option<Instant> = None;
        let mut retry = RETRY_LEAST;
        loop {
            let why = match self.connect().await {
                Ok(link) => {
                    match away.take() {
                        Some(since) => tracing::info!(
                            "the tracker's store at {} is there, after {} s",
                            self.url,
                            since.elapsed().as_secs()
                        ),
                        None => tracing::info!("the tracker's store at {} is there", self.url),
                    }
                    self.set_up(true);
                    let began = Instant::now();
                    let why = self.session(link).await;
                    self.set_up(false);
                    if self.flags.is_stopping() {
                        return;
                    }
                    // One that accepts and ends at once is not asked ten times a second.
                    if began.elapsed() > RETRY_MOST {
                        retry = RETRY_LEAST;
                    }
                    why
                }
                Err(why) => why,
            };
            self.figures.error();
            let why = link::plain(&self.url.without_secrets(&why.to_string()));
            if away.is_none() {
                away = Some(Instant::now());
                tracing::warn!(
                    "the tracker's store at {} is away: {why} (announces go on by what is known here, and it is tried again)",
                    self.url
                );
            } else {
                tracing::debug!("the tracker's store at {} is away: {why}", self.url);
            }
            self.wait(jittered(retry)).await;
            retry = (retry * 2).min(RETRY_MOST);
        }
    }

    fn set_up(&self, is: bool) {
        self.figures.set_up(is);
        self.flags.is_up.store(is, Relaxed);
    }

    async fn connect(&mut self) -> Result<Link, link::Gone> {
        let dial = Arc::clone(&self.dial);
        self.while_absorbing(dial.connect()).await
    }

    async fn wait(&mut self, time: Duration) {
        self.while_absorbing(tokio::time::sleep(time)).await;
    }

    /// Does something while the store is away. The outbox does not overflow meanwhile: of updates only those are kept that
    /// nobody would tell again.
    async fn while_absorbing<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = std::pin::pin!(what);
        let news = Arc::clone(&self.news);
        // Whoever was told of these may have been stopped before it took them.
        self.absorb();
        loop {
            let gathered = async {
                news.notified().await;
                tokio::time::sleep(GATHER).await;
            };
            tokio::select! {
                done = &mut what => return done,
                () = gathered => self.absorb(),
            }
        }
    }

    fn absorb(&mut self) {
        let mut updates = std::mem::take(&mut self.updates);
        self.tracker.take_updates(&mut updates);
        for update in updates.drain(..) {
            self.keep(update, PENDING_MAX);
        }
        self.updates = updates;
        self.pending.keep_what_is_told_once(false);
        // Who left a lifetime ago takes the room of nobody who left since.
        self.tracker.set_ages(&mut self.pending, Instant::now());
        self.figures.set_outbox_dropped(self.tracker.updates_dropped());
    }

    /// Adds an update to what is to be told, unless there is so much of it already and nobody would tell it again. One that is
    /// told again takes back what it must, and does not stay for long.
    fn keep(&mut self, update: Update, max: usize) {
        if update.is_told_once() && self.pending.weight() >= max {
            self.figures.drop_pending();
        } else {
            self.pending.add(update);
        }
    }
}

/// Random bytes: to be told from others, not to be secret.
fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    // It has given the tracker its secret a moment ago.
    SystemRandom::new()
        .fill(&mut bytes)
        .unwrap_or_else(|_| panic!("{LEN} random bytes from the kernel"));
    bytes
}

/// Half of a time to all of it, so that many btds do not come back at once.
fn jittered(time: Duration) -> Duration {
    let [byte] = random();
    time.mul_f64(0.5 + f64::from(byte) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jittered_time_is_half_of_it_to_all_of_it_and_not_always_the_same() {
        let times: HashSet<Duration> = (0..200).map(|_| jittered(RETRY_MOST)).collect();
        assert!(times.iter().all(|time| (RETRY_MOST / 2..=RETRY_MOST).contains(time)));
        assert!(times.len() > 50);
    }
}
