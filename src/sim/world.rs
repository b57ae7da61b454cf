//! Everything outside of the btds: time, the order in which things happen, hosts, and what goes wrong at the moment.
//!
//! Things that are to happen lie in a queue, by their time and then by the order in which they were put there. What they do
//! with connections is in `network`, what with operations in `ops`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::network::End;
use super::ops::{Lent, Pending};
use super::plan::{Fault, Kind, Plan};
use super::random::Random;
use super::torrent::Subject;
use super::trace::Trace;
use super::{MICROSECOND, SECOND};
use crate::io::{Completion, Counters, Errno, Handle, Wait};

/// Something that is to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A shard wakes.
    Turn { host: usize, epoch: u32 },
    /// An operation has taken its time.
    Due { host: usize, epoch: u32, op: u32 },
    /// A socket lets go of what it was lent.
    Release { host: usize, epoch: u32, lent: u64 },
    /// Packets that an end has sent arrive.
    Arrive { end: u64 },
    /// The first packet of a connection arrives.
    Knock { from: u64, to: usize },
    /// The answer to it arrives.
    Answered { end: u64, result: Result<(), Errno> },
    /// The control plane of a node looks around; `ticks` when it does so every second.
    Control { host: usize, epoch: u32, ticks: bool },
    /// It has a thread do the next of its jobs.
    Job { host: usize, epoch: u32 },
    /// It has the session written.
    Commit { host: usize, epoch: u32 },
    /// Its announcer looks at what is due.
    Announce { host: usize, epoch: u32 },
    /// An answer of the tracker is there, or never will be.
    Answer { host: usize, epoch: u32, call: u64 },
    /// Its hashing pool has hashed.
    Hashed { host: usize, epoch: u32 },
    /// A fault begins or ends.
    Fault { index: usize, begins: bool },
    /// A node starts.
    Start { host: usize },
    /// A scripted peer has something to do.
    Script { host: usize },
    /// Nothing goes wrong any more.
    Quiet,
}

/// A completion that its shard has not taken.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) at: u64,
    pub(super) completion: Completion,
}

/// One machine.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) addr: SocketAddr,
    /// How often it was started: what concerns an earlier life is dropped.
    pub(super) epoch: u32,
    pub(super) up: bool,
    /// Nobody answers for it, not even its kernel.
    pub(super) dark: bool,
    pub(super) scripted: bool,
    pub(super) ops: BTreeMap<u32, Pending>,
    pub(super) next_op: u32,
    pub(super) lent: BTreeMap<u64, Lent>,
    pub(super) ready: VecDeque<Ready>,
    pub(super) turn_at: Option<u64>,
    pub(super) not_before: u64,
    pub(super) accept: Option<u32>,
    pub(super) bell: Option<u32>,
    pub(super) rung: bool,
    pub(super) backlog: VecDeque<(u64, SocketAddr)>,
    pub(super) sockets: Vec<u64>,
    pub(super) files: Vec<Handle>,
    pub(super) disk: Rc<Disk>,
    pub(super) counters: Counters,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: u64,
    base: Instant,
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) plan: Plan,
    pub(super) subject: Rc<Subject>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) ends: BTreeMap<u64, End>,
    next_id: u64,
    pub(super) active: Vec<Fault>,
    /// Hosts that may have read wrong bytes.
    pub(super) misread: Vec<bool>,
    /// The first thing that should not be.
    pub(super) violation: Option<String>,
}

/// The world as drivers share it.
pub(super) type Shared = Rc<RefCell<World>>;

impl World {
    pub(super) fn new(
        plan: Plan,
        subject: Rc<Subject>,
        disks: Vec<Rc<Disk>>,
        (random, trace): (Random, Trace),
    ) -> Self {
        let nodes = plan.nodes;
        let hosts: Vec<Host> = disks
            .into_iter()
            .enumerate()
            .map(|(index, disk)| Host {
                addr: SocketAddr::from((Ipv4Addr::new(10, 0, 0, index as u8 + 1), 6881)),
                epoch: 0,
                up: false,
                dark: false,
                scripted: index >= nodes,
                ops: BTreeMap::new(),
                next_op: 0,
                lent: BTreeMap::new(),
                ready: VecDeque::new(),
                turn_at: None,
                not_before: 0,
                accept: None,
                bell: None,
                rung: false,
                backlog: VecDeque::new(),
                sockets: Vec::new(),
                files: Vec::new(),
                disk,
                counters: Counters::default(),
            })
            .collect();
        Self {
            now: 0,
            base: Instant::now(),
            random,
            trace,
            plan,
            subject,
            events: BTreeMap::new(),
            next_event: 0,
            misread: vec![false; hosts.len()],
            hosts,
            ends: BTreeMap::new(),
            next_id: 0,
            active: Vec::new(),
            violation: None,
        }
    }

    /// The time as btd is told it. Only differences mean anything.
    pub(super) fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    /// How long after the beginning an instant is.
    pub(super) fn time_of(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Something happens `after` so many ns.
    pub(super) fn after(&mut self, after: u64, event: Event) {
        self.at(self.now + after, event);
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((at.max(self.now), self.next_event), event);
    }

    /// The next thing that happens. It is then that time.
    pub(super) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// Nothing happens any more.
    #[cfg(test)]
    pub(super) fn forget_events(&mut self) {
        self.events.clear();
    }

    /// Something is not as it should be. The first of these counts.
    pub(super) fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.trace.say(self.now, 0, format_args!("VIOLATION {what}"));
            self.violation = Some(format!("at {:.3} s: {what}", self.now as f64 / SECOND as f64));
        }
    }

    /// Whether this goes wrong at a host at the moment.
    pub(super) fn fails(&self, host: usize, kind: Kind) -> bool {
        self.active.iter().any(|fault| fault.host == host && fault.kind == kind)
    }

    /// The same, so many times in a hundred.
    pub(super) fn strikes(&mut self, host: usize, kind: Kind, percent: u64) -> bool {
        self.fails(host, kind) && self.random.percent(percent)
    }

    /// Until when nothing passes between two hosts; `None` if anything does.
    pub(super) fn parted_until(&self, a: usize, b: usize) -> Option<u64> {
        let parts = |fault: &&Fault| match fault.kind {
            Kind::Partition(other) => (fault.host, other) == (a, b) || (fault.host, other) == (b, a),
            _ => false,
        };
        self.active.iter().filter(parts).map(|fault| fault.until).max()
    }

    /// Whether the host still lives the life that something was meant for.
    pub(super) fn lives(&self, host: usize, epoch: u32) -> bool {
        self.hosts[host].up && self.hosts[host].epoch == epoch
    }

    /// A completion is there for a shard.
    pub(super) fn complete(&mut self, host: usize, completion: Completion) {
        let late = match self.strikes(host, Kind::Late, 30) {
            true => self.random.within(0, SECOND / 2),
            false => 0,
        };
        // Completions of one operation keep their order.
        let token = completion.token;
        let last = self.hosts[host]
            .ready
            .iter()
            .filter(|ready| ready.completion.token == token);
        let at = last.map(|ready| ready.at).max().unwrap_or(0).max(self.now + late);
        self.hosts[host].ready.push_back(Ready { at, completion });
        self.want_turn(host, at);
    }

    /// A shard is to turn at this time.
    pub(super) fn want_turn(&mut self, host: usize, at: u64) {
        let state = &mut self.hosts[host];
        let at = at.max(state.not_before).max(self.now);
        if state.turn_at.is_none_or(|turn_at| at < turn_at) {
            state.turn_at = Some(at);
            let epoch = state.epoch;
            self.at(at, Event::Turn { host, epoch });
        }
    }

    /// Whether a shard turns now.
    pub(super) fn begins_turn(&mut self, host: usize, epoch: u32) -> bool {
        if !self.lives(host, epoch) || self.hosts[host].turn_at != Some(self.now) {
            return false;
        }
        self.hosts[host].turn_at = None;
        let frozen = self
            .active
            .iter()
            .filter(|fault| fault.host == host && fault.kind == Kind::Frozen);
        if let Some(until) = frozen.map(|fault| fault.until).max() {
            self.want_turn(host, until);
            return false;
        }
        true
    }

    /// A shard has turned, and wants to sleep.
    pub(super) fn end_turn(&mut self, host: usize, wait: Wait) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let busy = self.random.within(MICROSECOND, 20 * MICROSECOND);
        let now = self.now;
        self.close_dropped(host);
        let state = &mut self.hosts[host];
        state.files.retain(|file| file.holders() > 1);
        state.not_before = now + busy + nanos(wait.at_least.min(wait.at_most));
        let ready = state.ready.iter().map(|ready| ready.at).min().unwrap_or(u64::MAX);
        self.want_turn(host, (now + busy + nanos(wait.at_most)).min(ready));
    }

    /// Rings a shard's bell.
    pub(super) fn ring(&mut self, host: usize) {
        self.hosts[host].rung = true;
        self.answer_bell(host);
    }
}
