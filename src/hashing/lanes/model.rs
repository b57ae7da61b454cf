//! A vector unit of plain arrays, which runs the rounds and transpositions of the vector kernels anywhere: under Miri, and
//! 16 wide on processors without AVX-512. Its operations are written down from Intel's description of the instructions.
#![forbid(unsafe_code)]

use super::rounds::{compress_block, transpose_16, transpose_quarters, transpose_wide};
use super::{Block, by_message, by_word};

/// What the AVX-512 kernel does, with arrays for vectors.
pub(super) fn compress(states: &mut [[u32; 5]; 16], blocks: [&[Block]; 16]) {
    let mut h = by_word(states);
    #[allow(clippy::needless_range_loop)] // The index is the same in every lane's slice.
    for index in 0..blocks[0].len() {
        let rows: [[u32; 16]; 16] = std::array::from_fn(|lane| words(&blocks[lane][index]));
        let mut w = transpose_16!(unit, rows);
        compress_block!(unit, h, w);
    }
    *states = by_message(h);
}

/// The words of one block, as a load with its bytes swapped gives them.
pub(super) fn words(block: &Block) -> [u32; 16] {
    let bytes = block.as_chunks().0;
    std::array::from_fn(|word| u32::from_be_bytes(bytes[word]))
}

/// The vector unit; see `rounds`.
mod unit {
    use std::array::from_fn;

    type Vector = [u32; 16];

    /// `vpunpckldq`: in each 128 bits the lower two words of both, in turn.
    pub(super) fn unpack_low(x: Vector, y: Vector) -> Vector {
        from_fn(|i| {
            if i % 2 == 0 {
                x[i / 4 * 4 + i % 4 / 2]
            } else {
                y[i / 4 * 4 + i % 4 / 2]
            }
        })
    }

    /// `vpunpckhdq`: in each 128 bits the upper two words of both, in turn.
    pub(super) fn unpack_high(x: Vector, y: Vector) -> Vector {
        from_fn(|i| {
            if i % 2 == 0 {
                x[i / 4 * 4 + 2 + i % 4 / 2]
            } else {
                y[i / 4 * 4 + 2 + i % 4 / 2]
            }
        })
    }

    /// `vshufi32x4`: two times 128 bits out of the first, then two out of the second, each named by two bits.
    pub(super) fn shuffle_128<const SELECT: i32>(x: Vector, y: Vector) -> Vector {
        from_fn(|i| {
            let quarter = (SELECT >> (i / 4 * 2) & 3) as usize;
            if i < 8 {
                x[quarter * 4 + i % 4]
            } else {
                y[quarter * 4 + i % 4]
            }
        })
    }

    pub(super) fn splat(word: u32) -> Vector {
        [word; 16]
    }

    pub(super) fn add(x: Vector, y: Vector) -> Vector {
        from_fn(|i| x[i].wrapping_add(y[i]))
    }

    pub(super) fn xor(x: Vector, y: Vector) -> Vector {
        from_fn(|i| x[i] ^ y[i])
    }

    pub(super) fn rotl<const LEFT: u32, const RIGHT: u32>(x: Vector) -> Vector {
        const { assert!(LEFT + RIGHT == 32) };
        x.map(|word| word.rotate_left(LEFT))
    }

    pub(super) fn choose(x: Vector, y: Vector, z: Vector) -> Vector {
        from_fn(|i| (x[i] & y[i]) | (!x[i] & z[i]))
    }

    pub(super) fn parity(x: Vector, y: Vector, z: Vector) -> Vector {
        from_fn(|i| x[i] ^ y[i] ^ z[i])
    }

    pub(super) fn majority(x: Vector, y: Vector, z: Vector) -> Vector {
        from_fn(|i| (x[i] & y[i]) | (x[i] & z[i]) | (y[i] & z[i]))
    }
}
