//! The leecher's view of the stream: message heads are read, a block's payload is only walked past.
//!
//! `proto::wire` yields whole messages and keeps the torn tail of a read; that copy of half a block per read is what
//! a load generator must not pay for, so it has this reader. It checks lengths and nothing else.

/// A message longer than this is refused, unless it is a block: a bitfield of 2 million pieces.
const BODY_LEN_MAX: u32 = 256 * 1024;
/// The longest block anybody is known to send, and far more than is ever asked for here.
const PIECE_LEN_MAX: u32 = 9 + 1024 * 1024;
const HEAD_LEN: usize = 13;
const ID_PIECE: u8 = 7;

/// What the next bytes of the stream are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// Four zero bytes.
    KeepAlive,
    /// Any message but a block, whole.
    Message { id: u8, body: &'a [u8] },
    /// A part of a block's payload: what of it this read held.
    Block {
        piece: u32,
        begin: u32,
        length: u32,
        offset: u32,
        data: &'a [u8],
    },
}

/// The stream is not that of a BitTorrent peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message {id} of {len} bytes")]
pub(super) struct FrameError {
    pub(super) id: u8,
    pub(super) len: u32,
}

#[derive(Debug, Clone, Copy)]
struct Incoming {
    piece: u32,
    begin: u32,
    length: u32,
    offset: u32,
}

/// Where one connection's stream stands between two reads.
#[derive(Debug, Default)]
pub(super) struct Framer {
    head: [u8; HEAD_LEN],
    filled: usize,
    block: Option<Incoming>,
    /// A message torn by the end of a read.
    body: Vec<u8>,
    body_taken: bool,
}

impl Framer {
    /// The next frame of `input`, which shrinks by it; `None` when the input is used up.
    pub(super) fn next<'d, 'i: 'd>(&'d mut self, input: &mut &'i [u8]) -> Result<Option<Frame<'d>>, FrameError> {
        if self.body_taken {
            self.body = Vec::new();
            self.body_taken = false;
        }
        if self.block.is_none() {
            if !self.fill(input, 4) {
                return Ok(None);
            }
            let len = self.word(0);
            if len == 0 {
                self.filled = 0;
                return Ok(Some(Frame::KeepAlive));
            }
            if !self.fill(input, 5) {
                return Ok(None);
            }
            let id = self.head[4];
            if id != ID_PIECE {
                if len > BODY_LEN_MAX {
                    return Err(FrameError { id, len });
                }
                return Ok(self.message(input, id, len as usize - 1));
            }
            if !(9..=PIECE_LEN_MAX).contains(&len) {
                return Err(FrameError { id, len });
            }
            if !self.fill(input, HEAD_LEN) {
                return Ok(None);
            }
            self.filled = 0;
            self.block = Some(Incoming {
                piece: self.word(5),
                begin: self.word(9),
                length: len - 9,
                offset: 0,
            });
        }
        Ok(self.payload(input))
    }

    fn message<'d, 'i: 'd>(&'d mut self, input: &mut &'i [u8], id: u8, len: usize) -> Option<Frame<'d>> {
        if self.body.is_empty() && input.len() >= len {
            let (body, rest) = input.split_at(len);
            *input = rest;
            self.filled = 0;
            return Some(Frame::Message { id, body });
        }
        let (part, rest) = input.split_at(input.len().min(len - self.body.len()));
        self.body.extend_from_slice(part);
        *input = rest;
        if self.body.len() < len {
            return None;
        }
        self.filled = 0;
        self.body_taken = true;
        Some(Frame::Message { id, body: &self.body })
    }

    fn payload<'a>(&mut self, input: &mut &'a [u8]) -> Option<Frame<'a>> {
        let Incoming {
            piece,
            begin,
            length,
            offset,
        } = self.block?;
        let left = length - offset;
        let (data, rest) = input.split_at(input.len().min(left as usize));
        if data.is_empty() && left > 0 {
            return None;
        }
        *input = rest;
        let taken = u32::try_from(data.len()).expect("at most what is left of the block");
        self.block = (taken < left).then_some(Incoming {
            piece,
            begin,
            length,
            offset: offset + taken,
        });
        Some(Frame::Block {
            piece,
            begin,
            length,
            offset,
            data,
        })
    }

    /// Whether the head has its first `want` bytes, after taking what is missing from the input.
    fn fill(&mut self, input: &mut &[u8], want: usize) -> bool {
        if self.filled < want {
            let (part, rest) = input.split_at(input.len().min(want - self.filled));
            self.head[self.filled..self.filled + part.len()].copy_from_slice(part);
            self.filled += part.len();
            *input = rest;
        }
        self.filled >= want
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each, as one line of text for each frame, with the parts of a block joined.
    fn read(chunks: &[&[u8]]) -> Result<Vec<String>, FrameError> {
        let (mut framer, mut seen, mut payload) = (Framer::default(), Vec::new(), Vec::new());
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(frame) = framer.next(&mut input)? {
                match frame {
                    Frame::KeepAlive => seen.push("keep-alive".to_owned()),
                    Frame::Message { id, body } => seen.push(format!("{id} {body:?}")),
                    Frame::Block {
                        piece,
                        begin,
                        length,
                        offset,
                        data,
                    } => {
                        assert_eq!(offset as usize, payload.len());
                        payload.extend_from_slice(data);
                        if payload.len() == length as usize {
                            seen.push(format!("block {piece} {begin} {payload:?}"));
                            payload.clear();
                        }
                    }
                }
            }
            assert!(input.is_empty());
        }
        Ok(seen)
    }

    fn stream() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend([0, 0, 0, 1, 1]);
        bytes.extend([0, 0, 0, 4, 5, 0xff, 0x80, 0]);
        bytes.extend([0, 0, 0, 12, 7, 0, 0, 0, 3, 0, 0, 0x40, 0, 10, 20, 30]);
        bytes.extend([0, 0, 0, 9, 7, 0, 0, 0, 1, 0, 0, 0, 2]);
        bytes.extend([0, 0, 0, 1, 0]);
        bytes
    }

    #[test]
    fn frames_are_the_same_under_any_split() {
        let bytes = stream();
        let whole = read(&[&bytes]).unwrap();
        assert_eq!(
            whole,
            [
                "keep-alive",
                "1 []",
                "5 [255, 128, 0]",
                "block 3 16384 [10, 20, 30]",
                "block 1 2 []",
                "0 []"
            ]
        );
        for at in 0..=bytes.len() {
            for then in at..=bytes.len() {
                assert_eq!(
                    read(&[&bytes[..at], &bytes[at..then], &bytes[then..]]).unwrap(),
                    whole,
                    "split at {at} and {then}"
                );
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single).unwrap(), whole);
    }

    #[test]
    fn lengths_beyond_any_use_are_refused() {
        assert_eq!(
            read(&[&[0xff, 0xff, 0xff, 0xff, 7]]),
            Err(FrameError { id: 7, len: u32::MAX })
        );
        assert_eq!(read(&[&[0, 16, 0, 0, 5]]), Err(FrameError { id: 5, len: 1 << 20 }));
        assert_eq!(read(&[&[0, 0, 0, 8, 7]]), Err(FrameError { id: 7, len: 8 }));
    }
}
