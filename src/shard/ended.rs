//! Why connections end: one label each, for the metric and the log line.

use crate::io::{Ending, Errno};
use crate::proto::peer::Violation;

/// Why a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The peer ended it.
    Eof,
    /// The connection broke.
    Reset,
    /// The first bytes are no BitTorrent handshake (an encrypted one, perhaps).
    NotAHandshake,
    /// The torrent is not served here.
    UnknownInfoHash,
    /// It is ourselves.
    OwnPeerId,
    /// There is a connection to this peer already.
    Duplicate,
    /// It has sent what is wrong.
    Banned,
    /// Block after block that nobody has asked for.
    BlockFlood,
    /// The connection could not be made.
    NotConnected,
    /// The torrent has as many connections as it may.
    TorrentFull,
    /// No whole handshake within its time.
    HandshakeTimeout,
    /// No handshake yet, and all places are taken. See [`super::accept`].
    Crowded,
    /// Nothing received for too long.
    IdleTimeout,
    /// The peer took nothing for too long.
    Stalled,
    /// A message longer than any that makes sense.
    MessageTooLong,
    /// Messages that mean nothing, too many of them.
    Violation(Violation),
    /// It asked for a piece that cannot be read any more, and knows no rejects; or for many. See [`super::gone`].
    PieceWithdrawn,
    /// Both ends have everything.
    BothSeeds,
    /// More small messages are owed than the peer takes.
    ReplyFlood,
    /// The torrent is no longer served, or is about to leave since its disk has lost some of it.
    TorrentRemoved,
    /// The shard ends.
    Stopping,
}

impl Reason {
    /// What an error of a socket comes to. The kernel gives up on a peer that acknowledges nothing as we do on one that takes
    /// nothing, after the same time.
    pub(super) fn of_socket(errno: Errno) -> Reason {
        match errno {
            Errno::TIMEDOUT => Reason::Stalled,
            _ => Reason::Reset,
        }
    }

    /// Stable name, for metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Reason::Eof => "eof",
            Reason::Reset => "reset",
            Reason::NotAHandshake => "not_a_handshake",
            Reason::UnknownInfoHash => "unknown_info_hash",
            Reason::OwnPeerId => "own_peer_id",
            Reason::Duplicate => "duplicate",
            Reason::Banned => "banned",
            Reason::BlockFlood => "block_flood",
            Reason::NotConnected => "not_connected",
            Reason::TorrentFull => "torrent_full",
            Reason::HandshakeTimeout => "handshake_timeout",
            Reason::Crowded => "crowded",
            Reason::IdleTimeout => "idle_timeout",
            Reason::Stalled => "stalled",
            Reason::MessageTooLong => "message_too_long",
            Reason::Violation(violation) => violation.label(),
            Reason::PieceWithdrawn => "piece_withdrawn",
            Reason::BothSeeds => "both_seeds",
            Reason::ReplyFlood => "reply_flood",
            Reason::TorrentRemoved => "torrent_removed",
            Reason::Stopping => "stopping",
        }
    }

    /// Whether what the peer has not taken is thrown away.
    pub(super) fn ending(self) -> Ending {
        match self {
            Reason::Eof
            | Reason::OwnPeerId
            | Reason::PieceWithdrawn
            | Reason::BothSeeds
            | Reason::TorrentRemoved
            | Reason::Stopping => Ending::Orderly,
            Reason::Reset
            | Reason::NotAHandshake
            | Reason::UnknownInfoHash
            | Reason::Duplicate
            | Reason::Banned
            | Reason::BlockFlood
            | Reason::NotConnected
            | Reason::TorrentFull
            | Reason::HandshakeTimeout
            | Reason::Crowded
            | Reason::IdleTimeout
            | Reason::Stalled
            | Reason::MessageTooLong
            | Reason::Violation(_)
            | Reason::ReplyFlood => Ending::Reset,
        }
    }
}
