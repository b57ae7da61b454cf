//! Writing a torrent file.
//!
//! The `info` dictionary has only what it must: then every maker of torrents that does the same gets the same
//! info-hash for the same payload and piece length.

use serde::Serialize;
use serde_bytes::Bytes;

use crate::proto::path::RelPath;

/// What a new torrent file is to say.
#[derive(Debug, Clone, Copy)]
pub struct NewTorrent<'a> {
    /// The name of the file or folder.
    pub name: &'a str,
    /// What the torrent holds.
    pub content: NewContent<'a>,
    /// How long a piece is.
    pub piece_len: u32,
    /// The SHA-1 of every piece.
    pub piece_hashes: &'a [[u8; 20]],
    /// Whether peers may come from its trackers only (BEP 27).
    pub private: bool,
    /// Who publishes it: part of the info-hash, so that the same payload on two trackers is two torrents.
    pub source: Option<&'a str>,
    /// Trackers in tiers (BEP 12).
    pub announce: &'a [Vec<String>],
    /// Web seeds (BEP 19).
    pub url_list: &'a [String],
    /// A remark for people.
    pub comment: Option<&'a str>,
    /// The program that makes it.
    pub created_by: Option<&'a str>,
    /// When it is made, in seconds since 1970.
    pub creation_date: Option<i64>,
}

impl<'a> NewTorrent<'a> {
    /// One that says what it holds and nothing else.
    #[must_use]
    pub const fn new(name: &'a str, content: NewContent<'a>, piece_len: u32, piece_hashes: &'a [[u8; 20]]) -> Self {
        Self {
            name,
            content,
            piece_len,
            piece_hashes,
            private: false,
            source: None,
            announce: &[],
            url_list: &[],
            comment: None,
            created_by: None,
            creation_date: None,
        }
    }
}

/// What a new torrent holds.
#[derive(Debug, Clone, Copy)]
pub enum NewContent<'a> {
    /// One file of this length.
    File(u64),
    /// A folder with these files, in the order of their bytes.
    Folder(&'a [NewFile]),
}

/// A file in the folder of a new torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its path in the folder: without the torrent's name.
    pub path: RelPath,
    /// Its length.
    pub len: u64,
    /// Whether it only aligns the next file (BEP 47).
    pub pad: bool,
}

#[derive(Serialize)]
struct Top<'a> {
    announce: Option<&'a str>,
    #[serde(rename = "announce-list")]
    announce_list: Option<&'a [Vec<String>]>,
    comment: Option<&'a str>,
    #[serde(rename = "created by")]
    created_by: Option<&'a str>,
    #[serde(rename = "creation date")]
    creation_date: Option<i64>,
    info: Info<'a>,
    #[serde(rename = "url-list")]
    url_list: Option<&'a [String]>,
}

#[derive(Serialize)]
struct Info<'a> {
    files: Option<Vec<File<'a>>>,
    length: Option<u64>,
    name: &'a str,
    #[serde(rename = "piece length")]
    piece_len: u32,
    pieces: &'a Bytes,
    private: Option<u8>,
    source: Option<&'a str>,
}

#[derive(Serialize)]
struct File<'a> {
    attr: Option<&'a str>,
    length: u64,
    path: Vec<&'a str>,
}

/// The bytes of a torrent file. What it says is not checked here: read it back with
/// [`Metainfo::parse`](super::Metainfo::parse), which also gives its info-hash.
pub fn encode(new: &NewTorrent<'_>) -> Vec<u8> {
    let (files, length) = match new.content {
        NewContent::File(len) => (None, Some(len)),
        NewContent::Folder(files) => (Some(files.iter().map(file).collect()), None),
    };
    let first_tracker = new.announce.first().and_then(|tier| tier.first());
    let several_trackers = new.announce.iter().map(Vec::len).sum::<usize>() > 1;
    let top = Top {
        announce: first_tracker.map(String::as_str),
        announce_list: several_trackers.then_some(new.announce),
        comment: new.comment,
        created_by: new.created_by,
        creation_date: new.creation_date,
        info: Info {
            files,
            length,
            name: new.name,
            piece_len: new.piece_len,
            pieces: Bytes::new(new.piece_hashes.as_flattened()),
            private: new.private.then_some(1),
            source: new.source,
        },
        url_list: (!new.url_list.is_empty()).then_some(new.url_list),
    };
    serde_bencode::to_bytes(&top).expect("strings, numbers, lists and structures have a bencode form")
}

fn file(new: &NewFile) -> File<'_> {
    File {
        attr: new.pad.then_some("p"),
        length: new.len,
        path: new.path.components().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metainfo::Metainfo;

    fn new<'a>(content: NewContent<'a>, piece_hashes: &'a [[u8; 20]]) -> NewTorrent<'a> {
        NewTorrent::new("n", content, 16384, piece_hashes)
    }

    #[test]
    fn info_has_only_what_it_must_in_the_order_of_its_keys() {
        let bytes = encode(&new(NewContent::File(5), &[[b'x'; 20]]));
        let pieces = "x".repeat(20);
        let expected = format!("d4:infod6:lengthi5e4:name1:n12:piece lengthi16384e6:pieces20:{pieces}ee");
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_folder_lists_its_files_by_names() {
        let path = RelPath::parse("a/b c").unwrap();
        let files = [NewFile {
            path,
            len: 5,
            pad: false,
        }];
        let new = NewTorrent {
            private: true,
            ..new(NewContent::Folder(&files), &[[b'x'; 20]])
        };
        let bytes = String::from_utf8(encode(&new)).unwrap();
        assert!(
            bytes.starts_with("d4:infod5:filesld6:lengthi5e4:pathl1:a3:b ceee4:name1:n"),
            "{bytes}"
        );
        assert!(bytes.ends_with("7:privatei1eee"), "{bytes}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let announce = [
            vec!["http://a/".to_owned(), "udp://b".to_owned()],
            vec!["http://c".to_owned()],
        ];
        let url_list = ["http://w/".to_owned()];
        let path = |path| RelPath::parse(path).unwrap();
        let files = [
            NewFile {
                path: path("a"),
                len: 16000,
                pad: false,
            },
            NewFile {
                path: path(".pad/384"),
                len: 384,
                pad: true,
            },
            NewFile {
                path: path("d/b"),
                len: 1,
                pad: false,
            },
        ];
        let hashes = [[1; 20], [2; 20]];
        let new = NewTorrent {
            private: true,
            announce: &announce,
            url_list: &url_list,
            comment: Some("für alle"),
            created_by: Some("btd"),
            creation_date: Some(1_700_000_000),
            ..new(NewContent::Folder(&files), &hashes)
        };
        let torrent = Metainfo::parse(&encode(&new)).unwrap();
        assert_eq!(torrent.announce, announce);
        assert_eq!(torrent.url_list, url_list);
        assert_eq!(torrent.comment.as_deref(), Some("für alle"));
        assert_eq!(torrent.created_by.as_deref(), Some("btd"));
        assert_eq!(torrent.creation_date, Some(1_700_000_000));
        assert_eq!(torrent.piece_hashes.as_slice(), hashes);
        assert!(torrent.private && torrent.unsorted_at.is_none());
        let read: Vec<_> = torrent
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.len, file.pad))
            .collect();
        assert_eq!(
            read,
            [("n/a", 16000, false), ("n/.pad/384", 384, true), ("n/d/b", 1, false)]
        );
    }
}
