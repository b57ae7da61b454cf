//! The arithmetic of SHA-1 over vectors, written once for every width.
//!
//! A vector holds one 32-bit word of each message. A *vector unit* is a module with a type `Vector` and the operations
//! named below; the macros are expanded inside a function that enables the unit's instructions, so that all of it
//! becomes straight code in registers, and none of it needs `unsafe`. (Generic functions over a trait could not say
//! `#[target_feature]`, so every operation would be an unsafe call there.)
//!
//! The unit `model` runs the same macros on arrays, in tests.

/// The rounds of one block for all messages at once (FIPS 180-4, 6.1.2), from the words `$w` of the message to the new
/// hash value, in `$h`.
///
/// The message schedule is kept as 16 rolling vectors: word `t` takes the place of word `t - 16`.
macro_rules! compress_block {
    ($unit:ident, $h:ident, $w:ident) => {{
        use $unit::{add, choose, majority, parity, rotl, splat, xor};
        let [mut a, mut b, mut c, mut d, mut e] = $h;
        // One round. What depends on the round before last is added first: the chain from round to round is then one
        // rotation, one function and two additions.
        macro_rules! round {
            ($f:ident, $k:ident, $word:expr) => {
                let known = add(add(e, $k), $word);
                let sum = add(add(known, $f(b, c, d)), rotl::<5, 27>(a));
                (a, b, c, d, e) = (sum, a, rotl::<30, 2>(b), c, d);
            };
        }
        // The next word of the schedule, in the place of the oldest.
        macro_rules! word {
            ($t:expr) => {{
                let mixed = xor(parity($w[($t + 13) % 16], $w[($t + 8) % 16], $w[($t + 2) % 16]), $w[$t % 16]);
                $w[$t % 16] = rotl::<1, 31>(mixed);
                $w[$t % 16]
            }};
        }
        macro_rules! rounds {
            ($f:ident, $k:ident, given: $t0:literal $t1:literal $t2:literal $t3:literal) => {
                round!($f, $k, $w[$t0]);
                round!($f, $k, $w[$t1]);
                round!($f, $k, $w[$t2]);
                round!($f, $k, $w[$t3]);
            };
            ($f:ident, $k:ident, made from: $t:literal) => {
                round!($f, $k, word!($t));
                round!($f, $k, word!($t + 1));
                round!($f, $k, word!($t + 2));
                round!($f, $k, word!($t + 3));
            };
        }
        let k = splat(0x5a82_7999);
        rounds!(choose, k, given: 0 1 2 3);
        rounds!(choose, k, given: 4 5 6 7);
        rounds!(choose, k, given: 8 9 10 11);
        rounds!(choose, k, given: 12 13 14 15);
        rounds!(choose, k, made from: 16);
        let k = splat(0x6ed9_eba1);
        rounds!(parity, k, made from: 20);
        rounds!(parity, k, made from: 24);
        rounds!(parity, k, made from: 28);
        rounds!(parity, k, made from: 32);
        rounds!(parity, k, made from: 36);
        let k = splat(0x8f1b_bcdc);
        rounds!(majority, k, made from: 40);
        rounds!(majority, k, made from: 44);
        rounds!(majority, k, made from: 48);
        rounds!(majority, k, made from: 52);
        rounds!(majority, k, made from: 56);
        let k = splat(0xca62_c1d6);
        rounds!(parity, k, made from: 60);
        rounds!(parity, k, made from: 64);
        rounds!(parity, k, made from: 68);
        rounds!(parity, k, made from: 72);
        rounds!(parity, k, made from: 76);
        $h = [add($h[0], a), add($h[1], b), add($h[2], c), add($h[3], d), add($h[4], e)];
    }};
}

/// Transposes four rows of 32-bit words within each 128 bits: element `j` of row `i` goes to element `i` of row `j`.
macro_rules! transpose_quarters {
    ($unit:ident, $rows:expr) => {{
        use $unit::{unpack_high, unpack_low};
        let [r0, r1, r2, r3] = $rows;
        let (low_02, high_02) = (unpack_low(r0, r2), unpack_high(r0, r2));
        let (low_13, high_13) = (unpack_low(r1, r3), unpack_high(r1, r3));
        [
            unpack_low(low_02, low_13),
            unpack_high(low_02, low_13),
            unpack_low(high_02, high_13),
            unpack_high(high_02, high_13),
        ]
    }};
}

/// Transposes four rows of 128-bit elements: element `j` of row `i` goes to element `i` of row `j`.
macro_rules! transpose_wide {
    ($unit:ident, $rows:expr) => {{
        use $unit::shuffle_128;
        // Each result takes two elements of its first argument, then two of its second, two bits of the selector each.
        const FIRST_TWO: i32 = 0b01_00_01_00;
        const LAST_TWO: i32 = 0b11_10_11_10;
        const EVEN: i32 = 0b10_00_10_00;
        const ODD: i32 = 0b11_01_11_01;
        let [r0, r1, r2, r3] = $rows;
        let (first_01, first_23) = (shuffle_128::<FIRST_TWO>(r0, r1), shuffle_128::<FIRST_TWO>(r2, r3));
        let (last_01, last_23) = (shuffle_128::<LAST_TWO>(r0, r1), shuffle_128::<LAST_TWO>(r2, r3));
        [
            shuffle_128::<EVEN>(first_01, first_23),
            shuffle_128::<ODD>(first_01, first_23),
            shuffle_128::<EVEN>(last_01, last_23),
            shuffle_128::<ODD>(last_01, last_23),
        ]
    }};
}

/// The 16 words of a message block of 16 messages, from the messages' blocks: a 16 x 16 transposition.
macro_rules! transpose_16 {
    ($unit:ident, $rows:expr) => {{
        let [r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15] = $rows;
        // Of four messages each: in row `j` the words j, 4 + j, 8 + j and 12 + j.
        let [a0, a1, a2, a3] = transpose_quarters!($unit, [r0, r1, r2, r3]);
        let [b0, b1, b2, b3] = transpose_quarters!($unit, [r4, r5, r6, r7]);
        let [c0, c1, c2, c3] = transpose_quarters!($unit, [r8, r9, r10, r11]);
        let [d0, d1, d2, d3] = transpose_quarters!($unit, [r12, r13, r14, r15]);
        let [w0, w4, w8, w12] = transpose_wide!($unit, [a0, b0, c0, d0]);
        let [w1, w5, w9, w13] = transpose_wide!($unit, [a1, b1, c1, d1]);
        let [w2, w6, w10, w14] = transpose_wide!($unit, [a2, b2, c2, d2]);
        let [w3, w7, w11, w15] = transpose_wide!($unit, [a3, b3, c3, d3]);
        [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15]
    }};
}

pub(super) use {compress_block, transpose_16, transpose_quarters, transpose_wide};
