//! What a seed stands for: a torrent, hosts, links between them, and what goes wrong when.
//!
//! Faults are numbered, and a mask says which of them happen: with one of them taken out, all else is drawn as it was, so
//! that a failing run can be made smaller.

use super::random::Random;
use super::{MILLISECOND, SECOND};

/// The most nodes.
pub(super) const NODES_MAX: usize = 6;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing passes between the host and another.
    Partition(usize),
    /// Packets to and from the host take a second longer.
    Slow,
    /// Connections of the host are reset, now and then.
    Resets,
    /// What comes to the host comes in single bytes, for the most part.
    Bytes,
    /// Its socket takes a few bytes at a time.
    ShortSends,
    /// Its disk takes half a second for each thing.
    SlowDisk,
    /// Reads and writes do less than they are asked for.
    ShortIo,
    /// Reads fail.
    ReadErrors,
    /// Writes fail.
    WriteErrors,
    /// The disk is full.
    DiskFull,
    /// What was written is lost, and a sync says so once.
    SyncErrors,
    /// The session cannot be written.
    SessionErrors,
    /// Reads bring bytes from elsewhere in the file.
    Misreads,
    /// Completions come late.
    Late,
    /// Completions of one turn change places.
    Reorder,
    /// Operations are cancelled although nobody asked.
    Cancels,
    /// There is no buffer to receive into.
    NoBuffers,
    /// The process stands still, and the clock does not.
    Frozen,
    /// `kill -9`, and a start some time later.
    Kill,
    /// The power goes, and comes again.
    PowerCut,
    /// The power goes in the middle of what a thread does with files, after so many steps of it.
    PowerCutInJob(u32),
    /// The tracker does not answer.
    NoTracker,
    /// Datagrams to the tracker and from it are lost.
    Losses,
}

/// One thing that goes wrong, at one host, for a while.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The host.
    pub host: usize,
    /// What.
    pub kind: Kind,
    /// From when, in ns.
    pub from: u64,
    /// Until when.
    pub until: u64,
}

/// A file of the torrent.
#[derive(Clone, Debug)]
pub(super) struct PlannedFile {
    pub(super) path: String,
    pub(super) len: usize,
    pub(super) pad: bool,
}

/// What a peer that is no btd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Has everything, and sends wrong bytes.
    Liar,
    /// Has everything, and takes seconds for each block.
    Slow,
    /// Connects, says something, and goes.
    Quitter,
    /// Sends what is no protocol.
    Garbage,
}

/// See the module's page.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) seeds: usize,
    pub(super) piece_len: u32,
    pub(super) files: Vec<PlannedFile>,
    /// Bytes a socket holds that the far end has not taken.
    pub(super) socket_len: usize,
    /// The least delay of a packet in ns, and bytes a second, of each host's link.
    pub(super) links: Vec<(u64, u64)>,
    pub(super) write_buffer: u64,
    pub(super) cache_bufs: u32,
    pub(super) upload_slots: u32,
    pub(super) announce_every: u64,
    pub(super) part_names: bool,
    pub(super) bad: Vec<Bad>,
    pub(super) faults: Vec<Fault>,
    /// From here on nothing goes wrong any more.
    pub(super) quiet_at: u64,
}

impl Plan {
    /// What this seed stands for.
    pub(super) fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        let mut shape = random.fork(1);
        let nodes = shape.within(2, 5) as usize + usize::from(shape.percent(15)) * 2;
        let nodes = nodes.min(NODES_MAX);
        let seeds = 1 + usize::from(nodes > 2 && shape.percent(20));
        let long = shape.percent(8);
        let piece_len = match long {
            true => 512 * 1024,
            false => shape.pick(&[16, 32, 64, 128]) * 1024,
        };
        let piece_count = if long { 2 } else { shape.within(1, 7) as usize };
        let short = shape.below(piece_len as usize / 2);
        let total = (piece_len as usize * piece_count - short).max(1);
        let files = files(&mut shape, total, piece_len as usize);
        let links = (0..NODES_MAX + 4)
            .map(|_| {
                let delay = shape.within(MILLISECOND / 20, 60 * MILLISECOND);
                (delay, shape.pick(&[100_000, 1_000_000, 20_000_000]))
            })
            .collect();
        let mut bad = Vec::new();
        for kind in [Bad::Liar, Bad::Slow, Bad::Quitter, Bad::Garbage] {
            if shape.percent(15) {
                bad.push(kind);
            }
        }
        let mut plan = Self {
            nodes,
            seeds,
            piece_len,
            files,
            socket_len: shape.pick(&[20_000, 70_000, 300_000]),
            links,
            write_buffer: 1 << 20,
            cache_bufs: shape.pick(&[16, 24, 64]),
            upload_slots: shape.pick(&[0, 0, 1, 2]),
            announce_every: shape.within(30, 90),
            part_names: shape.percent(90),
            bad,
            faults: Vec::new(),
            quiet_at: 0,
        };
        plan.draw_faults(&mut random.fork(2));
        plan
    }

    fn draw_faults(&mut self, random: &mut Random) {
        // One seed in ten meets with nothing.
        let count = if random.percent(10) { 0 } else { random.within(1, 9) };
        for _ in 0..count {
            let host = random.below(self.nodes);
            let kind = match random.below(26) {
                0 => Kind::Partition(random.below(self.nodes)),
                1 => Kind::Slow,
                2 => Kind::Resets,
                3 => Kind::Bytes,
                4 => Kind::ShortSends,
                5 => Kind::SlowDisk,
                6 => Kind::ShortIo,
                7 => Kind::ReadErrors,
                8 => Kind::WriteErrors,
                9 => Kind::DiskFull,
                10 => Kind::SyncErrors,
                11 => Kind::SessionErrors,
                12 => Kind::Misreads,
                13 => Kind::Late,
                14 => Kind::Reorder,
                15 => Kind::Cancels,
                16 => Kind::NoBuffers,
                17 => Kind::Frozen,
                18 | 19 => Kind::Kill,
                20 | 21 => Kind::PowerCut,
                22 | 23 => Kind::PowerCutInJob(random.below(12) as u32),
                24 => Kind::NoTracker,
                _ => Kind::Losses,
            };
            // Most of what happens happens within the first seconds.
            let from = match random.percent(70) {
                true => random.within(0, 8 * SECOND),
                false => random.within(0, 60 * SECOND),
            };
            let until = from + random.within(10 * MILLISECOND, 20 * SECOND);
            self.faults.push(Fault {
                host,
                kind,
                from,
                until,
            });
        }
        self.quiet_at = self.faults.iter().map(|fault| fault.until).max().unwrap_or(0) + SECOND;
    }
}

/// Files that are as long together: one, or several, of which one may be padding and one without bytes.
fn files(random: &mut Random, total: usize, piece_len: usize) -> Vec<PlannedFile> {
    let file = |path: &str, len, pad| PlannedFile {
        path: path.to_owned(),
        len,
        pad,
    };
    if random.percent(40) {
        return vec![file("payload", total, false)];
    }
    let mut files = Vec::new();
    let first = random.within(1, total as u64) as usize;
    files.push(file("a", first, false));
    let mut left = total - first;
    let gap = (piece_len - first % piece_len) % piece_len;
    if random.percent(30) && gap > 0 && gap < left {
        files.push(file(".pad/1", gap, true));
        left -= gap;
    }
    if random.percent(20) {
        files.push(file("none", 0, false));
    }
    if left > 2 && random.percent(40) {
        let second = random.within(1, left as u64) as usize;
        files.push(file("in/b", second, false));
        left -= second;
    }
    if left > 0 {
        files.push(file("in/deeper/c", left, false));
    }
    files
}
