//! Connections between hosts: bytes take their time, are kept back by those who do not read, and stop where nothing passes.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::plan::Kind;
use super::tap::Tap;
use super::world::{Event, World};
use super::{MICROSECOND, MILLISECOND, SECOND};
use crate::io::{Ending, Errno, Handle};

/// How long the kernel tries to connect.
const CONNECT_PATIENCE: u64 = 127 * SECOND;

/// On its way.
#[derive(Debug)]
pub(super) enum Packet {
    Data(Vec<u8>),
    /// No more will come.
    End,
    Reset,
}

/// One end of a connection, which may not be made yet.
#[derive(Debug)]
pub(super) struct End {
    pub(super) host: usize,
    pub(super) peer: Option<u64>,
    /// The world's own.
    pub(super) handle: Handle,
    /// What has arrived and nobody has read.
    pub(super) incoming: VecDeque<u8>,
    /// The far end has said that it sends no more.
    pub(super) ended: bool,
    pub(super) reset: bool,
    /// This end sends no more.
    pub(super) finished: bool,
    /// This end neither sends nor reads any more.
    pub(super) closed: bool,
    /// Its process is no more.
    pub(super) gone: bool,
    /// Bytes sent that the far end has not read.
    pub(super) unread: usize,
    /// Sent, with when it arrives.
    flight: VecDeque<(u64, Packet)>,
    /// Operations that wait.
    pub(super) recv: Option<u32>,
    pub(super) send: Option<u32>,
    pub(super) connect: Option<u32>,
    /// When a send that had to wait for room last went on.
    pub(super) sent_at: u64,
    pub(super) tap: Tap,
}

impl World {
    /// A socket that is not connected.
    pub(super) fn new_end(&mut self, host: usize) -> u64 {
        let id = self.new_id();
        let tap = Tap::new(&self.subject);
        let end = End {
            host,
            peer: None,
            handle: Handle::memory(id),
            incoming: VecDeque::new(),
            ended: false,
            reset: false,
            finished: false,
            closed: false,
            gone: false,
            unread: 0,
            flight: VecDeque::new(),
            recv: None,
            send: None,
            connect: None,
            sent_at: 0,
            tap,
        };
        self.ends.insert(id, end);
        self.hosts[host].sockets.push(id);
        id
    }

    pub(super) fn end(&mut self, id: u64) -> &mut End {
        self.ends.get_mut(&id).expect("an end of this world")
    }

    /// How long a packet of so many bytes takes.
    fn delay(&mut self, from: usize, to: usize, len: usize) -> u64 {
        let ((a, rate_a), (b, rate_b)) = (self.plan.links[from], self.plan.links[to]);
        let slow = match self.fails(from, Kind::Slow) || self.fails(to, Kind::Slow) {
            true => SECOND,
            false => 0,
        };
        a + b + self.random.within(0, MILLISECOND) + slow + len as u64 * SECOND / rate_a.min(rate_b)
    }

    /// Connects a socket to an address.
    pub(super) fn knock(&mut self, from: u64, addr: SocketAddr) {
        let host = self.end(from).host;
        let to = self.hosts.iter().position(|there| there.addr == addr);
        let Some(to) = to else {
            let result = Err(Errno::CONNREFUSED);
            return self.after(MILLISECOND, Event::Answered { end: from, result });
        };
        let delay = self.delay(host, to, 40);
        self.after(delay, Event::Knock { from, to });
    }

    /// The first packet of a connection has come to a host.
    pub(super) fn on_knock(&mut self, from: u64, to: usize) {
        let host = self.end(from).host;
        if self.end(from).gone || self.end(from).closed || self.end(from).peer.is_some() {
            return;
        }
        if self.parted_until(host, to).is_some() || self.hosts[to].dark {
            let result = Err(Errno::TIMEDOUT);
            return self.after(CONNECT_PATIENCE, Event::Answered { end: from, result });
        }
        let delay = self.delay(host, to, 40);
        if !self.hosts[to].up {
            let result = Err(Errno::CONNREFUSED);
            return self.after(delay, Event::Answered { end: from, result });
        }
        let there = self.new_end(to);
        self.end(there).peer = Some(from);
        self.end(from).peer = Some(there);
        let port = 20_000 + (from % 40_000) as u16;
        let addr = SocketAddr::new(self.hosts[host].addr.ip(), port);
        self.trace.step(self.now, to, "knock", (from, there));
        self.hosts[to].backlog.push_back((there, addr));
        self.answer_accept(to);
        self.after(
            delay,
            Event::Answered {
                end: from,
                result: Ok(()),
            },
        );
    }

    fn push(&mut self, id: u64, packet: Packet) {
        let end = &self.ends[&id];
        let Some(peer) = end.peer else { return };
        let (from, to) = (end.host, self.ends[&peer].host);
        let len = match &packet {
            Packet::Data(bytes) => bytes.len(),
            Packet::End | Packet::Reset => 40,
        };
        let at = self.now + self.delay(from, to, len);
        let end = self.end(id);
        let at = end.flight.back().map_or(at, |(last, _)| at.max(*last));
        end.flight.push_back((at, packet));
        self.at(at, Event::Arrive { end: id });
    }

    /// Bytes are sent from an end.
    pub(super) fn send(&mut self, id: u64, bytes: Vec<u8>) {
        self.end(id).unread += bytes.len();
        self.push(id, Packet::Data(bytes));
    }

    /// Packets that an end has sent arrive, unless nothing passes.
    pub(super) fn on_arrive(&mut self, id: u64) {
        let Some(peer) = self.ends[&id].peer else { return };
        let (from, to) = (self.ends[&id].host, self.ends[&peer].host);
        if let Some(until) = self.parted_until(from, to) {
            return self.at(until + MICROSECOND, Event::Arrive { end: id });
        }
        let now = self.now;
        while self.ends[&id].flight.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, packet)) = self.end(id).flight.pop_front()
        {
            self.deliver((id, from), (peer, to), packet);
        }
    }

    fn deliver(&mut self, (id, from): (u64, usize), (peer, to): (u64, usize), packet: Packet) {
        let (gone, closed) = (self.ends[&peer].gone, self.ends[&peer].closed);
        if gone || closed {
            let len = match &packet {
                Packet::Data(bytes) => bytes.len(),
                Packet::End | Packet::Reset => 0,
            };
            if gone && self.hosts[to].dark {
                return; // Nobody is there, not even to say so.
            }
            let sender = self.end(id);
            sender.unread -= len.min(sender.unread);
            if gone && !matches!(packet, Packet::Reset) {
                self.on_reset(id); // As good as at once.
            }
            return self.go_on_sending(id);
        }
        match packet {
            Packet::Data(bytes) => {
                if self.strikes(to, Kind::Resets, 2) || self.strikes(from, Kind::Resets, 2) {
                    self.trace.step(self.now, to, "cut", (id, peer));
                    self.on_reset(id);
                    return self.on_reset(peer);
                }
                self.trace.step(self.now, to, "bytes", (peer, bytes.len() as u64));
                self.trace.bytes(&bytes);
                self.end(peer).incoming.extend(bytes);
            }
            Packet::End => {
                self.trace.step(self.now, to, "end", (peer, 0));
                self.end(peer).ended = true;
            }
            Packet::Reset => return self.on_reset(peer),
        }
        self.wake_reader(peer);
    }

    /// A connection is broken, as this end learns now.
    fn on_reset(&mut self, id: u64) {
        let end = self.end(id);
        if end.reset || end.gone {
            return;
        }
        end.reset = true;
        end.incoming.clear();
        end.flight.clear();
        let host = end.host;
        self.trace.step(self.now, host, "reset", (id, 0));
        self.wake_reader(id);
        self.go_on_sending(id);
    }

    /// Something has come to an end, or it has ended.
    fn wake_reader(&mut self, id: u64) {
        let host = self.ends[&id].host;
        match self.hosts[host].scripted {
            true => self.after(MICROSECOND, Event::Script { host }),
            false => self.go_on_receiving(id),
        }
    }

    /// Takes what has come to an end, some of it.
    pub(super) fn take(&mut self, id: u64, len: usize) -> Vec<u8> {
        let end = self.end(id);
        let len = len.min(end.incoming.len());
        let bytes: Vec<u8> = end.incoming.drain(..len).collect();
        if let Some(peer) = end.peer {
            let there = self.end(peer);
            there.unread -= len.min(there.unread);
            self.go_on_sending(peer);
        }
        bytes
    }

    /// Ends a connection from here.
    pub(super) fn shut(&mut self, id: u64, ending: Ending) {
        let end = self.end(id);
        if end.closed || end.gone {
            return;
        }
        let host = end.host;
        match ending {
            Ending::Half => {
                if !std::mem::replace(&mut end.finished, true) {
                    self.push(id, Packet::End);
                }
                return;
            }
            Ending::Orderly => {
                end.closed = true;
                if !std::mem::replace(&mut end.finished, true) {
                    self.push(id, Packet::End);
                }
            }
            Ending::Reset => {
                (end.closed, end.finished) = (true, true);
                end.flight.clear();
                self.push(id, Packet::Reset);
            }
        }
        self.trace
            .step(self.now, host, "shut", (id, u64::from(ending == Ending::Reset)));
        // What nobody will read makes room for nothing, but nobody waits for it either.
        let len = self.ends[&id].incoming.len();
        self.take(id, len);
        self.go_on_receiving(id);
        self.go_on_sending(id);
    }

    /// A process ends, and its kernel says so, unless the power is gone.
    pub(super) fn drop_ends(&mut self, host: usize, tells: bool) {
        for id in std::mem::take(&mut self.hosts[host].sockets) {
            let end = self.end(id);
            let was_closed = end.closed;
            (end.recv, end.send, end.connect) = (None, None, None);
            if tells && !was_closed {
                end.flight.clear();
                self.push(id, Packet::Reset);
            }
            let end = self.end(id);
            if !tells {
                end.flight.clear();
            }
            (end.gone, end.closed) = (true, true);
        }
        self.hosts[host].backlog.clear();
    }

    /// Closes the sockets of a host that it holds no longer.
    pub(super) fn close_dropped(&mut self, host: usize) {
        let waiting: Vec<u64> = self.hosts[host].backlog.iter().map(|(id, _)| *id).collect();
        let sockets = std::mem::take(&mut self.hosts[host].sockets);
        let (dropped, kept): (Vec<u64>, Vec<u64>) = sockets
            .into_iter()
            .partition(|id| self.ends[id].handle.holders() == 1 && !waiting.contains(id));
        self.hosts[host].sockets = kept;
        for id in dropped {
            self.shut(id, Ending::Orderly);
            self.end(id).gone = true;
        }
    }
}
