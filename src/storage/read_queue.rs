//! Reads of one device that wait until others have ended.
//!
//! A block device takes so many requests at once; a read beyond that would not wait in the ring but be handed to one of a
//! few worker threads. So no more are begun than it takes, and the rest waits here, first come, first served. Fewer than
//! it takes would be no better: completions would come one by one, each with a turn and a submission of its own (PERF.md).

use std::collections::{HashMap, VecDeque};

#[derive(Debug)]
struct Line<R> {
    depth: u32,
    in_flight: u32,
    waiting: VecDeque<R>,
}

/// The lines, by device number. `R` names a read.
#[derive(Debug)]
pub struct ReadQueue<R> {
    lines: HashMap<u64, Line<R>>,
    depth_of: fn(u64) -> u32,
}

impl<R> ReadQueue<R> {
    /// No reads. `depth_of` tells how many a device takes, once for each.
    pub fn new(depth_of: fn(u64) -> u32) -> Self {
        ReadQueue {
            lines: HashMap::new(),
            depth_of,
        }
    }

    /// A read wants to begin. False when it has to wait; then [`ReadQueue::next`] gives it some time.
    pub fn begin(&mut self, device: u64, read: R) -> bool {
        let line = self.lines.entry(device).or_insert_with(|| Line {
            depth: (self.depth_of)(device),
            in_flight: 0,
            waiting: VecDeque::new(),
        });
        if line.in_flight >= line.depth {
            line.waiting.push_back(read);
            return false;
        }
        line.in_flight += 1;
        true
    }

    /// A read has ended.
    pub fn ended(&mut self, device: u64) {
        if let Some(line) = self.lines.get_mut(&device) {
            line.in_flight = line.in_flight.saturating_sub(1);
        }
    }

    /// The next read that waits, if the device has room for it. It still has to [`begin`](ReadQueue::begin), or to be
    /// given up: whoever asks once asks until there is none.
    pub fn next(&mut self, device: u64) -> Option<R> {
        let line = self.lines.get_mut(&device)?;
        match line.in_flight < line.depth {
            true => line.waiting.pop_front(),
            false => None,
        }
    }

    /// Reads that wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.lines.values().map(|line| line.waiting.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_reads_begin_than_a_device_takes_and_the_rest_follow_in_order() {
        const DEPTH: u32 = 5;
        let mut queue = ReadQueue::new(|_| DEPTH);
        let (now, later): (Vec<u32>, Vec<u32>) = (0..DEPTH + 3).partition(|&read| queue.begin(1, read));
        assert_eq!(now, (0..DEPTH).collect::<Vec<_>>());
        assert!(queue.begin(2, 1000), "another device");
        assert_eq!(queue.waiting(), 3);
        assert_eq!(queue.next(1), None, "no room");
        for next in later {
            queue.ended(1);
            assert_eq!(queue.next(1), Some(next));
            assert!(queue.begin(1, next), "its place is free");
            assert_eq!(queue.next(1), None);
        }
        queue.ended(1);
        assert!(queue.begin(1, 0));
    }
}
