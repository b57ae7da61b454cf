//! When payload is verified that nothing is known of: as it is asked for (`verify = "lazy"`) or not at all (`"trust"`). Of
//! what is read as it is asked for no wrong byte leaves, whatever is on the disk.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use btd::proto::handshake::Reserved;
use btd::proto::wire::Message;
use support::btd::{Btd, Config};
use support::client::Client;
use support::leech::{SECONDS, info_hash};
use support::payload::Payload;
use support::peer::Peer;
use support::private_net;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{age, skip, wait_for, within};

const PIECE_LEN: u32 = 256 << 10;
const BLOCK_LEN: u32 = 16 << 10;
const PIECES: u32 = 32;
const LEN: u64 = PIECE_LEN as u64 * PIECES as u64;
/// Fast extension, BEP 6.
const FAST: Reserved = Reserved([0, 0, 0, 0, 0, 0, 0, 4]);
/// Numbers of messages.
const PIECE: u8 = 7;
const REJECT: u8 = 16;

/// A btd whose only torrent is verified in one of these ways.
struct Home {
    scratch: Scratch,
    data: PathBuf,
    payload: Payload,
    torrent: Torrent,
    config: Config,
}

impl Home {
    fn new(name: &str, verify: &str) -> Home {
        let scratch = Scratch::new(name);
        let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
        let payload = Payload::make(&data, "payload", 7, &[("payload".to_owned(), LEN)]);
        age(&payload.path());
        let torrent = Torrent::create(&payload.path(), PIECE_LEN, watch.join("payload.torrent"));
        let config = Config {
            shards: 1,
            watch: vec![(watch, data.clone())],
            // Behind the keys of the watch folder, which is the last section.
            more: format!("verify = \"{verify}\"\n"),
            ..Config::default()
        };
        Home {
            scratch,
            data,
            payload,
            torrent,
            config,
        }
    }

    fn start(&self) -> Btd {
        Btd::start(self.scratch.path(), &self.config)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.payload.path()).expect("read a payload")
    }

    /// Changes a byte in the middle of each of these pieces, which cannot be seen from outside.
    fn spoil(&self, pieces: &[u32]) {
        let mut bytes = self.bytes();
        for piece in pieces {
            bytes[(piece * PIECE_LEN + PIECE_LEN / 2) as usize] ^= 1;
        }
        fs::write(self.payload.path(), bytes).expect("write a payload");
        age(&self.payload.path());
    }

    fn peer(&self, btd: &Btd) -> Peer {
        wait_for("a peer is let in", within(30), || {
            let mut peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, info_hash(&self.torrent), FAST).ok()?;
            peer.say(&Message::HaveNone).ok()?;
            peer.hear_id(1).ok()?;
            Some(peer)
        })
    }

    /// All bytes of a piece, each block asked for by itself.
    fn fetch(&self, peer: &mut Peer, piece: u32) -> Vec<u8> {
        let begins = (0..PIECE_LEN).step_by(BLOCK_LEN as usize);
        let blocks = begins.map(|begin| peer.fetch(piece, begin, BLOCK_LEN).expect("a block"));
        blocks.collect::<Vec<_>>().concat()
    }
}

fn is(btd: &Btd, metric: &str, value: f64) {
    wait_for(&format!("{metric} is {value}"), within(SECONDS), || {
        (btd.metric(metric) == value).then_some(())
    });
}

fn piece_of(bytes: &[u8], piece: u32) -> &[u8] {
    &bytes[(piece * PIECE_LEN) as usize..][..PIECE_LEN as usize]
}

#[test]
fn lazy_payload_is_served_at_once_and_each_piece_is_verified_once_also_over_a_restart() {
    let home = Home::new("lazy", "lazy");
    let bytes = home.bytes();
    let btd = home.start();
    btd.wait_torrents("seeding", 1);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
    assert!(
        btd.process
            .log()
            .contains("32 of 32 pieces are verified when they are first asked for")
    );
    let mut peer = home.peer(&btd);
    assert!(home.fetch(&mut peer, 3) == piece_of(&bytes, 3));
    is(&btd, "btd_lazy_pieces_total", 1.0);
    // Not again, for this peer and another.
    assert!(home.fetch(&mut peer, 3) == piece_of(&bytes, 3));
    assert!(home.fetch(&mut home.peer(&btd), 3) == piece_of(&bytes, 3));
    // Pieces that are asked for all at once, by two peers: more than are read at a time.
    let mut other = home.peer(&btd);
    let wanted: BTreeSet<(u32, u32)> = (8..30).map(|piece| (piece, BLOCK_LEN)).collect();
    for peer in [&mut peer, &mut other] {
        for &(piece, begin) in &wanted {
            let length = BLOCK_LEN;
            peer.say(&Message::Request { piece, begin, length }).expect("ask");
        }
    }
    for peer in [&mut peer, &mut other] {
        let mut missing = wanted.clone();
        while !missing.is_empty() {
            let message = peer.hear_id(PIECE).expect("a block");
            let number = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().expect("four bytes"));
            let (piece, begin) = (number(1), number(5));
            assert!(missing.remove(&(piece, begin)));
            assert!(message[9..] == piece_of(&bytes, piece)[begin as usize..][..BLOCK_LEN as usize]);
        }
    }
    is(&btd, "btd_lazy_pieces_total", 23.0);
    assert_eq!(btd.metric("btd_lazy_pieces_bad_total"), 0.0);
    btd.stop();

    let btd = home.start();
    btd.wait_torrents("seeding", 1);
    assert!(
        btd.process
            .log()
            .contains("9 of 32 pieces are verified when they are first asked for")
    );
    let mut peer = home.peer(&btd);
    assert!(home.fetch(&mut peer, 3) == piece_of(&bytes, 3));
    assert!(home.fetch(&mut peer, 4) == piece_of(&bytes, 4));
    is(&btd, "btd_lazy_pieces_total", 1.0);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
    btd.stop();
}

#[test]
fn wrong_piece_of_lazy_payload_is_withdrawn_before_any_of_it_is_sent_and_stays_so_over_a_restart() {
    let home = Home::new("lazy-wrong", "lazy");
    let bytes = home.bytes();
    home.spoil(&[5]);
    let btd = home.start();
    btd.wait_torrents("seeding", 1);
    let mut peer = home.peer(&btd);
    // Also the blocks that are right in themselves, and what was asked for behind them.
    let blocks = PIECE_LEN / BLOCK_LEN;
    for begin in (0..PIECE_LEN).step_by(BLOCK_LEN as usize) {
        let (piece, length) = (5, BLOCK_LEN);
        peer.say(&Message::Request { piece, begin, length }).expect("ask");
    }
    let (piece, begin, length) = (6, 0, BLOCK_LEN);
    peer.say(&Message::Request { piece, begin, length }).expect("ask");
    let mut rejected = 0;
    loop {
        let message = peer.hear().expect("an answer");
        match message.first() {
            Some(&REJECT) => rejected += 1,
            Some(&PIECE) => {
                assert_eq!(message[1..5], 6_u32.to_be_bytes(), "some of the wrong piece was sent");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(rejected, blocks);
    is(&btd, "btd_lazy_pieces_bad_total", 1.0);
    wait_for("the log tells of it", within(SECONDS), || {
        let log = btd.process.log();
        (log.contains("1 piece of \"payload\" (") && log.contains("seeding a part of \"payload\"")).then_some(())
    });
    btd.wait_torrents("partial", 1);
    // The others are served as before, and read when they are asked for.
    let mut peer = home.peer(&btd);
    assert!(home.fetch(&mut peer, 7) == piece_of(&bytes, 7));
    btd.stop();
    let btd = home.start();
    btd.wait_torrents("partial", 1);
    is(&btd, "btd_check_read_bytes_total", 0.0);
    btd.stop();
}

/// A real client gets everything, and not one piece that is wrong: what is wrong on the disk is had anew from another seed.
#[test]
fn real_client_gets_no_bad_byte_of_lazy_payload_and_what_is_wrong_is_fetched_again() {
    let test = "real_client_gets_no_bad_byte_of_lazy_payload_and_what_is_wrong_is_fetched_again";
    private_net::run(test, || {
        if let Some(why) = Client::Libtorrent.missing() {
            return skip(&why);
        }
        let mut home = Home::new("lazy-client", "lazy");
        let good = home.scratch.dir("good");
        fs::copy(home.payload.path(), good.join("payload")).expect("copy a payload");
        let good_watch = home.scratch.dir("good-watch");
        fs::copy(&home.torrent.path, good_watch.join("payload.torrent")).expect("copy a torrent");
        let config = Config {
            listen: private_net::SEED,
            watch: vec![(good_watch, good.clone())],
            ..Config::default()
        };
        let seed = Btd::start(&home.scratch.dir("seed"), &config);
        seed.wait_seeding(1);
        home.spoil(&[0, 5, 31]);
        home.config.listen = private_net::SEED;
        home.config.peers = vec![seed.peers];
        home.config.more = "verify = \"lazy\"\n[announce]\nallow-private = true\n".to_owned();
        let btd = home.start();
        btd.wait_torrents("seeding", 1);
        assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
        let scratch = home.scratch.path();
        let torrents = [home.torrent.clone()];
        let saved = Client::Libtorrent.download(scratch, &torrents, btd.peers, within(SECONDS));
        let fetched = Payload {
            data_dir: home.data.clone(),
            name: home.payload.name.clone(),
            files: home.payload.files.clone(),
        };
        fetched.assert_same(&saved[0], true);
        let log = fs::read_to_string(scratch.join("Libtorrent/log")).expect("read a log");
        assert!(!log.contains("hash for piece"), "libtorrent got what is wrong:\n{log}");
        is(&btd, "btd_lazy_pieces_bad_total", 3.0);
        is(&btd, "btd_pieces_written_total", 3.0);
        btd.wait_torrents("seeding", 1);
        fetched.assert_same(&home.data, true);
        btd.stop();
        seed.stop();
    });
}

#[test]
fn trusted_payload_is_never_read_until_somebody_asks_for_it() {
    let home = Home::new("trust", "trust");
    home.spoil(&[5]);
    let bytes = home.bytes();
    let btd = home.start();
    btd.wait_torrents("seeding", 1);
    // What is on the disk is what is sent.
    assert!(home.fetch(&mut home.peer(&btd), 5) == piece_of(&bytes, 5));
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
    let log = btd.process.log();
    assert!(log.contains("taken for right") && !log.contains("checked in"), "{log}");
    btd.stop();
    let btd = home.start();
    btd.wait_torrents("seeding", 1);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
    verify(home.scratch.path());
    btd.wait_torrents("partial", 1);
    is(&btd, "btd_check_read_bytes_total", LEN as f64);
    btd.stop();
    // That is known from then on.
    let btd = home.start();
    btd.wait_torrents("partial", 1);
    btd.stop();
}

/// Issue 7: it was believed anew, by its length.
#[test]
fn trusted_payload_that_was_changed_is_read_before_it_is_served_again() {
    let home = Home::new("trust-changed", "trust");
    let btd = home.start();
    btd.wait_torrents("seeding", 1);
    btd.stop();
    home.spoil(&[5]);
    let btd = home.start();
    btd.wait_torrents("partial", 1);
    is(&btd, "btd_check_read_bytes_total", LEN as f64);
    btd.stop();
}

#[test]
fn file_of_another_length_is_read_however_payload_is_verified() {
    for mode in ["lazy", "trust"] {
        let home = Home::new(&format!("short-{mode}"), mode);
        let bytes = home.bytes();
        fs::write(home.payload.path(), &bytes[..bytes.len() / 2]).expect("write half of a payload");
        age(&home.payload.path());
        let btd = home.start();
        btd.wait_torrents("partial", 1);
        is(&btd, "btd_check_read_bytes_total", LEN as f64 / 2.0);
        btd.stop();
    }
}

fn verify(home: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    let command = command.args(["ctl", "verify", "--all", "--state-dir"]);
    let status = command.arg(home.join("state")).status().expect("run btd ctl");
    assert!(status.success());
}
