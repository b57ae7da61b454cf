//! How what btd begins leaves this machine, where the configuration says so: through a network device ([`super::device`]), from
//! an address, or both. Connections to peers leave likewise, by their own ways (`io/uring`).
//!
//! What cannot leave so is not begun at all: a target of a family that has no address here is not reached, nor is any while
//! the address is away. Of what has been begun, Linux sends on over IPv6 from an address that has gone, by whatever device there is:
//! only a device holds that too. Who listens on this machine itself, and asks others by whatever way it likes, is no target either.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::config::Peers;
use super::device::{Device, is_want};
use crate::io::uring::leave_from;

/// A device, addresses, both or neither.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    device: Option<Device>,
    /// At most one of each family; without any the system chooses.
    addresses: Arc<[IpAddr]>,
}

impl Outlet {
    pub(super) fn new(device: Option<Device>, addresses: &[IpAddr]) -> Self {
        Self {
            device,
            addresses: addresses.into(),
        }
    }

    /// Whether the system chooses everything.
    pub(super) fn is_any(&self) -> bool {
        self.device.is_none() && self.addresses.is_empty()
    }

    /// How many addresses there are to leave from; 0 if the system chooses.
    pub(super) fn address_count(&self) -> usize {
        self.addresses.len()
    }

    /// The number of the device; `None` if any will do. A socket of another number reaches nobody any more.
    ///
    /// # Errors
    /// The device is not there.
    pub(super) fn device_index(&self) -> io::Result<Option<u32>> {
        self.device.as_ref().map(Device::index).transpose()
    }

    /// The address to leave from; `None` if the system chooses.
    ///
    /// # Errors
    /// There is none of this family.
    pub(super) fn source(&self, to: IpAddr) -> io::Result<Option<IpAddr>> {
        if self.addresses.is_empty() {
            return Ok(None);
        }
        let source = self.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
        source.map(|ip| Some(*ip)).ok_or_else(|| {
            let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
            io::Error::other(format!("[peers] bind-address has no {family} address to leave from"))
        })
    }

    /// Has a socket use the device alone, if it is to be a certain one.
    ///
    /// # Errors
    /// The device is not there.
    pub(super) fn bind_to_device(&self, socket: &Socket) -> io::Result<()> {
        self.device.as_ref().map_or(Ok(()), |device| device.bind(socket))
    }

    /// A socket that leaves to this address as it has to.
    ///
    /// # Errors
    /// The device or the address is not there, or there is none of this family.
    pub(super) fn socket(&self, to: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let source = self.source(to)?;
        let socket = Socket::new(Domain::for_address(SocketAddr::new(to, 0)), kind, Some(protocol))?;
        self.bind_to_device(&socket)?;
        if let Some(source) = source {
            leave_from(&socket, source)?;
        }
        Ok(socket)
    }

    /// Whether what stays on this machine is all that is wanted.
    pub(super) fn stays_here(&self) -> bool {
        match &self.device {
            Some(device) => device.name() == "lo",
            None => !self.addresses.is_empty() && self.addresses.iter().all(IpAddr::is_loopback),
        }
    }

    /// Those of its addresses that this machine does not have now; `None` where there is nothing to look with ([`is_want`]). Nothing
    /// is sent.
    pub(super) fn absent(&self) -> Option<Vec<IpAddr>> {
        let is_absent = |ip: &IpAddr| {
            // Not through the device: that it is away says nothing of the address.
            let bound = Socket::new(
                Domain::for_address(SocketAddr::new(*ip, 0)),
                Type::DGRAM,
                Some(Protocol::UDP),
            )
            .and_then(|socket| leave_from(&socket, *ip));
            match bound {
                Err(error) if is_want(&error) => None,
                // The second where IPv6 is switched off.
                Err(error) => {
                    let errno = Errno::from_io_error(&error);
                    Some(matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)))
                }
                Ok(()) => Some(false),
            }
        };
        let mut absent = Vec::new();
        for ip in self.addresses.iter() {
            if is_absent(ip)? {
                absent.push(*ip);
            }
        }
        Some(absent)
    }
}

/// What is wrong while this machine does not have an address that is to be left from.
pub(super) fn absence(ip: IpAddr) -> String {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "this machine does not have the address {ip} ([peers] bind-address): no peer and no tracker is reached over {family}, from another \
         address neither, until it is back (hint: ip address shows which it has)"
    )
}

/// What is wrong with where peers are listened for, if somebody reaches btd by an address that it does not leave from, and no device
/// is named that would keep both together.
pub(super) fn listens_elsewhere(peers: &Peers) -> Option<String> {
    let from = &peers.bind_address;
    if from.is_empty() || peers.bind_device.is_some() {
        return None;
    }
    let is_elsewhere = |address: &&SocketAddr| !from.contains(&address.ip()) && !address.ip().is_loopback();
    let elsewhere = peers.listen.iter().find(is_elsewhere)?;
    Some(format!(
        "peers.listen: peers are let in at {elsewhere}, and what btd begins leaves from {} only (hint: without listen they are let in at \
         that address alone)",
        from.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
    ))
}

/// As what is reached "through" it, or "from" it.
impl fmt::Display for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        match (&self.device, addresses.join(" and ")) {
            (Some(device), addresses) if addresses.is_empty() => write!(f, "through {}", device.name()),
            (Some(device), addresses) => write!(f, "through {} from {addresses}", device.name()),
            (None, addresses) => write!(f, "from {addresses}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn socket_leaves_from_the_address_of_its_family_or_is_none() {
        let outlet = Outlet::new(None, &[ip("127.0.7.9")]);
        for (kind, protocol) in [(Type::STREAM, Protocol::TCP), (Type::DGRAM, Protocol::UDP)] {
            let socket = outlet.socket(ip("127.0.0.1"), kind, protocol).expect("a socket");
            let bound = socket.local_addr().expect("told").as_socket().expect("an address");
            assert_eq!(bound.ip(), ip("127.0.7.9"));
            let error = outlet.socket(ip("::1"), kind, protocol).expect_err("no address");
            assert_eq!(
                error.to_string(),
                "[peers] bind-address has no IPv6 address to leave from"
            );
        }
        assert!(Outlet::new(None, &[]).is_any() && !outlet.is_any());
        assert_eq!(Outlet::new(None, &[]).source(ip("::1")).expect("any"), None);
    }

    /// It would leave from an IPv4 address that nobody has chosen.
    #[test]
    fn ipv4_written_as_ipv6_is_not_reached_from_an_ipv6_address() {
        let outlet = Outlet::new(None, &[ip("127.0.7.9"), ip("::1")]);
        let to = SocketAddr::new(ip("::ffff:127.0.0.1"), 9);
        let Ok(socket) = outlet.socket(to.ip(), Type::DGRAM, Protocol::UDP) else {
            return; // This machine has no IPv6.
        };
        assert!(socket.connect(&to.into()).is_err());
    }

    #[test]
    fn address_that_this_machine_does_not_have_is_away() {
        // For examples only (RFC 5737).
        let outlet = Outlet::new(None, &[ip("203.0.113.1")]);
        assert_eq!(outlet.absent(), Some(vec![ip("203.0.113.1")]));
        assert!(outlet.socket(ip("203.0.113.9"), Type::DGRAM, Protocol::UDP).is_err());
        assert_eq!(Outlet::new(None, &[ip("127.0.7.9")]).absent(), Some(vec![]));
    }

    #[test]
    fn it_says_what_it_is_and_whether_it_leaves_this_machine() {
        let tun0 = || Some(Device::new("tun0"));
        for (outlet, text, stays) in [
            (Outlet::new(tun0(), &[]), "through tun0", false),
            (Outlet::new(Some(Device::new("lo")), &[]), "through lo", true),
            (
                Outlet::new(None, &[ip("10.0.0.2"), ip("2001:db8::2")]),
                "from 10.0.0.2 and 2001:db8::2",
                false,
            ),
            (
                Outlet::new(tun0(), &[ip("127.0.0.2")]),
                "through tun0 from 127.0.0.2",
                false,
            ),
            (Outlet::new(None, &[ip("127.0.0.2")]), "from 127.0.0.2", true),
        ] {
            assert_eq!((outlet.to_string().as_str(), outlet.stays_here()), (text, stays));
        }
    }
}
