//! SipHash (Aumasson, Bernstein 2012): a keyed hash of short messages that nobody can steer without the key.
//!
//! With one round a word and three at the end it names places in tables (what `std` does, whose hasher does not take a
//! key in stable Rust); with two and four it vouches for connection ids. Hashing long messages fast is not its work.

/// Two words of key.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) u64, pub(super) u64);

impl Key {
    /// The key that 16 bytes are.
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self(u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]))
    }

    /// SipHash-1-3 of the message: for tables.
    pub(super) fn hash_1_3(self, message: &[u8]) -> u64 {
        self.hash::<1, 3>(message)
    }

    /// SipHash-2-4 of the message: where a guess must not succeed.
    pub(super) fn hash_2_4(self, message: &[u8]) -> u64 {
        self.hash::<2, 4>(message)
    }

    #[inline(always)] // Messages have a constant length nearly everywhere.
    fn hash<const COMPRESS: usize, const FINISH: usize>(self, message: &[u8]) -> u64 {
        let mut state = State([
            self.0 ^ 0x736f_6d65_7073_6575,
            self.1 ^ 0x646f_7261_6e64_6f6d,
            self.0 ^ 0x6c79_6765_6e65_7261,
            self.1 ^ 0x7465_6462_7974_6573,
        ]);
        let (words, tail) = message.as_chunks::<8>();
        for word in words {
            state.absorb::<COMPRESS>(u64::from_le_bytes(*word));
        }
        // The last word holds what is left, and in its highest byte the length.
        let last = tail.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        state.absorb::<COMPRESS>(last | (message.len() as u64) << 56);
        state.0[2] ^= 0xff;
        for _ in 0..FINISH {
            state.round();
        }
        let [a, b, c, d] = state.0;
        a ^ b ^ c ^ d
    }
}

struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn absorb<const ROUNDS: usize>(&mut self, word: u64) {
        self.0[3] ^= word;
        for _ in 0..ROUNDS {
            self.round();
        }
        self.0[0] ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        c = c.wrapping_add(d);
        b = b.rotate_left(13) ^ a;
        d = d.rotate_left(16) ^ c;
        a = a.rotate_left(32);
        c = c.wrapping_add(b);
        a = a.wrapping_add(d);
        b = b.rotate_left(17) ^ c;
        d = d.rotate_left(21) ^ a;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hasher as _};

    /// The key of the reference vectors: bytes 0 to 15.
    fn reference_key() -> Key {
        Key::from_bytes(std::array::from_fn(|at| at as u8))
    }

    #[test]
    fn the_reference_vectors_of_siphash_2_4_are_met() {
        // From the authors' `vectors.h`: of the messages of 0, 1, 8 and 15 bytes that count up from 0.
        let bytes: [u8; 15] = std::array::from_fn(|at| at as u8);
        for (len, expected) in [
            (0, 0x726f_db47_dd0e_0e31),
            (1, 0x74f8_39c5_93dc_67fd),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
        ] {
            assert_eq!(reference_key().hash_2_4(&bytes[..len]), expected, "{len} bytes");
        }
    }

    #[test]
    fn siphash_1_3_is_what_the_standard_library_computes() {
        // `DefaultHasher::new` is SipHash-1-3 with a key of zeros, which is all of it that can be had.
        let bytes: Vec<u8> = (0..64_u8).map(|at| at.wrapping_mul(7)).collect();
        for len in 0..bytes.len() {
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes[..len]);
            assert_eq!(Key(0, 0).hash_1_3(&bytes[..len]), hasher.finish(), "{len} bytes");
        }
    }
}
