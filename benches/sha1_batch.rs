//! SHA-1 of many pieces at once: every backend this processor has, against the `sha1` crate and `ring` one piece after
//! the other. `cargo bench --bench sha1_batch`; figures are in PERF.md.
//!
//! The pieces lie in memory that was touched before, but above 16 MiB in no cache: they come as fast as memory gives
//! them.

use std::hint::black_box;
use std::time::Duration;

use btd::hashing::lanes::{self, Backend, Message, Plan, State};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sha1::Digest as _;

const PIECE_LENS: [usize; 4] = [16 << 10, 256 << 10, 1 << 20, 16 << 20];
const BATCHES: [usize; 5] = [1, 4, 8, 16, 64];
/// Combinations of more bytes than this are left out.
const TOTAL_MAX: usize = 256 << 20;

fn in_lanes(plan: &Plan, pieces: &[&[u8]]) {
    let mut source = pieces.iter().map(|piece| Message {
        state: State::new(),
        spans: vec![*piece],
        finish: true,
        tag: (),
    });
    lanes::run(
        plan,
        || source.next(),
        |message| {
            black_box(message.digest());
        },
    );
}

fn sha1_batch(criterion: &mut Criterion) {
    let payload: Vec<u8> = (0..TOTAL_MAX as u32 / 4).flat_map(u32::to_le_bytes).collect();
    for piece_len in PIECE_LENS {
        let mut group = criterion.benchmark_group(format!("sha1_batch/{}_KiB", piece_len >> 10));
        for batch in BATCHES.into_iter().filter(|batch| batch * piece_len <= TOTAL_MAX) {
            let pieces: Vec<&[u8]> = payload.chunks(piece_len).take(batch).collect();
            group.throughput(Throughput::Bytes((batch * piece_len) as u64));
            for backend in Backend::available() {
                let plan = Plan::of(backend);
                group.bench_function(BenchmarkId::new(backend.name(), batch), |bencher| {
                    bencher.iter(|| in_lanes(plan, black_box(&pieces)));
                });
            }
            group.bench_function(BenchmarkId::new("sha1_crate", batch), |bencher| {
                bencher.iter(|| {
                    for piece in black_box(&pieces) {
                        black_box(sha1::Sha1::digest(piece));
                    }
                });
            });
            group.bench_function(BenchmarkId::new("ring", batch), |bencher| {
                bencher.iter(|| {
                    for piece in black_box(&pieces) {
                        black_box(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, piece));
                    }
                });
            });
        }
        group.finish();
    }
}

/// 90 combinations on this machine: about two minutes in all.
fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(600))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = short();
    targets = sha1_batch
}
criterion_main!(benches);
