//! A stream for tests, in pieces.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that comes in pieces of these lengths, over and over.
pub struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: std::iter::Cycle<std::vec::IntoIter<u8>>,
}

impl Pieces {
    pub fn new(bytes: Vec<u8>, sizes: Vec<u8>) -> Pieces {
        let sizes = sizes.into_iter().cycle();
        Pieces { bytes, at: 0, sizes }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = 1 + self.sizes.next().map_or(0, usize::from);
        let left = self.bytes.len() - self.at;
        let len = size.min(left).min(buf.remaining());
        buf.put_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
