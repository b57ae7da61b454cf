//! Torrents that are not complete: what peers are asked for, and what becomes of what they send.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::fixture::{FAST, Fixture, PIECE_LEN, PLAIN, bytes};
use super::*;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::BLOCK_LEN;
use crate::proto::wire::Decoder;
use crate::storage::PART_SUFFIX;

/// A shard that downloads one file, and what it told.
struct Leeching {
    fixture: Fixture,
    events: Arc<Mutex<Vec<Event>>>,
    /// Whether files are made as soon as they are wanted.
    prepares: bool,
}

/// A peer as the test plays it, that has pieces and answers.
struct Giver {
    id: u64,
    fast: bool,
    decoder: Decoder,
    greeted: usize,
    /// What it was asked for and has not answered.
    asked: VecDeque<(u32, u32, u32)>,
    /// Everything it heard, in words.
    said: Vec<String>,
    /// Pieces that it was told of.
    told: Vec<u32>,
    /// How often it was asked in all.
    asks: usize,
    /// It sends other bytes than those of the payload.
    lies: bool,
}

impl Leeching {
    fn new(len: usize) -> Leeching {
        Leeching::with(len, 1 << 20)
    }

    fn with(len: usize, write_buffer: u64) -> Leeching {
        let mut fixture = Fixture::single(len, 16);
        let meta = fixture.torrent.meta().clone();
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        fixture.shard.settings.events = Events::new(move |event| told.lock().unwrap().push(event));
        fixture.shard.assembly = Assembly::new(write_buffer);
        let none = Bitfield::new(meta.geometry.piece_count());
        let root = fixture.torrent.root().clone();
        fixture.torrent = Torrent::to_download(meta, root, &none, &[true], 0);
        fixture.world.remove_file("payload");
        fixture.world.file(&format!("payload{PART_SUFFIX}"), &vec![0; len]);
        fixture.shard.add(fixture.torrent.clone());
        Leeching {
            fixture,
            events,
            prepares: true,
        }
    }

    /// The file as it is.
    fn file(&self) -> Vec<u8> {
        self.fixture.world.contents(&format!("payload{PART_SUFFIX}")).unwrap()
    }

    fn is_complete(&self) -> bool {
        self.fixture.torrent.is_complete()
    }

    /// Turns until nothing more happens.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.fixture.turn();
            let wanted = self
                .events
                .lock()
                .unwrap()
                .iter()
                .any(|event| matches!(event, Event::Wanted(_)));
            if wanted && self.prepares {
                self.events
                    .lock()
                    .unwrap()
                    .retain(|event| !matches!(event, Event::Wanted(_)));
                let info_hash = self.fixture.torrent.info_hash();
                self.fixture
                    .commands
                    .send(Command::Prepared { info_hash, made: true })
                    .unwrap();
            }
            self.wait_for_verdicts();
            self.fixture.world.ring();
        }
    }

    /// Hashing is another thread's.
    fn wait_for_verdicts(&mut self) {
        while self.fixture.shard.hashing() > 0 {
            self.fixture.world.ring();
            self.fixture.turn();
            std::thread::yield_now();
        }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.fixture.now.set(self.fixture.now.get() + Duration::from_secs(1));
            self.settle();
        }
    }

    /// A peer that connects and has every piece.
    fn giver(&mut self, port: u16, reserved: Reserved) -> Giver {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let id = self.fixture.world.connect(addr);
        self.greet(id, port, reserved)
    }

    fn greet(&mut self, id: u64, port: u16, reserved: Reserved) -> Giver {
        self.fixture.world.write(id, &self.handshake(port, reserved));
        let giver = Giver {
            id,
            fast: reserved.fast(),
            decoder: Decoder::new(1 << 20),
            greeted: 0,
            asked: VecDeque::new(),
            said: Vec::new(),
            told: Vec::new(),
            asks: 0,
            lies: false,
        };
        let full = Bitfield::full(self.fixture.torrent.geometry().piece_count());
        self.say(&giver, &Message::Bitfield(full.as_bytes()));
        self.settle();
        giver
    }

    /// Of a peer whose id is its port.
    fn handshake(&self, port: u16, reserved: Reserved) -> [u8; HANDSHAKE_LEN] {
        let mut peer_id = *b"-XX0001-giver-------";
        peer_id[15..].copy_from_slice(format!("{port:05}").as_bytes());
        Handshake {
            reserved,
            info_hash: self.fixture.torrent.info_hash(),
            peer_id: PeerId(peer_id),
        }
        .encode()
    }

    fn say(&self, giver: &Giver, message: &Message<'_>) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.fixture.world.write(giver.id, &bytes);
    }

    fn hear(&mut self, giver: &mut Giver) {
        let heard = self.fixture.world.read(giver.id);
        let mut heard = &heard[..];
        let missing = (HANDSHAKE_LEN - giver.greeted).min(heard.len());
        giver.greeted += missing;
        heard = &heard[missing..];
        while let Some(message) = giver.decoder.next(&mut heard).unwrap() {
            match message {
                Message::Request { piece, begin, length } => {
                    giver.asks += 1;
                    giver.asked.push_back((piece, begin, length));
                }
                Message::Cancel { piece, begin, length } => {
                    giver.asked.retain(|asked| *asked != (piece, begin, length));
                    giver.said.push("Cancel".to_owned());
                }
                Message::Have(piece) => giver.told.push(piece),
                Message::Extended { .. } => giver.said.push("Extended".to_owned()),
                other => giver.said.push(format!("{other:?}")),
            }
        }
    }

    /// Sends up to `count` of the blocks that it was asked for.
    fn give(&mut self, giver: &mut Giver, count: usize) -> usize {
        self.hear(giver);
        let count = count.min(giver.asked.len());
        for (piece, begin, length) in giver.asked.drain(..count).collect::<Vec<_>>() {
            let at = (piece * PIECE_LEN + begin) as usize;
            let mut data = self.fixture.payload[at..at + length as usize].to_vec();
            if giver.lies {
                data[0] ^= 1;
            }
            self.say(
                giver,
                &Message::Piece {
                    piece,
                    begin,
                    data: &data,
                },
            );
        }
        self.settle();
        count
    }

    /// Lets a peer answer until it is asked no more.
    fn give_all(&mut self, giver: &mut Giver) {
        self.say(giver, &Message::Unchoke);
        self.settle();
        while self.give(giver, usize::MAX) > 0 {}
    }

    fn told(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        events.iter().map(|event| format!("{event:?}")).collect()
    }
}

#[test]
fn torrent_comes_from_one_peer_and_is_complete_on_disk() {
    for (reserved, len) in [
        (FAST, 1_000_000),
        (PLAIN, 1_000_000),
        (FAST, 1),
        (PLAIN, 3 * PIECE_LEN as usize),
    ] {
        let mut leeching = Leeching::new(len);
        let mut giver = leeching.giver(2000, reserved);
        leeching.hear(&mut giver);
        assert!(giver.said.contains(&"Interested".to_owned()), "{:?}", giver.said);
        leeching.give_all(&mut giver);
        assert!(
            leeching.is_complete(),
            "{:?} {:?}",
            leeching.told(),
            leeching.fixture.drops()
        );
        assert!(leeching.file() == leeching.fixture.payload);
        let last = leeching.told().pop().unwrap();
        assert!(last.contains("Written") && last.contains("complete: [0]"), "{last}");
        assert_eq!(
            giver.asks,
            len.div_ceil(BLOCK_LEN as usize),
            "each block is asked for once"
        );
        assert_eq!(leeching.fixture.drops(), ["both_seeds"]);
        let shard = &leeching.fixture.shard;
        assert_eq!((shard.assembly.reserved(), shard.downloads.len()), (0, 0));
    }
}

#[test]
fn piece_is_told_to_everybody_and_served_only_once_it_is_written() {
    let mut leeching = Leeching::new(4 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    // A peer that has nothing.
    let mut far = leeching.fixture.far(FAST);
    leeching.fixture.say(&far, &Message::HaveNone);
    leeching.fixture.say(&far, &Message::Interested);
    leeching.settle();
    leeching.fixture.world.hold(OpKind::Write);
    leeching.say(&giver, &Message::Unchoke);
    leeching.settle();
    // Pieces that were begun are finished first: the first four blocks are one piece, or two halves.
    while leeching.give(&mut giver, 1) > 0 && leeching.fixture.shard.writing() == 0 {}
    leeching.fixture.hear(&mut far);
    assert!(!far.said.iter().any(|said| said.starts_with("Have(")), "{:?}", far.said);
    assert_eq!(leeching.fixture.torrent.have_count(), 0);
    leeching.fixture.world.release(OpKind::Write);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    leeching.hear(&mut giver);
    assert_eq!(giver.told.len(), 1, "{:?}", giver.told);
    let piece = giver.told[0];
    assert!(far.said.contains(&format!("Have({piece})")), "{:?}", far.said);
    leeching.fixture.request(&far, piece, 0, BLOCK_LEN);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 1);
    leeching.fixture.check(&far);
}

/// An extent of the cache is longer than a piece here: what was read for one must not be served for its neighbour.
#[test]
fn what_was_read_before_a_neighbour_was_written_is_read_again() {
    let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    let mut far = leeching.fixture.far(FAST);
    leeching.fixture.say(&far, &Message::HaveNone);
    leeching.fixture.say(&far, &Message::Interested);
    leeching.say(&giver, &Message::Unchoke);
    leeching.settle();
    while leeching.fixture.torrent.have_count() == 0 {
        assert!(leeching.give(&mut giver, 1) > 0);
    }
    let first = leeching.fixture.torrent.have().pieces().next().unwrap().get();
    leeching.fixture.request(&far, first, 0, BLOCK_LEN);
    leeching.settle();
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete());
    leeching.fixture.request(&far, 1 - first, 0, BLOCK_LEN);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 2);
    leeching.fixture.check(&far);
}

#[test]
fn peer_that_sends_a_wrong_piece_is_shut_out_and_the_others_complete_it() {
    let mut leeching = Leeching::new(1_000_000);
    let mut liar = leeching.giver(2000, FAST);
    liar.lies = true;
    leeching.give_all(&mut liar);
    assert_eq!(leeching.fixture.torrent.have_count(), 0);
    assert_eq!(leeching.fixture.drops(), ["banned"]);
    assert!(leeching.told().iter().any(|told| told.starts_with("Banned")));
    assert!(
        leeching.file().iter().all(|byte| *byte == 0),
        "nothing wrong is written"
    );
    // The same peer again, and an honest one of the same address.
    let again = leeching.giver(2000, FAST);
    assert!(leeching.fixture.world.ended(again.id).is_some());
    let mut honest = leeching.giver(2001, FAST);
    leeching.give_all(&mut honest);
    assert!(leeching.is_complete());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn liar_among_honest_peers_is_found_by_the_blocks_it_sent() {
    let mut leeching = Leeching::new(2_000_000);
    let mut givers: Vec<Giver> = (0..5).map(|at| leeching.giver(2000 + at, FAST)).collect();
    givers[3].lies = true;
    givers.iter().for_each(|giver| leeching.say(giver, &Message::Unchoke));
    leeching.settle();
    for _ in 0..2000 {
        let mut any = 0;
        for giver in &mut givers {
            if leeching.fixture.world.ended(giver.id).is_none() {
                any += leeching.give(giver, 1);
            }
        }
        if any == 0 {
            break;
        }
    }
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
    let banned = leeching.told().iter().filter(|told| told.starts_with("Banned")).count();
    assert_eq!(banned, 1);
    assert!(
        leeching.fixture.shard.counters.pieces_bad <= 2,
        "{}",
        leeching.fixture.shard.counters.pieces_bad
    );
}

#[test]
fn what_a_peer_was_asked_for_is_asked_of_another_when_it_chokes_rejects_or_leaves() {
    for how in ["choke", "reject", "leave"] {
        for reserved in [FAST, PLAIN] {
            if how == "reject" && reserved == PLAIN {
                continue;
            }
            let mut leeching = Leeching::new(300_000);
            let mut first = leeching.giver(2000, reserved);
            leeching.say(&first, &Message::Unchoke);
            leeching.settle();
            leeching.hear(&mut first);
            assert!(first.asked.len() >= 5, "never fewer than five");
            match how {
                "leave" => leeching.fixture.world.close(first.id),
                "choke" => {
                    leeching.say(&first, &Message::Choke);
                    if first.fast {
                        for (piece, begin, length) in first.asked.clone() {
                            leeching.say(&first, &Message::Reject { piece, begin, length });
                        }
                    }
                }
                _ => {
                    for (piece, begin, length) in first.asked.drain(..).collect::<Vec<_>>() {
                        leeching.say(&first, &Message::Reject { piece, begin, length });
                    }
                    leeching.say(&first, &Message::Choke);
                }
            }
            leeching.settle();
            let mut second = leeching.giver(2001, reserved);
            leeching.give_all(&mut second);
            assert!(leeching.is_complete(), "{how}: {:?}", leeching.fixture.drops());
            assert!(leeching.file() == leeching.fixture.payload);
        }
    }
}

#[test]
fn peer_that_sends_nothing_for_a_minute_is_left_one_request() {
    let mut leeching = Leeching::new(300_000);
    let mut silent = leeching.giver(2000, FAST);
    leeching.say(&silent, &Message::Unchoke);
    leeching.settle();
    leeching.hear(&mut silent);
    leeching.pass(70);
    leeching.hear(&mut silent);
    assert_eq!(silent.asked.len(), 1, "{:?}", silent.said);
    let mut other = leeching.giver(2001, FAST);
    leeching.give_all(&mut other);
    assert!(leeching.is_complete(), "nobody waits for the one either");
}

#[test]
fn memory_stays_within_its_budget_and_a_few_pieces_go_in_any_case() {
    for write_buffer in [0, 2 * u64::from(PIECE_LEN)] {
        let mut leeching = Leeching::with(2_000_000, write_buffer);
        let mut givers: Vec<Giver> = (0..4).map(|at| leeching.giver(2000 + at, FAST)).collect();
        givers.iter().for_each(|giver| leeching.say(giver, &Message::Unchoke));
        leeching.settle();
        leeching.fixture.world.shuffle(write_buffer);
        while !leeching.is_complete() {
            let given: usize = givers.iter_mut().map(|giver| leeching.give(giver, 3)).sum();
            assert!(given > 0, "nobody waits for ever");
            let reserved = leeching.fixture.shard.assembly.reserved();
            assert!(reserved <= write_buffer.max(4 * u64::from(PIECE_LEN)), "{reserved}");
        }
        assert!(leeching.file() == leeching.fixture.payload);
    }
}

#[test]
fn full_disk_stops_requests_and_nothing_is_lost_until_there_is_room() {
    let mut leeching = Leeching::new(2_000_000);
    leeching.fixture.world.set_disk_room(Some(300_000));
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    assert!(!leeching.is_complete());
    let asks = giver.asks;
    assert!(
        leeching
            .told()
            .iter()
            .any(|told| told.starts_with("Stalled") && told.contains("the disk is full"))
    );
    leeching.pass(5);
    leeching.hear(&mut giver);
    assert_eq!(giver.asks, asks, "nothing is asked for that has no room");
    let stalls = leeching
        .told()
        .iter()
        .filter(|told| told.starts_with("Stalled"))
        .count();
    assert_eq!(stalls, 1, "told once");
    leeching.fixture.world.set_disk_room(None);
    leeching.pass(3);
    assert!(leeching.told().iter().any(|told| told.starts_with("Resumed")));
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn failing_write_is_tried_again_after_a_minute() {
    let mut leeching = Leeching::new(50_000);
    leeching.fixture.world.fail_next(OpKind::Write, Errno::IO);
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    leeching.pass(55);
    assert!(leeching.told().iter().any(|told| told.starts_with("Stalled")));
    assert!(!leeching.is_complete());
    leeching.pass(10);
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn nothing_is_asked_for_before_the_files_are_made() {
    let mut leeching = Leeching::new(200_000);
    leeching.prepares = false;
    let mut giver = leeching.giver(2000, FAST);
    leeching.say(&giver, &Message::Unchoke);
    leeching.settle();
    leeching.hear(&mut giver);
    assert_eq!(giver.asks, 0);
    assert_eq!(leeching.told().len(), 1, "asked for once: {:?}", leeching.told());
    let info_hash = leeching.fixture.torrent.info_hash();
    leeching
        .fixture
        .commands
        .send(Command::Prepared { info_hash, made: false })
        .unwrap();
    leeching.pass(58);
    assert_eq!(leeching.told().len(), 1);
    leeching.pass(4);
    assert_eq!(leeching.told().len(), 2, "and again after a minute");
    leeching.prepares = true;
    leeching.settle();
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete());
}

#[test]
fn peers_are_connected_to_and_asked() {
    let mut leeching = Leeching::new(200_000);
    let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
    let nobody = SocketAddr::from(([127, 0, 0, 1], 7001));
    leeching.fixture.world.listen(addr);
    let info_hash = leeching.fixture.torrent.info_hash();
    let addrs = vec![addr, nobody];
    leeching
        .fixture
        .commands
        .send(Command::Peers { info_hash, addrs })
        .unwrap();
    leeching.fixture.world.ring();
    leeching.settle();
    let (to, id) = leeching.fixture.world.accept().expect("a connection");
    assert_eq!(to, addr);
    assert_eq!(leeching.fixture.drops(), ["not_connected"]);
    let mut giver = leeching.greet(id, 7000, FAST);
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete());
    // Somebody is there by the time the other address is tried again.
    assert_eq!(leeching.fixture.shard.half_open, 0);
}

#[test]
fn ourselves_are_not_connected_to_twice() {
    let mut leeching = Leeching::new(200_000);
    let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
    leeching.fixture.world.listen(addr);
    let info_hash = leeching.fixture.torrent.info_hash();
    let addrs = vec![addr];
    leeching
        .fixture
        .commands
        .send(Command::Peers { info_hash, addrs })
        .unwrap();
    leeching.fixture.world.ring();
    leeching.settle();
    let (_, id) = leeching.fixture.world.accept().expect("a connection");
    let ours = Handshake {
        reserved: FAST,
        info_hash,
        peer_id: leeching.fixture.shard.settings.peer_id,
    };
    leeching.fixture.world.write(id, &ours.encode());
    leeching.settle();
    assert_eq!(leeching.fixture.drops(), ["own_peer_id"]);
    leeching.pass(700);
    assert_eq!(leeching.fixture.world.accept(), None);
}

#[test]
fn of_two_connections_to_one_peer_both_ends_keep_the_same() {
    // The other id is greater than ours ("-XX" against "-BD"): the one that it has made stays.
    for theirs_first in [true, false] {
        let mut leeching = Leeching::new(200_000);
        let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
        leeching.fixture.world.listen(addr);
        let info_hash = leeching.fixture.torrent.info_hash();
        let mut made_by_it = None;
        if theirs_first {
            made_by_it = Some(leeching.giver(7000, FAST));
        }
        let addrs = vec![addr];
        leeching
            .fixture
            .commands
            .send(Command::Peers { info_hash, addrs })
            .unwrap();
        leeching.fixture.world.ring();
        leeching.settle();
        let (_, id) = leeching.fixture.world.accept().expect("a connection");
        let made_by_us = leeching.greet(id, 7000, FAST);
        let mut made_by_it = made_by_it.unwrap_or_else(|| leeching.giver(7000, FAST));
        assert!(leeching.fixture.world.ended(made_by_us.id).is_some());
        assert!(leeching.fixture.world.ended(made_by_it.id).is_none());
        assert_eq!(leeching.fixture.drops(), ["duplicate"]);
        leeching.give_all(&mut made_by_it);
        assert!(leeching.is_complete());
    }
}

#[test]
fn torrent_that_is_removed_in_the_middle_leaves_nothing_behind() {
    let mut leeching = Leeching::new(2_000_000);
    leeching.fixture.world.hold(OpKind::Write);
    let mut giver = leeching.giver(2000, FAST);
    leeching.say(&giver, &Message::Unchoke);
    leeching.settle();
    for _ in 0..20 {
        leeching.give(&mut giver, 2);
    }
    let info_hash = leeching.fixture.torrent.info_hash();
    leeching.fixture.commands.send(Command::Remove(info_hash)).unwrap();
    leeching.settle();
    leeching.fixture.world.release(OpKind::Write);
    leeching.settle();
    let shard = &leeching.fixture.shard;
    assert_eq!(
        (shard.downloads.len(), shard.assembly.reserved(), shard.writing()),
        (0, 0, 0)
    );
    assert_eq!(leeching.fixture.drops(), ["torrent_removed"]);
}

#[test]
fn unasked_blocks_harm_nobody_and_a_flood_of_them_ends_the_connection() {
    let mut leeching = Leeching::new(2_000_000);
    let giver = leeching.giver(2000, FAST);
    let data = bytes(BLOCK_LEN as usize, 5);
    for at in 0..5000_u32 {
        let (piece, begin) = (at % 30, 0);
        leeching.say(
            &giver,
            &Message::Piece {
                piece,
                begin,
                data: &data,
            },
        );
        if at % 100 == 0 {
            leeching.settle();
        }
    }
    leeching.settle();
    assert_eq!(leeching.fixture.drops(), ["block_flood"]);
    let mut other = leeching.giver(2001, FAST);
    leeching.give_all(&mut other);
    assert!(leeching.is_complete());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn few_slow_peers_do_not_keep_a_fast_one_from_its_work() {
    let mut leeching = Leeching::with(2_000_000, 2 * u64::from(PIECE_LEN));
    let mut slow: Vec<Giver> = (0..2).map(|at| leeching.giver(2000 + at, FAST)).collect();
    slow.iter().for_each(|giver| leeching.say(giver, &Message::Unchoke));
    leeching.settle();
    slow.iter_mut().for_each(|giver| leeching.hear(giver));
    let mut fast = leeching.giver(3000, FAST);
    leeching.say(&fast, &Message::Unchoke);
    leeching.settle();
    // Well before the slow ones are given up.
    for _ in 0..30 {
        leeching.pass(1);
        while leeching.give(&mut fast, usize::MAX) > 0 {}
    }
    assert!(
        leeching.is_complete(),
        "{} pieces",
        leeching.fixture.torrent.have_count()
    );
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn peers_share_the_download_rate_and_are_asked_for_no_more() {
    const RATE: u64 = 500_000;
    let mut leeching = Leeching::with(8_000_000, 8 << 20);
    let pace = Pace::new(std::num::NonZeroU64::new(RATE).unwrap(), leeching.fixture.now.get());
    leeching.fixture.shard.settings.download_pace = Some(Arc::new(pace));
    let mut givers: Vec<Giver> = (0..3).map(|at| leeching.giver(2000 + at, FAST)).collect();
    givers.iter().for_each(|giver| leeching.say(giver, &Message::Unchoke));
    leeching.settle();
    for _ in 0..800 {
        leeching.fixture.now.set(leeching.fixture.now.get() + pace::QUANTUM);
        for giver in &mut givers {
            leeching.hear(giver);
            for (piece, begin, length) in giver.asked.drain(..).collect::<Vec<_>>() {
                let at = (piece * PIECE_LEN + begin) as usize;
                let data = leeching.fixture.payload[at..at + length as usize].to_vec();
                leeching.say(
                    giver,
                    &Message::Piece {
                        piece,
                        begin,
                        data: &data,
                    },
                );
            }
        }
        leeching.fixture.turn();
        leeching.wait_for_verdicts();
        leeching.fixture.turn();
    }
    let all = leeching.fixture.shard.counters.downloaded_bytes;
    let exact = 8 * RATE;
    assert!(all.abs_diff(exact) < exact / 20, "{all} of {exact}");
    assert!(givers.iter().all(|giver| giver.asks > 40), "each has its part");
}

#[test]
fn nothing_comes_twice_from_many_peers_that_answer() {
    let mut leeching = Leeching::new(3_000_000);
    let mut givers: Vec<Giver> = (0..8).map(|at| leeching.giver(2000 + at, FAST)).collect();
    givers.iter().for_each(|giver| leeching.say(giver, &Message::Unchoke));
    leeching.settle();
    while !leeching.is_complete() {
        let given: usize = givers.iter_mut().map(|giver| leeching.give(giver, 2)).sum();
        assert!(given > 0, "nobody waits for anybody");
    }
    assert_eq!(leeching.fixture.shard.counters.wasted_bytes, 0);
    let asks: usize = givers.iter().map(|giver| giver.asks).sum();
    assert_eq!(asks, 3_000_000_usize.div_ceil(BLOCK_LEN as usize));
}

/// Two have everything, and the one that is slow has been asked for much of it.
#[test]
fn what_a_slow_peer_would_send_late_is_taken_from_it_and_comes_once() {
    let mut leeching = Leeching::new(3_000_000);
    let mut slow = leeching.giver(2000, FAST);
    leeching.say(&slow, &Message::Unchoke);
    leeching.settle();
    for _ in 0..10 {
        leeching.give(&mut slow, 4);
        leeching.pass(1);
    }
    leeching.hear(&mut slow);
    assert!(slow.asked.len() > 8, "three seconds' worth: {}", slow.asked.len());
    let before = slow.asked.len();
    let mut fast = leeching.giver(3000, FAST);
    leeching.give_all(&mut fast);
    leeching.hear(&mut slow);
    assert!(slow.asked.len() >= before && !slow.said.contains(&"Cancel".to_owned()));
    // Before it is asked for the same once more.
    leeching.pass(1);
    leeching.hear(&mut slow);
    leeching.hear(&mut fast);
    let taken = fast.asked.len();
    assert!(taken > 0 && slow.asked.iter().all(|asked| !fast.asked.contains(asked)));
    assert_eq!(before, taken + slow.asked.len());
    assert!((1..=4).contains(&slow.asked.len()), "what comes within a second stays");
    assert_eq!(leeching.fixture.shard.counters.requests_taken_over, taken as u64);
    leeching.give_all(&mut fast);
    leeching.give(&mut slow, usize::MAX);
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
    assert_eq!(leeching.fixture.shard.counters.wasted_bytes, 0);
}

/// Peers that stay connected and send nothing but keep-alives, while another gives all it is asked for.
fn pass_beside(leeching: &mut Leeching, seconds: u64, silent: &[&Giver], giving: &mut Giver) {
    for second in 0..seconds {
        if second % 60 == 0 {
            silent.iter().for_each(|giver| leeching.say(giver, &Message::KeepAlive));
            leeching.say(giving, &Message::KeepAlive);
        }
        leeching.pass(1);
        while leeching.give(giving, usize::MAX) > 0 {}
    }
}

#[test]
fn block_that_two_were_asked_for_who_send_nothing_comes_from_a_third() {
    let mut leeching = Leeching::new(300_000);
    let one = leeching.giver(2000, FAST);
    leeching.say(&one, &Message::Unchoke);
    leeching.settle();
    // Asked for what is left in its turn, it leaves the first one with the last block, and the next with nothing else.
    let mut other = leeching.giver(2001, FAST);
    leeching.give_all(&mut other);
    leeching.fixture.world.close(other.id);
    leeching.settle();
    let two = leeching.giver(2002, FAST);
    leeching.say(&two, &Message::Unchoke);
    leeching.settle();
    leeching.pass(4);
    let mut honest = leeching.giver(2003, FAST);
    leeching.give_all(&mut honest);
    pass_beside(&mut leeching, 70, &[&one, &two], &mut honest);
    assert!(
        leeching.is_complete(),
        "{} pieces",
        leeching.fixture.torrent.have_count()
    );
}

/// Two are suspects, since a piece that came from both was wrong; the first was asked for a piece of its own, and stops.
#[test]
fn suspect_that_goes_silent_or_chokes_does_not_keep_its_piece() {
    for chokes in [false, true] {
        let mut leeching = Leeching::new(300_000);
        let mut suspect = leeching.giver(2000, FAST);
        let mut liar = leeching.giver(3000, FAST);
        liar.lies = true;
        liar.said.clear();
        leeching.say(&suspect, &Message::Unchoke);
        leeching.settle();
        leeching.give(&mut suspect, 3);
        leeching.say(&suspect, &Message::Choke);
        for (piece, begin, length) in suspect.asked.drain(..).collect::<Vec<_>>() {
            leeching.say(&suspect, &Message::Reject { piece, begin, length });
        }
        leeching.say(&liar, &Message::Unchoke);
        leeching.settle();
        while leeching.fixture.shard.counters.pieces_bad == 0 {
            assert!(leeching.give(&mut liar, 1) > 0);
        }
        leeching.fixture.world.close(liar.id);
        leeching.say(&suspect, &Message::Unchoke);
        leeching.settle();
        assert_eq!(leeching.give(&mut suspect, 1), 1, "of a piece of its own");
        if chokes {
            leeching.say(&suspect, &Message::Choke);
        }
        let mut honest = leeching.giver(4000, FAST);
        leeching.give_all(&mut honest);
        pass_beside(&mut leeching, 70, &[&suspect], &mut honest);
        assert!(
            leeching.is_complete(),
            "{} pieces",
            leeching.fixture.torrent.have_count()
        );
    }
}

#[test]
fn blocks_that_a_peer_was_not_asked_for_spoil_nothing() {
    let mut leeching = Leeching::new(300_000);
    let mut giver = leeching.giver(2000, FAST);
    let mut injector = leeching.giver(3000, FAST);
    leeching.say(&giver, &Message::Unchoke);
    leeching.settle();
    while !leeching.is_complete() {
        leeching.hear(&mut giver);
        // The block that is to come next, before it comes.
        if let Some(&(piece, begin, length)) = giver.asked.front() {
            let data = &vec![9; length as usize];
            leeching.say(&injector, &Message::Piece { piece, begin, data });
            leeching.settle();
        }
        assert!(leeching.give(&mut giver, 1) > 0);
    }
    assert_eq!(leeching.fixture.shard.counters.pieces_bad, 0);
    assert_eq!(injector.asks, 0);
    leeching.hear(&mut injector);
    let wasted = leeching.fixture.shard.counters.wasted_bytes;
    assert_eq!(wasted, 300_000, "each was sent twice");
}

#[test]
fn what_a_convict_has_sent_of_other_pieces_is_had_anew() {
    let mut leeching = Leeching::with(4_000_000, 16 << 20);
    let mut liar = leeching.giver(2000, FAST);
    leeching.say(&liar, &Message::Unchoke);
    leeching.settle();
    // Until it is trusted with many at a time.
    while leeching.fixture.torrent.have_count() < 20 {
        assert!(leeching.give(&mut liar, usize::MAX) > 0);
    }
    leeching.hear(&mut liar);
    let asked: Vec<_> = liar.asked.drain(..).collect();
    let first = asked[0].0;
    let mut begun = std::collections::BTreeSet::from([first]);
    let one_of_each: Vec<_> = asked.iter().filter(|(piece, ..)| begun.insert(*piece)).collect();
    let whole: Vec<_> = asked.iter().filter(|(piece, ..)| *piece == first).collect();
    assert!(one_of_each.len() > 4);
    for &(piece, begin, length) in one_of_each.into_iter().chain(whole) {
        let data = &vec![9; length as usize];
        leeching.say(&liar, &Message::Piece { piece, begin, data });
    }
    leeching.settle();
    assert_eq!(leeching.fixture.drops(), ["banned"]);
    let mut honest = leeching.giver(2001, FAST);
    leeching.give_all(&mut honest);
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
    // Its piece, and perhaps the last one, which is a block long.
    assert!(leeching.fixture.shard.counters.pieces_bad <= 2);
}

#[test]
fn peer_that_refuses_a_piece_is_not_asked_for_it_over_and_over() {
    let mut leeching = Leeching::new(300_000);
    let mut giver = leeching.giver(2000, FAST);
    leeching.say(&giver, &Message::Unchoke);
    leeching.settle();
    let mut rounds = 0;
    while !leeching.is_complete() {
        leeching.hear(&mut giver);
        let (refused, given): (Vec<_>, Vec<_>) = giver
            .asked
            .drain(..)
            .partition(|(piece, ..)| *piece == 1 && rounds < 20);
        for (piece, begin, length) in refused {
            leeching.say(&giver, &Message::Reject { piece, begin, length });
        }
        giver.asked = given.into();
        leeching.give(&mut giver, usize::MAX);
        leeching.pass(1);
        rounds += 1;
        assert!(rounds < 60);
    }
    let blocks = 300_000_usize.div_ceil(BLOCK_LEN as usize);
    assert!(rounds > 20 && giver.asks < 2 * blocks, "{} for {blocks}", giver.asks);
}

#[test]
fn what_those_who_left_have_begun_makes_way_when_memory_is_short() {
    let mut leeching = Leeching::with(2_000_000, u64::from(PIECE_LEN));
    let mut givers: Vec<Giver> = (0..4).map(|at| leeching.giver(2000 + at, FAST)).collect();
    for giver in &mut givers {
        leeching.say(giver, &Message::Unchoke);
        leeching.settle();
        // Part of a piece.
        leeching.give(giver, 3);
        leeching.fixture.world.close(giver.id);
        leeching.settle();
    }
    assert!(leeching.fixture.shard.assembly.reserved() > 0);
    leeching.pass(25);
    let shard = &leeching.fixture.shard;
    assert_eq!(shard.assembly.reserved(), 0);
    assert_eq!(shard.assembly.room(PIECE_LEN.into()), 4);
    let mut giver = leeching.giver(3000, FAST);
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
}
