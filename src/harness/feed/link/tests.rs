use super::*;

const MS: Duration = Duration::from_millis(1);
const BLOCK: u32 = 16 * 1024;

/// A connection that the client has opened, played without a socket.
struct Play {
    torrent: Torrent,
    ledger: Ledger,
    path: Path,
    pace: Pace,
    reqq: u32,
    link: Link,
}

impl Play {
    fn new(delay: Duration, rate: Option<u64>, reqq: u32, lies: bool) -> Play {
        let torrent = Torrent::for_test(64 * 1024, (0..200_000u32).map(|n| (n / 7) as u8).collect());
        let mut ledger = Ledger::new(torrent.geometry);
        let scene = Scene {
            torrent: &torrent,
            delay,
            reqq,
            ledger: &mut ledger,
        };
        let link = Link::new(0, PeerId([b's'; 20]), lies, false, Duration::ZERO, &scene);
        Play {
            path: Path::new(delay, rate),
            pace: Pace::new(None),
            torrent,
            ledger,
            reqq,
            link,
        }
    }

    fn receive(&mut self, bytes: &[u8], now: Duration) -> Result<(), Fault> {
        let mut scene = Scene {
            torrent: &self.torrent,
            delay: self.path.delay,
            reqq: self.reqq,
            ledger: &mut self.ledger,
        };
        self.link.on_bytes(bytes, now, &mut scene)
    }

    /// What the client reads at this time, in sends of at most `max` bytes.
    fn read(&mut self, now: Duration, max: usize) -> Vec<u8> {
        let mut scene = Scene {
            torrent: &self.torrent,
            delay: self.path.delay,
            reqq: self.reqq,
            ledger: &mut self.ledger,
        };
        self.link.on_time(now, &mut scene);
        while self.link.depart(now, &mut self.path, &mut self.pace) {}
        let mut read = Vec::new();
        loop {
            let mut slices = Vec::new();
            self.link.gather(now, &self.torrent, &mut slices);
            let bytes: Vec<u8> = slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .take(max)
                .collect();
            if bytes.is_empty() {
                return read;
            }
            self.link.on_sent(bytes.len(), now, &mut self.ledger);
            read.extend_from_slice(&bytes);
        }
    }

    /// Both handshakes, and the greeting.
    fn open(&mut self, reserved: Reserved) -> Vec<u8> {
        let handshake = Handshake {
            reserved,
            info_hash: self.torrent.info_hash,
            peer_id: PeerId([b'c'; 20]),
        };
        self.receive(&handshake.encode(), Duration::ZERO).unwrap();
        let read = self.read(self.path.delay * 2 + GREET_AFTER, usize::MAX);
        assert!(self.link.is_open());
        read[HANDSHAKE_LEN..].to_vec()
    }

    fn say(&mut self, messages: &[Message<'_>], now: Duration) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| wire::encode(message, &mut bytes));
        self.receive(&bytes, now).unwrap();
    }
}

fn request(piece: u32, begin: u32) -> Message<'static> {
    Message::Request {
        piece,
        begin,
        length: BLOCK,
    }
}

/// The messages as text.
fn messages(mut bytes: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::new(1 << 20);
    let mut found = Vec::new();
    while let Some(message) = decoder.next(&mut bytes).unwrap() {
        found.push(match message {
            Message::Piece { piece, begin, data } => format!("block {piece} {begin} {}", data.len()),
            Message::Extended { payload, .. } => String::from_utf8_lossy(payload).into_owned(),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(decoder.torn_len(), 0);
    found
}

#[test]
fn client_is_greeted_as_it_understands_it() {
    let mut play = Play::new(Duration::ZERO, None, 300, false);
    let greeting = messages(&play.open(Reserved::OURS));
    assert_eq!(greeting[0], "HaveAll");
    assert!(greeting[1].contains("4:reqqi300e"), "{greeting:?}");
    let mut play = Play::new(Duration::ZERO, None, 300, false);
    assert_eq!(messages(&play.open(Reserved::default())), ["Bitfield([240])"]);
}

#[test]
fn blocks_have_the_right_bytes_however_the_socket_takes_them() {
    for max in [1, 1000, usize::MAX] {
        let mut play = Play::new(Duration::ZERO, None, 300, false);
        play.open(Reserved::OURS);
        play.say(&[Message::Interested, request(1, BLOCK), request(2, 0)], 50 * MS);
        let read = play.read(50 * MS, max);
        assert_eq!(messages(&read), ["Unchoke", "block 1 16384 16384", "block 2 0 16384"]);
        let block = play.torrent.geometry.check(1, BLOCK, BLOCK).unwrap();
        assert_eq!(&read[5 + 13..][..BLOCK as usize], play.torrent.block(&block, false));
        assert_eq!(play.ledger.counts.sent_bytes, 2 * u64::from(BLOCK));
        assert_eq!(play.link.take_peak(), 2);
        assert_eq!(play.link.take_peak(), 0);
    }
}

#[test]
fn distant_seeder_answers_a_round_trip_later_at_the_path_s_rate() {
    // 16,397 bytes a block: one each 10 ms.
    let mut play = Play::new(50 * MS, Some(1_639_700), 300, false);
    play.open(Reserved::OURS);
    let asked = 200 * MS;
    play.say(&[request(0, 0), request(0, BLOCK)], asked);
    assert!(play.read(asked + 49 * MS, usize::MAX).is_empty());
    assert_eq!(play.link.next_at(&play.path, &play.pace), Some(asked + 50 * MS));
    for at in 0..110 {
        assert!(play.read(asked + at * MS, usize::MAX).is_empty(), "after {at} ms");
    }
    assert_eq!(play.read(asked + 110 * MS, usize::MAX).len(), 16_397);
    assert!(play.read(asked + 119 * MS, usize::MAX).is_empty());
    assert_eq!(play.link.take_peak(), 2, "what is on its way is outstanding");
    assert_eq!(play.read(asked + 120 * MS, usize::MAX).len(), 16_397);
    assert_eq!(play.link.next_at(&play.path, &play.pace), None);
}

#[test]
fn requests_beyond_the_queue_are_rejected_or_dropped() {
    for (reserved, told) in [(Reserved::OURS, true), (Reserved::default(), false)] {
        let mut play = Play::new(Duration::ZERO, None, 2, false);
        play.open(reserved);
        play.say(&[request(0, 0), request(0, BLOCK), request(1, 0)], 50 * MS);
        let read = messages(&play.read(50 * MS, usize::MAX));
        assert_eq!(play.ledger.counts.refused, 1);
        assert_eq!(read.len(), 2 + usize::from(told));
        assert_eq!(read[0].starts_with("Reject"), told, "{read:?}");
        // There is room again.
        play.say(&[request(1, 0)], 60 * MS);
        assert_eq!(messages(&play.read(60 * MS, usize::MAX)), ["block 1 0 16384"]);
        assert_eq!(play.ledger.counts.asked_again, 0);
    }
}

#[test]
fn what_waits_for_the_socket_is_in_the_queue() {
    let mut play = Play::new(Duration::ZERO, None, 2, false);
    play.open(Reserved::default());
    play.say(&[request(0, 0), request(0, BLOCK)], 50 * MS);
    let mut scene = Scene {
        torrent: &play.torrent,
        delay: Duration::ZERO,
        reqq: 2,
        ledger: &mut play.ledger,
    };
    play.link.on_time(50 * MS, &mut scene);
    while play.link.depart(50 * MS, &mut play.path, &mut play.pace) {}
    play.link.blocked = true;
    assert_eq!(play.link.next_at(&play.path, &play.pace), None);
    play.say(&[request(1, 0)], 50 * MS);
    play.read(50 * MS, 0);
    assert_eq!(play.ledger.counts.refused, 1);
}

#[test]
fn cancelled_request_is_not_answered_but_rejected() {
    let mut play = Play::new(Duration::ZERO, Some(1000), 300, false);
    play.open(Reserved::OURS);
    let block = play.torrent.geometry.check(0, BLOCK, BLOCK).unwrap();
    play.say(&[request(0, 0), request(0, BLOCK), Message::cancel(&block)], 50 * MS);
    let read = messages(&play.read(60 * MS, usize::MAX));
    assert!(read[0].starts_with("Reject { piece: 0, begin: 16384"), "{read:?}");
    assert_eq!(read.len(), 1);
    assert_eq!(messages(&play.read(20_000 * MS, usize::MAX)), ["block 0 0 16384"]);
    assert_eq!(play.ledger.counts.cancelled, 1);
}

#[test]
fn liar_sends_other_bytes() {
    let mut play = Play::new(Duration::ZERO, None, 300, true);
    play.open(Reserved::OURS);
    play.say(&[request(0, 0)], 50 * MS);
    assert_eq!(play.read(50 * MS, usize::MAX)[13..16], [0x5a; 3]);
    assert_eq!(play.ledger.counts.lied_bytes, u64::from(BLOCK));
    assert_eq!(play.ledger.counts.sent_bytes, 0);
}

#[test]
fn what_a_connection_owed_when_it_ended_may_be_asked_of_another() {
    let mut play = Play::new(50 * MS, Some(1_639_700), 300, false);
    play.open(Reserved::OURS);
    play.say(&[request(0, 0), request(0, BLOCK)], 200 * MS);
    // One is on the path by then, the other waits.
    play.read(255 * MS, usize::MAX);
    play.link.end(&mut play.ledger);
    for begin in [0, BLOCK] {
        play.ledger
            .on_taken(&play.torrent.geometry.check(0, begin, BLOCK).unwrap());
    }
    assert_eq!(play.ledger.counts.asked_again, 0);
}

#[test]
fn what_is_no_peer_of_this_torrent_is_dropped() {
    let mut play = Play::new(Duration::ZERO, None, 300, false);
    assert_eq!(play.receive(&[b'x'; 68], MS), Err(Fault::NotBitTorrent));
    let mut play = Play::new(Duration::ZERO, None, 300, false);
    let other = Handshake {
        reserved: Reserved::OURS,
        info_hash: crate::proto::InfoHash([9; 20]),
        peer_id: PeerId([b'c'; 20]),
    };
    let bytes = other.encode();
    let (first, second) = bytes.split_at(30);
    assert_eq!(play.receive(first, MS), Ok(()));
    assert_eq!(play.receive(second, MS), Err(Fault::OtherTorrent));
    let mut play = Play::new(Duration::ZERO, None, 300, false);
    play.open(Reserved::OURS);
    assert_eq!(play.receive(&[0, 0, 0, 2, 1, 1], MS), Err(Fault::BadMessage));
    play.say(&[request(9, 0)], MS);
    assert_eq!(play.ledger.counts.invalid, 1);
}
