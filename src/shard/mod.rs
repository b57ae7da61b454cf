//! A shard: one thread, one ring, one listening socket, and everything its connections need. Shards share nothing on
//! the path of a block.
//!
//! A shard is a state machine. Completions come in through a [`Driver`], operations go out, the time is told from
//! outside; nothing in here waits. One turn: sleep in the driver for completions or the next deadline, handle each
//! completion ([`Shard::turn`] has the match), then pump each connection that was touched, once.
//!
//! The rooms within:
//! - `accept` and `limits`: who may come in;
//! - `peers`: what a connection says, from its handshake on; `held`: when not to listen;
//! - `resting`: torrents that nobody has wanted lately;
//! - `upload`: from a request to bytes in the socket; `stage`: what blocks wait for meanwhile; `pace`: no faster than allowed;
//!   `disk`: from a file to bytes in memory; `verified`: what is hashed before its first byte is sent; `gone`: requests for what is no longer there; `uploaded`: how much of which torrent;
//! - `lending`: sends that copy nothing; `reclaim`: buffers taken back from those who do not send them;
//! - `deadlines`: who is late; `choking`: who may ask;
//! - `dial`: connections made from here; `handover`: those that belong to another shard;
//! - `download`: a torrent that is not complete; `leech`: what a peer is asked for and sends; `late`: what is
//!   better asked of another; `assembly`: pieces in memory; `early`: those too long for that;
//!   `verify`: from the last block to a bit; `write`: from a piece to its files; `events`: what the control plane does of it;
//! - `tracker`: the tracker's sockets, connections and deadlines;
//! - `report`: what is told of peers to who asks;
//! - `gather`: when many peers ask for little; `mailbox`: what the control plane says; `start`: threads, rings and listeners.
//!
//! Deliberately absent: parsing (`proto`), SQEs (`io`), where files lie (`storage`).

#![forbid(unsafe_code)]

mod accept;
mod assembly;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod audit;
mod choking;
mod conn;
mod deadlines;
mod dial;
mod disk;
mod download;
mod early;
mod ended;
mod events;
mod gather;
mod gone;
mod handover;
mod held;
mod late;
mod leech;
mod lending;
mod limits;
mod mailbox;
mod pace;
mod peers;
mod reclaim;
mod report;
mod resting;
mod slots;
mod spares;
mod stage;
mod start;
#[cfg(test)]
mod tests;
mod torrent;
pub mod tracker;
mod upload;
mod uploaded;
mod verified;
mod verify;
mod wheel;
mod write;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::hashing::{Done, Job, Pool, Reply};
use crate::io::{self, Completion, Driver, Errno, Outcome, Owner, Token, Wait};
use crate::proto::choker::{Candidate, SeedChoker};
use crate::proto::geometry::BlockRequest;
use crate::proto::{InfoHash, PeerId, choker};
use crate::stats::{Counters, Histogram, Shared};
use crate::storage::Loan;
use crate::storage::read_modes::How;
use accept::Silent;
use assembly::Assembly;
use conn::{Conn, Phase, Served, SpareBatches};
use disk::Disk;
use download::Download;
use ended::Reason;
pub use events::{Event, Events};
use gather::Gather;
pub use handover::Handed;
use lending::Lent;
pub use limits::{Caps, Limits};
pub use mailbox::{Command, Full, Inbox, Mailbox, mailbox};
pub use pace::{FolderPace, Pace};
pub use report::{PeerStatus, PeersReply, PeersTold};
pub use resting::Resting;
use slots::Slots;
pub use start::{
    BACKLOG, CACHE_LEN_MIN, DATAGRAM_QUEUE_LEN, Handle, RING_ENTRIES_MAX, ShardConfig, StartError, listeners,
    may_come_later, spawn,
};
pub use torrent::Torrent;
use uploaded::Uploads;
use verified::Verifying;
use wheel::{TICK, Wheel};
use write::Writes;

/// How files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// As is best: past the page cache where the filesystem allows, else through it without leaving anything there, else
    /// through it.
    #[default]
    Auto,
    /// The same, by name.
    Direct,
    /// Through the page cache.
    Buffered,
}

impl ReadMode {
    /// What a filesystem is tried with first.
    fn first(self) -> How {
        match self {
            ReadMode::Auto | ReadMode::Direct => How::Direct,
            ReadMode::Buffered => How::Cached,
        }
    }
}

/// What a shard is told when it is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which shard it is, from 0.
    pub index: u32,
    /// How all shards are reached, itself among them, in the order of their indices.
    pub mailboxes: Arc<[Mailbox]>,
    /// Who hashes what was downloaded.
    pub pool: Arc<Pool>,
    /// Memory for pieces that are being put together, hashed or written, in bytes.
    pub write_buffer: u64,
    /// What checks have borrowed of all shards' write buffers.
    pub loan: Arc<Loan>,
    /// The least sleep while many peers ask for little, so that several are answered at once.
    pub gather_wait: Duration,
    /// Who is told what a disk has to be waited for.
    pub events: Events,
    /// Our peer id, the same on all shards.
    pub peer_id: PeerId,
    /// Caps on connections, shared by all shards.
    pub limits: Arc<Limits>,
    /// Upload slots of this shard; zero is no limit.
    pub upload_slots: u32,
    /// How slots are given out when they are fewer than the interested peers.
    pub choker: choker::Kind,
    /// How files are read.
    pub read_mode: ReadMode,
    /// Files held open.
    pub files_max: usize,
    /// The upload rate that all shards keep to together, if there is one. It may be changed meanwhile.
    pub upload_pace: Arc<Pace>,
    /// The download rate, likewise.
    pub download_pace: Arc<Pace>,
    /// The tracker, if there is one.
    pub tracker: Option<tracker::Service>,
    /// What else is served when it is asked for.
    pub resting: Arc<Resting>,
    /// Where the figures go.
    pub stats: Arc<Shared>,
}

/// Longest sleep, so that figures and the sign of life are never older.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How long a shard that stops waits for its operations to end.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Whether the shard goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Turn again.
    Continue,
    /// It has stopped.
    Stop,
}

/// A listening socket.
#[derive(Debug)]
struct Listener {
    /// `None` when another has taken its place.
    socket: Option<io::Handle>,
    accept: Option<Token>,
}

/// The shard.
pub struct Shard<D: Driver> {
    driver: D,
    settings: Settings,
    listeners: Vec<Listener>,
    /// Accepting is paused until this tick.
    accept_again: Option<u64>,
    inbox: Receiver<Command>,
    bell: io::Handle,

    /// When tick zero was, this turn's time, and its tick.
    epoch: Instant,
    now: Instant,
    tick: u64,
    /// When a tick was last seen.
    ticked_at: Instant,
    gather: Gather,
    wheel: Wheel<Owner>,
    due: Vec<Owner>,

    torrents: HashMap<InfoHash, Rc<Served>>,
    /// Connections that wait for torrents which rest.
    waiting: HashMap<InfoHash, Vec<Owner>>,
    next_number: u32,
    conns: Slots<Conn>,
    /// Connections to pump this turn.
    touched: Vec<Owner>,
    /// Connections whose receive must be armed again.
    unarmed: Vec<Owner>,
    /// Connections whose request queue has room again.
    listenable: Vec<Owner>,
    crowd: held::Crowd,
    /// Connections whose disk operations wait for the machine to have descriptors, memory or threads again: the next tick.
    later: Vec<Owner>,
    /// Connections that make way when all places are taken.
    silent: Silent,
    /// Connections that wait for a free buffer, longest first.
    starved: VecDeque<Owner>,
    /// Connections that wait for the upload rate, longest first.
    paced: VecDeque<Owner>,
    batches: SpareBatches,
    /// What of the shard is the tracker's.
    tracker: Option<Box<tracker::Serving>>,
    /// Buffers that sockets read from.
    lent: Lent,
    disk: Disk,

    /// Torrents that are being downloaded, by the shard's numbers for them.
    downloads: BTreeMap<u32, Download>,
    assembly: Assembly,
    verifier: Verifier,
    verifying: Verifying,
    writes: Writes,
    /// Connections that could ask for more, were there anything to ask for or memory for it.
    hungry: Vec<Owner>,
    /// Connections that wait for the download rate, longest first.
    thirsty: VecDeque<Owner>,
    /// Blocks to ask for. Kept for its room.
    picked: Vec<BlockRequest>,
    /// Connections that are being made.
    half_open: usize,
    /// When requests were last looked at.
    looked_at: u64,

    choker: SeedChoker,
    candidates: Vec<Candidate>,
    decisions: Vec<(u32, bool)>,
    peers: u64,
    interested: u64,
    unchoked: u64,
    /// State of the generator for choices that need no secrecy.
    random: u64,

    completions: Vec<Completion>,
    counters: Counters,
    uploads: Uploads,
    request_latency: Histogram,
    loop_stall: Histogram,
    /// The torrent whose turn it is to connect to peers.
    dial_from: u32,
    /// When stopping began.
    stopping: Option<Instant>,
}

/// The way to the hashing pool and back.
struct Verifier {
    pool: Arc<Pool>,
    reply: Reply,
    verdicts: Receiver<Done>,
    /// What the pool had no room for.
    waiting: VecDeque<Job>,
    /// Pieces without a verdict.
    out: usize,
}

impl Verifier {
    fn new(settings: &Settings) -> Verifier {
        let (sender, verdicts): (Sender<Done>, _) = channel();
        let reply = match settings.mailboxes.get(settings.index as usize) {
            Some(own) => Reply::with_bell(sender, own.bell()),
            None => Reply::from(sender),
        };
        Verifier {
            pool: Arc::clone(&settings.pool),
            reply,
            verdicts,
            waiting: VecDeque::new(),
            out: 0,
        }
    }
}

/// Owner of operations that concern the shard itself: listeners by their index, and the doorbell.
fn of_shard(index: usize) -> Owner {
    Owner {
        index: index as u32,
        generation: u32::MAX,
    }
}

impl<D: Driver> Shard<D> {
    /// A shard that accepts from `listeners` and listens to `inbox` when `bell` rings. `seed` is for choices that need no
    /// secrecy, `now` is tick zero.
    pub fn new(
        driver: D,
        settings: Settings,
        listeners: Vec<io::Handle>,
        inbox: Receiver<Command>,
        bell: io::Handle,
        seed: u64,
        now: Instant,
    ) -> Shard<D> {
        let mut shard = Shard {
            disk: Disk::new(settings.files_max, settings.read_mode.first()),
            choker: SeedChoker::new(settings.choker, settings.upload_slots),
            downloads: BTreeMap::new(),
            assembly: Assembly::new(
                settings.write_buffer.max(assembly::BUFFER_MIN),
                Arc::clone(&settings.loan),
                settings.mailboxes.len(),
            ),
            gather: Gather::new(settings.gather_wait),
            verifier: Verifier::new(&settings),
            verifying: Verifying::default(),
            writes: Writes::new(),
            hungry: Vec::new(),
            thirsty: VecDeque::new(),
            picked: Vec::new(),
            half_open: 0,
            looked_at: 0,
            driver,
            settings,
            listeners: listeners
                .into_iter()
                .map(|socket| Listener {
                    socket: Some(socket),
                    accept: None,
                })
                .collect(),
            accept_again: None,
            inbox,
            bell,
            epoch: now,
            now,
            tick: 0,
            ticked_at: now,
            wheel: Wheel::new(),
            due: Vec::new(),
            torrents: HashMap::new(),
            waiting: HashMap::new(),
            next_number: 0,
            conns: Slots::new(),
            touched: Vec::new(),
            unarmed: Vec::new(),
            listenable: Vec::new(),
            crowd: held::Crowd::default(),
            later: Vec::new(),
            silent: Silent::default(),
            starved: VecDeque::new(),
            paced: VecDeque::new(),
            batches: SpareBatches::default(),
            tracker: None,
            lent: Lent::default(),
            candidates: Vec::new(),
            decisions: Vec::new(),
            peers: 0,
            interested: 0,
            unchoked: 0,
            random: seed | 1,
            completions: Vec::new(),
            counters: Counters::default(),
            uploads: Uploads::default(),
            request_latency: Histogram::default(),
            loop_stall: Histogram::default(),
            stopping: None,
            dial_from: 0,
        };
        shard.arm_accepts();
        shard.arm_bell();
        shard
    }

    /// Turns until told to stop.
    ///
    /// # Errors
    /// When the driver fails, which ends the shard.
    pub fn run(&mut self) -> Result<(), Errno> {
        while self.turn(Instant::now)? == Flow::Continue {}
        Ok(())
    }

    /// One turn; `clock` tells the time when the sleep is over, and once more at the end.
    ///
    /// # Errors
    /// When the driver fails, which ends the shard.
    pub fn turn(&mut self, clock: impl Fn() -> Instant) -> Result<Flow, Errno> {
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.turn(self.wait(), &mut completions)?;
        self.now = clock();
        // Where there is a rate, it is also slept until more may be sent.
        self.gather
            .on_turn(self.now, self.paced.is_empty() && self.thirsty.is_empty());
        let tick = (self.now.saturating_duration_since(self.epoch).as_nanos() / TICK.as_nanos()) as u64;
        let ticked = tick > self.tick;
        self.tick = tick;
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
        self.on_disk_events();
        if ticked {
            self.on_tick();
        }
        self.look_at_clocks();
        self.pump_touched();
        self.counters.turns += 1;
        let done = clock();
        self.gather.on_turned(done);
        self.loop_stall.record(done.saturating_duration_since(self.now), 1);
        if ticked {
            self.publish();
        }
        Ok(self.flow())
    }

    /// Every completion is met here; a new kind of outcome does not compile until it is.
    fn dispatch(&mut self, completion: Completion) {
        let owner = completion.owner;
        match completion.outcome {
            Outcome::Accepted { result, more } => self.on_accepted(owner, result, more),
            Outcome::Received { result, more } => self.on_received(owner, result, more),
            Outcome::Sent { result, batch, lent } => self.on_sent(owner, result, batch, lent),
            Outcome::Released { batch, copied } => self.on_released(owner, batch, copied),
            Outcome::ReadDone { result, buf } => {
                self.disk
                    .on_read_done(&mut self.driver, &mut self.counters, owner, result, buf);
            }
            Outcome::Opened { result, write: false } => {
                self.disk.on_opened(&mut self.driver, &mut self.counters, owner, result);
            }
            Outcome::Opened { result, write: true } => {
                self.writes
                    .on_opened(&mut self.driver, &mut self.counters, owner, result);
                self.on_writes();
            }
            Outcome::Connected { result } => self.on_connected(owner, result),
            Outcome::Written { result, bytes } => {
                self.writes
                    .on_written(&mut self.driver, &mut self.counters, owner, result, bytes);
                self.on_writes();
            }
            Outcome::Rung { result } => self.on_bell(result),
            Outcome::ReceivedFrom { result, more } => self.on_datagram(owner, result, more),
        }
    }

    /// Wakes those whose extents have come, and tells those whose extents will not.
    fn on_disk_events(&mut self) {
        for waiter in std::mem::take(&mut self.disk.woken) {
            if !self.on_early_read(waiter) && !self.on_unread_read(waiter) {
                self.touch(waiter.conn);
            }
        }
        self.on_disk_failures();
    }

    fn pump_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for owner in touched.drain(..) {
            self.pump(owner);
        }
        self.feed_thirsty();
        self.feed_paced();
        // Behind those whose extents have just come: these are theirs only once they have been pumped, and would be the
        // first to be taken from them.
        self.feed_starved();
        self.feed_early();
        self.write_idle_runs();
        self.tend_verifying();
        // Pumping may have failed a fill at once (a path the kernel cannot take); whom that touched goes next turn.
        touched.append(&mut self.touched);
        self.touched = touched;
        self.on_disk_events();
        for owner in std::mem::take(&mut self.listenable) {
            self.listen_again(owner);
        }
        for owner in std::mem::take(&mut self.unarmed) {
            self.arm_receive(owner);
        }
        self.end_tracker_turn();
    }

    /// Sees to it that a connection is pumped at the end of this turn.
    fn touch(&mut self, owner: Owner) {
        if let Some(conn) = self.conns.get_mut(owner)
            && !conn.touched
        {
            conn.touched = true;
            self.touched.push(owner);
        }
    }

    pub(crate) fn wait(&self) -> Wait {
        if !self.touched.is_empty() || !self.due.is_empty() {
            return Wait::POLL;
        }
        // At the next tick those who are slow give buffers back to those who wait.
        let is_awaited = !self.later.is_empty() || !self.starved.is_empty() || self.assembly.early.waits_for_tick();
        let is_awaited = is_awaited || self.verifying.waits_for_tick();
        let later = is_awaited.then_some(self.tick + 1);
        let next = self
            .wheel
            .next()
            .into_iter()
            .chain(self.accept_again)
            .chain(later)
            .chain(self.tracker_wakes_at())
            .min();
        let at_most = next.map_or(SLEEP_MAX, |tick| {
            let due = self.epoch + TICK * u32::try_from(tick).unwrap_or(u32::MAX);
            due.saturating_duration_since(self.now).min(SLEEP_MAX)
        });
        let at_most = match self.paced.is_empty() && self.thirsty.is_empty() {
            true => at_most.max(Duration::from_millis(1)),
            false => at_most.clamp(Duration::from_millis(1), pace::QUANTUM),
        };
        Wait {
            at_most,
            // The ring takes none that is not shorter.
            at_least: self.gather.at_least().min(at_most / 2),
            enough: self.gather.enough(),
        }
    }

    fn arm_bell(&mut self) {
        let event = self.bell.clone();
        self.driver.submit(of_shard(usize::MAX), io::Op::Doorbell { event });
    }

    fn on_bell(&mut self, result: Result<(), Errno>) {
        // Whatever ended the read, the queue is looked at, and the bell is armed again: a lost ring would be a lost command.
        if result.is_err() && self.stopping.is_some() {
            return;
        }
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Add(torrent) => self.add(torrent),
                Command::Remove(info_hash) => self.remove(info_hash),
                Command::Rest(info_hash) => self.rest(info_hash),
                Command::Refuse(info_hash) => self.refuse_waiting(info_hash),
                Command::Peers {
                    info_hash,
                    addrs,
                    named,
                } => self.on_addrs(info_hash, &addrs, named),
                Command::Forget { info_hash, addrs } => self.forget_addrs(info_hash, &addrs),
                Command::Prepared { info_hash, made } => self.on_prepared(info_hash, made),
                Command::TellPeers { info_hash, reply } => self.tell_peers(info_hash, reply),
                Command::Take(handed) => self.take(*handed),
                Command::Choke { kind, slots } => self.choker.set(kind, slots),
                Command::Listen(fds) => self.listen_at(fds),
                Command::Stop => self.stop(),
            }
        }
        self.on_verdicts();
        if self.stopping.is_none() {
            self.arm_bell();
        }
    }

    fn add(&mut self, torrent: Arc<Torrent>) {
        let info_hash = torrent.info_hash();
        let known = self.torrents.get(&info_hash);
        if known.is_some_and(|served| Arc::ptr_eq(&served.torrent, &torrent)) {
            return; // It was to rest, and somebody is connected.
        }
        self.remove(info_hash);
        let number = self.next_number;
        self.next_number += 1;
        let is_ours = torrent.home() == Some(self.settings.index);
        let served = Served::new(torrent, number);
        self.torrents.insert(info_hash, served.clone());
        if is_ours {
            let seed = self.next_random();
            let mut download = Download::new(served.clone(), seed, self.tick);
            let piece_len = served.torrent.geometry().piece_len_max();
            download.early = self.assembly.is_too_short_for(piece_len.into());
            self.downloads.insert(number, download);
            if served.torrent.is_complete() {
                self.complete(number);
            }
        }
        self.let_waiting_in(info_hash);
    }

    fn on_addrs(&mut self, info_hash: InfoHash, addrs: &[SocketAddr], named: bool) {
        let number = self.torrents.get(&info_hash).map(|served| served.number);
        let Some(download) = number.and_then(|number| self.downloads.get_mut(&number)) else {
            return; // Complete, or gone.
        };
        download.add_peers(addrs, named, self.tick);
        let number = download.served.number;
        while self.stopping.is_none() && self.dial_for(number) {}
    }

    fn forget_addrs(&mut self, info_hash: InfoHash, addrs: &[SocketAddr]) {
        let number = self.torrents.get(&info_hash).map(|served| served.number);
        if let Some(download) = number.and_then(|number| self.downloads.get_mut(&number)) {
            addrs.iter().for_each(|addr| download.dial.forget(*addr));
        }
    }

    fn remove(&mut self, info_hash: InfoHash) {
        let Some(served) = self.torrents.remove(&info_hash) else {
            return;
        };
        let leaving: Vec<Owner> = self
            .conns
            .iter()
            .filter(|(_, conn)| {
                let of = conn.peer().map(|peer| &peer.served);
                let of = of.or(conn.dialed.as_ref().map(|dialed| &dialed.served));
                of.is_some_and(|of| of.number == served.number)
            })
            .map(|(owner, _)| owner)
            .collect();
        // So that nobody who leaves gives back what he was asked for.
        if let Some(mut download) = self.downloads.remove(&served.number) {
            download.release(&mut self.assembly);
            for span in download.stuck {
                let _ = self.writes.give_up(span);
            }
        }
        for owner in leaving {
            self.end(owner, Reason::TorrentRemoved, None);
        }
        self.verifying.forget_all(served.number);
        self.disk.forget(served.number);
        self.writes.forget(served.number);
    }

    fn stop(&mut self) {
        self.stopping = Some(self.now);
        for listener in &mut self.listeners {
            if let Some(token) = listener.accept.take() {
                self.driver.cancel(token);
            }
        }
        let all: Vec<Owner> = self.conns.iter().map(|(owner, _)| owner).collect();
        for owner in all {
            self.end(owner, Reason::Stopping, None);
        }
        self.stop_tracker();
    }

    fn flow(&mut self) -> Flow {
        let Some(since) = self.stopping else {
            return Flow::Continue;
        };
        if self.driver.in_flight() == 0 || self.now.saturating_duration_since(since) > STOP_PATIENCE {
            self.tell_last_news();
            self.publish();
            return Flow::Stop;
        }
        Flow::Continue
    }

    /// Ends a connection. Its place is free at once; operations in flight keep what they need and find nobody when they
    /// end.
    fn end(&mut self, owner: Owner, reason: Reason, errno: Option<Errno>) {
        let Some(mut conn) = self.conns.remove(owner) else {
            return;
        };
        tracing::debug!(peer = %conn.addr, reason = reason.label(), ?errno, "connection ended");
        self.settings.stats.count_drop(reason.label());
        self.settings.limits.leave(conn.addr.ip());
        if let Some(peer) = conn.peer() {
            peer.served
                .torrent
                .connections
                .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            self.peers -= 1;
            self.interested -= u64::from(peer.peer.peer_interested());
            self.unchoked -= u64::from(!peer.peer.am_choking());
        }
        self.driver.shutdown(&conn.socket, reason.ending());
        if let Some(token) = conn.connect.take() {
            self.half_open -= 1;
            self.driver.cancel(token);
        }
        let useful = conn
            .peer()
            .and_then(|peer| peer.leech.as_ref())
            .is_some_and(|leech| leech.useful);
        match &mut conn.phase {
            Phase::Peer(peer) => self.end_leeching(peer),
            Phase::Waiting { info_hash, .. } => self.forget_waiting(owner, *info_hash),
            Phase::Handshake { .. } | Phase::Leaving { .. } => {}
        }
        self.tell_dial(&conn, useful, reason);
    }

    fn publish(&mut self) {
        self.uploads.publish();
        self.downloads.values_mut().for_each(Download::publish);
        let driver = self.driver.counters();
        let pool = self.driver.pool();
        self.counters.connections_now = self.conns.len() as u64;
        (self.counters.gathering_now, self.counters.gathering_doubled_now) = self.gather.is_on();
        self.counters.peers_now = self.peers;
        self.counters.peers_interested_now = self.interested;
        self.counters.peers_unchoked_now = self.unchoked;
        self.counters.devices_direct_now = self.disk.modes.count(How::Direct);
        self.counters.devices_uncached_now = self.disk.modes.count(How::Uncached);
        self.counters.devices_cached_now = self.disk.modes.count(How::Cached);
        self.counters.reads_waiting_now = self.disk.reads_waiting();
        self.counters.torrents_now = self.torrents.len() as u64;
        self.counters.downloads_now = self.downloads.len() as u64;
        self.counters.requests_now = self.requests_under_way();
        self.counters.assembly_now = self.assembly.reserved();
        self.counters.buffers_now = u64::from(pool.count());
        self.counters.buffers_free_now = u64::from(pool.free());
        self.counters.uring_enters = driver.enters;
        self.counters.uring_sqes = driver.sqes;
        self.counters.uring_cqes = driver.cqes;
        self.counters.uring_overflows = driver.overflows;
        self.counters.uring_stale = driver.stale;
        self.counters.uring_enobufs = driver.recv_starved;
        self.counters.uring_cancelled_unasked = driver.cancelled_unasked;
        self.counters.tracker_datagrams_too_long = driver.datagrams_too_long;
        self.counters.tracker_replies_unsent = driver.datagrams_unsent;
        self.counters.uring_zero_copy_sent = driver.zero_copy_sent;
        self.counters.uring_zero_copy_copied = driver.zero_copy_copied;
        self.counters.uring_zero_copy_lent_now = self.lent.bytes();
        self.counters.uring_in_flight_now = self.driver.in_flight() as u64;
        let uptime = self.now.saturating_duration_since(self.epoch);
        self.settings
            .stats
            .publish(&self.counters, &self.request_latency, &self.loop_stall, uptime);
    }

    /// A number nobody can guess from outside, good enough for choices.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
