//! The hashing pool: its queue, those who wait for room in it, those who wait for work, and its end.

use super::pool::{Done, Gather, Job, Outcome, Pool, PoolConfig, Refused, Reply, Source, Then, Waiting};
use super::{DIGEST_LEN, Hasher, sha1};
use crate::sync::mpsc::{Receiver, Sender, channel};
use crate::sync::{Arc, Condvar, Mutex, explore};
use crate::thread;
use std::time::Duration;

/// One byte to be hashed.
fn job(tag: u8, reply: &Sender<Done>) -> Job {
    Job {
        tag: tag.into(),
        hasher: Hasher::new(),
        buffers: vec![vec![tag].into()],
        source: None,
        then: Then::Finish,
        reply: Reply::from(reply.clone()),
    }
}

fn pool(workers: usize, queue_max: usize, gather: Option<Gather>) -> Arc<Pool> {
    let config = PoolConfig {
        workers,
        queue_max,
        nice: 0,
        idle: false,
        gather,
    };
    Arc::new(Pool::start(config).unwrap())
}

/// So many answers, each of another job, and right.
fn assert_answered(answers: &Receiver<Done>, count: u64) {
    let mut tags = 0_u64;
    for _ in 0..count {
        let done = answers.recv().unwrap();
        assert_eq!(tags & 1 << done.tag, 0, "job {} was answered twice", done.tag);
        tags |= 1 << done.tag;
        let digest: [u8; DIGEST_LEN] = sha1(&[u8::try_from(done.tag).unwrap()]);
        assert!(matches!(done.outcome, Outcome::Digest(found) if found == digest));
    }
    assert!(answers.try_recv().is_err(), "more answers than jobs");
}

#[test]
fn who_waits_for_room_in_the_queue_has_it_in_the_end_and_every_job_is_answered() {
    explore(|| {
        let (sender, answers) = channel();
        let pool = pool(1, 1, None);
        let other = {
            let (pool, sender) = (Arc::clone(&pool), sender.clone());
            thread::spawn(move || pool.submit(job(2, &sender)).unwrap())
        };
        pool.submit(job(1, &sender)).unwrap();
        pool.submit(job(3, &sender)).unwrap();
        other.join().unwrap();
        assert_answered(&answers, 3);
        pool.stop(Waiting::Finish);
    });
}

#[test]
fn a_worker_that_sleeps_wakes_for_every_job() {
    explore(|| {
        let (sender, answers) = channel();
        let pool = pool(2, 4, None);
        pool.try_submit(job(1, &sender)).unwrap();
        pool.try_submit(job(2, &sender)).unwrap();
        assert_answered(&answers, 2);
        pool.stop(Waiting::Finish);
    });
}

/// The first job wakes a worker that waits for others with it, and the one that makes them enough wakes it again, whoever brings
/// it. (With one lane nobody waits for others.)
#[test]
fn jobs_that_gather_are_hashed_as_soon_as_they_are_enough() {
    explore(|| {
        let (sender, answers) = channel();
        let gather = Gather {
            time: Duration::from_secs(3600),
            bytes: 2,
        };
        let pool = pool(1, 4, Some(gather));
        let other = {
            let (pool, sender) = (Arc::clone(&pool), sender.clone());
            thread::spawn(move || pool.try_submit(job(2, &sender)).unwrap())
        };
        pool.try_submit(job(1, &sender)).unwrap();
        assert_answered(&answers, 2);
        other.join().unwrap();
        pool.stop(Waiting::Finish);
    });
}

/// Whatever becomes of a job: who has given one waits for one answer.
#[test]
fn at_the_end_of_a_pool_everybody_goes_on_and_each_job_that_was_taken_is_answered_once() {
    for waiting in [Waiting::Finish, Waiting::Drop] {
        explore(move || {
            let (sender, answers) = channel();
            let pool = pool(1, 1, None);
            let other = {
                let (pool, sender) = (Arc::clone(&pool), sender.clone());
                thread::spawn(move || {
                    let taken = (1..=2).map(|tag| pool.submit(job(tag, &sender)));
                    taken.filter(Result::is_ok).count()
                })
            };
            pool.stop(waiting);
            assert!(matches!(pool.submit(job(9, &sender)), Err(Refused::Stopped(_))));
            let taken = other.join().unwrap();
            drop(sender);
            let mut answered = 0;
            while let Ok(done) = answers.recv() {
                assert!(done.tag != 9 && (waiting == Waiting::Drop || matches!(done.outcome, Outcome::Digest(_))));
                answered += 1;
            }
            assert_eq!(answered, taken, "jobs that were taken, and answers");
        });
    }
}

/// A byte that comes when somebody opens the gate.
#[derive(Debug)]
struct Gated(u64, Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Source for Gated {
    fn left(&self) -> u64 {
        self.0
    }

    fn read(&mut self, _: &mut [u8]) -> bool {
        let is_open = self.1.is_open.lock().unwrap();
        drop(self.1.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
        self.0 = 0;
        true
    }
}

/// The job in hand may be long.
#[test]
fn who_waits_for_room_when_the_pool_stops_does_not_wait_for_the_job_in_hand() {
    explore(|| {
        let (sender, _answers) = channel();
        let pool = pool(1, 1, None);
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let gate = Arc::new(Gate::default());
                let mut long = job(1, &sender);
                long.buffers.clear();
                long.source = Some(Box::new(Gated(1, Arc::clone(&gate))));
                for job in [long, job(2, &sender), job(3, &sender)] {
                    let _ = pool.submit(job);
                }
                *gate.is_open.lock().unwrap() = true;
                gate.opened.notify_one();
            })
        };
        pool.stop(Waiting::Drop);
        other.join().unwrap();
    });
}
