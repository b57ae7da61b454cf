//! What a btd says it has, held against what lies on the disk.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use btd::proto::InfoHash;
use btd::proto::handshake::Reserved;
use btd::proto::metainfo::Metainfo;
use rustix::fs::{SeekFrom, seek};
use sha1::{Digest, Sha1};

use super::btd::Btd;
use super::leech::metainfo;
use super::peer::Peer;
use super::torrent::Torrent;
use super::{wait_for, within};

/// Pieces that a btd says it has, in its bitfield.
pub fn claimed(btd: &Btd, hash: InfoHash, pieces: u32) -> Vec<bool> {
    let from = Ipv4Addr::new(127, 0, 4, 1);
    let mut peer = wait_for("a connection", within(10), || {
        Peer::join(btd.peers, from, hash, Reserved([0; 8])).ok()
    });
    // Interest is answered by an unchoke; a bitfield comes before it, unless there is nothing to tell.
    let mut bits = vec![false; pieces as usize];
    loop {
        let message = peer.hear().expect("a message");
        match message.first() {
            Some(5) => {
                for (piece, bit) in bits.iter_mut().enumerate() {
                    *bit = message[1 + piece / 8] & (0x80 >> (piece % 8)) != 0;
                }
            }
            Some(1) => return bits,
            _ => {}
        }
    }
}

/// All bytes of a torrent as they lie below `data`, under whatever names; zeros for what is not there.
fn contents(meta: &Metainfo, data: &Path) -> Vec<u8> {
    let mut all = vec![0; meta.geometry.total_len() as usize];
    for file in meta.files.iter().filter(|file| !file.pad) {
        let own = data.join(file.path.as_str());
        let part = data.join(format!("{}.part", file.path.as_str()));
        let bytes = fs::read(&own).or_else(|_| fs::read(&part)).unwrap_or_default();
        all[file.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    all
}

/// The SHA-1 of each piece as it lies below `data` is that of the torrent where it is claimed.
pub fn check_claims(torrent: &Torrent, data: &Path, claims: &[bool]) {
    let meta = metainfo(torrent);
    let all = contents(&meta, data);
    for (piece, bytes) in (0..).zip(all.chunks(meta.geometry.piece_len_max() as usize)) {
        if claims[piece as usize] {
            let index = meta.geometry.piece_index(piece).expect("a piece");
            assert_eq!(
                Sha1::digest(bytes)[..],
                meta.piece_hashes.get(index)[..],
                "piece {piece} is claimed"
            );
        }
    }
}

/// Which pieces do not lie in holes as a whole. Of such a one nothing may have come all the same: ext4 writes zeros beside
/// what it is given, up to 32 KiB, rather than split an extent.
pub fn touched(torrent: &Torrent, data: &Path) -> Vec<bool> {
    let meta = metainfo(torrent);
    let piece_len = u64::from(meta.geometry.piece_len_max());
    let mut touched = vec![false; meta.geometry.piece_count() as usize];
    for file in meta.files.iter().filter(|file| !file.pad) {
        let own = data.join(file.path.as_str());
        let part = data.join(format!("{}.part", file.path.as_str()));
        let Ok(open) = fs::File::open(own).or_else(|_| fs::File::open(part)) else {
            continue;
        };
        let mut at = 0;
        // Past the last data there is no more.
        while let Ok(start) = seek(&open, SeekFrom::Data(at)) {
            let end = seek(&open, SeekFrom::Hole(start)).expect("data ends");
            let pieces = (file.offset + start) / piece_len..=(file.offset + end - 1) / piece_len;
            pieces.for_each(|piece| touched[piece as usize] = true);
            at = end;
        }
    }
    touched
}
