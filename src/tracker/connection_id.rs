//! The connection ids of UDP (BEP 15): what proves that a source receives what is sent to it.
//!
//! An id is a keyed hash of the IP address and the time's slot of two minutes, so nothing is kept of who has one. It is good
//! in the slot it was made in and in the next: for two minutes at least, as the specification asks, and four at most. It is
//! not bound to the port: clients behind address translation change theirs.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::siphash::Key;

/// The length of a slot.
const SLOT: Duration = Duration::from_secs(120);

/// Makes and checks connection ids.
pub(super) struct ConnectionIds {
    key: Key,
    start: Instant,
}

impl ConnectionIds {
    pub(super) const fn new(key: Key, start: Instant) -> Self {
        Self { key, start }
    }

    /// The id for a source at this moment.
    pub(super) fn make(&self, from: IpAddr, now: Instant) -> u64 {
        self.in_slot(from, self.slot(now))
    }

    /// Whether this id was made for the source, and lately.
    #[inline]
    pub(super) fn check(&self, id: u64, from: IpAddr, now: Instant) -> bool {
        let slot = self.slot(now);
        // Comparing 64 bits takes the same time whatever they are.
        id == self.in_slot(from, slot) || slot > 0 && id == self.in_slot(from, slot - 1)
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / SLOT.as_secs()
    }

    #[inline]
    fn in_slot(&self, from: IpAddr, slot: u64) -> u64 {
        let mut message = [0; 24];
        message[..8].copy_from_slice(&slot.to_le_bytes());
        let ip = match from {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        message[8..].copy_from_slice(&ip.octets());
        self.key.hash_2_4(&message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_id_is_good_for_two_minutes_and_not_for_more_than_four() {
        let start = Instant::now();
        let ids = ConnectionIds::new(Key(1, 2), start);
        for made in [0, 1, 60, 119, 120, 121, 500] {
            let made = start + Duration::from_secs(made);
            let id = ids.make(ip("10.0.0.1"), made);
            assert!(ids.check(id, ip("10.0.0.1"), made));
            assert!(ids.check(id, ip("10.0.0.1"), made + Duration::from_secs(120)));
            assert!(!ids.check(id, ip("10.0.0.1"), made + Duration::from_secs(240)));
        }
    }

    #[test]
    fn an_id_is_good_for_its_address_alone() {
        let start = Instant::now();
        let ids = ConnectionIds::new(Key(1, 2), start);
        let id = ids.make(ip("10.0.0.1"), start);
        assert!(!ids.check(id, ip("10.0.0.2"), start));
        assert!(!ids.check(id ^ 1, ip("10.0.0.1"), start));
        assert!(!ids.check(0, ip("10.0.0.1"), start));
        assert!(ids.check(id, ip("::ffff:10.0.0.1"), start));
        assert!(!ids.check(ids.make(ip("fd00::1"), start), ip("fd00::2"), start));
    }

    #[test]
    fn another_key_makes_other_ids() {
        let start = Instant::now();
        let id = ConnectionIds::new(Key(1, 2), start).make(ip("10.0.0.1"), start);
        assert!(!ConnectionIds::new(Key(1, 3), start).check(id, ip("10.0.0.1"), start));
    }
}
