//! What a thread asks of the kernel beside its ring.

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

/// Lets the calling thread run only when nobody else wants the processor (`SCHED_IDLE`, sched(7)): whoever wakes up takes
/// its place at once, where lower niceness would wait for the end of a time slice of some milliseconds.
pub fn run_when_idle() {
    // SAFETY: zero is a valid `sched_param`, and the only priority that `SCHED_IDLE` has.
    let param: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: a valid pointer to a `sched_param` of this frame; 0 is the calling thread. Lowering is always allowed, and a
    // refusal leaves the thread as it was.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
}
