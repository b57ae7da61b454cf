//! A door for the simulator: what this room does to a disk is told to a simulated one, if the thread has one.
//!
//! Files and folders are real all the same. What the simulated disk adds is what a real one only shows when the power goes:
//! what was synced, and what was not. Nothing of this is in a btd that is built without the feature `sim`.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use rustix::io::Errno;

/// A disk that is told.
pub(crate) trait Disk {
    /// Something is about to be changed or synced. The process may be killed here: by unwinding.
    fn step(&self);

    /// A file or folder is to be synced.
    fn sync(&self, fd: BorrowedFd<'_>) -> Result<(), Errno>;

    /// What the page cache holds of a file is to be dropped.
    fn forget_cached(&self, fd: BorrowedFd<'_>);
}

thread_local! {
    static DISK: RefCell<Option<Rc<dyn Disk>>> = const { RefCell::new(None) };
}

/// Takes the disk away again, also when what is done with it unwinds.
struct Away(Option<Rc<dyn Disk>>);

impl Drop for Away {
    fn drop(&mut self) {
        DISK.set(self.0.take());
    }
}

/// Does `work` with files that lie on `disk`.
pub(crate) fn on<T>(disk: Rc<dyn Disk>, work: impl FnOnce() -> T) -> T {
    let _away = Away(DISK.replace(Some(disk)));
    work()
}

fn disk() -> Option<Rc<dyn Disk>> {
    DISK.with_borrow(Clone::clone)
}

pub(super) fn step() {
    if let Some(disk) = disk() {
        disk.step();
    }
}

pub(super) fn sync(fd: impl AsFd) -> Option<Result<(), Errno>> {
    Some(disk()?.sync(fd.as_fd()))
}

pub(super) fn forget_cached(file: &File) {
    if let Some(disk) = disk() {
        disk.forget_cached(file.as_fd());
    }
}
