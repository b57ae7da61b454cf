//! What happens because time has passed.

use super::Shard;
use super::conn::Phase;
use super::ended::Reason;
use super::leech::asking::LOOK_TICKS;
use super::wheel::TICK;
use crate::io::{Driver, Owner};
use crate::proto::wire::Message;

/// Seconds as ticks.
pub(super) const fn ticks(seconds: u64) -> u64 {
    seconds * 1000 / TICK.as_millis() as u64
}

/// The whole handshake must be there this long after the connection came, however its bytes trickle in.
pub(super) const HANDSHAKE_TICKS: u64 = ticks(10);

/// A peer that has said nothing for this long has left. Clients send keep-alives each 120 s at the latest (BEP 3), so this
/// has to be a little more.
const IDLE_TICKS: u64 = ticks(130);

/// We say something at least this often.
const KEEP_ALIVE_TICKS: u64 = ticks(100);

/// A peer that takes nothing for this long is dropped: it pins memory.
pub(super) const STALLED_TICKS: u64 = ticks(60);

/// While others wait for buffers, those that a send has held for this long are given back. A peer that is faster than its
/// window a second (64 KiB for a slow one) does not come to that, unless its socket holds more than it takes in that time.
pub(super) const YIELD_TICKS: u64 = ticks(1);

/// Clocks that are looked at in one turn: of five thousand connections that came together and are ended together, so many take
/// half a millisecond.
pub(super) const CLOCKS_MAX: usize = 64;

impl<D: Driver> Shard<D> {
    /// Sees to it that the connection's clock is looked at no later than tick `at`.
    pub(super) fn wake_at(&mut self, owner: Owner, at: u64) {
        if let Some(conn) = self.conns.get_mut(owner)
            && at < conn.wake_at
        {
            conn.wake_at = self.wheel.insert(at, owner);
        }
    }

    /// A tick has passed.
    pub(super) fn on_tick(&mut self) {
        let over = self
            .now
            .saturating_duration_since(std::mem::replace(&mut self.ticked_at, self.now));
        self.gather
            .on_tick(self.counters.turns, self.counters.uploaded_bytes, self.unchoked, over);
        self.disk.extents.set_users(self.unchoked as usize);
        self.disk.on_time(self.now.saturating_duration_since(self.epoch));
        self.wheel.advance(self.tick, &mut self.due);
        for owner in std::mem::take(&mut self.later) {
            self.touch(owner);
        }
        self.resume_accepting();
        self.on_tracker_tick();
        if !self.starved.is_empty() {
            self.reclaim();
        }
        // What the pool had no room for: the verdict that makes room may be another shard's, and ring no bell here.
        self.on_verdicts();
        if !self.downloads.is_empty() {
            self.writes.on_time(self.now.saturating_duration_since(self.epoch));
            self.tend_downloads();
            self.tend_early();
            if self.tick / LOOK_TICKS != self.looked_at {
                self.looked_at = self.tick / LOOK_TICKS;
                self.look_at_requests();
                self.make_room();
                let comes = self
                    .downloads
                    .values()
                    .any(|download| download.picker.asked_blocks() > 0);
                self.assembly.give_up_spares(comes);
                self.dial();
            }
            self.relieve();
        }
        if self.choker.is_due(self.now) {
            self.rechoke();
        }
    }

    /// Looks at the clocks of those who are due, so many in a turn that nobody else waits for it.
    pub(super) fn look_at_clocks(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        for owner in due.drain(..due.len().min(CLOCKS_MAX)) {
            self.look_at_clock(owner);
        }
        self.due = due;
    }

    fn look_at_clock(&mut self, owner: Owner) {
        let tick = self.tick;
        let Some(conn) = self.conns.get_mut(owner) else {
            return self.look_at_tracker_clock(owner);
        };
        if conn.wake_at > tick {
            return; // Woken for an earlier appointment that has been replaced.
        }
        conn.wake_at = u64::MAX;
        let (sent_at, sending) = (conn.sent_at, conn.send.is_some());
        let mut next = match &mut conn.phase {
            Phase::Handshake { .. } | Phase::Leaving { .. } | Phase::Waiting { .. } => {
                let at = conn.started + HANDSHAKE_TICKS;
                if tick >= at {
                    return self.end(owner, Reason::HandshakeTimeout, None);
                }
                at
            }
            Phase::Peer(peer) => {
                // One that is not listened to cannot be heard, and is alive while it takes what it asked for.
                let heard_at = match peer.held.is_empty() {
                    true => conn.received_at,
                    false => conn.received_at.max(sent_at),
                };
                let at = heard_at + IDLE_TICKS;
                if tick >= at {
                    return self.end(owner, Reason::IdleTimeout, None);
                }
                match peer.greet_at {
                    Some(greet_at) if greet_at > tick => at.min(greet_at),
                    Some(_) => {
                        self.greet(owner);
                        at
                    }
                    None => at,
                }
            }
        };
        if sending {
            let at = sent_at + STALLED_TICKS;
            if tick >= at {
                return self.end(owner, Reason::Stalled, None);
            }
            next = next.min(at);
        } else if let Some(conn) = self.conns.get_mut(owner)
            && conn.peer().is_some()
        {
            let at = conn.sent_at + KEEP_ALIVE_TICKS;
            if tick >= at {
                conn.sent_at = tick;
                conn.say(&Message::KeepAlive);
                self.touch(owner);
            }
            next = next.min(at.max(tick + 1));
        }
        self.wake_at(owner, next);
    }
}
