//! What happened, as one number: two runs of a seed in which anything differs have different ones.

use std::fmt::Display;

use super::SECOND;

/// The number so far, and whether each step is told on standard error.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    pub(super) steps: u64,
    told: bool,
}

impl Trace {
    pub(super) fn new(told: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            told,
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Something has happened at a host: which `kind` of thing, and two numbers that tell it from others.
    pub(super) fn step(&mut self, now: u64, host: usize, kind: &'static str, (a, b): (u64, u64)) {
        self.steps += 1;
        let name = kind
            .bytes()
            .fold(0, |name: u64, byte| name.rotate_left(8) ^ u64::from(byte));
        for word in [now, host as u64, name, a, b] {
            self.mix(word);
        }
        if self.told {
            self.tell(now, host, format_args!("{kind} {a} {b}"));
        }
    }

    /// Bytes that went somewhere.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut sum = bytes.len() as u64;
        for word in words {
            sum = (sum ^ u64::from_le_bytes(*word))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
        let last = rest.iter().fold(0, |last: u64, byte| last << 8 | u64::from(*byte));
        self.mix(sum ^ last);
    }

    /// Only for who reads along.
    pub(super) fn say(&self, now: u64, host: usize, what: impl Display) {
        if self.told {
            self.tell(now, host, what);
        }
    }

    #[allow(clippy::print_stderr)] // Who reads along has asked for it.
    fn tell(&self, now: u64, host: usize, what: impl Display) {
        eprintln!("{:>12.6} {host} {what}", now as f64 / SECOND as f64);
    }
}
