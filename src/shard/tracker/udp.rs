//! Datagrams: each is answered in the turn that brings it, and the replies of a turn leave together.
//!
//! A datagram that the socket does not take is lost, as datagrams may be: who asked asks again. So nothing waits here, and
//! nobody can make it.

use super::{Around, Serving};
use crate::io::{self, Datagrams, Driver, Errno, Handle, Op, Token};
use crate::shard::of_shard;

/// Replies that leave together at most: more in one call save nothing, and the first would be kept waiting.
const REPLIES_MAX: usize = 128;

/// A bound socket.
#[derive(Debug)]
pub(super) struct Datagram {
    socket: Handle,
    receive: Option<Token>,
    /// Whether the receive has brought nothing since it was armed: armed again at once it might end at once, for ever.
    barren: bool,
    /// Not before this tick.
    arm_at: u64,
    replies: Datagrams,
}

impl Datagram {
    pub(super) fn new(socket: Handle) -> Datagram {
        Datagram {
            socket,
            receive: None,
            barren: false,
            arm_at: 0,
            replies: Datagrams::default(),
        }
    }

    /// When it is to be received from again, if that has ended.
    pub(super) fn arms_at(&self) -> Option<u64> {
        self.receive.is_none().then_some(self.arm_at)
    }

    pub(super) fn stop<D: Driver>(&mut self, driver: &mut D) {
        if let Some(token) = self.receive.take() {
            driver.cancel(token);
        }
    }
}

impl Serving {
    pub(super) fn on_datagram<D: Driver>(
        &mut self,
        around: &mut Around<'_, D>,
        index: usize,
        result: Result<io::Datagram, Errno>,
        more: bool,
    ) {
        let Some(socket) = self.udp.get_mut(index) else {
            return;
        };
        if let Ok(datagram) = &result {
            socket.barren = false;
            around.counters.tracker_datagrams += 1;
            let (from, bytes) = (datagram.from, &datagram.bytes[..]);
            let (worker, reply) = (&mut self.worker, &mut self.reply);
            self.service.tracker.on_datagram(worker, from, bytes, around.now, reply);
            if !reply.is_empty() {
                socket.replies.push(from, reply);
                if socket.replies.len() >= REPLIES_MAX {
                    around.driver.send_datagrams(&socket.socket, &mut socket.replies);
                }
            }
        }
        if !more {
            socket.receive = None;
            // No buffer was free, mostly: those of this turn are back at its end.
            if std::mem::replace(&mut socket.barren, true) {
                socket.arm_at = around.tick + 1;
            }
        }
    }

    /// Sends what was answered, and receives on.
    pub(super) fn end_turn_of_datagrams<D: Driver>(&mut self, around: &mut Around<'_, D>) {
        for (index, socket) in self.udp.iter_mut().enumerate() {
            if !socket.replies.is_empty() {
                around.driver.send_datagrams(&socket.socket, &mut socket.replies);
            }
            if socket.receive.is_none() && !around.stopping && socket.arm_at <= around.tick {
                let op = Op::RecvFrom {
                    socket: socket.socket.clone(),
                };
                socket.receive = Some(around.driver.submit(of_shard(index), op));
            }
        }
    }
}
