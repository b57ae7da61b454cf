//! What the protocol costs without a socket: decoding what leechers and seeds send, admitting requests, encoding, and
//! reading a large torrent file. `cargo bench --bench wire`; figures are in PERF.md.

use std::hint::black_box;
use std::time::Instant;

use btd::proto::geometry::{BLOCK_LEN, Geometry};
use btd::proto::handshake::Reserved;
use btd::proto::metainfo::{self, Metainfo, NewContent, NewFile, NewTorrent};
use btd::proto::path::RelPath;
use btd::proto::peer::{Event, Peer};
use btd::proto::wire::{self, Decoder, Message};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// What one receive may bring.
const RECEIVE_LEN: usize = 16 * 1024;

fn geometry() -> Geometry {
    Geometry::new(256 * 1024, 2 << 30).expect("a torrent's shape")
}

/// Requests for neighbouring blocks, as leechers send them.
fn requests(count: u32) -> Vec<u8> {
    let geometry = geometry();
    let mut bytes = Vec::new();
    let blocks = geometry
        .pieces()
        .flat_map(|piece| geometry.blocks(piece))
        .take(count as usize);
    blocks.for_each(|block| wire::encode(&Message::request(&block), &mut bytes));
    bytes
}

/// What a peer sends that downloads and uploads: mostly blocks by bytes, mostly small messages by count.
fn mixed() -> (Vec<u8>, u64) {
    let block = vec![0xa5; BLOCK_LEN as usize];
    let mut bytes = Vec::new();
    let mut count = 0;
    for at in 0..64 {
        let messages = [
            Message::Have(at),
            Message::Request {
                piece: at,
                begin: 0,
                length: BLOCK_LEN,
            },
            Message::Piece {
                piece: at,
                begin: BLOCK_LEN,
                data: &block,
            },
            Message::Cancel {
                piece: at,
                begin: 0,
                length: BLOCK_LEN,
            },
            Message::KeepAlive,
            Message::Extended { id: 1, payload: &[1] },
        ];
        messages.iter().for_each(|message| wire::encode(message, &mut bytes));
        count += messages.len() as u64;
    }
    (bytes, count)
}

/// Decodes a stream as it comes in receives of one length, and counts the messages.
fn decode(stream: &[u8], receive_len: usize) -> u64 {
    let mut decoder = Decoder::new(wire::len_max(geometry().piece_count()));
    let mut count = 0;
    for mut input in stream.chunks(receive_len) {
        while let Some(message) = decoder.next(&mut input).expect("a well-formed stream") {
            black_box(message);
            count += 1;
        }
    }
    count
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let stream = requests(10_000);
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("requests", |b| b.iter(|| decode(black_box(&stream), stream.len())));
    // A receive ends inside a request 15 times of 16.
    group.bench_function("requests, torn", |b| b.iter(|| decode(black_box(&stream), 1000)));
    let (stream, count) = mixed();
    group.throughput(Throughput::Elements(count));
    group.bench_function("mixed", |b| b.iter(|| decode(black_box(&stream), stream.len())));
    group.bench_function("mixed, torn", |b| b.iter(|| decode(black_box(&stream), RECEIVE_LEN)));
    group.finish();
}

/// From bytes to the request queue and out of it, with a queue of so many blocks all the time.
fn admitting(c: &mut Criterion) {
    let geometry = geometry();
    let stream = requests(10_000);
    let mut group = c.benchmark_group("admit");
    group.throughput(Throughput::Elements(10_000));
    for depth in [16, 256, 2000] {
        group.bench_function(format!("requests, {depth} queued"), |b| {
            b.iter(|| {
                let now = Instant::now();
                let mut peer = Peer::new(Reserved::OURS, Reserved::OURS, now);
                peer.unchoke(now);
                let mut decoder = Decoder::new(wire::len_max(geometry.piece_count()));
                let mut input = &stream[..];
                while let Some(message) = decoder.next(&mut input).expect("a well-formed stream") {
                    let event = peer
                        .on_message(&message, &geometry, |_| true, now)
                        .expect("a peer that behaves");
                    assert!(matches!(event, Event::Request(_)));
                    if peer.request_count() > depth {
                        black_box(peer.next_request());
                    }
                }
            });
        });
    }
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let geometry = geometry();
    let blocks: Vec<_> = geometry
        .pieces()
        .flat_map(|piece| geometry.blocks(piece))
        .take(1000)
        .collect();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1000));
    let mut out = Vec::with_capacity(32 * 1000);
    group.bench_function("rejects", |b| {
        b.iter(|| {
            out.clear();
            blocks
                .iter()
                .for_each(|block| wire::encode(&Message::reject(block), &mut out));
            black_box(out.len())
        });
    });
    group.bench_function("piece headers", |b| {
        b.iter(|| {
            blocks.iter().for_each(|block| {
                black_box(wire::piece_header(block));
            });
        });
    });
    group.finish();
}

/// A torrent file of 10,000 files and 10,000 pieces.
fn torrent_files(c: &mut Criterion) {
    let files: Vec<_> = (0..10_000)
        .map(|at| NewFile {
            path: RelPath::parse(&format!("Folder {}/A file with a name, {at}.flac", at / 20)).expect("a path"),
            len: 256 * 1024,
            pad: false,
        })
        .collect();
    let hashes = vec![[7; 20]; 10_000];
    let bytes = metainfo::encode(&NewTorrent::new(
        "A torrent of many files",
        NewContent::Folder(&files),
        256 * 1024,
        &hashes,
    ));
    let mut group = c.benchmark_group("metainfo");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("parse, 10,000 files", |b| {
        b.iter(|| Metainfo::parse(black_box(&bytes)).expect("a torrent"))
    });
    group.finish();
}

criterion_group!(benches, decoding, admitting, encoding, torrent_files);
criterion_main!(benches);
