//! One record: what was found of a torrent's payload, and its form as bytes.
//!
//! The bytes come from a disk, so they are read like a stranger's: [`Record::decode`] never panics, and allocates no more
//! than the shape of the torrent (which the caller knows from its torrent file) and the length of the input justify.
//! Each record has exactly one form, so that whatever is accepted encodes to what was read.
//!
//! All numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | the version of this form, 1 |
//! | 4, 4, 4 | how many pieces, how many files, `judged` |
//! | 1 or 1 + n | `have`: 0 for no piece, 1 for every piece, or 2 and the bits as BEP 3 has them |
//! | 1 or 1 + n | `wrong`, likewise |
//! | 1, 9 or 17 each | a file: 0 for none; 1, its length (8) and its modification time in ns (8); or 2 and its length (8), of one that is being written |
//!
//! Nearly every torrent is whole or absent, so a bitfield is nearly always one byte. There is no checksum: the database
//! has one for every page.

use crate::proto::bitfield::{self, Bitfield};

/// The version of the form above.
const VERSION: u8 = 1;

/// What every record has: version, three numbers, two bitfields of a byte.
const LEN_MIN: usize = 1 + 3 * 4 + 2;

/// The most bytes a file takes: tag, length, time.
const FILE_LEN_MAX: usize = 1 + 8 + 8;

const BITS_NONE: u8 = 0;
const BITS_ALL: u8 = 1;
const BITS_SOME: u8 = 2;

const FILE_NONE: u8 = 0;
const FILE_STAMP: u8 = 1;
const FILE_WRITTEN: u8 = 2;

/// What was found of a torrent's payload, and of which files that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Pieces verified and right.
    pub have: Bitfield,
    /// Pieces read and wrong.
    pub wrong: Bitfield,
    /// Pieces below this index have been judged; those from it on have not. Equal to the piece count when the check came
    /// to its end. Bits of pieces from here on are kept as they are: hashing finishes pieces out of order, and it is for
    /// the caller to use them or not.
    pub judged: u32,
    /// One for each file of the torrent, in its order; `None` for padding and for a file that was not there or not a
    /// regular file.
    pub files: Vec<Option<FileStamp>>,
}

/// What a file looked like when its bytes were judged. One that looks otherwise now has to be judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Its length in bytes.
    pub len: u64,
    /// When it was last modified, in ns since 1970; negative before.
    pub mtime_ns: i64,
}

/// The time of a file that btd is writing to. No file is of the year 1677.
const BEING_WRITTEN: i64 = i64::MIN;

impl FileStamp {
    /// Of a file that btd itself is writing to: its time moves on, and says nothing of the pieces that are recorded. They
    /// were on the disk before the record was, and what is written after it is written elsewhere in the file.
    #[must_use]
    pub const fn being_written(len: u64) -> Self {
        Self {
            len,
            mtime_ns: BEING_WRITTEN,
        }
    }

    /// Whether it was made by [`FileStamp::being_written`].
    #[must_use]
    pub const fn is_being_written(&self) -> bool {
        self.mtime_ns == BEING_WRITTEN
    }
}

/// Why bytes are not the record of this torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A form that this btd does not know.
    #[error("a record of version {0}, where {VERSION} is known")]
    Version(u8),
    /// It ends in the middle.
    #[error("a record that ends after {len} bytes, in the middle")]
    Truncated {
        /// The bytes that there are.
        len: usize,
    },
    /// There is more behind it.
    #[error("{extra} bytes behind a record")]
    Trailing {
        /// How many more.
        extra: usize,
    },
    /// It is of a torrent of another shape.
    #[error("a record of {pieces} pieces and {files} files, for a torrent of {piece_count} and {file_count}")]
    Geometry {
        /// The pieces that it says.
        pieces: u32,
        /// The files that it says.
        files: u32,
        /// The pieces of the torrent.
        piece_count: u32,
        /// The files of the torrent.
        file_count: usize,
    },
    /// More judged than there is.
    #[error("{judged} pieces judged of {piece_count}")]
    Judged {
        /// The pieces that it says.
        judged: u32,
        /// The pieces of the torrent.
        piece_count: u32,
    },
    /// A bit for a piece that does not exist.
    #[error(transparent)]
    Bitfield(#[from] bitfield::Error),
    /// A piece both right and wrong.
    #[error("a piece that is right and wrong at once")]
    Overlap,
    /// A tag that stands for nothing, or not for the shortest form.
    #[error("a tag of {tag}")]
    Tag {
        /// The byte.
        tag: u8,
    },
}

impl Record {
    /// The record as bytes.
    ///
    /// # Panics
    /// When its parts are of different torrents, a piece is both right and wrong, or more is judged than there is.
    pub fn encode(&self) -> Vec<u8> {
        let piece_count = self.have.piece_count();
        assert!(
            self.judged <= piece_count,
            "{} pieces judged of {piece_count}",
            self.judged
        );
        assert!(
            self.have.is_disjoint(&self.wrong),
            "a piece that is right and wrong at once"
        );
        let file_count = u32::try_from(self.files.len()).expect("a torrent has at most FILE_COUNT_MAX files");
        let bits_len = 2 * bitfield::byte_len(piece_count);
        let mut out = Vec::with_capacity(LEN_MIN + bits_len + FILE_LEN_MAX * self.files.len());
        out.push(VERSION);
        for number in [piece_count, file_count, self.judged] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        encode_bits(&self.have, &mut out);
        encode_bits(&self.wrong, &mut out);
        for file in &self.files {
            match file {
                None => out.push(FILE_NONE),
                Some(stamp) if stamp.is_being_written() => {
                    out.push(FILE_WRITTEN);
                    out.extend_from_slice(&stamp.len.to_le_bytes());
                }
                Some(stamp) => {
                    out.push(FILE_STAMP);
                    out.extend_from_slice(&stamp.len.to_le_bytes());
                    out.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
                }
            }
        }
        out
    }

    /// The record that these bytes stand for, if they are one of a torrent with so many pieces and files.
    ///
    /// # Errors
    /// What is wrong with the first part that is.
    pub fn decode(bytes: &[u8], piece_count: u32, file_count: usize) -> Result<Self, Malformed> {
        let mut input = Input {
            rest: bytes,
            len: bytes.len(),
        };
        let version = input.byte()?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let (pieces, files, judged) = (input.u32()?, input.u32()?, input.u32()?);
        if (pieces, files as usize) != (piece_count, file_count) {
            return Err(Malformed::Geometry {
                pieces,
                files,
                piece_count,
                file_count,
            });
        }
        if judged > piece_count {
            return Err(Malformed::Judged { judged, piece_count });
        }
        let have = input.bits(piece_count)?;
        let wrong = input.bits(piece_count)?;
        if !have.is_disjoint(&wrong) {
            return Err(Malformed::Overlap);
        }
        // Each file takes a byte at least, so that the list is no longer than the input.
        if input.rest.len() < file_count {
            return Err(input.truncated());
        }
        let files = (0..file_count).map(|_| input.file()).collect::<Result<Vec<_>, _>>()?;
        match input.rest.len() {
            0 => Ok(Self {
                have,
                wrong,
                judged,
                files,
            }),
            extra => Err(Malformed::Trailing { extra }),
        }
    }
}

/// Whether these bytes begin like the record of a torrent with so many pieces and files of which all is right. Whether its
/// files are still those is for others to see.
pub(super) fn is_whole(bytes: &[u8], piece_count: u32, file_count: u32) -> bool {
    let mut input = Input {
        rest: bytes,
        len: bytes.len(),
    };
    let mut head = || {
        Some((
            input.byte().ok()?,
            input.u32().ok()?,
            input.u32().ok()?,
            input.u32().ok()?,
        ))
    };
    let whole = Some((VERSION, piece_count, file_count, piece_count));
    // Of no pieces at all none is right, as it is written.
    if piece_count == 0 || head() != whole || input.take(2) != Ok(&[BITS_ALL, BITS_NONE]) {
        return false;
    }
    // What is being written to has not got its final name, perhaps.
    let is_settled = |file: Result<Option<FileStamp>, Malformed>| {
        file.is_ok_and(|stamp| !stamp.is_some_and(|stamp| stamp.is_being_written()))
    };
    (0..file_count).all(|_| is_settled(input.file())) && input.rest.is_empty()
}

fn encode_bits(bits: &Bitfield, out: &mut Vec<u8>) {
    if bits.is_empty() {
        out.push(BITS_NONE);
    } else if bits.is_full() {
        out.push(BITS_ALL);
    } else {
        out.push(BITS_SOME);
        out.extend_from_slice(bits.as_bytes());
    }
}

/// What is left to read.
struct Input<'a> {
    rest: &'a [u8],
    /// Of the whole, for the error.
    len: usize,
}

impl<'a> Input<'a> {
    fn truncated(&self) -> Malformed {
        Malformed::Truncated { len: self.len }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.truncated())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.truncated())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn bits(&mut self, piece_count: u32) -> Result<Bitfield, Malformed> {
        match self.byte()? {
            BITS_NONE => Ok(Bitfield::new(piece_count)),
            BITS_ALL if piece_count > 0 => Ok(Bitfield::full(piece_count)),
            BITS_SOME => {
                let bits = Bitfield::from_wire(self.take(bitfield::byte_len(piece_count))?, piece_count)?;
                if bits.is_empty() || bits.is_full() {
                    return Err(Malformed::Tag { tag: BITS_SOME });
                }
                Ok(bits)
            }
            tag => Err(Malformed::Tag { tag }),
        }
    }

    fn file(&mut self) -> Result<Option<FileStamp>, Malformed> {
        match self.byte()? {
            FILE_NONE => Ok(None),
            FILE_STAMP => {
                let stamp = FileStamp {
                    len: u64::from_le_bytes(self.array()?),
                    mtime_ns: i64::from_le_bytes(self.array()?),
                };
                // That has a form of its own.
                match stamp.is_being_written() {
                    true => Err(Malformed::Tag { tag: FILE_STAMP }),
                    false => Ok(Some(stamp)),
                }
            }
            FILE_WRITTEN => Ok(Some(FileStamp::being_written(u64::from_le_bytes(self.array()?)))),
            tag => Err(Malformed::Tag { tag }),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Any record: each piece is one of neither, right and wrong, often all the same.
    pub(crate) fn any_record() -> impl Strategy<Value = Record> {
        let time = prop_oneof![3 => any::<i64>(), 1 => Just(BEING_WRITTEN)];
        let stamp = (any::<u64>(), time).prop_map(|(len, mtime_ns)| FileStamp { len, mtime_ns });
        let pieces = prop_oneof![
            vec(0..3u8, 0..70),
            (0..3u8, 0..70usize).prop_map(|(is, count)| vec![is; count])
        ];
        (
            pieces,
            any::<prop::sample::Index>(),
            vec(proptest::option::of(stamp), 0..20),
        )
            .prop_map(|(pieces, judged, files)| Record {
                have: bits(&pieces, 1),
                wrong: bits(&pieces, 2),
                judged: judged.index(pieces.len() + 1) as u32,
                files,
            })
    }

    /// The pieces that are `wanted`.
    fn bits(pieces: &[u8], wanted: u8) -> Bitfield {
        let mut bytes = vec![0; bitfield::byte_len(pieces.len() as u32)];
        for (at, _) in pieces.iter().enumerate().filter(|(_, is)| **is == wanted) {
            bytes[at / 8] |= 0x80 >> (at % 8);
        }
        Bitfield::from_wire(&bytes, pieces.len() as u32).expect("made for so many pieces")
    }

    /// Ten pieces: 0 and 9 right, 1 wrong; three files.
    fn small() -> Record {
        let mut pieces = [0; 10];
        (pieces[0], pieces[9], pieces[1]) = (1, 1, 2);
        let stamp = FileStamp { len: 5, mtime_ns: -1 };
        Record {
            have: bits(&pieces, 1),
            wrong: bits(&pieces, 2),
            judged: 10,
            files: vec![Some(stamp), None, Some(stamp)],
        }
    }

    #[test]
    fn the_form_is_the_one_written_down_and_stays_it() {
        let file = [1, 5, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
        let mut expected = vec![1, 10, 0, 0, 0, 3, 0, 0, 0, 10, 0, 0, 0];
        expected.extend([2, 0b1000_0000, 0b0100_0000, 2, 0b0100_0000, 0]);
        expected.extend(file);
        expected.push(0);
        expected.extend(file);
        assert_eq!(small().encode(), expected);
    }

    #[test]
    fn a_file_that_is_being_written_has_a_length_and_no_time() {
        let mut record = small();
        record.files[1] = Some(FileStamp::being_written(7));
        let bytes = record.encode();
        assert_eq!(
            bytes[bytes.len() - 17 - 9..bytes.len() - 17],
            [2, 7, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(Record::decode(&bytes, 10, 3), Ok(record));
        let mut twice = small().encode();
        let time = twice.len() - 8;
        twice[time..].copy_from_slice(&i64::MIN.to_le_bytes());
        assert_eq!(Record::decode(&twice, 10, 3), Err(Malformed::Tag { tag: FILE_STAMP }));
    }

    #[test]
    fn a_whole_torrent_takes_a_byte_for_all_its_pieces() {
        let whole = Record {
            have: Bitfield::full(2_000_000),
            wrong: Bitfield::new(2_000_000),
            judged: 2_000_000,
            files: vec![None],
        };
        assert_eq!(whole.encode().len(), LEN_MIN + 1);
        assert_eq!(Record::decode(&whole.encode(), 2_000_000, 1), Ok(whole));
    }

    #[test]
    fn a_record_of_another_shape_is_refused() {
        let bytes = small().encode();
        for (piece_count, file_count) in [(9, 3), (11, 3), (10, 2), (10, 4), (u32::MAX, usize::MAX)] {
            let refused = Record::decode(&bytes, piece_count, file_count);
            assert!(matches!(refused, Err(Malformed::Geometry { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_record_that_says_more_than_the_input_holds_is_refused_before_it_is_allocated() {
        let mut bytes = vec![VERSION];
        for number in [u32::MAX, u32::MAX, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(BITS_SOME);
        assert_eq!(
            Record::decode(&bytes, u32::MAX, u32::MAX as usize),
            Err(Malformed::Truncated { len: 14 })
        );
        let mut bytes = small().encode();
        bytes[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            Record::decode(&bytes, 10, u32::MAX as usize),
            Err(Malformed::Truncated { .. })
        ));
    }

    #[test]
    fn each_broken_part_is_refused_by_its_name() {
        let broken = |at: usize, byte: u8| {
            let mut bytes = small().encode();
            bytes[at] = byte;
            Record::decode(&bytes, 10, 3)
        };
        assert_eq!(broken(0, 2), Err(Malformed::Version(2)));
        assert_eq!(
            broken(9, 11),
            Err(Malformed::Judged {
                judged: 11,
                piece_count: 10
            })
        );
        assert_eq!(broken(13, 3), Err(Malformed::Tag { tag: 3 }));
        let spare = bitfield::Error::SpareBits { piece_count: 10 };
        assert_eq!(broken(15, 0b0110_0000), Err(Malformed::Bitfield(spare)));
        assert_eq!(broken(17, 0b1100_0000), Err(Malformed::Overlap));
        assert_eq!(broken(19, 9), Err(Malformed::Tag { tag: 9 }));
        // Bits that are all or none have a shorter form.
        assert_eq!(broken(17, 0), Err(Malformed::Tag { tag: BITS_SOME }));
        let mut long = small().encode();
        long.push(0);
        assert_eq!(Record::decode(&long, 10, 3), Err(Malformed::Trailing { extra: 1 }));
    }

    #[test]
    #[should_panic(expected = "right and wrong at once")]
    fn a_record_that_contradicts_itself_is_not_encoded() {
        let mut record = small();
        record.wrong = record.have.clone();
        record.encode();
    }

    #[test]
    fn only_a_whole_record_of_the_same_shape_says_that_a_torrent_is_whole() {
        let stamp = FileStamp { len: 5, mtime_ns: 7 };
        let whole = Record {
            have: Bitfield::full(9),
            wrong: Bitfield::new(9),
            judged: 9,
            files: vec![Some(stamp), None],
        };
        let bytes = whole.encode();
        assert!(is_whole(&bytes, 9, 2));
        // A form that is no record (found by the fuzzer).
        let of_none = [
            &[VERSION][..],
            &[0; 4],
            &1_u32.to_le_bytes(),
            &[0; 4],
            &[BITS_ALL, BITS_NONE, FILE_NONE],
        ]
        .concat();
        assert!(Record::decode(&of_none, 0, 1).is_err() && !is_whole(&of_none, 0, 1));
        assert!(!is_whole(&bytes, 8, 2) && !is_whole(&bytes, 9, 1) && !is_whole(&bytes, 9, 3));
        assert!((0..bytes.len()).all(|len| !is_whole(&bytes[..len], 9, 2)));
        let mut lacking = whole.clone();
        let first = lacking.have.pieces().next().expect("a piece");
        lacking.have.clear(first);
        assert!(!is_whole(&lacking.encode(), 9, 2));
        let begun = Record {
            judged: 8,
            ..whole.clone()
        };
        assert!(!is_whole(&begun.encode(), 9, 2));
        let written = Record {
            files: vec![Some(FileStamp::being_written(5)), None],
            ..whole
        };
        assert!(!is_whole(&written.encode(), 9, 2), "its file may not have its name yet");
    }

    proptest! {
        #[test]
        fn a_record_survives_its_bytes(record in any_record()) {
            let bytes = record.encode();
            let again = Record::decode(&bytes, record.have.piece_count(), record.files.len());
            prop_assert_eq!(again, Ok(record));
        }

        #[test]
        fn every_truncation_is_refused(record in any_record(), at in any::<prop::sample::Index>()) {
            let bytes = record.encode();
            let cut = &bytes[..at.index(bytes.len())];
            let refused = Record::decode(cut, record.have.piece_count(), record.files.len());
            prop_assert_eq!(refused, Err(Malformed::Truncated { len: cut.len() }));
        }

        #[test]
        fn whatever_a_flipped_bit_makes_is_refused_or_has_that_form(
            record in any_record(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u32,
        ) {
            let mut bytes = record.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            if let Ok(other) = Record::decode(&bytes, record.have.piece_count(), record.files.len()) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }

        #[test]
        fn no_bytes_panic(
            bytes in vec(prop_oneof![any::<u8>(), 0..3u8], 0..200),
            piece_count in prop_oneof![0..40u32, any::<u32>().prop_map(|count| count >> 12)],
            file_count in 0..20usize,
            framed: bool,
        ) {
            let mut input = Vec::new();
            if framed {
                // As arbitrary bytes would nearly never get past the numbers.
                input.push(VERSION);
                for number in [piece_count, file_count as u32, piece_count / 2] {
                    input.extend_from_slice(&number.to_le_bytes());
                }
            }
            input.extend(bytes);
            if let Ok(record) = Record::decode(&input, piece_count, file_count) {
                prop_assert_eq!(record.encode(), input);
            }
        }
    }
}
