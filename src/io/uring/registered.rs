//! Memory that the ring has registered beside its files: the pool, and the buffers that what comes in is put into.

use io_uring::IoUring;

use super::pool::{BUF_LEN, Pool};
use super::recv_ring::{BULK_BUF_LEN, RecvRing};
use super::{BULK_GROUP, DATAGRAM_GROUP, Uring, datagrams, setup};

/// Buffers of connections that send blocks: 1 MiB of them, which stays in the second-level cache between the kernel's copy and
/// ours. 64 cost a tenth more CPU time for each byte (PERF.md).
pub(super) const BULK_BUFS: u16 = 16;

impl Uring {
    /// Whether there are long receive buffers; they are made by asking.
    pub(super) fn has_bulk(&mut self) -> bool {
        if !self.bulk_tried {
            self.bulk_tried = true;
            let Ok(ring) = RecvRing::new(BULK_BUFS, BULK_BUF_LEN) else {
                return false;
            };
            // SAFETY: address and length are those of the mapping, which the driver keeps until the ring is closed.
            let registered = unsafe {
                self.ring
                    .submitter()
                    .register_buf_ring_with_flags(ring.addr(), ring.count(), BULK_GROUP, 0)
            };
            *self.bulk_ring = registered.is_ok().then_some(ring);
        }
        self.bulk_ring.is_some()
    }

    /// The buffers that datagrams are received into; they are made by asking. A ring that cannot have them has none, and the
    /// receive ends with `ENOBUFS`.
    pub(super) fn make_datagram_ring(&mut self) {
        if self.datagram_ring.is_some() || self.datagram_ring_failed {
            return;
        }
        if let Err(error) = self.try_datagram_ring() {
            self.datagram_ring_failed = true;
            self.notices.push(format!(
                "datagrams cannot be received, there are no buffers for them: {error} (hint: a higher limit of locked memory)"
            ));
        }
    }

    fn try_datagram_ring(&mut self) -> std::io::Result<()> {
        let ring = RecvRing::new(datagrams::BUFS, datagrams::BUF_LEN)?;
        // SAFETY: address and length are those of the mapping, which the driver keeps until the ring is closed.
        let registered = unsafe {
            self.ring
                .submitter()
                .register_buf_ring_with_flags(ring.addr(), ring.count(), DATAGRAM_GROUP, 0)
        };
        registered?;
        *self.datagram_ring = Some(ring);
        Ok(())
    }
}

/// Registers the pool, and says whether it is; if not, `notices` has why.
pub(super) fn register_pool(ring: &IoUring, pool: &Pool, notices: &mut Vec<String>) -> bool {
    let iovecs: Vec<libc::iovec> = pool
        .stretches()
        .map(|(base, len)| libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        })
        .collect();
    // SAFETY: the stretches are the pool's region, which the driver holds until the ring is closed.
    match unsafe { ring.submitter().register_buffers(&iovecs) } {
        Ok(()) => true,
        Err(error) => {
            let mib = pool.count() as usize * BUF_LEN / (1024 * 1024);
            notices.push(match error.raw_os_error() {
                Some(libc::ENOMEM) => format!(
                    "cannot register {mib} MiB of cache: the locked-memory limit is {}; reads cost more without (hint: \
                     raise `LimitMEMLOCK=` in btd.service, or --ulimit memlock=-1 of a container)",
                    setup::memlock_limit()
                ),
                _ => format!("cannot register {mib} MiB of cache: {error}; reads cost more without"),
            });
            false
        }
    }
}
