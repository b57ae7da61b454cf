//! What is done with a completion: whose it is, whether its operation stays in flight, and what of it the shard is given.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::cqueue;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use super::super::datagrams::Datagram;
use super::super::handle::Handle;
use super::super::op::{Accepted, Completion, Opened, Outcome, Received};
use super::super::token::Token;
use super::op_table::InFlight;
use super::recv_ring::RecvRing;
use super::{Uring, datagrams};

/// `IORING_NOTIF_USAGE_ZC_COPIED` (6.2).
const NOTIF_COPIED: u32 = 1 << 31;

impl Uring {
    pub(super) fn on_cqe(&mut self, cqe: &cqueue::Entry, out: &mut Vec<Completion>) {
        let Some(token) = Token::from_u64(cqe.user_data()) else {
            self.counters.stale += 1;
            return;
        };
        let more = cqueue::more(cqe.flags());
        let asked = self.ops.is_cancelled(token);
        let Some((owner, op)) = self.ops.get_mut(token) else {
            self.counters.stale += 1;
            return;
        };
        // A notification's result is flags, not an errno.
        let notification = cqueue::notif(cqe.flags());
        let result = match notification {
            true => Ok(0),
            false => result_of(cqe.result()),
        };
        if result == Err(Errno::CANCELED) && !asked && !matches!(op, InFlight::Cancel) {
            self.counters.cancelled_unasked += 1;
        }
        // What stays in flight. A zero-copy send has two completions: the result, and the notification that the kernel
        // no longer needs the memory. Only F_MORE of the first says whether the second will come.
        if more {
            let outcome = match op {
                InFlight::Accept { brief, .. } => {
                    let brief = *brief;
                    Outcome::Accepted {
                        result: result.and_then(|fd| self.accepted(fd, brief)),
                        more,
                    }
                }
                InFlight::Recv { bulk, .. } => {
                    let bulk = *bulk;
                    Outcome::Received {
                        result: result.map(|len| self.received(cqe, len, bulk)),
                        more,
                    }
                }
                InFlight::RecvFrom { header, .. } => {
                    let received = result.and_then(|len| received_from(&self.datagram_ring, cqe, len, header));
                    self.counters.datagrams_too_long += u64::from(matches!(received, Err(Errno::MSGSIZE)));
                    Outcome::ReceivedFrom { result: received, more }
                }
                InFlight::Send {
                    socket, batch, lent, ..
                } => {
                    debug_assert!(lent.is_none() && !notification, "a second result of {token:?}");
                    let taken = result.unwrap_or(0);
                    *socket = None;
                    *lent = Some(taken);
                    self.lent += 1;
                    let whole = u64::from(taken) == batch.left();
                    let batch = (!whole).then(|| batch.split_off(taken));
                    Outcome::Sent {
                        result,
                        batch,
                        lent: true,
                    }
                }
                InFlight::Read { .. }
                | InFlight::Open(_)
                | InFlight::Connect { .. }
                | InFlight::Write { .. }
                | InFlight::Doorbell { .. }
                | InFlight::Close
                | InFlight::Cancel => {
                    unreachable!("{token:?} is no multishot operation")
                }
            };
            out.push(Completion { token, owner, outcome });
            return;
        }
        let (owner, op) = self.ops.remove(token).expect("found above");
        let outcome = match op {
            InFlight::Accept { brief, .. } => Outcome::Accepted {
                result: result.and_then(|fd| self.accepted(fd, brief)),
                more,
            },
            InFlight::Recv { bulk, .. } => {
                self.counters.recv_starved += u64::from(result == Err(Errno::NOBUFS));
                Outcome::Received {
                    result: result.map(|len| self.received(cqe, len, bulk)),
                    more,
                }
            }
            InFlight::RecvFrom { header, .. } => {
                self.counters.recv_starved += u64::from(result == Err(Errno::NOBUFS));
                let received = result.and_then(|len| received_from(&self.datagram_ring, cqe, len, &header));
                self.counters.datagrams_too_long += u64::from(matches!(received, Err(Errno::MSGSIZE)));
                Outcome::ReceivedFrom { result: received, more }
            }
            InFlight::Send {
                mut batch,
                zero_copy,
                lent: None,
                ..
            } => {
                debug_assert!(!notification, "the notification of {token:?} before its result");
                batch.advance(result.unwrap_or(0));
                Outcome::Sent {
                    result,
                    batch: Some(batch),
                    lent: zero_copy,
                }
            }
            InFlight::Send {
                batch,
                lent: Some(taken),
                ..
            } => {
                debug_assert!(notification, "a second result of {token:?}");
                self.lent -= 1;
                // Of a send that took nothing the kernel says that it copied.
                let copied = (taken > 0).then_some(cqe.result() as u32 & NOTIF_COPIED != 0);
                self.counters.zero_copy_copied += u64::from(copied == Some(true));
                self.counters.zero_copy_sent += u64::from(copied == Some(false));
                Outcome::Released { batch, copied }
            }
            InFlight::Read { buf, .. } => Outcome::ReadDone { result, buf },
            InFlight::Open(args) => Outcome::Opened {
                result: result.and_then(|fd| self.opened(fd, args.apart)),
                write: args.write,
            },
            InFlight::Connect { .. } => Outcome::Connected {
                result: result.map(drop),
            },
            InFlight::Write { bytes, .. } => Outcome::Written { result, bytes },
            InFlight::Doorbell { .. } => Outcome::Rung {
                result: result.map(drop),
            },
            // 0, ENOENT and EALREADY are all normal: the target's own completion tells.
            InFlight::Cancel => return,
            // Whatever it says, the descriptor is gone: close(2).
            InFlight::Close => {
                self.closing -= 1;
                return;
            }
        };
        out.push(Completion { token, owner, outcome });
    }

    fn accepted(&mut self, fd: u32, brief: bool) -> Result<Accepted, Errno> {
        // SAFETY: the completion of an accept hands us a new descriptor, which nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // The peer may have gone already: ENOTCONN, and the socket is closed by dropping it.
        let peer = SocketAddr::try_from(rustix::net::getpeername(&fd)?.ok_or(Errno::NOTCONN)?)
            .map_err(|_| Errno::AFNOSUPPORT)?;
        let socket = match brief {
            true => Handle::kernel(fd, None),
            false => self.files.adopt(&self.ring, fd),
        };
        Ok(Accepted { socket, peer })
    }

    fn received(&mut self, cqe: &cqueue::Entry, len: u32, bulk: bool) -> Received {
        let ring = match &*self.bulk_ring {
            Some(ring) if bulk => ring,
            _ => &*self.recv_ring,
        };
        match (cqueue::buffer_select(cqe.flags()), len) {
            (Some(bid), 1..) => Received::Data(ring.received(bid, len)),
            (Some(bid), 0) => {
                drop(ring.received(bid, 0));
                Received::Eof
            }
            (None, 0) => Received::Eof,
            (None, 1..) => unreachable!("the kernel received {len} bytes into no buffer"),
        }
    }

    fn opened(&mut self, fd: u32, apart: bool) -> Result<Opened, Errno> {
        // SAFETY: the completion of an open hands us a new descriptor, which nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // As the open has found it, and no later: fstat(2) would ask a filesystem of another process or machine (FUSE, NFS)
        // once more, and wait for whatever that has to do first. One whose reads took a second each held a shard up for
        // minutes.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&fd, c"", flags, StatxFlags::BASIC_STATS)?;
        // Of use for the open only. A ring takes it as "never wait" on filesystems that cannot read asynchronously
        // (tmpfs, FUSE, NFS), whose reads would all end with EAGAIN.
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags.difference(rustix::fs::OFlags::NONBLOCK))?;
        let file = self.files.adopt(&self.ring, fd);
        if apart {
            self.files.set_apart(&file);
        }
        Ok(Opened {
            regular: rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_file(),
            len: stat.stx_size,
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            modified: i128::from(stat.stx_mtime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_mtime.tv_nsec),
            file,
        })
    }
}

/// The datagram that a completion brings. Its buffer is back in its ring if it is none.
fn received_from(
    ring: &Option<Rc<RecvRing>>,
    cqe: &cqueue::Entry,
    len: u32,
    header: &libc::msghdr,
) -> Result<Datagram, Errno> {
    match (ring, cqueue::buffer_select(cqe.flags())) {
        (Some(ring), Some(bid)) => datagrams::received(ring, bid, len, header),
        _ => unreachable!("the kernel received {len} bytes into no buffer"),
    }
}

pub(super) fn result_of(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno::from_raw_os_error(result.saturating_neg()))
}
