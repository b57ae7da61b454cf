//! The session's writer: changes are queued, one thread writes them in transactions, and whoever flushes waits for one.

use super::database::Database;
use super::history::History;
use super::writer::{Change, Kind, Writer};
use crate::proto::InfoHash;
use crate::sync::{Arc, explore};
use crate::thread;
use std::time::Duration;

const A: InfoHash = InfoHash([1; 20]);
const B: InfoHash = InfoHash([2; 20]);

fn start(failures: u32) -> (Arc<Writer>, thread::JoinHandle<()>) {
    let writer = Arc::new(Writer::new(Database::failing(failures), Duration::from_secs(3600)));
    let thread = {
        let writer = Arc::clone(&writer);
        thread::spawn(move || writer.run())
    };
    (writer, thread)
}

fn put(value: u8) -> Change {
    Change::Put(vec![value])
}

/// What a look-up in the session finds: first in the queue, then in the database.
fn known(writer: &Writer, info_hash: InfoHash) -> Option<Vec<u8>> {
    match writer.queued(Kind::Record, &info_hash) {
        Some(Change::Put(value)) => Some(value),
        Some(Change::Remove) => None,
        Some(Change::Add(_)) => unreachable!("of histories alone"),
        None => writer.database.get(Kind::Record, &info_hash).unwrap(),
    }
}

#[test]
fn what_was_queued_before_a_flush_is_written_when_it_comes_back() {
    explore(|| {
        let (writer, thread) = start(0);
        let other = {
            let writer = Arc::clone(&writer);
            thread::spawn(move || {
                writer.queue(Kind::Record, B, put(2));
                assert!(writer.flush());
                assert!(writer.database.get(Kind::Record, &B).unwrap().is_some());
            })
        };
        writer.queue(Kind::Record, A, put(1));
        assert!(writer.flush());
        assert!(writer.database.get(Kind::Record, &A).unwrap().is_some());
        other.join().unwrap();
        writer.stop();
        thread.join().unwrap();
    });
}

#[test]
fn what_is_queued_is_written_though_nobody_asks_for_it() {
    explore(|| {
        let (writer, thread) = start(0);
        writer.queue(Kind::Record, A, put(1));
        writer.database.wait_for(Kind::Record, A);
        writer.stop();
        thread.join().unwrap();
    });
}

/// The thread rests after a failure, for an hour; whoever flushes does not.
#[test]
fn who_flushes_after_a_failure_has_it_tried_again_at_once() {
    explore(|| {
        let (writer, thread) = start(1);
        writer.queue(Kind::Record, A, put(1));
        writer.flush(); // Of the first try, or of the second.
        assert!(writer.flush());
        assert_eq!(known(&writer, A), Some(vec![1]));
        writer.stop();
        thread.join().unwrap();
    });
}

#[test]
fn what_is_queued_is_found_at_any_moment_until_it_is_written_and_after() {
    explore(|| {
        let (writer, thread) = start(0);
        writer.queue(Kind::Record, A, put(1));
        assert_eq!(known(&writer, A), Some(vec![1]));
        writer.stop();
        assert_eq!(known(&writer, A), Some(vec![1]));
        thread.join().unwrap();
        assert_eq!(known(&writer, A), Some(vec![1]));
    });
}

#[test]
fn the_last_that_was_queued_is_what_is_written_in_the_end() {
    explore(|| {
        let (writer, thread) = start(1);
        writer.queue(Kind::Record, A, put(1));
        writer.queue(Kind::Record, A, put(2));
        writer.flush();
        writer.stop();
        thread.join().unwrap();
        assert_eq!(known(&writer, A), Some(vec![2]));
    });
}

/// A record comes of a look at files, and while those are looked at somebody takes it back: nothing is known then.
#[test]
fn a_record_of_what_was_so_before_does_not_come_after_what_has_changed_it() {
    explore(|| {
        let (writer, thread) = start(0);
        let changes = writer.records_changed(&A);
        let other = {
            let writer = Arc::clone(&writer);
            thread::spawn(move || writer.queue(Kind::Record, A, Change::Remove))
        };
        writer.queue_record_if(changes, A, put(1));
        other.join().unwrap();
        writer.stop();
        thread.join().unwrap();
        assert_eq!(known(&writer, A), None);
    });
}

/// What a torrent has moved, where it cannot be read what it had.
fn more(uploaded: u64) -> Change {
    Change::Add(History {
        uploaded,
        downloaded: 0,
        added: 0,
        completed: None,
    })
}

/// The first transaction fails, and nobody knows what it has written. Somebody adds to it at any moment.
#[test]
fn what_is_added_is_there_once_whatever_comes_of_a_transaction() {
    explore(|| {
        let (writer, thread) = start(1);
        writer.queue(Kind::History, A, more(1));
        let other = {
            let writer = Arc::clone(&writer);
            thread::spawn(move || writer.queue(Kind::History, A, more(2)))
        };
        writer.flush();
        other.join().unwrap();
        writer.flush();
        writer.stop();
        thread.join().unwrap();
        let stored = writer.database.get(Kind::History, &A).unwrap();
        assert_eq!(History::decode(&stored.unwrap()).unwrap().uploaded, 3);
    });
}
