//! Caps on connections that hold for all shards together.
//!
//! Touched when a connection comes or goes, never on the path of a block, so a lock is cheap enough.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Connections in all.
    pub connections: usize,
    /// Connections past the handshake of one torrent.
    pub per_torrent: usize,
    /// Connections of one IP address (an IPv6 /64 counts as one).
    pub per_ip: usize,
}

/// Who is connected.
#[derive(Debug)]
pub struct Limits {
    connections: usize,
    per_torrent: AtomicUsize,
    per_ip: AtomicUsize,
    connected: Mutex<Connected>,
}

#[derive(Debug, Default)]
struct Connected {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnedAway {
    Total,
    PerIp,
}

impl Limits {
    /// Nobody is connected.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        Limits {
            connections: caps.connections,
            per_torrent: AtomicUsize::new(caps.per_torrent),
            per_ip: AtomicUsize::new(caps.per_ip),
            connected: Mutex::default(),
        }
    }

    /// The caps.
    #[must_use]
    pub fn caps(&self) -> Caps {
        Caps {
            connections: self.connections,
            per_torrent: self.per_torrent.load(Relaxed),
            per_ip: self.per_ip.load(Relaxed),
        }
    }

    /// Changes those that no table is as long as. Whoever is connected stays.
    pub fn set(&self, per_torrent: usize, per_ip: usize) {
        self.per_torrent.store(per_torrent, Relaxed);
        self.per_ip.store(per_ip, Relaxed);
    }

    /// Counts a connection in, if the caps allow it.
    pub(super) fn admit(&self, ip: IpAddr) -> Result<(), TurnedAway> {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let count = connected.by_ip.get(&group(ip)).copied().unwrap_or(0);
        // First, since nobody needs to make way for one who has as many as he may.
        if count >= self.per_ip.load(Relaxed) {
            return Err(TurnedAway::PerIp);
        }
        if connected.total >= self.connections {
            return Err(TurnedAway::Total);
        }
        connected.by_ip.insert(group(ip), count + 1);
        connected.total += 1;
        Ok(())
    }

    /// Counts a connection out.
    pub(super) fn leave(&self, ip: IpAddr) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.total -= 1;
        let ip = group(ip);
        if let Some(count) = connected.by_ip.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                connected.by_ip.remove(&ip);
            }
        }
    }
}

/// Whom an address counts for: an IPv6 host has a whole /64 to choose from.
fn group(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, per_ip: usize) -> Limits {
        Limits::new(Caps {
            connections,
            per_torrent: 10,
            per_ip,
        })
    }

    #[test]
    fn caps_hold_and_places_are_given_back() {
        let limits = limits(3, 2);
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(limits.admit(a), Ok(()));
        assert_eq!(limits.admit(a), Ok(()));
        assert_eq!(limits.admit(a), Err(TurnedAway::PerIp));
        assert_eq!(limits.admit(b), Ok(()));
        assert_eq!(limits.admit(b), Err(TurnedAway::Total));
        assert_eq!(limits.admit(a), Err(TurnedAway::PerIp), "also when all is full");
        limits.leave(a);
        assert_eq!(limits.admit(b), Ok(()));
    }

    #[test]
    fn cap_that_is_changed_holds_for_those_who_come() {
        let limits = limits(10, 1);
        let a: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(limits.admit(a), Ok(()));
        assert_eq!(limits.admit(a), Err(TurnedAway::PerIp));
        limits.set(20, 2);
        assert_eq!(limits.admit(a), Ok(()));
        assert_eq!((limits.caps().connections, limits.caps().per_torrent), (10, 20));
        limits.set(20, 1);
        assert_eq!(limits.admit(a), Err(TurnedAway::PerIp));
    }

    #[test]
    fn hosts_of_one_ipv6_network_share_a_cap_and_mapped_addresses_are_ipv4() {
        let limits = limits(10, 1);
        assert_eq!(limits.admit("2001:db8::1".parse().unwrap()), Ok(()));
        assert_eq!(limits.admit("2001:db8::2".parse().unwrap()), Err(TurnedAway::PerIp));
        assert_eq!(limits.admit("2001:db8:0:1::1".parse().unwrap()), Ok(()));
        assert_eq!(limits.admit("10.0.0.1".parse().unwrap()), Ok(()));
        assert_eq!(limits.admit("::ffff:10.0.0.1".parse().unwrap()), Err(TurnedAway::PerIp));
    }
}
