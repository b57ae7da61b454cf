//! Connections that came to another shard than their torrent's home.
//!
//! The kernel chooses which shard accepts a connection, and its torrent is known after the handshake. One that is being
//! downloaded belongs to one shard, so the socket goes there, with what was received: nothing has been sent yet.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::conn::{Conn, Phase};
use super::deadlines::HANDSHAKE_TICKS;
use super::ended::Reason;
use super::{Command, Shard};
use crate::io::{Driver, Owner};
use crate::proto::handshake::HANDSHAKE_LEN;

/// More than the handshake that may have come by then: a peer that says so much before it has heard of us is none.
pub(super) const BYTES_MAX: usize = HANDSHAKE_LEN + 64 * 1024;

/// A connection on its way to another shard. It counts as admitted.
#[derive(Debug)]
pub struct Handed {
    socket: OwnedFd,
    addr: SocketAddr,
    /// What the peer has said, from its handshake on.
    bytes: Vec<u8>,
}

impl<D: Driver> Shard<D> {
    /// Gives a connection to its torrent's home, as soon as nothing more is received here.
    pub(super) fn hand_over(&mut self, owner: Owner, home: u32) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if let Phase::Handshake { bytes, .. } = &conn.phase {
            let bytes = bytes.to_vec();
            conn.phase = Phase::Leaving { home, bytes };
        }
        match conn.receive {
            Some(token) => self.driver.cancel(token),
            None => self.leave(owner),
        }
    }

    /// More has come of a connection that leaves.
    pub(super) fn on_leaving_bytes(&mut self, owner: Owner, more: &[u8]) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if let Phase::Leaving { bytes, .. } = &mut conn.phase {
            if bytes.len() + more.len() > BYTES_MAX {
                return self.end(owner, Reason::ReplyFlood, None);
            }
            bytes.extend_from_slice(more);
        }
    }

    /// Nothing more is received here.
    pub(super) fn leave(&mut self, owner: Owner) {
        let Some(Conn {
            phase, socket, addr, ..
        }) = self.conns.get_mut(owner)
        else {
            return;
        };
        let Phase::Leaving { home, bytes } = phase else {
            return;
        };
        let (home, bytes, addr) = (*home as usize, std::mem::take(bytes), *addr);
        let Ok(socket) = socket.duplicate() else {
            return self.end(owner, Reason::Stopping, None);
        };
        let handed = Box::new(Handed { socket, addr, bytes });
        let taken = match self.settings.mailboxes.get(home) {
            Some(mailbox) => mailbox.send(Command::Take(handed)).is_ok(),
            None => false,
        };
        match taken {
            // Not ended: the socket lives on, and counts.
            true => drop(self.conns.remove(owner)),
            false => self.end(owner, Reason::TorrentFull, None),
        }
    }

    /// Takes a connection that another shard has accepted.
    pub(super) fn take(&mut self, Handed { socket, addr, bytes }: Handed) {
        let socket = self.driver.take_over(socket);
        let owner = self.conns.insert(Conn::new(socket, addr, self.tick));
        if self.stopping.is_some() {
            return self.end(owner, Reason::Stopping, None);
        }
        self.wake_at(owner, self.tick + HANDSHAKE_TICKS);
        self.on_bytes(owner, &bytes);
        self.arm_receive(owner);
    }
}
