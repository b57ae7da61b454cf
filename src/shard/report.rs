//! What a shard tells of its peers, to somebody who asks.
//!
//! Asked for seldom, and by one torrent: it looks at each connection once, within a turn.

use std::fmt;
use std::net::SocketAddr;

use super::Shard;
use super::conn::Conn;
use crate::io::Driver;
use crate::proto::peer::Pieces;
use crate::proto::{InfoHash, PeerId};

/// So many peers are told of; a torrent with more on one shard is a rare thing, and how many more is said.
const PEERS_TOLD_MAX: usize = 8192;

/// The peers of a torrent on one shard.
#[derive(Clone, Debug, Default)]
pub struct PeersTold {
    /// Those that are told of.
    pub peers: Vec<PeerStatus>,
    /// How many more there are.
    pub left_out: u64,
}

/// A peer, as it stands.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Where it is.
    pub addr: SocketAddr,
    /// What it calls itself in its handshake.
    pub peer_id: PeerId,
    /// What it calls itself in its extension handshake.
    pub client: Option<String>,
    /// Whether the connection was made from here.
    pub dialed: bool,
    /// Whether it wants something of us, and whether it may ask.
    pub peer_interested: bool,
    /// See `peer_interested`.
    pub unchoked: bool,
    /// Whether we want something of it, and whether we may ask.
    pub am_interested: bool,
    /// See `am_interested`.
    pub peer_unchokes: bool,
    /// Payload that it gets and gives, in bytes a second.
    pub upload_rate: u64,
    /// See `upload_rate`.
    pub download_rate: u64,
    /// Pieces that it has.
    pub have_count: u32,
}

/// Where an answer goes. Called on the shard's thread, so it must not wait.
pub struct PeersReply(Box<dyn FnOnce(PeersTold) + Send>);

impl PeersReply {
    /// The answer is given to `take`.
    pub fn new(take: impl FnOnce(PeersTold) + Send + 'static) -> Self {
        Self(Box::new(take))
    }
}

impl fmt::Debug for PeersReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeersReply")
    }
}

impl<D: Driver> Shard<D> {
    /// Tells of the peers of a torrent, also when there is no such torrent here.
    pub(super) fn tell_peers(&self, info_hash: InfoHash, reply: PeersReply) {
        let of_torrent = self
            .conns
            .iter()
            .filter_map(|(_, conn)| self.status_of(conn, info_hash));
        (reply.0)(told(of_torrent, PEERS_TOLD_MAX));
    }

    fn status_of(&self, conn: &Conn, info_hash: InfoHash) -> Option<PeerStatus> {
        let peer_conn = conn.peer()?;
        let torrent = &peer_conn.served.torrent;
        if torrent.info_hash() != info_hash {
            return None;
        }
        let peer = &peer_conn.peer;
        let leech = peer_conn.leech.as_ref();
        Some(PeerStatus {
            addr: conn.addr,
            peer_id: peer_conn.id,
            client: peer.extension().and_then(|told| told.v.clone()),
            dialed: conn.dialed.is_some(),
            peer_interested: peer.peer_interested(),
            unchoked: !peer.am_choking(),
            am_interested: peer.am_interested(),
            peer_unchokes: !peer.peer_choking(),
            upload_rate: peer_conn.rate.bytes_per_second(self.now),
            download_rate: leech.map_or(0, |leech| leech.rate.bytes_per_second(self.now)),
            have_count: match peer.pieces() {
                Pieces::HaveNone => 0,
                Pieces::Bits(bits) => bits.count(),
                Pieces::HaveAll => torrent.geometry().piece_count(),
            },
        })
    }
}

/// So many of them, and how many more there are.
fn told(peers: impl Iterator<Item = PeerStatus>, max: usize) -> PeersTold {
    let mut told = PeersTold::default();
    for peer in peers {
        match told.peers.len() < max {
            true => told.peers.push(peer),
            false => told.left_out += 1,
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_are_too_many_to_be_told_of_are_counted() {
        let peer = |port| PeerStatus {
            addr: ([10, 0, 0, 1], port).into(),
            peer_id: PeerId([0; 20]),
            client: None,
            dialed: false,
            peer_interested: false,
            unchoked: false,
            am_interested: false,
            peer_unchokes: false,
            upload_rate: 0,
            download_rate: 0,
            have_count: 0,
        };
        let some = told((1..=3).map(peer), 2);
        assert_eq!((some.peers.len(), some.left_out), (2, 1));
        let all = told((1..=2).map(peer), 2);
        assert_eq!((all.peers.len(), all.left_out), (2, 0));
    }
}
