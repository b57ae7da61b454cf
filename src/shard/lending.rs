//! When a send lends its buffers to the socket, instead of having them copied into it (`IORING_OP_SENDMSG_ZC`).
//!
//! That pays where the route ends at a network card that gathers from memory. Loopback and virtual pairs copy all the same,
//! later and at a higher price. The kernel says which it was when it gives the buffers back, so each socket is tried once.
//!
//! What is lent stays pinned until the peer has acknowledged it, and cannot be taken back as what waits in a send can
//! ([`super::reclaim`]). So the buffers that are lent are counted, from the submission on, and those of one peer and of all
//! together are bounded; beyond the bounds sends copy. A peer that acknowledges nothing is given up by the kernel after a
//! minute (`TCP_USER_TIMEOUT`).

use std::net::IpAddr;

use super::Shard;
use super::conn::Conn;
use crate::io::{BUF_LEN, Driver, Errno, Owner, SendBatch};
use crate::proto::geometry::BLOCK_LEN_MAX;

/// Shorter sends are copied: pinning pages and a second completion cost as much as that.
const LEN_MIN: u64 = 64 * 1024;

/// Bytes sent for each buffer that they pin, at least: small blocks from here and there are copied.
const LEN_PER_BUFFER_MIN: u64 = BLOCK_LEN_MAX as u64;

/// The part of the buffers that may be lent to all, and to one.
const LENT_PART: u32 = 2;
const LENT_PART_OF_ONE: u32 = 8;

/// What is known of a socket's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Nothing yet.
    Untried,
    /// A send was lent to it. Until it is known what came of it, others are copied.
    Tried,
    /// It takes buffers as they are.
    Lends,
    /// It copies.
    Copies,
}

impl Route {
    /// What the peer's address tells.
    pub(super) fn to(peer: IpAddr) -> Route {
        match peer.is_loopback() {
            true => Route::Copies,
            false => Route::Untried,
        }
    }

    /// A send that was lent has ended with an error. Whether that says no more than that it should not be lent: the socket
    /// cannot, this kernel does not report (before 6.2), or too much is pinned (`RLIMIT_MEMLOCK`). If nothing was learnt
    /// from it, it is tried again.
    fn on_error(&mut self, errno: Errno) -> bool {
        let refused = matches!(errno, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOBUFS | Errno::NOMEM);
        match self {
            _ if refused => *self = Route::Copies,
            Route::Tried => *self = Route::Untried,
            Route::Untried | Route::Lends | Route::Copies => {}
        }
        refused
    }

    /// What was lent has come back, copied after all or not.
    fn on_released(&mut self, copied: bool) {
        *self = match (*self, copied) {
            (Route::Copies, _) | (_, true) => Route::Copies,
            (_, false) => Route::Lends,
        };
    }
}

/// Buffers that are lent to all sockets of a shard. One that is lent several times counts as often.
#[derive(Debug, Default)]
pub(super) struct Lent(u32);

impl Lent {
    /// Memory that is lent, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.0) * BUF_LEN as u64
    }

    /// Whether this batch is to be lent, of which the buffers count from now on. There are `all` buffers.
    pub(super) fn lend(&mut self, conn: &mut Conn, batch: &mut SendBatch, all: u32) -> bool {
        if !matches!(conn.route, Route::Untried | Route::Lends) || batch.left() < LEN_MIN {
            return false;
        }
        let pinned = batch.pinned();
        // Small messages alone are no trial, and not counted.
        if pinned == 0
            || batch.left() < u64::from(pinned) * LEN_PER_BUFFER_MIN
            || self.0 + pinned > all / LENT_PART
            || conn.lent + pinned > all / LENT_PART_OF_ONE
        {
            return false;
        }
        if conn.route == Route::Untried {
            conn.route = Route::Tried;
        }
        self.0 += pinned;
        conn.lent += pinned;
        batch.lent = pinned;
        true
    }

    /// A batch has come back; it need not have been lent.
    fn end(&mut self, conn: Option<&mut Conn>, batch: &mut SendBatch) {
        let pinned = std::mem::take(&mut batch.lent);
        self.0 -= pinned;
        if let Some(conn) = conn {
            conn.lent -= pinned;
        }
    }
}

impl<D: Driver> Shard<D> {
    /// A send has ended with this error. Whether it is to be gone on with.
    pub(super) fn on_lent_error(&mut self, owner: Owner, errno: Errno) -> bool {
        let conn = self.conns.get_mut(owner);
        conn.is_some_and(|conn| conn.route.on_error(errno))
    }

    /// What is left of a batch that was sent has come back.
    pub(super) fn returned(&mut self, owner: Owner, batch: Option<Box<SendBatch>>) -> Box<SendBatch> {
        let mut batch = batch.unwrap_or_else(|| self.batches.take());
        self.lent.end(self.conns.get_mut(owner), &mut batch);
        batch
    }

    /// What was lent is given back.
    pub(super) fn on_released(&mut self, owner: Owner, batch: Box<SendBatch>, copied: Option<bool>) {
        let batch = self.returned(owner, Some(batch));
        self.batches.give(batch);
        if let (Some(conn), Some(copied)) = (self.conns.get_mut(owner), copied) {
            conn.route.on_released(copied);
        }
    }
}
