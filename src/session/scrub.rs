//! How far the scrub of a data folder is, and its form as bytes: the version (1), flags (1), when the pass was begun (8), when
//! the last one was completed (8), the piece (4), and the info-hashes of the torrent before and the one in hand (20 each). All
//! numbers are little-endian; what the flags say is not there is zeros.

use crate::proto::InfoHash;

/// The version of the form above.
const VERSION: u8 = 1;
const LEN: usize = 1 + 1 + 8 + 8 + 4 + 20 + 20;

const HAS_COMPLETED: u8 = 1;
const HAS_BEHIND: u8 = 2;
const HAS_CURRENT: u8 = 4;

/// How far a pass over a data folder's torrents is, which go by their info-hashes. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubState {
    /// When the pass was begun, or is to begin.
    pub begun: u64,
    /// When the last one came to its end.
    pub completed: Option<u64>,
    /// The last torrent that was read.
    pub behind: Option<InfoHash>,
    /// The one in hand, and its piece that is read next.
    pub current: Option<InfoHash>,
    /// See `current`.
    pub piece: u32,
}

impl ScrubState {
    /// A pass of which nothing was read.
    #[must_use]
    pub fn begun(at: u64) -> Self {
        Self {
            begun: at,
            completed: None,
            behind: None,
            current: None,
            piece: 0,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
        let mut bytes = vec![
            VERSION,
            flag(self.completed.is_some(), HAS_COMPLETED)
                | flag(self.behind.is_some(), HAS_BEHIND)
                | flag(self.current.is_some(), HAS_CURRENT),
        ];
        bytes.extend(self.begun.to_le_bytes());
        bytes.extend(self.completed.unwrap_or(0).to_le_bytes());
        bytes.extend(self.piece.to_le_bytes());
        for hash in [self.behind, self.current] {
            bytes.extend(hash.map_or([0; 20], |hash| hash.0));
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(*bytes[at..].first_chunk()?));
        let hash = |at: usize| Some(InfoHash(*bytes[at..].first_chunk()?));
        let flags = bytes[1];
        let state = Self {
            begun: number(2)?,
            completed: number(10)?.into(),
            piece: u32::from_le_bytes(*bytes[18..].first_chunk()?),
            behind: hash(22),
            current: hash(42),
        };
        (bytes[0] == VERSION).then_some(Self {
            completed: state.completed.filter(|_| flags & HAS_COMPLETED != 0),
            behind: state.behind.filter(|_| flags & HAS_BEHIND != 0),
            current: state.current.filter(|_| flags & HAS_CURRENT != 0),
            ..state
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            begun: u64, completed: Option<u64>, behind: Option<[u8; 20]>, current: Option<[u8; 20]>, piece: u32,
        ) {
            let (behind, current) = (behind.map(InfoHash), current.map(InfoHash));
            let state = ScrubState { begun, completed, behind, current, piece };
            prop_assert_eq!(ScrubState::decode(&state.encode()), Some(state));
        }

        #[test]
        fn no_bytes_are_too_bad_to_be_read(bytes: Vec<u8>) {
            let read = ScrubState::decode(&bytes);
            prop_assert!(read.is_none() || bytes.len() == LEN);
        }
    }
}
