//! Who is in which swarm: so many peers over so many torrents, the torrents' shares by Zipf's law.
//!
//! Everything follows from the seed and a peer's number, both ways: an address in a reply names one peer, and so one torrent. That is
//! what lets a reply be checked without keeping what was announced.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::harness::random::Random;
use crate::proto::InfoHash;

/// The lowest port of a peer.
const PORT_MIN: u16 = 1024;
/// Peers that one address has: their ports are all different.
pub(super) const PEERS_PER_SOURCE: u32 = 60_000;

/// Zipf's law: the torrent of rank `n` (from 1) has a share in proportion to `n^-s`.
#[derive(Debug)]
struct Zipf {
    /// The sum of the shares up to and with each rank; the last is 1.
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(count: u32, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|share| *share /= sum);
        Zipf { cumulative }
    }

    /// The rank, from 0, that this number from 0 to 1 falls to.
    fn rank(&self, unit: f64) -> u32 {
        let rank = self.cumulative.partition_point(|share| *share <= unit);
        // Rounding may leave the last sum below 1.
        u32::try_from(rank.min(self.cumulative.len() - 1)).expect("as many as a u32 counts")
    }
}

/// All peers and torrents of a run.
#[derive(Debug)]
pub(super) struct Population {
    torrents: Vec<InfoHash>,
    /// The torrent of each peer.
    torrent_of: Vec<u32>,
    /// Peers of each torrent.
    members: Vec<u32>,
    source: Ipv4Addr,
    sources: u32,
}

impl Population {
    /// `peers` and `torrents` are at least 1, and no source has more than [`PEERS_PER_SOURCE`] peers.
    pub(super) fn new(peers: u32, torrents: u32, source: Ipv4Addr, sources: u32, seed: u64) -> Population {
        assert!(u64::from(peers) <= u64::from(sources) * u64::from(PEERS_PER_SOURCE));
        let mut random = Random::new(seed);
        let hashes = (0..torrents).map(|_| info_hash(&mut random)).collect();
        let zipf = Zipf::new(torrents, 1.0);
        let mut members = vec![0; torrents as usize];
        let torrent_of = (0..peers)
            .map(|_| {
                let torrent = zipf.rank(f64::from(random.below(u32::MAX)) / f64::from(u32::MAX));
                members[torrent as usize] += 1;
                torrent
            })
            .collect();
        Population {
            torrents: hashes,
            torrent_of,
            members,
            source,
            sources,
        }
    }

    pub(super) fn peers(&self) -> u32 {
        u32::try_from(self.torrent_of.len()).expect("made of a u32")
    }

    pub(super) fn sources(&self) -> u32 {
        self.sources
    }

    pub(super) fn torrents(&self) -> &[InfoHash] {
        &self.torrents
    }

    /// The address of a source, from 0.
    pub(super) fn source_ip(&self, source: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.source.to_bits().wrapping_add(source))
    }

    /// The source that a peer announces from.
    pub(super) fn source_of(&self, peer: u32) -> u32 {
        peer % self.sources
    }

    /// The port that a peer says it listens on.
    pub(super) fn port_of(&self, peer: u32) -> u16 {
        PORT_MIN + u16::try_from(peer / self.sources).expect("at most PEERS_PER_SOURCE")
    }

    /// The number of a peer's torrent.
    pub(super) fn torrent_of(&self, peer: u32) -> u32 {
        self.torrent_of[peer as usize]
    }

    /// A torrent by its number.
    pub(super) fn info_hash(&self, torrent: u32) -> &InfoHash {
        &self.torrents[torrent as usize]
    }

    /// The torrent of any peer: the more it has, the likelier it is.
    pub(super) fn any_torrent(&self, random: &mut Random) -> u32 {
        self.torrent_of(random.below(self.peers()))
    }

    /// How many peers a torrent can have at most.
    pub(super) fn members(&self, torrent: u32) -> u32 {
        self.members[torrent as usize]
    }

    /// The torrent of the peer that has this address, if one has.
    pub(super) fn torrent_at(&self, addr: SocketAddrV4) -> Option<u32> {
        let source = addr.ip().to_bits().wrapping_sub(self.source.to_bits());
        if source >= self.sources {
            return None;
        }
        let row = u32::from(addr.port().checked_sub(PORT_MIN)?);
        let peer = row.checked_mul(self.sources)?.checked_add(source)?;
        self.torrent_of.get(peer as usize).copied()
    }

    /// Whether the peer begins with everything.
    pub(super) fn is_seeder(peer: u32) -> bool {
        // Not a power of two: the sources are, mostly, and seeders are to be at all of them.
        peer.is_multiple_of(3)
    }
}

fn info_hash(random: &mut Random) -> InfoHash {
    let mut hash = [0; 20];
    for part in hash.chunks_mut(8) {
        part.copy_from_slice(&random.next_u64().to_be_bytes()[..part.len()]);
    }
    InfoHash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn population() -> Population {
        Population::new(50_000, 1_000, Ipv4Addr::new(127, 16, 0, 250), 16, 7)
    }

    #[test]
    fn the_first_torrent_has_twice_the_peers_of_the_second_and_ten_times_those_of_the_tenth() {
        let population = population();
        let members = |rank| f64::from(population.members(rank));
        // The sum of 1/n up to 1,000 is 7.485.
        assert!((members(0) / 50_000.0 - 1.0 / 7.485).abs() < 0.01, "{}", members(0));
        assert!((members(0) / members(1) - 2.0).abs() < 0.2);
        assert!((members(0) / members(9) - 10.0).abs() < 2.0);
        assert_eq!(population.members.iter().sum::<u32>(), 50_000);
    }

    #[test]
    fn a_draw_at_either_end_is_the_first_or_the_last() {
        let zipf = Zipf::new(10, 1.0);
        assert_eq!((zipf.rank(0.0), zipf.rank(1.0)), (0, 9));
        assert_eq!(Zipf::new(1, 1.0).rank(0.5), 0);
    }

    #[test]
    fn an_address_names_the_peer_that_has_it_and_no_other() {
        let population = population();
        for peer in [0, 1, 15, 16, 49_999] {
            let addr = SocketAddrV4::new(
                population.source_ip(population.source_of(peer)),
                population.port_of(peer),
            );
            assert_eq!(population.torrent_at(addr), Some(population.torrent_of(peer)));
        }
        for (ip, port) in [
            ([127, 16, 0, 249], 1024),
            ([127, 16, 0, 250], 1023),
            ([127, 16, 1, 9], 65_535),
        ] {
            assert_eq!(population.torrent_at(SocketAddrV4::new(ip.into(), port)), None);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_torrents_and_another_others() {
        let hashes = |seed| Population::new(10, 5, Ipv4Addr::LOCALHOST, 1, seed).torrents.clone();
        assert_eq!(hashes(1), hashes(1));
        assert_ne!(hashes(1), hashes(2));
    }
}
