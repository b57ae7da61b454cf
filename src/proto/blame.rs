//! Who is to be distrusted when a piece turns out wrong.
//!
//! A piece that came from one peer convicts it. One that came from several makes suspects of all of them, and each block is
//! remembered by its giver and a hash of its bytes. When the same piece has been downloaded once more and is right, the
//! blocks that differ convict those who sent them, and those that are the same clear theirs. Until then a suspect is on
//! *parole*: it is asked for whole pieces of its own ([`super::picker::Asking::alone`]), the first of which either convicts
//! or clears it.
//!
//! So nobody is convicted for what another has done. Peers are known by an identity that outlives their connections, such as
//! an address; a hash is to be keyed with something that they cannot know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Wrong pieces that are remembered, the latest of them. Each takes 24 bytes or more for a block.
pub const REMEMBERED_MAX: usize = 64;

/// What a block of a piece was, and who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given<K> {
    /// Who.
    pub giver: K,
    /// A keyed hash of its bytes.
    pub hash: u64,
}

/// The blame of one torrent.
#[derive(Debug)]
pub struct Blame<K> {
    /// Wrong pieces: their number, and their blocks in order. Oldest first.
    wrong: VecDeque<(u32, Vec<Given<K>>)>,
    /// How many of these each suspect has given blocks of, if it has not been cleared.
    suspects: BTreeMap<K, u32>,
    convicts: BTreeSet<K>,
}

impl<K: Copy + Ord> Default for Blame<K> {
    fn default() -> Self {
        Blame {
            wrong: VecDeque::new(),
            suspects: BTreeMap::new(),
            convicts: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Ord> Blame<K> {
    /// Whether a peer is to prove itself with pieces of its own.
    pub fn is_on_parole(&self, peer: &K) -> bool {
        self.suspects.contains_key(peer)
    }

    /// Whether a piece that is right says anything: it was wrong before, or clears the suspect that sent all of it.
    pub fn is_about(&self, piece: u32, givers: &[K]) -> bool {
        self.wrong.iter().any(|(wrong, _)| *wrong == piece) || matches!(givers, [only] if self.is_on_parole(only))
    }

    /// Whether a peer has been convicted: nothing more is to be had from it.
    pub fn is_convicted(&self, peer: &K) -> bool {
        self.convicts.contains(peer)
    }

    /// A piece is wrong; these are its blocks, in order. Gives who is convicted by it. One that a convict has sent blocks of
    /// says nothing of the others.
    pub fn on_wrong(&mut self, piece: u32, blocks: Vec<Given<K>>) -> Option<K> {
        let givers: BTreeSet<K> = blocks.iter().map(|block| block.giver).collect();
        if givers.iter().any(|giver| self.is_convicted(giver)) {
            return None;
        }
        let mut givers = givers.into_iter();
        match (givers.next(), givers.next()) {
            (None, _) => None,
            (Some(only), None) => self.convict(only).then_some(only),
            (Some(first), Some(second)) => {
                for giver in [first, second].into_iter().chain(givers) {
                    *self.suspects.entry(giver).or_default() += 1;
                }
                self.wrong.push_back((piece, blocks));
                if self.wrong.len() > REMEMBERED_MAX
                    && let Some((_, forgotten)) = self.wrong.pop_front()
                {
                    self.forgive(&forgotten);
                }
                None
            }
        }
    }

    /// A piece is right; these are its blocks, in order. Gives who is convicted by what it had sent of it before.
    pub fn on_right(&mut self, piece: u32, blocks: &[Given<K>]) -> Vec<K> {
        let mut convicted = Vec::new();
        let (of_it, others) = std::mem::take(&mut self.wrong)
            .into_iter()
            .partition(|(wrong, _)| *wrong == piece);
        self.wrong = others;
        let of_it: VecDeque<(u32, Vec<Given<K>>)> = of_it;
        for (_, wrong) in of_it {
            for (then, now) in std::iter::zip(&wrong, blocks) {
                if then.hash != now.hash && self.convict(then.giver) {
                    convicted.push(then.giver);
                }
            }
            self.forgive(&wrong);
        }
        // A whole piece of a suspect's own, and right.
        if let Some(first) = blocks.first()
            && blocks.iter().all(|block| block.giver == first.giver)
        {
            self.suspects.remove(&first.giver);
        }
        convicted
    }

    /// True if it was not convicted yet.
    fn convict(&mut self, peer: K) -> bool {
        self.suspects.remove(&peer);
        self.convicts.insert(peer)
    }

    /// A wrong piece is no longer held against those who gave blocks of it.
    fn forgive(&mut self, blocks: &[Given<K>]) {
        let givers: BTreeSet<K> = blocks.iter().map(|block| block.giver).collect();
        for giver in givers {
            if let Some(times) = self.suspects.get_mut(&giver) {
                *times -= 1;
                if *times == 0 {
                    self.suspects.remove(&giver);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn given(blocks: &[(u32, u64)]) -> Vec<Given<u32>> {
        let given = |&(giver, hash)| Given { giver, hash };
        blocks.iter().map(given).collect()
    }

    #[test]
    fn who_sent_all_of_a_wrong_piece_is_convicted_at_once() {
        let mut blame = Blame::default();
        assert_eq!(blame.on_wrong(0, given(&[(1, 10), (1, 11)])), Some(1));
        assert!(blame.is_convicted(&1) && !blame.is_on_parole(&1));
        assert_eq!(blame.on_wrong(1, given(&[(1, 10), (1, 11)])), None, "once");
        assert_eq!(blame.on_wrong(2, Vec::new()), None);
    }

    #[test]
    fn blocks_that_differ_convict_and_those_that_do_not_clear() {
        let mut blame = Blame::default();
        assert_eq!(blame.on_wrong(0, given(&[(1, 10), (2, 11), (3, 12)])), None);
        assert!([1, 2, 3].iter().all(|peer| blame.is_on_parole(peer)));
        assert!(blame.on_right(7, &given(&[(4, 0), (5, 0)])).is_empty(), "another piece");
        let right = given(&[(4, 10), (4, 99), (5, 12)]);
        assert_eq!(blame.on_right(0, &right), [2]);
        assert!([1, 2, 3, 4, 5].iter().all(|peer| !blame.is_on_parole(peer)));
        assert!(blame.is_convicted(&2) && !blame.is_convicted(&1));
    }

    #[test]
    fn right_piece_of_its_own_ends_a_parole_but_not_what_is_remembered() {
        let mut blame = Blame::default();
        blame.on_wrong(0, given(&[(1, 10), (2, 11)]));
        assert!(blame.on_right(5, &given(&[(2, 0), (2, 0)])).is_empty());
        assert!(blame.is_on_parole(&1) && !blame.is_on_parole(&2));
        assert_eq!(blame.on_right(0, &given(&[(1, 10), (1, 12)])), [2]);
    }

    #[test]
    fn suspect_of_two_pieces_is_cleared_by_both() {
        let mut blame = Blame::default();
        blame.on_wrong(0, given(&[(1, 10), (2, 11)]));
        blame.on_wrong(1, given(&[(1, 10), (3, 11)]));
        assert_eq!(blame.on_right(0, &given(&[(8, 10), (9, 12)])), [2]);
        assert!(blame.is_on_parole(&1));
        assert_eq!(blame.on_right(1, &given(&[(8, 10), (9, 12)])), [3]);
        assert!(!blame.is_on_parole(&1));
    }

    #[test]
    fn no_more_is_remembered_than_a_bound_and_what_is_forgotten_is_forgiven() {
        let mut blame = Blame::default();
        for piece in 0..=REMEMBERED_MAX as u32 {
            blame.on_wrong(piece, given(&[(1000, 0), (piece, 0)]));
        }
        assert_eq!(blame.wrong.len(), REMEMBERED_MAX);
        assert!(!blame.is_on_parole(&0) && blame.is_on_parole(&1) && blame.is_on_parole(&1000));
    }

    proptest! {
        /// Peers that send pieces block by block, or alone while on parole; some lie now and then. The honest are never
        /// convicted, and a liar is after two wrong pieces, if it always lies.
        #[test]
        fn liars_are_convicted_and_nobody_else(
            liars in proptest::collection::btree_set(0u32..8, 0..3),
            every in 1u64..20,
            mut random in 1u64..,
        ) {
            let mut next = move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            };
            let mut blame = Blame::default();
            let mut missing: Vec<u32> = (0..60).collect();
            let (mut wrong, mut tries) = (0, 0);
            while let Some(piece) = missing.first().copied() {
                tries += 1;
                prop_assert!(tries < 5000);
                let able: Vec<u32> = (0..8).filter(|peer| !blame.is_convicted(peer)).collect();
                let alone = able[(next() % able.len() as u64) as usize];
                let trusted: Vec<u32> = able.iter().copied().filter(|peer| !blame.is_on_parole(peer)).collect();
                let blocks: Vec<Given<u32>> = (0..16)
                    .map(|block| {
                        let giver = match blame.is_on_parole(&alone) || trusted.is_empty() {
                            true => alone,
                            false => trusted[(next() % trusted.len() as u64) as usize],
                        };
                        let lies = liars.contains(&giver) && next() % every == 0;
                        let hash = if lies { next() } else { u64::from(piece * 100 + block) };
                        Given { giver, hash }
                    })
                    .collect();
                let right = (0..).zip(&blocks).all(|(block, given)| given.hash == u64::from(piece * 100 + block));
                match right {
                    true => {
                        blame.on_right(piece, &blocks);
                        missing.remove(0);
                    }
                    false => {
                        wrong += 1;
                        blame.on_wrong(piece, blocks);
                        missing.rotate_left(1);
                    }
                }
                for peer in 0..8 {
                    prop_assert!(!blame.is_convicted(&peer) || liars.contains(&peer), "{} is honest", peer);
                }
            }
            if every == 1 {
                // A piece that both had a part in counts for both.
                prop_assert!(wrong <= 2 * liars.len(), "{} wrong pieces of {} liars", wrong, liars.len());
            }
            prop_assert!(wrong == 0 || liars.iter().any(|liar| blame.is_convicted(liar)));
            prop_assert!((0..8).all(|peer| !blame.is_on_parole(&peer) || !missing.is_empty()));
        }
    }
}
