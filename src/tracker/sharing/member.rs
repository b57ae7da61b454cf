//! A peer as a member of a torrent's sorted set.
//!
//! A member is a peer: the kind of its address (4 or 6), the address as in compact replies, and the name it goes by if it
//! has one. Its score is when it is to be forgotten, in milliseconds since 1970, times two, and one more if it is a seeder:
//! so a peer is there once, a seeder and a leecher are told apart without a look elsewhere, and who is to be forgotten is a
//! range. The scores of two moments in this century differ by less than 2^53, which is what a score can tell apart.
//!
//! One member is no peer: [`DOWNLOADS`], whose score is how many have completed the torrent. No moment's score is as small, so
//! that it is in nobody's range. It lies beside the peers because it is to be forgotten as late as they are and a bit later:
//! with the key.

use crate::tracker::address::Address;
use crate::tracker::hostname::HOSTNAME_LEN_MAX;

/// The member whose score counts completions.
pub const DOWNLOADS: &[u8] = b"downloads";
/// Scores from here on are of peers: more than a count can be, less than any moment since 2009.
pub const SCORE_LEAST: u64 = 5_000_000_000;
const _: () = assert!(SCORE_LEAST > u32::MAX as u64);
/// Beyond this many milliseconds ahead of its time no peer is believed: two intervals of a day, and some.
const AHEAD_MAX_MS: u64 = 50 * 60 * 60 * 1000;

const KIND_V4: u8 = 4;
const KIND_V6: u8 = 6;

/// The score of a peer that is to be forgotten at this moment, in milliseconds since 1970.
#[must_use]
pub const fn score(expires_ms: u64, is_seeder: bool) -> u64 {
    expires_ms.saturating_mul(2).saturating_add(is_seeder as u64)
}

/// What a score says at the moment `now_ms`: how long the peer is to live yet, in milliseconds, and whether it is a seeder.
pub(super) fn read_score(score: f64, now_ms: u64) -> Option<(u64, bool)> {
    // Nothing that is not a whole number below 2^53 was ever written.
    if !(score >= SCORE_LEAST as f64 && score < (1_u64 << 53) as f64 && score.fract() == 0.0) {
        return None;
    }
    let score = score as u64;
    let left = (score / 2).checked_sub(now_ms)?;
    (left <= AHEAD_MAX_MS).then_some((left, score % 2 == 1))
}

/// What stands for a peer.
pub(super) fn member(address: &Address, name: Option<&[u8]>) -> Vec<u8> {
    let kind = match address {
        Address::V4(_) => KIND_V4,
        Address::V6(_) => KIND_V6,
    };
    [&[kind][..], address.bytes(), name.unwrap_or_default()].concat()
}

/// The peer that a member stands for.
pub(super) fn read_member(member: &[u8]) -> Option<(Address, Option<&[u8]>)> {
    let (address, name) = match member.split_first()? {
        (&KIND_V4, rest) => rest
            .split_first_chunk()
            .map(|(address, name)| (Address::V4(*address), name))?,
        (&KIND_V6, rest) => rest
            .split_first_chunk()
            .map(|(address, name)| (Address::V6(*address), name))?,
        _ => return None,
    };
    let address = address.checked()?;
    (name.len() <= HOSTNAME_LEN_MAX).then_some((address, (!name.is_empty()).then_some(name)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn a_score_tells_what_it_was_made_of_until_the_end_of_the_century() {
        for now in [NOW_MS, 4_102_444_800_000] {
            for (left, is_seeder) in [(0, false), (1, true), (3_600_000, false), (AHEAD_MAX_MS, true)] {
                let written = score(now + left, is_seeder) as f64;
                assert_eq!(read_score(written, now), Some((left, is_seeder)));
            }
        }
    }

    #[test]
    fn a_score_that_nobody_wrote_is_none() {
        let over = score(NOW_MS, true) as f64;
        for score in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -over,
            0.0,
            12.0,
            over - 2.0,
            over + 0.5 + 1e9,
            over + 2.0 * AHEAD_MAX_MS as f64 + 2.0,
            1e300,
        ] {
            assert_eq!(read_score(score, NOW_MS), None, "{score}");
        }
    }

    #[test]
    fn a_member_is_the_peer_it_was_made_of() {
        let v4 = Address::V4([10, 0, 0, 1, 0x1a, 0xe1]);
        let v6 = Address::V6(std::array::from_fn(|at| at as u8 + 1));
        assert_eq!(member(&v4, None), b"\x04\x0a\0\0\x01\x1a\xe1");
        for address in [v4, v6] {
            for name in [None, Some(&b"client1"[..])] {
                assert_eq!(read_member(&member(&address, name)), Some((address, name)));
            }
        }
    }

    #[test]
    fn a_member_that_is_no_peer_is_refused() {
        for member in [
            &b""[..],
            DOWNLOADS,
            b"\x04\x0a\0\0\x01\x1a",
            b"\x04\x0a\0\0\x01\0\0",
            b"\x04\xff\xff\xff\xff\x1a\xe1",
            b"\x05\x0a\0\0\x01\x1a\xe1",
            b"\x06\x0a\0\0\x01\x1a\xe1",
        ] {
            assert_eq!(read_member(member), None, "{member:?}");
        }
        let mut long = b"\x04\x0a\0\0\x01\x1a\xe1".to_vec();
        long.resize(7 + HOSTNAME_LEN_MAX, b'a');
        assert!(read_member(&long).is_some());
        long.push(b'a');
        assert_eq!(read_member(&long), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_member_that_reads_the_same_again_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40), kind in 3_u8..8) {
            let bytes = [&[kind][..], &bytes].concat();
            if let Some((address, name)) = read_member(&bytes) {
                let again = member(&address, name);
                prop_assert_eq!(read_member(&again), Some((address, name)));
            }
        }

        #[test]
        fn any_number_is_a_score_or_none(
            bits in any::<u64>(),
            near in 2 * NOW_MS - 1000..2 * NOW_MS + 8 * AHEAD_MAX_MS,
        ) {
            for score in [f64::from_bits(bits), near as f64] {
                if let Some((left, _)) = read_score(score, NOW_MS) {
                    prop_assert!(left <= AHEAD_MAX_MS);
                }
            }
        }
    }
}
