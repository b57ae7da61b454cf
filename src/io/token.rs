//! Names of operations in flight: what the kernel is given as `user_data`, and what the shard is given back.

/// What sort of operation a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    /// Multishot accept on a listening socket.
    Accept = 1,
    /// Multishot receive into provided buffers.
    Recv = 2,
    /// Vectored send.
    Send = 3,
    /// Read from a file into a pool buffer.
    Read = 4,
    /// Open of a file beneath a folder.
    Open = 5,
    /// Read of an eventfd that another thread rings.
    Doorbell = 6,
    /// Cancellation of another operation.
    Cancel = 7,
    /// Connecting a socket.
    Connect = 8,
    /// Write of bytes to a file.
    Write = 9,
    /// Multishot receive of datagrams.
    RecvFrom = 10,
    /// Closing a file that is kept apart.
    Close = 11,
}

impl OpKind {
    fn from_u8(value: u8) -> Option<OpKind> {
        Some(match value {
            1 => OpKind::Accept,
            2 => OpKind::Recv,
            3 => OpKind::Send,
            4 => OpKind::Read,
            5 => OpKind::Open,
            6 => OpKind::Doorbell,
            7 => OpKind::Cancel,
            8 => OpKind::Connect,
            9 => OpKind::Write,
            10 => OpKind::RecvFrom,
            11 => OpKind::Close,
            _ => return None,
        })
    }
}

/// One operation: `user_data` is `| kind: 8 | generation: 24 | op index: 32 |`. A slab index is reused, so the
/// generation tells a late completion from the operation that has since taken its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// What sort of operation.
    pub kind: OpKind,
    /// How often the slot had been used, modulo 2^24.
    pub generation: u32,
    /// Slot in the op table.
    pub index: u32,
}

/// Generations wrap at this: they have 24 bits in a token.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Token {
    /// The token as `user_data`.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        (self.kind as u64) << 56 | u64::from(self.generation & GENERATION_MASK) << 32 | u64::from(self.index)
    }

    /// The token in a `user_data`, unless its kind is none of ours.
    #[must_use]
    pub fn from_u64(value: u64) -> Option<Token> {
        Some(Token {
            kind: OpKind::from_u8((value >> 56) as u8)?,
            generation: (value >> 32) as u32 & GENERATION_MASK,
            index: value as u32,
        })
    }
}

/// Whom a completion concerns, in the shard's own terms: a slot of one of its slabs (which one follows from the
/// outcome) and that slot's generation, so that an answer to someone who has left is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Slot in the shard's slab.
    pub index: u32,
    /// How often that slot had been used.
    pub generation: u32,
}

impl Owner {
    /// Of what only the driver wants to know.
    pub(crate) const NOBODY: Owner = Owner {
        index: u32::MAX,
        generation: u32::MAX,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_survives_the_kernel() {
        let token = Token {
            kind: OpKind::Read,
            generation: GENERATION_MASK,
            index: u32::MAX,
        };
        assert_eq!(Token::from_u64(token.to_u64()), Some(token));
    }

    #[test]
    fn user_data_of_no_kind_is_refused() {
        assert_eq!(Token::from_u64(0), None);
        assert_eq!(Token::from_u64(u64::MAX), None);
    }
}
