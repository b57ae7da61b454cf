//! What a shard's thread asks of the kernel beside its ring.

/// Keeps signals away from the calling thread: they are the control thread's business, and a signal that interrupts an
/// io-wq hand-over ends operations with ECANCELED on some kernels.
pub fn block_signals() {
    // SAFETY: zero is a valid `sigset_t`, and `sigfillset` sets it up in any case.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is a valid pointer to a `sigset_t` of this frame.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: a valid set, and no old set is asked for. The call changes the mask of this thread only.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
    debug_assert_eq!(failed, 0);
}
