//! A shard on the kernel's ring, spoken to over TCP on loopback: with every ring feature masked, the same bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use btd::hashing::{Pool, PoolConfig};
use btd::io::uring::{Features, Patience};
use btd::proto::PeerId;
use btd::proto::bitfield::Bitfield;
use btd::proto::choker::Kind;
use btd::proto::geometry::BLOCK_LEN;
use btd::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use btd::proto::metainfo::{Metainfo, NewContent, NewTorrent, encode};
use btd::proto::wire::{self, Decoder, Message};
use btd::shard::{
    Caps, Command, Events, Handle, Limits, Pace, ReadMode, Settings, ShardConfig, Torrent, mailbox, spawn,
};
use btd::stats::Shared;
use btd::storage::root::Root;

const PIECE_LEN: u32 = 256 * 1024;

fn start(features: Features, read_mode: ReadMode, listen: SocketAddr) -> Handle {
    let (mailbox, inbox) = mailbox().expect("a descriptor");
    let pool = PoolConfig {
        workers: 1,
        ..PoolConfig::default()
    };
    let config = ShardConfig {
        tracker_udp: Vec::new(),
        tracker_http: Vec::new(),
        index: 0,
        listen: vec![listen],
        device: None,
        sources: Vec::new(),
        pin_cpu: None,
        cache_len: 4 << 20,
        ring_entries: 256,
        descriptors_max: 256,
        features,
        patience: Patience::begin(),
        settings: Settings {
            index: 0,
            mailboxes: Arc::from([mailbox.clone()]),
            pool: Arc::new(Pool::start(pool).expect("a thread")),
            loan: Arc::default(),
            write_buffer: 1 << 20,
            gather_wait: std::time::Duration::from_micros(500),
            events: Events::new(|_| {}),
            peer_id: PeerId(*b"-BD0001-tests-tests-"),
            limits: Arc::new(Limits::new(Caps {
                connections: 100,
                per_torrent: 100,
                per_ip: 100,
            })),
            upload_slots: 0,
            choker: Kind::default(),
            read_mode,
            files_max: 16,
            upload_pace: Arc::new(Pace::new(None, Instant::now())),
            download_pace: Arc::new(Pace::new(None, Instant::now())),
            tracker: None,
            resting: Arc::default(),
            stats: Arc::new(Shared::default()),
        },
    };
    spawn(config, mailbox, inbox).expect("a shard")
}

fn payload(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

fn torrent(folder: &std::path::Path, payload: &[u8]) -> Arc<Torrent> {
    std::fs::write(folder.join("payload"), payload).unwrap();
    let hashes: Vec<[u8; 20]> = payload.chunks(PIECE_LEN as usize).map(btd::hashing::sha1).collect();
    let encoded = encode(&NewTorrent::new(
        "payload",
        NewContent::File(payload.len() as u64),
        PIECE_LEN,
        &hashes,
    ));
    let meta = Metainfo::parse(&encoded).unwrap();
    let have = Bitfield::full(meta.geometry.piece_count());
    Torrent::new(meta, Arc::new(Root::open(folder).unwrap()), &have, &[])
}

/// Connects until the torrent is known, since a command takes a turn to arrive.
fn connect(to: SocketAddr, torrent: &Torrent) -> TcpStream {
    let handshake = Handshake {
        reserved: Reserved([0; 8]),
        info_hash: torrent.info_hash(),
        peer_id: PeerId(*b"-XX0001-far-far-far-"),
    }
    .encode();
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&handshake).unwrap();
        let mut answer = [0; HANDSHAKE_LEN];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(Handshake::decode(&answer).unwrap().info_hash, torrent.info_hash());
            return stream;
        }
    }
    panic!("the shard does not know the torrent");
}

fn download(to: SocketAddr, torrent: &Torrent) -> Vec<u8> {
    let mut stream = connect(to, torrent);
    let geometry = torrent.geometry();
    let mut requests = Vec::new();
    wire::encode(&Message::Interested, &mut requests);
    for piece in 0..geometry.piece_count() {
        let len = geometry.piece_len(geometry.piece_index(piece).unwrap());
        for begin in (0..len).step_by(BLOCK_LEN as usize) {
            let length = BLOCK_LEN.min(len - begin);
            wire::encode(&Message::Request { piece, begin, length }, &mut requests);
        }
    }
    let mut payload = vec![0; geometry.total_len() as usize];
    let (mut decoder, mut missing, mut unchoked) = (Decoder::new(1 << 20), payload.len(), false);
    let mut chunk = vec![0; 1 << 16];
    stream.write_all(&requests[..5]).unwrap();
    while missing > 0 {
        let len = stream.read(&mut chunk).unwrap();
        assert!(len > 0, "the shard ended the connection with {missing} bytes missing");
        let mut bytes = &chunk[..len];
        while let Some(message) = decoder.next(&mut bytes).unwrap() {
            match message {
                Message::Unchoke if !unchoked => {
                    unchoked = true;
                    stream.write_all(&requests[5..]).unwrap();
                }
                Message::Piece { piece, begin, data } => {
                    let at = piece as usize * PIECE_LEN as usize + begin as usize;
                    payload[at..at + data.len()].copy_from_slice(data);
                    missing -= data.len();
                }
                _ => {}
            }
        }
    }
    payload
}

#[test]
fn every_mask_and_read_mode_serves_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let payload = payload(9_000_001);
    let torrent = torrent(folder.path(), &payload);
    let masks = [
        "",
        "files,buffers",
        "defer_taskrun,no_sqarray,ring_fd,files,buffers,huge_pages,min_wait,zero_copy",
    ];
    for mask in masks {
        for read_mode in [ReadMode::Auto, ReadMode::Direct, ReadMode::Buffered] {
            let listen = "127.0.0.1:0".parse().unwrap();
            let shard = start(Features::masked(mask).unwrap(), read_mode, listen);
            shard.send(Command::Add(torrent.clone())).unwrap();
            let to = shard.local_addrs[0];
            assert!(download(to, &torrent) == payload, "{mask:?} {read_mode:?}");
            shard.send(Command::Stop).unwrap();
            shard.join().unwrap();
        }
    }
}

#[test]
fn shards_share_an_address_and_serve_each_their_part() {
    let folder = tempfile::tempdir().unwrap();
    let payload = payload(1_000_001);
    let torrent = torrent(folder.path(), &payload);
    let first = start(Features::ALL, ReadMode::Auto, "127.0.0.1:0".parse().unwrap());
    let to = first.local_addrs[0];
    let shards = [first, start(Features::ALL, ReadMode::Auto, to)];
    for shard in &shards {
        shard.send(Command::Add(torrent.clone())).unwrap();
    }
    for _ in 0..16 {
        assert!(download(to, &torrent) == payload);
    }
    for shard in shards {
        shard.send(Command::Stop).unwrap();
        let stats = shard.stats.clone();
        shard.join().unwrap();
        assert!(stats.counters().uploaded_bytes > 0, "the kernel spreads connections");
    }
}
