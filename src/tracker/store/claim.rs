//! Which swarm makes way when memory is short.
//!
//! A hash is made up for nothing and costs its maker an announce for each peer. What it cannot make up is addresses: it has
//! to receive what it is sent. So a swarm counts by the hosts that its peers are at. One that has no more than two, however
//! many ports they give themselves, may be somebody's invention, and so may one of which nothing has been heard for longer
//! than an interval. And whoever brings new torrents to a tracker that is full has those make way first that it has a part
//! in: a few hosts that flood it push themselves out.
//!
//! Not here: who does the looking, and at how many ([`super`]).

use super::stamp::Stamp;
use crate::tracker::address::Address;

/// A swarm of up to so many peers may be somebody's invention: one host with a family or a port more.
pub(super) const FLEETING_MAX: usize = 2;
/// The same for so many hosts.
const HOSTS_FEW: usize = 2;
/// A swarm of so many peers that are at more hosts than that makes way for new torrents, where there is nothing else; one that
/// has more does not.
pub(super) const SMALL_MAX: usize = 15;
/// How many of a swarm's peers are looked at: they lie in the order of a keyed hash, so that the first are as good as any.
pub(super) const LOOK_MAX: usize = 32;
const _: () = assert!(SMALL_MAX <= LOOK_MAX);

/// Who may give itself any number of ports: an IPv4 address, or the half of an IPv6 address that is a subscriber's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Host {
    pub(super) fn of(address: &Address) -> Self {
        match address {
            Address::V4([ip @ .., _, _]) => Self::V4(*ip),
            Address::V6(bytes) => Self::V6(*bytes.first_chunk().expect("18 bytes")),
        }
    }
}

/// What a swarm has to say for itself, the least last: of several the greatest makes way. Ages are those of the peer that was
/// heard of last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// Peers at several hosts, if not many.
    Small,
    /// It may be made up, or is over.
    Fleeting(u8),
    /// It is small or may be made up, and one of its peers is at the host that wants the room.
    Own(u8),
    /// It has no peers.
    Empty(u8),
}

impl Claim {
    /// Of a swarm of so many peers, of which these are looked at. None, if it does not make way.
    pub(super) fn of(
        peers: usize,
        looked_at: impl Iterator<Item = (Host, u8)>,
        asker: Host,
        now: Stamp,
    ) -> Option<Self> {
        let mut hosts = [None; HOSTS_FEW];
        let (mut are_many, mut is_own, mut age) = (false, false, u8::MAX);
        for (host, stamp) in looked_at.take(LOOK_MAX) {
            age = age.min(now.age(stamp));
            is_own |= host == asker;
            if !hosts.contains(&Some(host)) {
                match hosts.iter_mut().find(|known| known.is_none()) {
                    Some(free) => *free = Some(host),
                    None => are_many = true,
                }
            }
        }
        if is_own && (peers <= SMALL_MAX || !are_many) {
            Some(Self::Own(age))
        } else if peers <= FLEETING_MAX || !are_many || Stamp::is_late(age) {
            Some(Self::Fleeting(age))
        } else {
            (peers <= SMALL_MAX).then_some(Self::Small)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Host = Host::V4([9; 4]);
    const NOW: Stamp = Stamp(200);

    /// Of a swarm at these hosts, with a peer at each, all heard of so many units ago.
    fn claim(hosts: &[u8], age: u8) -> Option<Claim> {
        let looked_at = hosts.iter().map(|host| (Host::V4([*host; 4]), 200 - age));
        Claim::of(hosts.len(), looked_at, ASKER, NOW)
    }

    #[test]
    fn a_swarm_counts_by_its_hosts() {
        assert_eq!(claim(&[1], 5), Some(Claim::Fleeting(5)));
        assert_eq!(claim(&[1, 2, 1, 2, 1, 2], 5), Some(Claim::Fleeting(5)));
        assert_eq!(claim(&[1; 40], 5), Some(Claim::Fleeting(5)));
        assert_eq!(claim(&[1, 2, 3], 5), Some(Claim::Small));
        assert_eq!(claim(&[1, 2, 1, 2, 3], 5), Some(Claim::Small));
        let many: Vec<u8> = (10..26).collect();
        assert_eq!((claim(&many[..15], 5), claim(&many, 5)), (Some(Claim::Small), None));
    }

    #[test]
    fn whoever_wants_room_has_its_own_small_swarms_make_way() {
        assert_eq!(claim(&[9], 5), Some(Claim::Own(5)));
        assert_eq!(claim(&[1, 2, 3, 9], 5), Some(Claim::Own(5)));
        assert_eq!(claim(&[9; 40], 5), Some(Claim::Own(5)));
        let many: Vec<u8> = (5..25).collect();
        assert_eq!(claim(&many, 5), None);
    }

    #[test]
    fn a_swarm_of_which_nothing_is_heard_is_over() {
        let many: Vec<u8> = (10..30).collect();
        assert_eq!(
            (claim(&many, 120), claim(&many, 121)),
            (None, Some(Claim::Fleeting(121)))
        );
        // It is the latest that counts.
        let looked_at = many
            .iter()
            .map(|host| (Host::V4([*host; 4]), if *host == 20 { 190 } else { 10 }));
        assert_eq!(Claim::of(many.len(), looked_at, ASKER, NOW), None);
    }

    #[test]
    fn the_empty_go_first_and_then_the_oldest_of_a_kind() {
        let mut claims = [
            Claim::Empty(1),
            Claim::Small,
            Claim::Own(1),
            Claim::Fleeting(2),
            Claim::Fleeting(100),
        ];
        claims.sort();
        let expected = [
            Claim::Small,
            Claim::Fleeting(2),
            Claim::Fleeting(100),
            Claim::Own(1),
            Claim::Empty(1),
        ];
        assert_eq!(claims, expected);
    }

    #[test]
    fn a_subscriber_has_half_of_an_ipv6_address() {
        let of = |byte: usize| {
            let mut bytes = [7; 18];
            bytes[byte] = 0;
            Host::of(&Address::V6(bytes))
        };
        assert_eq!(of(8), of(17));
        assert_ne!(of(7), of(8));
        assert_eq!(Host::of(&Address::V4([1, 2, 3, 4, 5, 6])), Host::V4([1, 2, 3, 4]));
    }
}
