//! From which address of this machine a connection leaves that btd makes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Has a connection of this socket leave from an address. Its port is chosen when it connects
/// (`IP_BIND_ADDRESS_NO_PORT`, ip(7)): a bound port is nobody else's, whoever they connect to, and there are some 28,000 of
/// them for all. A kernel that cannot wait so long chooses it now.
///
/// # Errors
/// `EADDRNOTAVAIL` when this machine has no such address.
pub fn leave_from(socket: &Socket, from: IpAddr) -> io::Result<()> {
    if from.is_ipv6() {
        // To an IPv4 address that is written as one of IPv6 it would leave from another.
        socket.set_only_v6(true)?;
    }
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a `c_int` of this frame, which is what the option takes, and its length is given.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    socket.bind(&SocketAddr::new(from, 0).into())
}
