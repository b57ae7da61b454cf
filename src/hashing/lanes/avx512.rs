//! Sixteen messages at once in AVX-512.
//!
//! 32 registers hold the schedule, the state and what a round needs. A rotation is one instruction (`vprold`), and so is
//! any function of three words (`vpternlogd`).

use std::arch::x86_64::__m512i;

use super::rounds::{compress_block, transpose_16, transpose_quarters, transpose_wide};
use super::{Block, by_message, by_word};

/// Messages advanced at once.
pub(super) const WIDTH: usize = 16;

/// Whether this processor can.
pub(super) fn is_available() -> bool {
    // BW is for the byte swap. The only processors with F and without BW were the Xeon Phi.
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Advances each state over its blocks.
///
/// # Panics
/// When the slices differ in length, or the processor has no AVX-512F and BW.
pub(super) fn compress(states: &mut [[u32; 5]; WIDTH], blocks: [&[Block]; WIDTH]) {
    assert!(is_available(), "AVX-512F and BW were not asked for");
    assert!(
        blocks.iter().all(|lane| lane.len() == blocks[0].len()),
        "lanes of different length"
    );
    // SAFETY: the processor has AVX-512F and BW; it was asked above.
    unsafe { compress_avx512(states, blocks) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn compress_avx512(states: &mut [[u32; 5]; WIDTH], blocks: [&[Block]; WIDTH]) {
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
            &blocks[8][index],
            &blocks[9][index],
            &blocks[10][index],
            &blocks[11][index],
            &blocks[12][index],
            &blocks[13][index],
            &blocks[14][index],
            &blocks[15][index],
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
/// Each block is one load and thus one cache line, or two: 16 buffers that begin at page boundaries share one set of
/// the first-level cache, which has fewer ways, so that a line is best read once and whole.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn words(blocks: [&Block; WIDTH]) -> [__m512i; 16] {
    transpose_16!(
        unit,
        [
            unit::swap_bytes(unit::load(blocks[0])),
            unit::swap_bytes(unit::load(blocks[1])),
            unit::swap_bytes(unit::load(blocks[2])),
            unit::swap_bytes(unit::load(blocks[3])),
            unit::swap_bytes(unit::load(blocks[4])),
            unit::swap_bytes(unit::load(blocks[5])),
            unit::swap_bytes(unit::load(blocks[6])),
            unit::swap_bytes(unit::load(blocks[7])),
            unit::swap_bytes(unit::load(blocks[8])),
            unit::swap_bytes(unit::load(blocks[9])),
            unit::swap_bytes(unit::load(blocks[10])),
            unit::swap_bytes(unit::load(blocks[11])),
            unit::swap_bytes(unit::load(blocks[12])),
            unit::swap_bytes(unit::load(blocks[13])),
            unit::swap_bytes(unit::load(blocks[14])),
            unit::swap_bytes(unit::load(blocks[15])),
        ]
    )
}

/// The vector unit; see `rounds`.
mod unit {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Block, WIDTH};

    type Vector = __m512i;

    // The truth tables of `vpternlogd`: bit (x << 2 | y << 1 | z) of the table is the function's value there. The columns
    // of x, y and z are those below, so a function of them is the table of that function.
    const X: i32 = 0b1111_0000;
    const Y: i32 = 0b1100_1100;
    const Z: i32 = 0b1010_1010;
    const CHOOSE: i32 = (X & Y) | (!X & Z);
    const PARITY: i32 = X ^ Y ^ Z;
    const MAJORITY: i32 = (X & Y) | (X & Z) | (Y & Z);
    const _: () = assert!(CHOOSE == 0xca && PARITY == 0x96 && MAJORITY == 0xe8);

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn vector(words: [u32; WIDTH]) -> Vector {
        // SAFETY: both types are 64 bytes that may hold anything.
        unsafe { transmute(words) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn array(vector: Vector) -> [u32; WIDTH] {
        // SAFETY: both types are 64 bytes that may hold anything.
        unsafe { transmute(vector) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(block: &Block) -> Vector {
        // SAFETY: 64 bytes are read, which the reference covers; the load asks for no alignment.
        unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
    }

    /// From the big-endian words of SHA-1 to ours.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn swap_bytes(x: Vector) -> Vector {
        let swapped = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
        _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(swapped))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn unpack_low(x: Vector, y: Vector) -> Vector {
        _mm512_unpacklo_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn unpack_high(x: Vector, y: Vector) -> Vector {
        _mm512_unpackhi_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn shuffle_128<const SELECT: i32>(x: Vector, y: Vector) -> Vector {
        _mm512_shuffle_i32x4::<SELECT>(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn splat(word: u32) -> Vector {
        _mm512_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn add(x: Vector, y: Vector) -> Vector {
        _mm512_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn xor(x: Vector, y: Vector) -> Vector {
        _mm512_xor_si512(x, y)
    }

    /// Rotates to the left; `RIGHT` is 32 - `LEFT`, for units that have shifts only.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn rotl<const LEFT: i32, const RIGHT: i32>(x: Vector) -> Vector {
        const { assert!(LEFT + RIGHT == 32) };
        _mm512_rol_epi32::<LEFT>(x)
    }

    /// FIPS 180-4, 4.1.1: Ch.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn choose(x: Vector, y: Vector, z: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<CHOOSE>(x, y, z)
    }

    /// FIPS 180-4, 4.1.1: Parity.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn parity(x: Vector, y: Vector, z: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<PARITY>(x, y, z)
    }

    /// FIPS 180-4, 4.1.1: Maj.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn majority(x: Vector, y: Vector, z: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<MAJORITY>(x, y, z)
    }
}
