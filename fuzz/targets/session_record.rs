//! Whatever is accepted as a record is one, and has no other form than the one that was read.
//!
//! The first bytes of the input say of which torrent: its pieces and its files; the rest is the record. With the highest
//! bit of them set, the record's own numbers are taken instead, so that most inputs get past them.

#![no_main]

use btd_fuzz::record::{FileStamp, Record};
use libfuzzer_sys::fuzz_target;

/// As many as a torrent may have: the caller knows them from a torrent file that was accepted.
const PIECE_COUNT_MAX: u32 = btd_fuzz::proto::geometry::PIECE_COUNT_MAX;
const FILE_COUNT_MAX: u32 = btd_fuzz::proto::metainfo::FILE_COUNT_MAX as u32;

fuzz_target!(|input: &[u8]| {
    let Some((&[pieces, files], bytes)) = input.split_first_chunk() else {
        return;
    };
    let own = bytes.get(1..9).filter(|_| pieces & 0x80 != 0).map(|own| {
        let number = |at: usize| u32::from_le_bytes(own[at..at + 4].try_into().expect("four bytes"));
        (number(0).min(PIECE_COUNT_MAX), number(4).min(FILE_COUNT_MAX))
    });
    let (piece_count, file_count) = own.unwrap_or((u32::from(pieces), u32::from(files)));
    match Record::decode(bytes, piece_count, file_count as usize) {
        Ok(record) => {
            assert_eq!(record.have.piece_count(), piece_count);
            assert_eq!(record.wrong.piece_count(), piece_count);
            assert_eq!(record.files.len(), file_count as usize);
            assert!(record.judged <= piece_count && record.have.is_disjoint(&record.wrong));
            assert_eq!(record.encode(), bytes);
            // What is told without all of it being read.
            let is_settled = |stamp: &FileStamp| !stamp.is_being_written();
            let is_whole = piece_count > 0 // Of none all are right and none is, and the latter is recorded.
                && record.have.is_full()
                && record.judged == piece_count
                && record.files.iter().flatten().all(is_settled);
            assert_eq!(btd_fuzz::is_whole(bytes, piece_count, file_count), is_whole);
            assert!(Record::decode(&bytes[..bytes.len() - 1], piece_count, file_count as usize).is_err());
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(!btd_fuzz::is_whole(bytes, piece_count, file_count));
        }
    }
});
