//! How those who read whole torrents share the machine: with the operator, who may pause them or set a rate, and with the
//! peers, whose blocks come from the same disks.
//!
//! One [`Throttle`] is shared by all checks, so that a rate is the rate of all of them together, and so is their memory.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::loan::Loan;

/// What may be read at once although a rate is set: a few stretches, so that they can be in flight.
const BURST: Duration = Duration::from_millis(100);

/// While peers are being read for, each check keeps one read in flight, and rests so many times as long as that took: its
/// bytes wait, not theirs, and nine tenths of the disk are theirs whatever kind of disk it is.
const RESTS: u32 = 9;

/// The longest rest: a read that hung says nothing of the disk.
const REST_MAX: Duration = Duration::from_secs(1);

/// How long a disk counts as being read for peers after it was: a few ticks of the shards, which publish their counters
/// once a tick.
const PEERS_LATELY: Duration = Duration::from_millis(500);

/// Counts what peers cause to be read; only grows.
pub type PeersReads = Box<dyn Fn() -> u64 + Send + Sync>;

/// See the head of this file.
#[derive(Default)]
pub struct Throttle {
    /// Bytes a second; 0 is no limit.
    rate: AtomicU64,
    /// How long what was begun takes at the rate.
    paid_until: Mutex<Option<Instant>>,
    paused: AtomicBool,
    /// Bytes of the reads that were begun.
    begun: AtomicU64,
    /// Those who read now.
    running: AtomicUsize,
    loan: Arc<Loan>,
    #[cfg(test)]
    asked: AtomicBool,
    #[cfg(test)]
    lifted: AtomicBool,
    peers: Option<Mutex<Peers>>,
}

/// See [`Throttle::enter`].
pub(super) struct Running<'a>(&'a Throttle);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

struct Peers {
    reads: PeersReads,
    seen: u64,
    seen_at: Option<Instant>,
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("rate", &self.rate())
            .field("paused", &self.is_paused())
            .finish_non_exhaustive()
    }
}

impl Throttle {
    /// At most `rate` bytes a second, if that is given and not 0; gives way to whoever makes `peers` grow.
    #[must_use]
    pub fn new(rate: Option<u64>, peers: Option<PeersReads>) -> Self {
        let peers = peers.map(|reads| {
            Mutex::new(Peers {
                seen: reads(),
                reads,
                seen_at: None,
            })
        });
        Self {
            rate: AtomicU64::new(rate.unwrap_or(0)),
            peers,
            ..Self::default()
        }
    }

    /// The same with another's memory.
    #[must_use]
    pub fn with_memory_of(self, loan: Arc<Loan>) -> Self {
        Self { loan, ..self }
    }

    /// Whose memory checks read into.
    pub(super) fn loan(&self) -> &Arc<Loan> {
        &self.loan
    }

    /// What each of those who read now may have of it, in bytes.
    pub(super) fn memory(&self) -> u64 {
        self.loan.share(self.running.load(Relaxed))
    }

    /// Changes the rate. What was begun has been paid for at the old one, as far as it has: what is left of that is let off.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.rate.store(rate.unwrap_or(0), Relaxed);
        *self.paid_until() = None;
    }

    fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Relaxed)).filter(|rate| *rate > 0)
    }

    /// No new reads begin until [`Throttle::resume`].
    pub fn pause(&self) {
        self.paused.store(true, Relaxed);
    }

    /// Goes on.
    pub fn resume(&self) {
        self.paused.store(false, Relaxed);
    }

    /// Whether [`Throttle::pause`] was called last.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// Bytes that checks have begun to read, over all of them; only grows.
    pub fn bytes_begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// How long to wait before the next read may begin; nothing if it may now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        #[cfg(test)]
        {
            self.asked.store(true, Relaxed);
            if self.lifted.load(Relaxed) {
                return None;
            }
        }
        if self.is_paused() {
            return Some(Duration::MAX);
        }
        let ahead = self
            .paid_until()
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        ahead.checked_sub(BURST).filter(|wait| !wait.is_zero())
    }

    /// Counts a read of `len` bytes that begins now.
    pub(super) fn spend(&self, len: u64, now: Instant) {
        self.begun.fetch_add(len, Relaxed);
        if let Some(rate) = self.rate() {
            let mut paid_until = self.paid_until();
            let from = paid_until.map_or(now, |until| until.max(now));
            *paid_until = Some(from + Duration::from_secs_f64(len as f64 / rate as f64));
        }
    }

    fn paid_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.paid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether peers are being read for.
    pub(super) fn is_beside_peers(&self, now: Instant) -> bool {
        let Some(peers) = &self.peers else { return false };
        let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let reads = (peers.reads)();
        if reads != peers.seen {
            peers.seen = reads;
            peers.seen_at = Some(now);
        }
        peers
            .seen_at
            .is_some_and(|at| now.saturating_duration_since(at) < PEERS_LATELY)
    }

    /// How long to rest after a read that took so long, beside peers. All who run share one tenth.
    pub(super) fn rest(&self, took: Duration) -> Duration {
        let running = u32::try_from(self.running.load(Relaxed)).unwrap_or(u32::MAX);
        took.saturating_mul(running.max(1).saturating_mul(RESTS + 1) - 1)
            .min(REST_MAX)
    }

    /// Counts somebody who reads, for as long as the value lives.
    pub(super) fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Relaxed);
        Running(self)
    }
}

#[cfg(test)]
impl Throttle {
    /// Waits until somebody was told to wait.
    pub(super) fn wait_until_asked(&self) {
        while !self.asked.load(Relaxed) {
            std::thread::yield_now();
        }
    }

    /// Forgets what was spent, and the rate with it.
    pub(super) fn lift(&self) {
        self.lifted.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_rate_is_kept_over_time_and_by_all_together() {
        let throttle = Throttle::new(Some(1_000_000), None);
        let start = Instant::now();
        let (mut now, mut read) = (start, 0_u64);
        while now < start + Duration::from_secs(10) {
            // Two readers take turns.
            match throttle.wait(now) {
                None => {
                    let len = if read.is_multiple_of(2) { 30_001 } else { 20_000 };
                    throttle.spend(len, now);
                    read += len;
                }
                Some(wait) => now += wait,
            }
        }
        assert!((10_000_000..10_200_000).contains(&read), "{read} bytes in 10 s");
        assert_eq!(throttle.bytes_begun(), read);
    }

    #[test]
    fn a_rate_that_is_changed_holds_at_once() {
        let (throttle, now) = (Throttle::new(Some(1000), None), Instant::now());
        throttle.spend(1 << 20, now);
        assert!(throttle.wait(now) > Some(Duration::from_secs(1000)));
        throttle.set_rate(Some(2000));
        assert_eq!(throttle.wait(now), None);
        throttle.spend(2000, now);
        assert_eq!(throttle.wait(now), Some(Duration::from_millis(900)));
        throttle.set_rate(None);
        throttle.spend(1 << 40, now);
        assert_eq!(throttle.wait(now), None);
    }

    #[test]
    fn an_idle_while_is_not_made_up_for() {
        let throttle = Throttle::new(Some(1000), None);
        let later = Instant::now() + Duration::from_secs(60);
        throttle.spend(1000, later);
        assert_eq!(throttle.wait(later), Some(Duration::from_millis(900)));
    }

    #[test]
    fn nothing_begins_while_paused_and_all_does_without_a_rate() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        throttle.pause();
        assert_eq!(throttle.wait(now), Some(Duration::MAX));
        throttle.resume();
        for _ in 0..1000 {
            assert_eq!(throttle.wait(now), None);
            throttle.spend(1 << 30, now);
        }
    }

    #[test]
    fn those_who_run_rest_for_each_other() {
        let throttle = Throttle::default();
        let read = Duration::from_millis(1);
        let one = throttle.enter();
        assert_eq!(throttle.rest(read), read * 9, "a tenth of the time");
        let two = throttle.enter();
        assert_eq!(throttle.rest(read), read * 19, "a twentieth each");
        drop((one, two));
        assert_eq!(throttle.rest(Duration::from_secs(60)), REST_MAX);
    }

    #[test]
    fn peers_are_read_for_when_their_count_has_grown_lately() {
        let reads = Arc::new(AtomicU64::new(5));
        let counter = Arc::clone(&reads);
        let throttle = Throttle::new(None, Some(Box::new(move || counter.load(Relaxed))));
        let now = Instant::now();
        assert!(!throttle.is_beside_peers(now), "what was read before does not count");
        reads.store(6, Relaxed);
        assert!(throttle.is_beside_peers(now));
        assert!(throttle.is_beside_peers(now + PEERS_LATELY / 2));
        assert!(!throttle.is_beside_peers(now + PEERS_LATELY));
    }
}
