//! The tracker's sockets on a shard: datagrams and HTTP in, replies out.
//!
//! What a request means, and who is in which swarm, is the room `tracker`'s affair; it is the same for all shards. Here are the
//! sockets, the connections, their deadlines and their limits. A request is answered in the turn that brings it, on the
//! shard where it has come: nothing is handed to another thread.
//! - `udp`: datagrams; the replies of a turn leave together.
//! - `conns`: HTTP connections, of which an idle one has no memory but its own; `http`: from bytes to replies.
//!
//! Connections have a slab of their own. A completion finds its connection by a bit of its owner's index, which the slab of
//! peers has no slot for: who looks there in vain asks here, and the path of a block does not know of the tracker.
//!
//! Deliberately absent: parsing requests, names, lists, storing peers.

mod conns;
mod http;
mod udp;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::conn::SpareBatches;
use super::limits::Limits;
use super::wheel::Wheel;
use super::{Listener, Shard, of_shard};
use crate::io::{self, Accepted, Driver, Ending, Errno, Op, Owner, Received, SendBatch};
use crate::stats::Counters;
use crate::tracker::{Counts, Tracker, Worker};
use conns::Conns;
use udp::Datagram;

/// The bit of an owner's index that says that it is the tracker's.
const OURS: u32 = 1 << 31;

/// Swept of the store in each tick that has passed, in slots: 80 us at worst.
const SWEEP_SLOTS: usize = 4096;

/// Ticks that are made up for when a shard has slept: an idle one wakes once a second.
const SWEEP_TICKS_MAX: u64 = 10;

/// The tracker as a shard is given it.
#[derive(Clone)]
pub struct Service {
    /// Swarms, shared by all shards.
    pub tracker: Arc<Tracker>,
    /// Caps on HTTP connections, shared by all shards and apart from those of peers.
    pub limits: Arc<Limits>,
    /// Where this shard says once a tick what it has served.
    pub served: Arc<Served>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What a shard has served for the tracker, by kind and result. A lock, since it is touched once a tick.
#[derive(Debug, Default)]
pub struct Served(Mutex<Counts>);

impl Served {
    /// As of the last tick.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, counts: Counts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

/// Sockets that are the tracker's.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Bound for datagrams.
    pub udp: Vec<io::Handle>,
    /// Listening for HTTP.
    pub http: Vec<io::Handle>,
}

/// The tracker's side of a shard.
pub(super) struct Serving {
    service: Service,
    worker: Worker,
    udp: Vec<Datagram>,
    listeners: Vec<Listener>,
    conns: Conns,
    /// What one request is answered. Kept for its room.
    reply: Vec<u8>,
    swept_at: u64,
}

/// What the tracker needs of the shard that it is on.
struct Around<'a, D> {
    driver: &'a mut D,
    batches: &'a mut SpareBatches,
    wheel: &'a mut Wheel<Owner>,
    counters: &'a mut Counters,
    tick: u64,
    now: Instant,
    stopping: bool,
}

impl<D: Driver> Shard<D> {
    /// Serves the tracker of the settings on these sockets.
    pub(super) fn open_tracker(&mut self, sockets: Sockets) {
        let Some(service) = self.settings.tracker.clone() else {
            return;
        };
        let seed = self.next_random();
        self.tracker = Some(Box::new(Serving {
            worker: service.tracker.worker(seed),
            service,
            udp: sockets.udp.into_iter().map(Datagram::new).collect(),
            listeners: sockets
                .http
                .into_iter()
                .map(|socket| Listener {
                    socket: Some(socket),
                    accept: None,
                })
                .collect(),
            conns: Conns::new(),
            reply: Vec::new(),
            swept_at: 0,
        }));
        self.arm_accepts();
        self.end_tracker_turn();
    }

    fn tracker(&mut self) -> Option<(&mut Serving, Around<'_, D>)> {
        let around = Around {
            driver: &mut self.driver,
            batches: &mut self.batches,
            wheel: &mut self.wheel,
            counters: &mut self.counters,
            tick: self.tick,
            now: self.now,
            stopping: self.stopping.is_some(),
        };
        Some((self.tracker.as_mut()?, around))
    }

    /// Arms the accepts of the tracker's listeners that are not armed.
    pub(super) fn arm_tracker_accepts(&mut self) {
        let Some((serving, around)) = self.tracker() else {
            return;
        };
        for (index, listener) in serving.listeners.iter_mut().enumerate() {
            if listener.accept.is_none()
                && let Some(socket) = listener.socket.clone()
            {
                let op = Op::Accept {
                    listener: socket,
                    brief: true,
                };
                let owner = of_shard(OURS as usize | index);
                listener.accept = Some(around.driver.submit(owner, op));
            }
        }
    }

    /// Notes that accepting from a listener has ended. False if it is none of the tracker's.
    pub(super) fn is_of_tracker(owner: Owner) -> bool {
        owner.index & OURS != 0
    }

    /// Accepting from one of the tracker's listeners has ended.
    pub(super) fn on_tracker_accept_ended(&mut self, owner: Owner) {
        if let Some((serving, _)) = self.tracker()
            && let Some(listener) = serving.listeners.get_mut((owner.index & !OURS) as usize)
        {
            listener.accept = None;
        }
    }

    /// A connection to the tracker has come.
    pub(super) fn admit_to_tracker(&mut self, accepted: Accepted) {
        if let Some((serving, mut around)) = self.tracker() {
            serving.admit(&mut around, accepted);
        }
    }

    /// A datagram has come, or receiving them has ended.
    pub(super) fn on_datagram(&mut self, owner: Owner, result: Result<io::Datagram, Errno>, more: bool) {
        if let Some((serving, mut around)) = self.tracker() {
            serving.on_datagram(&mut around, owner.index as usize, result, more);
        }
    }

    /// A connection that is no peer's has received.
    pub(super) fn on_tracker_received(&mut self, owner: Owner, result: Result<Received, Errno>, more: bool) {
        if let Some((serving, mut around)) = self.tracker() {
            serving.on_received(&mut around, owner, result, more);
        }
    }

    /// A send of a connection that is no peer's has ended, perhaps in part.
    pub(super) fn on_tracker_sent(&mut self, owner: Owner, result: Result<u32, Errno>, batch: Box<SendBatch>) {
        match self.tracker() {
            Some((serving, mut around)) => serving.on_sent(&mut around, owner, result, batch),
            None => self.batches.give(batch),
        }
    }

    /// The wheel has come to a time that no peer has asked for.
    pub(super) fn look_at_tracker_clock(&mut self, owner: Owner) {
        if let Some((serving, mut around)) = self.tracker() {
            serving.look_at_clock(&mut around, owner);
        }
    }

    /// At the end of a turn: what was answered leaves, and receives that have ended are armed again.
    pub(super) fn end_tracker_turn(&mut self) {
        if let Some((serving, mut around)) = self.tracker() {
            serving.end_turn_of_datagrams(&mut around);
            serving.arm_receives(&mut around);
        }
    }

    /// The tick at which a receive that has ended may be armed again, if there is one.
    pub(super) fn tracker_wakes_at(&self) -> Option<u64> {
        let sockets = self.tracker.as_ref().filter(|_| self.stopping.is_none())?.udp.iter();
        sockets.filter_map(Datagram::arms_at).min()
    }

    /// A tick has passed.
    pub(super) fn on_tracker_tick(&mut self) {
        let Some((serving, around)) = self.tracker() else {
            return;
        };
        let passed = (around.tick - serving.swept_at).min(SWEEP_TICKS_MAX);
        serving.swept_at = around.tick;
        let budget = SWEEP_SLOTS * passed as usize;
        serving.service.tracker.sweep(around.now, budget);
        around.counters.tracker_connections_now = serving.conns.len() as u64;
        serving.service.served.publish(*serving.worker.counts());
    }

    /// Ends everything that is the tracker's.
    pub(super) fn stop_tracker(&mut self) {
        let Some((serving, mut around)) = self.tracker() else {
            return;
        };
        for listener in &mut serving.listeners {
            if let Some(token) = listener.accept.take() {
                around.driver.cancel(token);
            }
        }
        for socket in &mut serving.udp {
            socket.stop(around.driver);
        }
        for owner in serving.conns.owners() {
            serving.end(&mut around, owner, Ending::Orderly);
        }
    }
}

impl Serving {
    fn admit<D: Driver>(&mut self, around: &mut Around<'_, D>, Accepted { socket, peer }: Accepted) {
        around.counters.tracker_accepted += 1;
        let ip: IpAddr = peer.ip().to_canonical();
        if around.stopping || self.service.limits.admit(ip).is_err() {
            around.counters.tracker_turned_away += 1;
            around.driver.shutdown(&socket, Ending::Reset);
            return;
        }
        self.begin(around, socket, (ip, peer.port()).into());
    }
}
