//! Datagrams against the kernel: where one came from, and sending a batch.
//!
//! They are received by multishot `RECVMSG` into provided buffers (6.0), and sent by one `sendmmsg` a turn. A `SENDMSG` of
//! its own for each, with or without a completion, costs no less (3.9 and 4.1 us a request and reply against 3.6, all in, on
//! a machine whose plain loop of `recvfrom` and `sendto` takes 3.8), and would need memory that outlives the call.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use io_uring::types::RecvMsgOut;
use rustix::io::Errno;

use super::super::datagrams::{DATAGRAM_LEN_MAX, Datagram, Datagrams};
use super::super::handle::Handle;
use super::recv_ring::RecvRing;

/// What the kernel puts before the payload in a buffer: `struct io_uring_recvmsg_out` (linux/io_uring.h), and room for the
/// longest address.
const HEADER_LEN: usize = 16;
const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();

/// Length of a buffer: whole cache lines, so that no two share one.
pub(super) const BUF_LEN: usize = (HEADER_LEN + NAME_LEN + DATAGRAM_LEN_MAX).next_multiple_of(64);

/// Buffers: what one turn takes in at most, half a MiB. The kernel keeps what comes meanwhile in the socket's queue.
pub(super) const BUFS: u16 = 256;

/// Datagrams in one call of `sendmmsg`: the kernel's `UIO_MAXIOV` is 1024, and more than this at once saves nothing.
const AT_ONCE_MAX: usize = 128;

/// The header that a multishot receive is made with: no more than how long an address is. The kernel copies it when the
/// operation begins, and takes the lengths from it for each datagram.
pub(super) fn receive_header() -> Box<libc::msghdr> {
    // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value ("none").
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME_LEN as libc::socklen_t;
    Box::new(header)
}

/// What lies in a buffer that was received into with that header: `len` bytes, of which the datagram is the last part.
///
/// # Errors
/// `MSGSIZE` of one that is longer than [`DATAGRAM_LEN_MAX`], `AFNOSUPPORT` of one that comes from no internet address.
pub(super) fn received(ring: &Rc<RecvRing>, bid: u16, len: u32, header: &libc::msghdr) -> Result<Datagram, Errno> {
    let whole = ring.received(bid, len);
    let (from, payload_len) = {
        let out = RecvMsgOut::parse(&whole, header).map_err(|()| Errno::IO)?;
        if out.is_name_data_truncated() || out.is_payload_truncated() || out.payload_data().len() > DATAGRAM_LEN_MAX {
            return Err(Errno::MSGSIZE);
        }
        let from = address(out.name_data()).ok_or(Errno::AFNOSUPPORT)?;
        (from, out.payload_data().len())
    };
    let start = whole.len() - payload_len;
    Ok(Datagram {
        from,
        bytes: whole.skip(start),
    })
}

/// The address in a `sockaddr_in` or `sockaddr_in6`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(name.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::from((Ipv4Addr::from(ip), port)))
        }
        libc::AF_INET6 => {
            let flow = u32::from_be_bytes(name.get(4..8)?.try_into().ok()?);
            let ip: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
        }
        _ => None,
    }
}

/// An address as the kernel reads it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    fn new(addr: SocketAddr) -> (Name, libc::socklen_t) {
        match addr {
            SocketAddr::V4(addr) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(addr.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (Name { v4 }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(addr) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo().to_be(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: addr.ip().octets(),
                    },
                    sin6_scope_id: addr.scope_id(),
                };
                (Name { v6 }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
}

/// Headers, iovecs and addresses of a batch, kept for their room. The pointers in them are good only while
/// [`Sender::send`] runs.
#[derive(Default)]
pub(super) struct Sender {
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    names: Vec<Name>,
}

impl Sender {
    /// Gives a batch to a socket. Returns how many datagrams the socket did not take: they are lost, as datagrams may be.
    pub(super) fn send(&mut self, socket: &Handle, batch: &Datagrams) -> usize {
        let mut unsent = 0;
        let mut left = batch.iter().peekable();
        while left.peek().is_some() {
            self.headers.clear();
            self.iovecs.clear();
            self.names.clear();
            let mut lens = [0; AT_ONCE_MAX];
            for (index, (to, bytes)) in left.by_ref().take(AT_ONCE_MAX).enumerate() {
                let (name, len) = Name::new(to);
                self.names.push(name);
                lens[index] = len;
                self.iovecs.push(libc::iovec {
                    iov_base: bytes.as_ptr().cast_mut().cast(),
                    iov_len: bytes.len(),
                });
            }
            // Now that neither list moves any more.
            for ((name, iovec), len) in self.names.iter_mut().zip(&mut self.iovecs).zip(lens) {
                // SAFETY: all fields of `mmsghdr` are integers and pointers, for which zero is a value ("none").
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_name = (&raw mut *name).cast();
                header.msg_hdr.msg_namelen = len;
                header.msg_hdr.msg_iov = &raw mut *iovec;
                header.msg_hdr.msg_iovlen = 1;
                self.headers.push(header);
            }
            unsent += send_all(socket, &mut self.headers);
        }
        unsent
    }
}

/// Returns how many were not taken. `headers` must point to memory that lives, which [`Sender::send`] sees to.
fn send_all(socket: &Handle, headers: &mut [libc::mmsghdr]) -> usize {
    let (mut next, mut unsent) = (0, 0);
    while next < headers.len() {
        let rest = &mut headers[next..];
        // SAFETY: the headers are `rest.len()` in number, and their names, iovecs and bytes are borrowed by the caller for
        // as long as this call. The kernel reads them and writes to the headers only.
        let sent = unsafe {
            libc::sendmmsg(
                socket.fd().as_raw_fd(),
                rest.as_mut_ptr(),
                rest.len() as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) => next += sent.max(1),
            Err(_) => match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                // The socket's buffer is full, or the machine has no memory: the others would fare no better.
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => return unsent + (headers.len() - next),
                // No route to this one, say, or nobody may send there.
                _ => {
                    unsent += 1;
                    next += 1;
                }
            },
        }
    }
    unsent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_read_from_what_the_kernel_writes_and_from_nothing_else() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:6969", "[fe80::1%3]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            let name = socket2::SockAddr::from(addr);
            // SAFETY: a `SockAddr` owns as many initialised bytes at its pointer as it says.
            let bytes = unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len() as usize) };
            assert_eq!(address(bytes), Some(addr));
            for len in 0..bytes.len() {
                // The last bytes of a `sockaddr_in` are padding.
                let needed = if addr.is_ipv4() { 8 } else { 28 };
                assert_eq!(address(&bytes[..len]).is_some(), len >= needed, "{text}, {len} bytes");
            }
        }
        assert_eq!(address(&[1, 0, 0, 0, 0, 0, 0, 0]), None, "AF_UNIX");
    }
}
