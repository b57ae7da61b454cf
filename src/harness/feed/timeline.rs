//! A run second by second: what was sent, and how many requests were outstanding.

use std::time::Duration;

/// Requests outstanding at one connection, over a second. Looked at ten times, each time the most since the time before.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Depth {
    sum: u64,
    count: u64,
    max: u32,
}

/// Counts by second since the first request.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    bytes: Vec<u64>,
    depths: Vec<Depth>,
}

impl Timeline {
    /// So much was sent, at this time since the first request.
    pub(super) fn add_bytes(&mut self, at: Duration, len: u64) {
        *second(&mut self.bytes, at) += len;
    }

    /// So many requests were outstanding at one connection.
    pub(super) fn add_depth(&mut self, at: Duration, depth: u32) {
        let of = second(&mut self.depths, at);
        of.sum += u64::from(depth);
        of.count += 1;
        of.max = of.max.max(depth);
    }

    /// MB sent in each second of a run of this length; the last one counts as long as it was.
    pub(super) fn rates(&self, len: Duration) -> Vec<f64> {
        let seconds = (0..).map(|second| (len.as_secs_f64() - f64::from(second)).clamp(1e-3, 1.0));
        // What was sent after the end was sent in vain.
        let count = usize::try_from(len.as_secs()).expect("a run of fewer seconds") + 1;
        let rates = self.bytes.iter().take(count).zip(seconds);
        rates.map(|(bytes, second)| *bytes as f64 / 1e6 / second).collect()
    }

    /// The mean over connections and looks, of each second.
    pub(super) fn depth_means(&self) -> Vec<f64> {
        let mean = |depth: &Depth| depth.sum as f64 / depth.count.max(1) as f64;
        self.depths.iter().map(mean).collect()
    }

    /// The most of any connection, in each second.
    pub(super) fn depth_maxima(&self) -> Vec<u32> {
        self.depths.iter().map(|depth| depth.max).collect()
    }
}

fn second<T: Default + Clone>(seconds: &mut Vec<T>, at: Duration) -> &mut T {
    let index = usize::try_from(at.as_secs()).expect("a run of fewer seconds");
    if index >= seconds.len() {
        seconds.resize(index + 1, T::default());
    }
    &mut seconds[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_apart_and_the_last_one_is_as_long_as_it_was() {
        let mut timeline = Timeline::default();
        let at = Duration::from_millis;
        for (ms, len) in [(0, 1_000_000), (999, 1_000_000), (2_100, 3_000_000), (2_400, 1_000_000)] {
            timeline.add_bytes(at(ms), len);
        }
        assert_eq!(timeline.rates(at(2_500)), [2.0, 0.0, 8.0]);
        timeline.add_depth(at(100), 4);
        timeline.add_depth(at(200), 8);
        timeline.add_depth(at(1_200), 3);
        assert_eq!(timeline.depth_means(), [6.0, 3.0]);
        assert_eq!(timeline.depth_maxima(), [8, 3]);
    }
}
