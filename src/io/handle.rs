//! An open socket or file as the shard holds it.

use std::cell::{OnceCell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::io::Errno;

/// Slots of the ring's registered file table that nobody uses any more. Filled when the last handle is dropped, emptied
/// by the driver once a turn.
pub(crate) type Released = Rc<RefCell<Vec<u32>>>;

/// Descriptors whose close(2) may wait for another process or machine, and so is none of the shard's own. Filled when the
/// last handle is dropped, emptied by the driver once a turn.
pub(crate) type Closing = Rc<RefCell<Vec<OwnedFd>>>;

/// A counted reference to an open socket or file. Each operation in flight holds one, so the descriptor is closed after
/// the last completion and its number is never reused under the kernel's feet.
#[derive(Clone, Debug)]
pub struct Handle(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    /// Who closes it, if it is kept apart.
    apart: OnceCell<Closing>,
}

#[derive(Debug)]
enum Kind {
    /// A descriptor of the kernel, with its place in the registered file table if it got one.
    Kernel {
        /// None once it has been handed on to be closed, when the last handle is dropped.
        fd: Option<OwnedFd>,
        registered: Option<(u32, Released)>,
    },
    /// A number in the world of the memory driver.
    Memory { id: u64 },
}

impl Handle {
    /// Wraps a descriptor; `registered` is its slot in the ring's file table and where to give it back.
    pub(crate) fn kernel(fd: OwnedFd, registered: Option<(u32, Released)>) -> Handle {
        Handle(Rc::new(Inner {
            kind: Kind::Kernel {
                fd: Some(fd),
                registered,
            },
            apart: OnceCell::new(),
        }))
    }

    /// Wraps a number of the memory driver's world.
    pub(crate) fn memory(id: u64) -> Handle {
        Handle(Rc::new(Inner {
            kind: Kind::Memory { id },
            apart: OnceCell::new(),
        }))
    }

    /// Whether what is done with it is left to the kernel's own threads from the start: see [`super::op::Op::Open`].
    pub(crate) fn is_apart(&self) -> bool {
        self.0.apart.get().is_some()
    }

    /// From now on it is so; the descriptor is left to these to be closed.
    pub(crate) fn set_apart(&self, closing: Closing) {
        // Whoever set it before is of the same driver.
        let _ = self.0.apart.set(closing);
    }

    /// How many hold it.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn holders(&self) -> usize {
        Rc::strong_count(&self.0)
    }

    /// The descriptor.
    ///
    /// # Panics
    /// When the handle is of the memory driver: drivers must not be mixed.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }

    /// The descriptor, borrowed.
    pub(crate) fn fd(&self) -> &OwnedFd {
        match &self.0.kind {
            Kind::Kernel { fd, .. } => fd.as_ref().expect("a descriptor that is not closed has one"),
            Kind::Memory { id } => panic!("handle {id} of the memory driver was given to a ring"),
        }
    }

    /// Another descriptor of the same socket or file, for another driver.
    ///
    /// # Errors
    /// When the process has no descriptor left, or the handle is of the memory driver.
    pub fn duplicate(&self) -> Result<OwnedFd, Errno> {
        match &self.0.kind {
            Kind::Kernel { .. } => rustix::io::fcntl_dupfd_cloexec(self.fd(), 0),
            Kind::Memory { .. } => Err(Errno::OPNOTSUPP),
        }
    }

    /// The slot in the registered file table, if it has one.
    pub(crate) fn slot(&self) -> Option<u32> {
        match &self.0.kind {
            Kind::Kernel { registered, .. } => registered.as_ref().map(|(slot, _)| *slot),
            Kind::Memory { .. } => None,
        }
    }

    /// The memory driver's number.
    pub(crate) fn memory_id(&self) -> u64 {
        match &self.0.kind {
            Kind::Memory { id } => *id,
            Kind::Kernel { .. } => panic!("descriptor {} was given to the memory driver", self.raw_fd()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Kind::Kernel { fd, registered } = &mut self.kind else {
            return;
        };
        if let Some((slot, released)) = registered {
            released.borrow_mut().push(*slot);
        }
        if let Some(closing) = self.apart.get() {
            closing.borrow_mut().extend(fd.take());
        }
    }
}
