//! When a torrent's trackers are to be asked next, so that a restart does not ask all of them at once.
//!
//! It is written far more often than a [`History`](super::History), and losing it costs no more than an announce that comes
//! too early. The bytes are read like a stranger's; whatever is accepted encodes to what was read. All numbers are
//! little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | the version of this form, 1 |
//! | 1 | how many trackers |
//! | 18 each | which (8), when it is due in seconds since 1970 (8), failures in a row (1), what else is so (1) |
//!
//! What else is so is a sum: 1 if it has us, 2 if it has named that time itself, 4 if it does not want to be asked again. Of the
//! last two earlier versions kept nothing, and take a record that has them for none.

/// The version of the form above.
const VERSION: u8 = 1;
const ENTRY_LEN: usize = 18;
/// Trackers of a torrent that are kept.
pub const TRACKERS_MAX: usize = 128;

/// What is kept of one tracker of a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Stands for the tracker.
    pub tracker: u64,
    /// When it is to be asked next, in seconds since 1970.
    pub due: u64,
    /// How many times in a row it has failed.
    pub failures: u8,
    /// Whether it has us in its list.
    pub told: bool,
    /// Whether it has named that time itself.
    pub is_said: bool,
    /// Whether it does not want to be asked again.
    pub is_final: bool,
}

const TOLD: u8 = 1;
const SAID: u8 = 2;
const FINAL: u8 = 4;

/// What is kept of these trackers as bytes, of no more than [`TRACKERS_MAX`].
pub(super) fn encode(trackers: &[Announced]) -> Vec<u8> {
    let trackers = &trackers[..trackers.len().min(TRACKERS_MAX)];
    let mut out = Vec::with_capacity(2 + trackers.len() * ENTRY_LEN);
    out.extend([VERSION, trackers.len() as u8]);
    for tracker in trackers {
        out.extend(tracker.tracker.to_le_bytes());
        out.extend(tracker.due.to_le_bytes());
        let flags = [(tracker.told, TOLD), (tracker.is_said, SAID), (tracker.is_final, FINAL)];
        let flags: u8 = flags.iter().filter(|(is_so, _)| *is_so).map(|(_, flag)| flag).sum();
        out.extend([tracker.failures, flags]);
    }
    out
}

/// The trackers that these bytes stand for. `None` if they stand for none.
pub fn decode(bytes: &[u8]) -> Option<Vec<Announced>> {
    let ([VERSION, count], rest) = bytes.split_first_chunk::<2>()? else {
        return None;
    };
    let (entries, rest) = rest.as_chunks::<ENTRY_LEN>();
    if usize::from(*count) != entries.len() || entries.len() > TRACKERS_MAX || !rest.is_empty() {
        return None;
    }
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    let entry = |entry: &[u8; ENTRY_LEN]| {
        Some(Announced {
            tracker: number(&entry[..8])?,
            due: number(&entry[8..16])?,
            failures: entry[16],
            told: entry[17] & TOLD > 0,
            is_said: entry[17] & SAID > 0,
            is_final: entry[17] & FINAL > 0,
        })
    };
    if entries.iter().any(|entry| entry[17] > TOLD | SAID | FINAL) {
        return None;
    }
    entries.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_announced()(
            tracker: u64, due: u64, failures: u8, told: bool, is_said: bool, is_final: bool,
        ) -> Announced {
            Announced { tracker, due, failures, told, is_said, is_final }
        }
    }

    proptest! {
        #[test]
        fn trackers_survive_their_bytes(trackers in proptest::collection::vec(any_announced(), 0..5)) {
            let bytes = encode(&trackers);
            prop_assert_eq!(decode(&bytes), Some(trackers));
            prop_assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
        }

        #[test]
        fn whatever_is_accepted_has_that_form(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0..3_u8], 0..60)) {
            if let Some(trackers) = decode(&bytes) {
                prop_assert_eq!(encode(&trackers), bytes);
            }
        }
    }

    #[test]
    fn more_than_are_kept_are_left_out() {
        let tracker = Announced {
            tracker: 1,
            due: 2,
            failures: 3,
            told: true,
            is_said: false,
            is_final: false,
        };
        assert_eq!(
            decode(&encode(&[tracker; 300])).map(|trackers| trackers.len()),
            Some(TRACKERS_MAX)
        );
    }

    #[test]
    fn what_earlier_versions_kept_is_read() {
        let mut bytes = vec![1, 2];
        for told in [0, 1] {
            bytes.extend([7; 8]);
            bytes.extend(9_u64.to_le_bytes());
            bytes.extend([3, told]);
        }
        let tracker = |told| Announced {
            tracker: u64::from_le_bytes([7; 8]),
            due: 9,
            failures: 3,
            told,
            is_said: false,
            is_final: false,
        };
        assert_eq!(decode(&bytes), Some(vec![tracker(false), tracker(true)]));
    }
}
