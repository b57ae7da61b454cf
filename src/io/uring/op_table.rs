//! Operations in flight. An entry owns all memory that the kernel may still touch for its operation, and leaves at the
//! operation's *last* completion: not when a connection closes, not when interest is lost.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use io_uring::types::OpenHow;
use slab::Slab;
use socket2::SockAddr;

use super::super::handle::Handle;
use super::super::op::SendBatch;
use super::super::token::{GENERATION_MASK, OpKind, Owner, Token};
use super::pool::Buf;

/// What the kernel may touch, by operation.
#[expect(dead_code, reason = "held for the kernel, which reads and writes it; we do not")]
pub(super) enum InFlight {
    /// The listener stays open.
    Accept { listener: Handle, brief: bool },
    /// The socket stays open; the bytes go to provided buffers.
    Recv { socket: Handle, bulk: bool },
    /// The same for datagrams, and the header that says how long an address is.
    RecvFrom { socket: Handle, header: Box<libc::msghdr> },
    /// Header, iovecs, bytes and buffers of a send.
    Send {
        /// Given up with the result: a reset, when the last handle is dropped, is how what the socket has taken by zero
        /// copy and is never acknowledged is had back.
        socket: Option<Handle>,
        batch: Box<SendBatch>,
        /// Whether it was made with zero copy.
        zero_copy: bool,
        /// With zero copy and after the result: bytes that the socket has taken, and may still read.
        lent: Option<u32>,
    },
    /// The buffer that is read into.
    Read { file: Handle, buf: Buf },
    /// The path, the folder and `struct open_how`.
    Open(Box<OpenArgs>),
    /// The address, and a socket that stays open.
    Connect { socket: Handle, addr: Box<SockAddr> },
    /// The bytes that are written, and a file that stays open.
    Write { file: Handle, bytes: Bytes },
    /// The eight bytes an eventfd is read into.
    Doorbell { event: Handle, value: Box<[u8; 8]> },
    /// Nothing: the descriptor is the kernel's from the start.
    Close,
    /// Nothing.
    Cancel,
}

/// Memory of an open: it must not move, hence boxed as a whole.
pub(super) struct OpenArgs {
    pub(super) dir: Arc<dyn AsFd + Send + Sync>,
    pub(super) path: CString,
    pub(super) how: OpenHow,
    pub(super) write: bool,
    pub(super) apart: bool,
}

struct Entry {
    generation: u32,
    /// Whether we have asked for its cancellation.
    cancelled: bool,
    owner: Owner,
    op: InFlight,
}

/// The table: a slab, with a generation that tells a late completion from the operation that has taken its slot.
#[derive(Default)]
pub(super) struct OpTable {
    entries: Slab<Entry>,
    next_generation: u32,
}

impl OpTable {
    /// Makes an entry.
    pub(super) fn insert(&mut self, kind: OpKind, owner: Owner, op: InFlight) -> Token {
        self.next_generation = (self.next_generation + 1) & GENERATION_MASK;
        let generation = self.next_generation;
        let index = self.entries.insert(Entry {
            generation,
            cancelled: false,
            owner,
            op,
        });
        Token {
            kind,
            generation,
            index: u32::try_from(index).expect("fewer than 2^32 operations in flight"),
        }
    }

    /// The entry of a token, unless it has left.
    pub(super) fn get_mut(&mut self, token: Token) -> Option<(Owner, &mut InFlight)> {
        let entry = self.entries.get_mut(token.index as usize)?;
        (entry.generation == token.generation).then_some((entry.owner, &mut entry.op))
    }

    /// Notes that the cancellation of an operation was asked for.
    pub(super) fn mark_cancelled(&mut self, token: Token) {
        if let Some(entry) = self.entries.get_mut(token.index as usize)
            && entry.generation == token.generation
        {
            entry.cancelled = true;
        }
    }

    /// Whether [`OpTable::mark_cancelled`] was called for an operation that is still here.
    pub(super) fn is_cancelled(&self, token: Token) -> bool {
        let entry = self.entries.get(token.index as usize);
        entry.is_some_and(|entry| entry.generation == token.generation && entry.cancelled)
    }

    /// Takes the entry out, unless it has left.
    pub(super) fn remove(&mut self, token: Token) -> Option<(Owner, InFlight)> {
        self.get_mut(token)?;
        let entry = self.entries.remove(token.index as usize);
        Some((entry.owner, entry.op))
    }

    /// Operations in flight.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner {
        index: 1,
        generation: 1,
    };

    #[test]
    fn late_token_does_not_find_the_operation_in_its_old_slot() {
        let mut table = OpTable::default();
        let old = table.insert(OpKind::Cancel, OWNER, InFlight::Cancel);
        assert!(table.remove(old).is_some());
        let new = table.insert(OpKind::Cancel, OWNER, InFlight::Cancel);
        assert_eq!(old.index, new.index);
        assert!(table.get_mut(old).is_none());
        assert!(table.remove(old).is_none());
        assert!(table.remove(new).is_some());
        assert_eq!(table.len(), 0);
    }
}
