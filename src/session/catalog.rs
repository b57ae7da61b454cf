//! One card: what is needed of a .torrent file while nobody wants its torrent, and by what to tell that the file is still the
//! one that was read. With it a start of 100,000 torrents reads none of their files.
//!
//! The bytes come from a disk, so they are read like a stranger's. Each card has exactly one form, so that whatever is accepted
//! encodes to what was read. All numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | the version of this form, 1 |
//! | 8, 8, 8, 8 | the file: inode, length, modification and change times in ns |
//! | 20 | the info-hash |
//! | 8, 4, 4 | bytes of payload, pieces, files |
//! | 1 | 1 for a private torrent, 0 else |
//! | 2 + n | the name |
//! | 2, then each tier | how many tiers; each: 2, then each tracker: 2 + n |
//!
//! Deliberately absent: piece hashes and the list of files, which are read from the .torrent when they are needed.

use crate::proto::InfoHash;

/// The version of the form above.
const VERSION: u8 = 1;

/// The longest card. A file with so many trackers that its card is longer has none, and is read at each start.
const LEN_MAX: usize = 16 << 10;

/// By what a file is told from another, or from itself after a change. Not by its device: some filesystems are another one each
/// time they are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Its inode.
    pub inode: u64,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last modified, in ns since 1970.
    pub mtime_ns: i64,
    /// When its inode was last changed, likewise.
    pub ctime_ns: i64,
}

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The .torrent that was read.
    pub file: FileIdentity,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// Bytes of payload.
    pub total_len: u64,
    /// Pieces of it.
    pub piece_count: u32,
    /// Files of it, padding among them.
    pub file_count: u32,
    /// Whether nobody but its own trackers may hear of it (BEP 27).
    pub private: bool,
    /// What it is called.
    pub name: Box<str>,
    /// Its trackers, in tiers (BEP 12), as the file has them.
    pub announce: Vec<Vec<String>>,
}

impl Card {
    /// The card as bytes; `None` if it would be too long.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(128);
        out.push(VERSION);
        let FileIdentity {
            inode,
            len,
            mtime_ns,
            ctime_ns,
        } = self.file;
        out.extend(inode.to_le_bytes());
        out.extend(len.to_le_bytes());
        out.extend(mtime_ns.to_le_bytes());
        out.extend(ctime_ns.to_le_bytes());
        out.extend(self.info_hash.0);
        out.extend(self.total_len.to_le_bytes());
        out.extend(self.piece_count.to_le_bytes());
        out.extend(self.file_count.to_le_bytes());
        out.push(u8::from(self.private));
        put_text(&mut out, &self.name)?;
        put_count(&mut out, self.announce.len())?;
        for tier in &self.announce {
            put_count(&mut out, tier.len())?;
            for url in tier {
                put_text(&mut out, url)?;
                if out.len() > LEN_MAX {
                    return None;
                }
            }
        }
        (out.len() <= LEN_MAX).then_some(out)
    }

    /// The card that these bytes stand for; `None` if they stand for none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > LEN_MAX {
            return None;
        }
        let mut input = bytes;
        let [version] = take(&mut input)?;
        if version != VERSION {
            return None;
        }
        let file = FileIdentity {
            inode: u64::from_le_bytes(take(&mut input)?),
            len: u64::from_le_bytes(take(&mut input)?),
            mtime_ns: i64::from_le_bytes(take(&mut input)?),
            ctime_ns: i64::from_le_bytes(take(&mut input)?),
        };
        let info_hash = InfoHash(take(&mut input)?);
        let total_len = u64::from_le_bytes(take(&mut input)?);
        let piece_count = u32::from_le_bytes(take(&mut input)?);
        let file_count = u32::from_le_bytes(take(&mut input)?);
        let private = match take(&mut input)? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let name = take_text(&mut input)?.into();
        let tiers = take_count(&mut input)?;
        // Nothing is allocated for what is only claimed: a tier takes two bytes at least, and so does a tracker.
        let mut announce = Vec::new();
        for _ in 0..tiers {
            let urls = take_count(&mut input)?;
            let tier: Option<Vec<String>> = (0..urls).map(|_| Some(take_text(&mut input)?.to_owned())).collect();
            announce.push(tier?);
        }
        input.is_empty().then_some(Self {
            file,
            info_hash,
            total_len,
            piece_count,
            file_count,
            private,
            name,
            announce,
        })
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) -> Option<()> {
    out.extend(u16::try_from(count).ok()?.to_le_bytes());
    Some(())
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    put_count(out, text.len())?;
    out.extend(text.as_bytes());
    Some(())
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*taken)
}

fn take_count(input: &mut &[u8]) -> Option<usize> {
    Some(u16::from_le_bytes(take(input)?).into())
}

fn take_text<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    let len = take_count(input)?;
    let (taken, rest) = input.split_at_checked(len)?;
    *input = rest;
    std::str::from_utf8(taken).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_card()(
            (inode, len, mtime_ns, ctime_ns) in any::<(u64, u64, i64, i64)>(),
            info_hash in any::<[u8; 20]>(),
            (total_len, piece_count, file_count) in any::<(u64, u32, u32)>(),
            private in any::<bool>(),
            name in ".{0,40}",
            announce in proptest::collection::vec(proptest::collection::vec(".{0,30}", 0..3), 0..4),
        ) -> Card {
            Card {
                file: FileIdentity { inode, len, mtime_ns, ctime_ns },
                info_hash: InfoHash(info_hash),
                total_len, piece_count, file_count, private,
                name: name.into(),
                announce,
            }
        }
    }

    proptest! {
        #[test]
        fn cards_survive_their_bytes(card in any_card()) {
            let bytes = card.encode().expect("a short one");
            prop_assert_eq!(Card::decode(&bytes), Some(card));
            prop_assert_eq!(Card::decode(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!(Card::decode(&[&bytes[..], &[0]].concat()), None);
        }

        #[test]
        fn whatever_is_accepted_has_that_form(card in any_card(), at: prop::sample::Index, byte: u8) {
            let mut bytes = card.encode().expect("a short one");
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(card) = Card::decode(&bytes) {
                prop_assert_eq!(card.encode(), Some(bytes));
            }
        }
    }

    #[test]
    fn file_with_too_many_trackers_has_no_card() {
        let mut card = Card {
            file: FileIdentity {
                inode: 1,
                len: 2,
                mtime_ns: 3,
                ctime_ns: 4,
            },
            info_hash: InfoHash([5; 20]),
            total_len: 6,
            piece_count: 7,
            file_count: 8,
            private: false,
            name: "a".into(),
            announce: vec![vec!["http://tracker.example/announce".to_owned(); 100]],
        };
        assert!(card.encode().is_some());
        card.announce = vec![vec!["http://tracker.example/announce".to_owned(); 1000]];
        assert_eq!(card.encode(), None);
    }
}
