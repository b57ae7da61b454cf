//! How many requests one peer should have under way.
//!
//! A peer sends nothing while no request of ours is with it, so there have to be as many as it sends in a round trip, or the
//! path is not full. How long a round trip is and how much goes through is not known beforehand: it begins with
//! a few, and doubles with each round trip, as TCP does, for as long as more come back for it. From then on as many are under
//! way as come in three seconds: enough for any path, and for a disk that is slow for a moment. The peer's own queue
//! (`reqq`, BEP 10) is the limit; what it drops beyond that would be asked for in vain.
//!
//! A peer that sends nothing for a minute is *snubbed*: it keeps one request, so that it can prove itself, and the others
//! are asked of somebody else.

use std::time::{Duration, Instant};

use super::geometry::BLOCK_LEN;

/// Never fewer than this, unless it is snubbed.
pub const DEPTH_MIN: u32 = 5;

/// Never more, whatever the peer takes: 32 MiB.
pub const DEPTH_MAX: u32 = 2048;

/// What a peer takes that says nothing: BEP 10 has no number; libtorrent takes 500 and Transmission 512, older ones 250.
pub const REQQ_DEFAULT: u32 = 250;

/// How much is under way once the rate is known.
const AHEAD: Duration = Duration::from_secs(3);

/// Nothing for so long: it is snubbed.
pub const SNUBBED_AFTER: Duration = Duration::from_secs(60);

/// The time over which the rate is taken.
const INTERVAL: Duration = Duration::from_millis(500);

/// See the module's page.
#[derive(Debug, Clone)]
pub struct Depth {
    target: u32,
    reqq: u32,
    /// It still doubles.
    growing: bool,
    /// Blocks that came since the target was last doubled.
    round: u32,
    /// The interval that is being counted, and what came in it.
    interval_began: Instant,
    interval_len: u64,
    /// Bytes a second in the last interval, and the most since it began to grow.
    rate: u64,
    best: u64,
    /// Intervals in a row without more than ever before.
    flat: u8,
    /// When a block came last, or since when it could have.
    heard_at: Instant,
    snubbed: bool,
}

impl Depth {
    /// Of a peer that has just unchoked us.
    #[must_use]
    pub const fn new(now: Instant) -> Depth {
        Depth {
            target: DEPTH_MIN,
            reqq: REQQ_DEFAULT,
            growing: true,
            round: 0,
            interval_began: now,
            interval_len: 0,
            rate: 0,
            best: 0,
            flat: 0,
            heard_at: now,
            snubbed: false,
        }
    }

    /// What the peer says its queue takes.
    pub fn set_reqq(&mut self, reqq: u32) {
        self.reqq = reqq.clamp(1, DEPTH_MAX);
    }

    /// How many requests should be under way.
    #[must_use]
    pub fn target(&self) -> u32 {
        match self.snubbed {
            true => 1,
            // A peer that takes fewer than we would never go below has its reasons.
            false => self.target.min(self.reqq),
        }
    }

    /// How many blocks it sends in this time, at the rate of the last interval. 0 before the first one is over.
    #[must_use]
    pub fn blocks_within(&self, time: Duration) -> usize {
        (u128::from(self.rate) * time.as_millis() / 1000 / u128::from(BLOCK_LEN)) as usize
    }

    /// Whether it has sent nothing for a minute.
    #[must_use]
    pub const fn is_snubbed(&self) -> bool {
        self.snubbed
    }

    /// It unchoked us, or was asked for something when nothing was under way: from now on it could send.
    pub fn on_start(&mut self, now: Instant) {
        self.heard_at = now;
        self.interval_began = now;
        self.interval_len = 0;
    }

    /// A block of so many bytes came.
    pub fn on_block(&mut self, len: u32, now: Instant) {
        self.heard_at = now;
        self.snubbed = false;
        self.interval_len += u64::from(len);
        if self.growing {
            // One round trip: all that was under way when it was doubled has come.
            self.round += 1;
            if self.round >= self.target {
                self.round = 0;
                self.target = (self.target * 2).min(DEPTH_MAX);
            }
        }
        self.on_tick(true, now);
    }

    /// Time has passed. `waiting`: something is under way, and the peer does not choke us.
    pub fn on_tick(&mut self, waiting: bool, now: Instant) {
        if !waiting {
            self.heard_at = now;
        }
        if now.saturating_duration_since(self.heard_at) >= SNUBBED_AFTER {
            self.snubbed = true;
            self.growing = true;
            self.target = DEPTH_MIN;
            self.round = 0;
            self.best = 0;
            self.flat = 0;
        }
        let passed = now.saturating_duration_since(self.interval_began);
        if passed < INTERVAL {
            return;
        }
        self.rate = (u128::from(self.interval_len) * 1_000_000 / passed.as_micros().max(1)) as u64;
        self.interval_began = now;
        self.interval_len = 0;
        // An eighth more is more; less than that is the path's own unrest.
        match self.rate > self.best + self.best / 8 {
            true => self.flat = 0,
            false => self.flat = self.flat.saturating_add(1),
        }
        self.best = self.best.max(self.rate);
        let ahead = (self.rate * AHEAD.as_secs()).div_ceil(u64::from(BLOCK_LEN));
        let ahead = u32::try_from(ahead).map_or(DEPTH_MAX, |ahead| ahead.clamp(DEPTH_MIN, DEPTH_MAX));
        if self.growing {
            // Three times without more, and enough under way for the rate there is: the path is full.
            self.growing = self.flat < 3 || self.target < ahead;
        }
        if !self.growing {
            // Down slowly, as one interval may be bad; up at once.
            self.target = ahead.max(self.target - (self.target / 8).max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A seeder behind a path: so many bytes a second, so far away, with room for so many requests. What comes too many it
    /// drops.
    struct Path {
        rate: f64,
        delay: Duration,
        reqq: u32,
        depth: Depth,
        now: Instant,
        /// When each request is at the seeder, and when each block is here.
        asked: VecDeque<Instant>,
        coming: VecDeque<Instant>,
        free_at: Instant,
        bytes: u64,
    }

    impl Path {
        fn new(rate: f64, delay_ms: u64, reqq: u32) -> Path {
            let now = Instant::now();
            let mut depth = Depth::new(now);
            depth.set_reqq(reqq);
            Path {
                rate,
                delay: Duration::from_millis(delay_ms / 2),
                reqq,
                depth,
                now,
                asked: VecDeque::new(),
                coming: VecDeque::new(),
                free_at: now,
                bytes: 0,
            }
        }

        /// Lets time pass, and gives the bytes that came in it.
        fn run(&mut self, seconds: f64) -> u64 {
            let (end, before) = (self.now + Duration::from_secs_f64(seconds), self.bytes);
            while self.now < end {
                self.now += Duration::from_millis(1);
                while self.asked.front().is_some_and(|at| *at <= self.now) {
                    let at = self.asked.pop_front().unwrap();
                    let sent = self.free_at.max(at) + Duration::from_secs_f64(f64::from(BLOCK_LEN) / self.rate);
                    self.free_at = sent;
                    self.coming.push_back(sent + self.delay);
                }
                while self.coming.front().is_some_and(|at| *at <= self.now) {
                    self.coming.pop_front();
                    self.bytes += u64::from(BLOCK_LEN);
                    self.depth.on_block(BLOCK_LEN, self.now);
                }
                let under_way = (self.asked.len() + self.coming.len()) as u32;
                self.depth.on_tick(under_way > 0, self.now);
                assert!(under_way <= self.reqq, "more than the seeder takes");
                for _ in under_way..self.depth.target() {
                    self.asked.push_back(self.now + self.delay);
                }
            }
            self.bytes - before
        }
    }

    #[test]
    fn path_of_200_mbit_and_100_ms_is_full_from_the_third_second_on() {
        let mut path = Path::new(25e6, 100, 500);
        path.run(2.0);
        let came = path.run(8.0) as f64;
        assert!(came >= 0.97 * 8.0 * 25e6, "{} of 200 MB", came / 1e6);
    }

    #[test]
    fn without_a_limit_the_queue_of_the_peer_is_used_within_seconds() {
        let mut path = Path::new(1e12, 100, 2000);
        path.run(3.0);
        assert!(path.depth.target() >= 1990, "{}", path.depth.target());
        let came = path.run(2.0) as f64;
        assert!(came >= 2.0 * 250e6, "{} MB a second", came / 2e6);
    }

    #[test]
    fn slow_peer_holds_what_it_sends_in_three_seconds_and_never_fewer_than_five() {
        // One block more or less in half a second is 32 kB/s.
        for (rate, most) in [(10e3, 6), (200e3, 48)] {
            let mut path = Path::new(rate, 50, 500);
            path.run(60.0);
            let target = path.depth.target();
            assert!((5..=most).contains(&target), "{target} at {rate}");
            assert!(!path.depth.is_snubbed());
        }
    }

    #[test]
    fn change_of_rate_is_followed() {
        let mut path = Path::new(10e6, 50, 2000);
        path.run(10.0);
        let fast = path.depth.target();
        path.rate = 1e6;
        path.run(60.0);
        let slow = path.depth.target();
        assert!(slow <= 220 && fast >= 1000, "{fast}, {slow}");
        path.rate = 10e6;
        path.run(30.0);
        let came = path.run(5.0) as f64;
        assert!(came >= 0.97 * 5.0 * 10e6, "{} of 50 MB", came / 1e6);
    }

    #[test]
    fn peer_that_sends_nothing_for_a_minute_is_snubbed_until_it_sends_something() {
        let began = Instant::now();
        let mut depth = Depth::new(began);
        let at = |seconds| began + Duration::from_secs(seconds);
        depth.on_tick(true, at(59));
        assert!(!depth.is_snubbed());
        depth.on_tick(true, at(60));
        assert_eq!((depth.is_snubbed(), depth.target()), (true, 1));
        depth.on_block(BLOCK_LEN, at(61));
        assert_eq!((depth.is_snubbed(), depth.target()), (false, DEPTH_MIN));
        // Nothing is under way: it owes nothing.
        depth.on_tick(false, at(200));
        depth.on_tick(true, at(250));
        assert!(!depth.is_snubbed());
    }

    #[test]
    fn what_a_peer_says_it_takes_is_kept_to_however_little_or_much() {
        let mut depth = Depth::new(Instant::now());
        for (said, kept) in [(0, 1), (3, 3), (u32::MAX, DEPTH_MIN)] {
            depth.set_reqq(said);
            assert_eq!(depth.target(), kept);
        }
    }
}
