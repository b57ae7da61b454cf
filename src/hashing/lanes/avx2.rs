//! Eight messages at once in AVX2.
//!
//! 16 registers do not hold the 16 vectors of the schedule and the state as well, so the schedule lives on the stack; it
//! stays in the first-level cache.

use std::arch::x86_64::__m256i;

use super::rounds::{compress_block, transpose_quarters};
use super::{Block, by_message, by_word};

/// Messages advanced at once.
pub(super) const WIDTH: usize = 8;

/// Whether this processor can.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Advances each state over its blocks.
///
/// # Panics
/// When the slices differ in length, or the processor has no AVX2.
pub(super) fn compress(states: &mut [[u32; 5]; WIDTH], blocks: [&[Block]; WIDTH]) {
    assert!(is_available(), "AVX2 was not asked for");
    assert!(
        blocks.iter().all(|lane| lane.len() == blocks[0].len()),
        "lanes of different length"
    );
    // SAFETY: the processor has AVX2; it was asked above.
    unsafe { compress_avx2(states, blocks) }
}

#[target_feature(enable = "avx2")]
fn compress_avx2(states: &mut [[u32; 5]; WIDTH], blocks: [&[Block]; WIDTH]) {
    let [a, b, c, d, e] = by_word(states);
    let mut h = [
        unit::vector(a),
        unit::vector(b),
        unit::vector(c),
        unit::vector(d),
        unit::vector(e),
    ];
    #[allow(clippy::needless_range_loop)] // The index is the same in every lane's slice.
    for index in 0..blocks[0].len() {
        let mut w = words([
            &blocks[0][index],
            &blocks[1][index],
            &blocks[2][index],
            &blocks[3][index],
            &blocks[4][index],
            &blocks[5][index],
            &blocks[6][index],
            &blocks[7][index],
        ]);
        compress_block!(unit, h, w);
    }
    let [a, b, c, d, e] = h;
    *states = by_message([
        unit::array(a),
        unit::array(b),
        unit::array(c),
        unit::array(d),
        unit::array(e),
    ]);
}

/// The 16 words of one block of each message.
///
/// Each row is loaded in two halves, from messages `i` and `i + 4`: what is left to do is within 128 bits, and the halves
/// join in the load, which is cheaper than shuffles across.
#[inline]
#[target_feature(enable = "avx2")]
fn words(blocks: [&Block; WIDTH]) -> [__m256i; 16] {
    macro_rules! quarter {
        ($index:literal) => {
            transpose_quarters!(
                unit,
                [
                    unit::swap_bytes(unit::load_pair::<$index>(blocks[0], blocks[4])),
                    unit::swap_bytes(unit::load_pair::<$index>(blocks[1], blocks[5])),
                    unit::swap_bytes(unit::load_pair::<$index>(blocks[2], blocks[6])),
                    unit::swap_bytes(unit::load_pair::<$index>(blocks[3], blocks[7])),
                ]
            )
        };
    }
    let [w0, w1, w2, w3] = quarter!(0);
    let [w4, w5, w6, w7] = quarter!(1);
    let [w8, w9, w10, w11] = quarter!(2);
    let [w12, w13, w14, w15] = quarter!(3);
    [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15]
}

/// The vector unit; see `rounds`.
mod unit {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Block, WIDTH};

    type Vector = __m256i;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn vector(words: [u32; WIDTH]) -> Vector {
        // SAFETY: both types are 32 bytes that may hold anything.
        unsafe { transmute(words) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn array(vector: Vector) -> [u32; WIDTH] {
        // SAFETY: both types are 32 bytes that may hold anything.
        unsafe { transmute(vector) }
    }

    /// 16 bytes from the same place of two blocks.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn load_pair<const QUARTER: usize>(low: &Block, high: &Block) -> Vector {
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load::<QUARTER>(low)), load::<QUARTER>(high))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load<const QUARTER: usize>(block: &Block) -> __m128i {
        let quarter: &[u8; 16] = &block.as_chunks().0[QUARTER];
        // SAFETY: 16 bytes are read, which the reference covers; the load asks for no alignment.
        unsafe { _mm_loadu_si128(quarter.as_ptr().cast()) }
    }

    /// From the big-endian words of SHA-1 to ours.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn swap_bytes(x: Vector) -> Vector {
        let swapped = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
        _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(swapped))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn unpack_low(x: Vector, y: Vector) -> Vector {
        _mm256_unpacklo_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn unpack_high(x: Vector, y: Vector) -> Vector {
        _mm256_unpackhi_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn splat(word: u32) -> Vector {
        _mm256_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn add(x: Vector, y: Vector) -> Vector {
        _mm256_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn xor(x: Vector, y: Vector) -> Vector {
        _mm256_xor_si256(x, y)
    }

    /// Rotates to the left; `RIGHT` is 32 - `LEFT`, which a const argument cannot say.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn rotl<const LEFT: i32, const RIGHT: i32>(x: Vector) -> Vector {
        const { assert!(LEFT + RIGHT == 32) };
        _mm256_or_si256(_mm256_slli_epi32::<LEFT>(x), _mm256_srli_epi32::<RIGHT>(x))
    }

    /// FIPS 180-4, 4.1.1: Ch.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn choose(x: Vector, y: Vector, z: Vector) -> Vector {
        xor(z, _mm256_and_si256(x, xor(y, z)))
    }

    /// FIPS 180-4, 4.1.1: Parity.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn parity(x: Vector, y: Vector, z: Vector) -> Vector {
        xor(xor(x, y), z)
    }

    /// FIPS 180-4, 4.1.1: Maj.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn majority(x: Vector, y: Vector, z: Vector) -> Vector {
        xor(y, _mm256_and_si256(xor(x, y), xor(y, z)))
    }
}
