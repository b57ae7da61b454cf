//! A stream of replies in which none is larger than we can bear.
//!
//! The Redis client reads what it is sent to its end, however long that is, and reserves as much as a length says. Whoever
//! answers at the store's address could so take all memory. Therefore the bytes are looked at before the client has them:
//! one frame (a reply, or a message of a channel) has a greatest length, depth and count of parts, and all replies since
//! [`Allowance::renew`] have a greatest length together. What goes beyond ends the connection.
//!
//! It does not check that a frame is well-formed beyond that: the client does.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest frame, in bytes.
pub(super) const FRAME_LEN_MAX: usize = 1 << 20;
/// The parts of a frame: what each takes when it is read is a hundred times what it takes on the wire.
const PARTS_MAX: u64 = 1 << 13;
/// Aggregates within each other.
const DEPTH_MAX: usize = 8;
/// A line: a number, a status, an error.
const LINE_LEN_MAX: usize = 1 << 10;
/// All replies to what was asked together.
pub(super) const REPLIES_LEN_MAX: usize = 4 << 20;

/// How many bytes of replies may still come, and what was too much in the end.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<State>);

#[derive(Debug)]
struct State {
    left: AtomicUsize,
    exceeded: OnceLock<Exceeded>,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            left: AtomicUsize::new(REPLIES_LEN_MAX),
            exceeded: OnceLock::new(),
        }))
    }

    /// Something else is asked now.
    pub(super) fn renew(&self) {
        self.0.left.store(REPLIES_LEN_MAX, Relaxed);
    }

    /// What has ended the connection, if it was too much.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        self.0.exceeded.get().copied()
    }

    fn take(&self, len: usize) -> Result<(), TooMuch> {
        let taken = self.0.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(len));
        taken.map(|_| ()).map_err(|_| TooMuch("replies"))
    }
}

/// What has ended a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exceeded {
    pub(super) what: TooMuch,
    /// It was in a reply, and not in a message of a channel.
    pub(super) in_reply: bool,
}

/// What was more than we can bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store says more than is accepted: {0}")]
pub(super) struct TooMuch(&'static str);

/// Where in a frame the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the kind of a value.
    Kind,
    /// In a line, after so many bytes, the last of which was a CR or not.
    Line { kind: u8, len: usize, cr: bool },
    /// In a string of which so many bytes are to come, with the line's end.
    Text { left: usize },
}

/// Follows frames, byte by byte.
#[derive(Debug)]
struct Frames {
    at: At,
    /// The line's bytes, if it is a length.
    number: Vec<u8>,
    /// How many values each aggregate that is begun still lacks.
    open: Vec<u64>,
    len: usize,
    parts: u64,
    is_message: bool,
}

impl Frames {
    fn new() -> Self {
        Self {
            at: At::Kind,
            number: Vec::new(),
            open: Vec::new(),
            len: 0,
            parts: 0,
            is_message: false,
        }
    }

    fn follow(&mut self, mut bytes: &[u8], allowance: &Allowance) -> Result<(), TooMuch> {
        while let Some(&byte) = bytes.first() {
            let passed = match self.at {
                At::Text { left } => bytes.len().min(left),
                At::Kind | At::Line { .. } => 1,
            };
            self.len += passed;
            bytes = &bytes[passed..];
            if self.len > FRAME_LEN_MAX {
                return Err(TooMuch("one reply or message"));
            }
            let is_whole = match self.at {
                At::Kind => {
                    self.begin(byte)?;
                    false
                }
                At::Line { kind, len, cr } => self.line(kind, len, cr, byte)?,
                At::Text { left } if left == passed => self.end_value(),
                At::Text { left } => {
                    self.at = At::Text { left: left - passed };
                    false
                }
            };
            if is_whole {
                if !self.is_message {
                    allowance.take(self.len)?;
                }
                (self.len, self.parts) = (0, 0);
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: u8) -> Result<(), TooMuch> {
        if self.open.is_empty() {
            self.is_message = kind == b'>';
        }
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(TooMuch("parts of a reply"));
        }
        self.number.clear();
        self.at = At::Line {
            kind,
            len: 0,
            cr: false,
        };
        Ok(())
    }

    /// A byte of a line. Whether the frame ends with it.
    fn line(&mut self, kind: u8, len: usize, cr: bool, byte: u8) -> Result<bool, TooMuch> {
        if !(cr && byte == b'\n') {
            if len == LINE_LEN_MAX {
                return Err(TooMuch("a line"));
            }
            if byte != b'\r' {
                self.number.push(byte);
            }
            self.at = At::Line {
                kind,
                len: len + 1,
                cr: byte == b'\r',
            };
            return Ok(false);
        }
        let number = || -> Result<Option<u64>, TooMuch> {
            let text = std::str::from_utf8(&self.number).map_err(|_| TooMuch("a length"))?;
            match text {
                "-1" => Ok(None),
                text => text.parse().map(Some).map_err(|_| TooMuch("a length")),
            }
        };
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Ok(self.end_value()),
            b'$' | b'!' | b'=' => match number()? {
                None if kind == b'$' => Ok(self.end_value()),
                Some(len) if len <= FRAME_LEN_MAX as u64 => {
                    self.at = At::Text { left: len as usize + 2 };
                    Ok(false)
                }
                None | Some(_) => Err(TooMuch("the length of a string")),
            },
            b'*' | b'~' | b'>' | b'%' => match number()? {
                None if kind == b'*' => Ok(self.end_value()),
                Some(0) => Ok(self.end_value()),
                Some(count) if count <= PARTS_MAX && self.open.len() < DEPTH_MAX => {
                    self.open.push(if kind == b'%' { 2 * count } else { count });
                    self.at = At::Kind;
                    Ok(false)
                }
                None | Some(_) => Err(TooMuch("the parts of an aggregate")),
            },
            _ => Err(TooMuch("a kind of value that is not known")),
        }
    }

    /// A value has ended. Whether the frame has.
    fn end_value(&mut self) -> bool {
        self.at = At::Kind;
        while let Some(lacking) = self.open.last_mut() {
            *lacking -= 1;
            if *lacking > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// What can be read from and written to.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// See the module's page.
pub(super) struct Guarded {
    stream: Box<dyn Stream>,
    frames: Frames,
    allowance: Allowance,
}

impl Guarded {
    pub(super) fn new(stream: impl Stream + 'static, allowance: Allowance) -> Self {
        Self {
            stream: Box::new(stream),
            frames: Frames::new(),
            allowance,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let this = &mut *self;
        let followed = this.frames.follow(&buf.filled()[before..], &this.allowance);
        Poll::Ready(followed.map_err(|what| {
            let in_reply = !this.frames.is_message;
            // The first counts: what comes behind it is not read as it was meant.
            let _ = this.allowance.0.exceeded.set(Exceeded { what, in_reply });
            io::Error::new(io::ErrorKind::InvalidData, what)
        }))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Follows bytes in pieces of a length.
    fn follow(bytes: &[u8], piece: usize) -> Result<Frames, TooMuch> {
        let (mut frames, allowance) = (Frames::new(), Allowance::new());
        for bytes in bytes.chunks(piece.max(1)) {
            frames.follow(bytes, &allowance)?;
        }
        Ok(frames)
    }

    #[test]
    fn replies_of_every_kind_are_followed_to_their_end() {
        let replies = [
            "+OK\r\n",
            "-ERR no such thing\r\n",
            ":-12\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$4\r\n\r\n$9\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n*2\r\n$1\r\na\r\n,1.5e12\r\n_\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n#t\r\n",
            "~1\r\n(123456789012345678901234567890\r\n",
            "=8\r\ntxt:abcd\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n",
        ];
        for piece in [1, 3, 1000] {
            for reply in replies {
                let frames = follow(reply.as_bytes(), piece).expect(reply);
                assert!(
                    frames.at == At::Kind && frames.open.is_empty() && frames.len == 0,
                    "{reply:?}"
                );
            }
            assert!(follow(replies.concat().as_bytes(), piece).is_ok());
        }
    }

    #[test]
    fn lengths_that_are_too_great_end_it_before_anything_is_reserved() {
        for (reply, what) in [
            ("*8193\r\n", "the parts of an aggregate"),
            ("*99999999999999999999\r\n", "a length"),
            ("%-1\r\n", "the parts of an aggregate"),
            ("$1048577\r\n", "the length of a string"),
            ("!-1\r\n", "the length of a string"),
            ("$x\r\n", "a length"),
            ("|1\r\n", "a kind of value that is not known"),
            ("GET / HTTP/1.1\r\n", "a kind of value that is not known"),
            (&"*1\r\n".repeat(9)[..], "the parts of an aggregate"),
            (&format!("+{}\r\n", "x".repeat(2000))[..], "a line"),
            (
                &format!("*2\r\n{}", "*8000\r\n:1\r\n".repeat(8))[..],
                "the parts of an aggregate",
            ),
            (
                &format!("*8000\r\n{}", "*2\r\n:1\r\n:1\r\n".repeat(4000))[..],
                "parts of a reply",
            ),
        ] {
            assert_eq!(follow(reply.as_bytes(), 7).err(), Some(TooMuch(what)), "{reply:.40}");
        }
    }

    #[test]
    fn replies_have_a_greatest_length_together_and_messages_do_not_count() {
        let (mut frames, allowance) = (Frames::new(), Allowance::new());
        let text = format!("$1000000\r\n{}\r\n", "x".repeat(1_000_000));
        let message = format!(">1\r\n{text}");
        for _ in 0..3 {
            for _ in 0..4 {
                frames
                    .follow(text.as_bytes(), &allowance)
                    .expect("four times a million bytes");
                frames.follow(message.as_bytes(), &allowance).expect("a message");
            }
            allowance.renew();
        }
        let mut followed = (0..5).map(|_| frames.follow(text.as_bytes(), &allowance));
        assert_eq!(followed.find_map(Result::err), Some(TooMuch("replies")));
    }

    #[test]
    fn a_frame_of_many_small_parts_is_bounded_in_bytes_too() {
        let part = format!("$200000\r\n{}\r\n", "x".repeat(200_000));
        let frame = format!("*6\r\n{}", part.repeat(6));
        assert_eq!(
            follow(frame.as_bytes(), 4096).err(),
            Some(TooMuch("one reply or message"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_followed_or_refused_in_any_pieces(
            bytes in "((\\$[0-9]{1,2}|[*>%][0-3])\\r\\n|:[0-9]\\r\\n|[a-f]{9}\\r\\n|[*$:+>%_0-9a-f\\r\\n-]){0,20}",
            piece in 1_usize..9,
        ) {
            let whole = follow(bytes.as_bytes(), 1000).map(|frames| (frames.at, frames.open, frames.len));
            let pieces = follow(bytes.as_bytes(), piece).map(|frames| (frames.at, frames.open, frames.len));
            prop_assert_eq!(whole, pieces);
        }
    }
}
