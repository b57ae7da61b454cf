//! From which of this machine's addresses trackers are asked, and through which of its devices.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::Socket;

use crate::control::outlet::Outlet;

/// Where peers are listened for, because trackers take the address of a request for that of the peer: over a family that
/// is not listened on they would hand out an address where nobody is.
#[derive(Clone, Debug)]
pub(in crate::control) struct Sources {
    listened: Vec<IpAddr>,
    /// Nothing leaves otherwise.
    outlet: Outlet,
}

impl Sources {
    /// From where peers connect to.
    pub(in crate::control) fn new(listen: &[SocketAddr], outlet: Outlet) -> Self {
        Self {
            listened: listen.iter().map(SocketAddr::ip).collect(),
            outlet,
        }
    }

    /// Has a socket use the device, if it is to be a certain one.
    ///
    /// # Errors
    /// The device is not there.
    pub(super) fn bind(&self, socket: &Socket) -> io::Result<()> {
        self.outlet.bind_to_device(socket)
    }

    /// The number of the device; `None` if any will do. A socket of another number reaches nobody any more.
    ///
    /// # Errors
    /// The device is not there.
    pub(super) fn device_index(&self) -> io::Result<Option<u32>> {
        self.outlet.device_index()
    }

    /// The address to ask from, if it is to be a certain one, or only one of this family is listened on.
    ///
    /// # Errors
    /// It is to be a certain one, and there is none of this family.
    pub(super) fn of(&self, to: IpAddr) -> io::Result<Option<IpAddr>> {
        if let Some(source) = self.outlet.source(to)? {
            return Ok(Some(source));
        }
        let mut of_family = self.listened.iter().copied().filter(|ip| ip.is_ipv4() == to.is_ipv4());
        Ok(match of_family.clone().any(|ip| ip.is_unspecified()) {
            true => None,
            false => of_family.next(),
        })
    }

    /// Those of a tracker's addresses that are of a family that is listened on; all of them if none is, since a tracker
    /// tells peers all the same. Never one that there is no address to ask from.
    ///
    /// # Errors
    /// There is none for any of them, of which there is at least one.
    pub(super) fn choose(&self, addresses: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
        let reached: Vec<IpAddr> = addresses.iter().copied().filter(|to| self.of(*to).is_ok()).collect();
        if let (Some(first), true) = (addresses.first(), reached.is_empty()) {
            self.of(*first)?;
        }
        let is_heard = |to: &IpAddr| self.listened.iter().any(|ip| ip.is_ipv4() == to.is_ipv4());
        let heard: Vec<IpAddr> = reached.iter().copied().filter(is_heard).collect();
        Ok(if heard.is_empty() { reached } else { heard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_are_asked_from_where_peers_are_heard() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let sources = |listen: &[&str]| {
            let listen: Vec<SocketAddr> = listen.iter().map(|addr| addr.parse().unwrap()).collect();
            Sources::new(&listen, Outlet::new(None, &[]))
        };
        let chosen = |sources: &Sources, of: &[IpAddr]| sources.choose(of).unwrap();
        let of = |sources: &Sources, to: IpAddr| sources.of(to).unwrap();
        let both = [ip("2001:db8::1"), ip("192.0.2.1")];
        let v4 = sources(&["0.0.0.0:6881"]);
        assert_eq!((chosen(&v4, &both), of(&v4, both[1])), (vec![both[1]], None));
        assert_eq!((chosen(&v4, &both[..1]), of(&v4, both[0])), (vec![both[0]], None));
        let one = sources(&["10.0.0.1:6881", "[::]:6881"]);
        assert_eq!(
            (chosen(&one, &both), of(&one, both[1]), of(&one, both[0])),
            (both.to_vec(), Some(ip("10.0.0.1")), None)
        );
    }

    #[test]
    fn trackers_are_asked_from_the_address_that_is_to_be_left_from_whatever_is_listened_on() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = [ip("2001:db8::1"), ip("192.0.2.1")];
        for listen in [&["[::]:6881"][..], &["0.0.0.0:6881"], &["10.0.0.1:6881", "[::1]:6881"]] {
            let listen: Vec<SocketAddr> = listen.iter().map(|addr| addr.parse().unwrap()).collect();
            let sources = Sources::new(&listen, Outlet::new(None, &[ip("10.0.0.2")]));
            assert_eq!(sources.choose(&both).unwrap(), [both[1]]);
            assert_eq!(sources.of(both[1]).unwrap(), Some(ip("10.0.0.2")));
            let why = sources.choose(&both[..1]).unwrap_err().to_string();
            assert_eq!(why, "[peers] bind-address has no IPv6 address to leave from");
            assert!(sources.of(both[0]).is_err());
        }
    }
}
