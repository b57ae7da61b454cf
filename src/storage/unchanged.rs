//! Whether the files of a torrent are still those that a record is about, without reading any of them.
//!
//! It is what stands between a record of a whole torrent and its first byte: every file is opened and measured, and one that
//! looks otherwise than when it was judged is named. Judging it again is [`check`](mod@super::check)'s business.

use super::layout::Layout;
use super::part::{PART_SUFFIX, PartNames};
use super::payload::{FileState, Payload};
use super::root::Root;
use crate::proto::metainfo::Metainfo;
use crate::session::Record;

/// When each file was modified (ns since 1970, `None` for padding), if all of them are as they were when the whole torrent was
/// found right. Blocks on the disk.
///
/// # Errors
/// In words, which file is not as it was, or that the record is not of a whole torrent.
pub fn unchanged(metainfo: &Metainfo, root: &Root, record: &Record) -> Result<Vec<Option<i64>>, String> {
    if !record.have.is_full() || record.files.len() != metainfo.files.len() {
        return Err("it was not whole when it was checked".to_owned());
    }
    let layout = Layout::new(metainfo);
    let names = PartNames::new(&metainfo.files);
    let Some(payload) = Payload::look(root, &layout, &metainfo.files, Some(&names), || true) else {
        return Err("its files were not looked at".to_owned());
    };
    let files = metainfo.files.iter().zip(&record.files).enumerate();
    // Nothing is served of what has no bytes.
    for (index, (entry, then)) in files.filter(|(_, (entry, _))| !entry.pad && entry.len > 0) {
        let path = entry.path.as_str();
        if payload.parts()[index] {
            return Err(format!(
                "{path:?} has the name of what is not complete now, with `{PART_SUFFIX}`"
            ));
        }
        // What is being written to is told by its length alone, which is not enough for a torrent that is whole.
        let is_still = then.is_some_and(|then| !then.is_being_written() && payload.is_still(index, &then));
        if !is_still {
            return Err(match payload.states()[index] {
                // All of it was there, so it was too new for its time to tell it from what it may have become.
                FileState::Ok if then.is_none() => format!("{path:?} had just been written when it was checked"),
                FileState::Ok => format!("{path:?} was changed"),
                state => format!("{path:?}: {state}"),
            });
        }
    }
    let (_, modified, _) = payload.into_states();
    Ok(modified)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::proto::bitfield::Bitfield;
    use crate::session::FileStamp;

    const LEN: u64 = 16384;

    fn metainfo() -> Metainfo {
        let mut bytes = format!("d4:infod6:lengthi{LEN}e4:name1:a12:piece lengthi16384e6:pieces20:").into_bytes();
        bytes.extend([7; 20]);
        bytes.extend(b"ee");
        Metainfo::parse(&bytes).expect("a torrent")
    }

    fn put(dir: &std::path::Path, name: &str, len: u64, age: u64) -> i64 {
        let file = fs::File::create(dir.join(name)).expect("made");
        file.set_len(len).expect("as long");
        let at = SystemTime::now() - Duration::from_secs(age);
        file.set_modified(at).expect("dated");
        let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        i64::try_from(since.as_nanos()).expect("before 2262")
    }

    fn record(mtime_ns: i64) -> Record {
        Record {
            have: Bitfield::full(1),
            wrong: Bitfield::new(1),
            judged: 1,
            files: vec![Some(FileStamp { len: LEN, mtime_ns })],
        }
    }

    #[test]
    fn files_as_they_were_are_unchanged_and_any_difference_is_told() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (meta, root) = (metainfo(), Root::open(dir.path()).expect("opened"));
        let absent = unchanged(&meta, &root, &record(0)).expect_err("there is none");
        assert!(absent.contains("missing"), "{absent}");
        let mtime_ns = put(dir.path(), "a", LEN, 1000);
        assert_eq!(unchanged(&meta, &root, &record(mtime_ns)), Ok(vec![Some(mtime_ns)]));
        let later = unchanged(&meta, &root, &record(mtime_ns - 1)).expect_err("another time");
        assert!(later.contains("was changed"), "{later}");
        put(dir.path(), "a", LEN - 1, 1000);
        assert!(unchanged(&meta, &root, &record(mtime_ns)).is_err_and(|why| why.contains("too short")));
        fs::remove_file(dir.path().join("a")).expect("removed");
        let mtime_ns = put(dir.path(), "a.part", LEN, 1000);
        assert!(unchanged(&meta, &root, &record(mtime_ns)).is_err());
    }

    #[test]
    fn record_that_says_less_than_whole_is_not_believed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (meta, root) = (metainfo(), Root::open(dir.path()).expect("opened"));
        let mtime_ns = put(dir.path(), "a", LEN, 1000);
        let mut partial = record(mtime_ns);
        partial.have = Bitfield::new(1);
        assert!(unchanged(&meta, &root, &partial).is_err());
        let mut written = record(mtime_ns);
        written.files = vec![Some(FileStamp::being_written(LEN))];
        assert!(unchanged(&meta, &root, &written).is_err());
        let mut unknown = record(mtime_ns);
        unknown.files = vec![None];
        let why = unchanged(&meta, &root, &unknown).expect_err("it was written a moment before");
        assert!(why.contains("had just been written"), "{why}");
    }
}
