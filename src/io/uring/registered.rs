//! Memory that the ring has registered beside its files: the pool, and the buffers that what comes in is put into.

use std::io;

use io_uring::IoUring;
use rustix::io::Errno;

use super::pool::{BUF_LEN, Buf, HUGE_PAGE_LEN, Pool, REGISTERED_LEN_MAX};
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

/// What is registered of a pool at a time, at least: a huge page. The kernel finds and clears memory as it is registered, which on a
/// virtual machine may take a second and more for each GiB; so nobody waits for it at the start, and a cache that nobody fills is
/// no memory.
const STRETCH_LEN_MIN: usize = HUGE_PAGE_LEN;

/// Locked memory of a shard beside its cache: its ring and its receive buffers.
pub(super) const LOCKED_BESIDE: u64 = 6 << 20;

/// What a process of so many shards locks at most, with so long a cache for all of them together, in bytes.
#[must_use]
pub fn locked(cache_len: u64, shards: u64) -> u64 {
    let of_each = cache_len.div_ceil(shards.max(1)).next_multiple_of(HUGE_PAGE_LEN as u64);
    (of_each + LOCKED_BESIDE) * shards
}

/// How many stretches there are at most: a quarter of what a ring may have.
const STRETCHES_MAX: usize = 4096;

/// What the ring knows of the pool: stretches of it, each from when it is first read into.
#[derive(Debug)]
pub(super) struct Registered {
    stretch_len: usize,
    known: Vec<bool>,
    /// The kernel has refused one, and is not asked again.
    refused: bool,
    /// Of this process.
    pools: u32,
    #[cfg(test)]
    refuses: Option<Errno>,
}

impl Registered {
    /// Prepares the ring for the pool. `None` where none of it may be registered; `notices` has why.
    pub(super) fn new(ring: &IoUring, pool: &Pool, pools: u32, notices: &mut Vec<String>) -> Option<Self> {
        // Some of it is worse than none: rings would be left nothing of the limit.
        let pools = pools.max(1);
        if setup::locked_max().is_some_and(|max| max < wanted(pool, pools)) {
            notices.push(refusal(pool, pools, &Errno::NOMEM.into()));
            return None;
        }
        let stretch_len = stretch_len(pool.len());
        let mut this = Self {
            stretch_len,
            known: vec![false; pool.len().div_ceil(stretch_len)],
            refused: false,
            pools,
            #[cfg(test)]
            refuses: None,
        };
        let count = u32::try_from(this.known.len()).expect("a few thousand");
        let prepared = ring.submitter().register_buffers_sparse(count);
        // One, to know whether it works.
        match prepared.and_then(|()| this.register(ring, pool, 0)) {
            Ok(()) => Some(this),
            Err(error) => {
                notices.push(refusal(pool, pools, &error));
                None
            }
        }
    }

    /// Which registered buffer this one lies in, if it may be read into as such.
    pub(super) fn index(&mut self, ring: &IoUring, pool: &Pool, buf: &Buf) -> Option<u16> {
        let stretch = buf.start() / self.stretch_len;
        if !self.known[stretch] {
            if self.refused {
                return None;
            }
            if let Err(error) = self.register(ring, pool, stretch) {
                self.refused = true;
                tracing::warn!("{}", refusal(pool, self.pools, &error));
                return None;
            }
        }
        Some(u16::try_from(stretch).expect("a few thousand"))
    }

    fn register(&mut self, ring: &IoUring, pool: &Pool, stretch: usize) -> io::Result<()> {
        #[cfg(test)]
        if let Some(errno) = self.refuses {
            return Err(errno.into());
        }
        let start = stretch * self.stretch_len;
        let iovec = libc::iovec {
            iov_base: pool.at(start).cast(),
            iov_len: self.stretch_len.min(pool.len() - start),
        };
        let at = u32::try_from(stretch).expect("a few thousand");
        // SAFETY: the stretch lies in the pool's region, which the driver holds until the ring is closed.
        unsafe { ring.submitter().register_buffers_update(at, &[iovec], None) }?;
        self.known[stretch] = true;
        Ok(())
    }

    /// As if the kernel refused whatever comes.
    #[cfg(test)]
    pub(super) fn refuse(&mut self, errno: Errno) {
        self.refuses = Some(errno);
    }

    /// Stretches that were read into.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.known.iter().filter(|known| **known).count()
    }
}

/// Locked memory of so many pools as this one, and of what is beside them.
fn wanted(pool: &Pool, pools: u32) -> u64 {
    locked(u64::from(pools) * pool.len() as u64, pools.into())
}

/// For a pool of so many bytes: whole huge pages, and no more than one registered buffer may hold.
fn stretch_len(pool_len: usize) -> usize {
    let wanted = pool_len.div_ceil(STRETCHES_MAX).next_power_of_two();
    wanted.clamp(STRETCH_LEN_MIN, REGISTERED_LEN_MAX)
}

/// Why no more of the pool is registered.
fn refusal(pool: &Pool, pools: u32, error: &io::Error) -> String {
    let mib = (u64::from(pool.count()) * u64::from(pools) * BUF_LEN as u64) >> 20;
    match error.raw_os_error() {
        // Others of the same user may have what is left of it.
        Some(libc::ENOMEM) if setup::locked_max().is_some() => format!(
            "cannot register {mib} MiB of cache: the locked-memory limit is {}, and {} would do; reads cost more without (hint: {})",
            setup::memlock_limit(),
            setup::mib(wanted(pool, pools)),
            setup::how_to_allow(wanted(pool, pools))
        ),
        _ => format!("cannot register {mib} MiB of cache: {error}; reads cost more without"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_locked_is_shared_by_all_pools_and_rings_have_some_of_it() {
        assert_eq!(locked(8 << 20, 1), 14 << 20);
        assert_eq!(locked(512 << 20, 4), (512 + 24) << 20);
    }

    #[test]
    fn stretches_are_huge_pages_and_few() {
        let (mib, gib) = (1 << 20, 1 << 30);
        for (pool, stretch) in [
            (2 * mib, 2 * mib),
            (256 * mib, 2 * mib),
            (8 * gib, 2 * mib),
            (9 * gib, 4 * mib),
            (4096 * gib, gib),
        ] {
            assert_eq!(stretch_len(pool), stretch, "{pool}");
        }
    }
}
