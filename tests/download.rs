//! btd downloads: from itself, from other people's clients, and from peers that mean harm. What `kill -9` and a power cut leave
//! of a download is in `download_crash`, disks that fail are in `download_disks`, pieces that are too long for the write buffer
//! in `download_early`.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use btd::proto::PeerId;
use btd::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use btd::proto::metainfo::Metainfo;
use btd::proto::wire::{self, Decoder, Message};
use btd::session::Store;
use support::btd::{Btd, Config};
use support::claims::{check_claims, claimed};
use support::client::Client;
use support::leech::{Leech, SECONDS, Source, files, info_hash, metainfo, wait_for_metric};
use support::mount::Tmpfs;
use support::payload::Payload;
use support::peer::Peer;
use support::private_net::{self, SEED};
use support::process::Process;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{cannot, skip, wait_for, within};

#[test]
fn a_torrent_comes_from_another_btd_on_any_number_of_shards() {
    let source = Source::start("from-btd", &files(), 64 << 10);
    for shards in [1, 2, 4] {
        let config = Config {
            shards,
            peers: vec![source.btd.peers],
            ..Config::default()
        };
        let leech = Leech::start(&source.scratch, &format!("leech-{shards}"), &source.torrent, config);
        leech.check(&source.payload);
        let len = source.payload.len() as f64;
        wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= len);
        let downloaded = leech.btd.metric("btd_downloaded_bytes_total");
        assert_eq!(downloaded, len, "nothing comes twice");
        assert_eq!(leech.btd.metric("btd_torrents{state=\"downloading\"}"), 0.0);
        leech.btd.stop();
    }
}

/// More files than are synced one by one, all of them written to at the same time and none complete.
#[test]
fn what_is_written_of_many_files_is_recorded_at_the_end() {
    // Whole pieces each: of a page that two share, a hole does not tell which of them was written.
    let files: Vec<(String, u64)> = (0..100).map(|at| (format!("folder/{at:03}"), 3 << 16)).collect();
    let source = Source::start_with("many", &files, 64 << 10, "[limits]\nupload-rate = \"2 MB/s\"\n");
    let Leech {
        home,
        config,
        btd,
        data,
    } = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    wait_for_metric(&btd, "btd_pieces_written_total", |pieces| pieces >= 60.0);
    btd.stop();
    let again = Btd::start(&home, &config);
    again.wait_seeding(1);
    assert_eq!(
        again.metric("btd_check_read_bytes_total"),
        0.0,
        "all that was written was known"
    );
    source.payload.assert_same(&data, true);
    again.stop();
}

/// Both ends, over two runs of each: what was moved is added up, and what is at rest is not written.
#[test]
fn what_was_uploaded_and_downloaded_is_kept_over_restarts() {
    let source = Source::start("totals", &files(), 64 << 10);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.check(&source.payload);
    leech.btd.stop();
    let Source {
        scratch,
        payload,
        torrent,
        btd,
    } = source;
    btd.stop();
    let (len, hash) = (payload.len(), info_hash(&torrent));
    let history = |home: &Path| {
        let (store, notice) = Store::open(&home.join("state")).expect("a session");
        assert_eq!(notice, None);
        store.load_history(&hash).expect("a history")
    };
    let (seed, leeched) = (history(&scratch.path().join("seed")), history(&leech.home));
    assert_eq!((seed.uploaded, seed.downloaded), (len, 0));
    assert_eq!((leeched.uploaded, leeched.downloaded), (0, len));
    assert!(seed.completed.is_some_and(|completed| completed.announced));
    assert!(leeched.completed.is_some_and(|completed| !completed.announced));
    // The one that has downloaded seeds now.
    let btd = Btd::start(&leech.home, &leech.config);
    btd.wait_seeding(1);
    let third = Leech::from(&scratch, "third", &torrent, vec![btd.peers]);
    third.check(&payload);
    third.btd.stop();
    btd.stop();
    let leeched = history(&leech.home);
    assert_eq!((leeched.uploaded, leeched.downloaded), (len, len));
}

/// The harness's own seeders: some lie, are slow, or cut connections.
#[test]
fn harness_feeds_btd_and_tells_what_it_cost() {
    let scratch = Scratch::new("fed");
    let data = scratch.dir("seed-data");
    let payload = Payload::make(&data, "folder", 5, &files());
    let torrent = Torrent::create(&payload.path(), 64 << 10, scratch.path().join("t.torrent"));
    let leech_data = scratch.path().join("leech/data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.args([
        "bench",
        "leech",
        "--json",
        "--sleep",
        "--seeders",
        "6",
        "--liars",
        "1",
        "--slow",
        "1",
    ]);
    command.args(["--dropping", "2", "--reqq", "100", "--seconds", "100", "--torrent"]);
    command
        .arg(&torrent.path)
        .arg("--data")
        .arg(&data)
        .arg("--watch-data")
        .arg(&leech_data);
    let mut harness = Process::spawn("the harness", &mut command, &scratch.path().join("harness.log"));
    let line = |harness: &Process, at: usize| {
        let log = harness.log();
        let line = log.lines().nth(at)?;
        serde_json::from_str::<serde_json::Value>(line).ok()
    };
    let started = wait_for("the harness listens", within(20), || line(&harness, 0));
    let seeders = started["seeders"].as_array().expect("a list of addresses");
    let peers = seeders
        .iter()
        .map(|addr| addr.as_str().and_then(|addr| addr.parse().ok()).expect("an address"));
    let leech = Leech::from(&scratch, "leech", &torrent, peers.collect());
    leech.check(&payload);
    assert!(harness.wait(within(20)).success(), "{}", harness.log());
    let report = line(&harness, 1).expect("a report");
    assert_eq!(report["ended"], "whole", "{report}");
    assert!(report["bytes"].as_u64() >= Some(payload.len()), "{report}");
    wait_for_metric(&leech.btd, "btd_peers_banned_total", |banned| banned == 1.0);
    assert!(leech.btd.metric("btd_pieces_bad_total") <= 2.0);
    leech.btd.stop();
}

#[test]
fn connections_that_come_to_another_shard_reach_the_torrents_home() {
    // So slow that it can be asked meanwhile, on whatever shard the kernel chooses.
    let source = Source::start_with("handed", &files(), 64 << 10, "[limits]\nupload-rate = \"2 MB/s\"\n");
    let slow = Config {
        shards: 4,
        peers: vec![source.btd.peers],
        ..Config::default()
    };
    let middle = Leech::start(&source.scratch, "middle", &source.torrent, slow);
    let hash = info_hash(&source.torrent);
    let mut peers: Vec<Peer> = (0..16)
        .map(|last| {
            let from = Ipv4Addr::new(127, 0, 1, last + 1);
            // A shard that has not heard of the torrent yet lets it go.
            wait_for("a connection", within(10), || {
                Peer::join(middle.btd.peers, from, hash, Reserved([0; 8])).ok()
            })
        })
        .collect();
    assert!(
        middle.btd.metric("btd_torrents{state=\"downloading\"}") >= 1.0,
        "it is not complete yet"
    );
    for peer in &mut peers {
        // It is told of pieces as they come.
        let have = peer.hear_id(4).expect("a have");
        assert_eq!(have.len(), 5);
    }
    middle.check(&source.payload);
}

#[test]
fn other_peoples_clients_are_downloaded_from() {
    private_net::run("other_peoples_clients_are_downloaded_from", || {
        let scratch = Scratch::new("from-clients");
        let data = scratch.dir("data");
        let payload = Payload::make(&data, "folder", 5, &files());
        let torrent = Torrent::create(&payload.path(), 64 << 10, scratch.path().join("t.torrent"));
        let mut all = Vec::new();
        for client in Client::ALL {
            if let Some(why) = client.missing() {
                return skip(&why);
            }
            // Transmission 3.00 makes no file for a file of no bytes, and does not miss one either.
            let (process, addr) = client.seed(scratch.path(), &torrent, &data);
            let config = Config {
                listen: SEED,
                peers: vec![addr],
                ..Config::default()
            };
            let leech = Leech::start(&scratch, &format!("from-{client:?}"), &torrent, config);
            leech.check(&payload);
            leech.btd.stop();
            all.push((process, addr));
        }
        let config = Config {
            listen: SEED,
            peers: all.iter().map(|(_, addr)| *addr).collect(),
            ..Config::default()
        };
        let leech = Leech::start(&scratch, "from-all", &torrent, config);
        leech.check(&payload);
        let len = payload.len() as f64;
        wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= len);
        assert_eq!(leech.btd.metric("btd_peers_banned_total"), 0.0);
        leech.btd.stop();
    });
}

#[test]
fn who_downloads_serves_what_it_has_meanwhile() {
    let source = Source::start_with("chain", &files(), 64 << 10, "[limits]\nupload-rate = \"4 MB/s\"\n");
    let middle = Leech::from(&source.scratch, "middle", &source.torrent, vec![source.btd.peers]);
    let end = Leech::from(&source.scratch, "end", &source.torrent, vec![middle.btd.peers]);
    wait_for("the end has something", within(SECONDS), || {
        (end.btd.metric("btd_pieces_written_total") >= 1.0).then_some(())
    });
    assert_eq!(
        middle.btd.metric("btd_torrents{state=\"downloading\"}"),
        1.0,
        "the middle still downloads"
    );
    end.check(&source.payload);
    middle.check(&source.payload);
    assert!(source.btd.metric("btd_uploaded_bytes_total") < 1.1 * source.payload.len() as f64);
}

#[test]
fn eight_finish_as_a_swarm_and_the_seed_gives_little_more_than_one_copy() {
    // A copy takes some eight seconds: were it less than the few seconds that are asked for ahead, all would ask the seed for
    // most of it before anybody had anything.
    let source = Source::start_with("swarm", &files(), 64 << 10, "[limits]\nupload-rate = \"2 MB/s\"\n");
    // Each knows the seed and those that were started before it.
    let mut leeches: Vec<Leech> = Vec::new();
    for number in 0..8 {
        let mut peers = vec![source.btd.peers];
        peers.extend(leeches.iter().map(|leech| leech.btd.peers));
        let config = Config {
            shards: 1,
            peers,
            ..Config::default()
        };
        leeches.push(Leech::start(
            &source.scratch,
            &format!("leech-{number}"),
            &source.torrent,
            config,
        ));
    }
    for leech in &leeches {
        leech.check(&source.payload);
    }
    let turns = source.btd.metric("btd_loop_turns_total");
    // Published anew since the last of them had everything.
    wait_for_metric(&source.btd, "btd_loop_turns_total", |now| now > turns);
    let copies = source.btd.metric("btd_uploaded_bytes_total") / source.payload.len() as f64;
    assert!(copies <= 1.5, "the seed gave {copies} copies for eight");
}

/// What a [`Rogue`] does when it is asked for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Sends it.
    Honest,
    /// Sends other bytes.
    Lies,
    /// Sends nothing.
    Silent,
    /// Sends one byte at a time.
    Trickles,
    /// Chokes after each block.
    Flaps,
    /// Sends blocks that nobody asked for, the same twice, and then the one.
    Babbles,
    /// Ends the connection after a few blocks.
    Leaves,
}

/// A seeder of the test's own: a thread for each connection.
struct Rogue {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Rogue {
    fn start(manner: Manner, ip: Ipv4Addr, torrent: &Torrent, payload: Arc<Vec<u8>>, number: u8) -> Rogue {
        let meta = Arc::new(metainfo(torrent));
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let rogue = Rogue {
            addr,
            asked: asked.clone(),
            stop: stop.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (meta, payload, asked) = (meta.clone(), payload.clone(), asked.clone());
                let Ok(stream) = stream else { continue };
                // Ends with the connection.
                std::thread::spawn(move || drop(serve(stream, manner, &meta, &payload, &asked, number)));
            }
        });
        rogue
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(self.addr);
    }
}

fn serve(
    mut stream: std::net::TcpStream,
    manner: Manner,
    meta: &Metainfo,
    payload: &[u8],
    asked: &AtomicUsize,
    number: u8,
) -> std::io::Result<()> {
    use std::io::{Read, Write};
    stream.set_read_timeout(Some(Duration::from_secs(SECONDS)))?;
    let mut theirs = [0; HANDSHAKE_LEN];
    stream.read_exact(&mut theirs)?;
    let mut peer_id = *b"-RG0001-rogue-------";
    peer_id[19] = b'0' + number;
    let ours = Handshake {
        reserved: Reserved([0, 0, 0, 0, 0, 0, 0, 4]),
        info_hash: meta.info_hash,
        peer_id: PeerId(peer_id),
    };
    let mut out = ours.encode().to_vec();
    wire::encode(&Message::HaveAll, &mut out);
    wire::encode(&Message::Unchoke, &mut out);
    stream.write_all(&out)?;
    let mut decoder = Decoder::new(1 << 20);
    let mut buffer = [0; 1 << 16];
    let mut sent = 0;
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let mut heard = &buffer[..len];
        while let Ok(Some(message)) = decoder.next(&mut heard) {
            let Message::Request { piece, begin, length } = message else {
                continue;
            };
            asked.fetch_add(1, Ordering::Relaxed);
            let at = piece as usize * meta.geometry.piece_len_max() as usize + begin as usize;
            let mut data = payload[at..at + length as usize].to_vec();
            let mut out = Vec::new();
            match manner {
                Manner::Silent => continue,
                Manner::Lies => data[length as usize / 2] ^= 1,
                Manner::Babbles => {
                    let other = (piece + 1) % meta.geometry.piece_count();
                    let data = vec![7; 1000];
                    for _ in 0..2 {
                        wire::encode(
                            &Message::Piece {
                                piece: other,
                                begin: 0,
                                data: &data,
                            },
                            &mut out,
                        );
                    }
                }
                Manner::Honest | Manner::Trickles | Manner::Flaps | Manner::Leaves => {}
            }
            wire::encode(
                &Message::Piece {
                    piece,
                    begin,
                    data: &data,
                },
                &mut out,
            );
            match manner {
                Manner::Babbles => out.extend_from_within(..),
                Manner::Flaps => {
                    wire::encode(&Message::Choke, &mut out);
                    wire::encode(&Message::Unchoke, &mut out);
                }
                _ => {}
            }
            match manner {
                Manner::Trickles => {
                    for byte in out {
                        stream.write_all(&[byte])?;
                        std::thread::yield_now();
                    }
                }
                _ => stream.write_all(&out)?,
            }
            sent += 1;
            if manner == Manner::Leaves && sent == 7 {
                return Ok(());
            }
        }
    }
}

/// The bytes of a torrent in order.
fn contents(torrent: &Torrent, data: &Path) -> Arc<Vec<u8>> {
    let meta = metainfo(torrent);
    let mut all = Vec::new();
    for file in &meta.files {
        match file.pad {
            true => all.resize(all.len() + file.len as usize, 0),
            false => all.extend(fs::read(data.join(file.path.as_str())).expect("read payload")),
        }
    }
    Arc::new(all)
}

/// A payload without a btd that seeds it.
fn lone(name: &str, piece_len: u32) -> (Scratch, Payload, Torrent, Arc<Vec<u8>>) {
    let scratch = Scratch::new(name);
    let data = scratch.dir("data");
    let payload = Payload::make(&data, "folder", 5, &files());
    let torrent = Torrent::create(&payload.path(), piece_len, scratch.path().join("t.torrent"));
    let contents = contents(&torrent, &data);
    (scratch, payload, torrent, contents)
}

#[test]
fn one_of_five_lies_and_is_shut_out_and_no_other() {
    let (scratch, payload, torrent, contents) = lone("liar", 256 << 10);
    let rogues: Vec<Rogue> = (0..5)
        .map(|number| {
            let manner = if number == 2 { Manner::Lies } else { Manner::Honest };
            let ip = Ipv4Addr::new(127, 0, 2, number + 1);
            Rogue::start(manner, ip, &torrent, contents.clone(), number)
        })
        .collect();
    let peers = rogues.iter().map(|rogue| rogue.addr).collect();
    let leech = Leech::from(&scratch, "leech", &torrent, peers);
    leech.check(&payload);
    let len = payload.len() as f64;
    wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= len);
    assert_eq!(leech.btd.metric("btd_peers_banned_total"), 1.0);
    let bad = leech.btd.metric("btd_pieces_bad_total");
    assert!((1.0..=2.0).contains(&bad), "{bad} bad pieces");
    let log = leech.btd.process.log();
    assert!(log.contains("127.0.2.3") && log.contains("is shut out"), "{log}");
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
        assert!(
            rogue.asked.load(Ordering::Relaxed) > 0,
            "{manner:?} was asked for something"
        );
    }
}

#[test]
fn a_disk_that_is_full_stops_requests_until_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        return cannot("mounting needs root");
    }
    let source = Source::start("full", &files(), 64 << 10);
    let small = source.scratch.dir("small");
    let _mounted = match Tmpfs::mount(&small, c"size=24m") {
        Ok(mounted) => mounted,
        Err(why) => return cannot(&why),
    };
    // Of 15.7 MB the last some do not fit.
    let ballast = small.join("ballast");
    fs::write(&ballast, vec![1; 14 << 20]).expect("fill the disk");
    let watch = source.scratch.dir("leech-watch");
    fs::copy(&source.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
    let data = small.join("data");
    fs::create_dir(&data).expect("make a folder");
    let config = Config {
        watch: vec![(watch, data.clone())],
        peers: vec![source.btd.peers],
        ..Config::default()
    };
    let leech = Btd::start(&source.scratch.dir("leech"), &config);
    wait_for("btd says that the disk is full", within(SECONDS), || {
        leech.process.log().contains("the disk is full").then_some(())
    });
    assert!(
        leech.process.log().contains("MiB of the torrent are missing"),
        "how much is needed"
    );
    // What was asked for comes, and nothing more is asked for: not when it has come, and not a second later.
    wait_for_metric(&leech, "btd_requests_under_way", |requests| requests == 0.0);
    let turns = source.btd.metric("btd_loop_turns_total");
    wait_for_metric(&source.btd, "btd_loop_turns_total", |now| now > turns);
    let given = source.btd.metric("btd_uploaded_bytes_total");
    // What is there is served meanwhile.
    let hash = info_hash(&source.torrent);
    let claims = claimed(&leech, hash, metainfo(&source.torrent).geometry.piece_count());
    check_claims(&source.torrent, &data, &claims);
    assert!(claims.contains(&true) && claims.contains(&false));
    let turns = source.btd.metric("btd_loop_turns_total");
    wait_for_metric(&source.btd, "btd_loop_turns_total", |now| now > turns + 1.0);
    assert_eq!(
        source.btd.metric("btd_uploaded_bytes_total"),
        given,
        "nothing is asked for"
    );
    assert_eq!(leech.metric("btd_requests_under_way"), 0.0);
    fs::remove_file(&ballast).expect("make room");
    leech.wait_seeding(1);
    assert!(leech.process.log().contains("goes on"));
    source.payload.assert_same(&data, true);
    leech.stop();
}

#[test]
fn what_was_complete_once_is_not_downloaded_again_by_itself() {
    let source = Source::start("gone", &files(), 64 << 10);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.check(&source.payload);
    let Leech {
        home,
        data,
        config,
        btd,
    } = leech;
    btd.stop();
    fs::remove_dir_all(data.join("folder")).expect("remove the payload");
    let btd = Btd::start(&home, &config);
    wait_for("the payload is missed", within(SECONDS), || {
        btd.process.log().contains("it was complete once").then_some(())
    });
    assert_eq!(btd.metric("btd_torrents{state=\"missing\"}"), 1.0);
    support::touch(&config.watch[0].0.join("t.torrent"));
    btd.wait_seeding(1);
    source.payload.assert_same(&data, true);
    btd.stop();
}
