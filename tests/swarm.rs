//! Two thousand leechers at once on two shards, beside two hundred peers that mean harm: everybody well-behaved gets
//! right bytes, and memory stays under a bound.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use btd::harness::Target;
use btd::harness::load::{Load, Until, raise_open_files};
use btd::proto::InfoHash;
use btd::proto::handshake::Reserved;
use btd::proto::metainfo::Metainfo;
use btd::proto::wire::{self, Message};
use support::btd::{Btd, Config};
use support::payload::Payload;
use support::peer::{Peer, hello};
use support::scratch::Scratch;
use support::torrent::Torrent;

const LEECHERS: u32 = 2_000;
/// A quarter of them sends garbage, a quarter stalls in the handshake, and the others ask and never read: a quarter for
/// blocks, a quarter for single bytes.
const HARMFUL: u32 = 200;
const PIECE_LEN: u32 = 64 << 10;
const PAYLOAD_LEN: u64 = 128 << 20;
/// What every leecher must have got on average before the run may end: 16 blocks.
const BYTES: u64 = LEECHERS as u64 * (256 << 10);
/// Half of all pieces are put together and hashed, in whichever connection.
const VERIFY: f64 = 0.5;
const CACHE: &str = "64 MiB";
/// The cache, 64 MiB for the program, its shards' buffers and the allocator, and 32 KiB for each connection, which is
/// twice what a peer with a full request queue (2,048 requests) needs.
const MEMORY_MAX: u64 = (64 << 20) + (64 << 20) + (LEECHERS + HARMFUL) as u64 * (32 << 10);

#[test]
fn two_thousand_leechers_are_served_right_beside_two_hundred_harmful_peers() {
    let files = raise_open_files();
    assert!(
        files >= 8_000,
        "this test needs 8,000 open files, the hard limit is {files}"
    );
    let scratch = Scratch::new("swarm");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let payload = Payload::make(&data, "swarm.bin", 3, &[("swarm.bin".to_owned(), PAYLOAD_LEN)]);
    let torrent = Torrent::create(&payload.path(), PIECE_LEN, watch.join("swarm.torrent"));
    let bytes = std::fs::read(&torrent.path).expect("read the torrent");
    let metainfo = Metainfo::parse(&bytes).expect("a torrent of our own");

    let btd = Btd::start(
        scratch.path(),
        &Config {
            shards: 2,
            watch: vec![(watch, data)],
            more: format!("[storage]\ncache-size = \"{CACHE}\"\n"),
            ..Config::default()
        },
    );
    support::wait_for("the torrent is seeded", support::within(60), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") == 1.0).then_some(())
    });

    let stop = AtomicBool::new(false);
    let harm = AtomicU64::new(0);
    let report = thread::scope(|scope| {
        scope.spawn(|| do_harm(btd.peers, metainfo.info_hash, &stop, &harm));
        // The harmful ones come first.
        support::wait_for("the harmful peers are at work", support::within(30), || {
            (harm.load(Ordering::Relaxed) >= u64::from(HARMFUL)).then_some(())
        });
        let load = Load {
            pid: Some(btd.process.pid()),
            connections: LEECHERS,
            queue: 8,
            until: Until::Bytes(BYTES),
            verify: VERIFY,
            // The cores are btd's.
            busy: false,
            ..Load::new(btd.peers)
        };
        let report = load.run(&Target::from(&metainfo));
        stop.store(true, Ordering::Relaxed);
        report.expect("drive the swarm")
    });
    println!("{report}");

    assert_eq!(report.connections.lost.len(), 0, "{:?}", report.connections.lost);
    assert_eq!(report.connections.open, LEECHERS);
    assert_eq!(report.connections.served, LEECHERS);
    assert_eq!((report.verified.bad, report.trouble.unasked), (0, 0));
    assert!(report.verified.good > BYTES / u64::from(PIECE_LEN) / 4);
    let memory = report.server.expect("measured by its process id").memory_peak;
    assert!(
        memory.resident + memory.huge <= MEMORY_MAX,
        "{memory:?}, at most {MEMORY_MAX} bytes"
    );
    // Figures of shards are published as sums; their threads' CPU time tells them apart.
    let worked = shard_ticks(btd.process.pid());
    assert!(worked.len() == 2 && worked.iter().all(|ticks| *ticks > 0), "{worked:?}");
    btd.stop();
}

/// The CPU time of each shard's thread, in ticks.
fn shard_ticks(pid: u32) -> Vec<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("list btd's threads");
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    let shards = stats.filter(|stat| stat.contains("(btd-shard-"));
    // proc(5): behind the name come fields 3 and on; user and system time are 14 and 15.
    let ticks = shards.map(|stat| {
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum()
    });
    ticks.collect()
}

/// Keeps `HARMFUL` peers at it until `stop`; each that is dropped comes again. Counts how often one set to work.
fn do_harm(server: SocketAddr, info_hash: InfoHash, stop: &AtomicBool, count: &AtomicU64) {
    let mut peers: Vec<Option<Peer>> = (0..HARMFUL).map(|_| None).collect();
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        for (number, place) in (0u32..).zip(&mut peers) {
            let Some(peer) = place else {
                // Refused at once is as good as dropped.
                *place = set_to_work(server, info_hash, number).ok();
                count.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            // Those that never read do not even look whether they were dropped: writing tells.
            let dropped = if number % 4 >= 2 {
                matches!((&mut peer.stream()).write(&[0; 4]), Err(error) if error.kind() != ErrorKind::WouldBlock)
            } else {
                match (&mut peer.stream()).read(&mut buffer) {
                    Ok(len) => len == 0,
                    Err(error) => error.kind() != ErrorKind::WouldBlock,
                }
            };
            if dropped {
                *place = None;
            }
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

fn set_to_work(server: SocketAddr, info_hash: InfoHash, number: u32) -> io::Result<Peer> {
    let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 99, 0, 1).to_bits() + number);
    let peer = match number % 4 {
        0 => {
            let mut peer = Peer::connect(server, source)?;
            peer.send(format!("GET /{number} HTTP/1.1\r\nHost: nobody\r\n\r\n").as_bytes())?;
            peer
        }
        1 => {
            let mut peer = Peer::connect(server, source)?;
            peer.send(&hello(info_hash, Reserved::default())[..30])?;
            peer
        }
        what => {
            let mut peer = Peer::join(server, source, info_hash, Reserved::OURS)?;
            peer.hear_id(1)?;
            let mut requests = Vec::new();
            for piece in 0..1_000 {
                let (begin, length) = (0, if what == 2 { 16 << 10 } else { 1 });
                wire::encode(&Message::Request { piece, begin, length }, &mut requests);
            }
            peer.send(&requests)?;
            peer
        }
    };
    peer.set_nonblocking();
    Ok(peer)
}
