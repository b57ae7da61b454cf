//! Peers that break the protocol, one kind after the other: each is dropped for the reason that the metric names, or
//! served if what it does is only odd, and nobody else notices.

mod support;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use btd::proto::InfoHash;
use btd::proto::handshake::Reserved;
use btd::proto::peer::VAIN_REQUESTS_MAX;
use btd::proto::wire::{self, Message};
use support::btd::{Btd, Config};
use support::payload::Payload;
use support::peer::{Peer, hello};
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{wait_for, within};

const PIECE_LEN: u32 = 256 << 10;
/// Nine pieces and a short tenth.
const PAYLOAD_LEN: u64 = 9 * PIECE_LEN as u64 + 100_000;
const PIECE_COUNT: u32 = 10;
const BLOCK_LEN: u32 = 16 << 10;
const PLAIN: Reserved = Reserved([0; 8]);

/// What comes of a misdeed.
enum Then {
    /// The connection is closed, and counted under this reason.
    Dropped(&'static str),
    /// The connection goes on, and is served.
    Served,
}

use Then::{Dropped, Served};

/// What a peer does on a connection. An error is as good as having been dropped.
type Misdeed = fn(&mut Peer) -> std::io::Result<()>;

/// Before a handshake was exchanged.
const OPENINGS: &[(&str, Misdeed, Then)] = &[
    (
        "another protocol",
        |peer| peer.send(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n"),
        Dropped("not_a_handshake"),
    ),
    (
        "an encrypted opening",
        |peer| peer.send(&[0xa5; 96]),
        Dropped("not_a_handshake"),
    ),
    (
        "a handshake that goes wrong late",
        |peer| peer.send(b"\x13BitTorrent protocoX"),
        Dropped("not_a_handshake"),
    ),
    (
        "a torrent that is not here",
        |peer| peer.send(&hello(InfoHash([9; 20]), PLAIN)),
        Dropped("unknown_info_hash"),
    ),
];

/// Behind the handshakes, unchoked. The first flag: the fast extension and the extension protocol were negotiated.
const DEEDS: &[(&str, bool, Misdeed, Then)] = &[
    (
        "a length of 2 GiB",
        false,
        |peer| peer.send(&[0x7f, 0xff, 0xff, 0xff, 20]),
        Dropped("message_too_long"),
    ),
    (
        "a length past the longest message",
        false,
        |peer| peer.send(&[0, 1, 0, 0, 7]),
        Dropped("message_too_long"),
    ),
    (
        "a choke with a body",
        false,
        |peer| peer.send(&[0, 0, 0, 2, 0, 0]),
        Dropped("message_too_long"),
    ),
    (
        "a short request",
        false,
        |peer| peer.send(&[0, 0, 0, 5, 6, 0, 0, 0, 0]),
        Dropped("message_too_long"),
    ),
    (
        "a request for a piece that is not",
        false,
        |peer| request(peer, PIECE_COUNT, 0, BLOCK_LEN),
        Dropped("bad_request"),
    ),
    (
        "a request for the largest piece number",
        false,
        |peer| request(peer, u32::MAX, 0, 1),
        Dropped("bad_request"),
    ),
    (
        "a request that overflows",
        false,
        |peer| request(peer, 0, u32::MAX, BLOCK_LEN),
        Dropped("bad_request"),
    ),
    (
        "a request for nothing",
        false,
        |peer| request(peer, 0, 0, 0),
        Dropped("bad_request"),
    ),
    (
        "a request longer than a block",
        false,
        |peer| request(peer, 0, 0, BLOCK_LEN + 1),
        Dropped("bad_request"),
    ),
    (
        "a request past its piece",
        false,
        |peer| request(peer, 0, PIECE_LEN - 1, 2),
        Dropped("bad_request"),
    ),
    (
        "a request past the end",
        false,
        |peer| request(peer, 9, 100_000 - 1, 2),
        Dropped("bad_request"),
    ),
    (
        "a cancel out of bounds",
        false,
        |peer| cancel(peer, u32::MAX, 0, 1),
        Dropped("bad_request"),
    ),
    (
        "a bitfield too short",
        false,
        |peer| peer.say(&Message::Bitfield(&[0])),
        Dropped("bad_bitfield"),
    ),
    (
        "a bitfield too long",
        false,
        |peer| peer.say(&Message::Bitfield(&[0; 3])),
        Dropped("bad_bitfield"),
    ),
    (
        "a bitfield with spare bits",
        false,
        |peer| peer.say(&Message::Bitfield(&[0, 1])),
        Dropped("bad_bitfield"),
    ),
    ("two bitfields", true, two_bitfields, Served),
    (
        "have-none after a bitfield",
        true,
        have_none_late,
        Dropped("late_have_none"),
    ),
    (
        "a have of a piece that is not",
        false,
        |peer| peer.say(&Message::Have(PIECE_COUNT)),
        Dropped("bad_piece"),
    ),
    (
        "have-all out of the blue",
        false,
        |peer| peer.say(&Message::HaveAll),
        Dropped("fast_not_negotiated"),
    ),
    (
        "a suggestion out of the blue",
        false,
        |peer| peer.say(&Message::Suggest(0)),
        Dropped("fast_not_negotiated"),
    ),
    (
        "an extended message out of the blue",
        false,
        |peer| peer.say(&Message::Extended { id: 0, payload: b"de" }),
        Dropped("extension_not_negotiated"),
    ),
    (
        "an extension handshake that is no dictionary",
        true,
        |peer| {
            peer.say(&Message::Extended {
                id: 0,
                payload: b"li1ee",
            })
        },
        Dropped("bad_extension_handshake"),
    ),
    (
        "an extension handshake nested without end",
        true,
        |peer| {
            peer.say(&Message::Extended {
                id: 0,
                payload: &[b'l'; 16 << 10],
            })
        },
        Dropped("bad_extension_handshake"),
    ),
    (
        "a block that nobody asked for",
        false,
        |peer| {
            peer.say(&Message::Piece {
                piece: 0,
                begin: 0,
                data: &[0; 16 << 10],
            })
        },
        Dropped("answer_not_asked_for"),
    ),
    (
        "unknown messages without end",
        false,
        |peer| unknown_messages(peer, 100),
        Dropped("too_many_unknown"),
    ),
    (
        "a few unknown messages",
        false,
        |peer| unknown_messages(peer, 10),
        Served,
    ),
    (
        "a million keep-alives",
        false,
        |peer| peer.send(&vec![0; 4_000_000]),
        Served,
    ),
    (
        "blocks taken back that it never asked for, without end",
        false,
        |peer| take_back_unasked(peer, 2 * VAIN_REQUESTS_MAX),
        Dropped("request_flood"),
    ),
    (
        "as many of them as a queue may have under way",
        false,
        |peer| take_back_unasked(peer, VAIN_REQUESTS_MAX),
        Served,
    ),
    ("requests taken back at once", true, cancel_storm, Served),
    ("interest that comes and goes", true, interest_storm, Served),
    ("one byte at a time", true, one_byte_at_a_time, Served),
];

fn request(peer: &mut Peer, piece: u32, begin: u32, length: u32) -> std::io::Result<()> {
    peer.say(&Message::Request { piece, begin, length })
}

fn cancel(peer: &mut Peer, piece: u32, begin: u32, length: u32) -> std::io::Result<()> {
    peer.say(&Message::Cancel { piece, begin, length })
}

fn two_bitfields(peer: &mut Peer) -> std::io::Result<()> {
    peer.say(&Message::Bitfield(&[0x80, 0]))?;
    peer.say(&Message::Bitfield(&[0x80, 0]))
}

fn have_none_late(peer: &mut Peer) -> std::io::Result<()> {
    peer.say(&Message::Bitfield(&[0x80, 0]))?;
    peer.say(&Message::HaveNone)
}

fn unknown_messages(peer: &mut Peer, count: u8) -> std::io::Result<()> {
    (0..count).try_for_each(|n| peer.send(&[0, 0, 0, 3, 100 + n, 1, 2]))
}

/// More requests than any queue holds, all different, and none of the answers read.
fn cancel_storm(peer: &mut Peer) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for n in 0..20_000 {
        let (piece, begin, length) = (n % 9, 0, BLOCK_LEN);
        wire::encode(&Message::Request { piece, begin, length }, &mut bytes);
        wire::encode(&Message::Cancel { piece, begin, length }, &mut bytes);
        // Also one that was never asked for.
        wire::encode(
            &Message::Cancel {
                piece,
                begin: BLOCK_LEN,
                length,
            },
            &mut bytes,
        );
        if bytes.len() > 64 << 10 {
            peer.send_and_read(&bytes)?;
            bytes.clear();
        }
    }
    peer.send_and_read(&bytes)
}

fn take_back_unasked(peer: &mut Peer, count: u16) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let (piece, begin, length) = (0, 0, BLOCK_LEN);
        wire::encode(&Message::Cancel { piece, begin, length }, &mut bytes);
    }
    peer.send_and_read(&bytes)
}

fn interest_storm(peer: &mut Peer) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for _ in 0..20_000 {
        wire::encode(&Message::NotInterested, &mut bytes);
        wire::encode(&Message::Interested, &mut bytes);
    }
    peer.send_and_read(&bytes)
}

fn one_byte_at_a_time(peer: &mut Peer) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    wire::encode(&Message::KeepAlive, &mut bytes);
    wire::encode(
        &Message::Extended {
            id: 0,
            payload: b"d1:v6:slowlye",
        },
        &mut bytes,
    );
    wire::encode(&Message::HaveNone, &mut bytes);
    wire::encode(&Message::Interested, &mut bytes);
    let (piece, begin, length) = (3, BLOCK_LEN, BLOCK_LEN);
    wire::encode(&Message::Request { piece, begin, length }, &mut bytes);
    bytes.chunks(1).try_for_each(|byte| peer.send(byte))
}

/// A btd that seeds one torrent, and a peer that behaves.
struct Scene {
    btd: Btd,
    info_hash: InfoHash,
    payload: File,
    healthy: Peer,
    /// Every peer comes from an address of its own, so that no limit per address is in the way.
    next_source: u32,
    _scratch: Scratch,
}

impl Scene {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
        let payload = Payload::make(&data, "hostile.bin", 5, &[("hostile.bin".to_owned(), PAYLOAD_LEN)]);
        let torrent = Torrent::create(&payload.path(), PIECE_LEN, watch.join("hostile.torrent"));
        let info_hash = InfoHash(torrent.info_hash.try_into().expect("20 bytes"));
        let config = Config {
            watch: vec![(watch, data)],
            ..Config::default()
        };
        let btd = Btd::start(scratch.path(), &config);
        wait_for("the torrent is seeded", within(60), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") == 1.0).then_some(())
        });
        let mut healthy = Peer::join(btd.peers, Ipv4Addr::new(127, 50, 0, 1), info_hash, PLAIN).expect("join");
        healthy.hear_id(1).expect("be unchoked");
        let payload = File::open(payload.path()).expect("open the payload");
        Self {
            btd,
            info_hash,
            payload,
            healthy,
            next_source: 0,
            _scratch: scratch,
        }
    }

    fn source(&mut self) -> Ipv4Addr {
        self.next_source += 1;
        Ipv4Addr::from_bits(Ipv4Addr::new(127, 51, 0, 0).to_bits() + self.next_source)
    }

    fn connect(&mut self) -> Peer {
        let source = self.source();
        Peer::connect(self.btd.peers, source).expect("connect")
    }

    /// A peer behind its handshake, unchoked.
    fn join(&mut self, extended: bool) -> Peer {
        let reserved = if extended { Reserved::OURS } else { PLAIN };
        let source = self.source();
        let mut peer = Peer::join(self.btd.peers, source, self.info_hash, reserved).expect("join");
        peer.hear_id(1).expect("be unchoked");
        peer
    }

    fn drops(&self, reason: &str) -> f64 {
        self.btd.metric(&format!("btd_peer_drops_total{{reason=\"{reason}\"}}"))
    }

    fn assert_serves(&self, what: &str, peer: &mut Peer) {
        let block = peer.fetch(3, BLOCK_LEN, BLOCK_LEN);
        let block = block.unwrap_or_else(|error| panic!("{what}: not served: {error}"));
        let mut expected = vec![0; BLOCK_LEN as usize];
        let at = 3 * u64::from(PIECE_LEN) + u64::from(BLOCK_LEN);
        self.payload.read_exact_at(&mut expected, at).expect("read the payload");
        assert!(block == expected, "{what}: wrong bytes");
    }

    /// What the misdeed came to, and that the healthy peer is none the worse for it.
    fn assert_comes_to(&mut self, what: &str, mut peer: Peer, misdeed: Misdeed, then: &Then) {
        match then {
            Dropped(reason) => {
                let before = self.drops(reason);
                // Dropped half-way through, it need not be able to send the rest.
                let _ = misdeed(&mut peer);
                peer.wait_closed(what, within(20));
                wait_for(&format!("{what}: counted as {reason}"), within(10), || {
                    (self.drops(reason) == before + 1.0).then_some(())
                });
            }
            Served => {
                misdeed(&mut peer).unwrap_or_else(|error| panic!("{what}: {error}"));
                self.assert_serves(what, &mut peer);
            }
        }
        let mut healthy = std::mem::replace(&mut self.healthy, peer);
        self.assert_serves(&format!("the healthy peer beside {what}"), &mut healthy);
        self.healthy = healthy;
    }
}

#[test]
fn openings_that_are_no_handshake_are_dropped_by_reason() {
    let mut scene = Scene::new("openings");
    for (what, misdeed, then) in OPENINGS {
        let peer = scene.connect();
        scene.assert_comes_to(what, peer, *misdeed, then);
    }
    scene.btd.stop();
}

#[test]
fn breaches_of_the_protocol_are_dropped_by_reason_and_oddities_are_served() {
    let mut scene = Scene::new("breaches");
    for (what, extended, misdeed, then) in DEEDS {
        println!("{what}");
        let peer = scene.join(*extended);
        scene.assert_comes_to(what, peer, *misdeed, then);
    }
    scene.btd.stop();
}

/// Ten seconds for the whole handshake, however the bytes trickle in.
#[test]
fn a_handshake_that_does_not_come_to_its_end_is_dropped_after_ten_seconds() {
    let mut scene = Scene::new("stalls");
    let before = scene.drops("handshake_timeout");
    let (mut silent, mut half, mut slow) = (scene.connect(), scene.connect(), scene.connect());
    let hello = hello(scene.info_hash, PLAIN);
    half.send(&hello[..67]).expect("send most of a handshake");
    let started = std::time::Instant::now();
    let mut sent = 0;
    // A byte a second is never silent for long, and never done in time.
    while started.elapsed().as_secs() < 9 {
        if started.elapsed().as_secs() >= sent {
            slow.send(&hello[sent as usize..=sent as usize])
                .expect("send a byte of a handshake");
            sent += 1;
        }
        scene
            .healthy
            .fetch(0, 0, BLOCK_LEN)
            .expect("the healthy peer is served meanwhile");
    }
    for (what, peer) in [
        ("silence", &mut silent),
        ("half a handshake", &mut half),
        ("a slow handshake", &mut slow),
    ] {
        peer.wait_closed(what, started + std::time::Duration::from_secs(14));
    }
    assert!(started.elapsed().as_secs_f64() > 9.0);
    wait_for("three timeouts are counted", within(5), || {
        (scene.drops("handshake_timeout") == before + 3.0).then_some(())
    });
    scene.btd.stop();
}

#[test]
fn thousands_that_connect_and_close_leave_nothing_behind() {
    let mut scene = Scene::new("storm");
    for round in 0..2_000 {
        let mut peer = scene.connect();
        // Some close at once, some in the middle of the handshake, some behind it.
        let hello = hello(scene.info_hash, Reserved::OURS);
        peer.send(&hello[..(round % 3) * 34])
            .expect("send a part of a handshake");
    }
    let mut peer = scene.join(false);
    scene.assert_serves("a peer behind the storm", &mut peer);
    wait_for("only two peers are left", within(20), || {
        (scene.btd.metric("btd_connections") == 2.0).then_some(())
    });
    scene.btd.stop();
}
