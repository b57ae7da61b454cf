//! Deadlines of thousands of connections for a few nanoseconds each.
//!
//! Time is cut into ticks of [`TICK`]. An entry lies in the slot of its tick; one further off than the wheel goes round
//! lies in the last slot before, and who is woken there too early looks at his own clock and asks again. Precision is one
//! tick, which is plenty for timeouts of seconds.

use std::time::Duration;

/// Length of a tick.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Slots: 51.2 s.
const SLOTS: u64 = 512;

/// The wheel. `T` is whom to wake.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    slots: Vec<Vec<T>>,
    /// All slots up to this tick have been emptied.
    now: u64,
    len: usize,
}

impl<T> Wheel<T> {
    /// An empty wheel at tick zero.
    #[must_use]
    pub(super) fn new() -> Self {
        Wheel {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            now: 0,
            len: 0,
        }
    }

    /// Wakes `who` at tick `at`, or earlier if that is further off than the wheel goes; at the next tick if it is past.
    /// Gives the tick at which it really happens.
    pub(super) fn insert(&mut self, at: u64, who: T) -> u64 {
        let at = at.clamp(self.now + 1, self.now + SLOTS - 1);
        self.slots[(at % SLOTS) as usize].push(who);
        self.len += 1;
        at
    }

    /// Moves on to tick `now` and takes those who are due, in order of their ticks, into `due`.
    pub(super) fn advance(&mut self, now: u64, due: &mut Vec<T>) {
        // After a long stall (the machine slept) once round is enough.
        let first = self.now.max(now.saturating_sub(SLOTS - 1)) + 1;
        for tick in first..=now {
            let slot = &mut self.slots[(tick % SLOTS) as usize];
            self.len -= slot.len();
            due.append(slot);
        }
        self.now = self.now.max(now);
    }

    /// The first tick at which somebody is due.
    #[must_use]
    pub(super) fn next(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        (self.now + 1..self.now + SLOTS).find(|tick| !self.slots[(tick % SLOTS) as usize].is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due
    }

    #[test]
    fn wakes_at_the_tick_asked_for_and_not_before() {
        let mut wheel = Wheel::new();
        wheel.insert(5, 1);
        wheel.insert(3, 2);
        assert_eq!(wheel.next(), Some(3));
        assert!(due(&mut wheel, 2).is_empty());
        assert_eq!(due(&mut wheel, 5), [2, 1]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn past_deadline_is_due_at_the_next_tick() {
        let mut wheel = Wheel::new();
        due(&mut wheel, 100);
        wheel.insert(7, 1);
        assert_eq!(due(&mut wheel, 101), [1]);
    }

    #[test]
    fn far_deadline_wakes_early_to_be_asked_again() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.insert(10_000, 1), SLOTS - 1);
        assert!(due(&mut wheel, SLOTS - 2).is_empty());
        assert_eq!(due(&mut wheel, SLOTS - 1), [1]);
    }

    #[test]
    fn long_stall_wakes_everybody_once() {
        let mut wheel = Wheel::new();
        for at in [1, 200, 511] {
            wheel.insert(at, at as u32);
        }
        let mut woken = due(&mut wheel, 1_000_000);
        woken.sort_unstable();
        assert_eq!(woken, [1, 200, 511]);
        wheel.insert(0, 9);
        assert_eq!(due(&mut wheel, 1_000_001), [9]);
    }
}
