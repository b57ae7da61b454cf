//! Datagrams: what a receive brings, and what is to be sent.
//!
//! Replies of one turn leave together ([`super::Driver::send_datagrams`]) and are not operations: a datagram is copied into
//! its socket or dropped, so nothing of it is in flight when the call returns, and no memory has to be kept for the kernel.

use std::net::SocketAddr;

use super::uring::recv_ring::RecvBuf;

/// The longest datagram that is received whole, in bytes.
pub const DATAGRAM_LEN_MAX: usize = 2048;

/// A datagram that was received.
#[derive(Debug)]
pub struct Datagram {
    /// Where it says that it comes from.
    pub from: SocketAddr,
    /// Its bytes; none at all is possible, and ends the operation.
    pub bytes: RecvBuf,
}

/// One of a batch.
#[derive(Clone, Copy, Debug)]
struct Part {
    to: SocketAddr,
    start: u32,
    len: u32,
}

/// Datagrams to be sent together by one socket. Reused from turn to turn, so that sending does not allocate.
#[derive(Debug, Default)]
pub struct Datagrams {
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

/// Memory that an emptied batch keeps, in bytes and datagrams.
const BYTES_KEPT: usize = 64 * 1024;
const PARTS_KEPT: usize = 256;

impl Datagrams {
    /// Appends a datagram, which is copied.
    ///
    /// # Panics
    /// When the batch would have 4 GiB.
    pub fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        let start = u32::try_from(self.bytes.len()).expect("less than 4 GiB in a batch");
        let len = u32::try_from(bytes.len()).expect("less than 4 GiB in a batch");
        self.bytes.extend_from_slice(bytes);
        self.parts.push(Part { to, start, len });
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Forgets all; keeps memory, within reason.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_KEPT);
        self.parts.clear();
        self.parts.shrink_to(PARTS_KEPT);
    }

    /// Each with where it goes, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.parts
            .iter()
            .map(|part| (part.to, &self.bytes[part.start as usize..][..part.len as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_gives_each_datagram_as_it_was_put_in_and_is_empty_when_cleared() {
        let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut batch = Datagrams::default();
        for (port, bytes) in [(1, &b"one"[..]), (2, b""), (3, b"three")] {
            batch.push(to(port), bytes);
        }
        let parts: Vec<_> = batch.iter().collect();
        assert_eq!(parts, [(to(1), &b"one"[..]), (to(2), b""), (to(3), b"three")]);
        batch.clear();
        assert!(batch.is_empty() && batch.iter().next().is_none());
    }
}
