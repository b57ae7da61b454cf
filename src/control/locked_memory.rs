//! The limit of locked memory: raised as far as it goes, and how long the shards' rings may be within it.
//!
//! From Linux 6.14 on (as it was before 5.12) rings count as locked memory of their user, as registered buffers always do.
//! Those can be done without (`io::uring`), a ring cannot.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::io::uring::setup::locked_max;
use crate::shard::RING_ENTRIES_MAX;

/// Shorter rings would be entered several times for what a busy shard has to submit.
const RING_ENTRIES_MIN: u32 = 256;
/// What an entry takes: 64 bytes, and four of 16 in the completion queue.
const ENTRY_LEN: u64 = 64 + 4 * 16;
/// The part of the limit that is left to buffers, the rings of checks, and others of the same user.
const OTHERS_PART: u64 = 2;

/// Raises the soft limit to the hard one, and gives the entries of each ring of so many shards.
pub(super) fn raise(shards: usize) -> u32 {
    let limit = getrlimit(Resource::Memlock);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Refused: then it stays as it is.
    let _ = setrlimit(Resource::Memlock, raised);
    ring_entries(locked_max(), shards)
}

/// The most that leaves something to others: a power of two.
fn ring_entries(limit: Option<u64>, shards: usize) -> u32 {
    let Some(limit) = limit else { return RING_ENTRIES_MAX };
    let of_each = limit / OTHERS_PART / shards.max(1) as u64 / ENTRY_LEN;
    let mut entries = RING_ENTRIES_MAX;
    while entries > RING_ENTRIES_MIN && u64::from(entries) > of_each {
        entries /= 2;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_as_long_as_half_of_the_limit_allows_for_all_of_them() {
        assert_eq!(ring_entries(None, 1000), 2048);
        let mib = 1 << 20;
        for (limit, shards, entries) in [
            (8 * mib, 1, 2048),
            (8 * mib, 16, 2048),
            (8 * mib, 17, 1024),
            (8 * mib, 64, 512),
            (mib, 2, 2048),
            (mib / 2, 2, 1024),
            // One cannot do with less, be it refused or not.
            (mib / 16, 2, 256),
            (0, 0, 256),
        ] {
            assert_eq!(ring_entries(Some(limit), shards), entries, "{limit} for {shards}");
        }
    }
}
