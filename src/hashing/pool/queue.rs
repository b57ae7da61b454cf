//! Jobs that wait for a worker, and when they have waited enough.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Job, Then, Waiting, len};

/// How long jobs may wait for others, so that they are hashed side by side: 16 in lanes take less time than five
/// one by one (AVX-512; PERF.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather {
    /// No job waits longer than this for others.
    pub time: Duration,
    /// Nor does any while so many bytes wait: their memory is wanted for something else.
    pub bytes: u64,
}

/// A job that waits, and since when.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) job: Job,
    pub(super) since: Instant,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: VecDeque<Queued>,
    bytes: u64,
    /// Jobs that wait of which more is to come.
    in_parts: usize,
    /// Workers that wait to be woken: a bell nobody hears is a system call saved.
    pub(super) idle: usize,
    /// Those who wait for room, likewise.
    pub(super) wanting_room: usize,
    pub(super) stopped: Option<Waiting>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn push(&mut self, job: Job, now: Instant) {
        self.bytes += len(&job);
        self.in_parts += usize::from(job.then == Then::Continue);
        self.jobs.push_back(Queued { job, since: now });
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.jobs.pop_front()?;
        self.bytes -= len(&queued.job);
        self.in_parts -= usize::from(queued.job.then == Then::Continue);
        Some(queued)
    }

    /// Empties it.
    pub(super) fn take_all(&mut self) -> VecDeque<Queued> {
        self.bytes = 0;
        self.in_parts = 0;
        std::mem::take(&mut self.jobs)
    }

    /// How long a worker has to wait before it takes what is here, with `width` lanes to fill. `None`: until it is woken.
    pub(super) fn wait(&self, gather: Option<Gather>, width: usize, now: Instant) -> Option<Duration> {
        let (Some(first), None) = (self.jobs.front(), self.stopped) else {
            return self.stopped.map(|_| Duration::ZERO);
        };
        match gather {
            // Who gives a piece in parts waits for each of them.
            Some(gather) if self.jobs.len() < width && self.bytes < gather.bytes && self.in_parts == 0 => {
                Some(gather.time.saturating_sub(now.saturating_duration_since(first.since)))
            }
            _ => Some(Duration::ZERO),
        }
    }

    /// Whether a worker is to be woken for the job that was pushed last: the first, for whose others it waits, or one that
    /// makes them enough.
    pub(super) fn is_to_wake(&self, gather: Option<Gather>, width: usize) -> bool {
        self.idle > 0
            && gather.is_none_or(|gather| {
                let enough = self.jobs.len() >= width || self.bytes >= gather.bytes;
                self.jobs.len() == 1 || self.in_parts > 0 || enough
            })
    }
}
