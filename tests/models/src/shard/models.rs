//! What other threads tell a shard that sleeps in its ring, and the bits of pieces that shards and the control plane share.

use super::mailbox::{Command, Inbox, mailbox};
use super::torrent::Torrent;
use crate::hashing::{Hasher, Job, Pool, PoolConfig, Reply, Then};
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;
use crate::proto::metainfo::Metainfo;
use crate::storage::Root;
use crate::sync::mpsc::channel;
use crate::sync::{Arc, explore};
use crate::thread;

/// A shard that sleeps until what it waits for has come: commands from two threads, and a verdict of the pool. Its loop is that
/// of `Shard::on_bell`: the bell is rung, both queues are emptied, and the bell is listened to again.
#[test]
fn a_shard_that_sleeps_hears_of_every_command_and_of_every_verdict() {
    explore(|| {
        let (post, Inbox { receiver, bell }) = mailbox().unwrap();
        let config = PoolConfig {
            workers: 1,
            queue_max: 1,
            nice: 0,
            idle: false,
            gather: None,
        };
        let pool = Pool::start(config).unwrap();
        let (sender, verdicts) = channel();
        let job = Job {
            tag: 1,
            hasher: Hasher::new(),
            buffers: vec![vec![1].into()],
            source: None,
            then: Then::Finish,
            reply: Reply::with_bell(sender, post.bell()),
        };
        pool.try_submit(job).unwrap();
        let control = {
            let post = post.clone();
            thread::spawn(move || post.send(Command::Rest(InfoHash([1; 20]))).unwrap())
        };
        let (mut commands, mut verdict) = (0, 0);
        while (commands, verdict) != (1, 1) {
            bell.wait();
            while receiver.try_recv().is_ok() {
                commands += 1;
            }
            while verdicts.try_recv().is_ok() {
                verdict += 1;
            }
        }
        control.join().unwrap();
    });
}

#[test]
fn two_that_tell_a_shard_something_at_once_are_both_heard() {
    explore(|| {
        let (post, Inbox { receiver, bell }) = mailbox().unwrap();
        let others = [1, 2].map(|number| {
            let post = post.clone();
            thread::spawn(move || post.send(Command::Rest(InfoHash([number; 20]))).unwrap())
        });
        let mut commands = 0;
        while commands != 2 {
            bell.wait();
            while receiver.try_recv().is_ok() {
                commands += 1;
            }
        }
        for other in others {
            other.join().unwrap();
        }
    });
}

/// A torrent of two pieces and one file.
fn meta() -> Metainfo {
    let mut bytes = b"d4:infod6:lengthi32768e4:name1:x12:piece lengthi16384e6:pieces40:".to_vec();
    bytes.extend([7; 40]);
    bytes.extend(b"ee");
    Metainfo::parse(&bytes).unwrap()
}

fn pieces(meta: &Metainfo) -> [PieceIndex; 2] {
    [0, 1].map(|piece| meta.geometry.piece_index(piece).unwrap())
}

fn to_download() -> (Arc<Torrent>, [PieceIndex; 2]) {
    let meta = meta();
    let pieces = pieces(&meta);
    let have = Bitfield::new(2);
    let torrent = Torrent::to_download(meta, Arc::new(Root), &have, &[true], 0);
    (torrent, pieces)
}

/// The home shard grants a piece while the thread that syncs finds out that what was written may be gone.
#[test]
fn no_piece_is_had_after_what_was_written_of_it_may_be_gone() {
    explore(|| {
        let (torrent, [piece, _]) = to_download();
        let shard = {
            let torrent = Arc::clone(&torrent);
            thread::spawn(move || torrent.grant(piece))
        };
        torrent.lose([0], "the disk has failed");
        shard.join().unwrap();
        assert!(!torrent.has(piece), "a piece is told of that may be gone");
        assert_eq!(torrent.have_count(), 0);
    });
}

/// What is left is told to trackers by the count: one below nothing would be everything.
#[test]
fn no_more_pieces_are_counted_than_there_are_whenever_somebody_looks() {
    explore(|| {
        let (torrent, [piece, _]) = to_download();
        let others = [
            {
                let torrent = Arc::clone(&torrent);
                thread::spawn(move || torrent.grant(piece))
            },
            {
                let torrent = Arc::clone(&torrent);
                thread::spawn(move || _ = torrent.withdraw(piece, "it cannot be read"))
            },
        ];
        assert!(torrent.have_count() <= 1, "{} of 2 pieces", torrent.have_count());
        assert!(torrent.left() > 0);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(torrent.have_count(), u32::from(torrent.has(piece)));
    });
}

/// Another shard than the one that has downloaded it serves it as soon as it may: it tells a peer of all pieces, or of none at all.
#[test]
fn who_sees_that_a_torrent_is_complete_sees_all_of_its_pieces() {
    explore(|| {
        let (torrent, pieces) = to_download();
        let control = {
            let torrent = Arc::clone(&torrent);
            thread::spawn(move || {
                for piece in pieces {
                    torrent.grant(piece);
                }
                torrent.set_complete();
            })
        };
        if torrent.home().is_none() {
            assert!(torrent.is_complete() && pieces.map(|piece| torrent.has(piece)) == [true; 2]);
        }
        control.join().unwrap();
    });
}

/// One shard finds a piece wrong that nobody had read, while another is asked for it. The second looks as `shard::stage` does.
#[test]
fn a_piece_that_was_judged_wrong_is_served_by_nobody() {
    explore(|| {
        let meta = meta();
        let [piece, _] = pieces(&meta);
        let mut all = Bitfield::new(2);
        all.set(piece);
        let torrent = Torrent::new(meta, Arc::new(Root), &all, &[None]).with_unread(&all);
        let judge = {
            let torrent = Arc::clone(&torrent);
            thread::spawn(move || {
                torrent.withdraw_wrong(piece, "it is wrong");
                torrent.judged(piece);
            })
        };
        let is_served = torrent.has(piece) && !torrent.is_unread(piece) && torrent.has(piece);
        assert!(!is_served, "a wrong piece is served");
        judge.join().unwrap();
        assert_eq!(torrent.unread_count(), 0);
    });
}
