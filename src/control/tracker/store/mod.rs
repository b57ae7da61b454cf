//! The shared store: several btds that are one tracker, by way of a Redis or Valkey.
//!
//! One task on the control plane's thread. No announce waits for it: what shards have accepted waits in the tracker's outbox,
//! and what others have accepted is put into the swarms here as it is heard. While the store is away everybody goes on with
//! what they know; when it is back they tell each other all of it.
//!
//! - [`link`]: a connection, over TLS or not, whose replies are bounded by [`guard`].
//! - [`keys`]: a batch as commands: a sorted set for each torrent, which the engine forgets by itself.
//! - [`session`]: what is done while there is a connection.
//! - [`figures`]: what of it is counted.
//!
//! Deliberately absent: what members and messages mean, which is [`crate::tracker::sharing`]'s affair; clusters and sentinels.

mod figures;
mod guard;
mod keys;
mod link;
mod session;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;

use crate::control::config::StoreUrl;
use crate::control::resolver::Resolver;
use crate::proto::InfoHash;
use crate::tracker::Tracker;
use crate::tracker::sharing::{Batch, SenderId, Update};
use figures::Figures;
use link::Link;

/// How long updates are gathered after the first.
const GATHER: Duration = Duration::from_millis(50);
/// From the first attempt to have a connection to its first answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);
/// Between two attempts, at first and at most.
const RETRY_LEAST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Peers and torrents of which something is to be told once while the store is away. Beyond that the newest are dropped.
const PENDING_MAX: usize = 1 << 16;
/// Torrents that are not looked up because the reply could not be borne.
const SPURNED_MAX: usize = 4096;

/// What the task has over all connections.
pub(in crate::control) struct Sharing {
    tracker: Arc<Tracker>,
    url: StoreUrl,
    resolver: Arc<Resolver>,
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
            url,
            resolver,
            news,
            id: random(),
            figures: Figures::new(),
            updates: Vec::new(),
            pending: Batch::default(),
            spurned: HashSet::new(),
        }
    }

    /// Shares for as long as btd runs.
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
                    self.figures.set_up(true);
                    let began = Instant::now();
                    let why = self.session(link).await;
                    self.figures.set_up(false);
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

    async fn connect(&mut self) -> Result<Link, link::Gone> {
        let (url, resolver) = (self.url.clone(), Arc::clone(&self.resolver));
        let connecting = tokio::time::timeout(CONNECT_PATIENCE, Link::connect(&url, &resolver));
        let connected = self.while_absorbing(connecting).await;
        connected.unwrap_or(Err(link::Gone::Silent(CONNECT_PATIENCE)))
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
        self.tracker.take_updates(&mut self.updates);
        for update in self.updates.drain(..) {
            if update.is_told_once() && self.pending.weight() >= PENDING_MAX {
                self.figures.drop_pending();
            } else {
                self.pending.add(update); // What is not kept is there until the end of this, and takes back what it must.
            }
        }
        self.pending.keep_what_is_told_once(false);
        self.figures.set_outbox_dropped(self.tracker.updates_dropped());
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
