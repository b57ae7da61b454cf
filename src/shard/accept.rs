//! Letting connections in.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use super::conn::Conn;
use super::deadlines::{HANDSHAKE_TICKS, ticks};
use super::ended::Reason;
use super::limits::TurnedAway;
use super::{Listener, Shard, of_shard};
use crate::io::{Accepted, Driver, Ending, Errno, Op, Owner};

/// How long accepting is paused when the process or the machine has no descriptor left. Armed again at once it would
/// fail at once: a busy loop.
const PAUSE_TICKS: u64 = ticks(1);

/// When all places are taken, one that has come so long ago and whose handshake is not whole makes way for the next: honest ones send
/// it at once.
const SILENT_TICKS: u64 = ticks(1);

/// So many of them are found at a time.
const SILENT_MAX: usize = 64;

/// Connections that make way for others. They are looked for once in a tick, since all there are is gone through.
#[derive(Debug, Default)]
pub(super) struct Silent {
    /// The one that came first is the last. Some may have gone, or said their handshake.
    owners: Vec<Owner>,
    looked_at: u64,
}

impl<D: Driver> Shard<D> {
    /// Arms the accepts that are not armed.
    pub(super) fn arm_accepts(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.accept.is_none()
                && let Some(socket) = listener.socket.clone()
            {
                let token = self.driver.submit(
                    of_shard(index),
                    Op::Accept {
                        listener: socket,
                        brief: false,
                    },
                );
                listener.accept = Some(token);
            }
        }
        self.arm_tracker_accepts();
    }

    /// A connection has come, or accepting has ended.
    pub(super) fn on_accepted(&mut self, owner: Owner, result: Result<Accepted, Errno>, more: bool) {
        let is_of_tracker = Self::is_of_tracker(owner);
        match (more, is_of_tracker) {
            (true, _) => {}
            (false, true) => self.on_tracker_accept_ended(owner),
            (false, false) => self.listeners[owner.index as usize].accept = None,
        }
        match result {
            Ok(accepted) if is_of_tracker => self.admit_to_tracker(accepted),
            Ok(accepted) => self.admit(accepted),
            // Gone before it was accepted: nobody's fault, and accepting goes on.
            Err(Errno::CONNABORTED | Errno::NOTCONN | Errno::INTR | Errno::AGAIN | Errno::CANCELED) => {}
            Err(Errno::INVAL) if more => {}
            Err(errno) => {
                self.counters.accept_pauses += 1;
                self.accept_again = Some(self.tick + PAUSE_TICKS);
                let hint = match errno {
                    Errno::MFILE | Errno::NFILE => {
                        " (hint: raise `LimitNOFILE=` in btd.service, or lower max-connections)"
                    }
                    _ => "",
                };
                tracing::warn!("accepting connections pauses for a second: {errno}{hint}");
            }
        }
        if !more && self.stopping.is_none() && self.accept_again.is_none() {
            self.arm_accepts();
        }
    }

    /// Ends a pause whose time has come.
    pub(super) fn resume_accepting(&mut self) {
        if self.accept_again.is_some_and(|at| at <= self.tick) && self.stopping.is_none() {
            self.accept_again = None;
            self.arm_accepts();
        }
    }

    /// Accepts at these sockets and no others. One that is replaced keeps its place until its accept has ended: what that
    /// still brings is let in.
    pub(super) fn listen_at(&mut self, fds: Vec<OwnedFd>) {
        for listener in &mut self.listeners {
            listener.socket = None;
            if let Some(token) = listener.accept {
                self.driver.cancel(token);
            }
        }
        for fd in fds {
            let socket = Some(self.driver.take_over_listener(fd));
            let free = self
                .listeners
                .iter_mut()
                .find(|listener| listener.socket.is_none() && listener.accept.is_none());
            match free {
                Some(listener) => listener.socket = socket,
                None => self.listeners.push(Listener { socket, accept: None }),
            }
        }
        if self.stopping.is_none() && self.accept_again.is_none() {
            self.arm_accepts();
        }
    }

    fn admit(&mut self, Accepted { socket, peer }: Accepted) {
        self.counters.accepted += 1;
        let addr = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if self.stopping.is_some() || self.take_place(addr.ip()).is_err() {
            self.counters.turned_away += 1;
            self.driver.shutdown(&socket, Ending::Reset);
            return;
        }
        let owner = self.conns.insert(Conn::new(socket, addr, self.tick));
        self.arm_receive(owner);
        self.wake_at(owner, self.tick + HANDSHAKE_TICKS);
    }

    /// Takes a place for a connection with this address, for which another may have to make way; or gives why there is none.
    pub(super) fn take_place(&mut self, ip: IpAddr) -> Result<(), TurnedAway> {
        match self.settings.limits.admit(ip) {
            Err(TurnedAway::Total) if self.make_place() => self.settings.limits.admit(ip),
            admitted => admitted,
        }
    }

    /// Ends the connection that has waited with its handshake the longest, if it has had time for it. Whether there was one, of this
    /// shard's.
    fn make_place(&mut self) -> bool {
        if self.conns.len() as u64 <= self.peers {
            return false; // None is in its handshake.
        }
        // Those that were found in an earlier tick may have gone by now.
        if self.end_silent() {
            return true;
        }
        if self.silent.looked_at != self.tick {
            self.silent.looked_at = self.tick;
            let has_had_time = |conn: &Conn| conn.started + SILENT_TICKS <= self.tick;
            let silent = self
                .conns
                .iter()
                .filter(|(_, conn)| conn.is_silent() && has_had_time(conn));
            let mut silent: Vec<(u64, Owner)> = silent.map(|(owner, conn)| (conn.started, owner)).collect();
            silent.sort_unstable_by_key(|(started, _)| *started);
            silent.truncate(SILENT_MAX);
            self.silent
                .owners
                .extend(silent.into_iter().rev().map(|(_, owner)| owner));
        }
        self.end_silent()
    }

    /// Ends the first of those that were found and are still silent.
    fn end_silent(&mut self) -> bool {
        while let Some(owner) = self.silent.owners.pop() {
            if self.conns.get(owner).is_some_and(Conn::is_silent) {
                self.end(owner, Reason::Crowded, None);
                return true;
            }
        }
        false
    }

    /// Arms the receive of a connection, if it is not armed and there is room for what it brings.
    pub(super) fn arm_receive(&mut self, owner: Owner) {
        if let Some(conn) = self.conns.get_mut(owner)
            && conn.receive.is_none()
            && !conn.is_held()
        {
            let socket = conn.socket.clone();
            let bulk = conn.sends_blocks();
            conn.receive = Some(self.driver.submit(owner, Op::Recv { socket, bulk }));
        }
    }
}
