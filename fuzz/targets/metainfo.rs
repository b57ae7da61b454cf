//! Whatever is accepted as a torrent file is whole: files without gaps, hashes for every piece, paths that stay below.

#![no_main]

use btd_fuzz::proto::metainfo::Metainfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let torrent = match Metainfo::parse(input) {
        Ok(torrent) => torrent,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(torrent.piece_hashes.len(), torrent.geometry.piece_count() as usize);
    let mut at = 0;
    let mut seen = std::collections::HashSet::new();
    for file in &torrent.files {
        assert_eq!(file.offset, at);
        at += file.len;
        assert!(file.path.as_path().is_relative());
        assert_eq!(file.path.components().next(), Some(torrent.name.as_str()));
        for name in file.path.components() {
            assert!(!matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains('\0'));
        }
        assert!(!file.path.to_string().contains(|c: char| c.is_control()));
        assert!(
            file.pad || seen.insert(file.path.as_str().to_lowercase()),
            "a path twice"
        );
    }
    assert_eq!(at, torrent.geometry.total_len());
    assert!(torrent.announce.iter().all(|tier| !tier.is_empty()));
});
