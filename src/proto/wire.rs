//! Messages between peers: BEP 3, the fast extension (BEP 6) and the envelope of the extension protocol (BEP 10).
//!
//! [`Decoder`] turns a stream of bytes that arrives in any pieces into messages. A message that lies whole in what has
//! arrived is read in place; only the torn end of a receive is copied, and only until its rest is there. Nothing is
//! judged here beyond lengths: whether a message makes sense at this point, for this torrent, is [`super::peer`]'s
//! question, and what an extended message means is [`super::extension`]'s.

use super::bitfield;
use super::geometry::{BLOCK_LEN_MAX, BlockRequest};

/// What a piece message puts before its payload: length, id, index, begin.
pub const PIECE_HEADER_LEN: usize = 4 + 1 + 4 + 4;

/// The longest extended message accepted: a metadata block (BEP 9) is 16 KiB and its dictionary, and everything else
/// that is in use is shorter.
pub const EXTENDED_LEN_MAX: u32 = 18 * 1024;

/// A torn message that needed more room than this gives it back: thousands of idle peers shall not each keep a block.
const TORN_KEEP: usize = 256;

/// The longest message that peers of a torrent with so many pieces have reason to send, as its length prefix counts.
pub fn len_max(piece_count: u32) -> u32 {
    let piece = PIECE_HEADER_LEN as u32 - 4 + BLOCK_LEN_MAX;
    let bitfield = 1 + bitfield::byte_len(piece_count) as u32;
    piece.max(bitfield).max(EXTENDED_LEN_MAX)
}

/// What one peer says to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Nothing, but still here.
    KeepAlive,
    /// Requests will not be answered from now on.
    Choke,
    /// Requests will be answered from now on.
    Unchoke,
    /// The sender wants something we have.
    Interested,
    /// The sender wants nothing we have.
    NotInterested,
    /// The sender has one more piece.
    Have(u32),
    /// The pieces the sender has.
    Bitfield(&'a [u8]),
    /// A block is wanted.
    Request {
        /// Which piece.
        piece: u32,
        /// Where in it.
        begin: u32,
        /// How many bytes.
        length: u32,
    },
    /// A block is delivered.
    Piece {
        /// Which piece.
        piece: u32,
        /// Where in it.
        begin: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// A request is taken back.
    Cancel {
        /// Which piece.
        piece: u32,
        /// Where in it.
        begin: u32,
        /// How many bytes.
        length: u32,
    },
    /// The UDP port of the sender's DHT node (BEP 5).
    Port(u16),
    /// A piece that would suit the sender (BEP 6).
    Suggest(u32),
    /// Instead of a bitfield: all of it (BEP 6).
    HaveAll,
    /// Instead of a bitfield: nothing (BEP 6).
    HaveNone,
    /// A request will not be answered (BEP 6).
    Reject {
        /// Which piece.
        piece: u32,
        /// Where in it.
        begin: u32,
        /// How many bytes.
        length: u32,
    },
    /// A piece that may be asked for while choked (BEP 6).
    AllowedFast(u32),
    /// A message of the extension protocol (BEP 10); id 0 is its handshake.
    Extended {
        /// The number the receiver gave to the extension.
        id: u8,
        /// What the extension says.
        payload: &'a [u8],
    },
    /// A message nobody told us about. BEP 3 is silent on them; they are passed over.
    Unknown {
        /// Its number.
        id: u8,
    },
}

impl Message<'_> {
    /// The request for this block.
    pub const fn request(block: &BlockRequest) -> Self {
        Self::Request {
            piece: block.piece().get(),
            begin: block.begin(),
            length: block.length(),
        }
    }

    /// The refusal of a request for this block.
    pub const fn reject(block: &BlockRequest) -> Self {
        Self::Reject {
            piece: block.piece().get(),
            begin: block.begin(),
            length: block.length(),
        }
    }

    /// The withdrawal of a request for this block.
    pub const fn cancel(block: &BlockRequest) -> Self {
        Self::Cancel {
            piece: block.piece().get(),
            begin: block.begin(),
            length: block.length(),
        }
    }
}

/// The numbers of the messages.
mod id {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 13;
    pub(super) const HAVE_ALL: u8 = 14;
    pub(super) const HAVE_NONE: u8 = 15;
    pub(super) const REJECT: u8 = 16;
    pub(super) const ALLOWED_FAST: u8 = 17;
    pub(super) const EXTENDED: u8 = 20;
}

/// Why the stream cannot be read on. The connection is of no more use: nobody knows where the next message begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A message longer than any that makes sense.
    #[error("a message of {len} bytes, at most {max} accepted")]
    TooLong {
        /// Its length prefix.
        len: u32,
        /// The longest accepted.
        max: u32,
    },
    /// A message whose length does not fit its kind.
    #[error("a message with id {id} of {len} bytes")]
    BadLength {
        /// Its number.
        id: u8,
        /// Its length prefix.
        len: u32,
    },
}

impl Error {
    /// A name for a metric: stable, and few of them.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "message_too_long",
            Self::BadLength { .. } => "bad_message_length",
        }
    }
}

/// Cuts what arrives into messages.
#[derive(Debug)]
pub struct Decoder {
    len_max: u32,
    /// Whether `torn` holds a whole message, which the last call handed out, so that its bytes had to stay.
    handed_out: bool,
    /// The beginning of a message whose rest has not arrived, length prefix included.
    torn: Vec<u8>,
}

impl Decoder {
    /// A decoder for a new stream; see [`len_max`] for the bound.
    pub fn new(len_max: u32) -> Self {
        Self {
            len_max,
            handed_out: false,
            torn: Vec::new(),
        }
    }

    /// The next message, taken off the front of `input`. `None`: all of `input` is used up, and the next message needs
    /// bytes that are still to come. After an error the decoder is not to be used again.
    pub fn next<'d, 'i: 'd>(&'d mut self, input: &mut &'i [u8]) -> Result<Option<Message<'d>>, Error> {
        if self.handed_out {
            self.handed_out = false;
            self.torn.clear();
            if self.torn.capacity() > TORN_KEEP {
                self.torn = Vec::new();
            }
        }
        if !self.torn.is_empty() {
            return self.next_torn(input);
        }
        let Some((prefix, rest)) = input.split_first_chunk::<4>() else {
            self.keep(input);
            return Ok(None);
        };
        let len = self.check_len(*prefix)?;
        let Some((body, rest)) = rest.split_at_checked(len) else {
            self.keep(input);
            return Ok(None);
        };
        *input = rest;
        parse(body).map(Some)
    }

    /// How many bytes are held back for the rest of their message.
    pub fn torn_len(&self) -> usize {
        if self.handed_out { 0 } else { self.torn.len() }
    }

    /// Goes on with a message that an earlier receive began.
    fn next_torn<'d>(&'d mut self, input: &mut &[u8]) -> Result<Option<Message<'d>>, Error> {
        self.fill(4, input);
        let Some(prefix) = self.torn.first_chunk::<4>() else {
            return Ok(None);
        };
        let whole = 4 + self.check_len(*prefix)?;
        self.fill(whole, input);
        if self.torn.len() < whole {
            return Ok(None);
        }
        self.handed_out = true;
        parse(&self.torn[4..]).map(Some)
    }

    /// Takes bytes until `torn` has `len`. It grows with what has arrived, never with what was announced.
    fn fill(&mut self, len: usize, input: &mut &[u8]) {
        let missing = len.saturating_sub(self.torn.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.torn.extend_from_slice(taken);
        *input = rest;
    }

    fn keep(&mut self, input: &mut &[u8]) {
        self.torn.extend_from_slice(input);
        *input = &[];
    }

    fn check_len(&self, prefix: [u8; 4]) -> Result<usize, Error> {
        let len = u32::from_be_bytes(prefix);
        if len > self.len_max {
            return Err(Error::TooLong { len, max: self.len_max });
        }
        Ok(len as usize)
    }
}

/// Reads one message without its length prefix.
fn parse(body: &[u8]) -> Result<Message<'_>, Error> {
    let Some((&id, payload)) = body.split_first() else {
        return Ok(Message::KeepAlive);
    };
    let bad_length = || Error::BadLength {
        id,
        len: body.len() as u32,
    };
    let nothing = |message| {
        if payload.is_empty() {
            Ok(message)
        } else {
            Err(bad_length())
        }
    };
    let number = || payload.try_into().map(u32::from_be_bytes).map_err(|_| bad_length());
    let block = || {
        let bytes: &[u8; 12] = payload.try_into().map_err(|_| bad_length())?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok((
            u32::from_be_bytes(words[0]),
            u32::from_be_bytes(words[1]),
            u32::from_be_bytes(words[2]),
        ))
    };
    Ok(match id {
        id::CHOKE => nothing(Message::Choke)?,
        id::UNCHOKE => nothing(Message::Unchoke)?,
        id::INTERESTED => nothing(Message::Interested)?,
        id::NOT_INTERESTED => nothing(Message::NotInterested)?,
        id::HAVE => Message::Have(number()?),
        id::BITFIELD => Message::Bitfield(payload),
        id::REQUEST => {
            let (piece, begin, length) = block()?;
            Message::Request { piece, begin, length }
        }
        id::PIECE => {
            let (piece, data) = payload.split_first_chunk::<4>().ok_or_else(bad_length)?;
            let (begin, data) = data.split_first_chunk::<4>().ok_or_else(bad_length)?;
            Message::Piece {
                piece: u32::from_be_bytes(*piece),
                begin: u32::from_be_bytes(*begin),
                data,
            }
        }
        id::CANCEL => {
            let (piece, begin, length) = block()?;
            Message::Cancel { piece, begin, length }
        }
        id::PORT => Message::Port(payload.try_into().map(u16::from_be_bytes).map_err(|_| bad_length())?),
        id::SUGGEST => Message::Suggest(number()?),
        id::HAVE_ALL => nothing(Message::HaveAll)?,
        id::HAVE_NONE => nothing(Message::HaveNone)?,
        id::REJECT => {
            let (piece, begin, length) = block()?;
            Message::Reject { piece, begin, length }
        }
        id::ALLOWED_FAST => Message::AllowedFast(number()?),
        id::EXTENDED => {
            let (&id, payload) = payload.split_first().ok_or_else(bad_length)?;
            Message::Extended { id, payload }
        }
        id => Message::Unknown { id },
    })
}

/// Puts a message behind what `out` holds. Blocks are not sent this way: see [`piece_header`].
pub fn encode(message: &Message<'_>, out: &mut Vec<u8>) {
    match *message {
        Message::KeepAlive => out.extend_from_slice(&[0; 4]),
        Message::Choke => put(out, id::CHOKE, [&[], &[]]),
        Message::Unchoke => put(out, id::UNCHOKE, [&[], &[]]),
        Message::Interested => put(out, id::INTERESTED, [&[], &[]]),
        Message::NotInterested => put(out, id::NOT_INTERESTED, [&[], &[]]),
        Message::Have(piece) => put(out, id::HAVE, [&piece.to_be_bytes(), &[]]),
        Message::Bitfield(bits) => put(out, id::BITFIELD, [bits, &[]]),
        Message::Request { piece, begin, length } => put(out, id::REQUEST, [&block(piece, begin, length), &[]]),
        Message::Piece { piece, begin, data } => {
            out.extend_from_slice(&header(piece, begin, data.len() as u32));
            out.extend_from_slice(data);
        }
        Message::Cancel { piece, begin, length } => put(out, id::CANCEL, [&block(piece, begin, length), &[]]),
        Message::Port(port) => put(out, id::PORT, [&port.to_be_bytes(), &[]]),
        Message::Suggest(piece) => put(out, id::SUGGEST, [&piece.to_be_bytes(), &[]]),
        Message::HaveAll => put(out, id::HAVE_ALL, [&[], &[]]),
        Message::HaveNone => put(out, id::HAVE_NONE, [&[], &[]]),
        Message::Reject { piece, begin, length } => put(out, id::REJECT, [&block(piece, begin, length), &[]]),
        Message::AllowedFast(piece) => put(out, id::ALLOWED_FAST, [&piece.to_be_bytes(), &[]]),
        Message::Extended { id, payload } => put(out, id::EXTENDED, [&[id], payload]),
        Message::Unknown { id } => put(out, id, [&[], &[]]),
    }
}

/// What is sent before the bytes of this block.
pub fn piece_header(block: &BlockRequest) -> [u8; PIECE_HEADER_LEN] {
    header(block.piece().get(), block.begin(), block.length())
}

fn header(piece: u32, begin: u32, data_len: u32) -> [u8; PIECE_HEADER_LEN] {
    let mut bytes = [0; PIECE_HEADER_LEN];
    bytes[..4].copy_from_slice(&(PIECE_HEADER_LEN as u32 - 4 + data_len).to_be_bytes());
    bytes[4] = id::PIECE;
    bytes[5..9].copy_from_slice(&piece.to_be_bytes());
    bytes[9..].copy_from_slice(&begin.to_be_bytes());
    bytes
}

fn block(piece: u32, begin: u32, length: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&piece.to_be_bytes());
    bytes[4..8].copy_from_slice(&begin.to_be_bytes());
    bytes[8..].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn put(out: &mut Vec<u8>, id: u8, payload: [&[u8]; 2]) {
    let len = 1 + payload[0].len() + payload[1].len();
    out.extend_from_slice(&(len as u32).to_be_bytes());
    out.push(id);
    out.extend_from_slice(payload[0]);
    out.extend_from_slice(payload[1]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::geometry::Geometry;

    const LEN_MAX: u32 = 9 + BLOCK_LEN_MAX;

    #[test]
    fn a_request_has_the_bytes_of_bep_3() {
        let mut out = Vec::new();
        encode(
            &Message::Request {
                piece: 1,
                begin: 0x4000,
                length: 0x4000,
            },
            &mut out,
        );
        assert_eq!(out, [0, 0, 0, 13, 6, 0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    }

    #[test]
    fn a_piece_header_and_a_block_are_a_piece_message() {
        let geometry = Geometry::new(16 * 1024, 40 * 1024).unwrap();
        let block = geometry.check(2, 4, 3).unwrap();
        let mut bytes = piece_header(&block).to_vec();
        bytes.extend_from_slice(b"abc");
        let mut decoder = Decoder::new(LEN_MAX);
        let message = decoder.next(&mut &bytes[..]).unwrap();
        assert_eq!(
            message,
            Some(Message::Piece {
                piece: 2,
                begin: 4,
                data: b"abc"
            })
        );
    }

    #[test]
    fn a_whole_message_is_read_in_place() {
        let bytes = [0, 0, 0, 3, 5, 0xaa, 0xbb, 0, 0];
        let mut input = &bytes[..];
        let mut decoder = Decoder::new(LEN_MAX);
        let Some(Message::Bitfield(bits)) = decoder.next(&mut input).unwrap() else {
            panic!("no bitfield")
        };
        assert!(std::ptr::eq(bits, &bytes[5..7]));
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert!(input.is_empty());
        assert_eq!(decoder.torn_len(), 2);
    }

    #[test]
    fn a_message_torn_at_every_byte_is_the_same_message() {
        let mut bytes = Vec::new();
        encode(
            &Message::Extended {
                id: 3,
                payload: b"payload",
            },
            &mut bytes,
        );
        let mut decoder = Decoder::new(LEN_MAX);
        for _ in 0..3 {
            for (at, byte) in bytes.chunks(1).enumerate() {
                let message = decoder.next(&mut { byte }).unwrap();
                let whole = (at + 1 == bytes.len()).then_some(Message::Extended {
                    id: 3,
                    payload: b"payload",
                });
                assert_eq!(message, whole);
            }
        }
    }

    #[test]
    fn a_long_torn_message_gives_its_room_back() {
        let mut bytes = Vec::new();
        encode(
            &Message::Piece {
                piece: 0,
                begin: 0,
                data: &[1; 16 * 1024],
            },
            &mut bytes,
        );
        let (first, second) = bytes.split_at(9000);
        let mut decoder = Decoder::new(LEN_MAX);
        assert_eq!(decoder.next(&mut { first }), Ok(None));
        assert!(decoder.next(&mut { second }).unwrap().is_some());
        assert_eq!(decoder.next(&mut &[][..]), Ok(None));
        assert_eq!(decoder.torn.capacity(), 0);
    }

    #[test]
    fn an_announced_length_takes_no_memory_before_its_bytes_are_there() {
        let mut decoder = Decoder::new(len_max(2 << 20));
        assert_eq!(decoder.next(&mut &[0, 4, 0, 1, 5, 0xff][..]), Ok(None));
        assert!(decoder.torn.capacity() < 64);
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_arrives() {
        let error = Error::TooLong {
            len: LEN_MAX + 1,
            max: LEN_MAX,
        };
        let prefix = (LEN_MAX + 1).to_be_bytes();
        assert_eq!(Decoder::new(LEN_MAX).next(&mut &prefix[..]), Err(error));
        let mut torn = Decoder::new(LEN_MAX);
        assert_eq!(torn.next(&mut &prefix[..3]), Ok(None));
        assert_eq!(torn.next(&mut &prefix[3..]), Err(error));
    }

    #[test]
    fn a_message_whose_length_does_not_fit_its_kind_is_refused() {
        for (id, len) in [
            (0, 2),
            (4, 4),
            (4, 6),
            (6, 12),
            (6, 14),
            (7, 8),
            (9, 2),
            (14, 2),
            (16, 5),
            (17, 1),
            (20, 1),
        ] {
            let mut bytes = u32::to_be_bytes(len).to_vec();
            bytes.push(id);
            bytes.resize(4 + len as usize, 0);
            assert_eq!(
                Decoder::new(LEN_MAX).next(&mut &bytes[..]),
                Err(Error::BadLength { id, len })
            );
        }
    }

    #[test]
    fn an_unknown_message_is_passed_over_with_its_payload() {
        let bytes = [0, 0, 0, 3, 99, 1, 2, 0, 0, 0, 0];
        let mut input = &bytes[..];
        let mut decoder = Decoder::new(LEN_MAX);
        assert_eq!(decoder.next(&mut input), Ok(Some(Message::Unknown { id: 99 })));
        assert_eq!(decoder.next(&mut input), Ok(Some(Message::KeepAlive)));
        assert_eq!(decoder.next(&mut input), Ok(None));
    }

    #[test]
    fn the_longest_message_follows_the_bitfield_of_large_torrents() {
        assert_eq!(len_max(1), EXTENDED_LEN_MAX);
        assert_eq!(len_max(2 << 20), 1 + (2 << 20) / 8);
    }
}
