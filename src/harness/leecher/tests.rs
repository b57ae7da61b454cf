//! One leecher, with a server that the test plays.

use super::*;
use crate::proto::InfoHash;
use crate::proto::geometry::Geometry;

const PIECE_LEN: u32 = 32 * 1024;

fn payload(len: u64) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// One leecher and what it shares with others, with a server that the test plays.
struct Bench {
    target: Target,
    habits: Habits,
    tally: Tally,
    random: Random,
    leecher: Leecher,
    data: Vec<u8>,
}

impl Bench {
    fn new(len: u64, habits: Habits) -> Bench {
        let data = payload(len);
        let target = Target::for_test(Geometry::new(PIECE_LEN, len).unwrap(), &data);
        let leecher = Leecher::new(peer_id(1, 1), &target, &habits, 0, 1);
        Bench {
            target,
            habits,
            tally: Tally::default(),
            random: Random::new(1),
            leecher,
            data,
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Leecher, &mut Context<'_>) -> T) -> T {
        let mut context = Context {
            target: &self.target,
            habits: &self.habits,
            tally: &mut self.tally,
            random: &mut self.random,
        };
        act(&mut self.leecher, &mut context)
    }

    fn hear(&mut self, bytes: &[u8], now: u64) -> Result<(), Fault> {
        self.with(|leecher, context| leecher.on_bytes(bytes, now, context))
    }

    fn say(&mut self, message: Message<'_>, now: u64) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        wire::encode(&message, &mut bytes);
        self.hear(&bytes, now)
    }

    fn greet(&mut self, reserved: [u8; 8]) {
        let info_hash = self.target.info_hash;
        let peer_id = PeerId([b's'; 20]);
        let hello = Handshake {
            reserved: Reserved(reserved),
            info_hash,
            peer_id,
        }
        .encode();
        self.leecher.out.clear();
        // Torn, as TCP may do.
        self.hear(&hello[..30], 0).unwrap();
        assert!(!self.leecher.is_open() && self.leecher.out.is_empty());
        self.hear(&hello[30..], 0).unwrap();
        assert!(self.leecher.is_open());
    }

    fn open(&mut self) {
        self.greet([0; 8]);
        let have = Bitfield::full(self.target.geometry.piece_count());
        self.say(Message::Bitfield(have.as_bytes()), 0).unwrap();
        assert!(!self.leecher.is_ready());
        self.say(Message::Unchoke, 0).unwrap();
        assert!(self.leecher.is_ready());
        self.leecher.out.clear();
    }

    /// The requests that were sent since the last call.
    fn requests(&mut self) -> Vec<BlockRequest> {
        let out = std::mem::take(&mut self.leecher.out);
        out.chunks(17)
            .map(|m| {
                self.target
                    .geometry
                    .check(word(&m[5..]), word(&m[9..]), word(&m[13..]))
                    .unwrap()
            })
            .collect()
    }

    fn serve(&mut self, block: BlockRequest, now: u64) {
        let at = self.target.geometry.offset(&block) as usize;
        let data = self.data[at..at + block.length() as usize].to_vec();
        self.say(
            Message::Piece {
                piece: block.piece().get(),
                begin: block.begin(),
                data: &data,
            },
            now,
        )
        .unwrap();
    }
}

fn habits() -> Habits {
    Habits {
        queue: 4,
        block: 16 * 1024,
        sequential: false,
        verify: 0.0,
        fast: false,
        extended: false,
        idle: false,
    }
}

#[test]
fn interest_is_sent_behind_the_answer_and_not_before() {
    let mut bench = Bench::new(100_000, habits());
    assert_eq!(bench.leecher.out.len(), HANDSHAKE_LEN);
    bench.greet([0; 8]);
    assert_eq!(bench.leecher.out, [0, 0, 0, 1, 2]);
}

#[test]
fn the_queue_is_filled_with_whole_pieces_in_order_and_kept_full() {
    let mut bench = Bench::new(10 * u64::from(PIECE_LEN), habits());
    bench.open();
    bench.with(|leecher, context| leecher.fill(5, context));
    let asked = bench.requests();
    assert_eq!(asked.len(), 4);
    assert!(
        asked
            .chunks(2)
            .all(|pair| pair[0].piece() == pair[1].piece() && pair[0].begin() == 0 && pair[1].begin() == 16_384)
    );
    bench.serve(asked[0], 15);
    bench.with(|leecher, context| leecher.fill(15, context));
    assert_eq!(bench.requests().len(), 1);
    assert_eq!(
        (bench.tally.blocks, bench.tally.bytes, bench.tally.latency.max()),
        (1, 16_384, 10)
    );
}

#[test]
fn the_last_block_of_an_odd_torrent_is_asked_for_at_its_length_and_no_block_twice() {
    let mut bench = Bench::new(20_000, habits());
    bench.open();
    bench.with(|leecher, context| leecher.fill(0, context));
    let lengths: Vec<u32> = bench.requests().iter().map(BlockRequest::length).collect();
    assert_eq!(lengths, [16_384, 3_616]);
}

#[test]
fn samples_are_checked_in_any_order_of_blocks_and_a_wrong_byte_is_found() {
    let mut bench = Bench::new(
        10 * u64::from(PIECE_LEN),
        Habits {
            verify: 1.0,
            sequential: true,
            ..habits()
        },
    );
    bench.open();
    bench.with(|leecher, context| leecher.fill(0, context));
    let asked = bench.requests();
    for block in [asked[3], asked[1], asked[2], asked[0]] {
        bench.serve(block, 1);
    }
    assert_eq!((bench.tally.verified_good, bench.tally.verified_bad), (2, 0));
    bench.with(|leecher, context| leecher.fill(0, context));
    let asked = bench.requests();
    bench.data[bench.target.geometry.offset(&asked[1]) as usize] ^= 1;
    bench.serve(asked[0], 1);
    bench.serve(asked[1], 1);
    assert_eq!((bench.tally.verified_good, bench.tally.verified_bad), (2, 1));
    bench.with(|leecher, context| leecher.end(context.tally));
    assert_eq!(bench.tally.sample_bytes, 0);
}

#[test]
fn a_choke_takes_the_requests_back_and_an_unchoke_sends_them_again() {
    let mut bench = Bench::new(10 * u64::from(PIECE_LEN), habits());
    bench.open();
    bench.with(|leecher, context| leecher.fill(0, context));
    let before = bench.requests();
    bench.say(Message::Choke, 1).unwrap();
    bench.with(|leecher, context| leecher.fill(1, context));
    assert!(bench.requests().is_empty());
    // This one was on its way.
    bench.serve(before[0], 2);
    bench.say(Message::Unchoke, 3).unwrap();
    bench.with(|leecher, context| leecher.fill(3, context));
    let after = bench.requests();
    assert_eq!(after[..3], before[1..]);
    assert_eq!(
        (after.len(), bench.tally.blocks, bench.tally.chokes, bench.tally.unasked),
        (4, 1, 1, 0)
    );
}

#[test]
fn a_reject_is_asked_again_only_after_the_sweep() {
    let mut bench = Bench::new(10 * u64::from(PIECE_LEN), Habits { fast: true, ..habits() });
    bench.greet([0, 0, 0, 0, 0, 0, 0, 4]);
    assert_eq!(bench.leecher.out, [0, 0, 0, 1, 15, 0, 0, 0, 1, 2]);
    bench.say(Message::HaveAll, 0).unwrap();
    bench.say(Message::Unchoke, 0).unwrap();
    bench.leecher.out.clear();
    bench.with(|leecher, context| leecher.fill(0, context));
    let first = bench.requests()[0];
    let (piece, begin, length) = (first.piece().get(), first.begin(), first.length());
    bench.say(Message::Reject { piece, begin, length }, 1).unwrap();
    bench.with(|leecher, context| leecher.fill(1, context));
    assert!(bench.requests().is_empty());
    bench.leecher.forgive();
    bench.with(|leecher, context| leecher.fill(1, context));
    assert_eq!(bench.requests(), [first]);
}

#[test]
fn only_offered_pieces_are_asked_for() {
    let mut bench = Bench::new(10 * u64::from(PIECE_LEN), habits());
    bench.greet([0; 8]);
    bench.say(Message::Unchoke, 0).unwrap();
    assert!(!bench.leecher.is_ready());
    bench.say(Message::Have(7), 0).unwrap();
    bench.leecher.out.clear();
    bench.with(|leecher, context| leecher.fill(0, context));
    assert!(bench.requests().iter().all(|block| block.piece().get() == 7));
}

#[test]
fn foreign_answers_are_faults() {
    let mut bench = Bench::new(100_000, habits());
    assert_eq!(bench.hear(&[b'x'; HANDSHAKE_LEN], 0), Err(Fault::NotBitTorrent));
    let mut bench = Bench::new(100_000, habits());
    let other = Handshake {
        reserved: Reserved::default(),
        info_hash: InfoHash([9; 20]),
        peer_id: PeerId([0; 20]),
    };
    assert_eq!(bench.hear(&other.encode(), 0), Err(Fault::OtherTorrent));
    let mut bench = Bench::new(100_000, habits());
    bench.greet([0; 8]);
    assert_eq!(bench.say(Message::Bitfield(&[0; 9]), 0), Err(Fault::BadMessage));
    let mut bench = Bench::new(100_000, habits());
    bench.open();
    let at_the_end = Message::Piece {
        piece: u32::MAX,
        begin: u32::MAX,
        data: &[1, 2, 3],
    };
    assert_eq!(bench.say(at_the_end, 0), Ok(()));
    assert_eq!(bench.tally.unasked, 1);
}
