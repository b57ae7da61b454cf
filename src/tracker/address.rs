//! A peer's address as the store keeps it and as replies have it: IP and port, big-endian.

use std::net::IpAddr;

/// An IP address and a port that is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Address {
    V4([u8; 6]),
    V6([u8; 18]),
}

impl Address {
    /// The address of a peer at this IP and port, if the port is one. An IPv4 address inside an IPv6 one (a socket for both
    /// families gives those) is the IPv4 address it is.
    #[inline]
    pub(super) fn new(ip: IpAddr, port: u16) -> Option<Self> {
        if port == 0 {
            return None;
        }
        let [high, low] = port.to_be_bytes();
        Some(match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                Self::V4([a, b, c, d, high, low])
            }
            IpAddr::V6(ip) => {
                let mut bytes = [0; 18];
                bytes[..16].copy_from_slice(&ip.octets());
                bytes[16..].copy_from_slice(&[high, low]);
                Self::V6(bytes)
            }
        })
    }

    /// The same, if it can be a peer's and the address that counts where IPv4 is inside IPv6: what another tracker has passed on.
    pub(super) fn checked(self) -> Option<Self> {
        let (ip, port) = match &self {
            Self::V4([ip @ .., high, low]) => (IpAddr::from(*ip), [*high, *low]),
            Self::V6([ip @ .., high, low]) => (IpAddr::from(*ip), [*high, *low]),
        };
        let address = Self::new(ip, u16::from_be_bytes(port))?;
        is_host(ip.to_canonical()).then_some(address)
    }

    /// The bytes of a compact reply.
    pub(super) const fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}

/// Whether an address is one of a network that is nobody else's: who can announce from there is believed, where the
/// operator says so.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && b & 0xc0 == 64; // RFC 6598: between a provider and its customers.
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether an address can be a peer's at all.
pub(super) fn is_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn private_networks_are_told_from_the_rest() {
        let is_private = |text: &str| is_private(text.parse().expect("an address"));
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.9",
            "169.254.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(is_private(ip), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "0.0.0.0"] {
            assert!(!is_private(ip), "{ip}");
        }
    }

    #[test]
    fn what_cannot_be_a_host_is_told() {
        let is_host = |text: &str| is_host(text.parse().expect("an address"));
        assert!(is_host("8.8.8.8") && is_host("10.0.0.1") && is_host("fd00::1"));
        for ip in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert!(!is_host(ip), "{ip}");
        }
    }

    fn address(text: &str) -> Option<Address> {
        let addr: SocketAddr = text.parse().expect("an address");
        Address::new(addr.ip(), addr.port())
    }

    #[test]
    fn an_address_is_what_a_compact_reply_has() {
        assert_eq!(address("1.2.3.4:258"), Some(Address::V4([1, 2, 3, 4, 1, 2])));
        let v6 = address("[2001:db8::7]:6881").expect("a port");
        assert_eq!(v6.bytes(), b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x1a\xe1");
    }

    #[test]
    fn port_0_is_no_address() {
        assert_eq!((address("1.2.3.4:0"), address("[::1]:0")), (None, None));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_the_ipv4_address() {
        assert_eq!(address("[::ffff:1.2.3.4]:258"), Some(Address::V4([1, 2, 3, 4, 1, 2])));
    }
}
