//! One message's hash so far, and the single-stream path.
//!
//! Its compression function is the `sha1` crate's, which uses the SHA instructions where the processor has them.
#![forbid(unsafe_code)]

use sha1::block_api::compress;

use super::{BLOCK_LEN, Block};

/// Bytes of a SHA-1 digest.
pub const DIGEST_LEN: usize = 20;

/// Where the message's length stands in its last block (FIPS 180-4, 5.1.1).
const LENGTH_AT: usize = BLOCK_LEN - size_of::<u64>();

/// A message that has been taken in up to some byte, and can go on from there at any time.
#[derive(Clone)]
pub struct State {
    /// The hash value after all whole blocks.
    pub(super) h: [u32; 5],
    /// Bytes taken in.
    total: u64,
    /// Its first `total % 64` bytes are those taken in after the last whole block.
    pub(super) tail: Block,
}

/// What is still to be hashed of a message that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    /// The block in the tail.
    Last,
    /// The block in the tail and one more, which [`State::pad_again`] makes.
    OneMore,
}

impl State {
    /// Of the empty message.
    pub const fn new() -> State {
        State {
            h: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0],
            total: 0,
            tail: [0; BLOCK_LEN],
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        let mut rest = data;
        if self.tail_len() > 0 {
            let taken;
            (taken, rest) = rest.split_at(self.missing().min(rest.len()));
            if self.fill_tail(taken) {
                compress(&mut self.h, std::slice::from_ref(&self.tail));
            }
        }
        let (blocks, rest) = rest.as_chunks();
        if !blocks.is_empty() {
            compress(&mut self.h, blocks);
            self.count(blocks.len() * BLOCK_LEN);
        }
        self.fill_tail(rest);
    }

    /// Ends the message: its digest.
    #[must_use]
    pub fn finish(mut self) -> [u8; DIGEST_LEN] {
        let padding = self.pad();
        compress(&mut self.h, std::slice::from_ref(&self.tail));
        if padding == Padding::OneMore {
            self.pad_again();
            compress(&mut self.h, std::slice::from_ref(&self.tail));
        }
        self.digest()
    }

    /// The digest, once all padding has been hashed.
    pub(super) fn digest(&self) -> [u8; DIGEST_LEN] {
        let mut digest = [0; DIGEST_LEN];
        for (to, word) in digest.as_chunks_mut().0.iter_mut().zip(self.h) {
            *to = word.to_be_bytes();
        }
        digest
    }

    /// How many bytes of the tail are taken.
    pub(super) fn tail_len(&self) -> usize {
        (self.total % BLOCK_LEN as u64) as usize
    }

    /// How many bytes the tail can take.
    pub(super) fn missing(&self) -> usize {
        BLOCK_LEN - self.tail_len()
    }

    /// Takes bytes into the tail. True when they made it a whole block, which is now to be hashed.
    pub(super) fn fill_tail(&mut self, bytes: &[u8]) -> bool {
        let from = self.tail_len();
        self.tail[from..from + bytes.len()].copy_from_slice(bytes);
        self.count(bytes.len());
        !bytes.is_empty() && self.tail_len() == 0
    }

    /// Counts bytes that are taken in: whole blocks while the tail is empty.
    pub(super) fn count(&mut self, bytes: usize) {
        self.total += bytes as u64;
    }

    /// Puts padding behind the bytes in the tail.
    pub(super) fn pad(&mut self) -> Padding {
        let end = self.tail_len();
        self.tail[end] = 0x80;
        self.tail[end + 1..].fill(0);
        if end < LENGTH_AT {
            self.put_length();
            return Padding::Last;
        }
        Padding::OneMore
    }

    /// Makes the tail the block of padding that has room for the length, where that of [`State::pad`] had none.
    pub(super) fn pad_again(&mut self) {
        self.tail.fill(0);
        self.put_length();
    }

    fn put_length(&mut self) {
        // In bits; FIPS 180-4 defines it for messages of less than 2^64.
        let bits = self.total.wrapping_mul(8);
        self.tail[LENGTH_AT..].copy_from_slice(&bits.to_be_bytes());
    }
}

impl Default for State {
    fn default() -> Self {
        State::new()
    }
}

impl std::fmt::Debug for State {
    /// Without the bytes in the tail, which are a user's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}
