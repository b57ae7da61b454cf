//! How a peer can break the protocol. Each costs it the connection.

use crate::proto::{bitfield, extension};

/// What a peer did that no peer may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It named a piece that does not exist.
    #[error("named piece {piece} of {piece_count}")]
    BadPiece {
        /// The piece it named.
        piece: u32,
        /// How many there are.
        piece_count: u32,
    },
    /// It asked for a block that does not lie in one piece, or is empty or too long.
    #[error("asked for {length} bytes at {begin} of piece {piece}, which is no block")]
    BadRequest {
        /// The piece.
        piece: u32,
        /// Where in it.
        begin: u32,
        /// How many bytes.
        length: u32,
    },
    /// It sent or rejected such a block.
    #[error("answered with {length} bytes at {begin} of piece {piece}, which is no block")]
    BadBlock {
        /// The piece.
        piece: u32,
        /// Where in it.
        begin: u32,
        /// How many bytes.
        length: u32,
    },
    /// It answered requests that were never sent.
    #[error("answered a request that was never sent")]
    AnswerNotAskedFor,
    /// Its bitfield is not that of this torrent.
    #[error("sent {0}")]
    BadBitfield(bitfield::Error),
    /// It sent have-none after it had said what it has.
    #[error("sent have-none after it had said what it has")]
    LateHaveNone,
    /// It takes back over and over what it has.
    #[error("took back more than {max} times that it has pieces", max = super::TAKEN_BACK_MAX)]
    PiecesFlood,
    /// It sent a message of the fast extension, which it had not offered.
    #[error("used the fast extension without having offered it")]
    FastNotNegotiated,
    /// It sent a message of the extension protocol, which it had not offered.
    #[error("used the extension protocol without having offered it")]
    ExtensionNotNegotiated,
    /// Its extension handshake cannot be read.
    #[error("sent an extension handshake that cannot be read: {0}")]
    BadExtensionHandshake(extension::Error),
    /// It goes on asking for what it is refused, or for the same block.
    #[error("sent more than {max} requests in a row that came to nothing", max = super::VAIN_REQUESTS_MAX)]
    RequestFlood,
    /// It keeps sending messages that nobody knows.
    #[error("sent {max} unknown messages, the last with id {id}", max = super::UNKNOWN_MAX)]
    TooManyUnknown {
        /// The number of the last.
        id: u8,
    },
}

impl Violation {
    /// A name for a metric: stable, and few of them.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::BadPiece { .. } => "bad_piece",
            Self::BadRequest { .. } => "bad_request",
            Self::BadBlock { .. } => "bad_block",
            Self::AnswerNotAskedFor => "answer_not_asked_for",
            Self::BadBitfield(_) => "bad_bitfield",
            Self::LateHaveNone => "late_have_none",
            Self::PiecesFlood => "pieces_flood",
            Self::FastNotNegotiated => "fast_not_negotiated",
            Self::ExtensionNotNegotiated => "extension_not_negotiated",
            Self::BadExtensionHandshake(_) => "bad_extension_handshake",
            Self::RequestFlood => "request_flood",
            Self::TooManyUnknown { .. } => "too_many_unknown",
        }
    }
}
