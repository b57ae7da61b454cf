//! A small seeded generator: which piece a leecher asks for next must differ from run to run of a swarm, and be the
//! same again for the same seed. Not for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): one add and three mixing steps, any seed is good.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A generator whose whole sequence follows from `seed`.
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub(super) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound` (0 when `bound` is 0), by multiplication: the bias is below 2^-32.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let high = self.next_u64() >> 32;
        let scaled = (high * u64::from(bound)) >> 32;
        u32::try_from(scaled).expect("a 32-bit fraction of a u32 is a u32")
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        // 53 bits are what an f64 holds exactly.
        ((self.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_the_bound_and_reach_every_value() {
        let mut random = Random::new(1);
        let mut seen = [false; 7];
        for _ in 0..1_000 {
            seen[random.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn a_chance_of_one_is_certain_and_of_zero_never() {
        let mut random = Random::new(2);
        assert!((0..1_000).all(|_| random.chance(1.0)));
        assert!((0..1_000).all(|_| !random.chance(0.0)));
    }

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (mut one, mut other) = (Random::new(9), Random::new(9));
        assert!((0..100).all(|_| one.next_u64() == other.next_u64()));
    }
}
