//! From a request in a peer's queue to bytes in its socket.
//!
//! Once per turn each connection with something to do is pumped: blocks are taken from its queue into the window
//! (*staged*: their extents are looked up, or reads begun), and those whose bytes are there leave in one vectored send.
//! One send is in flight per connection. A block whose extent is still being read does not hold up those behind it.

use std::collections::VecDeque;
use std::time::Instant;

use super::conn::{Conn, PeerConn, Phase};
use super::deadlines::STALLED_TICKS;
use super::disk::{Failed, Failure, Waiter};
use super::ended::Reason;
use super::lending::Lent;
use super::stage::{Staged, Stopped, collect, stage};
use super::{Shard, Torrent};
use crate::io::{Driver, Errno, Op, Owner, SendBatch};
use crate::proto::geometry::{BLOCK_LEN_MAX, BlockRequest};
use crate::proto::wire::{self, Message};
use crate::stats::{Counters, Histogram};

/// Bytes staged per connection: at first, and at most. The window doubles when a whole batch is taken at once and
/// halves when it is not, so that fast peers are full and slow ones pin little.
const WINDOW_MIN: u32 = 4 * BLOCK_LEN_MAX;
const WINDOW_MAX: u32 = 32 * BLOCK_LEN_MAX;

/// Blocks staged per connection, however short they are: a window of tiny ones would hold half a million.
const STAGED_MAX: usize = 64;

/// A block of the send in flight.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) block: BlockRequest,
    pub(super) asked_at: Instant,
    /// Where in the batch its header begins, and where its last byte ends.
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The upload side of a connection.
#[derive(Debug)]
pub(super) struct Upload {
    /// When the requests in the queue arrived: so many at each time, oldest first.
    pub(super) arrivals: VecDeque<(Instant, u32)>,
    /// Taken from the queue, but no buffer was free. To be staged before the rest of the queue.
    pub(super) unstaged: VecDeque<(BlockRequest, Instant)>,
    /// Where the block staged last ended, in the torrent, and how many bytes before that were staged in order.
    pub(super) run_end: u64,
    pub(super) run_len: u64,
    /// A request that was admitted cannot be served, and the peer cannot be told: it would wait for ever.
    pub(super) unanswerable: bool,
    pub(super) staged: VecDeque<Staged>,
    pub(super) staged_len: u32,
    pub(super) window: u32,
    /// Bytes it may send at once for the sake of the upload rate.
    pub(super) share: u32,
    /// Blocks of the send in flight that the socket has not taken whole, in order.
    pub(super) sending: VecDeque<Sending>,
    /// Bytes of that send which the socket has taken, and the tick at which it was begun.
    pub(super) taken: u64,
    pub(super) begun_at: u64,
    /// It waits until a piece is verified that nobody has read yet, and stages nothing meanwhile.
    pub(super) held_back: bool,
    /// It has given its buffers back, and stages nothing until it has sent what it kept.
    pub(super) yielding: bool,
    /// Whether the batch in flight was taken in more than one go.
    pub(super) short: bool,
}

impl Default for Upload {
    fn default() -> Self {
        Upload {
            arrivals: VecDeque::new(),
            unstaged: VecDeque::new(),
            run_end: 0,
            run_len: 0,
            unanswerable: false,
            staged: VecDeque::new(),
            staged_len: 0,
            window: WINDOW_MIN,
            share: u32::MAX,
            sending: VecDeque::new(),
            taken: 0,
            begun_at: 0,
            held_back: false,
            yielding: false,
            short: false,
        }
    }
}

impl<D: Driver> Shard<D> {
    /// Moves a connection on: stages, builds a batch, sends it. While others wait for a buffer it stages nothing but
    /// goes to the end of their line: who asks often must not take what comes free before those who asked first.
    pub(super) fn pump(&mut self, owner: Owner) {
        self.pump_in_line(owner, self.starved.is_empty(), false);
    }

    /// `first`: no other is before it in the line for a buffer. `fed`: it has waited in a line, and need not wait for the
    /// upload rate once more. Who waits for a buffer stays in that line only, or nobody would see that buffers are short.
    fn pump_in_line(&mut self, owner: Owner, first: bool, fed: bool) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        conn.touched = false;
        self.look_at_held(owner);
        self.ask(owner);
        let now = self.now;
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        let mut share = u64::MAX;
        if let Phase::Peer(peer) = &conn.phase
            && peer.wants_to_send()
        {
            let all = self.settings.upload_pace.limited().into_iter();
            for pace in all.chain(peer.served.torrent.upload_paces()) {
                // Not before those who wait already, and who are fed in turn.
                if !conn.paced && !conn.starved && !fed && (!pace.is_due(now) || !self.paced.is_empty()) {
                    conn.paced = true;
                    self.paced.push_back(owner);
                    self.counters.uploads_paced += 1;
                }
                share = share.min(pace.share());
            }
        }
        let (mut starved, mut unread) = (false, None);
        if let Phase::Peer(peer) = &mut conn.phase
            && !conn.paced
        {
            peer.upload.share = u32::try_from(share).unwrap_or(u32::MAX);
            starved = match first {
                true => {
                    let stopped = stage(
                        &mut self.driver,
                        &mut self.disk,
                        &mut self.counters,
                        owner,
                        peer,
                        &mut conn.out,
                    );
                    if let Stopped::Unread(piece) = stopped {
                        unread = Some(piece);
                    }
                    stopped == Stopped::Full
                }
                false => peer.wants_to_stage(),
            };
        }
        if conn.send.is_none() {
            let mut batch = self.batches.take();
            conn.flush_small(&mut batch);
            if let Phase::Peer(peer) = &mut conn.phase
                && !conn.paced
            {
                let before = batch.left();
                // What was read and taken back before its turn came has to be waited for again, or nobody would.
                starved |= collect(
                    &mut self.driver,
                    &mut self.disk,
                    &mut self.counters,
                    owner,
                    peer,
                    &mut conn.out,
                    &mut batch,
                );
                if batch.left() == 0 {
                    conn.flush_small(&mut batch);
                } else if share != u64::MAX {
                    let all = self.settings.upload_pace.limited().into_iter();
                    for pace in all.chain(peer.served.torrent.upload_paces()) {
                        pace.charge(batch.left() - before, now);
                    }
                }
            }
            self.send(owner, batch);
        }
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if conn.peer().is_some_and(|peer| peer.upload.unanswerable) {
            // It comes back, and is told then which pieces there are.
            return self.end(owner, Reason::PieceWithdrawn, None);
        }
        if starved && !conn.starved {
            conn.starved = true;
            self.starved.push_back(owner);
        }
        if let Some(piece) = unread {
            self.verify_for(owner, piece);
        }
    }

    /// Sends a batch, unless there is nothing in it.
    fn send(&mut self, owner: Owner, batch: Box<SendBatch>) {
        let Some(conn) = self.conns.get_mut(owner) else {
            self.batches.give(batch);
            return;
        };
        if batch.left() == 0 {
            self.batches.give(batch);
            return;
        }
        conn.sent_at = conn.unmoved_since.take().unwrap_or(self.tick);
        if let Phase::Peer(peer) = &mut conn.phase {
            peer.upload.begun_at = self.tick;
        }
        conn.submit(&mut self.driver, &mut self.lent, owner, batch);
        let stalled_at = conn.sent_at + STALLED_TICKS;
        self.wake_at(owner, stalled_at);
    }

    /// A send has ended, perhaps in part.
    pub(super) fn on_sent(
        &mut self,
        owner: Owner,
        result: Result<u32, Errno>,
        batch: Option<Box<SendBatch>>,
        lent: bool,
    ) {
        let mut batch = self.returned(owner, batch);
        let refused = result.is_err_and(|errno| lent && self.on_lent_error(owner, errno));
        let Some(conn) = self.conns.get_mut(owner) else {
            return self.on_tracker_sent(owner, result, batch);
        };
        match result {
            Ok(taken) => {
                conn.sent_at = self.tick;
                if let Phase::Peer(peer) = &mut conn.phase {
                    let sent = peer.on_taken(taken, self.now, &mut self.counters, &mut self.request_latency);
                    self.uploads.count(&peer.served, sent);
                }
            }
            // Cancelled, or interrupted: nothing was taken, go on.
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(_) if refused => {}
            Err(errno) => {
                self.batches.give(batch);
                return self.end(owner, Reason::of_socket(errno), Some(errno));
            }
        }
        if conn.may_say_what_is_lost() {
            self.batches.give(batch);
            return self.end(owner, Reason::TorrentRemoved, None);
        }
        if batch.left() > 0 {
            self.counters.short_sends += u64::from(result.is_ok());
            if let Phase::Peer(peer) = &mut conn.phase {
                peer.upload.short |= result.is_ok();
                if peer.upload.yielding && batch.holds_buffers() {
                    peer.upload.keep_begun(&mut batch);
                    peer.refuse_unstaged_if_choked(&mut self.counters, &mut conn.out);
                    self.counters.reclaimed_sends += 1;
                }
            }
        }
        if batch.left() > 0 {
            conn.submit(&mut self.driver, &mut self.lent, owner, batch);
            return;
        }
        self.batches.give(batch);
        if let Some(reason) = conn.ends {
            return self.end(owner, reason, None);
        }
        conn.send = None;
        conn.unmoved_since = result.is_err().then_some(conn.sent_at);
        if let Phase::Peer(peer) = &mut conn.phase {
            let upload = &mut peer.upload;
            upload.taken = 0;
            let slow = std::mem::take(&mut upload.short) | std::mem::take(&mut upload.yielding);
            upload.window = match slow {
                true => (upload.window / 2).max(WINDOW_MIN),
                false => (upload.window * 2).min(WINDOW_MAX),
            };
        }
        self.touch(owner);
    }

    /// Time has passed: those who wait for the upload rate send, in order, until it is used up. One whose torrent or folder has
    /// used up its own waits on, behind the others.
    pub(super) fn feed_paced(&mut self) {
        for _ in 0..self.paced.len() {
            let now = self.now;
            if !self.settings.upload_pace.is_due(now) {
                return;
            }
            let Some(owner) = self.paced.pop_front() else {
                return;
            };
            let Some(conn) = self.conns.get_mut(owner) else {
                continue;
            };
            let is_due = |torrent: &Torrent| torrent.upload_paces().all(|pace| pace.is_due(now));
            if conn.peer().is_some_and(|peer| !is_due(&peer.served.torrent)) {
                self.paced.push_back(owner);
                continue;
            }
            conn.paced = false;
            let first = self.starved.is_empty();
            self.pump_in_line(owner, first, true);
        }
    }

    /// Buffers may have come free: those who wait for one try again, in order, until one is told to wait once more.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.starved.len() {
            let Some(owner) = self.starved.pop_front() else {
                return;
            };
            let Some(conn) = self.conns.get_mut(owner) else {
                continue;
            };
            conn.starved = false;
            self.pump_in_line(owner, true, true);
            if self.conns.get(owner).is_some_and(|conn| conn.starved) {
                // The first in line stays the first.
                self.starved.pop_back();
                self.starved.push_front(owner);
                return;
            }
        }
    }

    /// Extents could not be read: what was wanted from them is read another way, or later, or withdrawn.
    pub(super) fn on_disk_failures(&mut self) {
        let mut lost = Vec::new();
        for Failure { waiters, served, what } in std::mem::take(&mut self.disk.failures) {
            for waiter in waiters {
                if self.on_early_unread(waiter, &what) || self.on_unread_failed(waiter, &what) {
                    continue;
                }
                let Waiter { conn, piece } = waiter;
                match &what {
                    Failed::ForNow => {
                        self.later.push(conn);
                        continue;
                    }
                    Failed::Extent | Failed::Moved => {}
                    // The supervisor tells it once per torrent.
                    Failed::Block(why) => {
                        if served.torrent.withdraw(piece, why) {
                            lost.push((served.number, piece));
                            let torrent = served.torrent.info_hash();
                            tracing::debug!(%torrent, piece = piece.get(), "piece is no longer served: {why}");
                        }
                    }
                }
                self.touch(conn);
            }
        }
        for (number, piece) in lost {
            self.on_piece_lost(number, piece);
        }
    }
}

impl Upload {
    /// A request was admitted to the peer's queue.
    pub(super) fn on_request(&mut self, now: Instant) {
        match self.arrivals.back_mut() {
            Some((at, count)) if *at == now => *count += 1,
            _ => self.arrivals.push_back((now, 1)),
        }
    }

    /// A request left the queue unserved; which one does not matter for a histogram.
    pub(super) fn on_cancel(&mut self) {
        self.pop_arrival();
    }

    /// The queue was emptied. Gives the blocks that had left it and were not staged: they are not sent either.
    pub(super) fn on_choke(&mut self) -> impl Iterator<Item = BlockRequest> + use<> {
        self.arrivals = VecDeque::new();
        std::mem::take(&mut self.unstaged).into_iter().map(|(block, _)| block)
    }

    /// Forgets a block that waits to be staged again. False if it is none of these.
    pub(super) fn forget_unstaged(&mut self, block: &BlockRequest) -> bool {
        let at = self.unstaged.iter().position(|(unstaged, _)| unstaged == block);
        at.and_then(|at| self.unstaged.remove(at)).is_some()
    }

    pub(super) fn has_window(&self) -> bool {
        self.staged_len < self.window.min(self.share)
            && self.staged.len() < STAGED_MAX
            && !self.yielding
            && !self.held_back
    }

    /// Whether buffers are held, or about to be, since tick `since` or longer.
    pub(super) fn has_held_since(&self, since: u64) -> bool {
        let holds = !self.sending.is_empty() || !self.staged.is_empty();
        holds && !self.yielding && self.begun_at <= since
    }

    /// Gives the blocks of the window back to the queue, to be staged again once the send in flight has ended.
    /// [`Upload::keep_begun`] does the same for the send.
    pub(super) fn yield_staged(&mut self) {
        self.yielding = true;
        self.window = WINDOW_MIN;
        self.staged_len = 0;
        for staged in self.staged.drain(..).rev() {
            self.unstaged.push_front((staged.block, staged.asked_at));
        }
    }

    /// Keeps of a batch what must be sent before anything else: the rest of the small messages or of the block that was
    /// begun. The other blocks go back to the queue, and every buffer is let go.
    fn keep_begun(&mut self, batch: &mut SendBatch) {
        let kept_to = match self.sending.front() {
            Some(first) if first.start < self.taken => first.end,
            Some(first) => first.start,
            None => self.taken + batch.left(),
        };
        let begun = self.sending.front().is_some_and(|first| first.end == kept_to);
        for sending in self.sending.drain(usize::from(begun)..).rev() {
            self.unstaged.push_front((sending.block, sending.asked_at));
        }
        batch.keep_copy(usize::try_from(kept_to - self.taken).expect("less than a batch"));
    }

    /// Blocks in the window.
    #[cfg(test)]
    pub(super) fn staged_count(&self) -> usize {
        self.staged.len()
    }

    pub(super) fn pop_arrival(&mut self) -> Option<Instant> {
        let (at, count) = self.arrivals.front_mut()?;
        let arrived = *at;
        *count -= 1;
        if *count == 0 {
            self.arrivals.pop_front();
        }
        Some(arrived)
    }
}

impl PeerConn {
    /// The socket took so many bytes of the batch. Gives how many of payload it has taken whole blocks of by that.
    fn on_taken(&mut self, taken: u32, now: Instant, counters: &mut Counters, request_latency: &mut Histogram) -> u64 {
        let upload = &mut self.upload;
        let mut payload = 0;
        upload.taken += u64::from(taken);
        while upload.sending.front().is_some_and(|first| first.end <= upload.taken)
            && let Some(sent) = upload.sending.pop_front()
        {
            let len = u64::from(sent.block.length());
            payload += len;
            counters.uploaded_blocks += 1;
            self.uploaded_since_unchoke += len;
            self.rate.add(len, now);
            request_latency.record(now.saturating_duration_since(sent.asked_at), 1);
        }
        counters.uploaded_bytes += payload;
        payload
    }

    /// What was given back by a peer that has been choked meanwhile is not sent either.
    pub(super) fn refuse_unstaged_if_choked(&mut self, counters: &mut Counters, out: &mut Vec<u8>) {
        if !self.peer.am_choking() {
            return;
        }
        for block in self.upload.on_choke() {
            counters.requests_refused += 1;
            if self.peer.fast() {
                wire::encode(&Message::reject(&block), out);
            }
        }
    }

    /// Whether there is a block to be sent.
    fn wants_to_send(&self) -> bool {
        !self.upload.staged.is_empty() || !self.upload.unstaged.is_empty() || self.peer.request_count() > 0
    }

    /// Whether there is a request that the window has room for.
    fn wants_to_stage(&self) -> bool {
        let upload = &self.upload;
        upload.has_window() && (!upload.unstaged.is_empty() || self.peer.request_count() > 0)
    }

    /// The next block to stage, and when it was asked for.
    pub(super) fn next_request(&mut self) -> Option<(BlockRequest, Instant)> {
        if let Some(unstaged) = self.upload.unstaged.pop_front() {
            return Some(unstaged);
        }
        let block = self.peer.next_request()?;
        let arrived = self.upload.pop_arrival().unwrap_or(self.peer.heard_at());
        Some((block, arrived))
    }
}

impl Conn {
    /// Whether what has waited for a send to end may tell of pieces that were there then, and that a failed sync has lost since. It
    /// is not sent: the torrent leaves in a moment, and its connections with it.
    fn may_say_what_is_lost(&self) -> bool {
        self.peer().is_some_and(|peer| peer.served.torrent.has_lost())
    }

    /// Begins the send of a batch.
    fn submit<D: Driver>(&mut self, driver: &mut D, lent: &mut Lent, owner: Owner, mut batch: Box<SendBatch>) {
        let zero_copy = lent.lend(self, &mut batch, driver.pool().count());
        let op = Op::Send {
            socket: self.socket.clone(),
            batch,
            zero_copy,
            last: false,
        };
        self.send = Some(driver.submit(owner, op));
    }

    /// Moves the small messages that wait to the end of a batch.
    fn flush_small(&mut self, batch: &mut SendBatch) {
        batch.push_bytes(&self.out);
        // Not kept: most peers say nothing for minutes.
        self.out = Vec::new();
    }

    /// Queues a small message.
    pub(super) fn say(&mut self, message: &Message<'_>) {
        wire::encode(message, &mut self.out);
    }
}
