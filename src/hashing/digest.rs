//! One SHA-1 digest, at once or in parts.
//!
//! This is the single stream: the `sha1` crate's compression function, which asks the processor at run time and uses the
//! SHA instructions where they exist. On a core with SHA-NI it hashes 1.9 GB/s; `ring` has no such path for SHA-1 and
//! reaches a quarter of that. Many messages at once are the business of [`lanes`](super::lanes).
#![forbid(unsafe_code)]

use super::lanes::State;

pub use super::lanes::DIGEST_LEN;

/// The SHA-1 digest of `data`.
pub fn sha1(data: &[u8]) -> [u8; DIGEST_LEN] {
    let mut state = State::new();
    state.update(data);
    state.finish()
}

/// A SHA-1 digest in the making, for data that comes in parts.
#[derive(Clone, Default)]
pub struct Hasher(pub(super) State);

impl Hasher {
    /// A hasher that has seen no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the message.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> [u8; DIGEST_LEN] {
        self.0.finish()
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(digest: [u8; DIGEST_LEN]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn digests_are_those_of_fips_180() {
        assert_eq!(hex(sha1(b"")), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(hex(sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(sha1(two_blocks)), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(
            hex(sha1(&vec![b'a'; 1_000_000])),
            "34aa973cd4c4daa4f61eeb2bdbad27316534016f"
        );
    }

    proptest! {
        #[test]
        fn parts_of_any_size_give_the_digest_of_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..1000),
            cuts in proptest::collection::vec(0usize..1000, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(data.len())).collect();
            cuts.sort_unstable();
            let mut hasher = Hasher::new();
            let mut from = 0;
            for to in cuts.into_iter().chain([data.len()]) {
                hasher.update(&data[from..to]);
                from = to;
            }
            prop_assert_eq!(hasher.finish(), sha1(&data));
        }
    }
}
