//! Two or three messages in turn with the SHA instructions.
//!
//! The four rounds of `sha1rnds4` take longer than the processor needs before it can begin another four: with messages
//! interleaved none waits for its own rounds. On a Zen 3, two are 1.8 times as fast as one, three 2.2 times, and four no
//! faster than three: 16 registers hold two messages, and what three spill still pays.

use std::arch::x86_64::*;

use super::Block;

/// Messages advanced at once.
pub(super) const WIDTH: usize = 3;

/// The same where only two are left.
pub(super) const PAIR: usize = 2;

/// Whether this processor can.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

/// Advances each state over its blocks.
///
/// # Panics
/// When the slices differ in length, or the processor has no SHA instructions.
pub(super) fn compress<const N: usize>(states: &mut [[u32; 5]; N], blocks: [&[Block]; N]) {
    assert!(is_available(), "the SHA instructions were not asked for");
    assert!(
        blocks.iter().all(|lane| lane.len() == blocks[0].len()),
        "lanes of different length"
    );
    // SAFETY: the processor has SHA, SSSE3 and SSE4.1; it was asked above.
    unsafe { compress_shani(states, blocks) }
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress_shani<const N: usize>(states: &mut [[u32; 5]; N], blocks: [&[Block]; N]) {
    let zero = _mm_setzero_si128();
    // The instructions want A in the highest word, and E in the highest word of a register of its own.
    let (mut abcd, mut e) = ([zero; N], [zero; N]);
    for lane in 0..N {
        let [a, b, c, d, last] = states[lane].map(u32::cast_signed);
        abcd[lane] = _mm_set_epi32(a, b, c, d);
        e[lane] = _mm_set_epi32(last, 0, 0, 0);
    }
    #[allow(clippy::needless_range_loop)] // The index is the same in every lane's slice.
    for index in 0..blocks[0].len() {
        let mut w = [[zero; 4]; N];
        for lane in 0..N {
            let block = &blocks[lane][index];
            w[lane] = [load::<0>(block), load::<1>(block), load::<2>(block), load::<3>(block)];
        }
        let (abcd_before, e_before) = (abcd, e);
        // `abcd` four rounds ago: its rotated A is today's E.
        let mut earlier = abcd;
        macro_rules! four_rounds {
            ($group:literal, $function:literal) => {
                for lane in 0..N {
                    let words = &mut w[lane];
                    if $group >= 4 {
                        // Words 4 * group ..: in the place of the oldest four.
                        let partial = _mm_sha1msg1_epu32(words[$group % 4], words[($group + 1) % 4]);
                        let partial = _mm_xor_si128(partial, words[($group + 2) % 4]);
                        words[$group % 4] = _mm_sha1msg2_epu32(partial, words[($group + 3) % 4]);
                    }
                    let e_and_words = if $group == 0 {
                        _mm_add_epi32(e[lane], words[0])
                    } else {
                        _mm_sha1nexte_epu32(earlier[lane], words[$group % 4])
                    };
                    earlier[lane] = abcd[lane];
                    abcd[lane] = _mm_sha1rnds4_epu32::<$function>(abcd[lane], e_and_words);
                }
            };
        }
        four_rounds!(0, 0);
        four_rounds!(1, 0);
        four_rounds!(2, 0);
        four_rounds!(3, 0);
        four_rounds!(4, 0);
        four_rounds!(5, 1);
        four_rounds!(6, 1);
        four_rounds!(7, 1);
        four_rounds!(8, 1);
        four_rounds!(9, 1);
        four_rounds!(10, 2);
        four_rounds!(11, 2);
        four_rounds!(12, 2);
        four_rounds!(13, 2);
        four_rounds!(14, 2);
        four_rounds!(15, 3);
        four_rounds!(16, 3);
        four_rounds!(17, 3);
        four_rounds!(18, 3);
        four_rounds!(19, 3);
        for lane in 0..N {
            e[lane] = _mm_sha1nexte_epu32(earlier[lane], e_before[lane]);
            abcd[lane] = _mm_add_epi32(abcd[lane], abcd_before[lane]);
        }
    }
    for lane in 0..N {
        let (abcd, e) = (abcd[lane], e[lane]);
        let words = [
            _mm_extract_epi32::<3>(abcd),
            _mm_extract_epi32::<2>(abcd),
            _mm_extract_epi32::<1>(abcd),
            _mm_extract_epi32::<0>(abcd),
            _mm_extract_epi32::<3>(e),
        ];
        states[lane] = words.map(i32::cast_unsigned);
    }
}

/// Four words of a block, the first one highest.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn load<const QUARTER: usize>(block: &Block) -> __m128i {
    let quarter: &[u8; 16] = &block.as_chunks().0[QUARTER];
    // SAFETY: 16 bytes are read, which the reference covers; the load asks for no alignment.
    let bytes = unsafe { _mm_loadu_si128(quarter.as_ptr().cast()) };
    _mm_shuffle_epi8(
        bytes,
        _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    )
}
