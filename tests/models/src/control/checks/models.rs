//! The queue of checks: two threads, and two torrents of one folder, on a disk that seeks, so that one waits for the other, and
//! on one that does not.

use super::Job;
use super::queue::{Placed, Queue, Task};
use crate::storage::{Device, Root};
use crate::sync::mpsc::channel;
use crate::sync::{Arc, Condvar, Mutex, explore};
use crate::thread;

/// As many as there are threads.
const CHECKS_MAX: usize = 2;

fn job() -> Job {
    job_in("folder")
}

fn job_in(folder: &str) -> Job {
    Job {
        data_dir: folder.into(),
    }
}

/// Of what is in here nothing is there.
const BARE: &str = "bare";

/// What a thread of the checks does; `look` is the look at the payload.
fn work(queue: &Queue, disk: Device, look: impl Fn()) {
    loop {
        match queue.next() {
            Task::Ended => return,
            Task::Place(job) => {
                queue.placed(&job.data_dir);
                let root = Arc::new(Root);
                match job.data_dir.to_str() == Some(BARE) {
                    true => queue.place_bare(disk, Placed { job, root }),
                    false => queue.place(disk, Placed { job, root }),
                }
            }
            Task::Check(disk, _) => {
                look();
                queue.done(disk);
            }
            Task::Bare(disk, _) => {
                look();
                queue.bare_done(disk);
            }
        }
    }
}

#[test]
fn every_torrent_has_its_turn_and_every_thread_its_end() {
    explore(|| {
        let (queue, (sender, checked)) = (Arc::new(Queue::new(CHECKS_MAX)), channel());
        let threads = [(); 2].map(|()| {
            let (queue, sender) = (Arc::clone(&queue), sender.clone());
            let disk = Device { id: 1, seeks: true };
            thread::spawn(move || work(&queue, disk, || sender.send(()).unwrap()))
        });
        queue.submit(job());
        queue.submit(job());
        checked.recv().unwrap();
        checked.recv().unwrap();
        assert_eq!(queue.waiting(), 0);
        queue.close();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Those who are at a check, and wait there until both are.
#[derive(Default)]
struct Meeting {
    there: Mutex<u32>,
    came: Condvar,
}

impl Meeting {
    fn wait(&self) {
        *self.there.lock().unwrap() += 1;
        self.came.notify_all();
        let there = self.there.lock().unwrap();
        drop(self.came.wait_while(there, |there| *there < 2).unwrap());
    }
}

#[test]
fn no_thread_sleeps_while_there_is_something_for_it_to_check() {
    explore(|| {
        let (queue, meeting) = (Arc::new(Queue::new(CHECKS_MAX)), Arc::new(Meeting::default()));
        let threads = [(); 2].map(|()| {
            let (queue, meeting) = (Arc::clone(&queue), Arc::clone(&meeting));
            let disk = Device { id: 1, seeks: false };
            thread::spawn(move || work(&queue, disk, || meeting.wait()))
        });
        queue.submit(job());
        queue.submit(job());
        let there = meeting.there.lock().unwrap();
        drop(meeting.came.wait_while(there, |there| *there < 2).unwrap());
        queue.close();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// One check at a time, and it does not end before the other torrent was looked at.
#[test]
fn what_has_nothing_to_read_waits_for_no_check() {
    explore(|| {
        let (queue, meeting) = (Arc::new(Queue::new(1)), Arc::new(Meeting::default()));
        let threads = [(); 2].map(|()| {
            let (queue, meeting) = (Arc::clone(&queue), Arc::clone(&meeting));
            let disk = Device { id: 1, seeks: true };
            thread::spawn(move || work(&queue, disk, || meeting.wait()))
        });
        queue.submit(job());
        queue.submit(job_in(BARE));
        let there = meeting.there.lock().unwrap();
        drop(meeting.came.wait_while(there, |there| *there < 2).unwrap());
        queue.close();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
