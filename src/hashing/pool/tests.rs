//! Every job is answered once, with what it asked for, whatever the pool is in the middle of.

use super::*;
use crate::hashing::sha1;
use std::sync::mpsc::{Receiver, channel};

const DEADLINE: Duration = Duration::from_secs(20);

fn pool(workers: usize, queue_max: usize) -> Pool {
    Pool::start(PoolConfig {
        workers,
        queue_max,
        nice: 10,
        idle: false,
        gather: None,
    })
    .unwrap()
}

fn job(tag: u64, data: &[u8], then: Then, reply: &Sender<Done>) -> Job {
    let buffers = vec![Bytes::copy_from_slice(data)];
    Job {
        tag,
        hasher: Hasher::new(),
        buffers,
        source: None,
        then,
        reply: reply.clone().into(),
    }
}

fn next(replies: &Receiver<Done>) -> Done {
    replies.recv_timeout(DEADLINE).expect("an answer")
}

/// Keeps the pool's only worker busy for as long as the caller holds `gate` locked: nobody waits for the answer, so
/// the worker itself frees the buffer, and freeing it takes the lock.
pub(crate) fn occupy(pool: &Pool, gate: &Arc<Mutex<()>>) {
    struct Gate(Arc<Mutex<()>>);
    impl AsRef<[u8]> for Gate {
        fn as_ref(&self) -> &[u8] {
            b""
        }
    }
    impl Drop for Gate {
        fn drop(&mut self) {
            drop(lock(&self.0));
        }
    }
    let before = pool.stats().jobs;
    let (reply, _) = channel();
    let buffers = vec![Bytes::from_owner(Gate(Arc::clone(gate)))];
    pool.submit(Job {
        buffers,
        ..job(0, b"", Then::Finish, &reply)
    })
    .unwrap();
    wait_until("the worker takes the job", || pool.stats().jobs > before);
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_job_is_answered_with_what_it_asked_for() {
    let (pool, (reply, replies)) = (pool(2, 4), channel());
    pool.submit(job(1, b"abc", Then::Finish, &reply)).unwrap();
    assert!(matches!(next(&replies), Done { tag: 1, outcome: Outcome::Digest(d), .. } if d == sha1(b"abc")));
    pool.submit(job(2, b"abc", Then::Verify(sha1(b"abc")), &reply)).unwrap();
    assert!(matches!(
        next(&replies),
        Done {
            tag: 2,
            outcome: Outcome::Good,
            ..
        }
    ));
    pool.submit(job(3, b"abd", Then::Verify(sha1(b"abc")), &reply)).unwrap();
    assert!(matches!(next(&replies), Done { tag: 3, outcome: Outcome::Bad(d), .. } if d == sha1(b"abd")));
    let stats = pool.stats();
    assert_eq!((stats.bytes, stats.jobs, stats.failures, stats.dropped), (9, 3, 1, 0));
}

#[test]
fn a_piece_in_parts_goes_on_from_the_state_of_the_last_part() {
    let (pool, (reply, replies)) = (pool(1, 4), channel());
    pool.submit(job(1, b"ab", Then::Continue, &reply)).unwrap();
    let Outcome::Partial(hasher) = next(&replies).outcome else {
        panic!("not partial")
    };
    let rest = Job {
        hasher,
        ..job(1, b"c", Then::Finish, &reply)
    };
    pool.submit(rest).unwrap();
    assert!(matches!(next(&replies).outcome, Outcome::Digest(d) if d == sha1(b"abc")));
}

#[test]
fn buffers_are_hashed_in_order_and_come_back_to_be_filled_again() {
    let (pool, (reply, replies)) = (pool(1, 4), channel());
    let buffers = vec![Bytes::copy_from_slice(b"a"), Bytes::copy_from_slice(b"bc")];
    pool.submit(Job {
        buffers,
        ..job(1, b"", Then::Finish, &reply)
    })
    .unwrap();
    let done = next(&replies);
    assert!(matches!(done.outcome, Outcome::Digest(d) if d == sha1(b"abc")));
    assert_eq!(done.buffers.concat(), b"abc");
    for buffer in done.buffers {
        assert!(buffer.try_into_mut().is_ok(), "somebody else still holds the buffer");
    }
}

/// Counts up from 0, byte by byte, and gives up before `end`.
#[derive(Debug)]
struct Counting {
    at: u64,
    len: u64,
    end: u64,
}

impl Source for Counting {
    fn left(&self) -> u64 {
        self.len - self.at
    }

    fn read(&mut self, buffer: &mut [u8]) -> bool {
        for byte in buffer {
            if self.at == self.end {
                return false;
            }
            *byte = self.at as u8;
            self.at += 1;
        }
        true
    }
}

#[test]
fn bytes_of_a_source_are_hashed_after_those_of_the_buffers() {
    let (pool, (reply, replies)) = (pool(2, 64), channel());
    let lens: Vec<u64> = (0..40).map(|n| n * n * 400).chain([64 << 10, 128 << 10]).collect();
    for (tag, &len) in (0..).zip(&lens) {
        // Every third has a buffer before.
        let before: &[u8] = if tag % 3 == 0 { b"before" } else { b"" };
        let whole: Vec<u8> = before.iter().copied().chain((0..len).map(|n| n as u8)).collect();
        let source = Box::new(Counting { at: 0, len, end: len });
        let mut job = job(tag, before, Then::Verify(sha1(&whole)), &reply);
        job.buffers.retain(|buffer| !buffer.is_empty());
        job.source = Some(source);
        pool.submit(job).unwrap();
    }
    for _ in &lens {
        let Done { tag, buffers, outcome } = next(&replies);
        assert!(matches!(outcome, Outcome::Good), "{tag}: {outcome:?}");
        assert_eq!(buffers.concat(), if tag % 3 == 0 { &b"before"[..] } else { b"" });
    }
    let bytes = lens.iter().sum::<u64>() + lens.len().div_ceil(3) as u64 * 6;
    assert_eq!(pool.stats().bytes, bytes);
}

#[test]
fn a_source_that_gives_up_leaves_the_others_alone() {
    let (pool, (reply, replies)) = (pool(1, 64), channel());
    let len = 200_000;
    let whole: Vec<u8> = (0..len).map(|n| n as u8).collect();
    for tag in 0..8 {
        let end = if tag % 2 == 0 { len } else { tag * 10_000 };
        let mut job = job(tag, b"", Then::Finish, &reply);
        job.buffers.clear();
        job.source = Some(Box::new(Counting { at: 0, len, end }));
        pool.submit(job).unwrap();
    }
    for _ in 0..8 {
        match next(&replies) {
            Done { tag, outcome, .. } if tag % 2 == 0 => {
                assert!(matches!(outcome, Outcome::Digest(digest) if digest == sha1(&whole)));
            }
            Done { outcome, .. } => assert!(matches!(outcome, Outcome::Unread)),
        }
    }
}

#[test]
fn a_full_queue_gives_the_job_back_and_takes_it_once_there_is_room() {
    let (pool, (reply, replies)) = (pool(1, 2), channel());
    let gate = Arc::default();
    let closed = lock(&gate);
    occupy(&pool, &gate);
    for tag in 1..=2 {
        pool.try_submit(job(tag, b"abc", Then::Finish, &reply)).unwrap();
    }
    let Err(Refused::Full(back)) = pool.try_submit(job(3, b"abc", Then::Finish, &reply)) else {
        panic!("a queue of two took three");
    };
    let Err(Refused::Full(back)) = pool.submit_timeout(*back, Duration::from_millis(1)) else {
        panic!("there was no room within a millisecond");
    };
    drop(closed);
    pool.submit_timeout(*back, DEADLINE).unwrap();
    let tags: Vec<u64> = (0..3).map(|_| next(&replies).tag).collect();
    assert_eq!(tags, [1, 2, 3]);
}

#[test]
fn who_waits_for_room_in_a_long_queue_gets_it() {
    let (pool, (reply, replies)) = (pool(1, 32), channel());
    let gate = Arc::default();
    let closed = lock(&gate);
    occupy(&pool, &gate);
    for tag in 0..32 {
        pool.submit(job(tag, b"abc", Then::Finish, &reply)).unwrap();
    }
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let begun = Instant::now();
            pool.submit_timeout(job(32, b"abc", Then::Finish, &reply), DEADLINE)
                .unwrap();
            begun.elapsed()
        });
        wait_until("it waits", || lock(&pool.shared.queue).wanting_room > 0);
        drop(closed);
        assert!(waiting.join().unwrap() < DEADLINE, "nobody told it");
    });
    let tags: Vec<u64> = (0..33).map(|_| next(&replies).tag).collect();
    assert!(tags.iter().copied().eq(0..33));
}

#[test]
fn waiting_jobs_are_answered_dropped_when_the_pool_stops_at_once() {
    let (pool, (reply, replies)) = (pool(1, 8), channel());
    let gate = Arc::default();
    let closed = lock(&gate);
    occupy(&pool, &gate);
    for tag in 1..=3 {
        pool.submit(job(tag, b"abc", Then::Finish, &reply)).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pool.stop(Waiting::Drop));
        for tag in 1..=3 {
            assert!(matches!(next(&replies), Done { tag: t, outcome: Outcome::Dropped, .. } if t == tag));
        }
        drop(closed);
    });
    assert!(matches!(
        pool.submit(job(4, b"", Then::Finish, &reply)),
        Err(Refused::Stopped(_))
    ));
    assert_eq!(pool.stats().dropped, 3);
}

#[test]
fn waiting_jobs_are_hashed_when_the_pool_is_stopped_with_patience() {
    let (pool, (reply, replies)) = (pool(1, 8), channel());
    let gate = Arc::default();
    let closed = lock(&gate);
    occupy(&pool, &gate);
    for tag in 1..=3 {
        pool.submit(job(tag, b"abc", Then::Finish, &reply)).unwrap();
    }
    drop(closed);
    pool.stop(Waiting::Finish);
    for _ in 1..=3 {
        assert!(matches!(next(&replies).outcome, Outcome::Digest(_)));
    }
    assert!(matches!(
        pool.try_submit(job(4, b"", Then::Finish, &reply)),
        Err(Refused::Stopped(_))
    ));
}

#[test]
fn a_submitter_waiting_for_room_is_told_when_the_pool_stops() {
    let (pool, (reply, _replies)) = (pool(1, 1), channel());
    let gate = Arc::default();
    let closed = lock(&gate);
    occupy(&pool, &gate);
    pool.submit(job(1, b"", Then::Finish, &reply)).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.submit(job(2, b"", Then::Finish, &reply)));
        scope.spawn(|| pool.stop(Waiting::Drop));
        // Whether it came to wait or not, the stop is what it hears of.
        assert!(matches!(waiting.join().unwrap(), Err(Refused::Stopped(_))));
        drop(closed);
    });
}

#[test]
fn a_batch_goes_through_the_lanes_at_once_and_its_work_and_delay_are_counted() {
    let (pool, (reply, replies)) = (pool(1, 16), channel());
    let gate = Arc::default();
    let closed = lock(&gate);
    occupy(&pool, &gate);
    let data: Vec<Vec<u8>> = (1..=16u8).map(|n| vec![n; 1000 * usize::from(n)]).collect();
    for (tag, data) in (0..).zip(&data) {
        // Every third has more to come.
        let then = if tag % 3 == 0 {
            Then::Continue
        } else {
            Then::Verify(sha1(data))
        };
        pool.submit(job(tag, data, then, &reply)).unwrap();
    }
    drop(closed);
    for _ in 0..16 {
        let Done { tag, buffers, outcome } = next(&replies);
        assert_eq!(buffers, [&data[tag as usize]]);
        match outcome {
            Outcome::Good => assert_ne!(tag % 3, 0),
            Outcome::Partial(hasher) => assert_eq!(hasher.finish(), sha1(&data[tag as usize])),
            other => panic!("{other:?}"),
        }
    }
    pool.stop(Waiting::Finish);
    let stats = pool.stats();
    let [worker] = &stats.workers[..] else {
        panic!("one worker")
    };
    assert_eq!(worker.bytes, stats.bytes);
    // The one that kept the worker busy, too.
    assert_eq!(worker.queue_delay.count(), 17);
    let work = worker.work;
    assert!(work.lane_blocks + work.single_blocks >= stats.bytes / 64, "{work:?}");
    if lanes::Plan::of(Backend::from_env().unwrap()).width() > 1 {
        assert!(work.lane_blocks > work.single_blocks, "{work:?}");
    }
}

/// A pool whose only worker would wait an hour for others.
fn patient(bytes: u64) -> Pool {
    Pool::start(PoolConfig {
        workers: 1,
        queue_max: 100,
        nice: 10,
        idle: false,
        gather: Some(Gather {
            time: Duration::from_secs(3600),
            bytes,
        }),
    })
    .unwrap()
}

#[test]
fn jobs_that_have_gathered_are_hashed_side_by_side() {
    let pool = patient(u64::MAX);
    let (reply, replies) = channel();
    let width = pool.lanes() as u64;
    for tag in 1..width {
        pool.try_submit(job(tag, &[tag as u8; 1000], Then::Finish, &reply))
            .unwrap();
    }
    assert_eq!(pool.stats().jobs, 0);
    pool.try_submit(job(0, &[0; 1000], Then::Finish, &reply)).unwrap();
    let mut tags: Vec<u64> = (0..width).map(|_| next(&replies).tag).collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..width));
    wait_until("the statistics are written", || pool.stats().workers[0].bytes > 0);
    assert_eq!(pool.stats().workers[0].bytes, width * 1000, "one batch");
}

#[test]
fn jobs_that_gather_are_hashed_when_they_are_large_and_when_the_pool_stops() {
    let pool = patient(2000);
    let (reply, replies) = channel();
    pool.try_submit(job(1, &[1; 1000], Then::Finish, &reply)).unwrap();
    pool.try_submit(job(2, &[2; 1000], Then::Finish, &reply)).unwrap();
    assert_eq!(next(&replies).tag + next(&replies).tag, 3);
    pool.try_submit(job(3, &[3; 1000], Then::Finish, &reply)).unwrap();
    pool.stop(Waiting::Finish);
    assert!(matches!(next(&replies).outcome, Outcome::Digest(_)));
}

#[test]
fn job_waits_for_others_no_longer_than_it_may() {
    let (gather, start) = (
        Gather {
            time: Duration::from_millis(25),
            bytes: 2000,
        },
        Instant::now(),
    );
    let (reply, _replies) = channel();
    let after = |ms| start + Duration::from_millis(ms);
    let mut queue = Queue::default();
    assert_eq!(queue.wait(Some(gather), 3, start), None);
    queue.push(job(1, &[1; 500], Then::Finish, &reply), start);
    assert_eq!(queue.wait(None, 3, start), Some(Duration::ZERO));
    queue.push(job(2, &[2; 500], Then::Finish, &reply), after(20));
    assert_eq!(queue.wait(Some(gather), 3, after(20)), Some(Duration::from_millis(5)));
    assert_eq!(queue.wait(Some(gather), 3, after(26)), Some(Duration::ZERO));
    assert_eq!(queue.wait(Some(gather), 2, after(20)), Some(Duration::ZERO), "enough");
    assert!(queue.pop().is_some());
    assert_eq!(queue.wait(Some(gather), 3, after(26)), Some(Duration::from_millis(19)));
    queue.push(job(3, &[3; 1500], Then::Finish, &reply), after(26));
    assert_eq!(
        queue.wait(Some(gather), 3, after(26)),
        Some(Duration::ZERO),
        "large enough"
    );
    assert_eq!(queue.take_all().len(), 2);
    assert_eq!(queue.wait(Some(gather), 3, after(26)), None);
}

#[test]
fn many_submitters_and_workers_lose_no_job() {
    let (pool, (reply, replies)) = (pool(3, 4), channel());
    std::thread::scope(|scope| {
        for submitter in 0..4u64 {
            let (pool, reply) = (&pool, reply.clone());
            scope.spawn(move || {
                for n in 0..500 {
                    let data = (submitter * 500 + n).to_be_bytes();
                    pool.submit(job(submitter * 500 + n, &data, Then::Verify(sha1(&data)), &reply))
                        .unwrap();
                }
            });
        }
    });
    let mut tags: Vec<u64> = (0..2000)
        .map(|_| match next(&replies) {
            Done {
                tag,
                outcome: Outcome::Good,
                ..
            } => tag,
            other => panic!("{other:?}"),
        })
        .collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..2000));
    let stats = pool.stats();
    assert_eq!(
        (stats.bytes, stats.jobs, stats.failures, stats.dropped),
        (16_000, 2000, 0, 0)
    );
}

#[test]
fn workers_carry_their_name_and_low_priority() {
    let pool = pool(2, 4);
    let own = rustix::process::getpriority_process(None).unwrap();
    wait_until("two workers, nicer than the rest", || {
        let found = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
            .filter_map(|stat| {
                let (head, tail) = stat.rsplit_once(')')?;
                // proc(5): after the name come the state (field 3) and fifteen others, then the niceness (field 19).
                let nice: i32 = tail.split_whitespace().nth(16)?.parse().ok()?;
                (head.contains("(btd-hash-") && nice == (own + 10).min(19)).then_some(())
            });
        found.count() >= pool.workers()
    });
}
