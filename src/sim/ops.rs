//! Operations: what a shard has asked of its machine, how long that takes, and what comes of it.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::plan::Kind;
use super::world::{Event, World};
use super::{MICROSECOND, MILLISECOND};
use crate::io::{
    Accepted, Completion, Errno, Handle, Op, OpKind, Opened, Outcome, Owner, Received, RecvBuf, SendBatch, Token,
};

/// A receive brings so many bytes at most: a short buffer, or a long one.
const RECV_LEN: usize = 4096;
const RECV_BULK_LEN: usize = 65536;

/// An operation under way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) token: Token,
    pub(super) owner: Owner,
    op: Op,
    cancelled: bool,
    /// When it was submitted.
    since: u64,
}

/// What a socket still reads from.
#[derive(Debug)]
pub(super) struct Lent {
    token: Token,
    owner: Owner,
    batch: Box<SendBatch>,
    copied: Option<bool>,
}

fn kind_of(op: &Op) -> OpKind {
    match op {
        Op::Accept { .. } => OpKind::Accept,
        Op::Recv { .. } | Op::RecvOnce { .. } => OpKind::Recv,
        Op::RecvFrom { .. } => OpKind::RecvFrom,
        Op::Send { .. } => OpKind::Send,
        Op::Read { .. } => OpKind::Read,
        Op::Open { .. } => OpKind::Open,
        Op::Doorbell { .. } => OpKind::Doorbell,
        Op::Connect { .. } => OpKind::Connect,
        Op::Write { .. } => OpKind::Write,
    }
}

impl World {
    /// An operation begins.
    pub(super) fn submit(&mut self, host: usize, owner: Owner, op: Op) -> Token {
        let state = &mut self.hosts[host];
        let index = state.next_op;
        state.next_op += 1;
        let token = Token {
            kind: kind_of(&op),
            generation: 0,
            index,
        };
        state.counters.sqes += 1;
        let epoch = state.epoch;
        let socket = match &op {
            Op::Recv { socket, .. } | Op::RecvOnce { socket } | Op::Connect { socket, .. } => Some(socket.memory_id()),
            _ => None,
        };
        let addr = match &op {
            Op::Connect { addr, .. } => Some(*addr),
            _ => None,
        };
        let pending = Pending {
            token,
            owner,
            op,
            cancelled: false,
            since: self.now,
        };
        self.hosts[host].ops.insert(index, pending);
        match token.kind {
            OpKind::Accept => {
                self.hosts[host].accept = Some(index);
                self.answer_accept(host);
            }
            OpKind::Doorbell => {
                self.hosts[host].bell = Some(index);
                self.answer_bell(host);
            }
            OpKind::Recv => {
                let id = socket.expect("it has a socket");
                self.end(id).recv = Some(index);
                self.go_on_receiving(id);
            }
            OpKind::Connect => {
                let id = socket.expect("it has a socket");
                self.end(id).connect = Some(index);
                self.knock(id, addr.expect("it has an address"));
            }
            OpKind::Send => {
                let after = self.random.within(MICROSECOND, 50 * MICROSECOND);
                self.after(after, Event::Due { host, epoch, op: index });
            }
            OpKind::Open | OpKind::Read | OpKind::Write => {
                let after = match self.fails(host, Kind::SlowDisk) {
                    true => self.random.within(100 * MILLISECOND, 900 * MILLISECOND),
                    false => self.random.within(20 * MICROSECOND, 12 * MILLISECOND),
                };
                self.after(after, Event::Due { host, epoch, op: index });
            }
            OpKind::RecvFrom | OpKind::Cancel | OpKind::Close => {}
        }
        token
    }

    /// An operation is to end early.
    pub(super) fn cancel(&mut self, host: usize, token: Token) {
        let Some(pending) = self.hosts[host].ops.get_mut(&token.index) else {
            return; // It has ended.
        };
        pending.cancelled = true;
        match &pending.op {
            Op::Connect { socket, .. } => {
                let end = socket.memory_id();
                self.answered(end, Err(Errno::CANCELED));
            }
            Op::Accept { .. } => {
                self.hosts[host].accept = None;
                let (result, more) = (Err(Errno::CANCELED), false);
                self.finish(host, token.index, |_| Outcome::Accepted { result, more });
            }
            Op::Recv { socket, .. } | Op::RecvOnce { socket } => {
                let id = socket.memory_id();
                self.go_on_receiving(id);
            }
            Op::Send { socket, .. } => {
                let id = socket.memory_id();
                self.go_on_sending(id);
            }
            Op::Doorbell { .. } => {
                self.hosts[host].bell = None;
                let result = Err(Errno::CANCELED);
                self.finish(host, token.index, |_| Outcome::Rung { result });
            }
            // A disk finishes what it has begun.
            Op::Open { .. } | Op::Read { .. } | Op::Write { .. } | Op::RecvFrom { .. } => {}
        }
    }

    /// The last completion of an operation.
    fn finish(&mut self, host: usize, index: u32, outcome: impl FnOnce(Op) -> Outcome) {
        let pending = self.hosts[host].ops.remove(&index).expect("an operation under way");
        let Pending { token, owner, op, .. } = pending;
        let outcome = outcome(op);
        self.complete(host, Completion { token, owner, outcome });
    }

    /// A completion after which an operation goes on.
    fn report(&mut self, host: usize, index: u32, outcome: Outcome) {
        let pending = &self.hosts[host].ops[&index];
        let (token, owner) = (pending.token, pending.owner);
        self.complete(host, Completion { token, owner, outcome });
    }

    pub(super) fn answer_accept(&mut self, host: usize) {
        if self.hosts[host].scripted {
            return self.after(MICROSECOND, Event::Script { host });
        }
        while let Some(index) = self.hosts[host].accept
            && let Some((id, peer)) = self.hosts[host].backlog.pop_front()
        {
            let socket = self.ends[&id].handle.clone();
            let result = Ok(Accepted { socket, peer });
            self.report(host, index, Outcome::Accepted { result, more: true });
        }
    }

    pub(super) fn answer_bell(&mut self, host: usize) {
        if !self.hosts[host].rung {
            return;
        }
        if let Some(index) = self.hosts[host].bell.take() {
            self.hosts[host].rung = false;
            self.finish(host, index, |_| Outcome::Rung { result: Ok(()) });
        }
    }

    /// A socket is connected, or is not.
    pub(super) fn answered(&mut self, id: u64, result: Result<(), Errno>) {
        let host = self.ends[&id].host;
        if self.hosts[host].scripted {
            if result.is_err() {
                self.end(id).closed = true;
            }
            return self.after(MICROSECOND, Event::Script { host });
        }
        let Some(index) = self.end(id).connect.take() else {
            return; // It was cancelled.
        };
        let result = match self.strikes(host, Kind::Cancels, 10) {
            true => Err(Errno::CANCELED),
            false => result,
        };
        self.trace
            .step(self.now, host, "connected", (id, u64::from(result.is_ok())));
        self.finish(host, index, |_| Outcome::Connected { result });
    }

    /// Gives a receive what there is.
    pub(super) fn go_on_receiving(&mut self, id: u64) {
        while let Some(index) = self.ends[&id].recv {
            let end = &self.ends[&id];
            let host = end.host;
            let (closed, reset, empty, ended) = (end.closed, end.reset, end.incoming.is_empty(), end.ended);
            let pending = &self.hosts[host].ops[&index];
            let (once, len) = match pending.op {
                Op::RecvOnce { .. } => (true, RECV_LEN),
                Op::Recv { bulk: true, .. } => (false, RECV_BULK_LEN),
                _ => (false, RECV_LEN),
            };
            let failure = match (pending.cancelled, reset) {
                (true, _) => Some(Errno::CANCELED),
                (_, true) if !closed => Some(Errno::CONNRESET),
                _ if empty || closed => None,
                _ if self.strikes(host, Kind::NoBuffers, 30) => {
                    self.hosts[host].counters.recv_starved += 1;
                    Some(Errno::NOBUFS)
                }
                _ if self.strikes(host, Kind::Cancels, 10) => Some(Errno::CANCELED),
                _ => None,
            };
            if let Some(errno) = failure {
                self.end(id).recv = None;
                let (result, more) = (Err(errno), false);
                self.finish(host, index, |_| Outcome::Received { result, more });
                return;
            }
            if closed || (empty && ended) {
                self.end(id).recv = None;
                let (result, more) = (Ok(Received::Eof), false);
                self.finish(host, index, |_| Outcome::Received { result, more });
                return;
            }
            if empty {
                return;
            }
            let len = match self.strikes(host, Kind::Bytes, 50) {
                true => 1,
                false => len,
            };
            if once {
                self.end(id).recv = None;
            }
            let bytes = self.take(id, len);
            let (result, more) = (Ok(Received::Data(RecvBuf::from_vec(bytes))), !once);
            let outcome = Outcome::Received { result, more };
            match once {
                true => self.finish(host, index, |_| outcome),
                false => self.report(host, index, outcome),
            }
        }
    }

    /// Lets a send that waits for room go on.
    pub(super) fn go_on_sending(&mut self, id: u64) {
        if let Some(index) = self.end(id).send.take() {
            self.end(id).sent_at = self.now;
            let host = self.ends[&id].host;
            self.try_send(host, index, id);
        }
    }

    /// An operation has taken its time.
    pub(super) fn on_due(&mut self, host: usize, epoch: u32, index: u32) {
        if !self.lives(host, epoch) {
            return;
        }
        let Some(pending) = self.hosts[host].ops.get(&index) else {
            return;
        };
        if let Op::Send { socket, .. } = &pending.op {
            let id = socket.memory_id();
            return self.try_send(host, index, id);
        }
        let cancelled = pending.cancelled || self.strikes(host, Kind::Cancels, 20);
        let pending = self.hosts[host].ops.remove(&index).expect("found above");
        let Pending { token, owner, op, .. } = pending;
        let outcome = match op {
            Op::Open { dir, path, write, .. } => {
                let result = match cancelled {
                    true => Err(Errno::CANCELED),
                    false => self.open(host, &*dir, &path, write),
                };
                Outcome::Opened { result, write }
            }
            Op::Read {
                file,
                offset,
                len,
                at,
                mut buf,
                ..
            } => {
                let place = &mut buf.as_mut_slice()[at as usize..(at + len) as usize];
                let result = match cancelled {
                    true => Err(Errno::CANCELED),
                    false => self.read(host, &file, offset, place),
                };
                Outcome::ReadDone { result, buf }
            }
            Op::Write {
                file, offset, bytes, ..
            } => {
                let result = match cancelled {
                    true => Err(Errno::CANCELED),
                    false => self.write(host, &file, offset, &bytes),
                };
                Outcome::Written { result, bytes }
            }
            other => unreachable!("{other:?} takes no time"),
        };
        self.trace
            .step(self.now, host, "disk", (token.kind as u64, u64::from(index)));
        self.complete(host, Completion { token, owner, outcome });
    }

    fn open(&mut self, host: usize, dir: &dyn AsFd, path: &std::ffi::CStr, write: bool) -> Result<Opened, Errno> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = rustix::fs::openat2(dir.as_fd(), path, flags, Mode::empty(), resolve)?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|_| Errno::IO)?;
        let (inode, modified) = self.hosts[host].disk.look(&file);
        let handle = Handle::kernel(file.into(), None);
        self.hosts[host].files.push(handle.clone());
        Ok(Opened {
            file: handle,
            len: metadata.len(),
            device: 1,
            inode,
            modified,
            regular: metadata.is_file(),
        })
    }

    fn read(&mut self, host: usize, file: &Handle, offset: u64, place: &mut [u8]) -> Result<u32, Errno> {
        if self.strikes(host, Kind::ReadErrors, 30) {
            return Err(Errno::IO);
        }
        let mut len = place.len();
        if len > 1 && self.strikes(host, Kind::ShortIo, 40) {
            len = self.random.within(1, len as u64) as usize;
        }
        let mut offset = offset;
        if self.strikes(host, Kind::Misreads, 30) {
            self.misread[host] = true;
            offset = self.random.within(0, offset + len as u64) & !511;
        }
        let file = File::from(file.duplicate()?);
        let mut done = 0;
        while done < len {
            match file.read_at(&mut place[done..len], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        Ok(done as u32)
    }

    fn write(&mut self, host: usize, file: &Handle, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        if self.strikes(host, Kind::WriteErrors, 50) {
            return Err(Errno::IO);
        }
        if self.fails(host, Kind::DiskFull) {
            return Err(Errno::NOSPC);
        }
        let mut len = bytes.len();
        if len > 1 && self.strikes(host, Kind::ShortIo, 40) {
            len = self.random.within(1, len as u64) as usize;
        }
        let disk = std::rc::Rc::clone(&self.hosts[host].disk);
        disk.set_now(self.now);
        disk.write(file.fd().as_fd(), offset, &bytes[..len]);
        Ok(len as u32)
    }

    /// What of the writes under way reaches the page cache when a process is killed.
    pub(super) fn abandon_ops(&mut self, host: usize) {
        let ops = std::mem::take(&mut self.hosts[host].ops);
        for (_, pending) in ops {
            if let Op::Write {
                file, offset, bytes, ..
            } = pending.op
                && self.random.percent(50)
            {
                let disk = std::rc::Rc::clone(&self.hosts[host].disk);
                disk.write(file.fd().as_fd(), offset, &bytes);
            }
        }
        let state = &mut self.hosts[host];
        state.lent.clear();
        state.ready.clear();
        state.files.clear();
        (state.accept, state.bell, state.rung, state.turn_at) = (None, None, false, None);
    }

    /// Sends what the socket takes, or waits for it to take something.
    fn try_send(&mut self, host: usize, index: u32, id: u64) {
        let pending = &self.hosts[host].ops[&index];
        let Op::Send { batch, zero_copy, .. } = &pending.op else {
            unreachable!("a send");
        };
        let (left, zero_copy) = (batch.left() as usize, *zero_copy);
        let end = &self.ends[&id];
        let failure = if pending.cancelled {
            Some(Errno::CANCELED)
        } else if end.reset {
            Some(Errno::CONNRESET)
        } else {
            end.finished.then_some(Errno::PIPE)
        };
        let room = self.plan.socket_len.saturating_sub(end.unread).min(left);
        if failure.is_none() && room == 0 {
            self.end(id).send = Some(index);
            return;
        }
        let failure = match failure {
            None if self.strikes(host, Kind::Cancels, 10) => Some(Errno::CANCELED),
            failure => failure,
        };
        let room = match room > 1 && self.strikes(host, Kind::ShortSends, 60) {
            true => self.random.within(1, room.min(3000) as u64 + 1) as usize,
            false => room,
        };
        let pending = self.hosts[host].ops.remove(&index).expect("found above");
        let Pending {
            token,
            owner,
            op,
            since,
            ..
        } = pending;
        let Op::Send { mut batch, .. } = op else {
            unreachable!("a send");
        };
        let result = match failure {
            Some(errno) => Err(errno),
            None => {
                let mut bytes = Vec::with_capacity(left);
                batch.for_each_left(|part| bytes.extend_from_slice(part));
                bytes.truncate(room);
                self.listen(id, &bytes, since);
                self.send(id, bytes);
                Ok(room as u32)
            }
        };
        let taken = result.unwrap_or(0);
        let rest = match zero_copy {
            true => {
                let whole = u64::from(taken) == batch.left();
                let rest = (!whole).then(|| batch.split_off(taken));
                self.lend(host, (token, owner), batch);
                rest
            }
            false => {
                batch.advance(taken);
                Some(batch)
            }
        };
        let outcome = Outcome::Sent {
            result,
            batch: rest,
            lent: zero_copy,
        };
        self.trace.step(self.now, host, "sent", (id, u64::from(taken)));
        self.complete(host, Completion { token, owner, outcome });
    }

    fn lend(&mut self, host: usize, (token, owner): (Token, Owner), batch: Box<SendBatch>) {
        let lent = self.new_id();
        let copies = self.plan.cache_bufs == 24;
        let copied = (batch.left() > 0).then_some(copies);
        let loan = Lent {
            token,
            owner,
            batch,
            copied,
        };
        self.hosts[host].lent.insert(lent, loan);
        let (after, epoch) = (self.random.within(0, 80 * MILLISECOND), self.hosts[host].epoch);
        self.after(after, Event::Release { host, epoch, lent });
    }

    /// A socket gives back what it was lent.
    pub(super) fn on_release(&mut self, host: usize, epoch: u32, lent: u64) {
        if !self.lives(host, epoch) {
            return;
        }
        if let Some(Lent {
            token,
            owner,
            batch,
            copied,
        }) = self.hosts[host].lent.remove(&lent)
        {
            let outcome = Outcome::Released { batch, copied };
            self.complete(host, Completion { token, owner, outcome });
        }
    }
}
