//! HTTP connections: how far each is, and for how long it may be.
//!
//! A connection has memory of its own only while a request is torn or replies are taken slowly. Each phase has its time:
//! a request must be whole five seconds after its first byte, however its bytes trickle in; between requests a connection may
//! rest for a minute; replies that nobody takes are given up, and so are those that take a minute.

use std::net::SocketAddr;

use super::{Around, OURS, Serving};
use crate::io::{Driver, Ending, Handle, Op, Owner, Token};
use crate::shard::deadlines::ticks;
use crate::shard::slots::Slots;

/// From a request's first byte to its last.
pub(super) const HEADER_TICKS: u64 = ticks(5);

/// Between two requests.
pub(super) const IDLE_TICKS: u64 = ticks(60);

/// For which a peer may take nothing of a reply.
pub(super) const STALLED_TICKS: u64 = ticks(30);

/// For which replies that were sent together may be under way, however steadily they trickle.
pub(super) const SENDING_TICKS: u64 = ticks(60);

/// For which a peer may go on talking after its last reply.
pub(super) const LINGER_TICKS: u64 = ticks(2);

/// Bytes kept of requests that wait for their turn; beyond that nothing is received until they are answered.
pub(super) const HELD_LEN_MAX: usize = 16 * 1024;

/// Bytes that can still come before a receive has ended: more is a flood.
pub(super) const HELD_FLOOD_LEN: usize = 128 * 1024;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request is under way; at the start that is taken for granted.
    Reading,
    /// No request is.
    Idle,
    /// Replies are.
    Sending {
        /// The connection ends with them.
        last: bool,
        /// It has said more than it will be answered: it must have read the reply before the socket is closed, which would
        /// take that away from it.
        surplus: bool,
    },
    /// The last reply is sent. What still comes, so many bytes so far, is of no interest.
    Lingering { len: usize },
}

impl Phase {
    /// How long it may last, from its beginning or from when it last moved.
    fn ticks(self) -> u64 {
        match self {
            Phase::Reading => HEADER_TICKS,
            Phase::Idle => IDLE_TICKS,
            Phase::Sending { .. } => STALLED_TICKS,
            Phase::Lingering { .. } => LINGER_TICKS,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct HttpConn {
    pub(super) socket: Handle,
    pub(super) addr: SocketAddr,
    pub(super) receive: Option<Token>,
    /// The send in flight: never two.
    pub(super) send: Option<Token>,
    /// What was received and is not answered: a torn request, or some that wait until a reply is taken.
    pub(super) held: Vec<u8>,
    pub(super) phase: Phase,
    /// The tick at which the phase began.
    began: u64,
    /// The tick at which the phase began, or last moved.
    pub(super) since: u64,
    /// When the wheel wakes it.
    wake_at: u64,
    /// Its peer will say no more.
    pub(super) eof: bool,
}

impl HttpConn {
    /// Enters a phase, whose time begins.
    pub(super) fn enter(&mut self, phase: Phase, tick: u64) {
        self.phase = phase;
        self.began = tick;
        self.since = tick;
    }

    /// The tick at which the time of its phase is over.
    fn deadline(&self) -> u64 {
        let still = self.since + self.phase.ticks();
        match self.phase {
            Phase::Sending { .. } => still.min(self.began + SENDING_TICKS),
            Phase::Reading | Phase::Idle | Phase::Lingering { .. } => still,
        }
    }

    /// Whether more is to be received.
    fn wants_to_hear(&self) -> bool {
        let goes_on = !matches!(self.phase, Phase::Sending { last: true, .. });
        goes_on && self.receive.is_none() && !self.eof && self.held.len() < HELD_LEN_MAX
    }
}

/// All connections of a shard.
pub(super) struct Conns {
    slots: Slots<HttpConn>,
    /// Those whose receive may have to be armed again at the end of the turn.
    pub(super) unarmed: Vec<Owner>,
}

fn slot_of(owner: Owner) -> Owner {
    Owner {
        index: owner.index & !OURS,
        ..owner
    }
}

fn ours(slot: Owner) -> Owner {
    assert!(slot.index < OURS, "2^31 connections");
    Owner {
        index: slot.index | OURS,
        ..slot
    }
}

impl Conns {
    pub(super) fn new() -> Conns {
        Conns {
            slots: Slots::new(),
            unarmed: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn owners(&self) -> Vec<Owner> {
        self.slots.iter().map(|(slot, _)| ours(slot)).collect()
    }

    /// The connection of an owner, who may be none of ours, or have left.
    pub(super) fn get_mut(&mut self, owner: Owner) -> Option<&mut HttpConn> {
        match owner.index & OURS {
            0 => None,
            _ => self.slots.get_mut(slot_of(owner)),
        }
    }
}

impl Serving {
    /// A connection begins.
    pub(super) fn begin<D: Driver>(&mut self, around: &mut Around<'_, D>, socket: Handle, addr: SocketAddr) {
        let owner = ours(self.conns.slots.insert(HttpConn {
            socket: socket.clone(),
            addr,
            receive: None,
            send: None,
            held: Vec::new(),
            phase: Phase::Reading,
            began: around.tick,
            since: around.tick,
            wake_at: u64::MAX,
            eof: false,
        }));
        // Its request is there, and often the only one.
        let receive = around.driver.submit(owner, Op::RecvOnce { socket });
        if let Some(conn) = self.conns.get_mut(owner) {
            conn.receive = Some(receive);
        }
        self.wake_at(around, owner);
    }

    /// Receives on where that has ended and should not have.
    pub(super) fn arm_receives<D: Driver>(&mut self, around: &mut Around<'_, D>) {
        let mut unarmed = std::mem::take(&mut self.conns.unarmed);
        for owner in unarmed.drain(..) {
            if let Some(conn) = self.conns.get_mut(owner)
                && conn.wants_to_hear()
            {
                let socket = conn.socket.clone();
                let op = Op::Recv { socket, bulk: false };
                conn.receive = Some(around.driver.submit(owner, op));
            }
        }
        self.conns.unarmed = unarmed;
    }

    /// Sees to it that the connection's clock is looked at when the time of its phase is over.
    pub(super) fn wake_at<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner) {
        if let Some(conn) = self.conns.get_mut(owner) {
            let at = conn.deadline();
            if at < conn.wake_at {
                conn.wake_at = around.wheel.insert(at, owner);
            }
        }
    }

    /// The wheel has come round to a connection.
    pub(super) fn look_at_clock<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if conn.wake_at > around.tick {
            return; // Woken for an earlier appointment that has been replaced.
        }
        conn.wake_at = u64::MAX;
        if around.tick < conn.deadline() {
            return self.wake_at(around, owner);
        }
        let ending = match conn.phase {
            Phase::Idle => Ending::Orderly,
            Phase::Reading | Phase::Sending { .. } | Phase::Lingering { .. } => {
                around.counters.tracker_timeouts += 1;
                Ending::Reset
            }
        };
        self.end(around, owner, ending);
    }

    /// Ends a connection. Its place is free at once.
    pub(super) fn end<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner, ending: Ending) {
        if self.conns.get_mut(owner).is_none() {
            return;
        }
        let Some(conn) = self.conns.slots.remove(slot_of(owner)) else {
            return;
        };
        self.service.limits.leave(conn.addr.ip());
        let is_quiet = conn.receive.is_none() && conn.send.is_none();
        match ending == Ending::Orderly && is_quiet {
            true => around.driver.close(conn.socket),
            false => around.driver.shutdown(&conn.socket, ending),
        }
    }
}
