//! The torrent that all hosts have, or want.

use super::plan::Plan;
use super::random::Random;
use crate::hashing::sha1;
use crate::proto::geometry::PieceIndex;
use crate::proto::metainfo::{Metainfo, NewContent, NewFile, NewTorrent, encode};
use crate::proto::path::RelPath;
use crate::storage::{Layout, PartNames};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) meta: Metainfo,
    pub(super) layout: Layout,
    pub(super) names: PartNames,
    pub(super) payload: Vec<u8>,
}

impl Subject {
    pub(super) fn new(plan: &Plan, mut random: Random) -> Self {
        let mut payload = Vec::new();
        for file in &plan.files {
            match file.pad {
                true => payload.resize(payload.len() + file.len, 0),
                false => payload.extend(random.bytes(file.len)),
            }
        }
        let hashes: Vec<[u8; 20]> = payload.chunks(plan.piece_len as usize).map(sha1).collect();
        let entries: Vec<NewFile> = plan
            .files
            .iter()
            .map(|file| NewFile {
                path: RelPath::parse(&file.path).expect("a plan has plain paths"),
                len: file.len as u64,
                pad: file.pad,
            })
            .collect();
        let single = entries.len() == 1;
        let (name, content) = match single {
            true => (plan.files[0].path.as_str(), NewContent::File(plan.files[0].len as u64)),
            false => ("folder", NewContent::Folder(&entries)),
        };
        let encoded = encode(&NewTorrent::new(name, content, plan.piece_len, &hashes));
        let meta = Metainfo::parse(&encoded).expect("a torrent of our own making");
        Self {
            layout: Layout::new(&meta),
            names: PartNames::new(&meta.files),
            meta,
            payload,
        }
    }

    /// Where a piece lies in the payload, in bytes.
    pub(super) fn range(&self, piece: PieceIndex) -> std::ops::Range<usize> {
        let start = self.meta.geometry.piece_offset(piece) as usize;
        start..start + self.meta.geometry.piece_len(piece) as usize
    }

    /// Whether a piece is there, where `read` gives what is in a file of this name from an offset on, of this length.
    pub(super) fn holds(&self, piece: PieceIndex, read: impl Fn(&str, u64, usize) -> Option<Vec<u8>>) -> bool {
        let range = self.range(piece);
        let mut at = range.start;
        let mut spans = self.layout.spans(range.start as u64, range.len() as u64);
        spans.all(|span| {
            let len = span.len as usize;
            let wanted = &self.payload[at..at + len];
            at += len;
            if span.pad || len == 0 {
                return true;
            }
            let entry = &self.meta.files[span.file as usize];
            let part = self.names.get(span.file, entry);
            let names = [Some(&entry.path), part.as_ref()];
            names
                .into_iter()
                .flatten()
                .any(|name| read(name.as_str(), span.offset, len).as_deref() == Some(wanted))
        })
    }
}
