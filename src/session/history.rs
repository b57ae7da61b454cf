//! What a torrent has been through, which nothing on the disk of its payload tells: how much was moved, and when it was
//! added and completed.
//!
//! It lies beside the [`Record`](super::Record), not in it. A record is dropped whenever payload is no longer what it was,
//! and is as long as the torrent has pieces; this outlives it, and is written far more often.
//!
//! The bytes come from a disk, so they are read like a stranger's. Each history has exactly one form, so that whatever is
//! accepted encodes to what was read. All numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | the version of this form, 1 |
//! | 8, 8 | bytes uploaded, bytes downloaded |
//! | 8 | when it was added, in seconds since 1970 |
//! | 1 or 9 | 0 not complete, 1 complete, 2 complete and announced; then when, if it is |

/// The version of the form above.
const VERSION: u8 = 1;

/// How long it is of a torrent that was never complete.
const LEN_MIN: usize = 1 + 3 * 8 + 1;

const NOT_COMPLETE: u8 = 0;
const COMPLETE: u8 = 1;
const ANNOUNCED: u8 = 2;

/// What a torrent has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Bytes of payload that peers took, in all of its life.
    pub uploaded: u64,
    /// Bytes of payload that came from peers.
    pub downloaded: u64,
    /// When it was added, in seconds since 1970.
    pub added: u64,
    /// When its last piece was found right; `None` if that was never so.
    pub completed: Option<Completed>,
}

/// A torrent's completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Whether it needs no `completed` to its trackers any more: they were told, or it was complete when it was added, of
    /// which they are not told (BEP 3).
    pub announced: bool,
}

/// Why bytes are not a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A form that this btd does not know.
    #[error("a history of version {0}, where {VERSION} is known")]
    Version(u8),
    /// It ends in the middle, or goes on.
    #[error("a history of {len} bytes")]
    Len {
        /// The bytes that there are.
        len: usize,
    },
    /// A tag that stands for nothing.
    #[error("a tag of {tag}")]
    Tag {
        /// The byte.
        tag: u8,
    },
}

impl History {
    /// Whether it says that btd has begun to download the torrent, and that this is not complete: its files are btd's own. One that
    /// was only served has had nothing from peers.
    #[must_use]
    pub const fn is_begun(&self) -> bool {
        self.completed.is_none() && (self.downloaded > 0 || self.uploaded == 0)
    }

    /// So that it says that btd has begun to download the torrent, unless this is complete: one that has uploaded and had nothing
    /// yet is given a byte.
    #[must_use]
    pub fn as_begun(self) -> Self {
        let is_unsaid = self.completed.is_none() && !self.is_begun();
        Self {
            downloaded: self.downloaded.max(u64::from(is_unsaid)),
            ..self
        }
    }

    /// What it has been through in both: bytes are added up, it was added and completed when it first was. It has begun if either says
    /// so, and needs no `completed` to its trackers any more if either does: who adds to what cannot be read says that only once a tracker
    /// was told.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let completed = match (self.completed, other.completed) {
            (Some(one), Some(another)) => Some(Completed {
                at: one.at.min(another.at),
                announced: one.announced || another.announced,
            }),
            (one, another) => one.or(another),
        };
        let sum = Self {
            uploaded: self.uploaded.saturating_add(other.uploaded),
            downloaded: self.downloaded.saturating_add(other.downloaded),
            added: self.added.min(other.added),
            completed,
        };
        match self.is_begun() || other.is_begun() {
            true => sum.as_begun(),
            false => sum,
        }
    }

    /// What is new in it, if it was like this before: `before.and` that is what it is now.
    #[must_use]
    pub fn since(self, before: &Self) -> Self {
        Self {
            uploaded: self.uploaded.saturating_sub(before.uploaded),
            downloaded: self.downloaded.saturating_sub(before.downloaded),
            ..self
        }
    }

    /// The one that these bytes stand for, if they stand for any, and this.
    #[must_use]
    pub fn on_top_of(self, bytes: Option<&[u8]>) -> Self {
        let before = bytes.and_then(|bytes| Self::decode(bytes).ok());
        before.map_or(self, |before| before.and(self))
    }

    /// The history as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN_MIN + 8);
        out.push(VERSION);
        for number in [self.uploaded, self.downloaded, self.added] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        match self.completed {
            None => out.push(NOT_COMPLETE),
            Some(Completed { at, announced }) => {
                out.push(if announced { ANNOUNCED } else { COMPLETE });
                out.extend_from_slice(&at.to_le_bytes());
            }
        }
        out
    }

    /// The history that these bytes stand for.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let wrong_len = Malformed::Len { len: bytes.len() };
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(Malformed::Version(other)),
            None => return Err(wrong_len),
        }
        let number = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u64::from_le_bytes(*bytes)).ok_or(wrong_len)
        };
        let (uploaded, downloaded, added) = (number(1)?, number(9)?, number(17)?);
        let tag = *bytes.get(LEN_MIN - 1).ok_or(wrong_len)?;
        let (completed, len) = match tag {
            NOT_COMPLETE => (None, LEN_MIN),
            COMPLETE | ANNOUNCED => {
                let (at, announced) = (number(LEN_MIN)?, tag == ANNOUNCED);
                (Some(Completed { at, announced }), LEN_MIN + 8)
            }
            tag => return Err(Malformed::Tag { tag }),
        };
        if bytes.len() != len {
            return Err(wrong_len);
        }
        Ok(Self {
            uploaded,
            downloaded,
            added,
            completed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_completed()(at: u64, announced: bool) -> Completed {
            Completed { at, announced }
        }
    }

    prop_compose! {
        fn any_history()(
            uploaded: u64,
            downloaded: u64,
            added: u64,
            completed in proptest::option::of(any_completed()),
        ) -> History {
            History { uploaded, downloaded, added, completed }
        }
    }

    #[test]
    fn the_form_is_the_one_written_down_and_stays_it() {
        let mut history = History {
            uploaded: 2,
            downloaded: 1 << 8,
            added: 3 << 16,
            completed: None,
        };
        let mut expected = vec![
            1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(history.encode(), expected);
        for (announced, tag) in [(false, 1), (true, 2)] {
            history.completed = Some(Completed { at: 7, announced });
            expected.truncate(LEN_MIN - 1);
            expected.extend([tag, 7, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(history.encode(), expected);
        }
    }

    #[test]
    fn what_was_first_stays_so_and_what_trackers_were_told_they_were_told() {
        let at = |at, announced| Some(Completed { at, announced });
        let history = |(uploaded, downloaded, added), completed| History {
            uploaded,
            downloaded,
            added,
            completed,
        };
        let one = history((1, 2, 30), at(40, false));
        let another = history((10, 20, 50), at(60, true));
        assert_eq!(one.and(another), history((11, 22, 30), at(40, true)));
        assert_eq!(one.and(history((0, 0, 5), None)), history((1, 2, 5), at(40, false)));
        // One that was served in part, and was begun or not.
        let served = history((7, 0, 1), None);
        assert!(!served.is_begun() && !served.and(served).is_begun());
        let begun = history((0, 0, 1), None);
        assert_eq!(begun.and(served), history((7, 1, 1), None));
        assert!(served.and(begun).is_begun() && !served.and(one).is_begun());
    }

    #[test]
    fn each_broken_part_is_refused_by_its_name() {
        let bytes = [&[VERSION][..], &[0; 25]].concat();
        assert!(History::decode(&bytes).is_ok());
        assert_eq!(History::decode(&[]), Err(Malformed::Len { len: 0 }));
        assert_eq!(History::decode(&bytes[..25]), Err(Malformed::Len { len: 25 }));
        assert_eq!(
            History::decode(&[&bytes[..], &[0]].concat()),
            Err(Malformed::Len { len: 27 })
        );
        assert_eq!(History::decode(&[2; 26]), Err(Malformed::Version(2)));
        let broken = [&bytes[..25], &[3]].concat();
        assert_eq!(History::decode(&broken), Err(Malformed::Tag { tag: 3 }));
        assert_eq!(
            History::decode(&[&bytes[..25], &[1]].concat()),
            Err(Malformed::Len { len: 26 })
        );
    }

    proptest! {
        #[test]
        fn a_history_survives_its_bytes_and_no_part_of_them_is_one(history in any_history(), at in any::<prop::sample::Index>()) {
            let bytes = history.encode();
            prop_assert_eq!(History::decode(&bytes), Ok(history));
            prop_assert!(History::decode(&bytes[..at.index(bytes.len())]).is_err());
        }

        /// What a history has grown by can be added to what it was later.
        #[test]
        fn what_is_new_in_a_history_makes_it_what_it_is(before in any_history(), more in any_history()) {
            let now = before.and(more);
            prop_assert_eq!(before.and(now.since(&before)), now);
            prop_assert_eq!(more.and(before), now);
            prop_assert_eq!(now.on_top_of(None), now);
            prop_assert_eq!(more.on_top_of(Some(&before.encode())), now);
            prop_assert_eq!(more.on_top_of(Some(b"?")), more);
        }

        #[test]
        fn whatever_is_accepted_has_that_form(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0..3u8], 0..40)) {
            if let Ok(history) = History::decode(&bytes) {
                prop_assert_eq!(history.encode(), bytes);
            }
        }
    }
}
