//! The scheduler: keeps lanes busy while messages come and go.
//!
//! A *step* advances the messages in the lanes by as many blocks as each of them has contiguous. When a message ends, it
//! is given back at once, and the next one takes its lane. When the source is dry and lanes fall empty, the [`Plan`] says
//! which kernel is fastest for those that are left.
//!
//! Every byte is read once, by the step that hashes it, so a step may be as long as the shortest span: nothing would be
//! in the cache the longer for a shorter one. Nothing is allocated but one list of lanes for each run.
#![forbid(unsafe_code)]

use super::Block;
use super::lane::Lane;
use super::plan::{Kernel, Plan};
#[cfg(target_arch = "x86_64")]
use super::spread::spread;
use super::state::{DIGEST_LEN, State};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, shani};

/// A message to be hashed, or a part of one.
#[derive(Debug)]
pub struct Message<S, T> {
    /// Where to go on from.
    pub state: State,
    /// The bytes, in order.
    pub spans: Vec<S>,
    /// Whether the message ends with the last span. Else [`Message::state`] is what another part goes on from.
    pub finish: bool,
    /// Whatever the caller wants to have back with it.
    pub tag: T,
}

impl<S, T> Message<S, T> {
    /// The digest of a message that has come back from [`run`] and was to be finished.
    pub fn digest(&self) -> Option<[u8; DIGEST_LEN]> {
        self.finish.then(|| self.state.digest())
    }
}

/// What a run has done, in blocks of 64 bytes. Padding counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Blocks hashed in lanes.
    pub lane_blocks: u64,
    /// Blocks that would have been hashed had all lanes been filled: steps times width.
    pub lane_slots: u64,
    /// Blocks hashed on their own.
    pub single_blocks: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.lane_blocks += other.lane_blocks;
        self.lane_slots += other.lane_slots;
        self.single_blocks += other.single_blocks;
    }
}

/// Hashes all messages of `source` and hands each to `on_end` when it has ended.
///
/// The source is asked whenever a lane is free, and again after a message has ended if it had none before: it may well
/// find new ones. Messages start in the order in which they come, so the longest should come first: those left over at
/// the end then run alone for the shortest time.
pub fn run<S: AsRef<[u8]>, T>(
    plan: &Plan,
    mut source: impl FnMut() -> Option<Message<S, T>>,
    mut on_end: impl FnMut(Message<S, T>),
) -> Work {
    let mut work = Work::default();
    let mut lanes: Vec<Lane<S, T>> = Vec::with_capacity(plan.width());
    let mut may_have_more = true;
    loop {
        while may_have_more && lanes.len() < plan.width() {
            match source() {
                Some(message) => lanes.push(Lane::new(message)),
                None => may_have_more = false,
            }
        }
        // Before a step every lane has something to do.
        let mut index = 0;
        while index < lanes.len() {
            if lanes[index].has_ended() {
                // In order, so that those which began together go on together where the kernel is narrow.
                on_end(lanes.remove(index).message);
                may_have_more = true;
            } else {
                index += 1;
            }
        }
        if lanes.is_empty() && !may_have_more {
            return work;
        }
        if may_have_more && lanes.len() < plan.width() {
            continue;
        }
        match plan.kernel(lanes.len()) {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                spread(&mut lanes, &mut work);
                step(avx512::compress, &mut lanes, &mut work);
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => step(avx2::compress, &mut lanes, &mut work),
            #[cfg(target_arch = "x86_64")]
            Kernel::ShaNi => step(shani::compress::<{ shani::WIDTH }>, &mut lanes, &mut work),
            #[cfg(target_arch = "x86_64")]
            Kernel::ShaNiPair => step(shani::compress::<{ shani::PAIR }>, &mut lanes, &mut work),
            Kernel::Single => {
                let count = lanes[0].block_count();
                step_single(&mut lanes[0], count, &mut work);
            }
        }
    }
}

/// Advances the first `N` lanes, or as many as there are, until one of them has no contiguous block left.
fn step<const N: usize, S: AsRef<[u8]>, T>(
    compress: impl Fn(&mut [[u32; 5]; N], [&[Block]; N]),
    lanes: &mut [Lane<S, T>],
    work: &mut Work,
) {
    let filled = lanes.len().min(N);
    let lanes = &mut lanes[..filled];
    let count = lanes.iter().map(Lane::block_count).min().expect("a lane");
    let mut states = [[0; 5]; N];
    // A lane without a message repeats the blocks of the first, which costs no cache, and its result is dropped.
    let mut blocks = [lanes[0].blocks(count); N];
    for (index, lane) in lanes.iter().enumerate() {
        states[index] = lane.message.state.h;
        blocks[index] = lane.blocks(count);
    }
    compress(&mut states, blocks);
    for (lane, h) in lanes.iter_mut().zip(states) {
        lane.advance(count, h);
    }
    work.lane_blocks += (filled * count) as u64;
    work.lane_slots += (N * count) as u64;
}

/// Advances one lane by so many of the blocks that it has contiguous.
pub(super) fn step_single<S: AsRef<[u8]>, T>(lane: &mut Lane<S, T>, count: usize, work: &mut Work) {
    let mut h = lane.message.state.h;
    sha1::block_api::compress(&mut h, lane.blocks(count));
    lane.advance(count, h);
    work.single_blocks += count as u64;
}
