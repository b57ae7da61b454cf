//! In the place of `std::sync`: loom's, which tries every order of what threads do, and every value that an atomic may be seen
//! to have.
//!
//! Nobody here gets tired of waiting: what waits with a deadline waits without one. So a wake-up that a deadline would make up
//! for is missed too, and a run in which all wait is red.

pub use std::sync::{Arc, LockResult, OnceLock, PoisonError, Weak};

pub use loom::sync::{Mutex, MutexGuard};

pub mod atomic {
    pub use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

/// Runs a model in every order in which threads are interrupted no more than so often: with two, all known mistakes of this kind
/// are found, and with all there would be no end.
pub fn explore(model: impl Fn() + Send + Sync + 'static) {
    // What is measured once, and needs more of a stack than a model has.
    let backend = crate::hashing::lanes::Backend::from_env().unwrap();
    crate::hashing::lanes::Plan::of(backend);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.max_branches = 20_000;
    builder.check(model);
}

#[derive(Debug)]
pub struct Condvar(loom::sync::Condvar);

/// Whether a deadline has passed: never.
pub struct TimedOut;

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl Condvar {
    pub fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            guard = self.0.wait(guard)?;
        }
        Ok(guard)
    }

    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: std::time::Duration,
    ) -> LockResult<(MutexGuard<'a, T>, TimedOut)> {
        Ok((self.wait(guard).unwrap(), TimedOut))
    }

    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: std::time::Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, TimedOut)> {
        Ok((self.wait_while(guard, condition).unwrap(), TimedOut))
    }
}

/// Channels, of what is above.
pub mod mpsc {
    use std::collections::VecDeque;
    use std::fmt;

    use super::{Arc, Condvar, Mutex};

    pub use std::sync::mpsc::{RecvError, SendError, TryRecvError, TrySendError};

    struct Channel<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    struct State<T> {
        queue: VecDeque<T>,
        senders: usize,
        is_heard: bool,
    }

    pub struct Sender<T>(Arc<Channel<T>>);

    pub struct SyncSender<T> {
        inner: Sender<T>,
        max: usize,
    }

    pub struct Receiver<T>(Arc<Channel<T>>);

    /// tokio's, of which nobody awaits the other end here.
    pub type UnboundedSender<T> = Sender<T>;

    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let state = State {
            queue: VecDeque::new(),
            senders: 1,
            is_heard: true,
        };
        let channel = Arc::new(Channel {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        (Sender(Arc::clone(&channel)), Receiver(channel))
    }

    pub fn sync_channel<T>(max: usize) -> (SyncSender<T>, Receiver<T>) {
        let (inner, receiver) = channel();
        (SyncSender { inner, max }, receiver)
    }

    impl<T> Sender<T> {
        pub fn send(&self, value: T) -> Result<(), SendError<T>> {
            let mut state = self.0.state.lock().unwrap();
            if !state.is_heard {
                return Err(SendError(value));
            }
            state.queue.push_back(value);
            drop(state);
            self.0.changed.notify_one();
            Ok(())
        }
    }

    impl<T> SyncSender<T> {
        pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            let mut state = self.inner.0.state.lock().unwrap();
            if !state.is_heard {
                return Err(TrySendError::Disconnected(value));
            }
            if state.queue.len() >= self.max {
                return Err(TrySendError::Full(value));
            }
            state.queue.push_back(value);
            drop(state);
            self.inner.0.changed.notify_one();
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, RecvError> {
            let state = self.0.state.lock().unwrap();
            let is_to_wait = |state: &mut State<T>| state.queue.is_empty() && state.senders > 0;
            let mut state = self.0.changed.wait_while(state, is_to_wait).unwrap();
            state.queue.pop_front().ok_or(RecvError)
        }

        pub fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = self.0.state.lock().unwrap();
            state.queue.pop_front().ok_or(match state.senders {
                0 => TryRecvError::Disconnected,
                _ => TryRecvError::Empty,
            })
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().unwrap().senders += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Clone for SyncSender<T> {
        fn clone(&self) -> Self {
            Self {
                inner: self.inner.clone(),
                max: self.max,
            }
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                return; // The run is red already.
            }
            self.0.state.lock().unwrap().senders -= 1;
            self.0.changed.notify_all();
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            self.0.state.lock().unwrap().is_heard = false;
        }
    }

    impl<T> fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Sender")
        }
    }

    impl<T> fmt::Debug for SyncSender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("SyncSender")
        }
    }

    impl<T> fmt::Debug for Receiver<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Receiver")
        }
    }
}
