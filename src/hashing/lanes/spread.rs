//! Keeps the lanes apart in the first-level cache.
//!
//! Where a line may lie in that cache is told by its place in its page: with buffers that begin at page boundaries, sixteen
//! lanes in step want the same eight places, and lines that were fetched ahead are gone before they are read. Lanes that
//! are a few blocks apart do not meet again, so that some blocks hashed on their own at the start are all that it costs.
//! With sixteen pieces in step AVX-512 has 5.9 GB/s, apart 6.9 (Zen 4; PERF.md). Eight lanes have room enough in step.
#![forbid(unsafe_code)]

use super::batch::{Work, step_single};
use super::lane::Lane;

/// Sets of the first-level cache, one for each line of a page, on every processor with AVX-512.
const SETS: usize = 64;
/// Lanes that may begin in one set: as many in each of eight are as good as one in each of sixteen.
const LANES_PER_SET: u8 = 2;
/// A lane is put off by no more blocks, which finds a place for sixteen that begin in one set.
const LEAD_MAX: usize = 7;
/// A run of fewer blocks (8 KiB) is over before it has paid for that.
const RUN_MIN: usize = 128;

/// Advances lanes that would keep each other's lines out of the cache, if they go on together for long.
pub(super) fn spread<S: AsRef<[u8]>, T>(lanes: &mut [Lane<S, T>], work: &mut Work) {
    if lanes.iter().any(|lane| lane.block_count() < RUN_MIN) {
        return;
    }
    let mut taken = [0; SETS];
    for lane in lanes {
        let line = lane.blocks(1).as_ptr().addr() / size_of::<super::Block>();
        let is_free = |lead: &usize| taken[(line + lead) % SETS] < LANES_PER_SET;
        let lead = (0..=LEAD_MAX).find(is_free).unwrap_or(0);
        taken[(line + lead) % SETS] += 1;
        if lead > 0 {
            step_single(lane, lead, work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Message, run};
    use super::super::{Backend, Plan, State};

    const PAGE: usize = 4096;
    const LEN: usize = 4 * PAGE;

    /// The blocks that were hashed on their own when sixteen pieces begin `apart` bytes from each other, modulo a page.
    fn singles(apart: usize, len: usize) -> u64 {
        let memory: Vec<u8> = (0..17 * (LEN + PAGE)).map(|at| ((at * 31) >> 3) as u8).collect();
        let start = PAGE - memory.as_ptr().addr() % PAGE;
        let pieces: Vec<&[u8]> = (0..16).map(|at| &memory[start + at * (LEN + apart)..][..len]).collect();
        let mut source = pieces.iter().enumerate().map(|(tag, piece)| Message {
            state: State::new(),
            spans: vec![*piece],
            finish: true,
            tag,
        });
        let work = run(
            Plan::of(Backend::Avx512),
            || source.next(),
            |message| {
                let wanted = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, pieces[message.tag]);
                assert_eq!(message.digest().unwrap(), wanted.as_ref());
            },
        );
        work.single_blocks
    }

    #[test]
    fn lanes_in_step_are_put_apart_once() {
        if !Backend::available().any(|backend| backend == Backend::Avx512) {
            return eprintln!("SKIPPED: no AVX-512");
        }
        let in_order = singles(64, LEN);
        // And a few of the lane that is left at the end, where one is.
        let put_apart = singles(0, LEN) - in_order;
        assert!((56..=64).contains(&put_apart), "{put_apart}");
        assert_eq!(singles(128, LEN), in_order);
        assert_eq!(singles(0, PAGE), singles(64, PAGE), "it is over before that pays");
    }
}
