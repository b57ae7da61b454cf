//! The torrent that is fed, all of its payload in memory: a seeder that reads while it is measured against would be its own
//! limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::{BLOCK_LEN_MAX, BlockRequest, Geometry};
use crate::proto::metainfo::Metainfo;

/// What liars send, whatever they were asked for.
static LIE: [u8; BLOCK_LEN_MAX as usize] = [0x5a; BLOCK_LEN_MAX as usize];

/// A torrent with its payload.
pub(super) struct Torrent {
    pub(super) name: String,
    pub(super) info_hash: InfoHash,
    pub(super) geometry: Geometry,
    /// All of it.
    pub(super) have: Bitfield,
    payload: Vec<u8>,
}

/// A file of the payload cannot be read, or has not the torrent's length.
#[derive(Debug, thiserror::Error)]
#[error("payload {path}: {error}")]
pub struct PayloadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: io::Error,
}

impl Torrent {
    /// Reads the payload of `metainfo` under `data`. That it is right is taken for granted.
    pub(super) fn read(metainfo: &Metainfo, data: &Path) -> Result<Torrent, PayloadError> {
        let geometry = metainfo.geometry;
        let mut payload = Vec::with_capacity(usize::try_from(geometry.total_len()).expect("a 64-bit machine"));
        for entry in &metainfo.files {
            let end = usize::try_from(entry.offset + entry.len).expect("a 64-bit machine");
            if entry.pad || entry.len == 0 {
                payload.resize(end, 0);
                continue;
            }
            let path = data.join(entry.path.as_path());
            let read = File::open(&path).and_then(|file| file.take(entry.len).read_to_end(&mut payload));
            let read = read.and_then(|len| {
                let short = || format!("{len} bytes, the torrent says {}", entry.len);
                (payload.len() == end)
                    .then_some(())
                    .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, short()))
            });
            read.map_err(|error| PayloadError { path, error })?;
        }
        Ok(Torrent {
            name: metainfo.name.clone(),
            info_hash: metainfo.info_hash,
            geometry,
            have: Bitfield::full(geometry.piece_count()),
            payload,
        })
    }

    /// A torrent of these bytes.
    #[cfg(test)]
    pub(super) fn for_test(piece_len: u32, payload: Vec<u8>) -> Torrent {
        let geometry = Geometry::new(piece_len, payload.len() as u64).unwrap();
        Torrent {
            name: "test".to_owned(),
            info_hash: InfoHash([1; 20]),
            geometry,
            have: Bitfield::full(geometry.piece_count()),
            payload,
        }
    }

    /// The bytes of a block, or others.
    pub(super) fn block(&self, block: &BlockRequest, lie: bool) -> &[u8] {
        let len = block.length() as usize;
        if lie {
            return &LIE[..len];
        }
        let begin = usize::try_from(self.geometry.offset(block)).expect("a 64-bit machine");
        &self.payload[begin..begin + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_has_its_bytes_and_a_lie_has_others() {
        let torrent = Torrent::for_test(32 * 1024, (0..100_000u32).map(|n| n as u8).collect());
        let block = torrent.geometry.check(1, 16 * 1024, 100).unwrap();
        assert_eq!(torrent.block(&block, false)[..3], [0, 1, 2]);
        let lie = torrent.block(&block, true);
        assert_eq!((lie.len(), &lie[..3]), (100, &[0x5a; 3][..]));
    }
}
