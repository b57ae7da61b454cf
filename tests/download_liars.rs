//! btd downloads from peers that mean harm, and from honest ones beside them: it has everything in the end, whoever lies is
//! shut out before it has spoilt more than two pieces, and nobody else is.

mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use support::btd::Config;
use support::leech::{EARLY, EARLY_SHARDS, Leech, Source, files, wait_for_metric};
use support::payload::Payload;
use support::rogue::{Manner, Rogue, contents};
use support::scratch::Scratch;
use support::torrent::Torrent;

/// A payload, its torrent, and its bytes.
fn lone(name: &str, piece_len: u32) -> (Scratch, Payload, Torrent, Arc<Vec<u8>>) {
    let scratch = Scratch::new(name);
    let data = scratch.dir("data");
    let payload = Payload::make(&data, "folder", 5, &files());
    let torrent = Torrent::create(&payload.path(), piece_len, scratch.path().join("t.torrent"));
    let contents = contents(&torrent, &data);
    (scratch, payload, torrent, contents)
}

/// One of five lies.
const LIAR: usize = 2;

/// Downloads from five of whom one lies, each at the address that `ip` has for it.
fn one_of_five_lies(name: &str, piece_len: u32, config: Config, ip: impl Fn(u8) -> Ipv4Addr) {
    let (scratch, payload, torrent, contents) = lone(name, piece_len);
    let rogues: Vec<Rogue> = (0..5)
        .map(|number| {
            let manner = match usize::from(number) == LIAR {
                true => Manner::Lies,
                false => Manner::Honest,
            };
            Rogue::start(manner, ip(number), &torrent, contents.clone(), number)
        })
        .collect();
    let is_early = config.more == EARLY;
    let config = Config {
        peers: rogues.iter().map(|rogue| rogue.addr).collect(),
        ..config
    };
    let leech = Leech::start(&scratch, "leech", &torrent, config);
    leech.check(&payload);
    let len = payload.len() as f64;
    wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= len);
    // Bytes of a bad piece count too, so that all of them may be told a tick before the ban is.
    wait_for_metric(&leech.btd, "btd_peers_banned_total", |banned| banned >= 1.0);
    assert_eq!(leech.btd.metric("btd_peers_banned_total"), 1.0);
    let bad = leech.btd.metric("btd_pieces_bad_total");
    assert!((1.0..=2.0).contains(&bad), "{bad} bad pieces");
    let log = leech.btd.process.log();
    let banned: Vec<&str> = log.lines().filter(|line| line.contains("is shut out")).collect();
    let of_liar = format!(" {} has sent wrong bytes", rogues[LIAR].addr);
    assert!(banned.len() == 1 && banned[0].contains(&of_liar), "{banned:?}");
    for (number, rogue) in rogues.iter().enumerate() {
        assert!(rogue.asked() > 0, "{number} was asked for something");
        assert_eq!(
            rogue.connections(),
            1,
            "{number} neither lost its connection nor came back"
        );
    }
    let read_back = leech.btd.metric("btd_disk_read_bytes_total");
    assert_eq!(read_back > 0.0, is_early, "{read_back} bytes");
    leech.btd.stop();
}

/// Each at an address of its own.
fn apart(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, number + 1)
}

/// As behind one router.
fn together(_: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, 9)
}

/// For pieces of 1 MiB, which are written as they come.
fn early() -> Config {
    Config {
        shards: EARLY_SHARDS,
        more: EARLY.to_owned(),
        ..Config::default()
    }
}

#[test]
fn one_of_five_lies_and_is_shut_out_and_no_other() {
    one_of_five_lies("liar", 256 << 10, Config::default(), apart);
}

#[test]
fn one_of_five_at_the_same_address_lies_and_is_shut_out_and_no_other() {
    one_of_five_lies("liar-together", 256 << 10, Config::default(), together);
}

/// Of pieces that do not go into the write buffer few are begun at a time, so that peers give blocks of the same ones.
#[test]
fn one_of_five_lies_in_pieces_that_are_written_as_they_come_and_is_shut_out_and_no_other() {
    one_of_five_lies("liar-early", 1 << 20, early(), apart);
}

#[test]
fn one_of_five_at_the_same_address_lies_in_pieces_that_are_written_as_they_come_and_no_other_is_shut_out() {
    one_of_five_lies("liar-early-together", 1 << 20, early(), together);
}

#[test]
fn peers_of_every_bad_manner_do_not_keep_an_honest_one_from_giving_everything() {
    let (scratch, payload, torrent, contents) = lone("manners", 64 << 10);
    let manners = [
        Manner::Silent,
        Manner::Trickles,
        Manner::Flaps,
        Manner::Babbles,
        Manner::Leaves,
        Manner::Honest,
    ];
    let rogues: Vec<Rogue> = (0..)
        .zip(manners)
        .map(|(number, manner)| {
            let ip = Ipv4Addr::new(127, 0, 3, number + 1);
            Rogue::start(manner, ip, &torrent, contents.clone(), number)
        })
        .collect();
    let peers = rogues.iter().map(|rogue| rogue.addr).collect();
    let leech = Leech::from(&scratch, "leech", &torrent, peers);
    leech.check(&payload);
    let len = payload.len() as f64;
    wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= len);
    assert_eq!(leech.btd.metric("btd_peers_banned_total"), 0.0);
    for (rogue, manner) in std::iter::zip(&rogues, manners) {
        assert!(rogue.asked() > 0, "{manner:?} was asked for something");
    }
}

/// How long a download takes, in seconds, from an honest seed that gives 4 MB/s and from these.
fn takes(name: &str, source: &Source, others: &[Rogue]) -> f64 {
    let peers = others
        .iter()
        .map(|rogue| rogue.addr)
        .chain([source.btd.peers])
        .collect();
    let began = Instant::now();
    let leech = Leech::from(&source.scratch, name, &source.torrent, peers);
    leech.check(&source.payload);
    let seconds = began.elapsed().as_secs_f64();
    leech.btd.stop();
    seconds
}

/// Nine tenths of what it gives by itself, and three seconds for what the others were asked for and did not send.
#[test]
fn honest_seed_beside_peers_of_every_bad_manner_is_held_up_by_none_of_them() {
    let more = "[limits]\nupload-rate = \"4 MB/s\"\n";
    let source = Source::start_with("manners-time", &files(), 64 << 10, more);
    let contents = contents(&source.torrent, &source.scratch.path().join("seed-data"));
    let alone = takes("alone", &source, &[]);
    let manners = [
        Manner::Silent,
        Manner::Lies,
        Manner::Trickles,
        Manner::Flaps,
        Manner::Babbles,
        Manner::Leaves,
    ];
    let rogues: Vec<Rogue> = (0..)
        .zip(manners)
        .map(|(number, manner)| {
            let ip = Ipv4Addr::new(127, 0, 4, number + 1);
            Rogue::start(manner, ip, &source.torrent, contents.clone(), number)
        })
        .collect();
    let beside = takes("beside", &source, &rogues);
    println!("{alone:.1} s alone, {beside:.1} s beside");
    assert!(beside <= alone / 0.9 + 3.0, "{beside} s beside them, {alone} s alone");
}
