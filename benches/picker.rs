//! What choosing the next block costs, and a HAVE. `cargo bench --bench picker`; figures are in PERF.md.

use std::hint::black_box;

use btd::proto::bitfield::Bitfield;
use btd::proto::geometry::{BLOCK_LEN, BlockRequest, Geometry, PieceIndex};
use btd::proto::peer::Pieces;
use btd::proto::picker::{Arrived, Asking, Picker};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const PIECES: u32 = 100_000;
const PEERS: u32 = 500;

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn geometry() -> Geometry {
    let piece_len = 16 * BLOCK_LEN;
    Geometry::new(piece_len, u64::from(PIECES) * u64::from(piece_len)).expect("a torrent's shape")
}

/// A peer that has each piece with this probability.
fn peer(of_a_thousand: u64, random: &mut u64) -> Pieces {
    let mut bits = Bitfield::new(PIECES);
    for piece in geometry().pieces() {
        if next(random) % 1000 < of_a_thousand {
            bits.set(piece);
        }
    }
    Pieces::Bits(bits)
}

/// A swarm of peers that have from nothing to everything, each as likely.
fn swarm() -> (Picker, Vec<Pieces>) {
    let mut random = 1;
    let mut have = Bitfield::new(PIECES);
    for piece in geometry().pieces().take(10) {
        have.set(piece);
    }
    let mut picker = Picker::new(geometry(), have, 512, 7);
    let peers: Vec<Pieces> = (0..PEERS)
        .map(|number| peer(u64::from(number) * 1000 / u64::from(PEERS), &mut random))
        .collect();
    peers.iter().for_each(|has| picker.on_pieces(has));
    (picker, peers)
}

/// One block is asked for and comes; whole pieces are right.
fn turn(picker: &mut Picker, key: u32, has: &Pieces, out: &mut Vec<BlockRequest>) {
    out.clear();
    picker.pick(key, has, Asking::default(), 1, out);
    for block in out.iter() {
        if let Arrived::New { whole: true, .. } = picker.on_block(key, block) {
            picker.on_verified(block.piece());
            // There is always something to do.
            picker.on_lost(block.piece());
        }
    }
}

fn bench(criterion: &mut Criterion) {
    let (mut picker, peers) = swarm();
    let mut out = Vec::new();
    let mut turns = |criterion: &mut Criterion, name: &str, keys: std::ops::Range<u32>| {
        let mut key = keys.start;
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                turn(&mut picker, key, &peers[key as usize], &mut out);
                key = if key + 1 == keys.end { keys.start } else { key + 1 };
            });
        });
    };
    turns(criterion, "picker/block, peers of any sort", 0..PEERS);
    turns(criterion, "picker/block, peers with nearly all", PEERS - 10..PEERS);
    turns(criterion, "picker/block, peers with a few in a thousand", 1..5);

    let (mut picker, _) = swarm();
    let pieces: Vec<PieceIndex> = geometry().pieces().collect();
    let mut random = 3;
    criterion.bench_function("picker/have", |bencher| {
        bencher.iter_batched(
            || pieces[(next(&mut random) % u64::from(PIECES)) as usize],
            |piece| picker.on_have(black_box(piece)),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
