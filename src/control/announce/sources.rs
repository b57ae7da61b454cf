//! From which of this machine's addresses trackers are asked, and through which of its devices.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::Socket;

use crate::control::device::Device;

/// Where peers are listened for, because trackers take the address of a request for that of the peer: over a family that
/// is not listened on they would hand out an address where nobody is.
#[derive(Clone, Debug)]
pub(in crate::control) struct Sources {
    listened: Vec<IpAddr>,
    /// Nothing leaves by another.
    device: Option<Device>,
}

impl Sources {
    /// From where peers connect to.
    pub(in crate::control) fn new(listen: &[SocketAddr], device: Option<Device>) -> Self {
        Self {
            listened: listen.iter().map(SocketAddr::ip).collect(),
            device,
        }
    }

    /// Has a socket use the device, if it is to be a certain one.
    ///
    /// # Errors
    /// The device is not there.
    pub(super) fn bind(&self, socket: &Socket) -> io::Result<()> {
        self.device.as_ref().map_or(Ok(()), |device| device.bind(socket))
    }

    /// The number of the device; `None` if any will do. A socket of another number reaches nobody any more.
    ///
    /// # Errors
    /// The device is not there.
    pub(super) fn device_index(&self) -> io::Result<Option<u32>> {
        self.device.as_ref().map(Device::index).transpose()
    }

    /// The address to ask from, if only one of this family is listened on.
    pub(super) fn of(&self, to: IpAddr) -> Option<IpAddr> {
        let mut of_family = self.listened.iter().copied().filter(|ip| ip.is_ipv4() == to.is_ipv4());
        match of_family.clone().any(|ip| ip.is_unspecified()) {
            true => None,
            false => of_family.next(),
        }
    }

    /// Those of a tracker's addresses that are of a family that is listened on; all of them if none is, since a tracker
    /// tells peers all the same.
    pub(super) fn choose(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let is_heard = |to: &IpAddr| self.listened.iter().any(|ip| ip.is_ipv4() == to.is_ipv4());
        let heard: Vec<IpAddr> = addresses.iter().copied().filter(is_heard).collect();
        if heard.is_empty() { addresses.to_vec() } else { heard }
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
            Sources::new(&listen, None)
        };
        let both = [ip("2001:db8::1"), ip("192.0.2.1")];
        let v4 = sources(&["0.0.0.0:6881"]);
        assert_eq!((v4.choose(&both), v4.of(both[1])), (vec![both[1]], None));
        assert_eq!((v4.choose(&both[..1]), v4.of(both[0])), (vec![both[0]], None));
        let one = sources(&["10.0.0.1:6881", "[::]:6881"]);
        assert_eq!(
            (one.choose(&both), one.of(both[1]), one.of(both[0])),
            (both.to_vec(), Some(ip("10.0.0.1")), None)
        );
    }
}
