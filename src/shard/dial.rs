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
use super::limits::TurnedAway;
use crate::io::{Driver, Errno, Op, Owner};
use crate::proto::handshake::{Handshake, Reserved};

/// Addresses of a torrent that are tried in vain, one after the other, before others have their turn.
const HINDERED_MAX: usize = 16;

/// Connections of a shard that are not made yet.
const HALF_OPEN_MAX: usize = 64;

/// Addresses of one torrent that are remembered.
const KNOWN_MAX: usize = 2_000;

/// An address of which nothing has come so often gives way to a new one.
const FAILURES_MIN: u8 = 3;

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
    /// A name has led there.
    named: bool,
}

/// The addresses that peers of a torrent may be at.
#[derive(Debug, Default)]
pub(super) struct Dial {
    known: BTreeMap<SocketAddr, Known>,
    /// None of them is due before this tick.
    due_at: u64,
}

/// Whether a connection was begun.
enum Begun {
    Yes,
    /// There may be with another peer.
    No,
    /// There are as many as there may be.
    Full,
}

/// How a connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// Something came of it.
    Well,
    /// Nothing did.
    Nowhere,
    /// Nothing was sent: this machine has no socket, no address or no place for it now, which says nothing of the peer.
    Hindered,
    /// It is not to be made again.
    Wrong,
    /// Nor can it ever be made, from where everything here leaves: who knows that keeps no place for the address.
    Never,
}

impl Dial {
    /// There may be a peer at this address, to which a name has led or not.
    pub(super) fn add(&mut self, addr: SocketAddr, named: bool, tick: u64) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&addr) && !self.forget_worst() {
            return;
        }
        let known = self.known.entry(addr).or_insert(Known {
            state: State::Waits(tick),
            failures: 0,
            named,
        });
        known.named |= named;
        self.due_at = self.due_at.min(tick);
    }

    /// Nobody is to be looked for at this address any more, unless it is told of again.
    pub(super) fn forget(&mut self, addr: SocketAddr) {
        // One that lies is remembered as that.
        if self.known.get(&addr).is_some_and(|known| known.state != State::Never) {
            self.known.remove(&addr);
        }
    }

    /// Makes room for an address that may be better than one of which nothing has come, over and over.
    fn forget_worst(&mut self) -> bool {
        let is_bad = |known: &Known| matches!(known.state, State::Waits(_)) && known.failures >= FAILURES_MIN;
        let bad = self.known.iter().filter(|(_, known)| is_bad(known));
        let worst = bad.max_by_key(|(_, known)| known.failures).map(|(addr, _)| *addr);
        worst.is_some_and(|worst| self.known.remove(&worst).is_some())
    }

    /// The next address that is due; it counts as being connected to.
    fn next(&mut self, tick: u64) -> Option<SocketAddr> {
        if self.due_at > tick {
            return None;
        }
        let due = |known: &Known| matches!(known.state, State::Waits(at) if at <= tick);
        let Some((addr, known)) = self.known.iter_mut().find(|(_, known)| due(known)) else {
            let waits = |known: &Known| match known.state {
                State::Waits(at) => Some(at),
                State::Busy | State::Never => None,
            };
            self.due_at = self.known.values().filter_map(waits).min().unwrap_or(u64::MAX);
            return None;
        };
        known.state = State::Busy;
        Some(*addr)
    }

    /// A connection to this address has ended. `random` spreads those that failed together. Whether its name should be asked
    /// where else the peer may be.
    pub(super) fn ended(&mut self, addr: SocketAddr, went: Went, tick: u64, random: u64) -> bool {
        if went == Went::Never {
            self.forget(addr);
            return false;
        }
        let Some(known) = self.known.get_mut(&addr) else {
            return false;
        };
        if known.state == State::Never {
            return false;
        }
        known.failures = match went {
            Went::Well => 0,
            Went::Hindered => known.failures,
            Went::Nowhere | Went::Wrong | Went::Never => known.failures.saturating_add(1),
        };
        let after = (AGAIN_TICKS << known.failures.saturating_sub(1).min(7)).min(AGAIN_TICKS_MAX);
        known.state = match went {
            Went::Wrong | Went::Never => State::Never,
            Went::Well | Went::Nowhere | Went::Hindered => State::Waits(tick + after + random % (after / 4).max(1)),
        };
        if let State::Waits(at) = known.state {
            self.due_at = self.due_at.min(at);
        }
        known.named && went == Went::Nowhere
    }
}

impl<D: Driver> Shard<D> {
    /// Connects to those who are due, to one of each torrent in turn: many addresses where nobody is must not keep the others
    /// waiting.
    pub(super) fn dial(&mut self) {
        let mut numbers: Vec<u32> = self.downloads.keys().copied().collect();
        let from = numbers.partition_point(|number| *number < self.dial_from);
        numbers.rotate_left(from);
        while !numbers.is_empty() {
            let mut rest = Vec::new();
            for number in numbers {
                if self.half_open >= HALF_OPEN_MAX || self.stopping.is_some() {
                    self.dial_from = number;
                    return;
                }
                if self.dial_for(number) {
                    rest.push(number);
                }
            }
            numbers = rest;
        }
    }

    /// Connects to the next peer of a torrent that is due, if there may be more connections. Whether it does.
    pub(super) fn dial_for(&mut self, number: u32) -> bool {
        let max = self.settings.limits.caps().per_torrent;
        for _ in 0..HINDERED_MAX {
            if self.half_open < HALF_OPEN_MAX
                && let Some(download) = self.downloads.get_mut(&number)
                && download.peers.len() < max
                && let Some(addr) = download.dial.next(self.tick)
            {
                let served = download.served.clone();
                match self.connect(served, addr) {
                    Begun::Yes => return true,
                    Begun::No => {}
                    Begun::Full => return false,
                }
            } else {
                return false;
            }
        }
        false
    }

    /// Begins a connection, if it can be.
    fn connect(&mut self, served: Rc<Served>, addr: SocketAddr) -> Begun {
        let number = served.number;
        let random = self.next_random();
        let socket = match self.take_place(addr.ip()) {
            Err(TurnedAway::Total) => Err((Went::Hindered, Begun::Full)),
            // Its others have the places of this address: it is as good as not there, and so are the rest of them.
            Err(TurnedAway::PerIp) => Err((Went::Nowhere, Begun::No)),
            Ok(()) => self.driver.socket(addr).map_err(|errno| {
                tracing::debug!(peer = %addr, "no socket: {errno}");
                self.settings.limits.leave(addr.ip());
                match errno {
                    // Nothing leaves from here to this family ([peers] bind-address), as long as btd runs.
                    Errno::AFNOSUPPORT => (Went::Never, Begun::No),
                    _ => (Went::Hindered, Begun::No),
                }
            }),
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err((went, begun)) => {
                if let Some(download) = self.downloads.get_mut(&number) {
                    download.dial.ended(addr, went, self.tick, random);
                }
                return begun;
            }
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
        Begun::Yes
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
    use std::net::Ipv4Addr;

    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn address_of_which_nothing_comes_gives_way_to_a_new_one() {
        let mut dial = Dial::default();
        for at in 0..KNOWN_MAX as u32 {
            dial.add(SocketAddr::from((Ipv4Addr::from(at), 1)), false, 0);
        }
        dial.add(addr(9), false, 0);
        assert!(!dial.known.contains_key(&addr(9)), "none is known to be bad");
        let mut tick = 0;
        let bad = dial.next(tick).unwrap();
        for _ in 0..FAILURES_MIN {
            dial.ended(bad, Went::Nowhere, tick, 0);
            tick += AGAIN_TICKS_MAX;
        }
        dial.add(addr(9), false, tick);
        assert!(dial.known.contains_key(&addr(9)) && !dial.known.contains_key(&bad));
        assert_eq!(dial.known.len(), KNOWN_MAX);
    }

    #[test]
    fn address_is_tried_at_longer_and_longer_intervals_until_something_comes_of_it() {
        let mut dial = Dial::default();
        dial.add(addr(1), false, 10);
        assert_eq!(dial.next(9), None);
        let (mut tick, mut before) = (10, 0);
        for _ in 0..20 {
            assert_eq!(dial.next(tick), Some(addr(1)));
            assert_eq!(dial.next(tick + 1_000_000), None, "it is being tried");
            dial.add(addr(1), false, tick);
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
    fn address_is_tried_again_soon_that_nothing_could_be_sent_to_from_here() {
        let mut dial = Dial::default();
        dial.add(addr(1), false, 0);
        let mut tick = 0;
        for _ in 0..200 {
            assert_eq!(dial.next(tick), Some(addr(1)), "{tick}");
            assert!(!dial.ended(addr(1), Went::Hindered, tick, 0));
            tick += AGAIN_TICKS;
        }
        assert_eq!(dial.known[&addr(1)].failures, 0);
    }

    /// With an address of one family to leave from, peers of the other took all places, and nobody could be found any more.
    #[test]
    fn addresses_that_can_never_be_reached_from_here_leave_room_for_those_that_can() {
        let mut dial = Dial::default();
        for port in 0..KNOWN_MAX as u16 {
            dial.add(addr(port), false, 0);
        }
        for _ in 0..KNOWN_MAX {
            let next = dial.next(0).expect("due");
            assert!(!dial.ended(next, Went::Never, 0, 0));
        }
        assert!(dial.known.is_empty());
        dial.add(addr(1), false, 0);
        assert_eq!(dial.next(0), Some(addr(1)));
    }

    #[test]
    fn address_that_is_wrong_is_never_tried_again_whoever_names_it() {
        let mut dial = Dial::default();
        dial.add(addr(1), false, 0);
        assert_eq!(dial.next(0), Some(addr(1)));
        dial.ended(addr(1), Went::Wrong, 0, 0);
        dial.add(addr(1), false, 0);
        dial.ended(addr(1), Went::Well, 0, 0);
        assert_eq!(dial.next(u64::MAX), None);
    }

    #[test]
    fn address_that_is_forgotten_is_not_tried_again_unless_it_is_told_of_again() {
        let mut dial = Dial::default();
        dial.add(addr(1), true, 0);
        dial.add(addr(2), true, 0);
        assert_eq!(dial.next(0), Some(addr(1)));
        dial.forget(addr(1));
        dial.forget(addr(2));
        assert!(
            !dial.ended(addr(1), Went::Nowhere, 0, 0),
            "its name is not asked for it"
        );
        assert_eq!(dial.next(u64::MAX), None);
        dial.add(addr(1), false, 5);
        assert_eq!(dial.next(5), Some(addr(1)));
        dial.ended(addr(1), Went::Wrong, 5, 0);
        dial.forget(addr(1));
        dial.add(addr(1), false, 6);
        assert_eq!(dial.next(u64::MAX), None, "one that lies is remembered");
    }

    #[test]
    fn addresses_are_bounded() {
        let mut dial = Dial::default();
        (0..5000).for_each(|port| dial.add(addr(port), false, 0));
        assert_eq!(dial.known.len(), KNOWN_MAX);
    }

    #[test]
    fn of_an_address_that_a_name_has_led_to_it_is_told_when_nobody_is_there() {
        let mut dial = Dial::default();
        dial.add(addr(1), false, 0);
        dial.add(addr(2), true, 0);
        assert!(!dial.ended(addr(1), Went::Nowhere, 0, 0));
        assert!(dial.ended(addr(2), Went::Nowhere, 0, 0) && !dial.ended(addr(2), Went::Well, 0, 0));
        // A tracker may tell it both ways.
        dial.add(addr(1), true, 0);
        dial.add(addr(2), false, 0);
        assert!(dial.ended(addr(1), Went::Nowhere, 0, 0) && dial.ended(addr(2), Went::Nowhere, 0, 0));
        assert!(!dial.ended(addr(2), Went::Wrong, 0, 0) && !dial.ended(addr(2), Went::Nowhere, 0, 0));
    }
}
