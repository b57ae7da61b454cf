//! The handshake of BEP 3: 68 bytes each way before any message.
//!
//! Deadlines and what to do about a stranger's info-hash are the shard's business.

use super::{InfoHash, PeerId};

/// What every handshake begins with: the length of the protocol's name, and the name.
const PREFIX: &[u8; 20] = b"\x13BitTorrent protocol";

/// A handshake's length: prefix, reserved bits, info-hash, peer id.
pub const HANDSHAKE_LEN: usize = PREFIX.len() + 8 + 20 + 20;

/// The eight reserved bytes: what a peer says it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved(pub [u8; 8]);

impl Reserved {
    /// What btd offers: the extension protocol and the fast extension.
    pub const OURS: Self = Self([0, 0, 0, 0, 0, 0x10, 0, 0x04]);

    /// Whether the extension protocol (BEP 10) is spoken.
    pub const fn extension(self) -> bool {
        self.0[5] & 0x10 != 0
    }

    /// Whether the fast extension (BEP 6) is spoken.
    pub const fn fast(self) -> bool {
        self.0[7] & 0x04 != 0
    }

    /// Whether the peer has a DHT node (BEP 5), whose port it may send.
    pub const fn dht(self) -> bool {
        self.0[7] & 0x01 != 0
    }
}

/// One side's opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// What this side can do.
    pub reserved: Reserved,
    /// Which torrent it wants.
    pub info_hash: InfoHash,
    /// What it calls itself.
    pub peer_id: PeerId,
}

/// The bytes are not BitTorrent's opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a BitTorrent handshake")]
pub struct NotAHandshake;

impl Handshake {
    /// The handshake as it is sent.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut bytes = [0; HANDSHAKE_LEN];
        bytes[..20].copy_from_slice(PREFIX);
        bytes[20..28].copy_from_slice(&self.reserved.0);
        bytes[28..48].copy_from_slice(&self.info_hash.0);
        bytes[48..].copy_from_slice(&self.peer_id.0);
        bytes
    }

    /// Reads what a peer sent.
    pub fn decode(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, NotAHandshake> {
        let (prefix, rest) = bytes.split_first_chunk::<20>().ok_or(NotAHandshake)?;
        let (reserved, rest) = rest.split_first_chunk::<8>().ok_or(NotAHandshake)?;
        let (info_hash, rest) = rest.split_first_chunk::<20>().ok_or(NotAHandshake)?;
        let (peer_id, _) = rest.split_first_chunk::<20>().ok_or(NotAHandshake)?;
        if prefix != PREFIX {
            return Err(NotAHandshake);
        }
        Ok(Self {
            reserved: Reserved(*reserved),
            info_hash: InfoHash(*info_hash),
            peer_id: PeerId(*peer_id),
        })
    }
}

/// Whether the first bytes of a connection can still become a handshake. An encrypted or garbage opening is known by
/// its first byte in 255 cases of 256, and need not be waited for.
pub fn prefix_ok(bytes: &[u8]) -> bool {
    let known = bytes.len().min(PREFIX.len());
    bytes[..known] == PREFIX[..known]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> Handshake {
        Handshake {
            reserved: Reserved::OURS,
            info_hash: InfoHash([7; 20]),
            peer_id: PeerId(*b"-BT0100-abcdefghijkl"),
        }
    }

    #[test]
    fn a_handshake_survives_its_bytes() {
        let bytes = handshake().encode();
        assert_eq!(Handshake::decode(&bytes), Ok(handshake()));
        assert!(bytes.starts_with(b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04"));
    }

    #[test]
    fn another_protocol_is_refused() {
        let mut bytes = handshake().encode();
        bytes[19] = b'L';
        assert_eq!(Handshake::decode(&bytes), Err(NotAHandshake));
    }

    #[test]
    fn a_prefix_is_fine_until_its_first_wrong_byte() {
        let bytes = handshake().encode();
        for len in 0..=HANDSHAKE_LEN {
            assert!(prefix_ok(&bytes[..len]));
        }
        assert!(!prefix_ok(b"GET / HTTP/1.1"));
        assert!(!prefix_ok(b"\x13BitTorrent protocoL"));
    }

    #[test]
    fn reserved_bits_stand_where_their_beps_put_them() {
        assert!(Reserved([0, 0, 0, 0, 0, 0x10, 0, 0]).extension());
        assert!(Reserved([0, 0, 0, 0, 0, 0, 0, 0x04]).fast());
        assert!(Reserved([0, 0, 0, 0, 0, 0, 0, 0x01]).dht());
        assert!(Reserved::OURS.fast() && Reserved::OURS.extension() && !Reserved::OURS.dht());
    }
}
