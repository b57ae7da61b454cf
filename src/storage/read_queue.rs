//! Reads of one device that wait until others have ended.
//!
//! A device takes so many requests at once; a read beyond that would not wait in the ring but be handed to a worker
//! thread, which costs two switches and an extra copy of the queue in the kernel. So no more are begun than it takes, and
//! the rest waits here, first come, first served.

use std::collections::{HashMap, VecDeque};

/// Reads of one device in flight, for each shard. Block devices have queues of 64 (SATA: 32) to 1,023 requests; at 32 reads
/// of 128 KiB even fast ones are at their full rate.
pub const DEPTH: u32 = 64;

#[derive(Debug)]
struct Line<R> {
    in_flight: u32,
    waiting: VecDeque<R>,
}

/// The lines, by device number. `R` names a read.
#[derive(Debug)]
pub struct ReadQueue<R>(HashMap<u64, Line<R>>);

impl<R> Default for ReadQueue<R> {
    fn default() -> Self {
        ReadQueue(HashMap::new())
    }
}

impl<R> ReadQueue<R> {
    /// A read wants to begin. False when it has to wait; then [`ReadQueue::next`] gives it some time.
    pub fn begin(&mut self, device: u64, read: R) -> bool {
        let line = self.0.entry(device).or_insert(Line {
            in_flight: 0,
            waiting: VecDeque::new(),
        });
        if line.in_flight >= DEPTH {
            line.waiting.push_back(read);
            return false;
        }
        line.in_flight += 1;
        true
    }

    /// A read has ended.
    pub fn ended(&mut self, device: u64) {
        if let Some(line) = self.0.get_mut(&device) {
            line.in_flight = line.in_flight.saturating_sub(1);
        }
    }

    /// The next read that waits, if the device has room for it. It still has to [`begin`](ReadQueue::begin), or to be
    /// given up: whoever asks once asks until there is none.
    pub fn next(&mut self, device: u64) -> Option<R> {
        let line = self.0.get_mut(&device)?;
        match line.in_flight < DEPTH {
            true => line.waiting.pop_front(),
            false => None,
        }
    }

    /// Reads that wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.0.values().map(|line| line.waiting.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_reads_begin_than_a_device_takes_and_the_rest_follow_in_order() {
        let mut queue = ReadQueue::default();
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
