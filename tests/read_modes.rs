//! Payload is served right however it is read: past the page cache and through it, from a cache that holds all of it and
//! from one that has to let most of it go, on one shard and on four; under two names, and after it was replaced.

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use btd::harness::Target;
use btd::harness::load::{Load, Until, raise_open_files};
use btd::proto::handshake::Reserved;
use btd::proto::metainfo::Metainfo;
use btd::proto::wire::Message;
use support::btd::{Btd, Config};
use support::payload::Payload;
use support::peer::Peer;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{age, wait_for, within};

const PIECE_LEN: u32 = 256 << 10;
const BLOCK_LEN: u32 = 16 << 10;
/// Reject of BEP 6.
const REJECT: u8 = 16;

/// A file larger than the smallest cache, files that end anywhere within a sector, a block and a piece, and many of one
/// block together.
fn files() -> Vec<(String, u64)> {
    let mut files = vec![("mixed/large".to_owned(), (40 << 20) + 4_097)];
    files.extend((0..300).map(|index| (format!("mixed/tiny/{index:03}"), index * 7)));
    files.extend([16_383, 16_385, 262_143, 300_001].map(|len| (format!("mixed/odd/{len}"), len)));
    files
}

fn metainfo(torrent: &Torrent) -> Metainfo {
    Metainfo::parse(&fs::read(&torrent.path).expect("read a torrent")).expect("a torrent of our own")
}

/// Serves `files` to eight leechers, three times over, and hashes every piece they put together.
fn serve(read_mode: &str, cache_size: &str, shards: u32) -> (f64, f64) {
    raise_open_files();
    let scratch = Scratch::new("read-modes");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let payload = Payload::make(&data, "mixed", 11, &files());
    let torrent = Torrent::create(&payload.path(), PIECE_LEN, watch.join("mixed.torrent"));
    let config = Config {
        shards,
        watch: vec![(watch, data)],
        more: format!("[storage]\nread-mode = \"{read_mode}\"\ncache-size = \"{cache_size}\"\n"),
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    btd.wait_seeding(1);
    let load = Load {
        connections: 8,
        queue: 24,
        until: Until::Bytes(3 * payload.len()),
        verify: 1.0,
        busy: false,
        ..Load::new(btd.peers)
    };
    let report = load
        .run(&Target::from(&metainfo(&torrent)))
        .expect("drive the leechers");
    assert_eq!(report.connections.lost.len(), 0, "{:?}", report.connections.lost);
    assert_eq!((report.verified.bad, report.trouble.unasked), (0, 0), "{report}");
    let pieces = payload.len() / u64::from(PIECE_LEN);
    assert!(report.verified.good > 2 * pieces, "{report}");
    // Figures are as old as the last tick.
    let uploaded = wait_for("all that was sent is counted", within(10), || {
        let uploaded = btd.metric("btd_uploaded_bytes_total");
        (uploaded >= 3.0 * payload.len() as f64).then_some(uploaded)
    });
    let mode = match read_mode {
        "buffered" => "buffered",
        _ => "direct",
    };
    assert_eq!(btd.metric(&format!("btd_read_devices{{mode=\"{mode}\"}}")), 1.0);
    // Of 128 KiB each; without a cache 8 MiB for each shard.
    let mib = cache_size
        .strip_suffix(" MiB")
        .map_or(8 * shards, |mib| mib.parse().expect("a number"));
    let buffers = btd.metric("btd_buffers");
    assert!(
        buffers > 0.0 && buffers <= f64::from(8 * mib),
        "{buffers} with {mib} MiB"
    );
    let read = btd.metric("btd_disk_read_bytes_total");
    btd.stop();
    (read, uploaded)
}

#[test]
fn direct_reads_through_the_smallest_cache_serve_right_bytes() {
    serve("direct", "16 MiB", 1);
}

#[test]
fn direct_reads_on_four_shards_serve_right_bytes() {
    serve("auto", "64 MiB", 4);
}

#[test]
fn buffered_reads_through_the_smallest_cache_serve_right_bytes() {
    serve("buffered", "16 MiB", 1);
}

#[test]
fn buffered_reads_on_four_shards_serve_right_bytes() {
    serve("buffered", "64 MiB", 4);
}

#[test]
fn without_a_cache_right_bytes_are_served() {
    serve("direct", "off", 1);
}

#[test]
fn without_a_cache_but_the_kernels_right_bytes_are_served_on_four_shards() {
    serve("buffered", "off", 4);
}

#[test]
fn cache_that_holds_the_payload_reads_it_once() {
    let (read, uploaded) = serve("auto", "256 MiB", 1);
    assert!(read < 0.5 * uploaded, "{read} bytes read for {uploaded} sent");
}

/// A peer that has been unchoked.
fn unchoked(btd: &Btd, torrent: &Torrent) -> Peer {
    let info_hash = metainfo(torrent).info_hash;
    let mut peer = Peer::join(
        btd.peers,
        Ipv4Addr::LOCALHOST,
        info_hash,
        Reserved([0, 0, 0, 0, 0, 0, 0, 4]),
    )
    .expect("join");
    peer.say(&Message::HaveNone).expect("say so");
    peer.say(&Message::Interested).expect("say so");
    peer.hear_id(1).expect("an unchoke");
    peer
}

fn write_aged(file: &Path, contents: &[u8]) {
    fs::write(file, contents).expect("write payload");
    age(file);
}

#[test]
fn hard_linked_payload_of_two_torrents_is_read_once() {
    let scratch = Scratch::new("linked");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let payload = Payload::make(&data, "first", 5, &[("first".to_owned(), 1 << 20)]);
    fs::hard_link(data.join("first"), data.join("second")).expect("link payload");
    let torrents = ["first", "second"]
        .map(|name| Torrent::create(&data.join(name), PIECE_LEN, watch.join(format!("{name}.torrent"))));
    let config = Config {
        shards: 1,
        watch: vec![(watch, data)],
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    btd.wait_seeding(2);
    let contents = fs::read(payload.path()).expect("read payload");
    for torrent in &torrents {
        let mut peer = unchoked(&btd, torrent);
        for (block, expected) in (0..).zip(contents.chunks(BLOCK_LEN as usize)) {
            let at = block * BLOCK_LEN;
            let data = peer.fetch(at / PIECE_LEN, at % PIECE_LEN, BLOCK_LEN).expect("a block");
            assert!(data == expected, "block {block}");
        }
    }
    let sent = 2.0 * contents.len() as f64;
    wait_for("all that was sent is counted", within(10), || {
        (btd.metric("btd_uploaded_bytes_total") >= sent).then_some(())
    });
    // The second name is known to be the same file when it has been opened, for which one extent may be read again.
    let read = btd.metric("btd_disk_read_bytes_total");
    assert!(read <= (contents.len() + (256 << 10)) as f64, "{read} bytes read");
    btd.stop();
}

#[test]
fn file_replaced_after_its_check_is_not_served_and_checked_again() {
    let scratch = Scratch::new("replaced");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let contents = |seed: u32| -> Vec<u8> { (0..1_u32 << 19).map(|at| ((at ^ seed) % 251) as u8).collect() };
    let torrents = ["replaced", "left"].map(|name| {
        write_aged(&data.join(name), &contents(name.len() as u32));
        Torrent::create(&data.join(name), PIECE_LEN, watch.join(format!("{name}.torrent")))
    });
    let config = Config {
        watch: vec![(watch, data.clone())],
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    btd.wait_seeding(2);
    let mut peer = unchoked(&btd, &torrents[0]);
    // Of the same length, with one wrong piece.
    let mut other = contents("replaced".len() as u32);
    other[0] ^= 1;
    fs::write(data.join("new"), &other).expect("write payload");
    fs::rename(data.join("new"), data.join("replaced")).expect("replace payload");

    let (piece, begin, length) = (0, 0, BLOCK_LEN);
    peer.say(&Message::Request { piece, begin, length }).expect("ask");
    let answer = loop {
        let message = peer.hear().expect("an answer");
        if message.first().is_some_and(|id| [REJECT, 7].contains(id)) {
            break message[0];
        }
    };
    assert_eq!(answer, REJECT, "unverified bytes were sent");
    wait_for("the changed file is checked again", within(60), || {
        let states = ["partial", "seeding"].map(|state| btd.metric(&format!("btd_torrents{{state=\"{state}\"}}")));
        (states == [1.0, 1.0]).then_some(())
    });
    assert!(
        btd.process.log().contains("was changed after it was checked"),
        "{}",
        btd.process.log()
    );
    // What is still right of it is served, and so is the other torrent.
    let right = unchoked(&btd, &torrents[0]).fetch(1, 0, BLOCK_LEN).expect("a block");
    assert!(right == other[PIECE_LEN as usize..][..BLOCK_LEN as usize]);
    let beside = unchoked(&btd, &torrents[1]).fetch(0, 0, BLOCK_LEN).expect("a block");
    assert!(beside == contents("left".len() as u32)[..BLOCK_LEN as usize]);
    btd.stop();
}
