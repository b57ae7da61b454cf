//! The network device that peers, trackers and name servers are reached through, where the configuration names one.
//!
//! Sockets are bound to the device by its name (`SO_BINDTODEVICE`), and the kernel keeps to its number: what leaves such a
//! socket leaves by that device or not at all, whatever the routes say. A device that goes away and comes back by the same
//! name has another number, and sockets of the old one are as dead as it is. So whoever keeps a socket for long compares
//! numbers. Here devices are only looked at; who has to do what when one comes and goes is the supervisor's affair.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// The longest name of a device in bytes: `IFNAMSIZ` less its end.
pub(super) const NAME_LEN_MAX: usize = 15;

/// A device, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device(Arc<str>);

/// How a device is, as of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It is there and up, under this number.
    Up(u32),
    /// It is there, and nothing can leave by it.
    Down,
    /// There is none of that name.
    Absent,
}

impl Device {
    pub(super) fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// The number of the device of this name that is there now.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub(super) fn index(&self) -> io::Result<u32> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        Ok(rustix::net::netdevice::name_to_index(&socket, &self.0)?)
    }

    /// Has all that a socket sends leave by this device, and take in only what comes by it.
    ///
    /// # Errors
    /// `ENODEV` when it is not there.
    pub(super) fn bind(&self, socket: &Socket) -> io::Result<()> {
        socket.bind_device(Some(self.0.as_bytes()))
    }

    /// Looks how it is; `None` where there is nothing to look with ([`is_want`]). Nothing is sent: the kernel is asked for a route by
    /// the device to an address that is nobody's.
    pub(super) fn look(&self) -> Option<Link> {
        let index = match self.index() {
            Ok(index) => index,
            Err(error) if is_want(&error) => return None,
            Err(_) => return Some(Link::Absent),
        };
        // For examples only (RFC 5737, RFC 3849).
        let anywhere: [SocketAddr; 2] = [
            (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
        ];
        let leads = |to: &SocketAddr| -> io::Result<()> {
            let socket = Socket::new(Domain::for_address(*to), Type::DGRAM, Some(Protocol::UDP))?;
            self.bind(&socket)?;
            socket.connect(&(*to).into())
        };
        let mut last = None;
        for to in &anywhere {
            match leads(to) {
                Ok(()) => return Some(Link::Up(index)),
                Err(error) if is_want(&error) => return None,
                Err(error) => last = Some(error),
            }
        }
        // It may have gone between the two questions.
        match last.as_ref().and_then(Errno::from_io_error) {
            Some(Errno::NODEV) => Some(Link::Absent),
            _ => Some(Link::Down),
        }
    }

    /// What is wrong with it, if anything is.
    pub(super) fn trouble(&self, link: Link) -> Option<String> {
        let how = match link {
            Link::Up(_) => return None,
            Link::Down => "down",
            Link::Absent => "not there",
        };
        Some(format!(
            "the network device {} ([peers] bind-device) is {how}: no peer and no tracker is reached, by another device neither, \
             until it is back",
            self.name()
        ))
    }
}

/// Whether this was for want of descriptors or memory, and says nothing of what was asked for.
pub(super) fn is_want(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

impl Link {
    /// The number of one by which something can leave.
    pub(super) fn index(self) -> Option<u32> {
        match self {
            Self::Up(index) => Some(index),
            Self::Down | Self::Absent => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_up_by_its_number_and_a_device_that_nobody_has_is_absent() {
        let lo = Device::new("lo");
        assert_eq!(lo.look(), Some(Link::Up(lo.index().expect("every machine has it"))));
        let none = Device::new("btd-no-such-de");
        assert_eq!((none.look(), Link::Absent.index()), (Some(Link::Absent), None));
        assert_eq!(
            none.index().map_err(|error| Errno::from_io_error(&error)),
            Err(Some(Errno::NODEV))
        );
    }

    /// btd told all trackers that the network was back each time there were descriptors again.
    #[test]
    fn want_of_descriptors_says_nothing_of_what_was_looked_for() {
        for (errno, is) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NODEV, false),
            (Errno::ADDRNOTAVAIL, false),
        ] {
            assert_eq!(is_want(&errno.into()), is, "{errno}");
        }
    }

    #[test]
    fn socket_of_a_device_that_is_not_there_is_refused_and_stays_unbound() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
        let error = Device::new("btd-no-such-de").bind(&socket).expect_err("no such device");
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NODEV));
        Device::new("lo").bind(&socket).expect("bound to loopback");
        assert_eq!(socket.device().expect("told"), Some(b"lo".to_vec()));
    }
}
