//! When a send lends its buffers to the socket, instead of having them copied into it (`IORING_OP_SENDMSG_ZC`).
//!
//! That pays where the route ends at a network card that gathers from memory. Loopback and virtual pairs copy all the same,
//! later and at a higher price. The kernel says which it was when it gives the buffers back, so each socket is tried once.
//!
//! What is lent stays pinned until the peer has acknowledged it, and cannot be taken back as what waits in a send can
//! ([`super::reclaim`]): so it is bounded, and beyond the bound sends copy.

use std::net::IpAddr;

use super::Shard;
use super::conn::Conn;
use crate::io::{BUF_LEN, Driver, Errno, Owner, SendBatch};

/// Shorter sends are copied: pinning pages and a second completion cost as much as that.
const LEN_MIN: u64 = 64 * 1024;

/// The part of the buffers that may be lent. A block pins the whole buffer it lies in, which is eight times as much at
/// worst: half of all.
const LENT_PART: u64 = 16;

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

    /// Whether a send of `len` bytes is to be lent while `lent` are already, of `all` bytes of buffers.
    fn lends(&mut self, len: u64, lent: u64, all: u64) -> bool {
        if len < LEN_MIN || lent + len > all / LENT_PART {
            return false;
        }
        match self {
            Route::Untried => {
                *self = Route::Tried;
                true
            }
            Route::Lends => true,
            Route::Tried | Route::Copies => false,
        }
    }

    /// Whether an error of a send that was lent says no more than that it should not be: the socket cannot, this kernel does
    /// not report (before 6.2), or too much is pinned (`RLIMIT_MEMLOCK`).
    pub(super) fn refused(&mut self, errno: Errno) -> bool {
        let refused = matches!(self, Route::Tried | Route::Lends)
            && matches!(errno, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOBUFS | Errno::NOMEM);
        if refused {
            *self = Route::Copies;
        }
        refused
    }
}

impl Conn {
    /// Whether this batch is to be lent.
    pub(super) fn lends<D: Driver>(&mut self, driver: &D, batch: &SendBatch) -> bool {
        let all = u64::from(driver.pool().count()) * BUF_LEN as u64;
        self.route.lends(batch.left(), driver.counters().zero_copy_lent, all)
    }
}

impl<D: Driver> Shard<D> {
    /// What was lent is given back.
    pub(super) fn on_released(&mut self, owner: Owner, batch: Box<SendBatch>, copied: bool) {
        self.batches.give(batch);
        if let Some(conn) = self.conns.get_mut(owner)
            && conn.route != Route::Copies
        {
            conn.route = match copied {
                true => Route::Copies,
                false => Route::Lends,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 64 << 20;

    #[test]
    fn socket_is_tried_once_and_copied_to_until_it_has_answered() {
        let mut route = Route::to("10.0.0.1".parse().unwrap());
        assert!(!route.lends(LEN_MIN - 1, 0, ALL), "a short send is no trial");
        assert!(route.lends(LEN_MIN, 0, ALL));
        assert!(!route.lends(LEN_MIN, 0, ALL));
        route = Route::Lends;
        assert!(route.lends(LEN_MIN, 0, ALL) && route.lends(LEN_MIN, 0, ALL));
        route = Route::Copies;
        assert!(!route.lends(1 << 20, 0, ALL));
    }

    #[test]
    fn no_more_than_a_sixteenth_is_lent() {
        let mut route = Route::Lends;
        assert!(route.lends(LEN_MIN, ALL / 16 - LEN_MIN, ALL));
        assert!(!route.lends(LEN_MIN, ALL / 16 - LEN_MIN + 1, ALL));
        assert!(
            !Route::Untried.lends(LEN_MIN, 0, 15 * LEN_MIN),
            "too few buffers to lend any"
        );
    }

    #[test]
    fn loopback_is_not_tried_and_other_errors_end_the_connection() {
        assert_eq!(Route::to("127.0.0.9".parse().unwrap()), Route::Copies);
        assert_eq!(Route::to("::1".parse().unwrap()), Route::Copies);
        let mut route = Route::Tried;
        assert!(!route.refused(Errno::CONNRESET));
        assert!(route.refused(Errno::NOBUFS));
        assert_eq!(route, Route::Copies);
        assert!(
            !route.refused(Errno::NOBUFS),
            "a send that was copied cannot fail like that"
        );
    }
}
