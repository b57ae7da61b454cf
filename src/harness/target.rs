//! The torrent that a swarm downloads, as far as a leecher needs it.

use crate::proto::InfoHash;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::metainfo::Metainfo;

/// The torrent that a swarm downloads.
#[derive(Debug, Clone)]
pub struct Target {
    pub(super) name: String,
    pub(super) info_hash: InfoHash,
    pub(super) geometry: Geometry,
    hashes: Vec<[u8; 20]>,
}

impl Target {
    /// What the piece's SHA-1 must be.
    pub(super) fn hash(&self, piece: PieceIndex) -> &[u8; 20] {
        &self.hashes[piece.as_usize()]
    }

    /// A torrent of these bytes.
    #[cfg(test)]
    pub(super) fn for_test(geometry: Geometry, payload: &[u8]) -> Target {
        let pieces = payload.chunks(geometry.piece_len_max() as usize);
        let hashes = pieces.map(crate::hashing::sha1).collect();
        Target {
            name: "test".to_owned(),
            info_hash: InfoHash([1; 20]),
            geometry,
            hashes,
        }
    }
}

impl From<&Metainfo> for Target {
    fn from(metainfo: &Metainfo) -> Target {
        let geometry = metainfo.geometry;
        Target {
            name: metainfo.name.clone(),
            info_hash: metainfo.info_hash,
            geometry,
            hashes: geometry
                .pieces()
                .map(|piece| *metainfo.piece_hashes.get(piece))
                .collect(),
        }
    }
}
