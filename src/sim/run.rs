//! A whole run: hosts are made as the plan says, things happen one after another, and after each it is looked at what holds
//! at any time. It ends when nothing goes wrong any more and every node has everything, or has not in time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use tempfile::TempDir;

use super::announcing;
use super::disk::Disk;
use super::node::{self, CAPS, Node};
use super::plan::{Fault, Kind, Plan};
use super::random::Random;
use super::script::Script;
use super::torrent::Subject;
use super::trace::Trace;
use super::world::{Event, Shared, World};
use super::{MINUTE, SECOND};
use crate::io::OpKind;
use crate::shard::Command;

/// When nothing goes wrong any more, every node has everything after so long: addresses are tried again every ten minutes
/// and a quarter of that at the latest.
const PATIENCE: u64 = 45 * MINUTE;

/// More happens in no run that comes to an end.
const STEPS_MAX: u64 = 4_000_000;

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which faults happen, a bit for each.
    pub mask: u64,
    /// Each step is told on standard error.
    pub told: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mask: u64::MAX,
            told: false,
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A number for all that happened.
    pub trace: u64,
    /// How many things that were.
    pub steps: u64,
    /// How long it took in simulated ns.
    pub time: u64,
    /// What should not have been, if anything was.
    pub violation: Option<String>,
}

/// The faults of a seed, in the order of the bits of a mask.
#[must_use]
pub fn faults(seed: u64) -> Vec<Fault> {
    Plan::new(seed).faults
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, options: Options) -> Report {
    let mut plan = Plan::new(seed);
    let mut bit = 0;
    plan.faults.retain(|_| {
        bit += 1;
        options.mask >> (bit - 1) & 1 == 1
    });
    let mut simulation = Simulation::new(seed, plan, options.told);
    let ended = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let panicked = ended.err().map(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("without a word"))
    });
    let world = match simulation.world.try_borrow() {
        Ok(world) => world,
        Err(_) => {
            // It panicked within the world itself; nothing of it can be told.
            return Report {
                trace: 0,
                steps: 0,
                time: 0,
                violation: panicked,
            };
        }
    };
    Report {
        trace: world.trace.hash(),
        steps: world.trace.steps,
        time: world.now,
        violation: panicked.or(world.violation.clone()),
    }
}

struct Simulation {
    world: Shared,
    nodes: Vec<Node>,
    scripts: Vec<Script>,
    tracker: announcing::Host,
    quiet: bool,
    /// After so many things that happened it has failed.
    steps_max: u64,
    _dir: TempDir,
}

impl Simulation {
    fn new(seed: u64, plan: Plan, told: bool) -> Self {
        node::forget_tasks();
        let random = Random::new(seed);
        let subject = Rc::new(Subject::new(&plan, random.fork(3)));
        // Where there is one, a folder in memory: a disk is simulated, and its waiting too.
        let dir = tempfile::Builder::new().prefix("btd-sim-").tempdir_in("/dev/shm");
        let dir = dir.or_else(|_| tempfile::tempdir()).expect("a temporary folder");
        let hosts = plan.nodes + plan.bad.len();
        let disks: Vec<Rc<Disk>> = (0..hosts)
            .map(|host| {
                Rc::new(Disk::new(
                    dir.path().join(host.to_string()),
                    random.fork(100 + host as u64),
                ))
            })
            .collect();
        for disk in &disks[..plan.seeds] {
            for file in subject.meta.files.iter().filter(|file| !file.pad) {
                let start = file.offset as usize;
                disk.put(file.path.as_str(), &subject.payload[start..start + file.len as usize]);
            }
        }
        let trace = Trace::new(told);
        let mut world = World::new(plan.clone(), subject, disks.clone(), (random.fork(4), trace));
        let tracker = announcing::Host::new(plan.announce_every, random.fork(5), world.instant());
        for (index, fault) in plan.faults.iter().enumerate() {
            world.at(fault.from, Event::Fault { index, begins: true });
            world.at(fault.until, Event::Fault { index, begins: false });
        }
        for host in 0..plan.nodes {
            let after = world.random.within(0, SECOND);
            world.after(after, Event::Start { host });
        }
        let scripts = plan.bad.iter().enumerate().map(|(index, bad)| {
            let host = plan.nodes + index;
            Script::new(host, *bad, random.fork(200 + host as u64))
        });
        let scripts: Vec<Script> = scripts.collect();
        for script in &scripts {
            world.hosts[script.host].up = true;
            world.after(SECOND / 2, Event::Script { host: script.host });
        }
        world.at(plan.quiet_at, Event::Quiet);
        let world = Rc::new(RefCell::new(world));
        let nodes = disks[..plan.nodes].iter().enumerate();
        let nodes = nodes
            .map(|(host, disk)| Node::new(host, &world, Rc::clone(disk)))
            .collect();
        Self {
            world,
            nodes,
            scripts,
            tracker,
            quiet: false,
            steps_max: STEPS_MAX,
            _dir: dir,
        }
    }

    fn run(&mut self) {
        loop {
            let Some(event) = ({ self.world.borrow_mut().next() }) else {
                // Nothing is to happen any more, and yet the run has not come to its end.
                let lacking = self.lacking();
                let mut world = self.world.borrow_mut();
                world.violate(|| format!("nothing is to happen any more, and nodes {lacking:?} do not come to an end"));
                return;
            };
            self.happen(event);
            let mut world = self.world.borrow_mut();
            if world.violation.is_some() {
                return;
            }
            if world.trace.steps > self.steps_max {
                let steps = world.trace.steps;
                world.violate(|| format!("{steps} things have happened, and it goes on"));
                return;
            }
            if self.quiet && world.now > world.plan.quiet_at + PATIENCE {
                let lacking = self.lacking();
                world.violate(|| format!("nothing goes wrong, and nodes {lacking:?} do not come to an end"));
                return;
            }
            drop(world);
            if self.quiet && self.nodes.iter().all(Node::is_complete) {
                return self.judge_end();
            }
        }
    }

    /// Nodes that have not everything.
    fn lacking(&self) -> Vec<usize> {
        let lacking = self.nodes.iter().filter(|node| !node.is_complete());
        lacking.map(|node| node.host).collect()
    }

    fn node(&mut self, host: usize, epoch: u32) -> Option<&mut Node> {
        let lives = self.world.borrow().lives(host, epoch);
        self.nodes.get_mut(host).filter(|node| lives && node.process.is_some())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { host, epoch } => {
                let turns = self.world.borrow_mut().begins_turn(host, epoch);
                if turns && let Some(node) = self.node(host, epoch) {
                    node.turn().expect("a simulated driver does not break");
                    self.judge_turn(host);
                }
            }
            Event::Due { host, epoch, op } => self.world.borrow_mut().on_due(host, epoch, op),
            Event::Release { host, epoch, lent } => self.world.borrow_mut().on_release(host, epoch, lent),
            Event::Arrive { end } => self.world.borrow_mut().on_arrive(end),
            Event::Knock { from, to } => self.world.borrow_mut().on_knock(from, to),
            Event::Answered { end, result } => self.world.borrow_mut().answered(end, result),
            Event::Control { host, epoch, ticks } => {
                if let Some(node) = self.node(host, epoch) {
                    node.control(ticks);
                    self.raise(host);
                }
            }
            Event::Job { host, epoch } => {
                if let Some(node) = self.node(host, epoch) {
                    node.job();
                    self.raise(host);
                }
            }
            Event::Commit { host, epoch } => {
                if let Some(node) = self.node(host, epoch) {
                    node.commit();
                }
            }
            Event::Hashed { host, epoch } => {
                if let Some(node) = self.node(host, epoch) {
                    node.hashed();
                }
            }
            Event::Announce { host, epoch } => {
                let world = Rc::clone(&self.world);
                if let Some(process) = self.node(host, epoch).and_then(|node| node.process.as_mut()) {
                    process.announcing.poll(&mut world.borrow_mut(), host);
                }
            }
            Event::Answer { host, epoch, call } => self.on_answer(host, epoch, call),
            Event::Fault { index, begins } => self.on_fault(index, begins),
            Event::Start { host } => {
                self.nodes[host].start();
                self.raise(host);
            }
            Event::Script { host } => {
                let at = host - self.nodes.len();
                self.scripts[at].act(&mut self.world.borrow_mut());
            }
            Event::Quiet => self.be_quiet(),
        }
    }

    /// One that was cut off from power in the middle of something starts again some time later.
    fn raise(&mut self, host: usize) {
        let is_down = self.nodes[host].process.is_none();
        let mut world = self.world.borrow_mut();
        if is_down {
            let after = world.random.within(SECOND / 2, 10 * SECOND);
            world.after(after, Event::Start { host });
        }
    }

    fn on_answer(&mut self, host: usize, epoch: u32, call: u64) {
        let world = Rc::clone(&self.world);
        let lives = world.borrow().lives(host, epoch);
        let Some(node) = self.nodes.get_mut(host).filter(|_| lives) else {
            return;
        };
        let Some(process) = node.process.as_mut() else { return };
        let (torrent, session) = (process.torrent.clone(), process.session());
        let mut borrowed = world.borrow_mut();
        let addrs = process.announcing.on_answer(
            (&mut *borrowed, &mut self.tracker),
            host,
            call,
            (torrent.as_deref(), &*session),
        );
        process.announcing.poll(&mut borrowed, host);
        // Peers that are no btd are told of as well, as if they had announced themselves.
        let own = borrowed.hosts[host].addr;
        let scripts = borrowed.hosts.iter().filter(|there| there.scripted && there.up);
        let scripts: Vec<SocketAddr> = scripts.map(|there| there.addr).collect();
        drop(borrowed);
        let addrs: Vec<SocketAddr> = addrs.into_iter().chain(scripts).filter(|addr| *addr != own).collect();
        let is_downloading = torrent.is_some_and(|torrent| torrent.home().is_some());
        if is_downloading && !addrs.is_empty() {
            let info_hash = self.world.borrow().subject.meta.info_hash;
            node.tell(Command::Peers {
                info_hash,
                addrs,
                named: false,
            });
        }
    }

    fn on_fault(&mut self, index: usize, begins: bool) {
        let fault = self.world.borrow().plan.faults[index];
        {
            let mut world = self.world.borrow_mut();
            let now = world.now;
            world
                .trace
                .step(now, fault.host, "fault", (index as u64, u64::from(begins)));
            world.trace.say(
                now,
                fault.host,
                format_args!("{:?} {}", fault.kind, if begins { "begins" } else { "ends" }),
            );
            match begins {
                true => world.active.push(fault),
                false => {
                    let same = |active: &Fault| {
                        (active.from, active.kind, active.host) == (fault.from, fault.kind, fault.host)
                    };
                    world.active.retain(|active| !same(active));
                }
            }
        }
        let fails = |kind| self.world.borrow().fails(fault.host, kind);
        let (syncs, session) = (fails(Kind::SyncErrors), fails(Kind::SessionErrors));
        let node = &mut self.nodes[fault.host];
        node.disk.fail_syncs(syncs);
        node.kept.set_failing(session);
        match fault.kind {
            Kind::Kill if begins => node.kill(),
            Kind::PowerCut if begins => node.cut_power(),
            Kind::PowerCutInJob(steps) => node.cut_power_after(begins.then_some(steps)),
            Kind::Kill | Kind::PowerCut => {
                self.world.borrow_mut().after(0, Event::Start { host: fault.host });
            }
            _ => {}
        }
    }

    /// From now on nothing goes wrong, and whoever is down starts.
    fn be_quiet(&mut self) {
        self.quiet = true;
        {
            let mut world = self.world.borrow_mut();
            world.active.clear();
            for script in &mut self.scripts {
                script.leave(&mut world);
            }
        }
        let seeds = self.world.borrow().plan.seeds;
        // Whoever has sent what its disk gave it is shut out for as long as those live that it sent it to.
        let any_misread = self.world.borrow().misread.contains(&true);
        for host in 0..self.nodes.len() {
            let misread = self.world.borrow().misread[host];
            let node = &mut self.nodes[host];
            node.cut_power_after(None);
            node.disk.fail_syncs(false);
            node.kept.set_failing(false);
            if misread || (any_misread && !node.is_complete()) {
                node.kill();
            }
            match node.process.is_none() {
                true => self.world.borrow_mut().after(SECOND, Event::Start { host }),
                // Somebody looks at what does not work any more.
                false if node.is_at_fault() || (host < seeds && !node.is_complete()) => node.recheck(),
                false => {}
            }
        }
    }

    /// What holds after each turn.
    fn judge_turn(&mut self, host: usize) {
        self.nodes[host].judge_writes();
        let Some(audit) = self.nodes[host].audit() else { return };
        let mut world = self.world.borrow_mut();
        if audit.connections > CAPS.connections {
            world.violate(|| format!("node {host} has {} connections, more than it may", audit.connections));
        }
        if audit.assembly > world.plan.write_buffer {
            world.violate(|| {
                format!(
                    "node {host} has {} bytes of pieces in memory, more than it may",
                    audit.assembly
                )
            });
        }
        let files = world.hosts[host].files.len();
        if files > audit.files_max {
            world.violate(|| format!("node {host} has {files} files open, more than {}", audit.files_max));
        }
        let shard = &self.nodes[host].process.as_ref().expect("it has just turned").shard;
        let connects = world.hosts[host]
            .ops
            .values()
            .filter(|op| op.token.kind == OpKind::Connect);
        let answered = world.hosts[host].ready.iter();
        let answered = answered.filter(|ready| ready.completion.token.kind == OpKind::Connect);
        let (connects, answered) = (connects.count(), answered.count());
        // What was cancelled is answered in a later turn, and nobody waits for it.
        if audit.half_open < connects || audit.half_open > connects + answered {
            let half_open = audit.half_open;
            world.violate(|| {
                format!("node {host} thinks that {half_open} connections are being made, and {connects} are")
            });
        }
        // Whoever receives or sends is a connection, or its end is on its way.
        let orphans = world.hosts[host].ops.values().filter(|op| {
            matches!(op.token.kind, OpKind::Recv | OpKind::Send | OpKind::Connect) && !shard.has_conn(op.owner)
        });
        let orphans: Vec<OpKind> = orphans.map(|op| op.token.kind).collect();
        // A send that was submitted takes a moment to find out.
        if let Some(kind) = orphans.iter().find(|kind| **kind != OpKind::Send) {
            world.violate(|| format!("node {host} has an operation that concerns nobody any more: {kind:?}"));
        }
        let sockets = world.hosts[host].sockets.len();
        if sockets > 2 * CAPS.connections {
            world.violate(|| {
                format!(
                    "node {host} has {sockets} sockets, for {} connections",
                    audit.connections
                )
            });
        }
    }

    /// All have everything, and would have it if the power went now.
    fn judge_end(&mut self) {
        for node in &mut self.nodes {
            node.cut_power();
        }
        let subject = Rc::clone(&self.world.borrow().subject);
        for file in subject.meta.files.iter().filter(|file| !file.pad && file.len > 0) {
            let start = file.offset as usize;
            let wanted = &subject.payload[start..start + file.len as usize];
            for node in &self.nodes {
                if node.disk.read(file.path.as_str(), 0, wanted.len()).as_deref() != Some(wanted) {
                    let (host, name) = (node.host, file.path.as_str());
                    let mut world = self.world.borrow_mut();
                    world.violate(|| format!("node {host} had all of {name:?}, and has not after a loss of power"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulation() -> Simulation {
        Simulation::new(1, Plan::new(1), false)
    }

    fn violation_of(mut simulation: Simulation) -> String {
        simulation.run();
        let world = simulation.world.borrow();
        world.violation.clone().expect("a run that is red")
    }

    #[test]
    fn simulated_run_in_which_nothing_happens_any_more_before_its_end_is_red() {
        let simulation = simulation();
        simulation.world.borrow_mut().forget_events();
        assert!(violation_of(simulation).contains("nothing is to happen any more, and nodes [0, 1"));
    }

    #[test]
    fn simulated_run_that_goes_on_and_on_is_red_though_faults_have_not_ended() {
        let mut simulation = simulation();
        simulation.steps_max = 20;
        simulation.world.borrow_mut().plan.quiet_at = u64::MAX;
        assert!(violation_of(simulation).contains("21 things have happened"));
    }
}
