//! Every backend against `ring`, another implementation altogether.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expected(data: &[u8]) -> [u8; DIGEST_LEN] {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, data);
    digest.as_ref().try_into().expect("20 bytes")
}

/// Bytes in which no two blocks are the same.
fn data(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut data: Vec<u8> = std::iter::repeat_with(|| random.next().to_le_bytes())
        .take(len.div_ceil(8))
        .flatten()
        .collect();
    data.truncate(len);
    data
}

/// SplitMix64: enough to make up messages, and a second's worth of tests needs a fast one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Every available backend, as it is used, and with its own kernel however few lanes are filled.
fn plans() -> Vec<(&'static str, Plan)> {
    Backend::available()
        .flat_map(|backend| {
            let name = backend.name();
            [(name, Plan::of(backend).clone()), (name, Plan::always(backend))]
        })
        .collect()
}

fn message(spans: Vec<&[u8]>, tag: usize) -> Message<&[u8], usize> {
    Message {
        state: State::new(),
        spans,
        finish: true,
        tag,
    }
}

/// The digests of whole messages, each in its spans, in their order.
fn digests(plan: &Plan, messages: Vec<Vec<&[u8]>>) -> Vec<[u8; DIGEST_LEN]> {
    let mut digests = vec![None; messages.len()];
    let mut source = messages.into_iter().enumerate().map(|(tag, spans)| message(spans, tag));
    let work = run(
        plan,
        || source.next(),
        |message| {
            let before = digests[message.tag].replace(message.digest().expect("a digest was asked for"));
            assert_eq!(before, None, "message {} came back twice", message.tag);
        },
    );
    assert!(work.lane_blocks <= work.lane_slots);
    digests
        .into_iter()
        .map(|digest| digest.expect("every message comes back"))
        .collect()
}

/// Cuts data at places from 0 to its length, in order.
fn cut<'a>(data: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (data.len() + 1)).collect();
    places.sort_unstable();
    let begins = std::iter::once(0).chain(places.iter().copied());
    let ends = places.iter().copied().chain([data.len()]);
    begins.zip(ends).map(|(begin, end)| &data[begin..end]).collect()
}

#[test]
fn digests_are_those_of_fips_180_on_every_backend() {
    let million = vec![b'a'; 1_000_000];
    let vectors: [(&[u8], &str); 5] = [
        (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
        ),
        (
            b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
            "a49b2446a02c645bf419f995b67091253a04a259",
        ),
        (&million, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
    ];
    for (name, plan) in plans() {
        for copies in [1, 3, 7] {
            let messages = vectors.iter().cycle().take(copies * vectors.len());
            let found = digests(&plan, messages.clone().map(|(data, _)| vec![*data]).collect());
            for (digest, (_, expected)) in found.iter().zip(messages) {
                assert_eq!(&hex(digest), expected, "{name}");
            }
        }
    }
}

#[test]
fn every_length_to_a_thousand_is_hashed_right_on_every_backend() {
    let data = data(1000, 1);
    for (name, plan) in plans() {
        // Unequal lengths side by side, then equal ones.
        let found = digests(&plan, (0..=1000).map(|len| vec![&data[..len]]).collect());
        for (len, digest) in found.into_iter().enumerate() {
            assert_eq!(digest, expected(&data[..len]), "{len} bytes with {name}");
        }
        for len in (0..=1000).filter(|len| (len + 9) % 64 <= 17 || len % 64 <= 1) {
            let messages: Vec<Vec<&[u8]>> = (0..16).map(|_| vec![&data[..len]]).collect();
            assert!(
                digests(&plan, messages)
                    .into_iter()
                    .all(|digest| digest == expected(&data[..len])),
                "16 times {len} bytes with {name}"
            );
        }
    }
}

#[test]
fn block_boundaries_are_met_at_every_offset_in_a_buffer() {
    let data = data(64 + 400, 2);
    for (name, plan) in plans() {
        let parts: Vec<&[u8]> = (0..64)
            .flat_map(|from| [127, 128, 129, 183, 184, 320].map(|len| from..from + len))
            .map(|range| &data[range])
            .collect();
        let found = digests(&plan, parts.iter().map(|part| vec![*part]).collect());
        assert!(found.into_iter().eq(parts.into_iter().map(expected)), "{name}");
    }
}

#[test]
fn single_stream_is_right_for_every_length_and_cut() {
    let data = data(300, 3);
    for len in 0..=300 {
        for at in [0, 1, 55, 56, 63, 64, 65, 128, 200] {
            let mut state = State::new();
            state.update(&data[..at.min(len)]);
            state.update(&data[at.min(len)..len]);
            assert_eq!(state.finish(), expected(&data[..len]), "{len} bytes cut at {at}");
        }
    }
}

#[test]
fn rounds_and_transposition_of_sixteen_are_right_on_arrays() {
    let blocks: Vec<Vec<Block>> = (0..16).map(|lane| data(128, lane).as_chunks().0.to_vec()).collect();
    let start: [[u32; 5]; 16] = std::array::from_fn(|lane| State::new().h.map(|word| word ^ lane as u32));
    let mut found = start;
    model::compress(&mut found, std::array::from_fn(|lane| blocks[lane].as_slice()));
    for lane in 0..16 {
        let mut h = start[lane];
        sha1::block_api::compress(&mut h, &blocks[lane]);
        assert_eq!(found[lane], h, "lane {lane}");
    }
}

/// Every kernel keeps its lanes apart: each starts from a state of its own and ends as it would alone.
#[test]
#[cfg(target_arch = "x86_64")]
fn kernels_advance_each_lane_as_if_it_were_alone() {
    fn check<const N: usize>(available: bool, compress: impl Fn(&mut [[u32; 5]; N], [&[Block]; N])) {
        if !available {
            return;
        }
        for count in 0..4 {
            let blocks: [Vec<u8>; N] = std::array::from_fn(|lane| data(count * BLOCK_LEN, lane as u64));
            let start: [[u32; 5]; N] = std::array::from_fn(|lane| State::new().h.map(|word| word ^ lane as u32));
            let mut found = start;
            compress(&mut found, std::array::from_fn(|lane| blocks[lane].as_chunks().0));
            for lane in 0..N {
                let mut h = start[lane];
                sha1::block_api::compress(&mut h, blocks[lane].as_chunks().0);
                assert_eq!(found[lane], h, "lane {lane} of {N}");
            }
        }
    }
    check(avx512::is_available(), avx512::compress);
    check(avx2::is_available(), avx2::compress);
    check(shani::is_available(), shani::compress::<1>);
    check(shani::is_available(), shani::compress::<2>);
    check(shani::is_available(), shani::compress::<3>);
}

#[test]
fn messages_that_the_source_finds_later_are_hashed_too() {
    let data = data(500, 4);
    for (_, plan) in plans() {
        let ended = std::cell::Cell::new(0);
        let mut asked = 0;
        // One message at the beginning, and another each time that one has ended.
        let source = || {
            let give = asked == ended.get() && asked < 40;
            give.then(|| {
                asked += 1;
                message(vec![&data[..asked * 7]], asked * 7)
            })
        };
        run(&plan, source, |message| {
            ended.set(ended.get() + 1);
            assert_eq!(message.digest(), Some(expected(&data[..message.tag])));
        });
        assert_eq!(ended.get(), 40);
    }
}

#[test]
fn work_counts_filled_lanes_and_all_lanes() {
    let data = data(64, 5);
    for backend in Backend::available().filter(|backend| *backend != Backend::Scalar) {
        let plan = Plan::always(backend);
        let mut source = (0..plan.width() + 1).map(|tag| message(vec![&data[..]], tag));
        // A block and one of padding: all lanes, then one.
        let width = plan.width() as u64;
        let expected = Work {
            lane_blocks: 2 * (width + 1),
            lane_slots: 2 * 2 * width,
            single_blocks: 0,
        };
        assert_eq!(run(&plan, || source.next(), drop), expected);
    }
}

#[test]
fn backend_is_refused_by_name_when_it_is_unknown() {
    let error = Backend::named("mmx").unwrap_err().to_string();
    assert!(
        error.starts_with("BTD_SHA1=mmx: no such backend (choose from "),
        "{error}"
    );
    assert!(error.ends_with("scalar)"), "{error}");
    assert_eq!(Backend::named("scalar"), Ok(Backend::Scalar));
    for backend in Backend::ALL {
        assert_eq!(Backend::named(backend.name()).is_ok(), backend.is_available());
    }
}

/// So that tests which are run for the sake of one backend do not pass for want of it.
#[test]
fn backend_that_the_environment_names_is_available() {
    let backend = Backend::from_env().unwrap_or_else(|error| panic!("{error}"));
    let all: Vec<&str> = Backend::available().map(Backend::name).collect();
    println!("{} is used, of {}", backend.name(), all.join(", "));
}

proptest! {
    #[test]
    fn batches_of_any_lengths_cut_anywhere_are_hashed_right(
        messages in proptest::collection::vec(
            (0usize..3000, proptest::collection::vec(any::<usize>(), 0..6)),
            0..40,
        ),
        seed: u64,
    ) {
        let data: Vec<Vec<u8>> = messages.iter().zip(seed..).map(|((len, _), seed)| data(*len, seed)).collect();
        let spans: Vec<Vec<&[u8]>> = data.iter().zip(&messages).map(|(data, (_, places))| cut(data, places)).collect();
        for (name, plan) in plans() {
            let found = digests(&plan, spans.clone());
            for (digest, data) in found.iter().zip(&data) {
                prop_assert_eq!(*digest, expected(data), "{} bytes with {}", data.len(), name);
            }
        }
    }

    #[test]
    fn messages_in_parts_go_on_from_their_state_on_any_path(
        messages in proptest::collection::vec(
            (0usize..2000, proptest::collection::vec(any::<usize>(), 0..6)),
            1..20,
        ),
        seed: u64,
    ) {
        let data: Vec<Vec<u8>> = messages.iter().zip(seed..).map(|((len, _), seed)| data(*len, seed)).collect();
        for (name, plan) in plans() {
            let mut states = vec![State::new(); data.len()];
            // One part of each message in every run; those that have no more parts stay away.
            for part in 0.. {
                let parts = data.iter().zip(&messages).enumerate();
                let parts = parts.filter_map(|(tag, (data, (_, places)))| Some((tag, *cut(data, places).get(part)?)));
                let mut source = parts.map(|(tag, part)| Message {
                    state: states[tag].clone(),
                    spans: vec![part],
                    finish: false,
                    tag,
                }).collect::<Vec<_>>().into_iter();
                if source.len() == 0 {
                    break;
                }
                run(&plan, || source.next(), |message| states[message.tag] = message.state);
            }
            for (state, data) in states.into_iter().zip(&data) {
                prop_assert_eq!(state.finish(), expected(data), "{} bytes with {}", data.len(), name);
            }
        }
    }
}

/// Takes about a minute: `cargo test --release --lib hashing::lanes -- --ignored --nocapture`
///
/// `BTD_SHA1_MESSAGES` asks for another number of them, where processors are emulated.
#[test]
#[ignore = "a million messages: for release builds"]
fn a_million_random_messages_are_hashed_right() {
    let messages = std::env::var("BTD_SHA1_MESSAGES").map_or(1_000_000, |number| number.parse().expect("a number"));
    let pool = data(1 << 20, 6);
    for (name, plan) in Backend::available().map(|backend| (backend.name(), Plan::of(backend))) {
        let mut random = Random(7);
        let (mut begun, mut right) = (0, 0);
        let mut lanes_of = |begun: usize| {
            // Mostly short, some long, cut into up to five spans.
            let len_max = [64, 1000, 16 << 10, 100_000][[0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3][random.below(12)]];
            let (from, len) = (random.below(pool.len() - len_max), random.below(len_max));
            let cuts: Vec<usize> = (0..random.below(5)).map(|_| random.below(len + 1)).collect();
            let range = from..from + len;
            Message {
                state: State::new(),
                spans: cut(&pool[range.clone()], &cuts),
                finish: true,
                tag: (begun, range),
            }
        };
        let source = || {
            (begun < messages).then(|| {
                begun += 1;
                lanes_of(begun)
            })
        };
        let work = run(plan, source, |message| {
            let (number, range) = message.tag.clone();
            assert_eq!(
                message.digest(),
                Some(expected(&pool[range])),
                "message {number} with {name}"
            );
            right += 1;
        });
        assert_eq!(right, messages);
        println!("{name}: {right} messages right; {work:?}");
    }
}
