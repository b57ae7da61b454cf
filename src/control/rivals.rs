//! Torrents that name the same file of the same folder. As long as both are only served that is no harm: it is how one payload
//! is seeded in two swarms. A download writes, and must not write into what is another's.

use std::collections::HashSet;
use std::sync::Arc;

use crate::proto::InfoHash;
use crate::shard::Torrent;
use crate::storage::PART_SUFFIX;

/// A torrent that has a file which another would write to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rival {
    /// The file, below the data folder.
    pub(super) path: String,
    /// Of the torrent that has it.
    pub(super) name: String,
    /// See there.
    pub(super) info_hash: InfoHash,
}

/// Which of the others has a file that `torrent` is to write to, be it under its final name or under that which it has until
/// it is complete. All files of a torrent lie below its name, or are it: the files of those of another name are not looked
/// at, nor those of a data folder that lies in the other's.
pub(super) fn rival_of<'a>(torrent: &Torrent, others: impl Iterator<Item = &'a Arc<Torrent>>) -> Option<Rival> {
    fn top(torrent: &Torrent) -> &str {
        let first = torrent.meta().files.first();
        let top = first.map_or("", |file| file.path.as_str().split('/').next().unwrap_or_default());
        top.trim_end_matches(PART_SUFFIX)
    }
    let ours = top(torrent);
    let mut paths: Option<HashSet<String>> = None;
    for other in others {
        let is_near =
            other.info_hash() != torrent.info_hash() && other.root().is_same(torrent.root()) && top(other) == ours;
        if !is_near {
            continue;
        }
        let paths = paths.get_or_insert_with(|| {
            let written = torrent.meta().files.iter().filter(|file| !file.pad);
            let names = written.map(|file| file.path.as_str());
            names.flat_map(|name| [name.to_owned(), part_of(name)]).collect()
        });
        let mut files = other.meta().files.iter().filter(|file| !file.pad);
        let writes = other.home().is_some();
        if let Some(file) = files.find(|file| {
            let name = file.path.as_str();
            paths.contains(name) || (writes && paths.contains(&part_of(name)))
        }) {
            return Some(Rival {
                path: file.path.as_str().to_owned(),
                name: other.meta().name.clone(),
                info_hash: other.info_hash(),
            });
        }
    }
    None
}

/// What a file is called until it is complete.
fn part_of(name: &str) -> String {
    format!("{name}{PART_SUFFIX}")
}

/// Names of torrents whose files may be those of one of this name.
pub(super) fn near_names(name: &str) -> Vec<String> {
    let stem = name.trim_end_matches(PART_SUFFIX);
    let mut near = vec![name.to_owned(), part_of(name)];
    near.extend((stem.len() < name.len()).then(|| name[..name.len() - PART_SUFFIX.len()].to_owned()));
    near
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bitfield::Bitfield;
    use crate::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
    use crate::proto::path::RelPath;
    use crate::storage::Root;

    /// A torrent of one piece; `salt` makes it another one of the same files.
    fn torrent(root: &Arc<Root>, name: &str, files: &[&str], salt: u8) -> Arc<Torrent> {
        let files: Vec<NewFile> = files
            .iter()
            .map(|path| NewFile {
                path: RelPath::parse(path).unwrap(),
                len: 100,
                pad: path.starts_with(".pad"),
            })
            .collect();
        let encoded = encode(&NewTorrent::new(name, NewContent::Folder(&files), 16384, &[[salt; 20]]));
        let meta = Metainfo::parse(&encoded).unwrap();
        Torrent::new(meta, Arc::clone(root), &Bitfield::new(1), &vec![None; files.len()])
    }

    #[test]
    fn file_of_another_torrent_in_the_same_folder_is_found_and_no_other() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [root, elsewhere] = [&here, &there].map(|dir| Arc::new(Root::open(dir.path()).unwrap()));
        let ours = torrent(&root, "a", &["x", "y/z", ".pad/1"], 1);
        let harmless = [
            ours.clone(),
            torrent(&root, "a", &["y/other", ".pad/1"], 2),
            torrent(&root, "b", &["x", "y/z"], 3),
            torrent(&elsewhere, "a", &["x", "y/z"], 4),
        ];
        assert_eq!(rival_of(&ours, harmless.iter()), None);
        // The same folder by another path.
        let root = Arc::new(Root::open(here.path().join(".")).unwrap());
        let rival = torrent(&root, "a", &["w", "y/z"], 5);
        let found = rival_of(&ours, harmless.iter().chain([&rival])).unwrap();
        assert_eq!((found.path.as_str(), found.info_hash), ("a/y/z", rival.info_hash()));
    }

    /// What is downloaded lies under its name and `.part`, which may be the name of what another torrent has.
    #[test]
    fn file_that_is_called_as_another_is_until_it_is_complete_is_found() {
        let here = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(here.path()).unwrap());
        let ours = torrent(&root, "a", &["x", "y/z"], 1);
        let rival = torrent(&root, "a", &["y/z.part"], 2);
        let found = rival_of(&ours, [&rival].into_iter()).unwrap();
        assert_eq!(
            (found.path.as_str(), found.info_hash),
            ("a/y/z.part", rival.info_hash())
        );
        assert_eq!(
            rival_of(&rival, [&ours].into_iter()),
            None,
            "what is not being written is under its own name"
        );
        assert_eq!(near_names("s.bin"), ["s.bin", "s.bin.part"]);
        assert_eq!(near_names("s.bin.part"), ["s.bin.part", "s.bin.part.part", "s.bin"]);
    }
}
