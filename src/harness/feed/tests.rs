//! Whole runs that feed a small client in the same process.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::hashing;
use crate::proto::PeerId;
use crate::proto::geometry::BlockRequest;
use crate::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use crate::proto::metainfo::{NewContent, NewTorrent, encode};
use crate::proto::wire::{self, Decoder, Message};

const PIECE_LEN: u32 = 32 * 1024;

/// A torrent of one file, written to `dir`.
pub(super) fn single(dir: &Path, len: usize) -> Metainfo {
    let payload: Vec<u8> = (0..len).map(|n| (n * 31 + n / 253) as u8).collect();
    fs::write(dir.join("single"), &payload).unwrap();
    let hashes: Vec<[u8; 20]> = payload.chunks(PIECE_LEN as usize).map(hashing::sha1).collect();
    let new = NewTorrent::new("single", NewContent::File(len as u64), PIECE_LEN, &hashes);
    Metainfo::parse(&encode(&new)).unwrap()
}

pub(super) fn listening() -> Feed {
    Feed {
        busy: false,
        limit: Duration::from_secs(60),
        ..Feed::new(Way::Listen("127.42.0.1:0".parse().unwrap()))
    }
}

/// A client that downloads what is left of a torrent over one connection, with so many requests outstanding. It asks again
/// for a piece that is wrong. False if the connection was cut.
fn download(mut stream: TcpStream, metainfo: &Metainfo, left: &mut VecDeque<BlockRequest>, depth: usize) -> bool {
    let geometry = metainfo.geometry;
    let ours = Handshake {
        reserved: Reserved::OURS,
        info_hash: metainfo.info_hash,
        peer_id: PeerId([b'c'; 20]),
    };
    let mut out = ours.encode().to_vec();
    wire::encode(&Message::Interested, &mut out);
    let mut theirs = [0; HANDSHAKE_LEN];
    if stream.write_all(&out).is_err() || stream.read_exact(&mut theirs).is_err() {
        return false;
    }
    let mut decoder = Decoder::new(wire::len_max(geometry.piece_count()));
    let (mut asked, mut pieces) = (0, vec![Vec::new(); geometry.piece_count() as usize]);
    let mut buffer = vec![0; 65_536];
    let mut unanswered: VecDeque<BlockRequest> = VecDeque::new();
    while !left.is_empty() || !unanswered.is_empty() {
        let len = match stream.read(&mut buffer) {
            Ok(len) if len > 0 => len,
            _ => break,
        };
        let mut input = &buffer[..len];
        let mut out = Vec::new();
        while let Some(message) = decoder.next(&mut input).unwrap() {
            match message {
                Message::Unchoke => asked = depth,
                Message::Piece { piece, data, .. } => {
                    // In the order in which they were asked for.
                    let block = unanswered.pop_front().unwrap();
                    let piece = geometry.piece_index(piece).unwrap();
                    assert_eq!(block.piece(), piece);
                    let bytes: &mut Vec<u8> = &mut pieces[piece.as_usize()];
                    bytes.extend_from_slice(data);
                    if bytes.len() == geometry.piece_len(piece) as usize {
                        if hashing::sha1(bytes) == *metainfo.piece_hashes.get(piece) {
                            wire::encode(&Message::Have(piece.get()), &mut out);
                        } else {
                            left.extend(geometry.blocks(piece));
                        }
                    }
                }
                _ => {}
            }
        }
        while unanswered.len() < asked
            && let Some(block) = left.pop_front()
        {
            wire::encode(&Message::request(&block), &mut out);
            unanswered.push_back(block);
        }
        if stream.write_all(&out).is_err() {
            break;
        }
    }
    let whole = unanswered.is_empty();
    // What was not finished is asked for again from its beginning.
    let mut again: Vec<_> = unanswered.iter().chain(left.iter()).map(BlockRequest::piece).collect();
    again.dedup();
    *left = again.into_iter().flat_map(|piece| geometry.blocks(piece)).collect();
    whole && left.is_empty()
}

fn all(metainfo: &Metainfo) -> VecDeque<BlockRequest> {
    let geometry = metainfo.geometry;
    geometry.pieces().flat_map(|piece| geometry.blocks(piece)).collect()
}

/// Feeds a client that connects to each seeder in turn until it has everything.
fn feed(dir: &Path, metainfo: &Metainfo, feed: Feed, depth: usize) -> Report {
    let bound = feed.bind(metainfo, dir).unwrap();
    let addresses = bound.addresses().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = all(metainfo);
            for addr in addresses.iter().cycle() {
                if download(TcpStream::connect(addr).unwrap(), metainfo, &mut left, depth) {
                    return;
                }
            }
        });
        bound.run(|_| {}).unwrap()
    })
}

#[test]
fn client_gets_everything_and_the_report_tells_what_it_took() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 3_000_001);
    let report = feed(
        dir.path(),
        &metainfo,
        Feed {
            pid: Some(std::process::id()),
            ..listening()
        },
        20,
    );
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.requests.sent_bytes, report.requests.waste), (3_000_001, 0.0));
    assert_eq!(report.requests.received, all(&metainfo).len() as u64);
    assert!(report.whole_after_ms.is_some() && report.named_after_ms.is_none());
    assert!(report.client.unwrap().memory_peak.resident > 0);
    assert!(report.depth_maxima.iter().all(|depth| *depth <= 20), "{report}");
}

#[test]
fn distant_seeder_on_a_narrow_path_is_as_fast_as_the_requests_outstanding_allow() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 3_000_000);
    let run = |depth| {
        let far = Feed {
            delay: Duration::from_millis(25),
            path_rate: Some(5_000_000),
            ..listening()
        };
        feed(dir.path(), &metainfo, far, depth)
    };
    // A round trip is 50 ms: 16 blocks fill the path, four bring 64 KiB each time.
    let (full, few) = (run(64), run(4));
    assert!((3.0..=5.0).contains(&full.mb_per_second), "{full}");
    assert!(few.mb_per_second <= 1.31, "{few}");
    assert_eq!(few.depth_maxima[0], 4);
}

#[test]
fn seeders_that_lie_or_drop_are_told_apart_in_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 2_000_000);
    let geometry = metainfo.geometry;
    let lying = Feed {
        seeders: 2,
        liars: 1,
        limit: Duration::from_millis(300),
        ..listening()
    };
    // This client stays with the liar.
    let bound = lying.bind(&metainfo, dir.path()).unwrap();
    let liar = bound.addresses().unwrap()[0];
    let report = thread::scope(|scope| {
        scope.spawn(|| download(TcpStream::connect(liar).unwrap(), &metainfo, &mut all(&metainfo), 4));
        bound.run(|_| {}).unwrap()
    });
    assert_eq!((report.ended, report.requests.sent_bytes), ("time is up", 0));
    assert!(
        report.requests.lied_bytes > u64::from(geometry.piece_len_max()),
        "{report}"
    );

    let metainfo = single(dir.path(), 40_000_000);
    let dropping = Feed {
        seeders: 2,
        dropping: 2,
        ..listening()
    };
    let report = feed(dir.path(), &metainfo, dropping, 16);
    assert!(report.is_clean(), "{report}");
    assert!(
        report
            .connections
            .lost
            .contains_key("dropped by a seeder, as asked for"),
        "{report}"
    );
    assert!(report.connections.opened > 1, "{report}");
}

#[test]
fn seeders_call_a_client_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 300_000);
    let client = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let calling = Feed {
        way: Way::Connect {
            client,
            source: "127.43.0.1".parse().unwrap(),
        },
        ..listening()
    };
    let bound = calling.bind(&metainfo, dir.path()).unwrap();
    assert!(bound.addresses().unwrap().is_empty());
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            // Only when it was called in vain.
            thread::sleep(Duration::from_millis(100));
            let (stream, from) = TcpListener::bind(client).unwrap().accept().unwrap();
            assert_eq!(from.ip().to_string(), "127.43.0.1");
            assert!(download(stream, &metainfo, &mut all(&metainfo), 5));
        });
        bound.run(|_| {}).unwrap()
    });
    assert!(report.is_clean(), "{report}");
    assert!(report.connections.lost.contains_key("connect failed"), "{report}");
}

#[test]
fn final_names_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 100_000);
    let name = dir.path().join("final");
    let bound = Feed {
        watch: vec![name.clone()],
        ..listening()
    }
    .bind(&metainfo, dir.path())
    .unwrap();
    let addr = bound.addresses().unwrap()[0];
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            assert!(download(
                TcpStream::connect(addr).unwrap(),
                &metainfo,
                &mut all(&metainfo),
                5
            ));
            thread::sleep(Duration::from_millis(30));
            fs::write(&name, "").unwrap();
        });
        bound.run(|_| {}).unwrap()
    });
    assert!(report.is_clean() && report.named_after_ms.unwrap() >= 25.0, "{report}");
    assert!(!report.named_early);
}

#[test]
fn impossible_settings_and_payload_that_is_not_there_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 100_000);
    let bind = |change: fn(&mut Feed)| {
        let mut feed = listening();
        change(&mut feed);
        feed.bind(&metainfo, dir.path()).map(drop)
    };
    assert!(matches!(bind(|feed| feed.seeders = 0), Err(Error::Setting(_))));
    assert!(matches!(bind(|feed| feed.liars = 1), Err(Error::Setting(_))));
    assert!(matches!(bind(|feed| feed.slow = 2), Err(Error::Setting(_))));
    assert!(matches!(bind(|feed| feed.reqq = 0), Err(Error::Setting(_))));
    assert!(matches!(bind(|feed| feed.path_rate = Some(0)), Err(Error::Setting(_))));
    fs::write(dir.path().join("single"), "short").unwrap();
    assert!(matches!(bind(|_| ()), Err(Error::Payload(_))));
}

/// It said nothing for ten minutes.
#[test]
fn client_that_takes_its_time_is_told_to_be_waited_for_once() {
    let second = Duration::from_secs;
    let client = "127.0.0.1:1".parse().unwrap();
    let source = Ipv4Addr::LOCALHOST;
    let (listening, calling) = (
        Feed::new(Way::Listen("127.0.0.1:0".parse().unwrap())),
        Feed::new(Way::Connect { client, source }),
    );
    for (feed, whom) in [
        (listening, "for a client that"),
        (calling, "for the client at 127.0.0.1:1 that"),
    ] {
        let mut waiting = Waiting::default();
        let mut told = |met, asked, now| waiting.look((&feed, "x"), (met, asked), second(now));
        assert_eq!(told(None, None, 1), None);
        let said = told(None, None, 4).unwrap();
        assert!(said.contains(whom) && said.contains("\"x\", until 600 s"), "{said}");
        assert_eq!(told(None, None, 5), None);
        let met = Some(second(9));
        assert_eq!(told(met, None, 10), None);
        let said = told(met, None, 13).unwrap();
        assert!(said.contains("asked for nothing yet"), "{said}");
        assert_eq!(told(met, None, 20), None);
        assert_eq!(told(met, met, 30), None);
    }
}

/// It said that the seeders failed, and not where.
#[test]
fn seeder_that_cannot_listen_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(listen) = taken.local_addr().unwrap() else {
        panic!("of this family")
    };
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 1);
    let Err(error) = Feed::new(Way::Listen(listen)).bind(&metainfo, dir.path()) else {
        panic!("it is taken")
    };
    assert!(
        error.to_string().starts_with(&format!("cannot listen at {listen}: ")),
        "{error}"
    );
}

/// It was told to have never said so, and nothing else: btd hangs up on seeders as soon as it is whole.
#[test]
fn client_that_hangs_up_when_it_is_whole_is_told_from_one_that_wants_more() {
    let dir = tempfile::tempdir().unwrap();
    let metainfo = single(dir.path(), 300_000);
    let bound = listening().bind(&metainfo, dir.path()).unwrap();
    let addr = bound.addresses().unwrap()[0];
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = TcpStream::connect(addr).unwrap();
            let handshake = Handshake {
                reserved: Reserved::OURS,
                info_hash: metainfo.info_hash,
                peer_id: PeerId([b'c'; 20]),
            };
            let mut out = handshake.encode().to_vec();
            wire::encode(&Message::Interested, &mut out);
            for block in all(&metainfo) {
                wire::encode(&Message::request(&block), &mut out);
            }
            stream.write_all(&out).unwrap();
            let mut missing = 300_000;
            let mut decoder = Decoder::new(wire::len_max(metainfo.geometry.piece_count()));
            let mut buffer = vec![0; 65_536];
            stream.read_exact(&mut buffer[..HANDSHAKE_LEN]).unwrap();
            while missing > 0 {
                let len = stream.read(&mut buffer).unwrap();
                let mut input = &buffer[..len];
                while let Some(message) = decoder.next(&mut input).unwrap() {
                    if let Message::Piece { data, .. } = message {
                        missing -= data.len();
                    }
                }
            }
        });
        bound.run(|_| {}).unwrap()
    });
    assert!(report.is_clean() && report.whole_after_ms.is_none(), "{report}");
    let after = report.unwanted_after_ms.unwrap();
    assert!(after < 1e3, "{report}");
    let told = format!("it did not say so, and wanted nothing more from {after:.1} ms after the last byte on");
    assert!(report.to_string().contains(&told), "{report}");
}
