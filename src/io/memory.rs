//! A driver without a kernel: sockets and files are byte strings inside the process.
//!
//! For tests of the shard. The test holds the [`World`], the far end of everything: it connects, writes, reads what was
//! sent, and makes operations go wrong or slow. Completions come in the order of their operations' submission unless
//! [`World::shuffle`] is called. Time does not pass here; a shard is told the time by whoever turns it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;

use super::datagrams::{DATAGRAM_LEN_MAX, Datagram, Datagrams};
use super::handle::Handle;
use super::op::{Accepted, Completion, Op, Opened, Outcome, Received, SendBatch};
use super::token::{OpKind, Owner, Token};
use super::uring::pool::{BUF_LEN, Pool};
use super::uring::recv_ring::RecvBuf;
use super::{Counters, Driver, Ending, Wait};

/// Longest receive of one completion in bytes, as with the ring's provided buffers.
const RECV_LEN: usize = 4096;

/// Receives of one operation that complete in one turn at most; a ring has so many buffers for all its connections.
const RECVS_PER_TURN: usize = 128;

/// One connection as both ends see it.
#[derive(Debug, Default)]
struct Connection {
    to_shard: VecDeque<u8>,
    from_shard: Vec<u8>,
    /// Of the last send, until the stream is ended.
    held_back: Vec<u8>,
    /// The far end will write no more.
    closed: bool,
    ended: Option<Ending>,
    /// The shard will send no more.
    finished: bool,
    /// What the socket still takes; `None` is any amount.
    room: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// Connections that wait to be accepted: by that listener, or by any.
    waiting: VecDeque<(u64, SocketAddr, Option<u64>)>,
    /// Addresses that can be connected to.
    listening: BTreeSet<SocketAddr>,
    /// Connections that were made to them, and are not known to the test yet.
    reached: VecDeque<(SocketAddr, u64)>,
    connections: BTreeMap<u64, Connection>,
    files: BTreeMap<String, Vec<u8>>,
    open: BTreeMap<u64, String>,
    /// Which files have which inode; the others get one of their own when they are first opened.
    inodes: BTreeMap<String, u64>,
    no_direct: bool,
    /// When files were modified; the others at 0.
    modified: BTreeMap<String, i128>,
    next_id: u64,
    failures: Vec<(OpKind, Errno)>,
    held: Vec<OpKind>,
    /// Whether sockets read what they are lent, instead of copying it.
    takes_as_is: bool,
    /// What they have been lent is not given back.
    keeps_lent: bool,
    rung: bool,
    seed: Option<u64>,
    /// Datagrams on their way to sockets of the shard, by the socket's number, and those that it has sent.
    to_sockets: BTreeMap<u64, VecDeque<(SocketAddr, Vec<u8>)>>,
    from_sockets: Vec<(SocketAddr, Vec<u8>)>,
    reads: u64,
    /// Bytes that the disks still take.
    disk_room: Option<u64>,
}

/// The far end of everything a [`Memory`] driver reaches. Clones are the same world.
#[derive(Clone, Debug, Default)]
pub struct World(Rc<RefCell<State>>);

impl World {
    /// A connection from `peer` waits to be accepted. Returns its number.
    pub fn connect(&self, peer: SocketAddr) -> u64 {
        let mut state = self.0.borrow_mut();
        let id = state.new_id();
        state.connections.insert(id, Connection::default());
        state.waiting.push_back((id, peer, None));
        id
    }

    /// A connection from `peer` waits to be accepted by this listener. Returns its number.
    pub fn connect_to(&self, listener: &Handle, peer: SocketAddr) -> u64 {
        let id = self.connect(peer);
        let mut state = self.0.borrow_mut();
        if let Some((_, _, by)) = state.waiting.back_mut() {
            *by = Some(listener.memory_id());
        }
        id
    }

    /// From now on the shard can connect to this address.
    pub fn listen(&self, addr: SocketAddr) {
        self.0.borrow_mut().listening.insert(addr);
    }

    /// The next connection that the shard has made: where to, and its number.
    #[must_use]
    pub fn accept(&self) -> Option<(SocketAddr, u64)> {
        self.0.borrow_mut().reached.pop_front()
    }

    /// Sends bytes to the shard.
    pub fn write(&self, id: u64, bytes: &[u8]) {
        self.with(id, |connection| connection.to_shard.extend(bytes));
    }

    /// Takes what the shard has sent.
    #[must_use]
    pub fn read(&self, id: u64) -> Vec<u8> {
        self.with(id, |connection| std::mem::take(&mut connection.from_shard))
    }

    /// Ends the stream to the shard.
    pub fn close(&self, id: u64) {
        self.with(id, |connection| connection.closed = true);
    }

    /// How the shard ended the connection, if it has.
    #[must_use]
    pub fn ended(&self, id: u64) -> Option<Ending> {
        self.with(id, |connection| connection.ended)
    }

    /// Whether the shard has said that it sends no more, and still reads.
    #[must_use]
    pub fn finished(&self, id: u64) -> bool {
        self.with(id, |connection| connection.finished)
    }

    /// Sends a datagram to a socket of the shard.
    pub fn send_to(&self, socket: &Handle, from: SocketAddr, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        let queue = state.to_sockets.entry(socket.memory_id()).or_default();
        queue.push_back((from, bytes.to_vec()));
    }

    /// Takes the datagrams that the shard has sent, with where they went.
    #[must_use]
    pub fn datagrams(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.0.borrow_mut().from_sockets)
    }

    /// Lets the socket take so many more bytes, or any number.
    pub fn set_room(&self, id: u64, room: Option<usize>) {
        self.with(id, |connection| connection.room = room);
    }

    /// Makes or replaces a file.
    pub fn file(&self, path: &str, contents: &[u8]) {
        self.0.borrow_mut().files.insert(path.to_owned(), contents.to_vec());
    }

    /// What is in a file.
    #[must_use]
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        self.0.borrow().files.get(path).cloned()
    }

    /// Lets the disks take so many more bytes, or any number.
    pub fn set_disk_room(&self, room: Option<u64>) {
        self.0.borrow_mut().disk_room = room;
    }

    /// Removes a file; who has it open reads on.
    pub fn remove_file(&self, path: &str) {
        self.0.borrow_mut().files.remove(path);
    }

    /// The next operation of this kind that could complete fails with `errno`; multishot ones end with it.
    pub fn fail_next(&self, kind: OpKind, errno: Errno) {
        self.0.borrow_mut().failures.push((kind, errno));
    }

    /// Operations of this kind do not complete until [`World::release`].
    pub fn hold(&self, kind: OpKind) {
        self.0.borrow_mut().held.push(kind);
    }

    /// Ends a [`World::hold`].
    pub fn release(&self, kind: OpKind) {
        self.0.borrow_mut().held.retain(|held| *held != kind);
    }

    /// Rings the shard's doorbell.
    pub fn ring(&self) {
        self.0.borrow_mut().rung = true;
    }

    /// From now on completions of one turn come in an order that follows from `seed`.
    pub fn shuffle(&self, seed: u64) {
        self.0.borrow_mut().seed = Some(seed);
    }

    /// From now on sockets read what they are lent, instead of copying it.
    pub fn take_as_is(&self) {
        self.0.borrow_mut().takes_as_is = true;
    }

    /// Whether sockets keep what they are lent. Otherwise they give it back with the next turn.
    pub fn keep_lent(&self, keep: bool) {
        self.0.borrow_mut().keeps_lent = keep;
    }

    /// Two files of the same inode are one.
    pub fn set_inode(&self, path: &str, inode: u64) {
        self.0.borrow_mut().inodes.insert(path.to_owned(), inode);
    }

    /// A file was modified: at this time, in ns since 1970.
    pub fn set_modified(&self, path: &str, time: i128) {
        self.0.borrow_mut().modified.insert(path.to_owned(), time);
    }

    /// From now on no file can be read past the page cache.
    pub fn refuse_direct(&self) {
        self.0.borrow_mut().no_direct = true;
    }

    /// Reads that were carried out.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.0.borrow().reads
    }

    fn with<T>(&self, id: u64, f: impl FnOnce(&mut Connection) -> T) -> T {
        let mut state = self.0.borrow_mut();
        f(state.connections.get_mut(&id).expect("a connection of this world"))
    }
}

impl State {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Writes to an open file, as far as the disk has room.
    fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let room = self.disk_room.unwrap_or(u64::MAX);
        let len = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        if len == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC);
        }
        let contents = self.files.get_mut(&self.open[&id]).ok_or(Errno::NOENT)?;
        let start = usize::try_from(offset).expect("a file fits in memory");
        if contents.len() < start + len {
            contents.resize(start + len, 0);
        }
        contents[start..start + len].copy_from_slice(&bytes[..len]);
        self.disk_room = self.disk_room.map(|room| room - len as u64);
        Ok(u32::try_from(len).expect("no write of 4 GiB"))
    }

    /// A failure that was ordered for this kind, used up by asking.
    fn failure(&mut self, kind: OpKind) -> Option<Errno> {
        let at = self.failures.iter().position(|(failing, _)| *failing == kind)?;
        Some(self.failures.remove(at).1)
    }
}

/// The driver.
#[derive(Debug)]
pub struct Memory {
    world: World,
    pool: Pool,
    ops: BTreeMap<u32, Option<(Token, Owner, Op)>>,
    cancelled: Vec<Token>,
    next_index: u32,
    /// Sends that have their result and still lend their memory.
    lent: Vec<(Token, Owner, Box<SendBatch>)>,
    counters: Counters,
}

impl Memory {
    /// A driver with so many pool buffers, in an empty world.
    ///
    /// # Panics
    /// When there is no memory for the pool.
    #[must_use]
    pub fn new(pool_bufs: u32) -> Memory {
        Memory {
            world: World::default(),
            pool: Pool::new(pool_bufs, false).expect("memory for a pool"),
            ops: BTreeMap::new(),
            cancelled: Vec::new(),
            next_index: 0,
            lent: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// The world's end of it.
    #[must_use]
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// A handle for a listener or a doorbell, of which this world needs no more than that.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::memory(self.world.0.borrow_mut().new_id())
    }

    /// Lets one operation complete if it can. `Err` gives it back to go on waiting.
    fn step(&mut self, token: Token, owner: Owner, op: Op, out: &mut Vec<(Outcome, bool)>) -> Option<Op> {
        let cancelled = self.cancelled.contains(&token);
        let mut state = self.world.0.borrow_mut();
        if state.held.contains(&token.kind) && !cancelled {
            return Some(op);
        }
        let failure = match cancelled {
            true => Some(Errno::CANCELED),
            false => None,
        };
        match op {
            Op::Accept { listener, brief } => {
                if let Some(errno) = failure {
                    out.push((end_of_accept(errno), true));
                    return None;
                }
                let by_me = |by: Option<u64>| by.is_none_or(|by| by == listener.memory_id());
                let at = state.waiting.iter().position(|(_, _, by)| by_me(*by));
                if let Some(at) = at {
                    let (id, peer, _) = state.waiting[at];
                    if let Some(errno) = state.failure(OpKind::Accept) {
                        out.push((end_of_accept(errno), true));
                        return None;
                    }
                    state.waiting.remove(at);
                    let socket = Handle::memory(id);
                    let result = Ok(Accepted { socket, peer });
                    out.push((Outcome::Accepted { result, more: true }, false));
                }
                Some(Op::Accept { listener, brief })
            }
            Op::Recv { socket, bulk } => {
                let id = socket.memory_id();
                let ready = {
                    let connection = &state.connections[&id];
                    !connection.to_shard.is_empty() || connection.closed || connection.ended.is_some()
                };
                let failure = failure.or_else(|| if ready { state.failure(OpKind::Recv) } else { None });
                if let Some(errno) = failure {
                    let (result, more) = (Err(errno), false);
                    out.push((Outcome::Received { result, more }, true));
                    return None;
                }
                let connection = state.connections.get_mut(&id).expect("connected");
                if connection.to_shard.is_empty() || connection.ended.is_some() {
                    if ready {
                        let (result, more) = (Ok(Received::Eof), false);
                        out.push((Outcome::Received { result, more }, true));
                        return None;
                    }
                    return Some(Op::Recv { socket, bulk });
                }
                for _ in 0..RECVS_PER_TURN {
                    let len = connection.to_shard.len().min(RECV_LEN);
                    let bytes: Vec<u8> = connection.to_shard.drain(..len).collect();
                    if bytes.is_empty() {
                        break;
                    }
                    let result = Ok(Received::Data(RecvBuf::from_vec(bytes)));
                    out.push((Outcome::Received { result, more: true }, false));
                }
                Some(Op::Recv { socket, bulk })
            }
            Op::RecvOnce { socket } => {
                let connection = &state.connections[&socket.memory_id()];
                let is_at_end = connection.closed || connection.ended.is_some();
                if failure.is_none() && connection.to_shard.is_empty() && !is_at_end {
                    return Some(Op::RecvOnce { socket });
                }
                let failure = failure.or_else(|| state.failure(OpKind::Recv));
                let connection = state.connections.get_mut(&socket.memory_id()).expect("connected");
                let len = connection.to_shard.len().min(RECV_LEN);
                let result = match failure {
                    Some(errno) => Err(errno),
                    None if len == 0 || connection.ended.is_some() => Ok(Received::Eof),
                    None => Ok(Received::Data(RecvBuf::from_vec(
                        connection.to_shard.drain(..len).collect(),
                    ))),
                };
                out.push((Outcome::Received { result, more: false }, true));
                None
            }
            Op::RecvFrom { socket } => {
                let waiting = state.to_sockets.get(&socket.memory_id()).map_or(0, VecDeque::len);
                let failure = failure.or_else(|| {
                    if waiting > 0 {
                        state.failure(OpKind::RecvFrom)
                    } else {
                        None
                    }
                });
                if let Some(errno) = failure {
                    let (result, more) = (Err(errno), false);
                    out.push((Outcome::ReceivedFrom { result, more }, true));
                    return None;
                }
                let queue = state.to_sockets.entry(socket.memory_id()).or_default();
                for (from, bytes) in queue.drain(..waiting.min(RECVS_PER_TURN)) {
                    let result = match bytes.len() > DATAGRAM_LEN_MAX {
                        true => Err(Errno::MSGSIZE),
                        false => Ok(Datagram {
                            from,
                            bytes: RecvBuf::from_vec(bytes),
                        }),
                    };
                    self.counters.datagrams_too_long += u64::from(result.is_err());
                    out.push((Outcome::ReceivedFrom { result, more: true }, false));
                }
                Some(Op::RecvFrom { socket })
            }
            Op::Send {
                socket,
                mut batch,
                zero_copy,
                last,
            } => {
                let failure = failure.or_else(|| state.failure(OpKind::Send));
                let connection = state.connections.get_mut(&socket.memory_id()).expect("connected");
                let failure = failure.or_else(|| connection.ended.map(|_| Errno::PIPE));
                let left = usize::try_from(batch.left()).expect("a batch fits in memory");
                let room = connection.room.unwrap_or(left).min(left);
                if failure.is_none() && room == 0 {
                    return Some(Op::Send {
                        socket,
                        batch,
                        zero_copy,
                        last,
                    });
                }
                let result = match failure {
                    Some(errno) => Err(errno),
                    None => {
                        let mut bytes = Vec::with_capacity(left);
                        batch.for_each_left(|part| bytes.extend_from_slice(part));
                        let to = match last {
                            true => &mut connection.held_back,
                            false => &mut connection.from_shard,
                        };
                        to.extend_from_slice(&bytes[..room]);
                        connection.room = connection.room.map(|had| had - room);
                        Ok(u32::try_from(room).expect("less than 4 GiB in a batch"))
                    }
                };
                let taken = result.unwrap_or(0);
                // What is not even begun has no second completion.
                let lends = zero_copy && !matches!(result, Err(Errno::INVAL | Errno::OPNOTSUPP));
                let rest = match lends {
                    true => {
                        let whole = u64::from(taken) == batch.left();
                        let rest = (!whole).then(|| batch.split_off(taken));
                        self.lent.push((token, owner, batch));
                        rest
                    }
                    false => {
                        batch.advance(taken);
                        Some(batch)
                    }
                };
                let (batch, lent) = (rest, zero_copy);
                out.push((Outcome::Sent { result, batch, lent }, true));
                None
            }
            Op::Read {
                file,
                offset,
                len,
                at,
                mut buf,
                ..
            } => {
                state.reads += 1;
                let result = match failure.or_else(|| state.failure(OpKind::Read)) {
                    Some(errno) => Err(errno),
                    None => {
                        let path = &state.open[&file.memory_id()];
                        let contents = state.files.get(path).map_or(&[][..], Vec::as_slice);
                        let start = usize::try_from(offset).map_or(contents.len(), |at| at.min(contents.len()));
                        let end = (start + len as usize).min(contents.len());
                        assert!((at + len) as usize <= BUF_LEN, "read of {len} bytes to {at}");
                        buf.as_mut_slice()[at as usize..][..end - start].copy_from_slice(&contents[start..end]);
                        Ok((end - start) as u32)
                    }
                };
                out.push((Outcome::ReadDone { result, buf }, true));
                None
            }
            Op::Connect { socket, addr } => {
                let failure = failure.or_else(|| state.failure(OpKind::Connect));
                let refused = (!state.listening.contains(&addr)).then_some(Errno::CONNREFUSED);
                let result = match failure.or(refused) {
                    Some(errno) => Err(errno),
                    None => {
                        state.reached.push_back((addr, socket.memory_id()));
                        Ok(())
                    }
                };
                out.push((Outcome::Connected { result }, true));
                None
            }
            Op::Write {
                file, offset, bytes, ..
            } => {
                let result = match failure.or_else(|| state.failure(OpKind::Write)) {
                    Some(errno) => Err(errno),
                    None => state.write(file.memory_id(), offset, &bytes),
                };
                out.push((Outcome::Written { result, bytes }, true));
                None
            }
            Op::Open { path, write, .. } => {
                let path = path.into_string().expect("paths of tests are UTF-8");
                let result = match failure.or_else(|| state.failure(OpKind::Open)) {
                    Some(errno) => Err(errno),
                    None => match state.files.get(&path).map(Vec::len) {
                        None => Err(Errno::NOENT),
                        Some(len) => {
                            let id = state.new_id();
                            let modified = state.modified.get(&path).copied().unwrap_or(0);
                            let inode = *state.inodes.entry(path.clone()).or_insert(id);
                            state.open.insert(id, path);
                            Ok(Opened {
                                file: Handle::memory(id),
                                len: len as u64,
                                device: 1,
                                inode,
                                modified,
                                regular: true,
                            })
                        }
                    },
                };
                out.push((Outcome::Opened { result, write }, true));
                None
            }
            Op::Doorbell { event } => {
                if let Some(errno) = failure {
                    out.push((Outcome::Rung { result: Err(errno) }, true));
                    return None;
                }
                if !std::mem::take(&mut state.rung) {
                    return Some(Op::Doorbell { event });
                }
                out.push((Outcome::Rung { result: Ok(()) }, true));
                None
            }
        }
    }
}

fn end_of_accept(errno: Errno) -> Outcome {
    Outcome::Accepted {
        result: Err(errno),
        more: false,
    }
}

impl Driver for Memory {
    fn submit(&mut self, owner: Owner, op: Op) -> Token {
        let kind = match &op {
            Op::Accept { .. } => OpKind::Accept,
            Op::Recv { .. } | Op::RecvOnce { .. } => OpKind::Recv,
            Op::RecvFrom { .. } => OpKind::RecvFrom,
            Op::Send { .. } => OpKind::Send,
            Op::Read { .. } => OpKind::Read,
            Op::Open { .. } => OpKind::Open,
            Op::Doorbell { .. } => OpKind::Doorbell,
            Op::Connect { .. } => OpKind::Connect,
            Op::Write { .. } => OpKind::Write,
        };
        let token = Token {
            kind,
            generation: 0,
            index: self.next_index,
        };
        self.next_index += 1;
        self.counters.sqes += 1;
        self.ops.insert(token.index, Some((token, owner, op)));
        token
    }

    fn cancel(&mut self, token: Token) {
        self.cancelled.push(token);
    }

    fn turn(&mut self, _wait: Wait, out: &mut Vec<Completion>) -> Result<(), Errno> {
        self.counters.enters += 1;
        let first = out.len();
        for index in self.ops.keys().copied().collect::<Vec<_>>() {
            let Some((token, owner, op)) = self.ops.get_mut(&index).and_then(Option::take) else {
                continue;
            };
            let mut outcomes = Vec::new();
            match self.step(token, owner, op, &mut outcomes) {
                Some(op) => drop(self.ops.insert(index, Some((token, owner, op)))),
                None => drop(self.ops.remove(&index)),
            }
            for (outcome, _last) in outcomes {
                self.counters.cqes += 1;
                out.push(Completion { token, owner, outcome });
            }
        }
        self.cancelled.clear();
        let (zero_copy, keeps_lent) = {
            let state = self.world.0.borrow();
            (state.takes_as_is, state.keeps_lent)
        };
        if !keeps_lent {
            for (token, owner, batch) in self.lent.drain(..) {
                let copied = (batch.left() > 0).then_some(!zero_copy);
                self.counters.zero_copy_copied += u64::from(copied == Some(true));
                self.counters.zero_copy_sent += u64::from(copied == Some(false));
                let outcome = Outcome::Released { batch, copied };
                out.push(Completion { token, owner, outcome });
            }
        }
        let seed = &mut self.world.0.borrow_mut().seed;
        if let Some(seed) = seed {
            shuffle(out, first, seed);
        }
        Ok(())
    }

    fn socket(&mut self, _to: SocketAddr) -> Result<Handle, Errno> {
        let mut state = self.world.0.borrow_mut();
        let id = state.new_id();
        state.connections.insert(id, Connection::default());
        Ok(Handle::memory(id))
    }

    /// A connection that nobody is at the other end of: this world has no descriptors.
    fn take_over(&mut self, _fd: OwnedFd) -> Handle {
        let mut state = self.world.0.borrow_mut();
        let id = state.new_id();
        state.connections.insert(id, Connection::default());
        Handle::memory(id)
    }

    fn send_datagrams(&mut self, _socket: &Handle, batch: &mut Datagrams) {
        let mut state = self.world.0.borrow_mut();
        let failing = state.failure(OpKind::Send).is_some();
        for (to, bytes) in batch.iter() {
            match failing {
                true => self.counters.datagrams_unsent += 1,
                false => state.from_sockets.push((to, bytes.to_vec())),
            }
        }
        batch.clear();
    }

    fn shutdown(&mut self, socket: &Handle, ending: Ending) {
        let mut state = self.world.0.borrow_mut();
        let connection = state.connections.get_mut(&socket.memory_id()).expect("connected");
        let held_back = std::mem::take(&mut connection.held_back);
        if ending != Ending::Reset {
            connection.from_shard.extend(held_back);
        }
        match ending {
            Ending::Half => connection.finished = true,
            Ending::Orderly | Ending::Reset => drop(connection.ended.get_or_insert(ending)),
        }
    }

    fn close(&mut self, socket: Handle) {
        self.shutdown(&socket, Ending::Orderly);
    }

    fn set_direct(&mut self, _file: &Handle, direct: bool) -> Result<(), Errno> {
        match direct && self.world.0.borrow().no_direct {
            true => Err(Errno::INVAL),
            false => Ok(()),
        }
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn in_flight(&self) -> usize {
        self.ops.len()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// Fisher-Yates with a xorshift generator. Completions of one operation keep their order, as a ring keeps it: what is
/// shuffled is whose turn it is.
fn shuffle(completions: &mut Vec<Completion>, first: usize, seed: &mut u64) {
    let mut turns: Vec<u32> = completions[first..].iter().map(|one| one.token.index).collect();
    for i in (1..turns.len()).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        let j = (*seed % (i as u64 + 1)) as usize;
        turns.swap(i, j);
    }
    let mut by_op: BTreeMap<u32, VecDeque<Completion>> = BTreeMap::new();
    for completion in completions.drain(first..) {
        by_op.entry(completion.token.index).or_default().push_back(completion);
    }
    completions.extend(turns.iter().filter_map(|index| by_op.get_mut(index)?.pop_front()));
}
