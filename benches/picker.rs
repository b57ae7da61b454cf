//! What choosing the next block costs, a block from its choice to its arrival, and a HAVE. `cargo bench --bench picker`;
//! figures are in PERF.md.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

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

/// Peers with full pipelines.
struct Pipelines {
    picker: Picker,
    peers: Vec<Pieces>,
    asked: Vec<VecDeque<BlockRequest>>,
    out: Vec<BlockRequest>,
}

impl Pipelines {
    /// So many blocks are under way from each peer; `of_a_thousand` tells which peer has how many of all pieces.
    fn new(depth: usize, of_a_thousand: impl Fn(u32) -> u64) -> Pipelines {
        let mut random = 1;
        let mut have = Bitfield::new(PIECES);
        for piece in geometry().pieces().take(10) {
            have.set(piece);
        }
        let mut picker = Picker::new(geometry(), have, PIECES as usize, 7);
        let peers: Vec<Pieces> = (0..PEERS).map(|key| peer(of_a_thousand(key), &mut random)).collect();
        peers.iter().for_each(|has| picker.on_pieces(has));
        let asked = vec![VecDeque::new(); PEERS as usize];
        let mut pipelines = Pipelines {
            picker,
            peers,
            asked,
            out: Vec::new(),
        };
        pipelines.choose(depth);
        pipelines
    }

    /// So many blocks are chosen for each peer at once. Gives how many that were in all, and how long it took.
    fn choose(&mut self, batch: usize) -> (u64, Duration) {
        let (mut count, started) = (0, Instant::now());
        for (key, (has, asked)) in (0..).zip(std::iter::zip(&self.peers, &mut self.asked)) {
            self.out.clear();
            self.picker.pick(key, has, Asking::default(), batch, &mut self.out);
            count += self.out.len() as u64;
            asked.extend(&self.out);
        }
        (count, started.elapsed())
    }

    /// The oldest blocks of each pipeline come; whole pieces are right, and there is always something to do.
    fn receive(&mut self, batch: usize) {
        for (key, asked) in (0..).zip(&mut self.asked) {
            for block in asked.drain(..batch.min(asked.len())) {
                if let Arrived::New { whole: true, .. } = self.picker.on_block(key, &block) {
                    self.picker.on_verified(block.piece());
                    self.picker.on_lost(block.piece());
                }
            }
        }
    }
}

/// Choosing alone, for each block: one at a time, and in batches of an eighth of a pipeline as the shard does it.
fn bench_choice(criterion: &mut Criterion) {
    for (sort, of_a_thousand) in [
        (
            "any sort",
            (|key| 1 + u64::from(key) * 999 / u64::from(PEERS)) as fn(u32) -> u64,
        ),
        ("nearly all", |_| 990),
        ("a few in a thousand", |key| 1 + u64::from(key) % 5),
    ] {
        for (batch, depth) in [(1, 64), (8, 64), (62, 500)] {
            let mut pipelines = Pipelines::new(depth, of_a_thousand);
            let name = format!("picker/choice, peers with {sort}, {batch} of {depth} at a time");
            criterion.bench_function(&name, |bencher| {
                bencher.iter_custom(|blocks| {
                    let (mut count, mut took) = (0, Duration::ZERO);
                    while count < blocks {
                        pipelines.receive(batch);
                        let (chosen, time) = pipelines.choose(batch);
                        assert!(chosen > 0, "there is always something to choose");
                        count += chosen;
                        took += time;
                    }
                    took.mul_f64(blocks as f64 / count as f64)
                });
            });
        }
    }
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

criterion_group!(benches, bench_choice, bench);
criterion_main!(benches);
