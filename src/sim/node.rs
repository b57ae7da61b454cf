//! One btd: its shard, and what stands in for the control plane around it.
//!
//! What the supervisor does on its thread is done here in turns of the world's queue, by the same code where it is more than
//! passing something on: [`checks::look`], [`Downloads`] with the jobs that its threads do, the session's records and queue.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::announcing::Announcing;
use super::disk::{Disk, Killed};
use super::driver::Simulated;
use super::random::Random;
use super::torrent::Subject;
use super::world::{self, Shared};
use super::{MILLISECOND, SECOND};
use crate::control::checks::{self, Found, Progress};
use crate::control::downloads::{Done, Downloads, Outcome};
use crate::hashing::Pool;
use crate::io::{Errno, OpKind, Wait};
use crate::proto::bitfield::Bitfield;
use crate::proto::{InfoHash, PeerId, choker};
use crate::session::{self, Store};
use crate::shard::audit::Audit;
use crate::shard::{Caps, Command, Event, Events, Flow, Limits, Pace, ReadMode, Settings, Shard, Torrent};
use crate::stats;
use crate::storage::part::{Options, Preallocate};
use crate::storage::strangers::Blanks;
use crate::storage::{Means, Root, Throttle, Unread, simulated};

/// Connections that a node may have, and of them those of one host.
pub(super) const CAPS: Caps = Caps {
    connections: 24,
    per_torrent: 20,
    per_ip: 6,
};

/// As the supervisor has it: how long a download rests whose files became doubtful.
const DOUBT_FOR: u64 = 60 * SECOND;

/// How often the control plane looks around.
const TICK: u64 = SECOND;

/// Within so many looks around of the control plane a peer is told what there is.
const TOLD_WITHIN: usize = 5;

type Task = Box<dyn FnOnce() + Send>;

thread_local! {
    /// What threads were to be started for since it was looked at.
    static TASKS: RefCell<VecDeque<Task>> = const { RefCell::new(VecDeque::new()) };
}

/// Forgets what threads were to be started for: another run has begun.
pub(super) fn forget_tasks() {
    TASKS.take();
}

/// What is to be done on a thread waits until its time has come.
#[allow(clippy::unnecessary_wraps)] // Threads may be wanting.
fn later(task: Task) -> std::io::Result<()> {
    TASKS.with_borrow_mut(|tasks| tasks.push_back(task));
    Ok(())
}

/// What lives as long as the process does.
pub(super) struct Process {
    pub(super) shard: Shard<Simulated>,
    commands: SyncSender<Command>,
    events: Arc<Mutex<VecDeque<Event>>>,
    pool: Arc<Pool>,
    hashing: bool,
    session: Arc<Store>,
    committing: bool,
    downloads: Downloads,
    done: UnboundedReceiver<Done>,
    tasks: VecDeque<Task>,
    pub(super) torrent: Option<Arc<Torrent>>,
    /// It was said to be complete, under its final names.
    pub(super) is_complete: bool,
    /// When what became doubtful is checked.
    doubtful: Option<u64>,
    /// What it had in the last seconds, one after another.
    had: VecDeque<Bitfield>,
    pub(super) announcing: Announcing,
}

/// See the module's page.
pub(super) struct Node {
    pub(super) host: usize,
    world: Shared,
    subject: Rc<Subject>,
    pub(super) disk: Rc<Disk>,
    /// What survives of the session.
    pub(super) kept: session::simulated::Disk,
    checked_commits: u64,
    /// After so many commits it was known to have begun.
    begun_commits: Option<u64>,
    pub(super) process: Option<Process>,
    /// Whether it is to be cut off from power after so many steps of a thread's work.
    cut_after: Option<u32>,
}

impl Process {
    pub(super) fn session(&self) -> Arc<Store> {
        Arc::clone(&self.session)
    }
}

impl Node {
    pub(super) fn new(host: usize, world: &Shared, disk: Rc<Disk>) -> Self {
        let subject = Rc::clone(&world.borrow().subject);
        Self {
            host,
            world: Rc::clone(world),
            subject,
            disk,
            kept: session::simulated::Disk::default(),
            checked_commits: 0,
            begun_commits: None,
            process: None,
            cut_after: None,
        }
    }

    fn info_hash(&self) -> InfoHash {
        self.subject.meta.info_hash
    }

    fn after(&self, from: u64, to: u64, event: impl FnOnce(usize, u32) -> world::Event) {
        let mut world = self.world.borrow_mut();
        let after = world.random.within(from, to);
        let epoch = world.hosts[self.host].epoch;
        world.after(after, event(self.host, epoch));
    }

    /// Does something with files: `Err` if the process was killed meanwhile, by [`Killed`].
    fn on_disk<T>(&self, work: impl FnOnce() -> T) -> Result<T, ()> {
        self.disk.set_now(self.world.borrow().now);
        let disk: Rc<dyn simulated::Disk> = Rc::<Disk>::clone(&self.disk);
        let done = catch_unwind(AssertUnwindSafe(|| simulated::on(disk, work)));
        self.disk.restamp();
        let mut world = self.world.borrow_mut();
        let (now, steps) = (world.now, self.disk.steps());
        world
            .trace
            .step(now, self.host, "files", (steps, u64::from(done.is_ok())));
        drop(world);
        done.map_err(|panic| {
            if !panic.is::<Killed>() {
                resume_unwind(panic);
            }
        })
    }

    /// The process starts: it looks at what it knows and what there is.
    pub(super) fn start(&mut self) {
        let (seed, now) = {
            let mut world = self.world.borrow_mut();
            let host = &mut world.hosts[self.host];
            if host.up {
                return;
            }
            (host.up, host.dark) = (true, false);
            host.epoch += 1;
            (host.not_before, host.turn_at) = (0, None);
            let now = world.now;
            world.trace.step(now, self.host, "start", (0, 0));
            (world.random.next(), world.instant())
        };
        let process = self.new_process(seed, now);
        self.process = Some(process);
        self.disk.kill_after(self.cut_after);
        self.after(0, TICK, |host, epoch| world::Event::Control {
            host,
            epoch,
            ticks: true,
        });
        self.look(true);
    }

    fn new_process(&self, seed: u64, now: Instant) -> Process {
        let plan = self.world.borrow().plan.clone();
        let driver = Simulated::new(Rc::clone(&self.world), self.host, plan.cache_bufs);
        let (commands, inbox) = sync_channel(64);
        let events = Arc::new(Mutex::new(VecDeque::new()));
        let pool = Arc::new(Pool::by_hand(8));
        let settings = Settings {
            index: 0,
            mailboxes: Arc::from(Vec::new()),
            pool: Arc::clone(&pool),
            write_buffer: plan.write_buffer,
            loan: Arc::default(),
            gather_wait: Duration::from_micros(500),
            events: Events::new({
                let events = Arc::clone(&events);
                move |event| events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event)
            }),
            peer_id: peer_id(self.host, seed),
            limits: Arc::new(Limits::new(CAPS)),
            upload_slots: plan.upload_slots,
            choker: choker::Kind::default(),
            read_mode: ReadMode::Auto,
            files_max: 4,
            upload_pace: Arc::new(Pace::new(None, now)),
            download_pace: Arc::new(Pace::new(None, now)),
            tracker: None,
            resting: Arc::default(),
            stats: Arc::new(stats::Shared::default()),
        };
        let (listener, bell) = (driver.handle(), driver.handle());
        let shard = Shard::new(driver, settings, vec![listener], inbox, bell, seed, now);
        let session = Arc::new(Store::simulated(&self.kept));
        let (sender, done) = unbounded_channel();
        let options = Options {
            preallocate: Preallocate::Sparse,
            part_names: plan.part_names,
        };
        Process {
            shard,
            commands,
            events,
            pool,
            hashing: false,
            downloads: Downloads::new(Arc::clone(&session), options, sender, (later, Arc::default())),
            session,
            committing: false,
            done,
            tasks: VecDeque::new(),
            torrent: None,
            is_complete: false,
            doubtful: None,
            had: VecDeque::new(),
            announcing: Announcing::new(seed, now, peer_id(self.host, seed)),
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a node that runs")
    }

    /// Checks the payload, and serves or downloads what comes of it.
    fn look(&mut self, trust: bool) {
        let (meta, info_hash) = (Arc::new(self.subject.meta.clone()), self.info_hash());
        let job = checks::Job {
            info_hash,
            generation: 0,
            contents: meta.into(),
            data_dir: self.disk.dir().to_owned(),
            trust,
            unread: Unread::Now,
            doubted: None,
            blanks: Blanks::default(),
            home: Some(0),
            progress: Arc::new(Progress::new(self.subject.payload.len() as u64)),
        };
        let session = Arc::clone(&self.process().session);
        let dir = self.disk.dir().to_owned();
        let looked = self.on_disk(|| {
            let root = Arc::new(Root::open(dir).expect("the folder of a disk"));
            let (pool, throttle) = (Pool::by_hand(64), Throttle::default());
            let means = Means {
                pool: &pool,
                throttle: &throttle,
                seeks: false,
            };
            checks::look(&job, root, means, &session)
        });
        let Ok(found) = looked else {
            return self.cut_power();
        };
        let found = found.expect("a check comes to its end");
        self.commit_later();
        self.on_checked(found);
    }

    fn on_checked(&mut self, found: Found) {
        {
            let mut world = self.world.borrow_mut();
            let (now, have) = (world.now, u64::from(found.have_count));
            world
                .trace
                .step(now, self.host, "checked", (have, u64::from(found.wrong_count)));
        }
        let (info_hash, now) = (self.info_hash(), self.world.borrow().instant());
        let time = self.world.borrow().now;
        let unix = time / SECOND;
        let process = self.process();
        process.downloads.remove(info_hash);
        process.had.clear();
        process.torrent.clone_from(&found.torrent);
        process.doubtful = found.is_unsynced.then_some(time + DOUBT_FOR);
        let Some(torrent) = found.torrent else {
            process.announcing.remove(info_hash, now);
            // Who has it in its list is told at once.
            self.after(0, MILLISECOND, |host, epoch| world::Event::Announce { host, epoch });
            return;
        };
        process.is_complete = found.stamps.is_none() && torrent.is_complete();
        if let Some(stamps) = found.stamps {
            process.downloads.add(Arc::clone(&torrent), stamps);
        }
        let session = Arc::clone(&process.session);
        process.announcing.add(info_hash, &session, now, unix);
        self.tell(Command::Add(torrent));
        self.after(0, MILLISECOND, |host, epoch| world::Event::Announce { host, epoch });
    }

    /// Tells the shard something.
    pub(super) fn tell(&mut self, command: Command) {
        if self.process().commands.try_send(command).is_ok() {
            self.world.borrow_mut().ring(self.host);
        }
    }

    /// A turn of the shard.
    ///
    /// # Errors
    /// What its driver says.
    pub(super) fn turn(&mut self) -> Result<(), Errno> {
        let now = self.world.borrow().instant();
        let process = self.process();
        let flow = process.shard.turn(|| now)?;
        assert_eq!(flow, Flow::Continue, "nobody has told it to stop");
        let wait: Wait = process.shard.wait();
        let has_events = !process.events.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let hashes = !process.hashing && process.shard.audit().verdicts_out > 0;
        process.hashing |= hashes;
        if hashes {
            self.after(MILLISECOND / 20, 30 * MILLISECOND, |host, epoch| world::Event::Hashed {
                host,
                epoch,
            });
        }
        if has_events {
            self.after(0, 2 * MILLISECOND, |host, epoch| world::Event::Control {
                host,
                epoch,
                ticks: false,
            });
        }
        self.world.borrow_mut().end_turn(self.host, wait);
        Ok(())
    }

    /// The hashing pool has been at work.
    pub(super) fn hashed(&mut self) {
        let process = self.process();
        process.hashing = false;
        process.pool.work();
        self.world.borrow_mut().ring(self.host);
    }

    /// The control plane looks around. It is asked to now and then; `ticks` when a second is over.
    pub(super) fn control(&mut self, ticks: bool) {
        let now = self.world.borrow().instant();
        let events = std::mem::take(&mut *self.process().events.lock().unwrap_or_else(PoisonError::into_inner));
        for event in events {
            self.on_event(event);
        }
        if self.process.is_none() {
            return;
        }
        let process = self.process();
        process.downloads.on_tick(now);
        while let Ok(done) = self.process().done.try_recv() {
            for outcome in self.process().downloads.on_done(done, now) {
                self.on_outcome(outcome);
            }
        }
        self.collect_tasks();
        let time = self.world.borrow().now;
        if self.process().doubtful.take_if(|at| *at <= time).is_some() {
            self.look(false);
        }
        if ticks && self.process.is_some() {
            self.judge_told();
            self.after(TICK, TICK + 1, |host, epoch| world::Event::Control {
                host,
                epoch,
                ticks: true,
            });
        }
    }

    fn on_event(&mut self, event: Event) {
        let info_hash = self.info_hash();
        self.world
            .borrow()
            .trace
            .say(self.world.borrow().now, self.host, format_args!("{event:?}"));
        match event {
            Event::Wanted(info_hash) => self.process().downloads.on_wanted(info_hash),
            Event::Written {
                have, files, complete, ..
            } => self.process().downloads.on_written(info_hash, have, (files, complete)),
            Event::Gone { .. } => self.doubt(),
            Event::Banned { peer, .. } => {
                let mut world = self.world.borrow_mut();
                let host = world.hosts.iter().position(|host| host.addr.ip() == peer.ip());
                let is_honest = host.is_some_and(|host| host < world.plan.nodes && !world.misread[host]);
                // Who reads wrong bytes from its own disk, where it had written those of a peer, blames the peer.
                let is_node = is_honest && !world.misread[self.host];
                if is_node {
                    let who = self.host;
                    world.violate(|| format!("node {who} shuts out {peer}, which has not lied"));
                }
            }
            // No torrent of a node rests.
            Event::Asked(_) => {}
            Event::Stalled { .. } | Event::Resumed(_) | Event::Unreachable { .. } => {}
        }
        self.collect_tasks();
    }

    /// Threads that were to be started have something to do later.
    fn collect_tasks(&mut self) {
        let tasks = TASKS.take();
        for task in tasks {
            self.process().tasks.push_back(task);
            self.after(MILLISECOND / 2, 60 * MILLISECOND, |host, epoch| world::Event::Job {
                host,
                epoch,
            });
        }
    }

    /// A thread does what it was started for.
    pub(super) fn job(&mut self) {
        let Some(task) = self.process().tasks.pop_front() else {
            return;
        };
        if self.on_disk(task).is_err() {
            return self.cut_power();
        }
        self.commit_later();
        self.judge_session();
        self.after(0, MILLISECOND, |host, epoch| world::Event::Control {
            host,
            epoch,
            ticks: false,
        });
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        let info_hash = self.info_hash();
        let now = self.world.borrow().instant();
        {
            let mut world = self.world.borrow_mut();
            let (time, host) = (world.now, self.host);
            let kind = match &outcome {
                Outcome::Prepared(_) => "prepared",
                Outcome::NotPrepared(_) => "not prepared",
                Outcome::NotRecorded { .. } => "not recorded",
                Outcome::Failed(_) => "failed",
                Outcome::Doubtful(_) => "doubtful",
                Outcome::Unjudged(_) => "unjudged",
                Outcome::Complete(_) => "complete",
            };
            world.trace.step(time, host, kind, (0, 0));
            match &outcome {
                // The times of its files are the machine's.
                Outcome::Complete(_) => world.trace.say(time, host, format_args!("Complete")),
                _ => world.trace.say(time, host, format_args!("{outcome:?}")),
            }
        }
        match outcome {
            Outcome::Prepared(_) => self.tell(Command::Prepared { info_hash, made: true }),
            Outcome::NotPrepared(_) => self.tell(Command::Prepared { info_hash, made: false }),
            Outcome::NotRecorded { .. } | Outcome::Failed(_) => {}
            // What was on its way may have come after the check.
            Outcome::Doubtful(_) | Outcome::Unjudged(_) => self.doubt(),
            Outcome::Complete(_) => {
                let process = self.process();
                process.is_complete = true;
                process.announcing.completed(info_hash, now);
                if let Some(torrent) = process.torrent.clone() {
                    torrent.set_complete();
                }
                self.judge_complete();
                self.after(0, MILLISECOND, |host, epoch| world::Event::Announce { host, epoch });
            }
        }
    }

    /// As the supervisor does: nobody knows what is on the disk.
    fn doubt(&mut self) {
        let (info_hash, now) = (self.info_hash(), self.world.borrow().now);
        let process = self.process();
        if process.doubtful.is_some() || process.torrent.is_none() {
            return;
        }
        process.downloads.remove(info_hash);
        process.session.remove(info_hash);
        process.had.clear();
        process.torrent = None;
        process.doubtful = Some(now + DOUBT_FOR);
        process.is_complete = false;
        self.tell(Command::Remove(info_hash));
        self.commit_later();
    }

    /// An operator has it check its payload, since it serves no longer what it had.
    pub(super) fn recheck(&mut self) {
        let info_hash = self.info_hash();
        self.process().downloads.remove(info_hash);
        self.process().doubtful = None;
        self.tell(Command::Remove(info_hash));
        self.look(false);
    }

    fn commit_later(&mut self) {
        if !std::mem::replace(&mut self.process().committing, true) {
            self.after(MILLISECOND / 2, 30 * MILLISECOND, |host, epoch| world::Event::Commit {
                host,
                epoch,
            });
        }
    }

    /// The session is written.
    pub(super) fn commit(&mut self) {
        self.process().committing = false;
        if !self.process().session.flush() {
            // It is tried again every five seconds.
            self.process().committing = true;
            self.after(5 * SECOND, 5 * SECOND + 1, |host, epoch| world::Event::Commit {
                host,
                epoch,
            });
        }
        self.judge_session();
    }

    /// Peers are told what there is.
    fn judge_told(&mut self) {
        let process = self.process();
        let have = process.torrent.as_ref().map(|torrent| torrent.have());
        process.had.extend(have.clone());
        if process.had.len() <= TOLD_WITHIN {
            return;
        }
        // What was withdrawn meanwhile need not be told.
        if let (Some(had), Some(have)) = (process.had.pop_front(), have) {
            let had = had.and(&have);
            self.world.borrow_mut().judge_told(self.host, &had);
        }
    }

    /// What is recorded is on the disk, and would be if the power went now.
    fn judge_session(&mut self) {
        if self.kept.commits() == self.checked_commits {
            return;
        }
        self.checked_commits = self.kept.commits();
        let meta = &self.subject.meta;
        // Not by way of what is queued: by what a start would find.
        let found = Store::simulated(&self.kept).load(&meta.info_hash, meta.geometry.piece_count(), meta.files.len());
        let Some(record) = found else { return };
        for piece in record.have.pieces() {
            let range = self.subject.range(piece);
            let mut spans = self.subject.layout.spans(range.start as u64, range.len() as u64);
            if spans.any(|span| !span.pad && record.files[span.file as usize].is_none()) {
                continue; // A start would not believe it.
            }
            let is_kept = self
                .subject
                .holds(piece, |name, offset, len| self.disk.read_synced(name, offset, len));
            if !is_kept {
                let (host, piece) = (self.host, piece.get());
                let mut world = self.world.borrow_mut();
                world.violate(|| format!("node {host} has recorded piece {piece}, which a loss of power would undo"));
            }
        }
    }

    /// What it writes to is known to be its own, should the process be killed now.
    pub(super) fn judge_writes(&mut self) {
        let commits = Some(self.kept.commits());
        let mut world = self.world.borrow_mut();
        let writes = world.hosts[self.host].ops.values();
        let writes = writes.filter(|op| op.token.kind == OpKind::Write).count();
        if writes == 0 || self.begun_commits == commits {
            return;
        }
        let (meta, kept) = (&self.subject.meta, Store::simulated(&self.kept));
        let record = kept.load(&meta.info_hash, meta.geometry.piece_count(), meta.files.len());
        let is_begun = checks::is_begun(&kept, meta.info_hash, record.as_ref());
        match is_begun.is_ok_and(|is| is) || kept.load_repair(&meta.info_hash).is_ok_and(|is| is) {
            true => self.begun_commits = commits,
            false => {
                let host = self.host;
                world.violate(|| format!("node {host} writes to files that a start would not know to be its own"));
            }
        }
    }

    /// What is complete has its final names, and would have them if the power went now.
    fn judge_complete(&self) {
        let files = self.subject.meta.files.iter().filter(|file| !file.pad && file.len > 0);
        for file in files {
            let start = file.offset as usize;
            let wanted = &self.subject.payload[start..start + file.len as usize];
            let synced = self.disk.read_synced(file.path.as_str(), 0, wanted.len());
            if synced.as_deref() != Some(wanted) {
                let host = self.host;
                let mut world = self.world.borrow_mut();
                world.violate(|| {
                    format!(
                        "node {host} is complete, and {:?} would not survive",
                        file.path.as_str()
                    )
                });
            }
        }
    }

    /// The process is killed. `cut` when the power goes with it.
    fn end(&mut self, cut: bool) {
        let mut world = self.world.borrow_mut();
        if !world.hosts[self.host].up {
            return;
        }
        let (host, now) = (self.host, world.now);
        world.trace.step(now, host, "killed", (u64::from(cut), 0));
        world.abandon_ops(host);
        world.drop_ends(host, !cut);
        (world.hosts[host].up, world.hosts[host].dark) = (false, cut);
        world.hosts[host].epoch += 1;
        drop(world);
        self.process = None;
        self.disk.kill_after(None);
    }

    pub(super) fn kill(&mut self) {
        self.end(false);
    }

    pub(super) fn cut_power(&mut self) {
        if self.process.is_some() {
            self.end(true);
            self.disk.cut_power();
        }
    }

    /// The power goes when its threads have done so many more steps with files.
    pub(super) fn cut_power_after(&mut self, steps: Option<u32>) {
        self.cut_after = steps;
        self.disk.kill_after(steps);
    }

    /// How its shard stands.
    pub(super) fn audit(&self) -> Option<Audit> {
        Some(self.process.as_ref()?.shard.audit())
    }

    /// Whether it has everything, under its final names, and serves it.
    pub(super) fn is_complete(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let torrent = process.torrent.as_ref();
            process.is_complete && torrent.is_some_and(|torrent| torrent.is_complete())
        })
    }

    /// Whether pieces were withdrawn that it had, or it lacks some and does not download them, or its disk did not take the
    /// names of what is complete when it was looked at last.
    pub(super) fn is_at_fault(&self) -> bool {
        let history = self.process.as_ref();
        let history = history.and_then(|process| process.session.load_history(&self.info_hash()));
        let is_noted = history.is_some_and(|history| history.completed.is_some());
        let torrent = self.process.as_ref().and_then(|process| process.torrent.as_ref());
        let is_lacking = torrent.is_some_and(|torrent| torrent.is_changed() || torrent.fault().is_some());
        let is_downloading = torrent.is_some_and(|torrent| torrent.home().is_some());
        is_lacking || (!self.is_complete() && !is_downloading) || (self.is_complete() && !is_noted)
    }
}

fn peer_id(host: usize, seed: u64) -> PeerId {
    let mut id = *b"-BD0001-sim-........";
    let tail = Random::new(seed ^ host as u64).bytes(8);
    id[12..].copy_from_slice(&tail);
    PeerId(id)
}
