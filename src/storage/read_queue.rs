//! Reads of one device that wait until others have ended.
//!
//! A block device takes so many requests at once; a read beyond that would not wait in the ring but be handed to one of a
//! few worker threads. So no more are begun than it takes, and the rest waits here. Fewer than it takes would be no better:
//! completions would come one by one, each with a turn and a submission of its own (PERF.md).
//!
//! Who waits goes first come, first served; where heads move, in the order of the bytes, always upwards and then from the
//! start again (C-LOOK), each place once in a sweep, so that nobody who keeps asking for one holds up the others. The kernel
//! does the same with what it has been given; this is for what it has not.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::device::Manners;

/// Where a read lies on its device, as far as is known: the number of its file, and which extent of it.
pub type Place = (u32, u32);

#[derive(Debug)]
struct Line<R> {
    manners: Manners,
    in_flight: u32,
    /// In the order in which they go, if the sweep begins now: by place, where that counts, and by when they came.
    waiting: BTreeMap<(Place, u64), R>,
    /// Reads that have had to wait.
    waited: u64,
    /// The read begun last.
    at: Place,
}

impl<R> Line<R> {
    fn wait(&mut self, place: Place, read: R) {
        let place = if self.manners.seeks { place } else { Place::default() };
        self.waiting.insert((place, self.waited), read);
        self.waited += 1;
    }

    /// Takes out who goes next.
    fn next(&mut self) -> Option<R> {
        let passed = (Bound::Excluded((self.at, u64::MAX)), Bound::Unbounded);
        let above = self.waiting.range(passed).next().map(|(key, _)| *key);
        match above {
            Some(key) => self.waiting.remove(&key),
            None => self.waiting.pop_first().map(|(_, read)| read),
        }
    }
}

/// The lines, by device number. `R` names a read.
#[derive(Debug)]
pub struct ReadQueue<R> {
    lines: HashMap<u64, Line<R>>,
    manners_of: fn(u64) -> Manners,
}

impl<R> ReadQueue<R> {
    /// No reads. `manners_of` tells how a device is to be asked, once for each.
    pub fn new(manners_of: fn(u64) -> Manners) -> Self {
        ReadQueue {
            lines: HashMap::new(),
            manners_of,
        }
    }

    fn line(&mut self, device: u64) -> &mut Line<R> {
        self.lines.entry(device).or_insert_with(|| Line {
            manners: (self.manners_of)(device),
            in_flight: 0,
            waiting: BTreeMap::new(),
            waited: 0,
            at: Place::default(),
        })
    }

    /// Whether heads move where this device is read.
    pub fn seeks(&mut self, device: u64) -> bool {
        self.line(device).manners.seeks
    }

    /// A read wants to begin. False when it has to wait; then [`ReadQueue::next`] gives it some time.
    pub fn begin(&mut self, device: u64, place: Place, read: R) -> bool {
        let line = self.line(device);
        if line.in_flight >= line.manners.depth {
            line.wait(place, read);
            return false;
        }
        line.in_flight += 1;
        line.at = place;
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
        if line.in_flight >= line.manners.depth {
            return None;
        }
        line.next()
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

    const DEPTH: u32 = 5;

    fn queue(seeks: bool) -> ReadQueue<u32> {
        match seeks {
            true => ReadQueue::new(|_| Manners {
                depth: DEPTH,
                seeks: true,
            }),
            false => ReadQueue::new(|_| Manners {
                depth: DEPTH,
                seeks: false,
            }),
        }
    }

    #[test]
    fn no_more_reads_begin_than_a_device_takes_and_the_rest_follow_in_order() {
        let mut queue = queue(false);
        let place = |read| (0, 1000 - read);
        let (now, later): (Vec<u32>, Vec<u32>) = (0..DEPTH + 3).partition(|&read| queue.begin(1, place(read), read));
        assert_eq!(now, (0..DEPTH).collect::<Vec<_>>());
        assert!(queue.begin(2, (0, 0), 1000), "another device");
        assert_eq!(queue.waiting(), 3);
        assert_eq!(queue.next(1), None, "no room");
        for next in later {
            queue.ended(1);
            assert_eq!(queue.next(1), Some(next));
            assert!(queue.begin(1, place(next), next), "its place is free");
            assert_eq!(queue.next(1), None);
        }
        queue.ended(1);
        assert!(queue.begin(1, (0, 0), 0));
    }

    #[test]
    fn where_heads_move_reads_go_upwards_and_start_again_from_below() {
        let mut queue = queue(true);
        assert!(queue.seeks(1));
        // As many as the device takes, the last of them in the middle.
        let begun = (0..DEPTH).filter(|&read| queue.begin(1, (5, 50), read)).count();
        assert_eq!(begun, DEPTH as usize);
        let waiting = [(9, 0), (5, 49), (5, 60), (0, 7), (5, 50), (5, 60)];
        for (read, place) in (100..).zip(waiting) {
            assert!(!queue.begin(1, place, read));
        }
        let mut order = Vec::new();
        for _ in waiting {
            queue.ended(1);
            let read = queue.next(1).expect("room");
            assert!(queue.begin(1, waiting[read as usize - 100], read));
            order.push(waiting[read as usize - 100]);
        }
        assert_eq!(order, [(5, 60), (9, 0), (0, 7), (5, 49), (5, 50), (5, 60)]);
        assert_eq!(queue.next(1), None);
    }
}
