//! Connecting to peers.
//!
//! Each address is tried, at ever longer intervals as long as nothing comes of it. A shard has few connections half open at
//! a time: routers at home drop packets when there are many.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use super::Shard;
use super::conn::{Conn, Served};
use super::deadlines::{HANDSHAKE_TICKS, ticks};
use super::ended::Reason;
use crate::io::{Driver, Errno, Op, Owner};
use crate::proto::handshake::{Handshake, Reserved};

/// Connections of a shard that are not made yet.
const HALF_OPEN_MAX: usize = 64;

/// Addresses of one torrent that are remembered.
const KNOWN_MAX: usize = 2_000;

/// How long after a connection has come to nothing the address is tried again; twice as long after each time.
const AGAIN_TICKS: u64 = ticks(5);
const AGAIN_TICKS_MAX: u64 = ticks(600);

/// A connection that we make, and what for.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) served: Rc<Served>,
    /// Where to.
    pub(super) addr: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be tried at this tick.
    Waits(u64),
    /// Connected, or about to be.
    Busy,
    /// Never again: it is ourselves, or lies.
    Never,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    state: State,
    failures: u8,
}

/// The addresses that peers of a torrent may be at.
#[derive(Debug, Default)]
pub(super) struct Dial {
    known: BTreeMap<SocketAddr, Known>,
}

/// How a connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// Something came of it.
    Well,
    /// Nothing did.
    Nowhere,
    /// It is not to be made again.
    Wrong,
}

impl Dial {
    /// There may be a peer at this address.
    pub(super) fn add(&mut self, addr: SocketAddr, tick: u64) {
        if self.known.len() >= KNOWN_MAX {
            return;
        }
        self.known.entry(addr).or_insert(Known {
            state: State::Waits(tick),
            failures: 0,
        });
    }

    /// The next address that is due; it counts as being connected to.
    fn next(&mut self, tick: u64) -> Option<SocketAddr> {
        let due = |known: &Known| matches!(known.state, State::Waits(at) if at <= tick);
        let (addr, known) = self.known.iter_mut().find(|(_, known)| due(known))?;
        known.state = State::Busy;
        Some(*addr)
    }

    /// A connection to this address has ended. `random` spreads those that failed together.
    pub(super) fn ended(&mut self, addr: SocketAddr, went: Went, tick: u64, random: u64) {
        let Some(known) = self.known.get_mut(&addr) else {
            return;
        };
        if known.state == State::Never {
            return;
        }
        known.failures = match went {
            Went::Well => 0,
            Went::Nowhere | Went::Wrong => known.failures.saturating_add(1),
        };
        let after = (AGAIN_TICKS << known.failures.saturating_sub(1).min(7)).min(AGAIN_TICKS_MAX);
        known.state = match went {
            Went::Wrong => State::Never,
            Went::Well | Went::Nowhere => State::Waits(tick + after + random % (after / 4).max(1)),
        };
    }
}

impl<D: Driver> Shard<D> {
    /// Connects to those who are due, of each torrent in turn.
    pub(super) fn dial(&mut self) {
        let max = self.settings.limits.caps().per_torrent;
        let numbers: Vec<u32> = self.downloads.keys().copied().collect();
        for number in numbers {
            while self.half_open < HALF_OPEN_MAX
                && let Some(download) = self.downloads.get_mut(&number)
                && download.peers.len() < max
                && let Some(addr) = download.dial.next(self.tick)
            {
                let served = download.served.clone();
                self.connect(served, addr);
            }
        }
    }

    fn connect(&mut self, served: Rc<Served>, addr: SocketAddr) {
        let number = served.number;
        let random = self.next_random();
        let socket = match self.settings.limits.admit(addr.ip()) {
            Err(_) => None,
            Ok(()) => match self.driver.socket(addr) {
                Ok(socket) => Some(socket),
                Err(errno) => {
                    tracing::debug!(peer = %addr, "no socket: {errno}");
                    self.settings.limits.leave(addr.ip());
                    None
                }
            },
        };
        let Some(socket) = socket else {
            if let Some(download) = self.downloads.get_mut(&number) {
                download.dial.ended(addr, Went::Nowhere, self.tick, random);
            }
            return;
        };
        let mut conn = Conn::new(socket.clone(), addr, self.tick);
        conn.dialed = Some(Box::new(Dialed { served, addr }));
        let owner = self.conns.insert(conn);
        let token = self.driver.submit(owner, Op::Connect { socket, addr });
        if let Some(conn) = self.conns.get_mut(owner) {
            conn.connect = Some(token);
        }
        self.half_open += 1;
        self.counters.dialed += 1;
        self.wake_at(owner, self.tick + HANDSHAKE_TICKS);
    }

    /// A connection is made, or not.
    pub(super) fn on_connected(&mut self, owner: Owner, result: Result<(), Errno>) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return; // Ended meanwhile.
        };
        conn.connect = None;
        self.half_open -= 1;
        let Some(dialed) = &conn.dialed else { return };
        if let Err(errno) = result {
            return self.end(owner, Reason::NotConnected, Some(errno));
        }
        let ours = Handshake {
            reserved: Reserved::OURS,
            info_hash: dialed.served.torrent.info_hash(),
            peer_id: self.settings.peer_id,
        };
        conn.out.extend_from_slice(&ours.encode());
        self.touch(owner);
        self.arm_receive(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn address_is_tried_at_longer_and_longer_intervals_until_something_comes_of_it() {
        let mut dial = Dial::default();
        dial.add(addr(1), 10);
        assert_eq!(dial.next(9), None);
        let (mut tick, mut before) = (10, 0);
        for _ in 0..20 {
            assert_eq!(dial.next(tick), Some(addr(1)));
            assert_eq!(dial.next(tick + 1_000_000), None, "it is being tried");
            dial.add(addr(1), tick);
            dial.ended(addr(1), Went::Nowhere, tick, 0);
            let next = (tick..).find(|at| dial.next(*at).is_some()).unwrap();
            dial.ended(addr(1), Went::Nowhere, next, 0);
            let after = next - tick;
            assert!(after >= before && after <= AGAIN_TICKS_MAX, "{after} after {before}");
            before = after;
            tick = (next..)
                .find(|at| matches!(dial.known[&addr(1)].state, State::Waits(due) if due <= *at))
                .unwrap();
        }
        assert_eq!(before, AGAIN_TICKS_MAX);
        assert_eq!(dial.next(tick), Some(addr(1)));
        dial.ended(addr(1), Went::Well, tick, 0);
        assert_eq!(dial.next(tick + AGAIN_TICKS), Some(addr(1)));
    }

    #[test]
    fn address_that_is_wrong_is_never_tried_again_whoever_names_it() {
        let mut dial = Dial::default();
        dial.add(addr(1), 0);
        assert_eq!(dial.next(0), Some(addr(1)));
        dial.ended(addr(1), Went::Wrong, 0, 0);
        dial.add(addr(1), 0);
        dial.ended(addr(1), Went::Well, 0, 0);
        assert_eq!(dial.next(u64::MAX), None);
    }

    #[test]
    fn addresses_are_bounded() {
        let mut dial = Dial::default();
        (0..5000).for_each(|port| dial.add(addr(port), 0));
        assert_eq!(dial.known.len(), KNOWN_MAX);
    }
}
