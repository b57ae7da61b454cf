//! Which addresses a tracker's name, a redirect, or a tracker's list of peers may lead to.
//!
//! Torrent files and trackers are strangers: without this, either could have btd send requests to the router, to other
//! services of this machine, or to a cloud's metadata server. The rule is for addresses, after all resolving.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where connections may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether also to loopback, link-local, private and other special addresses.
    pub allow_private: bool,
}

impl Rule {
    /// Whether a connection may go there.
    #[must_use]
    pub fn permits(self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_one_host = match ip {
            // "This network", multicast, reserved and broadcast are nobody's address.
            IpAddr::V4(ip) => ip.octets()[0] != 0 && ip.octets()[0] < 224,
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
        };
        is_one_host && (self.allow_private || is_public(ip))
    }
}

/// Whether an address is of the internet at large, after the registries of special-purpose addresses (RFC 6890).
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match a {
        0 | 10 | 127 | 224.. => true,
        100 => (64..128).contains(&b), // Shared by providers (RFC 6598).
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => b == 168 || (b, c) == (0, 0) || (b, c) == (0, 2) || (b, c) == (88, 99),
        198 => b == 18 || b == 19 || (b, c) == (51, 100),
        203 => (b, c) == (0, 113),
        _ => false,
    };
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match a {
        // What a translator makes of IPv4 (RFC 6052) is as good as what is in it.
        0x64 if [b, c, d, e, f] == [0xff9b, 0, 0, 0, 0] => embedded(g, h),
        0x2001 if b < 0x200 || b == 0xdb8 => false, // Protocols' own (Teredo among them), examples.
        0x2002 => embedded(b, c),                   // 6to4 (RFC 3056).
        0x3fff if b < 0x1000 => false,              // Examples (RFC 9637).
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public_however_they_are_written() {
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "3fff:fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(!is_public(ip), "{ip}");
            assert!(!Rule { allow_private: false }.permits(ip), "{ip}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for ip in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "203.0.112.1",
            "223.255.255.1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2001:200::1",
            "2001:4860::1",
            "2002:101:101::1",
            "2606:4700::1",
            "3ffe::1",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(is_public(ip) && Rule { allow_private: false }.permits(ip), "{ip}");
        }
    }

    #[test]
    fn private_addresses_can_be_allowed_and_nobodys_cannot() {
        let rule = Rule { allow_private: true };
        for ip in [
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "fe80::1",
            "169.254.1.1",
            "::ffff:192.168.0.1",
        ] {
            assert!(rule.permits(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "ff02::1",
            "::ffff:0.0.0.0",
        ] {
            assert!(!rule.permits(ip.parse().unwrap()), "{ip}");
        }
    }
}
