//! One tracker host: what waits to be asked of it, how fast, and whether it seems to be there at all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::bucket::Bucket;
use super::backoff;
use super::reannounce::INTERVAL_MIN;
use super::trackers::HostName;

/// Requests of one host that are under way. At 50 a second this is enough for answers that take half a second.
const IN_FLIGHT_MAX: usize = 24;
/// The same of one that has not answered yet: it may take its time with each, and others share the requests in all.
const UNPROVEN_MAX: usize = 2;
/// So many failures in a row, whatever the torrent, mean that nobody is there.
const FAILURES_MAX: u32 = 3;

/// Where a job waits: when it may be sent, and which it is.
pub(super) type Turn = (u64, u32);

/// When the next of a host's queue may be sent, and whether the host has answered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wake {
    pub(super) at: u64,
    pub(super) proven: bool,
}

/// A tracker host: its protocol, name and port. Times are in milliseconds.
#[derive(Debug)]
pub(super) struct Host {
    /// What it is found by.
    pub(super) name: HostName,
    /// Addresses of trackers that are here.
    pub(super) urls: u32,
    pub(super) queue: BTreeSet<Turn>,
    pub(super) in_flight: usize,
    /// When the next of the queue is to be looked at, as the schedule has it in its own order.
    pub(super) wakes_at: Option<Wake>,
    bucket: Bucket,
    failures: u32,
    /// It has answered.
    proven: bool,
    /// Nothing is asked of it before.
    until: u64,
    /// When it failed last.
    failed_at: u64,
    /// When all are leaving: requests under way that it may have.
    parting_max: Option<usize>,
}

impl Host {
    pub(super) fn new(name: HostName) -> Self {
        Self {
            name,
            urls: 0,
            queue: BTreeSet::new(),
            in_flight: 0,
            wakes_at: None,
            bucket: Bucket::new(),
            failures: 0,
            proven: false,
            until: 0,
            failed_at: 0,
            parting_max: None,
        }
    }

    /// Nothing is asked of it before.
    pub(super) fn until(&self) -> u64 {
        self.until
    }

    /// It is tried now and then, by one request.
    pub(super) fn is_given_up(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    /// It has answered, and not been given up since.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// When something can be asked of it, if anything waits.
    pub(super) fn next(&self) -> Option<Wake> {
        let max = match self.proven {
            // One that was given up is tried with one request before the others follow.
            _ if self.is_given_up() => 1,
            false => UNPROVEN_MAX,
            true => self.parting_max.unwrap_or(IN_FLIGHT_MAX),
        };
        let (at, _) = self.queue.first().filter(|_| self.in_flight < max)?;
        Some(Wake {
            at: self.bucket.ready_at().max(*at),
            proven: self.proven,
        })
    }

    /// A request is sent.
    pub(super) fn take(&mut self, now: u64) {
        self.bucket.take(now);
        self.in_flight += 1;
    }

    /// Whether something else may be asked of it now, without an announce having to wait for it.
    pub(super) fn is_free(&self, now: u64) -> bool {
        self.bucket.ready_at() <= now && self.queue.first().is_none_or(|(at, _)| *at > now)
    }

    /// A scrape is sent, which does not count as under way.
    pub(super) fn take_scrape(&mut self, now: u64) {
        self.bucket.take(now);
    }

    /// All that waits is to be sent within this time, with so many requests under way.
    pub(super) fn part(&mut self, within: Duration, in_flight_max: usize) {
        self.bucket.hurry(self.queue.len() + self.in_flight, within);
        self.parting_max = Some(in_flight_max);
    }

    /// It has answered, whatever it said.
    pub(super) fn on_answer(&mut self) {
        (self.failures, self.until, self.proven) = (0, 0, true);
    }

    /// What failed was not its fault.
    pub(super) fn forgive(&mut self) {
        (self.failures, self.until) = (0, 0);
    }

    /// Somebody wants something of it, whether or not it was given up: that is tried once a minute at most, however many
    /// torrents are asked for.
    pub(super) fn ask_again(&mut self, now: u64) {
        self.until = self.until.min(now.max(self.failed_at + INTERVAL_MIN));
    }

    /// It has not, or as one that is out of order.
    pub(super) fn on_failure(&mut self, now: u64, random: u64) {
        self.failed_at = now;
        if now < self.until {
            return; // One of those that were under way when it was given up.
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.proven = false;
            self.until = now + backoff(self.failures - FAILURES_MAX + 1, random);
        }
    }
}
