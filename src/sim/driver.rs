//! The driver that a simulated shard has: a door to the [`World`], and the order in which completions come through it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::plan::Kind;
use super::world::{Ready, Shared, World};
use crate::io::{Completion, Counters, Datagrams, Driver, Ending, Errno, Handle, Op, Owner, Pool, Token, Wait};

/// The driver of one host.
#[derive(Debug)]
pub(super) struct Simulated {
    world: Shared,
    host: usize,
    pool: Pool,
}

impl Simulated {
    /// A driver with so many buffers to read into.
    pub(super) fn new(world: Shared, host: usize, bufs: u32) -> Self {
        let pool = Pool::new(bufs, false).expect("memory for a pool");
        Self { world, host, pool }
    }

    /// A handle of nothing, for a listener or a bell.
    pub(super) fn handle(&self) -> Handle {
        Handle::memory(self.world.borrow_mut().new_id())
    }
}

impl World {
    /// What a shard is given in a turn.
    fn reap(&mut self, host: usize, out: &mut Vec<Completion>) {
        let now = self.now;
        let (due, later): (VecDeque<Ready>, VecDeque<Ready>) =
            self.hosts[host].ready.drain(..).partition(|ready| ready.at <= now);
        self.hosts[host].ready = later;
        self.hosts[host].counters.cqes += due.len() as u64;
        let due = due.into_iter().map(|ready| ready.completion);
        if !self.fails(host, Kind::Reorder) {
            out.extend(due);
            return;
        }
        // Completions of one operation keep their order: what is shuffled is whose turn it is.
        let mut by_op: BTreeMap<u32, VecDeque<Completion>> = BTreeMap::new();
        let mut turns = Vec::new();
        for completion in due {
            turns.push(completion.token.index);
            by_op.entry(completion.token.index).or_default().push_back(completion);
        }
        for index in (1..turns.len()).rev() {
            turns.swap(index, self.random.below(index + 1));
        }
        out.extend(turns.iter().filter_map(|index| by_op.get_mut(index)?.pop_front()));
    }
}

impl Driver for Simulated {
    fn submit(&mut self, owner: Owner, op: Op) -> Token {
        self.world.borrow_mut().submit(self.host, owner, op)
    }

    fn cancel(&mut self, token: Token) {
        self.world.borrow_mut().cancel(self.host, token);
    }

    fn turn(&mut self, _wait: Wait, out: &mut Vec<Completion>) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        world.hosts[self.host].counters.enters += 1;
        world.reap(self.host, out);
        Ok(())
    }

    fn socket(&mut self, _to: SocketAddr) -> Result<Handle, Errno> {
        let mut world = self.world.borrow_mut();
        let id = world.new_end(self.host);
        Ok(world.end(id).handle.clone())
    }

    fn take_over(&mut self, _fd: OwnedFd) -> Handle {
        unreachable!("a node has one shard, and nothing is handed over")
    }

    fn send_datagrams(&mut self, _socket: &Handle, batch: &mut Datagrams) {
        batch.clear(); // The tracker is a host of its own.
    }

    fn shutdown(&mut self, socket: &Handle, ending: Ending) {
        self.world.borrow_mut().shut(socket.memory_id(), ending);
    }

    fn close(&mut self, socket: Handle) {
        self.shutdown(&socket, Ending::Orderly);
    }

    fn set_direct(&mut self, _file: &Handle, _direct: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn in_flight(&self) -> usize {
        self.world.borrow().hosts[self.host].ops.len()
    }

    fn counters(&self) -> Counters {
        self.world.borrow().hosts[self.host].counters
    }
}
