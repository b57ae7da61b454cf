//! What a listening socket is told beside what its connections are.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Lets connections be accepted when they have said something (`TCP_DEFER_ACCEPT`, tcp(7)), or after so long a time in any
/// case. What they say is there then, so that no connection has to be waited for twice, and one that says nothing costs the
/// kernel's memory and none of ours. A kernel that cannot is no harm.
pub(super) fn defer(listener: &OwnedFd, at_most: Duration) {
    let seconds = libc::c_int::try_from(at_most.as_secs()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer is to a `c_int` of this frame, which is what the option takes, and its length is given.
    let _ = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}
