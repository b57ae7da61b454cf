//! One torrent's peers, in whichever of two shapes is smaller, and the choice of whom a reply tells.

use super::claim::{Claim, Host};
use super::extras::Extra;
use super::few::{FEW, Few};
use super::many::{Context, Many, Noted, Pair, Place};
use super::stamp::Stamp;
use super::table::Table;
use crate::tracker::address::Address;
use crate::tracker::random::Random;

/// A swarm with so few peers goes back into the map's entry: one less than there is room for, so that a peer that comes
/// and goes does not move it each time.
const BACK_TO_FEW: usize = FEW - 1;

/// The peers of a torrent.
#[derive(Debug)]
pub(super) enum Swarm {
    Few(Few),
    /// With how many there are: a scrape has the entry of the map in its cache, and would have to fetch this.
    Many(Counts, Box<Many>),
}

const _: () = assert!(size_of::<Swarm>() == 24, "counts lie where an entry has nothing else");

/// What a scrape is told of a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) seeders: u32,
    pub(super) leechers: u32,
}

impl Counts {
    fn of(many: &Many) -> Self {
        let count = |len: usize, len6: Option<usize>| u32::try_from(len + len6.unwrap_or(0)).unwrap_or(u32::MAX);
        let v6 = many.v6.as_ref();
        Self {
            seeders: count(many.v4.seeders.len(), v6.map(|v6| v6.seeders.len())),
            leechers: count(many.v4.leechers.len(), v6.map(|v6| v6.leechers.len())),
        }
    }
}

/// How many peers of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) leechers4: usize,
    pub(super) seeders4: usize,
    pub(super) leechers6: usize,
    pub(super) seeders6: usize,
    pub(super) named: usize,
}

impl Tally {
    pub(super) const fn seeders(&self) -> usize {
        self.seeders4 + self.seeders6
    }

    pub(super) const fn leechers(&self) -> usize {
        self.leechers4 + self.leechers6
    }

    pub(super) const fn peers(&self) -> usize {
        self.seeders() + self.leechers()
    }

    /// Counts a swarm as `after` that was counted as `before`.
    #[inline]
    pub(super) fn replace(&mut self, before: &Self, after: &Self) {
        self.leechers4 = self.leechers4 + after.leechers4 - before.leechers4;
        self.seeders4 = self.seeders4 + after.seeders4 - before.seeders4;
        self.leechers6 = self.leechers6 + after.leechers6 - before.leechers6;
        self.seeders6 = self.seeders6 + after.seeders6 - before.seeders6;
        self.named = self.named + after.named - before.named;
    }
}

/// A peer as it announces itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::tracker) struct Joining<'a> {
    pub(in crate::tracker) address: Address,
    /// Whether it has everything, if it said.
    pub(in crate::tracker) seeder: Option<bool>,
    /// The name it may be reached by, which was found to be allowed.
    pub(in crate::tracker) name: Option<&'a [u8]>,
    /// The peer id, if it is to be told to others.
    pub(in crate::tracker) peer_id: Option<&'a [u8; 20]>,
}

/// The families a reply can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tracker) enum Families {
    V4,
    V6,
    Both,
}

/// Where the peers of a reply go.
pub(in crate::tracker) trait Sink {
    /// Whether it wants to know more than addresses.
    const EXTRAS: bool;

    /// An IPv4 peer, as in a compact reply.
    fn peer4(&mut self, address: &[u8; 6], extra: Option<&Extra>);

    /// An IPv6 peer, as in a compact reply.
    fn peer6(&mut self, address: &[u8; 18], extra: Option<&Extra>);
}

/// Whom a reply is for, and how many peers it may have.
pub(super) struct Asker {
    pub(super) address: Address,
    pub(super) is_seeder: bool,
    pub(super) want: usize,
    pub(super) families: Families,
}

impl Swarm {
    /// Notes that a peer was heard of. If there is no memory for a new one, everything stays as it is.
    #[inline]
    pub(super) fn note(&mut self, peer: &Joining<'_>, context: Context<'_>) -> Result<Noted, super::Full> {
        if let Self::Few(few) = self {
            match &peer.address {
                Address::V4(address) if peer.name.is_none() && peer.peer_id.is_none() => {
                    if let Some(noted) = note_among_few(few, address, peer.seeder, context.now) {
                        return Ok(noted);
                    }
                }
                Address::V4(_) | Address::V6(_) => {}
            }
        }
        match self {
            Self::Many(counts, many) => {
                let noted = many.note(&peer.address, peer.seeder, peer.name, peer.peer_id, context);
                *counts = Counts::of(many);
                noted
            }
            Self::Few(few) => {
                let joined = Many::from_few(few, context).and_then(|mut many| {
                    match many.note(&peer.address, peer.seeder, peer.name, peer.peer_id, context) {
                        Ok(noted) => Ok((many, noted)),
                        Err(full) => {
                            many.release(context.budget);
                            Err(full)
                        }
                    }
                });
                match (joined, &peer.address) {
                    (Ok((many, noted)), _) => {
                        *self = Self::Many(Counts::of(&many), many);
                        Ok(noted)
                    }
                    // There may be room for its address alone.
                    (Err(full), Address::V4(address)) => {
                        note_among_few(few, address, peer.seeder, context.now).ok_or(full)
                    }
                    (Err(full), Address::V6(_)) => Err(full),
                }
            }
        }
    }

    /// Takes a peer out, if it is there.
    pub(super) fn remove(&mut self, address: &Address, context: Context<'_>) {
        match (&mut *self, address) {
            (Self::Few(few), Address::V4(address)) => {
                if let Some(at) = few.find(address) {
                    few.remove(at, context.now);
                }
            }
            (Self::Few(_), Address::V6(_)) => {}
            (Self::Many(counts, many), address) => {
                many.remove(address, context);
                *counts = Counts::of(many);
                self.settle(context);
            }
        }
    }

    /// Goes back to the smaller shape if that is enough.
    fn settle(&mut self, context: Context<'_>) {
        if let Self::Many(_, many) = self
            && many.len() <= BACK_TO_FEW
            && let Some(few) = many.to_few(BACK_TO_FEW, context.now)
        {
            many.release(context.budget);
            *self = Self::Few(few);
        }
    }

    /// Forgets everybody, and gives all memory back.
    pub(super) fn release(&mut self, context: Context<'_>) {
        if let Self::Many(_, many) = self {
            many.release(context.budget);
        }
        *self = Self::Few(Few::empty(context.now));
    }

    #[inline]
    pub(super) fn tally(&self) -> Tally {
        match self {
            Self::Few(few) => Tally {
                leechers4: few.len() - few.seeders(),
                seeders4: few.seeders(),
                ..Tally::default()
            },
            Self::Many(_, many) => Tally {
                leechers4: many.v4.leechers.len(),
                seeders4: many.v4.seeders.len(),
                leechers6: many.v6.as_ref().map_or(0, |v6| v6.leechers.len()),
                seeders6: many.v6.as_ref().map_or(0, |v6| v6.seeders.len()),
                named: many.extras.as_ref().map_or(0, |extras| extras.named()),
            },
        }
    }

    /// How many seeders and leechers there are, without a look beyond the entry of the map.
    #[inline]
    pub(super) fn counts(&self) -> Counts {
        match self {
            Self::Few(few) => Counts {
                seeders: few.seeders() as u32, // No more than fit an entry.
                leechers: (few.len() - few.seeders()) as u32,
            },
            Self::Many(counts, _) => *counts,
        }
    }

    /// Since when it has had no peers, if it has none.
    pub(super) fn empty_since(&self) -> Option<u8> {
        match self {
            Self::Few(few) if few.len() == 0 => Some(few.empty_since()),
            Self::Few(_) | Self::Many(..) => None,
        }
    }

    /// What it has to say for itself when somebody at this host wants its room. None, if it keeps it whoever that is.
    pub(super) fn claim(&self, asker: Host, now: Stamp) -> Option<Claim> {
        match self {
            Self::Few(few) if few.len() == 0 => Some(Claim::Empty(now.age(few.empty_since()))),
            Self::Few(few) => {
                let peers = few.peers();
                let peers = peers.map(|(address, _, stamp)| (Host::of(&Address::V4(*address)), stamp));
                Claim::of(few.len(), peers, asker, now)
            }
            Self::Many(_, many) => {
                let peers = many.peers().map(|(address, stamp)| (Host::of(&address), stamp));
                Claim::of(many.len(), peers, asker, now)
            }
        }
    }

    /// Whether it has memory beside its entry in the map.
    pub(super) const fn has_tables(&self) -> bool {
        matches!(self, Self::Many(..))
    }

    /// Forgets who has outlived its time; see [`Many::sweep`].
    pub(super) fn sweep(&mut self, place: Place, slots_left: &mut usize, context: Context<'_>) -> Option<Place> {
        match self {
            Self::Few(few) => {
                let mut at = 0;
                while let Some(stamp) = few.stamp(at) {
                    if context.now.has_outlived(stamp) {
                        few.remove(at, context.now);
                    } else {
                        at += 1;
                    }
                }
                None
            }
            Self::Many(counts, many) => {
                let more = many.sweep(place, slots_left, context);
                *counts = Counts::of(many);
                if more.is_none() {
                    self.settle(context);
                }
                more
            }
        }
    }

    /// Tells the sink a random sample of the peers: not the asker, and no seeders if it is one itself.
    pub(super) fn pick<S: Sink>(&self, asker: &Asker, now: Stamp, random: &mut Random, sink: &mut S) {
        match self {
            Self::Few(few) => {
                if asker.families != Families::V6 {
                    pick_of_few(few, asker, now, random, sink);
                }
            }
            Self::Many(_, many) => pick_of_many(many, asker, now, random, sink),
        }
    }
}

/// Notes an IPv4 peer of a swarm that has few, if it is there or there is room.
#[inline]
fn note_among_few(few: &mut Few, address: &[u8; 6], seeder: Option<bool>, now: Stamp) -> Option<Noted> {
    if let Some(at) = few.find(address) {
        let was = few.is_seeder(at);
        let is = seeder.unwrap_or(was);
        few.touch(at, now);
        few.set_seeder(at, is);
        return Some(Noted { was: Some(was), is });
    }
    let is = seeder.unwrap_or(false);
    few.push(address, is, now).then_some(Noted { was: None, is })
}

fn pick_of_few<S: Sink>(few: &Few, asker: &Asker, now: Stamp, random: &mut Random, sink: &mut S) {
    let wanted = |(address, seeder, stamp): &(&[u8; 6], bool, u8)| {
        asker.address != Address::V4(**address) && !(*seeder && asker.is_seeder) && !now.has_outlived(*stamp)
    };
    let from = random.below(few.len());
    let turned = few.peers().skip(from).chain(few.peers().take(from));
    for (address, _, _) in turned.filter(wanted).take(asker.want) {
        sink.peer4(address, None);
    }
}

fn pick_of_many<S: Sink>(many: &Many, asker: &Asker, now: Stamp, random: &mut Random, sink: &mut S) {
    /// How many leechers and seeders of a family may be told.
    fn eligible<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize>(
        pair: &Pair<ADDRESS, SLOT, PER_PAGE>,
        asker: &Asker,
        asker_is_here: bool,
    ) -> [usize; 2] {
        if asker.is_seeder {
            [pair.leechers.len(), 0]
        } else {
            [pair.leechers.len() - usize::from(asker_is_here), pair.seeders.len()]
        }
    }
    let v6 = many.v6.as_deref().filter(|_| asker.families != Families::V4);
    let mut counts = [0; 4];
    if asker.families != Families::V6 {
        let here = matches!(asker.address, Address::V4(_));
        counts[..2].copy_from_slice(&eligible(&many.v4, asker, here));
    }
    if let Some(v6) = v6 {
        let here = matches!(asker.address, Address::V6(_));
        counts[2..].copy_from_slice(&eligible(v6, asker, here));
    }
    let shares = shares(counts, asker.want, random);
    // An address that no peer has, since its port is 0.
    let (asker4, asker6) = match asker.address {
        Address::V4(address) => (address, [0; 18]),
        Address::V6(address) => ([0; 6], address),
    };
    let extra = |address: Address| {
        let extras = many.extras.as_deref().filter(|_| S::EXTRAS)?;
        extras.get(&address)
    };
    for (table, share) in [&many.v4.leechers, &many.v4.seeders].into_iter().zip(shares) {
        window(table, share, &asker4, now, random, |address| {
            sink.peer4(address, extra(Address::V4(*address)));
        });
    }
    let Some(v6) = v6 else {
        return;
    };
    for (table, share) in [&v6.leechers, &v6.seeders].into_iter().zip([shares[2], shares[3]]) {
        window(table, share, &asker6, now, random, |address| {
            sink.peer6(address, extra(Address::V6(*address)));
        });
    }
}

#[inline]
fn window<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize>(
    table: &Table<ADDRESS, SLOT, PER_PAGE>,
    want: usize,
    asker: &[u8; ADDRESS],
    now: Stamp,
    random: &mut Random,
    each: impl FnMut(&[u8; ADDRESS]),
) {
    if want > 0 {
        table.window(random.below(table.capacity()), want, asker, now, each);
    }
}

/// How many of each kind make up `want` of all: as many as its part of all is, rounded up or down by chance. The sum is
/// exactly `want`, or all there are.
fn shares<const KINDS: usize>(counts: [usize; KINDS], want: usize, random: &mut Random) -> [usize; KINDS] {
    let mut total: usize = counts.iter().sum();
    if total <= want {
        return counts;
    }
    let mut left = want;
    counts.map(|count| {
        // Nothing is left to divide when the last kinds have nobody.
        let rounded = (left * count + random.below(total)).checked_div(total).unwrap_or(0);
        // The kinds behind this one must be able to make up the rest.
        let share = rounded.min(count).max(left.saturating_sub(total - count));
        left -= share;
        total -= count;
        share
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_and_in_proportion() {
        let mut random = Random::new(1);
        assert_eq!(shares([3, 4], 50, &mut random), [3, 4]);
        assert_eq!(shares([0, 400, 0, 0], 50, &mut random), [0, 50, 0, 0]);
        let mut sums = [0; 3];
        for _ in 0..1000 {
            let shares = shares([10, 900, 90], 50, &mut random);
            assert_eq!(shares.iter().sum::<usize>(), 50);
            (0..3).for_each(|kind| sums[kind] += shares[kind]);
        }
        // 50,000 in all, of which 1, 90 and 9 % are expected.
        assert!((350..650).contains(&sums[0]), "{sums:?}");
        assert!((44_000..46_000).contains(&sums[1]), "{sums:?}");
    }

    #[test]
    fn no_kind_gives_more_than_it_has() {
        let mut random = Random::new(2);
        for want in 0..40 {
            for counts in [[1, 1, 38], [38, 1, 1], [0, 20, 20], [13, 13, 14]] {
                let shares = shares(counts, want, &mut random);
                assert!(shares.iter().zip(counts).all(|(share, count)| *share <= count));
                assert_eq!(shares.iter().sum::<usize>(), want);
            }
        }
    }
}
