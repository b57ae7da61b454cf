//! Worker threads that hash: jobs in, verdicts out.
//!
//! The queue is bounded, and a full queue is the caller's business: [`Pool::try_submit`] gives the job back,
//! [`Pool::submit`] waits. Memory is therefore bounded by whoever makes the jobs. A job owns its buffers until it is
//! answered, and the answer gives them back, so that a reader may fill them again.
//!
//! Every job accepted is answered exactly once, also when the pool stops before its turn ([`Outcome::Dropped`]): a
//! caller that counts what it has out never waits for ever.
//!
//! A worker takes its fair share of what is queued, up to 16 jobs, under one lock, and hashes them side by side
//! ([`lanes`]): at 16 KiB a piece the lock and the wake-up would otherwise cost as much as the hashing. While it is at it,
//! each lane that becomes free takes the next job from the queue; a lone job is hashed as a single stream. Where somebody
//! would rather have it cheap than at once ([`Gather`]), a worker waits a moment for a batch to fill, and takes all of it.
//!
//! A job's bytes are in buffers, or come from a [`Source`] that the worker asks for a stretch at a time: what has to be
//! copied from the page cache anyway is hashed by the core that has just copied it.
//!
//! A job is answered when its own bytes are hashed, not at the end of its batch: the reader has its buffers back the
//! sooner, and a short piece does not wait for a long one beside it.
#![forbid(unsafe_code)]

mod queue;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::digest::{DIGEST_LEN, Hasher};
use super::lanes::{self, Backend, Message, Plan, State, Work};
use crate::io::Bell;
use crate::io::uring::run_when_idle;
use crate::stats::Histogram;
pub use queue::Gather;
use queue::{Queue, Queued};

/// Jobs one worker takes from the queue at once: the lanes of the widest backend.
const BATCH_MAX: usize = 16;

/// Jobs one worker takes while it hashes, before it lets its lanes run empty: by then the statistics want to be written.
const REFILLS_MAX: usize = 256;

/// What is copied from a source at a time: with all lanes filled, it stays in the second-level cache until it is hashed.
const COPY_LEN: usize = 64 << 10;

/// How a [`Pool`] is built.
#[derive(Debug, Clone, Copy)]
pub struct PoolConfig {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Jobs that wait at most, at least 1. Those being hashed are not counted.
    pub queue_max: usize,
    /// What is added to the niceness of the process for the workers, 0 to 19.
    pub nice: i32,
    /// Whether the workers run only when nobody else wants their processor, whatever their niceness.
    pub idle: bool,
    /// Whether jobs wait for others.
    pub gather: Option<Gather>,
}

impl Default for PoolConfig {
    /// One worker per core this process may use, at niceness 10: hashing takes what serving leaves.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        PoolConfig {
            workers,
            queue_max: 64,
            nice: 10,
            idle: false,
            gather: None,
        }
    }
}

/// One piece, or a part of one, to be hashed.
#[derive(Debug)]
pub struct Job {
    /// Chosen by the caller, returned with the answer.
    pub tag: u64,
    /// Where to go on from: a new [`Hasher`], or the one that [`Outcome::Partial`] gave back.
    pub hasher: Hasher,
    /// The bytes, in order.
    pub buffers: Vec<Bytes>,
    /// Where more bytes come from, after those of the buffers.
    pub source: Option<Box<dyn Source>>,
    /// What is wanted after the last byte.
    pub then: Then,
    /// Where the answer goes. An answer nobody waits for is dropped.
    pub reply: Reply,
}

/// Where answers go.
#[derive(Debug, Clone)]
pub struct Reply {
    sender: Sender<Done>,
    bell: Option<Bell>,
}

impl Reply {
    /// To somebody who does not wait at the channel: he is woken by `bell`.
    #[must_use]
    pub fn with_bell(sender: Sender<Done>, bell: Bell) -> Self {
        Self {
            sender,
            bell: Some(bell),
        }
    }

    fn answer(&self, done: Done) {
        // The asker may have gone (a check that was cancelled): then the buffers are freed here.
        if self.sender.send(done).is_ok()
            && let Some(bell) = &self.bell
        {
            bell.ring();
        }
    }
}

impl From<Sender<Done>> for Reply {
    fn from(sender: Sender<Done>) -> Self {
        Self { sender, bell: None }
    }
}

/// Bytes that a worker fetches when it gets to them. Whoever makes one sees to it that this takes no longer than copying
/// them does: a lane, and those beside it, wait meanwhile.
pub trait Source: Send + fmt::Debug {
    /// Bytes that are left.
    fn left(&self) -> u64;

    /// Fills `buffer`, which is no longer than what is left. False when it cannot; the job then ends in
    /// [`Outcome::Unread`].
    fn read(&mut self, buffer: &mut [u8]) -> bool;
}

/// What is wanted once a job's bytes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// More bytes follow in another job.
    Continue,
    /// The digest.
    Finish,
    /// Whether the digest is this one.
    Verify([u8; DIGEST_LEN]),
}

/// The answer to a [`Job`].
#[derive(Debug)]
pub struct Done {
    /// The job's tag.
    pub tag: u64,
    /// The job's buffers.
    pub buffers: Vec<Bytes>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a [`Job`].
#[derive(Debug)]
pub enum Outcome {
    /// [`Then::Continue`]: the state to go on with.
    Partial(Hasher),
    /// [`Then::Finish`]: the digest.
    Digest([u8; DIGEST_LEN]),
    /// [`Then::Verify`]: the bytes are those that were expected.
    Good,
    /// [`Then::Verify`]: they are not; this is their digest.
    Bad([u8; DIGEST_LEN]),
    /// The source did not give its bytes.
    Unread,
    /// The pool stopped before this job's turn.
    Dropped,
}

impl Outcome {
    /// What a digest means for whoever wanted that.
    #[must_use]
    pub fn of(digest: [u8; DIGEST_LEN], then: Then) -> Self {
        match then {
            Then::Verify(expected) if digest != expected => Self::Bad(digest),
            Then::Verify(_) => Self::Good,
            Then::Finish | Then::Continue => Self::Digest(digest),
        }
    }
}

/// Why a job was not taken; the job comes back.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error("the hashing queue is full")]
    Full(Box<Job>),
    /// The pool has been stopped.
    #[error("the hashing pool has been stopped")]
    Stopped(Box<Job>),
}

/// What becomes of the waiting jobs when a pool stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// They are hashed first.
    Finish,
    /// They are answered [`Outcome::Dropped`].
    Drop,
}

/// What a pool has done since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Bytes hashed.
    pub bytes: u64,
    /// Jobs hashed.
    pub jobs: u64,
    /// Jobs that ended in [`Outcome::Bad`].
    pub failures: u64,
    /// Jobs that ended in [`Outcome::Dropped`].
    pub dropped: u64,
    /// What each worker has done, as of its last batch.
    pub workers: Vec<WorkerStats>,
}

/// What one worker has done since the pool started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Bytes hashed.
    pub bytes: u64,
    /// Blocks hashed in lanes and alone.
    pub work: Work,
    /// How long jobs waited in the queue.
    pub queue_delay: Histogram,
}

/// The workers and their queue. Dropping it stops the workers after the job in hand.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    workers: usize,
    /// It has no threads, and who waits for room hashes what is queued.
    #[cfg(any(test, feature = "sim"))]
    by_hand: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Rung when a job was queued or the pool stops.
    work: Condvar,
    /// Rung when half of the queue is free or the pool stops.
    room: Condvar,
    queue_max: usize,
    workers: usize,
    gather: Option<Gather>,
    counters: Counters,
    /// One for each worker, which alone writes it, once a batch.
    worker_stats: Vec<Mutex<WorkerStats>>,
    plan: &'static Plan,
}

/// What goes through the lanes with a job's bytes.
struct Ticket {
    tag: u64,
    then: Then,
    reply: Reply,
    source: Option<Box<dyn Source>>,
    /// The job's buffers that have gone before.
    buffers: Vec<Bytes>,
    /// Bytes that have gone before.
    len: u64,
}

/// A stretch of a message.
enum Span {
    /// Of the job's own.
    Buffer(Bytes),
    /// A worker's, filled from a [`Source`].
    Copied(Vec<u8>),
}

impl AsRef<[u8]> for Span {
    fn as_ref(&self) -> &[u8] {
        match self {
            Span::Buffer(bytes) => bytes,
            Span::Copied(bytes) => bytes,
        }
    }
}

/// What a worker has in hand.
#[derive(Default)]
struct Hand {
    /// Taken from the queue, the longest last.
    batch: Vec<Queued>,
    /// In the middle of their source.
    going_on: VecDeque<(State, Ticket)>,
    /// Buffers for sources, to be filled again.
    spare: Vec<Vec<u8>>,
    /// Jobs that may still be taken while these are being hashed.
    refills: usize,
    /// Since the statistics were last written.
    bytes: u64,
    delays: Vec<Duration>,
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    jobs: AtomicU64,
    failures: AtomicU64,
    dropped: AtomicU64,
}

impl Pool {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the system gives no thread, or `BTD_SHA1` names no backend that the processor has.
    ///
    /// # Panics
    /// When `config` has no worker or no place in the queue.
    pub fn start(config: PoolConfig) -> std::io::Result<Pool> {
        assert!(
            config.workers > 0 && config.queue_max > 0,
            "a pool without workers or queue: {config:?}"
        );
        let backend = Backend::from_env().map_err(|error| std::io::Error::new(ErrorKind::InvalidInput, error))?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            queue_max: config.queue_max,
            workers: config.workers,
            gather: config.gather,
            counters: Counters::default(),
            worker_stats: (0..config.workers).map(|_| Mutex::default()).collect(),
            plan: Plan::of(backend),
        });
        // Made before the threads: should one of them not start, dropping this stops the others.
        let pool = Pool {
            shared,
            threads: Mutex::default(),
            workers: config.workers,
            #[cfg(any(test, feature = "sim"))]
            by_hand: false,
        };
        for index in 0..config.workers {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("btd-hash-{index}"))
                .spawn(move || {
                    be_nice(config.nice);
                    if config.idle {
                        run_when_idle();
                    }
                    shared.work(&shared.worker_stats[index]);
                })?;
            lock(&pool.threads).push(thread);
        }
        Ok(pool)
    }

    /// A pool without threads, for simulations: what [`Pool::try_submit`] queues is hashed by [`Pool::work`], on the thread
    /// that calls it, and what [`Pool::submit_timeout`] queues at once.
    ///
    /// # Panics
    /// When there is no place in the queue.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn by_hand(queue_max: usize) -> Pool {
        assert!(queue_max > 0, "a pool without a queue");
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            queue_max,
            workers: 1,
            gather: None,
            counters: Counters::default(),
            worker_stats: vec![Mutex::default()],
            plan: Plan::of(Backend::Scalar),
        });
        Pool {
            shared,
            threads: Mutex::default(),
            workers: 1,
            by_hand: true,
        }
    }

    /// Hashes what is queued, all of it, and answers. Gives how many jobs that were.
    #[cfg(any(test, feature = "sim"))]
    pub fn work(&self) -> usize {
        let jobs = lock(&self.shared.queue).len();
        let hand = RefCell::new(Hand::default());
        while !lock(&self.shared.queue).is_empty() && self.shared.take(&mut hand.borrow_mut()) {
            self.shared.hash(&hand, &self.shared.worker_stats[0]);
        }
        jobs
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Jobs that one worker hashes side by side at best: whoever has as many queued for each worker has them hashed fastest.
    pub fn lanes(&self) -> usize {
        self.shared.plan.width()
    }

    /// Queues a job, waiting for room.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        let mut queue = lock(&self.shared.queue);
        queue.wanting_room += 1;
        let full = |queue: &mut Queue| queue.stopped.is_none() && queue.len() >= self.shared.queue_max;
        let waited = self.shared.room.wait_while(queue, full);
        queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.wanting_room -= 1;
        self.shared.push(queue, job)
    }

    /// Queues a job, waiting for room, but not longer than `timeout`.
    pub fn submit_timeout(&self, job: Job, timeout: Duration) -> Result<(), Refused> {
        #[cfg(any(test, feature = "sim"))]
        if self.by_hand {
            let taken = self.try_submit(job);
            self.work();
            return taken;
        }
        let mut queue = lock(&self.shared.queue);
        queue.wanting_room += 1;
        let full = |queue: &mut Queue| queue.stopped.is_none() && queue.len() >= self.shared.queue_max;
        let waited = self.shared.room.wait_timeout_while(queue, timeout, full);
        (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.wanting_room -= 1;
        self.shared.push(queue, job)
    }

    /// Queues a job if there is room now.
    pub fn try_submit(&self, job: Job) -> Result<(), Refused> {
        self.shared.push(lock(&self.shared.queue), job)
    }

    /// Stops the workers and waits for them. New jobs are refused from here on.
    pub fn stop(&self, waiting: Waiting) {
        let dropped = {
            let mut queue = lock(&self.shared.queue);
            queue.stopped = Some(waiting);
            if waiting == Waiting::Drop {
                queue.take_all()
            } else {
                VecDeque::new()
            }
        };
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        for Queued { job, .. } in dropped {
            self.shared.counters.dropped.fetch_add(1, Relaxed);
            answer(&job.reply, job.tag, job.buffers, Outcome::Dropped);
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A worker that panicked has said so on stderr; there is nothing to add here.
            let _ = thread.join();
        }
    }

    /// What has been done so far.
    pub fn stats(&self) -> PoolStats {
        let counters = &self.shared.counters;
        PoolStats {
            bytes: counters.bytes.load(Relaxed),
            jobs: counters.jobs.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            workers: self
                .shared
                .worker_stats
                .iter()
                .map(|stats| lock(stats).clone())
                .collect(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop(Waiting::Drop);
    }
}

impl Shared {
    fn push(&self, mut queue: MutexGuard<'_, Queue>, job: Job) -> Result<(), Refused> {
        if queue.stopped.is_some() {
            return Err(Refused::Stopped(Box::new(job)));
        }
        if queue.len() >= self.queue_max {
            return Err(Refused::Full(Box::new(job)));
        }
        queue.push(job, Instant::now());
        let wake = queue.is_to_wake(self.gather, self.plan.width());
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// One worker's life.
    fn work(&self, stats: &Mutex<WorkerStats>) {
        let hand = RefCell::new(Hand::default());
        while self.take(&mut hand.borrow_mut()) {
            self.hash(&hand, stats);
        }
    }

    /// Waits for jobs and takes this worker's share of them. False when the pool has stopped.
    fn take(&self, hand: &mut Hand) -> bool {
        let mut queue = lock(&self.queue);
        queue.idle += 1;
        loop {
            queue = match queue.wait(self.gather, self.plan.width(), Instant::now()) {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.work.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        queue.idle -= 1;
        let share = match self.gather {
            // All that has gathered.
            Some(_) => queue.len().min(self.plan.width()),
            // A share, not all: two large pieces are for two workers.
            None => queue.len().div_ceil(self.workers).min(BATCH_MAX),
        };
        hand.batch.extend((0..share).map_while(|_| queue.pop()));
        self.tell_of_room(queue);
        share > 0
    }

    /// Wakes those who wait for room, once half of the queue is free: woken for each place, they would cost two switches a
    /// job where they share a processor with a worker (PERF.md).
    fn tell_of_room(&self, queue: MutexGuard<'_, Queue>) {
        let wake = queue.wanting_room > 0 && queue.len() <= self.queue_max / 2;
        drop(queue);
        if wake {
            self.room.notify_all();
        }
    }

    /// Hashes what is in hand side by side, and what is queued meanwhile; answers each job when it is done.
    fn hash(&self, hand: &RefCell<Hand>, stats: &Mutex<WorkerStats>) {
        {
            let hand = &mut *hand.borrow_mut();
            let now = Instant::now();
            hand.delays.extend(
                hand.batch
                    .iter()
                    .map(|queued| now.saturating_duration_since(queued.since)),
            );
            // The longest is to be first: the lanes stay filled until shortly before the end.
            hand.batch.sort_by_key(|queued| Reverse(len(&queued.job)));
            hand.batch.reverse();
            // What gathers meanwhile is hashed when it is enough, and not beside the last of these.
            hand.refills = if self.gather.is_some() { 0 } else { REFILLS_MAX };
        }
        let work = lanes::run(
            self.plan,
            || self.next_message(&mut hand.borrow_mut()),
            |message| self.on_end(message, &mut hand.borrow_mut()),
        );
        let hand = &mut *hand.borrow_mut();
        let mut stats = lock(stats);
        stats.bytes += std::mem::take(&mut hand.bytes);
        stats.work += work;
        for delay in hand.delays.drain(..) {
            stats.queue_delay.record(delay, 1);
        }
    }

    /// What goes into a free lane.
    fn next_message(&self, hand: &mut Hand) -> Option<Message<Span, Ticket>> {
        loop {
            if let Some((state, ticket)) = hand.going_on.pop_front() {
                match self.copy(state, ticket, hand) {
                    Some(message) => return Some(message),
                    None => continue,
                }
            }
            let Queued { job, .. } = hand.batch.pop().or_else(|| self.refill(hand))?;
            let ticket = Ticket {
                tag: job.tag,
                then: job.then,
                reply: job.reply,
                source: job.source,
                buffers: Vec::new(),
                len: 0,
            };
            if job.buffers.is_empty() && ticket.source.as_ref().is_some_and(|source| source.left() > 0) {
                hand.going_on.push_front((job.hasher.0, ticket));
                continue;
            }
            return Some(Message {
                state: job.hasher.0,
                spans: job.buffers.into_iter().map(Span::Buffer).collect(),
                finish: ticket.is_last(),
                tag: ticket,
            });
        }
    }

    /// The next stretch of a source. None when it gave nothing, and its job was answered.
    fn copy(&self, state: State, mut ticket: Ticket, hand: &mut Hand) -> Option<Message<Span, Ticket>> {
        let mut bytes = hand.spare.pop().unwrap_or_default();
        let source = ticket.source.as_mut().expect("only those with a source go on");
        // At most COPY_LEN.
        bytes.resize(source.left().min(COPY_LEN as u64) as usize, 0);
        if !source.read(&mut bytes) {
            hand.spare.push(bytes);
            answer(&ticket.reply, ticket.tag, ticket.buffers, Outcome::Unread);
            return None;
        }
        Some(Message {
            state,
            finish: ticket.is_last(),
            spans: vec![Span::Copied(bytes)],
            tag: ticket,
        })
    }

    /// One more job from the queue, without waiting.
    fn refill(&self, hand: &mut Hand) -> Option<Queued> {
        if hand.refills == 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        let queued = queue.pop()?;
        self.tell_of_room(queue);
        hand.refills -= 1;
        hand.delays.push(queued.since.elapsed());
        Some(queued)
    }

    fn on_end(&self, message: Message<Span, Ticket>, hand: &mut Hand) {
        let digest = message.digest();
        let Message {
            state,
            spans,
            tag: mut ticket,
            ..
        } = message;
        for span in spans {
            ticket.len += span.as_ref().len() as u64;
            match span {
                Span::Buffer(bytes) => ticket.buffers.push(bytes),
                Span::Copied(bytes) => hand.spare.push(bytes),
            }
        }
        if ticket.source.as_ref().is_some_and(|source| source.left() > 0) {
            hand.going_on.push_back((state, ticket));
            return;
        }
        let outcome = match digest {
            None => Outcome::Partial(Hasher(state)),
            Some(digest) => Outcome::of(digest, ticket.then),
        };
        // Before the answer: whoever has it may look at the counters.
        hand.bytes += ticket.len;
        self.counters.bytes.fetch_add(ticket.len, Relaxed);
        self.counters.jobs.fetch_add(1, Relaxed);
        self.counters
            .failures
            .fetch_add(u64::from(matches!(outcome, Outcome::Bad(_))), Relaxed);
        answer(&ticket.reply, ticket.tag, ticket.buffers, outcome);
    }
}

impl Ticket {
    /// Whether the message ends with what has been taken from its source.
    fn is_last(&self) -> bool {
        self.then != Then::Continue && self.source.as_ref().is_none_or(|source| source.left() == 0)
    }
}

/// Bytes of a job.
fn len(job: &Job) -> u64 {
    let buffers: u64 = job.buffers.iter().map(|buffer| buffer.len() as u64).sum();
    buffers + job.source.as_ref().map_or(0, |source| source.left())
}

fn answer(reply: &Reply, tag: u64, buffers: Vec<Bytes>, outcome: Outcome) {
    reply.answer(Done { tag, buffers, outcome });
}

/// Lowers the priority of the calling thread (on Linux niceness belongs to threads).
fn be_nice(nice: i32) {
    // Asking for less than one has is always granted, and hashing at full priority would still be right.
    let _ = rustix::process::nice(nice.clamp(0, 19));
}

/// No state here is broken by a panic half-way: jobs are pushed and taken by single calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
