//! When a sleep should gather completions instead of ending at the first one.
//!
//! With hundreds of peers that each ask for a block now and then, every request is a wake-up of its own, and the wake-up
//! costs more than the block. Sleeping half a millisecond at least then gathers a handful of them (`gather-wait`; 0.2 ms
//! saves nothing yet: PERF.md, S3). It ends early when as many have come
//! as that long brings on average: after a hiccup many come at once, and those have waited long enough. A shard
//! whose turns are well filled anyway, or that has few peers, gains nothing and would only answer later.
//!
//! Twice as long saves a seventh more, and is in nobody's way where the machine itself makes peers wait for longer: one whose host takes
//! its CPUs away for milliseconds at a time. So it is counted for how much of the time nobody could have been answered in time whatever
//! is done here, and where that is about one part in a hundred, the sleep is doubled. Peers that all pause together look the same, and
//! wait half a millisecond longer at most for it.

use std::time::{Duration, Instant};

use crate::proto::geometry::BLOCK_LEN;

/// The fewest requests for which a sleep ends early: each wake-up costs more than a block.
const ENOUGH_MIN: u64 = 4;

/// Peers below which there is nothing to gather.
const PEERS_MIN: u64 = 16;

/// Turns a second from which on wake-ups are what costs. Lower while gathering, which itself makes turns rarer: no more
/// than 2,000 a second are left then.
const TURNS_TO_BEGIN: u64 = 2_000;
const TURNS_TO_GO_ON: u64 = 500;

/// Payload of a turn that is well filled without: a whole send of one fast peer.
const FILLED_LEN: u64 = 256 * 1024;

/// Of a sleep that is longer than it had to be by so many undoubled ones the rest is late.
const LATE_WAITS: u32 = 2;
/// One part in so many of the time is late where the sleep is doubled, and where it stays so.
const LATE_TO_DOUBLE: u32 = 125;
const LATE_TO_STAY: u32 = 250;
/// Requests that a sleep has to bring on average. With fewer a long one may be one in which nobody has asked.
const EXPECTED_MIN: u64 = 2;
/// A shorter time says nothing yet.
const LATELY_MIN: Duration = Duration::from_secs(1);
/// In each tick so much of what was counted is forgotten: it is a matter of some three seconds.
const FORGET: u32 = 32;

/// Looks back once a tick on how the turns were filled.
#[derive(Debug)]
pub(super) struct Gather {
    /// The least sleep while it is on, if not doubled.
    wait: Duration,
    on: bool,
    doubled: bool,
    /// Blocks that the least sleep brings, by the last tick.
    enough: u64,
    turns: u64,
    sent: u64,
    /// Since when the shard sleeps.
    asleep_since: Option<Instant>,
    /// Time since the last tick, and the late part of it.
    passed: (Duration, Duration),
    /// The same lately.
    lately: (Duration, Duration),
}

impl Gather {
    /// With this as the least sleep.
    pub(super) fn new(wait: Duration) -> Gather {
        Gather {
            wait,
            on: false,
            doubled: false,
            enough: ENOUGH_MIN,
            turns: 0,
            sent: 0,
            asleep_since: None,
            passed: (Duration::ZERO, Duration::ZERO),
            lately: (Duration::ZERO, Duration::ZERO),
        }
    }

    /// A turn has begun, after a sleep that could be as long as it liked if `is_free`.
    pub(super) fn on_turn(&mut self, now: Instant, is_free: bool) {
        if let Some(since) = self.asleep_since.take().filter(|_| is_free) {
            let slept = now.saturating_duration_since(since);
            self.passed.0 += slept;
            self.passed.1 += slept.saturating_sub(self.wait * LATE_WAITS + self.least());
        }
    }

    /// A turn is over.
    pub(super) fn on_turned(&mut self, now: Instant) {
        self.asleep_since = Some(now);
    }

    /// A tick has passed: `turns` and `sent` (payload bytes) are counted from the start of the shard, `over` is the time
    /// since the last call, `peers` are those that may ask, at the moment.
    pub(super) fn on_tick(&mut self, turns: u64, sent: u64, peers: u64, over: Duration) {
        let (turned, moved) = (turns - self.turns, sent - self.sent);
        (self.turns, self.sent) = (turns, sent);
        let least = match self.on {
            true => TURNS_TO_GO_ON,
            false => TURNS_TO_BEGIN,
        };
        let frequent = u128::from(turned) * 1_000_000_000 >= u128::from(least) * over.as_nanos();
        let filled = moved >= turned * FILLED_LEN * if self.doubled { 2 } else { 1 };
        self.on = peers >= PEERS_MIN && frequent && !filled;
        let blocks = u128::from(moved / u64::from(BLOCK_LEN));
        let expected = |wait: Duration| {
            let expected = blocks * wait.as_nanos() / over.as_nanos().max(1);
            u64::try_from(expected).unwrap_or(u64::MAX)
        };
        let is_steady = self.on && expected(self.wait) >= EXPECTED_MIN;
        let (passed, late) = std::mem::take(&mut self.passed);
        if is_steady {
            self.lately.0 += passed;
            self.lately.1 += late;
        }
        let one_in = match self.doubled {
            true => LATE_TO_STAY,
            false => LATE_TO_DOUBLE,
        };
        let (lately, late) = self.lately;
        self.doubled = is_steady && lately >= LATELY_MIN && late > lately / one_in;
        self.lately.0 -= self.lately.0 / FORGET;
        self.lately.1 -= self.lately.1 / FORGET;
        self.enough = expected(self.least()).max(ENOUGH_MIN);
    }

    /// How many requests end the sleep early.
    pub(super) fn enough(&self) -> usize {
        usize::try_from(self.enough).unwrap_or(usize::MAX)
    }

    /// The least time to sleep.
    pub(super) fn at_least(&self) -> Duration {
        match self.on {
            true => self.least(),
            false => Duration::ZERO,
        }
    }

    fn least(&self) -> Duration {
        match self.doubled {
            true => self.wait * 2,
            false => self.wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_micros(500);
    const TICK: Duration = Duration::from_millis(100);
    const BLOCK_LEN: u64 = super::BLOCK_LEN as u64;

    /// Whether a shard gathers after a tick of so many turns, with so many bytes in each.
    fn after(gather: &mut Gather, turns: u64, per_turn: u64, peers: u64) -> bool {
        let (all_turns, all_sent) = (gather.turns + turns, gather.sent + turns * per_turn);
        gather.on_tick(all_turns, all_sent, peers, TICK);
        !gather.at_least().is_zero()
    }

    #[test]
    fn many_peers_with_a_block_each_are_gathered() {
        let mut gather = Gather::new(WAIT);
        assert!(gather.at_least().is_zero());
        assert!(after(&mut gather, 500, BLOCK_LEN, 500));
        assert!(
            after(&mut gather, 150, 4 * BLOCK_LEN, 500),
            "turns are rarer by it, and it goes on"
        );
        assert!(!after(&mut gather, 20, BLOCK_LEN, 500), "until little is asked for");
        assert!(
            !after(&mut gather, 150, BLOCK_LEN, 500),
            "and begins only when it is much again"
        );
    }

    #[test]
    fn what_ends_a_sleep_early_follows_what_is_asked_for() {
        let mut gather = Gather::new(WAIT);
        assert_eq!(gather.enough(), 4);
        // 40,000 blocks a second: 20 in half a millisecond.
        after(&mut gather, 1_000, 4 * BLOCK_LEN, 500);
        assert_eq!(gather.enough(), 20);
        after(&mut gather, 100, BLOCK_LEN, 500);
        assert_eq!(gather.enough(), 4, "fewer are not worth a wake-up");
    }

    /// A second of turns a sleep apart, each with five blocks, but for one in `every`, which is so `late`.
    fn second(gather: &mut Gather, now: &mut Instant, (every, late): (u32, Duration)) {
        let (end, mut tick, mut turns) = (*now + 10 * TICK, *now + TICK, 0);
        while *now < end {
            turns += 1;
            *now += match turns % every {
                0 => late,
                _ => WAIT,
            };
            gather.on_turn(*now, true);
            gather.on_turned(*now);
            if *now >= tick {
                tick += TICK;
                let (turns, sent) = (gather.turns + 190, gather.sent + 1_000 * BLOCK_LEN);
                gather.on_tick(turns, sent, 500, TICK);
            }
        }
    }

    #[test]
    fn sleep_is_doubled_where_the_machine_makes_peers_wait_for_longer() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        second(&mut gather, &mut now, (20, 3 * WAIT));
        assert_eq!(gather.at_least(), WAIT, "three times as long is not late");
        second(&mut gather, &mut now, (1_900, 10 * WAIT));
        assert_eq!(gather.at_least(), WAIT, "once a second");
        second(&mut gather, &mut now, (150, 10 * WAIT));
        assert_eq!(gather.at_least(), 2 * WAIT);
        assert_eq!(gather.enough(), 10, "and what ends it early is twice as much");
        for _ in 0..12 {
            second(&mut gather, &mut now, (1_900, 10 * WAIT));
        }
        assert_eq!(gather.at_least(), WAIT, "the machine is calm again");
    }

    #[test]
    fn quiet_is_not_taken_for_a_machine_that_is_late() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        for turn in 1..=600 {
            now += 10 * WAIT;
            gather.on_turn(now, true);
            gather.on_turned(now);
            if turn % 60 == 0 {
                after(&mut gather, 60, BLOCK_LEN, 500);
                assert_eq!(gather.at_least(), WAIT, "a block each");
            }
        }
    }

    #[test]
    fn few_peers_and_filled_turns_are_not_kept_waiting() {
        let mut gather = Gather::new(WAIT);
        assert!(!after(&mut gather, 1000, BLOCK_LEN, PEERS_MIN - 1));
        assert!(!after(&mut gather, 1000, FILLED_LEN, 500));
        assert!(!after(&mut gather, 0, 0, 500), "an idle shard");
    }

    #[test]
    fn long_tick_is_not_mistaken_for_a_busy_one() {
        let mut gather = Gather::new(WAIT);
        gather.on_tick(500, 500 * BLOCK_LEN, 500, Duration::from_secs(1));
        assert!(gather.at_least().is_zero());
    }
}
