//! From what an HTTP connection has said to its replies.
//!
//! Requests are answered as they come, several at once if they come so; those that come while replies are on their way wait.
//! So what one connection can make us keep is bounded, however slowly it reads.

use super::conns::{HELD_FLOOD_LEN, HELD_LEN_MAX, Phase};
use super::{Around, Serving};
use crate::io::{Driver, Ending, Errno, Op, Owner, RECV_BUF_LEN, Received, SendBatch};
use crate::tracker::Http;

/// Bytes of replies in one send: no more requests are answered beyond that.
const REPLIES_LEN_MAX: usize = 64 * 1024;

/// What a peer may say after its last reply, in bytes.
const LINGER_LEN_MAX: usize = 64 * 1024;

impl Serving {
    pub(super) fn on_received<D: Driver>(
        &mut self,
        around: &mut Around<'_, D>,
        owner: Owner,
        result: Result<Received, Errno>,
        more: bool,
    ) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return; // The connection was ended; a buffer returns to its ring.
        };
        if !more {
            conn.receive = None;
            self.conns.unarmed.push(owner);
        }
        match result {
            Ok(Received::Data(bytes)) => self.on_bytes(around, owner, &bytes),
            Ok(Received::Eof) => self.on_eof(around, owner),
            // No buffer was free, or the receive was cancelled or interrupted: armed again at the turn's end, if there is
            // room for what it brings.
            Err(Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.end(around, owner, Ending::Reset),
        }
    }

    fn on_bytes<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        match &mut conn.phase {
            Phase::Lingering { len } => {
                *len += bytes.len();
                if *len > LINGER_LEN_MAX {
                    self.end(around, owner, Ending::Reset);
                }
            }
            Phase::Sending { last: true, surplus } => *surplus = true,
            Phase::Sending { last: false, .. } => {
                if conn.held.len() + bytes.len() > HELD_FLOOD_LEN {
                    return self.end(around, owner, Ending::Reset);
                }
                conn.held.extend_from_slice(bytes);
                if conn.held.len() >= HELD_LEN_MAX
                    && let Some(token) = conn.receive
                {
                    around.driver.cancel(token);
                }
            }
            Phase::Reading | Phase::Idle if conn.held.is_empty() => self.serve(around, owner, bytes),
            Phase::Reading | Phase::Idle => {
                let mut held = std::mem::take(&mut conn.held);
                held.extend_from_slice(bytes);
                self.serve(around, owner, &held);
            }
        }
    }

    fn on_eof<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        conn.eof = true;
        // Who has asked and then ended his half is answered.
        if !matches!(conn.phase, Phase::Sending { .. }) {
            self.end(around, owner, Ending::Orderly);
        }
    }

    /// Answers what can be answered of `received`, and keeps the rest.
    fn serve<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner, received: &[u8]) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        let (from, mut rest, mut last) = (conn.addr, received, false);
        self.reply.clear();
        while !rest.is_empty() && !last && self.reply.len() < REPLIES_LEN_MAX {
            let (worker, reply) = (&mut self.worker, &mut self.reply);
            match self.service.tracker.on_http(worker, from, rest, around.now, reply) {
                Http::Incomplete => break,
                Http::Answered { consumed, keep_alive } => {
                    // Of nothing there is an endless supply.
                    last = !keep_alive || consumed == 0;
                    rest = &rest[consumed.min(rest.len())..];
                }
            }
        }
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if self.reply.is_empty() {
            // The time of a request runs from its first byte.
            if conn.phase != Phase::Reading {
                conn.enter(Phase::Reading, around.tick);
            }
            conn.held = rest.to_vec();
            match conn.eof {
                true => self.end(around, owner, Ending::Orderly),
                false => self.wake_at(around, owner),
            }
            return;
        }
        let surplus = last && !rest.is_empty();
        conn.enter(Phase::Sending { last, surplus }, around.tick);
        conn.held = match last {
            true => Vec::new(),
            false => rest.to_vec(),
        };
        let mut batch = around.batches.take();
        batch.push_bytes(&self.reply);
        // Not where something may be left to read: the kernel throws away what has not left when such a socket is closed.
        // A receive that brings less than its buffer holds has emptied the socket.
        let with_end = last && !surplus && received.len() < RECV_BUF_LEN;
        self.send(around, owner, batch, with_end);
        self.wake_at(around, owner);
    }

    fn send<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner, batch: Box<SendBatch>, with_end: bool) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return around.batches.give(batch);
        };
        let op = Op::Send {
            socket: conn.socket.clone(),
            batch,
            zero_copy: false,
            last: with_end,
        };
        conn.send = Some(around.driver.submit(owner, op));
    }

    pub(super) fn on_sent<D: Driver>(
        &mut self,
        around: &mut Around<'_, D>,
        owner: Owner,
        result: Result<u32, Errno>,
        batch: Box<SendBatch>,
    ) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return around.batches.give(batch);
        };
        conn.send = None;
        match result {
            Ok(taken) if taken > 0 => conn.since = around.tick,
            Ok(_) | Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                around.batches.give(batch);
                return self.end(around, owner, Ending::Reset);
            }
        }
        if batch.left() > 0 {
            return self.send(around, owner, batch, false);
        }
        around.batches.give(batch);
        let (last, surplus) = match conn.phase {
            Phase::Sending { last, surplus } => (last, surplus),
            Phase::Reading | Phase::Idle | Phase::Lingering { .. } => {
                unreachable!("a reply was sent while {:?}", conn.phase)
            }
        };
        if last {
            return self.finish(around, owner, surplus);
        }
        let held = std::mem::take(&mut conn.held);
        let phase = match held.is_empty() {
            true => Phase::Idle,
            false => Phase::Reading,
        };
        conn.enter(phase, around.tick);
        match (held.is_empty(), conn.eof) {
            (false, _) => self.serve(around, owner, &held),
            (true, true) => return self.end(around, owner, Ending::Orderly),
            (true, false) => self.wake_at(around, owner),
        }
        self.conns.unarmed.push(owner);
    }

    /// The last reply is sent.
    fn finish<D: Driver>(&mut self, around: &mut Around<'_, D>, owner: Owner, surplus: bool) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if conn.eof || (conn.receive.is_none() && !surplus) {
            return self.end(around, owner, Ending::Orderly);
        }
        // A socket that is closed with something unread in it resets the connection, and the reply may be lost with it.
        conn.enter(Phase::Lingering { len: 0 }, around.tick);
        around.driver.shutdown(&conn.socket, Ending::Half);
        self.wake_at(around, owner);
        self.conns.unarmed.push(owner);
    }
}
