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
//!
//! That is counted in probes: ticks in which nothing is gathered, one in 32 of them. A sleep that gathers is late by itself on many
//! virtual machines: their hosts give a CPU that sleeps for more than some 0.2 ms to others, and do not give it back at once.

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

/// Of a sleep that nothing ends for so many undoubled ones the rest is late.
const LATE_WAITS: u32 = 3;
/// One part in so many of the time is late where the sleep is doubled, and where it stays so.
const LATE_TO_DOUBLE: u32 = 125;
const LATE_TO_STAY: u32 = 250;
/// Requests that an undoubled sleep has to bring on average. With fewer a long one may be one in which nobody has asked.
const EXPECTED_MIN: u64 = 2;
/// So many probes say something: with less than a tenth of a second of sleep in each there was little to be late.
const PROBES_MIN: u32 = 12;
/// A shorter sleep in all of them says nothing.
const LATELY_MIN: Duration = Duration::from_millis(500);
/// With each probe so much of what was counted before is forgotten: it is a matter of some two minutes.
const FORGET: u32 = 32;
/// Ticks after which nothing that is known holds any more, if little was asked for all the while: ten minutes.
const STALE: u32 = 6_000;
/// Ticks from one probe to the next, while too little is known yet and later.
const PROBE_SOON: u32 = 4;
const PROBE_SELDOM: u32 = 32;

/// Looks back once a tick on how the turns were filled.
#[derive(Debug)]
pub(super) struct Gather {
    /// The least sleep while it is on, if not doubled.
    wait: Duration,
    on: bool,
    /// Whether requests are so frequent that a long sleep says something of the machine.
    steady: bool,
    /// Whether the machine keeps peers waiting by itself, as far as it is known.
    late: bool,
    /// Whether this tick is a probe, and in how many the next one is.
    probing: bool,
    probe_in: u32,
    /// Ticks since requests were so frequent.
    idle: u32,
    /// Blocks that the least sleep brings, by the last tick.
    enough: u64,
    turns: u64,
    sent: u64,
    /// Since when the shard sleeps.
    asleep_since: Option<Instant>,
    /// Time slept since the last tick, and the late part of it.
    passed: (Duration, Duration),
    /// The same of probes lately, and how many there were.
    lately: (Duration, Duration),
    probes: u32,
}

impl Gather {
    /// With this as the least sleep.
    pub(super) fn new(wait: Duration) -> Gather {
        Gather {
            wait,
            on: false,
            steady: false,
            late: false,
            probing: false,
            probe_in: PROBE_SOON,
            idle: 0,
            enough: ENOUGH_MIN,
            turns: 0,
            sent: 0,
            asleep_since: None,
            passed: (Duration::ZERO, Duration::ZERO),
            lately: (Duration::ZERO, Duration::ZERO),
            probes: 0,
        }
    }

    /// A turn has begun, after a sleep that could be as long as it liked if `is_free`.
    pub(super) fn on_turn(&mut self, now: Instant, is_free: bool) {
        if let Some(since) = self.asleep_since.take().filter(|_| is_free) {
            let slept = now.saturating_duration_since(since);
            self.passed.0 += slept;
            self.passed.1 += slept.saturating_sub(self.wait * LATE_WAITS);
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
        let filled = moved >= turned * FILLED_LEN * if self.is_doubled() { 2 } else { 1 };
        self.on = peers >= PEERS_MIN && frequent && !filled;
        let blocks = u128::from(moved / u64::from(BLOCK_LEN));
        let expected = |wait: Duration| {
            let expected = blocks * wait.as_nanos() / over.as_nanos().max(1);
            u64::try_from(expected).unwrap_or(u64::MAX)
        };
        self.steady = self.on && expected(self.wait) >= EXPECTED_MIN;
        let (passed, late) = std::mem::take(&mut self.passed);
        if std::mem::take(&mut self.probing) && self.steady {
            self.judge(passed, late);
        }
        if self.steady {
            self.idle = 0;
            self.probe_in -= 1;
            self.probing = self.probe_in == 0;
        } else {
            self.idle = self.idle.saturating_add(1);
        }
        if self.idle == STALE {
            self.lately = (Duration::ZERO, Duration::ZERO);
            (self.probes, self.late, self.probe_in) = (0, false, PROBE_SOON);
        }
        if self.probing {
            self.probe_in = match self.probes < PROBES_MIN {
                true => PROBE_SOON,
                false => PROBE_SELDOM,
            };
        }
        self.enough = expected(self.least()).max(ENOUGH_MIN);
    }

    /// In a probe the shard has slept for so long, of which so much was late.
    fn judge(&mut self, passed: Duration, late: Duration) {
        self.lately.0 = self.lately.0 - self.lately.0 / FORGET + passed;
        self.lately.1 = self.lately.1 - self.lately.1 / FORGET + late;
        let one_in = match self.late {
            true => LATE_TO_STAY,
            false => LATE_TO_DOUBLE,
        };
        let (lately, late) = self.lately;
        self.probes = self.probes.saturating_add(1);
        self.late = self.probes >= PROBES_MIN && lately >= LATELY_MIN && late > lately / one_in;
    }

    /// How many requests end the sleep early.
    pub(super) fn enough(&self) -> usize {
        usize::try_from(self.enough).unwrap_or(usize::MAX)
    }

    /// Whether it is on, and doubled, as counters have it.
    pub(super) fn is_on(&self) -> (u64, u64) {
        let is_on = self.on && !self.wait.is_zero();
        (is_on.into(), (is_on && self.is_doubled()).into())
    }

    /// The least time to sleep.
    pub(super) fn at_least(&self) -> Duration {
        match self.on && !self.probing {
            true => self.least(),
            false => Duration::ZERO,
        }
    }

    fn is_doubled(&self) -> bool {
        self.steady && self.late
    }

    fn least(&self) -> Duration {
        match self.is_doubled() {
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

    /// So many seconds of turns, each with five blocks and a sleep apart, but for one in `every` that is so `late`: of all
    /// ticks, or but for probes, in which sleeps are short. Gives how many probes there were.
    fn seconds(
        gather: &mut Gather,
        now: &mut Instant,
        count: u32,
        (every, late): (u32, Duration),
        in_probes: bool,
    ) -> u32 {
        let (end, mut tick, mut turns, mut probes) = (*now + count * 10 * TICK, *now + TICK, 0, 0);
        while *now < end {
            turns += 1;
            *now += match gather.at_least().is_zero() {
                _ if turns % every == 0 && (in_probes || !gather.probing) => late,
                true => WAIT / 5,
                false => gather.at_least(),
            };
            gather.on_turn(*now, true);
            gather.on_turned(*now);
            if *now >= tick {
                tick += TICK;
                let (turns, sent) = (gather.turns + 190, gather.sent + 1_000 * BLOCK_LEN);
                gather.on_tick(turns, sent, 500, TICK);
                probes += u32::from(gather.probing);
            }
        }
        probes
    }

    #[test]
    fn sleep_is_doubled_where_the_machine_makes_peers_wait_for_longer() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        seconds(&mut gather, &mut now, 10, (20, 3 * WAIT), true);
        assert_eq!(gather.is_on(), (1, 0), "three times as long is not late");
        seconds(&mut gather, &mut now, 100, (9_500, 10 * WAIT), true);
        assert_eq!(gather.is_on(), (1, 0), "once a second");
        seconds(&mut gather, &mut now, 100, (1_000, 10 * WAIT), true);
        assert_eq!(gather.is_on(), (1, 1));
        assert_eq!(gather.least(), 2 * WAIT);
        assert_eq!(gather.enough(), 10, "and what ends it early is twice as much");
        seconds(&mut gather, &mut now, 300, (50_000, 10 * WAIT), true);
        assert_eq!(gather.is_on(), (1, 0), "the machine is calm again");
        assert_eq!(gather.least(), WAIT);
    }

    #[test]
    fn a_machine_that_is_late_is_known_within_seconds() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        seconds(&mut gather, &mut now, 6, (1_000, 10 * WAIT), true);
        assert_eq!(gather.is_on(), (1, 1));
    }

    #[test]
    fn sleeps_that_are_late_since_they_gather_are_not_made_longer() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        seconds(&mut gather, &mut now, 100, (50, 10 * WAIT), false);
        assert_eq!(gather.is_on(), (1, 0));
    }

    #[test]
    fn what_was_known_of_the_machine_is_forgotten_after_a_long_rest() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        seconds(&mut gather, &mut now, 10, (1_000, 10 * WAIT), true);
        for rest in [1, STALE - 1] {
            for _ in 0..rest {
                after(&mut gather, 0, 0, 500);
            }
            assert_eq!(gather.is_on(), (0, 0));
            after(&mut gather, 500, 5 * BLOCK_LEN, 500);
            assert_eq!(gather.is_on(), (1, 1), "after {rest} ticks");
        }
        for _ in 0..STALE {
            after(&mut gather, 0, 0, 500);
        }
        after(&mut gather, 500, 5 * BLOCK_LEN, 500);
        assert_eq!(gather.is_on(), (1, 0));
    }

    #[test]
    fn shard_that_hardly_sleeps_is_probed_as_seldom() {
        for slept in [TICK / 5, Duration::ZERO] {
            let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
            let mut probes = 0;
            for _ in 0..400 {
                gather.on_turned(now);
                now += slept;
                gather.on_turn(now, true);
                after(&mut gather, 500, 5 * BLOCK_LEN, 500);
                probes += u32::from(gather.probing);
            }
            assert!((20..=25).contains(&probes), "{probes}");
        }
    }

    #[test]
    fn shard_that_is_not_to_gather_does_not_say_that_it_does() {
        let mut gather = Gather::new(Duration::ZERO);
        after(&mut gather, 500, BLOCK_LEN, 500);
        assert_eq!((gather.is_on(), gather.at_least()), ((0, 0), Duration::ZERO));
    }

    #[test]
    fn one_tick_in_32_gathers_nothing() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        seconds(&mut gather, &mut now, 10, (u32::MAX, WAIT), true);
        let probes = seconds(&mut gather, &mut now, 64, (u32::MAX, WAIT), true);
        assert_eq!(probes, 20, "of 640 ticks");
    }

    #[test]
    fn quiet_is_not_taken_for_a_machine_that_is_late() {
        let (mut gather, mut now) = (Gather::new(WAIT), Instant::now());
        after(&mut gather, 500, BLOCK_LEN, 500);
        for turn in 1..=60_000 {
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
